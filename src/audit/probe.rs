//! Measure 5: what a linear probe reads in the penultimate features, and how like the original's they are.

use super::logistic::cross_fit;
use super::observe::Seen;
use super::{Case, FORGOTTEN, Measure, Number, RETAINED, Unit, Verdict, bands, excess_share, mean_of, percent, stats};
use crate::inputs::choose;
use ndarray::{Array1, Array2, Axis};

const ID: &str = "probe";
const NAME: &str = "features";

/// Samples that features are compared on: a Gram matrix has the square of them.
const MOST_COMPARED: usize = 500;

/// Retained classes that a probe has to tell the forgotten ones from: more would only make it slow.
const MOST_OTHERS: usize = 50;

pub(super) fn measure(case: &Case) -> Measure {
    let (Some(before), Some(after)) = (recovery(case, &case.shown.before), recovery(case, &case.shown.after)) else {
        return Measure::not_measured(
            ID,
            NAME,
            "no penultimate features were found: the last layer has no product of features with a weight, or samples share rows of them",
        );
    };
    let references: Vec<Vec<bool>> = case.shown.references.iter().filter_map(|r| recovery(case, r)).collect();
    let share = |v: &[bool]| v.iter().filter(|b| **b).count() as f64 / v.len() as f64;
    let hits = after.iter().filter(|b| **b).count();
    let name = "forgotten samples that a linear probe reads rightly";
    let recovered = Number::share("recovery", name, hits, after.len(), FORGOTTEN)
        .before(share(&before))
        .reference(mean_of(&references, |r| share(r)));
    let recovered = match excess_share(&after, &references, case.seed()) {
        Some((excess, interval)) => recovered.judged_by(excess, Some(interval), bands::PROBE),
        None => recovered.judged(bands::PROBE_ALONE),
    };
    let reads = percent(share(&after));
    let says = match (references.is_empty(), recovered.verdict) {
        (true, Some(Verdict::Pass)) => "less than half".to_owned(),
        (true, _) => "general features allow that for a class that was never seen: only a reference tells".to_owned(),
        (false, verdict) => {
            let more = if verdict == Some(Verdict::Pass) { "no more than" } else { "against" };
            format!("{more} {} for the reference", percent(recovered.reference.unwrap_or(f64::NAN)))
        }
    };
    let meaning = format!(
        "a linear probe on the last features reads the class in {reads} ({} before), {says}",
        percent(share(&before))
    );
    let mut numbers = vec![recovered];
    numbers.extend(likeness(case, true));
    numbers.extend(likeness(case, false));
    Measure::new(ID, NAME, numbers, meaning)
        .detail("the probe is a multinomial logistic regression on standardised features, fitted on four fifths of the samples and asked on the rest, five times")
        .detail(format!("linear CKA on at most {MOST_COMPARED} samples; 1 means features that are the same but for rotation and scale"))
}

/// For each forgotten sample whether the probe reads its class.
fn recovery(case: &Case, seen: &Seen) -> Option<Vec<bool>> {
    let features = seen.features.as_ref()?;
    let probed = probed_classes(case);
    let at: Vec<usize> = (0..case.truth().len()).filter(|&i| probed.contains(&case.truth()[i])).collect();
    let y: Vec<usize> = at.iter().map(|&i| probed.partition_point(|c| *c < case.truth()[i])).collect();
    let fitted = cross_fit(&features.select(Axis(0), &at), &y, probed.len(), case.seed());
    let forgotten = (0..at.len()).filter(|&k| case.forgotten[at[k]]);
    Some(forgotten.map(|k| fitted.answers[k] == y[k]).collect())
}

/// The classes that a probe tells apart: the forgotten ones and, of the others that have samples, at most so many.
fn probed_classes(case: &Case) -> Vec<usize> {
    let (forgotten, mut others): (Vec<usize>, Vec<usize>) =
        case.samples.data.by_class().into_keys().partition(|c| case.is_forgotten(*c));
    if let Some(chosen) = choose(others.len(), MOST_OTHERS, case.seed()) {
        others = chosen.into_iter().map(|k| others[k]).collect();
    }
    let mut all = [forgotten, others].concat();
    all.sort_unstable();
    all
}

/// Likeness of AFTER's features to BEFORE's.
fn likeness(case: &Case, forgotten: bool) -> Option<Number> {
    let mut at = case.positions(forgotten);
    if let Some(chosen) = choose(at.len(), MOST_COMPARED, case.seed()) {
        at = chosen.into_iter().map(|k| at[k]).collect();
    }
    let rows = |seen: &Seen| seen.features.as_ref().map(|f| f.select(Axis(0), &at));
    let before = rows(&case.shown.before)?;
    let of = |seen: &Seen| rows(seen).map(|f| cka(&before, &f));
    let after = of(&case.shown.after)?;
    let references: Vec<(f64, Vec<f64>)> = case.shown.references.iter().filter_map(of).collect();
    let reference = mean_of(&references, |r| r.0);
    let (id, name, split) = if forgotten {
        ("cka_forgotten", "likeness to the original features on forgotten samples (CKA)", FORGOTTEN)
    } else {
        ("cka_retained", "likeness to the original features on other samples (CKA)", RETAINED)
    };
    let [lo, hi] = stats::jackknife(after.0, &after.1);
    let number = Number::new(id, name, Unit::Plain, after.0, at.len(), split)
        .within([lo.max(0.0), hi.min(1.0)])
        .before(1.0)
        .reference(reference);
    if !forgotten {
        return Some(number);
    }
    let Some(reference) = reference else { return Some(number.judged(bands::CKA_ALONE)) };
    let k = references.len() as f64;
    let left_out: Vec<f64> =
        (0..at.len()).map(|i| after.1[i] - references.iter().map(|r| r.1[i]).sum::<f64>() / k).collect();
    let excess = after.0 - reference;
    Some(number.judged_by(excess, Some(stats::jackknife(excess, &left_out)), bands::CKA))
}

/// Linear CKA of two features `[samples, ·]` of the same samples (Kornblith et al., arXiv 1905.00414, equation 3), and its
/// value with each sample left out in turn.
pub fn cka(a: &Array2<f64>, b: &Array2<f64>) -> (f64, Vec<f64>) {
    // the centre drops out of the result, but not out of its rounding
    let gram = |x: &Array2<f64>| {
        let x = x - &x.mean_axis(Axis(0)).unwrap_or_else(|| Array1::zeros(x.ncols()));
        x.dot(&x.t())
    };
    let (k, l) = (gram(a), gram(b));
    let (kl, kk, ll) = (Hsic::new(&k, &l), Hsic::new(&k, &k), Hsic::new(&l, &l));
    let ratio = |kl: f64, kk: f64, ll: f64| if kk * ll > 0.0 { kl / (kk * ll).sqrt() } else { f64::NAN };
    let left_out = (0..a.nrows()).map(|j| ratio(kl.without(j), kk.without(j), ll.without(j))).collect();
    (ratio(kl.all(), kk.all(), ll.all()), left_out)
}

/// `tr(K H L H)` of two Gram matrices, whole or without one sample, from sums alone.
struct Hsic {
    n: f64,
    product: f64,
    sums: (f64, f64),
    cross: f64,
    rows: (Array1<f64>, Array1<f64>),
    products: Array1<f64>,
    mixed: (Array1<f64>, Array1<f64>),
    diagonals: (Array1<f64>, Array1<f64>),
}

impl Hsic {
    fn new(k: &Array2<f64>, l: &Array2<f64>) -> Self {
        let (of_k, of_l) = (k.sum_axis(Axis(1)), l.sum_axis(Axis(1)));
        let products = (k * l).sum_axis(Axis(1));
        Self {
            n: k.nrows() as f64,
            product: products.sum(),
            sums: (of_k.sum(), of_l.sum()),
            cross: of_k.dot(&of_l),
            mixed: (l.dot(&of_k), k.dot(&of_l)),
            products,
            diagonals: (k.diag().to_owned(), l.diag().to_owned()),
            rows: (of_k, of_l),
        }
    }
    fn all(&self) -> f64 {
        self.product - 2.0 / self.n * self.cross + self.sums.0 * self.sums.1 / (self.n * self.n)
    }
    fn without(&self, j: usize) -> f64 {
        let (n, k_jj, l_jj) = (self.n - 1.0, self.diagonals.0[j], self.diagonals.1[j]);
        let (k_j, l_j) = (self.rows.0[j], self.rows.1[j]);
        let product = self.product - 2.0 * self.products[j] + k_jj * l_jj;
        // of every other row sum its entry in column j is taken off
        let taken = self.mixed.0[j] - k_j * l_jj + self.mixed.1[j] - l_j * k_jj - (self.products[j] - k_jj * l_jj);
        let cross = self.cross - k_j * l_j - taken;
        let sums = (self.sums.0 - 2.0 * k_j + k_jj) * (self.sums.1 - 2.0 * l_j + l_jj);
        product - 2.0 / n * cross + sums / (n * n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaving_one_out_is_the_value_of_the_others() {
        let a = Array2::from_shape_fn((9, 4), |(i, j)| ((i * 7 + j * 3) % 11) as f64);
        let b = Array2::from_shape_fn((9, 3), |(i, j)| ((i * 5 + j * j) % 7) as f64 + a[[i, 0]]);
        let (all, left_out) = cka(&a, &b);
        assert!(all > 0.0 && all < 1.0);
        for (j, got) in left_out.into_iter().enumerate() {
            let kept: Vec<usize> = (0..9).filter(|i| *i != j).collect();
            let (want, _) = cka(&a.select(Axis(0), &kept), &b.select(Axis(0), &kept));
            assert!((got - want).abs() < 1e-9, "{j}: {got} instead of {want}");
        }
        let turned = a.select(Axis(1), &[2, 0, 3, 1]) * 3.0;
        assert!((cka(&a, &turned).0 - 1.0).abs() < 1e-12);
    }
}
