//! `--report`: the run as a page.

use super::artefacts::Finished;
use crate::cli::pages::hashed;
use crate::error::Result;
use crate::report::html::File;
use crate::report::html::forget::{Run, page};

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
    let read = [("inputs", run.inputs), ("fisher", report.fisher.as_deref()), ("calibration", run.calibration)];
    for (role, path) in read {
        if let Some(path) = path {
            files.extend(hashed(role, path)?);
        }
    }
    let one_by_one = report.one_by_one.iter().map(|why| format!("samples ran one by one: {why}"));
    let notes: Vec<String> = one_by_one.chain(report.rounded()).collect();
    let made = report.made.iter().map(|made| made.to_string().split_whitespace().collect::<Vec<_>>().join(" "));
    let inputs = run.inputs.iter().map(|p| p.display().to_string()).chain(made).collect::<Vec<_>>().join("; ");
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
