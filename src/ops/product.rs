//! The work of a product of matrices, which several ops are.

use super::block::TILE;
use super::linalg::{Mat, Real, gemm_into};
use super::support::{broadcast, broadcast_strides, rows, written};
use super::{Bind, Kernel, Params, Step, grid_1d};
use crate::error::{Error, Result};
use crate::tensor::Array;
use rayon::prelude::*;
use std::mem::MaybeUninit;

/// Sums of at least so many products are cut into parts where fewer than [`FEW`] workgroups would share them.
const LONG: usize = 1 << 16;
const FEW: usize = 16;

/// A part has at least so many products, and there are at most [`MOST_PARTS`].
const PART: usize = 1 << 12;
const MOST_PARTS: usize = 1 << 10;

/// A batched product `y[b] = alpha · a[b] · b[b] (+ beta · c)`: extents and strides, which both the
/// reference and the kernel follow.
pub(super) struct Product {
    batch: Vec<usize>,
    pub(super) m: usize,
    pub(super) n: usize,
    k: usize,
    a_batch: Vec<usize>,
    b_batch: Vec<usize>,
    /// Row and column strides.
    pub(super) a: [usize; 2],
    pub(super) b: [usize; 2],
}

impl Product {
    pub(super) fn new(a: &[usize], b: &[usize]) -> Result<Self> {
        let ([a_outer @ .., m, k], [b_outer @ .., kb, n]) = (a, b) else {
            return Err(Error::format(format!("shapes {a:?} and {b:?} are no matrices")));
        };
        if k != kb {
            return Err(Error::format(format!("shapes {a:?} and {b:?} do not fit: {k} columns, {kb} rows")));
        }
        let batch = broadcast(&[a_outer, b_outer])?;
        let over = |outer: &[usize], each: usize| -> Vec<usize> {
            broadcast_strides(outer, &batch).into_iter().map(|s| s * each).collect()
        };
        Ok(Self {
            a_batch: over(a_outer, m * k),
            b_batch: over(b_outer, k * n),
            a: [*k, 1],
            b: [*n, 1],
            batch,
            m: *m,
            n: *n,
            k: *k,
        })
    }

    pub(super) fn shape(&self) -> Vec<usize> {
        [&self.batch[..], &[self.m, self.n]].concat()
    }

    /// The same product with as few batch axes as can be: the matrices of `a` that one `b` follows are rows of one matrix.
    pub(super) fn folded(mut self) -> Self {
        while let ([.., extent], [.., a], [.., b]) = (&self.batch[..], &self.a_batch[..], &self.b_batch[..]) {
            match extent {
                1 => {}
                _ if *b == 0 && *a == self.m * self.a[0] => self.m *= extent,
                _ => break,
            }
            self.batch.pop();
            self.a_batch.pop();
            self.b_batch.pop();
        }
        self
    }

    /// The product itself, with the shape of [`Product::shape`].
    ///
    /// # Errors
    /// When an operand is not of type `T`.
    pub(super) fn eval<T: Real>(mut self, a: &Array, b: &Array) -> Result<Array> {
        let ((a, a_is_swapped), (b, b_is_swapped)) = (a.matrices::<T>()?, b.matrices::<T>()?);
        let shape = self.shape();
        if a_is_swapped {
            self.a = [1, self.m];
        }
        let folded = self.folded();
        let (m, n, k) = (folded.m, folded.n, folded.k);
        let count: usize = folded.batch.iter().product();
        if count * m * n == 0 {
            return Array::from_vec::<T>(&shape, Vec::new());
        }
        let mut at = Vec::with_capacity(count);
        rows(
            &[&folded.batch[..], &[1]].concat(),
            [&[&folded.a_batch[..], &[0]].concat(), &[&folded.b_batch[..], &[0]].concat()],
            |_, o| {
                at.push(o);
            },
        );
        let each = |(y, &[p, q]): (&mut [MaybeUninit<T>], &[usize; 2]), threads| {
            let matrix = |x, rows, columns, is_swapped: bool| {
                let [rows, columns] = if is_swapped { [columns, rows] } else { [rows, columns] };
                Mat::new(x, rows, columns).t_if(is_swapped)
            };
            let (a, b) = (matrix(&a[p..p + m * k], m, k, a_is_swapped), matrix(&b[q..q + k * n], k, n, b_is_swapped));
            gemm_into(a, b, y, 1.0, threads);
        };
        // SAFETY: there are as many starts as products, and each product is written.
        let y = unsafe {
            written(count * m * n, |y| {
                if count >= 2 && m * n * k < 1 << 22 {
                    let min = ((1 << 15) / (m * n * k).max(1)).max(1);
                    y.par_chunks_mut(m * n).zip(&at).with_min_len(min).for_each(|j| each(j, false));
                } else {
                    y.chunks_mut(m * n).zip(&at).for_each(|j| each(j, true));
                }
            })
        };
        Array::from_vec(&shape, y)
    }

    /// The kernel of a product of the first two inputs, and perhaps `c` with its strides. A long sum for a few elements is
    /// cut into parts, which run side by side.
    ///
    /// # Errors
    /// As [`Product::step`].
    pub(super) fn kernel(&self, c: Option<(Bind, [usize; 2])>, alpha: f64, beta: f64) -> Result<Kernel> {
        let operands = [Bind::Input(0), Bind::Input(1)];
        let parts = if c.is_none() { self.parts() } else { 1 };
        if parts == 1 {
            return Ok(Kernel::one(self.step(operands, c, alpha, beta)?));
        }
        let (k, size) = (self.k / parts, self.m * self.n);
        let part = Self {
            batch: vec![parts],
            k,
            a_batch: vec![k * self.a[1]],
            b_batch: vec![k * self.b[0]],
            a: self.a,
            b: self.b,
            ..*self
        };
        let mut step = part.step(operands, None, alpha, beta)?;
        if let Some(to) = step.binds.last_mut() {
            *to = Bind::Scratch(0);
        }
        let sum = Step {
            shader: crate::shader!("sum_parts"),
            overrides: Vec::new(),
            binds: vec![Bind::Filled(0), Bind::Output(0)],
            params: Params::new().u("elements", size).u("parts", parts),
            grid: grid_1d(size),
        };
        Ok(Kernel::Steps { steps: vec![step, sum], scratch: vec![parts * size] })
    }

    /// Into how many equal parts the sums are cut.
    fn parts(&self) -> usize {
        let groups: usize = tiles(self.m, self.n, 1).iter().map(|&g| g as usize).product();
        if !self.batch.is_empty() || groups >= FEW || self.k < LONG {
            return 1;
        }
        (1..=(self.k / PART).min(MOST_PARTS)).rev().find(|&p| self.k.is_multiple_of(p)).unwrap_or(1)
    }

    /// The work for operands in these buffers, and perhaps `c` with its strides.
    ///
    /// # Errors
    /// When there are more batch axes than the shader follows.
    pub(super) fn step(&self, [a, b]: [Bind; 2], c: Option<(Bind, [usize; 2])>, alpha: f64, beta: f64) -> Result<Step> {
        if self.batch.len() > 8 {
            return Err(Error::unsupported(format!("{} batch axes have no kernel", self.batch.len())));
        }
        let batches: usize = self.batch.iter().product();
        let (fours_a, fours_b) = self.fours();
        let (bound, strides) = c.unwrap_or((a, [0, 0]));
        let has_c = match strides {
            _ if c.is_none() => 0.0,
            [_, 0] => 2.0,
            [0, _] => 3.0,
            _ => 1.0,
        };
        Ok(Step {
            shader: crate::shader!("matmul"),
            overrides: vec![("HAS_C", has_c), ("FOURS_A", fours_a), ("FOURS_B", fours_b)],
            // nothing is added; an engine may bind what is
            binds: vec![a, b, a, b, bound, a, Bind::Output(0)],
            params: Params::new()
                .u("m", self.m)
                .u("n", self.n)
                .u("k", self.k)
                .u("batches", batches)
                .u("rank", self.batch.len())
                .list::<2>("a_strides", &self.a, 0)
                .list::<2>("b_strides", &self.b, 0)
                .list::<2>("c_strides", &strides, 0)
                .f("alpha", alpha)
                .f("beta", beta)
                .list::<8>("shape", &self.batch, 1)
                .list::<8>("a_batch", &self.a_batch, 0)
                .list::<8>("b_batch", &self.b_batch, 0),
            grid: self.grid(batches),
        })
    }

    /// The shader goes on to the next columns where there are more than workgroups on a line.
    fn grid(&self, batches: usize) -> [u32; 3] {
        let [x, y, z] = tiles(self.m, self.n, batches);
        [x.min(65_535), y, z]
    }

    /// Which operands the direct form reads in fours: a along k (1), b along its columns (1) or along k (2). Every start
    /// of four has to be a multiple of four.
    fn fours(&self) -> (f64, f64) {
        let aligned = |steps: &[usize]| steps.iter().all(|s| s.is_multiple_of(4));
        let a = self.k.is_multiple_of(4) && self.a[1] == 1 && self.a[0].is_multiple_of(4) && aligned(&self.a_batch);
        let columns =
            self.n.is_multiple_of(4) && self.b[1] == 1 && self.b[0].is_multiple_of(4) && aligned(&self.b_batch);
        let along = self.k.is_multiple_of(4) && self.b[0] == 1 && self.b[1].is_multiple_of(4) && aligned(&self.b_batch);
        match (a, columns, along) {
            (true, true, _) => (1.0, 1.0),
            (true, false, true) => (1.0, 2.0),
            (false, true, _) => (0.0, 1.0),
            _ => (0.0, 0.0),
        }
    }
}

/// An override that says yes or no.
pub(super) fn flag(on: bool) -> f64 {
    f64::from(u8::from(on))
}

/// Workgroups that make [`TILE`] each.
pub(super) fn tiles(m: usize, n: usize, z: usize) -> [u32; 3] {
    [n.div_ceil(TILE[1]).max(1) as u32, m.div_ceil(TILE[0]).max(1) as u32, z.clamp(1, 65_535) as u32]
}
