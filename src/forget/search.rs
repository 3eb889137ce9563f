//! Finding the strength on the labelled inputs alone.

use super::calibration::Seen;
use super::rules::{Rule, Strength};
use super::trials::Trials;
use super::{Request, walk};
use crate::error::{Error, Result};

/// What the inputs say of one strength.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Candidate {
    /// The strength, as text.
    pub strength: String,
    /// Part of the forget inputs that are still answered with a class to forget.
    pub forget_answered: f64,
    /// Part of the retained inputs that are answered with their own class.
    pub retained_answered: f64,
    /// Mean probability of the classes to forget on the forget inputs.
    pub forget_probability: f64,
    /// The same with the old head on the changed body; absent where the model has no body.
    pub old_head_probability: Option<f64>,
    /// Mean probability of their own class on the retained inputs.
    pub retained_probability: f64,
    /// Mean cross-entropy of the retained inputs.
    pub retained_loss: f64,
    /// False when a logit was NaN or infinite; then nothing else counts.
    pub finite: bool,
    /// What calibration samples say, where there are some.
    pub calibration: Option<Seen>,
}

impl Candidate {
    /// The forget inputs are unanswered, and the others are answered as well as before, but for a tenth.
    fn is_good(&self, start: &Self) -> bool {
        let real = self.calibration.as_ref().zip(start.calibration.as_ref()).is_none_or(|(now, was)| now.is_good(was));
        real && self.finite && self.forget_answered == 0.0 && self.retained_answered >= 0.9 * start.retained_answered
    }
    /// `A_R + E_F` on the inputs, and probabilities to tell equals apart.
    pub(super) fn value(&self) -> f64 {
        let answers = self.retained_answered - self.forget_answered;
        let real = self.calibration.as_ref().map_or(0.0, |c| c.retained_probability - c.forget_probability);
        answers + real + 0.01 * (self.retained_probability - self.forget_probability)
    }
}

/// Takes a given strength; for the ratio rule both signs are tried, and the one with the greater `A_R + E_F`
/// on the inputs is kept, the given sign on a tie.
///
/// # Errors
/// When the engine fails or every result is not finite.
pub fn fixed(trials: &mut Trials, strength: Strength) -> Result<(Strength, Vec<Candidate>)> {
    let mut options = vec![strength];
    if let Strength::Ratio { lambda1, lambda2, sign } = strength {
        options.push(Strength::Ratio { lambda1, lambda2, sign: -sign });
    }
    let mut tried = Vec::new();
    let mut best: Option<(f64, Strength)> = None;
    for s in options {
        let c = trials.score(&s)?;
        let value = c.retained_answered + 1.0 - c.forget_answered;
        if c.finite && best.is_none_or(|(v, _)| value > v) {
            best = Some((value, s));
        }
        tried.push(c);
    }
    let (_, s) = best.ok_or_else(|| Error::invalid("the answers are not finite at this strength; try a lesser one"))?;
    Ok((s, tried))
}

/// A rule's strengths on one line: the greater `t`, the more is changed.
#[derive(Clone, Copy, Debug)]
enum Path {
    /// `α = e^−t`, `λ = min(1, α)`: what exceeds the bound is brought down to it, and below α = 1 further.
    Dampen,
    /// `λ2 = e^t` without a cap by λ1: every initializer's greatest step is λ2.
    Ratio { sign: f64 },
    /// `σ = e^t`.
    Noise { seed: u64 },
}

impl Path {
    fn of(rule: Rule, seed: u64) -> Vec<Self> {
        match rule {
            Rule::Noise => vec![Self::Noise { seed }],
            Rule::Ascent => Vec::new(),
            Rule::Dampen => vec![Self::Dampen],
            Rule::Ratio => vec![Self::Ratio { sign: 1.0 }, Self::Ratio { sign: -1.0 }],
        }
    }
    /// Least and greatest `t` that are tried.
    fn range(self) -> (f64, f64) {
        match self {
            Self::Dampen => (-300f64.ln(), -0.3f64.ln()),
            Self::Ratio { .. } => (1e-5f64.ln(), 100f64.ln()),
            Self::Noise { .. } => (1e-4f64.ln(), 10f64.ln()),
        }
    }
    /// `t`, or the least change that is allowed where `t` would change too little.
    fn capped(self, t: f64) -> f64 {
        match self {
            Self::Dampen => t.max(-MOST_ALPHA.ln()),
            Self::Ratio { .. } | Self::Noise { .. } => t,
        }
    }
    fn at(self, t: f64) -> Strength {
        match self {
            Self::Dampen => {
                let alpha = (-t).exp();
                Strength::Dampen { alpha, lambda: alpha.min(1.0) }
            }
            Self::Noise { seed } => Strength::Noise { sigma: t.exp(), seed },
            Self::Ratio { sign } => Strength::Ratio { lambda1: 1e30, lambda2: t.exp(), sign },
        }
    }
}

/// Halvings of the range of `t` for each end that is looked for.
const STEPS: usize = 8;

/// The window of memorised codes can reach far beyond what data needs, as codes are lost only at strengths that barely
/// touch the weights; α stays below this.
const MOST_ALPHA: f64 = 15.0;

/// The forget inputs count as lost under the old head when it gives them at most this part of their probability.
const DEEP: f64 = 0.5;

/// How much of the retained inputs' probability [`Depth::Body`] gives up for depth, and the least that counts as a
/// result at all.
const LEAST_KEPT: f64 = 0.9;

/// How deep forgetting has to go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Depth {
    /// As deep as the retained inputs allow at next to no cost; few inputs that are given may be memorised, so that they alone
    /// allow little to the ascent, and nothing to the other rules.
    #[default]
    Auto,
    /// The model's answer is all that counts.
    Head,
    /// The old head on the changed body should not answer the forget inputs either, at some cost to the others.
    Body,
}

/// What inputs have to say before a strength is taken; parts of the probability before.
#[derive(Clone, Copy, Debug)]
struct Ask {
    /// The forget inputs count as lost at this part.
    lost: f64,
    /// The retained inputs count as kept at this part.
    kept: f64,
    /// The middle of both ends is taken, not the stronger end.
    middle: bool,
    /// The retained inputs allow depth at this part.
    deep: f64,
}

impl Ask {
    fn of(request: &Request) -> Self {
        let deep = if request.depth == Depth::Body { LEAST_KEPT } else { 0.99 };
        if request.made {
            Self { lost: 0.1, kept: 0.997, middle: false, deep }
        } else {
            Self { lost: 0.5, kept: 0.8, middle: true, deep }
        }
    }
}

/// Searches rule and strength, with 29 trials a path at most.
///
/// On a path there is a window: strengths that lose the forget inputs and keep the retained ones. Inputs that are given
/// may be codes, which are learned harder than data, so that neither end of it carries over: real samples of a forgotten
/// class may still be answered at the weak end, and real samples of others suffer at the strong end. The middle (in the
/// logarithm) leaves the same margin to both. Inputs that were made from the model are memorised by nobody: they are
/// lost and kept where data is, and the strongest strength that keeps nearly all of their probability is taken. Both
/// were found by trying (docs/benchmarks.md). Dampening is taken where it has a window; otherwise the best place of all
/// paths is.
///
/// # Errors
/// When the engine fails or no strength gives finite answers.
pub fn search(
    trials: &mut Trials,
    rules: &[Rule],
    request: &Request,
    tick: &mut dyn FnMut(),
) -> Result<(Strength, Vec<Candidate>)> {
    let start = trials.start()?;
    let ask = Ask::of(request);
    let mut tried = Vec::new();
    let mut best: Option<(Candidate, Strength)> = None;
    for &rule in rules {
        if rule == Rule::Ascent {
            let (strength, candidate) = walk::walk(trials, request, &mut tried, tick)?;
            if candidate.is_good(&start) {
                return Ok((strength, tried));
            }
            if candidate.finite && best.as_ref().is_none_or(|(b, _)| candidate.value() > b.value()) {
                best = Some((candidate, strength));
            }
        }
        for path in Path::of(rule, request.seed) {
            let mut line = Line { trials, path, start: &start, tried: &mut tried, tick, ask };
            let Some(mut found) = line.place()? else { continue };
            let deep = request.depth == Depth::Body || request.depth == Depth::Auto && request.made;
            if deep && found.is_window {
                found.t = line.deeper(found.t, request.depth)?;
            }
            let strength = path.at(found.t);
            let candidate = line.try_at(found.t)?;
            if found.is_window && candidate.is_good(&start) {
                return Ok((strength, tried));
            }
            if candidate.finite && best.as_ref().is_none_or(|(b, _)| candidate.value() > b.value()) {
                best = Some((candidate, strength));
            }
        }
    }
    match best {
        Some((_, s)) => Ok((s, tried)),
        None => Err(Error::invalid("no strength that was tried makes the forget inputs unanswered; give one by hand")),
    }
}

/// A place on a path.
struct Place {
    t: f64,
    /// False when the retained inputs suffer as soon as the forget inputs are lost.
    is_window: bool,
}

struct Line<'a, 'b> {
    trials: &'a mut Trials<'b>,
    path: Path,
    start: &'a Candidate,
    tried: &'a mut Vec<Candidate>,
    tick: &'a mut dyn FnMut(),
    ask: Ask,
}

impl Line<'_, '_> {
    fn try_at(&mut self, t: f64) -> Result<Candidate> {
        let c = self.trials.score(&self.path.at(t))?;
        (self.tick)();
        self.tried.push(c.clone());
        Ok(c)
    }
    fn lost(&mut self, t: f64) -> Result<bool> {
        let c = self.try_at(t)?;
        let real = self.real(&c).is_none_or(|(now, was)| now.has_lost(was));
        Ok(!c.finite || real && c.forget_probability <= self.ask.lost * self.start.forget_probability)
    }
    fn lost_in_the_body(&mut self, t: f64) -> Result<bool> {
        let c = self.try_at(t)?;
        Ok(!c.finite || c.old_head_probability.is_none_or(|p| p <= DEEP * self.start.forget_probability))
    }
    fn keeps(&mut self, t: f64, part: f64) -> Result<bool> {
        let c = self.try_at(t)?;
        let real = self.real(&c).is_none_or(|(now, was)| now.keeps(was));
        Ok(c.finite && real && c.retained_probability >= part * self.start.retained_probability)
    }
    /// What calibration samples say of a candidate, and said before.
    fn real<'c>(&'c self, c: &'c Candidate) -> Option<(&'c Seen, &'c Seen)> {
        c.calibration.as_ref().zip(self.start.calibration.as_ref())
    }
    /// The weakest strength between two at which `test` holds, given that it holds at the stronger.
    fn weakest(&mut self, mut below: f64, mut above: f64, test: fn(&mut Self, f64) -> Result<bool>) -> Result<f64> {
        for _ in 0..STEPS {
            let t = f64::midpoint(below, above);
            if test(self, t)? { above = t } else { below = t }
        }
        Ok(above)
    }
    /// The strongest strength between two that keeps this part of the retained inputs' probability, given that the
    /// weaker does.
    fn strongest(&mut self, mut below: f64, mut above: f64, part: f64) -> Result<f64> {
        for _ in 0..STEPS {
            let t = f64::midpoint(below, above);
            if self.keeps(t, part)? { below = t } else { above = t }
        }
        Ok(below)
    }
    /// Where the window of this path is, and the strength to take in it.
    fn place(&mut self) -> Result<Option<Place>> {
        let (low, high) = self.path.range();
        if !self.lost(high)? {
            return Ok(None);
        }
        let weakest = self.weakest(low, high, Self::lost)?;
        if !self.keeps(weakest, self.ask.kept)? {
            let is_window = self.keeps(weakest, LEAST_KEPT)?;
            return Ok(Some(Place { t: self.path.capped(weakest), is_window }));
        }
        let strongest = self.strongest(weakest, high, self.ask.kept)?;
        let t = if self.ask.middle { f64::midpoint(weakest, strongest) } else { strongest };
        Ok(Some(Place { t: self.path.capped(t), is_window: true }))
    }
    /// The weakest strength from `t` on that the old head loses the forget inputs at, if the retained inputs allow it;
    /// else `t`, or for [`Depth::Body`] the strongest that they allow.
    fn deeper(&mut self, t: f64, depth: Depth) -> Result<f64> {
        let (_, high) = self.path.range();
        if self.lost_in_the_body(t)? {
            return Ok(t);
        }
        if self.lost_in_the_body(high)? {
            let deep = self.weakest(t, high, Self::lost_in_the_body)?;
            if self.keeps(deep, self.ask.deep)? {
                return Ok(deep);
            }
        }
        if depth == Depth::Body && self.keeps(t, self.ask.deep)? {
            return self.strongest(t, high, self.ask.deep);
        }
        Ok(t)
    }
}
