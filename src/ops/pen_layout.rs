//! What a pen writes of the ops that move elements.

use super::Pen;
use super::layout::dims;
use super::slice::slice;
use crate::error::Result;
use crate::graph::{Attrs, ValueId};
use crate::tensor::{Array, DType};

// the alphabet is whole, whether or not every word of it is in use
#[allow(dead_code)]
impl Pen<'_> {
    /// `v` stretched to `shape`; nothing is added when it has that shape already.
    ///
    /// # Errors
    /// When the shapes do not broadcast.
    pub(super) fn expand(&mut self, v: ValueId, shape: &[usize]) -> Result<ValueId> {
        if self.shape(v) == shape {
            return Ok(v);
        }
        let to = self.g.ints(&dims(shape));
        self.op("Expand", &[v, to])
    }
    /// `v` in another element type; nothing is added when it has that type already.
    ///
    /// # Errors
    /// Never.
    pub(super) fn cast(&mut self, v: ValueId, to: DType) -> Result<ValueId> {
        if self.dtype(v) == to {
            return Ok(v);
        }
        self.emit("Cast", &[v], Attrs::new().with("to", i64::from(to.onnx())))
    }
    /// Elements `start`, `start + step`, … below `end` of one axis.
    ///
    /// # Errors
    /// When the axis is out of range.
    pub(super) fn slice(&mut self, v: ValueId, axis: usize, [start, end, step]: [usize; 3]) -> Result<ValueId> {
        if [start, end, step] == [0, self.g.shape(v)[axis], 1] {
            return Ok(v);
        }
        let [axis, start, end, step] = [axis, start, end, step].map(|i| dims(&[i])[0]);
        slice(self.g, v, &[start], &[end], &[axis], &[step])
    }
    /// The values one after the other along an axis; nothing is added for one.
    ///
    /// # Errors
    /// When they do not fit beside each other.
    pub(super) fn concat(&mut self, parts: &[ValueId], axis: usize) -> Result<ValueId> {
        match parts {
            [one] => Ok(*one),
            _ => self.emit("Concat", parts, Attrs::new().with("axis", dims(&[axis])[0])),
        }
    }
    /// `x[…, indices…, …]` along an axis.
    ///
    /// # Errors
    /// When a constant index is out of range.
    pub(super) fn gather(&mut self, x: ValueId, indices: ValueId, axis: usize) -> Result<ValueId> {
        self.emit("Gather", &[x, indices], Attrs::new().with("axis", dims(&[axis])[0]))
    }
    /// One more axis of extent 1 at every place of `axes` (places in the result, ascending).
    ///
    /// # Errors
    /// Never.
    pub(super) fn unsqueeze(&mut self, v: ValueId, axes: &[usize]) -> Result<ValueId> {
        let mut shape = self.shape(v);
        axes.iter().for_each(|&a| shape.insert(a, 1));
        self.reshape(v, &shape)
    }
    /// A constant of integers of this type.
    ///
    /// # Errors
    /// When the elements do not fill the shape.
    pub(super) fn int_constant(&mut self, shape: &[usize], v: Vec<i64>, dtype: DType) -> Result<ValueId> {
        Ok(self.g.constant_as(Array::from_vec(shape, v)?, dtype))
    }
    /// A constant of floats of this type.
    ///
    /// # Errors
    /// When the elements do not fill the shape.
    pub(super) fn float_constant(&mut self, shape: &[usize], v: Vec<f64>, dtype: DType) -> Result<ValueId> {
        Ok(self.g.constant(Array::from_vec(shape, v)?.to_float(dtype)))
    }
    /// A constant scalar of the type of `v`, whatever that is.
    pub(super) fn number_like(&mut self, c: i64, v: ValueId) -> ValueId {
        match self.dtype(v) {
            t if t.is_float() => self.g.scalar(c as f64, t),
            DType::Bool => self.g.constant(Array::full(&[], c != 0)),
            t => self.g.constant_as(Array::full(&[], c), t),
        }
    }
}
