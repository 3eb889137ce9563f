//! A model that is written and does not have its name yet, so that what tells of it can be written before both appear.

use super::edit::{Edit, moved};
use super::files;
use super::load::Model;
use super::patch::PatchReport;
use super::target::Outputs;
use super::weights::{self, Place, Weight};
use crate::error::{Error, Result};
use crate::files::{Part, Temporary};
use crate::tensor::Array;
use bytes::Bytes;
use std::io::Write;
use std::path::{Path, PathBuf};

/// A file that appears together with a model.
#[derive(Clone, Debug)]
pub struct Companion {
    /// Where it goes; a file of this name is replaced.
    pub path: PathBuf,
    /// All of it.
    pub bytes: Vec<u8>,
}

impl Companion {
    /// Writes it under a temporary name.
    pub(super) fn write(&self, part: Part<'_>) -> Result<Temporary> {
        let failed = |e: std::io::Error| Error::io(format!("cannot write {}", self.path.display()), &e);
        let mut temp = Temporary::beside(&self.path, part, false).map_err(failed)?;
        temp.file_mut().write_all(&self.bytes).and_then(|()| temp.file().sync_all()).map_err(failed)?;
        Ok(temp)
    }
}

/// New files of a model under temporary names, complete and compared with their source. They go when this is dropped.
#[derive(Debug)]
pub struct Staged<'m> {
    model: &'m Model,
    target: PathBuf,
    outputs: Outputs,
    temps: Vec<Temporary>,
    report: PatchReport,
    edits: Vec<Edit>,
}

impl<'m> Staged<'m> {
    pub(super) fn new(
        model: &'m Model,
        target: &Path,
        outputs: Outputs,
        temps: Vec<Temporary>,
        report: PatchReport,
        edits: Vec<Edit>,
    ) -> Self {
        Self { model, target: target.to_path_buf(), outputs, temps, report, edits }
    }
    /// The model as it was.
    pub fn model(&self) -> &'m Model {
        self.model
    }
    /// Where the new model goes.
    pub fn target(&self) -> &Path {
        &self.target
    }
    /// What changed; no files are named yet.
    pub fn report(&self) -> &PatchReport {
        &self.report
    }
    /// The bytes of the new model, or of one of its data files by its index in [`Model::data_files`]; those that do not
    /// change are the old ones.
    ///
    /// # Errors
    /// `Io` when a file cannot be read back.
    pub fn bytes(&self, file: Option<usize>) -> Result<Bytes> {
        let written = self.outputs.list.iter().zip(&self.temps).find(|(o, _)| o.file == file);
        match (written, file) {
            (Some((output, temp)), _) => files::map(temp.file())
                .map_err(|e| Error::io(format!("cannot read back {}", output.path.display()), &e)),
            (None, None) => Ok(self.model.bytes().clone()),
            (None, Some(i)) => {
                let data = self.model.data_files().get(i).ok_or_else(|| Error::internal("no such data file"))?;
                Ok(data.bytes().clone())
            }
        }
    }
    /// A weight of the old model as it lies in the new files.
    pub(super) fn placed(&self, weight: &Weight) -> Weight {
        let mut weight = weight.clone();
        if let Place::Model(runs) = &mut weight.place {
            runs.iter_mut().for_each(|r| *r = moved(*r, &self.edits));
        }
        weight
    }
    /// The new elements of a weight of the old model, as [`Model::read`] gives the old ones.
    ///
    /// # Errors
    /// `Io` when a file cannot be read back.
    pub fn read(&self, weight: &Weight) -> Result<Array> {
        weights::read(&self.bytes(weight.data_file())?, &self.placed(weight)).map_err(|e| e.at(weight.name()))
    }
    /// Gives the files their names, together with their companions: all of them or none.
    ///
    /// Companions below the target's directory are part of the journal that decides the change. Those elsewhere get their
    /// names just before: a crash between the two leaves them there without the model.
    ///
    /// # Errors
    /// `Invalid` for a companion in the place of another file of the model, `Io` when the system refuses. After an error
    /// every file is as it was; should a rename fail after another, the journal stands.
    pub fn commit(self, companions: &[Companion]) -> Result<PatchReport> {
        let Self { model, target, outputs, temps, mut report, edits: _ } = self;
        report.files = outputs.commit(temps, model, &target, companions)?;
        Ok(report)
    }
}
