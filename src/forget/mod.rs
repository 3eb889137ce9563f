//! Forgetting: Fisher of both class sets, a rule, its strength, and what the classifier answers then.

mod aim;
pub mod answers;
pub mod ascent;
mod budget;
pub mod calibration;
mod doubt;
mod fishers;
pub mod groups;
mod guard;
mod guided;
mod last;
mod probe;
mod projection;
pub mod rewrite;
pub mod rules;
mod scope;
pub mod search;
mod trials;
mod walk;

use crate::classifier::{Classifier, Weights};
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::fisher::store::Kept;
use crate::inputs::Labelled;
use crate::onnx::Storage;
use crate::tensor::Array;
pub use aim::{Aim, Still};
use answers::{Answerer, Answers};
use budget::Budget;
use calibration::{Calibration, Seen};
pub use groups::Strategy;
use groups::{Grouping, Step};
pub use rules::{Rule, Strength};
pub use scope::Scope;
use search::Candidate;
pub use search::Depth;
use std::sync::Arc;
use trials::{Guide, Trials};

/// What is to be forgotten, and how.
#[derive(Clone, Debug)]
pub struct Request {
    /// Classes to forget; sorted, each once.
    pub classes: Vec<usize>,
    /// Where no class is to be forgotten: positions of the labelled inputs that are.
    pub positions: Vec<usize>,
    /// How strength is found.
    pub method: Method,
    /// How several classes are forgotten.
    pub strategy: Strategy,
    /// How deep a search goes.
    pub depth: Depth,
    /// Which weights may change.
    pub scope: Scope,
    /// Patterns of weights that may not; `*` and `?` stand for characters.
    pub protect: Vec<String>,
    /// Real samples that a search listens to beside the inputs.
    pub calibration: Option<Labelled>,
    /// The samples are part of the Fisher as well, as if they were inputs.
    pub calibration_in_fisher: bool,
    /// True when the inputs were made from the model, so that they are not memorised.
    pub made: bool,
    /// Inputs of all classes that were made from the model, beside those that are given: they tell how data fare where the
    /// given ones may be memorised.
    pub beside: Option<Labelled>,
    /// Decides the noise of the rule that adds some, and that of inputs that tell how data fare.
    pub seed: u64,
    /// A Fisher of this model that is kept, as [`load`](crate::fisher::store::load) reads it: no class that it holds is
    /// estimated again. The inputs then serve the search alone; a class of theirs that it lacks is estimated from
    /// them if they hold the samples that it was made from.
    pub fisher: Option<Arc<Kept>>,
}

impl Request {
    /// A request with everything else as usual.
    pub fn new(classes: Vec<usize>, method: Method) -> Self {
        let (depth, scope) = (Depth::default(), Scope::default());
        Self {
            classes,
            positions: Vec::new(),
            method,
            strategy: Strategy::default(),
            depth,
            scope,
            protect: Vec::new(),
            calibration: None,
            calibration_in_fisher: false,
            made: false,
            beside: None,
            seed: 0,
            fisher: None,
        }
    }
}

/// Where the rule and its strengths come from.
#[derive(Clone, Debug, PartialEq)]
pub enum Method {
    /// Searched on the labelled inputs, among these rules.
    Search(Vec<Rule>),
    /// Given; for the ratio rule both signs are tried.
    Fixed(Strength),
}

/// What stage the work is in, for progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Estimating the Fisher: samples done, of so many.
    Fisher(usize, usize),
    /// Searching the strength: candidates tried.
    Search(usize),
}

/// What a run did.
pub struct Outcome {
    /// Rule and strengths that were taken; of several ascents all steps together, of other stages the last strength.
    pub strength: Strength,
    /// Every stage with its own strength; one where all was forgotten at once.
    pub steps: Vec<Step>,
    /// Where several classes were forgotten: how, and what else was tried.
    pub grouping: Option<Grouping>,
    /// All candidates that were tried, in order.
    pub tried: Vec<Candidate>,
    /// Answers to the labelled inputs before.
    pub before: Answers,
    /// Answers to the labelled inputs after.
    pub after: Answers,
    /// What has become of the inputs that were made beside the labelled ones, where some were.
    pub beside: Option<Still>,
    /// Answers to the calibration samples before and after, where there are some.
    pub calibration: Option<[Seen; 2]>,
    /// Change of every weight.
    pub changes: Vec<Change>,
    /// The new elements of every weight that changed.
    pub new: Vec<(String, Array)>,
    /// Why samples ran one by one, if they had to.
    pub one_by_one: Option<String>,
    /// Classes whose Fisher was estimated; those of a kept Fisher are not among them.
    pub estimated: Vec<usize>,
    /// Which of the inputs were to be forgotten.
    pub aim: Aim,
    /// Samples that were run.
    pub passes: Passes,
    /// Names of the last layer's weights.
    pub head: Vec<String>,
    /// Reasons to doubt that what the inputs say holds for data.
    pub doubts: Vec<String>,
    /// `A_R + E_F` on the inputs less 1, and probabilities to tell equals apart.
    pub value: f64,
}

/// How many samples were run through the model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Passes {
    /// Forward and back, for the Fisher.
    pub fisher: usize,
    /// Forward, for the search and for what is reported.
    pub search: usize,
    /// Forward and back, for the steps of an ascent.
    pub steps: usize,
}

impl std::ops::AddAssign for Passes {
    fn add_assign(&mut self, other: Self) {
        self.fisher += other.fisher;
        self.search += other.search;
        self.steps += other.steps;
    }
}

/// How much a weight changed.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Change {
    /// Name of the initializer.
    pub name: String,
    /// Number of elements.
    pub elements: usize,
    /// Elements that are not what they were.
    pub changed: usize,
    /// `Σ|Δw|` of this weight over that of all weights; 0 to 1.
    pub share: f64,
    /// `‖Δw‖₂ / ‖w‖₂`.
    pub relative: f64,
}

/// Forgets classes of a classifier, by what its answers to `data` say. Writes nothing.
///
/// # Errors
/// When the classes or the inputs do not fit the model, or a result is not finite.
pub fn forget(
    classifier: &Classifier,
    engine: &dyn Engine,
    data: &Labelled,
    request: &Request,
    progress: &mut dyn FnMut(Stage),
) -> Result<Outcome> {
    if request.beside.is_some() && request.fisher.is_some() {
        return Err(Error::invalid("inputs that are made beside others have no part in a Fisher that is kept"));
    }
    let (given, by_heart) = (data.len(), doubt::by_heart(request, data));
    let joined = request.beside.as_ref().map(|beside| data.concat(beside)).transpose()?;
    let guide = guide(data, request);
    let data = joined.as_ref().unwrap_or(data);
    let aim = Aim::new(request, data, classifier.classes())?;
    let old = Weights::upload(engine, &classifier.bind(1)?)?;
    let case = Case { classifier, engine, request, old: &old, guide };
    let found = if aim.classes().len() > 1 {
        groups::forget(&case, data, &aim, progress)?
    } else {
        jointly(&case, data, &aim, progress)?
    };
    let made = request.beside.is_some();
    let beside = made.then(|| aim.still(given..data.len(), &data.y, &found.before, &found.after));
    let (before, after) = (found.before.clone().first(given), found.after.clone().first(given));
    let mut doubts = found.doubts;
    doubts.extend(by_heart);
    Ok(Outcome { before, after, beside, doubts, ..found })
}

/// So many inputs of a class tell how data fare; fewer may be codes that were learned by heart.
const TELLING: usize = 8;

/// True when there are so many inputs of every class that they are data, not codes.
pub fn are_telling(data: &Labelled) -> bool {
    data.by_class().values().all(|members| members.len() >= TELLING)
}

/// The first input that tells how data fare; noise, which guards and canaries take, means nothing in integers.
fn guide(data: &Labelled, request: &Request) -> Guide {
    let is_telling = data.x.dtype().is_float() && (request.made || are_telling(data));
    let from = if request.beside.is_some() { Some(data.len()) } else { is_telling.then_some(0) };
    let budget = Budget::of(request.depth, from.is_some(), request.beside.is_some(), request.calibration.is_some());
    Guide { from, seed: request.seed, budget }
}

/// What all stages of a run have in common.
struct Case<'a> {
    classifier: &'a Classifier,
    engine: &'a dyn Engine,
    request: &'a Request,
    /// The weights as they came.
    old: &'a Weights,
    guide: Guide,
}

/// Where the stages of a run have led so far.
struct Reached {
    weights: Weights,
    strengths: Vec<Strength>,
    steps: Vec<Step>,
    tried: Vec<Candidate>,
    passes: Passes,
    one_by_one: Option<String>,
    estimated: Vec<usize>,
    /// Answers to all that is shown, before and now, where one stage has them.
    answers: Option<[Answers; 2]>,
}

impl Reached {
    fn start(case: &Case<'_>) -> Self {
        Self {
            weights: case.old.clone(),
            strengths: Vec::new(),
            steps: Vec::new(),
            tried: Vec::new(),
            passes: Passes::default(),
            one_by_one: None,
            estimated: Vec::new(),
            answers: None,
        }
    }

    /// One strength for all stages.
    fn strength(&self) -> Result<Strength> {
        let steps = self.strengths.iter().try_fold((0, 0), |(b, h), s| match s {
            Strength::Ascent { body, head } => Some((b + body, h + head)),
            _ => None,
        });
        match (steps, self.strengths.last()) {
            (_, None) => Err(Error::internal("a run without a strength")),
            (Some((body, head)), _) => Ok(Strength::Ascent { body, head }),
            (None, Some(last)) => Ok(*last),
        }
    }
}

/// Forgets everything at once.
fn jointly(case: &Case<'_>, data: &Labelled, aim: &Aim, progress: &mut dyn FnMut(Stage)) -> Result<Outcome> {
    let Case { classifier, engine, request, old, guide } = *case;
    let mut reached = Reached::start(case);
    let calibration = request.calibration.as_ref().map(|c| Calibration::new(data, c, aim)).transpose()?;
    let joined = calibration.as_ref().filter(|_| request.calibration_in_fisher);
    let of_all = joined.map(|c| aim.on_all(&c.shown));
    let (sampled, sampled_aim) = match (joined, &of_all) {
        (Some(c), Some(all)) => (&c.shown, all),
        _ => (data, aim),
    };
    let total = sampled.len();
    let fishers = fishers::fishers(case, sampled, sampled_aim, false, &mut |n| {
        reached.passes.fisher = n;
        progress(Stage::Fisher(n, total));
    })?;
    let shown = calibration.as_ref().map_or(data.len(), |c| c.shown.len());
    let answerer = Answerer::of_search(classifier, engine, shown.min(256), shown)?;
    let basis = scope::narrow(fishers.first(), request.scope, &answerer.head, &request.protect)?;
    let mut trials =
        Trials::new(classifier, engine, answerer, old, basis, data, aim).guided(guide).calibrated(calibration);
    let before = finite(trials.before()?)?;
    let mut count = 0;
    let (strength, tried) = match &request.method {
        Method::Fixed(s) => search::fixed(&mut trials, *s)?,
        Method::Search(rules) => search::search(&mut trials, rules, request, &mut || {
            count += 1;
            progress(Stage::Search(count));
        })?,
    };
    let (weights, after) = trials.at(&strength)?;
    reached.weights = weights;
    reached.answers = Some([before, after]);
    reached.steps = vec![Step::new(aim.classes(), false, &strength)];
    reached.strengths = vec![strength];
    reached.tried = tried;
    (reached.passes.search, reached.passes.steps) = (trials.passes(), trials.stepped());
    (reached.one_by_one, reached.estimated) = (fishers.one_by_one, fishers.estimated);
    conclude(case, reached, data, aim)
}

/// What the inputs say of the weights that were reached, and how they differ from the old ones.
fn conclude(case: &Case<'_>, mut reached: Reached, data: &Labelled, aim: &Aim) -> Result<Outcome> {
    let Case { classifier, engine, request, old, .. } = *case;
    let calibration = request.calibration.as_ref().map(|c| Calibration::new(data, c, aim)).transpose()?;
    let shown = calibration.as_ref().map_or(data, |c| &c.shown);
    let mut answerer = Answerer::new(classifier, engine, shown.len().min(256), true)?;
    let stored = as_stored(classifier, engine, &reached.weights)?;
    let mut answer = |weights: &Weights| answerer.answer(weights, old, shown, &mut |_| ());
    let (before, after) = match reached.answers.take() {
        Some([before, after]) => (before, stored.as_ref().map_or(Ok(after), answer)?),
        None => (answer(old)?, answer(stored.as_ref().unwrap_or(&reached.weights))?),
    };
    let (before, after) = (finite(before)?, finite(after)?);
    let judge = |what: &str, answers: &Answers| trials::judge(what, answers, data, aim, calibration.as_ref());
    let (start, end) = (judge("before", &before), judge("after", &after));
    let retained_samples = (0..data.len()).filter(|&i| !aim.forgets(i)).count() as f64;
    let right =
        start.retained_answered * retained_samples + start.forget_answered * (data.len() as f64 - retained_samples);
    let mut doubts = doubt::doubts(&start, &end, request.made, right / data.len() as f64);
    if request.made && !aim.is_of_samples() {
        let new = stored.as_ref().unwrap_or(&reached.weights);
        doubts.extend(probe::doubts(classifier, &mut answerer, [old, new], data, aim, request.seed)?);
    }
    let (changes, new) = compare(old, &reached.weights)?;
    reached.passes.search += answerer.passes;
    let value = end.value();
    let calibration = start.calibration.zip(end.calibration).map(|(a, b)| [a, b]);
    let [before, after] = [before, after].map(|a| a.first(data.len()));
    Ok(Outcome {
        strength: reached.strength()?,
        steps: reached.steps,
        grouping: None,
        tried: reached.tried,
        before,
        after,
        beside: None,
        calibration,
        changes,
        new,
        one_by_one: reached.one_by_one,
        estimated: reached.estimated,
        passes: reached.passes,
        aim: aim.clone(),
        head: answerer.head,
        doubts,
        value,
    })
}

/// Nothing follows from answers that are NaN or infinite, whether the model or the device makes them so.
fn finite(answers: Answers) -> Result<Answers> {
    if answers.is_finite() {
        Ok(answers)
    } else {
        Err(Error::invalid("the model's answers to the inputs are not finite"))
    }
}

/// Checks that there are classes to forget and that the model has them.
///
/// # Errors
/// When there is none, or one is out of range.
pub fn check_range(forgotten: &[usize], classes: usize) -> Result<()> {
    if forgotten.is_empty() {
        return Err(Error::invalid("no class to forget was named"));
    }
    match forgotten.iter().find(|&&c| c >= classes) {
        Some(c) => Err(Error::invalid(format!(
            "class {c} is out of range: the model has {classes} classes, 0 to {}",
            classes - 1
        ))),
        None => Ok(()),
    }
}

/// The weights as the file will hold them; `None` where its types hold everything that was computed.
pub(crate) fn as_stored(classifier: &Classifier, engine: &dyn Engine, weights: &Weights) -> Result<Option<Weights>> {
    let model = classifier.model();
    let mut stored = weights.clone();
    let mut is_narrower = false;
    for (name, tensor) in weights.names.iter().zip(&mut stored.tensors) {
        let Some(weight) = model.weight_index(name).and_then(|i| model.weights().get(i)) else { continue };
        if matches!(weight.storage(), Storage::F16 | Storage::Bf16) {
            *tensor = engine.upload(&weight.storage().round(&tensor.to_array()?)?)?;
            is_narrower = true;
        }
    }
    Ok(is_narrower.then_some(stored))
}

/// Elements by the name of their weight.
type NamedArrays = Vec<(String, Array)>;

/// Change of every weight, and the elements of those that changed.
fn compare(old: &Weights, new: &Weights) -> Result<(Vec<Change>, NamedArrays)> {
    let (mut changes, mut arrays, mut sums) = (Vec::new(), Vec::new(), Vec::new());
    for (name, (a, b)) in old.names.iter().zip(old.tensors.iter().zip(&new.tensors)) {
        let (before, after) = (a.to_array()?, b.to_array()?);
        if !after.is_finite() {
            return Err(Error::invalid(format!(
                "the new elements of '{name}' are not all finite; try a lesser strength"
            )));
        }
        let (mut sum, mut square, mut norm, mut changed) = (0.0, 0.0, 0.0, 0);
        for (x, y) in before.to_f64().into_iter().zip(after.to_f64()) {
            let d: f64 = y - x;
            changed += usize::from(x != y);
            sum += d.abs();
            square += d * d;
            norm += x * x;
        }
        sums.push(sum);
        let relative = if norm > 0.0 { (square / norm).sqrt() } else { 0.0 };
        changes.push(Change { name: name.clone(), elements: before.len(), changed, share: 0.0, relative });
        if changed > 0 {
            arrays.push((name.clone(), after));
        }
    }
    let total: f64 = sums.iter().sum();
    for (c, s) in changes.iter_mut().zip(sums) {
        c.share = if total > 0.0 { s / total } else { 0.0 };
    }
    Ok((changes, arrays))
}
