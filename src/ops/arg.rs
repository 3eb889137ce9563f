//! Where the greatest or least element lies: <https://onnx.ai/onnx/operators/onnx__ArgMax.html>.

use super::fold::{Dims, kernel};
use super::support::{PARALLEL, given};
use super::{Case, Kernel, NodeView, Op, Sampler, Spec, Vjp};
use crate::each_type;
use crate::error::{Error, Result};
use crate::graph::Batch;
use crate::tensor::{Array, DType, Element, TensorType};
use rayon::prelude::*;

/// `y = argmax x` along `axis`, or `argmin`.
struct Arg {
    name: &'static str,
    least: bool,
}

impl Arg {
    fn dims(n: &NodeView) -> Result<Dims> {
        let shape = n.shape(0)?;
        let axis = n.axis(n.int("axis", 0)?, shape.len())?;
        if shape[axis] == 0 {
            return Err(Error::format(format!("axis {axis} of shape {shape:?} has no elements")));
        }
        Ok(Dims::new(shape, vec![axis], n.int("keepdims", 1)? != 0))
    }
    fn last(n: &NodeView) -> Result<bool> {
        Ok(n.int("select_last_index", 0)? != 0)
    }
}

fn search<T: Element>(x: &[T], [run, inner]: [usize; 2], better: impl Fn(T, T) -> bool + Sync) -> Vec<i64> {
    let outer = x.len() / (run * inner).max(1);
    let mut y = vec![0i64; outer * inner];
    y.par_iter_mut().with_min_len((PARALLEL / run).max(1)).enumerate().for_each(|(i, y)| {
        let row = &x[i / inner * run * inner + i % inner..];
        let mut best = 0;
        for k in 1..run {
            if better(row[k * inner], row[best * inner]) {
                best = k;
            }
        }
        *y = best as i64;
    });
    y
}

impl Op for Arg {
    fn spec(&self) -> Spec {
        Spec::new(self.name, 13, (1, 1))
    }
    fn infer(&self, n: &NodeView) -> Result<Vec<TensorType>> {
        if n.dtype(0)? == DType::Bool {
            return Err(Error::format(format!("{} of bool", self.name)));
        }
        Self::last(n)?;
        Ok(vec![TensorType::new(DType::I64, Self::dims(n)?.out)])
    }
    fn batch(&self, n: &NodeView, from: &[Batch], _: usize, _: &[TensorType]) -> Vec<Batch> {
        vec![Self::dims(n).map_or(Batch::Lost, |d| d.batch(from[0]))]
    }
    fn eval(&self, n: &NodeView, x: &[Option<&Array>]) -> Result<Vec<Array>> {
        fn go<T: Element>(x: &[T], around: [usize; 2], least: bool, last: bool) -> Vec<i64> {
            match (least, last) {
                (false, false) => search(x, around, |v, best| v > best),
                (false, true) => search(x, around, |v, best| v >= best),
                (true, false) => search(x, around, |v, best| v < best),
                (true, true) => search(x, around, |v, best| v <= best),
            }
        }
        let (d, last, x) = (Self::dims(n)?, Self::last(n)?, given(x, 0)?);
        let around = [d.count, d.axes.iter().flat_map(|&a| &x.shape()[a + 1..]).product()];
        let y = each_type!(x, a => go(a.as_slice().unwrap_or_default(), around, self.least, last));
        Ok(vec![Array::from_vec(&d.out, y)?])
    }
    fn vjp(&self, b: &mut Vjp) -> Result<()> {
        Err(b.not_differentiable(0, "an index is flat"))
    }
    fn kernel(&self, n: &NodeView) -> Result<Kernel> {
        let x = n.ty(0)?;
        let join = 5 + 2 * u32::from(self.least) + u32::from(Self::last(n)?);
        kernel(&x.shape, &Self::dims(n)?.axes, [0, join, 0], !x.dtype.is_float())
    }
    fn cases(&self) -> Vec<Case> {
        let case = |name: &str, shape: &[usize]| {
            Case::new(&format!("{} {name}", self.name), &[shape])
                .sampled(&Sampler { low: -2.0, high: 2.0, avoid: &[], distinct: true })
                .no_gradient("an index is flat")
        };
        // few distinct values, so that every row has ties
        let ties = || {
            let v = (0..24).map(|i: i64| i * 5 % 3).collect();
            let x = Array::from_vec(&[4, 6], v).unwrap_or_else(|_| Array::ints(&[1]));
            Case::new("", &[]).arg(super::Arg::Fed(x, DType::I64)).no_gradient("an index is flat")
        };
        let named = |mut c: Case, name: &str| {
            c.name = format!("{} {name}", self.name);
            c
        };
        vec![
            case("first axis", &[5, 4]),
            case("classes", &[6, 10]).attr("axis", 1).attr("keepdims", 0),
            case("channels", &[2, 5, 3, 2]).attr("axis", -3),
            case("vector", &[7]).attr("keepdims", 0),
            case("one element", &[3, 1]).attr("axis", 1),
            named(ties(), "first of equals").attr("axis", 1),
            named(ties(), "last of equals").attr("axis", 1).attr("select_last_index", 1),
        ]
    }
}

static ARG_MAX: Arg = Arg { name: "ArgMax", least: false };
static ARG_MIN: Arg = Arg { name: "ArgMin", least: true };

pub(super) static OPS: &[&dyn Op] = &[&ARG_MAX, &ARG_MIN];
