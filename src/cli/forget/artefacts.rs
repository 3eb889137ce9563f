//! What is written beside the model, and appears together with it.
//!
//! Every artefact is a flag of [`ArtefactArgs`], a line in [`ArtefactArgs::targets`] and one in
//! [`ArtefactArgs::prepare`], which is called once the new model is complete under a temporary name: its hashes are known,
//! and no file has its name yet. An artefact that fails leaves nothing behind, the model included.

use super::emit::Emit;
use super::page;
use super::record::{Keys, RecordArgs};
use super::report::Report;
use crate::classifier::Classifier;
use crate::cli::common::{check_target, same_file};
use crate::cli::pages;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::forget::{Outcome, Request};
use crate::inputs::Labelled;
use crate::onnx::{Companion, FileDigest, Staged};
use crate::record::Role;
use serde_json::{Map, Value};
use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Which files are written beside the model.
#[derive(Debug, Default, clap::Args)]
pub(super) struct ArtefactArgs {
    #[command(flatten)]
    pub(super) record: RecordArgs,
    /// A report as one HTML page: verdict, doubts, classes, change, search, inputs as pictures, hashes.
    #[arg(long, value_name = "FILE.html")]
    report: Option<PathBuf>,
    /// Writes a document about the result beside the model: a fragment of a Hugging Face model card, or a bill of
    /// materials in CycloneDX 1.6. May be given several times.
    #[arg(long, value_name = "model-card=FILE.md|cyclonedx=FILE.json")]
    emit: Vec<Emit>,
}

impl ArtefactArgs {
    /// Where artefacts go, in the order in which they were asked for.
    pub(super) fn targets(&self) -> Vec<PathBuf> {
        let record = self.record.record.iter().cloned();
        record.chain(self.report.iter().cloned()).chain(self.emit.iter().map(|e| e.path.clone())).collect()
    }
    /// What is read beside the model and the inputs.
    fn read(&self) -> impl Iterator<Item = &Path> {
        [&self.record.sign_key, &self.record.hmac_key].into_iter().flatten().map(PathBuf::as_path)
    }
    /// Checks, before any work is done, that every artefact can be written and replaces nothing that is read or written
    /// otherwise.
    ///
    /// # Errors
    /// `Invalid`, naming the file.
    pub(super) fn check(&self, model: &Path, target: &Path, inputs: &[&Path]) -> Result<()> {
        let targets = self.targets();
        let own: Vec<&Path> = self.read().collect();
        let read = [&[model, target], inputs, &own].concat();
        for (i, path) in targets.iter().enumerate() {
            check_target(path, &read)?;
            if targets.iter().take(i).any(|other| same_file(other, path)) {
                return Err(Error::invalid(format!("{} would be written twice", path.display())));
            }
        }
        Ok(())
    }
    /// All artefacts, to be committed with the model.
    ///
    /// # Errors
    /// Whatever keeps one from being made.
    pub(super) fn prepare(&self, run: &Finished<'_>) -> Result<Vec<Companion>> {
        let mut all: Vec<Companion> = self.record.prepare(run)?.into_iter().collect();
        if let Some(path) = &self.report {
            all.push(Companion { path: path.clone(), bytes: page::html(run)?.into_bytes() });
        }
        for emit in &self.emit {
            all.push(emit.prepare(run)?);
        }
        Ok(all)
    }
}

/// All that is known of a run that is done, but for the names of its files.
pub(super) struct Finished<'a> {
    /// The model as it was.
    pub(super) classifier: &'a Classifier,
    /// What computed.
    pub(super) engine: &'a dyn Engine,
    /// What was asked for.
    pub(super) request: &'a Request,
    /// Where the labelled inputs were read, if they were.
    pub(super) inputs: Option<&'a Path>,
    /// Where the calibration samples were read, if there are some.
    pub(super) calibration: Option<&'a Path>,
    /// Every file and folder that was read beside the model.
    pub(super) sources: &'a [(&'a Path, Role)],
    /// The labelled inputs, read or made.
    pub(super) data: &'a Labelled,
    /// What was found.
    pub(super) outcome: &'a Outcome,
    /// What is printed.
    pub(super) report: &'a Report,
    /// The new model under its temporary name.
    pub(super) staged: &'a Staged<'a>,
    /// What was asked for, by name, without where files lie.
    pub(super) parameters: &'a Map<String, Value>,
    /// Keys for the record.
    pub(super) keys: &'a Keys,
    /// New values of entries of `metadata_props`, by their index.
    pub(super) metadata: &'a BTreeMap<usize, String>,
    /// Filled by [`Finished::digests`].
    pub(super) known: OnceCell<Digests>,
}

/// Hashes of the files of a model before and after.
pub(super) struct Digests {
    pub(super) before: Vec<FileDigest>,
    pub(super) after: Vec<FileDigest>,
}

impl Finished<'_> {
    /// Hashes of the original's files and of the new ones, the model first; computed once, when they are asked for.
    ///
    /// # Errors
    /// `Io` when a new file cannot be read back.
    pub(super) fn digests(&self) -> Result<&Digests> {
        if let Some(known) = self.known.get() {
            return Ok(known);
        }
        let digests = Digests { before: self.staged.model().digests(), after: self.staged.digests()? };
        Ok(self.known.get_or_init(|| digests))
    }
    /// The command that was typed, word by word, with the program's name and not its path in front.
    pub(super) fn command(&self) -> Vec<String> {
        pages::command()
    }
}
