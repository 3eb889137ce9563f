//! The diagonal Fisher information of a classifier's weights, estimated from labelled inputs.
//!
//! `f_C,i = (1/|C|) Σ_{c∈C} mean_{(x, y=c)} (∂ℓ/∂w_i)²`, with ℓ the cross-entropy on the logits (Yamashita
//! et al., arXiv 2306.05670, equation 6; the square is per sample).

pub mod store;

use crate::autodiff::gradient::Mode;
use crate::classifier::{Classifier, Weights, batch_feeds};
use crate::engine::{Engine, Tensor};
use crate::error::{Error, Result};
use crate::graph::{Attrs, Batch, Graph, ValueId};
use crate::inputs::Labelled;
use crate::tensor::{Array, DType, TensorType};

/// More samples than this never share a batch; it bounds the memory that activations take.
const MAX_BATCH: usize = 32;

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
    let mode = Mode::Fisher { sets: sets.len() };
    let (gradients, one_by_one) = classifier.gradients_or_singles(data.len().min(MAX_BATCH), mode)?;
    let mut g = gradients.graph;
    let batch = g.batch;
    let weight_ids = g.feed_weights();
    let found: Vec<ValueId> = gradients.gradients.iter().map(|(_, d)| *d).collect();
    let mut sums = Vec::with_capacity(found.len());
    let mut outputs = Vec::with_capacity(found.len());
    g.set_scope("accumulate");
    for (k, &d) in found.iter().enumerate() {
        let ty = g.value(d).ty.clone();
        sums.push(engine.upload(&Array::full_float(ty.dtype, &ty.shape, 0.0))?);
        let acc = g.input(format!("accumulated.{k}"), ty, Batch::None);
        outputs.push(g.push("Add", &[acc, d], Attrs::new())?);
    }
    g.outputs = outputs;
    let float = gradients.sample_weights.map_or(DType::F32, |u| g.dtype(u));
    let fixed = weights.feeds(&g, &weight_ids)?;
    let mut session = engine.prepare(&g)?;
    for from in (0..data.len()).step_by(batch) {
        let to = (from + batch).min(data.len());
        let (model_inputs, part) = batch_feeds(&g, data, from, to, batch)?;
        let mut feeds: Vec<Tensor> = model_inputs.into_iter().map(|(_, a)| Tensor::Host(a)).collect();
        feeds.push(Tensor::Host(part.labels()));
        let u: Vec<f64> =
            sets.iter().flat_map(|u| (0..batch).map(move |i| if from + i < to { u[from + i] } else { 0.0 })).collect();
        feeds.push(Tensor::Host(Array::from_vec(&[sets.len(), batch], u)?.to_float(float)));
        feeds.extend(fixed.iter().cloned());
        feeds.append(&mut sums);
        sums = session.run(&feeds)?;
        progress(to);
    }
    Ok(Fisher {
        names: gradients.gradients.into_iter().map(|(n, _)| n).collect(),
        sums,
        sets: sets.len(),
        unused: gradients.unused,
        batch,
        one_by_one,
    })
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
                    return Err(Error::engine(format!("the Fisher of '{name}' is not finite")));
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
