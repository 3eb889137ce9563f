//! What steps into the body must leave alone, and what tells how far they may go.
//!
//! Inputs that were made from the model are answered with near certainty and are easily spared, while data are not: noise
//! that is mixed into them takes the certainty away. Guards give the directions in which the log-odds of the retained
//! classes change; a step has no part in them. Canaries are other inputs, with other noise, that no step spares.

use super::Aim;
use super::answers::Answers;
use crate::classifier::Classifier;
use crate::error::Result;
use crate::inputs::bounds::Bounds;
use crate::inputs::{Labelled, generator};
use crate::tensor::Array;
use rand::Rng;
use std::ops::Range;

/// Groups of retained classes that are guarded at most: each costs a gradient of every weight that moves.
const MOST_GROUPS: usize = 9;

/// Elements that all gradients of guards hold at most; there are fewer groups where the weights are many.
const MOST_ELEMENTS: usize = 1 << 27;

/// Inputs of a group that guard it, each as it is and with noise.
const GUARDS: usize = 1;

/// Inputs of a class that are canaries, at most.
const CANARIES: usize = 3;

/// Further inputs of a class that are watched as they are, where each class has so many.
const PLAIN: usize = 2;

/// A class counts that is the answer to so many canaries.
const LEAST_CANARIES: usize = 2;

/// Part of an input that noise replaces.
const NOISE: f64 = 0.5;

/// Inputs of some retained classes.
#[derive(Clone, Debug)]
pub struct Guard {
    /// As they are, then with noise.
    pub inputs: Labelled,
}

/// One guard for every retained class, or for a group of them, from the inputs that start at `from`.
///
/// # Errors
/// When the inputs are inconsistent.
pub(super) fn guards(data: &Labelled, aim: &Aim, from: usize, noise: &Noise, elements: usize) -> Result<Vec<Guard>> {
    let classes = retained(data, aim, from);
    let most = (MOST_ELEMENTS / elements.max(1)).clamp(1, MOST_GROUPS).min(classes.len());
    let mut all = Vec::new();
    for group in 0..most {
        let members: Vec<&Vec<usize>> = classes.iter().skip(group).step_by(most).collect();
        // where a group has many classes, some of them stand for it
        let take = members.len().min(GUARDS);
        let each = GUARDS.div_ceil(take);
        let spread = (0..take).map(|k| members[k * members.len() / take]);
        let positions: Vec<usize> = spread.flat_map(|m| m.iter().take(each)).copied().collect();
        let clean = data.select(&positions)?;
        let inputs = clean.concat(&noise.mixed_into(&clean, GUARD_NOISE)?)?;
        all.push(Guard { inputs });
    }
    Ok(all)
}

/// Inputs with noise that no guard has, and then some as they are.
pub(super) struct Canaries {
    pub(super) inputs: Labelled,
    /// Those with noise.
    noisy: usize,
    /// The class that each was answered with before, of those to retain.
    answers: Vec<usize>,
    before: Answers,
    forgotten: Vec<usize>,
}

impl Canaries {
    /// The retained inputs from `from` on that guard nothing, or all where a class has too few; and how many have noise.
    ///
    /// # Errors
    /// When the inputs are inconsistent.
    pub(super) fn choose(data: &Labelled, aim: &Aim, from: usize, noise: &Noise) -> Result<(Labelled, usize)> {
        let classes = retained(data, aim, from);
        let others = |m: &Vec<usize>| if m.len() > GUARDS { m[GUARDS..].to_vec() } else { m.clone() };
        let others: Vec<Vec<usize>> = classes.iter().map(others).collect();
        let first = others.iter().flat_map(|m| m.iter().take(CANARIES)).copied().collect::<Vec<_>>();
        let noisy = noise.mixed_into(&data.select(&first)?, CANARY_NOISE)?;
        if others.iter().any(|m| m.len() < CANARIES + PLAIN) {
            return Ok((noisy, first.len()));
        }
        let plain = others.iter().flat_map(|m| m[CANARIES..].iter().take(PLAIN)).copied().collect::<Vec<_>>();
        Ok((noisy.concat(&data.select(&plain)?)?, first.len()))
    }

    /// Remembers how they were answered before.
    pub(super) fn new(inputs: Labelled, noisy: usize, before: Answers, aim: &Aim) -> Self {
        let forgotten = aim.classes().to_vec();
        let answers = Answers::classes_of(&without(&before.logits, before.classes, &forgotten), before.classes);
        Self { inputs, noisy, answers, before, forgotten }
    }

    /// Least over the classes of the part that is left of the mean probability of what those with noise were answered with; the
    /// classes to forget do not count as answers, as the last layer will lose them.
    pub(super) fn spared(&self, now: &Answers) -> f64 {
        let p = |a: &Answers| without(&a.logits, a.classes, &self.forgotten);
        self.least(0..self.noisy, &self.answers, LEAST_CANARIES, &p(&self.before), &p(now))
    }

    /// Least over the classes of the part that is left of the mean probability of their own class that the others have.
    pub(super) fn kept(&self, now: &Answers) -> f64 {
        let p = |a: &Answers| Answers::log_probabilities(&a.logits, a.classes);
        self.least(self.noisy..self.inputs.len(), &self.inputs.y, 1, &p(&self.before), &p(now))
    }

    fn least(&self, among: Range<usize>, classes: &[usize], members: usize, before: &[f64], now: &[f64]) -> f64 {
        let c = self.before.classes;
        let mut sums = vec![(0, 0.0, 0.0); c];
        for i in among {
            let (class, at) = (classes[i], i * c + classes[i]);
            let s = &mut sums[class];
            *s = (s.0 + 1, s.1 + before[at].exp(), s.2 + now[at].exp());
        }
        sums.iter().filter(|s| s.0 >= members).map(|s| s.2 / s.1).fold(f64::INFINITY, f64::min)
    }
}

/// Log-probabilities among the classes to retain; −∞ for the others.
fn without(logits: &[f64], classes: usize, forgotten: &[usize]) -> Vec<f64> {
    let open = |(i, z): (usize, &f64)| if forgotten.contains(&(i % classes)) { f64::NEG_INFINITY } else { *z };
    Answers::log_probabilities(&logits.iter().enumerate().map(open).collect::<Vec<_>>(), classes)
}

/// Positions of the retained inputs from `from` on, of each class.
fn retained(data: &Labelled, aim: &Aim, from: usize) -> Vec<Vec<usize>> {
    let [_, others] = aim.sides(data);
    let late = others.into_values().map(|m| m.into_iter().filter(|&i| i >= from).collect::<Vec<_>>());
    late.filter(|m| !m.is_empty()).collect()
}

const GUARD_NOISE: &[u8] = b"guards";
const CANARY_NOISE: &[u8] = b"canaries";

/// Uniform noise over the range of the inputs.
pub(super) struct Noise {
    pub(super) bounds: Bounds,
    pub(super) seed: u64,
}

impl Noise {
    /// Over the range of each element, where the model tells it, else over that of these inputs.
    pub(super) fn over(classifier: &Classifier, inputs: &Labelled, seed: u64) -> Self {
        Self { bounds: classifier.bounds().cloned().unwrap_or_else(|| Bounds::even(inputs.range())), seed }
    }

    /// Numbers for the elements of samples, one after the other.
    pub(super) fn numbers(&self, purpose: &[u8]) -> impl FnMut(usize) -> f64 {
        let mut rng = generator(self.seed, purpose);
        move |i| {
            let (lo, hi) = self.bounds.at(i);
            lo + (hi - lo) * f64::from(rng.next_u32() >> 8) / f64::from(1u32 << 24)
        }
    }

    /// These inputs, half of each replaced by noise.
    fn mixed_into(&self, inputs: &Labelled, purpose: &[u8]) -> Result<Labelled> {
        let mut noise = self.numbers(purpose);
        let mix = |(i, v): (usize, f64)| (1.0 - NOISE) * v + NOISE * noise(i);
        let mixed: Vec<f64> = inputs.x.to_f64().into_iter().enumerate().map(mix).collect();
        let x = Array::from_vec(inputs.x.shape(), mixed)?.to_float(inputs.x.dtype());
        Ok(Labelled { x, y: inputs.y.clone(), extra: inputs.extra.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forget::{Method, Request};

    /// Two inputs of each of four classes; every element is its position.
    fn data() -> Labelled {
        let x = Array::from_vec(&[8, 1], (0..8).map(f64::from).collect::<Vec<_>>()).unwrap();
        Labelled::new(x, vec![0, 0, 1, 1, 2, 2, 3, 3]).unwrap()
    }

    fn noise(data: &Labelled) -> Noise {
        Noise { bounds: Bounds::even(data.range()), seed: 0 }
    }

    fn aim(data: &Labelled) -> Aim {
        Aim::new(&Request::new(vec![1], Method::Search(Vec::new())), data, 4).unwrap()
    }

    #[test]
    fn every_retained_class_is_guarded() {
        let data = data();
        let all = guards(&data, &aim(&data), 0, &noise(&data), 10).unwrap();
        let y: Vec<Vec<usize>> = all.iter().map(|g| g.inputs.y.clone()).collect();
        assert_eq!(y, [[0; 2], [2; 2], [3; 2]]);
        let x = all[2].inputs.x.to_f64();
        assert!(x[0] == 6.0 && x[1] >= 3.0 && x[1] <= 6.5 && x[1] != 6.0, "{x:?}");
        // few groups where the weights are many; one class stands for a group
        let few = guards(&data, &aim(&data), 0, &noise(&data), MOST_ELEMENTS / 2).unwrap();
        let y: Vec<Vec<usize>> = few.iter().map(|g| g.inputs.y.clone()).collect();
        assert_eq!(y, [[0; 2], [2; 2]]);
        // inputs before the first that counts guard nothing
        let late = guards(&data, &aim(&data), 5, &noise(&data), 10).unwrap();
        assert_eq!(late.iter().map(|g| g.inputs.y[0]).collect::<Vec<_>>(), [2, 3]);
    }

    #[test]
    fn the_worst_class_of_canaries_counts() {
        let data = data();
        let aim = aim(&data);
        let (inputs, noisy) = Canaries::choose(&data, &aim, 0, &noise(&data)).unwrap();
        assert_eq!((&inputs.y[..], noisy), (&[0, 2, 3][..], 3));
        let answers = |z: [f64; 4]| Answers { classes: 4, logits: z.repeat(3), old_head: None };
        // class 1 is to be forgotten: class 0 is the answer, with 1/2 of what is left, then with 1/4
        let ln = f64::ln;
        let canaries = Canaries::new(inputs, noisy, answers([ln(2.0), ln(90.0), 0.0, 0.0]), &aim);
        let now = answers([0.0, 50.0, 0.0, ln(2.0)]);
        assert!((canaries.spared(&now) - 0.5).abs() < 1e-12);
        assert!(canaries.kept(&now) == f64::INFINITY);
    }

    #[test]
    fn inputs_as_they_are_are_watched_where_there_are_enough() {
        let n = 1 + CANARIES + PLAIN;
        let x = Array::from_vec(&[2 * n, 1], (0..2 * n).map(|i| i as f64).collect::<Vec<_>>()).unwrap();
        let data = Labelled::new(x, [vec![0; n], vec![1; n]].concat()).unwrap();
        let aim = Aim::new(&Request::new(vec![1], Method::Search(Vec::new())), &data, 2).unwrap();
        let (inputs, noisy) = Canaries::choose(&data, &aim, 0, &noise(&data)).unwrap();
        assert_eq!((inputs.len(), noisy), (n - 1, CANARIES));
        assert_eq!(inputs.x.to_f64()[CANARIES..], [4.0, 5.0]);
        // p of class 0 falls from 3/4 to 1/4 for those with noise, and from 3/4 to 1/2 for the others
        let rows = |noisy: f64, plain: f64| {
            let z = [[noisy.ln(), 0.0].repeat(CANARIES), [plain.ln(), 0.0].repeat(PLAIN)].concat();
            Answers { classes: 2, logits: z, old_head: None }
        };
        let canaries = Canaries::new(inputs, noisy, rows(3.0, 3.0), &aim);
        assert!((canaries.kept(&rows(1.0 / 3.0, 1.0)) - 2.0 / 3.0).abs() < 1e-12);
        // class 1 does not count as an answer to those with noise
        assert!((canaries.spared(&rows(1.0 / 3.0, 1.0)) - 1.0).abs() < 1e-12);
    }
}
