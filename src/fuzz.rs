//! One function per reader of strangers' bytes, for fuzzers and property tests. Each returns normally for every
//! input; what must never happen is a panic, a hang, memory out of proportion, or a broken promise, which panics.
#![allow(clippy::panic, reason = "a broken promise is what a fuzzer looks for")]

use crate::autodiff::gradient::{Mode, gradient_graph};
use crate::classifier::{Classifier, ClassifierOptions};
use crate::fisher::Counting;
use crate::fisher::store::Kept;
use crate::inputs::{Expected, Options, npz};
use crate::onnx::proto::{DataType, GraphProto, ModelProto, OperatorSetIdProto, StringStringEntryProto, TensorProto};
use crate::onnx::{ImportOptions, Model, import, patch_to_bytes};
use crate::record::{self, Against, names};
use crate::tensor::{Array, DType, TensorType};
use prost::Message;
use std::io::Cursor;
use std::sync::OnceLock;

/// A name and what one input is given to.
pub type Target = (&'static str, fn(&[u8]));

/// Every target.
pub const TARGETS: [Target; 6] = [
    ("load", load),
    ("import", import_and_fold),
    ("patch", patch),
    ("npz", read_npz),
    ("safetensors", read_fisher),
    ("record", read_record),
];

/// Scans and decodes a model and reads every weight.
pub fn load(bytes: &[u8]) {
    let Ok(model) = Model::from_bytes("fuzz", bytes.to_vec()) else { return };
    for w in model.weights() {
        if let Ok(a) = model.read(w) {
            assert_eq!(a.shape(), w.shape(), "{} reads in another shape", w.name());
        }
    }
}

/// Imports a model, which infers every shape and folds what is constant, and builds its Fisher graph.
pub fn import_and_fold(bytes: &[u8]) {
    let Ok(model) = Model::from_bytes("fuzz", bytes.to_vec()) else { return };
    let options = ImportOptions { batch: 2, ..ImportOptions::default() };
    let bound = import(model.proto(), &|t| model.array(t), &options);
    if let Ok(bound) = bound {
        // refusals are fine, panics are not
        drop(gradient_graph(&bound.graph, &bound.weights, None, Mode::Fisher { sets: 1 }));
    }
    drop(Classifier::from_model(model, ClassifierOptions::default()));
}

/// Changes every weight of a model and holds the result to what [`crate::onnx::patch`] promises.
pub fn patch(bytes: &[u8]) {
    let Ok(model) = Model::from_bytes("fuzz", bytes.to_vec()) else { return };
    let mut changes = Vec::new();
    let mut may_change = vec![false; bytes.len()];
    for (i, w) in model.weights().iter().enumerate().filter(|(_, w)| w.is_patchable()) {
        changes.push((i, Array::full_float(w.storage().dtype(), w.shape(), 0.75)));
        for r in w.runs() {
            for k in 0..r.count {
                let at = r.start + k * r.step;
                may_change[at..at + w.storage().width()].fill(true);
            }
        }
    }
    let Ok((written, report)) = patch_to_bytes(&model, &changes) else { return };
    assert_eq!(written.len(), bytes.len(), "the length changed");
    let strayed = (0..bytes.len()).find(|&i| written[i] != bytes[i] && !may_change[i]);
    assert_eq!(strayed, None, "a byte outside of the weights changed");
    assert_eq!(report.weights.len(), changes.len());
    let after = Model::from_bytes("fuzz", written).unwrap_or_else(|e| panic!("the result does not open: {e}"));
    for (i, values) in &changes {
        let w = &after.weights()[*i];
        let read = after.read(w).unwrap_or_else(|e| panic!("{}: {e}", w.name()));
        assert_eq!(&read, values, "{} does not hold what was written", w.name());
    }
}

/// Reads labelled inputs for a model of two inputs.
pub fn read_npz(bytes: &[u8]) {
    let mut expected = Expected::new(TensorType::new(DType::F32, [2, 3]), 4);
    expected.extra.insert("mask".to_owned(), TensorType::new(DType::Bool, [3]));
    let plain = Expected::new(TensorType::new(DType::I64, [3]), 4);
    for expected in [expected, plain] {
        let length = bytes.len() as u64;
        if let Ok(data) = npz::load_from(Cursor::new(bytes), length, &expected, &Options::default()) {
            data.check(&expected).unwrap_or_else(|e| panic!("accepted and unsuitable: {e}"));
        }
    }
}

/// Reads a Fisher file, every sum of it, and the mean over its classes.
pub fn read_fisher(bytes: &[u8]) {
    let Ok(kept) = Kept::read(bytes.to_vec().into()) else { return };
    let names: Vec<String> = kept.weights().map(|(n, _)| n.to_owned()).collect();
    for (i, name) in names.iter().enumerate() {
        for row in 0..kept.origin.rows.len() {
            if let Ok(sum) = kept.row(i, row) {
                assert!(sum.iter().all(|v| v.is_finite() && *v >= 0.0), "{name} is no Fisher");
            }
        }
    }
    for counting in [Counting::Samples, Counting::Equalised] {
        if let Ok(means) = kept.means(&names, &[kept.classes()], counting) {
            assert!(means.iter().flatten().flatten().all(|v| v.is_finite() && *v >= 0.0), "a mean is no Fisher");
        }
    }
}

/// Reads a record, and class names where the bytes are text; holds the record against a model that it is not about.
pub fn read_record(bytes: &[u8]) {
    static MODEL: OnceLock<Vec<u8>> = OnceLock::new();
    let bare = MODEL.get_or_init(small_model);
    if let Ok(text) = std::str::from_utf8(bytes) {
        read_names(bare, text);
    }
    let Ok(parsed) = record::parse(bytes) else { return };
    let model = Model::from_bytes("fuzz", bare.clone()).unwrap_or_else(|e| panic!("the small model: {e}"));
    let against = Against { model: &model, original: Some(&model), key: None };
    let lines = record::verify(&parsed, &against).unwrap_or_else(|e| panic!("verification fails: {e}"));
    assert!(!lines.is_empty(), "the small model has a record");
    // with its own hash made right it says the same of the model
    let mut statement = parsed.statement;
    statement.predicate.signer = None;
    let sealed = record::seal(statement.clone(), None).unwrap_or_else(|e| panic!("cannot be sealed: {e}"));
    let again = record::parse(&sealed).unwrap_or_else(|e| panic!("does not read back: {e}"));
    assert_eq!(again.faults, Vec::<String>::new());
    let lines = record::verify(&again, &against).unwrap_or_else(|e| panic!("verification fails: {e}"));
    assert!(!lines.is_empty(), "the small model has a record");
}

/// Takes class names out of metadata that are this text, under a key that is known and under one that is not.
fn read_names(bare: &[u8], text: &str) {
    let mut proto = ModelProto::decode(bare).unwrap_or_else(|e| panic!("the small model: {e}"));
    let entry = |k: &str, v: &str| StringStringEntryProto { key: Some(k.to_owned()), value: Some(v.to_owned()) };
    proto.metadata_props = vec![entry("about", text), entry("names", text), entry("labels", "['a', 'b']")];
    let model = Model::from_bytes("fuzz", proto.encode_to_vec()).unwrap_or_else(|e| panic!("with metadata: {e}"));
    let Ok((_, values)) = names::scrub(&model, &[1], 2) else { return };
    for (i, value) in values {
        assert_ne!(proto.metadata_props[i].value(), value, "nothing changed");
        proto.metadata_props[i].value = Some(value);
    }
    let scrubbed = Model::from_bytes("fuzz", proto.encode_to_vec()).unwrap_or_else(|e| panic!("scrubbed: {e}"));
    if let (Some(old), Some(new)) = (names::class_names(&model, 2).get(&1), names::class_names(&scrubbed, 2).get(&1)) {
        assert!(old == new || new == "class_1", "'{old}' became '{new}'");
    }
}

/// A model of one weight.
fn small_model() -> Vec<u8> {
    let weight = TensorProto {
        name: Some("w".to_owned()),
        dims: vec![2],
        data_type: Some(DataType::Float.into()),
        raw_data: Some(vec![0; 8].into()),
        ..TensorProto::default()
    };
    let graph = GraphProto { initializer: vec![weight], ..GraphProto::default() };
    let opset = OperatorSetIdProto { version: Some(18), ..OperatorSetIdProto::default() };
    ModelProto { ir_version: Some(8), graph: Some(Box::new(graph)), opset_import: vec![opset], ..ModelProto::default() }
        .encode_to_vec()
}
