//! New elements in the stored type, in the bytes of the old ones.

use crate::error::{Error, Result};
use crate::onnx::weights::Storage;
use crate::tensor::Array;
use half::{bf16, f16};
use std::fmt::Display;

/// Puts the values from element `first` on into `bytes`; counts the elements whose bytes change.
pub(super) fn encode(bytes: &mut [u8], step: usize, storage: Storage, values: &Array, first: usize) -> Result<usize> {
    if let (Storage::F64, Array::F64(_)) = (storage, values) {
        let new = values.slice::<f64>()?.get(first..).unwrap_or_default();
        return replace(bytes, step, new, f64::from_le_bytes, f64::to_le_bytes);
    }
    let new = values.slice::<f32>()?.get(first..).unwrap_or_default();
    match storage {
        Storage::F32 => replace(bytes, step, new, f32::from_le_bytes, f32::to_le_bytes),
        Storage::F16 => {
            replace(bytes, step, new, |b| f16::from_le_bytes(b).to_f32(), |v| f16::from_f32(v).to_le_bytes())
        }
        Storage::Bf16 => {
            replace(bytes, step, new, |b| bf16::from_le_bytes(b).to_f32(), |v| bf16::from_f32(v).to_le_bytes())
        }
        Storage::F64 => replace(bytes, step, new, |b| narrow(f64::from_le_bytes(b)), |v| f64::from(v).to_le_bytes()),
    }
}

/// The nearest `f32`.
#[allow(clippy::as_conversions, clippy::cast_possible_truncation, reason = "rounding is the purpose")]
fn narrow(v: f64) -> f32 {
    v as f32
}

/// The two float types, compared by their bits: `-0.0` is not `0.0`, and a NaN equals itself.
trait Real: Copy + Display {
    fn same(self, other: Self) -> bool;
    fn finite(self) -> bool;
}

impl Real for f32 {
    #[inline]
    fn same(self, other: Self) -> bool {
        self.to_bits() == other.to_bits()
    }
    #[inline]
    fn finite(self) -> bool {
        self.is_finite()
    }
}

impl Real for f64 {
    #[inline]
    fn same(self, other: Self) -> bool {
        self.to_bits() == other.to_bits()
    }
    #[inline]
    fn finite(self) -> bool {
        self.is_finite()
    }
}

/// Puts values in the place of elements whose first bytes lie `step` apart; counts those whose bytes change.
fn replace<const N: usize, V: Real>(
    bytes: &mut [u8],
    step: usize,
    new: &[V],
    load: impl Fn([u8; N]) -> V + Copy,
    save: impl Fn(V) -> [u8; N] + Copy,
) -> Result<usize> {
    let changed = if step == N {
        put(bytes.as_chunks_mut::<N>().0.iter_mut(), new, load, save)
    } else {
        let elements = bytes.chunks_mut(step.max(1)).filter_map(|c| c.first_chunk_mut::<N>());
        put(elements, new, load, save)
    };
    // an element that is kept is the value of one that was stored, so that looking at the values alone is enough
    changed.ok_or_else(|| match new.iter().find(|v| v.finite() && !load(save(**v)).finite()) {
        Some(value) => Error::invalid(format!("the value {value} does not fit its {}-bit type", 8 * N)),
        None => Error::internal("a value fits that did not"),
    })
}

/// As [`replace`]; `None` when a value does not fit. It has no way out before the end, so that it can be computed for several
/// elements at once.
fn put<'a, const N: usize, V: Real>(
    elements: impl Iterator<Item = &'a mut [u8; N]>,
    new: &[V],
    load: impl Fn([u8; N]) -> V,
    save: impl Fn(V) -> [u8; N],
) -> Option<usize> {
    let (mut changed, mut lost) = (0_usize, false);
    for (old, &value) in elements.zip(new) {
        let stored = save(value);
        let next = if load(*old).same(value) { *old } else { stored };
        lost |= value.finite() & !load(stored).finite();
        changed = changed.wrapping_add(usize::from(next != *old));
        *old = next;
    }
    (!lost).then_some(changed)
}
