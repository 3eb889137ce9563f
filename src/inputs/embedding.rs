//! A model of integers (tokens, bytes) from the output of its embedding on, where inputs are floats again.

use crate::error::{Error, Result};
use crate::graph::{Batch, Graph, Node, Source, ValueId, passes};
use crate::onnx::Imported;
use std::collections::HashMap;

/// A model whose first input is the output of the embedding.
pub(crate) struct Cut {
    /// The model from there on.
    pub(crate) imported: Imported,
    /// Mean less and plus two deviations of the elements of the table.
    pub(crate) range: (f64, f64),
}

/// Puts an input in the place of the embedding of the first input.
///
/// # Errors
/// When anything but one Gather from a table reads that input, naming the node.
pub(crate) fn cut(from: &Imported) -> Result<Cut> {
    let g = &from.graph;
    let x = *g.inputs.first().ok_or_else(|| Error::unsupported("the model has no input"))?;
    let (embedded, table) = embedding(g, x)?;
    let ty = g.value(embedded).ty.clone();
    if g.value(embedded).batch != Batch::LEADING {
        return Err(refusal(g, x, "its embedding does not have the samples on its first axis"));
    }
    let mut to = Graph::new(g.batch);
    to.opset = g.opset;
    let mut map = HashMap::new();
    map.insert(embedded, to.input(format!("embedding of {}", g.label(x)), ty, Batch::LEADING));
    for &id in g.inputs.iter().skip(1) {
        let v = g.value(id);
        map.insert(id, to.input(g.label(id), v.ty.clone(), v.batch));
    }
    let mut weights = Vec::new();
    for (name, id) in &from.weights {
        if let Source::Weight(data) = &g.value(*id).source {
            let new = to.weight(name.clone(), data.clone());
            map.insert(*id, new);
            weights.push((name.clone(), new));
        }
    }
    passes::replay(g, &mut to, &g.outputs, &mut map)?;
    for id in &g.outputs {
        let new = *map.get(id).ok_or_else(|| Error::internal("an output has no counterpart"))?;
        to.value_mut(new).name.clone_from(&g.value(*id).name);
        to.outputs.push(new);
    }
    to.set_scope("");
    let masks = from.masks.iter().filter_map(|id| map.get(id).copied()).collect();
    Ok(Cut { imported: Imported { graph: to, weights, masks, ..from.clone() }, range: spread(g, table) })
}

fn refusal(g: &Graph, x: ValueId, why: &str) -> Error {
    Error::unsupported(format!(
        "input '{}' is {} and cannot be found by gradient descent: {why}; give labelled inputs with --inputs",
        g.label(x),
        g.value(x).ty
    ))
}

/// What the only reader of `x` gathers, and the table it gathers from.
fn embedding(g: &Graph, x: ValueId) -> Result<(ValueId, ValueId)> {
    let mut at = x;
    loop {
        let readers: Vec<&Node> = g.nodes().iter().filter(|n| n.inputs.contains(&Some(at))).collect();
        let [node] = readers[..] else {
            let names: Vec<String> = readers.iter().map(|n| format!("'{}' ({})", n.name, n.op.spec().name)).collect();
            return Err(refusal(
                g,
                x,
                &format!("one embedding has to read it, and these nodes do: {}", names.join(", ")),
            ));
        };
        let output = node.outputs.first().copied().flatten();
        let (table, index) = (node.inputs.first().copied().flatten(), node.inputs.get(1).copied().flatten());
        match (node.op.spec().name, output, table) {
            // whole numbers under another type or shape
            ("Cast" | "Identity" | "Reshape" | "Squeeze" | "Unsqueeze" | "Flatten", Some(y), _)
                if g.dtype(y).is_int() =>
            {
                at = y;
            }
            ("Gather", Some(y), Some(table)) if index == Some(at) && g.dtype(y).is_float() => {
                return Ok((y, passes::root(g, table)));
            }
            _ => {
                let reader = format!("node '{}' ({}) reads it, not an embedding", node.name, node.op.spec().name);
                return Err(refusal(g, x, &reader));
            }
        }
    }
}

fn spread(g: &Graph, table: ValueId) -> (f64, f64) {
    let (Source::Weight(data) | Source::Const(data)) = &g.value(table).source else { return (-1.0, 1.0) };
    let v = data.to_f64();
    let n = v.len().max(1) as f64;
    let mean = v.iter().sum::<f64>() / n;
    let deviation = (v.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n).sqrt().max(1e-6);
    (mean - 2.0 * deviation, mean + 2.0 * deviation)
}
