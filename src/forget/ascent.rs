//! Steps away from the classes to forget, short where the retained classes are sensitive.
//!
//! `w ← w − s · P ∘ ∂m/∂w`, where `m` is the mean over the forget inputs of the log-odds
//! `log Σ_{k∈C_F} e^{z_k} − log Σ_{k∈C_R} e^{z_k}` that a class to forget is answered, and
//! `P_i = (f_F,i / (f_F,i + f_R,i))^4 · 1 / (f_R,i + ε mean_l f_R)`: a natural-gradient step (Amari, *Natural gradient works
//! efficiently in learning*, 1998) on the diagonal Fisher of the retained classes, taken where the classes to forget
//! have the greater part of the Fisher. `s` is such that `m` falls by a given amount to first order.
//!
//! With guards the direction is `P ∘ (∂m/∂w − Σ_k λ_k G_k)`, where `G_k` is the gradient of the mean log-odds of the retained
//! class `k`: to first order no retained class changes (`super::projection`; the projection of Lopez-Paz and Ranzato,
//! *Gradient episodic memory for continual learning*, 2017, as an equality and in the metric of `P`).

use super::Aim;
use super::answers::{old_head_feeds, second_head};
use super::guard::Guard;
use super::projection::Projection;
use super::rewrite::Basis;
use crate::autodiff::gradient::free_name;
use crate::autodiff::head::head_weights;
use crate::autodiff::{Samples, backward};
use crate::classifier::{Classifier, Weights, batch_feeds};
use crate::engine::{Engine, Session, Tensor};
use crate::error::{Error, Result};
use crate::fisher::added;
use crate::graph::{Attrs, Batch, Graph, ValueId};
use crate::inputs::Labelled;
use crate::ops::Pen;
use crate::tensor::{Array, DType, TensorType};

/// How much lower the log-odds of the forget inputs are after a step, to first order.
const STEP: f64 = 1.0;

/// Forget inputs of each class to forget that a guarded step is made from.
const INPUTS_GUARDED: usize = 8;

/// Part of the mean of an initializer's `f_R` that every one of its weights counts with at least.
const EPSILON: f64 = 0.1;

/// Power of the part that the classes to forget have of a weight's Fisher.
const SELECTIVITY: f64 = 4.0;

/// Stands for a class that has no part in a softmax.
const NEVER: f64 = -1e30;

/// More forget inputs than this do not make a step better.
pub(super) const MOST_INPUTS: usize = 64;

/// More samples than this never share a batch; it bounds the memory that activations take.
const MAX_BATCH: usize = 32;

/// The weights that a step moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// All but the last layer's.
    Body,
    /// The last layer's.
    Head,
}

impl Part {
    /// True for a weight of this part; `head` names those of the last layer.
    pub fn holds(self, name: &str, head: &[String]) -> bool {
        head.iter().any(|h| h == name) == (self == Self::Head)
    }
}

/// Prepared steps for one choice of classes and weights.
pub struct Ascent<'a> {
    /// Of the forget inputs.
    slopes: Sloped<'a>,
    /// The same for the guards, where these are another number.
    of_guards: Option<Sloped<'a>>,
    names: Vec<String>,
    projection: Projection,
    forget: Toward,
    guards: Vec<Toward>,
}

/// Slopes at some weights: of the forget inputs, then of each guard.
pub(super) struct Slopes {
    of_each: Vec<Vec<Tensor>>,
}

/// Inputs, and the classes whose log-odds a slope is of.
struct Toward {
    inputs: Labelled,
    /// One row per input: 1 for every class that counts as the answer.
    answers: Vec<Vec<f64>>,
}

impl Toward {
    /// The log-odds of an input's own class.
    fn own(inputs: Labelled, classes: usize) -> Self {
        let answers = inputs.y.iter().map(|y| (0..classes).map(|c| f64::from(u8::from(c == *y))).collect()).collect();
        Self { inputs, answers }
    }
}

impl<'a> Ascent<'a> {
    /// Prepares steps of the weights of `basis` in that part, which leave the guards alone.
    ///
    /// # Errors
    /// When the answer depends on none of them, an op has no derivative, or the engine fails.
    pub fn new(
        classifier: &Classifier,
        engine: &'a dyn Engine,
        basis: &Basis,
        part: Part,
        data: &Labelled,
        aim: &Aim,
        guards: Vec<Guard>,
    ) -> Result<Self> {
        let most = if guards.is_empty() { MOST_INPUTS } else { INPUTS_GUARDED * aim.classes().len().max(1) };
        let forget = forget_inputs(data, aim, classifier.classes(), most.min(MOST_INPUTS))?;
        let prepare = |samples: usize| Sloped::new(classifier, engine, basis, part, samples, !guards.is_empty());
        let of_forget = prepare(forget.inputs.len())?;
        let guarded = guards.iter().map(|g| g.inputs.len()).max().filter(|n| *n != forget.inputs.len());
        let of_guards = guarded.map(prepare).transpose()?;
        let (f_f, f_r) = of_forget.chosen.iter().map(|&i| (basis.f_f[i].clone(), basis.f_r[i].clone())).unzip();
        let own = if part == Part::Head { aim.classes() } else { &[] };
        let classes = of_forget.classes;
        let scales = scales(engine, &of_forget.types, f_f, f_r, &Rows { classes, own })?;
        let guards: Vec<Toward> = guards.into_iter().map(|g| Toward::own(g.inputs, classes)).collect();
        let projection = Projection::new(engine, &of_forget.types, scales, 1 + guards.len(), of_forget.float)?;
        let names = of_forget.chosen.iter().map(|&i| basis.names[i].clone()).collect();
        Ok(Self { slopes: of_forget, of_guards, names, projection, forget, guards })
    }

    /// Samples that the slope of the forget inputs runs forward and back.
    pub fn samples(&self) -> usize {
        self.forget.inputs.len()
    }

    /// Samples that those of the guards run forward and back.
    pub(super) fn samples_of_guards(&self) -> usize {
        self.guards.iter().map(|g| g.inputs.len()).sum()
    }

    /// Weights at which the mean log-odds of the forget inputs are lower by 1, to first order; nothing is guarded.
    ///
    /// # Errors
    /// When the engine fails.
    pub fn step(&mut self, weights: &Weights) -> Result<Weights> {
        let of_each = vec![self.slopes.of(weights, None, &self.forget)?.sums];
        self.go(weights, &Slopes { of_each }, STEP)
    }

    /// The slope of the forget inputs at these weights, and their mean log-odds under the last layer of `original`.
    ///
    /// # Errors
    /// When the engine fails.
    pub(super) fn look(&mut self, weights: &Weights, original: &Weights) -> Result<(Slopes, f64)> {
        let slope = self.slopes.of(weights, Some(original), &self.forget)?;
        let rows = slope.old_head.chunks(self.slopes.classes).zip(&self.forget.answers);
        let odds: Vec<f64> = rows.map(|(z, answers)| log_odds(z, |k| answers[k] > 0.0)).collect();
        Ok((Slopes { of_each: vec![slope.sums] }, odds.iter().sum::<f64>() / odds.len() as f64))
    }

    /// Adds the slopes of the guards at these weights.
    ///
    /// # Errors
    /// When the engine fails.
    pub(super) fn guard(&mut self, weights: &Weights, original: &Weights, slopes: &mut Slopes) -> Result<()> {
        let of_guards = self.of_guards.as_mut().unwrap_or(&mut self.slopes);
        for guard in &self.guards {
            slopes.of_each.push(of_guards.of(weights, Some(original), guard)?.sums);
        }
        Ok(())
    }

    /// Weights at which the mean log-odds of the forget inputs are lower by `by`, to first order, and those of the guards as they
    /// were.
    ///
    /// # Errors
    /// When the engine fails.
    pub(super) fn go(&mut self, weights: &Weights, slopes: &Slopes, by: f64) -> Result<Weights> {
        let now = |name: &String| {
            let w = weights.get(name).cloned();
            w.ok_or_else(|| Error::internal(format!("weight {name} was not uploaded")))
        };
        let now = self.names.iter().map(now).collect::<Result<_>>()?;
        let moved = self.projection.step(now, &slopes.of_each, by)?;
        let mut all = weights.clone();
        for (name, t) in self.names.iter().zip(moved) {
            if let Some(i) = all.names.iter().position(|n| n == name) {
                all.tensors[i] = t;
            }
        }
        Ok(all)
    }
}

/// `log Σ_{k∈A} e^{z_k} − log Σ_{k∉A} e^{z_k}` for the classes `A` that count as the answer.
pub(super) fn log_odds(logits: &[f64], is_answer: impl Fn(usize) -> bool) -> f64 {
    let side = |of: bool| {
        let own = logits.iter().enumerate().filter(|(k, _)| is_answer(*k) == of).map(|(_, z)| *z);
        let top = own.clone().fold(f64::NEG_INFINITY, f64::max);
        top + own.map(|z| (z - top).exp()).sum::<f64>().ln()
    };
    side(true) - side(false)
}

/// Prepared slopes of log-odds, for some samples at once.
struct Sloped<'a> {
    engine: &'a dyn Engine,
    graph: Graph,
    session: Box<dyn Session>,
    weight_ids: Vec<ValueId>,
    /// The last layer once more, with the weights that it came with; none where what it answers is not shown.
    head_ids: Vec<ValueId>,
    /// The weights that move: their places in the basis, and their types.
    chosen: Vec<usize>,
    types: Vec<TensorType>,
    classes: usize,
    float: DType,
}

/// `∂m/∂w` of every weight that moves, for some samples.
struct Slope {
    sums: Vec<Tensor>,
    /// What the old head answers them, row by row, where that is shown.
    old_head: Vec<f64>,
}

impl<'a> Sloped<'a> {
    fn new(
        classifier: &Classifier,
        engine: &'a dyn Engine,
        basis: &Basis,
        part: Part,
        samples: usize,
        shows_old_head: bool,
    ) -> Result<Self> {
        let bound = classifier.bind(samples.min(MAX_BATCH))?;
        let mut g = bound.graph;
        let head = classifier.head(&g)?;
        let last_ids = head_weights(&g, &head);
        let last: Vec<String> = last_ids.iter().map(|&id| g.label(id)).collect();
        let logits = head.rows(&mut g)?;
        let weight_ids = g.feed_weights();
        let float = g.dtype(logits);
        let mut head_ids = Vec::new();
        let old_head = shows_old_head.then(|| second_head(&mut g, logits, &last_ids, &mut head_ids)).transpose()?;
        let seed = odds_slope(&mut g, logits, head.classes)?;
        let at = |name: &String| bound.weights.iter().find(|(n, _)| n == name).map(|(_, id)| *id);
        let of_part: Vec<usize> = (0..basis.names.len()).filter(|&i| part.holds(&basis.names[i], &last)).collect();
        let ids = of_part
            .iter()
            .map(|&i| {
                let name = &basis.names[i];
                at(name).ok_or_else(|| Error::internal(format!("weight '{name}' is not in the graph")))
            })
            .collect::<Result<Vec<_>>>()?;
        let found = backward(&mut g, &[(logits, seed)], &ids, Samples::Summed)?;
        g.set_scope("accumulate");
        let (mut chosen, mut types, mut outputs) = (vec![], vec![], vec![]);
        for (i, d) in of_part.into_iter().zip(found) {
            let Some(d) = d else { continue };
            let ty = g.value(d).ty.clone();
            outputs.push(if engine.on_device() {
                let sum = g.input(format!("accumulated.{}", chosen.len()), ty.clone(), Batch::None);
                g.push("Add", &[sum, d], Attrs::new())?
            } else {
                d
            });
            chosen.push(i);
            types.push(ty);
        }
        if chosen.is_empty() {
            return Err(Error::invalid("the answer depends on none of the weights that may change"));
        }
        outputs.extend(old_head);
        g.outputs = outputs;
        crate::graph::passes::prune(&mut g);
        let session = engine.prepare(&g)?;
        Ok(Self { engine, graph: g, session, weight_ids, head_ids, chosen, types, classes: head.classes, float })
    }

    fn of(&mut self, weights: &Weights, original: Option<&Weights>, toward: &Toward) -> Result<Slope> {
        let batch = self.graph.batch;
        let Toward { inputs, answers } = toward;
        let n = inputs.len();
        let mut fixed = weights.feeds(&self.graph, &self.weight_ids)?;
        fixed.extend(old_head_feeds(&self.graph, &self.head_ids, original.unwrap_or(weights))?);
        let zero = |ty: &TensorType| self.engine.upload(&Array::full_float(ty.dtype, &ty.shape, 0.0));
        let mut sums =
            if self.engine.on_device() { self.types.iter().map(zero).collect::<Result<_>>()? } else { Vec::new() };
        let mut old_head = Vec::new();
        for from in (0..n).step_by(batch) {
            let to = (from + batch).min(n);
            let (model_inputs, _) = batch_feeds(&self.graph, inputs, from, to, batch)?;
            let mut feeds: Vec<Tensor> = model_inputs.into_iter().map(|(_, a)| Tensor::Host(a)).collect();
            feeds.extend(fixed.iter().cloned());
            // samples that only fill the batch up count nothing
            let u: Vec<f64> = (from..from + batch).map(|i| if i < to { 1.0 / n as f64 } else { 0.0 }).collect();
            feeds.push(Tensor::Host(Array::from_vec(&[batch, 1], u)?.to_float(self.float)));
            let rows: Vec<f64> = (from..from + batch).flat_map(|i| answers[i.min(to - 1)].iter().copied()).collect();
            feeds.push(Tensor::Host(Array::from_vec(&[batch, self.classes], rows)?.to_float(self.float)));
            if self.engine.on_device() {
                feeds.append(&mut sums);
            }
            let mut found = self.session.run(&feeds)?;
            for logits in found.drain(self.types.len()..) {
                old_head.extend(logits.to_array()?.to_f64().into_iter().take((to - from) * self.classes));
            }
            sums = if self.engine.on_device() { found } else { added(sums, found)? };
        }
        Ok(Slope { sums, old_head })
    }
}

/// The inputs to forget, evenly chosen where there are many, and which classes would be an answer to each.
fn forget_inputs(data: &Labelled, aim: &Aim, classes: usize, most: usize) -> Result<Toward> {
    let all: Vec<usize> = (0..data.len()).filter(|&i| aim.forgets(i)).collect();
    let take = all.len().min(most);
    let positions: Vec<usize> = (0..take).map(|k| all[k * all.len() / take]).collect();
    let member = |y: &usize| (0..classes).map(|c| f64::from(u8::from(aim.answers(y).contains(&c)))).collect();
    let answers = positions.iter().map(|&i| member(&data.y[i])).collect();
    Ok(Toward { inputs: data.select(&positions)?, answers })
}

/// `u_n ∂m_n/∂z_n = u_n (softmax_F(z_n) − softmax_R(z_n))` for new inputs `u`, the weights of the samples `[samples, 1]`, and
/// `answers` `[samples, classes]`, 1 for every class of `C_F` and 0 for all others.
fn odds_slope(g: &mut Graph, logits: ValueId, classes: usize) -> Result<ValueId> {
    g.set_scope("odds");
    let (n, float) = (g.batch, g.dtype(logits));
    let mut input = |what: &str, extent: usize| {
        let name = free_name(g, what);
        g.input(name, TensorType::new(float, [n, extent]), Batch::LEADING)
    };
    let (u, member) = (input("sample_weights", 1), input("answers", classes));
    let half = g.scalar(0.5, float);
    let never = g.scalar(NEVER, float);
    let is_forgotten = g.push("Greater", &[member, half], Attrs::new())?;
    let one = g.push("Where", &[is_forgotten, logits, never], Attrs::new())?;
    let other = g.push("Where", &[is_forgotten, never, logits], Attrs::new())?;
    let softmax = |g: &mut Graph, z: ValueId| g.push("Softmax", &[z], Attrs::new().with("axis", 1));
    let (p_f, p_r) = (softmax(g, one)?, softmax(g, other)?);
    let slope = g.push("Sub", &[p_f, p_r], Attrs::new())?;
    g.push("Mul", &[slope, u], Attrs::new())
}

/// Rows of the last layer.
struct Rows<'a> {
    /// Number of classes.
    classes: usize,
    /// Those that move: all where none is named.
    own: &'a [usize],
}

impl Rows<'_> {
    /// 1 for the elements that belong to a class that moves, of a shape that broadcasts; none where all move, or where
    /// the shape does not tell which axis counts the classes.
    fn mask(&self, shape: &[usize]) -> Option<Array> {
        let mut axes = (0..shape.len()).filter(|&a| shape[a] == self.classes);
        let (axis, None) = (axes.next()?, axes.next()) else { return None };
        if self.own.is_empty() {
            return None;
        }
        let mut extents = vec![1; shape.len()];
        extents[axis] = self.classes;
        let member = (0..self.classes).map(|c| f64::from(u8::from(self.own.contains(&c)))).collect();
        Array::from_vec::<f64>(&extents, member).ok()
    }
}

/// `P` of every weight. In the last layer only the rows of the classes to forget move, so that the order of all others
/// stays what it is for every input.
fn scales(
    engine: &dyn Engine,
    types: &[TensorType],
    f_f: Vec<Tensor>,
    f_r: Vec<Tensor>,
    rows: &Rows<'_>,
) -> Result<Vec<Tensor>> {
    let mut g = Graph::new(0);
    for (k, ty) in types.iter().enumerate() {
        let f_f = g.input(format!("f_F.{k}"), ty.clone(), Batch::None);
        let f_r = g.input(format!("f_R.{k}"), ty.clone(), Batch::None);
        let mut p = Pen::new(&mut g);
        let mean = p.emit("ReduceMean", &[f_r], Attrs::new().with("keepdims", 0))?;
        let least = p.scale(mean, EPSILON)?;
        let bound = p.add(f_r, least)?;
        let both = p.add(f_f, f_r)?;
        let part = guarded(&mut p, f_f, both)?;
        let power = p.scalar_like(SELECTIVITY, f_f);
        let part = p.op("Pow", &[part, power])?;
        let scale = guarded(&mut p, part, bound)?;
        let scale = match rows.mask(&ty.shape) {
            Some(mask) => {
                let mask = p.graph().constant(mask.to_float(ty.dtype));
                p.mul(scale, mask)?
            }
            None => scale,
        };
        g.outputs.push(scale);
    }
    let feeds: Vec<Tensor> = f_f.into_iter().zip(f_r).flat_map(|(a, b)| [a, b]).collect();
    engine.prepare(&g)?.run(&feeds)
}

/// `a / b`, and 0 where `b` is 0: no Fisher, no step.
fn guarded(p: &mut Pen<'_>, a: ValueId, b: ValueId) -> Result<ValueId> {
    let (zero, one) = (p.scalar_like(0.0, b), p.scalar_like(1.0, b));
    let is_none = p.op("Equal", &[b, zero])?;
    let safe = p.choose(is_none, one, b)?;
    let quotient = p.div(a, safe)?;
    p.choose(is_none, zero, quotient)
}
