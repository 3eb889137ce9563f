//! The order of nodes, and values computed twice, so that less has to be held at once.

use super::{Graph, Node, Source, ValueId, passes};
use crate::error::Result;
use std::collections::{BTreeMap, BTreeSet};

/// Moves what only ends in outputs of the graph, such as the sums of squares, to where the last value that it reads is
/// made, so that nothing is held for it until the end.
pub fn end_early(g: &mut Graph) {
    let nodes = g.nodes();
    let mut readers: Vec<Vec<usize>> = vec![Vec::new(); g.values().len()];
    let mut missing = vec![0_usize; nodes.len()];
    for (i, node) in nodes.iter().enumerate() {
        for id in made_by_nodes(g, node) {
            push(&mut readers, id, i);
            increment(&mut missing, i);
        }
    }
    let is_output: BTreeSet<ValueId> = g.outputs.iter().copied().collect();
    let mut ends = vec![false; nodes.len()];
    for (i, node) in nodes.iter().enumerate().rev() {
        let ended = node.outputs.iter().flatten().all(|id| match readers.get(id.index()).map(Vec::as_slice) {
            Some([]) | None => true,
            Some([one]) => !is_output.contains(id) && ends.get(*one).copied().unwrap_or(false),
            Some(_) => false,
        });
        if let Some(e) = ends.get_mut(i) {
            *e = ended;
        }
    }
    let mut order = Vec::with_capacity(nodes.len());
    let mut placed = vec![false; nodes.len()];
    for first in 0..nodes.len() {
        let mut ready = vec![first];
        while let Some(i) = ready.pop() {
            let (Some(node), Some(done)) = (nodes.get(i), placed.get_mut(i)) else { continue };
            if std::mem::replace(done, true) {
                continue;
            }
            order.push(node.clone());
            let following = node.outputs.iter().flatten().filter_map(|id| readers.get(id.index())).flatten();
            for &next in following {
                if let Some(m) = missing.get_mut(next) {
                    *m = m.saturating_sub(1);
                    if *m == 0 && ends.get(next).copied().unwrap_or(false) {
                        ready.push(next);
                    }
                }
            }
        }
    }
    g.set_nodes(order);
}

/// The values that a node reads and that nodes make, each once.
fn made_by_nodes(g: &Graph, node: &Node) -> BTreeSet<ValueId> {
    let made = |id: &ValueId| matches!(g.value(*id).source, Source::Node { .. });
    node.inputs.iter().flatten().copied().filter(made).collect()
}

fn push(lists: &mut [Vec<usize>], id: ValueId, i: usize) {
    if let Some(list) = lists.get_mut(id.index()) {
        list.push(i);
    }
}

fn increment(counts: &mut [usize], i: usize) {
    if let Some(n) = counts.get_mut(i) {
        *n += 1;
    }
}

/// The first node that depends on one of these values: where the forward pass is over, if they are the labels.
pub fn first_reached(g: &Graph, from: &[ValueId]) -> usize {
    let hit = passes::reached_from(g, from);
    let reached = |node: &Node| node.outputs.iter().flatten().any(|id| hit.get(id.index()) == Some(&true));
    g.nodes().iter().position(reached).unwrap_or(g.nodes().len())
}

/// Values of the forward pass as the backward pass needs them.
struct Forward<'a> {
    g: &'a Graph,
    /// The nodes before this one are the forward pass.
    end: usize,
    /// Who makes a value, by index.
    maker: Vec<Option<usize>>,
    /// The last node of the forward pass that reads a value.
    read_forward: Vec<Option<usize>>,
    /// Values that are read after the forward pass.
    read_late: Vec<bool>,
}

impl<'a> Forward<'a> {
    fn new(g: &'a Graph, end: usize) -> Self {
        let n = g.values().len();
        let (mut maker, mut read_forward, mut read_late) = (vec![None; n], vec![None; n], vec![false; n]);
        for (i, node) in g.nodes().iter().enumerate() {
            for id in node.inputs.iter().flatten() {
                if i < end {
                    set(&mut read_forward, *id, Some(i));
                } else {
                    set(&mut read_late, *id, true);
                }
            }
            if i < end {
                node.outputs.iter().flatten().for_each(|id| set(&mut maker, *id, Some(i)));
            }
        }
        // an output of the graph is there all the time
        g.outputs.iter().for_each(|id| set(&mut read_forward, *id, Some(usize::MAX)));
        Self { g, end, maker, read_forward, read_late }
    }

    fn made_at(&self, id: ValueId) -> Option<usize> {
        self.maker.get(id.index()).copied().flatten()
    }

    /// True when a value that is made before node `at` is read by the forward pass from there on.
    fn is_held(&self, id: ValueId, at: usize) -> bool {
        let last = self.read_forward.get(id.index()).copied().flatten();
        self.made_at(id).is_some_and(|m| m < at) && last.is_some_and(|l| l >= at)
    }

    /// Bytes of what the forward pass holds before each node.
    fn held(&self) -> Vec<u64> {
        let mut change = vec![0_i128; self.end + 2];
        for id in self.g.ids() {
            let (Some(made), Some(last)) = (self.made_at(id), self.read_forward.get(id.index()).copied().flatten())
            else {
                continue;
            };
            let bytes = i128::from(bytes(self.g, id));
            for (at, sign) in [(made + 1, 1), (last.min(self.end).saturating_add(1), -1)] {
                if let Some(c) = change.get_mut(at) {
                    *c += sign * bytes;
                }
            }
        }
        let mut now = 0_i128;
        let sums = change.iter().map(|c| {
            now += c;
            u64::try_from(now).unwrap_or(0)
        });
        sums.collect()
    }

    /// Where to cut the forward pass into `parts` that make about as much for the backward pass each: of the places near
    /// by, those where it holds least.
    fn cuts(&self, parts: usize) -> Vec<usize> {
        let mut made = vec![0_u64; self.end + 1];
        for id in self.g.ids().filter(|id| self.read_late.get(id.index()) == Some(&true)) {
            if let Some(m) = self.made_at(id).and_then(|i| made.get_mut(i)) {
                *m = m.saturating_add(bytes(self.g, id));
            }
        }
        let total: u64 = made.iter().sum();
        let held = self.held();
        let reach = self.end / (2 * parts).max(1);
        let (mut cuts, mut sum) = (Vec::new(), 0_u64);
        for (i, m) in made.iter().enumerate() {
            let next = u64::try_from(cuts.len() + 1).unwrap_or(u64::MAX);
            let parts = u64::try_from(parts).unwrap_or(u64::MAX);
            sum = sum.saturating_add(*m);
            if next < parts && u128::from(sum) * u128::from(parts) >= u128::from(total) * u128::from(next) {
                let from = cuts.last().copied().unwrap_or(0).max(i.saturating_sub(reach)) + 1;
                let to = (i + reach).min(self.end);
                let least = (from..to).min_by_key(|at| (held.get(*at).copied(), at.abs_diff(i)));
                cuts.extend(least);
            }
        }
        cuts
    }
}

fn set<T>(list: &mut [T], id: ValueId, v: T) {
    if let Some(slot) = list.get_mut(id.index()) {
        *slot = v;
    }
}

fn bytes(g: &Graph, id: ValueId) -> u64 {
    crate::engine::plan::element_bytes(&g.value(id).ty)
}

/// The graph with a forward pass (the nodes before `end`) that is cut into `parts`: what a part makes is not held for the
/// backward pass but made anew when that comes to it, from the values that lie on the cut. The last part is not made
/// twice. `None` where there is nothing to cut. Chen et al., "Training Deep Nets with Sublinear Memory Cost",
/// arXiv:1604.06174.
///
/// # Errors
/// Never for a graph whose nodes stand in an order in which they can run.
pub fn recompute(from: &Graph, end: usize, parts: usize) -> Result<Option<Graph>> {
    let forward = Forward::new(from, end);
    let cuts = forward.cuts(parts);
    let mut g = from.clone();
    let mut again: Vec<Vec<Node>> = Vec::new();
    let mut part_of: BTreeMap<ValueId, usize> = BTreeMap::new();
    let mut copy: BTreeMap<ValueId, ValueId> = BTreeMap::new();
    let mut start = 0;
    for (part, &stop) in cuts.iter().enumerate() {
        let mut nodes = Vec::new();
        for i in needed(&forward, start, stop) {
            let Some(node) = from.nodes().get(i) else { continue };
            let mut node = node.clone();
            // what is held over the cut is read where it is
            let here = |id: ValueId| forward.made_at(id).is_some_and(|m| m >= start) && !forward.is_held(id, stop);
            for input in node.inputs.iter_mut().flatten().filter(|id| here(**id)) {
                *input = copy.get(input).copied().unwrap_or(*input);
            }
            for output in node.outputs.iter_mut().flatten() {
                let new = g.twin(*output);
                copy.insert(*output, new);
                part_of.insert(*output, part);
                *output = new;
            }
            nodes.push(node);
        }
        again.push(nodes);
        start = stop;
    }
    if copy.is_empty() {
        return Ok(None);
    }
    let mut order: Vec<Node> = from.nodes().iter().take(end).cloned().collect();
    for node in from.nodes().iter().skip(end) {
        let mut node = node.clone();
        for input in node.inputs.iter_mut().flatten() {
            let Some(&part) = part_of.get(input) else { continue };
            if forward.is_held(*input, cuts.get(part).copied().unwrap_or(end)) {
                continue;
            }
            order.extend(again.get_mut(part).map(std::mem::take).unwrap_or_default());
            *input = copy.get(input).copied().unwrap_or(*input);
        }
        order.push(node);
    }
    g.set_nodes(order);
    passes::prune(&mut g);
    Ok(Some(g))
}

/// The nodes of `start..stop` that make what the backward pass reads and the cut at `stop` does not hold.
fn needed(forward: &Forward<'_>, start: usize, stop: usize) -> Vec<usize> {
    let mut wanted: BTreeSet<ValueId> = BTreeSet::new();
    let mut found = Vec::new();
    let nodes = forward.g.nodes();
    for (i, node) in nodes.iter().enumerate().take(stop).skip(start).rev() {
        let lost = |id: &ValueId| !forward.is_held(*id, stop);
        let late = |id: &ValueId| forward.read_late.get(id.index()) == Some(&true);
        if node.outputs.iter().flatten().any(|id| lost(id) && (late(id) || wanted.contains(id))) {
            wanted.extend(node.inputs.iter().flatten().filter(|id| lost(id)));
            found.push(i);
        }
    }
    found.reverse();
    found
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;
    use crate::engine::{Engine, Tensor, cpu::Cpu, plan};
    use crate::graph::{Attrs, Batch};
    use crate::tensor::{Array, DType, TensorType};

    /// `x ↦ tanh(w_k x)`, k times, and the squared lengths of the gradients of the sum.
    fn chain(depth: usize) -> (Graph, usize) {
        let mut g = Graph::new(1);
        let ty = TensorType::new(DType::F32, [1, 64]);
        let x = g.input("x", ty.clone(), Batch::LEADING);
        let labels = g.input("labels", ty, Batch::LEADING);
        let (mut y, mut weights) = (x, Vec::new());
        for (k, value) in (0..depth).zip((0_u8..).map(|k| 0.9 - 0.01 * f32::from(k))) {
            let w = g.weight(format!("w{k}"), Array::full(&[1, 64], value));
            y = g.push("Mul", &[y, w], Attrs::new()).unwrap();
            y = g.push("Tanh", &[y], Attrs::new()).unwrap();
            weights.push(w);
        }
        let seed = g.push("Mul", &[y, labels], Attrs::new()).unwrap();
        let samples = crate::autodiff::Samples::Summed;
        let found = crate::autodiff::backward(&mut g, &[(y, seed)], &weights, samples).unwrap();
        let mut outputs = Vec::new();
        for d in found.into_iter().flatten() {
            let square = g.push("Mul", &[d, d], Attrs::new()).unwrap();
            outputs.push(crate::ops::reduce_sum(&mut g, square, &[0, 1], false).unwrap());
        }
        g.outputs = outputs;
        passes::prune(&mut g);
        end_early(&mut g);
        let labels = g.inputs[1];
        let end = first_reached(&g, &[labels]);
        (g, end)
    }

    fn run(g: &Graph) -> Vec<Array> {
        let feed = |v: f32| Tensor::Host(Array::full(&[1, 64], v));
        let out = Cpu.prepare(g).unwrap().run(&[feed(0.7), feed(1.3)]).unwrap();
        out.iter().map(|t| t.to_array().unwrap()).collect()
    }

    fn peak(g: &Graph) -> u64 {
        plan::host_bytes(g)
    }

    #[test]
    fn what_is_made_twice_is_the_same_and_takes_less() {
        let (g, end) = chain(40);
        for parts in [2, 4, 6, 10] {
            let less = recompute(&g, end, parts).unwrap().unwrap();
            assert!(less.nodes().len() > g.nodes().len());
            assert!(less.nodes().len() < g.nodes().len() + end, "nothing is made three times");
            assert_eq!(run(&less), run(&g));
            // of 40 values those on the cuts and those of one part are left
            let (was, is) = (peak(&g), peak(&less));
            assert!(is * 4 < was * 3, "{parts} parts: {is} of {was}");
        }
        assert!(recompute(&g, end, 1).unwrap().is_none());
        assert!(recompute(&g, 0, 4).unwrap().is_none());
    }

    #[test]
    fn outputs_are_made_as_soon_as_they_can_be() {
        let (g, _) = chain(8);
        let squares: Vec<usize> = g
            .outputs
            .iter()
            .map(|id| match g.value(*id).source {
                Source::Node { node, .. } => node,
                _ => 0,
            })
            .collect();
        // the last layer's comes first
        assert!(squares.windows(2).all(|w| w[0] > w[1]), "{squares:?}");
        assert_eq!(run(&g).len(), 8);
    }
}
