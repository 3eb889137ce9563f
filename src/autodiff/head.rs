//! The classifier's head: which value holds the logits, and which weights make them from the features.

mod softmax;

use crate::error::{Error, Result};
use crate::graph::{Attr, Attrs, Batch, Graph, Node, Source, ValueId, passes};
use crate::ops;
use crate::tensor::Array;
use softmax::{Form, recognise};
use std::collections::HashSet;

/// Where a model answers.
#[derive(Clone, Debug)]
pub struct Head {
    /// The model's output that names the class.
    pub output: ValueId,
    /// The value before a trailing Softmax, LogSoftmax or Sigmoid: for each sample one number a class, or one number
    /// in all for two classes.
    pub logits: ValueId,
    /// Number of classes.
    pub classes: usize,
    /// What was peeled off, if anything: `Softmax`, `LogSoftmax` or `Sigmoid`, in one node or in several.
    pub peeled: Option<&'static str>,
    /// True when one logit z stands for two classes: class 1 is answered where z > 0.
    pub is_binary: bool,
}

impl Head {
    /// The logits as `[samples, classes]`. Two classes that share one logit z have the logits 0 and z, whose softmax
    /// cross-entropy is the binary cross-entropy of z.
    ///
    /// # Errors
    /// Never for a head of this graph.
    pub fn rows(&self, g: &mut Graph) -> Result<ValueId> {
        let n = g.batch;
        if !self.is_binary {
            return ops::reshape(g, self.logits, &[n, self.classes]);
        }
        let z = ops::reshape(g, self.logits, &[n, 1])?;
        let pair = Array::from_vec(&[1, 2], vec![0.0f32, 1.0])?.to_float(g.dtype(z));
        let pair = g.constant(pair);
        g.push("Mul", &[z, pair], Attrs::new())
    }
}

fn producer(g: &Graph, id: ValueId) -> Option<&Node> {
    match g.value(id).source {
        Source::Node { node, .. } => g.nodes().get(node),
        _ => None,
    }
}

/// How many numbers a value holds for each sample, where it is `[samples, …]` of floats with at most one further axis
/// that is longer than 1.
fn per_sample(g: &Graph, id: ValueId) -> Option<usize> {
    let value = g.value(id);
    let (&samples, rest) = value.ty.shape.split_first()?;
    let is_row = samples == g.batch && rest.iter().filter(|&&d| d != 1).count() <= 1;
    (is_row && value.ty.dtype.is_float() && value.batch != Batch::None).then(|| rest.iter().product())
}

/// Finds the head behind the output named `output`, or behind the only output that can be one. Several outputs with
/// the same logits behind them (logits and their softmax) are one head.
///
/// # Errors
/// When there is no such output, several could be meant, or it does not look like a classifier's.
pub fn find_head(g: &Graph, output: Option<&str>) -> Result<Head> {
    let told =
        || g.outputs.iter().map(|&o| format!("'{}' {}", g.label(o), g.value(o).ty)).collect::<Vec<_>>().join(", ");
    if let Some(name) = output {
        let found = g.outputs.iter().copied().find(|&o| g.value(o).name.as_deref() == Some(name));
        let found =
            found.ok_or_else(|| Error::invalid(format!("the model has no output '{name}'; it has {}", told())))?;
        return head_of(g, found)?.ok_or_else(|| no_head(g, &told()));
    }
    let mut heads: Vec<Head> = Vec::new();
    for &o in &g.outputs {
        if let Some(head) = head_of(g, o)?
            && !heads.iter().any(|h| h.logits == head.logits)
        {
            heads.push(head);
        }
    }
    match heads.len() {
        0 => Err(no_head(g, &told())),
        1 => heads.pop().ok_or_else(|| Error::internal("no head")),
        _ => Err(Error::invalid(format!("several outputs could be the answer; choose with --output: {}", told()))),
    }
}

fn no_head(g: &Graph, told: &str) -> Error {
    let several: Vec<String> = g
        .outputs
        .iter()
        .filter(|&&o| per_sample(g, o) == Some(1))
        .map(|&o| {
            format!("'{}' is one number a sample, which names two classes only where it ends in Sigmoid", g.label(o))
        })
        .collect();
    let why = if several.is_empty() { String::new() } else { format!("; {}", several.join("; ")) };
    Error::unsupported(format!(
        "no output is [samples, classes] of floats, as a classifier's is; the model has {told} for {} samples{why}",
        g.batch
    ))
}

/// The head behind one output, if it can be a classifier's.
fn head_of(g: &Graph, output: ValueId) -> Result<Option<Head>> {
    let Some(k) = per_sample(g, output).filter(|&k| k > 0) else { return Ok(None) };
    let answer = behind_views(g, output);
    let Some((form, z)) = recognise(g, answer, k)? else {
        let head = Head { output, logits: answer, classes: k, peeled: None, is_binary: false };
        return Ok((k > 1).then_some(head));
    };
    let is_binary = matches!(form, Form::Sigmoid | Form::SigmoidPair);
    let classes = if is_binary { 2 } else { k };
    Ok(Some(Head { output, logits: behind_views(g, z), classes, peeled: Some(form.name()), is_binary }))
}

/// What a value only shows in another shape or float type.
fn behind_views(g: &Graph, mut id: ValueId) -> ValueId {
    while let Some(node) = producer(g, id) {
        let Some(Some(x)) = node.inputs.first().copied() else { break };
        let is_view = matches!(
            node.op.spec().name,
            "Identity" | "Cast" | "Reshape" | "Flatten" | "Squeeze" | "Unsqueeze" | "Dropout"
        );
        if !is_view || per_sample(g, x) != per_sample(g, id) {
            break;
        }
        id = x;
    }
    id
}

/// The weights of the last layer: those of the last product with a weight (Gemm, MatMul, Conv) before the
/// logits, and those added or multiplied after it.
pub fn head_weights(g: &Graph, head: &Head) -> Vec<ValueId> {
    last_layer(g, head).0
}

/// What the last layer reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features {
    /// The value that enters the last layer's product.
    pub value: ValueId,
    /// Its axis that the product sums over.
    pub axis: usize,
}

/// The penultimate features: what the last layer's product multiplies with its weight. `None` where no product is
/// found, or both factors depend on the samples.
pub fn head_features(g: &Graph, head: &Head) -> Option<Features> {
    let node = &g.nodes()[last_layer(g, head).1?];
    let batched = |id: &ValueId| g.value(*id).batch != Batch::None;
    let (position, value) = match node.inputs.get(..2)? {
        [Some(a), Some(b)] if batched(a) != batched(b) => {
            if batched(a) {
                (0, *a)
            } else {
                (1, *b)
            }
        }
        _ => return None,
    };
    let last = g.shape(value).len().checked_sub(1)?;
    let axis = match (node.op.spec().name, position) {
        ("Gemm", 0) if matches!(node.attrs.get("transA"), None | Some(Attr::Int(0))) => last,
        ("MatMul", 0) => last,
        ("MatMul", _) => last.checked_sub(1)?,
        ("Conv" | "ConvTranspose", 0) => 1,
        _ => return None,
    };
    Some(Features { value, axis })
}

/// The last layer's weights, and the position of its product.
fn last_layer(g: &Graph, head: &Head) -> (Vec<ValueId>, Option<usize>) {
    let mut used = vec![false; g.values().len()];
    used[head.logits.index()] = true;
    let (mut found, mut product) = (Vec::new(), None);
    for (at, node) in g.nodes().iter().enumerate().rev() {
        if !node.outputs.iter().flatten().any(|o| used[o.index()]) {
            continue;
        }
        let mut mine = Vec::new();
        for &i in node.inputs.iter().flatten() {
            used[i.index()] = true;
            mine.extend(weight_roots(g, i));
        }
        let is_product = matches!(node.op.spec().name, "Gemm" | "MatMul" | "Conv" | "ConvTranspose");
        let batched = node.outputs.iter().flatten().any(|&o| g.value(o).batch != Batch::None);
        // a tensor that holds an infinity is no weight, but a last layer all the same: someone hid a class with it
        let hidden = || node.inputs.iter().flatten().filter_map(|&i| g.constant_of(i)).any(|a| !a.is_finite());
        let ends = is_product && batched && (!mine.is_empty() || hidden());
        found.extend(mine);
        if ends {
            product = Some(at);
            break;
        }
    }
    found.sort_unstable();
    found.dedup();
    (found, product)
}

/// The weights that a value computed from weights alone stems from.
fn weight_roots(g: &Graph, id: ValueId) -> Vec<ValueId> {
    let (mut open, mut seen, mut found) = (vec![passes::root(g, id)], HashSet::new(), Vec::new());
    while let Some(id) = open.pop() {
        // values may be used again and again: every one of them is looked at once
        if !seen.insert(id) {
            continue;
        }
        match &g.value(id).source {
            Source::Weight(_) => found.push(id),
            Source::Node { node, .. } if g.value(id).batch == Batch::None => {
                open.extend(g.nodes()[*node].inputs.iter().flatten().map(|&i| passes::root(g, i)));
            }
            _ => {}
        }
    }
    found
}
