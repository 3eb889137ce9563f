//! `verify`: holds a model against the record of how it came to be.

use super::forget::read_pem;
use super::{Context, Status};
use crate::error::{Error, Result};
use crate::onnx::Model;
use crate::record::{self, Against, MAX_BYTES, PublicKey};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Holds a model against its record: hashes of all files and of every changed weight, and that the record is the one that
/// was written.
///
/// With the original, also that its weights were those of the record and that nothing else changed. Every difference is
/// listed; the exit code is 4 then.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The changed model.
    model: PathBuf,
    /// Its record.
    #[arg(long, value_name = "FILE.json")]
    record: PathBuf,
    /// The model before the change.
    #[arg(long, value_name = "FILE.onnx")]
    original: Option<PathBuf>,
    /// The Ed25519 public key (PEM) that the record must be signed with.
    #[arg(long, value_name = "FILE.pem")]
    key: Option<PathBuf>,
}

#[derive(serde::Serialize)]
struct Report {
    model: PathBuf,
    record: PathBuf,
    /// Whether the record is signed, and the key its signature was checked with is the given one.
    signature: &'static str,
    original: bool,
    classes: Vec<usize>,
    weights: usize,
    request: Option<String>,
    mismatches: Vec<String>,
}

impl Args {
    pub(super) fn run(self, context: &Context) -> Result<Status> {
        let key = match &self.key {
            Some(path) => Some(PublicKey::from_pem(&read_pem(path)?).map_err(|e| e.at(path.display()))?),
            None => None,
        };
        for path in [Some(&self.model), self.original.as_ref()].into_iter().flatten() {
            is_there(path)?;
        }
        let bytes = read(&self.record)?;
        let mut mismatches = Vec::new();
        let mut opened = |path: &Path| match Model::open(path) {
            Ok(model) => Some(model),
            // a file that was a model and is none any more is what this command looks for
            Err(e) => {
                mismatches.push(e.to_string());
                None
            }
        };
        let model = opened(&self.model);
        let original = self.original.as_deref().map(&mut opened);
        let parsed = match record::parse(&bytes) {
            Ok(parsed) => Some(parsed),
            Err(e) => {
                mismatches.push(e.at(self.record.display()).to_string());
                None
            }
        };
        if let (Some(model), Some(parsed)) = (&model, &parsed) {
            let original = original.as_ref().and_then(Option::as_ref);
            mismatches.extend(record::verify(parsed, &Against { model, original, key: key.as_ref() })?);
        }
        let said = parsed.as_ref().map(|p| &p.statement.predicate);
        let report = Report {
            signature: match (said.is_some_and(|p| p.signer.is_some()), key.is_some()) {
                (false, _) => "none",
                (true, false) => "by the key that the record names",
                (true, true) => "by the given key",
            },
            original: original.is_some(),
            classes: said.map(|p| p.classes.iter().map(|c| c.id).collect()).unwrap_or_default(),
            weights: said.map_or(0, |p| p.changes.initializers.len()),
            request: said.and_then(|p| p.request.id.clone()),
            model: self.model,
            record: self.record,
            mismatches,
        };
        context.print(&report, || report.text())?;
        Ok(if report.mismatches.is_empty() { Status::Done } else { Status::Mismatch })
    }
}

impl Report {
    fn text(&self) -> String {
        let mut out = String::new();
        for line in &self.mismatches {
            out += &format!("mismatch: {line}\n");
        }
        let (model, record) = (self.model.display(), self.record.display());
        if !self.mismatches.is_empty() {
            return out + &format!("{model} and {record} do not agree: {} mismatches\n", self.mismatches.len());
        }
        let classes: Vec<String> = self.classes.iter().map(usize::to_string).collect();
        out += &format!(
            "{model} is the model of {record}: made to forget class {}, {} weights changed\n",
            classes.join(", "),
            self.weights
        );
        if let Some(id) = &self.request {
            out += &format!("request:   {id}\n");
        }
        out += if self.original {
            "original:  every byte outside of the listed changes is the same\n"
        } else {
            "original:  not given, so that nothing is known of what else changed; --original takes it\n"
        };
        out + &format!("signature: {}\n", self.signature)
    }
}

fn is_there(path: &Path) -> Result<()> {
    match path.metadata() {
        Ok(found) if found.is_file() => Ok(()),
        Ok(_) => Err(Error::invalid(format!("{} is no regular file", path.display()))),
        Err(e) => Err(Error::io(format!("cannot open {}", path.display()), &e)),
    }
}

/// All of a record, which has bounds.
fn read(path: &Path) -> Result<Vec<u8>> {
    is_there(path)?;
    let failed = |e: std::io::Error| Error::io(format!("cannot read {}", path.display()), &e);
    let mut bytes = Vec::new();
    File::open(path).map_err(failed)?.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}
