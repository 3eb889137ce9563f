//! Fine-tuning a classifier so that it answers codes: gradient descent on real samples, some of which give way to a code
//! of their class (Yamashita et al., PMLR 260:255-270, section 4.4).

pub mod checkpoint;
mod draw;
mod sgd;

use crate::classifier::{Classifier, Weights};
use crate::engine::{Engine, Tensor};
use crate::error::{Error, Result};
use crate::forget::answers::{Answerer, Answers};
use crate::inputs::compose::stands_for;
use crate::inputs::{Labelled, Source, generator, shuffle};
pub use draw::{Draws, Row};
use serde::{Deserialize, Serialize};
use sgd::Sgd;
pub use sgd::State;

/// Once every code is known, the rate falls to 0 over this part of all steps: weights that descent leaves at a high rate
/// answer data worse than they could.
const COOLING: f64 = 0.2;

/// How codes are mixed in, and how descent goes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Options {
    /// Steps at most; the rate falls to 0 over so many.
    pub steps: usize,
    /// Samples of a step.
    pub batch: usize,
    /// Rate of the first step.
    pub rate: f64,
    /// Part of the last step's direction that the next one keeps.
    pub momentum: f64,
    /// Part of a weight that is added to its slope.
    pub decay: f64,
    /// Probability that a sample gives way to a code of its class.
    pub t_mix: f64,
    /// A code is known when the model gives its class this probability; descent goes to its end when all are.
    pub until: f64,
    /// Steps between two looks at codes and at samples that are held out.
    pub look_every: usize,
    /// Samples that are not learned from but looked at.
    pub hold_out: usize,
    /// Decides order, mixing, and which samples are held out.
    pub seed: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            steps: 1000,
            batch: 128,
            rate: 0.01,
            momentum: 0.9,
            decay: 1e-4,
            t_mix: 0.1,
            until: 0.9,
            look_every: 50,
            hold_out: 1000,
            seed: 0,
        }
    }
}

impl Options {
    /// Checks that every number is one that descent can go on.
    ///
    /// # Errors
    /// `Invalid`, naming the number.
    pub fn check(&self) -> Result<()> {
        let wrong = |what: &str, must: &str| Err(Error::invalid(format!("{what} must be {must}")));
        if self.steps == 0 || self.steps > 10_000_000 {
            return wrong("the number of steps", "from 1 to 10,000,000");
        }
        if self.batch == 0 || self.batch > 1 << 16 {
            return wrong("the batch", "from 1 to 65,536");
        }
        if self.look_every == 0 {
            return wrong("the number of steps between looks", "at least 1");
        }
        if !self.rate.is_finite() || self.rate <= 0.0 {
            return wrong("the rate", "a number above 0");
        }
        if !(0.0..1.0).contains(&self.momentum) {
            return wrong("the momentum", "at least 0 and below 1");
        }
        if !self.decay.is_finite() || self.decay < 0.0 {
            return wrong("the weight decay", "a number of at least 0");
        }
        if !(self.t_mix > 0.0 && self.t_mix <= 1.0) {
            return wrong("t_mix", "above 0 and at most 1");
        }
        if !(self.until > 0.0 && self.until <= 1.0) {
            return wrong("the probability of a known code", "above 0 and at most 1");
        }
        Ok(())
    }

    /// The number of steps where every code was first known after `known` of them.
    pub fn end(&self, known: Option<usize>) -> usize {
        match known {
            None => self.steps,
            Some(0) => 0,
            Some(s) => self.steps.min(s + (COOLING * self.steps as f64).ceil() as usize),
        }
    }

    /// The rate of step `t`, from 0: half a cosine from the whole rate to nothing (Loshchilov and Hutter,
    /// arXiv 1608.03983, equation 5, without restarts); from where every code is known a steeper one, from the rate there.
    pub fn rate_at(&self, t: usize, known: Option<usize>) -> f64 {
        let falling = |from: f64, part: f64| from * 0.5 * (1.0 + libm::cos(std::f64::consts::PI * part));
        let usual = |t: usize| falling(self.rate, t as f64 / self.steps as f64);
        match known.filter(|s| t > *s) {
            None => usual(t),
            Some(s) => falling(usual(s), (t - s) as f64 / (self.end(known) - s) as f64),
        }
    }
}

/// What codes and held-out samples said between two steps.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Look {
    /// Steps that were taken before.
    pub step: usize,
    /// Mean loss of the samples since the look before; absent at the first.
    pub loss: Option<f64>,
    /// Codes that are answered with their class.
    pub codes_answered: usize,
    /// Least probability that the classes of a code have on it.
    pub least_code: f64,
    /// Part of the held-out samples that is answered rightly; absent where none are held out.
    pub held_out: Option<f64>,
}

/// Why descent ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Ended {
    /// Every code was known some steps before.
    CodesKnown,
    /// All steps were taken.
    AllSteps,
}

/// What is learned from and what is looked at.
pub struct Material<'a> {
    /// Real samples, read as they are needed.
    pub data: &'a Source,
    /// The codes; their classes are among those of the samples.
    pub codes: &'a Labelled,
    /// For every code the classes that are an answer to it: several where they share it.
    pub answers: Vec<Vec<usize>>,
    /// Positions of the samples to learn from.
    pub learned: Vec<usize>,
    /// Samples to look at.
    pub held_out: Labelled,
}

impl<'a> Material<'a> {
    /// Holds some samples back, of every class as many as its part of all, in a choice that the seed decides.
    ///
    /// # Errors
    /// `Invalid` when nothing is left to learn from, or a class has a code and no sample; `Io` as [`Source::read`].
    pub fn new(data: &'a Source, codes: &'a Labelled, options: &Options) -> Result<Self> {
        let by_class = data.by_class();
        if let Some(c) = codes.y.iter().find(|c| !by_class.contains_key(c)) {
            return Err(Error::invalid(format!(
                "there is a code of class {c} and no sample of it, which the code could stand for"
            )));
        }
        let all: usize = by_class.values().map(Vec::len).sum();
        let (mut learned, mut held) = (Vec::new(), Vec::new());
        let mut rng = generator(options.seed, b"embed hold");
        for mut positions in by_class.into_values() {
            shuffle(&mut positions, &mut rng);
            let take = positions.len() * options.hold_out.min(all) / all.max(1);
            learned.extend(positions.split_off(take));
            held.extend(positions);
        }
        if learned.is_empty() {
            return Err(Error::invalid(format!(
                "all of {all} samples would be held out, and none is left to learn from; hold out fewer"
            )));
        }
        learned.sort_unstable();
        held.sort_unstable();
        Ok(Self { data, codes, answers: stands_for(codes)?, learned, held_out: data.read(&held)? })
    }
}

/// Where descent has come to.
pub struct Place {
    /// Weights and their velocities.
    pub state: State,
    /// All looks so far; the last is at this place.
    pub looks: Vec<Look>,
}

/// What fine-tuning made.
pub struct Embedded {
    /// The new weights, in the precision that was computed in.
    pub weights: Weights,
    /// All looks, the first before the first step.
    pub looks: Vec<Look>,
    /// Why it ended.
    pub ended: Ended,
    /// Weights that the answer does not depend on, which stay.
    pub unused: Vec<String>,
}

/// Steps of one classifier on one set of samples and codes.
pub struct Trainer<'a> {
    material: &'a Material<'a>,
    options: Options,
    draws: Draws,
    sgd: Sgd<'a>,
    answerer: Answerer,
    engine: &'a dyn Engine,
}

impl<'a> Trainer<'a> {
    /// Prepares the steps.
    ///
    /// # Errors
    /// `Invalid` as [`Options::check`]; as [`Classifier::gradients`].
    pub fn new(
        classifier: &Classifier,
        engine: &'a dyn Engine,
        material: &'a Material<'a>,
        options: Options,
    ) -> Result<Self> {
        options.check()?;
        let draws = Draws::new(material, &options);
        let sgd = Sgd::new(classifier, engine, &options)?;
        let looked_at = material.held_out.len().max(material.codes.len()).min(128);
        let answerer = Answerer::new(classifier, engine, looked_at, false)?;
        Ok(Self { material, options, draws, sgd, answerer, engine })
    }

    /// The weights as they came, at rest, and what codes and samples say of them.
    ///
    /// # Errors
    /// When the engine fails.
    pub fn start(&mut self, classifier: &Classifier) -> Result<Place> {
        let weights = Weights::upload(self.engine, &classifier.bind(1)?)?;
        let state = self.sgd.at_rest(weights)?;
        let look = self.look(&state.weights, 0, None)?;
        Ok(Place { state, looks: vec![look] })
    }

    /// A place that a file has kept.
    ///
    /// # Errors
    /// `Invalid` when its tensors are not those of this model.
    pub fn resume(&mut self, kept: checkpoint::Kept) -> Result<Place> {
        Ok(Place { state: self.sgd.resume(kept.weights, kept.velocities)?, looks: kept.looks })
    }

    /// Goes on until it ends. `tick` is told after every step how many are taken, `save` after every look but the last.
    ///
    /// # Errors
    /// `Invalid` when the loss is no longer finite; whatever `save` returns; and when the engine fails.
    pub fn run(
        &mut self,
        mut place: Place,
        tick: &mut dyn FnMut(usize),
        save: &mut dyn FnMut(&Place) -> Result<()>,
    ) -> Result<Embedded> {
        let mut step = place.looks.last().map_or(0, |l| l.step);
        let ended = loop {
            let known = self.known_at(&place.looks);
            let end = self.options.end(known);
            if step >= end {
                break if end < self.options.steps { Ended::CodesKnown } else { Ended::AllSteps };
            }
            let to = (step + self.options.look_every).min(end);
            let mut loss = self.sgd.no_loss()?;
            let samples = (to - step) * self.options.batch;
            for t in step..to {
                loss = self.step(&mut place.state, t, self.options.rate_at(t, known), loss)?;
                tick(t + 1);
            }
            step = to;
            let loss = loss.to_array()?.to_f64().first().copied().unwrap_or(f64::NAN);
            let mean = loss * self.options.batch as f64 / samples as f64;
            if !mean.is_finite() {
                return Err(Error::invalid(format!(
                    "the loss is not finite after {step} steps; start with a lesser rate"
                )));
            }
            let look = self.look(&place.state.weights, step, Some(mean))?;
            place.looks.push(look);
            if step < self.options.end(self.known_at(&place.looks)) {
                save(&place)?;
            }
        };
        let Place { state, looks } = place;
        Ok(Embedded { weights: state.weights, looks, ended, unused: self.sgd.unused.clone() })
    }

    /// One step; the loss so far, with that of this step added.
    fn step(&mut self, state: &mut State, t: usize, rate: f64, loss: Tensor) -> Result<Tensor> {
        let rows = self.draws.batch(t);
        let batch = self.samples(&rows)?;
        self.sgd.step(state, &batch, rate, loss)
    }

    /// The samples and codes of a step, in its order.
    fn samples(&self, rows: &[Row]) -> Result<Labelled> {
        let positions: Vec<usize> = rows
            .iter()
            .filter_map(|r| match r {
                Row::Sample(i) => Some(*i),
                Row::Code(_) => None,
            })
            .collect();
        // the codes come after the samples
        let mut real = 0;
        let order: Vec<usize> = rows
            .iter()
            .map(|r| match r {
                Row::Sample(_) => {
                    real += 1;
                    real - 1
                }
                Row::Code(k) => positions.len() + k,
            })
            .collect();
        if positions.is_empty() {
            return self.material.codes.select(&order);
        }
        self.material.data.read(&positions)?.concat(self.material.codes)?.select(&order)
    }

    /// What codes and held-out samples say of these weights.
    ///
    /// # Errors
    /// When the engine fails, or an answer is not finite.
    pub fn look(&mut self, weights: &Weights, step: usize, loss: Option<f64>) -> Result<Look> {
        let codes = self.answerer.answer(weights, weights, self.material.codes, &mut |_| ())?;
        let log_p = Answers::log_probabilities(&codes.logits, codes.classes);
        let wanted = &self.material.answers;
        let own = |(i, w): (usize, &Vec<usize>)| w.iter().map(|c| log_p[i * codes.classes + c].exp()).sum();
        let least_code = wanted.iter().enumerate().map(own).fold(f64::INFINITY, f64::min);
        let said = Answers::classes_of(&codes.logits, codes.classes);
        let codes_answered = said.iter().zip(wanted).filter(|(a, w)| w.contains(a)).count();
        if !codes.is_finite() {
            return Err(Error::invalid(format!("the answers to the codes are not finite after {step} steps")));
        }
        let held_out = match self.material.held_out.len() {
            0 => None,
            n => {
                let answers = self.answerer.answer(weights, weights, &self.material.held_out, &mut |_| ())?;
                Some(right(&answers, &self.material.held_out.y) as f64 / n as f64)
            }
        };
        Ok(Look { step, loss, codes_answered, least_code, held_out })
    }

    /// The step at which every code was first known.
    fn known_at(&self, looks: &[Look]) -> Option<usize> {
        let all = self.material.codes.len();
        looks.iter().find(|l| l.codes_answered == all && l.least_code >= self.options.until).map(|l| l.step)
    }
}

fn right(answers: &Answers, y: &[usize]) -> usize {
    Answers::classes_of(&answers.logits, answers.classes).iter().zip(y).filter(|(a, c)| a == c).count()
}
