//! Changes to a whole graph that keep its meaning.

use super::{Graph, Node, Source, ValueId};
use crate::error::{Error, Result};
use std::collections::HashMap;

/// Removes every node whose outputs reach no output of the graph.
pub fn prune(g: &mut Graph) {
    let mut live = vec![false; g.values().len()];
    let mark = |live: &mut Vec<bool>, id: ValueId| {
        if let Some(l) = live.get_mut(id.index()) {
            *l = true;
        }
    };
    for &o in &g.outputs {
        mark(&mut live, o);
    }
    let mut kept: Vec<Node> = Vec::new();
    for node in g.nodes().iter().rev() {
        let mut node = node.clone();
        let used = |id: &ValueId| live.get(id.index()).copied().unwrap_or(false);
        if !node.outputs.iter().flatten().any(used) {
            continue;
        }
        for (i, out) in node.outputs.iter_mut().enumerate() {
            if i > 0 && !out.as_ref().is_some_and(used) {
                *out = None;
            }
        }
        while matches!(node.outputs.last(), Some(None)) {
            node.outputs.pop();
        }
        for &i in node.inputs.iter().flatten() {
            mark(&mut live, i);
        }
        kept.push(node);
    }
    kept.reverse();
    g.set_nodes(kept);
}

/// For every value the index of the last node that reads it; outputs of the graph are read at the end.
pub fn last_use(g: &Graph) -> Vec<Option<usize>> {
    let mut last = vec![None; g.values().len()];
    for (i, node) in g.nodes().iter().enumerate() {
        for id in node.inputs.iter().flatten() {
            if let Some(l) = last.get_mut(id.index()) {
                *l = Some(i);
            }
        }
    }
    for id in &g.outputs {
        if let Some(l) = last.get_mut(id.index()) {
            *l = Some(usize::MAX);
        }
    }
    last
}

/// Marks the values that some of `from` reach through nodes.
pub fn reached_from(g: &Graph, from: &[ValueId]) -> Vec<bool> {
    let mut hit = vec![false; g.values().len()];
    for id in from {
        if let Some(h) = hit.get_mut(id.index()) {
            *h = true;
        }
    }
    for node in g.nodes() {
        if node.inputs.iter().flatten().any(|i| hit.get(i.index()).copied().unwrap_or(false)) {
            for o in node.outputs.iter().flatten() {
                if let Some(h) = hit.get_mut(o.index()) {
                    *h = true;
                }
            }
        }
    }
    hit
}

/// The weight that a value is, through any number of `Identity` nodes.
pub fn root(g: &Graph, mut id: ValueId) -> ValueId {
    while let Source::Node { node, .. } = &g.value(id).source {
        match g.nodes().get(*node) {
            Some(n) if n.op.spec().name == "Identity" => match n.inputs.first() {
                Some(Some(x)) => id = *x,
                _ => break,
            },
            _ => break,
        }
    }
    id
}

/// Adds the nodes of `from` that `wanted` needs to `to`. `map` says which values of `to` stand for values
/// of `from`: at least the inputs and weights that are reached; it grows by everything that was added.
///
/// # Errors
/// When a value that is needed has no counterpart.
pub fn replay(from: &Graph, to: &mut Graph, wanted: &[ValueId], map: &mut HashMap<ValueId, ValueId>) -> Result<()> {
    let mut needed = vec![false; from.values().len()];
    for id in wanted {
        if let Some(n) = needed.get_mut(id.index()) {
            *n = true;
        }
    }
    let is = |needed: &[bool], id: ValueId| needed.get(id.index()).copied().unwrap_or(false);
    let mut keep = Vec::new();
    for node in from.nodes().iter().rev() {
        let missing = |o: &ValueId| is(&needed, *o) && !map.contains_key(o);
        if !node.outputs.iter().flatten().any(missing) {
            continue;
        }
        for &i in node.inputs.iter().flatten() {
            if let Some(n) = needed.get_mut(i.index()) {
                *n = true;
            }
        }
        keep.push(node);
    }
    for node in keep.into_iter().rev() {
        let mut inputs = Vec::with_capacity(node.inputs.len());
        for i in &node.inputs {
            inputs.push(match i {
                None => None,
                Some(i) => Some(counterpart(from, to, *i, map)?),
            });
        }
        let wanted: Vec<bool> = node.outputs.iter().map(Option::is_some).collect();
        to.set_scope(&node.name);
        let outputs = to.push_multi(node.op, &inputs, node.attrs.clone(), &wanted)?;
        for (old, new) in node.outputs.iter().zip(outputs) {
            if let (Some(old), Some(new)) = (old, new) {
                map.entry(*old).or_insert(new);
            }
        }
    }
    Ok(())
}

fn counterpart(from: &Graph, to: &mut Graph, id: ValueId, map: &mut HashMap<ValueId, ValueId>) -> Result<ValueId> {
    if let Some(&known) = map.get(&id) {
        return Ok(known);
    }
    let value = from.value(id);
    let new = match &value.source {
        Source::Const(data) => to.constant_as(data.clone(), value.ty.dtype),
        Source::Stored(elements) => to.stored(from.label(id), value.ty.clone(), elements.clone()),
        _ => return Err(Error::internal(format!("value {} has no counterpart", from.label(id)))),
    };
    map.insert(id, new);
    Ok(new)
}
