//! Changes to a whole graph that keep its meaning.

use super::{Graph, Node, Source, ValueId};

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
