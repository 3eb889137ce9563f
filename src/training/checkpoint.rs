//! A place on the way that is kept in a file: weights, velocities, looks, and what they belong to.

use super::{Look, Options, Place, State};
use crate::classifier::Weights;
use crate::error::{Error, Result};
use crate::files;
use crate::onnx::open_mapped;
use crate::tensor::{Array, DType};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::path::Path;

const FORMAT: &str = "onnx-unlearn embed 1";
const WEIGHT: &str = "weight/";
const VELOCITY: &str = "velocity/";

/// What a run is of. Runs that agree in all of it take the same steps.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Run {
    /// SHA-256 of the model, hexadecimal.
    pub model_sha256: String,
    /// [`Source::listing_sha256`](crate::inputs::Source::listing_sha256) of the samples.
    pub data_sha256: String,
    /// SHA-256 of the codes as the model takes them.
    pub codes_sha256: String,
    /// Name of the engine.
    pub engine: String,
    /// Patterns of the weights that may move.
    pub layers: Vec<String>,
    /// How descent goes.
    pub options: Options,
}

impl Run {
    /// What differs from another run, in words; none where nothing does.
    fn difference(&self, other: &Self) -> Option<&'static str> {
        let parts = [
            (self.model_sha256 == other.model_sha256, "another model"),
            (self.data_sha256 == other.data_sha256, "other samples"),
            (self.codes_sha256 == other.codes_sha256, "other codes"),
            (self.engine == other.engine, "another engine"),
            (self.layers == other.layers, "other --layers"),
            (self.options == other.options, "other flags for the steps, or another seed"),
        ];
        parts.into_iter().find(|(same, _)| !same).map(|(_, what)| what)
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct About {
    run: Run,
    looks: Vec<Look>,
}

/// What a file has kept.
pub struct Kept {
    /// All weights by name.
    pub weights: Vec<(String, Array)>,
    /// Velocities of those that move.
    pub velocities: Vec<(String, Array)>,
    /// Looks so far.
    pub looks: Vec<Look>,
}

/// Writes a place. Atomic; equal places give equal bytes.
///
/// # Errors
/// When the file cannot be written, or the engine fails.
pub fn save(path: &Path, run: &Run, place: &Place) -> Result<()> {
    let State { weights, velocities, moving } = &place.state;
    let json = |e: serde_json::Error| Error::internal(format!("JSON: {e}"));
    let about = About { run: run.clone(), looks: place.looks.clone() };
    let about = serde_json::to_string(&about).map_err(json)?;
    let mut held = Vec::new();
    let named = weights.names.iter().zip(&weights.tensors).map(|t| (WEIGHT, t));
    for (kind, (name, tensor)) in named.chain(moving.iter().zip(velocities).map(|t| (VELOCITY, t))) {
        let a = tensor.to_array()?;
        let (dtype, bytes) = match &a {
            Array::F64(v) => (Dtype::F64, v.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>()),
            _ => (Dtype::F32, a.slice::<f32>()?.iter().flat_map(|x| x.to_le_bytes()).collect()),
        };
        held.push((format!("{kind}{name}"), dtype, a.shape().to_vec(), bytes));
    }
    let bad = |e: safetensors::SafeTensorError| Error::internal(format!("safetensors: {e}"));
    let views = held
        .iter()
        .map(|(name, dtype, shape, bytes)| Ok((name, TensorView::new(*dtype, shape.clone(), bytes).map_err(bad)?)))
        .collect::<Result<Vec<_>>>()?;
    // one entry alone, since those of a hash map come in any order
    let header = HashMap::from([("about".to_owned(), format!("{FORMAT}\n{about}"))]);
    files::write_bytes(path, &safetensors::serialize(views, Some(header)).map_err(bad)?)
}

/// Reads the place that a run of just this kind has kept; none where there is no file.
///
/// # Errors
/// `Format` when the file is not what [`save`] writes, `Invalid` when it belongs to another run, saying what differs, or
/// holds other weights.
pub fn load(path: &Path, run: &Run, weights: &Weights) -> Result<Option<Kept>> {
    if files::existing(path)?.is_none() {
        return Ok(None);
    }
    read(path, run, weights).map(Some).map_err(|e| {
        let name = path.display().to_string();
        if e.to_string().contains(&name) { e } else { e.at(name) }
    })
}

fn read(path: &Path, run: &Run, weights: &Weights) -> Result<Kept> {
    let bytes = open_mapped(path)?.bytes;
    let bad = |e: safetensors::SafeTensorError| Error::format(format!("is no safetensors file: {e}"));
    let (_, header) = SafeTensors::read_metadata(&bytes).map_err(bad)?;
    let about = header.metadata().as_ref().and_then(|m| m.get("about")).and_then(|a| a.split_once('\n'));
    let Some((_, about)) = about.filter(|(format, _)| *format == FORMAT) else {
        return Err(Error::format("keeps no place of a fine-tuning by this program and version"));
    };
    let about: About = serde_json::from_str(about).map_err(|e| Error::format(format!("its header: {e}")))?;
    if let Some(what) = run.difference(&about.run) {
        return Err(Error::invalid(format!(
            "was kept by a run with {what}; give the same as then, or remove the file to start anew"
        )));
    }
    let steps = about.looks.last().map_or(0, |l| l.step);
    if about.looks.is_empty() || steps >= run.options.steps || about.looks.windows(2).any(|w| w[0].step >= w[1].step) {
        return Err(Error::format("its looks are not those of a run on its way"));
    }
    let tensors = SafeTensors::deserialize(&bytes).map_err(bad)?;
    let get = |kind: &str, name: &str, like: &crate::engine::Tensor| -> Result<Option<Array>> {
        let Ok(view) = tensors.tensor(&format!("{kind}{name}")) else { return Ok(None) };
        let ty = like.ty();
        let dtype = if ty.dtype == DType::F64 { Dtype::F64 } else { Dtype::F32 };
        if view.dtype() != dtype || view.shape() != ty.shape {
            return Err(Error::invalid(format!(
                "holds {:?}{:?} for '{name}', which is {ty}",
                view.dtype(),
                view.shape()
            )));
        }
        let a = match dtype {
            Dtype::F64 => {
                let (v, _) = view.data().as_chunks::<8>();
                Array::from_vec(&ty.shape, v.iter().map(|b| f64::from_le_bytes(*b)).collect())?
            }
            _ => {
                let (v, _) = view.data().as_chunks::<4>();
                Array::from_vec(&ty.shape, v.iter().map(|b| f32::from_le_bytes(*b)).collect())?
            }
        };
        if a.is_finite() { Ok(Some(a)) } else { Err(Error::invalid(format!("'{name}' is not finite in it"))) }
    };
    let (mut held, mut velocities) = (Vec::new(), Vec::new());
    for (name, like) in weights.names.iter().zip(&weights.tensors) {
        let w = get(WEIGHT, name, like)?.ok_or_else(|| Error::invalid(format!("holds no weight '{name}'")))?;
        held.push((name.clone(), w));
        velocities.extend(get(VELOCITY, name, like)?.map(|v| (name.clone(), v)));
    }
    if tensors.len() != held.len() + velocities.len() {
        return Err(Error::invalid("holds weights that this model does not have"));
    }
    Ok(Kept { weights: held, velocities, looks: about.looks })
}
