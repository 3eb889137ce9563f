//! Finding the strength on the labelled inputs alone.

use super::Request;
use super::answers::{Answerer, Answers};
use super::rewrite::{Basis, Rewriter};
use super::rules::{Rule, Strength};
use crate::classifier::Weights;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::inputs::Labelled;

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
}

impl Candidate {
    /// The forget inputs are unanswered, and the others are answered as well as before, but for a tenth.
    fn is_good(&self, start: &Self) -> bool {
        self.finite && self.forget_answered == 0.0 && self.retained_answered >= 0.9 * start.retained_answered
    }
    /// `A_R + E_F` on the inputs, and probabilities to tell equals apart.
    fn value(&self) -> f64 {
        let answers = self.retained_answered - self.forget_answered;
        answers + 0.01 * (self.retained_probability - self.forget_probability)
    }
}

/// Tries strengths on one model, one set of inputs and one choice of classes.
pub struct Trials<'a> {
    engine: &'a dyn Engine,
    answerer: Answerer,
    old: &'a Weights,
    basis: Basis,
    data: &'a Labelled,
    forgotten: Vec<usize>,
    rewriters: Vec<(Rule, Rewriter)>,
}

impl<'a> Trials<'a> {
    /// Nothing runs yet.
    ///
    /// # Errors
    /// Never today; sessions are made when a rule is first tried.
    pub fn new(
        engine: &'a dyn Engine,
        answerer: Answerer,
        old: &'a Weights,
        basis: Basis,
        data: &'a Labelled,
        request: &Request,
    ) -> Result<Self> {
        Ok(Self { engine, answerer, old, basis, data, forgotten: request.classes.clone(), rewriters: Vec::new() })
    }

    /// Answers under the old weights.
    ///
    /// # Errors
    /// When the engine fails.
    pub fn before(&mut self) -> Result<Answers> {
        self.answerer.answer(self.old, self.old, self.data, &mut |_| ())
    }

    /// Weights and answers at a strength.
    ///
    /// # Errors
    /// When the engine fails.
    pub fn at(&mut self, strength: &Strength) -> Result<(Weights, Answers)> {
        let rule = strength.rule();
        let i = match self.rewriters.iter().position(|(r, _)| *r == rule) {
            Some(i) => i,
            None => {
                self.rewriters.push((rule, Rewriter::new(self.engine, rule, self.old, &self.basis)?));
                self.rewriters.len() - 1
            }
        };
        let weights = self.rewriters[i].1.apply(strength)?;
        let answers = self.answerer.answer(&weights, self.old, self.data, &mut |_| ())?;
        Ok((weights, answers))
    }

    /// Answers under given weights.
    ///
    /// # Errors
    /// When the engine fails.
    pub fn answers(&mut self, weights: &Weights) -> Result<Answers> {
        self.answerer.answer(weights, self.old, self.data, &mut |_| ())
    }

    /// What the inputs say of a strength.
    ///
    /// # Errors
    /// When the engine fails.
    pub fn score(&mut self, strength: &Strength) -> Result<Candidate> {
        let (_, answers) = self.at(strength)?;
        Ok(score(&strength.to_string(), &answers, &self.data.y, &self.forgotten))
    }
}

fn score(strength: &str, answers: &Answers, labels: &[usize], forgotten: &[usize]) -> Candidate {
    let c = answers.classes;
    let log_p = Answers::log_probabilities(&answers.logits, c);
    let old = answers.old_head.as_ref().map(|z| Answers::log_probabilities(z, c));
    let answered = Answers::classes_of(&answers.logits, c);
    let (mut n_f, mut n_r) = (0.0, 0.0);
    let (mut hit_f, mut hit_r, mut p_f, mut p_r, mut old_p, mut loss) = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0);
    for (i, &y) in labels.iter().enumerate() {
        if forgotten.contains(&y) {
            n_f += 1.0;
            hit_f += f64::from(u8::from(forgotten.contains(&answered[i])));
            let mass = |log_p: &[f64]| forgotten.iter().map(|k| log_p[i * c + k].exp()).sum::<f64>();
            p_f += mass(&log_p);
            old_p += old.as_ref().map_or(0.0, |o| mass(o));
        } else {
            n_r += 1.0;
            hit_r += f64::from(u8::from(answered[i] == y));
            p_r += log_p[i * c + y].exp();
            loss -= log_p[i * c + y];
        }
    }
    Candidate {
        strength: strength.to_owned(),
        forget_answered: hit_f / n_f,
        retained_answered: hit_r / n_r,
        forget_probability: p_f / n_f,
        old_head_probability: old.is_some().then_some(old_p / n_f),
        retained_probability: p_r / n_r,
        retained_loss: loss / n_r,
        finite: answers.is_finite(),
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
}

impl Path {
    fn of(rule: Rule) -> Vec<Self> {
        match rule {
            Rule::Dampen => vec![Self::Dampen],
            Rule::Ratio => vec![Self::Ratio { sign: 1.0 }, Self::Ratio { sign: -1.0 }],
        }
    }
    /// Least and greatest `t` that are tried.
    fn range(self) -> (f64, f64) {
        match self {
            Self::Dampen => (-300f64.ln(), -0.3f64.ln()),
            Self::Ratio { .. } => (1e-5f64.ln(), 100f64.ln()),
        }
    }
    /// `t`, or the least change that is allowed where `t` would change too little.
    fn capped(self, t: f64) -> f64 {
        match self {
            Self::Dampen => t.max(-MOST_ALPHA.ln()),
            Self::Ratio { .. } => t,
        }
    }
    fn at(self, t: f64) -> Strength {
        match self {
            Self::Dampen => {
                let alpha = (-t).exp();
                Strength::Dampen { alpha, lambda: alpha.min(1.0) }
            }
            Self::Ratio { sign } => Strength::Ratio { lambda1: 1e30, lambda2: t.exp(), sign },
        }
    }
}

/// Halvings of the range of `t` on each side of the window.
const STEPS: usize = 8;
/// The forget inputs count as lost when their mean probability is at most this part of what it was.
const LOST: f64 = 0.5;
/// The retained inputs count as kept when their mean probability is at least this part of what it was.
const KEPT: f64 = 0.8;

/// The window of memorised codes can reach far beyond what data needs, as codes are lost only at strengths that barely
/// touch the weights; α stays below this.
const MOST_ALPHA: f64 = 15.0;

/// Searches rule and strength, with 19 trials a path at most.
///
/// On a path there is a window: strengths that lose the forget inputs and keep the retained ones. Codes are learned
/// harder than data, so that neither end of it carries over: real samples of a forgotten class may still be answered
/// at the weak end, and real samples of others suffer at the strong end. The middle (in the logarithm) leaves the
/// same margin to both. Dampening is taken where it has a window; otherwise the best middle of all paths is.
///
/// # Errors
/// When the engine fails or no strength gives finite answers.
pub fn search(trials: &mut Trials, rules: &[Rule], tick: &mut dyn FnMut()) -> Result<(Strength, Vec<Candidate>)> {
    let start = {
        let answers = trials.before()?;
        score("as it is", &answers, &trials.data.y, &trials.forgotten)
    };
    let mut tried = Vec::new();
    let mut best: Option<(Candidate, Strength)> = None;
    for &rule in rules {
        for path in Path::of(rule) {
            let mut line = Line { trials, path, start: &start, tried: &mut tried, tick };
            let Some(found) = line.middle()? else { continue };
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
        Ok(!c.finite || c.forget_probability <= LOST * self.start.forget_probability)
    }
    fn kept(&mut self, t: f64) -> Result<bool> {
        let c = self.try_at(t)?;
        Ok(c.finite && c.retained_probability >= KEPT * self.start.retained_probability)
    }
    /// The middle between the least strength that loses the forget inputs and the greatest that keeps the others.
    fn middle(&mut self) -> Result<Option<Place>> {
        let (low, high) = self.path.range();
        if !self.lost(high)? {
            return Ok(None);
        }
        let (mut below, mut weakest) = (low, high);
        for _ in 0..STEPS {
            let t = f64::midpoint(below, weakest);
            if self.lost(t)? { weakest = t } else { below = t }
        }
        if !self.kept(weakest)? {
            return Ok(Some(Place { t: weakest, is_window: false }));
        }
        let (mut strongest, mut above) = (weakest, high);
        for _ in 0..STEPS {
            let t = f64::midpoint(strongest, above);
            if self.kept(t)? { strongest = t } else { above = t }
        }
        let t = self.path.capped(f64::midpoint(weakest, strongest));
        Ok(Some(Place { t, is_window: true }))
    }
}
