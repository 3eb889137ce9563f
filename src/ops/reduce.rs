//! Reductions over axes: <https://onnx.ai/onnx/operators/onnx__ReduceSum.html> and its relatives.

use super::support::{PARALLEL, given, strides, zip_map};
use super::{Arg, Bind, Case, Kernel, NodeView, Op, Params, Sampler, Spec, Step, Vjp, grid_1d};
use crate::error::{Error, Result};
use crate::graph::{Attr, Attrs, Batch, Graph, ValueId};
use crate::tensor::{Array, DType, Element, TensorType};
use rayon::prelude::*;
use std::borrow::Cow;

/// `y = f(x over axes)`; `axes` is a constant input (an attribute before opset 13 or 18).
struct Reduce {
    name: &'static str,
    version: i64,
    fold: Fold,
    /// True when integers are reduced too.
    ints: bool,
    vjp: fn(&mut Vjp, &Dims) -> Result<ValueId>,
    sampler: Sampler,
}

const fn reduce(name: &'static str, version: i64, fold: Fold, vjp: fn(&mut Vjp, &Dims) -> Result<ValueId>) -> Reduce {
    Reduce { name, version, fold, ints: false, vjp, sampler: Sampler::within(-2.0, 2.0) }
}

/// Which axes a node reduces, and the shapes that result.
struct Dims {
    axes: Vec<usize>,
    /// Output shape with every reduced axis kept as 1.
    kept: Vec<usize>,
    /// Output shape.
    out: Vec<usize>,
    /// Elements that one output element is made of.
    count: usize,
}

impl Dims {
    fn of(n: &NodeView) -> Result<Self> {
        let shape = n.shape(0)?;
        let keepdims = n.int("keepdims", 1)? != 0;
        let axes = match n.ints_input(1)?.unwrap_or_default() {
            a if !a.is_empty() => n.axes(&a, shape.len())?,
            _ if n.int("noop_with_empty_axes", 0)? != 0 => Vec::new(),
            _ => (0..shape.len()).collect(),
        };
        Ok(Self::new(shape, axes, keepdims))
    }
    fn new(shape: &[usize], axes: Vec<usize>, keepdims: bool) -> Self {
        let mut kept = shape.to_vec();
        axes.iter().for_each(|&a| kept[a] = 1);
        let count = axes.iter().map(|&a| shape[a]).product();
        let out = match keepdims {
            true => kept.clone(),
            false => (0..shape.len()).filter(|a| !axes.contains(a)).map(|a| shape[a]).collect(),
        };
        Self { axes, kept, out, count }
    }
    fn batch(&self, from: Batch) -> Batch {
        match from {
            Batch::Axis { axis, .. } if self.axes.contains(&axis) => Batch::Lost,
            Batch::Axis { axis, rows } if self.out.len() < self.kept.len() => {
                Batch::Axis { axis: axis - self.axes.iter().filter(|&&a| a < axis).count(), rows }
            }
            other => other,
        }
    }
    /// `dy` or `y` with the reduced axes kept as 1, so that it broadcasts against `x`.
    fn keep(&self, b: &mut Vjp, v: ValueId) -> Result<ValueId> {
        b.reshape(v, &self.kept)
    }
}

/// The axes of `shape` with neighbours joined that are both reduced or both kept, as (extent, reduced);
/// axes of one element vanish.
fn groups(shape: &[usize], axes: &[usize]) -> Vec<(usize, bool)> {
    let mut out: Vec<(usize, bool)> = Vec::new();
    for (a, &extent) in shape.iter().enumerate().filter(|(_, e)| **e != 1) {
        let reduced = axes.contains(&a);
        match out.last_mut() {
            Some((e, r)) if *r == reduced => *e *= extent,
            _ => out.push((extent, reduced)),
        }
    }
    out
}

/// Folds every reduced group of `x`, one after the other, with the associative `f`.
fn fold<T: Element>(x: &[T], shape: &[usize], axes: &[usize], zero: T, f: impl Fn(T, T) -> T + Sync) -> Vec<T> {
    let mut groups = groups(shape, axes);
    let mut x = Cow::Borrowed(x);
    while let Some(i) = groups.iter().rposition(|g| g.1) {
        let extent = |g: &[(usize, bool)]| g.iter().map(|g| g.0).product::<usize>();
        let y = fold_middle(&x, [extent(&groups[..i]), groups[i].0, extent(&groups[i + 1..])], zero, &f);
        x = Cow::Owned(y);
        groups.remove(i);
    }
    x.into_owned()
}

/// `[outer, r, inner]` folded to `[outer, inner]`. Long folds go through partial results of a fixed
/// length: that is quicker, more exact for sums, and the same on any number of threads.
fn fold_middle<T: Element>(
    x: &[T],
    [outer, r, inner]: [usize; 3],
    zero: T,
    f: &(impl Fn(T, T) -> T + Sync),
) -> Vec<T> {
    const BLOCK: usize = 256;
    if outer * inner == 0 || r == 0 {
        return vec![zero; outer * inner];
    }
    if r > BLOCK {
        let blocks = r.div_ceil(BLOCK);
        let mut part = vec![zero; outer * blocks * inner];
        let least = (PARALLEL / (BLOCK * inner)).max(1);
        part.par_chunks_mut(inner).with_min_len(least).enumerate().for_each(|(i, y)| {
            let (o, block) = (i / blocks, i % blocks * BLOCK);
            let rows = BLOCK.min(r - block);
            fold_rows(&x[(o * r + block) * inner..][..rows * inner], y, f);
        });
        return fold_middle(&part, [outer, blocks, inner], zero, f);
    }
    let mut y = vec![zero; outer * inner];
    let least = (PARALLEL / (r * inner)).max(1);
    if outer >= rayon::current_num_threads() || inner < PARALLEL {
        y.par_chunks_mut(inner).with_min_len(least).zip(x.par_chunks(r * inner)).for_each(|(y, x)| fold_rows(x, y, f));
    } else {
        for (y, x) in y.chunks_mut(inner).zip(x.chunks(r * inner)) {
            const COLUMNS: usize = 1 << 12;
            y.par_chunks_mut(COLUMNS).enumerate().for_each(|(c, y)| {
                let n = y.len();
                y.copy_from_slice(&x[c * COLUMNS..][..n]);
                for row in x.chunks(inner).skip(1) {
                    y.iter_mut().zip(&row[c * COLUMNS..]).for_each(|(y, &v)| *y = f(*y, v));
                }
            });
        }
    }
    y
}

/// Folds the rows of `x`, each as long as `y`, into `y`.
fn fold_rows<T: Element>(x: &[T], y: &mut [T], f: &impl Fn(T, T) -> T) {
    if let [y] = y {
        // several chains run side by side
        const LANES: usize = 8;
        let (head, tail) = x.split_at(x.len() - x.len() % LANES);
        let mut chunks = head.chunks_exact(LANES);
        let (mut sum, rest) = match chunks.next() {
            Some(first) => {
                let mut lanes = [first[0]; LANES];
                lanes.copy_from_slice(first);
                chunks.for_each(|c| lanes.iter_mut().zip(c).for_each(|(l, &v)| *l = f(*l, v)));
                (f(f(f(lanes[0], lanes[1]), f(lanes[2], lanes[3])), f(f(lanes[4], lanes[5]), f(lanes[6], lanes[7]))), tail)
            }
            None => (tail[0], &tail[1..]),
        };
        rest.iter().for_each(|&v| sum = f(sum, v));
        *y = sum;
    } else {
        let inner = y.len();
        y.copy_from_slice(&x[..inner]);
        for row in x.chunks_exact(inner).skip(1) {
            y.iter_mut().zip(row).for_each(|(y, &v)| *y = f(*y, v));
        }
    }
}

/// The arithmetic that reductions need.
trait Number: Element {
    const ZERO: Self;
    const ONE: Self;
    const LOWEST: Self;
    const HIGHEST: Self;
    fn plus(self, o: Self) -> Self;
    fn times(self, o: Self) -> Self;
    fn over(self, count: usize) -> Self;
    /// `f` of this number, through double precision.
    fn map(self, f: fn(f64) -> f64) -> Self;
    /// The greater of two; NaN if one of them is.
    fn greater(self, o: Self) -> Self;
    /// The lesser of two; NaN if one of them is.
    fn lesser(self, o: Self) -> Self;
}

macro_rules! number {
    ($t:ty, $zero:expr, $one:expr, $lowest:expr, $highest:expr, $plus:expr, $times:expr, $over:expr) => {
        #[allow(clippy::eq_op)] // v != v is how a NaN shows; integers have none
        impl Number for $t {
            const ZERO: Self = $zero;
            const ONE: Self = $one;
            const LOWEST: Self = $lowest;
            const HIGHEST: Self = $highest;
            fn plus(self, o: Self) -> Self {
                $plus(self, o)
            }
            fn times(self, o: Self) -> Self {
                $times(self, o)
            }
            fn over(self, count: usize) -> Self {
                $over(self, count)
            }
            fn map(self, f: fn(f64) -> f64) -> Self {
                f(self as f64) as Self
            }
            fn greater(self, o: Self) -> Self {
                if o > self || o != o { o } else { self }
            }
            fn lesser(self, o: Self) -> Self {
                if o < self || o != o { o } else { self }
            }
        }
    };
}
number!(f32, 0.0, 1.0, f32::NEG_INFINITY, f32::INFINITY, |p, q| p + q, |p, q| p * q, |p, c| p / c as f32);
number!(f64, 0.0, 1.0, f64::NEG_INFINITY, f64::INFINITY, |p, q| p + q, |p, q| p * q, |p, c| p / c as f64);
number!(i64, 0, 1, i64::MIN, i64::MAX, i64::wrapping_add, i64::wrapping_mul, |p: i64, c| p
    .checked_div(c as i64)
    .unwrap_or(0));

/// Which reduction.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fold {
    Sum,
    Mean,
    Max,
    Min,
    Prod,
    L1,
    L2,
    SumSquare,
    LogSum,
    LogSumExp,
}

fn compute<T: Number>(which: Fold, x: &Array, d: &Dims) -> Result<Array> {
    let shape = x.shape();
    let v = x.slice::<T>()?;
    let sum = |v: &[T]| fold(v, shape, &d.axes, T::ZERO, T::plus);
    let mapped = |f: fn(T) -> T| -> Vec<T> { v.par_iter().with_min_len(PARALLEL).map(|&v| f(v)).collect() };
    let finish = |mut y: Vec<T>, f: fn(f64) -> f64| {
        y.iter_mut().for_each(|y| *y = y.map(f));
        y
    };
    let y = match which {
        Fold::Sum => sum(v),
        Fold::Mean => sum(v).into_iter().map(|y| y.over(d.count)).collect(),
        Fold::Max => fold(v, shape, &d.axes, T::LOWEST, T::greater),
        Fold::Min => fold(v, shape, &d.axes, T::HIGHEST, T::lesser),
        Fold::Prod => fold(v, shape, &d.axes, T::ONE, T::times),
        Fold::L1 => sum(&mapped(|v| v.map(f64::abs))),
        Fold::L2 => finish(sum(&mapped(|v| v.times(v))), f64::sqrt),
        Fold::SumSquare => sum(&mapped(|v| v.times(v))),
        Fold::LogSum => finish(sum(v), f64::ln),
        Fold::LogSumExp => {
            // ln Σ exp(x − m) + m cannot overflow; an infinite m would give ∞ − ∞
            let most = Array::from_vec(&d.kept, fold(v, shape, &d.axes, T::LOWEST, T::greater))?;
            let most = zip_map::<T, T, T>(&most, &most, &d.kept, |m, _| m.map(|m| if m.is_finite() { m } else { 0.0 }))?;
            let terms = zip_map::<T, T, T>(x, &most, shape, |v, m| v.plus(m.map(|m| -m)).map(f64::exp))?;
            let logs = finish(sum(terms.slice()?), f64::ln);
            logs.into_iter().zip(most.slice::<T>()?).map(|(y, &m)| y.plus(m)).collect()
        }
    };
    Array::from_vec(&d.out, y)
}

/// What `shaders/reduce.wgsl` does with an element, how it joins two, and what it does in the end.
impl Fold {
    fn codes(self) -> [u32; 3] {
        const SUM: u32 = 0;
        match self {
            Self::Sum => [0, SUM, 0],
            Self::Mean => [0, SUM, 1],
            Self::Max => [0, 1, 0],
            Self::Min => [0, 2, 0],
            Self::Prod => [0, 3, 0],
            Self::L1 => [1, SUM, 0],
            Self::L2 => [2, SUM, 2],
            Self::SumSquare => [2, SUM, 0],
            Self::LogSum => [0, SUM, 3],
            Self::LogSumExp => [0, 4, 0],
        }
    }
}

/// The dispatches of a reduction of `shape` over `axes`. `codes` are the overrides MAP, JOIN and FINISH.
fn kernel(shape: &[usize], axes: &[usize], [map, join, finish]: [u32; 3], int: bool) -> Result<Kernel> {
    let groups = groups(shape, axes);
    let extents: Vec<usize> = groups.iter().map(|g| g.0).collect();
    let steps = strides(&extents);
    let side = |reduced: bool| -> (Vec<usize>, Vec<usize>) {
        groups.iter().zip(&steps).filter(|(g, _)| g.1 == reduced).map(|(g, &s)| (g.0, s)).unzip()
    };
    let ((kept, kept_strides), (mut gone, mut gone_strides)) = (side(false), side(true));
    if kept.len() > 8 || gone.len() > 8 {
        return Err(Error::unsupported(format!("rank {} has no kernel", shape.len())));
    }
    let n: usize = kept.iter().product();
    let count: usize = gone.iter().product();
    if count == 0 && join != 0 {
        return Err(Error::unsupported("a reduction of nothing has no kernel"));
    }
    // few outputs of many elements would leave most of a GPU idle: such folds go through partial results
    let parts = if join < 4 && n > 0 { (count / 256).min(16_384 / n).max(1) } else { 1 };
    let (run, run_stride) = (gone.pop().unwrap_or(1), gone_strides.pop().unwrap_or(0));
    let step = |map, finish, parts: usize, from, to| Step {
        shader: crate::shader!("reduce"),
        overrides: [("MAP", map), ("JOIN", join), ("FINISH", finish), ("INT", u32::from(int))]
            .map(|(name, v)| (name, f64::from(v)))
            .to_vec(),
        binds: vec![from, to],
        params: Params::new()
            .u("n", n)
            .u("parts", parts)
            .u("length", count.div_ceil(parts))
            .u("count", count)
            .u("total", count)
            .u("kept_rank", kept.len())
            .u("gone_rank", gone.len())
            .u("run", run)
            .u("run_stride", run_stride)
            .list::<8>("kept", &kept, 1)
            .list::<8>("kept_strides", &kept_strides, 0)
            .list::<8>("gone", &gone, 1)
            .list::<8>("gone_strides", &gone_strides, 0),
        grid: grid_1d(n * parts),
    };
    if parts == 1 {
        return Ok(Kernel::one(step(map, finish, 1, Bind::Input(0), Bind::Output(0))));
    }
    let first = step(map, 0, parts, Bind::Input(0), Bind::Scratch(0));
    // the partial results are [parts, n]
    let second = Step {
        params: Params::new()
            .u("n", n)
            .u("parts", 1)
            .u("length", parts)
            .u("count", parts)
            .u("total", count)
            .u("kept_rank", 1)
            .u("gone_rank", 0)
            .u("run", parts)
            .u("run_stride", n)
            .list::<8>("kept", &[n], 1)
            .list::<8>("kept_strides", &[1], 0)
            .list::<8>("gone", &[], 1)
            .list::<8>("gone_strides", &[], 0),
        grid: grid_1d(n),
        ..step(0, finish, 1, Bind::Scratch(0), Bind::Output(0))
    };
    Ok(Kernel::Steps { steps: vec![first, second], scratch: vec![n * parts] })
}

impl Op for Reduce {
    fn spec(&self) -> Spec {
        Spec::new(self.name, self.version, (1, 2))
    }
    fn infer(&self, n: &NodeView) -> Result<Vec<TensorType>> {
        let dtype = n.dtype(0)?;
        if !dtype.is_float() && !(self.ints && dtype.is_int()) {
            return Err(Error::unsupported(format!("{} of {dtype} is not supported", self.name)));
        }
        Ok(vec![TensorType::new(dtype, Dims::of(n)?.out)])
    }
    fn batch(&self, n: &NodeView, from: &[Batch], _: usize, _: &[TensorType]) -> Vec<Batch> {
        vec![Dims::of(n).map_or(Batch::Lost, |d| d.batch(from[0]))]
    }
    fn eval(&self, n: &NodeView, x: &[Option<&Array>]) -> Result<Vec<Array>> {
        let d = Dims::of(n)?;
        let x = given(x, 0)?;
        Ok(vec![match x {
            Array::F32(_) => compute::<f32>(self.fold, x, &d)?,
            Array::F64(_) => compute::<f64>(self.fold, x, &d)?,
            Array::I64(_) => compute::<i64>(self.fold, x, &d)?,
            Array::Bool(_) => return Err(Error::unsupported(format!("{} of bool is not supported", self.name))),
        }])
    }
    fn vjp(&self, b: &mut Vjp) -> Result<()> {
        let d = Dims::of(&b.view())?;
        let dx = (self.vjp)(b, &d)?;
        b.set_dx(0, dx);
        Ok(())
    }
    fn kernel(&self, n: &NodeView) -> Result<Kernel> {
        let x = n.ty(0)?;
        kernel(&x.shape, &Dims::of(n)?.axes, self.fold.codes(), !x.dtype.is_float())
    }
    fn cases(&self) -> Vec<Case> {
        let case = |name: &str, shape: &[usize]| Case::new(&format!("{} {name}", self.name), &[shape]).sampled(&self.sampler);
        let mut cases = vec![
            case("all", &[3, 5]),
            case("all away", &[2, 3, 4]).attr("keepdims", 0),
            case("last", &[4, 9]).ints(&[1]),
            case("first away", &[5, 3, 2]).ints(&[0]).attr("keepdims", 0),
            case("middle", &[2, 5, 3]).ints(&[-2]),
            case("spatial", &[2, 3, 4, 5]).ints(&[-1, -2]),
            case("outer and inner away", &[3, 4, 2, 5]).ints(&[0, 2, 3]).attr("keepdims", 0),
            case("alternating", &[2, 3, 2, 3]).ints(&[3, 1]),
            case("scalar", &[]),
            case("long", &[3, 700]).ints(&[1]),
            case("long columns", &[600, 3]).ints(&[0]),
        ];
        let empty = |c: Case| c.arg(Arg::Const(Array::from_vec(&[0], Vec::<i64>::new()).unwrap_or_else(|_| Array::ints(&[])), DType::I64));
        cases.push(empty(case("empty axes", &[2, 3])));
        cases.push(empty(case("no axes", &[2, 3])).attr("noop_with_empty_axes", 1));
        if self.ints {
            cases.push(
                Case::new(&format!("{} int64", self.name), &[])
                    .arg(Arg::Fed(Array::from_vec(&[2, 3], vec![7, -3, 4, 0, 12, 5_i64]).unwrap_or_else(|_| Array::ints(&[1, 2])), DType::I64))
                    .ints(&[1])
                    .no_gradient("integers"),
            );
        }
        cases
    }
    fn import(
        &self,
        g: &mut Graph,
        _: i64,
        inputs: &[Option<ValueId>],
        mut attrs: Attrs,
        wanted: &[bool],
    ) -> Result<Vec<Option<ValueId>>> {
        let mut inputs = inputs.to_vec();
        // axes became an input in opset 13 (ReduceSum) or 18
        if inputs.len() == 1
            && let Some(Attr::Ints(axes)) = attrs.take("axes")
        {
            inputs.push(Some(g.ints(&axes)));
        }
        g.push_multi(super::find(self.name)?, &inputs, attrs, wanted)
    }
    fn stacked(&self, g: &mut Graph, inputs: &[Option<ValueId>], attrs: &Attrs, _: usize) -> Result<Option<ValueId>> {
        let Some(Some(x)) = inputs.first().copied() else {
            return Ok(None);
        };
        let rank = g.shape(x).len() - 1;
        let view = g.view(self, self.name, inputs, attrs, &[true]);
        let axes: Vec<i64> = match view.ints_input(1)?.unwrap_or_default() {
            a if !a.is_empty() => view.axes(&a, rank)?.into_iter().map(|a| a as i64 + 1).collect(),
            _ if view.int("noop_with_empty_axes", 0)? != 0 => return Ok(None),
            _ => (1..=rank as i64).collect(),
        };
        if axes.is_empty() {
            return Ok(None);
        }
        let axes = g.ints(&axes);
        g.push_some(self.name, &[Some(x), Some(axes)], attrs.clone()).map(Some)
    }
}

static REDUCE_SUM: Reduce = Reduce {
    ints: true,
    ..reduce("ReduceSum", 13, Fold::Sum, |b, d| {
        // dx = dy, stretched along axes
        let dy = b.dy()?;
        d.keep(b, dy)
    })
};

static REDUCE_MEAN: Reduce = Reduce {
    ints: true,
    ..reduce("ReduceMean", 18, Fold::Mean, |b, d| {
        // dx = dy / count, stretched along axes
        let dy = b.dy()?;
        let dy = d.keep(b, dy)?;
        b.scale(dy, 1.0 / d.count as f64)
    })
};

/// `dx = dy / k` where `x = y`, 0 elsewhere; `k` elements are equal to `y`.
fn shared(b: &mut Vjp, d: &Dims) -> Result<ValueId> {
    let (x, y, dy) = (b.x(0)?, b.y(0)?, b.dy()?);
    let (y, dy) = (d.keep(b, y)?, d.keep(b, dy)?);
    let (zero, one) = (b.scalar_like(0.0, x), b.scalar_like(1.0, x));
    let mask = b.op("Equal", &[x, y])?;
    let ones = b.choose(mask, one, zero)?;
    let ties = b.reduce_sum(ones, &d.axes, true)?;
    let share = b.div(dy, ties)?;
    b.choose(mask, share, zero)
}

/// No two elements are equal, so that a maximum stays where it is when they are moved a little.
const APART: Sampler = Sampler { low: -2.0, high: 2.0, avoid: &[], distinct: true };

static REDUCE_MAX: Reduce = Reduce { ints: true, sampler: APART, ..reduce("ReduceMax", 20, Fold::Max, shared) };
static REDUCE_MIN: Reduce = Reduce { ints: true, sampler: APART, ..reduce("ReduceMin", 20, Fold::Min, shared) };

static REDUCE_PROD: Reduce = Reduce {
    ints: true,
    // products of many elements stay near 1
    sampler: Sampler::within(0.9, 1.1),
    ..reduce("ReduceProd", 18, Fold::Prod, |b, d| {
        // dx = dy · Π of the other elements: y/x, unless an element is 0; with p the product without zeros
        // dx = dy · p/x where there is none, dy · p at the only one, 0 elsewhere
        let (x, dy) = (b.x(0)?, b.dy()?);
        let dy = d.keep(b, dy)?;
        let (zero, one) = (b.scalar_like(0.0, x), b.scalar_like(1.0, x));
        let is_zero = b.op("Equal", &[x, zero])?;
        let safe = b.choose(is_zero, one, x)?;
        let view = b.attrs().clone().with("keepdims", 1);
        let mut inputs = vec![safe];
        inputs.extend((1..b.n_inputs()).filter_map(|i| b.optional_x(i)));
        let p = b.emit("ReduceProd", &inputs, view)?;
        let ones = b.choose(is_zero, one, zero)?;
        let zeros = b.reduce_sum(ones, &d.axes, true)?;
        let dp = b.mul(dy, p)?;
        let (none, single) = (b.op("Equal", &[zeros, zero])?, b.op("Equal", &[zeros, one])?);
        let others = b.div(dp, safe)?;
        let at_zero = b.choose(single, dp, zero)?;
        let elsewhere = b.choose(none, others, zero)?;
        b.choose(is_zero, at_zero, elsewhere)
    })
};

static REDUCE_L1: Reduce = Reduce {
    ints: true,
    sampler: Sampler { low: -2.0, high: 2.0, avoid: &[0.0], distinct: false },
    ..reduce("ReduceL1", 18, Fold::L1, |b, d| {
        // dx = dy · sign x
        let (x, dy) = (b.x(0)?, b.dy()?);
        let dy = d.keep(b, dy)?;
        let (zero, minus) = (b.scalar_like(0.0, x), b.neg(dy)?);
        let (above, below) = (b.op("Greater", &[x, zero])?, b.op("Less", &[x, zero])?);
        let negative = b.choose(below, minus, zero)?;
        b.choose(above, dy, negative)
    })
};

static REDUCE_L2: Reduce = Reduce {
    sampler: Sampler::within(0.3, 2.0),
    ..reduce("ReduceL2", 18, Fold::L2, |b, d| {
        // dx = dy · x / y, and 0 where y is
        let (x, y, dy) = (b.x(0)?, b.y(0)?, b.dy()?);
        let (y, dy) = (d.keep(b, y)?, d.keep(b, dy)?);
        let (zero, one) = (b.scalar_like(0.0, x), b.scalar_like(1.0, x));
        let flat = b.op("Equal", &[y, zero])?;
        let y = b.choose(flat, one, y)?;
        let slope = b.div(x, y)?;
        b.mul(dy, slope)
    })
};

static REDUCE_SUM_SQUARE: Reduce = Reduce {
    ints: true,
    ..reduce("ReduceSumSquare", 18, Fold::SumSquare, |b, d| {
        // dx = 2 · dy · x
        let (x, dy) = (b.x(0)?, b.dy()?);
        let dy = d.keep(b, dy)?;
        let twice = b.scale(dy, 2.0)?;
        b.mul(twice, x)
    })
};

static REDUCE_LOG_SUM: Reduce = Reduce {
    sampler: Sampler::within(0.3, 2.0),
    ..reduce("ReduceLogSum", 18, Fold::LogSum, |b, d| {
        // dx = dy / Σ x = dy · exp(−y)
        let (y, dy) = (b.y(0)?, b.dy()?);
        let minus = b.neg(y)?;
        let inverse = b.op("Exp", &[minus])?;
        let dx = b.mul(dy, inverse)?;
        d.keep(b, dx)
    })
};

static REDUCE_LOG_SUM_EXP: Reduce = reduce("ReduceLogSumExp", 18, Fold::LogSumExp, |b, d| {
    // dx = dy · exp(x − y)
    let (x, y, dy) = (b.x(0)?, b.y(0)?, b.dy()?);
    let (y, dy) = (d.keep(b, y)?, d.keep(b, dy)?);
    let less = b.sub(x, y)?;
    let share = b.op("Exp", &[less])?;
    b.mul(dy, share)
});

pub(super) static OPS: &[&dyn Op] = &[
    &REDUCE_SUM,
    &REDUCE_MEAN,
    &REDUCE_MAX,
    &REDUCE_MIN,
    &REDUCE_PROD,
    &REDUCE_L1,
    &REDUCE_L2,
    &REDUCE_SUM_SQUARE,
    &REDUCE_LOG_SUM,
    &REDUCE_LOG_SUM_EXP,
];
