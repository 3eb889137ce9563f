//! Gather and scatter by several indices at once: <https://onnx.ai/onnx/operators/>. They become one index
//! each, into a tensor whose indexed axes are joined.

use super::composite::{Composite, Parts};
use super::layout::dims;
use super::support::strides;
use super::{Arg, Case, Op, Sampler, Spec};
use crate::error::{Error, Result};
use crate::graph::{Attrs, ValueId};
use crate::tensor::{Array, DType};

/// `Σ_d indices[…, d] · stride_d`, where the last axis of the indices runs over axes of these extents.
fn joined(p: &mut Parts, k: ValueId, extents: &[usize]) -> Result<ValueId> {
    if let Some(known) = p.graph().constant_of(k) {
        let v = known.to_i64()?;
        let out = |(i, &v): (usize, &i64)| {
            let d = dims(&extents[i % extents.len()..][..1])[0];
            v < -d || v >= d
        };
        if let Some((i, v)) = v.iter().enumerate().find(|&e| out(e)) {
            let d = extents[i % extents.len()];
            return Err(Error::invalid(format!("index {v} is out of range for an axis of extent {d}")));
        }
    }
    let dtype = p.dtype(k);
    if !matches!(dtype, DType::I32 | DType::I64) {
        return Err(Error::format(format!("indices are {dtype}, int32 or int64 is needed")));
    }
    let zero = p.number_like(0, k);
    let size = p.int_constant(&[extents.len()], dims(extents), dtype)?;
    let step = p.int_constant(&[extents.len()], dims(&strides(extents)), dtype)?;
    let negative = p.op("Less", &[k, zero])?;
    let from_end = p.add(k, size)?;
    let k = p.choose(negative, from_end, k)?;
    let k = p.mul(k, step)?;
    let last = p.shape(k).len() - 1;
    p.reduce_sum(k, &[last], false)
}

/// <https://onnx.ai/onnx/operators/onnx__GatherND.html>
static GATHER_ND: Composite = Composite {
    spec: Spec::new("GatherND", 13, (2, 2)),
    write: |p| {
        let (x, k) = (p.x(0)?, p.x(1)?);
        let (xs, ks) = (p.shape(x), p.shape(k));
        let given = p.view().int("batch_dims", 0)?;
        let b = usize::try_from(given).unwrap_or(usize::MAX);
        let wrong =
            || Error::format(format!("indices of shape {ks:?} with batch_dims = {given} do not fit shape {xs:?}"));
        let (&m, outer) = ks.split_last().ok_or_else(wrong)?;
        if b > outer.len() || b >= xs.len() || m == 0 || m > xs.len() - b || outer[..b] != xs[..b] {
            return Err(wrong());
        }
        let (indexed, rest) = xs[b..].split_at(m);
        let extent: usize = indexed.iter().product();
        let k = joined(p, k, indexed)?;
        if b == 0 {
            let x = p.reshape(x, &[&[extent], rest].concat())?;
            return Ok(vec![Some(p.gather(x, k, 0)?)]);
        }
        let size = |s: &[usize]| -> usize { s.iter().product() };
        let (batch, each, inner) = (size(&xs[..b]), size(&outer[b..]), size(rest));
        let x = p.reshape(x, &[batch, extent, inner])?;
        let k = p.reshape(k, &[batch, each, 1])?;
        let k = p.expand(k, &[batch, each, inner])?;
        let y = p.emit("GatherElements", &[x, k], Attrs::new().with("axis", 1))?;
        Ok(vec![Some(p.reshape(y, &[outer, rest].concat())?)])
    },
    cases: || {
        let case = |name: &str, x: &[usize], k: &[usize], v: &[i64]| {
            Case::new(&format!("GatherND {name}"), &[x]).arg(indices(k, v))
        };
        vec![
            case("elements", &[3, 4], &[3, 2], &[0, 0, 2, -1, -3, 3]),
            case("rows", &[3, 4], &[2, 1], &[2, -3]),
            case("rows of many", &[2, 3, 4, 2], &[2, 2, 2], &[0, 0, 1, 2, 1, 2, -1, -2]),
            case("batch", &[2, 3, 4], &[2, 2, 1], &[2, -3, 1, 1]).attr("batch_dims", 1),
            case("batch, two indices", &[2, 3, 4], &[2, 2], &[2, 0, -1, -4]).attr("batch_dims", 1),
            case("two batch axes", &[2, 2, 3, 2], &[2, 2, 1], &[2, 0, -1, 1]).attr("batch_dims", 2),
        ]
    },
};

/// <https://onnx.ai/onnx/operators/onnx__ScatterND.html>
static SCATTER_ND: Composite = Composite {
    spec: Spec::new("ScatterND", 18, (3, 3)),
    write: |p| {
        let (x, k, u) = (p.x(0)?, p.x(1)?, p.x(2)?);
        let (xs, ks, us) = (p.shape(x), p.shape(k), p.shape(u));
        let wrong = || Error::format(format!("indices of shape {ks:?} and updates of {us:?} do not fit shape {xs:?}"));
        let (&m, outer) = ks.split_last().ok_or_else(wrong)?;
        if m == 0 || m > xs.len() || us != [outer, &xs[m..]].concat() {
            return Err(wrong());
        }
        let (indexed, rest) = xs.split_at(m);
        let size = |s: &[usize]| -> usize { s.iter().product() };
        let (extent, each, inner) = (size(indexed), size(outer), size(rest));
        let k = joined(p, k, indexed)?;
        let k = p.reshape(k, &[each, 1])?;
        let k = p.expand(k, &[each, inner])?;
        let (flat, u) = (p.reshape(x, &[extent, inner])?, p.reshape(u, &[each, inner])?);
        let reduction = p.view().string("reduction", "none")?.to_owned();
        let attrs = Attrs::new().with("axis", 0).with("reduction", reduction.as_str());
        let y = p.emit("ScatterElements", &[flat, k, u], attrs)?;
        Ok(vec![Some(p.reshape(y, &xs)?)])
    },
    cases: || {
        let case = |name: &str, x: &[usize], k: &[usize], v: &[i64], u: &[usize]| {
            Case::new(&format!("ScatterND {name}"), &[x])
                .arg(indices(k, v))
                .arg(Arg::Float(u.to_vec(), Sampler::within(-2.0, 2.0)))
        };
        vec![
            case("elements", &[3, 4], &[3, 2], &[0, 0, 2, -1, -2, 3], &[3]),
            case("rows", &[4, 3], &[2, 1], &[2, -4], &[2, 3]),
            case("add repeated", &[4, 3], &[2, 2, 1], &[2, 0, 2, -4], &[2, 2, 3]).attr("reduction", "add"),
            case("mul", &[3, 2], &[3, 1], &[2, 0, 2], &[3, 2]).attr("reduction", "mul"),
            case("max", &[3, 2], &[3, 1], &[2, 0, 2], &[3, 2]).attr("reduction", "max"),
            case("min", &[3, 2, 2], &[2, 2], &[2, 0, 1, -1], &[2, 2]).attr("reduction", "min"),
        ]
    },
};

/// <https://onnx.ai/onnx/operators/onnx__TensorScatter.html>: a cache with consecutive entries replaced, from a
/// place of its own in each sequence.
static TENSOR_SCATTER: Composite = Composite {
    spec: Spec::new("TensorScatter", 24, (2, 3)),
    write: |p| {
        let (x, u) = (p.x(0)?, p.x(1)?);
        let (xs, us) = (p.shape(x), p.shape(u));
        let axis = p.view().axis(p.view().int("axis", -2)?, xs.len())?;
        let fits = us.len() == xs.len() && (0..xs.len()).all(|a| us[a] == xs[a] || (a == axis && us[a] <= xs[a]));
        if axis == 0 || !fits {
            return Err(Error::format(format!("updates of shape {us:?} do not fit shape {xs:?} on axis {axis}")));
        }
        let mut along = vec![1; xs.len()];
        along[axis] = us[axis];
        let mut k = p.int_constant(&along, dims(&(0..us[axis]).collect::<Vec<_>>()), DType::I64)?;
        if let Some(first) = p.optional_x(2) {
            along[axis] = 1;
            along[0] = xs[0];
            let first = p.reshape(first, &along)?;
            k = p.add(k, first)?;
        }
        match p.view().string("mode", "linear")? {
            "linear" => {}
            "circular" => {
                // what reaches beyond the end goes on at the front; no write is longer than the axis
                let size = p.number_like(dims(&[xs[axis]])[0], k);
                let inside = p.op("Less", &[k, size])?;
                let front = p.sub(k, size)?;
                k = p.choose(inside, k, front)?;
            }
            other => return Err(p.view().unsupported("mode", other)),
        }
        let k = p.expand(k, &us)?;
        let axis = dims(&[axis])[0];
        Ok(vec![Some(p.emit("ScatterElements", &[x, k, u], Attrs::new().with("axis", axis))?)])
    },
    cases: || {
        vec![
            Case::new("TensorScatter", &[&[2, 5, 3], &[2, 2, 3]]).arg(indices(&[2], &[1, 3])),
            Case::new("TensorScatter circular", &[&[2, 3, 5, 2], &[2, 3, 2, 2]])
                .arg(indices(&[2], &[4, 2]))
                .attr("mode", "circular"),
            Case::new("TensorScatter from the start", &[&[2, 2, 4], &[2, 2, 3]]).attr("axis", -1),
        ]
    },
};

fn indices(shape: &[usize], v: &[i64]) -> Arg {
    Arg::Fed(Array::from_vec(shape, v.to_vec()).unwrap_or_else(|_| Array::ints(&[])), DType::I64)
}

pub(super) static OPS: &[&dyn Op] = &[&GATHER_ND, &SCATTER_ND, &TENSOR_SCATTER];
