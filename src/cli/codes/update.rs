//! `codes update`: a code file for a newer version of its model.

use crate::classifier::{Classifier, Weights};
use crate::cli::common::{EngineArgs, EngineReport, ModelArgs, check_target, named};
use crate::cli::{Context, Status};
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::fisher::compare::{Difference, difference};
use crate::fisher::{class_weights, estimate};
use crate::inputs::synthesis::{self, refine};
use crate::inputs::{self, Labelled, npz};
use crate::report::{Align, Table, format};
use std::path::PathBuf;
use std::time::Instant;

/// Refreshes codes for a newer version of their model: gradient descent on the input, from the codes as they are.
///
/// Tells how far the Fisher moved: that of the old codes under the old model, or without --old under the new one, and that of
/// the new codes under the new model.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Update {
    /// The codes as they are, an .npz with x and y.
    codes: PathBuf,
    #[command(flatten)]
    model: ModelArgs,
    /// The version of the model that the codes are of.
    #[arg(long, value_name = "MODEL")]
    old: Option<PathBuf>,
    /// The new file.
    #[arg(short, value_name = "FILE.npz")]
    o: PathBuf,
    /// Least and greatest element of a code [default: those of the codes].
    #[arg(long, value_name = "LO,HI", value_delimiter = ',', allow_hyphen_values = true)]
    range: Vec<f64>,
    /// Steps of gradient descent.
    #[arg(long, value_name = "N", default_value_t = 50)]
    steps: usize,
    #[command(flatten)]
    engine: EngineArgs,
}

/// Length of a step, as a part of the range: a fifth of what it is from noise.
const RATE: f64 = 0.01;

#[derive(serde::Serialize)]
struct Layer {
    name: String,
    #[serde(flatten)]
    difference: Difference,
}

#[derive(serde::Serialize)]
struct Report {
    file: PathBuf,
    engine: EngineReport,
    codes: usize,
    /// Codes that the new model answers with their class, before and after.
    answered: [usize; 2],
    range: [f64; 2],
    /// `‖x_new − x_old‖₂ / ‖x_old‖₂` of all codes together.
    moved: f64,
    /// What the first Fisher is of.
    compared_with: &'static str,
    fisher: Difference,
    layers: Vec<Layer>,
    seconds: f64,
}

impl Update {
    pub(super) fn run(self, context: &Context) -> Result<Status> {
        let start = Instant::now();
        let read = [&self.model.model, &self.codes].into_iter().chain(&self.old);
        check_target(&self.o, &read.map(PathBuf::as_path).collect::<Vec<_>>())?;
        let range = match self.range[..] {
            [] => None,
            [lo, hi] => Some((lo, hi)),
            _ => return Err(Error::invalid(format!("--range takes two numbers, not {}", self.range.len()))),
        };
        if inputs::are_composite(&self.codes)? {
            let why = "classes share codes here, and descent would move each class's copy by itself; codes embed teaches a model \
                       codes as they are";
            return Err(named(Error::unsupported(why), &self.codes));
        }
        let chosen = self.engine.open()?;
        let engine = chosen.engine.as_ref();
        let new = self.model.open()?.on(engine)?;
        let codes = self.load(&new)?;
        let bar = context.progress("descent", 0);
        let options = synthesis::Options { steps: self.steps, rate: RATE, range, ..synthesis::Options::default() };
        let refined = refine(&new, engine, &codes, &options, &mut |done, all| {
            bar.set_len(all);
            bar.inc(done.saturating_sub(bar.position()));
        })?;
        drop(bar);
        let before = match &self.old {
            Some(path) => {
                let old = Classifier::open(path, self.model.options()).and_then(|c| c.on(engine));
                let old = old.map_err(|e| named(e, path))?;
                fisher(&old, engine, &self.load(&old)?)?
            }
            None => fisher(&new, engine, &codes)?,
        };
        let after = fisher(&new, engine, &refined.inputs)?;
        let agree =
            before.len() == after.len() && before.iter().zip(&after).all(|(a, b)| a.0 == b.0 && a.1.len() == b.1.len());
        if !agree {
            return Err(Error::invalid(
                "the two versions of the model have different weights: their Fishers cannot be compared",
            ));
        }
        let answered = [&codes, &refined.inputs].map(|data| answered(&new, engine, data));
        let [was, is] = answered;
        let write = if inputs::are_made(&self.codes)? { npz::save_made } else { npz::save };
        write(&self.o, &refined.inputs)?;
        let all = |f: &[(String, Vec<f64>)]| f.iter().flat_map(|(_, v)| v.iter().copied()).collect::<Vec<f64>>();
        let report = Report {
            file: self.o,
            engine: EngineReport::new(&chosen),
            codes: codes.len(),
            answered: [was?, is?],
            range: [refined.range.0, refined.range.1],
            moved: difference(&refined.inputs.x.to_f64(), &codes.x.to_f64()).relative.unwrap_or(0.0),
            compared_with: if self.old.is_some() { "the old codes, old model" } else { "the old codes, new model" },
            fisher: difference(&all(&before), &all(&after)),
            layers: before
                .iter()
                .zip(&after)
                .map(|((name, a), (_, b))| Layer { name: name.clone(), difference: difference(a, b) })
                .collect(),
            seconds: start.elapsed().as_secs_f64(),
        };
        context.print(&report, || text(&report))?;
        Ok(Status::Done)
    }

    fn load(&self, classifier: &Classifier) -> Result<Labelled> {
        let loaded = inputs::load(&self.codes, &classifier.expected(), &inputs::Options::default());
        loaded.map_err(|e| named(e, &self.codes))
    }
}

/// The Fisher of all classes that have codes, by weight.
fn fisher(classifier: &Classifier, engine: &dyn Engine, codes: &Labelled) -> Result<Vec<(String, Vec<f64>)>> {
    let classes: Vec<usize> = codes.by_class().into_keys().collect();
    let weights = Weights::upload(engine, &classifier.bind(1)?)?;
    let found = estimate(classifier, engine, &weights, codes, &[class_weights(codes, &classes)?], &mut |_| ())?;
    Ok(found.to_arrays()?.into_iter().map(|(name, a)| (name, a.to_f64())).collect())
}

/// Codes that are answered with their class.
fn answered(classifier: &Classifier, engine: &dyn Engine, codes: &Labelled) -> Result<usize> {
    use crate::forget::answers::{Answerer, Answers};
    let weights = Weights::upload(engine, &classifier.bind(1)?)?;
    let mut answerer = Answerer::new(classifier, engine, codes.len().min(256), false)?;
    let answers = answerer.answer(&weights, &weights, codes, &mut |_| ())?;
    let classes = Answers::classes_of(&answers.logits, answers.classes);
    Ok(classes.iter().zip(&codes.y).filter(|(a, y)| a == y).count())
}

fn text(r: &Report) -> String {
    let mut table = Table::new([
        ("weight", Align::Left),
        ("elements", Align::Right),
        ("Fisher moved", Align::Right),
        ("rank correlation", Align::Right),
    ]);
    let layers = r.layers.iter().map(|l| (l.name.as_str(), &l.difference));
    for (name, d) in layers.chain([("all", &r.fisher)]) {
        table.row([
            name.to_owned(),
            format::count(d.elements),
            d.relative.map_or("-".to_owned(), |v| format::significant(v, 3)),
            d.rank_correlation.map_or("-".to_owned(), |v| format!("{v:.3}")),
        ]);
    }
    format!(
        "engine: {}\ncodes answered with their class: {} of {} before, {} after\n\n\
         Fisher of {} against that of the new codes, new model:\n{table}\n\
         wrote {}: {} codes, moved by {} of their norm, {:.2} s\n",
        r.engine,
        r.answered[0],
        r.codes,
        r.answered[1],
        r.compared_with,
        r.file.display(),
        format::count(r.codes),
        format::significant(r.moved, 3),
        r.seconds
    )
}
