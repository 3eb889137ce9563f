//! Small helpers that op files share.

use crate::error::{Error, Result};
use crate::tensor::{Array, Element};
use rayon::prelude::*;

/// Elements below which a loop is not worth handing to other threads.
pub(crate) const PARALLEL: usize = 1 << 15;

/// Runs `$body` with `$t` naming `f32` or `f64`, whichever `$array` holds.
macro_rules! float_type {
    ($array:expr, $t:ident => $body:expr) => {
        match $array {
            crate::tensor::Array::F32(_) => {
                type $t = f32;
                $body
            }
            crate::tensor::Array::F64(_) => {
                type $t = f64;
                $body
            }
            other => Err(crate::error::Error::unsupported(format!(
                "elements of type {} where floats are needed",
                other.dtype()
            ))),
        }
    };
}
pub(crate) use float_type;

/// Extents and element strides of a row-major shape.
pub(crate) fn strides(shape: &[usize]) -> Vec<usize> {
    let mut s = vec![1; shape.len()];
    for i in (0..shape.len().saturating_sub(1)).rev() {
        s[i] = s[i + 1] * shape[i + 1];
    }
    s
}

/// The shape that several shapes broadcast to.
///
/// # Errors
/// When they do not.
pub(crate) fn broadcast(shapes: &[&[usize]]) -> Result<Vec<usize>> {
    let rank = shapes.iter().map(|s| s.len()).max().unwrap_or(0);
    let mut out = vec![1; rank];
    for s in shapes {
        for (o, &d) in out[rank - s.len()..].iter_mut().zip(*s) {
            if *o == 1 {
                *o = d;
            } else if d != 1 && d != *o {
                return Err(Error::format(format!("shapes {shapes:?} do not broadcast")));
            }
        }
    }
    Ok(out)
}

/// Strides of `shape` inside `out`, aligned from the right, 0 where it is stretched.
pub(crate) fn broadcast_strides(shape: &[usize], out: &[usize]) -> Vec<usize> {
    let mut s = vec![0; out.len()];
    let lead = out.len() - shape.len();
    for (i, st) in strides(shape).into_iter().enumerate() {
        s[lead + i] = if shape[i] == 1 { 0 } else { st };
    }
    s
}

/// Calls `f(out_offset, input_offsets, run, input_steps)` for every innermost row of `out`, where input
/// `k` moves by `input_steps[k]` (0 or its innermost stride) per element of the row.
pub(crate) fn rows<const K: usize>(out: &[usize], strides: [&[usize]; K], mut f: impl FnMut(usize, [usize; K])) {
    let Some((&run, outer)) = out.split_last() else {
        f(0, [0; K]);
        return;
    };
    let count: usize = outer.iter().product();
    let mut index = vec![0usize; outer.len()];
    let mut at = [0usize; K];
    for row in 0..count {
        f(row * run, at);
        for axis in (0..outer.len()).rev() {
            index[axis] += 1;
            for k in 0..K {
                at[k] += strides[k][axis];
            }
            if index[axis] < outer[axis] {
                break;
            }
            for k in 0..K {
                at[k] -= strides[k][axis] * outer[axis];
            }
            index[axis] = 0;
        }
    }
}

/// `out[i] = f(a[i], b[i])` with broadcasting to `shape`.
///
/// # Errors
/// When an array holds another type.
pub(crate) fn zip_map<A: Element, B: Element, O: Element>(
    a: &Array,
    b: &Array,
    shape: &[usize],
    f: impl Fn(A, B) -> O + Sync,
) -> Result<Array> {
    let (x, y) = (a.slice::<A>()?, b.slice::<B>()?);
    let n: usize = shape.iter().product();
    if n == 0 {
        return Array::from_vec::<O>(shape, Vec::new());
    }
    let mut out = vec![O::default(); n];
    if a.shape() == shape && b.shape() == shape {
        out.par_iter_mut().with_min_len(PARALLEL).zip(x).zip(y).for_each(|((o, &p), &q)| *o = f(p, q));
    } else if b.len() == 1 && a.shape() == shape {
        let q = y[0];
        out.par_iter_mut().with_min_len(PARALLEL).zip(x).for_each(|(o, &p)| *o = f(p, q));
    } else {
        let (sa, sb) = (broadcast_strides(a.shape(), shape), broadcast_strides(b.shape(), shape));
        let run = shape.last().copied().unwrap_or(1);
        let (ia, ib) = (sa.last().copied().unwrap_or(0), sb.last().copied().unwrap_or(0));
        rows(shape, [&sa, &sb], |o, [p, q]| {
            let row = &mut out[o..o + run];
            match (ia, ib) {
                (0, 0) => row.fill(f(x[p], y[q])),
                (0, _) => row.iter_mut().zip(&y[q..q + run]).for_each(|(o, &v)| *o = f(x[p], v)),
                (_, 0) => row.iter_mut().zip(&x[p..p + run]).for_each(|(o, &v)| *o = f(v, y[q])),
                _ => row.iter_mut().zip(&x[p..p + run]).zip(&y[q..q + run]).for_each(|((o, &u), &v)| *o = f(u, v)),
            }
        });
    }
    Array::from_vec(shape, out)
}

/// The input that has to be there.
///
/// # Errors
/// When it was left out.
pub(crate) fn given<'a>(x: &[Option<&'a Array>], i: usize) -> Result<&'a Array> {
    x.get(i).copied().flatten().ok_or_else(|| Error::format(format!("input {i} is missing")))
}
