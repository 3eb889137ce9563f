//! `codes`: making labelled inputs that stand for classes.

mod compose;
mod embed;
mod from_data;
mod update;

use super::common::{EngineArgs, EngineReport, MemoryArgs, ModelArgs, check_target};
use super::{Context, Status};
use crate::classifier::Classifier;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::graph::cost;
use crate::inputs::codes::{self, Distribution};
use crate::inputs::synthesis::{self, Synthesised};
use crate::inputs::{Labelled, npz};
use crate::report::format;
use clap::ValueEnum;
use std::path::PathBuf;
use std::time::Instant;

/// Makes inputs that stand for classes.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    New(New),
    Synthesize(Synthesize),
    FromData(from_data::FromData),
    Update(update::Update),
    Embed(Box<embed::Embed>),
    Compose(compose::Compose),
}

impl Command {
    pub(super) fn run(self, context: &Context) -> Result<Status> {
        match self {
            Self::New(a) => a.run(context),
            Self::Synthesize(a) => a.run(context),
            Self::FromData(a) => a.run(context),
            Self::Update(a) => a.run(context),
            Self::Embed(a) => a.run(context),
            Self::Compose(a) => a.run(context),
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
    #[command(flatten)]
    draw: DrawArgs,
}

/// How codes are drawn.
#[derive(Debug, clap::Args)]
pub(super) struct DrawArgs {
    /// What elements are drawn from: uniform between the two numbers of --range, or normal with mean and deviation
    /// from them [default: uniform].
    #[arg(long, value_enum)]
    distribution: Option<DistributionName>,
    /// The two numbers of the distribution [default: 0,1].
    #[arg(long, value_name = "A,B", value_delimiter = ',', allow_hyphen_values = true)]
    range: Vec<f64>,
    /// Codes per class [default: 1].
    #[arg(long, value_name = "K")]
    per_class: Option<usize>,
}

impl DrawArgs {
    /// The flags that were given.
    fn given(&self) -> Vec<&'static str> {
        let flags = [
            ("--distribution", self.distribution.is_some()),
            ("--range", !self.range.is_empty()),
            ("--per-class", self.per_class.is_some()),
        ];
        flags.into_iter().filter(|(_, given)| *given).map(|(name, _)| name).collect()
    }
    fn per_class(&self) -> usize {
        self.per_class.unwrap_or(1)
    }
    /// Draws codes of every class.
    fn draw(&self, classifier: &Classifier, seed: u64) -> Result<Labelled> {
        let (a, b) = match self.range[..] {
            [] => (0.0, 1.0),
            [a, b] => (a, b),
            _ => return Err(Error::invalid(format!("--range takes two numbers, not {}", self.range.len()))),
        };
        let distribution = match self.distribution.unwrap_or_default() {
            DistributionName::Uniform => Distribution::Uniform(a, b),
            DistributionName::Normal => Distribution::Normal(a, b),
        };
        let input = classifier.input().dtype;
        if !input.is_float() {
            return Err(Error::unsupported(format!(
                "codes are signals of real numbers, and the model takes {input}: use samples of each class instead"
            )));
        }
        codes::new(classifier.sample_shape(), classifier.classes(), self.per_class(), distribution, seed)
    }
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
        let made = self.draw.draw(&classifier, self.seed)?;
        npz::save(&self.o, &made)?;
        let report = Report {
            file: self.o.clone(),
            classes: classifier.classes(),
            per_class: self.draw.per_class(),
            sample_shape: classifier.sample_shape().to_vec(),
            seed: self.seed,
        };
        context.print(&report, || {
            let file = self.o.display().to_string();
            format!(
                "wrote {file}: {} codes of shape {:?}, {} for each of {} classes, seed {}\n\nMix them into training (PyTorch):\n\n{}",
                format::count(made.len()),
                report.sample_shape,
                report.per_class,
                report.classes,
                self.seed,
                codes::training_hint(&file, report.classes, 0.2)
            )
        })?;
        Ok(Status::Done)
    }
}

/// How inputs are made from a model alone.
#[derive(Debug, clap::Args)]
pub(super) struct SynthesisArgs {
    /// Inputs made for each class [default: 8].
    #[arg(long, value_name = "K")]
    per_class: Option<usize>,
    /// Least and greatest element of an input, as the model takes it [default: told by a model that standardises each
    /// feature, else found by trying].
    #[arg(long, value_name = "LO,HI", value_delimiter = ',', allow_hyphen_values = true)]
    range: Vec<f64>,
    /// Steps of gradient descent [default: 200].
    #[arg(long, value_name = "N")]
    steps: Option<usize>,
}

impl SynthesisArgs {
    /// The flags by name, for records; what was not given is what is usual.
    pub(super) fn parameters(&self) -> serde_json::Value {
        let usual = synthesis::Options::default();
        serde_json::json!({
            "perClass": self.per_class.unwrap_or(usual.per_class),
            "range": self.range,
            "steps": self.steps.unwrap_or(usual.steps),
        })
    }
    /// The flags that were given.
    pub(super) fn given(&self) -> Vec<&'static str> {
        let flags = [
            ("--per-class", self.per_class.is_some()),
            ("--range", !self.range.is_empty()),
            ("--steps", self.steps.is_some()),
        ];
        flags.into_iter().filter(|(_, given)| *given).map(|(name, _)| name).collect()
    }
    fn options(&self, seed: u64) -> Result<synthesis::Options> {
        let range = match self.range[..] {
            [] => None,
            [lo, hi] => Some((lo, hi)),
            _ => return Err(Error::invalid(format!("--range takes two numbers, not {}", self.range.len()))),
        };
        let usual = synthesis::Options::default();
        Ok(synthesis::Options {
            per_class: self.per_class.unwrap_or(usual.per_class),
            steps: self.steps.unwrap_or(usual.steps),
            seed,
            range,
            ..usual
        })
    }
    /// Makes the inputs, and what a report says of them.
    pub(super) fn make(
        &self,
        classifier: &Classifier,
        engine: &dyn Engine,
        seed: u64,
        context: &Context,
    ) -> Result<(Synthesised, Made)> {
        let options = self.options(seed)?;
        Self::with(&options, &vec![options.per_class; classifier.classes()], classifier, engine, context)
    }
    /// Makes inputs beside others, in their range unless the model tells that of each element, in fewer steps: they only
    /// tell how data fare.
    pub(super) fn beside(
        others: &Labelled,
        number: &Beside<'_>,
        classifier: &Classifier,
        engine: &dyn Engine,
        seed: u64,
        context: &Context,
    ) -> Result<(Synthesised, Made)> {
        let (usual, each) = number.options(classifier.classes());
        let range = if classifier.bounds().is_some() { None } else { Some(others.range()) };
        let options = synthesis::Options { seed, range, ..usual };
        let (made, mut report) = Self::with(&options, &each, classifier, engine, context)?;
        if range.is_some() {
            "that of the given inputs".clone_into(&mut report.range_reason);
        }
        Ok((made, Made { beside: true, ..report }))
    }
    fn with(
        options: &synthesis::Options,
        each: &[usize],
        classifier: &Classifier,
        engine: &dyn Engine,
        context: &Context,
    ) -> Result<(Synthesised, Made)> {
        let seed = options.seed;
        let bar = context.progress("synthesis", 0);
        let made = synthesis::synthesise_each(classifier, engine, options, each, &mut |done, all| {
            bar.set_len(all);
            bar.inc(done.saturating_sub(bar.position()));
        })?;
        drop(bar);
        let report = Made {
            samples: made.inputs.len(),
            per_class: each.iter().copied().max().unwrap_or(0),
            beside: false,
            even: each.iter().all(|n| Some(n) == each.first()),
            steps: options.steps,
            reached: made.reached,
            range: [made.range.0, made.range.1],
            range_reason: made.range_reason.clone(),
            notes: made.notes.clone(),
            seed,
        };
        Ok((made, report))
    }
}

/// How many inputs are made beside others.
pub(super) enum Beside<'a> {
    /// Of these classes, which are to be forgotten, and a few of others.
    Few(&'a [usize]),
    /// As many of every class.
    Many,
}

impl Beside<'_> {
    /// How they are made, and the number of each class.
    fn options(&self, classes: usize) -> (synthesis::Options, Vec<usize>) {
        match self {
            Self::Few(forgotten) => (synthesis::Options::few(), synthesis::Few.each(classes, forgotten)),
            Self::Many => {
                let options = synthesis::Options::beside();
                (options, vec![options.per_class; classes])
            }
        }
    }

    /// Products that making them sums: every step goes forward and back to the input.
    ///
    /// # Errors
    /// As [`Classifier::bind`].
    pub(super) fn products(&self, classifier: &Classifier) -> Result<u64> {
        let (options, each) = self.options(classifier.classes());
        let samples = (2 * options.steps * each.iter().sum::<usize>()) as u64;
        Ok(cost::products(&classifier.bind(1)?.graph).saturating_mul(samples))
    }
}

/// What a report says of inputs that were made.
#[derive(Debug, serde::Serialize)]
pub(super) struct Made {
    samples: usize,
    /// Other inputs were given, which these only help.
    beside: bool,
    /// At most, where it is not even.
    per_class: usize,
    #[serde(skip)]
    even: bool,
    steps: usize,
    reached: usize,
    range: [f64; 2],
    range_reason: String,
    notes: Vec<String>,
    seed: u64,
}

impl Made {
    /// True when nearly all are answered with their class.
    pub(super) fn is_good(&self) -> bool {
        self.reached * 10 >= self.samples * 9
    }
}

impl std::fmt::Display for Made {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [lo, hi] = self.range.map(|v| if v.fract() == 0.0 { v.to_string() } else { format::significant(v, 3) });
        write!(
            f,
            "{} made from the model alone{}, {}{} a class, {} steps, seed {}; {} are answered with their class\n\
             range:    {lo} to {hi} ({})",
            format::count(self.samples),
            if self.beside { " beside those that are given" } else { "" },
            if self.even { "" } else { "up to " },
            self.per_class,
            self.steps,
            self.seed,
            format::count(self.reached),
            self.range_reason
        )?;
        self.notes.iter().try_for_each(|note| write!(f, "\nnote:     {note}"))
    }
}

/// Makes inputs of every class from the model alone: gradient descent on the input, from noise.
///
/// For a model that never saw codes, where no data is at hand. Minimises the cross-entropy of the class, and for images
/// the total variation too, with Adam, within the range.
#[derive(Debug, clap::Args)]
pub(super) struct Synthesize {
    #[command(flatten)]
    model: ModelArgs,
    /// The new file.
    #[arg(short, value_name = "FILE.npz", default_value = "codes.npz")]
    o: PathBuf,
    /// Decides the noise that descent starts from.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    how: SynthesisArgs,
    #[command(flatten)]
    engine: EngineArgs,
    #[command(flatten)]
    memory: MemoryArgs,
}

#[derive(serde::Serialize)]
struct SynthesisReport {
    file: PathBuf,
    engine: EngineReport,
    inputs: Made,
    sample_shape: Vec<usize>,
    seconds: f64,
}

impl Synthesize {
    fn run(self, context: &Context) -> Result<Status> {
        let start = Instant::now();
        check_target(&self.o, &[&self.model.model])?;
        let classifier = self.model.open()?;
        let chosen = self.engine.open()?;
        let classifier = classifier.on(chosen.engine.as_ref())?.within(self.memory.memory_limit);
        let (made, inputs) = self.how.make(&classifier, chosen.engine.as_ref(), self.seed, context)?;
        npz::save_made(&self.o, &made.inputs)?;
        let report = SynthesisReport {
            file: self.o.clone(),
            engine: EngineReport::new(&chosen),
            inputs,
            sample_shape: classifier.sample_shape().to_vec(),
            seconds: start.elapsed().as_secs_f64(),
        };
        context.print(&report, || {
            format!(
                "engine:   {}\ninputs:   {}\nwrote {}: {} inputs of shape {:?}, {:.2} s\n",
                report.engine,
                report.inputs,
                self.o.display(),
                format::count(report.inputs.samples),
                report.sample_shape,
                report.seconds
            )
        })?;
        Ok(Status::Done)
    }
}
