//! Opening a model: map, scan, decode, find every weight.

use super::external::{DataFile, DataFiles, Entry};
use super::files::{self, Identity, Opened};
use super::import::{refuse_nan, weight_name};
use super::journal;
use super::proto::{AttributeType, DataLocation, ModelProto, NodeProto, TensorProto};
use super::scan::{Found, Place, scan};
use super::values::{self, byte_length, count, shape};
use super::weights::{self, Storage, Weight};
use crate::error::{Error, Kind, Result};
use crate::graph::Stored;
use crate::memory;
use crate::tensor::{Array, DType};
use bytes::Bytes;
use prost::Message;
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// What protobuf itself allows; other readers refuse larger files.
const MAX_MODEL: u64 = (1 << 31) - 1;

/// Tensors of at least so many elements may stay in their file.
const STORED_ELEMENTS: usize = 1 << 20;

/// An ONNX model: its bytes as they are in the file, the decoded messages over them, and its weights.
pub struct Model {
    path: PathBuf,
    bytes: Bytes,
    pub(super) opened: Option<Opened>,
    proto: ModelProto,
    opsets: HashMap<String, i64>,
    weights: Vec<Weight>,
    by_name: HashMap<String, usize>,
    pub(super) data: DataFiles,
    pub(super) spans: Vec<ExternalSpan>,
}

/// A tensor of any type, anywhere in the model, whose elements lie in a data file.
#[derive(Debug)]
pub(super) struct ExternalSpan {
    pub path: String,
    pub file: usize,
    pub range: Range<usize>,
    pub checksum: bool,
}

impl fmt::Debug for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (bytes, weights) = (self.bytes.len(), self.weights.len());
        f.debug_struct("Model").field("path", &self.path).field("bytes", &bytes).field("weights", &weights).finish()
    }
}

impl Model {
    /// Opens a model and the data files that it names, each of them once; everything is read through these
    /// handles from then on.
    ///
    /// # Errors
    /// `Io` when a file cannot be opened; `Format` when the bytes are not an ONNX model or a weight's data do
    /// not fit its shape; `Invalid` for external data outside the model's directory or behind links.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let opened = files::open(path)?;
        let bytes = opened.bytes.clone();
        let build = || {
            journal::check(path)?;
            let model = Self::build(path.to_path_buf(), bytes, Some(opened))?;
            model.check_unchanged()?;
            journal::check(path)?;
            Ok(model)
        };
        build().map_err(|e: Error| e.at(path.display()))
    }

    /// A model in memory; `name` stands for it in messages. External data is refused.
    ///
    /// # Errors
    /// As [`Model::open`].
    pub fn from_bytes(name: &str, bytes: impl Into<Bytes>) -> Result<Self> {
        Self::build(PathBuf::from(name), bytes.into(), None).map_err(|e| e.at(name))
    }

    fn build(path: PathBuf, bytes: Bytes, opened: Option<Opened>) -> Result<Self> {
        let found = check(&bytes)?;
        let proto = ModelProto::decode(bytes.clone()).map_err(|e| Error::format(format!("not an ONNX model: {e}")))?;
        let opsets = header(&proto)?;
        let (weights, by_name) = (Vec::new(), HashMap::new());
        let (data, spans) = (DataFiles::default(), Vec::new());
        let mut model = Self { path, bytes, opened, proto, opsets, weights, by_name, data, spans };
        model.collect(&found)?;
        Ok(model)
    }

    /// Looks at the files again: all of them must still be those that were opened, so that no other run replaced
    /// some of them in between.
    ///
    /// # Errors
    /// `Io`, naming the file.
    pub(super) fn check_unchanged(&self) -> Result<()> {
        let model = self.opened.as_ref().map(|o| (self.path.as_path(), o));
        for (path, opened) in model.into_iter().chain(self.data.files.iter().map(|f| (f.real.as_path(), &f.opened))) {
            if path.metadata().ok().map(|m| Identity::of(&m)).as_ref() != Some(&opened.identity) {
                return Err(Error::new(Kind::Io, format!("{} changed since it was opened", path.display())));
            }
        }
        Ok(())
    }

    /// Keeps other runs from changing the model in place, as long as it is open here.
    ///
    /// # Errors
    /// `Invalid` when another run has it.
    pub fn lock(&self) -> Result<()> {
        self.opened.as_ref().map_or(Ok(()), |o| crate::files::lock(&o.file, &self.path))
    }

    /// The decoded messages; `raw_data` points into [`bytes`](Self::bytes).
    pub fn proto(&self) -> &ModelProto {
        &self.proto
    }
    /// The model file as it is.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }
    /// The path that the model was opened with, or its name in memory.
    pub fn path(&self) -> &Path {
        &self.path
    }
    /// Version of an operator set that the model uses; `""` and `"ai.onnx"` are the same domain.
    pub fn opset(&self, domain: &str) -> Option<i64> {
        self.opsets.get(canonical(domain)).copied()
    }
    /// The float tensors of the top-level graph in the order of the file: initializers and values of
    /// Constant nodes; and those of Constant nodes in functions, named `domain.function/value`.
    pub fn weights(&self) -> &[Weight] {
        &self.weights
    }
    /// Index in [`weights`](Self::weights) of the weight with this name.
    pub fn weight_index(&self, name: &str) -> Option<usize> {
        self.by_name.get(name).copied()
    }
    /// The data files beside the model, in the order of their first use.
    pub fn data_files(&self) -> &[DataFile] {
        &self.data.files
    }

    /// The elements of a weight of this model: `float64` for double, `float32` for the others.
    ///
    /// # Errors
    /// `Internal` when the weight is not of this model.
    pub fn read(&self, weight: &Weight) -> Result<Array> {
        if let weights::Place::Varints(values) = &weight.place {
            return Array::from_vec(&weight.shape, values.clone());
        }
        weights::read(self.source(weight.data_file())?, weight).map_err(|e| e.at(weight.name()))
    }

    /// The elements of any tensor of this model, inline or external, and its declared type.
    ///
    /// # Errors
    /// As [`tensor_to_array`](super::tensor_to_array).
    pub fn array(&self, tensor: &TensorProto) -> Result<(Array, DType)> {
        let n = u64::try_from(count(&shape(tensor)?)?).unwrap_or(u64::MAX);
        memory::check(n.saturating_mul(8), format_args!("reading '{}'", tensor.name()))?;
        if tensor.data_location() != i32::from(DataLocation::External) {
            return values::decode(tensor, None);
        }
        let entry = Entry::parse(&tensor.external_data)?;
        let file = self.data.find(entry.location)?;
        let range = external_range(tensor, &entry, self.source(Some(file))?.len())?;
        values::decode(tensor, self.source(Some(file))?.get(range))
    }

    /// A large float tensor of this model as one that stays in its file; `None` for all others.
    ///
    /// # Errors
    /// When it does not lie where it should. Its elements are looked at when they are read.
    pub fn stored(&self, tensor: &TensorProto) -> Result<Option<Stored>> {
        let large = count(&shape(tensor)?)? >= STORED_ELEMENTS;
        if !large || Storage::from_onnx(tensor.data_type()).is_none() {
            return Ok(None);
        }
        let external = if tensor.data_location() == i32::from(DataLocation::External) {
            let entry = Entry::parse(&tensor.external_data)?;
            let file = self.data.find(entry.location)?;
            let range = external_range(tensor, &entry, self.source(Some(file))?.len())?;
            self.data.files.get(file).map(|f| f.bytes().slice(range))
        } else {
            None
        };
        // the bytes are shared with the map, not copied
        let tensor = tensor.clone();
        Ok(Some(Stored::new(move || {
            let (data, _) = values::decode(&tensor, external.as_deref())?;
            refuse_nan(tensor.name(), &data)?;
            Ok(data)
        })))
    }

    /// The bytes of a data file, or of the model.
    pub(super) fn source(&self, file: Option<usize>) -> Result<&[u8]> {
        let Some(i) = file else { return Ok(&self.bytes) };
        let file = self.data.files.get(i).ok_or_else(|| Error::internal("no such data file"))?;
        Ok(&file.opened.bytes)
    }

    fn collect(&mut self, found: &[Found]) -> Result<()> {
        let initializers = self.proto.graph.iter().flat_map(|g| &g.initializer);
        let mut names = HashSet::new();
        if let Some(t) = initializers.filter(|t| !t.name().is_empty()).find(|t| !names.insert(t.name())) {
            return Err(Error::format(format!("two tensors are named '{}'", t.name())));
        }
        for f in found {
            let span = if f.external { Some(self.resolve(f).map_err(|e| e.at(&f.path))?) } else { None };
            let weight = self.weight(f, span).map_err(|e| e.at(&f.path))?;
            let Some(weight) = weight else { continue };
            if self.by_name.insert(weight.name.clone(), self.weights.len()).is_some() {
                return Err(Error::format(format!("two tensors are named '{}'", weight.name)));
            }
            self.weights.push(weight);
        }
        Ok(())
    }

    /// Opens the file of an external tensor and notes the bytes that it takes.
    fn resolve(&mut self, found: &Found) -> Result<weights::External> {
        let message = self.bytes.slice(found.message.clone());
        let tensor = TensorProto::decode(message).map_err(|e| Error::format(e.to_string()))?;
        let entry = Entry::parse(&tensor.external_data)?;
        let Some(opened) = &self.opened else {
            return Err(Error::unsupported("a model in memory cannot have external data"));
        };
        let file = self.data.add(&self.path, entry.location)?;
        let data = self.data.files.get(file).ok_or_else(|| Error::internal("no such data file"))?;
        if data.opened.identity.is_same_file(&opened.identity) {
            return Err(Error::invalid("external data lies in the model file itself"));
        }
        let range = external_range(&tensor, &entry, data.len()).map_err(|e| e.at(entry.location))?;
        let span = self.spans.len();
        if let Some(sum) = &entry.checksum {
            data.check(sum).map_err(|e| e.at(entry.location))?;
        }
        let (path, checksum) = (found.path.clone(), entry.checksum.is_some());
        self.spans.push(ExternalSpan { path, file, range: range.clone(), checksum });
        Ok((file, range, span))
    }

    /// The weight that a tensor is; `None` for other types and for tensors that are no values.
    fn weight(&self, found: &Found, span: Option<weights::External>) -> Result<Option<Weight>> {
        let Some(graph) = &self.proto.graph else { return Ok(None) };
        let (name, tensor) = match found.place {
            Place::Elsewhere => return Ok(None),
            Place::Floats { node, attribute } => return Ok(floats(graph.node.get(node), attribute, found)),
            Place::Initializer(i) => {
                let t = graph.initializer.get(i);
                let t = t.ok_or_else(|| Error::internal("the scan and the decoder disagree"))?;
                (t.name().to_owned(), t)
            }
            Place::Attribute { node, attribute } => {
                let Some((output, t)) = value(graph.node.get(node), attribute) else { return Ok(None) };
                (output.to_owned(), t)
            }
            Place::Body { function, node, attribute } => {
                let Some(f) = self.proto.functions.get(function) else { return Ok(None) };
                let Some((output, t)) = value(f.node.get(node), attribute) else { return Ok(None) };
                (weight_name(f, output), t)
            }
        };
        if name.is_empty() || Storage::from_onnx(tensor.data_type()).is_none() {
            return Ok(None);
        }
        Weight::of_tensor(&name, tensor, found, span).map(Some).map_err(|e| e.at(format!("'{name}'")))
    }
}

/// The weight in a Constant node's `value_float` or `value_floats`.
fn floats(node: Option<&NodeProto>, attribute: usize, found: &Found) -> Option<Weight> {
    let (node, output) = node.and_then(constant)?;
    let a = node.attribute.get(attribute)?;
    let is = |name: &str, kind: AttributeType| a.name() == name && a.r#type() == i32::from(kind);
    let shape = match found.floats.iter().map(|r| r.count).sum() {
        1 if is("value_float", AttributeType::Float) => vec![],
        n if is("value_floats", AttributeType::Floats) => vec![n],
        _ => return None,
    };
    let place = weights::Place::Model(found.floats.clone());
    Some(Weight { name: output.to_owned(), shape, storage: Storage::F32, path: found.path.clone(), place })
}

/// The tensor that a Constant node holds in this attribute, and its name.
fn value(node: Option<&NodeProto>, attribute: usize) -> Option<(&str, &TensorProto)> {
    let (node, output) = node.and_then(constant)?;
    let value = node.attribute.get(attribute).filter(|a| a.name() == "value")?;
    Some((output, value.t.as_deref()?))
}

/// A Constant node and the name of its value.
fn constant(node: &NodeProto) -> Option<(&NodeProto, &str)> {
    let output = node.output.first().filter(|o| !o.is_empty())?;
    (node.op_type() == "Constant" && canonical(node.domain()).is_empty()).then_some((node, output))
}

/// The usual spelling of a domain.
fn canonical(domain: &str) -> &str {
    if domain == "ai.onnx" { "" } else { domain }
}

/// The bytes of its file that an external tensor takes.
fn external_range(t: &TensorProto, entry: &Entry<'_>, file: usize) -> Result<Range<usize>> {
    let n = count(&shape(t)?)?;
    let needed = byte_length(t.data_type(), n);
    let length = match (entry.length, needed) {
        (Some(given), Some(needed)) if given != needed => {
            return Err(Error::format(format!("dims {:?} need {needed} bytes and the length is {given}", t.dims)));
        }
        (Some(length), _) | (None, Some(length)) => length,
        (None, None) => return Err(values::unknown_type(t.data_type())),
    };
    match entry.offset.checked_add(length).filter(|&end| end <= file) {
        Some(end) => Ok(entry.offset..end),
        None => Err(Error::format(format!("{length} bytes from byte {} are past its end ({file})", entry.offset))),
    }
}

/// Scans the bytes, with a word on what they are when they are not a model.
fn check(bytes: &[u8]) -> Result<Vec<Found>> {
    let not_onnx = |why: &str| Error::format(format!("not an ONNX model: {why}"));
    if bytes.is_empty() {
        return Err(not_onnx("the file is empty"));
    }
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > MAX_MODEL {
        return Err(Error::unsupported("the file is over protobuf's 2 GiB; save its weights as external data"));
    }
    scan(bytes).map_err(|e| {
        // `ir_version`, which every known writer puts first
        if bytes.first() == Some(&0x08) {
            return e.at("damaged or truncated ONNX model");
        }
        not_onnx(other_format(bytes).unwrap_or(&e.to_string()))
    })
}

/// Names files that are often mistaken for ONNX models.
fn other_format(bytes: &[u8]) -> Option<&'static str> {
    let magic = |offset: usize, m: &[u8]| bytes.get(offset..).is_some_and(|b| b.starts_with(m));
    if magic(0, b"version https://git-lfs") {
        Some("this is a Git LFS pointer; run `git lfs pull`")
    } else if magic(0, b"PK\x03\x04") {
        Some("this is a ZIP archive, perhaps a PyTorch checkpoint, which must be exported to ONNX first")
    } else if magic(0, b"\x89HDF") {
        Some("this is an HDF5 file, perhaps a Keras model, which must be exported to ONNX first")
    } else if magic(4, b"TFL3") {
        Some("this is a TensorFlow Lite model")
    } else if magic(4, b"ORTM") {
        Some("this is ONNX Runtime's own format; use the ONNX file that it was made from")
    } else if magic(0, b"\x1f\x8b") {
        Some("this is compressed with gzip")
    } else if magic(8, b"{\"") {
        Some("this looks like a safetensors file")
    } else {
        None
    }
}

/// Checks what every model must have; gives the operator sets by domain.
fn header(proto: &ModelProto) -> Result<HashMap<String, i64>> {
    let missing = |what: &str| Err(Error::format(format!("not an ONNX model: it has no {what}")));
    if proto.ir_version() < 1 {
        return missing("ir_version");
    }
    if proto.graph.is_none() {
        return missing("graph");
    }
    if proto.opset_import.is_empty() {
        return missing("opset_import");
    }
    let mut opsets = HashMap::new();
    for id in &proto.opset_import {
        let earlier = opsets.insert(canonical(id.domain()).to_owned(), id.version());
        if earlier.is_some_and(|v| v != id.version()) {
            return Err(Error::format(format!("operator set '{}' is imported in two versions", id.domain())));
        }
    }
    Ok(opsets)
}

#[cfg(test)]
mod tests;
