//! `fisher MODEL`: estimates a Fisher or a part of it.

use crate::classifier::{Classifier, Weights};
use crate::cli::common::{EngineArgs, EngineReport, MemoryArgs, ModelArgs, ScaleArgs, check_target};
use crate::cli::{Context, Status};
use crate::error::Result;
use crate::fisher::store::{Kept, Origin, model_sha256};
use crate::fisher::{ClassSums, Forecast, Plan};
use crate::memory::in_words;
use crate::report::{Align, Table, format};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;

/// Estimates the diagonal Fisher information of every weight from labelled inputs, and keeps it.
///
/// The file holds Σ_n (∂ℓ_n/∂w)² of each class by itself, from which 'forget --fisher' makes
/// f_C = (1/|C|) Σ_{c∈C} mean_{x of class c} (∂ℓ/∂w)² for whatever classes are to be forgotten.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Estimate {
    #[command(flatten)]
    model: ModelArgs,
    /// Labelled inputs: an .npz with x and y, a folder with IDX files, or a folder with one folder of images per class.
    #[arg(long, value_name = "PATH")]
    inputs: PathBuf,
    /// The new file.
    #[arg(short, value_name = "FILE.safetensors")]
    o: PathBuf,
    /// Only this class; may be given several times [default: every class that has inputs].
    #[arg(long = "class", value_name = "CLASS", value_delimiter = ',')]
    classes: Vec<usize>,
    /// Only the K-th of N parts of the work, counted from 0; 'fisher merge' joins them.
    #[arg(long, value_name = "K/N", value_parser = parse_shard)]
    shard: Option<(usize, usize)>,
    /// Decides which samples --limit keeps.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    scaling: ScaleArgs,
    #[command(flatten)]
    engine: EngineArgs,
    #[command(flatten)]
    memory: MemoryArgs,
}

fn parse_shard(text: &str) -> Result<(usize, usize), String> {
    let (k, n) = text.split_once('/').ok_or("expected K/N, such as 0/4")?;
    let number = |t: &str| t.parse::<usize>().map_err(|_| format!("'{t}' is not a whole number from 0"));
    let (k, n) = (number(k)?, number(n)?);
    if k < n { Ok((k, n)) } else { Err(format!("there is no part {k} of {n}: they are counted from 0")) }
}

#[derive(serde::Serialize)]
struct WeightReport {
    name: String,
    elements: usize,
    /// Of the mean over the classes; absent in a part.
    mean: Option<f64>,
    max: Option<f64>,
}

#[derive(serde::Serialize)]
struct Report {
    file: PathBuf,
    engine: EngineReport,
    /// `[k, n]` for the k-th of n parts.
    shard: Option<[usize; 2]>,
    samples: usize,
    batch: usize,
    one_by_one: Option<String>,
    /// What was predicted: bytes at most, and parts of the forward pass, computed twice where there are several.
    forecast: Option<Forecast>,
    /// Bytes that were taken at most: of the device where there is one, else of the process.
    taken: Option<u64>,
    seconds: f64,
    unused: Vec<String>,
    weights: Vec<WeightReport>,
    origin: Origin,
}

impl Estimate {
    pub(super) fn run(self, context: &Context) -> Result<Status> {
        check_target(&self.o, &[&self.model.model, &self.inputs])?;
        let classifier = self.model.open_for(&self.inputs, &self.scaling)?;
        let source = self.scaling.source(&self.inputs, &classifier, self.seed)?;
        let chosen = self.engine.open_for(&classifier, 3 * source.classes().len())?;
        let engine = chosen.engine.as_ref();
        let classifier = classifier.on(engine)?.within(self.memory.memory_limit);
        let weights = Weights::upload(engine, &classifier.bind(1)?)?;
        let elements = weights.tensors.iter().map(|t| t.ty().len()).sum();
        let plan = Plan::new(&source.by_class(), &self.classes, elements)?;
        let blocks = match self.shard {
            Some((k, n)) => plan.shard(k, n)?,
            None => plan.all(),
        };
        let start = Instant::now();
        let mut sums = ClassSums::new(&classifier, engine, &weights, &plan)?;
        let samples = plan.samples_of(&blocks);
        let progress = context.progress("fisher", samples);
        let done = &mut |n: usize| progress.inc(n.saturating_sub(progress.position()));
        let origin = self.origin(&classifier, engine.name(), source.listing_sha256());
        let origin = sums.write(&self.o, &source, &blocks, origin, done)?;
        drop(progress);
        let report = Report {
            weights: self.weights(&sums, &origin)?,
            file: self.o,
            engine: EngineReport::new(&chosen),
            shard: self.shard.map(|(k, n)| [k, n]),
            samples,
            batch: sums.batch,
            one_by_one: sums.one_by_one,
            forecast: sums.forecast,
            taken: engine.peak_bytes(),
            seconds: start.elapsed().as_secs_f64(),
            unused: sums.unused,
            origin,
        };
        context.print(&report, || text(&report))?;
        Ok(Status::Done)
    }

    fn origin(&self, classifier: &Classifier, engine: &str, listing_sha256: &str) -> Origin {
        Origin {
            model_sha256: model_sha256(classifier.model()),
            output: self.model.output.clone(),
            listing_sha256: listing_sha256.to_owned(),
            engines: vec![engine.to_owned()],
            ..Origin::default()
        }
    }

    fn weights(&self, sums: &ClassSums<'_>, origin: &Origin) -> Result<Vec<WeightReport>> {
        let shapes = sums.names.iter().zip(&sums.types);
        let plain = |(name, ty): (&String, &crate::tensor::TensorType)| WeightReport {
            name: name.clone(),
            elements: ty.len(),
            mean: None,
            max: None,
        };
        let mut all: Vec<WeightReport> = shapes.map(plain).collect();
        if origin.is_whole() {
            let kept = Kept::open(&self.o)?;
            let found = kept.weights().map(|(name, _)| name).zip(kept.summaries()?).collect::<BTreeMap<_, _>>();
            for report in &mut all {
                let summary = found.get(report.name.as_str());
                (report.mean, report.max) = (summary.map(|s| s.mean), summary.map(|s| s.max));
            }
        }
        Ok(all)
    }
}

fn text(r: &Report) -> String {
    let mut out = format!("engine: {}\n", r.engine);
    if let Some(why) = &r.one_by_one {
        out += &format!("samples ran one by one: {why}\n");
    }
    if let Some(f) = r.forecast {
        let twice =
            if f.parts > 1 { format!(", the forward pass computed twice in {} parts", f.parts) } else { String::new() };
        let taken = r.taken.map_or(String::new(), |t| format!(", {} taken", in_words(t)));
        out += &format!("memory: {} at most{taken}{twice}\n", in_words(f.bytes));
    }
    if r.origin.is_whole() {
        let mut table = Table::new([
            ("weight", Align::Left),
            ("elements", Align::Right),
            ("mean", Align::Right),
            ("max", Align::Right),
        ]);
        for w in &r.weights {
            let sig = |v: Option<f64>| format::significant(v.unwrap_or(0.0), 3);
            table.row([w.name.clone(), format::count(w.elements), sig(w.mean), sig(w.max)]);
        }
        out += &format!("\n{table}\n");
    }
    let part = r.shard.map_or(String::new(), |[k, n]| format!("part {k} of {n}, "));
    out += &format!(
        "wrote {}: {part}{} samples in batches of {}, {:.2} s\n",
        r.file.display(),
        format::count(r.samples),
        r.batch,
        r.seconds
    );
    out
}
