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
    /// Mean cross-entropy of the retained inputs.
    pub retained_loss: f64,
    /// False when a logit was NaN or infinite; then nothing else counts.
    pub finite: bool,
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

    /// What the inputs say of a strength.
    ///
    /// # Errors
    /// When the engine fails.
    pub fn score(&mut self, strength: &Strength) -> Result<Candidate> {
        let (_, answers) = self.at(strength)?;
        Ok(score(strength, &answers, &self.data.y, &self.forgotten))
    }
}

fn score(strength: &Strength, answers: &Answers, labels: &[usize], forgotten: &[usize]) -> Candidate {
    let c = answers.classes;
    let log_p = Answers::log_probabilities(&answers.logits, c);
    let old = answers.old_head.as_ref().map(|z| Answers::log_probabilities(z, c));
    let answered = Answers::classes_of(&answers.logits, c);
    let (mut n_f, mut n_r) = (0.0, 0.0);
    let (mut hit_f, mut hit_r, mut p_f, mut old_p, mut loss) = (0.0, 0.0, 0.0, 0.0, 0.0);
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
            loss -= log_p[i * c + y];
        }
    }
    Candidate {
        strength: strength.to_string(),
        forget_answered: hit_f / n_f,
        retained_answered: hit_r / n_r,
        forget_probability: p_f / n_f,
        old_head_probability: old.is_some().then_some(old_p / n_f),
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

/// Searches rule and strength.
///
/// # Errors
/// When the engine fails or no strength gives finite answers.
pub fn search(trials: &mut Trials, rules: &[Rule], tick: &mut dyn FnMut()) -> Result<(Strength, Vec<Candidate>)> {
    let mut tried = Vec::new();
    let mut best: Option<((bool, bool, f64), Strength)> = None;
    for s in grid(rules) {
        let c = trials.score(&s)?;
        tick();
        if c.finite {
            let unanswered = c.forget_answered == 0.0;
            let deep = c.old_head_probability.is_none_or(|p| p < 0.5);
            let rank = (unanswered, unanswered && deep, -c.retained_loss);
            if best.is_none_or(|(b, _)| rank > b) {
                best = Some((rank, s));
            }
        }
        tried.push(c);
    }
    let (_, s) = best.ok_or_else(|| Error::engine("no strength gives finite answers"))?;
    Ok((s, tried))
}

fn grid(rules: &[Rule]) -> Vec<Strength> {
    let mut all = Vec::new();
    if rules.contains(&Rule::Dampen) {
        for k in 0..12 {
            let alpha = 1.2 * 1.4f64.powi(k);
            for lambda in [0.1, 0.5] {
                all.push(Strength::Dampen { alpha, lambda });
            }
        }
    }
    all
}
