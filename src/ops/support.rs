//! Small helpers that op files share.

use crate::error::{Error, Result};
use crate::tensor::{Array, Element};
use rayon::prelude::*;
use std::mem::MaybeUninit;

/// Elements below which a loop is not worth handing to other threads.
pub(crate) const PARALLEL: usize = 1 << 15;
/// Rows of at least so many elements may go to different threads.
const LONG_ROW: usize = 16;

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

/// `n` elements that `write` writes, and nobody before.
///
/// # Safety
/// `write` has to write all of them.
pub(crate) unsafe fn written<T>(n: usize, write: impl FnOnce(&mut [MaybeUninit<T>])) -> Vec<T> {
    let mut out = Vec::with_capacity(n);
    write(&mut out.spare_capacity_mut()[..n]);
    // SAFETY: the elements fit the capacity, and the caller says that they are written.
    unsafe { out.set_len(n) };
    out
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
    // SAFETY: every branch writes all `n` elements: operands of this shape have as many, and rows of `run` elements make up
    // the whole.
    let out = unsafe { written(n, |cells| zip_into((a, x), (b, y), shape, cells, f)) };
    Array::from_vec(shape, out)
}

/// Writes all of [`zip_map`], which is not empty.
fn zip_into<A: Element, B: Element, O: Element>(
    (a, x): (&Array, &[A]),
    (b, y): (&Array, &[B]),
    shape: &[usize],
    cells: &mut [MaybeUninit<O>],
    f: impl Fn(A, B) -> O + Sync,
) {
    let n = cells.len();
    if a.shape() == shape && b.shape() == shape {
        cells.par_iter_mut().with_min_len(PARALLEL).zip(x).zip(y).for_each(|((o, &p), &q)| _ = o.write(f(p, q)));
    } else if b.len() == 1 && a.shape() == shape {
        let q = y[0];
        cells.par_iter_mut().with_min_len(PARALLEL).zip(x).for_each(|(o, &p)| _ = o.write(f(p, q)));
    } else {
        let (sa, sb) = (broadcast_strides(a.shape(), shape), broadcast_strides(b.shape(), shape));
        let run = shape.last().copied().unwrap_or(1);
        let steps = (sa.last().copied().unwrap_or(0), sb.last().copied().unwrap_or(0));
        let row = |row: &mut [MaybeUninit<O>], [p, q]: [usize; 2]| match steps {
            (0, 0) => {
                let v = f(x[p], y[q]);
                row.iter_mut().for_each(|o| _ = o.write(v));
            }
            (0, _) => row.iter_mut().zip(&y[q..q + run]).for_each(|(o, &v)| _ = o.write(f(x[p], v))),
            (_, 0) => row.iter_mut().zip(&x[p..p + run]).for_each(|(o, &v)| _ = o.write(f(v, y[q]))),
            _ => {
                let of = x[p..p + run].iter().zip(&y[q..q + run]);
                row.iter_mut().zip(of).for_each(|(o, (&u, &v))| _ = o.write(f(u, v)));
            }
        };
        if n >= 2 * PARALLEL && run >= LONG_ROW {
            let mut starts = Vec::with_capacity(n / run);
            rows(shape, [&sa, &sb], |_, at| starts.push(at));
            let cells = cells.par_chunks_exact_mut(run).with_min_len(PARALLEL / run + 1);
            cells.zip(starts).for_each(|(cells, at)| row(cells, at));
        } else {
            rows(shape, [&sa, &sb], |o, at| row(&mut cells[o..o + run], at));
        }
    }
}

/// The input that has to be there.
///
/// # Errors
/// When it was left out.
pub(crate) fn given<'a>(x: &[Option<&'a Array>], i: usize) -> Result<&'a Array> {
    x.get(i).copied().flatten().ok_or_else(|| Error::format(format!("input {i} is missing")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_that_go_to_several_threads_are_those_of_one() -> Result<()> {
        let (outer, inner) = (2 * PARALLEL / 48 + 5, [2, 24]);
        let shape = [outer, inner[0], inner[1]];
        let of = |shape: &[usize], k: f64| {
            Array::from_vec(shape, (0..shape.iter().product()).map(|i: usize| (i as f64 * k).sin()).collect())
        };
        for b in [&[24][..], &[outer, 1, 24], &[2, 1], &[outer, 1, 1], &[1, 1, 1]] {
            for (x, y) in [(of(&shape, 0.7)?, of(b, 1.3)?), (of(b, 0.9)?, of(&shape, 1.1)?)] {
                let got = zip_map(&x, &y, &shape, |p: f64, q: f64| p - 2.0 * q)?;
                let (sx, sy) = (broadcast_strides(x.shape(), &shape), broadcast_strides(y.shape(), &shape));
                let (xs, ys) = (x.slice::<f64>()?, y.slice::<f64>()?);
                for (i, &got) in got.slice::<f64>()?.iter().enumerate() {
                    let index = [i / 48, i / 24 % 2, i % 24];
                    let at = |s: &[usize]| index.iter().zip(s).map(|(i, s)| i * s).sum::<usize>();
                    assert_eq!(got.to_bits(), (xs[at(&sx)] - 2.0 * ys[at(&sy)]).to_bits(), "{b:?} {i}");
                }
            }
        }
        Ok(())
    }
}
