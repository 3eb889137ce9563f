//! Where the samples of a batch lie in a value.

use crate::each_type;
use crate::ops::NodeView;
use crate::tensor::{Array, Element, TensorType};

/// Where the samples lie in a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Batch {
    /// The value does not depend on the samples.
    None,
    /// Axis `axis` holds `rows` consecutive rows for each sample, sample after sample.
    Axis {
        /// The axis, counted from the front.
        axis: usize,
        /// Rows per sample on that axis; 1 unless a Reshape joined another axis to it.
        rows: usize,
    },
    /// The samples can no longer be told apart: they have to run one by one.
    Lost,
}

impl Batch {
    /// One row per sample on the first axis, as model inputs have it.
    pub const LEADING: Self = Self::Axis { axis: 0, rows: 1 };
}

/// The rule of ops that work element by element with ONNX broadcasting: axes align from the right.
pub fn elementwise(n: &NodeView, from: &[Batch], out: &TensorType) -> Batch {
    let rank = out.shape.len();
    let mut found = Batch::None;
    for (batch, ty) in from.iter().zip(&n.inputs) {
        let (Batch::Axis { axis, rows }, Some(ty)) = (*batch, ty) else {
            continue;
        };
        let here = Batch::Axis { axis: axis + rank - ty.shape.len(), rows };
        if found == Batch::None {
            found = here;
        } else if found != here {
            return Batch::Lost;
        }
    }
    // a value that does not depend on the samples must not vary along their axis: broadcasting says so where its
    // extent there is 1, and a constant where it is the same for every sample
    if let Batch::Axis { axis, rows } = found {
        for (i, (batch, ty)) in from.iter().zip(&n.inputs).enumerate() {
            if let (Batch::None, Some(ty)) = (batch, ty) {
                let Some(own) = (axis + ty.shape.len()).checked_sub(rank) else { continue };
                let varies = ty.shape.get(own).is_some_and(|&e| e != 1);
                let constant = n.consts.get(i).copied().flatten();
                if varies && !constant.is_some_and(|a| repeats(a, own, rows)) {
                    return Batch::Lost;
                }
            }
        }
    }
    found
}

/// True when every `rows` consecutive rows on an axis are the same.
fn repeats(a: &Array, axis: usize, rows: usize) -> bool {
    fn go<T: Element>(v: &[T], whole: usize, part: usize) -> bool {
        whole > 0 && part > 0 && v.chunks(whole).all(|v| v.chunks(part).all(|c| v.starts_with(c)))
    }
    let inner: usize = a.shape().iter().skip(axis + 1).product();
    let whole = a.shape().get(axis).map_or(0, |&e| e * inner);
    each_type!(a, a => a.as_slice().is_some_and(|v| go(v, whole, rows * inner)))
}

/// The rule of ops that keep the first axis apart (Conv, pooling): only the first input may be batched,
/// on axis 0, and every output is batched in the same way.
pub fn leading(from: &[Batch]) -> Batch {
    match from.split_first() {
        Some((&Batch::Axis { axis: 0, rows }, rest)) if rest.iter().all(|b| *b == Batch::None) => {
            Batch::Axis { axis: 0, rows }
        }
        _ => Batch::Lost,
    }
}

/// The rule of ops that mix elements along `axes` only and keep every axis where it is.
pub fn unless_on(from: &[Batch], axes: &[usize]) -> Batch {
    match from.split_first() {
        Some((&Batch::Axis { axis, rows }, rest))
            if !axes.contains(&axis) && rest.iter().all(|b| *b == Batch::None) =>
        {
            Batch::Axis { axis, rows }
        }
        _ => Batch::Lost,
    }
}

/// The batch axis after a Reshape from one shape to another, found by the extents before it.
pub fn reshape(batch: Batch, samples: usize, from: &[usize], to: &[usize]) -> Batch {
    let Batch::Axis { axis, rows } = batch else {
        return batch;
    };
    let before: usize = from.iter().take(axis).product();
    let after: usize = from.iter().skip(axis + 1).product();
    if samples == 1 {
        // whatever there is belongs to the only sample
        return to.first().map_or(Batch::Lost, |&rows| Batch::Axis { axis: 0, rows });
    }
    // the new batch axis starts after the same number of outer elements; it may take in whole inner
    // axes (more rows) or give rows away to new inner axes, but never outer ones
    let mut outer = 1usize;
    for (i, &extent) in to.iter().enumerate() {
        if outer == before && extent != 1 {
            return match (samples > 0 && extent % samples == 0).then(|| extent / samples) {
                Some(r) if r > 0 && r * to.iter().skip(i + 1).product::<usize>() == rows * after => {
                    Batch::Axis { axis: i, rows: r }
                }
                _ => Batch::Lost,
            };
        }
        outer = outer.saturating_mul(extent);
    }
    Batch::Lost
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_followed_through_reshapes() {
        let at = |axis, rows| Batch::Axis { axis, rows };
        let two = |batch, from: &[usize], to: &[usize]| reshape(batch, 2, from, to);
        // tokens joined to the samples, and taken apart again
        assert_eq!(two(at(0, 1), &[2, 3, 4], &[6, 4]), at(0, 3));
        assert_eq!(two(at(0, 3), &[6, 4], &[2, 3, 4]), at(0, 1));
        assert_eq!(two(at(0, 3), &[6, 4], &[2, 12]), at(0, 1));
        assert_eq!(two(at(0, 1), &[2, 6, 2], &[4, 6]), at(0, 2));
        // unit axes in front, behind, and the samples behind other axes
        assert_eq!(two(at(0, 1), &[2, 5], &[1, 2, 5]), at(1, 1));
        assert_eq!(two(at(1, 1), &[1, 2], &[2]), at(0, 1));
        assert_eq!(two(at(1, 1), &[3, 2, 4], &[3, 2, 2, 2]), at(1, 1));
        assert_eq!(two(at(1, 1), &[3, 2, 4], &[1, 3, 8]), at(2, 4));
        // rows of different samples joined or interleaved
        assert_eq!(two(at(1, 1), &[3, 2, 4], &[6, 4]), Batch::Lost);
        assert_eq!(two(at(0, 3), &[6, 4], &[3, 8]), Batch::Lost);
        assert_eq!(reshape(at(0, 1), 4, &[4, 3], &[2, 6]), Batch::Lost);
        // a single sample owns everything
        assert_eq!(reshape(at(1, 1), 1, &[3, 1, 4], &[12]), at(0, 12));
        assert_eq!(reshape(at(0, 1), 1, &[1], &[]), Batch::Lost);
    }

    #[test]
    #[allow(clippy::unwrap_used)]
    fn constants_that_are_the_same_for_every_sample() {
        let a = |v: &[i64]| Array::from_vec(&[2, v.len() / 2], v.to_vec()).unwrap();
        assert!(repeats(&a(&[1, 2, 1, 2]), 0, 1));
        assert!(!repeats(&a(&[1, 2, 1, 3]), 0, 1));
        assert!(repeats(&a(&[1, 2, 1, 2, 5, 6, 5, 6]), 1, 2));
        assert!(!repeats(&a(&[1, 2, 1, 2, 5, 6, 5, 6]), 1, 1));
    }
}
