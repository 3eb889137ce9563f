//! The embedded engine: every op's own `eval`, values dropped after their last use.

use super::{Engine, Session, Tensor, plan};
use crate::error::{Error, Result};
use crate::graph::{Graph, Source, ValueId, passes};
use crate::memory;
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
        Ok(Box::new(CpuSession { graph, last }))
    }
}

struct CpuSession {
    graph: Graph,
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
            let y = node.op.eval(&g.view_of(node), &x).map_err(place)?;
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
