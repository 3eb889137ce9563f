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
