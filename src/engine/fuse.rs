//! Nodes that a neighbour's dispatch does along with its own work.

use crate::graph::{Graph, Source, ValueId, passes};
use crate::ops::{Bind, Kernel};
use crate::tensor::DType;
use std::collections::HashMap;

/// Shaders that can end with a Relu.
const END_WITH_RELU: [&str; 4] = ["matmul", "conv", "conv_few", "binary"];

/// `Where(x > 0, …)`, as gradients of Relu have it, looks at x itself, or at Relu(x) where that is there: nobody else may
/// need x then.
pub(crate) fn conditions(g: &mut Graph) {
    let relus: HashMap<usize, ValueId> = g
        .nodes()
        .iter()
        .filter(|n| n.op.spec().name == "Relu")
        .filter_map(|n| Some((n.inputs.first().copied()??.index(), n.outputs.first().copied()??)))
        .collect();
    let found: Vec<(usize, ValueId)> = (0..g.nodes().len())
        .filter(|&i| g.nodes()[i].op.spec().name == "Where")
        .filter_map(|i| {
            let condition = g.nodes()[i].inputs.first().copied()??;
            let x = above_zero(g, condition)?;
            Some((i, relus.get(&x.index()).copied().unwrap_or(x)))
        })
        .collect();
    for &(node, x) in &found {
        if let Some(condition) = g.inputs_mut(node).and_then(|inputs| inputs.first_mut()) {
            *condition = Some(x);
        }
    }
    if !found.is_empty() {
        passes::prune(g);
    }
}

/// The value x of a condition `x > 0` of its shape.
fn above_zero(g: &Graph, condition: ValueId) -> Option<ValueId> {
    let Source::Node { node, .. } = g.value(condition).source else { return None };
    let node = g.nodes().get(node)?;
    let (x, zero) = (node.inputs.first().copied()??, node.inputs.get(1).copied()??);
    let fits = node.op.spec().name == "Greater" && g.dtype(x) == DType::F32 && g.shape(x) == g.shape(condition);
    let is_zero = g.constant_of(zero).is_some_and(|c| c.to_f64().iter().all(|&v| v == 0.0));
    (fits && is_zero).then_some(x)
}

/// A Relu whose operand nobody else reads is done by the shader that makes the operand, and becomes a view of it.
pub(crate) fn relus(g: &Graph, kernels: &mut [Kernel]) {
    let mut readers = vec![0usize; g.values().len()];
    for id in g.nodes().iter().flat_map(|n| n.inputs.iter().flatten()).chain(&g.outputs) {
        readers[id.index()] += 1;
    }
    for (i, node) in g.nodes().iter().enumerate().filter(|(_, n)| n.op.spec().name == "Relu") {
        let Some(Some(x)) = node.inputs.first() else { continue };
        let Source::Node { node: maker, .. } = g.value(*x).source else { continue };
        let Some(Kernel::Steps { steps, .. }) = kernels.get_mut(maker) else { continue };
        let writes = |bind: &Bind| matches!(bind, Bind::Output(0));
        let can_end = |shader: &str| END_WITH_RELU.contains(&shader);
        let makes = steps.iter().filter(|s| s.binds.iter().any(writes));
        if readers[x.index()] == 1 && g.dtype(*x) == DType::F32 && makes.clone().all(|s| can_end(s.shader.name)) {
            let last = steps.iter_mut().filter(|s| s.binds.iter().any(writes));
            last.for_each(|s| s.overrides.push(("RELU", 1.0)));
            kernels[i] = Kernel::Alias;
        }
    }
}
