//! Labelled inputs for a model that never saw any: each is found by gradient descent on the model's input, from noise
//! to something that is answered with its class, without data and without training.

use super::bounds::Bounds;
use super::descent::{Arrived, Course, Descent};
use super::{Labelled, generator};
use crate::classifier::Classifier;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::tensor::{Array, DType, TensorType};
use rand::Rng;
use std::collections::BTreeMap;

/// Samples that go down together; it bounds the memory that activations take.
const MAX_BATCH: usize = 64;

/// Ranges that are tried where none is given, in this order: pixels divided by 255, the same around zero, pixels less
/// their mean and divided by their deviation, plain pixels.
const RANGES: [(f64, f64); 4] = [(0.0, 1.0), (-1.0, 1.0), (-2.5, 2.5), (0.0, 255.0)];

/// Where bounds come from that the model itself tells.
const OF_MODEL: &str = "of each element two deviations around the mean that the model takes away from it";

/// Steps of the descents that tell ranges apart, and the classes that take part in them.
const PROBE: (usize, usize) = (40, 32);

/// A range will do when this part of the classes is reached in it.
const ENOUGH: f64 = 0.9;

/// How inputs are made.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Options {
    /// Inputs of each class.
    pub per_class: usize,
    /// Adam steps of each.
    pub steps: usize,
    /// Decides the noise that descent starts from.
    pub seed: u64,
    /// Least and greatest element; found where absent.
    pub range: Option<(f64, f64)>,
    /// Length of a step, as a part of the range.
    pub rate: f64,
    /// Weight of the mean total variation of an image whose range is 1.
    pub tau: f64,
}

impl Default for Options {
    fn default() -> Self {
        Self { per_class: 8, steps: 200, seed: 0, range: None, rate: 0.05, tau: 1.0 }
    }
}

impl Options {
    /// For inputs that only tell how data fare, beside others that are given: half the steps.
    pub fn beside() -> Self {
        Self { steps: 100, ..Self::default() }
    }

    /// The same in a fraction of the time, where classes to forget have more inputs than others ([`Few`]).
    pub fn few() -> Self {
        Self { steps: 80, ..Self::default() }
    }
}

/// How many inputs are made where they are few. Found by trying (docs/benchmarks.md).
#[derive(Clone, Copy, Debug)]
pub struct Few;

impl Few {
    /// Of every class to forget: the direction of the steps comes from these.
    const FORGOTTEN: usize = 8;
    /// Of a class to retain: one guards it, and the others tell how it fares.
    const RETAINED: usize = 3;
    /// Classes to retain that have any, at most; spread evenly over all.
    const CLASSES: usize = 24;

    /// Of so many classes, the number of inputs of each.
    pub fn each(self, classes: usize, forgotten: &[usize]) -> Vec<usize> {
        let retained: Vec<usize> = (0..classes).filter(|c| !forgotten.contains(c)).collect();
        let take = retained.len().min(Self::CLASSES);
        let chosen: Vec<usize> = (0..take).filter_map(|k| retained.get(k * retained.len() / take).copied()).collect();
        let of = |c: usize| match (forgotten.contains(&c), chosen.contains(&c)) {
            (true, _) => Self::FORGOTTEN,
            (_, true) => Self::RETAINED,
            _ => 0,
        };
        (0..classes).map(of).collect()
    }
}

/// Inputs that were made, and what is to be said of them.
#[derive(Clone, Debug, PartialEq)]
pub struct Synthesised {
    /// All of class 0, then of class 1, ...
    pub inputs: Labelled,
    /// Least and greatest element.
    pub range: (f64, f64),
    /// Where the range comes from, one sentence.
    pub range_reason: String,
    /// Inputs that the model answers with their class, with a probability of one half at least.
    pub reached: usize,
    /// What the user should know: inputs of the model that were held at a neutral value.
    pub notes: Vec<String>,
}

/// What is going on, for progress: steps done, of so many.
pub type Tick<'a> = &'a mut dyn FnMut(usize, usize);

/// Makes `per_class` inputs of every class by descent on `ℓ(x, c) + τ · TV(x)` with Adam, clipped to the range.
///
/// Sample `k` of class `c` starts from uniform noise that depends on the seed, `c` and `k` alone. Total variation counts
/// for inputs that look like images.
///
/// # Errors
/// When the model does not take floats, no range reaches a class, or the engine fails.
pub fn synthesise(
    classifier: &Classifier,
    engine: &dyn Engine,
    options: &Options,
    progress: Tick,
) -> Result<Synthesised> {
    synthesise_each(classifier, engine, options, &vec![options.per_class; classifier.classes()], progress)
}

/// As [`synthesise`], with a number of inputs for each class; that of `options` does not count.
///
/// # Errors
/// As [`synthesise`].
pub fn synthesise_each(
    classifier: &Classifier,
    engine: &dyn Engine,
    options: &Options,
    each: &[usize],
    progress: Tick,
) -> Result<Synthesised> {
    check(options)?;
    let input = classifier.input();
    if !input.dtype.is_float() {
        return Err(Error::unsupported(format!(
            "the model takes {input}: inputs of integers are found at the output of the embedding, which 'forget' without --inputs does; no file can hold them"
        )));
    }
    let (neutral, notes) = neutral_inputs(classifier);
    let wanted: Vec<(usize, usize)> = each.iter().enumerate().flat_map(|(c, &n)| (0..n).map(move |k| (c, k))).collect();
    let probed: Vec<(usize, usize)> = (0..classifier.classes().min(PROBE.1)).map(|c| (c, 0)).collect();
    let known = match (options.range, classifier.embedding_range()) {
        (Some(range), _) => Some((Bounds::even(range), "given")),
        (None, Some(range)) => {
            Some((Bounds::even(range), "two deviations around the mean of the embedding's elements"))
        }
        (None, None) => classifier.bounds().map(|b| (b.clone(), OF_MODEL)),
    };
    let probes = if known.is_none() { PROBE.0 * RANGES.len() } else { 0 };
    let extents = known.as_ref().map_or(Vec::new(), |(bounds, _)| bounds.extents());
    let mut descent = Descent::new(classifier, engine, wanted.len().min(MAX_BATCH), &neutral, &extents)?;
    let batches = |n: usize| n.div_ceil(descent.batch());
    let total = options.steps * batches(wanted.len()) + probes * batches(probed.len());
    let mut done = 0;
    let mut tick = || {
        done += 1;
        progress(done.min(total), total);
    };
    let course = |bounds| Course { steps: options.steps, rate: options.rate, tau: options.tau, bounds };
    let mut maker = Maker {
        shape: classifier.sample_shape().to_vec(),
        float: input.dtype,
        seed: options.seed,
        descent: &mut descent,
    };
    let (bounds, range_reason) = match known {
        Some((bounds, reason)) => (bounds, reason.to_owned()),
        None => maker.find_range(&probed, &course, &mut tick)?,
    };
    let range = bounds.whole();
    let made = maker.make(&wanted, &course(bounds), &mut tick)?;
    let n = wanted.len();
    let extra = neutral.iter().map(|(name, one)| Ok((name.clone(), super::descent::repeated(one, n)?)));
    let inputs =
        Labelled { x: made.x, y: wanted.iter().map(|(c, _)| *c).collect(), extra: extra.collect::<Result<_>>()? };
    Ok(Synthesised { inputs, range, range_reason, reached: reached(&made.losses), notes })
}

/// Goes down from inputs that there are already, such as codes of an older version of the model, to inputs of the same
/// classes that this model answers. The range is that of their elements where none is given. Of `options` the number a
/// class and the seed do not count.
///
/// # Errors
/// As [`synthesise`]; also when the model has several inputs.
pub fn refine(
    classifier: &Classifier,
    engine: &dyn Engine,
    from: &Labelled,
    options: &Options,
    progress: Tick,
) -> Result<Synthesised> {
    check(options)?;
    if let Some(name) = from.extra.keys().next() {
        return Err(Error::unsupported(format!("the model has a second input '{name}'; descent is on one input")));
    }
    let (bounds, range_reason) = match (options.range, classifier.bounds()) {
        (Some(range), _) => (Bounds::even(range), "given"),
        (None, Some(bounds)) => (bounds.clone(), OF_MODEL),
        (None, None) => (Bounds::even(from.range()), "that of the codes"),
    };
    let range = bounds.whole();
    check(&Options { range: Some(range), ..*options })?;
    let course = Course { steps: options.steps, rate: options.rate, tau: options.tau, bounds };
    let extents = course.bounds.extents();
    let mut descent = Descent::new(classifier, engine, from.len().min(MAX_BATCH), &BTreeMap::new(), &extents)?;
    let batch = descent.batch();
    let total = options.steps * from.len().div_ceil(batch);
    let (mut x, mut losses, mut done) = (Vec::new(), Vec::new(), 0);
    for first in (0..from.len()).step_by(batch) {
        let n = batch.min(from.len() - first);
        // a batch is filled up with copies of its last sample
        let positions: Vec<usize> = (0..batch).map(|i| first + i.min(n - 1)).collect();
        let part = from.select(&positions)?;
        let arrived = descent.run(part.x.to_float(classifier.float()), &part.y, &course, &mut || {
            done += 1;
            progress(done, total);
        })?;
        x.extend(arrived.x.to_f64().into_iter().take(arrived.x.len() / batch * n));
        losses.extend(arrived.losses.into_iter().take(n));
    }
    let inputs = Labelled::new(Array::from_vec(from.x.shape(), x)?.to_float(classifier.float()), from.y.clone())?;
    Ok(Synthesised {
        inputs,
        range,
        range_reason: range_reason.to_owned(),
        reached: reached(&losses),
        notes: Vec::new(),
    })
}

fn check(o: &Options) -> Result<()> {
    if o.per_class == 0 || o.steps == 0 {
        return Err(Error::invalid("at least one input a class and one step are needed"));
    }
    match o.range {
        Some((lo, hi)) if !(lo < hi && (lo as f32).is_finite() && (hi as f32).is_finite()) => {
            Err(Error::invalid(format!("a range needs lo < hi, not {lo} and {hi}")))
        }
        _ => Ok(()),
    }
}

/// Inputs whose class has a probability of one half at least.
fn reached(losses: &[f64]) -> usize {
    losses.iter().filter(|l| **l <= std::f64::consts::LN_2).count()
}

struct Maker<'a> {
    shape: Vec<usize>,
    float: DType,
    seed: u64,
    descent: &'a mut Descent,
}

impl Maker<'_> {
    /// Inputs for these (class, number) pairs, in this order.
    fn make(&mut self, wanted: &[(usize, usize)], course: &Course, tick: &mut dyn FnMut()) -> Result<Arrived> {
        let batch = self.descent.batch();
        let (mut x, mut losses) = (Vec::new(), Vec::new());
        for part in wanted.chunks(batch) {
            // a batch is filled up with copies of its last sample
            let full: Vec<(usize, usize)> = (0..batch).map(|i| part[i.min(part.len() - 1)]).collect();
            let classes: Vec<usize> = full.iter().map(|(c, _)| *c).collect();
            let start = self.noise(&full, &course.bounds)?;
            let arrived = self.descent.run(start, &classes, course, tick)?;
            let each = arrived.x.len() / batch;
            x.extend(arrived.x.to_f64().into_iter().take(each * part.len()));
            losses.extend(arrived.losses.into_iter().take(part.len()));
        }
        let shape = [&[wanted.len()], &self.shape[..]].concat();
        Ok(Arrived { x: Array::from_vec(&shape, x)?.to_float(self.float), losses })
    }

    /// Uniform noise over the range.
    fn noise(&self, samples: &[(usize, usize)], bounds: &Bounds) -> Result<Array> {
        let each: usize = self.shape.iter().product();
        let mut x = Vec::with_capacity(each * samples.len());
        for &(c, k) in samples {
            let mut rng = generator(self.seed, b"synthesis");
            rng.set_stream(((c as u64) << 32) | k as u64);
            let mut uniform = || f64::from(rng.next_u32() >> 8) / f64::from(1u32 << 24);
            x.extend((0..each).map(|i| {
                let (lo, hi) = bounds.at(i);
                lo + (hi - lo) * uniform()
            }));
        }
        Ok(Array::from_vec(&[&[samples.len()], &self.shape[..]].concat(), x)?.to_float(self.float))
    }

    /// The first range in which nearly all classes are reached in few steps; else the one that reaches most.
    fn find_range(
        &mut self,
        probed: &[(usize, usize)],
        course: &dyn Fn(Bounds) -> Course,
        tick: &mut dyn FnMut(),
    ) -> Result<(Bounds, String)> {
        let mut best: Option<((f64, f64), usize)> = None;
        for range in RANGES {
            let Ok(found) = self.make(probed, &Course { steps: PROBE.0, ..course(Bounds::even(range)) }, tick) else {
                continue;
            };
            let n = reached(&found.losses);
            if best.is_none_or(|(_, most)| n > most) {
                best = Some((range, n));
            }
            if n as f64 >= ENOUGH * probed.len() as f64 {
                break;
            }
        }
        match best {
            Some((range, n)) if n > 0 => {
                let reason = format!("tried: {n} of {} classes are reached in it", probed.len());
                Ok((Bounds::even(range), reason))
            }
            _ => {
                let tried: Vec<String> = RANGES.iter().map(|(lo, hi)| format!("{lo} to {hi}")).collect();
                Err(Error::invalid(format!(
                    "no input was found that the model answers with a class of its own, with elements {}; give the range of the model's input with --range, or labelled inputs with --inputs",
                    tried.join(", ")
                )))
            }
        }
    }
}

/// One sample of every input but the first: ones where the name says that it is a mask, else zeros; and what to say
/// of it.
fn neutral_inputs(classifier: &Classifier) -> (BTreeMap<String, Array>, Vec<String>) {
    let (mut all, mut notes) = (BTreeMap::new(), Vec::new());
    for (name, ty) in classifier.extra_inputs() {
        let is_mask = name.to_lowercase().contains("mask");
        notes.push(format!("input '{name}' is held at {}", if is_mask { "ones" } else { "zeros" }));
        all.insert(name, filled(&ty, is_mask));
    }
    (all, notes)
}

fn filled(ty: &TensorType, one: bool) -> Array {
    match ty.dtype {
        DType::Bool => Array::full(&ty.shape, one),
        DType::F32 | DType::F64 => Array::full_float(ty.dtype, &ty.shape, f64::from(u8::from(one))),
        _ => Array::full(&ty.shape, i64::from(one)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_to_forget_have_more_inputs() {
        assert_eq!(Few.each(4, &[1, 3]), [3, 8, 3, 8]);
        let many = Few.each(1000, &[7]);
        assert_eq!(many.iter().filter(|n| **n == 3).count(), 24);
        assert_eq!((many[7], many[0], many.iter().sum::<usize>()), (8, 3, 8 + 24 * 3));
        // spread over all
        assert!(many[900..].iter().sum::<usize>() >= 3);
    }
}
