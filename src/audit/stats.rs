//! Intervals, ROC curves and what else statistics needs. All intervals are 95 %.

use crate::inputs::generator;
use rand::RngExt;

/// The 97.5 % point of the standard normal distribution.
const Z: f64 = 1.959_963_984_540_054;
/// Resamples of a bootstrap: the ends of a 95 % interval are then the 25th of 1,000 from either side.
const RESAMPLES: usize = 1000;

/// Wilson's score interval of a share (Wilson 1927); `[0, 1]` without samples.
pub fn wilson(hits: usize, n: usize) -> [f64; 2] {
    if n == 0 {
        return [0.0, 1.0];
    }
    let (n, k) = (n as f64, hits as f64);
    let (p, z2) = (k / n, Z * Z);
    let middle = (p + z2 / (2.0 * n)) / (1.0 + z2 / n);
    let half = Z / (1.0 + z2 / n) * (p * (1.0 - p) / n + z2 / (4.0 * n * n)).sqrt();
    // exact at the ends, where rounding leaves a trace
    [if k == 0.0 { 0.0 } else { (middle - half).max(0.0) }, if k == n { 1.0 } else { (middle + half).min(1.0) }]
}

/// Interval of `p_a − p_b` of two samples apart: Newcombe's hybrid of two Wilson intervals (Newcombe 1998, method 10).
pub fn difference(a: (usize, usize), b: (usize, usize)) -> [f64; 2] {
    hybrid(a, b, 0.0)
}

/// Interval of `p_a − p_b` of the same samples, where `a[i]` and `b[i]` belong together: Newcombe's hybrid with the
/// correlation of both (Newcombe 1998, paired data).
pub fn paired_difference(a: &[bool], b: &[bool]) -> [f64; 2] {
    let count = |f: &dyn Fn(bool, bool) -> bool| a.iter().zip(b).filter(|(x, y)| f(**x, **y)).count() as f64;
    let (both, only_a) = (count(&|x, y| x && y), count(&|x, y| x && !y));
    let (only_b, none) = (count(&|x, y| !x && y), count(&|x, y| !x && !y));
    let margins = (both + only_a) * (only_b + none) * (both + only_b) * (only_a + none);
    let phi = if margins > 0.0 { (both * none - only_a * only_b) / margins.sqrt() } else { 0.0 };
    let hits = |v: &[bool]| (v.iter().filter(|x| **x).count(), v.len());
    hybrid(hits(a), hits(b), phi)
}

fn hybrid(a: (usize, usize), b: (usize, usize), phi: f64) -> [f64; 2] {
    if a.1 == 0 || b.1 == 0 {
        return [-1.0, 1.0];
    }
    let share = |(k, n): (usize, usize)| k as f64 / n as f64;
    let (p, q) = (share(a), share(b));
    let ([p_lo, p_hi], [q_lo, q_hi]) = (wilson(a.0, a.1), wilson(b.0, b.1));
    let root = |x: f64, y: f64| (x * x - 2.0 * phi * x * y + y * y).max(0.0).sqrt();
    [p - q - root(p - p_lo, q_hi - q), p - q + root(p_hi - p, q - q_lo)]
}

/// How one score tells positive samples from negative ones.
#[derive(Clone, Debug)]
pub struct Auc {
    /// Probability that a positive sample scores above a negative one, ties counted half.
    pub value: f64,
    /// For each positive sample the share of negative ones below it, for each negative the share of positive ones
    /// above it (DeLong et al. 1988): what the variance is made of.
    placements: [Vec<f64>; 2],
}

impl Auc {
    /// Of scores, with the positive samples marked. NaN scores count as the least.
    pub fn new(scores: &[f64], positive: &[bool]) -> Self {
        let least = |v: f64| if v.is_nan() { f64::NEG_INFINITY } else { v };
        let part = |of: bool| -> Vec<f64> {
            scores.iter().zip(positive).filter(|(_, p)| **p == of).map(|(s, _)| least(*s)).collect()
        };
        let (pos, neg) = (part(true), part(false));
        let sorted = |v: &[f64]| {
            let mut v = v.to_vec();
            v.sort_by(f64::total_cmp);
            v
        };
        let (sorted_pos, sorted_neg) = (sorted(&pos), sorted(&neg));
        let below = |all: &[f64], s: f64| {
            let (less, up_to) = (all.partition_point(|v| *v < s), all.partition_point(|v| *v <= s));
            (less + up_to) as f64 / (2 * all.len()).max(1) as f64
        };
        let of_pos: Vec<f64> = pos.iter().map(|s| below(&sorted_neg, *s)).collect();
        let of_neg: Vec<f64> = neg.iter().map(|s| 1.0 - below(&sorted_pos, *s)).collect();
        let value = if pos.is_empty() || neg.is_empty() { f64::NAN } else { mean(&of_pos) };
        Self { value, placements: [of_pos, of_neg] }
    }
    /// The same area of the turned score where that is the greater one: how well the score tells, in either direction.
    #[must_use]
    pub fn either_direction(self) -> Self {
        if self.value >= 0.5 || self.value.is_nan() {
            return self;
        }
        let turn = |v: Vec<f64>| v.into_iter().map(|p| 1.0 - p).collect();
        let [pos, neg] = self.placements;
        Self { value: 1.0 - self.value, placements: [turn(pos), turn(neg)] }
    }
    /// DeLong's interval.
    pub fn interval(&self) -> [f64; 2] {
        let [lo, hi] = normal(self.value, self.placements.iter().map(|p| variance_of_mean(p)).sum());
        [lo.max(0.0), hi.min(1.0)]
    }
    /// The area above the mean of others' on the same samples, with DeLong's interval for correlated curves.
    pub fn above(&self, others: &[Self]) -> (f64, [f64; 2]) {
        let k = others.len() as f64;
        let value = self.value - others.iter().map(|o| o.value).sum::<f64>() / k;
        let contrast = |side: usize| -> Vec<f64> {
            let mine = &self.placements[side];
            (0..mine.len()).map(|i| mine[i] - others.iter().map(|o| o.placements[side][i]).sum::<f64>() / k).collect()
        };
        (value, normal(value, variance_of_mean(&contrast(0)) + variance_of_mean(&contrast(1))))
    }
}

fn normal(value: f64, variance: f64) -> [f64; 2] {
    let half = Z * variance.max(0.0).sqrt();
    [value - half, value + half]
}

/// The mean; NaN of nothing.
pub fn mean(v: &[f64]) -> f64 {
    v.iter().sum::<f64>() / v.len() as f64
}

fn variance_of_mean(v: &[f64]) -> f64 {
    let (m, n) = (mean(v), v.len() as f64);
    if n < 2.0 { f64::INFINITY } else { v.iter().map(|x| (x - m) * (x - m)).sum::<f64>() / (n - 1.0) / n }
}

/// The ROC curve: false and true positive rate at every threshold, from (0, 0) to (1, 1).
pub fn roc(scores: &[f64], positive: &[bool]) -> Vec<[f64; 2]> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
    let all_pos = positive.iter().filter(|p| **p).count().max(1) as f64;
    let all_neg = positive.iter().filter(|p| !**p).count().max(1) as f64;
    let (mut points, mut pos, mut neg) = (vec![[0.0, 0.0]], 0.0, 0.0);
    for (k, &i) in order.iter().enumerate() {
        if positive[i] {
            pos += 1.0
        } else {
            neg += 1.0
        }
        if order.get(k + 1).is_none_or(|&next| scores[next] != scores[i]) {
            points.push([neg / all_neg, pos / all_pos]);
        }
    }
    points
}

/// At most so many points of a curve: all of the first half, every so many of the rest, and the last.
pub fn thinned(points: Vec<[f64; 2]>, most: usize) -> Vec<[f64; 2]> {
    if points.len() <= most {
        return points;
    }
    let (head, last) = (most / 2, points.len() - 1);
    let step = (points.len() - head).div_ceil(most - head - 1);
    points
        .into_iter()
        .enumerate()
        .filter(|(i, _)| *i < head || (i - head) % step == 0 || *i == last)
        .map(|p| p.1)
        .collect()
}

/// The greatest true positive rate at a false positive rate of at most `fpr`.
pub fn tpr_at(points: &[[f64; 2]], fpr: f64) -> f64 {
    // a rate of 1 in 100 is not exactly 0.01
    points.iter().filter(|p| p[0] <= fpr + 1e-12).map(|p| p[1]).fold(0.0, f64::max)
}

/// Percentile bootstrap: `statistic` of samples drawn with replacement, given as positions below `n`.
pub fn bootstrap(n: usize, seed: u64, mut statistic: impl FnMut(&[usize]) -> f64) -> [f64; 2] {
    let mut rng = generator(seed, b"bootstrap");
    let mut values: Vec<f64> = (0..RESAMPLES)
        .map(|_| {
            let drawn: Vec<usize> = (0..n).map(|_| rng.random_range(0..n)).collect();
            statistic(&drawn)
        })
        .collect();
    values.sort_by(f64::total_cmp);
    // the 2.5th and 97.5th percentile
    [values[RESAMPLES / 40 - 1], values[RESAMPLES - RESAMPLES / 40]]
}

/// The mean of `v` with its bootstrap interval.
pub fn mean_within(v: &[f64], seed: u64) -> (f64, [f64; 2]) {
    if v.is_empty() {
        return (f64::NAN, [f64::NEG_INFINITY, f64::INFINITY]);
    }
    let of = |at: &[usize]| at.iter().map(|&i| v[i]).sum::<f64>() / at.len() as f64;
    (mean(v), bootstrap(v.len(), seed, of))
}

/// Interval of a statistic from its values with one sample left out each time (the jackknife).
pub fn jackknife(value: f64, left_out: &[f64]) -> [f64; 2] {
    let (n, m) = (left_out.len() as f64, mean(left_out));
    let variance = (n - 1.0) / n * left_out.iter().map(|v| (v - m) * (v - m)).sum::<f64>();
    normal(value, if n < 2.0 { f64::INFINITY } else { variance })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn areas_count_ties_half_and_turn() {
        let auc = Auc::new(&[1.0, 2.0, 2.0, 3.0], &[false, true, false, true]);
        assert_eq!(auc.value, (1.0 + 0.5 + 1.0 + 1.0) / 4.0);
        let turned = Auc::new(&[-1.0, -2.0, -2.0, -3.0], &[false, true, false, true]);
        assert_eq!(turned.value, 0.125);
        assert_eq!(turned.either_direction().value, 0.875);
        let (above, [lo, hi]) = auc.above(std::slice::from_ref(&auc));
        assert_eq!([above, lo, hi], [0.0; 3], "a curve does not differ from itself");
        assert!(Auc::new(&[1.0], &[true]).value.is_nan());
    }

    #[test]
    fn curves_end_in_the_corners() {
        let points = roc(&[3.0, 2.0, 2.0, 1.0], &[true, true, false, false]);
        assert_eq!(points, [[0.0, 0.0], [0.0, 0.5], [0.5, 1.0], [1.0, 1.0]]);
        assert_eq!([tpr_at(&points, 0.01), tpr_at(&points, 0.5)], [0.5, 1.0]);
        let many: Vec<[f64; 2]> = (0..=1000).map(|i| [f64::from(i) / 1000.0; 2]).collect();
        let few = thinned(many.clone(), 100);
        assert!(few.len() <= 100 && few[..50] == many[..50] && few.last() == many.last(), "{}", few.len());
    }

    #[test]
    fn intervals_hold_the_value_and_repeat() {
        let v: Vec<f64> = (0..50).map(|i| f64::from(i % 7)).collect();
        let (m, [lo, hi]) = mean_within(&v, 3);
        assert!(lo < m && m < hi);
        assert_eq!(mean_within(&v, 3).1, [lo, hi]);
        assert_ne!(mean_within(&v, 4).1, [lo, hi]);
        assert_eq!(wilson(0, 20)[0], 0.0);
        assert_eq!(wilson(20, 20)[1], 1.0);
        // equal answers: no doubt at all where Wilson's interval is even, and less than of samples apart elsewhere
        let even = [true, false, true, false];
        assert!(paired_difference(&even, &even).iter().all(|v| v.abs() < 1e-9));
        let same = [true, false, true, true];
        let ([lo, hi], [apart_lo, apart_hi]) = (paired_difference(&same, &same), difference((3, 4), (3, 4)));
        assert!(lo <= 0.0 && hi >= 0.0 && hi - lo < 0.7 * (apart_hi - apart_lo), "{lo} {hi} {apart_lo} {apart_hi}");
    }
}
