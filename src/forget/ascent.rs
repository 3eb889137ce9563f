//! Steps away from the classes to forget, short where the retained classes are sensitive.
//!
//! `w ← w − s · P ∘ ∂m/∂w`, where `m` is the mean over the forget inputs of the log-odds
//! `log Σ_{k∈C_F} e^{z_k} − log Σ_{k∈C_R} e^{z_k}` that a class to forget is answered, and
//! `P_i = (f_F,i / (f_F,i + f_R,i))^4 · 1 / (f_R,i + ε mean_l f_R)`: a natural-gradient step (Amari, *Natural gradient works
//! efficiently in learning*, 1998) on the diagonal Fisher of the retained classes, taken where the classes to forget
//! have the greater part of the Fisher. `s` is such that `m` falls by a given amount to first order.

use super::Aim;
use super::rewrite::Basis;
use crate::autodiff::gradient::free_name;
use crate::autodiff::head::head_weights;
use crate::autodiff::{Samples, backward};
use crate::classifier::{Classifier, Weights, batch_feeds};
use crate::engine::{Engine, Session, Tensor};
use crate::error::{Error, Result};
use crate::graph::{Attrs, Batch, Graph, ValueId};
use crate::inputs::Labelled;
use crate::ops::{Pen, reduce_sum, reshape};
use crate::tensor::{Array, DType, TensorType};

/// How much lower the log-odds of the forget inputs are after a step, to first order.
const STEP: f64 = 1.0;

/// Part of the mean of an initializer's `f_R` that every one of its weights counts with at least.
const EPSILON: f64 = 0.1;

/// Power of the part that the classes to forget have of a weight's Fisher.
const SELECTIVITY: f64 = 4.0;

/// Stands for a class that has no part in a softmax.
const NEVER: f64 = -1e30;

/// More forget inputs than this do not make a step better.
const MOST_INPUTS: usize = 64;

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
    engine: &'a dyn Engine,
    graph: Graph,
    slopes: Box<dyn Session>,
    step: Box<dyn Session>,
    weight_ids: Vec<ValueId>,
    names: Vec<String>,
    types: Vec<TensorType>,
    scales: Vec<Tensor>,
    inputs: Labelled,
    /// One row per input: 1 for every class that would be an answer to forget.
    answers: Vec<Vec<f64>>,
    float: DType,
}

impl<'a> Ascent<'a> {
    /// Prepares steps of the weights of `basis` in that part.
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
    ) -> Result<Self> {
        let (inputs, answers) = forget_inputs(data, aim, classifier.classes())?;
        let bound = classifier.bind(inputs.len().min(MAX_BATCH))?;
        let mut g = bound.graph;
        let head = classifier.head(&g)?;
        let last: Vec<String> = head_weights(&g, &head).into_iter().map(|id| g.label(id)).collect();
        let logits = head.rows(&mut g)?;
        let weight_ids = g.feed_weights();
        let float = g.dtype(logits);
        let seed = odds_slope(&mut g, logits, head.classes)?;
        let at = |name: &String| bound.weights.iter().find(|(n, _)| n == name).map(|(_, id)| *id);
        let chosen: Vec<usize> = (0..basis.names.len()).filter(|&i| part.holds(&basis.names[i], &last)).collect();
        let ids = chosen
            .iter()
            .map(|&i| {
                let name = &basis.names[i];
                at(name).ok_or_else(|| Error::internal(format!("weight '{name}' is not in the graph")))
            })
            .collect::<Result<Vec<_>>>()?;
        let found = backward(&mut g, &[(logits, seed)], &ids, Samples::Summed)?;
        g.set_scope("accumulate");
        let (mut names, mut types, mut outputs, mut f_f, mut f_r) = (vec![], vec![], vec![], vec![], vec![]);
        for (&i, d) in chosen.iter().zip(found) {
            let Some(d) = d else { continue };
            let ty = g.value(d).ty.clone();
            let sum = g.input(format!("accumulated.{}", names.len()), ty.clone(), Batch::None);
            outputs.push(g.push("Add", &[sum, d], Attrs::new())?);
            names.push(basis.names[i].clone());
            types.push(ty);
            f_f.push(basis.f_f[i].clone());
            f_r.push(basis.f_r[i].clone());
        }
        if names.is_empty() {
            return Err(Error::invalid("the answer depends on none of the weights that may change"));
        }
        g.outputs = outputs;
        crate::graph::passes::prune(&mut g);
        let slopes = engine.prepare(&g)?;
        let own = if part == Part::Head { aim.classes() } else { &[] };
        let scales = scales(engine, &types, f_f, f_r, &Rows { classes: head.classes, own })?;
        let step = step_graph(&types, float)?;
        let step = engine.prepare(&step)?;
        Ok(Self { engine, graph: g, slopes, step, weight_ids, names, types, scales, inputs, answers, float })
    }

    /// Samples that a step runs forward and back.
    pub fn samples(&self) -> usize {
        self.inputs.len()
    }

    /// Weights at which the mean log-odds of the forget inputs are lower by 1, to first order.
    ///
    /// # Errors
    /// When the engine fails.
    pub fn step(&mut self, weights: &Weights) -> Result<Weights> {
        let slopes = self.slopes(weights)?;
        let mut feeds = vec![Tensor::Host(Array::full_float(self.float, &[], STEP))];
        for ((name, slope), scale) in self.names.iter().zip(slopes).zip(&self.scales) {
            let w = weights.get(name).cloned();
            let w = w.ok_or_else(|| Error::internal(format!("weight {name} was not uploaded")))?;
            feeds.extend([w, slope, scale.clone()]);
        }
        let moved = self.step.run(&feeds)?;
        let mut all = weights.clone();
        for (name, t) in self.names.iter().zip(moved) {
            if let Some(i) = all.names.iter().position(|n| n == name) {
                all.tensors[i] = t;
            }
        }
        Ok(all)
    }

    /// `∂m/∂w` of every weight that moves.
    fn slopes(&mut self, weights: &Weights) -> Result<Vec<Tensor>> {
        let batch = self.graph.batch;
        let n = self.inputs.len();
        let fixed = weights.feeds(&self.graph, &self.weight_ids)?;
        let mut sums = Vec::with_capacity(self.types.len());
        for ty in &self.types {
            sums.push(self.engine.upload(&Array::full_float(ty.dtype, &ty.shape, 0.0))?);
        }
        for from in (0..n).step_by(batch) {
            let to = (from + batch).min(n);
            let (model_inputs, _) = batch_feeds(&self.graph, &self.inputs, from, to, batch)?;
            let mut feeds: Vec<Tensor> = model_inputs.into_iter().map(|(_, a)| Tensor::Host(a)).collect();
            feeds.extend(fixed.iter().cloned());
            // samples that only fill the batch up count nothing
            let u: Vec<f64> = (from..from + batch).map(|i| if i < to { 1.0 / n as f64 } else { 0.0 }).collect();
            feeds.push(Tensor::Host(Array::from_vec(&[batch, 1], u)?.to_float(self.float)));
            let rows: Vec<f64> =
                (from..from + batch).flat_map(|i| self.answers[i.min(to - 1)].iter().copied()).collect();
            let classes = rows.len() / batch;
            feeds.push(Tensor::Host(Array::from_vec(&[batch, classes], rows)?.to_float(self.float)));
            feeds.append(&mut sums);
            sums = self.slopes.run(&feeds)?;
        }
        Ok(sums)
    }
}

/// The inputs to forget, evenly chosen where there are many, and which classes would be an answer to each.
fn forget_inputs(data: &Labelled, aim: &Aim, classes: usize) -> Result<(Labelled, Vec<Vec<f64>>)> {
    let all: Vec<usize> = (0..data.len()).filter(|&i| aim.forgets(i)).collect();
    let take = all.len().min(MOST_INPUTS);
    let positions: Vec<usize> = (0..take).map(|k| all[k * all.len() / take]).collect();
    let member = |y: &usize| (0..classes).map(|c| f64::from(u8::from(aim.answers(y).contains(&c)))).collect();
    let answers = positions.iter().map(|&i| member(&data.y[i])).collect();
    Ok((data.select(&positions)?, answers))
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

/// `w − by / Σ_i P_i g_i² · P ∘ g` for all weights at once.
fn step_graph(types: &[TensorType], float: DType) -> Result<Graph> {
    let mut g = Graph::new(0);
    let by = g.input("by", TensorType::new(float, []), Batch::None);
    let mut rows = Vec::new();
    let mut total = None;
    for (k, ty) in types.iter().enumerate() {
        let [w, slope, scale] =
            ["w", "slope", "scale"].map(|what| g.input(format!("{what}.{k}"), ty.clone(), Batch::None));
        let step = g.push("Mul", &[scale, slope], Attrs::new())?;
        let product = g.push("Mul", &[step, slope], Attrs::new())?;
        let flat = reshape(&mut g, product, &[ty.len()])?;
        let sum = reduce_sum(&mut g, flat, &[0], false)?;
        total = Some(match total {
            None => sum,
            Some(t) => g.push("Add", &[t, sum], Attrs::new())?,
        });
        rows.push((w, step));
    }
    let total = total.ok_or_else(|| Error::internal("a step of no weight"))?;
    let (zero, one) = (g.scalar(0.0, float), g.scalar(1.0, float));
    let flat = g.push("Equal", &[total, zero], Attrs::new())?;
    let safe = g.push("Where", &[flat, one, total], Attrs::new())?;
    let s = g.push("Div", &[by, safe], Attrs::new())?;
    for (w, step) in rows {
        let d = g.push("Mul", &[step, s], Attrs::new())?;
        let w = g.push("Sub", &[w, d], Attrs::new())?;
        g.outputs.push(w);
    }
    Ok(g)
}
