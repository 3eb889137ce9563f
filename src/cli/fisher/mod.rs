//! `fisher`: the diagonal Fisher of all weights, kept in a file.

mod compare;
mod estimate;
mod merge;

use super::{Context, Status};
use crate::error::Result;
use clap::{ArgMatches, Command, FromArgMatches, Subcommand};
use estimate::Estimate;

/// What is done: a subcommand, or, without one, an estimate.
#[derive(Debug)]
pub(super) enum Args {
    Estimate(Box<Estimate>),
    Of(Files),
}

/// What is done with Fisher files.
#[derive(Debug, Subcommand)]
pub(super) enum Files {
    Merge(merge::Args),
    Compare(compare::Args),
}

impl Args {
    pub(super) fn run(self, context: &Context) -> Result<Status> {
        match self {
            Self::Estimate(a) => a.run(context),
            Self::Of(Files::Merge(a)) => a.run(context),
            Self::Of(Files::Compare(a)) => a.run(context),
        }
    }
}

// a derived parser can have a subcommand beside flags, but not in their place
impl FromArgMatches for Args {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        match matches.subcommand_name() {
            Some(_) => Files::from_arg_matches(matches).map(Self::Of),
            None => Estimate::from_arg_matches(matches).map(|a| Self::Estimate(Box::new(a))),
        }
    }
    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl clap::Args for Args {
    fn augment_args(command: Command) -> Command {
        // the description that stays is that of the estimate
        let command = Estimate::augment_args(Files::augment_subcommands(command));
        let command = command.subcommand_required(false).arg_required_else_help(false);
        command.args_conflicts_with_subcommands(true).subcommand_negates_reqs(true)
    }
    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}
