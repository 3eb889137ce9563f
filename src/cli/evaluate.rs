//! `evaluate`: accuracy per class on labelled data.

use super::common::{EngineArgs, EngineReport, ModelArgs, ScaleArgs};
use super::{Context, Status};
use crate::classifier::Weights;
use crate::error::{Error, Result};
use crate::forget::answers::{Answerer, Answers};
use crate::report::{Align, Table, format};
use std::path::PathBuf;

/// Measures the accuracy of a model on labelled data, class by class.
///
/// With --forgotten also A_R (accuracy on all other classes), A_F (on the forgotten ones) and E_F = 100 − A_F.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// An .npz with x and y, a folder with IDX files, or a folder with one folder of images per class.
    #[arg(long, value_name = "PATH")]
    data: PathBuf,
    /// A class that the model is to have forgotten; may be given several times.
    #[arg(long, value_name = "CLASS", value_delimiter = ',')]
    forgotten: Vec<usize>,
    /// Decides which samples --limit keeps.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    scaling: ScaleArgs,
    #[command(flatten)]
    engine: EngineArgs,
}

#[derive(serde::Serialize)]
struct ClassReport {
    class: usize,
    samples: usize,
    accuracy: f64,
    answered: usize,
}

#[derive(serde::Serialize)]
struct Report {
    engine: EngineReport,
    samples: usize,
    accuracy: f64,
    classes: Vec<ClassReport>,
    #[serde(rename = "A_R")]
    a_r: Option<f64>,
    #[serde(rename = "A_F")]
    a_f: Option<f64>,
    #[serde(rename = "E_F")]
    e_f: Option<f64>,
}

impl Args {
    pub(super) fn run(self, context: &Context) -> Result<Status> {
        let classifier = self.model.open_for(&self.data, &self.scaling)?;
        if let Some(c) = self.forgotten.iter().find(|&&c| c >= classifier.classes()) {
            return Err(Error::invalid(format!(
                "class {c} is out of range: the model has {} classes",
                classifier.classes()
            )));
        }
        let data = self.scaling.load(&self.data, &classifier, self.seed)?;
        let chosen = self.engine.open_for(&classifier, data.len())?;
        let engine = chosen.engine.as_ref();
        let classifier = classifier.on(engine)?;
        let weights = Weights::upload(engine, &classifier.bind(1)?)?;
        let mut answerer = Answerer::new(&classifier, engine, data.len().min(128), false)?;
        let progress = context.progress("evaluate", data.len());
        let answers =
            answerer.answer(&weights, &weights, &data, &mut |n| progress.inc(n.saturating_sub(progress.position())))?;
        drop(progress);
        let answered = Answers::classes_of(&answers.logits, answers.classes);
        let report = self.measure(EngineReport::new(&chosen), &answered, &data.y, answers.classes);
        context.print(&report, || text(&report))?;
        Ok(Status::Done)
    }

    fn measure(&self, engine: EngineReport, answered: &[usize], truth: &[usize], classes: usize) -> Report {
        let right = |keep: &dyn Fn(usize) -> bool| {
            let all = truth.iter().filter(|&&y| keep(y)).count();
            let hit = truth.iter().zip(answered).filter(|(y, a)| keep(**y) && y == a).count();
            (all, if all > 0 { hit as f64 / all as f64 } else { f64::NAN })
        };
        let given = !self.forgotten.is_empty();
        let a_f = right(&|y| self.forgotten.contains(&y)).1;
        Report {
            engine,
            samples: truth.len(),
            accuracy: right(&|_| true).1,
            classes: (0..classes)
                .map(|c| {
                    let (samples, accuracy) = right(&|y| y == c);
                    ClassReport { class: c, samples, accuracy, answered: answered.iter().filter(|&&a| a == c).count() }
                })
                .collect(),
            a_r: given.then(|| right(&|y| !self.forgotten.contains(&y)).1),
            a_f: given.then_some(a_f),
            e_f: given.then_some(1.0 - a_f),
        }
    }
}

fn text(r: &Report) -> String {
    let mut table = Table::new([
        ("class", Align::Right),
        ("samples", Align::Right),
        ("accuracy %", Align::Right),
        ("answered", Align::Right),
    ]);
    for c in &r.classes {
        table.row([
            c.class.to_string(),
            format::count(c.samples),
            format::percent(c.accuracy),
            format::count(c.answered),
        ]);
    }
    let mut out = format!(
        "engine: {}\n\n{table}\naccuracy {} % on {} samples\n",
        r.engine,
        format::percent(r.accuracy),
        format::count(r.samples)
    );
    if let (Some(a_r), Some(a_f), Some(e_f)) = (r.a_r, r.a_f, r.e_f) {
        out += &format!(
            "A_R {} %, A_F {} %, E_F {} %\n",
            format::percent(a_r),
            format::percent(a_f),
            format::percent(e_f)
        );
    }
    out
}
