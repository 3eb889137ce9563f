//! `--record`: its flags, and gathering what the record says.

use super::Args;
use super::artefacts::Finished;
use crate::cli::common::named;
use crate::error::{Error, Result};
use crate::files::hex;
use crate::forget::groups::{Grouping, Step};
use crate::inputs::Labelled;
use crate::onnx::{Companion, Edit, Model};
use crate::record::{self, *};
use clap::ValueEnum;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The record and what it says beside the facts.
#[derive(Debug, Default, clap::Args)]
pub(super) struct RecordArgs {
    /// Writes a record of what was done, which 'verify' holds against the model: an in-toto statement in JSON.
    #[arg(long, value_name = "FILE.json")]
    pub(super) record: Option<PathBuf>,
    /// The registry's name for the request, for the record.
    #[arg(long, value_name = "ID", requires = "record")]
    request_id: Option<String>,
    /// On what ground the class is forgotten, such as an article of a law, for the record.
    #[arg(long, value_name = "TEXT", requires = "record")]
    legal_basis: Option<String>,
    /// Signs the record with this Ed25519 key (PEM, PKCS#8): it becomes a DSSE envelope.
    #[arg(long, value_name = "FILE.pem", requires = "record")]
    pub(super) sign_key: Option<PathBuf>,
    /// Writes the names of the classes into the record, as the model's metadata have them.
    #[arg(long, requires = "record")]
    name_class: bool,
    /// Writes an HMAC-SHA256 of the names of the classes into the record, under the key that this file holds.
    #[arg(long, value_name = "FILE", requires = "record")]
    pub(super) hmac_key: Option<PathBuf>,
    /// Takes the names of the classes out of the model's metadata_props: the one change that is none of weights. The
    /// record lists it.
    #[arg(long, requires = "record")]
    scrub_metadata: bool,
}

/// What is read before any work is done, so that a wrong file is known at once.
#[derive(Debug, Default)]
pub(super) struct Keys {
    sign: Option<Secret>,
    hmac: Option<Vec<u8>>,
}

/// A longer file is no key.
const LONGEST_KEY: u64 = 1 << 16;

/// All of a small file.
pub(in crate::cli) fn read_key(path: &Path) -> Result<Vec<u8>> {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut std::io::Read::take(std::fs::File::open(path)?, LONGEST_KEY + 1), &mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().map_err(|e| Error::io(format!("cannot read {}", path.display()), &e))?;
    if bytes.len() as u64 > LONGEST_KEY {
        return Err(Error::format(format!("{} is no key: longer than {LONGEST_KEY} bytes", path.display())));
    }
    Ok(bytes)
}

/// The text of a small file.
pub(in crate::cli) fn read_pem(path: &Path) -> Result<String> {
    String::from_utf8(read_key(path)?).map_err(|_| Error::format(format!("{} is no PEM file", path.display())))
}

impl RecordArgs {
    /// Reads the keys and looks whether the model has the names that are asked for.
    ///
    /// # Errors
    /// When a file is none, or a name is missing.
    pub(super) fn keys(&self, model: &Model, forgotten: &[usize], classes: usize) -> Result<Keys> {
        let sign = match &self.sign_key {
            Some(path) => Some(Secret::from_pem(&read_pem(path)?).map_err(|e| named(e, path))?),
            None => None,
        };
        let hmac = self.hmac_key.as_deref().map(read_key).transpose()?;
        if let (Some(key), Some(path)) = (&hmac, &self.hmac_key) {
            names::name_hmac(key, "").map_err(|e| named(e, path))?;
        }
        if self.name_class || self.scrub_metadata || hmac.is_some() {
            let found = names::class_names(model, classes);
            if let Some(c) = forgotten.iter().find(|c| !found.contains_key(c)) {
                return Err(named(Error::invalid(names::nameless(*c)), model.path()));
            }
        }
        Ok(Keys { sign, hmac })
    }

    /// What is to be changed in the model file beside weights, and the new values of metadata entries.
    ///
    /// # Errors
    /// When the metadata do not name the classes.
    pub(super) fn edits(
        &self,
        model: &Model,
        forgotten: &[usize],
        classes: usize,
    ) -> Result<(Vec<Edit>, BTreeMap<usize, String>)> {
        if self.scrub_metadata { names::scrub(model, forgotten, classes) } else { Ok(Default::default()) }
    }

    /// The record, if one is asked for.
    ///
    /// # Errors
    /// When a file cannot be read, or a number is not finite.
    pub(super) fn prepare(&self, run: &Finished<'_>) -> Result<Option<Companion>> {
        let Some(path) = &self.record else { return Ok(None) };
        let bytes = record::seal(self.statement(run)?, run.keys.sign.as_ref())?;
        Ok(Some(Companion { path: path.clone(), bytes }))
    }

    fn statement(&self, run: &Finished<'_>) -> Result<Statement> {
        let digests = run.digests()?;
        let (before, after) = (&digests.before, &digests.after);
        let changes = self.changes(run)?;
        let internal = InternalParameters {
            engine: run.engine.name().to_owned(),
            device: run.engine.device().into_iter().map(|(k, v)| (k.to_owned(), v)).collect(),
            shaders: run
                .engine
                .shaders()
                .into_iter()
                .map(|(name, source)| (name.to_owned(), hex(&Sha256::digest(source))))
                .collect(),
            rule: run.report.rule.to_owned(),
            strengths: run.report.strength.iter().map(|(k, v)| ((*k).to_owned(), *v)).collect(),
            stages: run.report.grouping.as_ref().map(stages),
            inputs: labelled(run.data, run.request.made),
        };
        let mut dependencies: Vec<Dependency> = before
            .iter()
            .zip(std::iter::once(Role::Model).chain(std::iter::repeat(Role::Data)))
            .map(|(f, role)| dependency(&f.name, DependencyDigest::Sha256(f.sha256.clone()), role))
            .collect();
        for (path, role) in run.sources {
            dependencies.push(read_file(path, *role)?);
        }
        let version = BTreeMap::from([(env!("CARGO_PKG_NAME").to_owned(), env!("CARGO_PKG_VERSION").to_owned())]);
        let predicate = Predicate {
            build_definition: BuildDefinition {
                build_type: BUILD.to_owned(),
                external_parameters: run.parameters.clone(),
                internal_parameters: internal,
                resolved_dependencies: dependencies,
            },
            run_details: RunDetails { builder: Builder { id: BUILDER.to_owned(), version } },
            request: self.request(),
            classes: self.classes(run)?,
            measures: measures(run, &changes),
            doubts: run.outcome.doubts.clone(),
            limits: self.limits(run),
            changes,
            signer: None,
            record_digest: Sha256Digest::new(""),
        };
        Ok(Statement {
            kind: STATEMENT.to_owned(),
            subject: after.iter().map(Subject::from).collect(),
            predicate_type: PREDICATE.to_owned(),
            predicate,
        })
    }

    /// Who asked, and on what ground.
    pub(super) fn request(&self) -> RequestReference {
        RequestReference { id: self.request_id.clone(), legal_basis: self.legal_basis.clone() }
    }

    fn classes(&self, run: &Finished<'_>) -> Result<Vec<ClassName>> {
        let names = names::class_names(run.classifier.model(), run.classifier.classes());
        let class = |id: &usize| {
            let name = names.get(id);
            let hmac = match (&run.keys.hmac, name) {
                (Some(key), Some(name)) => Some(names::name_hmac(key, name)?),
                _ => None,
            };
            let name = name.filter(|_| self.name_class).cloned();
            Ok(ClassName { id: *id, name, name_hmac_sha256: hmac })
        };
        run.request.classes.iter().map(class).collect()
    }

    fn changes(&self, run: &Finished<'_>) -> Result<Changes> {
        let model = run.classifier.model();
        let mut found = Vec::new();
        let mut indices: Vec<usize> = run.outcome.new.iter().filter_map(|(n, _)| model.weight_index(n)).collect();
        indices.sort_unstable();
        for weight in indices.into_iter().filter_map(|i| model.weights().get(i)) {
            let d = delta(&model.read(weight)?, &run.staged.read(weight)?);
            // new elements may have come back to the old ones when they were rounded to the stored type
            if d.changed > 0 {
                found.push((weight, d));
            }
        }
        let total = found.iter().fold(0.0, |sum, (_, d)| sum + d.absolute);
        let mut initializers = Vec::with_capacity(found.len());
        for (weight, d) in found {
            initializers.push(InitializerChange {
                name: weight.name().to_owned(),
                file: file_of(model, weight),
                dtype: weight.storage().name().to_owned(),
                elements: weight.elements(),
                changed: d.changed,
                share: share(d.absolute, total),
                relative: d.relative,
                head: run.outcome.head.iter().any(|n| n == weight.name()),
                before: Sha256Digest::new(&model.weight_sha256(weight)?),
                after: Sha256Digest::new(&run.staged.weight_sha256(weight)?),
            });
        }
        let props = &model.proto().metadata_props;
        let metadata = run
            .metadata
            .iter()
            .map(|(&index, value)| MetadataChange {
                index,
                key: props.get(index).map_or("", |p| p.key()).to_owned(),
                after: Sha256Digest::new(&hex(&Sha256::digest(value))),
            })
            .collect();
        Ok(Changes { initializers, metadata })
    }

    /// What the record does not prove, in sentences.
    fn limits(&self, run: &Finished<'_>) -> Vec<String> {
        let mut limits = vec![
            "hashes prove which bytes changed and which did not; they do not prove that nothing of the class is left"
                .to_owned(),
            "the measures are counts on the labelled inputs named here; they are no measurement on data".to_owned(),
            "nothing is said of copies of the original, of models that were trained from it, or of its training data"
                .to_owned(),
            "no time is recorded, so that the same run gives the same record".to_owned(),
        ];
        limits.push(if self.sign_key.is_some() {
            "the signature says that the holder of the key made this record; who that is has to be known otherwise"
                .to_owned()
        } else {
            "the record is not signed: whoever can write it can write another one that agrees with other files"
                .to_owned()
        });
        limits.push(if run.metadata.is_empty() {
            "the model's own metadata, node names and documentation may name the class".to_owned()
        } else {
            "the names of the classes were taken out of metadata_props alone; node names and documentation may have them"
                .to_owned()
        });
        if run.request.made {
            limits.push("the labelled inputs were made from the model alone".to_owned());
        }
        if run.request.beside.is_some() {
            limits.push("beside the labelled inputs, others were made from the model alone".to_owned());
        }
        limits
    }
}

fn dependency(name: &str, digest: DependencyDigest, role: Role) -> Dependency {
    Dependency { name: name.to_owned(), digest, annotations: Annotations { role } }
}

/// A file or folder that was read, by its own name and not by where it lies.
pub(super) fn read_file(path: &Path, role: Role) -> Result<Dependency> {
    let name = path.canonicalize().ok().and_then(|p| p.file_name().map(|n| n.to_string_lossy().into_owned()));
    let name = name.unwrap_or_default();
    let digest = if path.is_dir() {
        DependencyDigest::Folder(folder(path)?)
    } else {
        DependencyDigest::Sha256(crate::files::sha256(path)?)
    };
    Ok(dependency(&name, digest, role))
}

/// SHA-256 over a line for each file below a folder, as Go's directory hash has it.
fn folder(root: &Path) -> Result<String> {
    let mut lines = BTreeMap::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        let failed = |e: std::io::Error| Error::io(format!("cannot read {}", folder.display()), &e);
        for entry in std::fs::read_dir(&folder).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let path = entry.path();
            // a link to a folder may lead back here
            if entry.file_type().map_err(failed)?.is_dir() {
                folders.push(path);
            } else if path.is_file() {
                let names = path.strip_prefix(root).unwrap_or(&path).iter().map(|n| n.to_string_lossy());
                lines.insert(names.collect::<Vec<_>>().join("/"), crate::files::sha256(&path)?);
            }
        }
    }
    let mut sum = Sha256::new();
    lines.iter().for_each(|(name, hash)| sum.update(format!("{hash}  {name}\n")));
    Ok(hex(&sum.finalize()))
}

/// How several classes were forgotten, stage by stage.
fn stages(grouping: &Grouping) -> Stages {
    let one = |s: &Step| record::Stage {
        classes: s.classes.clone(),
        shared: s.shared,
        rule: s.rule.to_owned(),
        strengths: s.strength.iter().map(|(k, v)| ((*k).to_owned(), *v)).collect(),
    };
    Stages {
        strategy: grouping.taken.name().to_owned(),
        similar: grouping.similar.clone(),
        stages: grouping.steps.iter().map(one).collect(),
    }
}

/// The inputs as the model was given them.
fn labelled(data: &Labelled, made: bool) -> LabelledInputs {
    let mut sum = Sha256::new();
    for array in std::iter::once(&data.x).chain(data.extra.values()) {
        array.to_f64().into_iter().for_each(|v| sum.update(v.to_le_bytes()));
    }
    data.y.iter().for_each(|&y| sum.update((y as f64).to_le_bytes()));
    let samples = data.by_class().into_iter().map(|(c, at)| (c.to_string(), at.len())).collect();
    LabelledInputs { made, samples, sha256: hex(&sum.finalize()) }
}

fn measures(run: &Finished<'_>, changes: &Changes) -> Measures {
    let i = &run.report.inputs;
    let changed = &changes.initializers;
    Measures {
        retained_samples: i.retained_samples,
        forgotten_samples: i.forgotten_samples,
        retained_right_before: i.retained_right_before,
        retained_right_after: i.retained_right_after,
        forgotten_answered_before: i.forgotten_answered_before,
        forgotten_answered_after: i.forgotten_answered_after,
        old_head_answered_after: i.old_head_answered_after,
        candidates: run.report.candidates,
        head_share: changed.iter().filter(|c| c.head).fold(0.0, |sum, c| sum + c.share),
        weights_changed: changed.len(),
        elements_changed: changed.iter().map(|c| c.changed).sum(),
    }
}

impl Args {
    /// Every file and folder that is read beside the model.
    pub(super) fn sources(&self) -> Vec<(&Path, Role)> {
        let all = [
            (&self.inputs, Role::Inputs),
            (&self.aim.forget_inputs, Role::Forget),
            (&self.fisher, Role::Fisher),
            (&self.calibration, Role::Calibration),
        ];
        all.into_iter().filter_map(|(path, role)| Some((path.as_deref()?, role))).collect()
    }

    /// What was asked for, without where files lie.
    pub(super) fn parameters(&self, classes: usize) -> Map<String, Value> {
        let made = self.inputs.is_none();
        let name = |v: &dyn Fn() -> Option<clap::builder::PossibleValue>| v().map(|p| p.get_name().to_owned());
        let (axes, dims): (BTreeMap<_, _>, BTreeMap<_, _>) =
            (self.model.batch_axes.iter().cloned().collect(), self.model.dims.iter().cloned().collect());
        let all = json!({
            "batchAxes": axes,
            "calibrationInFisher": self.calibration_in_fisher,
            "classes": self.classes,
            "depth": name(&|| self.depth.to_possible_value()),
            "dims": dims,
            "engine": self.engine.name(),
            "forgotten": self.forgotten,
            "inPlace": self.in_place,
            "inputs": if made && self.aim.forget_inputs.is_none() && self.calibration.is_none() { Value::Null } else { self.scaling.parameters() },
            "layers": self.model.layers,
            "modelClasses": classes,
            "nameClass": self.artefacts.record.name_class,
            "output": self.model.output,
            "protect": self.protect,
            "scope": name(&|| self.scope.to_possible_value()),
            "scrubMetadata": self.artefacts.record.scrub_metadata,
            "seed": self.seed,
            "strategy": name(&|| self.strategy.to_possible_value()),
            "strength": self.strength.parameters(),
            "synthesis": if made { self.synthesis.parameters() } else { Value::Null },
        });
        match all {
            Value::Object(all) => all,
            _ => Map::new(),
        }
    }
}
