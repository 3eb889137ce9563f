//! Sums of squared per-sample gradients of each class by itself, block by block.

use super::fit::{Forecast, Task};
use super::plan::{CHUNK, Chunk, Plan, halves, is_node};
use super::store::{self, Layout, Origin};
use super::{SquareSums, not_finite};
use crate::classifier::{Classifier, Weights};
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::inputs::Source;
use crate::tensor::{Array, DType, TensorType};
use sha2::{Digest, Sha256};
use std::ops::Range;
use std::path::Path;

/// What one sum is of.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    /// The class.
    pub class: usize,
    /// First chunk of the class's samples.
    pub from: usize,
    /// The chunk after the last.
    pub to: usize,
    /// SHA-256 of the samples, hexadecimal: of a chunk as the model takes it, of more chunks over the two halves' hashes.
    pub sha256: String,
}

impl Row {
    pub(super) fn range(&self) -> Range<usize> {
        self.from..self.to
    }
}

/// Sums of some chunks of a class, one list of elements per weight.
pub(super) struct Node {
    pub(super) row: Row,
    pub(super) sums: Vec<Vec<f64>>,
}

/// The hash of two halves of a node.
pub(super) fn joined_hash(left: &str, right: &str) -> String {
    crate::files::hex(&Sha256::new().chain_update(left).chain_update(right).finalize())
}

/// Adds up nodes as they come, in order, as far as the tree over the chunks of their class allows.
struct Stack {
    nodes: Vec<Node>,
}

impl Stack {
    fn push(&mut self, node: Node, chunks: usize) {
        self.nodes.push(node);
        while let [.., a, b] = &self.nodes[..] {
            let both = a.row.from..b.row.to;
            let are_halves = is_node(&both, chunks) && halves(&both).is_some_and(|(left, _)| left.end == a.row.to);
            if !are_halves {
                break;
            }
            if let (Some(b), Some(a)) = (self.nodes.pop(), self.nodes.last_mut()) {
                a.row.to = b.row.to;
                a.row.sha256 = joined_hash(&a.row.sha256, &b.row.sha256);
                for (into, more) in a.sums.iter_mut().zip(b.sums) {
                    into.iter_mut().zip(more).for_each(|(x, y)| *x += y);
                }
            }
        }
    }
}

/// A prepared estimate of classes by themselves.
pub struct ClassSums<'a> {
    plan: &'a Plan,
    /// For blocks of one chunk, and for blocks of several.
    sessions: [Option<SquareSums<'a>>; 2],
    /// Names of the weights.
    pub names: Vec<String>,
    /// Element type and shape of each weight's sum.
    pub types: Vec<TensorType>,
    /// Weights that the answer does not depend on.
    pub unused: Vec<String>,
    /// Samples per run.
    pub batch: usize,
    /// What it takes at most.
    pub forecast: Option<Forecast>,
    /// Why samples ran one by one, if they had to.
    pub one_by_one: Option<String>,
}

impl<'a> ClassSums<'a> {
    /// Prepares the sessions that a plan needs.
    ///
    /// # Errors
    /// When an op has no derivative, or the engine lacks something.
    pub fn new(classifier: &Classifier, engine: &'a dyn Engine, weights: &Weights, plan: &'a Plan) -> Result<Self> {
        let elements: usize = weights.tensors.iter().map(|t| t.ty().len()).sum();
        let waiting = if engine.on_device() { 0 } else { (plan.waiting() * elements * 8) as u64 };
        let prepare = |size: Option<(usize, usize)>, beside: u64| {
            let task = |(sets, samples)| Task { classifier, engine, sets, samples, beside };
            size.map(|size| SquareSums::prepare(task(size), weights)).transpose()
        };
        let [one, several] = plan.sessions();
        let one = prepare(one, waiting)?;
        // both keep their buffers on a device
        let beside = one.as_ref().filter(|_| engine.on_device()).map_or(waiting, |s| s.forecast.bytes);
        let sessions = [one, prepare(several, beside)?];
        let any = sessions.iter().flatten().next();
        let any = any.ok_or_else(|| Error::invalid("a Fisher estimate needs at least one sample"))?;
        Ok(Self {
            plan,
            names: any.names.clone(),
            types: any.types().iter().map(|t| TensorType::new(t.dtype, &t.shape[1..])).collect(),
            unused: any.unused.clone(),
            batch: sessions.iter().flatten().map(|s| s.graph.batch).max().unwrap_or(1),
            forecast: sessions.iter().flatten().map(|s| s.forecast).max_by_key(|f| f.bytes),
            one_by_one: any.one_by_one.clone(),
            sessions,
        })
    }

    /// Computes some blocks and writes their sums to a Fisher file. Of `origin` the classes, the rows and the weights
    /// without a gradient are filled in. `progress` is told how many samples are done.
    ///
    /// # Errors
    /// When a sample cannot be read, the engine fails, a sum is not finite, or the file cannot be written.
    pub fn write(
        &mut self,
        path: &Path,
        source: &Source,
        blocks: &Range<usize>,
        origin: Origin,
        progress: &mut dyn FnMut(usize),
    ) -> Result<Origin> {
        let added_here = self.plan.samples.iter().any(|(_, n)| *n > CHUNK);
        let layout = Layout {
            names: self.names.clone(),
            shapes: self.types.iter().map(|t| t.shape.clone()).collect(),
            wide: added_here || self.types.iter().any(|t| t.dtype == DType::F64),
        };
        let row = |(class, range): (usize, Range<usize>)| Row {
            class,
            from: range.start,
            to: range.end,
            sha256: String::new(),
        };
        let origin = Origin {
            samples: self.plan.samples.clone(),
            chunk: CHUNK,
            unused: self.unused.clone(),
            rows: self.plan.rows(blocks).into_iter().map(row).collect(),
            ..origin
        };
        store::write(path, &layout, origin, |writer| {
            let mut i = 0;
            self.run(source, blocks, progress, &mut |node| {
                let row = writer
                    .origin
                    .rows
                    .get_mut(i)
                    .filter(|r| r.class == node.row.class && r.range() == node.row.range());
                *row.ok_or_else(|| Error::internal("a sum that was not planned"))? = node.row;
                for (weight, sum) in node.sums.iter().enumerate() {
                    writer.put(weight, i, sum)?;
                }
                i += 1;
                Ok(())
            })
        })
    }

    /// Computes some blocks. `each` is given every sum once it is added up as far as the blocks allow, in the order
    /// of [`Plan::rows`]; `progress` is told how many samples are done.
    ///
    /// # Errors
    /// When a sample cannot be read, the engine fails, or a sum is not finite, and what `each` returns.
    pub(super) fn run(
        &mut self,
        source: &Source,
        blocks: &Range<usize>,
        progress: &mut dyn FnMut(usize),
        each: &mut dyn FnMut(Node) -> Result<()>,
    ) -> Result<()> {
        let mut stack = Stack { nodes: Vec::new() };
        let chunks = |class: usize| {
            let samples = self.plan.samples.iter().find(|(c, _)| *c == class);
            super::plan::chunks(samples.map_or(0, |(_, n)| *n))
        };
        let mut done = 0;
        for block in &self.plan.blocks[blocks.clone()] {
            let session = &mut self.sessions[usize::from(block.len() > 1)];
            let session = session.as_mut().ok_or_else(|| Error::internal("no session for a block"))?;
            if stack.nodes.last().is_some_and(|n| block.iter().all(|c| c.class != n.row.class)) {
                stack.nodes.drain(..).try_for_each(&mut *each)?;
            }
            let nodes = of_block(session, source, block, &mut |n| progress(done + n))?;
            done += block.iter().map(|c| c.positions.len()).sum::<usize>();
            for node in nodes {
                if stack.nodes.last().is_some_and(|n| n.row.class != node.row.class) {
                    stack.nodes.drain(..).try_for_each(&mut *each)?;
                }
                let chunks = chunks(node.row.class);
                stack.push(node, chunks);
            }
        }
        stack.nodes.drain(..).try_for_each(each)
    }
}

/// Sums of the chunks of one block.
fn of_block(
    session: &mut SquareSums<'_>,
    source: &Source,
    block: &[Chunk],
    progress: &mut dyn FnMut(usize),
) -> Result<Vec<Node>> {
    let positions: Vec<usize> = block.iter().flat_map(|c| c.positions.iter().copied()).collect();
    let data = source.read(&positions)?;
    let sets_of_session = session.types().first().and_then(|t| t.shape.first()).copied().unwrap_or(1);
    let mut sets = vec![vec![0.0; data.len()]; sets_of_session];
    let mut nodes = Vec::with_capacity(block.len());
    let mut from = 0;
    for (chunk, u) in block.iter().zip(&mut sets) {
        let to = from + chunk.positions.len();
        u[from..to].fill(1.0);
        let sha256 = crate::files::hex(&data.batch(from..to)?.digest());
        let row = Row { class: chunk.class, from: chunk.index, to: chunk.index + 1, sha256 };
        nodes.push(Node { row, sums: Vec::new() });
        from = to;
    }
    let sums = session.run(&data, &sets, progress)?;
    for (name, tensor) in session.names.iter().zip(sums) {
        let all = tensor.to_array()?;
        let each = all.len() / sets_of_session.max(1);
        for (i, node) in nodes.iter_mut().enumerate() {
            let of_set = elements(&all, i * each..(i + 1) * each)?;
            if of_set.iter().any(|v| !v.is_finite()) {
                return Err(not_finite(name));
            }
            node.sums.push(of_set);
        }
    }
    Ok(nodes)
}

fn elements(a: &Array, range: Range<usize>) -> Result<Vec<f64>> {
    Ok(match a.dtype() {
        DType::F64 => a.slice::<f64>()?[range].to_vec(),
        _ => a.slice::<f32>()?[range].iter().map(|&v| f64::from(v)).collect(),
    })
}
