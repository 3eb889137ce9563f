//! The command line: one file per subcommand with its flags and what it does.

mod audit;
mod codes;
mod common;
mod evaluate;
mod fisher;
mod forget;
mod gradients;
mod inspect;
mod pages;
mod plan;
mod verify;

use crate::error::{Error, Kind, Result};
use clap::{Parser, Subcommand};

/// Makes a trained ONNX classifier forget classes: no training framework, no training data, any GPU or none.
#[derive(Debug, Parser)]
#[command(name = "onnx-unlearn", version, about, max_term_width = 100, after_help = EXIT_CODES)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Print the result as JSON on stdout.
    #[arg(long, global = true)]
    json: bool,
    /// No progress bars.
    #[arg(long, short, global = true)]
    quiet: bool,
}

const EXIT_CODES: &str = "Exit codes: 0 done, 1 a check or an audit failed, 2 wrong usage or bad input, 3 internal error, 4 'verify' found a mismatch.";

#[derive(Debug, Subcommand)]
enum Command {
    Inspect(inspect::Args),
    #[command(subcommand)]
    Codes(codes::Command),
    Gradients(gradients::Args),
    Fisher(fisher::Args),
    Forget(forget::Invocation),
    Evaluate(evaluate::Args),
    Audit(audit::Args),
    Plan(plan::Args),
    Verify(verify::Args),
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Everything that was asked for is done.
    Done,
    /// The work is done, and a check that was asked for failed.
    CheckFailed,
    /// Wrong usage or bad input; nothing was written.
    BadInput,
    /// A defect of this program.
    Internal,
    /// A model and its record do not agree.
    Mismatch,
}

impl Status {
    /// The process's exit code.
    pub fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::CheckFailed => 1,
            Self::BadInput => 2,
            Self::Internal => 3,
            Self::Mismatch => 4,
        }
    }
    /// How a run ends that failed with this error.
    pub fn of(e: &Error) -> Self {
        match e.kind() {
            Kind::Internal | Kind::NeedsSingles | Kind::Engine => Self::Internal,
            _ => Self::BadInput,
        }
    }
}

/// What every subcommand is told.
struct Context {
    json: bool,
    quiet: bool,
}

impl Cli {
    /// Runs the subcommand.
    ///
    /// # Errors
    /// Whatever stopped it; nothing is written then.
    pub fn run(self) -> Result<Status> {
        let context = Context { json: self.json, quiet: self.quiet };
        let done = match self.command {
            Command::Inspect(a) => a.run(&context),
            Command::Codes(a) => a.run(&context),
            Command::Gradients(a) => a.run(&context),
            Command::Fisher(a) => a.run(&context),
            Command::Forget(a) => a.run(&context),
            Command::Evaluate(a) => a.run(&context),
            Command::Audit(a) => a.run(&context),
            Command::Plan(a) => a.run(&context),
            Command::Verify(a) => a.run(&context),
        };
        done.map_err(|e| {
            let device = e.kind() == Kind::Engine;
            if device { Error::engine(format!("{e}; '--engine cpu' computes without a device")) } else { e }
        })
    }
}
