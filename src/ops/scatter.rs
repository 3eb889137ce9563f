//! Gather and scatter with one index per element: <https://onnx.ai/onnx/operators/>.

use super::copy::{Copy, Side};
use super::gather::{Line, check_indices, gather_kernel, indices, scatter_step};
use super::join::spread;
use super::support::{given, rows, strides};
use super::{Arg, Bind, Case, Kernel, NodeView, Op, Sampler, Spec, Vjp};
use crate::error::{Error, Result};
use crate::graph::{Attrs, Batch, ValueId};
use crate::tensor::{Array, DType, Element, TensorType};

/// The axis; checks that indices of shape `k` fit into a tensor of shape `x` on the other axes.
fn axis(n: &NodeView, x: &[usize], k: &[usize]) -> Result<usize> {
    let axis = n.axis(n.int("axis", 0)?, x.len())?;
    if k.len() != x.len() || (0..x.len()).any(|a| a != axis && k[a] > x[a]) {
        return Err(Error::format(format!("indices of shape {k:?} do not fit into shape {x:?} on axis {axis}")));
    }
    Ok(axis)
}

/// Where the samples lie: every batched input has them at the same place off the axis, where the indices
/// reach as far as the data does. What does not depend on them belongs to them row by row all the same.
fn batch(n: &NodeView, from: &[Batch]) -> Batch {
    let (Ok(x), Ok(k)) = (n.shape(0), n.shape(1)) else {
        return Batch::Lost;
    };
    let mut found = from.iter().copied().filter(|b| *b != Batch::None);
    match (found.next(), axis(n, x, k)) {
        (Some(first @ Batch::Axis { axis, .. }), Ok(along))
            if axis != along && x[axis] == k[axis] && found.all(|b| b == first) =>
        {
            first
        }
        _ => Batch::Lost,
    }
}

/// Calls `f(element of the indices, element of the data)` for every index, in order.
fn each(x: &[usize], k: &Array, axis: usize, mut f: impl FnMut(usize, usize)) -> Result<()> {
    let at = indices(k, x[axis])?;
    if at.is_empty() {
        return Ok(());
    }
    let mut steps = strides(x);
    let step = std::mem::take(&mut steps[axis]);
    let run = k.shape()[k.shape().len() - 1];
    let last = steps[steps.len() - 1];
    rows(k.shape(), [&steps], |row, [from]| {
        for i in 0..run {
            f(row + i, from + i * last + at[row + i] * step);
        }
    });
    Ok(())
}

/// Hands the gradient of input `i` over, whose samples may have to be told apart.
pub(super) fn hand_over(b: &mut Vjp, i: usize, dx: ValueId) -> Result<()> {
    if b.apart(i) {
        let dx = spread(b, dx)?;
        b.set_apart(i, dx);
    } else {
        b.set_exact(i, dx);
    }
    Ok(())
}

fn filled(b: &mut Vjp, shape: &[usize], like: ValueId, v: f64) -> ValueId {
    let dtype = b.dtype(like);
    b.graph().constant(Array::full_float(dtype, shape, v))
}

/// `y[i, j] = x[indices[i, j], j]`, for axis 0 of two.
struct GatherElements;

impl Op for GatherElements {
    fn spec(&self) -> Spec {
        Spec::new("GatherElements", 13, (2, 2))
    }
    fn infer(&self, n: &NodeView) -> Result<Vec<TensorType>> {
        let (x, k) = (n.shape(0)?, n.shape(1)?);
        check_indices(n, 1, x[axis(n, x, k)?])?;
        Ok(vec![TensorType::new(n.dtype(0)?, k)])
    }
    fn batch(&self, n: &NodeView, from: &[Batch], _: usize, _: &[TensorType]) -> Vec<Batch> {
        vec![batch(n, from)]
    }
    fn eval(&self, n: &NodeView, x: &[Option<&Array>]) -> Result<Vec<Array>> {
        fn go<T: Element>(n: &NodeView, x: &Array, k: &Array) -> Result<Array> {
            let v = x.slice::<T>()?;
            let mut y = vec![T::default(); k.len()];
            each(x.shape(), k, axis(n, x.shape(), k.shape())?, |to, from| y[to] = v[from])?;
            Array::from_vec(k.shape(), y)
        }
        let (x, k) = (given(x, 0)?, given(x, 1)?);
        Ok(vec![match x {
            Array::F32(_) => go::<f32>(n, x, k)?,
            Array::F64(_) => go::<f64>(n, x, k)?,
            Array::I64(_) => go::<i64>(n, x, k)?,
            Array::Bool(_) => go::<bool>(n, x, k)?,
        }])
    }
    fn vjp(&self, b: &mut Vjp) -> Result<()> {
        // dx = dy added where it was taken from
        let (x, k, dy) = (b.x(0)?, b.x(1)?, b.dy()?);
        let shape = b.shape(x);
        let zeros = filled(b, &shape, dy, 0.0);
        let dx = scattered(b, zeros, k, dy, Reduction::Add)?;
        hand_over(b, 0, dx)
    }
    fn kernel(&self, n: &NodeView) -> Result<Kernel> {
        let (x, k) = (n.shape(0)?, n.shape(1)?);
        let along = axis(n, x, k)?;
        few_axes(x)?;
        let mut from = strides(x);
        let step = std::mem::take(&mut from[along]);
        Ok(gather_kernel(x[along], step, k, &from, &strides(k)))
    }
    fn cases(&self) -> Vec<Case> {
        let case = |name: &str, x: &[usize], k: &[usize], v: &[i64]| {
            let k = Array::from_vec(k, v.to_vec()).unwrap_or_else(|_| Array::ints(&[]));
            Case::new(&format!("GatherElements {name}"), &[x]).arg(Arg::Fed(k, DType::I64))
        };
        vec![
            case("rows", &[3, 3], &[2, 3], &[1, 2, 0, -1, 0, 0]),
            case("inner axis", &[2, 4], &[2, 3], &[3, 0, 3, -4, 1, 1]).attr("axis", 1),
            case("smaller", &[2, 3, 4], &[1, 2, 2], &[2, 0, 1, 1]).attr("axis", -2),
        ]
    }
}

fn few_axes(x: &[usize]) -> Result<()> {
    if x.len() > 8 {
        return Err(Error::unsupported(format!("rank {} has no kernel", x.len())));
    }
    Ok(())
}

/// What becomes of an element that an update falls on.
#[derive(Clone, Copy, PartialEq)]
enum Reduction {
    Replace,
    Add,
    Mul,
    Max,
    Min,
}

impl Reduction {
    fn of(n: &NodeView) -> Result<Self> {
        Ok(match n.string("reduction", "none")? {
            "none" => Self::Replace,
            "add" => Self::Add,
            "mul" => Self::Mul,
            "max" => Self::Max,
            "min" => Self::Min,
            other => return Err(n.unsupported("reduction", other)),
        })
    }
    fn name(self) -> &'static str {
        match self {
            Self::Replace => "none",
            Self::Add => "add",
            Self::Mul => "mul",
            Self::Max => "max",
            Self::Min => "min",
        }
    }
    /// The branch of `shaders/scatter.wgsl`.
    fn mode(self, float: bool) -> u32 {
        let integer = u32::from(!float);
        match self {
            Self::Replace => 0,
            Self::Add => 1 + integer,
            Self::Mul => 3 + integer,
            Self::Max => 5 + integer,
            Self::Min => 7 + integer,
        }
    }
}

/// A number that updates can be joined to.
trait Number: Element {
    fn join(reduction: Reduction, y: Self, u: Self) -> Self;
}

macro_rules! number {
    ($t:ty, $add:expr, $mul:expr) => {
        impl Number for $t {
            fn join(reduction: Reduction, y: Self, u: Self) -> Self {
                match reduction {
                    Reduction::Add => $add(y, u),
                    Reduction::Mul => $mul(y, u),
                    Reduction::Max => y.max(u),
                    Reduction::Min => y.min(u),
                    Reduction::Replace => u,
                }
            }
        }
    };
}
number!(f32, |y, u| y + u, |y, u| y * u);
number!(f64, |y, u| y + u, |y, u| y * u);
number!(i64, i64::wrapping_add, i64::wrapping_mul);

impl Number for bool {
    fn join(_: Reduction, _: Self, u: Self) -> Self {
        u
    }
}

/// `y = x` with `y[indices[i, j], j]` replaced by `u[i, j]`, or joined with it, for axis 0 of two.
struct ScatterElements;

/// ScatterElements along the axis of the node that `b` differentiates.
fn scattered(b: &mut Vjp, x: ValueId, k: ValueId, u: ValueId, reduction: Reduction) -> Result<ValueId> {
    let along = b.view().int("axis", 0)?;
    let attrs = Attrs::new().with("axis", along).with("reduction", reduction.name());
    b.emit("ScatterElements", &[x, k, u], attrs)
}

/// What lies where the updates of the node that `b` differentiates fall.
fn picked(b: &mut Vjp, x: ValueId, k: ValueId) -> Result<ValueId> {
    let along = b.view().int("axis", 0)?;
    b.emit("GatherElements", &[x, k], Attrs::new().with("axis", along))
}

/// The gradients of `y = x · Π u`, right where elements are 0 and where several updates meet.
fn product_gradient(b: &mut Vjp) -> Result<()> {
    let (x, k, u, dy) = (b.x(0)?, b.x(1)?, b.x(2)?, b.dy()?);
    let shape = b.shape(x);
    if b.wants(0) {
        // dx = dy · Π u
        let ones = filled(b, &shape, dy, 1.0);
        let product = scattered(b, ones, k, u, Reduction::Mul)?;
        let dx = b.mul(dy, product)?;
        hand_over(b, 0, dx)?;
    }
    if b.wants(2) {
        // du_i = dy · x · Π_{j≠i} u_j: with zeros left out of the product, and 0 where another u_j is 0
        let (zero, one) = (b.scalar_like(0.0, u), b.scalar_like(1.0, u));
        let vanishes = b.op("Equal", &[u, zero])?;
        let (factor, count) = (b.choose(vanishes, one, u)?, b.choose(vanishes, one, zero)?);
        let product = scattered(b, x, k, factor, Reduction::Mul)?;
        let none = filled(b, &shape, dy, 0.0);
        let zeros = scattered(b, none, k, count, Reduction::Add)?;
        let (product, zeros) = (picked(b, product, k)?, picked(b, zeros, k)?);
        let others = b.div(product, factor)?;
        let free = b.op("Equal", &[zeros, count])?;
        let slope = b.choose(free, others, zero)?;
        let dy = picked(b, dy, k)?;
        let du = b.mul(dy, slope)?;
        hand_over(b, 2, du)?;
    }
    Ok(())
}

/// The gradients of `y = max(x, u…)` or `min`: to what equals y, in equal shares.
fn extreme_gradient(b: &mut Vjp) -> Result<()> {
    let (x, k, u, dy, y) = (b.x(0)?, b.x(1)?, b.x(2)?, b.dy()?, b.y(0)?);
    let (zero, one) = (b.scalar_like(0.0, x), b.scalar_like(1.0, x));
    let is_x = b.op("Equal", &[x, y])?;
    let at = picked(b, y, k)?;
    let is_u = b.op("Equal", &[u, at])?;
    let (of_x, of_u) = (b.choose(is_x, one, zero)?, b.choose(is_u, one, zero)?);
    let ties = scattered(b, of_x, k, of_u, Reduction::Add)?;
    let share = b.div(dy, ties)?;
    if b.wants(0) {
        let dx = b.mul(share, of_x)?;
        hand_over(b, 0, dx)?;
    }
    if b.wants(2) {
        let share = picked(b, share, k)?;
        let du = b.mul(share, of_u)?;
        hand_over(b, 2, du)?;
    }
    Ok(())
}

impl Op for ScatterElements {
    fn spec(&self) -> Spec {
        Spec::new("ScatterElements", 18, (3, 3))
    }
    fn infer(&self, n: &NodeView) -> Result<Vec<TensorType>> {
        let (x, k, u) = (n.ty(0)?, n.shape(1)?, n.ty(2)?);
        if u.shape != k || u.dtype != x.dtype || (Reduction::of(n)? != Reduction::Replace && x.dtype == DType::Bool) {
            return Err(Error::format(format!("updates are {u}, data {x}, indices of shape {k:?}")));
        }
        check_indices(n, 1, x.shape[axis(n, &x.shape, k)?])?;
        Ok(vec![x.clone()])
    }
    fn batch(&self, n: &NodeView, from: &[Batch], _: usize, _: &[TensorType]) -> Vec<Batch> {
        vec![batch(n, from)]
    }
    fn eval(&self, n: &NodeView, x: &[Option<&Array>]) -> Result<Vec<Array>> {
        fn go<T: Number>(n: &NodeView, x: &Array, k: &Array, u: &Array) -> Result<Array> {
            let along = axis(n, x.shape(), k.shape())?;
            let (reduction, u) = (Reduction::of(n)?, u.slice::<T>()?);
            let mut y = x.slice::<T>()?.to_vec();
            each(x.shape(), k, along, |i, to| y[to] = T::join(reduction, y[to], u[i]))?;
            Array::from_vec(x.shape(), y)
        }
        let (x, k, u) = (given(x, 0)?, given(x, 1)?, given(x, 2)?);
        Ok(vec![match x {
            Array::F32(_) => go::<f32>(n, x, k, u)?,
            Array::F64(_) => go::<f64>(n, x, k, u)?,
            Array::I64(_) => go::<i64>(n, x, k, u)?,
            Array::Bool(_) => go::<bool>(n, x, k, u)?,
        }])
    }
    fn vjp(&self, b: &mut Vjp) -> Result<()> {
        let reduction = Reduction::of(&b.view())?;
        match reduction {
            Reduction::Mul => return product_gradient(b),
            Reduction::Max | Reduction::Min => return extreme_gradient(b),
            Reduction::Replace | Reduction::Add => {}
        }
        let (k, dy) = (b.x(1)?, b.dy()?);
        if b.wants(0) {
            // dx = dy, and 0 where it was replaced
            let dx = if reduction == Reduction::Add {
                dy
            } else {
                let shape = b.shape(k);
                let zeros = filled(b, &shape, dy, 0.0);
                scattered(b, dy, k, zeros, Reduction::Replace)?
            };
            hand_over(b, 0, dx)?;
        }
        if b.wants(2) {
            // du = dy where it was put
            let du = picked(b, dy, k)?;
            hand_over(b, 2, du)?;
        }
        Ok(())
    }
    fn kernel(&self, n: &NodeView) -> Result<Kernel> {
        let (x, k) = (n.shape(0)?, n.shape(1)?);
        let along = axis(n, x, k)?;
        few_axes(x)?;
        let (mut shape, mut y, mut u) = (k.to_vec(), strides(x), strides(k));
        let line = Line { count: shape.remove(along), extent: x[along], y: y.remove(along), u: u[along], k: u[along] };
        u.remove(along);
        let mode = Reduction::of(n)?.mode(n.dtype(0)?.is_float());
        let mut steps: Vec<_> =
            Copy::into_whole(x, &Side::whole(x)).step(Bind::Input(0), Bind::Output(0))?.into_iter().collect();
        steps.extend(scatter_step([Bind::Input(1), Bind::Input(2)], mode, &line, &shape, &y, &u, &u));
        Ok(Kernel::many(steps))
    }
    fn cases(&self) -> Vec<Case> {
        let case = |name: &str, x: &[usize], k: &[usize], v: &[i64]| {
            let indices = Array::from_vec(k, v.to_vec()).unwrap_or_else(|_| Array::ints(&[]));
            Case::new(&format!("ScatterElements {name}"), &[x])
                .arg(Arg::Fed(indices, DType::I64))
                .arg(Arg::Float(k.to_vec(), Sampler::within(-2.0, 2.0)))
        };
        let integers = |reduction: &str| {
            let fed = |v: &[i64]| Arg::Fed(Array::ints(v), DType::I64);
            Case::new(&format!("ScatterElements {reduction} integers"), &[])
                .arg(fed(&[3, -5, 2, 7]))
                .arg(fed(&[1, 3, 1, -4]))
                .arg(fed(&[-2, 9, 4, 5]))
                .attr("reduction", reduction)
                .no_gradient("integers")
        };
        vec![
            case("replace", &[3, 3], &[2, 3], &[1, 2, 0, -1, 0, 1]),
            case("add repeated", &[2, 4], &[2, 3], &[3, 0, 3, -4, 1, 1]).attr("axis", 1).attr("reduction", "add"),
            case("add smaller", &[2, 3, 4], &[1, 2, 2], &[2, 0, -1, 1]).attr("axis", -2).attr("reduction", "add"),
            case("mul repeated", &[2, 4], &[2, 3], &[3, 0, 3, -4, 1, 1]).attr("axis", 1).attr("reduction", "mul"),
            case("max repeated", &[2, 4], &[2, 3], &[3, 0, 3, -4, 1, 1]).attr("axis", 1).attr("reduction", "max"),
            case("min smaller", &[2, 3, 4], &[1, 2, 2], &[2, 0, -1, 1]).attr("axis", -2).attr("reduction", "min"),
            integers("add"),
            integers("mul"),
            integers("max"),
            integers("min"),
        ]
    }
}

pub(super) static OPS: &[&dyn Op] = &[&GatherElements, &ScatterElements];
