//! `Σ_n u[s, n] (Σ_k a_n[i, k] · b_n[k, j])²`: squares of products, summed over the samples on the host.
//!
//! A block of sums stays in a core's cache while all samples pass by, so that no product ever lies in memory, and every
//! sum is written once.

use super::linalg::Real;
use super::tile::{Into, Tile};
use rayon::prelude::*;
use std::ops::Range;

/// Steps of a product that are packed at once.
const STEPS: usize = 512;
/// Elements of a block of sums, which stays in a core's cache.
const BLOCK: usize = 1 << 17;
/// Elements of left factors that are packed at once.
const LEFT: usize = 1 << 22;

/// Extents of the sums and of what they are made of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Extents {
    /// Products of a sample, each squared by itself.
    pub groups: usize,
    /// Rows of a product.
    pub rows: usize,
    /// Columns of a product.
    pub columns: usize,
    /// Blocks of columns hold whole units.
    pub unit: usize,
    /// Summands of an element of a product.
    pub steps: usize,
    /// Products of a group.
    pub samples: usize,
    /// Sums of each group.
    pub sums: usize,
}

/// The factors of the products. A panel holds `width` rows or columns of every step; what they leave of it stays as it is.
pub(crate) trait Factors<T>: Sync {
    /// Packs some rows of some steps of the left factor: one panel.
    fn left(&self, sample: usize, group: usize, steps: Range<usize>, rows: Range<usize>, out: &mut [T], width: usize);
    /// Packs some columns of some steps of the right factor, panel after panel.
    fn right(
        &self,
        sample: usize,
        group: usize,
        steps: Range<usize>,
        columns: Range<usize>,
        out: &mut [T],
        width: usize,
    );
    /// Adds columns of a row in the order of [`Factors::right`] to the same columns of the result.
    fn place(&self, sums: &[T], row: &mut [T]);
}

/// `[sums, groups, rows, columns]`, with u `[sums, samples]`.
pub(crate) fn sum<T: Tile>(e: Extents, u: &[T], f: &impl Factors<T>) -> Vec<T> {
    let mut out = vec![T::ZERO; e.sums * e.groups * e.rows * e.columns];
    if out.is_empty() || e.steps == 0 {
        return out;
    }
    let rows = e.rows.next_multiple_of(T::size()[0]);
    let round = (LEFT / (e.groups * e.steps * rows)).max(1);
    for from in (0..e.samples).step_by(round) {
        let samples = from..(from + round).min(e.samples);
        let left = pack(e, samples.clone(), f);
        let tasks = tasks::<T>(e, &mut out);
        tasks.into_par_iter().with_max_len(1).for_each_init(Room::default, |room, task| {
            block(e, u, f, samples.clone(), &left, task, room);
        });
    }
    out
}

/// The left factors of some samples: `[sample, group, steps]` and in it, for each piece of steps, panel after panel.
fn pack<T: Tile>(e: Extents, samples: Range<usize>, f: &impl Factors<T>) -> Vec<T> {
    let [high, _] = T::size();
    let rows = e.rows.next_multiple_of(high);
    let mut left = vec![T::ZERO; samples.len() * e.groups * e.steps * rows];
    left.par_chunks_mut(e.steps * rows).enumerate().for_each(|(i, left)| {
        for steps in pieces(e.steps) {
            let piece = &mut left[steps.start * rows..steps.end * rows];
            for (p, panel) in piece.chunks_mut(steps.len() * high).enumerate() {
                let rows = p * high..((p + 1) * high).min(e.rows);
                f.left(samples.start + i / e.groups, i % e.groups, steps.clone(), rows, panel, high);
            }
        }
    });
    left
}

fn pieces(steps: usize) -> impl Iterator<Item = Range<usize>> {
    (0..steps).step_by(STEPS).map(move |from| from..(from + STEPS).min(steps))
}

/// A block of one set's sums of one group.
struct Task<'a, T> {
    set: usize,
    group: usize,
    panels: Range<usize>,
    columns: Range<usize>,
    /// Its part of every row.
    rows: Vec<&'a mut [T]>,
}

/// Blocks that fit the cache, and enough of them to keep all threads at work: first of columns, then of rows, since every
/// block of rows packs the right factors anew.
fn tasks<T: Tile>(e: Extents, out: &mut [T]) -> Vec<Task<'_, T>> {
    let [high, _] = T::size();
    let panels = e.rows.div_ceil(high);
    let wanted = 2 * rayon::current_num_threads();
    let (products, units) = (e.sums * e.groups, e.columns.div_ceil(e.unit));
    let blocks = (e.columns * panels * high / BLOCK).max(wanted.div_ceil(products)).clamp(1, units);
    let width = units.div_ceil(blocks) * e.unit;
    let down = (wanted / 2).div_ceil(e.columns.div_ceil(width) * products);
    let height = panels.div_ceil(down) * high;
    let mut tasks: Vec<Task<'_, T>> = Vec::new();
    for (i, product) in out.chunks_mut(e.rows * e.columns).enumerate() {
        for (r, rows) in product.chunks_mut(height * e.columns).enumerate() {
            let first = tasks.len();
            tasks.extend((0..e.columns).step_by(width).map(|c| Task {
                set: i / e.groups,
                group: i % e.groups,
                panels: r * height / high..((r + 1) * height / high).min(panels),
                columns: c..(c + width).min(e.columns),
                rows: Vec::with_capacity(height),
            }));
            for row in rows.chunks_mut(e.columns) {
                tasks[first..].iter_mut().zip(row.chunks_mut(width)).for_each(|(task, part)| task.rows.push(part));
            }
        }
    }
    tasks
}

/// Memory that a thread uses again.
#[derive(Default)]
struct Room<T> {
    sums: Vec<T>,
    product: Vec<T>,
    right: Vec<T>,
}

fn zeros<T: Real>(room: &mut Vec<T>, len: usize) {
    room.clear();
    room.resize(len, T::ZERO);
}

/// Makes one block of sums from some samples, whose left factors are packed.
fn block<T: Tile>(
    e: Extents,
    u: &[T],
    f: &impl Factors<T>,
    samples: Range<usize>,
    left: &[T],
    mut task: Task<T>,
    room: &mut Room<T>,
) {
    let [high, wide] = T::size();
    let rows = e.rows.next_multiple_of(high);
    let Room { sums, product, right } = room;
    let stride = task.columns.len().next_multiple_of(wide);
    zeros(sums, task.panels.len() * high * stride);
    for n in samples.clone() {
        let weight = u[task.set * e.samples + n];
        if weight == T::ZERO {
            continue;
        }
        let left = &left[((n - samples.start) * e.groups + task.group) * e.steps * rows..][..e.steps * rows];
        if e.steps > STEPS {
            zeros(product, sums.len());
        }
        for steps in pieces(e.steps) {
            let (count, last) = (steps.len(), steps.end == e.steps);
            right.resize(right.len().max(count * stride), T::ZERO);
            let right = &mut right[..count * stride];
            f.right(n, task.group, steps.clone(), task.columns.clone(), right, wide);
            let panels = left[steps.start * rows..].chunks(count * high).skip(task.panels.start);
            for (p, a) in panels.take(task.panels.len()).enumerate() {
                for (q, b) in right.chunks(count * wide).enumerate() {
                    let at = p * high * stride + q * wide;
                    if last {
                        let before = (e.steps > STEPS).then(|| &product[at..]);
                        T::add_squares(count, a, b, before, weight, &mut Into { data: &mut sums[at..], stride });
                    } else {
                        T::add_products(count, a, b, &mut Into { data: &mut product[at..], stride });
                    }
                }
            }
        }
    }
    for (row, sums) in task.rows.iter_mut().zip(sums.chunks(stride)) {
        f.place(&sums[..task.columns.len()], row);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `a[n, g, i, k] · b[n, g, k, j]`.
    struct Dense {
        a: Vec<f64>,
        b: Vec<f64>,
        e: Extents,
    }

    impl Dense {
        fn a(&self, n: usize, g: usize, i: usize, k: usize) -> f64 {
            self.a[((n * self.e.groups + g) * self.e.rows + i) * self.e.steps + k]
        }
        fn b(&self, n: usize, g: usize, k: usize, j: usize) -> f64 {
            self.b[((n * self.e.groups + g) * self.e.steps + k) * self.e.columns + j]
        }
    }

    struct Of<'a, T>(&'a Dense, fn(f64) -> T);

    impl<T: Tile> Factors<T> for Of<'_, T> {
        fn left(&self, n: usize, g: usize, steps: Range<usize>, rows: Range<usize>, out: &mut [T], width: usize) {
            for (step, k) in steps.enumerate() {
                rows.clone().enumerate().for_each(|(p, i)| out[step * width + p] = (self.1)(self.0.a(n, g, i, k)));
            }
        }
        fn right(&self, n: usize, g: usize, steps: Range<usize>, columns: Range<usize>, out: &mut [T], width: usize) {
            for (p, j) in columns.enumerate() {
                for (step, k) in steps.clone().enumerate() {
                    let at = p / width * steps.len() * width + step * width + p % width;
                    out[at] = (self.1)(self.0.b(n, g, k, j));
                }
            }
        }
        fn place(&self, sums: &[T], row: &mut [T]) {
            row.iter_mut().zip(sums).for_each(|(r, &s)| *r += s);
        }
    }

    #[test]
    fn sums_are_those_of_plain_loops() {
        let wave = |len: usize, k: f64| (0..len).map(|i| (i as f64 * k).sin()).collect::<Vec<f64>>();
        for [groups, rows, columns, steps, samples, sums] in
            [[1, 1, 1, 1, 1, 1], [2, 13, 33, 7, 3, 2], [1, 25, 70, STEPS + 5, 2, 3], [3, 5, 40, 16, 5, 1]]
        {
            let e = Extents { groups, rows, columns, unit: 8, steps, samples, sums };
            let d = Dense {
                a: wave(samples * groups * rows * steps, 0.7),
                b: wave(samples * groups * steps * columns, 0.3),
                e,
            };
            // a sample that counts nothing, one that counts in every set
            let u: Vec<f64> = (0..sums * samples).map(|i| (i % 3) as f64 * 0.5).collect();
            let u32s: Vec<f32> = u.iter().map(|&v| v as f32).collect();
            let wide = sum(e, &u, &Of(&d, |v| v));
            let narrow = sum(e, &u32s, &Of(&d, |v| v as f32));
            let mut at = 0;
            for s in 0..sums {
                for (g, i, j) in
                    (0..groups * rows * columns).map(|v| (v / columns / rows, v / columns % rows, v % columns))
                {
                    let want: f64 = (0..samples)
                        .map(|n| {
                            let p: f64 = (0..steps).map(|k| d.a(n, g, i, k) * d.b(n, g, k, j)).sum();
                            u[s * samples + n] * p * p
                        })
                        .sum();
                    let scale = want.abs().max(1.0);
                    assert!((wide[at] - want).abs() < 1e-12 * scale, "{e:?}: {} for {want}", wide[at]);
                    assert!((f64::from(narrow[at]) - want).abs() < 1e-4 * scale, "{e:?}: {} for {want}", narrow[at]);
                    at += 1;
                }
            }
        }
    }
}
