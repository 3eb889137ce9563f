//! Tensors that are larger than an adapter binds at once are kept in pieces: a graph that has some becomes one whose
//! values all fit, with as many inputs and outputs as there are pieces.

mod blocks;
mod product;
mod rules;

pub use blocks::cut;

use crate::each_type;
use crate::error::{Error, Result};
use crate::graph::{Attrs, Batch, Graph, Node, Source, Stored, Value, ValueId, passes};
use crate::ops;
use crate::tensor::{Array, TensorType};
use blocks::Block;
use std::collections::HashMap;
use std::ops::Range;

/// Elements of a range of an array, in row-major order, under another shape.
fn elements(a: &Array, range: &Range<usize>, shape: &[usize]) -> Result<Array> {
    each_type!(a, a => {
        let all = a.as_slice().ok_or_else(|| Error::internal("an array that is not in row-major order"))?;
        Array::from_vec(shape, all[range.clone()].to_vec())
    })
}

/// The graph with every value of more than `most` elements in the pieces that [`cut`] gives for its shape; inputs and
/// outputs of the graph stand in the place of the whole one, in order. The graph itself where all values fit.
///
/// # Errors
/// When a node with such a value cannot be computed in pieces; it is named.
pub fn split(graph: &Graph, most: usize) -> Result<Graph> {
    let mut graph = graph.clone();
    passes::prune(&mut graph);
    let read = graph.nodes().iter().flat_map(|n| n.inputs.iter().chain(&n.outputs)).flatten().chain(&graph.outputs);
    if !read.chain(&graph.inputs).any(|&id| graph.value(id).ty.len() > most) {
        return Ok(graph);
    }
    let mut to = Graph::new(graph.batch);
    to.opset = graph.opset;
    let mut splitter = Splitter { from: &graph, to, most, held: HashMap::new() };
    for &id in &graph.inputs {
        splitter.input(id)?;
    }
    for node in graph.nodes() {
        splitter.to.set_scope(&node.name);
        splitter.node(node).map_err(|e| e.at(format!("node '{}' ({})", node.name, node.op.spec().name)))?;
    }
    for &id in &graph.outputs {
        let held = splitter.held(id)?;
        let outputs = splitter.recut(&held, &cut(&held.ty.shape, most))?;
        splitter.to.outputs.extend(outputs.ids);
    }
    Ok(splitter.to)
}

/// A value of the old graph in the new one: ranges in order, and what holds each, in the shape of its [`Block`]. Most are
/// of one piece.
#[derive(Clone)]
struct Held {
    ty: TensorType,
    ranges: Vec<Range<usize>>,
    ids: Vec<ValueId>,
}

impl Held {
    fn whole(ty: &TensorType, id: ValueId) -> Self {
        Self { ty: ty.clone(), ranges: std::iter::once(0..ty.len()).collect(), ids: vec![id] }
    }
    fn is_whole(&self) -> bool {
        self.ids.len() == 1
    }
    fn shape(&self) -> &[usize] {
        &self.ty.shape
    }
}

struct Splitter<'a> {
    from: &'a Graph,
    to: Graph,
    most: usize,
    held: HashMap<ValueId, Held>,
}

impl Splitter<'_> {
    /// The shape of a piece.
    fn piece(ty: &TensorType, range: &Range<usize>) -> Result<Vec<usize>> {
        if range.len() == ty.len() {
            return Ok(ty.shape.clone());
        }
        let block = Block::of(&ty.shape, range);
        Ok(block.ok_or_else(|| Error::internal(format!("{range:?} is no block of {ty}")))?.shape(&ty.shape))
    }

    /// A value of these pieces.
    fn pieces(
        &mut self,
        ty: &TensorType,
        mut make: impl FnMut(&mut Self, &Range<usize>, &[usize]) -> Result<ValueId>,
    ) -> Result<Held> {
        let ranges = cut(&ty.shape, self.most);
        let ids = ranges.iter().map(|r| make(self, r, &Self::piece(ty, r)?)).collect::<Result<Vec<_>>>()?;
        Ok(Held { ty: ty.clone(), ranges, ids })
    }

    fn input(&mut self, id: ValueId) -> Result<()> {
        let Value { ty, batch, .. } = self.from.value(id).clone();
        let name = self.from.label(id);
        let is_whole = ty.len() <= self.most;
        let held = self.pieces(&ty, |s, range, shape| {
            let name = if is_whole { name.clone() } else { format!("{name} from {}", range.start) };
            Ok(s.to.input(name, TensorType::new(ty.dtype, shape), if is_whole { batch } else { Batch::None }))
        })?;
        self.held.insert(id, held);
        Ok(())
    }

    /// What stands for a value.
    fn held(&mut self, id: ValueId) -> Result<Held> {
        if let Some(held) = self.held.get(&id) {
            return Ok(held.clone());
        }
        let Value { ty, source, .. } = self.from.value(id).clone();
        let name = self.from.label(id);
        let is_whole = ty.len() <= self.most;
        let part = |a: &Array, range: &Range<usize>, shape: &[usize]| {
            if is_whole { Ok(a.clone()) } else { elements(a, range, shape) }
        };
        let held = match source {
            Source::Const(a) => self.pieces(&ty, |s, r, shape| Ok(s.to.constant_as(part(&a, r, shape)?, ty.dtype)))?,
            Source::Weight(a) => self.pieces(&ty, |s, r, shape| Ok(s.to.weight(name.clone(), part(&a, r, shape)?)))?,
            Source::Stored(all) => self.pieces(&ty, |s, r, shape| {
                let (all, r, dims) = (all.clone(), r.clone(), shape.to_vec());
                let read = move || if is_whole { all.read() } else { elements(&all.read()?, &r, &dims) };
                Ok(s.to.stored(name.clone(), TensorType::new(ty.dtype, shape), Stored::new(read)))
            })?,
            Source::Input | Source::Node { .. } => {
                return Err(Error::internal(format!("value {name} is read before it is there")));
            }
        };
        self.held.insert(id, held.clone());
        Ok(held)
    }

    fn node(&mut self, node: &Node) -> Result<()> {
        let inputs = node.inputs.iter().map(|i| i.map(|id| self.held(id)).transpose()).collect::<Result<Vec<_>>>()?;
        let wide = |id: &ValueId| self.from.value(*id).ty.len() > self.most;
        if inputs.iter().flatten().all(Held::is_whole) && !node.outputs.iter().flatten().any(wide) {
            let inputs: Vec<_> = inputs.iter().map(|i| i.as_ref().map(|h| h.ids[0])).collect();
            let wanted: Vec<bool> = node.outputs.iter().map(Option::is_some).collect();
            let made = self.to.push_multi(node.op, &inputs, node.attrs.clone(), &wanted)?;
            for (old, new) in node.outputs.iter().zip(made) {
                if let (Some(old), Some(new)) = (old, new) {
                    self.held.insert(*old, Held::whole(&self.from.value(*old).ty, new));
                }
            }
            return Ok(());
        }
        let [Some(out)] = node.outputs[..] else { return Err(self.cannot(node)) };
        let made = rules::apply(self, node, &inputs, &self.from.value(out).ty)?.ok_or_else(|| self.cannot(node))?;
        self.held.insert(out, made);
        Ok(())
    }

    /// The error for a node that is not computed in pieces.
    fn cannot(&self, node: &Node) -> Error {
        let types = node.inputs.iter().chain(&node.outputs).flatten().map(|&id| &self.from.value(id).ty);
        let largest = types.max_by_key(|t| t.len());
        let largest = largest.map_or_else(String::new, |t| format!("{t} takes {} bytes", t.len() as u64 * 4));
        Error::engine(format!(
            "{largest}, this adapter binds at most {} at once, and {} is not computed in pieces; a smaller batch may help",
            self.most as u64 * 4,
            node.op.spec().name
        ))
    }

    fn op(&mut self, name: &str, inputs: &[ValueId]) -> Result<ValueId> {
        self.to.push(name, inputs, Attrs::new())
    }

    fn reshape(&mut self, id: ValueId, shape: &[usize]) -> Result<ValueId> {
        if self.to.shape(id) == shape {
            return Ok(id);
        }
        ops::reshape(&mut self.to, id, shape)
    }

    /// Values one behind the other along an axis.
    fn join(&mut self, parts: &[ValueId], axis: usize) -> Result<ValueId> {
        match parts {
            [one] => Ok(*one),
            _ => self.to.push("Concat", parts, Attrs::new().with("axis", axis as i64)),
        }
    }

    /// A part of a value: a range of each axis.
    fn slice(&mut self, id: ValueId, ranges: &[Range<usize>]) -> Result<ValueId> {
        let shape = self.to.shape(id).to_vec();
        let cut: Vec<usize> = (0..shape.len()).filter(|&a| ranges[a] != (0..shape[a])).collect();
        if cut.is_empty() {
            return Ok(id);
        }
        let ints = |s: &mut Self, of: &dyn Fn(usize) -> usize| {
            let v: Vec<i64> = cut.iter().map(|&a| of(a) as i64).collect();
            s.to.ints(&v)
        };
        let (starts, ends) = (ints(self, &|a| ranges[a].start), ints(self, &|a| ranges[a].end));
        let axes = ints(self, &|a| a);
        self.op("Slice", &[id, starts, ends, axes])
    }

    /// A range of the elements of a value under this shape, wherever its pieces end.
    fn range(&mut self, held: &Held, range: &Range<usize>, shape: &[usize]) -> Result<ValueId> {
        if let Some(i) = held.ranges.iter().position(|r| r == range) {
            return self.reshape(held.ids[i], shape);
        }
        let mut parts = Vec::new();
        for (of, &id) in held.ranges.iter().zip(&held.ids) {
            let (from, to) = (range.start.max(of.start), range.end.min(of.end));
            if from < to {
                let flat = self.reshape(id, &[of.len()])?;
                parts.push(self.slice(flat, std::slice::from_ref(&(from - of.start..to - of.start)))?);
            }
        }
        let joined = self.join(&parts, 0)?;
        self.reshape(joined, shape)
    }

    /// The same elements in other pieces.
    fn recut(&mut self, held: &Held, ranges: &[Range<usize>]) -> Result<Held> {
        let ids = ranges
            .iter()
            .map(|r| {
                let shape = Self::piece(&held.ty, r)?;
                self.range(held, r, &shape)
            })
            .collect::<Result<Vec<_>>>()?;
        Ok(Held { ty: held.ty.clone(), ranges: ranges.to_vec(), ids })
    }

    /// The value in one piece where it fits, else in pieces that are blocks of its shape.
    fn settle(&mut self, held: Held) -> Result<Held> {
        let are_blocks = held.ranges.iter().all(|r| Block::of(held.shape(), r).is_some());
        let ranges =
            if held.ty.len() > self.most && are_blocks { held.ranges.clone() } else { cut(held.shape(), self.most) };
        self.recut(&held, &ranges)
    }
}
