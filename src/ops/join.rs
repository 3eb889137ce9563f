//! Ops that put tensors beside each other: <https://onnx.ai/onnx/operators/>.

use super::copy::{Copy, Side};
use super::layout::{behind, constant_ints, dims};
use super::slice::slice;
use super::support::{given, strides};
use super::{Bind, Case, Kernel, MANY, NodeView, Op, Spec, Vjp};
use crate::error::{Error, Result};
use crate::graph::{Attr, Attrs, Batch, Graph, ValueId, batch};
use crate::tensor::{Array, Element, TensorType};

/// `y` = the inputs one after the other along an axis.
struct Concat;

impl Concat {
    fn axis(n: &NodeView) -> Result<usize> {
        if n.attrs.get("axis").is_none() {
            return Err(Error::format("attribute axis is missing"));
        }
        n.axis(n.int("axis", 0)?, n.shape(0)?.len())
    }
    fn shape(n: &NodeView) -> Result<Vec<usize>> {
        let axis = Self::axis(n)?;
        let first = n.ty(0)?;
        let mut shape = first.shape.clone();
        for i in 1..n.inputs.len() {
            let x = n.ty(i)?;
            let beside = |a: usize| a == axis || x.shape[a] == shape[a];
            if x.dtype != first.dtype || x.shape.len() != shape.len() || !(0..shape.len()).all(beside) {
                return Err(Error::format(format!("{x} does not fit beside {first} along axis {axis}")));
            }
            shape[axis] = shape[axis].checked_add(x.shape[axis]).ok_or_else(|| Error::format("the sum of extents"))?;
        }
        Ok(shape)
    }
    /// The copy that puts each input in its place.
    fn copies(n: &NodeView) -> Result<Vec<Copy>> {
        let (axis, shape) = (Self::axis(n)?, Self::shape(n)?);
        let mut dst = Side::whole(&shape);
        let mut copies = Vec::with_capacity(n.inputs.len());
        for i in 0..n.inputs.len() {
            let x = n.shape(i)?;
            copies.push(Copy::new(x, &Side::whole(x), &dst));
            dst.offset += x[axis] * dst.strides[axis].cast_unsigned();
        }
        Ok(copies)
    }
}

impl Op for Concat {
    fn spec(&self) -> Spec {
        Spec::new("Concat", 13, (1, MANY))
    }
    fn infer(&self, n: &NodeView) -> Result<Vec<TensorType>> {
        Ok(vec![TensorType::new(n.dtype(0)?, Self::shape(n)?)])
    }
    fn batch(&self, n: &NodeView, from: &[Batch], _: usize, _: &[TensorType]) -> Vec<Batch> {
        // An input that does not depend on the samples has as many rows on their axis as the others: row
        // by row it belongs to the samples all the same (a class token stretched to the batch, say).
        let mut found = Batch::None;
        for &b in from.iter().filter(|b| **b != Batch::None) {
            if found != Batch::None && found != b {
                return vec![Batch::Lost];
            }
            found = b;
        }
        match (found, Self::axis(n)) {
            (Batch::Axis { axis, .. }, Ok(along)) if axis != along => vec![found],
            _ => vec![Batch::Lost],
        }
    }
    fn eval(&self, n: &NodeView, x: &[Option<&Array>]) -> Result<Vec<Array>> {
        fn go<T: Element>(n: &NodeView, x: &[Option<&Array>]) -> Result<Array> {
            let shape = Concat::shape(n)?;
            let mut y = vec![T::default(); shape.iter().product()];
            for (copy, x) in Concat::copies(n)?.iter().zip(x) {
                if let Some(x) = x {
                    copy.run(x.slice::<T>()?, &mut y);
                }
            }
            Array::from_vec(&shape, y)
        }
        Ok(vec![match given(x, 0)? {
            Array::F32(_) => go::<f32>(n, x)?,
            Array::F64(_) => go::<f64>(n, x)?,
            Array::I64(_) => go::<i64>(n, x)?,
            Array::Bool(_) => go::<bool>(n, x)?,
        }])
    }
    fn vjp(&self, b: &mut Vjp) -> Result<()> {
        // dx_i = the slice of dy where x_i was put
        let axis = Self::axis(&b.view())?;
        let dy = b.dy()?;
        let mut start = 0;
        for i in 0..b.n_inputs() {
            let end = start + b.shape(b.x(i)?)[axis];
            if b.wants(i) {
                let [first, last, along] = [start, end, axis].map(|v| dims(&[v])[0]);
                let dx = slice(b.graph(), dy, &[first], &[last], &[along], &[1])?;
                if b.apart(i) {
                    let dx = spread(b, dx)?;
                    b.set_apart(i, dx);
                } else {
                    b.set_exact(i, dx);
                }
            }
            start = end;
        }
        Ok(())
    }
    fn kernel(&self, n: &NodeView) -> Result<Kernel> {
        let mut steps = Vec::new();
        for (i, copy) in Self::copies(n)?.iter().enumerate() {
            steps.extend(copy.step(Bind::Input(i), Bind::Output(0))?);
        }
        Ok(Kernel::many(steps))
    }
    fn cases(&self) -> Vec<Case> {
        vec![
            Case::new("Concat rows", &[&[2, 3], &[1, 3]]).attr("axis", 0),
            Case::new("Concat channels", &[&[2, 2, 3, 4], &[2, 1, 3, 4], &[2, 3, 3, 4]]).attr("axis", 1),
            Case::new("Concat negative axis", &[&[3, 2], &[3, 4]]).attr("axis", -1),
            Case::new("Concat one", &[&[3, 2]]).attr("axis", 0),
            Case::new("Concat with nothing", &[&[3, 2], &[3, 0]]).attr("axis", 1),
        ]
    }
    fn stacked(
        &self,
        g: &mut Graph,
        inputs: &[Option<ValueId>],
        attrs: &Attrs,
        samples: usize,
    ) -> Result<Option<ValueId>> {
        let ranks: Vec<usize> = inputs.iter().flatten().map(|&x| g.shape(x).len()).collect();
        let rank = ranks.iter().copied().max().unwrap_or(0);
        // inputs without a wanted gradient come as they are: each sample sees the same
        let mut all = Vec::with_capacity(inputs.len());
        for &x in inputs.iter().flatten() {
            all.push(if g.shape(x).len() < rank {
                let to = dims(&[&[samples], g.shape(x)].concat());
                let to = g.ints(&to);
                g.push("Expand", &[x, to], Attrs::new())?
            } else {
                x
            });
        }
        let Some(Attr::Int(axis)) = attrs.get("axis") else {
            return Ok(None);
        };
        let attrs = Attrs::new().with("axis", behind(*axis, rank - 1));
        g.push("Concat", &all, attrs).map(Some)
    }
}

/// The gradient of a value that does not depend on the samples although each of its rows on the samples'
/// axis is read by one of them, with the samples apart: `out[s, …, n·rows + r, …] = dx[…, n·rows + r, …]`
/// where `s = n`, 0 elsewhere.
pub(super) fn spread(b: &mut Vjp, dx: ValueId) -> Result<ValueId> {
    let Batch::Axis { axis, rows } = b.graph().value(dx).batch else {
        return Err(b.needs_singles("the samples cannot be found in a gradient"));
    };
    let n = b.samples();
    let own: Vec<bool> = (0..n).flat_map(|s| (0..n * rows).map(move |i| i / rows == s)).collect();
    let shape = b.shape(dx);
    let mut mask = vec![1; shape.len() + 1];
    mask[0] = n;
    mask[axis + 1] = n * rows;
    let own = b.graph().constant(Array::from_vec(&mask, own)?);
    let dx = b.reshape(dx, &[&[1], &shape[..]].concat())?;
    let zero = b.scalar_like(0.0, dx);
    let dx = b.choose(own, dx, zero)?;
    b.graph().value_mut(dx).batch = Batch::LEADING;
    Ok(dx)
}

/// `y` = `x` side by side, `repeats` times along every axis.
struct Tile;

impl Tile {
    fn repeats(n: &NodeView) -> Result<Vec<usize>> {
        let repeats = n.ints_input(1)?.unwrap_or_default();
        let wrong =
            || Error::format(format!("repeats = {repeats:?} do not fit rank {}", n.shape(0).map_or(0, <[_]>::len)));
        if repeats.len() != n.shape(0)?.len() {
            return Err(wrong());
        }
        repeats.iter().map(|&r| usize::try_from(r).map_err(|_| wrong())).collect()
    }
    fn shape(n: &NodeView) -> Result<Vec<usize>> {
        let large = || Error::unsupported("the output is too large");
        n.shape(0)?.iter().zip(Self::repeats(n)?).map(|(&d, r)| d.checked_mul(r).ok_or_else(large)).collect()
    }
    /// Every axis as two: which repetition, and where in `x`.
    fn copy(n: &NodeView) -> Result<(Copy, Vec<usize>)> {
        let x = n.shape(0)?;
        let pairs: Vec<usize> = Self::repeats(n)?.into_iter().zip(x).flat_map(|(r, &d)| [r, d]).collect();
        let src = strides(x).into_iter().flat_map(|s| [0, s.cast_signed()]).collect();
        Ok((Copy::into_whole(&pairs, &Side { offset: 0, strides: src }), Self::shape(n)?))
    }
}

impl Op for Tile {
    fn spec(&self) -> Spec {
        Spec::new("Tile", 13, (2, 2))
    }
    fn infer(&self, n: &NodeView) -> Result<Vec<TensorType>> {
        Ok(vec![TensorType::new(n.dtype(0)?, Self::shape(n)?)])
    }
    fn batch(&self, n: &NodeView, from: &[Batch], _: usize, _: &[TensorType]) -> Vec<Batch> {
        let Ok(repeats) = Self::repeats(n) else {
            return vec![Batch::Lost];
        };
        let repeated: Vec<usize> = (0..repeats.len()).filter(|&a| repeats[a] != 1).collect();
        vec![batch::unless_on(from, &repeated)]
    }
    fn eval(&self, n: &NodeView, x: &[Option<&Array>]) -> Result<Vec<Array>> {
        let (copy, shape) = Self::copy(n)?;
        Ok(vec![copy.array(given(x, 0)?, &shape)?])
    }
    fn vjp(&self, b: &mut Vjp) -> Result<()> {
        // dx = Σ dy over the repetitions
        let repeats = Self::repeats(&b.view())?;
        let x = b.shape(b.x(0)?);
        let (mut pairs, mut axes) = (Vec::new(), Vec::new());
        for (&r, &d) in repeats.iter().zip(&x) {
            if r != 1 {
                axes.push(pairs.len());
                pairs.push(r);
            }
            pairs.push(d);
        }
        let dy = b.dy()?;
        let dy = b.reshape(dy, &pairs)?;
        let dx = b.reduce_sum(dy, &axes, false)?;
        b.set_exact(0, dx);
        Ok(())
    }
    fn kernel(&self, n: &NodeView) -> Result<Kernel> {
        Self::copy(n)?.0.kernel(n.ty(0)?.len())
    }
    fn cases(&self) -> Vec<Case> {
        vec![
            Case::new("Tile rows", &[&[2, 3]]).ints(&[3, 1]),
            Case::new("Tile both", &[&[2, 3]]).ints(&[2, 2]),
            Case::new("Tile class token", &[&[1, 1, 4]]).ints(&[3, 1, 1]),
            Case::new("Tile once", &[&[2, 3]]).ints(&[1, 1]),
        ]
    }
    fn stacked(&self, g: &mut Graph, inputs: &[Option<ValueId>], attrs: &Attrs, _: usize) -> Result<Option<ValueId>> {
        let repeats = constant_ints(g, inputs, 1)?.unwrap_or_default();
        let repeats = g.ints(&[&[1], &repeats[..]].concat());
        g.push_some("Tile", &[inputs[0], Some(repeats)], attrs.clone()).map(Some)
    }
}

pub(super) static OPS: &[&dyn Op] = &[&Concat, &Tile];
