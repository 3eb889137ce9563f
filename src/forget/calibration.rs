//! Real samples that a search listens to beside its inputs. Inputs may be codes, which say less of data the better they
//! were learned; a few samples say it themselves. They are no part of the Fisher unless that is asked for.

use super::Aim;
use super::answers::Answers;
use super::search::Depth;
use super::walk::{least_kept, log_odds};
use crate::error::{Error, Result};
use crate::inputs::Labelled;

/// Samples of the retained classes keep this part of their probability: of the mean, and on an ascent the worst class of
/// its own.
const KEPT: f64 = 0.985;

/// The same for [`Depth::Body`], which pays for depth.
const KEPT_DEEP: f64 = 0.95;

/// Samples to forget count as lost at this part of their probability.
const LOST: f64 = 0.1;

/// Part of the samples to forget that may still be answered in a result, and of the retained ones that may be lost.
const STILL_ANSWERED: f64 = 0.02;
const NO_LONGER_RIGHT: f64 = 0.015;

/// What the model answers to the samples.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Seen {
    /// Samples of the classes to forget.
    pub forgotten_samples: usize,
    /// Of these, answered with a class to forget.
    pub forgotten_answered: usize,
    /// The same under the old head; absent where the model has no body.
    pub old_head_answered: Option<usize>,
    /// Samples of all other classes.
    pub retained_samples: usize,
    /// Of these, answered with their own class.
    pub retained_right: usize,
    /// Mean probability of the classes to forget on the former; 0 where there are none.
    pub forget_probability: f64,
    /// Mean probability of their own class on the latter; 0 where there are none.
    pub retained_probability: f64,
}

impl Seen {
    /// True when the samples to forget are unanswered and the others answered as before, but for few.
    pub(super) fn is_good(&self, start: &Self) -> bool {
        self.doubts(start).is_empty()
    }

    /// True when the samples to forget have lost their probability.
    pub(super) fn has_lost(&self, start: &Self) -> bool {
        self.forget_probability <= LOST * start.forget_probability
    }

    /// True when the others have kept theirs.
    pub(super) fn keeps(&self, start: &Self) -> bool {
        self.retained_probability >= KEPT * start.retained_probability
    }

    /// What of these answers speaks against a result.
    pub(super) fn doubts(&self, start: &Self) -> Vec<String> {
        let part = |k: usize, n: usize| k as f64 / n.max(1) as f64;
        let percent = |v: f64| format!("{:.0} %", 100.0 * v);
        let mut all = Vec::new();
        let still = part(self.forgotten_answered, self.forgotten_samples);
        if still > STILL_ANSWERED {
            all.push(format!("{} of the calibration samples to forget are still answered", percent(still)));
        }
        let n = self.retained_samples;
        // one sample more is no evidence
        if (start.retained_right as f64) > self.retained_right as f64 + NO_LONGER_RIGHT * n as f64 + 0.5 {
            all.push(format!(
                "{} of the other calibration samples are answered rightly, {} before",
                percent(part(self.retained_right, n)),
                percent(part(start.retained_right, n))
            ));
        }
        all
    }
}

/// Samples behind the inputs, and which of them are to be forgotten.
pub(super) struct Calibration {
    /// The inputs, then the samples: what the model is shown at each trial.
    pub(super) shown: Labelled,
    inputs: usize,
    y: Vec<usize>,
    aim: Aim,
}

impl Calibration {
    /// Samples for a request that means `aim` on its inputs.
    ///
    /// # Errors
    /// `Invalid` when there are none, or they do not fit the inputs.
    pub(super) fn new(inputs: &Labelled, samples: &Labelled, aim: &Aim) -> Result<Self> {
        if samples.is_empty() {
            return Err(Error::invalid("there are no calibration samples"));
        }
        let shown = inputs.concat(samples).map_err(|e| e.at("the calibration samples"))?;
        Ok(Self { shown, inputs: inputs.len(), y: samples.y.clone(), aim: aim.on(samples) })
    }

    /// The answers to the samples among those to all that is shown.
    fn part(&self, answers: &Answers) -> Answers {
        let from = self.inputs * answers.classes;
        let rest = |z: &Vec<f64>| z[from..].to_vec();
        Answers {
            classes: answers.classes,
            logits: rest(&answers.logits),
            old_head: answers.old_head.as_ref().map(rest),
        }
    }

    /// What the answers to all that is shown say of the samples.
    pub(super) fn see(&self, answers: &Answers) -> Seen {
        let own = self.part(answers);
        let c = own.classes;
        let log_p = Answers::log_probabilities(&own.logits, c);
        let still = self.aim.still(0..self.y.len(), &self.y, &own, &own);
        let mut seen = Seen {
            forgotten_samples: still.samples,
            forgotten_answered: still.after,
            old_head_answered: still.old_head,
            retained_samples: self.y.len() - still.samples,
            retained_right: self.aim.right(&self.y, &own),
            forget_probability: 0.0,
            retained_probability: 0.0,
        };
        for (i, y) in self.y.iter().enumerate() {
            if self.aim.forgets(i) {
                seen.forget_probability += self.aim.answers(y).iter().map(|k| log_p[i * c + k].exp()).sum::<f64>();
            } else {
                seen.retained_probability += log_p[i * c + y].exp();
            }
        }
        seen.forget_probability /= seen.forgotten_samples.max(1) as f64;
        seen.retained_probability /= seen.retained_samples.max(1) as f64;
        seen
    }

    /// True when the ascent may go on: every retained class keeps its part.
    pub(super) fn allows(&self, before: &Answers, now: &Answers, depth: Depth) -> bool {
        let kept = if depth == Depth::Body { KEPT_DEEP } else { KEPT };
        least_kept(&self.part(before), &self.part(now), &self.y, &self.aim) >= kept
    }

    /// True when the old head gives the samples to forget log-odds as far below nought as they were above, or there are none.
    pub(super) fn is_deep(&self, before: &Answers, now: &Answers) -> bool {
        let odds = |z: &[f64]| log_odds(z, before.classes, &self.y, &self.aim);
        let (before, now) = (self.part(before), self.part(now));
        let now = odds(now.old_head.as_ref().unwrap_or(&now.logits));
        now.is_nan() || now <= -odds(&before.logits).max(0.0)
    }

    /// True when no more samples to forget are answered than a result may leave, or there are none.
    pub(super) fn is_unanswered(&self, answers: &Answers) -> bool {
        let seen = self.see(answers);
        seen.forgotten_answered as f64 <= STILL_ANSWERED * seen.forgotten_samples as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forget::{Method, Request};
    use crate::tensor::Array;

    fn labelled(y: &[usize]) -> Labelled {
        Labelled::new(Array::full(&[y.len(), 1], 0f32), y.to_vec()).unwrap()
    }

    fn calibration(y: &[usize]) -> Calibration {
        let inputs = labelled(&[0, 1, 2]);
        let aim = Aim::new(&Request::new(vec![2], Method::Search(Vec::new())), &inputs, 3).unwrap();
        Calibration::new(&inputs, &labelled(y), &aim).unwrap()
    }

    /// Certain answers: logits of 3 inputs, then of the samples.
    fn answers(classes: &[usize]) -> Answers {
        let logits = [0, 1, 2].iter().chain(classes).flat_map(|&c| (0..3).map(move |k| if k == c { 5.0 } else { 0.0 }));
        Answers { classes: 3, logits: logits.collect(), old_head: None }
    }

    #[test]
    fn samples_are_told_from_inputs() {
        let c = calibration(&[2, 2, 0, 1]);
        let (before, after) = (c.see(&answers(&[2, 0, 0, 1])), c.see(&answers(&[0, 0, 0, 0])));
        assert_eq!((before.forgotten_samples, before.forgotten_answered), (2, 1));
        assert_eq!((before.retained_samples, before.retained_right), (2, 2));
        assert_eq!((after.forgotten_answered, after.retained_right), (0, 1));
        let hidden = Answers { old_head: Some(answers(&[2, 2, 0, 1]).logits), ..answers(&[0, 0, 0, 1]) };
        assert_eq!((c.see(&hidden).old_head_answered, after.old_head_answered), (Some(2), None));
        assert!(before.retained_probability > 0.98 && after.retained_probability < 0.51);
        assert!(after.has_lost(&before) && !after.keeps(&before));
        assert!(c.is_unanswered(&answers(&[0, 1, 2, 2])) && !c.is_unanswered(&answers(&[0, 2, 2, 2])));
        assert!(c.allows(&answers(&[2, 2, 0, 1]), &answers(&[0, 0, 0, 1]), Depth::Auto));
        assert!(!c.allows(&answers(&[2, 2, 0, 1]), &answers(&[2, 2, 0, 0]), Depth::Body));
        assert!(c.is_deep(&answers(&[2, 2, 0, 1]), &answers(&[0, 0, 0, 1])));
        assert!(!c.is_deep(&answers(&[2, 2, 0, 1]), &answers(&[2, 0, 0, 1])));
    }

    #[test]
    fn one_side_alone_says_nothing_of_the_other() {
        let retained = calibration(&[0, 1]);
        let (before, after) = (answers(&[0, 1]), answers(&[0, 1]));
        assert!(retained.is_deep(&before, &after) && retained.is_unanswered(&after));
        assert!(retained.see(&after).is_good(&retained.see(&before)));
        let forgotten = calibration(&[2]);
        assert!(forgotten.allows(&answers(&[2]), &answers(&[0]), Depth::Auto));
        assert!(forgotten.see(&answers(&[2])).doubts(&forgotten.see(&answers(&[2])))[0].contains("100 %"));
    }
}
