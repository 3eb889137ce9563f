//! Convolutions with 3 × 3 taps at stride 1 on the host, by F(2 × 2, 3 × 3) of Lavin and Gray, Fast Algorithms for
//! Convolutional Neural Networks (2015): four outputs take 16 products instead of 36. With the matrices of that paper a
//! tile `d` of 4 × 4 inputs and the taps `g` give `Y = Aᵀ[(G g Gᵀ) ⊙ (Bᵀ d B)]A`, summed over the input channels before `A`:
//! sixteen products of matrices, one for each element of a transformed tile.

use super::correlate::{Layout, mat};
use super::linalg::{Mat, Real, gemm_rows};
use rayon::prelude::*;
use std::ops::Range;

/// Elements of a transformed tile.
const TILE: usize = 16;

/// Channels on both sides, and tiles of all samples, from which on the transforms cost less than they save.
const CHANNELS: usize = 16;
const TILES: usize = 32;

/// Elements that transformed taps may have.
const MOST_TAPS: usize = 1 << 24;

/// Elements of the transformed tiles that are worked on at a time, those of both sides together.
const AT_ONCE: usize = 1 << 18;

/// Elements between rows that would else lie a power of two apart, where caches hold few.
const APART: usize = 16;

/// A convolution of `from` channels to `to` by 3 × 3 taps: `out[o] = Σ_k taps[k] · x[o + k − begin]`, zero outside.
pub(super) struct Winograd {
    samples: usize,
    /// Channels on both sides.
    from: usize,
    to: usize,
    /// Rows and columns of the planes, and the padding before them.
    input: [usize; 2],
    begin: [usize; 2],
    output: [usize; 2],
}

/// Transformed taps: a row for each channel of one side, in it the elements of a tile, and for each of these all channels of
/// the other side.
struct Taps<T> {
    values: Vec<T>,
    row: usize,
    /// Rows are input channels, not output channels.
    by_input: bool,
}

/// Rows and columns of the large planes, of the padding before them, and of the small planes, where this way applies.
fn three_by_three(l: &Layout) -> Option<([usize; 2], [usize; 2], [usize; 2])> {
    let [y, x] = l.window.axes[..] else { return None };
    let plain = |a: super::window::Axis| a.kernel == 3 && a.stride == 1 && a.dilation == 1 && a.begin <= 2;
    let known = l.groups == 1 && plain(y) && plain(x);
    let pays = l.c >= CHANNELS && l.m >= CHANNELS && TILE * l.c * l.m <= MOST_TAPS;
    (known && pays).then_some(([y.input, x.input], [y.begin, x.begin], [y.output, x.output]))
}

impl Winograd {
    /// How to compute the small planes of `l` from the large ones, if so.
    pub(super) fn of(l: &Layout) -> Option<Self> {
        let (input, begin, output) = three_by_three(l)?;
        Self { samples: l.n, from: l.c, to: l.m, input, begin, output }.if_many()
    }

    /// How to compute the large planes from the small ones, if so: taps change places, and so do the planes.
    pub(super) fn transposed(l: &Layout) -> Option<Self> {
        let (input, begin, output) = three_by_three(l)?;
        let begin = begin.map(|b| 2 - b);
        Self { samples: l.n, from: l.m, to: l.c, input: output, begin, output: input }.if_many()
    }

    fn if_many(self) -> Option<Self> {
        let [rows, columns] = self.tiles();
        (self.samples * rows * columns >= TILES).then_some(self)
    }

    /// Tiles of a plane.
    fn tiles(&self) -> [usize; 2] {
        self.output.map(|o| o.div_ceil(2))
    }

    /// `out[n, to, …] += taps ⋆ x[n, from, …]`, weights `[to, from, 3, 3]`.
    pub(super) fn conv<T: Real>(&self, x: &[T], weight: &[T], out: &mut [T]) {
        self.run(x, &transform_taps(weight, [self.to, self.from], false), out);
    }

    /// The same with weights `[from, to, 3, 3]` whose taps run backwards.
    pub(super) fn conv_transpose<T: Real>(&self, x: &[T], weight: &[T], out: &mut [T]) {
        self.run(x, &transform_taps(weight, [self.from, self.to], true), out);
    }

    fn run<T: Real>(&self, x: &[T], taps: &Taps<T>, out: &mut [T]) {
        let [rows, columns] = self.tiles();
        let each = TILE * (self.from + self.to) * columns;
        let at_once = (AT_ONCE / each.max(1)).clamp(1, rows * self.samples);
        let (input, output) = (self.from * self.input[0] * self.input[1], self.to * self.output[0] * self.output[1]);
        let mut room = Room::default();
        if at_once >= rows {
            let samples = at_once / rows;
            for (x, out) in x.chunks(samples * input).zip(out.chunks_mut(samples * output)) {
                self.add_rows(x, 0..rows, taps, out, &mut room);
            }
            return;
        }
        for (x, out) in x.chunks_exact(input).zip(out.chunks_exact_mut(output)) {
            for from in (0..rows).step_by(at_once) {
                self.add_rows(x, from..(from + at_once).min(rows), taps, out, &mut room);
            }
        }
    }

    /// Adds what these rows of tiles say, of all samples of `x`.
    fn add_rows<T: Real>(&self, x: &[T], rows: Range<usize>, taps: &Taps<T>, out: &mut [T], room: &mut Room<T>) {
        let (input, output) = (self.input[0] * self.input[1], self.output[0] * self.output[1]);
        let samples = x.len() / (self.from * input);
        let columns = self.tiles()[1];
        let tiles = samples * rows.len() * columns;
        let row = TILE * tiles + APART;
        room.seen.resize(self.from * row, T::ZERO);
        room.sums.resize(TILE * self.to * tiles, T::ZERO);
        room.seen.par_chunks_mut(row).enumerate().for_each_init(Vec::new, |room, (c, seen)| {
            for (n, x) in x.chunks_exact(self.from * input).enumerate() {
                let at = n * rows.len() * columns;
                self.transform(&x[c * input..][..input], rows.clone(), seen, tiles, at, room);
            }
        });
        let seen = &room.seen;
        room.sums.par_chunks_mut(self.to * tiles).enumerate().for_each(|(e, sums)| {
            let seen = mat(&seen[e * tiles..], self.from, tiles, row);
            gemm_rows(taps.element(e, [self.to, self.from]), seen, sums, tiles, 1.0, 0.0, false);
        });
        let sums = &room.sums;
        out.par_chunks_exact_mut(output).enumerate().for_each_init(Vec::new, |room, (i, plane)| {
            let (n, c) = (i / self.to, i % self.to);
            let [height, width] = self.output;
            for (i, t) in rows.clone().enumerate() {
                let at = c * tiles + (n * rows.len() + i) * columns;
                let pair = outputs(|e| &sums[e * self.to * tiles + at..][..columns], room, columns);
                for (y, row) in pair.chunks_exact(2 * columns).enumerate().take(height - 2 * t) {
                    let out = &mut plane[(2 * t + y) * width..][..width];
                    out.iter_mut().zip(row).for_each(|(o, &v)| *o += v);
                }
            }
        });
    }

    /// Transforms rows of tiles of a plane: element `e` of them to `seen[e · tiles + at..]`.
    fn transform<T: Real>(
        &self,
        plane: &[T],
        rows: Range<usize>,
        seen: &mut [T],
        tiles: usize,
        at: usize,
        room: &mut Vec<T>,
    ) {
        let columns = self.tiles()[1];
        let (wide, count) = (columns + 1, 2 * rows.len() + 2);
        // every row of the plane as its even elements and then its odd ones
        let row = 2 * wide;
        room.clear();
        room.resize((count + 4) * row, T::ZERO);
        let (split, down) = room.split_at_mut(count * row);
        for (y, split) in split.chunks_exact_mut(row).enumerate() {
            if let Some(y) = (2 * rows.start + y).checked_sub(self.begin[0]).filter(|&y| y < self.input[0]) {
                split_row(&plane[y * self.input[1]..][..self.input[1]], self.begin[1], split);
            }
        }
        for i in 0..rows.len() {
            let four: [&[T]; 4] = std::array::from_fn(|y| &split[(2 * i + y) * row..][..row]);
            for (j, v) in down.chunks_exact_mut(row).enumerate() {
                combine(j, four, v);
            }
            for (j, v) in down.chunks_exact(row).enumerate() {
                let (even, odd) = v.split_at(wide);
                let four = [&even[..columns], &odd[..columns], &even[1..], &odd[1..]];
                for k in 0..4 {
                    let to = (4 * j + k) * tiles + at + i * columns;
                    combine(k, four, &mut seen[to..][..columns]);
                }
            }
        }
    }
}

/// Transformed tiles of the input, `[from, 16, tiles]` with a gap after each channel, and of the output, `[16, to, tiles]`.
#[derive(Default)]
struct Room<T> {
    seen: Vec<T>,
    sums: Vec<T>,
}

/// A row behind `begin` zeros: its even elements, and after half of `out` its odd ones.
fn split_row<T: Real>(row: &[T], begin: usize, out: &mut [T]) {
    let (even, odd) = out.split_at_mut(out.len() / 2);
    let first = begin % 2;
    let (here, there) = if first == 0 { (even, odd) } else { (odd, even) };
    let (here, there) = (&mut here[begin / 2..], &mut there[begin / 2 + first..]);
    let (twos, last) = row.as_chunks::<2>();
    for ((here, there), &[a, b]) in here.iter_mut().zip(there.iter_mut()).zip(twos) {
        (*here, *there) = (a, b);
    }
    // an odd element at the end, and what one half has room for and the other not
    let done = twos.len().min(here.len()).min(there.len());
    let rest = twos.get(done).map(|t| t[0]).or(last.first().copied());
    if let (Some(here), Some(x)) = (here.get_mut(done), rest) {
        *here = x;
    }
}

/// Row `j` of `Bᵀ` times four rows.
fn combine<T: Real>(j: usize, [a, b, c, d]: [&[T]; 4], out: &mut [T]) {
    match j {
        0 => pairs(a, c, out, |x, y| x - y),
        1 => pairs(b, c, out, |x, y| x + y),
        2 => pairs(c, b, out, |x, y| x - y),
        _ => pairs(b, d, out, |x, y| x - y),
    }
}

fn pairs<T: Real>(x: &[T], y: &[T], out: &mut [T], f: impl Fn(T, T) -> T) {
    out.iter_mut().zip(x.iter().zip(y)).for_each(|(o, (&x, &y))| *o = f(x, y));
}

/// `x + y + z` and `y − z − w`, the rows of `Aᵀ` times four rows.
fn fold<T: Real>([x, y, z, w]: [&[T]; 4], upper: &mut [T], lower: &mut [T]) {
    upper.iter_mut().zip(x).zip(y.iter().zip(z)).for_each(|((o, &x), (&y, &z))| *o = x + y + z);
    lower.iter_mut().zip(w).zip(y.iter().zip(z)).for_each(|((o, &w), (&y, &z))| *o = y - z - w);
}

/// The two rows of outputs of a row of tiles, one after the other.
fn outputs<'a, T: Real>(element: impl Fn(usize) -> &'a [T], room: &'a mut Vec<T>, columns: usize) -> &'a [T] {
    room.resize(12 * columns, T::ZERO);
    let (pair, down) = room.split_at_mut(4 * columns);
    for (k, down) in down.chunks_exact_mut(2 * columns).enumerate() {
        let (upper, lower) = down.split_at_mut(columns);
        fold([element(k), element(4 + k), element(8 + k), element(12 + k)], upper, lower);
    }
    for (y, out) in pair.chunks_exact_mut(2 * columns).enumerate() {
        let [a, b, c, d]: [&[T]; 4] = std::array::from_fn(|k| &down[(2 * k + y) * columns..][..columns]);
        let of = a.iter().zip(b).zip(c.iter().zip(d));
        for (out, ((&a, &b), (&c, &d))) in out.as_chunks_mut::<2>().0.iter_mut().zip(of) {
            *out = [a + b + c, b - c - d];
        }
    }
    pair
}

impl<T: Real> Taps<T> {
    /// Element `e` of all tiles, `[to, from]`.
    fn element(&self, e: usize, [to, from]: [usize; 2]) -> Mat<'_, T> {
        if self.by_input {
            mat(&self.values[e * to..], from, to, self.row).t()
        } else {
            mat(&self.values[e * from..], to, from, self.row)
        }
    }
}

/// `G` times three rows, one after another.
fn spread<T: Real>([a, b, c]: [&[T]; 3], out: &mut [T]) {
    let half = T::from_f64(0.5);
    let columns = a.len();
    out[..columns].copy_from_slice(a);
    let of = || a.iter().zip(b).zip(c);
    let (sum, difference) = out[columns..3 * columns].split_at_mut(columns);
    sum.iter_mut().zip(of()).for_each(|(o, ((&a, &b), &c))| *o = (a + b + c) * half);
    difference.iter_mut().zip(of()).for_each(|(o, ((&a, &b), &c))| *o = (a - b + c) * half);
    out[3 * columns..4 * columns].copy_from_slice(c);
}

/// `G g Gᵀ` of weights `[rows, columns, 3, 3]`, backwards with `transposed`.
fn transform_taps<T: Real>(weight: &[T], [rows, columns]: [usize; 2], transposed: bool) -> Taps<T> {
    let row = TILE * columns + APART;
    let mut values = vec![T::ZERO; rows * row];
    values.par_chunks_mut(row).zip(weight.par_chunks(9 * columns)).for_each_init(Vec::new, |room, (out, weight)| {
        room.resize(21 * columns, T::ZERO);
        let (taps, down) = room.split_at_mut(9 * columns);
        for (k, tap) in taps.chunks_exact_mut(columns).enumerate() {
            let k = if transposed { 8 - k } else { k };
            tap.iter_mut().zip(weight.as_chunks::<9>().0).for_each(|(t, g)| *t = g[k]);
        }
        for (x, down) in down.chunks_exact_mut(4 * columns).enumerate() {
            spread([0, 3, 6].map(|y| &taps[(y + x) * columns..][..columns]), down);
        }
        for (y, out) in out.chunks_exact_mut(4 * columns).enumerate().take(4) {
            spread([0, 4, 8].map(|x| &down[(x + y) * columns..][..columns]), out);
        }
    });
    Taps { values, row, by_input: transposed }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::window::{Axis, Window};

    fn wave(len: usize, k: usize) -> Vec<f64> {
        (0..len).map(|i| ((i * (k + 2) + k) as f64 * 0.61).sin()).collect()
    }

    fn layout(n: usize, input: [usize; 2], begin: [usize; 2], end: [usize; 2]) -> Layout {
        let axis = |i: usize| Axis {
            input: input[i],
            kernel: 3,
            stride: 1,
            dilation: 1,
            begin: begin[i],
            end: end[i],
            output: input[i] + begin[i] + end[i] - 2,
        };
        Layout { n, groups: 1, c: 17, m: 19, window: Window { axes: vec![axis(0), axis(1)] } }
    }

    /// `S[n, m, o] = Σ W[m, c, k] · L[n, c, i(o, k)]` as it is written, for every index of both sides.
    fn each(l: &Layout, mut of: impl FnMut(usize, usize, usize)) {
        let [y, x] = l.window.axes[..] else { unreachable!() };
        for (n, m, c) in (0..l.n).flat_map(|n| (0..l.m).flat_map(move |m| (0..l.c).map(move |c| (n, m, c)))) {
            for (oy, ox, k) in
                (0..y.output).flat_map(|a| (0..x.output).flat_map(move |b| (0..9).map(move |k| (a, b, k))))
            {
                if let (Some(iy), Some(ix)) = (y.at(oy, k / 3), x.at(ox, k % 3)) {
                    let small = ((n * l.m + m) * y.output + oy) * x.output + ox;
                    let large = ((n * l.c + c) * y.input + iy) * x.input + ix;
                    of(small, (m * l.c + c) * 9 + k, large);
                }
            }
        }
    }

    #[test]
    fn both_directions_are_the_sums_they_stand_for() {
        let layouts = [
            layout(3, [8, 8], [1, 1], [1, 1]),
            layout(5, [7, 5], [1, 1], [1, 1]),
            layout(2, [9, 12], [0, 2], [2, 0]),
            layout(2, [10, 9], [2, 1], [1, 3]),
            layout(9, [6, 5], [0, 0], [0, 0]),
        ];
        for l in layouts {
            let (large, small) = (l.n * l.c * l.window.inputs(), l.n * l.m * l.window.positions());
            let (x, dy, w) = (wave(large, 0), wave(small, 1), wave(l.weights(), 2));
            let (mut want, mut got) = (vec![1.0; small], vec![1.0; small]);
            each(&l, |s, k, i| want[s] += w[k] * x[i]);
            Winograd::of(&l).unwrap().conv(&x, &w, &mut got);
            let near = |got: &[f64], want: &[f64]| got.iter().zip(want).all(|(g, w)| (g - w).abs() < 1e-11);
            assert!(near(&got, &want), "{:?}", l.window);
            let (mut want, mut got) = (vec![1.0; large], vec![1.0; large]);
            each(&l, |s, k, i| want[i] += w[k] * dy[s]);
            Winograd::transposed(&l).unwrap().conv_transpose(&dy, &w, &mut got);
            assert!(near(&got, &want), "{:?} transposed", l.window);
        }
    }

    #[test]
    fn large_planes_are_cut_into_rows_and_small_ones_taken_together() {
        for l in [layout(2, [70, 900], [1, 1], [1, 1]), layout(200, [5, 4], [1, 1], [1, 1])] {
            let (large, small) = (l.c * l.window.inputs(), l.m * l.window.positions());
            let (x, w) = (wave(l.n * large, 0), wave(l.weights(), 2));
            let mut all = vec![0.0; l.n * small];
            let of = Winograd::of(&l).unwrap();
            of.conv(&x, &w, &mut all);
            let one = Winograd { samples: 1, ..of };
            for (x, all) in x.chunks(large).zip(all.chunks(small)) {
                let mut alone = vec![0.0; small];
                one.conv(x, &w, &mut alone);
                assert!(alone.iter().zip(all).all(|(a, b)| (a - b).abs() < 1e-12));
            }
        }
    }

    #[test]
    fn single_precision_loses_little_more_than_the_plain_sum() {
        let l = Layout { c: 64, m: 32, ..layout(3, [16, 16], [1, 1], [1, 1]) };
        let (x, w) = (wave(l.n * l.c * l.window.inputs(), 0), wave(l.weights(), 2));
        let small = l.n * l.m * l.window.positions();
        let single = |v: &[f64]| v.iter().map(|&v| v as f32).collect::<Vec<_>>();
        let (x, w) = (single(&x), single(&w));
        let (mut exact, mut plain, mut ours) = (vec![0.0; small], vec![0.0_f32; small], vec![0.0_f32; small]);
        each(&l, |s, k, i| {
            exact[s] += f64::from(w[k]) * f64::from(x[i]);
            plain[s] += w[k] * x[i];
        });
        Winograd::of(&l).unwrap().conv(&x, &w, &mut ours);
        let error = |got: &[f32]| {
            let squares = got.iter().zip(&exact).map(|(&g, e)| (f64::from(g) - e).powi(2));
            (squares.sum::<f64>() / exact.iter().map(|e| e * e).sum::<f64>()).sqrt()
        };
        println!("relative error: plain {:.1e}, ours {:.1e}", error(&plain), error(&ours));
        assert!(error(&ours) < 4.0 * error(&plain), "plain {:.1e}, ours {:.1e}", error(&plain), error(&ours));
    }

    #[test]
    fn what_it_cannot_do_is_left_to_others() {
        let l = layout(3, [8, 8], [1, 1], [1, 1]);
        assert!(Winograd::of(&l).is_some() && Winograd::transposed(&l).is_some());
        let changed = |change: &dyn Fn(&mut Layout)| {
            let mut l = l.clone();
            change(&mut l);
            Winograd::of(&l).is_none() && Winograd::transposed(&l).is_none()
        };
        assert!(changed(&|l| l.groups = 2));
        assert!(changed(&|l| l.c = 8));
        assert!(changed(&|l| l.m = 8));
        assert!(changed(&|l| l.m = 1 << 20));
        assert!(changed(&|l| l.n = 1));
        assert!(changed(&|l| l.window.axes[0].stride = 2));
        assert!(changed(&|l| l.window.axes[1].dilation = 2));
        assert!(changed(&|l| l.window.axes[1].begin = 3));
        assert!(changed(&|l| l.window.axes[0].kernel = 5));
        assert!(changed(&|l| l.window.axes.truncate(1)));
    }
}
