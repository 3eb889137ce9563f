//! The end of a Fisher estimate: samples squared, weighted and summed.

use super::support::{float_type, given};
use super::{Bind, Case, Kernel, NodeView, Op, Params, Spec, Step, Vjp, grid_1d, reshape};
use crate::error::{Error, Result};
use crate::graph::{Attrs, Graph, ValueId};
use crate::tensor::{Array, TensorType};
use rayon::prelude::*;

/// `z = Σ_n u[s, n] · y[n]²` for `y [n, …]` and `u [s, n]`, of shape `[s, …]`: all `s` sums in one pass.
struct WeightedSquareSum;

/// Elements of a sample that are summed together, so that they stay in the nearest cache.
const COLUMNS: usize = 1 << 10;

impl Op for WeightedSquareSum {
    fn spec(&self) -> Spec {
        Spec::internal("WeightedSquareSum", (2, 2))
    }
    fn infer(&self, n: &NodeView) -> Result<Vec<TensorType>> {
        let (y, u) = (n.ty(0)?, n.ty(1)?);
        match (y.shape.split_first(), u.shape.as_slice()) {
            (Some((samples, rest)), &[sums, of]) if of == *samples && y.dtype == u.dtype && y.dtype.is_float() => {
                Ok(vec![TensorType::new(y.dtype, [&[sums], rest].concat())])
            }
            _ => Err(Error::internal(format!("WeightedSquareSum of {y} and {u}"))),
        }
    }
    fn eval(&self, _: &NodeView, x: &[Option<&Array>]) -> Result<Vec<Array>> {
        let (y, u) = (given(x, 0)?, given(x, 1)?);
        let (&[sums, samples], rest) = (u.shape(), &y.shape()[1..]) else {
            return Err(Error::internal("WeightedSquareSum without weights"));
        };
        let size: usize = rest.iter().product();
        float_type!(y, T => {
            let (v, u) = (y.slice::<T>()?, u.slice::<T>()?);
            let mut z: Vec<T> = vec![0.0; sums * size];
            // the same columns of every sum go to one task, which squares each sample once
            let mut tasks: Vec<Vec<&mut [T]>> = Vec::new();
            tasks.resize_with(size.div_ceil(COLUMNS), Vec::new);
            for row in z.chunks_mut(size.max(1)) {
                tasks.iter_mut().zip(row.chunks_mut(COLUMNS)).for_each(|(task, part)| task.push(part));
            }
            tasks.into_par_iter().enumerate().with_min_len(1).for_each(|(c, mut parts)| {
                let mut squares: Vec<T> = Vec::with_capacity(COLUMNS);
                for n in 0..samples {
                    let width = parts.first().map_or(0, |p| p.len());
                    squares.clear();
                    squares.extend(v[n * size + c * COLUMNS..][..width].iter().map(|&v| v * v));
                    for (s, part) in parts.iter_mut().enumerate() {
                        let weight = u[s * samples + n];
                        part.iter_mut().zip(&squares).for_each(|(z, &q)| *z += weight * q);
                    }
                }
            });
            Ok(vec![Array::from_vec(&[&[sums], rest].concat(), z)?])
        })
    }
    fn vjp(&self, b: &mut Vjp) -> Result<()> {
        Err(b.not_differentiable(0, "second derivatives are not taken"))
    }
    fn kernel(&self, n: &NodeView) -> Result<Kernel> {
        let (&[sums, samples], y) = (n.shape(1)?, n.shape(0)?) else {
            return Err(Error::internal("WeightedSquareSum without weights"));
        };
        let size = y[1..].iter().product();
        Ok(Kernel::one(Step {
            shader: crate::shader!("squares"),
            overrides: Vec::new(),
            binds: vec![Bind::Input(0), Bind::Input(1), Bind::Output(0)],
            params: Params::new().u("size", size).u("samples", samples).u("sums", sums),
            grid: grid_1d(size),
        }))
    }
    fn cases(&self) -> Vec<Case> {
        let case = |name: &str, shapes: &[&[usize]]| {
            Case::new(&format!("WeightedSquareSum {name}"), shapes).no_gradient("second derivatives are not taken")
        };
        vec![
            case("matrix", &[&[5, 3, 4], &[2, 5]]),
            case("one sum", &[&[4, 7], &[1, 4]]),
            case("many sums", &[&[3, 2, 2, 3, 2], &[11, 3]]),
            case("scalars", &[&[6], &[2, 6]]),
            case("wide", &[&[3, 1500], &[2, 3]]),
        ]
    }
    fn lower(&self, g: &mut Graph, inputs: &[Option<ValueId>], _: &Attrs) -> Result<Option<Vec<ValueId>>> {
        let &[Some(y), Some(u)] = inputs else {
            return Err(Error::internal("WeightedSquareSum takes two inputs"));
        };
        // z = u · (y ∘ y), with y as a matrix of one row per sample
        let (shape, sums) = (g.shape(y).to_vec(), g.shape(u)[0]);
        let squares = g.push("Mul", &[y, y], Attrs::new())?;
        let rows = reshape(g, squares, &[shape[0], shape[1..].iter().product()])?;
        let z = g.push("MatMul", &[u, rows], Attrs::new())?;
        Ok(Some(vec![reshape(g, z, &[&[sums], &shape[1..]].concat())?]))
    }
}

/// Elements of per-sample gradients that a lowered graph holds at once, where it can do with less: they stay in a cache.
const HELD: usize = 1 << 22;

/// For lowering: `Σ_n u[s, n] · (a[n] · b[n])²` of a `[n, …, rows, steps]` and b `[n, …, steps, columns]`, as
/// `[s, …, rows, columns]`, so many rows at a time that the products stay small.
pub(super) fn lower_product(g: &mut Graph, a: ValueId, b: ValueId, u: ValueId) -> Result<ValueId> {
    let (of_a, sums) = (g.shape(a).to_vec(), g.shape(u)[0]);
    let (axis, columns) = (of_a.len() - 2, g.shape(b)[of_a.len() - 1]);
    let (samples, outer, rows) = (of_a[0], &of_a[1..axis], of_a[axis]);
    let row = samples * outer.iter().product::<usize>() * columns;
    let height = (HELD / row.max(1)).clamp(1, rows.max(1));
    // of about the same height
    let blocks = rows.div_ceil(height).max(1);
    let mut parts = Vec::with_capacity(blocks);
    for k in 0..blocks {
        let (from, to) = (k * rows / blocks, (k + 1) * rows / blocks);
        let ints = |g: &mut Graph, v: usize| g.ints(&[v as i64]);
        let part = if blocks == 1 {
            a
        } else {
            let (starts, ends, axes) = (ints(g, from), ints(g, to), ints(g, axis));
            g.push("Slice", &[a, starts, ends, axes], Attrs::new())?
        };
        let product = g.push("MatMul", &[part, b], Attrs::new())?;
        let squares = g.push("Mul", &[product, product], Attrs::new())?;
        let flat = reshape(g, squares, &[samples, row / samples.max(1) * (to - from)])?;
        let sum = g.push("MatMul", &[u, flat], Attrs::new())?;
        parts.push(reshape(g, sum, &[&[sums], outer, &[to - from, columns]].concat())?);
    }
    match parts[..] {
        [one] => Ok(one),
        _ => g.push("Concat", &parts, Attrs::new().with("axis", axis as i64)),
    }
}

pub(super) static OPS: &[&dyn Op] = &[&WeightedSquareSum];
