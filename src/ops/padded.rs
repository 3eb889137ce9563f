//! Where a window's taps lie in planes that are padded as far as the window reaches.

use super::window::{Axis, Window};

/// Places in a padded plane.
pub(crate) struct Padded {
    /// Elements of a padded plane.
    pub plane: usize,
    /// Where each position of the window begins.
    pub positions: Vec<usize>,
    /// How far each tap lies from there.
    pub taps: Vec<usize>,
    /// Where each row of the input lies.
    rows: Vec<usize>,
    /// Elements of such a row.
    row: usize,
}

/// Every sum of one place of each axis, in row-major order; an axis has so many places, so far from each other.
fn places(axes: &[Axis], strides: &[usize], of: impl Fn(&Axis) -> (usize, usize)) -> Vec<usize> {
    let mut all = vec![0];
    for (axis, stride) in axes.iter().zip(strides) {
        let (count, step) = of(axis);
        all = all.iter().flat_map(|&at| (0..count).map(move |i| at + i * step * stride)).collect();
    }
    all
}

/// Padded planes are made while they have no more than so many elements, or so many times those of the plane.
const SMALL: (usize, usize) = (1 << 12, 16);

impl Padded {
    /// `None` where padding or dilation would make the planes much larger than they are.
    pub(crate) fn new(w: &Window) -> Option<Self> {
        let extents: Vec<usize> =
            w.axes.iter().map(|a| a.begin + a.input + usize::try_from(a.tail()).unwrap_or(0)).collect();
        let plane = extents.iter().try_fold(1_usize, |p, &d| p.checked_mul(d))?;
        if plane > SMALL.0.max(w.inputs().saturating_mul(SMALL.1)) {
            return None;
        }
        let mut strides = vec![1; extents.len()];
        for i in (1..extents.len()).rev() {
            strides[i - 1] = strides[i] * extents[i];
        }
        let begin: usize = w.axes.iter().zip(&strides).map(|(a, s)| a.begin * s).sum();
        let (outer, row) = w.axes.split_last().map_or((&[][..], 1), |(last, outer)| (outer, last.input));
        Some(Self {
            plane,
            positions: places(&w.axes, &strides, |a| (a.output, a.stride)),
            taps: places(&w.axes, &strides, |a| (a.kernel, a.dilation)),
            rows: places(outer, &strides, |a| (a.input, 1)).into_iter().map(|at| at + begin).collect(),
            row,
        })
    }

    /// Copies a plane of the input to where `step` elements lie between neighbours, the first of them at `out[0]`.
    pub(crate) fn spread<T: Copy>(&self, plane: &[T], out: &mut [T], step: usize) {
        for (x, &at) in plane.chunks_exact(self.row).zip(&self.rows) {
            out[at * step..].iter_mut().step_by(step).zip(x).for_each(|(o, &x)| *o = x);
        }
    }
}
