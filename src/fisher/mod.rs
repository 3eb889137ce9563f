//! The diagonal Fisher information of a classifier's weights, estimated from labelled inputs.
//!
//! `f_C,i = (1/|C|) Σ_{c∈C} mean_{(x, y=c)} (∂ℓ/∂w_i)²`, with ℓ the cross-entropy on the logits (Yamashita
//! et al., arXiv 2306.05670, equation 6; the square is per sample).

pub mod compare;
mod complete;
mod equalise;
mod fit;
mod kept;
mod merge;
pub mod plan;
pub mod store;
mod summary;
mod sums;

pub(crate) use complete::estimate_classes;
pub use fit::{Forecast, forecast};
pub use kept::Counting;
pub use merge::merge;
pub use plan::Plan;
pub use summary::Summary;
pub use sums::{ClassSums, Row};

use crate::classifier::{Classifier, Weights, batch_feeds};
use crate::engine::{Engine, Session, Tensor};
use crate::error::{Error, Result};
use crate::graph::{Attrs, Batch, Graph};
use crate::inputs::Labelled;
use crate::tensor::{Array, DType, TensorType};
use fit::{Built, Task};

/// More samples than this never share a batch; it bounds the memory that activations take.
const MAX_BATCH: usize = 32;

/// Fishers of several classes are held at once only while all of them together have no more elements than this.
const MAX_CLASS_ELEMENTS: usize = 1 << 25;

/// Sums of squared per-sample gradients, one tensor `[sets, …shape]` per weight.
pub struct Fisher {
    /// Names of the weights.
    pub names: Vec<String>,
    /// One tensor `[sets, …shape]` per name, where the engine left it.
    pub sums: Vec<Tensor>,
    /// Number of sets.
    pub sets: usize,
    /// Weights that the answer does not depend on.
    pub unused: Vec<String>,
    /// Samples per run.
    pub batch: usize,
    /// Why samples ran one by one, if they had to.
    pub one_by_one: Option<String>,
}

/// Weights of the samples so that `Σ_n u_n g_n²` is the Fisher of the given classes: the mean over a class's
/// samples, then over the classes.
///
/// # Errors
/// When a class has no sample.
pub fn class_weights(data: &Labelled, classes: &[usize]) -> Result<Vec<f64>> {
    let by_class = data.by_class();
    if let Some(c) = classes.iter().find(|c| !by_class.contains_key(c)) {
        return Err(Error::invalid(format!("no labelled input belongs to class {c}")));
    }
    let mut u = vec![0.0; data.len()];
    for c in classes {
        let at = &by_class[c];
        for &i in at {
            u[i] = 1.0 / (at.len() * classes.len()) as f64;
        }
    }
    Ok(u)
}

/// Estimates `Σ_n u[s][n] (∂ℓ_n/∂w)²` for every set `s` of sample weights, in one pass over the samples.
/// `progress` is told how many samples are done.
///
/// # Errors
/// When the inputs do not fit the model, an op has no derivative, or a sum is not finite.
pub fn estimate(
    classifier: &Classifier,
    engine: &dyn Engine,
    weights: &Weights,
    data: &Labelled,
    sets: &[Vec<f64>],
    progress: &mut dyn FnMut(usize),
) -> Result<Fisher> {
    if data.is_empty() || sets.is_empty() {
        return Err(Error::invalid("a Fisher estimate needs at least one sample and one set of weights"));
    }
    let mut squares = SquareSums::new(classifier, engine, weights, sets.len(), data.len())?;
    let sums = squares.run(data, sets, progress)?;
    Ok(squares.into_fisher(sums, sets.len()))
}

/// The Fisher of groups of classes, one set per group, in which every class counts the same: the Fisher of a
/// class is divided by its trace over all weights before the mean over the group is taken. A class whose inputs
/// the model answers with little loss then weighs as much as one with a large loss.
///
/// # Errors
/// As [`estimate`]; also when a class has no sample.
pub fn estimate_equalised(
    classifier: &Classifier,
    engine: &dyn Engine,
    weights: &Weights,
    data: &Labelled,
    groups: &[Vec<usize>],
    progress: &mut dyn FnMut(usize),
) -> Result<Fisher> {
    let by_class = data.by_class();
    let positions = |c: &usize| {
        let missing = || Error::invalid(format!("no labelled input belongs to class {c}"));
        by_class.get(c).cloned().ok_or_else(missing)
    };
    let groups = groups.iter().map(|g| g.iter().map(positions).collect()).collect::<Result<Vec<_>>>()?;
    estimate_members(classifier, engine, weights, data, &groups, progress)
}

/// The same for groups of any parts of the samples: `[group][member]` are the positions of a member's samples, and
/// every member of a group counts the same.
///
/// # Errors
/// As [`estimate`]; also when a position lies past the last sample.
pub fn estimate_members(
    classifier: &Classifier,
    engine: &dyn Engine,
    weights: &Weights,
    data: &Labelled,
    groups: &[Vec<Vec<usize>>],
    progress: &mut dyn FnMut(usize),
) -> Result<Fisher> {
    let members: Vec<(usize, &Vec<usize>)> =
        groups.iter().enumerate().flat_map(|(k, g)| g.iter().map(move |m| (k, m))).collect();
    let elements: usize = weights.tensors.iter().map(|t| t.ty().len()).sum();
    let slots = (MAX_CLASS_ELEMENTS / elements.max(1)).clamp(1, 8).min(members.len().max(1));
    let most = members.chunks(slots).map(|c| c.iter().map(|(_, m)| m.len()).sum::<usize>()).max().unwrap_or(1);
    let mut squares = SquareSums::new(classifier, engine, weights, slots, most)?;
    let mut mean = equalise::Mean::new(engine, squares.types(), slots, groups.len())?;
    let mut done = 0;
    for chunk in members.chunks(slots) {
        let positions: Vec<usize> = chunk.iter().flat_map(|(_, m)| m.iter().copied()).collect();
        let part = data.select(&positions)?;
        let mut sets = vec![vec![0.0; part.len()]; slots];
        let mut member = vec![0.0; groups.len() * slots];
        let mut from = 0;
        for (slot, (group, samples)) in chunk.iter().enumerate() {
            let to = from + samples.len();
            sets[slot][from..to].fill(1.0 / samples.len() as f64);
            member[group * slots + slot] = 1.0 / groups[*group].len() as f64;
            from = to;
        }
        let sums = squares.run(&part, &sets, &mut |n| progress(done + n))?;
        done += part.len();
        mean.add(sums, &member)?;
    }
    Ok(squares.into_fisher(mean.finish(), groups.len()))
}

/// A prepared gradient graph that sums squared per-sample gradients of as many samples as it is shown.
pub struct SquareSums<'a> {
    engine: &'a dyn Engine,
    session: Box<dyn Session>,
    graph: Graph,
    weights: Vec<Tensor>,
    names: Vec<String>,
    types: Vec<TensorType>,
    unused: Vec<String>,
    one_by_one: Option<String>,
    float: DType,
    forecast: Forecast,
}

impl<'a> SquareSums<'a> {
    /// Prepares `sets` sums over at most `samples` samples.
    ///
    /// # Errors
    /// When an op has no derivative, or the engine lacks something.
    pub fn new(
        classifier: &Classifier,
        engine: &'a dyn Engine,
        weights: &Weights,
        sets: usize,
        samples: usize,
    ) -> Result<Self> {
        Self::prepare(Task { classifier, engine, sets, samples, beside: 0 }, weights)
    }

    fn prepare(task: Task<'_, 'a>, weights: &Weights) -> Result<Self> {
        let Built { graph, names, types, unused, one_by_one, float, forecast, weights: ids, .. } = task.build()?;
        let (engine, weights) = (task.engine, weights.feeds(&graph, &ids)?);
        let session = engine.prepare(&graph)?;
        Ok(Self { engine, session, graph, weights, names, types, unused, one_by_one, float, forecast })
    }

    /// Type of every sum: `[sets, …shape]`.
    fn types(&self) -> &[TensorType] {
        &self.types
    }

    /// One tensor `[sets, …shape]` per weight: `Σ_n u[s][n] (∂ℓ_n/∂w)²` over these samples. `progress` is told how many
    /// are done.
    ///
    /// # Errors
    /// When the samples do not fit the model, or the engine fails.
    pub fn run(&mut self, data: &Labelled, sets: &[Vec<f64>], progress: &mut dyn FnMut(usize)) -> Result<Vec<Tensor>> {
        let batch = self.graph.batch;
        let mut sums = if self.engine.on_device() { self.zeros()? } else { Vec::new() };
        for from in (0..data.len()).step_by(batch) {
            let to = (from + batch).min(data.len());
            let (model_inputs, part) = batch_feeds(&self.graph, data, from, to, batch)?;
            let mut feeds: Vec<Tensor> = model_inputs.into_iter().map(|(_, a)| Tensor::Host(a)).collect();
            feeds.push(Tensor::Host(part.labels()));
            // samples that only fill the batch up count nothing
            let u = sets.iter().flat_map(|u| (from..from + batch).map(move |i| if i < to { u[i] } else { 0.0 }));
            let u = Array::from_vec(&[sets.len(), batch], u.collect::<Vec<f64>>())?.to_float(self.float);
            feeds.push(Tensor::Host(u));
            feeds.extend(self.weights.iter().cloned());
            if self.engine.on_device() {
                feeds.append(&mut sums);
                sums = self.session.run(&feeds)?;
            } else {
                sums = added(sums, self.session.run(&feeds)?)?;
            }
            progress(to);
        }
        if sums.is_empty() { self.zeros() } else { Ok(sums) }
    }

    fn zeros(&self) -> Result<Vec<Tensor>> {
        let zero = |ty: &TensorType| self.engine.upload(&Array::full_float(ty.dtype, &ty.shape, 0.0));
        self.types.iter().map(zero).collect()
    }

    fn into_fisher(self, sums: Vec<Tensor>, sets: usize) -> Fisher {
        let batch = self.graph.batch;
        Fisher { names: self.names, sums, sets, unused: self.unused, batch, one_by_one: self.one_by_one }
    }
}

/// The sums with more added to each; the first are what is added to them.
pub(crate) fn added(sums: Vec<Tensor>, more: Vec<Tensor>) -> Result<Vec<Tensor>> {
    if sums.is_empty() {
        return Ok(more);
    }
    let add = |(sum, more): (Tensor, Tensor)| {
        let (Tensor::Host(mut sum), Tensor::Host(more)) = (sum, more) else {
            return Err(Error::internal("a sum on a device was taken for one on the host"));
        };
        sum.add_assign(&more)?;
        Ok(Tensor::Host(sum))
    };
    sums.into_iter().zip(more).map(add).collect()
}

fn not_finite(name: &str) -> Error {
    Error::invalid(format!(
        "the Fisher of '{name}' is not finite: the model overflows on these inputs, or the device fails"
    ))
}

impl Fisher {
    /// The tensors of each set apart, in the weights' shapes, without leaving the device.
    ///
    /// # Errors
    /// When the engine fails.
    pub fn split(&self, engine: &dyn Engine) -> Result<Vec<Vec<Tensor>>> {
        let mut parts = vec![Vec::with_capacity(self.sums.len()); self.sets];
        let mut g = Graph::new(0);
        for (name, sum) in self.names.iter().zip(&self.sums) {
            let ty = sum.ty();
            g.input(name.clone(), ty, Batch::None);
        }
        for id in g.inputs.clone() {
            let shape = g.shape(id)[1..].to_vec();
            for s in 0..self.sets {
                let at = i64::try_from(s).unwrap_or(i64::MAX);
                let (starts, ends, axes) = (g.ints(&[at]), g.ints(&[at + 1]), g.ints(&[0]));
                let one = g.push("Slice", &[id, starts, ends, axes], Attrs::new())?;
                let one = crate::ops::reshape(&mut g, one, &shape)?;
                g.outputs.push(one);
            }
        }
        let out = engine.prepare(&g)?.run(&self.sums)?;
        for (k, t) in out.into_iter().enumerate() {
            parts[k % self.sets].push(t);
        }
        Ok(parts)
    }

    /// Looks at every element: a device may return nonsense and say nothing.
    ///
    /// # Errors
    /// When a sum is NaN or infinite, naming the weight.
    pub fn check_finite(&self) -> Result<()> {
        for (name, t) in self.names.iter().zip(&self.sums) {
            if !t.to_array()?.is_finite() {
                return Err(not_finite(name));
            }
        }
        Ok(())
    }

    /// All sums on the host, checked to be finite.
    ///
    /// # Errors
    /// When a sum is NaN or infinite, naming the weight.
    pub fn to_arrays(&self) -> Result<Vec<(String, Array)>> {
        self.names
            .iter()
            .zip(&self.sums)
            .map(|(name, t)| {
                let a = t.to_array()?;
                if !a.is_finite() {
                    return Err(not_finite(name));
                }
                Ok((name.clone(), a))
            })
            .collect()
    }

    /// Element type and shape of every weight's Fisher, without the axis of sets.
    pub fn types(&self) -> Vec<TensorType> {
        self.sums
            .iter()
            .map(|t| {
                let ty = t.ty();
                TensorType::new(ty.dtype, &ty.shape[1..])
            })
            .collect()
    }
}
