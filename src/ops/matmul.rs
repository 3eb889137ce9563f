//! Products of matrices: <https://onnx.ai/onnx/operators/onnx__MatMul.html>, and the fused sum of squares that
//! per-sample weight gradients end in.

use super::layout::aligned;
use super::linalg::{Mat, Real, gemm};
use super::product::{Product, flag, tiles};
use super::squared::{self, Extents, Factors};
use super::squares::lower_product;
use super::support::given;
use super::tile::Tile;
use super::{Arg, Bind, Case, Kernel, NodeView, Op, Params, Sampler, Spec, Step, Vjp, reshape, transpose};
use crate::error::{Error, Result};
use crate::graph::{Attrs, Batch, Graph, ValueId};
use crate::tensor::{Array, TensorType};
use std::ops::Range;

/// `y = a · b`, batched. One-dimensional operands become matrices on import.
struct MatMul;

impl Op for MatMul {
    fn spec(&self) -> Spec {
        Spec::new("MatMul", 13, (2, 2))
    }
    fn infer(&self, n: &NodeView) -> Result<Vec<TensorType>> {
        let product = Product::new(n.shape(0)?, n.shape(1)?)?;
        if n.dtype(0)? != n.dtype(1)? || !n.dtype(0)?.is_float() {
            return Err(Error::unsupported(format!("operands of type {} and {}", n.dtype(0)?, n.dtype(1)?)));
        }
        Ok(vec![TensorType::new(n.dtype(0)?, product.shape())])
    }
    fn batch(&self, n: &NodeView, from: &[Batch], _: usize, out: &[TensorType]) -> Vec<Batch> {
        let rank = out[0].shape.len();
        let place = |i: usize| match (from[i], n.optional(i)) {
            (Batch::Axis { axis, rows }, Some(ty)) => Some((axis + rank - ty.shape.len(), rows)),
            _ => None,
        };
        // aligned from the right, the last two axes are rows and columns of the product
        let stretched = |i: usize, axis: usize| {
            n.optional(i).is_some_and(|ty| (axis + ty.shape.len()).checked_sub(rank).is_none_or(|a| ty.shape[a] == 1))
        };
        let found = match (place(0), place(1)) {
            (Some((axis, rows)), None) if axis == rank - 2 || (axis < rank - 2 && stretched(1, axis)) => {
                Some((axis, rows))
            }
            (None, Some((axis, rows))) if axis == rank - 1 || (axis < rank - 2 && stretched(0, axis)) => {
                Some((axis, rows))
            }
            (Some(a), Some(b)) if a == b && a.0 < rank - 2 => Some(a),
            _ => None,
        };
        vec![found.map_or(Batch::Lost, |(axis, rows)| Batch::Axis { axis, rows })]
    }
    fn eval(&self, n: &NodeView, x: &[Option<&Array>]) -> Result<Vec<Array>> {
        let (a, b) = (given(x, 0)?, given(x, 1)?);
        let product = Product::new(n.shape(0)?, n.shape(1)?)?;
        Ok(vec![if let Array::F64(_) = a { product.eval::<f64>(a, b)? } else { product.eval::<f32>(a, b)? }])
    }
    fn reads_swapped(&self, input: usize) -> bool {
        input < 2
    }
    fn vjp(&self, b: &mut Vjp) -> Result<()> {
        let (p, q, dy) = (b.x(0)?, b.x(1)?, b.dy()?);
        if b.wants(0) {
            // dA = dY · Bᵀ
            // the samples stay where they are found again
            let are_rows =
                b.samples() == 1 || matches!(b.graph().value(dy).batch, Batch::None | Batch::Axis { axis: 0, .. });
            let da = if are_rows && b.shape(q).len() == 2 {
                times_transposed(b, dy, q)?
            } else {
                let qt = swap_last(b, q)?;
                b.op("MatMul", &[dy, qt])?
            };
            b.set_dx(0, da);
        }
        if !b.wants(1) {
            return Ok(());
        }
        if b.shape(q).len() == 2 {
            return weight_gradient(b, p, dy, 1, false);
        }
        // dB = Aᵀ · dY
        let pt = swap_last(b, p)?;
        let db = b.op("MatMul", &[pt, dy])?;
        b.set_dx(1, db);
        Ok(())
    }
    fn kernel(&self, n: &NodeView) -> Result<Kernel> {
        let product = Product::new(n.shape(0)?, n.shape(1)?)?.folded();
        product.kernel(None, 1.0, 0.0)
    }
    fn cases(&self) -> Vec<Case> {
        // 70 columns and rows: more than one tile, the last one partial
        vec![
            Case::new("MatMul matrices", &[&[3, 5], &[5, 4]]),
            Case::new("MatMul tiles", &[&[70, 33], &[33, 70]]),
            Case::new("MatMul batched", &[&[2, 3, 4, 5], &[2, 3, 5, 2]]),
            Case::new("MatMul weight", &[&[2, 3, 4, 5], &[5, 6]]),
            Case::new("MatMul weight of single rows", &[&[19, 2, 1, 8], &[8, 12]]),
            // the inner axis is rows of one matrix, the outer one is not
            Case::new("MatMul weight of each", &[&[2, 3, 4, 5], &[2, 1, 5, 6]]),
            Case::new("MatMul broadcast", &[&[3, 1, 2, 4], &[2, 4, 3]]),
            Case::new("MatMul left weight", &[&[3, 4], &[2, 4, 5]]),
            Case::new("MatMul one row", &[&[1, 130], &[130, 9]]),
            // few elements that are sums of many products: 70,000 is cut into 16 parts
            Case::new("MatMul long sums", &[&[3, 70_000], &[70_000, 2]]).within(1e-4),
            // read in fours along k and along columns, several tiles
            Case::new("MatMul fours", &[&[2, 132, 20], &[2, 20, 68]]),
            Case::new("MatMul fours along columns", &[&[18, 7], &[7, 72]]),
        ]
    }
    fn import(
        &self,
        g: &mut Graph,
        _: i64,
        inputs: &[Option<ValueId>],
        attrs: Attrs,
        wanted: &[bool],
    ) -> Result<Vec<Option<ValueId>>> {
        let (Some(Some(a)), Some(Some(b))) = (inputs.first(), inputs.get(1)) else {
            return g.push_multi(&Self, inputs, attrs, wanted);
        };
        let (a_shape, b_shape) = (g.shape(*a).to_vec(), g.shape(*b).to_vec());
        let (mut p, mut q) = (*a, *b);
        if a_shape.len() == 1 {
            p = super::reshape(g, p, &[1, a_shape[0]])?;
        }
        if b_shape.len() == 1 {
            q = super::reshape(g, q, &[b_shape[0], 1])?;
        }
        let y = g.push("MatMul", &[p, q], attrs)?;
        let mut shape = g.shape(y).to_vec();
        let rank = shape.len();
        if a_shape.len() == 1 {
            shape.remove(rank - 2);
        }
        if b_shape.len() == 1 {
            shape.pop();
        }
        Ok(vec![Some(super::reshape(g, y, &shape)?)])
    }
    fn stacked(&self, g: &mut Graph, inputs: &[Option<ValueId>], attrs: &Attrs, _: usize) -> Result<Option<ValueId>> {
        if !aligned(g, inputs) {
            return Ok(None);
        }
        g.push_some("MatMul", inputs, attrs.clone()).map(Some)
    }
    fn squared(&self, n: &NodeView) -> Option<&'static str> {
        let (a, b) = (n.shape(0).ok()?, n.shape(1).ok()?);
        (a.len() == 3 && b.len() == 3 && a[0] == b[0]).then_some("MatMulSquared")
    }
}

/// `v · wᵀ` for a matrix w, which is read as it lies; all but the last axis of v are rows.
fn times_transposed(b: &mut Vjp, v: ValueId, w: ValueId) -> Result<ValueId> {
    let mut shape = b.shape(v);
    let (rows, n) = (shape[..shape.len() - 1].iter().product(), shape[shape.len() - 1]);
    let flat = b.reshape(v, &[rows, n])?;
    let product = b.emit("Gemm", &[flat, w], Attrs::new().with("transB", 1))?;
    shape.pop();
    shape.push(b.shape(w)[0]);
    b.reshape(product, &shape)
}

/// The last two axes swapped.
fn swap_last(b: &mut Vjp, v: ValueId) -> Result<ValueId> {
    let shape = b.shape(v);
    let rank = shape.len();
    let mut perm: Vec<usize> = (0..rank).collect();
    perm.swap(rank - 2, rank - 1);
    if shape[rank - 1] == 1 || shape[rank - 2] == 1 {
        let swapped: Vec<usize> = perm.iter().map(|&p| shape[p]).collect();
        return b.reshape(v, &swapped);
    }
    b.transpose(v, &perm)
}

/// `dW = Xᵀ · dY` (or `dYᵀ · X` when the weight is used transposed) for a matrix W that multiplies the
/// last axis of x: all other axes are rows. Sets input `i`.
pub(super) fn weight_gradient(b: &mut Vjp, x: ValueId, dy: ValueId, i: usize, transposed: bool) -> Result<()> {
    let (sx, sy) = (b.shape(x), b.shape(dy));
    let (k, m) = (sx[sx.len() - 1], sy[sy.len() - 1]);
    let rows: usize = sx[..sx.len() - 1].iter().product();
    if !b.apart(i) {
        let x = b.reshape(x, &[rows, k])?;
        let dy = b.reshape(dy, &[rows, m])?;
        let (p, q) = if transposed { (dy, x) } else { (x, dy) };
        let dw = b.emit("Gemm", &[p, q], Attrs::new().with("transA", 1))?;
        b.set_exact(i, dw);
        return Ok(());
    }
    let Batch::Axis { axis, .. } = b.graph().value(x).batch else {
        return Err(b.needs_singles("the samples cannot be found in its input"));
    };
    let n = b.samples();
    let (mut x, mut dy) = (x, dy);
    if axis != 0 && rows > n {
        if axis == sx.len() - 1 || sx[axis] != n {
            return Err(b.needs_singles("the samples do not lie on an axis of their own"));
        }
        let mut perm: Vec<usize> = (0..sx.len()).collect();
        perm.remove(axis);
        perm.insert(0, axis);
        x = b.transpose(x, &perm)?;
        dy = b.transpose(dy, &perm)?;
    }
    let x = b.reshape(x, &[n, rows / n, k])?;
    let dy = b.reshape(dy, &[n, rows / n, m])?;
    let (p, q) = if transposed { (dy, x) } else { (x, dy) };
    let pt = swap_last(b, p)?;
    let dw = b.op("MatMul", &[pt, q])?;
    b.set_apart(i, dw);
    Ok(())
}

/// `y[s] = Σ_n u[s,n] · (a[n] · b[n])²`, element-wise squares of the batched products.
struct MatMulSquared;

impl MatMulSquared {
    fn run<T: Tile>(n: &NodeView, x: &[Option<&Array>]) -> Result<Array> {
        let (a, b, u) = (given(x, 0)?, given(x, 1)?, given(x, 2)?);
        let (&[samples, k, t], &[_, _, m]) = (n.shape(0)?, n.shape(1)?) else {
            return Err(Error::internal("MatMulSquared takes [n,k,t] and [n,t,m]"));
        };
        let sets = u.shape()[0];
        let ((a, is_swapped), b, u) = (a.matrices::<T>()?, b.slice::<T>()?, u.slice::<T>()?);
        let mut y = vec![T::ZERO; sets * k * m];
        if y.is_empty() || samples == 0 {
            return Array::from_vec(&[sets, k, m], y);
        }
        if t == 1 {
            // (a bᵀ)² = a² (b²)ᵀ: one product over the samples
            let bb: Vec<T> = b.iter().map(|&v| v * v).collect();
            for (s, y) in y.chunks_mut(k * m).enumerate() {
                let ua: Vec<T> = a.iter().enumerate().map(|(i, &v)| u[s * samples + i / k] * v * v).collect();
                gemm(Mat::new(&ua, samples, k).t(), Mat::new(&bb, samples, m), y, 1.0, 0.0, true);
            }
            return Array::from_vec(&[sets, k, m], y);
        }
        let extents = Extents { groups: 1, rows: k, columns: m, unit: T::size()[1], steps: t, samples, sums: sets };
        Array::from_vec(&[sets, k, m], squared::sum(extents, u, &Stacked { a, is_swapped, b, k, t, m }))
    }
}

/// The factors of every sample: `a[n]` is `[k, t]`, or `[t, k]` in memory, and `b[n]` is `[t, m]`.
struct Stacked<'a, T> {
    a: &'a [T],
    is_swapped: bool,
    b: &'a [T],
    k: usize,
    t: usize,
    m: usize,
}

impl<T: Real> Factors<T> for Stacked<'_, T> {
    fn left(&self, n: usize, _: usize, steps: Range<usize>, rows: Range<usize>, out: &mut [T], width: usize) {
        if self.is_swapped {
            for (out, step) in out.chunks_mut(width).zip(steps) {
                out[..rows.len()].copy_from_slice(&self.a[(n * self.t + step) * self.k..][rows.clone()]);
            }
            return;
        }
        for (i, row) in rows.enumerate() {
            let row = &self.a[(n * self.k + row) * self.t..][steps.clone()];
            out[i..].iter_mut().step_by(width).zip(row).for_each(|(o, &a)| *o = a);
        }
    }
    fn right(&self, n: usize, _: usize, steps: Range<usize>, columns: Range<usize>, out: &mut [T], width: usize) {
        for (step, t) in steps.clone().enumerate() {
            let row = &self.b[(n * self.t + t) * self.m..][columns.clone()];
            for (panel, part) in row.chunks(width).enumerate() {
                out[(panel * steps.len() + step) * width..][..part.len()].copy_from_slice(part);
            }
        }
    }
    fn place(&self, sums: &[T], row: &mut [T]) {
        row.iter_mut().zip(sums).for_each(|(r, &s)| *r += s);
    }
}

impl Op for MatMulSquared {
    fn spec(&self) -> Spec {
        Spec::internal("MatMulSquared", (3, 3))
    }
    fn infer(&self, n: &NodeView) -> Result<Vec<TensorType>> {
        match (n.shape(0)?, n.shape(1)?, n.shape(2)?) {
            (&[na, k, t], &[nb, tb, m], &[s, nu]) if na == nb && nb == nu && t == tb => {
                Ok(vec![TensorType::new(n.dtype(0)?, [s, k, m])])
            }
            (a, b, u) => Err(Error::internal(format!("shapes {a:?}, {b:?}, {u:?} do not fit"))),
        }
    }
    fn eval(&self, n: &NodeView, x: &[Option<&Array>]) -> Result<Vec<Array>> {
        Ok(vec![if let Array::F64(_) = given(x, 0)? { Self::run::<f64>(n, x)? } else { Self::run::<f32>(n, x)? }])
    }
    fn reads_swapped(&self, input: usize) -> bool {
        input == 0
    }
    fn vjp(&self, b: &mut Vjp) -> Result<()> {
        Err(b.not_differentiable(0, "it ends a Fisher estimate"))
    }
    fn kernel(&self, n: &NodeView) -> Result<Kernel> {
        let (a, b, u) = (n.shape(0)?, n.shape(1)?, n.shape(2)?);
        let (k, t, m) = (a[1], a[2], b[2]);
        Ok(Kernel::one(Step {
            shader: crate::shader!("matmul_squared"),
            overrides: vec![("FOURS_A", flag(t % 4 == 0 && m % 4 == 0)), ("FOURS_B", flag(m % 4 == 0))],
            binds: [0, 1, 0, 1, 2].map(Bind::Input).into_iter().chain([Bind::Output(0)]).collect(),
            params: Params::new().u("m", k).u("n", m).u("k", t).u("samples", a[0]).u("sets", u[0]),
            grid: tiles(k, m, u[0].div_ceil(2)),
        }))
    }
    fn cases(&self) -> Vec<Case> {
        let case = |name: &str, [n, k, t, m, s]: [usize; 5]| {
            Case::new(&format!("MatMulSquared {name}"), &[&[n, k, t], &[n, t, m]])
                .arg(Arg::Float(vec![s, n], Sampler::within(0.0, 1.0)))
                .no_gradient("it ends a Fisher estimate")
        };
        vec![
            case("one row", [4, 5, 1, 3, 2]),
            case("several rows", [3, 5, 4, 6, 2]),
            case("tiles", [2, 70, 9, 66, 1]),
            // three sets are two pairs, the last one half empty; rows in fours
            case("fours", [3, 132, 8, 68, 3]),
            case("fours along columns", [2, 20, 7, 72, 2]),
        ]
    }
    fn lower(&self, g: &mut Graph, inputs: &[Option<ValueId>], _: &Attrs) -> Result<Option<Vec<ValueId>>> {
        let &[Some(a), Some(b), Some(u)] = inputs else {
            return Err(Error::internal("MatMulSquared takes three inputs"));
        };
        let (&[n, k, t], &[.., m]) = (g.shape(a), g.shape(b)) else {
            return Err(Error::internal("MatMulSquared takes [n,k,t] and [n,t,m]"));
        };
        if t != 1 {
            return Ok(Some(vec![lower_product(g, a, b, u)?]));
        }
        // (a bᵀ)² = a² (b²)ᵀ: one product over the samples for each sum
        let sums = g.shape(u)[0];
        let (a, b) = (reshape(g, a, &[1, n, k])?, reshape(g, b, &[n, m])?);
        let aa = g.push("Mul", &[a, a], Attrs::new())?;
        let bb = g.push("Mul", &[b, b], Attrs::new())?;
        let u = reshape(g, u, &[sums, n, 1])?;
        let left = g.push("Mul", &[aa, u], Attrs::new())?;
        let left = transpose(g, left, &[0, 2, 1])?;
        Ok(Some(vec![g.push("MatMul", &[left, bb], Attrs::new())?]))
    }
}

pub(super) static OPS: &[&dyn Op] = &[&MatMul, &MatMulSquared];
