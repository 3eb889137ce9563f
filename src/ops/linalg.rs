//! Matrix products of strided slices, through the `gemm` crate.

use crate::tensor::Element;
use std::mem::MaybeUninit;

/// The two float types.
pub(crate) trait Real:
    Element
    + std::ops::Add<Output = Self>
    + std::ops::Sub<Output = Self>
    + std::ops::Mul<Output = Self>
    + std::ops::AddAssign
{
    const ZERO: Self;
    const ONE: Self;
    fn from_f64(v: f64) -> Self;
}

impl Real for f32 {
    const ZERO: Self = 0.0;
    const ONE: Self = 1.0;
    fn from_f64(v: f64) -> Self {
        v as f32
    }
}

impl Real for f64 {
    const ZERO: Self = 0.0;
    const ONE: Self = 1.0;
    fn from_f64(v: f64) -> Self {
        v
    }
}

/// A matrix inside a slice.
#[derive(Clone, Copy)]
pub(crate) struct Mat<'a, T> {
    pub data: &'a [T],
    pub rows: usize,
    pub cols: usize,
    /// Elements from one row to the next.
    pub row_stride: usize,
    /// Elements from one column to the next.
    pub col_stride: usize,
}

impl<'a, T> Mat<'a, T> {
    /// A row-major matrix that fills its slice from the start.
    pub(crate) fn new(data: &'a [T], rows: usize, cols: usize) -> Self {
        Self { data, rows, cols, row_stride: cols, col_stride: 1 }
    }
    /// The transposed matrix.
    pub(crate) fn t(self) -> Self {
        Self { rows: self.cols, cols: self.rows, row_stride: self.col_stride, col_stride: self.row_stride, ..self }
    }
    /// Transposed if `flip`.
    pub(crate) fn t_if(self, flip: bool) -> Self {
        if flip { self.t() } else { self }
    }
    fn inside(&self) -> bool {
        self.rows == 0
            || self.cols == 0
            || (self.rows - 1) * self.row_stride + (self.cols - 1) * self.col_stride < self.data.len()
    }
}

/// `c = alpha · a · b + beta · c`, where `c` is row-major `[a.rows, b.cols]`. `threads` lets large products
/// use all cores; leave it off inside a parallel loop.
///
/// # Panics
/// When the matrices do not fit each other or their slices.
pub(crate) fn gemm<T: Real>(a: Mat<T>, b: Mat<T>, c: &mut [T], alpha: f64, beta: f64, threads: bool) {
    gemm_rows(a, b, c, b.cols, alpha, beta, threads);
}

/// `c = alpha · a · b`, where nothing is in `c` before and all of it is written.
///
/// # Panics
/// When the matrices do not fit each other or their slices.
pub(crate) fn gemm_into<T: Real>(a: Mat<T>, b: Mat<T>, c: &mut [MaybeUninit<T>], alpha: f64, threads: bool) {
    assert!(c.len() == a.rows * b.cols, "matrices do not fit");
    if a.cols == 0 {
        c.iter_mut().for_each(|c| _ = c.write(T::ZERO));
        return;
    }
    // SAFETY: `c` holds the product without gaps (checked above), and is not read.
    unsafe { product(a, b, c.as_mut_ptr().cast(), b.cols, alpha, 0.0, threads) }
}

/// The same where `c` has `row_stride` elements, at least its columns, from one row to the next.
///
/// # Panics
/// When the matrices do not fit each other or their slices.
pub(crate) fn gemm_rows<T: Real>(
    a: Mat<T>,
    b: Mat<T>,
    c: &mut [T],
    row_stride: usize,
    alpha: f64,
    beta: f64,
    threads: bool,
) {
    let (m, n) = (a.rows, b.cols);
    assert!(m == 0 || n == 0 || (row_stride >= n && c.len() >= (m - 1) * row_stride + n), "matrices do not fit");
    // SAFETY: every row of the product lies inside `c` (checked above), which holds numbers.
    unsafe { product(a, b, c.as_mut_ptr(), row_stride, alpha, beta, threads) }
}

/// As [`gemm_rows`], and where beta is 0, `c` is not read.
///
/// # Safety
/// `c` has to hold every row of the product, and numbers unless beta is 0.
unsafe fn product<T: Real>(a: Mat<T>, b: Mat<T>, c: *mut T, row_stride: usize, alpha: f64, beta: f64, threads: bool) {
    let (m, n, k) = (a.rows, b.cols, a.cols);
    assert!(b.rows == k && a.inside() && b.inside(), "matrices do not fit");
    if m == 0 || n == 0 {
        return;
    }
    let parallelism = if threads && m * n * k > 1 << 18 {
        gemm::Parallelism::Rayon(rayon::current_num_threads())
    } else {
        gemm::Parallelism::None
    };
    // SAFETY: every element that the strides reach lies inside its slice (checked above, and by the caller for `c`), and `c`
    // is borrowed mutably by the callers, so that it overlaps neither operand.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            c,
            1,
            row_stride as isize,
            beta != 0.0,
            a.data.as_ptr(),
            a.col_stride as isize,
            a.row_stride as isize,
            b.data.as_ptr(),
            b.col_stride as isize,
            b.row_stride as isize,
            T::from_f64(beta),
            T::from_f64(alpha),
            false,
            false,
            false,
            parallelism,
        );
    }
}
