//! `fisher`: the diagonal Fisher of all weights, kept in a file.

use super::common::{EngineArgs, EngineReport, ModelArgs, ScaleArgs, check_target};
use super::{Context, Status};
use crate::classifier::Weights;
use crate::error::{Error, Result};
use crate::fisher::store::{Origin, model_sha256, save, sha256};
use crate::fisher::{class_weights, estimate};
use crate::report::{Align, Table, format};
use std::path::PathBuf;
use std::time::Instant;

/// Estimates the diagonal Fisher information of every weight from labelled inputs.
///
/// f_C = (1/|C|) Σ_{c∈C} mean_{x of class c} (∂ℓ/∂w)², over all classes that have inputs. With --class two sets are
/// written, of those classes and of all others, as the first axis of each tensor.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// Labelled inputs: an .npz with x and y, a folder with IDX files, or a folder with one folder of images per class.
    #[arg(long, value_name = "PATH")]
    inputs: PathBuf,
    /// The new file.
    #[arg(short, value_name = "FILE.safetensors")]
    o: PathBuf,
    /// A class to forget; may be given several times.
    #[arg(long = "class", value_name = "CLASS", value_delimiter = ',')]
    classes: Vec<usize>,
    /// Decides which samples --limit keeps.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    scaling: ScaleArgs,
    #[command(flatten)]
    engine: EngineArgs,
}

#[derive(serde::Serialize)]
struct WeightReport {
    name: String,
    elements: usize,
    mean: f64,
    max: f64,
}

#[derive(serde::Serialize)]
struct Report {
    file: PathBuf,
    engine: EngineReport,
    samples: usize,
    batch: usize,
    one_by_one: Option<String>,
    seconds: f64,
    unused: Vec<String>,
    weights: Vec<WeightReport>,
    origin: Origin,
}

impl Args {
    pub(super) fn run(self, context: &Context) -> Result<Status> {
        check_target(&self.o, &[&self.model.model, &self.inputs])?;
        let classifier = self.model.open_for(&self.inputs, &self.scaling)?;
        let data = self.scaling.load(&self.inputs, &classifier, self.seed)?;
        let by_class = data.by_class();
        let all: Vec<usize> = by_class.keys().copied().collect();
        let (sets, names) = if self.classes.is_empty() {
            (vec![class_weights(&data, &all)?], vec!["all".to_owned()])
        } else {
            let rest: Vec<usize> = all.iter().copied().filter(|c| !self.classes.contains(c)).collect();
            if rest.is_empty() {
                return Err(Error::invalid("every class that has inputs is named by --class; none is left to retain"));
            }
            let sets = vec![class_weights(&data, &self.classes)?, class_weights(&data, &rest)?];
            (sets, vec!["forget".to_owned(), "retain".to_owned()])
        };
        let chosen = self.engine.open()?;
        let engine = chosen.engine.as_ref();
        let classifier = classifier.on(engine)?;
        let weights = Weights::upload(engine, &classifier.bind(1)?)?;
        let progress = context.progress("fisher", data.len());
        let start = Instant::now();
        let done = &mut |n: usize| progress.inc(n.saturating_sub(progress.position()));
        let fisher = estimate(&classifier, engine, &weights, &data, &sets, done)?;
        let arrays = fisher.to_arrays()?;
        let seconds = start.elapsed().as_secs_f64();
        drop(progress);
        let origin = Origin {
            model_sha256: model_sha256(classifier.model()),
            inputs_sha256: if self.inputs.is_file() { sha256(&self.inputs)? } else { String::new() },
            samples: by_class.iter().map(|(c, at)| (*c, at.len())).collect(),
            sets: names,
        };
        save(&self.o, &fisher, &origin)?;
        let report = Report {
            file: self.o,
            engine: EngineReport::new(&chosen),
            samples: data.len(),
            batch: fisher.batch,
            one_by_one: fisher.one_by_one,
            seconds,
            unused: fisher.unused,
            weights: arrays
                .iter()
                .map(|(name, a)| {
                    let v = a.to_f64();
                    let mean = v.iter().sum::<f64>() / v.len().max(1) as f64;
                    WeightReport { name: name.clone(), elements: v.len(), mean, max: v.into_iter().fold(0.0, f64::max) }
                })
                .collect(),
            origin,
        };
        context.print(&report, || text(&report))?;
        Ok(Status::Done)
    }
}

fn text(r: &Report) -> String {
    let mut table = Table::new([
        ("weight", Align::Left),
        ("elements", Align::Right),
        ("mean", Align::Right),
        ("max", Align::Right),
    ]);
    for w in &r.weights {
        let sig = |v| format::significant(v, 3);
        table.row([w.name.clone(), format::count(w.elements), sig(w.mean), sig(w.max)]);
    }
    let mut out = format!("engine: {}\n", r.engine);
    if let Some(why) = &r.one_by_one {
        out += &format!("samples ran one by one: {why}\n");
    }
    out += &format!(
        "\n{table}\nwrote {}: {} samples in batches of {}, {:.2} s\n",
        r.file.display(),
        format::count(r.samples),
        r.batch,
        r.seconds
    );
    out
}
