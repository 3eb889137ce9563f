//! Steps into the body that guards lead and canaries watch, at a price that is known beforehand.
//!
//! The forget inputs' slope tells on its way how the old head answers them, and canaries tell how data fare, so that the labelled
//! inputs as a whole are asked at the end alone. The steps that can be paid for are as long as it takes to get there.

use super::answers::Answerer;
use super::ascent::{Ascent, Slopes};
use super::budget::{Budget, FORWARD};
use super::guard::Canaries;
use crate::classifier::Weights;
use crate::error::{Error, Result};

/// How much lower the log-odds of the forget inputs are after a step, to first order, at least, and at most.
const STEP: f64 = 3.0;
const MOST: f64 = 8.0;

/// Of what a step was to bring at least this part is reckoned with for the next.
const LEAST_GAIN: f64 = 0.5;

/// Where a step has led.
pub(super) struct Next {
    pub(super) weights: Weights,
    /// Whether canaries keep what they are to keep.
    pub(super) is_spared: bool,
}

/// A walk into the body.
pub(super) struct Guided<'a> {
    ascent: Ascent<'a>,
    answerer: Answerer,
    canaries: Canaries,
    budget: Budget,
    /// Number of labelled inputs.
    inputs: usize,
    /// Samples, forward and back, that may still be run.
    left: f64,
    seen: Option<Seen>,
    /// Log-odds where the last step began, and by how much it was to lower them.
    last: Option<(f64, f64)>,
    /// Samples that were run forward and back.
    pub(super) stepped: usize,
}

/// The forget inputs at the place where the walk stands.
struct Seen {
    slopes: Slopes,
    odds: f64,
}

impl<'a> Guided<'a> {
    pub(super) fn new(
        ascent: Ascent<'a>,
        answerer: Answerer,
        canaries: Canaries,
        budget: Budget,
        inputs: usize,
    ) -> Self {
        let left = budget.purse(inputs) - FORWARD * canaries.inputs.len() as f64;
        Self { ascent, answerer, canaries, budget, inputs, left, seen: None, last: None, stepped: 0 }
    }

    /// Samples that were run forward alone.
    pub(super) fn passes(&self) -> usize {
        self.answerer.passes
    }

    /// Mean log-odds that the old head gives the forget inputs on the body of these weights, where the walk stands.
    ///
    /// # Errors
    /// When the engine fails.
    pub(super) fn odds(&mut self, weights: &Weights, original: &Weights) -> Result<f64> {
        let (slopes, odds) = self.ascent.look(weights, original)?;
        self.seen = Some(Seen { slopes, odds });
        self.spend(self.ascent.samples());
        Ok(odds)
    }

    /// True when a look and a step can be paid for.
    pub(super) fn can_afford(&self) -> bool {
        self.left >= self.price()
    }

    /// True when all inputs can be answered once more than at the end.
    pub(super) fn can_ask_again(&self) -> bool {
        self.left >= FORWARD * self.inputs as f64
    }

    /// Weights after a step from where the walk stands; where canaries suffer it is tried with half the length, if that is still
    /// a step.
    ///
    /// # Errors
    /// When the engine fails.
    pub(super) fn step(&mut self, weights: &Weights, original: &Weights) -> Result<Next> {
        if self.seen.is_none() {
            self.odds(weights, original)?;
        }
        let mut seen = self.seen.take().ok_or_else(|| Error::internal("a step from nowhere"))?;
        let by = self.length(seen.odds);
        self.last = Some((seen.odds, by));
        self.ascent.guard(weights, original, &mut seen.slopes)?;
        self.spend(self.ascent.samples_of_guards());
        let next = self.go(weights, &seen.slopes, by)?;
        if next.is_spared || by < 2.0 * STEP || self.left < self.price_of_canaries() {
            return Ok(next);
        }
        self.go(weights, &seen.slopes, by / 2.0)
    }

    fn price_of_canaries(&self) -> f64 {
        FORWARD * self.canaries.inputs.len() as f64
    }

    /// Samples, forward and back, of a look and the step that follows.
    fn price(&self) -> f64 {
        (self.ascent.samples() + self.ascent.samples_of_guards()) as f64 + self.price_of_canaries()
    }

    fn spend(&mut self, samples: usize) {
        self.stepped += samples;
        self.left -= samples as f64;
    }

    /// How long a step from these log-odds is, so that those that can be paid for suffice if they bring what the last one has.
    fn length(&self, odds: f64) -> f64 {
        let after = self.left - self.price() + self.ascent.samples() as f64;
        if after < 0.0 {
            return STEP;
        }
        let gain = self.last.map_or(1.0, |(before, by)| ((before - odds) / by).clamp(LEAST_GAIN, 1.0));
        // steps of one length end beyond what is enough, by half a step in the mean
        let way = odds + self.budget.margin + STEP / 2.0;
        (way / (1.0 + (after / self.price()).floor()) / gain).clamp(STEP, MOST)
    }

    fn go(&mut self, weights: &Weights, slopes: &Slopes, by: f64) -> Result<Next> {
        let weights = self.ascent.go(weights, slopes, by)?;
        let answers = self.answerer.answer(&weights, &weights, &self.canaries.inputs, &mut |_| ())?;
        self.left -= self.price_of_canaries();
        let is_spared = answers.is_finite()
            && self.canaries.spared(&answers) >= self.budget.spared
            && self.canaries.kept(&answers) >= self.budget.kept;
        Ok(Next { weights, is_spared })
    }
}
