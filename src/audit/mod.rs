//! Evidence on whether a classifier has forgotten a class: measures with intervals, references and verdicts.
//!
//! What is computed, what a verdict means and where the bounds come from stands in `docs/audit.md`.

mod answers;
pub mod bands;
mod codes;
mod depth;
mod distance;
mod leak;
pub mod logistic;
mod measure;
mod membership;
mod observe;
mod old_head;
mod probe;
mod relearning;
pub mod stats;

pub use depth::{Depth, Layer, depth};
pub use distance::{activation_distance, jensen_shannon, kullback_leibler};
pub use measure::{Band, Confusion, Excess, Measure, Number, Roc, Unit, Verdict};
pub use membership::{modified_entropy, rmia};
pub use probe::cka;

use crate::classifier::Classifier;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::forget::check_range;
use crate::inputs::Labelled;
use observe::{HeadGraph, Observer, Seen};
use serde::Serialize;

/// The models of an audit, with equal inputs and classes.
#[derive(Clone, Copy)]
pub struct Models<'a> {
    /// The model that knows the classes.
    pub before: &'a Classifier,
    /// The one that is to have forgotten them.
    pub after: &'a Classifier,
    /// Models that were trained without the classes, or none.
    pub references: &'a [Classifier],
}

impl Models<'_> {
    /// Checks that all models take the same inputs and have the same number of classes.
    ///
    /// # Errors
    /// Naming the model that differs, and in what.
    pub fn check(&self) -> Result<()> {
        let expected = self.before.expected();
        let others = [("AFTER", self.after)].into_iter().chain(self.references.iter().map(|r| ("a reference", r)));
        for (what, other) in others {
            let found = other.expected();
            if found.classes != expected.classes {
                return Err(Error::invalid(format!(
                    "{what} has {} classes, BEFORE has {}: only models with the same answers can be compared",
                    found.classes, expected.classes
                )));
            }
            if (&found.sample, &found.extra) != (&expected.sample, &expected.extra) {
                return Err(Error::invalid(format!(
                    "{what} takes {} a sample, BEFORE takes {}{}: only models with the same inputs can be compared",
                    found.sample,
                    expected.sample,
                    if found.extra == expected.extra { "" } else { ", and their further inputs differ" }
                )));
            }
        }
        Ok(())
    }
}

/// The samples of an audit.
#[derive(Clone, Copy)]
pub struct Samples<'a> {
    /// Samples that no model was trained with, of forgotten and retained classes.
    pub data: &'a Labelled,
    /// Samples of the forgotten classes that BEFORE was trained with, for membership inference.
    pub members: Option<&'a Labelled>,
    /// Samples of the forgotten classes that it was not trained with.
    pub non_members: Option<&'a Labelled>,
    /// Codes that BEFORE was trained with, or inputs that stand for classes.
    pub codes: Option<&'a Labelled>,
}

/// What is asked of an audit.
#[derive(Clone, Debug)]
pub struct Request {
    /// The forgotten classes; sorted, each once.
    pub classes: Vec<usize>,
    /// Decides folds, resamples, orders and random teachers.
    pub seed: u64,
    /// Most steps of relearning; 0 leaves it out.
    pub relearning_steps: usize,
}

/// What an audit found. Everything a report shows stands here.
#[derive(Clone, Debug, Serialize)]
pub struct Audit {
    /// The worst verdict of all measures.
    pub verdict: Verdict,
    /// The forgotten classes.
    pub classes: Vec<usize>,
    /// Number of classes of the models.
    pub class_count: usize,
    /// Samples in the data.
    pub samples: usize,
    /// Those of them that are of forgotten classes.
    pub forgotten_samples: usize,
    /// Number of reference models.
    pub references: usize,
    /// The seed that was used.
    pub seed: u64,
    /// The measures, in the order of `docs/audit.md`.
    pub measures: Vec<Measure>,
    /// Membership inference on AFTER, where members were given.
    pub roc: Vec<Roc>,
    /// Answers of BEFORE to the data.
    pub confusion_before: Confusion,
    /// Answers of AFTER to the data.
    pub confusion_after: Confusion,
    /// Where the change lies, where both files hold the same tensors.
    pub depth: Option<Depth>,
    /// Why there is no `depth`.
    pub no_depth: Option<String>,
}

impl Audit {
    /// The measure of that id.
    pub fn measure(&self, id: &str) -> Option<&Measure> {
        self.measures.iter().find(|m| m.id == id)
    }
}

/// Observers of all models.
struct Observers {
    before: Observer,
    after: Observer,
    references: Vec<Observer>,
    /// Why the original head does not stand on AFTER's body.
    no_old_head: Option<String>,
}

/// What all models showed on the same samples.
#[derive(Clone, Default)]
struct Shown {
    before: Seen,
    after: Seen,
    references: Vec<Seen>,
}

/// What every measure is computed from.
struct Case<'a> {
    models: Models<'a>,
    samples: Samples<'a>,
    request: &'a Request,
    engine: &'a dyn Engine,
    class_count: usize,
    /// Of every sample of the data: whether its class is forgotten.
    forgotten: Vec<bool>,
    shown: Shown,
    no_old_head: Option<String>,
}

impl Case<'_> {
    fn truth(&self) -> &[usize] {
        &self.samples.data.y
    }
    fn seed(&self) -> u64 {
        self.request.seed
    }
    fn is_forgotten(&self, class: usize) -> bool {
        self.request.classes.contains(&class)
    }
    /// The classes that stay, in order.
    fn retained(&self) -> Vec<usize> {
        (0..self.class_count).filter(|&c| !self.is_forgotten(c)).collect()
    }
    /// Positions of the data's samples of forgotten classes, or of the others.
    fn positions(&self, forgotten: bool) -> Vec<usize> {
        (0..self.forgotten.len()).filter(|&i| self.forgotten[i] == forgotten).collect()
    }
}

/// The split of numbers on the data's samples of forgotten classes.
const FORGOTTEN: &str = "data: forgotten";
/// The split of numbers on the data's other samples.
const RETAINED: &str = "data: retained";
/// The split of numbers on all samples of the data.
const ALL: &str = "data";

/// Audits a model. `progress` is told what is being measured.
///
/// # Errors
/// When the models differ in inputs or classes, the samples do not fit them, no sample is of a forgotten or of a retained
/// class, or an engine fails. What cannot be measured for another reason is no error: the measure says so.
pub fn audit(
    models: Models,
    samples: Samples,
    request: &Request,
    engine: &dyn Engine,
    progress: &mut dyn FnMut(&'static str),
) -> Result<Audit> {
    check(models, samples, request)?;
    let data = samples.data;
    let forgotten: Vec<bool> = data.y.iter().map(|c| request.classes.contains(c)).collect();
    progress("answers");
    let mut observers = Observers::new(models, engine, data.len())?;
    let shown = observers.see(data)?;
    let class_count = models.before.classes();
    for (k, reference) in shown.references.iter().enumerate() {
        check_reference(k, reference, &forgotten, &request.classes)?;
    }
    let no_old_head = observers.no_old_head.take();
    let case = Case { models, samples, request, engine, class_count, forgotten, shown, no_old_head };
    let mut measures = vec![answers::measure(&case)];
    progress("membership");
    let (membership, roc) = membership::measure(&case, &mut observers)?;
    measures.push(membership);
    progress("distance");
    measures.push(distance::measure(&case)?);
    progress("class leak");
    measures.push(leak::measure(&case));
    progress("probes");
    measures.push(probe::measure(&case));
    progress("relearning");
    measures.push(relearning::measure(&case)?);
    measures.push(old_head::measure(&case));
    progress("codes");
    measures.push(codes::measure(&case, &mut observers)?);
    progress("depth");
    let head = observe::head_names(models.before)?;
    let (depth, no_depth) = match depth(models.before.model(), models.after.model(), &head)? {
        Ok(depth) => (Some(depth), None),
        Err(why) => (None, Some(why)),
    };
    let confusion = |seen: &Seen| Confusion::new(case.truth(), &seen.answers(), class_count);
    Ok(Audit {
        verdict: measures.iter().map(|m| m.verdict).max().unwrap_or(Verdict::NotMeasured),
        classes: request.classes.clone(),
        class_count,
        samples: data.len(),
        forgotten_samples: case.positions(true).len(),
        references: models.references.len(),
        seed: request.seed,
        roc,
        confusion_before: confusion(&case.shown.before),
        confusion_after: confusion(&case.shown.after),
        measures,
        depth,
        no_depth,
    })
}

fn check(models: Models, samples: Samples, request: &Request) -> Result<()> {
    models.check()?;
    let expected = models.before.expected();
    check_range(&request.classes, expected.classes)?;
    let is_forgotten = |c: &usize| request.classes.contains(c);
    samples.data.check(&expected).map_err(|e| e.at("the data"))?;
    if let Some(c) = request.classes.iter().find(|c| !samples.data.y.contains(c)) {
        return Err(Error::invalid(format!("no sample of the data is of class {c}, which is to be forgotten")));
    }
    if samples.data.y.iter().all(is_forgotten) {
        return Err(Error::invalid("all samples of the data are of forgotten classes; others are needed beside them"));
    }
    let further = [("members", samples.members), ("non-members", samples.non_members), ("codes", samples.codes)];
    for (what, labelled) in further {
        let Some(labelled) = labelled else { continue };
        labelled.check(&expected).map_err(|e| e.at(format!("the {what}")))?;
        if !labelled.y.iter().any(is_forgotten) {
            return Err(Error::invalid(format!("the {what} hold no sample of a forgotten class")));
        }
    }
    Ok(())
}

/// A model that answers a class was trained with it: nothing can be judged by it.
fn check_reference(k: usize, seen: &Seen, forgotten: &[bool], classes: &[usize]) -> Result<()> {
    let answers = seen.answers();
    let of_class = || answers.iter().zip(forgotten).filter(|(_, f)| **f);
    let (hits, n) = (of_class().filter(|(a, _)| classes.contains(a)).count(), of_class().count());
    if bands::ANSWERED.judge(hits as f64 / n as f64, Some(stats::wilson(hits, n))) != Verdict::Fail {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "reference {} answers {hits} of {n} forgotten samples with a forgotten class: it was not trained without the \
         class, so that nothing can be judged by it",
        k + 1
    )))
}

impl Observers {
    fn new(models: Models, engine: &dyn Engine, samples: usize) -> Result<Self> {
        let (head, mut no_old_head) = match HeadGraph::of(models.before, samples) {
            Ok(head) => (Some(head), None),
            Err(e) => (None, Some(e.to_string())),
        };
        let mut with_head = |classifier: &Classifier, is_after: bool| match &head {
            Some(head) => match Observer::new(classifier, engine, samples, Some(head)) {
                Err(e) if e.kind() == crate::Kind::Unsupported => {
                    if is_after {
                        no_old_head = Some(e.to_string());
                    }
                    Observer::new(classifier, engine, samples, None)
                }
                other => other,
            },
            None => Observer::new(classifier, engine, samples, None),
        };
        let after = with_head(models.after, true)?;
        let references = models.references.iter().map(|r| with_head(r, false)).collect::<Result<_>>()?;
        let before = Observer::new(models.before, engine, samples, None)?;
        Ok(Self { before, after, references, no_old_head })
    }
    fn see(&mut self, data: &Labelled) -> Result<Shown> {
        let named = |observer: &mut Observer, name: &str| observer.see(data).map_err(|e| e.at(name));
        Ok(Shown {
            before: named(&mut self.before, "BEFORE")?,
            after: named(&mut self.after, "AFTER")?,
            references: self.references.iter_mut().map(|r| named(r, "a reference")).collect::<Result<_>>()?,
        })
    }
}

/// The mean over the references, if there are any.
fn mean_of<T>(references: &[T], of: impl Fn(&T) -> f64) -> Option<f64> {
    (!references.is_empty()).then(|| references.iter().map(of).sum::<f64>() / references.len() as f64)
}

/// What a share of samples exceeds the mean share of the references by, sample by sample, and its interval.
fn excess_share(after: &[bool], references: &[Vec<bool>], seed: u64) -> Option<(f64, [f64; 2])> {
    let share = |v: &[bool]| v.iter().filter(|b| **b).count() as f64 / v.len() as f64;
    match references {
        [] => None,
        [one] => Some((share(after) - share(one), stats::paired_difference(after, one))),
        many => {
            let number = |b: bool| f64::from(u8::from(b));
            let differences: Vec<f64> = (0..after.len())
                .map(|i| number(after[i]) - many.iter().map(|r| number(r[i])).sum::<f64>() / many.len() as f64)
                .collect();
            Some(stats::mean_within(&differences, seed))
        }
    }
}

/// A share of samples in percent, for sentences.
fn percent(share: f64) -> String {
    format!("{} %", crate::report::format::percent(share))
}
