//! The alphabet in which derivative rules are written.

use crate::error::{Error, Kind, Result};
use crate::graph::{Attrs, Graph, Node, ValueId};
use crate::tensor::DType;

/// A gradient as a rule left it; the sweep brings it into the input's shape.
#[derive(Clone, Copy, Debug)]
pub enum Dx {
    /// Of a shape that the input broadcasts to (the output's, normally).
    Broadcast(ValueId),
    /// Of the input's own shape: sums over the samples are done.
    Exact(ValueId),
    /// `[samples, …input's shape]`: the samples are still apart.
    Apart(ValueId),
    /// Of the output's shape, for a vector input that lies along this axis of the output.
    Along(ValueId, usize),
}

/// What a derivative rule works with: the forward node, the gradient `dy` of its outputs, and a pen.
///
/// Undoing a broadcast and summing fan-out is the sweep's work: a rule for `Add` hands `dy` on as it is.
pub struct Vjp<'g> {
    g: &'g mut Graph,
    index: usize,
    node: Node,
    dy: Vec<Option<ValueId>>,
    wanted: Vec<bool>,
    apart: Vec<bool>,
    dx: Vec<Option<Dx>>,
}

impl<'g> Vjp<'g> {
    pub(crate) fn new(
        g: &'g mut Graph,
        index: usize,
        dy: Vec<Option<ValueId>>,
        wanted: Vec<bool>,
        apart: Vec<bool>,
    ) -> Self {
        let node = g.nodes()[index].clone();
        let dx = vec![None; node.inputs.len()];
        Self { g, index, node, dy, wanted, apart, dx }
    }
    pub(crate) fn finish(self) -> Vec<Option<Dx>> {
        self.dx
    }
    /// The graph that is written to.
    pub fn graph(&mut self) -> &mut Graph {
        self.g
    }
    /// What [`crate::ops::Op::infer`] and the others see of the node.
    pub fn view(&self) -> crate::ops::NodeView<'_> {
        self.g.view_of(&self.node)
    }
    /// Attributes of the forward node.
    pub fn attrs(&self) -> &Attrs {
        &self.node.attrs
    }
    /// Number of inputs named by the node, left-out ones included.
    pub fn n_inputs(&self) -> usize {
        self.node.inputs.len()
    }
    /// Number of outputs named by the node, left-out ones included.
    pub fn n_outputs(&self) -> usize {
        self.node.outputs.len()
    }
    /// Forward input `i`.
    ///
    /// # Errors
    /// When it is left out.
    pub fn x(&self, i: usize) -> Result<ValueId> {
        self.optional_x(i).ok_or_else(|| Error::internal(format!("input {i} is missing")))
    }
    /// Forward input `i` if given.
    pub fn optional_x(&self, i: usize) -> Option<ValueId> {
        self.node.inputs.get(i).copied().flatten()
    }
    /// Forward output `i`, which is computed for the rule's sake if the model left it out.
    ///
    /// # Errors
    /// When the op has no such output.
    pub fn y(&mut self, i: usize) -> Result<ValueId> {
        self.g.extra_output(self.index, i)
    }
    /// Gradient of output 0.
    ///
    /// # Errors
    /// When only other outputs have one: see [`Vjp::dy_of`].
    pub fn dy(&self) -> Result<ValueId> {
        self.dy_of(0).ok_or_else(|| {
            Error::unsupported("only a secondary output reaches the loss; its gradient is not supported")
        })
    }
    /// Gradient of output `i`; `None` where it does not reach the loss.
    pub fn dy_of(&self, i: usize) -> Option<ValueId> {
        self.dy.get(i).copied().flatten()
    }
    /// True when the gradient with respect to input `i` is needed.
    pub fn wants(&self, i: usize) -> bool {
        self.wanted.get(i).copied().unwrap_or(false)
    }
    /// True when the samples of input `i`'s gradient must stay apart: the input does not depend on the
    /// samples, and [`Vjp::set_apart`] is asked for where [`Vjp::set_dx`] would have summed over them.
    /// `Broadcast` and `Along` gradients need no thought: the sweep keeps the samples apart in them.
    pub fn apart(&self, i: usize) -> bool {
        self.apart.get(i).copied().unwrap_or(false)
    }
    /// Number of samples in the batch.
    pub fn samples(&self) -> usize {
        self.g.batch
    }
    /// Shape of a value.
    pub fn shape(&self, v: ValueId) -> Vec<usize> {
        self.g.shape(v).to_vec()
    }
    /// Element type of a value.
    pub fn dtype(&self, v: ValueId) -> DType {
        self.g.dtype(v)
    }
    /// The gradient for input `i`, of a shape the input broadcasts to.
    pub fn set_dx(&mut self, i: usize, dx: ValueId) {
        self.dx[i] = Some(Dx::Broadcast(dx));
    }
    /// The gradient for input `i` in its own shape, summed over the samples where the input has none.
    pub fn set_exact(&mut self, i: usize, dx: ValueId) {
        self.dx[i] = Some(Dx::Exact(dx));
    }
    /// The gradient for input `i` as `[samples, …shape]`.
    pub fn set_apart(&mut self, i: usize, dx: ValueId) {
        self.dx[i] = Some(Dx::Apart(dx));
    }
    /// The gradient for input `i`, a vector along `axis` of the output, in the output's shape.
    pub fn set_along(&mut self, i: usize, dx: ValueId, axis: usize) {
        self.dx[i] = Some(Dx::Along(dx, axis));
    }
    /// Adds a node with one output.
    ///
    /// # Errors
    /// As [`Graph::push`].
    pub fn emit(&mut self, op: &str, inputs: &[ValueId], attrs: Attrs) -> Result<ValueId> {
        self.g.push(op, inputs, attrs)
    }
    /// Adds a node without attributes.
    ///
    /// # Errors
    /// As [`Graph::push`].
    pub fn op(&mut self, op: &str, inputs: &[ValueId]) -> Result<ValueId> {
        self.g.push(op, inputs, Attrs::new())
    }
    /// `a + b`
    ///
    /// # Errors
    /// When the shapes do not broadcast.
    pub fn add(&mut self, a: ValueId, b: ValueId) -> Result<ValueId> {
        self.op("Add", &[a, b])
    }
    /// `a − b`
    ///
    /// # Errors
    /// When the shapes do not broadcast.
    pub fn sub(&mut self, a: ValueId, b: ValueId) -> Result<ValueId> {
        self.op("Sub", &[a, b])
    }
    /// `a · b`
    ///
    /// # Errors
    /// When the shapes do not broadcast.
    pub fn mul(&mut self, a: ValueId, b: ValueId) -> Result<ValueId> {
        self.op("Mul", &[a, b])
    }
    /// `a / b`
    ///
    /// # Errors
    /// When the shapes do not broadcast.
    pub fn div(&mut self, a: ValueId, b: ValueId) -> Result<ValueId> {
        self.op("Div", &[a, b])
    }
    /// `−a`
    ///
    /// # Errors
    /// Never for a float.
    pub fn neg(&mut self, a: ValueId) -> Result<ValueId> {
        self.op("Neg", &[a])
    }
    /// `a · c`
    ///
    /// # Errors
    /// Never for a float.
    pub fn scale(&mut self, a: ValueId, c: f64) -> Result<ValueId> {
        let c = self.scalar_like(c, a);
        self.mul(a, c)
    }
    /// `a + c`
    ///
    /// # Errors
    /// Never for a float.
    pub fn shift(&mut self, a: ValueId, c: f64) -> Result<ValueId> {
        let c = self.scalar_like(c, a);
        self.add(a, c)
    }
    /// A float scalar of the same type as `v`.
    pub fn scalar_like(&mut self, c: f64, v: ValueId) -> ValueId {
        let dtype = self.dtype(v);
        self.g.scalar(c, dtype)
    }
    /// `condition ? a : b`
    ///
    /// # Errors
    /// When the shapes do not broadcast.
    pub fn choose(&mut self, condition: ValueId, a: ValueId, b: ValueId) -> Result<ValueId> {
        self.op("Where", &[condition, a, b])
    }
    /// `a` under another shape.
    ///
    /// # Errors
    /// When the number of elements differs.
    pub fn reshape(&mut self, a: ValueId, shape: &[usize]) -> Result<ValueId> {
        reshape(self.g, a, shape)
    }
    /// `a` with its axes in another order.
    ///
    /// # Errors
    /// When `perm` is not a permutation of the axes.
    pub fn transpose(&mut self, a: ValueId, perm: &[usize]) -> Result<ValueId> {
        transpose(self.g, a, perm)
    }
    /// `Σ a` over `axes`.
    ///
    /// # Errors
    /// When an axis is out of range.
    pub fn reduce_sum(&mut self, a: ValueId, axes: &[usize], keepdims: bool) -> Result<ValueId> {
        reduce_sum(self.g, a, axes, keepdims)
    }
    /// The error of a rule that has no derivative for input `i`, and why.
    pub fn not_differentiable(&self, i: usize, why: &str) -> Error {
        Error::unsupported(format!(
            "node '{}' ({}): no gradient with respect to input {i}: {why}",
            self.node.name,
            self.node.op.spec().name
        ))
    }
    /// The error that makes the samples run one by one.
    pub fn needs_singles(&self, why: &str) -> Error {
        Error::new(Kind::NeedsSingles, format!("node '{}' ({}): {why}", self.node.name, self.node.op.spec().name))
    }
}

/// Reshape to a constant shape; nothing is added when the shape is already that.
///
/// # Errors
/// When the number of elements differs.
pub(crate) fn reshape(g: &mut Graph, a: ValueId, shape: &[usize]) -> Result<ValueId> {
    if g.shape(a) == shape {
        return Ok(a);
    }
    let dims: Vec<i64> = shape.iter().map(|&d| d as i64).collect();
    let dims = g.ints(&dims);
    // allowzero: an extent of 0 stands for itself
    let attrs = if shape.contains(&0) { Attrs::new().with("allowzero", 1) } else { Attrs::new() };
    g.push("Reshape", &[a, dims], attrs)
}

/// Transpose by a permutation; nothing is added for the identity.
///
/// # Errors
/// When `perm` is not a permutation of the axes.
pub(crate) fn transpose(g: &mut Graph, a: ValueId, perm: &[usize]) -> Result<ValueId> {
    if perm.iter().enumerate().all(|(i, &p)| i == p) {
        return Ok(a);
    }
    let perm: Vec<i64> = perm.iter().map(|&p| p as i64).collect();
    g.push("Transpose", &[a], Attrs::new().with("perm", perm))
}

/// ReduceSum over constant axes; nothing is added when there is nothing to sum.
///
/// # Errors
/// When an axis is out of range.
pub(crate) fn reduce_sum(g: &mut Graph, a: ValueId, axes: &[usize], keepdims: bool) -> Result<ValueId> {
    if axes.is_empty() {
        return Ok(a);
    }
    let axes: Vec<i64> = axes.iter().map(|&x| x as i64).collect();
    let axes = g.ints(&axes);
    g.push("ReduceSum", &[a, axes], Attrs::new().with("keepdims", i64::from(keepdims)))
}
