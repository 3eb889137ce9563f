//! Undoing broadcasts: brings a rule's gradient into the shape of the input it belongs to.

use crate::error::{Error, Kind, Result};
use crate::graph::{Attrs, Batch, Graph, ValueId};
use crate::ops::{Dx, reduce_sum, reshape, transpose};

/// The gradient `dx` in `shape`, or in `[samples, …shape]` when the samples stay apart.
pub(super) fn settle(g: &mut Graph, dx: Dx, shape: &[usize], apart: bool) -> Result<ValueId> {
    let n = g.batch;
    match (dx, apart) {
        (Dx::Exact(v), false) => same(g, v, shape),
        (Dx::Exact(_), true) => Err(Error::new(Kind::NeedsSingles, "the rule sums over the samples")),
        (Dx::Apart(v), true) => same(g, v, &[&[n], shape].concat()),
        (Dx::Apart(v), false) => {
            let sum = reduce_sum(g, v, &[0], false)?;
            same(g, sum, shape)
        }
        (Dx::Broadcast(v), false) => unbroadcast(g, v, 0, shape),
        (Dx::Broadcast(v), true) => {
            let v = samples_first(g, v)?;
            unbroadcast(g, v, 1, &[&[n], shape].concat())
        }
        (Dx::Along(v, axis), false) => along(g, v, &[axis], shape),
        (Dx::Along(v, axis), true) => {
            let v = samples_first(g, v)?;
            along(g, v, &[0, axis + 1], &[&[n], shape].concat())
        }
    }
}

fn same(g: &Graph, v: ValueId, shape: &[usize]) -> Result<ValueId> {
    if g.shape(v) == shape {
        return Ok(v);
    }
    Err(Error::internal(format!("a gradient has shape {:?}, its value {shape:?}", g.shape(v))))
}

/// `[…, n·rows, …]` as `[n, …, rows, …]`: one more axis, in front.
fn samples_first(g: &mut Graph, v: ValueId) -> Result<ValueId> {
    let Batch::Axis { axis, rows } = g.value(v).batch else {
        return Err(Error::new(Kind::NeedsSingles, "the samples cannot be found in a gradient"));
    };
    let t = g.shape(v).to_vec();
    let n = g.batch;
    let split = [&t[..axis], &[n, rows], &t[axis + 1..]].concat();
    let v = reshape(g, v, &split)?;
    let mut perm: Vec<usize> = (0..split.len()).collect();
    perm.remove(axis);
    perm.insert(0, axis);
    transpose(g, v, &perm)
}

/// Sums the axes along which `shape` was stretched; the first `keep` axes of both stay as they are.
fn unbroadcast(g: &mut Graph, v: ValueId, keep: usize, shape: &[usize]) -> Result<ValueId> {
    let t = g.shape(v).to_vec();
    if t.len() < shape.len() {
        return expand(g, v, shape);
    }
    let lead = t.len() - shape.len();
    let axes: Vec<usize> =
        (keep..t.len()).filter(|&i| i < keep + lead || (shape[i - lead] == 1 && t[i] != 1)).collect();
    let sum = reduce_sum(g, v, &axes, true)?;
    let now: Vec<usize> = [&t[..keep], &g.shape(sum)[keep + lead..]].concat();
    let sum = reshape(g, sum, &now)?;
    if now == shape { Ok(sum) } else { expand(g, sum, shape) }
}

fn expand(g: &mut Graph, v: ValueId, shape: &[usize]) -> Result<ValueId> {
    let dims: Vec<i64> = shape.iter().map(|&d| i64::try_from(d).unwrap_or(i64::MAX)).collect();
    let dims = g.ints(&dims);
    let v = g.push("Expand", &[v, dims], Attrs::new())?;
    same(g, v, shape)
}

fn along(g: &mut Graph, v: ValueId, kept: &[usize], shape: &[usize]) -> Result<ValueId> {
    let axes: Vec<usize> = (0..g.shape(v).len()).filter(|a| !kept.contains(a)).collect();
    let sum = reduce_sum(g, v, &axes, false)?;
    reshape(g, sum, shape)
}
