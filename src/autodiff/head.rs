//! The classifier's head: which value holds the logits, and which weights make them from the features.

use crate::error::{Error, Result};
use crate::graph::{Batch, Graph, Node, Source, ValueId, passes};

/// Where a model answers.
#[derive(Clone, Debug)]
pub struct Head {
    /// The model's output that names the class.
    pub output: ValueId,
    /// The value before a trailing Softmax or LogSoftmax: `[samples, classes]`, possibly followed by
    /// extents of 1.
    pub logits: ValueId,
    /// Number of classes.
    pub classes: usize,
    /// The op that was peeled off, if any.
    pub peeled: Option<&'static str>,
}

fn producer(g: &Graph, id: ValueId) -> Option<&Node> {
    match g.value(id).source {
        Source::Node { node, .. } => g.nodes().get(node),
        _ => None,
    }
}

/// Finds the head behind the output named `output`, or behind the only output that can be one.
///
/// # Errors
/// When there is no such output, several could be meant, or it does not look like a classifier's.
pub fn find_head(g: &Graph, output: Option<&str>) -> Result<Head> {
    let names: Vec<String> = g.outputs.iter().map(|&o| format!("'{}' {}", g.label(o), g.value(o).ty)).collect();
    let fits = |&id: &ValueId| {
        let ty = &g.value(id).ty;
        ty.dtype.is_float()
            && ty.shape.len() >= 2
            && ty.shape[0] == g.batch
            && ty.shape[1] > 1
            && ty.shape[2..].iter().all(|&d| d == 1)
            && g.value(id).batch != Batch::None
    };
    let output = match output {
        Some(name) => {
            let found = g.outputs.iter().copied().find(|&o| g.value(o).name.as_deref() == Some(name));
            found.ok_or_else(|| {
                Error::invalid(format!("the model has no output '{name}'; it has {}", names.join(", ")))
            })?
        }
        None => match g.outputs.iter().copied().filter(fits).collect::<Vec<_>>()[..] {
            [one] => one,
            [] => {
                return Err(Error::unsupported(format!(
                    "no output is [samples, classes] of floats, as a classifier's is; the model has {}",
                    names.join(", ")
                )));
            }
            _ => {
                return Err(Error::invalid(format!(
                    "several outputs could be the answer; choose with --output: {}",
                    names.join(", ")
                )));
            }
        },
    };
    if !fits(&output) {
        return Err(Error::unsupported(format!(
            "output '{}' is {}, not [{}, classes] of floats",
            g.label(output),
            g.value(output).ty,
            g.batch
        )));
    }
    let (mut logits, mut peeled) = (output, None);
    while let Some(node) = producer(g, logits) {
        let name = node.op.spec().name;
        let Some(Some(x)) = node.inputs.first().copied() else { break };
        let view = g.view_of(node);
        let on_classes = || view.axis(view.int("axis", -1)?, g.shape(x).len()).map(|a| a == 1);
        match name {
            "Softmax" | "LogSoftmax" if peeled.is_none() && fits(&x) && on_classes()? => peeled = Some(name),
            "Identity" | "Cast" | "Reshape" | "Flatten" | "Squeeze" | "Dropout" if fits(&x) => {}
            _ => break,
        }
        logits = x;
    }
    Ok(Head { output, logits, classes: g.shape(logits)[1], peeled })
}

/// The weights of the last layer: those of the last product with a weight (Gemm, MatMul, Conv) before the
/// logits, and those added or multiplied after it.
pub fn head_weights(g: &Graph, head: &Head) -> Vec<ValueId> {
    let mut used = vec![false; g.values().len()];
    used[head.logits.index()] = true;
    let mut found = Vec::new();
    for node in g.nodes().iter().rev() {
        if !node.outputs.iter().flatten().any(|o| used[o.index()]) {
            continue;
        }
        let mut mine = Vec::new();
        for &i in node.inputs.iter().flatten() {
            used[i.index()] = true;
            mine.extend(weight_roots(g, i));
        }
        let product = matches!(node.op.spec().name, "Gemm" | "MatMul" | "Conv" | "ConvTranspose");
        let batched = node.outputs.iter().flatten().any(|&o| g.value(o).batch != Batch::None);
        let ends = product && batched && !mine.is_empty();
        found.extend(mine);
        if ends {
            break;
        }
    }
    found.sort_unstable();
    found.dedup();
    found
}

/// The weights that a value computed from weights alone stems from.
fn weight_roots(g: &Graph, id: ValueId) -> Vec<ValueId> {
    let id = passes::root(g, id);
    match &g.value(id).source {
        Source::Weight(_) => vec![id],
        Source::Node { node, .. } if g.value(id).batch == Batch::None => {
            g.nodes()[*node].inputs.iter().flatten().flat_map(|&i| weight_roots(g, i)).collect()
        }
        _ => Vec::new(),
    }
}
