//! Gradient descent on a model's input, one Adam step a run; inputs and moments stay where the engine works.

use super::bounds::Bounds;
use crate::autodiff::gradient::{cross_entropy, free_name};
use crate::autodiff::{Samples, backward};
use crate::classifier::{Classifier, placed};
use crate::each_type;
use crate::engine::fit::{self, Lighter};
use crate::engine::{Engine, Session, Tensor};
use crate::error::{Error, Result};
use crate::graph::{Attrs, Batch, Graph, ValueId, order, passes};
use crate::ops::{Pen, reduce_sum, reshape};
use crate::tensor::{Array, DType, TensorType};
use ndarray::Axis;
use std::collections::BTreeMap;

/// Decay of Adam's first and second moment (Kingma and Ba, arXiv 1412.6980, algorithm 1), and what keeps its
/// quotient finite.
const BETA1: f64 = 0.9;
const BETA2: f64 = 0.999;
const EPSILON: f64 = 1e-8;

/// How far and where to.
#[derive(Clone, Debug)]
pub(super) struct Course {
    /// Adam steps.
    pub(super) steps: usize,
    /// Length of a step, as a part of the range.
    pub(super) rate: f64,
    /// Weight of the total variation of an input whose range is 1.
    pub(super) tau: f64,
    /// Least and greatest element.
    pub(super) bounds: Bounds,
}

/// A prepared step `x ← clip(x − rate · m̂ / (√v̂ + ε))` on `Σ_n ℓ(x_n, c_n) + τ · TV(x_n)`.
pub(super) struct Descent {
    session: Box<dyn Session>,
    extra: Vec<Array>,
    x: TensorType,
    batch: usize,
    /// Brings the samples of the model's input to its first axis.
    to_front: Vec<usize>,
    /// And back.
    to_place: Vec<usize>,
}

/// Inputs after the last step, and the cross-entropy of each before it.
pub(super) struct Arrived {
    pub(super) x: Array,
    pub(super) losses: Vec<f64>,
}

impl Descent {
    /// Prepares steps for `batch` samples (or as many as the model fixes); `extra` has one sample of each further
    /// input by name, and `extents` are those of the bounds ([`Bounds::extents`]).
    ///
    /// # Errors
    /// When the first input is not of floats, an op on the way has no derivative, or the engine fails.
    pub(super) fn new(
        classifier: &Classifier,
        engine: &dyn Engine,
        batch: usize,
        extra: &BTreeMap<String, Array>,
        extents: &[usize],
    ) -> Result<Self> {
        let mut batch = batch;
        loop {
            let step = Step::new(classifier, engine, batch, extra, extents)?;
            let Some(limit) = classifier.memory_limit() else { return step.prepare(engine) };
            let bytes = |g: &Graph| {
                let beside = if engine.on_device() { 0 } else { fit::beside(classifier) };
                Ok(engine.forecast(g)?.saturating_add(beside))
            };
            if bytes(&step.graph)? <= limit {
                return step.prepare(engine);
            }
            if step.graph.batch == batch && batch > 1 {
                batch -= (batch / 4).max(1);
                continue;
            }
            let found = match engine.keeps_order() {
                true => fit::lighter(&step.graph, step.labels, Some(limit), bytes)?,
                false => None,
            };
            return match found {
                Some(Lighter { graph, bytes, .. }) if bytes <= limit => Step { graph, ..step }.prepare(engine),
                found => {
                    let (least, parts) = match found {
                        Some(l) => (l.bytes, l.parts),
                        None => (bytes(&step.graph)?, 1),
                    };
                    Err(fit::too_much("a step of the descent", least, parts, engine, limit))
                }
            };
        }
    }

    /// Samples a run takes.
    pub(super) fn batch(&self) -> usize {
        self.batch
    }

    /// Goes down from `x`, samples first, for these classes, one of each sample. `tick` is called after every step.
    ///
    /// # Errors
    /// When the engine fails, or an element is not finite.
    pub(super) fn run(
        &mut self,
        x: Array,
        classes: &[usize],
        course: &Course,
        tick: &mut dyn FnMut(),
    ) -> Result<Arrived> {
        let bounds = &course.bounds;
        let float = self.x.dtype;
        let scalar = |v: f64| Tensor::Host(Array::full_float(float, &[], v));
        let zeros = || Tensor::Host(Array::full_float(float, &self.x.shape, 0.0));
        let labels: Vec<i64> = classes.iter().map(|&c| i64::try_from(c).unwrap_or(i64::MAX)).collect();
        let mut state = vec![Tensor::Host(x.transposed(&self.to_place)), zeros(), zeros()];
        let ends = [bounds.map(float, |lo, _| lo)?, bounds.map(float, |_, hi| hi)?].map(Tensor::Host);
        let mut losses = None;
        for step in 1..=course.steps {
            let t = i32::try_from(step).unwrap_or(i32::MAX);
            // both bias corrections of Adam as one factor on the step
            let corrected = (1.0 - BETA2.powi(t)).sqrt() / (1.0 - BETA1.powi(t));
            let mut feeds = vec![state[0].clone()];
            feeds.extend(self.extra.iter().cloned().map(Tensor::Host));
            feeds.push(Tensor::Host(Array::ints(&labels)));
            feeds.extend(state.drain(1..));
            let rate = bounds.map(float, |lo, hi| course.rate * (hi - lo) * corrected)?;
            feeds.extend([Tensor::Host(rate), scalar(course.tau / bounds.span())]);
            feeds.extend(ends.iter().cloned());
            let mut out = self.session.run(&feeds)?;
            losses = out.pop();
            state = out;
            tick();
        }
        let x = state.swap_remove(0).to_array()?.transposed(&self.to_front);
        let losses = losses.map_or(Ok(Vec::new()), |l| l.to_array().map(|a| a.to_f64()))?;
        if !x.is_finite() || !losses.iter().all(|l| l.is_finite()) {
            let (lo, hi) = bounds.whole();
            return Err(Error::invalid(format!("descent from {lo} to {hi} ends in numbers that are not finite")));
        }
        Ok(Arrived { x, losses })
    }
}

/// The graph of a step and what belongs to it.
struct Step {
    graph: Graph,
    labels: ValueId,
    extra: Vec<Array>,
    x: TensorType,
    to_front: Vec<usize>,
    to_place: Vec<usize>,
}

impl Step {
    fn prepare(self, engine: &dyn Engine) -> Result<Descent> {
        let Self { graph, extra, x, to_front, to_place, .. } = self;
        Ok(Descent { session: engine.prepare(&graph)?, extra, x, batch: graph.batch, to_front, to_place })
    }

    fn new(
        classifier: &Classifier,
        engine: &dyn Engine,
        batch: usize,
        extra: &BTreeMap<String, Array>,
        extents: &[usize],
    ) -> Result<Self> {
        let mut g = classifier.bind(batch)?.graph;
        let x = *g.inputs.first().ok_or_else(|| Error::unsupported("the model has no input"))?;
        let ty = g.value(x).ty.clone();
        let name = g.label(x);
        if !ty.dtype.is_float() {
            return Err(Error::unsupported(format!("input '{name}' is {ty}: only floats can be found by descent")));
        }
        let n = g.batch;
        let axis = match g.value(x).batch {
            Batch::Axis { axis, .. } => axis,
            _ => 0,
        };
        let (to_front, to_place) = moves(axis, ty.shape.len());
        let named = |id: &ValueId| {
            let name = g.label(*id);
            let one =
                extra.get(&name).ok_or_else(|| Error::internal(format!("input '{name}' has no neutral value")))?;
            placed(&repeated(one, n)?, &g, *id)
        };
        let extra = g.inputs[1..].iter().map(named).collect::<Result<_>>()?;
        let head = classifier.head(&g)?;
        g.set_scope("loss");
        let labels = free_name(&g, "labels");
        let labels = g.input(labels, TensorType::new(DType::I64, [n]), Batch::LEADING);
        let feed = |g: &mut Graph, what: &str, ty: TensorType| {
            let name = free_name(g, what);
            g.input(name, ty, Batch::None)
        };
        let m = feed(&mut g, "first moment", ty.clone());
        let v = feed(&mut g, "second moment", ty.clone());
        let scalar = TensorType::new(ty.dtype, []);
        let each = TensorType::new(ty.dtype, extents);
        let [rate, tau, lo, hi] = [("rate", &each), ("tau", &scalar), ("lo", &each), ("hi", &each)]
            .map(|(name, ty)| feed(&mut g, name, ty.clone()));
        let entropy = cross_entropy(&mut g, &head, labels)?;
        let mut seeds = vec![(entropy.logits, entropy.slope)];
        if axis == 0 {
            seeds.extend(total_variation(&mut g, x)?.map(|tv| (tv, tau)));
        }
        let slope = backward(&mut g, &seeds, &[x], Samples::Summed)?.pop().flatten();
        let slope = slope.ok_or_else(|| Error::unsupported(format!("the answer does not depend on '{name}'")))?;
        g.set_scope("step");
        let moved = adam(&mut g, Moments { x, m, v }, slope, rate)?;
        // bounds that are fed: Clip takes constants
        let x = g.push("Max", &[moved.x, lo], Attrs::new())?;
        let x = g.push("Min", &[x, hi], Attrs::new())?;
        g.outputs = vec![x, moved.m, moved.v, entropy.losses];
        passes::prune(&mut g);
        if engine.keeps_order() {
            order::end_early(&mut g);
        }
        Ok(Self { graph: g, labels, extra, x: ty, to_front, to_place })
    }
}

/// The order of axes that brings `axis` to the front, and the one that brings it back.
fn moves(axis: usize, rank: usize) -> (Vec<usize>, Vec<usize>) {
    let mut to_front: Vec<usize> = (0..rank).filter(|&a| a != axis).collect();
    to_front.insert(0, axis);
    let mut to_place: Vec<usize> = (1..rank).collect();
    to_place.insert(axis, 0);
    (to_front, to_place)
}

/// `n` copies of one sample.
pub(super) fn repeated(one: &Array, n: usize) -> Result<Array> {
    let one = one.reshaped(&[&[1], one.shape()].concat())?;
    Ok(each_type!(&one, a => Array::new(a.select(Axis(0), &vec![0; n]))))
}

struct Moments {
    x: ValueId,
    m: ValueId,
    v: ValueId,
}

/// Adam without its bias corrections, which lie in `rate`.
fn adam(g: &mut Graph, at: Moments, slope: ValueId, rate: ValueId) -> Result<Moments> {
    let mut p = Pen::new(g);
    let (kept, new) = (p.scale(at.m, BETA1)?, p.scale(slope, 1.0 - BETA1)?);
    let m = p.add(kept, new)?;
    let square = p.mul(slope, slope)?;
    let (kept, new) = (p.scale(at.v, BETA2)?, p.scale(square, 1.0 - BETA2)?);
    let v = p.add(kept, new)?;
    let root = p.op("Sqrt", &[v])?;
    let root = p.shift(root, EPSILON)?;
    let step = p.div(m, root)?;
    let step = p.mul(step, rate)?;
    Ok(Moments { x: p.sub(at.x, step)?, m, v })
}

/// `Σ |x_{i+1} − x_i|` along the axes of an image, divided by the number of elements of a sample; none for other
/// inputs.
fn total_variation(g: &mut Graph, x: ValueId) -> Result<Option<ValueId>> {
    let shape = g.shape(x).to_vec();
    g.set_scope("total variation");
    let mut sum = None;
    for axis in image_axes(&shape) {
        let extent = i64::try_from(shape[axis]).unwrap_or(i64::MAX);
        let along = i64::try_from(axis).unwrap_or(i64::MAX);
        let mut cut = |from: i64, to: i64| {
            let bounds = [from, to, along].map(|v| g.ints(&[v]));
            g.push("Slice", &[&[x], &bounds[..]].concat(), Attrs::new())
        };
        let (next, this) = (cut(1, extent)?, cut(0, extent - 1)?);
        let d = g.push("Sub", &[next, this], Attrs::new())?;
        let minus = g.push("Neg", &[d], Attrs::new())?;
        let (up, down) = (g.push("Relu", &[d], Attrs::new())?, g.push("Relu", &[minus], Attrs::new())?);
        let d = g.push("Add", &[up, down], Attrs::new())?;
        let total = reduce_sum(g, d, &(0..shape.len()).collect::<Vec<_>>(), false)?;
        sum = Some(match sum {
            None => total,
            Some(s) => g.push("Add", &[s, total], Attrs::new())?,
        });
    }
    let Some(sum) = sum else { return Ok(None) };
    let elements: usize = shape[1..].iter().product();
    let part = g.scalar(1.0 / elements as f64, g.dtype(x));
    let mean = g.push("Mul", &[sum, part], Attrs::new())?;
    reshape(g, mean, &[]).map(Some)
}

/// Height and width of `[n, c, h, w]`, or of `[n, h, w, c]` where the last extent is that of colours.
fn image_axes(shape: &[usize]) -> Vec<usize> {
    let colours = |d: usize| d == 1 || d == 3 || d == 4;
    match *shape {
        [_, h, w, c] if colours(c) && !colours(h) && w > 1 => vec![1, 2],
        [_, _, h, w] if h > 1 && w > 1 => vec![2, 3],
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::cpu::Cpu;

    #[test]
    fn images_are_told_by_their_shape() {
        assert_eq!(image_axes(&[2, 3, 5, 7]), [2, 3]);
        assert_eq!(image_axes(&[2, 5, 7, 3]), [1, 2]);
        assert_eq!(image_axes(&[2, 1, 28, 28]), [2, 3]);
        assert_eq!(image_axes(&[2, 784]), [0; 0]);
        assert_eq!(image_axes(&[2, 8, 1, 1]), [0; 0]);
        assert_eq!(image_axes(&[2, 16, 32]), [0; 0]);
    }

    #[test]
    fn moves_undo_each_other() {
        assert_eq!(moves(0, 3), (vec![0, 1, 2], vec![0, 1, 2]));
        assert_eq!(moves(2, 4), (vec![2, 0, 1, 3], vec![1, 2, 0, 3]));
    }

    /// Value and gradient against the definition, on a batch of two.
    #[test]
    fn total_variation_is_the_sum_of_steps() {
        let (h, w) = (3, 4);
        let v: Vec<f64> = (0..2 * h * w).map(|i| ((i * i * 7) % 11) as f64 / 3.0).collect();
        let mut g = Graph::new(2);
        let x = g.input("x", TensorType::new(DType::F64, [2, 1, h, w]), Batch::LEADING);
        let tv = total_variation(&mut g, x).unwrap().unwrap();
        let one = g.scalar(1.0, DType::F64);
        let dx = backward(&mut g, &[(tv, one)], &[x], Samples::Summed).unwrap()[0].unwrap();
        g.outputs = vec![tv, dx];
        let fed = Array::from_vec(&[2, 1, h, w], v.clone()).unwrap();
        let out = Cpu.prepare(&g).unwrap().run(&[fed.into()]).unwrap();
        let (mut want, mut slope) = (0.0, vec![0.0; v.len()]);
        let part = 1.0 / (h * w) as f64;
        for i in 0..v.len() {
            let right = (i % w + 1 < w).then_some(i + 1);
            let below = (i / w % h + 1 < h).then_some(i + w);
            for j in [right, below].into_iter().flatten() {
                want += part * (v[j] - v[i]).abs();
                let sign = if v[j] == v[i] { 0.0 } else { (v[j] - v[i]).signum() };
                slope[j] += part * sign;
                slope[i] -= part * sign;
            }
        }
        assert!((out[0].to_array().unwrap().to_f64()[0] - want).abs() < 1e-12);
        let got = out[1].to_array().unwrap().to_f64();
        assert!(got.iter().zip(&slope).all(|(a, b)| (a - b).abs() < 1e-12), "{got:?} instead of {slope:?}");
    }
}
