//! The one sum behind Conv, its two gradients and ConvTranspose, on the host.
//!
//! With `L` large planes (Conv's x), `S` small planes (Conv's y) and weights `W`, where tap `k` of
//! position `o` sees element `i(o, k)`:
//! `⟨S, Conv(L, W)⟩ = Σ_{n, m, c, o, k} S[n, m, o] · W[m, c, k] · L[n, c, i(o, k)]`.
//! Conv is its derivative by S, ConvTranspose that by L, and the weight gradient that by W.

use super::linalg::{Mat, Real, gemm_rows};
use super::padded::Padded;
use super::squared::{self, Extents, Factors};
use super::tile::Tile;
use super::together;
use super::window::{Run, Window};
use super::winograd::Winograd;
use rayon::prelude::*;
use std::ops::Range;

/// Elements of the buffer that holds the unfolded input: small enough to stay in a core's cache.
const UNFOLDED: usize = 1 << 17;

/// Extents of the sum. `W` is `[groups · m, c, taps]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    /// Rows of the batch.
    pub n: usize,
    /// Groups of channels that do not see each other.
    pub groups: usize,
    /// Channels per group of the large side.
    pub c: usize,
    /// Channels per group of the small side.
    pub m: usize,
    /// From the large side to the small side.
    pub window: Window,
}

/// A matrix of `row` elements from one row to the next.
pub(super) fn mat<T>(data: &[T], rows: usize, cols: usize, row: usize) -> Mat<'_, T> {
    Mat { row_stride: row, ..Mat::new(data, rows, cols) }
}

/// `y += a · x`, where x is read with a step.
fn add_scaled<T: Real>(y: &mut [T], a: T, x: &[T], step: usize) {
    if step == 1 {
        y.iter_mut().zip(x).for_each(|(y, &x)| *y += a * x);
    } else {
        y.iter_mut().zip(x.iter().step_by(step)).for_each(|(y, &x)| *y += a * x);
    }
}

/// Adds `a · s` to what a run sees of a plane.
fn add_run<T: Real>(plane: &mut [T], run: Run, step: usize, a: T, s: &[T]) {
    let seen = plane[run.input..].iter_mut().step_by(step);
    seen.zip(&s[..run.len]).for_each(|(y, &s)| *y += a * s);
}

/// Fills planes of `len` elements, of so many channels a sample, with the bias of their channel.
fn fill_planes<T: Real>(planes: &mut [T], len: usize, channels: usize, bias: Option<&[T]>) {
    if let Some(bias) = bias {
        planes.chunks_exact_mut(len).zip(bias[..channels].iter().cycle()).for_each(|(plane, &b)| plane.fill(b));
    }
}

impl Layout {
    /// Elements of all weights.
    pub(crate) fn weights(&self) -> usize {
        self.groups * self.m * self.unfolded()
    }
    /// Elements of a group's window.
    pub(super) fn unfolded(&self) -> usize {
        self.c * self.window.taps()
    }
    /// Row ranges whose unfolded form fits the buffer.
    fn pieces(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let (row, rows) = self.window.rows();
        let step = (UNFOLDED / (row * self.unfolded()).max(1)).clamp(1, rows.max(1));
        (0..rows).step_by(step).map(move |r| r..(r + step).min(rows))
    }
    fn single(&self, tasks: usize) -> bool {
        tasks < rayon::current_num_threads()
    }

    /// `[c · taps, positions of the rows]`: what every tap sees of a group's large planes.
    fn unfold<T: Real>(&self, large: &[T], rows: Range<usize>, cols: &mut Vec<T>) {
        let w = &self.window;
        let len = rows.len() * w.rows().0;
        cols.clear();
        cols.resize(self.unfolded() * len, T::ZERO);
        self.unfold_into(large, rows, cols, len);
    }

    /// The same into zeros, with `stride` elements from one tap to the next.
    pub(super) fn unfold_into<T: Real>(&self, large: &[T], rows: Range<usize>, cols: &mut [T], stride: usize) {
        let w = &self.window;
        let (row, step) = (w.rows().0, w.step());
        let from = rows.start * row;
        for (k, out) in cols.chunks_mut(stride).enumerate().take(self.unfolded()) {
            let plane = &large[k / w.taps() * w.inputs()..][..w.inputs()];
            w.runs(k % w.taps(), rows.clone(), |r| {
                let out = &mut out[r.out - from..][..r.len];
                if step == 1 {
                    out.copy_from_slice(&plane[r.input..][..r.len]);
                } else {
                    out.iter_mut().zip(plane[r.input..].iter().step_by(step)).for_each(|(o, &x)| *o = x);
                }
            });
        }
    }

    /// Adds what every tap says of some rows, `stride` elements from one tap to the next, to what it sees.
    pub(super) fn fold<T: Real>(&self, cols: &[T], stride: usize, rows: Range<usize>, large: &mut [T]) {
        let w = &self.window;
        let from = rows.start * w.rows().0;
        for (k, col) in cols.chunks(stride).enumerate().take(self.unfolded()) {
            let plane = &mut large[k / w.taps() * w.inputs()..][..w.inputs()];
            w.runs(k % w.taps(), rows.clone(), |r| add_run(plane, r, w.step(), T::ONE, &col[r.out - from..]));
        }
    }

    /// `S[n, m, o] = bias[m] + Σ_{c, k} W[m, c, k] · L[n, c, i(o, k)]`
    pub(crate) fn conv<T: Real>(&self, large: &[T], weight: &[T], bias: Option<&[T]>) -> Vec<T> {
        let w = &self.window;
        let (len, inputs, k) = (w.positions(), w.inputs(), self.unfolded());
        let mut small = vec![T::ZERO; self.n * self.groups * self.m * len];
        if small.is_empty() {
            return small;
        }
        if let Some(winograd) = Winograd::of(self) {
            fill_planes(&mut small, len, self.m, bias);
            winograd.conv(large, weight, &mut small);
            return small;
        }
        if let Some(pieces) = together::pieces(self) {
            together::conv(self, pieces, large, weight, bias, &mut small);
            return small;
        }
        let single = self.single(self.n * self.groups);
        small.par_chunks_mut(self.m * len).enumerate().for_each_init(Vec::new, |cols, (task, out)| {
            let g = task % self.groups;
            if let Some(bias) = bias {
                for (row, &b) in out.chunks_exact_mut(len).zip(&bias[g * self.m..]) {
                    row.fill(b);
                }
            }
            let weight = &weight[g * self.m * k..][..self.m * k];
            let large = &large[task * self.c * inputs..][..self.c * inputs];
            if self.c == 1 {
                for (m, row) in out.chunks_exact_mut(len).enumerate() {
                    for tap in 0..k {
                        w.runs(tap, 0..w.rows().1, |r| {
                            add_scaled(&mut row[r.out..][..r.len], weight[m * k + tap], &large[r.input..], w.step());
                        });
                    }
                }
            } else if w.is_pointwise() {
                gemm_rows(mat(weight, self.m, k, k), mat(large, k, len, len), out, len, 1.0, 1.0, single);
            } else {
                for rows in self.pieces() {
                    let (from, count) = (rows.start * w.rows().0, rows.len() * w.rows().0);
                    self.unfold(large, rows, cols);
                    let cols = mat(cols, k, count, count);
                    gemm_rows(mat(weight, self.m, k, k), cols, &mut out[from..], len, 1.0, 1.0, single);
                }
            }
        });
        small
    }

    /// `L[n, c, i] = bias[c] + Σ_{m, o, k: i(o, k) = i} W[m, c, k] · S[n, m, o]`
    pub(crate) fn conv_transpose<T: Real>(&self, small: &[T], weight: &[T], bias: Option<&[T]>) -> Vec<T> {
        let w = &self.window;
        let (len, inputs, taps, k) = (w.positions(), w.inputs(), w.taps(), self.unfolded());
        let mut large = vec![T::ZERO; self.n * self.groups * self.c * inputs];
        if large.is_empty() {
            return large;
        }
        if let Some(winograd) = Winograd::transposed(self) {
            fill_planes(&mut large, inputs, self.c, bias);
            winograd.conv_transpose(small, weight, &mut large);
            return large;
        }
        if let Some(pieces) = together::pieces(self) {
            fill_planes(&mut large, inputs, self.c, bias);
            together::conv_transpose(self, pieces, small, weight, &mut large);
            return large;
        }
        let single = self.single(self.n * self.groups);
        large.par_chunks_mut(self.c * inputs).enumerate().for_each_init(Vec::new, |cols, (task, out)| {
            let g = task % self.groups;
            if let Some(bias) = bias {
                for (plane, &b) in out.chunks_exact_mut(inputs).zip(&bias[g * self.c..]) {
                    plane.fill(b);
                }
            }
            let weight = &weight[g * self.m * k..][..self.m * k];
            let small = &small[task * self.m * len..][..self.m * len];
            if self.m == 1 {
                for (c, plane) in out.chunks_exact_mut(inputs).enumerate() {
                    for tap in 0..taps {
                        let a = weight[c * taps + tap];
                        w.runs(tap, 0..w.rows().1, |r| add_run(plane, r, w.step(), a, &small[r.out..]));
                    }
                }
            } else if w.is_pointwise() {
                let weight = mat(weight, self.m, k, k).t();
                gemm_rows(weight, mat(small, self.m, len, len), out, len, 1.0, 1.0, single);
            } else {
                for rows in self.pieces() {
                    let (from, count) = (rows.start * w.rows().0, rows.len() * w.rows().0);
                    cols.clear();
                    cols.resize(k * count, T::ZERO);
                    let piece = mat(&small[from..], self.m, count, len);
                    gemm_rows(mat(weight, self.m, k, k).t(), piece, cols, count, 1.0, 0.0, single);
                    self.fold(cols, count, rows, out);
                }
            }
        });
        large
    }

    /// `W[m, c, k] += Σ_o S[m, o] · L[c, i(o, k)]` of one row of the batch.
    fn add_weight_gradient<T: Real>(&self, large: &[T], small: &[T], dw: &mut [T], cols: &mut Vec<T>, single: bool) {
        let w = &self.window;
        let (len, inputs, k) = (w.positions(), w.inputs(), self.unfolded());
        for g in 0..self.groups {
            let large = &large[g * self.c * inputs..][..self.c * inputs];
            let small = &small[g * self.m * len..][..self.m * len];
            let dw = &mut dw[g * self.m * k..][..self.m * k];
            if self.c == 1 {
                for (m, dw) in dw.chunks_exact_mut(k.max(1)).enumerate() {
                    for (tap, dw) in dw.iter_mut().enumerate() {
                        w.runs(tap, 0..w.rows().1, |r| {
                            let x = large[r.input..].iter().step_by(w.step());
                            let s = &small[m * len + r.out..][..r.len];
                            *dw += s.iter().zip(x).fold(T::ZERO, |sum, (&s, &x)| sum + s * x);
                        });
                    }
                }
            } else if w.is_pointwise() {
                gemm_rows(mat(small, self.m, len, len), mat(large, k, len, len).t(), dw, k, 1.0, 1.0, single);
            } else {
                for rows in self.pieces() {
                    let (from, count) = (rows.start * w.rows().0, rows.len() * w.rows().0);
                    self.unfold(large, rows, cols);
                    let cols = mat(cols, k, count, count).t();
                    gemm_rows(mat(&small[from..], self.m, count, len), cols, dw, k, 1.0, 1.0, single);
                }
            }
        }
    }

    /// The rows `n` of the batch, one after another, from the large and the small side.
    fn sample<'a, T>(&self, large: &'a [T], small: &'a [T], n: usize) -> (&'a [T], &'a [T]) {
        let (l, s) = (self.groups * self.c * self.window.inputs(), self.groups * self.m * self.window.positions());
        (&large[n * l..][..l], &small[n * s..][..s])
    }

    /// `[n, …W]`: the weight gradient of every row of the batch.
    pub(crate) fn weight_gradients<T: Real>(&self, large: &[T], small: &[T]) -> Vec<T> {
        let mut dw = vec![T::ZERO; self.n * self.weights()];
        if dw.is_empty() {
            return dw;
        }
        let single = self.single(self.n);
        dw.par_chunks_mut(self.weights()).enumerate().for_each_init(Vec::new, |cols, (n, dw)| {
            let (l, s) = self.sample(large, small, n);
            self.add_weight_gradient(l, s, dw, cols, single);
        });
        dw
    }

    /// Hands out the batch in equal pieces, one a thread, gives each `width` sums to add to, and adds
    /// these up in order.
    fn gather<T: Real>(&self, width: usize, work: impl Fn(Range<usize>, &mut [T]) + Sync) -> Vec<T> {
        let pieces = rayon::current_num_threads().clamp(1, self.n.max(1));
        let parts: Vec<Vec<T>> = (0..pieces)
            .into_par_iter()
            .map(|p| {
                let mut part = vec![T::ZERO; width];
                work(p * self.n / pieces..(p + 1) * self.n / pieces, &mut part);
                part
            })
            .collect();
        let mut parts = parts.into_iter();
        let mut sum = parts.next().unwrap_or_default();
        for part in parts {
            sum.iter_mut().zip(part).for_each(|(s, p)| *s += p);
        }
        sum
    }

    /// The weight gradient summed over the batch.
    pub(crate) fn weight_gradient<T: Real>(&self, large: &[T], small: &[T]) -> Vec<T> {
        let are_small = together::pieces(self).is_some();
        self.gather(self.weights(), |range, dw| {
            if are_small {
                let (l, s) = (self.c * self.window.inputs(), self.m * self.window.positions());
                let (large, small) = (&large[range.start * l..range.end * l], &small[range.start * s..range.end * s]);
                return together::add_weight_gradient(self, large, small, range.len(), dw);
            }
            let mut cols = Vec::new();
            for n in range {
                let (l, s) = self.sample(large, small, n);
                self.add_weight_gradient(l, s, dw, &mut cols, self.single(self.n));
            }
        })
    }

    /// `[sums, …W]`: `Σ_n u[s, n] · (weight gradient of n)²`, no gradient of which lies in memory.
    pub(crate) fn squared_weight_gradients<T: Tile>(&self, large: &[T], small: &[T], u: &[T], sums: usize) -> Vec<T> {
        let padded = Padded::new(&self.window).filter(|_| self.c > 1 && self.m > 1);
        let Some(padded) = padded else { return self.squared_one_by_one(large, small, u, sums) };
        let taps = self.window.taps();
        let extents = Extents {
            groups: self.groups,
            rows: self.m,
            columns: self.unfolded(),
            unit: taps * T::size()[1].min(self.c),
            steps: self.window.positions(),
            samples: self.n,
            sums,
        };
        squared::sum(extents, u, &Gradients { layout: self, large, small, padded })
    }

    /// The same with one row's gradient at a time in memory.
    fn squared_one_by_one<T: Real>(&self, large: &[T], small: &[T], u: &[T], sums: usize) -> Vec<T> {
        let width = self.weights();
        self.gather(sums * width, |range, out| {
            let (mut cols, mut dw) = (Vec::new(), vec![T::ZERO; width]);
            for n in range {
                let (l, s) = self.sample(large, small, n);
                dw.fill(T::ZERO);
                self.add_weight_gradient(l, s, &mut dw, &mut cols, self.single(self.n));
                if width == 0 {
                    continue;
                }
                dw.iter_mut().for_each(|d| *d = *d * *d);
                for (s, out) in out.chunks_exact_mut(width).enumerate() {
                    add_scaled(out, u[s * self.n + n], &dw, 1);
                }
            }
        })
    }
}

/// What weight gradients are products of: the small planes, and what the taps see of the large ones. Columns of a block of
/// channels are ordered by tap and then by channel, so that a position's channels are copied in one piece.
struct Gradients<'a, T> {
    layout: &'a Layout,
    large: &'a [T],
    small: &'a [T],
    padded: Padded,
}

impl<T: Real> Factors<T> for Gradients<'_, T> {
    fn left(&self, n: usize, group: usize, steps: Range<usize>, rows: Range<usize>, out: &mut [T], width: usize) {
        let (m, len) = (self.layout.m, self.layout.window.positions());
        let small = &self.small[(n * self.layout.groups + group) * m * len..];
        for (i, m) in rows.enumerate() {
            let row = &small[m * len..][steps.clone()];
            out[i..].iter_mut().step_by(width).zip(row).for_each(|(o, &s)| *o = s);
        }
    }

    fn right(&self, n: usize, group: usize, steps: Range<usize>, columns: Range<usize>, out: &mut [T], width: usize) {
        let (taps, inputs, count) = (self.padded.taps.len(), self.layout.window.inputs(), steps.len());
        let (first, c) = (columns.start / taps, columns.len() / taps);
        let planes = &self.large[((n * self.layout.groups + group) * self.layout.c + first) * inputs..][..c * inputs];
        let mut pixels = vec![T::ZERO; c * self.padded.plane];
        for (j, plane) in planes.chunks_exact(inputs).enumerate() {
            self.padded.spread(plane, &mut pixels[j..], c);
        }
        let positions = &self.padded.positions[steps];
        for (tap, far) in self.padded.taps.iter().enumerate() {
            // the channels of a tap lie in one panel or in several
            let mut from = 0;
            while from < c {
                let (panel, place) = ((tap * c + from) / width, (tap * c + from) % width);
                let to = c.min(from + width - place);
                let panel = &mut out[panel * count * width..][..count * width];
                for (out, position) in panel.chunks_exact_mut(width).zip(positions) {
                    out[place..place + to - from].copy_from_slice(&pixels[(position + far) * c..][from..to]);
                }
                from = to;
            }
        }
    }

    fn place(&self, sums: &[T], row: &mut [T]) {
        let taps = self.layout.window.taps();
        for (tap, sums) in sums.chunks_exact(sums.len() / taps).enumerate() {
            row[tap..].iter_mut().step_by(taps).zip(sums).for_each(|(r, &s)| *r += s);
        }
    }
}
