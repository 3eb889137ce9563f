//! Steps away from the classes to forget, short where the retained classes are sensitive.
//!
//! `w ← w − s · P ∘ ∂m/∂w`, where `m` is the mean over the forget inputs of the log-odds
//! `log Σ_{k∈C_F} e^{z_k} − log Σ_{k∈C_R} e^{z_k}` that a class to forget is answered, and
//! `P_i = (f_F,i / (f_F,i + f_R,i))^4 · 1 / (f_R,i + ε mean_l f_R)`: a natural-gradient step (Amari, *Natural gradient works
//! efficiently in learning*, 1998) on the diagonal Fisher of the retained classes, taken where the classes to forget
//! have the greater part of the Fisher. `s` is such that `m` falls by a given amount to first order.
//!
//! With guards the direction is `P ∘ (∂m/∂w − Σ_k λ_k G_k)`, where `G_k` is the gradient of the mean log-odds of the retained
//! class `k`: to first order no retained class changes, as far as `RIDGE` allows (the projection of Lopez-Paz and Ranzato,
//! *Gradient episodic memory for continual learning*, 2017, as an equality and in the metric of `P`).

use super::Aim;
use super::guard::Guard;
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
use crate::ops::{Pen, reshape};
use crate::tensor::{Array, DType, TensorType};

/// How much lower the log-odds of the forget inputs are after a step, to first order.
const STEP: f64 = 1.0;

/// The same where the retained classes are guarded.
const STEP_GUARDED: f64 = 3.0;

/// Forget inputs of each class to forget that a guarded step is made from.
const INPUTS_GUARDED: usize = 8;

/// Part of a guard's own size by which the projection falls short.
const RIDGE: f64 = 0.1;

/// Of a direction's fall at least this part has to be left by the projection, so that a step has a bound.
const LEAST_LEFT: f64 = 0.02;

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
    products: Box<dyn Session>,
    combine: Box<dyn Session>,
    weight_ids: Vec<ValueId>,
    names: Vec<String>,
    types: Vec<TensorType>,
    scales: Vec<Tensor>,
    forget: Toward,
    guards: Vec<Toward>,
    float: DType,
    by: f64,
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
    /// Prepares steps of the weights of `basis` in that part; with guards they are longer, and leave those alone.
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
        let together = guards.iter().map(|g| g.inputs.len()).max().unwrap_or(forget.inputs.len());
        let bound = classifier.bind(together.min(MAX_BATCH))?;
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
            outputs.push(if engine.on_device() {
                let sum = g.input(format!("accumulated.{}", names.len()), ty.clone(), Batch::None);
                g.push("Add", &[sum, d], Attrs::new())?
            } else {
                d
            });
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
        let by = if guards.is_empty() { STEP } else { STEP_GUARDED };
        let guards: Vec<Toward> = guards.into_iter().map(|g| Toward::own(g.inputs, head.classes)).collect();
        let products = engine.prepare(&products(&types, 1 + guards.len())?)?;
        let combine = engine.prepare(&combination(&types, 1 + guards.len(), float)?)?;
        let graph = g;
        Ok(Self {
            engine,
            graph,
            slopes,
            products,
            combine,
            weight_ids,
            names,
            types,
            scales,
            forget,
            guards,
            float,
            by,
        })
    }

    /// Samples that a step runs forward and back.
    pub fn samples(&self) -> usize {
        self.forget.inputs.len() + self.guards.iter().map(|g| g.inputs.len()).sum::<usize>()
    }

    /// Weights at which the mean log-odds of the forget inputs are lower by `STEP` or `STEP_GUARDED`, to first order.
    ///
    /// # Errors
    /// When the engine fails.
    pub fn step(&mut self, weights: &Weights) -> Result<Weights> {
        let rows = 1 + self.guards.len();
        let mut slopes = Vec::with_capacity(rows);
        for i in 0..rows {
            slopes.push(self.slopes(weights, i)?);
        }
        // of every weight: P, then its slopes
        let stacks: Vec<Vec<Tensor>> = (0..self.names.len())
            .map(|k| std::iter::once(&self.scales[k]).chain(slopes.iter().map(|s| &s[k])).cloned().collect())
            .collect();
        let products = self.products.run(&stacks.concat())?;
        let products = products.first().ok_or_else(|| Error::internal("no product of slopes"))?.to_array()?.to_f64();
        let parts: Vec<f64> = parts(&products, rows).into_iter().map(|c| c * self.by).collect();
        let mut feeds = vec![Tensor::Host(Array::from_vec(&[1, rows], parts)?.to_float(self.float))];
        for (name, stack) in self.names.iter().zip(stacks) {
            let w = weights.get(name).cloned();
            feeds.push(w.ok_or_else(|| Error::internal(format!("weight {name} was not uploaded")))?);
            feeds.extend(stack);
        }
        let moved = self.combine.run(&feeds)?;
        let mut all = weights.clone();
        for (name, t) in self.names.iter().zip(moved) {
            if let Some(i) = all.names.iter().position(|n| n == name) {
                all.tensors[i] = t;
            }
        }
        Ok(all)
    }

    /// `∂m/∂w` of every weight that moves, for the forget inputs (0) or a guard (from 1 on).
    fn slopes(&mut self, weights: &Weights, which: usize) -> Result<Vec<Tensor>> {
        let batch = self.graph.batch;
        let Toward { inputs, answers } = if which == 0 { &self.forget } else { &self.guards[which - 1] };
        let n = inputs.len();
        let fixed = weights.feeds(&self.graph, &self.weight_ids)?;
        let zero = |ty: &TensorType| self.engine.upload(&Array::full_float(ty.dtype, &ty.shape, 0.0));
        let mut sums =
            if self.engine.on_device() { self.types.iter().map(zero).collect::<Result<_>>()? } else { Vec::new() };
        for from in (0..n).step_by(batch) {
            let to = (from + batch).min(n);
            let (model_inputs, _) = batch_feeds(&self.graph, inputs, from, to, batch)?;
            let mut feeds: Vec<Tensor> = model_inputs.into_iter().map(|(_, a)| Tensor::Host(a)).collect();
            feeds.extend(fixed.iter().cloned());
            // samples that only fill the batch up count nothing
            let u: Vec<f64> = (from..from + batch).map(|i| if i < to { 1.0 / n as f64 } else { 0.0 }).collect();
            feeds.push(Tensor::Host(Array::from_vec(&[batch, 1], u)?.to_float(self.float)));
            let rows: Vec<f64> = (from..from + batch).flat_map(|i| answers[i.min(to - 1)].iter().copied()).collect();
            let classes = rows.len() / batch;
            feeds.push(Tensor::Host(Array::from_vec(&[batch, classes], rows)?.to_float(self.float)));
            if self.engine.on_device() {
                feeds.append(&mut sums);
                sums = self.slopes.run(&feeds)?;
            } else {
                sums = added(sums, self.slopes.run(&feeds)?)?;
            }
        }
        Ok(sums)
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

/// `Σ_i P_i s_ji s_ki` over all weights, `[rows, rows]`, for the slopes `s`; the inputs are `P` and the slopes of each weight.
fn products(types: &[TensorType], rows: usize) -> Result<Graph> {
    let mut g = Graph::new(0);
    let mut total = None;
    for (k, ty) in types.iter().enumerate() {
        let scale = g.input(format!("scale.{k}"), ty.clone(), Batch::None);
        let slopes = stack(&mut g, k, ty, rows)?;
        let scale = reshape(&mut g, scale, &[1, ty.len()])?;
        let scaled = g.push("Mul", &[slopes, scale], Attrs::new())?;
        let product = g.push("Gemm", &[scaled, slopes], Attrs::new().with("transB", 1))?;
        total = Some(match total {
            None => product,
            Some(t) => g.push("Add", &[t, product], Attrs::new())?,
        });
    }
    g.outputs = vec![total.ok_or_else(|| Error::internal("a step of no weight"))?];
    Ok(g)
}

/// `w − P ∘ Σ_j c_j s_j` for every weight; the inputs are `c` `[1, rows]`, then `w`, `P` and the slopes of each weight.
fn combination(types: &[TensorType], rows: usize, float: DType) -> Result<Graph> {
    let mut g = Graph::new(0);
    let c = g.input("parts".to_owned(), TensorType::new(float, [1, rows]), Batch::None);
    for (k, ty) in types.iter().enumerate() {
        let [w, scale] = ["w", "scale"].map(|what| g.input(format!("{what}.{k}"), ty.clone(), Batch::None));
        let slopes = stack(&mut g, k, ty, rows)?;
        let sum = g.push("MatMul", &[c, slopes], Attrs::new())?;
        let sum = reshape(&mut g, sum, &ty.shape)?;
        let step = g.push("Mul", &[scale, sum], Attrs::new())?;
        let w = g.push("Sub", &[w, step], Attrs::new())?;
        g.outputs.push(w);
    }
    Ok(g)
}

/// New inputs for the slopes of weight `k`, as `[rows, elements]`.
fn stack(g: &mut Graph, k: usize, ty: &TensorType, rows: usize) -> Result<ValueId> {
    let flat: Vec<ValueId> = (0..rows)
        .map(|j| {
            let slope = g.input(format!("slope.{k}.{j}"), ty.clone(), Batch::None);
            reshape(g, slope, &[1, ty.len()])
        })
        .collect::<Result<_>>()?;
    if let [one] = flat[..] {
        return Ok(one);
    }
    g.push("Concat", &flat, Attrs::new().with("axis", 0))
}

/// `c_j` for a fall of 1: `c_0 ∝ 1` for the forget inputs and `c_k ∝ −λ_k` for the guards, where `(A + ρ diag A) λ = b` of the
/// products `A` among the guards and `b` of them with the forget inputs. All 0 where there is no slope.
fn parts(products: &[f64], rows: usize) -> Vec<f64> {
    let at = |j: usize, k: usize| products[j * rows + k];
    let guards = rows - 1;
    let mut matrix: Vec<Vec<f64>> = (0..guards)
        .map(|j| (0..guards).map(|k| at(j + 1, k + 1) * if j == k { 1.0 + RIDGE } else { 1.0 }).collect())
        .collect();
    let b: Vec<f64> = (0..guards).map(|j| at(j + 1, 0)).collect();
    let lambda = solve(&mut matrix, b.clone());
    let whole = at(0, 0);
    let left = whole - lambda.iter().zip(&b).map(|(l, b)| l * b).sum::<f64>();
    let fall = left.max(LEAST_LEFT * whole);
    if fall <= 0.0 {
        return vec![0.0; rows];
    }
    std::iter::once(1.0).chain(lambda.into_iter().map(|l| -l)).map(|c| c / fall).collect()
}

/// `x` of `A x = b` for a positive definite `A`, by elimination; 0 where a row says nothing.
fn solve(a: &mut [Vec<f64>], mut b: Vec<f64>) -> Vec<f64> {
    let n = b.len();
    let least: Vec<f64> = (0..n).map(|i| 1e-12 * a[i][i]).collect();
    for i in 0..n {
        for j in i + 1..n {
            let factor = if a[i][i] > least[i] { a[j][i] / a[i][i] } else { 0.0 };
            let above = a[i].clone();
            a[j].iter_mut().zip(above).for_each(|(v, u)| *v -= factor * u);
            b[j] -= factor * b[i];
        }
    }
    for i in (0..n).rev() {
        let known: f64 = (i + 1..n).map(|k| a[i][k] * b[k]).sum();
        b[i] = if a[i][i] > least[i] { (b[i] - known) / a[i][i] } else { 0.0 };
    }
    b
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guarded_steps_leave_guards_alone() {
        // slopes (1, 1, 0), (0, 1, 0) and (0, 0, 0), P = 1: the part along the second goes, but for the ridge
        let c = parts(&[2.0, 1.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0], 3);
        let left = 1.0 - 1.0 / (1.0 + RIDGE);
        let fall = 1.0 + left;
        for (got, want) in c.iter().zip([1.0 / fall, -1.0 / (1.0 + RIDGE) / fall, 0.0]) {
            assert!((got - want).abs() < 1e-12, "{c:?}");
        }
        assert_eq!(parts(&[4.0], 1), [0.25]);
        assert_eq!(parts(&[0.0], 1), [0.0]);
        // a guard that is the forget inputs themselves leaves next to nothing: the step has a bound
        let c = parts(&[1.0, 1.0, 1.0, 1.0], 2);
        assert!((c[0] - (1.0 + RIDGE) / RIDGE).abs() < 1e-9, "{c:?}");
    }

    #[test]
    fn elimination_solves() {
        let mut a = vec![vec![4.0, 2.0, 0.0], vec![2.0, 3.0, 0.0], vec![0.0, 0.0, 0.0]];
        let x = solve(&mut a, vec![8.0, 8.0, 1.0]);
        assert!((x[0] - 1.0).abs() < 1e-12 && (x[1] - 2.0).abs() < 1e-12 && x[2] == 0.0);
    }
}
