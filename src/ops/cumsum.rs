//! CumSum: <https://onnx.ai/onnx/operators/onnx__CumSum.html>.

use super::support::{PARALLEL, given};
use super::{Arg, Bind, Case, Kernel, NodeView, Op, Params, Spec, Step, Vjp, grid_1d};
use crate::error::{Error, Result};
use crate::graph::{Attrs, Batch, batch};
use crate::tensor::{Array, DType, Element, TensorType};
use rayon::prelude::*;

/// `y_k = Σ_{j≤k} x_j` along a constant axis, or over `j < k`, or from the end.
struct CumSum;

struct Lines {
    axis: usize,
    count: usize,
    inner: usize,
    exclusive: bool,
    reverse: bool,
}

impl CumSum {
    fn lines(n: &NodeView) -> Result<Lines> {
        let x = n.shape(0)?;
        let &[axis] = &n.ints_input(1)?.unwrap_or_default()[..] else {
            return Err(Error::format("axis is no single number"));
        };
        let axis = n.axis(axis, x.len())?;
        Ok(Lines {
            axis,
            count: x[axis],
            inner: x[axis + 1..].iter().product(),
            exclusive: n.int("exclusive", 0)? != 0,
            reverse: n.int("reverse", 0)? != 0,
        })
    }
}

impl Op for CumSum {
    fn spec(&self) -> Spec {
        Spec::new("CumSum", 14, (2, 2))
    }
    fn infer(&self, n: &NodeView) -> Result<Vec<TensorType>> {
        Self::lines(n)?;
        if n.dtype(0)? == DType::Bool {
            return Err(Error::format("bool has no sum"));
        }
        Ok(vec![n.ty(0)?.clone()])
    }
    fn batch(&self, n: &NodeView, from: &[Batch], _: usize, _: &[TensorType]) -> Vec<Batch> {
        vec![Self::lines(n).map_or(Batch::Lost, |l| batch::unless_on(from, &[l.axis]))]
    }
    fn eval(&self, n: &NodeView, x: &[Option<&Array>]) -> Result<Vec<Array>> {
        fn go<T: Element>(l: &Lines, x: &Array, add: impl Fn(T, T) -> T + Sync) -> Result<Array> {
            let mut y = x.slice::<T>()?.to_vec();
            let slab = l.count * l.inner;
            if slab > 0 {
                y.par_chunks_mut(slab).with_min_len(PARALLEL.div_ceil(slab)).for_each(|y| {
                    for i in 0..l.inner {
                        let mut sum = T::default();
                        for k in 0..l.count {
                            let at = if l.reverse { l.count - 1 - k } else { k } * l.inner + i;
                            let with = add(sum, y[at]);
                            y[at] = if l.exclusive { sum } else { with };
                            sum = with;
                        }
                    }
                });
            }
            Array::from_vec(x.shape(), y)
        }
        let (l, x) = (Self::lines(n)?, given(x, 0)?);
        Ok(vec![match x {
            Array::F32(_) => go::<f32>(&l, x, |a, b| a + b)?,
            Array::F64(_) => go::<f64>(&l, x, |a, b| a + b)?,
            _ => go::<i64>(&l, x, i64::wrapping_add)?,
        }])
    }
    fn vjp(&self, b: &mut Vjp) -> Result<()> {
        // dx_j = Σ_{k≥j} dy_k: the same from the other end
        let (axis, dy) = (b.x(1)?, b.dy()?);
        let (exclusive, reverse) = (b.view().int("exclusive", 0)?, b.view().int("reverse", 0)?);
        let attrs = Attrs::new().with("exclusive", exclusive).with("reverse", i64::from(reverse == 0));
        let dx = b.emit("CumSum", &[dy, axis], attrs)?;
        b.set_exact(0, dx);
        Ok(())
    }
    fn kernel(&self, n: &NodeView) -> Result<Kernel> {
        let (l, x) = (Self::lines(n)?, n.ty(0)?);
        if x.is_empty() {
            return Ok(Kernel::many(Vec::new()));
        }
        let lines = x.len() / l.count;
        Ok(Kernel::one(Step {
            shader: crate::shader!("cumsum"),
            overrides: vec![("INT", f64::from(u8::from(!x.dtype.is_float())))],
            binds: vec![Bind::Input(0), Bind::Output(0)],
            params: Params::new()
                .u("n", lines)
                .u("count", l.count)
                .u("inner", l.inner)
                .u("exclusive", usize::from(l.exclusive))
                .u("reverse", usize::from(l.reverse)),
            grid: grid_1d(lines),
        }))
    }
    fn cases(&self) -> Vec<Case> {
        let case = |name: &str, shape: &[usize], axis: i64| {
            Case::new(&format!("CumSum {name}"), &[shape]).arg(Arg::Const(Array::full(&[], axis), DType::I64))
        };
        let mask = Array::from_vec(&[2, 4], vec![1i64, 1, 0, 3, 1, -1, 1, 0]).unwrap_or_else(|_| Array::ints(&[]));
        vec![
            case("vector", &[5], 0),
            case("rows", &[3, 4], 0),
            case("middle", &[2, 5, 3], -2).attr("exclusive", 1),
            case("reverse", &[2, 6], 1).attr("reverse", 1),
            case("reverse exclusive", &[4, 3, 2], 0).attr("reverse", 1).attr("exclusive", 1),
            Case::new("CumSum integers", &[])
                .arg(Arg::Fed(mask, DType::I64))
                .arg(Arg::Const(Array::full(&[], 1i64), DType::I64))
                .no_gradient("integers"),
        ]
    }
}

pub(super) static OPS: &[&dyn Op] = &[&CumSum];
