//! `--report`: the run as a page.

use super::artefacts::Finished;
use crate::cli::common::named;
use crate::error::{Error, Result};
use crate::report::html::forget::{File, Run, page};
use sha2::{Digest, Sha256};
use std::path::Path;

/// The page of a run.
///
/// # Errors
/// `Io` when a file cannot be read for its hash.
pub(super) fn html(run: &Finished<'_>) -> Result<String> {
    let report = run.report;
    let digests = run.digests()?;
    let of = |role: &'static str| {
        move |d: &crate::onnx::FileDigest| File { role, name: d.name.clone(), sha256: d.sha256.clone() }
    };
    let mut files: Vec<File> = digests.before.iter().map(of("before")).collect();
    files.extend(digests.after.iter().map(of("after")));
    files.extend(hashed("inputs", run.inputs)?);
    files.extend(hashed("fisher", report.fisher.as_deref())?);
    let one_by_one = report.one_by_one.iter().map(|why| format!("samples ran one by one: {why}"));
    let notes: Vec<String> = one_by_one.chain(report.rounded()).collect();
    let inputs = match (&report.made, run.inputs) {
        (Some(made), _) => made.to_string().split_whitespace().collect::<Vec<_>>().join(" "),
        (None, path) => path.map(|p| p.display().to_string()).unwrap_or_default(),
    };
    let model = run.staged.model().path();
    let model = model.file_name().unwrap_or(model.as_os_str()).to_string_lossy();
    let told = Run {
        command: &run.command(),
        model: &model,
        engine: &report.engine.to_string(),
        classes: &run.request.classes,
        data: run.data,
        inputs: &inputs,
        made: run.request.made,
        seed: run.request.seed,
        outcome: run.outcome,
        files: &files,
        notes: &notes,
    };
    page(&told)?.render()
}

/// A file that was read; a folder has no hash.
fn hashed(role: &'static str, path: Option<&Path>) -> Result<Option<File>> {
    let Some(path) = path.filter(|p| p.is_file()) else { return Ok(None) };
    let bytes = std::fs::read(path).map_err(|e| named(Error::io("cannot be read again", &e), path))?;
    let sha256 = Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect();
    let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
    Ok(Some(File { role, name, sha256 }))
}
