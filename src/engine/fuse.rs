//! Nodes that a neighbour's dispatch does along with its own work.

use crate::graph::{Graph, Source, ValueId, passes};
use crate::ops::{Bind, Kernel, Step};
use crate::tensor::DType;
use std::collections::HashMap;

/// Shaders that can end with a Relu.
const END_WITH_RELU: [&str; 4] = ["matmul", "conv", "conv_few", "binary"];

/// Shaders that can add another value of their output's shape, before a Relu.
const ADD_ANOTHER: [&str; 2] = ["matmul", "conv"];

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

/// How many nodes read each value; an output of the graph is read once more.
pub(super) fn readers(g: &Graph) -> Vec<usize> {
    let mut readers = vec![0usize; g.values().len()];
    for id in g.nodes().iter().flat_map(|n| n.inputs.iter().flatten()).chain(&g.outputs) {
        readers[id.index()] += 1;
    }
    readers
}

/// The node that computes a value which nobody but its reader reads, through views of it.
pub(super) fn maker(g: &Graph, kernels: &[Kernel], readers: &[usize], mut x: ValueId) -> Option<usize> {
    loop {
        let Source::Node { node, .. } = g.value(x).source else { return None };
        if readers[x.index()] != 1 {
            return None;
        }
        match kernels.get(node)? {
            Kernel::Alias => x = g.nodes()[node].inputs.first().copied()??,
            Kernel::Steps { .. } => return Some(node),
        }
    }
}

/// The steps of a node that write its first output, if shaders of these names alone do.
fn ends<'k>(kernels: &'k mut [Kernel], node: usize, shaders: &[&str]) -> Option<Vec<&'k mut Step>> {
    let Some(Kernel::Steps { steps, .. }) = kernels.get_mut(node) else { return None };
    let writes = |s: &Step| s.binds.iter().any(|bind| matches!(bind, Bind::Output(0)));
    let ends: Vec<&mut Step> = steps.iter_mut().filter(|s| writes(s)).collect();
    (!ends.is_empty() && ends.iter().all(|s| shaders.contains(&s.shader.name))).then_some(ends)
}

/// A sum of two values of one shape is made where the later one is, if nobody else reads that.
pub(crate) fn sums(g: &mut Graph, kernels: &mut [Kernel]) {
    let readers = readers(g);
    for i in 0..g.nodes().len() {
        let node = &g.nodes()[i];
        let [Some(a), Some(b)] = node.inputs[..] else { continue };
        let Some(Some(y)) = node.outputs.first() else { continue };
        let alike = |id: ValueId| g.shape(id) == g.shape(*y) && g.dtype(id) == DType::F32;
        if node.op.spec().name != "Add" || a == b || !alike(a) || !alike(b) {
            continue;
        }
        let [at_a, at_b] = [a, b].map(|id| maker(g, kernels, &readers, id));
        let (sum, other, at) = match (at_a, at_b) {
            (Some(at), other) if other.is_none_or(|o| o < at) => (a, b, at),
            (_, Some(at)) => (b, a, at),
            _ => continue,
        };
        let is_there = match g.value(other).source {
            Source::Node { node, .. } => node < at,
            _ => true,
        };
        let at_input = g.nodes()[at].inputs.len();
        let is_free = |ends: &Vec<&mut Step>| ends.iter().all(|s| s.overrides.iter().all(|(name, _)| *name != "HAS_R"));
        let Some(ends) = ends(kernels, at, &ADD_ANOTHER).filter(|ends| is_there && is_free(ends)) else { continue };
        for step in ends {
            // the last bind but one is what is added
            let Some(bind) = step.binds.iter_mut().rev().nth(1) else { continue };
            *bind = Bind::Input(at_input);
            step.overrides.push(("HAS_R", 1.0));
        }
        kernels[i] = Kernel::Alias;
        if let Some(inputs) = g.inputs_mut(at) {
            inputs.push(Some(other));
        }
        if let Some(inputs) = g.inputs_mut(i) {
            *inputs = vec![Some(sum)];
        }
    }
}

/// A Relu whose operand nobody else reads is done by the shader that makes the operand, and becomes a view of it.
pub(crate) fn relus(g: &Graph, kernels: &mut [Kernel]) {
    let readers = readers(g);
    for (i, node) in g.nodes().iter().enumerate().filter(|(_, n)| n.op.spec().name == "Relu") {
        let Some(Some(x)) = node.inputs.first().copied() else { continue };
        if g.dtype(x) != DType::F32 {
            continue;
        }
        let Some(at) = maker(g, kernels, &readers, x) else { continue };
        let Some(ends) = ends(kernels, at, &END_WITH_RELU) else { continue };
        ends.into_iter().for_each(|s| s.overrides.push(("RELU", 1.0)));
        kernels[i] = Kernel::Alias;
    }
}
