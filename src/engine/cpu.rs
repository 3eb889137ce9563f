//! The embedded engine: every op's own `eval`, values dropped after their last use.

use super::{Engine, Session, Tensor, plan};
use crate::error::{Error, Result};
use crate::graph::{Graph, Node, Source, ValueId, passes};
use crate::memory;
use crate::ops;
use crate::tensor::Array;
use std::collections::BTreeMap;

/// Runs graphs with the ops' reference evaluation on ndarray.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cpu;

impl Engine for Cpu {
    fn name(&self) -> &'static str {
        "cpu"
    }
    fn describe(&self) -> String {
        format!("cpu, {} threads", rayon::current_num_threads())
    }
    fn device(&self) -> BTreeMap<&'static str, String> {
        let threads = rayon::current_num_threads().to_string();
        BTreeMap::from([("architecture", std::env::consts::ARCH.to_owned()), ("threads", threads)])
    }
    fn prepare(&self, graph: &Graph) -> Result<Box<dyn Session>> {
        let mut graph = graph.clone();
        passes::prune(&mut graph);
        let last = passes::last_use(&graph);
        memory::check(plan::host_bytes(&graph), "running the graph")?;
        let swaps = swaps(&graph);
        Ok(Box::new(CpuSession { graph, swaps, last }))
    }
}

struct CpuSession {
    graph: Graph,
    /// Nodes that swap the last two axes, and whose readers do not need anything moved in memory for it.
    swaps: Vec<bool>,
    last: Vec<Option<usize>>,
}

impl Session for CpuSession {
    fn run(&mut self, feeds: &[Tensor]) -> Result<Vec<Tensor>> {
        let session = &*self;
        // a thread of the pool goes on by itself where another one would have to hand over every op and wait for it
        rayon::scope(|_| session.compute(feeds))
    }
}

impl CpuSession {
    fn compute(&self, feeds: &[Tensor]) -> Result<Vec<Tensor>> {
        let g = &self.graph;
        let mut values: Vec<Option<Array>> = g
            .values()
            .iter()
            .map(|v| match &v.source {
                Source::Const(a) | Source::Weight(a) => Some(a.clone()),
                _ => None,
            })
            .collect();
        check_feeds(g, feeds)?;
        for (&id, feed) in g.inputs.iter().zip(feeds) {
            values[id.index()] = Some(feed.to_array()?);
        }
        for (i, node) in g.nodes().iter().enumerate() {
            let place = |e: Error| e.at(format!("node '{}' ({})", node.name, node.op.spec().name));
            let stored = node.inputs.iter().map(|i| i.map_or(Ok(None), |id| stored(g, id)));
            let stored: Vec<Option<Array>> = stored.collect::<Result<_>>().map_err(place)?;
            let held = |i: &Option<ValueId>| i.and_then(|id| values[id.index()].as_ref());
            let x: Vec<Option<&Array>> =
                node.inputs.iter().zip(&stored).map(|(i, s)| s.as_ref().or_else(|| held(i))).collect();
            let y = match x[..] {
                [Some(x)] if self.swaps[i] => vec![x.swapped()],
                _ => node.op.eval(&g.view_of(node), &x).map_err(place)?,
            };
            for (id, a) in node.outputs.iter().zip(y) {
                if let Some(id) = id {
                    debug_assert_eq!(
                        a.shape(),
                        g.shape(*id),
                        "{} infers another shape than it computes",
                        node.op.spec().name
                    );
                    values[id.index()] = Some(a);
                }
            }
            for id in node.inputs.iter().chain(&node.outputs).flatten() {
                if self.last[id.index()].is_none_or(|l| l == i) {
                    values[id.index()] = None;
                }
            }
        }
        g.outputs
            .iter()
            .map(|id| {
                stored(g, *id)?
                    .or_else(|| values[id.index()].clone())
                    .map(Tensor::Host)
                    .ok_or_else(|| Error::internal(format!("{} was never computed", g.label(*id))))
            })
            .collect()
    }
}

/// Finds the nodes of [`CpuSession::swaps`].
fn swaps(g: &Graph) -> Vec<bool> {
    let mut is_moved = vec![false; g.values().len()];
    g.outputs.iter().for_each(|id| is_moved[id.index()] = true);
    for node in g.nodes() {
        let moved = node.inputs.iter().enumerate().filter(|(k, _)| !node.op.reads_swapped(*k));
        moved.filter_map(|(_, id)| *id).for_each(|id| is_moved[id.index()] = true);
    }
    let stays = |node: &Node| node.outputs.iter().flatten().all(|id| !is_moved[id.index()]);
    g.nodes().iter().map(|node| ops::swaps_last(&g.view_of(node)) && stays(node)).collect()
}

/// The elements of a value that stays in its file.
fn stored(g: &Graph, id: ValueId) -> Result<Option<Array>> {
    match &g.value(id).source {
        Source::Stored(elements) => elements.read().map(Some),
        _ => Ok(None),
    }
}

/// Checks that there is one feed of the right type for each input; element types on the host are checked
/// by storage, since all integers share one.
pub(crate) fn check_feeds(g: &Graph, feeds: &[Tensor]) -> Result<()> {
    if feeds.len() != g.inputs.len() {
        return Err(Error::invalid(format!("{} tensors fed to a graph of {} inputs", feeds.len(), g.inputs.len())));
    }
    for (&id, feed) in g.inputs.iter().zip(feeds) {
        let ty = &g.value(id).ty;
        if let Tensor::Host(a) = feed {
            let same = a.dtype() == ty.dtype || (a.dtype().is_int() && ty.dtype.is_int());
            if a.shape() != ty.shape || !same {
                return Err(Error::invalid(format!("input {} is {ty}, it was fed {}", g.label(id), a.ty())));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{Attrs, Batch};
    use crate::tensor::{DType, TensorType};

    fn wave(shape: &[usize], k: f64) -> Result<Array> {
        Array::from_vec(shape, (0..shape.iter().product()).map(|i: usize| (i as f64 * k).sin()).collect())
    }

    /// `op` of two operands whose last two axes are swapped first, and of whatever else.
    fn product(op: &str, [a, b]: [&[usize]; 2], more: &[&[usize]], are_returned: bool) -> Result<Graph> {
        let mut g = Graph::new(0);
        let mut given = Vec::new();
        for (name, shape) in [("a", a), ("b", b)] {
            let x = g.input(name, TensorType::new(DType::F64, shape), Batch::None);
            let rank = shape.len() as i64;
            let perm: Vec<i64> = (0..rank - 2).chain([rank - 1, rank - 2]).collect();
            // the squares read their second operand as it lies in memory
            let is_plain = op == "MatMulSquared" && name == "b";
            given.push(if is_plain { x } else { g.push("Transpose", &[x], Attrs::new().with("perm", perm))? });
        }
        let swapped: Vec<ValueId> = given.iter().copied().filter(|id| !g.inputs.contains(id)).collect();
        for shape in more {
            given.push(g.input("u", TensorType::new(DType::F64, *shape), Batch::None));
        }
        let y = g.push(op, &given, Attrs::new())?;
        g.outputs = vec![y];
        if are_returned {
            g.outputs.extend(swapped);
        }
        Ok(g)
    }

    #[test]
    fn products_read_swapped_operands_as_they_lie() -> Result<()> {
        let none: &[&[usize]] = &[];
        let cases = [
            ("MatMul", [&[5, 3][..], &[4, 5]], none),
            ("MatMul", [&[2, 3, 5, 7], &[2, 3, 4, 5]], none),
            // one matrix for all, single rows and columns
            ("MatMul", [&[6, 5, 3], &[4, 5]], none),
            ("MatMul", [&[6, 5, 1], &[1, 5]], none),
            ("MatMulSquared", [&[3, 9, 14], &[3, 9, 33]], &[&[2, 3]]),
            ("MatMulSquared", [&[3, 1, 4], &[3, 1, 5]], &[&[1, 3]]),
        ];
        for (op, shapes, more) in cases {
            let feeds =
                shapes.iter().chain(more).zip([0.7, 0.3, 0.9]).map(|(shape, k)| wave(shape, k).map(Tensor::Host));
            let feeds: Vec<Tensor> = feeds.collect::<Result<_>>()?;
            let (lie, are_moved) = (product(op, shapes, more, false)?, product(op, shapes, more, true)?);
            assert!(swaps(&lie).contains(&true) && !swaps(&are_moved).contains(&true), "{op} {shapes:?}");
            let got = Cpu.prepare(&lie)?.run(&feeds)?[0].to_array()?;
            let want = Cpu.prepare(&are_moved)?.run(&feeds)?[0].to_array()?;
            assert_eq!(got.shape(), want.shape());
            for (got, want) in got.to_f64().iter().zip(want.to_f64()) {
                assert!((got - want).abs() < 1e-12, "{op} {shapes:?}: {got}, not {want}");
            }
        }
        Ok(())
    }
}
