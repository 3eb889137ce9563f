//! Searching an ascent: into the body as far as the retained inputs allow, then in the last layer until data are sure to
//! be unanswered as well.

use super::answers::Answers;
use super::ascent::{self, MOST_INPUTS, Part};
use super::budget::{Budget, MARGIN};
use super::rules::Strength;
use super::search::{Candidate, Depth};
use super::trials::Trials;
use super::{Aim, Request};
use crate::classifier::Weights;
use crate::error::Result;

/// Steps of the body at most, and of the last layer.
const MOST_BODY: usize = 24;
const MOST_HEAD: usize = 36;

/// The last layer changes while every retained class keeps this part of what it has after the body has changed.
const KEPT_HEAD: f64 = 0.98;

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
    let real = trials.calibration();
    let budget = trials.budget();
    let mut place =
        Place { weights: trials.old().clone(), answers: before.clone(), unmoved: before.clone(), body: 0, head: 0 };
    let keeps = |answers: &Answers| {
        least_kept(&before, answers, labels, aim) >= budget.kept
            && real.as_ref().is_none_or(|r| r.allows(&before, answers, request.depth))
    };
    let is_deep = |answers: &Answers| real.as_ref().is_none_or(|r| r.is_deep(&before, answers));
    if deepens && trials.led()?.is_some() {
        let led = Led { budget, keeps: &keeps, is_deep: &is_deep, asks_each: real.is_some() };
        led.go(trials, &mut place, tried, tick)?;
    } else if deepens {
        let (inputs, forget) = (labels.len(), (0..labels.len()).filter(|&i| aim.forgets(i)).count().min(MOST_INPUTS));
        let body = Walk {
            part: Part::Body,
            most: MOST_BODY.min(budget.steps(inputs, forget)),
            enough: &|place| {
                let a = &place.answers;
                odds(a.old_head.as_ref().unwrap_or(&a.logits)) <= -certainty - budget.margin && is_deep(a)
            },
            keeps: &|place| keeps(&place.answers),
        };
        body.go(trials, &mut place, tried, tick)?;
    }
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
        keeps: &|place| {
            least_kept(&start, &place.answers, labels, aim) >= KEPT_HEAD
                && least_kept(&unmoved, &place.unmoved, labels, aim) >= KEPT_HEAD
                && real.as_ref().is_none_or(|r| r.allows(&start, &place.answers, request.depth))
        },
    };
    head.go(trials, &mut place, tried, tick)?;
    let strength = place.strength();
    let candidate = trials.judge(&strength.to_string(), &place.answers);
    trials.keep(strength, place.weights, place.answers);
    Ok((strength, candidate))
}

/// Where the steps have led.
#[derive(Clone)]
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
    keeps: &'a dyn Fn(&Place) -> bool,
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
            if !next.answers.is_finite() || !(self.keeps)(&next) {
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

/// Steps into the body that guards lead.
struct Led<'a> {
    budget: Budget,
    keeps: &'a dyn Fn(&Answers) -> bool,
    is_deep: &'a dyn Fn(&Answers) -> bool,
    /// Whether all that is shown is answered after each step, and not at the end alone.
    asks_each: bool,
}

impl Led<'_> {
    /// Steps until it is enough, canaries suffer or no more can be paid for. Then all inputs have to keep what they are to keep: else
    /// it goes back, by one step if that can be asked, or to where it began.
    fn go(
        &self,
        trials: &mut Trials,
        place: &mut Place,
        tried: &mut Vec<Candidate>,
        tick: &mut dyn FnMut(),
    ) -> Result<()> {
        let original = trials.original();
        let (mut here, mut earlier) = (place.weights.clone(), None);
        let mut body = 0;
        while body < MOST_BODY {
            let Some(guided) = trials.led()? else { break };
            if !guided.can_afford()
                || guided.odds(&here, original)? <= -self.budget.margin && (self.is_deep)(&place.answers)
            {
                break;
            }
            let next = guided.step(&here, original)?;
            tick();
            if !next.is_spared {
                break;
            }
            if self.asks_each && !self.asked(trials, place, &next.weights, body + 1, tried)? {
                break;
            }
            body += 1;
            earlier = Some(std::mem::replace(&mut here, next.weights));
        }
        if self.asks_each || body == 0 || self.asked(trials, place, &here, body, tried)? {
            return Ok(());
        }
        match earlier.filter(|_| body > 1) {
            Some(earlier) if trials.led()?.is_some_and(|g| g.can_ask_again()) => {
                self.asked(trials, place, &earlier, body - 1, tried).map(|_| ())
            }
            _ => Ok(()),
        }
    }

    /// Goes to these weights if all inputs keep what they are to keep.
    fn asked(
        &self,
        trials: &mut Trials,
        place: &mut Place,
        weights: &Weights,
        body: usize,
        tried: &mut Vec<Candidate>,
    ) -> Result<bool> {
        let answers = trials.after(Part::Body, weights)?;
        let next = Place { weights: weights.clone(), answers, body, ..place.clone() };
        tried.push(trials.judge(&next.strength().to_string(), &next.answers));
        let keeps = next.answers.is_finite() && (self.keeps)(&next.answers);
        if keeps {
            *place = next;
            trials.go_on();
        }
        Ok(keeps)
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
        sum += ascent::log_odds(row, |k| answers.contains(&k));
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
