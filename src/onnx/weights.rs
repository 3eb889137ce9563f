//! The float tensors of a model: where each element lies in the file, and reading them.

use super::proto::{DataType, TensorProto};
use super::run::Run;
use super::scan::Found;
use super::values::{self, Payload, Typed, count, each, payload, shape, typed_field, unknown_type};
use crate::error::{Error, Result};
use crate::tensor::{Array, DType};
use half::{bf16, f16};
use std::ops::Range;

/// How the elements of a weight are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Storage {
    F32,
    F64,
    F16,
    Bf16,
}

impl Storage {
    /// The storage of an ONNX data type, if that is one of the four.
    pub fn from_onnx(code: i32) -> Option<Self> {
        match DataType::try_from(code) {
            Ok(DataType::Float) => Some(Self::F32),
            Ok(DataType::Double) => Some(Self::F64),
            Ok(DataType::Float16) => Some(Self::F16),
            Ok(DataType::Bfloat16) => Some(Self::Bf16),
            _ => None,
        }
    }
    /// The value of `onnx.TensorProto.DataType`.
    pub fn onnx(self) -> i32 {
        i32::from(match self {
            Self::F32 => DataType::Float,
            Self::F64 => DataType::Double,
            Self::F16 => DataType::Float16,
            Self::Bf16 => DataType::Bfloat16,
        })
    }
    /// Bytes of one element.
    pub fn width(self) -> usize {
        match self {
            Self::F16 | Self::Bf16 => 2,
            Self::F32 => 4,
            Self::F64 => 8,
        }
    }
    /// The type that the graph computes with.
    pub fn dtype(self) -> DType {
        if self == Self::F64 { DType::F64 } else { DType::F32 }
    }
}

/// What storing new elements in a weight's own type makes of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Rounding {
    /// Elements that changed as computed.
    pub changed: usize,
    /// Those of them that the type cannot hold exactly; they are stored rounded to nearest, ties to even.
    pub rounded: usize,
    /// Those of the rounded ones that came back to the old element: their change is lost.
    pub lost: usize,
}

impl Storage {
    /// The elements as they are read back after storing: rounded to nearest, ties to even.
    ///
    /// # Errors
    /// When the array holds no floats.
    pub fn round(self, a: &Array) -> Result<Array> {
        let through = |f: fn(f32) -> f32| -> Result<Array> {
            let narrow = a.to_float(DType::F32);
            let v = narrow.slice::<f32>()?.iter().map(|&v| f(v)).collect();
            Ok(Array::from_vec(a.shape(), v)?.to_float(a.dtype()))
        };
        match self {
            Self::F64 => Ok(a.clone()),
            Self::F32 => through(|v| v),
            Self::F16 => through(|v| f16::from_f32(v).to_f32()),
            Self::Bf16 => through(|v| bf16::from_f32(v).to_f32()),
        }
    }
    /// What storing `new` in the place of `old` makes of the elements that differ.
    ///
    /// # Errors
    /// When an array holds no floats.
    pub fn rounding(self, old: &Array, new: &Array) -> Result<Rounding> {
        let stored = self.round(new)?.to_f64();
        let mut out = Rounding::default();
        for ((old, new), stored) in old.to_f64().into_iter().zip(new.to_f64()).zip(stored) {
            if old.to_bits() != new.to_bits() {
                out.changed = out.changed.saturating_add(1);
                out.rounded = out.rounded.saturating_add(usize::from(stored.to_bits() != new.to_bits()));
                out.lost = out.lost.saturating_add(usize::from(stored.to_bits() == old.to_bits()));
            }
        }
        Ok(out)
    }
    /// The name that NumPy gives the type.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "float32",
            Self::F64 => "float64",
            Self::F16 => "float16",
            Self::Bf16 => "bfloat16",
        }
    }
}

/// A float tensor of the top-level graph: an initializer or the value of a Constant node.
#[derive(Clone, Debug)]
pub struct Weight {
    pub(super) name: String,
    pub(super) shape: Vec<usize>,
    pub(super) storage: Storage,
    pub(super) path: String,
    pub(super) place: Place,
}

/// A data file, the bytes in it, and the number of the external tensor.
pub(super) type External = (usize, Range<usize>, usize);

/// Where the elements of a weight are.
#[derive(Clone, Debug)]
pub(super) enum Place {
    /// In the model file.
    Model(Vec<Run>),
    /// In a data file; `span` is the number of the external tensor.
    File { file: usize, run: Run, span: usize },
    /// As numbers of varying length (half precision in `int32_data`), held in the decoded message.
    Varints(Vec<f32>),
}

impl Weight {
    /// Name of the value: of the initializer, or of the Constant node's output.
    pub fn name(&self) -> &str {
        &self.name
    }
    /// Extents, outermost first; empty for a scalar.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }
    /// Element type in the file.
    pub fn storage(&self) -> Storage {
        self.storage
    }
    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }
    /// Field path in the model, such as `graph.initializer[3]`.
    pub fn path(&self) -> &str {
        &self.path
    }
    /// Index into [`Model::data_files`](super::Model::data_files) when the elements lie outside the model file.
    pub fn data_file(&self) -> Option<usize> {
        if let Place::File { file, .. } = self.place { Some(file) } else { None }
    }
    /// Where the elements lie, in row-major order, in the model file or in [`data_file`](Self::data_file).
    /// Empty when there are none or when they are not patchable.
    pub fn runs(&self) -> &[Run] {
        match &self.place {
            Place::Model(runs) => runs,
            Place::File { run, .. } => std::slice::from_ref(run),
            Place::Varints(_) => &[],
        }
    }
    /// False when elements are stored with varying length, so that a new value may not fit in the old place:
    /// float16 and bfloat16 in `int32_data`.
    pub fn is_patchable(&self) -> bool {
        !matches!(self.place, Place::Varints(_))
    }

    /// Makes the weight of a tensor; `external` is its file, span and span number.
    ///
    /// # Errors
    /// As [`tensor_to_array`](super::tensor_to_array).
    pub(super) fn of_tensor(name: &str, t: &TensorProto, found: &Found, external: Option<External>) -> Result<Self> {
        let storage = Storage::from_onnx(t.data_type()).ok_or_else(|| unknown_type(t.data_type()))?;
        let shape = shape(t)?;
        let place = place(t, storage, &shape, found, external)?;
        Ok(Self { name: name.to_owned(), shape, storage, path: found.path.clone(), place })
    }
}

fn place(
    t: &TensorProto,
    storage: Storage,
    shape: &[usize],
    found: &Found,
    external: Option<External>,
) -> Result<Place> {
    let (n, width) = (count(shape)?, storage.width());
    let short = |there: usize, what: &str| {
        Err(Error::format(format!("shape {shape:?} has {n} elements of {width} bytes, but there are {there} {what}")))
    };
    let missed = |what: &str| Error::internal(format!("the scan missed {what}"));
    match payload(t)? {
        Payload::External => {
            let (file, range, span) = external.ok_or_else(|| missed("external data"))?;
            Ok(Place::File { file, run: Run { start: range.start, step: width, count: n }, span })
        }
        Payload::Raw(raw) if n.checked_mul(width) == Some(raw.len()) => {
            let start = found.raw.as_ref().ok_or_else(|| missed("raw_data"))?.start;
            Ok(Place::Model(vec![Run { start, step: width, count: n }]))
        }
        Payload::Raw(raw) => short(raw.len(), "bytes"),
        Payload::Nothing if n == 0 => Ok(Place::Model(Vec::new())),
        Payload::Nothing => short(0, "elements"),
        Payload::Typed(field) if typed_field(t.data_type()) != Some(field) => {
            Err(Error::format(format!("{storage:?} elements do not belong into the field for {field:?}")))
        }
        Payload::Typed(Typed::Int32) => Ok(Place::Varints(values::decode(t, None)?.0.slice::<f32>()?.to_vec())),
        Payload::Typed(_) => {
            let runs = if storage == Storage::F64 { &found.doubles } else { &found.floats };
            let total: usize = runs.iter().map(|r| r.count).sum();
            if total == n { Ok(Place::Model(runs.clone())) } else { short(total, "elements") }
        }
    }
}

/// Reads elements at `runs` of `file`.
pub(super) fn read(file: &[u8], weight: &Weight) -> Result<Array> {
    let (runs, shape) = (weight.runs(), &weight.shape);
    match weight.storage {
        Storage::F32 => Array::from_vec(shape, gather(file, runs, f32::from_le_bytes)?),
        Storage::F64 => Array::from_vec(shape, gather(file, runs, f64::from_le_bytes)?),
        Storage::F16 => Array::from_vec(shape, gather(file, runs, |b| f16::from_le_bytes(b).to_f32())?),
        Storage::Bf16 => Array::from_vec(shape, gather(file, runs, |b| bf16::from_le_bytes(b).to_f32())?),
    }
}

fn gather<const N: usize, T>(file: &[u8], runs: &[Run], read: impl Fn([u8; N]) -> T + Copy) -> Result<Vec<T>> {
    let mut out = Vec::new();
    for run in runs {
        let bytes = run.span(N).and_then(|s| file.get(s)).ok_or_else(|| Error::internal("a weight leaves its file"))?;
        if run.step == N {
            out.append(&mut each(bytes, read));
        } else {
            let elements = bytes.chunks(run.step.max(1)).filter_map(|c| c.first_chunk::<N>());
            out.extend(elements.map(|&b| read(b)));
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_is_to_nearest_ties_to_even_and_counted() {
        // float16 near 1 has steps of 2^-10: half a step is a tie
        let (one, step) = (1.0f32, 1.0 / 1024.0);
        let old = Array::from_vec(&[5], vec![one, one, one, one + step, 2.0]).unwrap();
        let new =
            Array::from_vec(&[5], vec![one + step / 2.0, one + step * 1.5, one + step * 0.6, one + step, 1.0]).unwrap();
        let stored = Storage::F16.round(&new).unwrap();
        assert_eq!(stored.slice::<f32>().unwrap(), [one, one + 2.0 * step, one + step, one + step, 1.0]);
        assert_eq!(Storage::F16.rounding(&old, &new).unwrap(), Rounding { changed: 4, rounded: 3, lost: 1 });
        assert_eq!(Storage::F32.rounding(&old, &new).unwrap(), Rounding { changed: 4, rounded: 0, lost: 0 });
        let wide = Array::from_vec(&[1], vec![1.0 + 1e-12]).unwrap();
        assert_eq!(Storage::F32.rounding(&Array::full(&[1], 1.0f64), &wide).unwrap().lost, 1);
        assert_eq!(Storage::F64.rounding(&Array::full(&[1], 1.0f64), &wide).unwrap().rounded, 0);
    }
}
