//! Multinomial logistic regression, cross-fitted: how well a linear reader tells classes apart.

use crate::inputs::{generator, shuffle};
use ndarray::{Array1, Array2, Axis, s};
use std::collections::{BTreeMap, VecDeque};

/// Parts that samples are cut into; each is answered by a reader fitted on the others.
const FOLDS: usize = 5;
/// Weight of the losses against half the squared weights, as scikit-learn's `C` with standardised features.
const C: f64 = 1.0;
/// Most steps of L-BFGS, and the gradient at which it stops.
const STEPS: usize = 200;
const TOLERANCE: f64 = 1e-3;
/// Steps that L-BFGS remembers.
const MEMORY: usize = 10;

/// Answers of readers to samples that they were not fitted on.
pub struct CrossFitted {
    /// For each sample the position of the class answered.
    pub answers: Vec<usize>,
    /// `[samples, classes]`: logits.
    pub logits: Array2<f64>,
    /// The fold of each sample.
    pub folds: Vec<usize>,
}

/// Fits readers of `x` `[samples, features]` for the classes `y` (positions below `classes`) on all folds but one, and
/// answers that one. Every class is spread evenly over the folds, in an order that `seed` decides.
pub fn cross_fit(x: &Array2<f64>, y: &[usize], classes: usize, seed: u64) -> CrossFitted {
    let folds = folds(y, seed);
    let mut logits = Array2::zeros((x.nrows(), classes));
    for fold in 0..FOLDS {
        let (out, kept): (Vec<usize>, Vec<usize>) = (0..y.len()).partition(|&i| folds[i] == fold);
        if out.is_empty() || kept.is_empty() {
            continue;
        }
        let truth: Vec<usize> = kept.iter().map(|&i| y[i]).collect();
        let reader = Reader::fit(&x.select(Axis(0), &kept), &truth, classes);
        for (row, i) in reader.logits(&x.select(Axis(0), &out)).outer_iter().zip(out) {
            logits.row_mut(i).assign(&row);
        }
    }
    let answers = logits.outer_iter().map(|row| (0..classes).fold(0, |b, c| if row[c] > row[b] { c } else { b }));
    CrossFitted { answers: answers.collect(), logits, folds }
}

/// The fold of every sample.
fn folds(y: &[usize], seed: u64) -> Vec<usize> {
    let mut by_class = BTreeMap::<usize, Vec<usize>>::new();
    for (i, &c) in y.iter().enumerate() {
        by_class.entry(c).or_default().push(i);
    }
    let mut rng = generator(seed, b"folds");
    let (mut folds, mut next) = (vec![0; y.len()], 0);
    for mut members in by_class.into_values() {
        shuffle(&mut members, &mut rng);
        for i in members {
            folds[i] = next % FOLDS;
            next += 1;
        }
    }
    folds
}

/// A fitted reader.
struct Reader {
    mean: Array1<f64>,
    scale: Array1<f64>,
    /// `[features + 1, classes]`; the last row is the bias.
    w: Array2<f64>,
}

impl Reader {
    fn fit(x: &Array2<f64>, y: &[usize], classes: usize) -> Self {
        let mean = x.mean_axis(Axis(0)).unwrap_or_else(|| Array1::zeros(x.ncols()));
        // a feature that never varies tells nothing
        let scale = x.std_axis(Axis(0), 0.0).mapv(|s| if s > 0.0 { 1.0 / s } else { 0.0 });
        let mut reader = Self { mean, scale, w: Array2::zeros((x.ncols() + 1, classes)) };
        let z = reader.standardised(x);
        reader.w = minimise(reader.w.clone(), |w| objective(&z, y, w));
        reader
    }
    fn standardised(&self, x: &Array2<f64>) -> Array2<f64> {
        (x - &self.mean) * &self.scale
    }
    fn logits(&self, x: &Array2<f64>) -> Array2<f64> {
        logits(&self.standardised(x), &self.w)
    }
}

fn logits(z: &Array2<f64>, w: &Array2<f64>) -> Array2<f64> {
    let d = z.ncols();
    z.dot(&w.slice(s![..d, ..])) + w.row(d)
}

/// `C Σ ℓ + ½‖w‖²` without the bias, and its gradient.
fn objective(z: &Array2<f64>, y: &[usize], w: &Array2<f64>) -> (f64, Array2<f64>) {
    let d = z.ncols();
    let mut slope = logits(z, w);
    let mut loss = 0.0;
    for (mut row, &truth) in slope.outer_iter_mut().zip(y) {
        let top = row.fold(f64::NEG_INFINITY, |m, v| m.max(*v));
        row.mapv_inplace(|v| v - top);
        let at = row[truth];
        row.mapv_inplace(f64::exp);
        let sum = row.sum();
        loss += sum.ln() - at;
        row /= sum;
        row[truth] -= 1.0;
    }
    let weights = w.slice(s![..d, ..]);
    let mut gradient = Array2::zeros(w.raw_dim());
    gradient.slice_mut(s![..d, ..]).assign(&(z.t().dot(&slope) * C + weights));
    gradient.row_mut(d).assign(&(slope.sum_axis(Axis(0)) * C));
    (C * loss + 0.5 * weights.iter().map(|v| v * v).sum::<f64>(), gradient)
}

/// L-BFGS with a backtracking search (Nocedal and Wright, *Numerical Optimization*, algorithms 7.4 and 3.1).
fn minimise(mut w: Array2<f64>, f: impl Fn(&Array2<f64>) -> (f64, Array2<f64>)) -> Array2<f64> {
    let dot = |a: &Array2<f64>, b: &Array2<f64>| a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>();
    let mut past: VecDeque<(Array2<f64>, Array2<f64>)> = VecDeque::new();
    let (mut value, mut gradient) = f(&w);
    for _ in 0..STEPS {
        if gradient.iter().all(|g| g.abs() < TOLERANCE) {
            break;
        }
        let mut q = gradient.clone();
        let mut alphas = Vec::with_capacity(past.len());
        for (moved, turned) in past.iter().rev() {
            let alpha = dot(moved, &q) / dot(moved, turned);
            q.scaled_add(-alpha, turned);
            alphas.push(alpha);
        }
        q *= past.back().map_or(1.0 / dot(&gradient, &gradient).sqrt(), |(s, y)| dot(s, y) / dot(y, y));
        for ((moved, turned), alpha) in past.iter().zip(alphas.into_iter().rev()) {
            let beta = dot(turned, &q) / dot(moved, turned);
            q.scaled_add(alpha - beta, moved);
        }
        let descent = dot(&q, &gradient);
        let mut step = 1.0;
        let next = loop {
            let mut at = w.clone();
            at.scaled_add(-step, &q);
            let (v, g) = f(&at);
            if v <= value - 1e-4 * step * descent {
                break Some((at, v, g));
            }
            step *= 0.5;
            if step < 1e-10 {
                break None;
            }
        };
        let Some((at, v, g)) = next else { break };
        let (moved, turned) = (&at - &w, &g - &gradient);
        if dot(&moved, &turned) > 0.0 {
            past.push_back((moved, turned));
            if past.len() > MEMORY {
                past.pop_front();
            }
        }
        (w, value, gradient) = (at, v, g);
    }
    w
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::RngExt;

    #[test]
    fn separable_classes_are_told_and_noise_is_not() {
        let mut rng = generator(5, b"test");
        let y: Vec<usize> = (0..300).map(|i| i % 3).collect();
        let noise = Array2::from_shape_fn((300, 4), |_| rng.random::<f64>());
        let mut told = noise.clone();
        for (mut row, &c) in told.outer_iter_mut().zip(&y) {
            row[c] += 3.0;
        }
        let right = |x: &Array2<f64>| cross_fit(x, &y, 3, 0).answers.iter().zip(&y).filter(|(a, y)| a == y).count();
        assert_eq!(right(&told), 300);
        assert!((60..140).contains(&right(&noise)), "{}", right(&noise));
    }

    #[test]
    fn the_gradient_vanishes_at_the_minimum() {
        let mut rng = generator(6, b"test");
        let y: Vec<usize> = (0..40).map(|i| i % 3).collect();
        let z = Array2::from_shape_fn((40, 5), |_| rng.random::<f64>() - 0.5);
        let w = minimise(Array2::zeros((6, 3)), |w| objective(&z, &y, w));
        assert!(objective(&z, &y, &w).1.iter().all(|g| g.abs() < TOLERANCE));
        let mut fold_sizes = [0; FOLDS];
        folds(&y, 1).into_iter().for_each(|f| fold_sizes[f] += 1);
        assert_eq!(fold_sizes, [8; FOLDS]);
    }
}
