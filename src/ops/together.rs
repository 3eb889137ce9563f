//! Convolutions of small planes on the host, several samples at a time. A product of few columns reads the weights as
//! often as one of many: the deep layers of a network would spend their time on that, sample by sample.

use super::correlate::{Layout, mat};
use super::linalg::{Real, gemm_rows};
use rayon::prelude::*;
use std::ops::Range;

/// Positions of all samples of a product, about.
const POSITIONS: usize = 192;

/// Samples that share a product, in equal pieces.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pieces {
    samples: usize,
    count: usize,
}

impl Pieces {
    fn range(self, p: usize) -> Range<usize> {
        p * self.samples / self.count..(p + 1) * self.samples / self.count
    }

    /// Makes `[samples, each]` piece by piece: `work` is given the samples of a piece and what it makes.
    fn make<T: Real>(self, mut all: &mut [T], each: usize, work: impl Fn(&mut Room<T>, Range<usize>, &mut [T]) + Sync) {
        let mut parts = Vec::with_capacity(self.count);
        for range in (0..self.count).map(|p| self.range(p)) {
            let (part, rest) = all.split_at_mut(range.len() * each);
            parts.push((range, part));
            all = rest;
        }
        parts.into_par_iter().for_each_init(Room::default, |room, (range, part)| work(room, range, part));
    }
}

/// How many samples share a product, as many products as keep all threads at work; none where planes are large enough by
/// themselves, or groups and single channels would be left apart.
pub(super) fn pieces(l: &Layout) -> Option<Pieces> {
    let each = POSITIONS / l.window.positions().max(1);
    if l.groups != 1 || l.c == 1 || l.m == 1 || each < 2 {
        return None;
    }
    let count = l.n.div_ceil(each).next_multiple_of(rayon::current_num_threads()).min(l.n);
    (count < l.n).then_some(Pieces { samples: l.n, count })
}

/// `[channels, samples, len]` of `[samples, channels, len]`.
fn gathered<T: Real>(planes: &[T], samples: usize, len: usize, out: &mut Vec<T>) {
    out.clear();
    let channels = planes.len() / (samples * len).max(1);
    for c in 0..channels {
        for n in 0..samples {
            out.extend_from_slice(&planes[(n * channels + c) * len..][..len]);
        }
    }
}

/// `[samples, channels, len]` of `[channels, samples, len]`.
fn scattered<T: Real>(gathered: &[T], samples: usize, len: usize, out: &mut [T]) {
    let channels = gathered.len() / (samples * len).max(1);
    for (i, plane) in out.chunks_exact_mut(len).enumerate() {
        let (n, c) = (i / channels, i % channels);
        plane.copy_from_slice(&gathered[(c * samples + n) * len..][..len]);
    }
}

/// Memory that a thread uses again.
#[derive(Default)]
struct Room<T> {
    cols: Vec<T>,
    planes: Vec<T>,
}

/// As [`Layout::conv`], into zeros.
pub(super) fn conv<T: Real>(l: &Layout, pieces: Pieces, large: &[T], weight: &[T], bias: Option<&[T]>, out: &mut [T]) {
    let (len, inputs, k) = (l.window.positions(), l.window.inputs(), l.unfolded());
    pieces.make(out, l.m * len, |Room { cols, planes }, range, out| {
        let samples = range.len();
        let wide = samples * len;
        unfold(l, &large[range.start * l.c * inputs..range.end * l.c * inputs], samples, cols);
        planes.clear();
        match bias {
            Some(bias) => bias[..l.m].iter().for_each(|&b| planes.extend(std::iter::repeat_n(b, wide))),
            None => planes.resize(l.m * wide, T::ZERO),
        }
        gemm_rows(mat(weight, l.m, k, k), mat(cols, k, wide, wide), planes, wide, 1.0, 1.0, false);
        scattered(planes, samples, len, out);
    });
}

/// What every tap sees of the large planes of some samples: `[c · taps, samples, positions]`.
fn unfold<T: Real>(l: &Layout, large: &[T], samples: usize, cols: &mut Vec<T>) {
    let (len, each) = (l.window.positions(), l.c * l.window.inputs());
    if l.window.is_pointwise() {
        return gathered(large, samples, len, cols);
    }
    cols.clear();
    cols.resize(l.unfolded() * samples * len, T::ZERO);
    for (n, large) in large.chunks_exact(each).enumerate() {
        l.unfold_into(large, 0..l.window.rows().1, &mut cols[n * len..], samples * len);
    }
}

/// As [`Layout::conv_transpose`], into what is there.
pub(super) fn conv_transpose<T: Real>(l: &Layout, pieces: Pieces, small: &[T], weight: &[T], out: &mut [T]) {
    let (len, inputs, k) = (l.window.positions(), l.window.inputs(), l.unfolded());
    pieces.make(out, l.c * inputs, |Room { cols, planes }, range, out| {
        let samples = range.len();
        let wide = samples * len;
        gathered(&small[range.start * l.m * len..range.end * l.m * len], samples, len, planes);
        cols.resize(k * wide, T::ZERO);
        gemm_rows(mat(weight, l.m, k, k).t(), mat(planes, l.m, wide, wide), cols, wide, 1.0, 0.0, false);
        for (n, large) in out.chunks_exact_mut(l.c * inputs).enumerate() {
            l.fold(&cols[n * len..], wide, 0..l.window.rows().1, large);
        }
    });
}

/// Adds the weight gradient of some samples.
pub(super) fn add_weight_gradient<T: Real>(l: &Layout, large: &[T], small: &[T], samples: usize, dw: &mut [T]) {
    let (len, k) = (l.window.positions(), l.unfolded());
    let each = (POSITIONS / len.max(1)).max(1);
    let Room { mut cols, mut planes } = Room::default();
    for from in (0..samples).step_by(each) {
        let range = from..(from + each).min(samples);
        let (count, inputs) = (range.len(), l.c * l.window.inputs());
        let wide = count * len;
        unfold(l, &large[range.start * inputs..range.end * inputs], count, &mut cols);
        gathered(&small[range.start * l.m * len..range.end * l.m * len], count, len, &mut planes);
        gemm_rows(mat(&planes, l.m, wide, wide), mat(&cols, k, wide, wide).t(), dw, k, 1.0, 1.0, false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::window::{Axis, Window};

    /// A window of these taps, stride and padding on both sides over `input` by 3 elements.
    fn window(input: usize, kernel: usize, stride: usize, pad: usize) -> Window {
        let axis = |input: usize| {
            let output = (input + 2 * pad - kernel) / stride + 1;
            Axis { input, kernel, stride, dilation: 1, begin: pad, end: pad, output }
        };
        Window { axes: vec![axis(input), axis(3)] }
    }

    /// What is made of a sample's large and small planes.
    type Of<'a> = &'a dyn Fn(&[f64], &[f64]) -> Vec<f64>;

    fn wave(len: usize, k: usize) -> Vec<f64> {
        (0..len).map(|i| ((i * (k + 2) + k) as f64 * 0.61).sin()).collect()
    }

    #[test]
    fn samples_together_are_samples_one_by_one() {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
        pool.install(|| {
            for window in [window(4, 3, 1, 1), window(5, 3, 2, 1), window(3, 1, 1, 0), window(3, 1, 2, 0)] {
                let all = Layout { n: 7, groups: 1, c: 3, m: 5, window };
                let one = Layout { n: 1, ..all.clone() };
                assert!(pieces(&all).is_some() && pieces(&one).is_none());
                let (l, s) = (all.c * all.window.inputs(), all.m * all.window.positions());
                let (large, small) = (wave(7 * l, 0), wave(7 * s, 1));
                let (weight, bias) = (wave(all.weights(), 2), wave(5, 3));
                let each = |f: Of<'_>| -> Vec<Vec<f64>> {
                    large.chunks(l).zip(small.chunks(s)).map(|(large, small)| f(large, small)).collect()
                };
                let near = |got: Vec<f64>, want: Vec<f64>| {
                    assert_eq!(got.len(), want.len());
                    assert!(got.iter().zip(&want).all(|(g, w)| (g - w).abs() < 1e-12), "{:?}", all.window);
                };
                let bias = Some(&bias[..]);
                near(all.conv(&large, &weight, bias), each(&|large, _| one.conv(large, &weight, bias)).concat());
                let by_one = each(&|_, small| one.conv_transpose(small, &weight, bias));
                near(all.conv_transpose(&small, &weight, bias), by_one.concat());
                let by_one = each(&|large, small| one.weight_gradient(large, small));
                let sum = (0..all.weights()).map(|i| by_one.iter().map(|dw| dw[i]).sum()).collect();
                near(all.weight_gradient(&large, &small), sum);
            }
        });
    }

    #[test]
    fn pieces_are_even_and_keep_all_threads_at_work() {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
        let of = |n: usize| {
            let l = Layout { n, groups: 1, c: 3, m: 5, window: window(16, 3, 1, 1) };
            pool.install(|| pieces(&l)).map(|p| (0..p.count).map(|i| p.range(i).len()).collect::<Vec<_>>())
        };
        assert_eq!(of(2), None);
        assert_eq!(of(10), Some(vec![2, 3, 2, 3]));
        assert_eq!(of(9), Some(vec![2, 2, 2, 3]));
    }
}
