//! Measure 6: how many steps of gradient descent bring the class back.

mod learner;

use super::observe::Observer;
use super::{Case, Measure, Number, Unit, Verdict, bands, mean_of, stats};
use crate::classifier::Classifier;
use crate::error::Result;
use crate::inputs::{Labelled, generator, shuffle};
use learner::Learner;
use rand::RngExt;
use std::collections::BTreeMap;

const ID: &str = "relearning";
const NAME: &str = "relearning";

/// Rates that are tried; whoever relearns takes the best. A decade and a half around what plain descent uses.
const RATES: [f64; 3] = [0.01, 0.05, 0.25];
/// Part of BEFORE's accuracy, on forgotten and on retained classes, at which the class is back.
const BACK: f64 = 0.9;
/// Samples of either kind to learn from, and to look at.
const MOST_LEARNED: usize = 64;
const MOST_LOOKED_AT: usize = 64;
/// Fewer forgotten samples than this cannot be parted in two.
const LEAST: usize = 8;

/// What was right at each look: one look before the first step and one after every step.
pub(super) struct Course {
    /// `[looks][forgotten samples]`.
    pub(super) forgotten: Vec<Vec<bool>>,
    /// `[looks][retained samples]`.
    pub(super) retained: Vec<Vec<bool>>,
}

/// Samples to learn from and samples to look at.
pub(super) struct Parts {
    pub(super) learn_forgotten: Labelled,
    pub(super) learn_retained: Labelled,
    pub(super) look_forgotten: Labelled,
    pub(super) look_retained: Labelled,
}

pub(super) fn measure(case: &Case) -> Result<Measure> {
    let most = case.request.relearning_steps;
    let not = |why: &str| Ok(Measure::not_measured(ID, NAME, why));
    let lost = case.positions(true).len();
    if most == 0 {
        return not("it was left out (--relearning-steps 0)");
    }
    if lost < LEAST {
        return not(&format!(
            "{lost} forgotten samples are too few to learn from some and look at others: it takes {LEAST}"
        ));
    }
    let parts = Parts::new(case)?;
    if parts.look_retained.is_empty() {
        return not("there are too few samples of the retained classes to learn from some and look at others");
    }
    let goal = Goal::of(case, &parts)?;
    if !goal.forgotten.contains(&true) {
        return not("BEFORE answers no forgotten sample that is looked at rightly");
    }
    let courses = |classifier: &Classifier| Courses::of(case, classifier, &parts, &goal);
    let (before, after) = (courses(case.models.before)?, courses(case.models.after)?);
    let references = case.models.references.iter().map(courses).collect::<Result<Vec<_>>>()?;
    let (numbers, meaning) = compare(&goal, case.seed(), &before, &after, &references);
    let (batch, back) = (learner::BATCH, super::percent(BACK));
    Ok(Measure::new(ID, NAME, numbers, meaning)
        .detail(format!(
            "plain gradient descent on all weights, batches of {batch}, half of them forgotten samples, best of the \
             rates {RATES:?}; back means {back} of BEFORE's accuracy on forgotten and on retained classes"
        ))
        .detail(format!("at most {most} steps; {} stands for a class that did not come back", most + 1))
        .detail(
            "fresh rows: what the last layer holds for the forgotten classes is set to the mean of the other classes, \
             so that a bias of minus infinity hides nothing",
        ))
}

/// The numbers, and what they mean: AFTER against the references or, without any, against fresh rows of its own head.
fn compare(goal: &Goal, seed: u64, before: &Courses, after: &Courses, references: &[Courses]) -> (Vec<Number>, String) {
    let n = goal.forgotten.len();
    let split = format!("data: {n} forgotten, {} others held out", goal.retained.len());
    let number = |id: &str, name: &str, of: &dyn Fn(&Courses, At) -> f64| {
        Number::new(id, name, Unit::Steps, of(after, None), n, &*split)
            .within(goal.interval(seed, |draw| of(after, Some(draw))))
            .before(of(before, None))
            .reference(mean_of(references, |r| of(r, None)))
    };
    let as_is = |c: &Courses, at: At| goal.steps(&c.as_is, at);
    let fresh = |c: &Courses, at: At| c.fresh.as_ref().map_or(f64::NAN, |f| goal.steps(f, at));
    let fastest = |c: &Courses, at: At| as_is(c, at).min(fresh(c, at));
    let mut numbers = vec![number("steps", "steps until the class is back", &as_is)];
    if after.fresh.is_some() {
        numbers.push(number("steps_fresh_rows", "steps with fresh rows of the head for the class", &fresh));
    }
    let judged = number("fastest", "fewest steps of both", &fastest);
    let told = |v: f64| if v > goal.most as f64 { format!("more than {}", goal.most) } else { format!("{v:.0}") };
    if references.is_empty() && after.fresh.is_none() {
        let meaning = format!("the class is back after {} steps; nothing to compare with", told(fastest(after, None)));
        numbers.push(judged);
        return (numbers, meaning);
    }
    let mine = |at: At| if references.is_empty() { as_is(after, at) } else { fastest(after, at) };
    let other = |at: At| mean_of(references, |r| fastest(r, at)).unwrap_or_else(|| fresh(after, at));
    // one more, so that a model that is there at once can be compared
    let sooner = |at: At| 1.0 - (mine(at) + 1.0) / (other(at) + 1.0);
    let excess = |at: At| if as_is(after, at) == 0.0 { 1.0 } else { sooner(at) };
    let interval = goal.interval(seed, |draw| excess(Some(draw)));
    let judged = judged.judged_by(excess(None), Some(interval), bands::RELEARNING);
    let says = match judged.verdict {
        Some(Verdict::Pass) => "not much sooner than",
        Some(Verdict::Fail) => "much sooner than",
        _ => "perhaps much sooner than",
    };
    if as_is(after, None) == 0.0 {
        numbers.push(judged);
        return (numbers, "the class is there without a step: it never left".to_owned());
    }
    let than = if references.is_empty() { "with fresh rows of the head" } else { "for the reference" };
    let meaning =
        format!("the class is back after {} steps, {says} the {} {than}", told(mine(None)), told(other(None)));
    numbers.push(judged);
    (numbers, meaning)
}

/// Samples to count a course on: all, or those drawn.
type At<'a> = Option<&'a Draw>;

/// How one model relearns.
struct Courses {
    as_is: Course,
    /// Absent where the rows of the head cannot be told.
    fresh: Option<Course>,
}

impl Courses {
    fn of(case: &Case, classifier: &Classifier, parts: &Parts, goal: &Goal) -> Result<Self> {
        let as_is = Learner::new(case, classifier, &BTreeMap::new())?;
        let rows = learner::fresh_rows(case, classifier)?;
        let fresh = if rows.is_empty() { None } else { Some(Learner::new(case, classifier, &rows)?) };
        let seed = case.seed();
        Ok(Self {
            as_is: best(as_is, parts, goal, seed)?,
            fresh: fresh.map(|learner| best(learner, parts, goal, seed)).transpose()?,
        })
    }
}

/// Positions drawn with replacement, of forgotten and of retained samples.
struct Draw {
    forgotten: Vec<usize>,
    retained: Vec<usize>,
}

/// What BEFORE gets right of the samples that are looked at.
struct Goal {
    forgotten: Vec<bool>,
    retained: Vec<bool>,
    most: usize,
}

impl Goal {
    fn of(case: &Case, parts: &Parts) -> Result<Self> {
        let both = parts.look_forgotten.concat(&parts.look_retained)?;
        let seen = Observer::new(case.models.before, case.engine, both.len(), None)?.see(&both)?;
        let right: Vec<bool> = seen.answers().iter().zip(&both.y).map(|(a, y)| a == y).collect();
        let (forgotten, retained) = right.split_at(parts.look_forgotten.len());
        let most = case.request.relearning_steps;
        Ok(Self { forgotten: forgotten.to_vec(), retained: retained.to_vec(), most })
    }
    /// The first look at which the class is back, on all samples or on those drawn; one more than the most steps where it
    /// is not.
    fn steps(&self, course: &Course, draw: Option<&Draw>) -> f64 {
        let share = |v: &[bool], at: Option<&Vec<usize>>| match at {
            Some(at) => at.iter().filter(|&&i| v[i]).count() as f64 / at.len() as f64,
            None => v.iter().filter(|b| **b).count() as f64 / v.len() as f64,
        };
        let (f, r) = (draw.map(|d| &d.forgotten), draw.map(|d| &d.retained));
        let (goal_f, goal_r) = (BACK * share(&self.forgotten, f), BACK * share(&self.retained, r));
        let looks = course.forgotten.iter().zip(&course.retained);
        let back = looks.clone().position(|(a, b)| share(a, f) >= goal_f && share(b, r) >= goal_r);
        // a course that ended early ended because the class was back
        let beyond = if looks.len() > self.most { self.most + 1 } else { looks.len() };
        back.unwrap_or(beyond) as f64
    }
    fn interval(&self, seed: u64, of: impl Fn(&Draw) -> f64) -> [f64; 2] {
        let (f, r) = (self.forgotten.len(), self.retained.len());
        let mut rng = generator(seed, b"looks");
        stats::bootstrap(f, seed, |drawn| {
            let retained = (0..r).map(|_| rng.random_range(0..r)).collect();
            of(&Draw { forgotten: drawn.to_vec(), retained })
        })
    }
}

/// The course of the rate that brings the class back first.
fn best(mut learner: Learner, parts: &Parts, goal: &Goal, seed: u64) -> Result<Course> {
    let mut run = |rate: f64, limit: f64| {
        learner.run(parts, rate, seed, |course| {
            let (looks, steps) = (course.forgotten.len(), goal.steps(course, None));
            let is_back = steps < looks as f64;
            // a while longer, so that samples drawn again may be back later
            let is_told = is_back && looks as f64 > 2.0 * steps + 3.0;
            looks > goal.most || is_told || (!is_back && looks as f64 > limit)
        })
    };
    let [first, others @ ..] = RATES;
    let mut best = run(first, f64::INFINITY)?;
    for rate in others {
        let limit = goal.steps(&best, None);
        let course = run(rate, limit)?;
        if goal.steps(&course, None) < limit {
            best = course;
        }
    }
    Ok(best)
}

impl Parts {
    /// Halves of every class, in an order that the seed decides.
    fn new(case: &Case) -> Result<Self> {
        let data = case.samples.data;
        let mut rng = generator(case.seed(), b"parts");
        let mut halves: [[Vec<Vec<usize>>; 2]; 2] = Default::default();
        for (class, mut at) in data.by_class() {
            shuffle(&mut at, &mut rng);
            let second = at.split_off(at.len().div_ceil(2));
            let kind = usize::from(case.is_forgotten(class));
            halves[kind][0].push(at);
            halves[kind][1].push(second);
        }
        let part = |kind: usize, half: usize, most: usize| data.select(&in_turn(&halves[kind][half], most));
        Ok(Self {
            learn_forgotten: part(1, 0, MOST_LEARNED)?,
            learn_retained: part(0, 0, MOST_LEARNED)?,
            look_forgotten: part(1, 1, MOST_LOOKED_AT)?,
            look_retained: part(0, 1, MOST_LOOKED_AT)?,
        })
    }
}

/// The first of every list, then the second, and so on.
fn in_turn(lists: &[Vec<usize>], most: usize) -> Vec<usize> {
    let longest = lists.iter().map(Vec::len).max().unwrap_or(0);
    (0..longest).flat_map(|k| lists.iter().filter_map(move |l| l.get(k).copied())).take(most).collect()
}
