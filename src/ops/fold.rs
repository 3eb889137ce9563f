//! Folding a tensor over some of its axes, on the host and as dispatches.

use super::support::{PARALLEL, strides, zip_map};
use super::{Bind, Kernel, NodeView, Params, Step, Vjp, grid_1d};
use crate::error::{Error, Result};
use crate::graph::{Batch, ValueId};
use crate::tensor::{Array, DType, Element};
use rayon::prelude::*;
use std::borrow::Cow;

/// Which axes a node reduces, and the shapes that result.
pub(super) struct Dims {
    pub axes: Vec<usize>,
    /// Output shape with every reduced axis kept as 1.
    pub kept: Vec<usize>,
    /// Output shape.
    pub out: Vec<usize>,
    /// Elements that one output element is made of.
    pub count: usize,
}

impl Dims {
    pub(super) fn of(n: &NodeView) -> Result<Self> {
        let shape = n.shape(0)?;
        let keepdims = n.int("keepdims", 1)? != 0;
        let axes = match n.ints_input(1)?.unwrap_or_default() {
            a if !a.is_empty() => n.axes(&a, shape.len())?,
            _ if n.int("noop_with_empty_axes", 0)? != 0 => Vec::new(),
            _ => (0..shape.len()).collect(),
        };
        Ok(Self::new(shape, axes, keepdims))
    }
    pub(super) fn new(shape: &[usize], axes: Vec<usize>, keepdims: bool) -> Self {
        let mut kept = shape.to_vec();
        axes.iter().for_each(|&a| kept[a] = 1);
        let count = axes.iter().map(|&a| shape[a]).product();
        let out = match keepdims {
            true => kept.clone(),
            false => (0..shape.len()).filter(|a| !axes.contains(a)).map(|a| shape[a]).collect(),
        };
        Self { axes, kept, out, count }
    }
    pub(super) fn batch(&self, from: Batch) -> Batch {
        match from {
            Batch::Axis { axis, .. } if self.axes.contains(&axis) => Batch::Lost,
            Batch::Axis { axis, rows } if self.out.len() < self.kept.len() => {
                Batch::Axis { axis: axis - self.axes.iter().filter(|&&a| a < axis).count(), rows }
            }
            other => other,
        }
    }
    /// `dy` or `y` with the reduced axes kept as 1, so that it broadcasts against `x`.
    pub(super) fn keep(&self, b: &mut Vjp, v: ValueId) -> Result<ValueId> {
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
pub(super) fn fold<T: Element>(
    x: &[T],
    shape: &[usize],
    axes: &[usize],
    zero: T,
    f: impl Fn(T, T) -> T + Sync,
) -> Vec<T> {
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
fn fold_middle<T: Element>(x: &[T], [outer, r, inner]: [usize; 3], zero: T, f: &(impl Fn(T, T) -> T + Sync)) -> Vec<T> {
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
pub(super) fn fold_rows<T: Element>(x: &[T], y: &mut [T], f: &impl Fn(T, T) -> T) {
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
                (
                    f(f(f(lanes[0], lanes[1]), f(lanes[2], lanes[3])), f(f(lanes[4], lanes[5]), f(lanes[6], lanes[7]))),
                    tail,
                )
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
pub(super) trait Number: Element {
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
pub(super) enum Fold {
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

impl Fold {
    /// What a reduction of no elements gives, where that is no sum of them.
    pub(super) fn of_nothing(self, dtype: DType) -> Option<Array> {
        let (low, high) = dtype.int_range().unwrap_or_default();
        let (float, int) = match self {
            Self::Max => (f64::NEG_INFINITY, low),
            Self::Min => (f64::INFINITY, high),
            Self::Prod => (1.0, 1),
            Self::LogSumExp => (f64::NEG_INFINITY, low),
            _ => return None,
        };
        Some(if dtype.is_float() { Array::full_float(dtype, &[], float) } else { Array::full(&[], int) })
    }
}

pub(super) fn compute<T: Number>(which: Fold, x: &Array, d: &Dims) -> Result<Array> {
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
            let most =
                zip_map::<T, T, T>(&most, &most, &d.kept, |m, _| m.map(|m| if m.is_finite() { m } else { 0.0 }))?;
            let terms = zip_map::<T, T, T>(x, &most, shape, |v, m| v.plus(m.map(|m| -m)).map(f64::exp))?;
            let logs = finish(sum(terms.slice()?), f64::ln);
            logs.into_iter().zip(most.slice::<T>()?).map(|(y, &m)| y.plus(m)).collect()
        }
    };
    Array::from_vec(&d.out, y)
}

/// What `shaders/reduce.wgsl` does with an element, how it joins two, and what it does in the end.
impl Fold {
    pub(super) fn codes(self) -> [u32; 3] {
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
pub(super) fn kernel(shape: &[usize], axes: &[usize], [map, join, finish]: [u32; 3], int: bool) -> Result<Kernel> {
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
        return Err(Error::internal("a reduction of nothing goes through no kernel of its own"));
    }
    // few outputs of many elements would leave most of a GPU idle: such folds go through partial results
    let parts = if join < 4 && n > 0 { (count / 256).min(16_384 / n).max(1) } else { 1 };
    let length = count.div_ceil(parts);
    let parts = count.div_ceil(length.max(1)).max(1);
    let (run, run_stride) = (gone.pop().unwrap_or(1), gone_strides.pop().unwrap_or(0));
    let overrides = |codes: &[(&'static str, u32)]| -> Vec<(&'static str, f64)> {
        codes.iter().chain(&[("JOIN", join), ("INT", u32::from(int))]).map(|&(name, v)| (name, f64::from(v))).collect()
    };
    let whole = parts == 1;
    let first = Step {
        shader: crate::shader!("reduce"),
        overrides: overrides(&[("MAP", map), ("FINISH", if whole { finish } else { 0 })]),
        binds: vec![Bind::Input(0), if whole { Bind::Output(0) } else { Bind::Scratch(0) }],
        params: Params::new()
            .u("n", n)
            .u("parts", parts)
            .u("length", length)
            .u("count", count)
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
    if whole {
        return Ok(Kernel::one(first));
    }
    let last = Step {
        shader: crate::shader!("reduce_parts"),
        overrides: overrides(&[("FINISH", finish)]),
        binds: vec![Bind::Scratch(0), Bind::Output(0)],
        params: Params::new().u("n", n).u("parts", parts).u("total", count),
        grid: grid_1d(n),
    };
    Ok(Kernel::Steps { steps: vec![first, last], scratch: vec![n * parts] })
}
