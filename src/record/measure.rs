//! How much a weight changed, from the elements as they are stored.

use crate::tensor::Array;

/// Difference between the old and the new elements of a weight.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Delta {
    /// Elements that are not bit by bit what they were.
    pub changed: usize,
    /// `Σ|Δw|`.
    pub absolute: f64,
    /// `‖Δw‖₂ / ‖w‖₂`; 0 for a weight of zeros.
    pub relative: f64,
}

/// Compares two arrays of one shape. Sums are taken in float64 in the order of the elements, so that everybody gets the
/// same.
pub fn delta(old: &Array, new: &Array) -> Delta {
    let (mut out, mut square, mut norm) = (Delta::default(), 0.0, 0.0);
    for (a, b) in old.to_f64().into_iter().zip(new.to_f64()) {
        out.changed += usize::from(a.to_bits() != b.to_bits());
        let d = b - a;
        out.absolute += d.abs();
        square += d * d;
        norm += a * a;
    }
    out.relative = if norm > 0.0 { (square / norm).sqrt() } else { 0.0 };
    out
}

/// Part of the whole; 0 when there is no whole.
pub fn share(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { part / whole } else { 0.0 }
}
