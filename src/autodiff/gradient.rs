//! The gradient graph of a classifier: cross-entropy on its logits, and the backward pass.

use super::head::{Head, find_head};
use super::{Samples, backward};
use crate::error::{Error, Result};
use crate::graph::{Attrs, Batch, Graph, Source, ValueId};
use crate::ops;
use crate::tensor::{DType, TensorType};

/// What a gradient graph gives for each weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// `Σ_n u_n ∂ℓ_n/∂w`, of the weight's shape; `u` is `[samples]`.
    Sum,
    /// `∂ℓ_n/∂w` for every sample: `[samples, …shape]`.
    PerSample,
    /// `Σ_n u[s,n] (∂ℓ_n/∂w)²` for every set `s` of sample weights: `[sets, …shape]`; `u` is
    /// `[sets, samples]`.
    Fisher {
        /// Number of sets.
        sets: usize,
    },
}

/// A classifier's loss and gradients as one graph. Its inputs are the model's, then `labels`, then
/// `sample_weights` (absent in [`Mode::PerSample`]); its outputs are the loss, then one tensor per weight.
#[derive(Clone)]
pub struct GradientGraph {
    /// The graph.
    pub graph: Graph,
    /// The classifier's head, in this graph.
    pub head: Head,
    /// `int64 [samples]`: class ids.
    pub labels: ValueId,
    /// Weights of the samples.
    pub sample_weights: Option<ValueId>,
    /// The loss: `Σ_n u_n ℓ_n` in [`Mode::Sum`], `[samples]` otherwise.
    pub loss: ValueId,
    /// Name and gradient of every weight that the loss depends on.
    pub gradients: Vec<(String, ValueId)>,
    /// Weights that the loss does not depend on.
    pub unused: Vec<String>,
}

/// Builds the gradient graph of an imported classifier.
///
/// # Errors
/// As [`find_head`] and [`backward`].
pub fn gradient_graph(
    model: &Graph,
    weights: &[(String, ValueId)],
    output: Option<&str>,
    mode: Mode,
) -> Result<GradientGraph> {
    let mut g = model.clone();
    let head = find_head(&g, output)?;
    let n = g.batch;
    let float = g.dtype(head.logits);
    g.set_scope("loss");
    let labels = g.input(free_name(&g, "labels"), TensorType::new(DType::I64, [n]), Batch::LEADING);
    let entropy = cross_entropy(&mut g, &head, labels)?;
    let name = free_name(&g, "sample_weights");
    let sample_weights = match mode {
        Mode::Sum => Some(g.input(name, TensorType::new(float, [n]), Batch::LEADING)),
        Mode::PerSample => None,
        Mode::Fisher { sets } => Some(g.input(name, TensorType::new(float, [sets, n]), Batch::None)),
    };
    let ids: Vec<ValueId> = weights.iter().map(|(_, id)| *id).collect();
    let (loss, seed, samples) = match (mode, sample_weights) {
        (Mode::Sum, Some(u)) => {
            let each = g.push("Mul", &[entropy.losses, u], Attrs::new())?;
            let column = ops::reshape(&mut g, u, &[n, 1])?;
            let seed = g.push("Mul", &[entropy.slope, column], Attrs::new())?;
            (ops::reduce_sum(&mut g, each, &[0], false)?, seed, Samples::Summed)
        }
        _ => (entropy.losses, entropy.slope, Samples::Apart),
    };
    let found = backward(&mut g, &[(entropy.logits, seed)], &ids, samples)?;
    let (mut gradients, mut unused) = (Vec::new(), Vec::new());
    for ((name, _), d) in weights.iter().zip(found) {
        let Some(d) = d else {
            unused.push(name.clone());
            continue;
        };
        g.set_scope(format!("{name}/fisher"));
        let d = match (mode, sample_weights) {
            (Mode::Fisher { .. }, Some(u)) => squared_sum(&mut g, d, u)?,
            _ => d,
        };
        gradients.push((name.clone(), d));
    }
    if gradients.is_empty() {
        return Err(Error::unsupported("the answer depends on no trainable weight"));
    }
    g.outputs = std::iter::once(loss).chain(gradients.iter().map(|(_, d)| *d)).collect();
    crate::graph::passes::prune(&mut g);
    Ok(GradientGraph { graph: g, head, labels, sample_weights, loss, gradients, unused })
}

/// The cross-entropy of a batch.
pub(crate) struct CrossEntropy {
    /// `z`: `[samples, classes]`.
    pub(crate) logits: ValueId,
    /// `ℓ_n = −log softmax(z_n)[y_n]`: `[samples]`.
    pub(crate) losses: ValueId,
    /// `∂ℓ_n/∂z_n = softmax(z_n) − e_{y_n}`: `[samples, classes]`. The sweep starts here: the samples can be
    /// followed from the first step on, and nothing is lost to the logarithm. The entry of the true class is
    /// minus the sum of the others, since `p_y − 1` keeps few digits where the answer is nearly sure, as answers
    /// to codes are.
    pub(crate) slope: ValueId,
}

/// The cross-entropy of `int64 [samples]` class ids.
///
/// # Errors
/// When the head's shape is not a classifier's.
pub(crate) fn cross_entropy(g: &mut Graph, head: &Head, labels: ValueId) -> Result<CrossEntropy> {
    let (n, classes) = (g.batch, head.classes);
    let logits = head.rows(g)?;
    let log_p = g.push("LogSoftmax", &[logits], Attrs::new().with("axis", 1))?;
    let ids: Vec<i64> = (0..i64::try_from(classes).unwrap_or(i64::MAX)).collect();
    let ids = g.ints(&ids);
    let column = ops::reshape(g, labels, &[n, 1])?;
    let hot = g.push("Equal", &[column, ids], Attrs::new())?;
    let zero = g.scalar(0.0, g.dtype(logits));
    let picked = g.push("Where", &[hot, log_p, zero], Attrs::new())?;
    let sum = ops::reduce_sum(g, picked, &[1], false)?;
    let losses = g.push("Neg", &[sum], Attrs::new())?;
    let p = g.push("Softmax", &[logits], Attrs::new().with("axis", 1))?;
    let others = g.push("Where", &[hot, zero, p], Attrs::new())?;
    let rest = ops::reduce_sum(g, others, &[1], true)?;
    let rest = g.push("Neg", &[rest], Attrs::new())?;
    let slope = g.push("Where", &[hot, rest, p], Attrs::new())?;
    Ok(CrossEntropy { logits, losses, slope })
}

/// `Σ_n u[s,n] d[n]²`, fused into the op that makes `d` where that op knows how.
fn squared_sum(g: &mut Graph, d: ValueId, u: ValueId) -> Result<ValueId> {
    if let Source::Node { node, output: 0 } = g.value(d).source {
        let node = g.nodes()[node].clone();
        let fused = node.op.squared(&g.view_of(&node));
        if let Some(name) = fused {
            let inputs: Vec<_> = node.inputs.iter().copied().chain([Some(u)]).collect();
            return g.push_some(name, &inputs, node.attrs);
        }
    }
    g.push("WeightedSquareSum", &[d, u], Attrs::new())
}

/// `wanted`, or a variation that no value of the model is called.
pub(crate) fn free_name(g: &Graph, wanted: &str) -> String {
    let mut name = wanted.to_owned();
    while g.find(&name).is_some() {
        name.push('_');
    }
    name
}
