//! From `TensorProto` to [`Array`], with everything that the file claims checked against what it holds.

use super::proto::{DataLocation, DataType, TensorProto};
use crate::error::{Error, Result};
use crate::tensor::{Array, DType};
use half::{bf16, f16};

/// The elements of a tensor that lie in the message itself.
///
/// Every integer type becomes `int64`, float16 and bfloat16 become `float32`; the second value is the type
/// as declared.
///
/// # Errors
/// `Format` when dims are negative or too large, when elements are missing, too many or stand in more than one
/// field; `Unsupported` for types that the graph does not know, segments, and unsigned values beyond
/// `i64::MAX`; `Invalid` for external data, which needs [`Model::array`](super::Model::array).
pub fn tensor_to_array(tensor: &TensorProto) -> Result<(Array, DType)> {
    decode(tensor, None)
}

/// As [`tensor_to_array`], with the bytes of external data given.
pub(super) fn decode(tensor: &TensorProto, external: Option<&[u8]>) -> Result<(Array, DType)> {
    decode_unnamed(tensor, external).map_err(|e| e.at(format!("tensor '{}'", tensor.name())))
}

fn decode_unnamed(t: &TensorProto, external: Option<&[u8]>) -> Result<(Array, DType)> {
    let dtype = DType::from_onnx(t.data_type()).ok_or_else(|| unknown_type(t.data_type()))?;
    let shape = shape(t)?;
    let n = count(&shape)?;
    let raw = match (payload(t)?, external) {
        (Payload::External, Some(bytes)) => bytes,
        (Payload::External, None) => {
            return Err(Error::invalid("elements lie in another file and the tensor was read without its model"));
        }
        (Payload::Raw(bytes), _) => bytes,
        (Payload::Typed(field), _) => return Ok((typed(t, field, dtype, &shape, n)?, dtype)),
        (Payload::Nothing, _) => &[],
    };
    let expected = byte_length(t.data_type(), n).ok_or_else(|| Error::format("its size is too large"))?;
    if raw.len() != expected {
        return Err(Error::format(format!("shape {shape:?} needs {expected} bytes and {} are there", raw.len())));
    }
    Ok((from_raw(raw, t.data_type(), dtype, &shape)?, dtype))
}

pub(super) fn unknown_type(code: i32) -> Error {
    match DataType::try_from(code) {
        Ok(t) => Error::unsupported(format!("elements of type {t:?} are not supported")),
        Err(_) => Error::unsupported(format!("element type {code} is unknown")),
    }
}

/// Extents of a tensor.
pub(super) fn shape(t: &TensorProto) -> Result<Vec<usize>> {
    let extent = |&d: &i64| usize::try_from(d).map_err(|_| Error::format(format!("dims {:?} are not extents", t.dims)));
    t.dims.iter().map(extent).collect()
}

/// Number of elements of a shape.
pub(super) fn count(shape: &[usize]) -> Result<usize> {
    // a zero makes the product small, but the arrays' strides still multiply the other extents
    let product = shape.iter().filter(|&&d| d != 0).try_fold(1_usize, |n, &d| n.checked_mul(d));
    match product.filter(|&n| isize::try_from(n).is_ok()) {
        Some(n) => Ok(if shape.contains(&0) { 0 } else { n }),
        None => Err(Error::format(format!("shape {shape:?} has too many elements"))),
    }
}

/// Bytes of `n` elements; `None` when that overflows, and for strings and unknown types.
pub(super) fn byte_length(data_type: i32, n: usize) -> Option<usize> {
    use DataType as T;
    let bits: usize = match T::try_from(data_type).ok()? {
        T::Undefined | T::String => return None,
        T::Uint2 | T::Int2 => 2,
        T::Uint4 | T::Int4 | T::Float4e2m1 => 4,
        T::Float6e2m3 | T::Float6e3m2 => 6,
        T::Uint8 | T::Int8 | T::Bool => 8,
        T::Float8e4m3fn | T::Float8e4m3fnuz | T::Float8e5m2 | T::Float8e5m2fnuz | T::Float8e8m0 => 8,
        T::Uint16 | T::Int16 | T::Float16 | T::Bfloat16 => 16,
        T::Float | T::Int32 | T::Uint32 => 32,
        T::Double | T::Int64 | T::Uint64 | T::Complex64 => 64,
        T::Complex128 => 128,
    };
    n.checked_mul(bits).map(|b| b.div_ceil(8))
}

/// The field of `TensorProto` that elements of a type stand in when they are not raw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Typed {
    Float,
    Int32,
    String,
    Int64,
    Double,
    Uint64,
}

/// Where the elements of a tensor are.
#[derive(Debug)]
pub(super) enum Payload<'a> {
    Raw(&'a [u8]),
    Typed(Typed),
    External,
    /// Nowhere: right only for a tensor without elements.
    Nothing,
}

/// Finds the one place where the elements are.
///
/// # Errors
/// `Format` when there are several, `Unsupported` for a segment of a larger tensor.
pub(super) fn payload(t: &TensorProto) -> Result<Payload<'_>> {
    if t.segment.is_some() {
        return Err(Error::unsupported("it is a segment of a larger tensor"));
    }
    let mut found = Vec::with_capacity(1);
    if let Some(raw) = t.raw_data.as_ref().filter(|r| !r.is_empty()) {
        found.push(("raw_data", Payload::Raw(raw)));
    }
    let typed = [
        ("float_data", t.float_data.len(), Typed::Float),
        ("int32_data", t.int32_data.len(), Typed::Int32),
        ("string_data", t.string_data.len(), Typed::String),
        ("int64_data", t.int64_data.len(), Typed::Int64),
        ("double_data", t.double_data.len(), Typed::Double),
        ("uint64_data", t.uint64_data.len(), Typed::Uint64),
    ];
    for (name, length, field) in typed {
        if length > 0 {
            found.push((name, Payload::Typed(field)));
        }
    }
    if t.data_location() == i32::from(DataLocation::External) {
        found.push(("external_data", Payload::External));
    }
    if let [(a, _), (b, _), ..] = found.as_slice() {
        return Err(Error::format(format!("elements stand in {a} and in {b}; only one of them may be set")));
    }
    Ok(found.pop().map_or(Payload::Nothing, |(_, payload)| payload))
}

/// The field that ONNX gives a type.
pub(super) fn typed_field(data_type: i32) -> Option<Typed> {
    use DataType as T;
    Some(match T::try_from(data_type).ok()? {
        T::Float | T::Complex64 => Typed::Float,
        T::Double | T::Complex128 => Typed::Double,
        T::Int64 => Typed::Int64,
        T::Uint32 | T::Uint64 => Typed::Uint64,
        T::String => Typed::String,
        T::Undefined => return None,
        _ => Typed::Int32,
    })
}

fn typed(t: &TensorProto, field: Typed, dtype: DType, shape: &[usize], n: usize) -> Result<Array> {
    if typed_field(t.data_type()) != Some(field) {
        return Err(Error::format(format!("elements of type {dtype} do not belong into the field for {field:?}")));
    }
    let found = match field {
        Typed::Float => t.float_data.len(),
        Typed::Int32 => t.int32_data.len(),
        Typed::String => t.string_data.len(),
        Typed::Int64 => t.int64_data.len(),
        Typed::Double => t.double_data.len(),
        Typed::Uint64 => t.uint64_data.len(),
    };
    if found != n {
        return Err(Error::format(format!("shape {shape:?} needs {n} elements and {found} are there")));
    }
    match field {
        Typed::Float => Array::from_vec(shape, t.float_data.clone()),
        Typed::Double => Array::from_vec(shape, t.double_data.clone()),
        Typed::Int64 => Array::from_vec(shape, t.int64_data.clone()),
        Typed::Uint64 => unsigned(&t.uint64_data, dtype, shape),
        Typed::Int32 => from_int32(&t.int32_data, t.data_type(), dtype, shape),
        Typed::String => Err(unknown_type(t.data_type())),
    }
}

fn unsigned(values: &[u64], dtype: DType, shape: &[usize]) -> Result<Array> {
    let convert = |&v: &u64| i64::try_from(v).map_err(|_| out_of_range(v, dtype));
    in_range(values.iter().map(convert).collect::<Result<_>>()?, dtype, shape)
}

fn from_int32(values: &[i32], data_type: i32, dtype: DType, shape: &[usize]) -> Result<Array> {
    let bits = |&v: &i32| u16::try_from(v).map_err(|_| out_of_range(v, dtype));
    match (dtype, DataType::try_from(data_type)) {
        (DType::F32, Ok(DataType::Float16)) => {
            let halves = values.iter().map(|v| Ok(f16::from_bits(bits(v)?).to_f32()));
            Array::from_vec(shape, halves.collect::<Result<Vec<f32>>>()?)
        }
        (DType::F32, _) => {
            let halves = values.iter().map(|v| Ok(bf16::from_bits(bits(v)?).to_f32()));
            Array::from_vec(shape, halves.collect::<Result<Vec<f32>>>()?)
        }
        (DType::Bool, _) => Array::from_vec(shape, values.iter().map(|&v| v != 0).collect()),
        _ => in_range(values.iter().map(|&v| i64::from(v)).collect(), dtype, shape),
    }
}

fn in_range(values: Vec<i64>, dtype: DType, shape: &[usize]) -> Result<Array> {
    let (low, high) = dtype.int_range().unwrap_or((i64::MIN, i64::MAX));
    match values.iter().find(|&&v| v < low || v > high) {
        Some(v) => Err(out_of_range(v, dtype)),
        None => Array::from_vec(shape, values),
    }
}

fn out_of_range(value: impl std::fmt::Display, dtype: DType) -> Error {
    Error::format(format!("element {value} is out of range for {dtype}"))
}

/// `raw` has the right length.
fn from_raw(raw: &[u8], data_type: i32, dtype: DType, shape: &[usize]) -> Result<Array> {
    match dtype {
        DType::F32 if data_type == i32::from(DataType::Float16) => {
            Array::from_vec(shape, each(raw, |b| f16::from_le_bytes(b).to_f32()))
        }
        DType::F32 if data_type == i32::from(DataType::Bfloat16) => {
            Array::from_vec(shape, each(raw, |b| bf16::from_le_bytes(b).to_f32()))
        }
        DType::F32 => Array::from_vec(shape, each(raw, f32::from_le_bytes)),
        DType::F64 => Array::from_vec(shape, each(raw, f64::from_le_bytes)),
        DType::Bool => Array::from_vec(shape, raw.iter().map(|&b| b != 0).collect()),
        DType::I8 => Array::from_vec(shape, each(raw, |b| i64::from(i8::from_le_bytes(b)))),
        DType::I16 => Array::from_vec(shape, each(raw, |b| i64::from(i16::from_le_bytes(b)))),
        DType::I32 => Array::from_vec(shape, each(raw, |b| i64::from(i32::from_le_bytes(b)))),
        DType::I64 => Array::from_vec(shape, each(raw, i64::from_le_bytes)),
        DType::U8 => Array::from_vec(shape, each(raw, |b| i64::from(u8::from_le_bytes(b)))),
        DType::U16 => Array::from_vec(shape, each(raw, |b| i64::from(u16::from_le_bytes(b)))),
        DType::U32 => Array::from_vec(shape, each(raw, |b| i64::from(u32::from_le_bytes(b)))),
        DType::U64 => unsigned(&each(raw, u64::from_le_bytes), dtype, shape),
    }
}

/// Elements of `N` bytes side by side.
pub(super) fn each<const N: usize, T>(raw: &[u8], read: impl Fn([u8; N]) -> T) -> Vec<T> {
    raw.as_chunks::<N>().0.iter().map(|&b| read(b)).collect()
}
