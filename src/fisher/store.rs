//! Fisher files: safetensors with one float32 tensor per weight, and what it was made from.

use super::Fisher;
use crate::error::{Error, Result};
use crate::files;
use crate::tensor::Array;
use safetensors::tensor::{Dtype, TensorView};
use std::collections::HashMap;
use std::path::Path;

/// What a Fisher file says of its origin.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Origin {
    /// SHA-256 of the model file, hexadecimal.
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
        ("format".to_owned(), "onnx-unlearn fisher 1".to_owned()),
        ("model_sha256".to_owned(), origin.model_sha256.clone()),
        ("inputs_sha256".to_owned(), origin.inputs_sha256.clone()),
        ("samples".to_owned(), samples.join(",")),
        ("sets".to_owned(), origin.sets.join(",")),
    ]);
    let file = safetensors::serialize(views, Some(about)).map_err(|e| Error::internal(format!("safetensors: {e}")))?;
    files::write_bytes(path, &file)
}

fn words(a: &Array) -> Result<Vec<u8>> {
    Ok(a.slice::<f32>()?.iter().flat_map(|v| v.to_le_bytes()).collect())
}

/// SHA-256 of a file, hexadecimal.
///
/// # Errors
/// When it cannot be read.
pub fn sha256(path: &Path) -> Result<String> {
    use sha2::{Digest, Sha256};
    let mut file = std::fs::File::open(path).map_err(|e| Error::io(path.display(), &e))?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match std::io::Read::read(&mut file, &mut buffer).map_err(|e| Error::io(path.display(), &e))? {
            0 => break,
            n => hash.update(&buffer[..n]),
        }
    }
    Ok(hash.finalize().iter().map(|b| format!("{b:02x}")).collect())
}
