//! The members of a record. Every object is closed: a member that is not named here is an error.

use crate::onnx::FileDigest;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// `_type` of every record.
pub const STATEMENT: &str = "https://in-toto.io/Statement/v1";
/// `predicateType` of every record: a UUID drawn for this purpose, since a name on the web would be somebody else's.
pub const PREDICATE: &str = "urn:uuid:9fea8bc1-28eb-4722-8d24-be8eec4b8ecd#forgetting-v1";
/// `buildType` of every record: what the parameters mean.
pub const BUILD: &str = "urn:uuid:9fea8bc1-28eb-4722-8d24-be8eec4b8ecd#forget-v1";
/// `builder.id` of every record.
pub const BUILDER: &str = "urn:uuid:9fea8bc1-28eb-4722-8d24-be8eec4b8ecd#onnx-unlearn";

/// An in-toto statement about the files of a new model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Statement {
    /// [`STATEMENT`].
    #[serde(rename = "_type")]
    pub kind: String,
    /// The new model file, then its data files.
    pub subject: Vec<Subject>,
    /// [`PREDICATE`].
    #[serde(rename = "predicateType")]
    pub predicate_type: String,
    /// What is said of them.
    pub predicate: Predicate,
}

/// A file by its hash.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Subject {
    /// File name of the model; of a data file, its path from the model's directory.
    pub name: String,
    /// Its hash.
    pub digest: Sha256Digest,
}

impl From<&FileDigest> for Subject {
    fn from(file: &FileDigest) -> Self {
        Self { name: file.name.clone(), digest: Sha256Digest::new(&file.sha256) }
    }
}

/// A SHA-256, 64 lowercase hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Sha256Digest {
    pub sha256: String,
}

impl Sha256Digest {
    /// Of 64 digits.
    pub fn new(sha256: &str) -> Self {
        Self { sha256: sha256.to_owned() }
    }
}

/// What is said of the new model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Predicate {
    /// What went in.
    pub build_definition: BuildDefinition,
    /// What ran.
    pub run_details: RunDetails,
    /// Who asked, and on what ground, as the one who ran this says.
    pub request: RequestReference,
    /// The classes to forget; none where samples are.
    pub classes: Vec<ClassName>,
    /// What differs from the original.
    pub changes: Changes,
    /// What the labelled inputs say.
    pub measures: Measures,
    /// Reasons to doubt that this holds for data.
    pub doubts: Vec<String>,
    /// What the record does not prove.
    pub limits: Vec<String>,
    /// Who signed, if anybody did.
    pub signer: Option<Signer>,
    /// SHA-256 of the statement's own bytes with 64 zeros in the place of this hash.
    pub record_digest: Sha256Digest,
}

/// What went in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct BuildDefinition {
    /// [`BUILD`].
    pub build_type: String,
    /// What was asked for on the command line.
    pub external_parameters: serde_json::Map<String, serde_json::Value>,
    /// What the program chose, and what computed.
    pub internal_parameters: InternalParameters,
    /// Every file that was read.
    pub resolved_dependencies: Vec<Dependency>,
}

/// What the program chose, and what computed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct InternalParameters {
    /// `cpu`, `wgpu` or `ort`.
    pub engine: String,
    /// Adapter, driver, library, as far as the engine has them.
    pub device: BTreeMap<String, String>,
    /// SHA-256 of the source of every shader that was compiled, by its name.
    pub shaders: BTreeMap<String, String>,
    /// The rule that was taken.
    pub rule: String,
    /// Its strengths.
    pub strengths: BTreeMap<String, f64>,
    /// Where several classes were forgotten: how, stage by stage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stages: Option<Stages>,
    /// The labelled inputs as the model was given them.
    pub inputs: LabelledInputs,
}

/// How several classes were forgotten.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Stages {
    /// `joint`, `one-by-one` or `hierarchical`.
    pub strategy: String,
    /// Groups of similar classes; empty where they were not looked for.
    pub similar: Vec<Vec<usize>>,
    /// The stages in their order.
    pub stages: Vec<Stage>,
}

/// One stage of forgetting.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Stage {
    /// The classes that it was for.
    pub classes: Vec<usize>,
    /// What they share, in the body alone.
    pub shared: bool,
    /// The rule that was taken.
    pub rule: String,
    /// Its strengths.
    pub strengths: BTreeMap<String, f64>,
}

/// The labelled inputs as the model was given them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct LabelledInputs {
    /// Whether they were made from the model alone.
    pub made: bool,
    /// Number of samples of each class that has some, by its id.
    pub samples: BTreeMap<String, usize>,
    /// SHA-256 over all elements as little-endian float64: of the first input, of the others by name, and the classes.
    pub sha256: String,
}

/// A file that was read, or a folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dependency {
    /// File name; of a data file, its path from the model's directory.
    pub name: String,
    /// Its hash.
    pub digest: DependencyDigest,
    /// What it is for.
    pub annotations: Annotations,
}

/// A file's SHA-256, or a folder's directory hash.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum DependencyDigest {
    /// Of a file.
    #[serde(rename = "sha256")]
    Sha256(String),
    /// Of a folder: SHA-256 over a line `hash␠␠path` for each file, sorted by path.
    #[serde(rename = "dirHash")]
    Folder(String),
}

/// What a file is for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Annotations {
    pub role: Role,
}

/// What a file is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The original.
    Model,
    /// A data file of the original.
    Data,
    /// Labelled inputs.
    Inputs,
    /// Samples to forget, in the place of classes.
    Forget,
    /// A Fisher file.
    Fisher,
    /// Samples that the search listened to.
    Calibration,
}

/// What ran.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct RunDetails {
    pub builder: Builder,
}

/// This program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Builder {
    /// [`BUILDER`].
    pub id: String,
    /// Versions, by the name of the program.
    pub version: BTreeMap<String, String>,
}

/// Who asked, and on what ground.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct RequestReference {
    /// The registry's own name for the request.
    pub id: Option<String>,
    /// Such as an article of a law.
    pub legal_basis: Option<String>,
}

/// A class to forget.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ClassName {
    /// Its number.
    pub id: usize,
    /// Its name, if it was asked to be written down.
    pub name: Option<String>,
    /// HMAC-SHA256 of its name, if a key was given.
    pub name_hmac_sha256: Option<String>,
}

/// What differs from the original; every other byte is the same.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Changes {
    /// Weights with at least one element that changed, in the order of the file.
    pub initializers: Vec<InitializerChange>,
    /// Entries of the model's `metadata_props` that no longer name a forgotten class.
    pub metadata: Vec<MetadataChange>,
}

/// A weight that changed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct InitializerChange {
    /// Name of the initializer, or of the Constant node's output.
    pub name: String,
    /// The data file that holds it; `null` for the model file.
    pub file: Option<String>,
    /// Element type as stored, by NumPy's name.
    pub dtype: String,
    /// Number of elements.
    pub elements: usize,
    /// Elements whose bytes changed.
    pub changed: usize,
    /// `Σ|Δw|` of this weight over that of all weights.
    pub share: f64,
    /// `‖Δw‖₂ / ‖w‖₂`.
    pub relative: f64,
    /// Whether it is in the last layer.
    pub head: bool,
    /// Hash of the elements as stored, before.
    pub before: Sha256Digest,
    /// And after.
    pub after: Sha256Digest,
}

/// An entry of `metadata_props` whose value changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MetadataChange {
    /// Its number among the entries.
    pub index: usize,
    /// Its key.
    pub key: String,
    /// Hash of the new value. The old one would give the name away to whoever guesses.
    pub after: Sha256Digest,
}

/// What the labelled inputs say: counts of samples.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Measures {
    /// Samples of the other classes.
    pub retained_samples: usize,
    /// Samples of the classes to forget.
    pub forgotten_samples: usize,
    /// Retained samples answered with their class before.
    pub retained_right_before: usize,
    /// And after.
    pub retained_right_after: usize,
    /// Forget samples answered with a class to forget before.
    pub forgotten_answered_before: usize,
    /// And after.
    pub forgotten_answered_after: usize,
    /// After, under the original last layer.
    pub old_head_answered_after: Option<usize>,
    /// Strengths that were tried.
    pub candidates: usize,
    /// Part of the change that lies in the last layer; 0 to 1.
    pub head_share: f64,
    /// Weights that changed.
    pub weights_changed: usize,
    /// Elements that changed.
    pub elements_changed: usize,
}

/// The key that a record is signed with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Signer {
    /// SHA-256 of the public key's SubjectPublicKeyInfo in DER.
    pub keyid: String,
    /// The same SubjectPublicKeyInfo in base64: the middle line of its PEM file.
    pub public_key: String,
}
