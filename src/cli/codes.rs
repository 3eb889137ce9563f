//! `codes`: making labelled inputs that stand for classes.

use super::common::{ModelArgs, check_target};
use super::{Context, Status};
use crate::error::{Error, Result};
use crate::inputs::codes::{self, Distribution};
use crate::inputs::npz;
use crate::report::format;
use clap::ValueEnum;
use std::path::PathBuf;

/// Makes mnemonic codes.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    New(New),
}

impl Command {
    pub(super) fn run(self, context: &Context) -> Result<Status> {
        match self {
            Self::New(a) => a.run(context),
        }
    }
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum DistributionName {
    #[default]
    Uniform,
    Normal,
}

/// Draws one random code per class, to be mixed into training; prints how.
///
/// Codes carry a class only in a model that was trained with them.
#[derive(Debug, clap::Args)]
pub(super) struct New {
    #[command(flatten)]
    model: ModelArgs,
    /// The new file.
    #[arg(short, value_name = "FILE.npz", default_value = "codes.npz")]
    o: PathBuf,
    /// Decides every element.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// What elements are drawn from: uniform between the two numbers of --range, or normal with mean and deviation
    /// from them.
    #[arg(long, value_enum, default_value_t)]
    distribution: DistributionName,
    /// The two numbers of the distribution.
    #[arg(long, value_name = "A,B", value_delimiter = ',', default_value = "0,1", allow_hyphen_values = true)]
    range: Vec<f64>,
    /// Codes per class.
    #[arg(long, value_name = "K", default_value_t = 1)]
    per_class: usize,
}

#[derive(serde::Serialize)]
struct Report {
    file: PathBuf,
    classes: usize,
    per_class: usize,
    sample_shape: Vec<usize>,
    seed: u64,
}

impl New {
    fn run(self, context: &Context) -> Result<Status> {
        check_target(&self.o, &[&self.model.model])?;
        let classifier = self.model.open()?;
        let &[a, b] = &self.range[..] else {
            return Err(Error::invalid(format!("--range takes two numbers, not {}", self.range.len())));
        };
        let distribution = match self.distribution {
            DistributionName::Uniform => Distribution::Uniform(a, b),
            DistributionName::Normal => Distribution::Normal(a, b),
        };
        let input = classifier.input().dtype;
        if !input.is_float() {
            return Err(Error::unsupported(format!(
                "codes are signals of real numbers, and the model takes {input}: use samples of each class instead"
            )));
        }
        let shape = classifier.sample_shape();
        let made = codes::new(shape, classifier.classes(), self.per_class, distribution, self.seed)?;
        npz::save(&self.o, &made)?;
        let report = Report {
            file: self.o.clone(),
            classes: classifier.classes(),
            per_class: self.per_class,
            sample_shape: shape.to_vec(),
            seed: self.seed,
        };
        context.print(&report, || {
            let file = self.o.display().to_string();
            format!(
                "wrote {file}: {} codes of shape {:?}, {} for each of {} classes, seed {}\n\nMix them into training (PyTorch):\n\n{}",
                format::count(made.len()),
                report.sample_shape,
                self.per_class,
                report.classes,
                self.seed,
                codes::training_hint(&file, report.classes, 0.2)
            )
        })?;
        Ok(Status::Done)
    }
}
