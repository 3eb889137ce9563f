//! The one way in which elements are moved: between two strided views of the same extents.

use super::support::{PARALLEL, strides};
use super::{Bind, Kernel, Params, Step, grid_1d};
use crate::each_type;
use crate::error::{Error, Result};
use crate::tensor::{Array, Element};
use rayon::prelude::*;

/// Where one side of a copy lies in its buffer, in elements.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Side {
    pub(super) offset: usize,
    pub(super) strides: Vec<isize>,
}

impl Side {
    /// A whole tensor in row-major order.
    pub(super) fn whole(shape: &[usize]) -> Self {
        Self { offset: 0, strides: strides(shape).into_iter().map(usize::cast_signed).collect() }
    }
}

/// `dst[dst.offset + Σ_d i_d · dst.strides_d] = src[src.offset + Σ_d i_d · src.strides_d]` for every index
/// below `shape`. No element of `dst` is written twice.
#[derive(Clone, Debug)]
pub(super) struct Copy {
    shape: Vec<usize>,
    src: Side,
    dst: Side,
}

/// Side of the square in which two axes are walked when neither side is read or written in a row.
const TILE: usize = 32;

impl Copy {
    /// The copy over `shape`, with axes joined where both sides run through them in one step.
    pub(super) fn new(shape: &[usize], src: &Side, dst: &Side) -> Self {
        let mut c = Self {
            shape: Vec::new(),
            src: Side { offset: src.offset, strides: Vec::new() },
            dst: Side { offset: dst.offset, strides: Vec::new() },
        };
        if shape.contains(&0) {
            c.push(0, 1, 1);
            return c;
        }
        for (i, &extent) in shape.iter().enumerate().filter(|(_, e)| **e != 1) {
            let (s, d) = (src.strides[i], dst.strides[i]);
            let e = extent.cast_signed();
            let joins = c.src.strides.last() == Some(&(s * e)) && c.dst.strides.last() == Some(&(d * e));
            match c.shape.last_mut().filter(|_| joins) {
                Some(outer) => {
                    *outer *= extent;
                    let last = c.src.strides.len() - 1;
                    c.src.strides[last] = s;
                    c.dst.strides[last] = d;
                }
                None => c.push(extent, s, d),
            }
        }
        c
    }
    fn push(&mut self, extent: usize, s: isize, d: isize) {
        self.shape.push(extent);
        self.src.strides.push(s);
        self.dst.strides.push(d);
    }
    /// The copy into a whole new tensor of this shape.
    pub(super) fn into_whole(shape: &[usize], src: &Side) -> Self {
        Self::new(shape, src, &Side::whole(shape))
    }
    fn len(&self) -> usize {
        self.shape.iter().product()
    }
    /// True when elements keep their places.
    fn is_plain(&self) -> bool {
        let one = |s: &Side| s.offset == 0 && s.strides.iter().all(|&s| s == 1);
        self.shape.len() <= 1 && one(&self.src) && one(&self.dst)
    }

    /// Fills a new array of `shape` with this copy, which has to reach all of it.
    pub(super) fn array(&self, x: &Array, shape: &[usize]) -> Result<Array> {
        if self.is_plain() && self.len() == x.len() {
            return x.reshaped(shape);
        }
        fn go<T: Element>(c: &Copy, x: &Array, shape: &[usize]) -> Result<Array> {
            let mut y = vec![T::default(); shape.iter().product()];
            c.run(x.slice::<T>()?, &mut y);
            Array::from_vec(shape, y)
        }
        match x {
            Array::F32(_) => go::<f32>(self, x, shape),
            Array::F64(_) => go::<f64>(self, x, shape),
            Array::I64(_) => go::<i64>(self, x, shape),
            Array::Bool(_) => go::<bool>(self, x, shape),
        }
    }
    /// Copies from `x` into the array `y` of the same element type.
    pub(super) fn write(&self, x: &Array, y: &mut Array) -> Result<()> {
        fn go<T: Element>(c: &Copy, x: &[T], y: &mut Array) -> Result<()> {
            c.run(x, y.slice_mut::<T>()?);
            Ok(())
        }
        each_type!(x, a => go(self, a.as_slice().ok_or_else(|| Error::internal("array is not in row-major order"))?, y))
    }
    /// Copies from one buffer to another.
    pub(super) fn run<T: Element>(&self, src: &[T], dst: &mut [T]) {
        if self.len() == 0 {
            return;
        }
        let rows = self.shape.first().copied().unwrap_or(1);
        let gapless = self.dst == (Side { offset: 0, ..Side::whole(&self.shape) });
        if !gapless || self.len() < 2 * PARALLEL || rows < 2 {
            self.walk(src, dst, 0, rows);
            return;
        }
        let row = self.len() / rows;
        let most = PARALLEL.div_ceil(row).min(rows.div_ceil(2));
        // the destination may go on behind what is copied
        dst[..self.len()].par_chunks_mut(most * row).enumerate().for_each(|(k, part)| {
            self.walk(src, part, k * most, part.len() / row);
        });
    }
    /// Copies rows `first…first + rows` of the outermost axis; `dst` starts with the first of them.
    fn walk<T: Element>(&self, src: &[T], dst: &mut [T], first: usize, rows: usize) {
        let mut axes: Vec<(usize, isize, isize)> =
            (0..self.shape.len()).map(|a| (self.shape[a], self.src.strides[a], self.dst.strides[a])).collect();
        let mut from = self.src.offset.cast_signed();
        if let Some(outer) = axes.first_mut() {
            outer.0 = rows;
            from += first.cast_signed() * outer.1;
        }
        let (q, sq, dq) = axes.pop().unwrap_or((1, 1, 1));
        // the axis in which the source runs through memory becomes the inner one but one
        if sq.abs() > 1
            && let Some(near) = (0..axes.len()).min_by_key(|&a| axes[a].1.unsigned_abs())
        {
            let axis = axes.remove(near);
            axes.push(axis);
        }
        let (p, sp, dp) = axes.pop().unwrap_or((1, 0, 0));
        let mut to = self.dst.offset.cast_signed();
        let mut index = vec![0usize; axes.len()];
        loop {
            let at = |base: isize, step: isize, i: usize| (base + step * i.cast_signed()).cast_unsigned();
            if dq == 1 && (sq == 1 || sq == 0) {
                for i in 0..p {
                    let (s, d) = (at(from, sp, i), at(to, dp, i));
                    if sq == 1 {
                        dst[d..d + q].copy_from_slice(&src[s..s + q]);
                    } else {
                        dst[d..d + q].fill(src[s]);
                    }
                }
            } else {
                for i0 in (0..p).step_by(TILE) {
                    for j0 in (0..q).step_by(TILE) {
                        for i in i0..(i0 + TILE).min(p) {
                            let (s, d) = (from + sp * i.cast_signed(), to + dp * i.cast_signed());
                            for j in j0..(j0 + TILE).min(q) {
                                dst[at(d, dq, j)] = src[at(s, sq, j)];
                            }
                        }
                    }
                }
            }
            // the next index of the outer axes
            let mut axis = axes.len();
            loop {
                let Some(a) = axis.checked_sub(1) else { return };
                axis = a;
                let (extent, s, d) = axes[a];
                index[a] += 1;
                from += s;
                to += d;
                if index[a] < extent {
                    break;
                }
                from -= s * extent.cast_signed();
                to -= d * extent.cast_signed();
                index[a] = 0;
            }
        }
    }

    /// The dispatch that copies from `src` to `dst`; `None` when there is nothing to copy.
    pub(super) fn step(&self, src: Bind, dst: Bind) -> Result<Option<Step>> {
        if self.len() == 0 {
            return Ok(None);
        }
        if self.shape.len() > 8 {
            return Err(Error::unsupported(format!("moving elements along {} axes has no kernel", self.shape.len())));
        }
        let list = |s: &Side| s.strides.iter().map(|&s| s as i64).collect::<Vec<_>>();
        Ok(Some(Step {
            shader: crate::shader!("copy"),
            overrides: Vec::new(),
            binds: vec![src, dst],
            params: Params::new()
                .u("n", self.len())
                .u("rank", self.shape.len())
                .i("src_offset", self.src.offset as i64)
                .i("dst_offset", self.dst.offset as i64)
                .list::<8>("shape", &self.shape, 1)
                .list_i::<8>("src_strides", &list(&self.src))
                .list_i::<8>("dst_strides", &list(&self.dst)),
            grid: grid_1d(self.len()),
        }))
    }
    /// The kernel of an op whose only output is this copy of input 0, of `len` elements.
    pub(super) fn kernel(&self, len: usize) -> Result<Kernel> {
        if self.is_plain() && self.len() == len {
            return Ok(Kernel::Alias);
        }
        Ok(Kernel::many(self.step(Bind::Input(0), Bind::Output(0))?.into_iter().collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What follows in a larger destination stays as it is, also where several threads copy.
    #[test]
    fn a_large_copy_ends_with_its_source() {
        let n = 2 * PARALLEL + 1;
        let copy = Copy::new(&[1, n], &Side::whole(&[1, n]), &Side::whole(&[1, 2 * n]));
        let mut dst = vec![0; 2 * n];
        copy.run(&vec![7; n], &mut dst);
        assert!(dst[..n].iter().all(|&v| v == 7) && dst[n..].iter().all(|&v| v == 0));
    }
}
