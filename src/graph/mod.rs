//! The one graph type: typed values with static shapes, nodes in execution order.
//!
//! A graph grows by [`Graph::push`], which infers the outputs' types, follows the batch axis and folds
//! what is constant at once; shape subgraphs therefore never exist. The backward pass is more nodes of
//! the same graph.
#![deny(clippy::unwrap_used, clippy::as_conversions, clippy::indexing_slicing)]

mod attrs;
pub mod batch;
pub mod cost;
pub mod order;
pub mod passes;
mod regroup;

pub use attrs::{Attr, Attrs};
pub use batch::Batch;

use crate::error::{Error, Kind, Result};
use crate::ops::{self, NodeView, Op};
use crate::tensor::{Array, DType, TensorType};
use std::sync::Arc;

/// Folding never makes constants of more elements than this in one graph (a guard against hostile graphs).
const MAX_FOLDED: usize = 1 << 27;

/// Folding never takes more steps than this in one graph, a step being an element read or made, or a product in a sum.
const MAX_WORK: usize = 1 << 31;

/// No tensor has more elements than this: shaders count them in 32 bits, and sums of lengths never overflow.
const MAX_ELEMENTS: usize = 1 << 32;

fn too_large(shape: &[usize]) -> bool {
    let len = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
    len.is_none_or(|n| n > MAX_ELEMENTS)
}

/// What folding has cost a graph, or would cost.
#[derive(Clone, Copy, Debug, Default)]
struct Folding {
    elements: usize,
    work: usize,
}

impl Folding {
    fn affords(&self, more: &Self) -> bool {
        self.elements.saturating_add(more.elements) <= MAX_FOLDED && self.work.saturating_add(more.work) <= MAX_WORK
    }
    fn spend(&mut self, more: &Self) {
        self.elements = self.elements.saturating_add(more.elements);
        self.work = self.work.saturating_add(more.work);
    }
}

/// At most how many steps an op takes for so many elements of its outputs.
fn work(view: &NodeView<'_>, elements: usize) -> usize {
    /// Each of their outputs is made of many inputs.
    const DEEP: [&str; 8] =
        ["MatMul", "Gemm", "Conv", "ConvTranspose", "MaxPool", "AveragePool", "LpPool", "MatMulInteger"];
    let read = view.inputs.iter().flatten().map(|t| t.len());
    if DEEP.contains(&view.op) {
        elements.saturating_mul(read.max().unwrap_or(1))
    } else {
        read.fold(elements, usize::saturating_add)
    }
}

/// Names a value of one [`Graph`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ValueId(u32);

impl ValueId {
    /// Position in the graph's list of values.
    pub fn index(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

/// Elements that stay where they are stored and are read anew whenever they are used.
#[derive(Clone)]
pub struct Stored(Arc<dyn Fn() -> Result<Array> + Send + Sync>);

impl Stored {
    /// Elements that `read` gives, the same every time.
    pub fn new(read: impl Fn() -> Result<Array> + Send + Sync + 'static) -> Self {
        Self(Arc::new(read))
    }
    /// The elements.
    ///
    /// # Errors
    /// When they are not what the file says.
    pub fn read(&self) -> Result<Array> {
        (self.0)()
    }
}

impl std::fmt::Debug for Stored {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Stored")
    }
}

/// Where a value comes from.
#[derive(Clone, Debug)]
pub enum Source {
    /// Fed at every run.
    Input,
    /// Known; never changes.
    Const(Array),
    /// A trainable tensor of the model with its present elements.
    Weight(Array),
    /// A large tensor of the model that never changes; it is not folded.
    Stored(Stored),
    /// Output `output` of node `node`.
    Node {
        /// Index into [`Graph::nodes`].
        node: usize,
        /// Which output of that node.
        output: usize,
    },
}

/// One value of a graph.
#[derive(Clone, Debug)]
pub struct Value {
    /// The model's name for it; our own values have none.
    pub name: Option<String>,
    /// Element type and static shape.
    pub ty: TensorType,
    /// Where it comes from.
    pub source: Source,
    /// Where the samples lie in it.
    pub batch: Batch,
}

/// One operation.
#[derive(Clone)]
pub struct Node {
    /// The op from the table.
    pub op: &'static dyn Op,
    /// The model's name for the node, or the node it was derived from.
    pub name: String,
    /// Inputs in ONNX order; `None` where an optional input is left out.
    pub inputs: Vec<Option<ValueId>>,
    /// Outputs in ONNX order; `None` where an optional output is left out.
    pub outputs: Vec<Option<ValueId>>,
    /// Attributes in ONNX spelling.
    pub attrs: Attrs,
}

/// A graph of values and nodes. Nodes stand in an order in which they can run.
#[derive(Clone, Default)]
pub struct Graph {
    values: Vec<Value>,
    nodes: Vec<Node>,
    /// What is fed at every run, in order.
    pub inputs: Vec<ValueId>,
    /// What a run returns, in order.
    pub outputs: Vec<ValueId>,
    /// Number of samples in a batch; 0 while nothing is batched.
    pub batch: usize,
    /// The version of the default operator set that the nodes follow.
    pub opset: i64,
    scope: String,
    folding: Folding,
}

/// The operator set version that import normalises to and that our own nodes follow.
pub const OPSET: i64 = 18;

impl Graph {
    /// An empty graph for batches of `batch` samples (0: nothing is batched).
    pub fn new(batch: usize) -> Self {
        Self { batch, opset: OPSET, ..Self::default() }
    }
    /// All values; [`ValueId::index`] points into this list.
    pub fn values(&self) -> &[Value] {
        &self.values
    }
    /// The inputs of a node, for an engine that joins nodes in a graph of its own.
    pub(crate) fn inputs_mut(&mut self, node: usize) -> Option<&mut Vec<Option<ValueId>>> {
        self.nodes.get_mut(node).map(|n| &mut n.inputs)
    }
    /// All nodes in execution order.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }
    /// The id of the value at this position of [`Graph::values`].
    pub fn id(&self, index: usize) -> Option<ValueId> {
        (index < self.values.len()).then(|| u32::try_from(index).ok().map(ValueId)).flatten()
    }
    /// All value ids.
    pub fn ids(&self) -> impl Iterator<Item = ValueId> + use<> {
        (0..u32::try_from(self.values.len()).unwrap_or(u32::MAX)).map(ValueId)
    }
    /// The value behind an id.
    ///
    /// # Panics
    /// When the id belongs to another graph.
    #[allow(clippy::indexing_slicing)] // ids are made by this graph alone, never read from a file
    pub fn value(&self, id: ValueId) -> &Value {
        &self.values[id.index()]
    }
    /// The value behind an id, for changing.
    #[allow(clippy::indexing_slicing)]
    pub fn value_mut(&mut self, id: ValueId) -> &mut Value {
        &mut self.values[id.index()]
    }
    /// Shape of a value.
    pub fn shape(&self, id: ValueId) -> &[usize] {
        &self.value(id).ty.shape
    }
    /// Element type of a value.
    pub fn dtype(&self, id: ValueId) -> DType {
        self.value(id).ty.dtype
    }
    /// The elements of a constant.
    pub fn constant_of(&self, id: ValueId) -> Option<&Array> {
        match &self.value(id).source {
            Source::Const(a) => Some(a),
            _ => None,
        }
    }
    /// All weights with their ids, in the order they were added.
    pub fn weights(&self) -> impl Iterator<Item = (ValueId, &Array)> {
        self.ids().filter_map(|id| match &self.value(id).source {
            Source::Weight(a) => Some((id, a)),
            _ => None,
        })
    }
    /// The first value of that name.
    pub fn find(&self, name: &str) -> Option<ValueId> {
        self.ids().find(|&id| self.value(id).name.as_deref() == Some(name))
    }
    /// A name for messages: the value's own, or its number.
    pub fn label(&self, id: ValueId) -> String {
        self.value(id).name.clone().unwrap_or_else(|| format!("%{}", id.0))
    }
    /// Nodes pushed from now on carry this name in messages.
    pub fn set_scope(&mut self, name: impl Into<String>) {
        self.scope = name.into();
    }

    fn add(&mut self, name: Option<String>, ty: TensorType, source: Source, batch: Batch) -> ValueId {
        let id = ValueId(u32::try_from(self.values.len()).unwrap_or(u32::MAX));
        self.values.push(Value { name, ty, source, batch });
        id
    }
    /// Adds an input that is fed at every run.
    pub fn input(&mut self, name: impl Into<String>, ty: TensorType, batch: Batch) -> ValueId {
        let id = self.add(Some(name.into()), ty, Source::Input, batch);
        self.inputs.push(id);
        id
    }
    /// Adds a constant. `dtype` is the exact type of an array that holds integers.
    pub fn constant_as(&mut self, data: Array, dtype: DType) -> ValueId {
        let ty = TensorType::new(dtype, data.shape());
        self.add(None, ty, Source::Const(data), Batch::None)
    }
    /// Adds a constant whose type is that of its storage.
    pub fn constant(&mut self, data: Array) -> ValueId {
        let dtype = data.dtype();
        self.constant_as(data, dtype)
    }
    /// Adds an `int64` vector, as ONNX takes shapes, axes and pads.
    pub fn ints(&mut self, v: &[i64]) -> ValueId {
        self.constant(Array::ints(v))
    }
    /// Adds a float scalar of the given float type.
    pub fn scalar(&mut self, v: f64, dtype: DType) -> ValueId {
        self.constant(Array::full_float(dtype, &[], v))
    }
    /// Adds a trainable tensor of the model.
    pub fn weight(&mut self, name: impl Into<String>, data: Array) -> ValueId {
        let ty = data.ty();
        self.add(Some(name.into()), ty, Source::Weight(data), Batch::None)
    }
    /// Adds a tensor that stays in its file.
    pub fn stored(&mut self, name: impl Into<String>, ty: TensorType, elements: Stored) -> ValueId {
        self.add(Some(name.into()), ty, Source::Stored(elements), Batch::None)
    }
    /// Turns every weight into an input, so that its elements are fed (after the present inputs, in the
    /// order returned).
    pub fn feed_weights(&mut self) -> Vec<ValueId> {
        let ids: Vec<_> = self.weights().map(|(id, _)| id).collect();
        for &id in &ids {
            self.value_mut(id).source = Source::Input;
            self.inputs.push(id);
        }
        ids
    }

    /// What an op sees of a node with these inputs and attributes.
    pub fn view<'a>(
        &'a self,
        op: &'a dyn Op,
        name: &'a str,
        inputs: &[Option<ValueId>],
        attrs: &'a Attrs,
        wanted: &[bool],
    ) -> NodeView<'a> {
        NodeView {
            op: op.spec().name,
            name,
            opset: self.opset,
            attrs,
            inputs: inputs.iter().map(|i| i.map(|id| &self.value(id).ty)).collect(),
            consts: inputs.iter().map(|i| i.and_then(|id| self.constant_of(id))).collect(),
            wanted: wanted.to_vec(),
        }
    }
    /// What the op of this node sees of it.
    pub fn view_of<'a>(&'a self, node: &'a Node) -> NodeView<'a> {
        let wanted: Vec<bool> = node.outputs.iter().map(Option::is_some).collect();
        self.view(node.op, &node.name, &node.inputs, &node.attrs, &wanted)
    }

    /// Adds a node, with one flag per output that says whether it is wanted; returns the outputs.
    ///
    /// # Errors
    /// When the op is unknown, its inputs do not fit it, or an attribute is not supported.
    pub fn push_multi(
        &mut self,
        op: &'static dyn Op,
        inputs: &[Option<ValueId>],
        attrs: Attrs,
        wanted: &[bool],
    ) -> Result<Vec<Option<ValueId>>> {
        let name = self.scope.clone();
        let place = |e: Error| {
            if e.kind() == Kind::NeedsSingles { e } else { e.at(format!("node '{name}' ({})", op.spec().name)) }
        };
        op.spec().check_arity(inputs, wanted).map_err(place)?;
        if let Some(outputs) = op.expand(self, inputs, &attrs, wanted).map_err(place)? {
            return Ok(outputs);
        }
        let view = self.view(op, &name, inputs, &attrs, wanted);
        let types = op.infer(&view).map_err(place)?;
        if types.len() < wanted.len() {
            return Err(place(Error::unsupported(format!(
                "it has {} outputs, {} are used",
                types.len(),
                wanted.len()
            ))));
        }
        if let Some(t) = types.iter().find(|t| too_large(&t.shape)) {
            return Err(place(Error::unsupported(format!("an output of shape {:?} is too large", t.shape))));
        }
        let constants: Option<Vec<Option<&Array>>> = inputs
            .iter()
            .map(|i| match i {
                None => Some(None),
                Some(id) => self.constant_of(*id).map(Some),
            })
            .collect();
        let elements = types.iter().map(TensorType::len).sum::<usize>();
        let cost = Folding { elements, work: work(&view, elements) };
        let folded = match (op.fold(&view), constants) {
            (Some(y), _) => Some(y),
            (None, Some(x)) if self.folding.affords(&cost) => Some(op.eval(&view, &x).map_err(place)?),
            _ => None,
        };
        if let Some(y) = folded {
            self.folding.spend(&cost);
            return Ok(y
                .into_iter()
                .zip(types)
                .zip(wanted)
                .map(|((a, t), &w)| w.then(|| self.constant_as(a, t.dtype)))
                .collect());
        }
        let from: Vec<Batch> = inputs.iter().map(|i| i.map_or(Batch::None, |id| self.value(id).batch)).collect();
        let batches = if from.iter().all(|b| *b == Batch::None) {
            vec![Batch::None; types.len()]
        } else if from.contains(&Batch::Lost) {
            vec![Batch::Lost; types.len()]
        } else {
            op.batch(&view, &from, self.batch, &types)
        };
        if self.batch > 1 && from.first() == Some(&Batch::Lost) && wanted == [true] {
            let shape = types.first().map(|t| t.shape.clone()).unwrap_or_default();
            if let Some(y) = self.regrouped(op, inputs, &attrs, &shape)? {
                return Ok(vec![Some(y)]);
            }
        }
        let node = self.nodes.len();
        let outputs: Vec<Option<ValueId>> = types
            .into_iter()
            .zip(batches)
            .zip(wanted)
            .enumerate()
            .map(|(output, ((ty, batch), &w))| w.then(|| self.add(None, ty, Source::Node { node, output }, batch)))
            .collect();
        let name = self.scope.clone();
        self.nodes.push(Node { op, name, inputs: inputs.to_vec(), outputs: outputs.clone(), attrs });
        Ok(outputs)
    }
    /// Adds a node of the named op that has one output, all inputs given; returns that output.
    ///
    /// # Errors
    /// As [`Graph::push_multi`].
    pub fn push(&mut self, op: &str, inputs: &[ValueId], attrs: Attrs) -> Result<ValueId> {
        let inputs: Vec<_> = inputs.iter().map(|&i| Some(i)).collect();
        self.push_some(op, &inputs, attrs)
    }
    /// Adds a node of the named op that has one output; `None` leaves an optional input out.
    ///
    /// # Errors
    /// As [`Graph::push_multi`].
    pub fn push_some(&mut self, op: &str, inputs: &[Option<ValueId>], attrs: Attrs) -> Result<ValueId> {
        let op = ops::find(op)?;
        self.push_multi(op, inputs, attrs, &[true])?
            .into_iter()
            .next()
            .flatten()
            .ok_or_else(|| Error::internal(format!("{} made no output", op.spec().name)))
    }
    /// Makes output `output` of an existing node available, adding it to the node if it was left out.
    ///
    /// # Errors
    /// When the op has no such output.
    pub fn extra_output(&mut self, node: usize, output: usize) -> Result<ValueId> {
        let n = self.nodes.get(node).ok_or_else(|| Error::internal("no such node"))?.clone();
        if let Some(Some(id)) = n.outputs.get(output) {
            return Ok(*id);
        }
        let mut wanted: Vec<bool> = n.outputs.iter().map(Option::is_some).collect();
        wanted.resize(wanted.len().max(output + 1), false);
        if let Some(w) = wanted.get_mut(output) {
            *w = true;
        }
        let view = self.view(n.op, &n.name, &n.inputs, &n.attrs, &wanted);
        let ty = n.op.infer(&view)?.get(output).cloned().ok_or_else(|| Error::internal("no such output"))?;
        let batch = n.outputs.iter().flatten().next().map_or(Batch::None, |&id| self.value(id).batch);
        let id = self.add(None, ty, Source::Node { node, output }, batch);
        if let Some(n) = self.nodes.get_mut(node) {
            n.outputs.resize(n.outputs.len().max(output + 1), None);
            if let Some(slot) = n.outputs.get_mut(output) {
                *slot = Some(id);
            }
        }
        Ok(id)
    }
    /// A value of the same type, which a copy of the node that makes this one can make.
    pub(crate) fn twin(&mut self, id: ValueId) -> ValueId {
        let Value { ty, source, batch, .. } = self.value(id).clone();
        self.add(None, ty, source, batch)
    }
    /// Replaces the nodes; used by passes that keep the order runnable.
    pub(crate) fn set_nodes(&mut self, nodes: Vec<Node>) {
        self.nodes = nodes;
        let places: Vec<_> = self
            .nodes
            .iter()
            .enumerate()
            .flat_map(|(n, node)| node.outputs.iter().enumerate().map(move |(o, id)| (n, o, *id)))
            .collect();
        for (node, output, id) in places {
            if let Some(id) = id {
                self.value_mut(id).source = Source::Node { node, output };
            }
        }
    }
}
