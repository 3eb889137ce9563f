//! Reductions over axes: <https://onnx.ai/onnx/operators/onnx__ReduceSum.html> and its relatives.

use super::support::{PARALLEL, given, strides};
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
    /// The branch of `shaders/reduce.wgsl`.
    code: u32,
    /// True when integers are reduced too.
    ints: bool,
    vjp: fn(&mut Vjp, &Dims) -> Result<ValueId>,
    sampler: Sampler,
}

const fn reduce(name: &'static str, version: i64, code: u32, vjp: fn(&mut Vjp, &Dims) -> Result<ValueId>) -> Reduce {
    Reduce { name, version, code, ints: false, vjp, sampler: Sampler::within(-2.0, 2.0) }
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
    fn plus(self, o: Self) -> Self;
    fn over(self, count: usize) -> Self;
}

macro_rules! number {
    ($t:ty, $zero:expr, $plus:expr, $over:expr) => {
        impl Number for $t {
            const ZERO: Self = $zero;
            fn plus(self, o: Self) -> Self {
                $plus(self, o)
            }
            fn over(self, count: usize) -> Self {
                $over(self, count)
            }
        }
    };
}
number!(f32, 0.0, |p, q| p + q, |p, c| p / c as f32);
number!(f64, 0.0, |p, q| p + q, |p, c| p / c as f64);
number!(i64, 0, i64::wrapping_add, |p: i64, c| p.checked_div(c as i64).unwrap_or(0));

fn compute<T: Number>(code: u32, x: &Array, d: &Dims) -> Result<Array> {
    let shape = x.shape();
    let v = x.slice::<T>()?;
    let y = match code {
        SUM => fold(v, shape, &d.axes, T::ZERO, T::plus),
        _ => {
            let mut y = fold(v, shape, &d.axes, T::ZERO, T::plus);
            y.iter_mut().for_each(|y| *y = y.over(d.count));
            y
        }
    };
    Array::from_vec(&d.out, y)
}

const SUM: u32 = 0;
const MEAN: u32 = 1;

/// The kernel of a reduction: output `y` of so many elements.
fn kernel(shape: &[usize], axes: &[usize], code: u32, int: bool) -> Result<Kernel> {
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
    let (run, run_stride) = (gone.pop().unwrap_or(1), gone_strides.pop().unwrap_or(0));
    let n = kept.iter().product();
    let outer: usize = gone.iter().product();
    Ok(Kernel::one(Step {
        shader: crate::shader!("reduce"),
        overrides: vec![("OP", f64::from(code)), ("INT", f64::from(u8::from(int)))],
        binds: vec![Bind::Input(0), Bind::Output(0)],
        params: Params::new()
            .u("n", n)
            .u("kept_rank", kept.len())
            .u("gone_rank", gone.len())
            .u("outer", outer)
            .u("run", run)
            .u("run_stride", run_stride)
            .list::<8>("kept", &kept, 1)
            .list::<8>("kept_strides", &kept_strides, 0)
            .list::<8>("gone", &gone, 1)
            .list::<8>("gone_strides", &gone_strides, 0),
        grid: grid_1d(n),
    }))
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
            Array::F32(_) => compute::<f32>(self.code, x, &d)?,
            Array::F64(_) => compute::<f64>(self.code, x, &d)?,
            Array::I64(_) => compute::<i64>(self.code, x, &d)?,
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
        kernel(&x.shape, &Dims::of(n)?.axes, self.code, !x.dtype.is_float())
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
    ..reduce("ReduceSum", 13, SUM, |b, d| {
        // dx = dy, stretched along axes
        let dy = b.dy()?;
        d.keep(b, dy)
    })
};

static REDUCE_MEAN: Reduce = Reduce {
    ints: true,
    ..reduce("ReduceMean", 18, MEAN, |b, d| {
        // dx = dy / count, stretched along axes
        let dy = b.dy()?;
        let dy = d.keep(b, dy)?;
        b.scale(dy, 1.0 / d.count as f64)
    })
};

pub(super) static OPS: &[&dyn Op] = &[&REDUCE_SUM, &REDUCE_MEAN];
