//! What tells files and weights apart in a record: SHA-256.

use super::load::Model;
use super::run::Run;
use super::staged::Staged;
use super::weights::Weight;
use crate::error::{Error, Result};
use crate::files::hex;
use sha2::{Digest, Sha256};
use std::path::Path;

/// A file of a model.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FileDigest {
    /// Name of the model file; of a data file, its path from the model's directory, with '/' between names.
    pub name: String,
    /// SHA-256 in hexadecimal.
    pub sha256: String,
}

impl FileDigest {
    fn of(name: &Path, bytes: &[u8]) -> Self {
        Self { name: slashed(name), sha256: hex(&Sha256::digest(bytes)) }
    }
}

/// A relative path with '/' between its names.
fn slashed(path: &Path) -> String {
    path.iter().map(|n| n.to_string_lossy()).collect::<Vec<_>>().join("/")
}

impl Model {
    /// The model file, then its data files in the order of their first use.
    pub fn digests(&self) -> Vec<FileDigest> {
        let name = self.path().file_name().map_or(self.path(), Path::new);
        let data = self.data_files().iter().map(|d| FileDigest::of(d.location(), d.bytes()));
        std::iter::once(FileDigest::of(name, self.bytes())).chain(data).collect()
    }

    /// SHA-256, in hexadecimal, of a weight's elements as they are stored, in row-major order and without what lies between
    /// them.
    ///
    /// # Errors
    /// `Internal` when the weight is not of this model.
    pub fn weight_sha256(&self, weight: &Weight) -> Result<String> {
        elements_sha256(self.source(weight.data_file())?, weight)
    }
}

impl Staged<'_> {
    /// The new model file under its target's name, then its data files, changed or not.
    ///
    /// # Errors
    /// `Io` when a file cannot be read back.
    pub fn digests(&self) -> Result<Vec<FileDigest>> {
        let name = self.target().file_name().map_or(self.target(), Path::new);
        let mut all = vec![FileDigest::of(name, &self.bytes(None)?)];
        for (i, data) in self.model().data_files().iter().enumerate() {
            all.push(FileDigest::of(data.location(), &self.bytes(Some(i))?));
        }
        Ok(all)
    }

    /// As [`Model::weight_sha256`], of the new elements.
    ///
    /// # Errors
    /// `Io` when a file cannot be read back.
    pub fn weight_sha256(&self, weight: &Weight) -> Result<String> {
        elements_sha256(&self.bytes(weight.data_file())?, &self.placed(weight))
    }
}

fn elements_sha256(file: &[u8], weight: &Weight) -> Result<String> {
    let width = weight.storage().width();
    let mut sum = Sha256::new();
    for run in weight.runs() {
        let bytes = run.span(width).and_then(|s| file.get(s));
        let bytes = bytes.ok_or_else(|| Error::internal(format!("'{}' leaves its file", weight.name())))?;
        let Run { step, .. } = *run;
        if step == width {
            sum.update(bytes);
        } else {
            bytes.chunks(step.max(1)).filter_map(|c| c.get(..width)).for_each(|e| sum.update(e));
        }
    }
    Ok(hex(&sum.finalize()))
}
