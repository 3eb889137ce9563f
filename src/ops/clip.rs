//! <https://onnx.ai/onnx/operators/onnx__Clip.html>

use super::activation::inside;
use super::support::given;
use super::unary::{Functions, f, kernel, kernel_int, map};
use super::{Arg, Case, Kernel, NodeView, Op, Sampler, Spec, Vjp};
use crate::error::{Error, Result};
use crate::graph::{Attr, Attrs, Batch, Graph, ValueId};
use crate::tensor::{Array, DType, TensorType};

/// Bounds are optional constant inputs (attributes before opset 11).
struct Clip;

impl Clip {
    fn bounds(n: &NodeView) -> Result<[f64; 2]> {
        let limit = if n.dtype(0)? == DType::F64 { f64::MAX } else { f64::from(f32::MAX) };
        Ok([n.scalar_input(1)?.unwrap_or(-limit), n.scalar_input(2)?.unwrap_or(limit)])
    }
    fn int_bounds(n: &NodeView) -> Result<[i64; 2]> {
        let bound = |i: usize, none: i64| Ok(n.ints_input(i)?.and_then(|v| v.first().copied()).unwrap_or(none));
        Ok([bound(1, i64::MIN)?, bound(2, i64::MAX)?])
    }
}

impl Op for Clip {
    fn spec(&self) -> Spec {
        Spec::new("Clip", 13, (1, 3))
    }
    fn infer(&self, n: &NodeView) -> Result<Vec<TensorType>> {
        let x = n.ty(0)?;
        match x.dtype {
            DType::Bool => return Err(Error::format("Clip of bool")),
            t if t.is_float() => drop(Self::bounds(n)?),
            _ => drop(Self::int_bounds(n)?),
        }
        Ok(vec![x.clone()])
    }
    fn batch(&self, _: &NodeView, from: &[Batch], _: usize, _: &[TensorType]) -> Vec<Batch> {
        vec![from[0]]
    }
    fn eval(&self, n: &NodeView, x: &[Option<&Array>]) -> Result<Vec<Array>> {
        let x = given(x, 0)?;
        if let Array::I64(a) = x {
            let [low, high] = Self::int_bounds(n)?;
            return Ok(vec![Array::new(a.mapv(|v| v.max(low).min(high)))]);
        }
        let [low, high] = Self::bounds(n)?;
        // min after max, as ONNX has it when the bounds cross
        let (f32, f64): Functions = f!(|x, a, b| x.max(a).min(b));
        Ok(vec![map(x, f32, f64, [low, high])?])
    }
    fn vjp(&self, b: &mut Vjp) -> Result<()> {
        // dx = dy where min < x < max
        let [low, high] = Self::bounds(&b.view())?;
        let (x, dy) = (b.x(0)?, b.dy()?);
        let dx = inside(b, x, dy, low, high, 1.0)?;
        b.set_dx(0, dx);
        Ok(())
    }
    fn kernel(&self, n: &NodeView) -> Result<Kernel> {
        if !n.dtype(0)?.is_float() {
            return kernel_int(n, 11, Self::int_bounds(n)?);
        }
        kernel(n, 11, Self::bounds(n)?)
    }
    fn cases(&self) -> Vec<Case> {
        let scalar = |v: f32| Arg::Const(Array::full(&[], v), DType::F32);
        let s = Sampler { low: -4.0, high: 8.0, avoid: &[-1.0, 0.0, 6.0], distinct: false };
        vec![
            Case::new("Clip both", &[&[4, 9]]).arg(scalar(0.0)).arg(scalar(6.0)).sampled(&s),
            Case::new("Clip low", &[&[4, 9]]).arg(scalar(-1.0)).sampled(&s),
            Case::new("Clip high", &[&[4, 9]]).arg(Arg::Absent).arg(scalar(6.0)).sampled(&s),
            Case::new("Clip none", &[&[4, 9]]).sampled(&s),
            Case::new("Clip ints", &[])
                .arg(Arg::Fed(Array::ints(&[-9, 0, 3, 9]), DType::I32))
                .arg(Arg::Const(Array::full(&[], -2i64), DType::I32))
                .arg(Arg::Const(Array::full(&[], 5i64), DType::I32))
                .no_gradient("integers"),
        ]
    }
    fn import(
        &self,
        g: &mut Graph,
        opset: i64,
        inputs: &[Option<ValueId>],
        mut attrs: Attrs,
        wanted: &[bool],
    ) -> Result<Vec<Option<ValueId>>> {
        let mut inputs = inputs.to_vec();
        if opset < 11 {
            let dtype = inputs.first().copied().flatten().map_or(DType::F32, |x| g.dtype(x));
            for name in ["min", "max"] {
                inputs.push(match attrs.take(name) {
                    Some(Attr::Float(v)) => Some(g.scalar(f64::from(v), dtype)),
                    _ => None,
                });
            }
        }
        let computed = |i: usize| inputs.get(i).copied().flatten().filter(|&v| g.constant_of(v).is_none());
        if computed(1).is_none() && computed(2).is_none() {
            return g.push_multi(&Clip, &inputs, attrs, wanted);
        }
        // bounds that depend on the inputs: min(max(x, low), high)
        let mut y = inputs.first().copied().flatten();
        for (i, op) in [(1, "Max"), (2, "Min")] {
            if let Some(bound) = inputs.get(i).copied().flatten() {
                y = Some(g.push_some(op, &[y, Some(bound)], Attrs::new())?);
            }
        }
        Ok(vec![y])
    }
}

pub(super) static OPS: &[&dyn Op] = &[&Clip];
