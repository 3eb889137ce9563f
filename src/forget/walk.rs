//! Searching an ascent: into the body as far as the retained inputs allow, then in the last layer until data are sure to
//! be unanswered as well.

use super::answers::Answers;
use super::ascent::Part;
use super::rules::Strength;
use super::search::{Candidate, Depth};
use super::trials::Trials;
use super::{Aim, Request};
use crate::classifier::Weights;
use crate::error::Result;

/// Steps of the body at most, and of the last layer.
const MOST_BODY: usize = 24;
const MOST_HEAD: usize = 36;

/// How far the body changes.
#[derive(Clone, Copy)]
struct Budget {
    /// Part of its probability that every retained class keeps.
    kept: f64,
    /// Part of their answers' probability that canaries keep.
    spared: f64,
    /// It is enough when the old head gives the forget inputs log-odds so far below nought, and where nothing guards the
    /// others, as far again as they were above.
    margin: f64,
}

impl Budget {
    /// For inputs that tell how data fare, for a few of them beside others, and for others alone, which may be memorised and
    /// then say less; with those [`Depth::Body`] pays for depth. Found by trying (docs/benchmarks.md).
    fn of(depth: Depth, is_guided: bool, is_beside: bool, is_calibrated: bool) -> Self {
        let margin = MARGIN;
        match (depth, is_guided) {
            // what codes do not say, the samples do
            (Depth::Auto | Depth::Head, false) if is_calibrated => Self { kept: 0.985, spared: 0.0, margin },
            (Depth::Auto, true) if is_beside => Self { kept: 0.985, spared: 0.75, margin: 2.0 },
            (Depth::Body, true) => Self { kept: 0.985, spared: 0.65, margin },
            (_, true) => Self { kept: 0.985, spared: 0.75, margin },
            (Depth::Body, false) => Self { kept: 0.95, spared: 0.0, margin },
            (_, false) => Self { kept: 0.999, spared: 0.0, margin },
        }
    }
}

/// The last layer changes while every retained class keeps this part of what it has after the body has changed.
const KEPT_HEAD: f64 = 0.98;

/// How far below nought log-odds are to go.
const MARGIN: f64 = 4.0;

/// Takes steps from the weights as they came; the last place that keeps what is to be kept.
///
/// The last layer is moved so far that inputs twice as certain as the forget inputs would be lost if the body had stayed, and
/// [`MARGIN`] further: data may be answered with more certainty, and a change of the body reaches them in part only.
///
/// # Errors
/// When the engine fails.
pub(super) fn walk(
    trials: &mut Trials,
    request: &Request,
    tried: &mut Vec<Candidate>,
    tick: &mut dyn FnMut(),
) -> Result<(Strength, Candidate)> {
    let before = trials.before()?;
    let labels = &trials.data().y;
    let aim = trials.aim();
    let odds = |logits: &[f64]| log_odds(logits, before.classes, labels, aim);
    // what data were certain of, whatever an earlier stage has made of the inputs
    let certainty = odds(&trials.originally(&before)?.logits).max(0.0);
    let deepens = request.depth != Depth::Head && trials.may_change(Part::Body);
    let canaries = if deepens { trials.canaries()? } else { None };
    let real = trials.calibration();
    let budget = Budget::of(request.depth, canaries.is_some(), request.beside.is_some(), real.is_some());
    let below = if canaries.is_some() { budget.margin } else { certainty + budget.margin };
    let mut place =
        Place { weights: trials.old().clone(), answers: before.clone(), unmoved: before.clone(), body: 0, head: 0 };
    let body = Walk {
        part: Part::Body,
        most: if deepens { MOST_BODY } else { 0 },
        enough: &|place| {
            let a = &place.answers;
            odds(a.old_head.as_ref().unwrap_or(&a.logits)) <= -below
                && real.as_ref().is_none_or(|r| r.is_deep(&before, a))
        },
        keeps: &|trials, place| {
            let kept = least_kept(&before, &place.answers, labels, aim) >= budget.kept
                && real.as_ref().is_none_or(|r| r.allows(&before, &place.answers, request.depth));
            match &canaries {
                Some(c) if kept => Ok(trials.spared(c, &place.weights)? >= budget.spared),
                _ => Ok(kept),
            }
        },
    };
    body.go(trials, &mut place, tried, tick)?;
    trials.settle(&place.weights, place.body, &place.answers)?;
    if trials.may_change(Part::Head) {
        place.unmoved = trials.unmoved(&place.weights)?;
    }
    let (start, unmoved) = (place.answers.clone(), place.unmoved.clone());
    let from = odds(&unmoved.logits);
    let head = Walk {
        part: Part::Head,
        most: MOST_HEAD,
        enough: &|place| {
            odds(&place.unmoved.logits) <= from - 2.0 * certainty - MARGIN
                && real.as_ref().is_none_or(|r| r.is_unanswered(&place.answers))
        },
        keeps: &|_, place| {
            Ok(least_kept(&start, &place.answers, labels, aim) >= KEPT_HEAD
                && least_kept(&unmoved, &place.unmoved, labels, aim) >= KEPT_HEAD
                && real.as_ref().is_none_or(|r| r.allows(&start, &place.answers, request.depth)))
        },
    };
    head.go(trials, &mut place, tried, tick)?;
    let strength = place.strength();
    let candidate = trials.judge(&strength.to_string(), &place.answers);
    trials.keep(strength, place.weights, place.answers);
    Ok((strength, candidate))
}

/// Where the steps have led.
struct Place {
    weights: Weights,
    answers: Answers,
    /// What the last layer would answer on the body as it came; kept up to date while the last layer moves.
    unmoved: Answers,
    body: usize,
    head: usize,
}

impl Place {
    fn strength(&self) -> Strength {
        Strength::Ascent { body: self.body, head: self.head }
    }
}

/// Steps of one part.
struct Walk<'a> {
    part: Part,
    most: usize,
    enough: &'a dyn Fn(&Place) -> bool,
    keeps: &'a dyn Fn(&mut Trials, &Place) -> Result<bool>,
}

impl Walk<'_> {
    /// Steps until it is enough, or the next would not keep what is to be kept.
    fn go(
        &self,
        trials: &mut Trials,
        place: &mut Place,
        tried: &mut Vec<Candidate>,
        tick: &mut dyn FnMut(),
    ) -> Result<()> {
        if !trials.may_change(self.part) {
            return Ok(());
        }
        for _ in 0..self.most {
            if (self.enough)(place) {
                break;
            }
            let weights = trials.step(self.part, &place.weights)?;
            let answers = trials.after(self.part, &weights)?;
            let (body, head, unmoved) = match self.part {
                Part::Body => (place.body + 1, place.head, place.unmoved.clone()),
                Part::Head => (place.body, place.head + 1, trials.unmoved(&weights)?),
            };
            let next = Place { weights, answers, unmoved, body, head };
            tried.push(trials.judge(&next.strength().to_string(), &next.answers));
            tick();
            if !next.answers.is_finite() || !(self.keeps)(trials, &next)? {
                break;
            }
            *place = next;
            if self.part == Part::Body {
                trials.go_on();
            }
        }
        Ok(())
    }
}

/// Mean over the forget inputs of `log Σ_{k∈C_F} p_k − log Σ_{k∈C_R} p_k`.
pub(super) fn log_odds(logits: &[f64], classes: usize, labels: &[usize], aim: &Aim) -> f64 {
    let (mut sum, mut n) = (0.0, 0.0);
    for (i, (row, y)) in logits.chunks(classes).zip(labels).enumerate() {
        if !aim.forgets(i) {
            continue;
        }
        let answers = aim.answers(y);
        let side = |is_answer: bool| {
            let own = (0..classes).filter(|k| answers.contains(k) == is_answer).map(|k| row[k]);
            let top = own.clone().fold(f64::NEG_INFINITY, f64::max);
            top + own.map(|z| (z - top).exp()).sum::<f64>().ln()
        };
        sum += side(true) - side(false);
        n += 1.0;
    }
    sum / n
}

/// Least over the retained classes of the part that is left of the mean probability of their own class.
pub(super) fn least_kept(before: &Answers, now: &Answers, labels: &[usize], aim: &Aim) -> f64 {
    let own = |a: &Answers| {
        let log_p = Answers::log_probabilities(&a.logits, a.classes);
        let mut sums = vec![0.0; a.classes];
        for (i, (row, &y)) in log_p.chunks(a.classes).zip(labels).enumerate() {
            if !aim.forgets(i) {
                sums[y] += row[y].exp();
            }
        }
        sums
    };
    let pairs = own(before).into_iter().zip(own(now));
    pairs.filter(|(b, _)| *b > 0.0).map(|(b, n)| n / b).fold(f64::INFINITY, f64::min)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forget::Method;
    use crate::inputs::Labelled;
    use crate::tensor::Array;
    use std::collections::BTreeMap;

    fn answers(logits: &[f64]) -> Answers {
        Answers { classes: 3, logits: logits.to_vec(), old_head: None }
    }

    /// One input of each class in `y`.
    fn aim(y: &[usize], forgotten: &[usize]) -> Aim {
        let x = Array::full(&[y.len(), 1], 0f32);
        let data = Labelled { x, y: y.to_vec(), extra: BTreeMap::new() };
        Aim::new(&Request::new(forgotten.to_vec(), Method::Search(Vec::new())), &data, 3).unwrap()
    }

    #[test]
    fn log_odds_compare_both_sides() {
        // p = 1/4, 1/4, 1/2: class 2 against both others, then classes 0 and 2 against class 1
        let z = [0.0, 0.0, 2f64.ln(), 9.0, 0.0, 0.0];
        let y = [2, 1];
        assert!(log_odds(&z, 3, &y, &aim(&y, &[2])).abs() < 1e-12);
        let y = [2, 1, 0];
        let z = [&z[..], &z[..3]].concat();
        assert!((log_odds(&z, 3, &y, &aim(&y, &[0, 2])) - 3f64.ln()).abs() < 1e-12);
    }

    #[test]
    fn the_worst_retained_class_counts() {
        let even = answers(&[0.0; 9]);
        let tilted = answers(&[0.0, 0.0, 0.0, 0.0, 0.0, 2f64.ln(), 0.0, 0.0, 0.0]);
        let y = [0, 1, 2];
        // class 1 falls from 1/3 to 1/4
        assert!((least_kept(&even, &tilted, &y, &aim(&y, &[2])) - 0.75).abs() < 1e-12);
        assert!((least_kept(&even, &tilted, &y, &aim(&y, &[1])) - 1.0).abs() < 1e-12);
    }
}
