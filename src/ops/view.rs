//! What an op sees of a node.

use crate::error::{Error, Result};
use crate::graph::{Attr, Attrs};
use crate::tensor::{Array, DType, TensorType};

/// A node as its op sees it: attributes, the types of its inputs, and the elements of constant inputs.
pub struct NodeView<'a> {
    /// ONNX name of the op.
    pub op: &'a str,
    /// The node's name, for messages.
    pub name: &'a str,
    /// Version of the default operator set that the node follows.
    pub opset: i64,
    /// Attributes.
    pub attrs: &'a Attrs,
    /// Type of every input; `None` where it is left out.
    pub inputs: Vec<Option<&'a TensorType>>,
    /// Elements of the inputs that are constants.
    pub consts: Vec<Option<&'a Array>>,
    /// Which outputs are used.
    pub wanted: Vec<bool>,
}

impl<'a> NodeView<'a> {
    /// Type of input `i`.
    ///
    /// # Errors
    /// When it is left out.
    pub fn ty(&self, i: usize) -> Result<&'a TensorType> {
        self.optional(i).ok_or_else(|| Error::format(format!("input {i} is missing")))
    }
    /// Type of input `i` if given.
    pub fn optional(&self, i: usize) -> Option<&'a TensorType> {
        self.inputs.get(i).copied().flatten()
    }
    /// Shape of input `i`.
    ///
    /// # Errors
    /// When it is left out.
    pub fn shape(&self, i: usize) -> Result<&'a [usize]> {
        Ok(&self.ty(i)?.shape)
    }
    /// Element type of input `i`.
    ///
    /// # Errors
    /// When it is left out.
    pub fn dtype(&self, i: usize) -> Result<DType> {
        Ok(self.ty(i)?.dtype)
    }
    /// True when output `i` is used.
    pub fn wants(&self, i: usize) -> bool {
        self.wanted.get(i).copied().unwrap_or(false)
    }
    /// Elements of input `i`, which must be constant.
    ///
    /// # Errors
    /// When it is computed or left out.
    pub fn constant(&self, i: usize) -> Result<&'a Array> {
        self.ty(i)?;
        self.consts.get(i).copied().flatten().ok_or_else(|| {
            Error::unsupported(format!("input {i} has to be constant, and here it depends on the model's inputs"))
        })
    }
    /// Integers of input `i`, which must be constant; `None` when it is left out.
    ///
    /// # Errors
    /// When it is computed, or holds no integers.
    pub fn ints_input(&self, i: usize) -> Result<Option<Vec<i64>>> {
        if self.optional(i).is_none() {
            return Ok(None);
        }
        Ok(Some(self.constant(i)?.to_i64()?))
    }
    /// The only element of constant input `i`; `None` when it is left out.
    ///
    /// # Errors
    /// When it is computed or has no element.
    pub fn scalar_input(&self, i: usize) -> Result<Option<f64>> {
        if self.optional(i).is_none() {
            return Ok(None);
        }
        let v = self.constant(i)?.to_f64();
        v.first().copied().map(Some).ok_or_else(|| Error::format(format!("input {i} is empty")))
    }
    fn wrong(&self, name: &str, a: &Attr, wanted: &str) -> Error {
        Error::format(format!("attribute {name} = {a:?} is not {wanted}"))
    }
    /// Integer attribute, or the default.
    ///
    /// # Errors
    /// When it has another type.
    pub fn int(&self, name: &str, default: i64) -> Result<i64> {
        match self.attrs.get(name) {
            None => Ok(default),
            Some(Attr::Int(v)) => Ok(*v),
            Some(a) => Err(self.wrong(name, a, "an integer")),
        }
    }
    /// Float attribute, or the default.
    ///
    /// # Errors
    /// When it has another type.
    pub fn float(&self, name: &str, default: f32) -> Result<f64> {
        match self.attrs.get(name) {
            None => Ok(f64::from(default)),
            Some(Attr::Float(v)) => Ok(f64::from(*v)),
            Some(a) => Err(self.wrong(name, a, "a float")),
        }
    }
    /// Integer list attribute if given.
    ///
    /// # Errors
    /// When it has another type.
    pub fn ints(&self, name: &str) -> Result<Option<&'a [i64]>> {
        match self.attrs.get(name) {
            None => Ok(None),
            Some(Attr::Ints(v)) => Ok(Some(v)),
            Some(a) => Err(self.wrong(name, a, "a list of integers")),
        }
    }
    /// String attribute, or the default.
    ///
    /// # Errors
    /// When it has another type.
    pub fn string(&self, name: &str, default: &'a str) -> Result<&'a str> {
        match self.attrs.get(name) {
            None => Ok(default),
            Some(Attr::Str(v)) => Ok(v),
            Some(a) => Err(self.wrong(name, a, "a string")),
        }
    }
    /// A possibly negative axis of a tensor of rank `rank` as an index.
    ///
    /// # Errors
    /// When it is out of range.
    pub fn axis(&self, axis: i64, rank: usize) -> Result<usize> {
        let r = i64::try_from(rank).unwrap_or(i64::MAX);
        let a = if axis < 0 { axis + r } else { axis };
        usize::try_from(a)
            .ok()
            .filter(|&a| a < rank)
            .ok_or_else(|| Error::format(format!("axis {axis} is out of range for rank {rank}")))
    }
    /// Several axes, sorted; an axis named twice is an error.
    ///
    /// # Errors
    /// When one is out of range or repeated.
    pub fn axes(&self, axes: &[i64], rank: usize) -> Result<Vec<usize>> {
        let mut out = axes.iter().map(|&a| self.axis(a, rank)).collect::<Result<Vec<_>>>()?;
        out.sort_unstable();
        if out.windows(2).any(|w| w[0] == w[1]) {
            return Err(Error::format(format!("axes {axes:?} name an axis twice")));
        }
        Ok(out)
    }
    /// An error saying that an attribute has a value that is not supported.
    pub fn unsupported(&self, attribute: &str, value: impl std::fmt::Debug) -> Error {
        Error::unsupported(format!("attribute {attribute} = {value:?} is not supported (opset {})", self.opset))
    }
}
