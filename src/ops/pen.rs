//! What writes nodes: shared by derivative rules and by ops that are made of others.

use crate::error::Result;
use crate::graph::{Attrs, Graph, ValueId};
use crate::tensor::DType;

/// Writes nodes into a graph.
pub struct Pen<'g> {
    pub(super) g: &'g mut Graph,
}

impl<'g> Pen<'g> {
    /// Writes into this graph.
    pub fn new(g: &'g mut Graph) -> Self {
        Self { g }
    }
}

impl Pen<'_> {
    /// The graph that is written to.
    pub fn graph(&mut self) -> &mut Graph {
        self.g
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
