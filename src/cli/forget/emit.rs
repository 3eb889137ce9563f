//! `--emit`: documents in forms that registries and hubs know.

use super::artefacts::Finished;
use crate::error::Result;
use crate::onnx::Companion;
use crate::report::emit::{Facts, cyclonedx, model_card};
use std::path::PathBuf;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    ModelCard,
    CycloneDx,
}

/// A document and where it goes.
#[derive(Clone, Debug)]
pub(super) struct Emit {
    form: Form,
    pub(super) path: PathBuf,
}

impl std::str::FromStr for Emit {
    type Err = &'static str;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let forms = "expected model-card=FILE.md or cyclonedx=FILE.json";
        let (form, path) = text.split_once('=').filter(|(_, path)| !path.is_empty()).ok_or(forms)?;
        let form = match form {
            "model-card" => Form::ModelCard,
            "cyclonedx" => Form::CycloneDx,
            _ => return Err(forms),
        };
        Ok(Self { form, path: path.into() })
    }
}

impl Emit {
    /// The document, to be committed with the model.
    pub(super) fn prepare(&self, run: &Finished<'_>) -> Result<Companion> {
        let facts = facts(run)?;
        let bytes = match self.form {
            Form::ModelCard => model_card(&facts).into_bytes(),
            Form::CycloneDx => cyclonedx(&facts)?,
        };
        Ok(Companion { path: self.path.clone(), bytes })
    }
}

fn facts(run: &Finished<'_>) -> Result<Facts> {
    let (digests, report) = (run.digests()?, run.report);
    Ok(Facts {
        before: digests.before.clone(),
        after: digests.after.clone(),
        classes: report.classes.clone(),
        of: run.classifier.classes(),
        rule: report.rule,
        strength: report.strength.clone(),
        seed: report.seed,
        engine: run.engine.name(),
        source: if run.request.made { "made from the model alone" } else { "that were given" },
        answers: report.inputs.answers(),
        changes: report.changes.clone(),
        metadata: run.metadata.len(),
        head_share: report.head_share,
        doubts: report.doubts.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        let emit: Emit = "model-card=a=b.md".parse().unwrap();
        assert_eq!((emit.form, emit.path), (Form::ModelCard, PathBuf::from("a=b.md")));
        assert_eq!("cyclonedx=x".parse::<Emit>().unwrap().form, Form::CycloneDx);
        for bad in ["", "x", "cyclonedx", "cyclonedx=", "spdx=x"] {
            assert!(bad.parse::<Emit>().unwrap_err().starts_with("expected model-card=FILE.md"), "{bad}");
        }
    }
}
