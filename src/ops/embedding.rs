//! The gradient of a table that samples read at indices of their own, samples apart, and its Fisher sum, for
//! which no sample's table is ever made.

use super::composite::Composite;
use super::constant::fill;
use super::gather::{Line, check_indices, indices, scatter_step};
use super::layout::dims;
use super::support::{float_type, given};
use super::{Arg, Bind, Case, Kernel, NodeView, Op, Pen, Sampler, Spec, Vjp};
use crate::error::{Error, Result};
use crate::graph::{Attrs, Batch, Graph, ValueId};
use crate::tensor::{Array, DType, TensorType};
use rayon::prelude::*;

/// `dx[n, v, …] = Σ dy[n, t, …] over all t with indices[n, t] = v`, for `v` below `dim`. Inputs: indices `[n, t]`,
/// dy.
struct GatherGradApart;

impl GatherGradApart {
    /// Samples, indices a sample, entries of the table, and elements an entry.
    fn extents(n: &NodeView) -> Result<[usize; 4]> {
        let (k, dy) = (n.shape(0)?, n.shape(1)?);
        match (k, dy, usize::try_from(n.int("dim", 0)?)) {
            (&[samples, t], [a, b, rest @ ..], Ok(dim)) if [samples, t] == [*a, *b] => {
                Ok([samples, t, dim, rest.iter().product()])
            }
            _ => Err(Error::internal(format!("indices of shape {k:?} and dy of {dy:?}"))),
        }
    }
}

impl Op for GatherGradApart {
    fn spec(&self) -> Spec {
        Spec::internal("GatherGradApart", (2, 2))
    }
    fn infer(&self, n: &NodeView) -> Result<Vec<TensorType>> {
        let [samples, _, dim, _] = Self::extents(n)?;
        check_indices(n, 0, dim)?;
        Ok(vec![TensorType::new(n.dtype(1)?, [&[samples, dim], &n.shape(1)?[2..]].concat())])
    }
    fn batch(&self, _: &NodeView, from: &[Batch], _: usize, _: &[TensorType]) -> Vec<Batch> {
        let all = from.iter().all(|b| *b == Batch::LEADING);
        vec![if all { Batch::LEADING } else { Batch::Lost }]
    }
    fn eval(&self, n: &NodeView, x: &[Option<&Array>]) -> Result<Vec<Array>> {
        let [samples, t, dim, size] = Self::extents(n)?;
        let (k, dy) = (indices(given(x, 0)?, dim)?, given(x, 1)?);
        let shape = [&[samples, dim], &dy.shape()[2..]].concat();
        float_type!(dy, T => {
            let d = dy.slice::<T>()?;
            let mut dx: Vec<T> = vec![0.0; samples * dim * size];
            if t * dim * size > 0 {
                dx.par_chunks_mut(dim * size).zip(k.par_chunks(t)).zip(d.par_chunks(t * size)).for_each(|((dx, k), d)| {
                    for (&k, d) in k.iter().zip(d.chunks(size)) {
                        dx[k * size..][..size].iter_mut().zip(d).for_each(|(x, &d)| *x += d);
                    }
                });
            }
            Ok(vec![Array::from_vec(&shape, dx)?])
        })
    }
    fn vjp(&self, b: &mut Vjp) -> Result<()> {
        Err(b.not_differentiable(1, "second derivatives are not taken"))
    }
    fn kernel(&self, n: &NodeView) -> Result<Kernel> {
        let [samples, t, dim, size] = Self::extents(n)?;
        let line = Line { count: t, extent: dim, y: size, u: size, k: 1 };
        let (y, u) = ([dim * size, 1], [t * size, 1]);
        let mut steps: Vec<_> = fill(0, samples * dim * size, 0).into_iter().collect();
        let binds = [Bind::Input(0), Bind::Input(1)];
        steps.extend(scatter_step(binds, 1, &line, &[samples, size], &y, &u, &[t, 0]));
        Ok(Kernel::many(steps))
    }
    fn cases(&self) -> Vec<Case> {
        cases("GatherGradApart", None)
    }
    fn lower(&self, g: &mut Graph, inputs: &[Option<ValueId>], attrs: &Attrs) -> Result<Option<Vec<ValueId>>> {
        let [samples, t, dim, _] = Self::extents(&g.view(self, "", inputs, attrs, &[true]))?;
        let [Some(k), Some(dy)] = *inputs else {
            return Ok(None);
        };
        // one table for all, in which sample n begins at n · dim
        let mut p = Pen { g };
        let k = from_start(&mut p, k, dim)?;
        let dtype = p.dtype(k);
        let first = p.int_constant(&[samples, 1], dims(&(0..samples).map(|n| n * dim).collect::<Vec<_>>()), dtype)?;
        let k = p.add(k, first)?;
        let k = p.reshape(k, &[samples * t])?;
        let rest = p.shape(dy)[2..].to_vec();
        let dy = p.reshape(dy, &[&[samples * t], &rest[..]].concat())?;
        let dx = table(&mut p, k, dy, samples * dim)?;
        Ok(Some(vec![p.reshape(dx, &[&[samples, dim], &rest[..]].concat())?]))
    }
    fn squared(&self, n: &NodeView) -> Option<&'static str> {
        // it compares every index of a sample with every other: worth it where the table is larger
        let [_, t, dim, size] = Self::extents(n).ok()?;
        (t * (t + size) < dim * size).then_some("GatherGradApartSquared")
    }
}

fn table(p: &mut Pen, k: ValueId, dy: ValueId, dim: usize) -> Result<ValueId> {
    p.emit("GatherGrad", &[k, dy], Attrs::new().with("axis", 0).with("dim", dims(&[dim])[0]))
}

/// Indices counted from the start.
fn from_start(p: &mut Pen, k: ValueId, extent: usize) -> Result<ValueId> {
    let (zero, size) = (p.number_like(0, k), p.number_like(dims(&[extent])[0], k));
    let negative = p.op("Less", &[k, zero])?;
    let from_end = p.add(k, size)?;
    p.choose(negative, from_end, k)
}

/// `z[s, v, …] = Σ_n u[s, n] · (Σ dy[n, t, …] over all t with indices[n, t] = v)²`. Inputs: indices `[n, t]`, dy,
/// `u [s, n]`. Every index gets the sum over those equal to it; the first of equals carries its square into the
/// table.
static SQUARED: Composite = Composite {
    spec: Spec::internal("GatherGradApartSquared", (3, 3)),
    write: |p| {
        let (k, dy, u) = (p.x(0)?, p.x(1)?, p.x(2)?);
        let [samples, t, dim, size] = GatherGradApart::extents(&p.view())?;
        let (rest, float) = (p.shape(dy)[2..].to_vec(), p.dtype(dy));
        let sums = p.shape(u)[0];
        let k = from_start(p, k, dim)?;
        let (row, column) = (p.reshape(k, &[samples, 1, t])?, p.reshape(k, &[samples, t, 1])?);
        let same = p.op("Equal", &[column, row])?;
        let same = p.cast(same, float)?;
        let earlier = (0..t).flat_map(|i| (0..t).map(move |j| if j < i { 1.0 } else { 0.0 })).collect();
        let earlier = p.float_constant(&[t, t], earlier, float)?;
        let before = p.mul(same, earlier)?;
        let before = p.reduce_sum(before, &[2], true)?;
        let zero = p.scalar_like(0.0, before);
        let first = p.op("Equal", &[before, zero])?;
        let flat = p.reshape(dy, &[samples, t, size])?;
        let whole = p.op("MatMul", &[same, flat])?;
        let square = p.mul(whole, whole)?;
        let square = p.choose(first, square, zero)?;
        // [n, t, s, size]: weighted for every set
        let square = p.reshape(square, &[samples, t, 1, size])?;
        let u = p.transpose(u, &[1, 0])?;
        let u = p.reshape(u, &[samples, 1, sums, 1])?;
        let weighted = p.mul(square, u)?;
        let weighted = p.reshape(weighted, &[samples * t, sums * size])?;
        let k = p.reshape(k, &[samples * t])?;
        let z = table(p, k, weighted, dim)?;
        let z = p.reshape(z, &[dim, sums, size])?;
        let z = p.transpose(z, &[1, 0, 2])?;
        Ok(vec![Some(p.reshape(z, &[&[sums, dim], &rest[..]].concat())?)])
    },
    cases: || cases("GatherGradApartSquared", Some(2)),
};

fn cases(name: &str, sums: Option<usize>) -> Vec<Case> {
    let case = |what: &str, k: &[usize], v: &[i64], dy: &[usize], dim: i64| {
        let indices = Array::from_vec(k, v.to_vec()).unwrap_or_else(|_| Array::ints(&[]));
        let mut case = Case::new(&format!("{name} {what}"), &[])
            .arg(Arg::Fed(indices, DType::I64))
            .arg(Arg::Float(dy.to_vec(), Sampler::within(-2.0, 2.0)))
            .attr("dim", dim)
            .no_gradient("second derivatives are not taken");
        if let Some(s) = sums {
            case = case.arg(Arg::Float(vec![s, k[0]], Sampler::within(0.1, 2.0)));
        }
        case
    };
    vec![
        case("repeated", &[3, 4], &[0, 3, 3, 1, 1, 1, 1, 1, 4, -2, 3, 0], &[3, 4, 2], 5),
        case("no table entry", &[2, 3], &[1, 0, 1, 1, 1, 0], &[2, 3], 2),
        case("several axes", &[1, 2], &[6, -1], &[1, 2, 3, 2], 7),
    ]
}

/// The gradient of a table of shape `shape` that is read along `axis` at indices that depend on the samples, as
/// `[samples, …shape]`.
pub(super) fn apart(b: &mut Vjp, shape: &[usize], axis: usize) -> Result<ValueId> {
    let (k, dy, n) = (b.x(1)?, b.dy()?, b.samples());
    let ks = b.shape(k);
    let Batch::Axis { axis: at, rows } = b.graph().value(k).batch else {
        return Err(b.needs_singles("the samples cannot be found in the indices"));
    };
    // indices as [before, n, rows, after]: the samples come first, everything else is one axis
    let size = |s: &[usize]| -> usize { s.iter().product() };
    let split = [size(&ks[..at]), n, rows, size(&ks[at + 1..])];
    let t = split[0] * split[2] * split[3];
    let (outer, inner) = (size(&shape[..axis]), &shape[axis + 1..]);
    let (mut k, mut dy) = (k, dy);
    if outer * split[0] != 1 {
        k = b.reshape(k, &split)?;
        k = b.transpose(k, &[1, 0, 2, 3])?;
        dy = b.reshape(dy, &[outer, split[0], split[1], split[2], split[3], size(inner)])?;
        dy = b.transpose(dy, &[2, 1, 3, 4, 0, 5])?;
    }
    k = b.reshape(k, &[n, t])?;
    let entry = [&shape[..axis], inner].concat();
    dy = b.reshape(dy, &[&[n, t], &entry[..]].concat())?;
    for v in [k, dy] {
        b.graph().value_mut(v).batch = Batch::LEADING;
    }
    let dim = dims(&[shape[axis]])[0];
    let dx = b.emit("GatherGradApart", &[k, dy], Attrs::new().with("dim", dim))?;
    // [n, dim, …] to [n, …, dim, …]
    let mut perm: Vec<usize> = (0..=shape.len()).collect();
    let from = perm.remove(1);
    perm.insert(axis + 1, from);
    let dx = b.transpose(dx, &perm)?;
    b.graph().value_mut(dx).batch = Batch::LEADING;
    Ok(dx)
}

pub(super) static OPS: &[&dyn Op] = &[&GatherGradApart, &SQUARED];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fused_square_is_that_of_the_tables() {
        let mut g = Graph::new(0);
        let k = g.constant(Array::from_vec::<i64>(&[2, 4], vec![5, 1, -4, 1, 2, 2, 2, 0]).unwrap());
        let dy =
            g.constant(Array::from_vec::<f64>(&[2, 4, 3], (0..24).map(|i| f64::from(i * 7 % 11)).collect()).unwrap());
        let u = g.constant(Array::from_vec::<f64>(&[2, 2], vec![0.5, 2.0, 1.0, 0.0]).unwrap());
        let attrs = Attrs::new().with("dim", 6);
        let apart = g.push("GatherGradApart", &[k, dy], attrs.clone()).unwrap();
        let plain = g.push("WeightedSquareSum", &[apart, u], Attrs::new()).unwrap();
        let fused = g.push("GatherGradApartSquared", &[k, dy, u], attrs.clone()).unwrap();
        assert_eq!(g.constant_of(plain), g.constant_of(fused));
        let lowered = GatherGradApart.lower(&mut g, &[Some(k), Some(dy)], &attrs).unwrap().unwrap()[0];
        assert_eq!(g.constant_of(apart), g.constant_of(lowered));
    }
}
