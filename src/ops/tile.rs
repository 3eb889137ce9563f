//! The innermost loop of our own matrix products: one small tile of sums over packed panels, held in registers.
//!
//! A panel holds a few rows of the left or columns of the right matrix, step after step: `a[k · ROWS + i]` and
//! `b[k · COLUMNS + j]`. What comes out are the sums `Σ_k a[k, i] · b[k, j]`, or what is made of their squares before
//! they ever leave the registers.

use super::linalg::Real;

/// Where a tile lies in its matrix: the first element and the elements from one row to the next.
pub(crate) struct Into<'a, T> {
    pub data: &'a mut [T],
    pub stride: usize,
}

/// A float type with its tile.
pub(crate) trait Tile: Real {
    /// Rows and columns of the tile on this processor.
    fn size() -> [usize; 2];
    /// `c += Σ_k a[k, i] · b[k, j]`.
    fn add_products(steps: usize, a: &[Self], b: &[Self], c: &mut Into<Self>);
    /// `s += u · (c + Σ_k a[k, i] · b[k, j])²`, with c of the same stride or 0.
    fn add_squares(steps: usize, a: &[Self], b: &[Self], c: Option<&[Self]>, u: Self, s: &mut Into<Self>);
}

/// Tiles that the compiler makes of plain loops.
mod plain {
    use super::{Into, Real};

    pub(super) const ROWS: usize = 4;
    pub(super) const COLUMNS: usize = 8;

    #[inline(always)]
    fn sums<T: Real>(steps: usize, a: &[T], b: &[T]) -> [[T; COLUMNS]; ROWS] {
        let mut sums = [[T::ZERO; COLUMNS]; ROWS];
        let (a, b) = (a.as_chunks::<ROWS>().0, b.as_chunks::<COLUMNS>().0);
        for (a, b) in a[..steps].iter().zip(&b[..steps]) {
            for (row, &a) in sums.iter_mut().zip(a) {
                row.iter_mut().zip(b).for_each(|(s, &b)| *s += a * b);
            }
        }
        sums
    }

    pub(super) fn add_products<T: Real>(steps: usize, a: &[T], b: &[T], c: &mut Into<T>) {
        for (row, c) in sums(steps, a, b).iter().zip(c.data.chunks_mut(c.stride)) {
            c.iter_mut().zip(row).for_each(|(c, &s)| *c += s);
        }
    }

    pub(super) fn add_squares<T: Real>(steps: usize, a: &[T], b: &[T], c: Option<&[T]>, u: T, s: &mut Into<T>) {
        let mut sums = sums(steps, a, b);
        if let Some(c) = c {
            for (row, c) in sums.iter_mut().zip(c.chunks(s.stride)) {
                row.iter_mut().zip(c).for_each(|(s, &c)| *s += c);
            }
        }
        for (row, s) in sums.iter().zip(s.data.chunks_mut(s.stride)) {
            s.iter_mut().zip(row).for_each(|(s, &r)| *s += u * r * r);
        }
    }
}

/// Tiles of f32 in vector registers, `$rows` × 2 of them and two for the columns.
#[cfg(target_arch = "x86_64")]
macro_rules! vectors {
    ($name:ident, $features:literal, $vector:ty, $lanes:literal, $rows:literal,
     $zero:ident, $load:ident, $store:ident, $set:ident, $fma:ident, $mul:ident, $add:ident) => {
        mod $name {
            use super::Into;
            use std::arch::x86_64::*;

            pub(in super::super) const ROWS: usize = $rows;
            pub(in super::super) const COLUMNS: usize = 2 * $lanes;
            const LANES: usize = $lanes;

            #[inline]
            #[target_feature(enable = $features)]
            fn sums(steps: usize, a: &[f32], b: &[f32]) -> [[$vector; 2]; ROWS] {
                assert!(a.len() >= steps * ROWS && b.len() >= steps * COLUMNS, "a panel is too short");
                let mut sums = [[$zero(); 2]; ROWS];
                let (mut a, mut b) = (a.as_ptr(), b.as_ptr());
                for _ in 0..steps {
                    // SAFETY: each step reads ROWS and COLUMNS elements, and the panels hold that many for every step
                    // (checked above); the pointers end one past the last at most.
                    unsafe {
                        let columns = [$load(b), $load(b.add(LANES))];
                        for (i, row) in sums.iter_mut().enumerate() {
                            let x = $set(*a.add(i));
                            row[0] = $fma(x, columns[0], row[0]);
                            row[1] = $fma(x, columns[1], row[1]);
                        }
                        (a, b) = (a.add(ROWS), b.add(COLUMNS));
                    }
                }
                sums
            }

            fn check(len: usize, stride: usize) {
                assert!(stride >= COLUMNS && len >= (ROWS - 1) * stride + COLUMNS, "a tile does not fit");
            }

            #[target_feature(enable = $features)]
            pub(in super::super) fn add_products(steps: usize, a: &[f32], b: &[f32], c: &mut Into<f32>) {
                check(c.data.len(), c.stride);
                for (i, row) in sums(steps, a, b).into_iter().enumerate() {
                    for (j, sum) in row.into_iter().enumerate() {
                        // SAFETY: ROWS rows of COLUMNS elements lie inside the slice (checked above).
                        unsafe {
                            let c = c.data.as_mut_ptr().add(i * c.stride + j * LANES);
                            $store(c, $add($load(c), sum));
                        }
                    }
                }
            }

            #[target_feature(enable = $features)]
            pub(in super::super) fn add_squares(
                steps: usize,
                a: &[f32],
                b: &[f32],
                c: Option<&[f32]>,
                u: f32,
                s: &mut Into<f32>,
            ) {
                check(s.data.len(), s.stride);
                if let Some(c) = c {
                    check(c.len(), s.stride);
                }
                let u = $set(u);
                for (i, row) in sums(steps, a, b).into_iter().enumerate() {
                    for (j, sum) in row.into_iter().enumerate() {
                        let at = i * s.stride + j * LANES;
                        // SAFETY: ROWS rows of COLUMNS elements lie inside both slices (checked above).
                        unsafe {
                            let sum = match c {
                                Some(c) => $add($load(c.as_ptr().add(at)), sum),
                                None => sum,
                            };
                            let s = s.data.as_mut_ptr().add(at);
                            $store(s, $fma($mul(u, sum), sum, $load(s)));
                        }
                    }
                }
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
vectors!(
    avx512,
    "avx512f,fma",
    __m512,
    16,
    12,
    _mm512_setzero_ps,
    _mm512_loadu_ps,
    _mm512_storeu_ps,
    _mm512_set1_ps,
    _mm512_fmadd_ps,
    _mm512_mul_ps,
    _mm512_add_ps
);
#[cfg(target_arch = "x86_64")]
vectors!(
    avx2,
    "avx2,fma",
    __m256,
    8,
    6,
    _mm256_setzero_ps,
    _mm256_loadu_ps,
    _mm256_storeu_ps,
    _mm256_set1_ps,
    _mm256_fmadd_ps,
    _mm256_mul_ps,
    _mm256_add_ps
);

/// What this processor has.
#[derive(Clone, Copy)]
enum Vectors {
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    Plain,
}

fn vectors() -> Vectors {
    #[cfg(target_arch = "x86_64")]
    {
        if std::arch::is_x86_feature_detected!("avx512f") {
            return Vectors::Avx512;
        }
        if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
            return Vectors::Avx2;
        }
    }
    Vectors::Plain
}

impl Tile for f32 {
    fn size() -> [usize; 2] {
        match vectors() {
            #[cfg(target_arch = "x86_64")]
            Vectors::Avx512 => [avx512::ROWS, avx512::COLUMNS],
            #[cfg(target_arch = "x86_64")]
            Vectors::Avx2 => [avx2::ROWS, avx2::COLUMNS],
            Vectors::Plain => [plain::ROWS, plain::COLUMNS],
        }
    }
    fn add_products(steps: usize, a: &[f32], b: &[f32], c: &mut Into<f32>) {
        match vectors() {
            // SAFETY: the processor has these instructions, as `vectors` found.
            #[cfg(target_arch = "x86_64")]
            Vectors::Avx512 => unsafe { avx512::add_products(steps, a, b, c) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Vectors::Avx2 => unsafe { avx2::add_products(steps, a, b, c) },
            Vectors::Plain => plain::add_products(steps, a, b, c),
        }
    }
    fn add_squares(steps: usize, a: &[f32], b: &[f32], c: Option<&[f32]>, u: f32, s: &mut Into<f32>) {
        match vectors() {
            // SAFETY: the processor has these instructions, as `vectors` found.
            #[cfg(target_arch = "x86_64")]
            Vectors::Avx512 => unsafe { avx512::add_squares(steps, a, b, c, u, s) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Vectors::Avx2 => unsafe { avx2::add_squares(steps, a, b, c, u, s) },
            Vectors::Plain => plain::add_squares(steps, a, b, c, u, s),
        }
    }
}

impl Tile for f64 {
    fn size() -> [usize; 2] {
        [plain::ROWS, plain::COLUMNS]
    }
    fn add_products(steps: usize, a: &[f64], b: &[f64], c: &mut Into<f64>) {
        plain::add_products(steps, a, b, c);
    }
    fn add_squares(steps: usize, a: &[f64], b: &[f64], c: Option<&[f64]>, u: f64, s: &mut Into<f64>) {
        plain::add_squares(steps, a, b, c, u, s);
    }
}
