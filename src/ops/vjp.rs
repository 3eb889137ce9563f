//! The alphabet in which derivative rules are written.

use super::Pen;
use crate::error::{Error, Kind, Result};
use crate::graph::{Attrs, Graph, Node, ValueId};
use std::ops::{Deref, DerefMut};

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
    pen: Pen<'g>,
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
        Self { pen: Pen { g }, index, node, dy, wanted, apart, dx }
    }
    pub(crate) fn finish(self) -> Vec<Option<Dx>> {
        self.dx
    }
    /// What [`crate::ops::Op::infer`] and the others see of the node.
    pub fn view(&self) -> crate::ops::NodeView<'_> {
        self.pen.g.view_of(&self.node)
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
        self.pen.g.extra_output(self.index, i)
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

impl<'g> Deref for Vjp<'g> {
    type Target = Pen<'g>;
    fn deref(&self) -> &Pen<'g> {
        &self.pen
    }
}

impl DerefMut for Vjp<'_> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.pen
    }
}
