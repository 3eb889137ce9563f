//! Elements as the device has them: one 32-bit word each.

use crate::error::{Error, Result};
use crate::tensor::{Array, DType, TensorType};
use std::borrow::Cow;

/// Bytes of a buffer for so many words: a multiple of 16, so that shaders may read whole `vec4`s, and
/// never 0, which no device can bind.
pub(crate) fn bytes(words: usize) -> u64 {
    (words.max(1) as u64 * 4).next_multiple_of(16)
}

/// The words of an array, in the device's byte order (little-endian, as every host wgpu runs on).
///
/// # Errors
/// When an integer does not fit `i32`, or the elements are `float64`.
pub(crate) fn encode(a: &Array) -> Result<Cow<'_, [u8]>> {
    Ok(match a {
        Array::F32(_) => Cow::Borrowed(bytemuck::cast_slice(a.slice::<f32>()?)),
        Array::F64(_) => return Err(no_f64()),
        Array::I64(_) => {
            let words =
                a.slice::<i64>()?.iter().map(|&v| i32::try_from(v).map_err(|_| v)).collect::<Result<Vec<_>, _>>();
            let words = words.map_err(|v| {
                Error::new(
                    crate::Kind::Engine,
                    format!("element {v} exceeds int32, which is what integers are on a GPU"),
                )
            })?;
            Cow::Owned(bytemuck::cast_slice(&words).to_vec())
        }
        Array::Bool(_) => {
            let words: Vec<u32> = a.slice::<bool>()?.iter().map(|&v| u32::from(v)).collect();
            Cow::Owned(bytemuck::cast_slice(&words).to_vec())
        }
    })
}

/// The bytes of a range of elements.
pub(crate) fn of<'a>(bytes: &'a [u8], range: &std::ops::Range<usize>) -> &'a [u8] {
    &bytes[range.start * 4..range.end * 4]
}

/// The array of this type that the words are.
///
/// # Errors
/// When they are too few or too many.
pub(crate) fn decode(ty: &TensorType, words: Vec<u32>) -> Result<Array> {
    match ty.dtype {
        DType::F32 => Array::from_vec(&ty.shape, words.into_iter().map(f32::from_bits).collect()),
        DType::F64 => Err(no_f64()),
        DType::Bool => Array::from_vec(&ty.shape, words.into_iter().map(|w| w != 0).collect()),
        DType::U32 => Array::from_vec(&ty.shape, words.into_iter().map(i64::from).collect()),
        _ => Array::from_vec(&ty.shape, words.into_iter().map(|w| i64::from(w.cast_signed())).collect()),
    }
}

/// The error for `float64`, which WGSL does not have.
pub(crate) fn no_f64() -> Error {
    Error::new(crate::Kind::Engine, "float64 does not exist on a GPU; the cpu engine computes in float64")
}
