//! Fisher files: safetensors with one float32 tensor per weight, and what it was made from.

use super::Fisher;
use crate::error::{Error, Result};
use crate::files;
pub use crate::files::sha256;
use crate::onnx::{Model, hex, open_mapped};
use crate::tensor::Array;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use std::collections::HashMap;
use std::path::Path;

/// Stands in the header of every file.
const FORMAT: &str = "onnx-unlearn fisher 1";

/// What a Fisher file says of its origin.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Origin {
    /// SHA-256 of the model, hexadecimal, as [`model_sha256`] has it.
    pub model_sha256: String,
    /// SHA-256 of the file of labelled inputs, hexadecimal; empty for a folder.
    pub inputs_sha256: String,
    /// Classes, with the number of samples of each.
    pub samples: Vec<(usize, usize)>,
    /// Names of the sets, in the order of the first axis; a single set has no such axis.
    pub sets: Vec<String>,
}

/// Writes the sums of a Fisher estimate. With several sets every tensor has them as its first axis.
///
/// # Errors
/// When a sum is not finite, or the file cannot be written.
pub fn save(path: &Path, fisher: &Fisher, origin: &Origin) -> Result<()> {
    let arrays = fisher.to_arrays()?;
    let mut bytes = Vec::with_capacity(arrays.len());
    for (name, a) in &arrays {
        let a = a.to_float(crate::tensor::DType::F32);
        let shape = if fisher.sets == 1 { a.shape()[1..].to_vec() } else { a.shape().to_vec() };
        bytes.push((name.clone(), shape, words(&a)?));
    }
    let views = bytes
        .iter()
        .map(|(name, shape, data)| {
            TensorView::new(Dtype::F32, shape.clone(), data)
                .map(|v| (name.clone(), v))
                .map_err(|e| Error::internal(format!("safetensors: {e}")))
        })
        .collect::<Result<Vec<_>>>()?;
    let samples: Vec<String> = origin.samples.iter().map(|(c, n)| format!("{c}:{n}")).collect();
    let about = HashMap::from([
        ("format".to_owned(), FORMAT.to_owned()),
        ("model_sha256".to_owned(), origin.model_sha256.clone()),
        ("inputs_sha256".to_owned(), origin.inputs_sha256.clone()),
        ("samples".to_owned(), samples.join(",")),
        ("sets".to_owned(), origin.sets.join(",")),
    ]);
    let file = safetensors::serialize(views, Some(about)).map_err(|e| Error::internal(format!("safetensors: {e}")))?;
    files::write_bytes(path, &file)
}

/// What a Fisher file holds.
#[derive(Clone, Debug)]
pub struct Kept {
    /// What it was made from.
    pub origin: Origin,
    /// One float32 tensor per weight, `[sets, …shape]`, or the weight's shape where there is one set; sorted by name.
    pub tensors: Vec<(String, Array)>,
}

/// Reads a Fisher file and checks that it belongs to this model.
///
/// # Errors
/// `Io` when it cannot be read, `Format` as [`read`], `Invalid` when it was made from another model file, names a
/// weight that the model does not have, or has another shape.
pub fn load(path: &Path, model: &Model) -> Result<Kept> {
    let read_file = || {
        let kept = read(&open_mapped(path)?.bytes)?;
        kept.check(model)?;
        Ok(kept)
    };
    read_file().map_err(|e: Error| e.at(path.display()))
}

/// Reads the bytes of a Fisher file.
///
/// # Errors
/// `Format` when they are not what [`save`] writes: no safetensors file, a header that lies about its tensors,
/// another element type, a sum that is negative or not finite, or no word on its origin.
pub fn read(bytes: &[u8]) -> Result<Kept> {
    let bad = |e: safetensors::SafeTensorError| Error::format(format!("is no safetensors file: {e}"));
    let file = SafeTensors::deserialize(bytes).map_err(bad)?;
    let (_, header) = SafeTensors::read_metadata(bytes).map_err(bad)?;
    let about = header.metadata().as_ref().filter(|m| m.get("format").is_some_and(|f| f == FORMAT));
    let about = about.ok_or_else(|| Error::format("is no Fisher file of this program"))?;
    let origin = origin(about)?;
    let mut tensors = Vec::with_capacity(file.len());
    for (name, t) in file.tensors() {
        let a = tensor(&t).map_err(|e| e.at(format!("'{name}'")))?;
        if origin.sets.len() > 1 && a.shape().first() != Some(&origin.sets.len()) {
            return Err(Error::format(format!("'{name}' has shape {:?} for {} sets", a.shape(), origin.sets.len())));
        }
        tensors.push((name, a));
    }
    tensors.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(Kept { origin, tensors })
}

fn tensor(t: &TensorView<'_>) -> Result<Array> {
    if t.dtype() != Dtype::F32 {
        return Err(Error::format(format!("holds {:?}, a Fisher is float32", t.dtype())));
    }
    let values: Vec<f32> = t.data().as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    match values.iter().find(|v| !v.is_finite() || **v < 0.0) {
        Some(v) => Err(Error::format(format!("holds {v}, which no sum of squares is"))),
        None => Array::from_vec(t.shape(), values),
    }
}

fn origin(about: &HashMap<String, String>) -> Result<Origin> {
    let get = |key: &str| {
        about.get(key).map(String::as_str).ok_or_else(|| Error::format(format!("its header does not give '{key}'")))
    };
    let sample = |text: &str| {
        let (class, n) = text.split_once(':')?;
        Some((class.parse().ok()?, n.parse().ok()?))
    };
    let samples = get("samples")?;
    let read: Option<Vec<_>> = samples.split(',').filter(|s| !s.is_empty()).map(sample).collect();
    Ok(Origin {
        model_sha256: get("model_sha256")?.to_owned(),
        inputs_sha256: get("inputs_sha256")?.to_owned(),
        samples: read.ok_or_else(|| Error::format(format!("its header gives the samples as '{samples}'")))?,
        sets: get("sets")?.split(',').map(str::to_owned).collect(),
    })
}

impl Kept {
    /// Checks that this was made from that model.
    ///
    /// # Errors
    /// `Invalid` with what does not fit.
    pub fn check(&self, model: &Model) -> Result<()> {
        for (name, a) in &self.tensors {
            let found = model.weight_index(name).and_then(|i| model.weights().get(i));
            let w = found.ok_or_else(|| Error::invalid(format!("the model has no weight '{name}'")))?;
            let of_set = if self.origin.sets.len() > 1 { a.shape().get(1..).unwrap_or(&[]) } else { a.shape() };
            if of_set != w.shape() {
                return Err(Error::invalid(format!("'{name}' has shape {of_set:?}, the model's {:?}", w.shape())));
            }
        }
        if model_sha256(model) != self.origin.model_sha256 {
            return Err(Error::invalid("the Fisher was made from another model file"));
        }
        Ok(())
    }
}

fn words(a: &Array) -> Result<Vec<u8>> {
    Ok(a.slice::<f32>()?.iter().flat_map(|v| v.to_le_bytes()).collect())
}

/// SHA-256 of a model, hexadecimal: of its file, and of its data files in the order of their first use after it.
pub fn model_sha256(model: &Model) -> String {
    use sha2::{Digest, Sha256};
    let mut hash = Sha256::new_with_prefix(model.bytes());
    model.data_files().iter().for_each(|f| hash.update(f.bytes()));
    hex(&hash.finalize())
}
