//! How far two Fishers are from each other.

use super::kept::{Counting, Kept};
use crate::error::{Error, Result};
use serde::Serialize;

/// What two Fishers of one weight, or of all weights, have to do with each other.
#[derive(Clone, Debug, Serialize)]
pub struct Difference {
    /// Elements.
    pub elements: usize,
    /// `‖f_A − f_B‖₂ / elements`: the error that figure 5 of Yamashita et al. (arXiv 2306.05670) shows.
    pub error: f64,
    /// `‖f_A − f_B‖₂ / ‖f_B‖₂`; absent where B is 0.
    pub relative: Option<f64>,
    /// Spearman's rank correlation, equal elements sharing their mean rank, −1 to 1; absent where all elements of one
    /// side are equal.
    pub rank_correlation: Option<f64>,
}

/// Compares two lists of elements.
pub(crate) fn difference(a: &[f64], b: &[f64]) -> Difference {
    let square = |v: f64| v * v;
    let off = a.iter().zip(b).map(|(x, y)| square(x - y)).sum::<f64>().sqrt();
    let norm = b.iter().map(|y| square(*y)).sum::<f64>().sqrt();
    Difference {
        elements: a.len(),
        error: off / a.len().max(1) as f64,
        relative: (norm > 0.0).then_some(off / norm),
        rank_correlation: spearman(a, b),
    }
}

/// Compares the Fishers of these classes, of all that both hold where none is named: weight by weight, by name, and all
/// weights together.
///
/// # Errors
/// `Invalid` when one is a part, lacks a class, or the weights or the classes differ; `Format` as [`Kept::means`].
pub fn compare(a: &Kept, b: &Kept, classes: &[usize]) -> Result<(Vec<(String, Difference)>, Difference)> {
    for kept in [a, b] {
        kept.check_whole().map_err(|e| e.at(kept.path.display()))?;
    }
    let differ =
        |what: &str| Error::invalid(format!("{} and {} are of different {what}", a.path.display(), b.path.display()));
    if !a.weights().eq(b.weights()) {
        return Err(differ("weights; give both the same --layers"));
    }
    let classes = match classes {
        [] if a.classes() != b.classes() => return Err(differ("classes; name those to compare with --class")),
        [] => a.classes(),
        named => named.to_vec(),
    };
    let names: Vec<String> = a.weights().map(|(n, _)| n.to_owned()).collect();
    let mean = |kept: &Kept| -> Result<Vec<Vec<f64>>> {
        let means = kept.means(&names, std::slice::from_ref(&classes), Counting::Samples);
        Ok(means.map_err(|e| e.at(kept.path.display()))?.concat())
    };
    let (f_a, f_b) = (mean(a)?, mean(b)?);
    let of_weights = names.into_iter().zip(f_a.iter().zip(&f_b)).map(|(n, (x, y))| (n, difference(x, y))).collect();
    Ok((of_weights, difference(&f_a.concat(), &f_b.concat())))
}

/// Pearson's correlation of the ranks.
fn spearman(a: &[f64], b: &[f64]) -> Option<f64> {
    let (a, b) = (ranks(a), ranks(b));
    let mean = (a.len() as f64 - 1.0) / 2.0;
    let (mut both, mut of_a, mut of_b) = (0.0, 0.0, 0.0);
    for (x, y) in a.iter().zip(&b) {
        let (x, y) = (x - mean, y - mean);
        both += x * y;
        of_a += x * x;
        of_b += y * y;
    }
    (of_a > 0.0 && of_b > 0.0).then(|| both / (of_a * of_b).sqrt())
}

/// The rank of every element, from 0; equal ones have the mean of theirs.
fn ranks(v: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..v.len()).collect();
    order.sort_by(|&i, &j| v[i].total_cmp(&v[j]));
    let mut ranks = vec![0.0; v.len()];
    let mut from = 0;
    for equal in order.chunk_by(|&i, &j| v[i] == v[j]) {
        let mean = from as f64 + (equal.len() as f64 - 1.0) / 2.0;
        equal.iter().for_each(|&i| ranks[i] = mean);
        from += equal.len();
    }
    ranks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_share_what_equal_elements_have() {
        assert_eq!(ranks(&[3.0, 1.0, 3.0, 0.0]), [2.5, 1.0, 2.5, 0.0]);
        let d = difference(&[1.0, 2.0, 3.0], &[1.0, 8.0, 27.0]);
        assert_eq!(d.rank_correlation, Some(1.0));
        assert!((d.error - 612f64.sqrt() / 3.0).abs() < 1e-12);
        assert_eq!(difference(&[1.0, 2.0], &[2.0, 1.0]).rank_correlation, Some(-1.0));
        // by hand: ranks 0 1.5 1.5 3 and 1 0 2 3, deviations −1.5 0 0 1.5 and −0.5 −1.5 0.5 1.5
        let d = difference(&[0.0, 5.0, 5.0, 9.0], &[2.0, 1.0, 3.0, 4.0]).rank_correlation.unwrap();
        assert!((d - 3.0 / (4.5f64 * 5.0).sqrt()).abs() < 1e-12, "{d}");
        let d = difference(&[0.0, 0.0], &[0.0, 0.0]);
        assert_eq!((d.error, d.relative, d.rank_correlation), (0.0, None, None));
    }
}
