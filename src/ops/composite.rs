//! Ops that a graph never holds: pushing one pushes the nodes that it is made of, so that shapes, derivative,
//! samples and kernels are those of its parts.

use super::{Case, Kernel, NodeView, Op, Pen, Spec, Vjp};
use crate::error::{Error, Result};
use crate::graph::{Attrs, Graph, ValueId};
use crate::tensor::{Array, TensorType};
use std::ops::{Deref, DerefMut};

/// An op made of others.
pub(super) struct Composite {
    pub(super) spec: Spec,
    /// Writes the parts; gives one value for every output that is wanted.
    pub(super) write: fn(&mut Parts) -> Result<Vec<Option<ValueId>>>,
    pub(super) cases: fn() -> Vec<Case>,
}

/// What a [`Composite`] works with: its inputs and attributes, and a pen.
pub(super) struct Parts<'g> {
    pen: Pen<'g>,
    op: &'static Composite,
    inputs: &'g [Option<ValueId>],
    attrs: &'g Attrs,
    wanted: &'g [bool],
}

// the alphabet is whole, whether or not every word of it is in use
#[allow(dead_code)]
impl Parts<'_> {
    /// Attributes, types of the inputs, and elements of those that are constant.
    pub(super) fn view(&self) -> NodeView<'_> {
        self.pen.g.view(self.op, "", self.inputs, self.attrs, self.wanted)
    }
    /// Input `i`.
    ///
    /// # Errors
    /// When it is left out.
    pub(super) fn x(&self, i: usize) -> Result<ValueId> {
        self.optional_x(i).ok_or_else(|| Error::format(format!("input {i} is missing")))
    }
    /// Input `i` if given.
    pub(super) fn optional_x(&self, i: usize) -> Option<ValueId> {
        self.inputs.get(i).copied().flatten()
    }
    /// Number of inputs named, left-out ones included.
    pub(super) fn n_inputs(&self) -> usize {
        self.inputs.len()
    }
    /// True when output `i` is used.
    pub(super) fn wants(&self, i: usize) -> bool {
        self.wanted.get(i).copied().unwrap_or(false)
    }
}

impl<'g> Deref for Parts<'g> {
    type Target = Pen<'g>;
    fn deref(&self) -> &Pen<'g> {
        &self.pen
    }
}

impl DerefMut for Parts<'_> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.pen
    }
}

impl Composite {
    fn never<T>(&self) -> Result<T> {
        Err(Error::internal(format!("{} is made of other ops, no graph holds it", self.spec.name)))
    }
}

impl Op for Composite {
    fn spec(&self) -> Spec {
        self.spec
    }
    fn expand(
        &'static self,
        g: &mut Graph,
        inputs: &[Option<ValueId>],
        attrs: &Attrs,
        wanted: &[bool],
    ) -> Result<Option<Vec<Option<ValueId>>>> {
        let mut parts = Parts { pen: Pen { g }, op: self, inputs, attrs, wanted };
        let mut out = (self.write)(&mut parts)?;
        out.truncate(wanted.len());
        Ok(Some(out))
    }
    fn infer(&self, _: &NodeView) -> Result<Vec<TensorType>> {
        self.never()
    }
    fn eval(&self, _: &NodeView, _: &[Option<&Array>]) -> Result<Vec<Array>> {
        self.never()
    }
    fn vjp(&self, _: &mut Vjp) -> Result<()> {
        self.never()
    }
    fn kernel(&self, _: &NodeView) -> Result<Kernel> {
        self.never()
    }
    fn cases(&self) -> Vec<Case> {
        (self.cases)()
    }
}
