//! Trying strengths: the weights that they give, and what the inputs say of these.

use super::Aim;
use super::answers::{Answerer, Answers};
use super::ascent::{Ascent, Part};
use super::budget::Budget;
use super::calibration::Calibration;
use super::guard::{Canaries, Noise, guards};
use super::guided::Guided;
use super::last::{Body, Cut, Last, Shown};
use super::rewrite::{Basis, Rewriter};
use super::rules::{Rule, Strength};
use super::search::{Candidate, Depth};
use crate::classifier::{Classifier, Weights};
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::inputs::Labelled;
use crate::tensor::Array;
use std::rc::Rc;

/// Samples that share a batch, at most.
const MOST_AT_ONCE: usize = 256;

/// Which of the labelled inputs tell how the retained classes fare, as data would.
#[derive(Clone, Copy, Debug)]
pub(super) struct Guide {
    /// The first of them; none where the inputs may be memorised, one by one.
    pub from: Option<usize>,
    /// Decides the noise that is mixed into them.
    pub seed: u64,
    /// How far the body changes.
    pub budget: Budget,
}

impl Guide {
    /// The same among the inputs whose class takes part.
    pub(super) fn among(self, data: &Labelled, takes_part: impl Fn(&usize) -> bool) -> Self {
        let before = |from: usize| data.y.iter().take(from).filter(|y| takes_part(y)).count();
        Self { from: self.from.map(before), ..self }
    }
}

/// Tries strengths on one model, one set of inputs and one choice of classes.
pub struct Trials<'a> {
    classifier: &'a Classifier,
    engine: &'a dyn Engine,
    answerer: Answerer,
    old: &'a Weights,
    /// Where the old head is taken from.
    original: &'a Weights,
    basis: Basis,
    data: &'a Labelled,
    aim: &'a Aim,
    guide: Guide,
    rewriters: Vec<(Rule, Rewriter)>,
    ascents: Vec<(Part, Ascent<'a>)>,
    guided: Option<Guided<'a>>,
    stepped: usize,
    before: Option<Answers>,
    calibration: Option<Rc<Calibration>>,
    /// What the last layer reads under the old weights, those that were answered last, and those that a walk has kept.
    features: [Option<Array>; 3],
    /// The last layer above the body that has settled, where it can be had on its own.
    last: Option<Last<'a>>,
    /// Where the last search of an ascent ended, so that its steps need not be taken again.
    walked: Option<(Strength, Weights, Answers)>,
}

impl<'a> Trials<'a> {
    /// Nothing runs yet; sessions are made when a rule is first tried.
    pub fn new(
        classifier: &'a Classifier,
        engine: &'a dyn Engine,
        answerer: Answerer,
        old: &'a Weights,
        basis: Basis,
        data: &'a Labelled,
        aim: &'a Aim,
    ) -> Self {
        Self {
            classifier,
            engine,
            answerer,
            old,
            original: old,
            basis,
            data,
            aim,
            guide: Guide { from: None, seed: 0, budget: Budget::of(Depth::Auto, false, false, false) },
            rewriters: Vec::new(),
            ascents: Vec::new(),
            guided: None,
            stepped: 0,
            before: None,
            calibration: None,
            features: [None, None, None],
            last: None,
            walked: None,
        }
    }

    /// The same where some of the inputs tell how the retained classes fare.
    pub(super) fn guided(self, guide: Guide) -> Self {
        Self { guide, ..self }
    }

    /// The same with samples that are listened to as well; answers are then those to the inputs and, after them, to the
    /// samples.
    pub(super) fn calibrated(self, calibration: Option<Calibration>) -> Self {
        Self { calibration: calibration.map(Rc::new), ..self }
    }

    /// The same where `old` was changed before: these are the weights as they came in the file.
    pub(super) fn since(self, original: &'a Weights) -> Self {
        Self { original, ..self }
    }

    /// Samples that are listened to beside the inputs.
    pub(super) fn calibration(&self) -> Option<Rc<Calibration>> {
        self.calibration.clone()
    }

    /// How far the body changes.
    pub(super) fn budget(&self) -> Budget {
        self.guide.budget
    }

    /// A walk into the body from the old weights, where some inputs tell how far it may go.
    ///
    /// # Errors
    /// When the engine fails.
    pub(super) fn led(&mut self) -> Result<Option<&mut Guided<'a>>> {
        let Some(from) = self.guide.from else { return Ok(None) };
        if self.guided.is_none() {
            let (data, aim, noise) = (self.data, self.aim, self.noise());
            let (inputs, noisy) = Canaries::choose(data, aim, from, &noise)?;
            let mut answerer = Answerer::new(self.classifier, self.engine, inputs.len().min(MOST_AT_ONCE), false)?;
            let before = answerer.answer(self.old, self.original, &inputs, &mut |_| ())?;
            let canaries = Canaries::new(inputs, noisy, before, aim);
            let moved = self.basis.f_r.iter().map(|t| t.ty().len()).sum();
            let guards = guards(data, aim, from, &noise, moved)?;
            let ascent = Ascent::new(self.classifier, self.engine, &self.basis, Part::Body, data, aim, guards)?;
            self.guided = Some(Guided::new(ascent, answerer, canaries, self.guide.budget, data.len()));
        }
        Ok(self.guided.as_mut())
    }

    fn noise(&self) -> Noise {
        Noise::over(self.classifier, self.data, self.guide.seed)
    }

    /// The weights as they came in the file.
    pub(super) fn original(&self) -> &'a Weights {
        self.original
    }

    /// The weights as they came.
    pub(super) fn old(&self) -> &'a Weights {
        self.old
    }

    /// The labelled inputs.
    pub(super) fn data(&self) -> &'a Labelled {
        self.data
    }

    /// Which of them are to be forgotten.
    pub(super) fn aim(&self) -> &'a Aim {
        self.aim
    }

    /// Samples that were run forward so far.
    pub fn passes(&self) -> usize {
        self.answerer.passes + self.guided.as_ref().map_or(0, Guided::passes)
    }

    /// True when some weight of that part may change.
    pub(super) fn may_change(&self, part: Part) -> bool {
        self.basis.names.iter().any(|n| part.holds(n, &self.answerer.head))
    }

    /// Says that the body changes no more: from here on, steps and answers are those of the last layer alone. `steps` were
    /// made in the body.
    ///
    /// # Errors
    /// When the engine fails.
    pub(super) fn settle(&mut self, weights: &Weights, steps: usize, answers: &Answers) -> Result<()> {
        let shown = self.calibration.as_ref().map_or(self.data, |c| &c.shown);
        let is_open = self.may_change(Part::Head) && self.may_have_body();
        let cut = if is_open { Cut::of(self.classifier, self.engine, shown.len().min(MOST_AT_ONCE))? } else { None };
        if let Some(cut) = cut {
            let has_moved = steps > 0 || !std::ptr::eq(self.old, self.original);
            let [before, _, kept] = &self.features;
            let of_old = if std::ptr::eq(self.old, self.original) { before.clone() } else { None };
            let now = Body { weights, features: if steps > 0 { kept.clone() } else { before.clone() } };
            let original = has_moved.then_some(Body { weights: self.original, features: of_old });
            let anew = [Some(&now), original.as_ref()].into_iter().flatten().filter(|b| b.features.is_none()).count();
            self.answerer.passes += anew * shown.len();
            let inputs = Shown { all: shown, inputs: self.data.len(), aim: self.aim };
            self.last = Some(Last::new(&cut, self.engine, &self.basis, &inputs, &now, original.as_ref(), answers)?);
        }
        Ok(())
    }

    /// Says that a walk goes on from the weights that were answered last.
    pub(super) fn go_on(&mut self) {
        self.features[2] = self.features[1].take();
    }

    /// True when there are weights before the last layer, whether or not they may change.
    fn may_have_body(&self) -> bool {
        self.old.names.iter().any(|n| !self.answerer.head.contains(n))
    }

    /// Answers under weights that a step of that part has changed.
    ///
    /// # Errors
    /// When the engine fails.
    pub(super) fn after(&mut self, part: Part, weights: &Weights) -> Result<Answers> {
        match (part, &mut self.last) {
            (Part::Head, Some(last)) => last.answers(weights),
            _ => {
                let answers = self.answers(weights)?;
                self.features[1] = self.answerer.features();
                Ok(answers)
            }
        }
    }

    /// Answers with the last layer of these weights on the body as it came.
    ///
    /// # Errors
    /// When the engine fails.
    pub(super) fn unmoved(&mut self, weights: &Weights) -> Result<Answers> {
        match &mut self.last {
            Some(last) => last.unmoved(weights),
            None => {
                let unmoved = self.with_last_layer_of(self.original, weights);
                self.answers(&unmoved)
            }
        }
    }

    /// The body of one and the last layer of the other.
    fn with_last_layer_of(&self, body: &Weights, last: &Weights) -> Weights {
        let mut all = body.clone();
        for (name, tensor) in all.names.iter().zip(&mut all.tensors) {
            if let Some(other) = last.get(name).filter(|_| Part::Head.holds(name, &self.answerer.head)) {
                *tensor = other.clone();
            }
        }
        all
    }

    /// The weights after one more step of the ascent; the last layer's are made above the body as it came.
    ///
    /// # Errors
    /// When no weight of that part may change, an op has no derivative, or the engine fails.
    pub(super) fn step(&mut self, part: Part, weights: &Weights) -> Result<Weights> {
        if let (Part::Head, Some(last)) = (part, &mut self.last) {
            return last.step(weights);
        }
        let original = self.original;
        if let (Part::Body, Some(guided)) = (part, self.led()?) {
            return Ok(guided.step(weights, original)?.weights);
        }
        let i = match self.ascents.iter().position(|(p, _)| *p == part) {
            Some(i) => i,
            None => {
                let (data, aim) = (self.data, self.aim);
                let ascent = Ascent::new(self.classifier, self.engine, &self.basis, part, data, aim, Vec::new())?;
                self.ascents.push((part, ascent));
                self.ascents.len() - 1
            }
        };
        self.stepped += self.ascents[i].1.samples();
        match part {
            Part::Body => self.ascents[i].1.step(weights),
            Part::Head => {
                let unmoved = self.with_last_layer_of(self.original, weights);
                let moved = self.ascents[i].1.step(&unmoved)?;
                Ok(self.with_last_layer_of(weights, &moved))
            }
        }
    }

    /// Keeps what [`Trials::at`] would work out for this strength.
    pub(super) fn keep(&mut self, strength: Strength, weights: Weights, answers: Answers) {
        self.last = None;
        self.walked = Some((strength, weights, answers));
    }

    /// Samples that were run forward and back for steps of the ascent.
    pub(super) fn stepped(&self) -> usize {
        self.stepped + self.guided.as_ref().map_or(0, |g| g.stepped)
    }

    /// Answers under the old weights.
    ///
    /// # Errors
    /// When the engine fails.
    pub fn before(&mut self) -> Result<Answers> {
        if self.before.is_none() {
            self.before = Some(self.answers(self.old)?);
            self.features[0] = self.answerer.features();
        }
        self.before.clone().ok_or_else(|| Error::internal("no answers before"))
    }

    /// Answers under the weights as they came in the file; `before` are those under the old ones.
    ///
    /// # Errors
    /// When the engine fails.
    pub(super) fn originally(&mut self, before: &Answers) -> Result<Answers> {
        if std::ptr::eq(self.old, self.original) { Ok(before.clone()) } else { self.answers(self.original) }
    }

    /// What the inputs say of the old weights.
    ///
    /// # Errors
    /// When the engine fails.
    pub fn start(&mut self) -> Result<Candidate> {
        let answers = self.before()?;
        Ok(self.judge("as it is", &answers))
    }

    /// What these answers to the inputs say.
    pub fn judge(&self, strength: &str, answers: &Answers) -> Candidate {
        judge(strength, answers, self.data, self.aim, self.calibration.as_deref())
    }

    /// Weights and answers at a strength.
    ///
    /// # Errors
    /// When the engine fails.
    pub fn at(&mut self, strength: &Strength) -> Result<(Weights, Answers)> {
        if let Some((_, weights, answers)) = self.walked.as_ref().filter(|(s, ..)| s == strength) {
            return Ok((weights.clone(), answers.clone()));
        }
        if let Strength::Ascent { body, head } = *strength {
            if let Some(begun) = self.guided.take() {
                self.answerer.passes += begun.passes();
                self.stepped += begun.stepped;
            }
            let mut weights = self.old.clone();
            for part in std::iter::repeat_n(Part::Body, body).chain(std::iter::repeat_n(Part::Head, head)) {
                weights = self.step(part, &weights)?;
            }
            let answers = self.answers(&weights)?;
            return Ok((weights, answers));
        }
        let rule = strength.rule();
        let i = match self.rewriters.iter().position(|(r, _)| *r == rule) {
            Some(i) => i,
            None => {
                self.rewriters.push((rule, Rewriter::new(self.engine, rule, self.old, &self.basis)?));
                self.rewriters.len() - 1
            }
        };
        let weights = self.rewriters[i].1.apply(strength)?;
        let answers = self.answers(&weights)?;
        Ok((weights, answers))
    }

    /// Answers under given weights.
    ///
    /// # Errors
    /// When the engine fails.
    pub fn answers(&mut self, weights: &Weights) -> Result<Answers> {
        let shown = self.calibration.as_ref().map_or(self.data, |c| &c.shown);
        self.answerer.answer(weights, self.original, shown, &mut |_| ())
    }

    /// What the inputs say of a strength.
    ///
    /// # Errors
    /// When the engine fails.
    pub fn score(&mut self, strength: &Strength) -> Result<Candidate> {
        let (_, answers) = self.at(strength)?;
        Ok(self.judge(&strength.to_string(), &answers))
    }
}

/// What these answers to the inputs, and to calibration samples after them, say.
pub(super) fn judge(
    strength: &str,
    answers: &Answers,
    data: &Labelled,
    aim: &Aim,
    calibration: Option<&Calibration>,
) -> Candidate {
    let calibration = calibration.map(|c| c.see(answers));
    Candidate { calibration, ..score(strength, answers, &data.y, aim) }
}

fn score(strength: &str, answers: &Answers, labels: &[usize], aim: &Aim) -> Candidate {
    let c = answers.classes;
    let log_p = Answers::log_probabilities(&answers.logits, c);
    let old = answers.old_head.as_ref().map(|z| Answers::log_probabilities(z, c));
    let answered = Answers::classes_of(&answers.logits, c);
    let (mut n_f, mut n_r) = (0.0, 0.0);
    let (mut hit_f, mut hit_r, mut p_f, mut p_r, mut old_p, mut loss) = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0);
    for (i, &y) in labels.iter().enumerate() {
        if aim.forgets(i) {
            let forgotten = aim.answers(&y);
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
        calibration: None,
    }
}
