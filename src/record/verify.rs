//! Holding a model against its record: everything in the record that can be computed again is.

use super::canonical::Parsed;
use super::dsse::{self, PublicKey};
use super::measure::{Delta, delta, share};
use super::names;
use super::statement::*;
use crate::error::Result;
use crate::files::hex;
use crate::onnx::{FileDigest, Model, Weight, differences_outside};
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;

/// What a record is held against.
#[derive(Clone, Copy, Debug)]
pub struct Against<'a> {
    /// The model that the record is said to be about.
    pub model: &'a Model,
    /// The model that it was made from.
    pub original: Option<&'a Model>,
    /// The key that the record must be signed with.
    pub key: Option<&'a PublicKey>,
}

/// A line for everything that does not agree; none when all of it does.
///
/// # Errors
/// `Internal` when weights cannot be read.
pub fn verify(record: &Parsed, against: &Against<'_>) -> Result<Vec<String>> {
    let statement = &record.statement;
    let mut lines = record.faults.clone();
    lines.extend(dsse::faults(record.envelope.as_ref(), statement.predicate.signer.as_ref(), against.key));
    lines.extend(constants(statement));
    lines.extend(arithmetic(&statement.predicate));
    files("the record's subject", &statement.subject, &against.model.digests(), &mut lines);
    let changes = &statement.predicate.changes;
    for change in &changes.initializers {
        if let Err(why) = present(against.model, change, &change.after) {
            lines.push(format!("'{}' {why}", change.name));
        }
    }
    lines.extend(metadata(against.model, &changes.metadata));
    if let Some(original) = against.original {
        let of_original = statement.predicate.build_definition.resolved_dependencies.iter();
        let named = of_original.filter_map(|d| match (&d.digest, d.annotations.role) {
            (DependencyDigest::Sha256(sha256), Role::Model | Role::Data) => {
                Some(Subject { name: d.name.clone(), digest: Sha256Digest::new(sha256) })
            }
            _ => None,
        });
        files("the original in the record", &named.collect::<Vec<_>>(), &original.digests(), &mut lines);
        lines.extend(history(&statement.predicate, original, against.model)?);
    }
    Ok(lines)
}

/// What is the same in every record.
fn constants(s: &Statement) -> Vec<String> {
    let p = &s.predicate;
    let all = [
        ("_type", &s.kind, STATEMENT),
        ("predicateType", &s.predicate_type, PREDICATE),
        ("buildType", &p.build_definition.build_type, BUILD),
        ("builder.id", &p.run_details.builder.id, BUILDER),
    ];
    all.iter()
        .filter(|(_, is, want)| is.as_str() != *want)
        .map(|(k, is, w)| format!("{k} is '{is}', not '{w}'"))
        .collect()
}

/// Numbers that follow from others in the record.
fn arithmetic(p: &Predicate) -> Vec<String> {
    let (m, changed) = (&p.measures, &p.changes.initializers);
    let elements = changed.iter().fold(0_usize, |n, c| n.saturating_add(c.changed));
    // from 0, since an empty sum of floats would be -0
    let head = changed.iter().filter(|c| c.head).fold(0.0, |sum, c| sum + c.share);
    let samples: usize =
        p.build_definition.internal_parameters.inputs.samples.values().fold(0, |n: usize, k| n.saturating_add(*k));
    let counts = [
        ("weightsChanged", m.weights_changed, changed.len()),
        ("elementsChanged", m.elements_changed, elements),
        ("retainedSamples and forgottenSamples", m.retained_samples.saturating_add(m.forgotten_samples), samples),
    ];
    let mut lines: Vec<String> = counts
        .iter()
        .filter(|(_, said, is)| said != is)
        .map(|(what, said, is)| format!("the record says {said} for {what}, its own entries say {is}"))
        .collect();
    if m.head_share.to_bits() != head.to_bits() {
        lines.push(format!("the record says {} for headShare, its own entries say {head}", m.head_share));
    }
    let classes: Vec<usize> = p.classes.iter().map(|c| c.id).collect();
    if p.build_definition.external_parameters.get("classes") != Some(&serde_json::json!(classes)) {
        lines.push("the record's classes are not those of its parameters".to_owned());
    }
    let distinct: BTreeSet<&str> = changed.iter().map(|c| c.name.as_str()).collect();
    if distinct.len() != changed.len() {
        lines.push("the record lists a weight twice".to_owned());
    }
    lines
}

/// Compares files named in a record with those there are. The model file may have another name by now, its data files not.
fn files(what: &str, named: &[Subject], there: &[FileDigest], lines: &mut Vec<String>) {
    let Some(((first, data), (model, beside))) = named.split_first().zip(there.split_first()) else {
        lines.push(format!("{what} names no file"));
        return;
    };
    if first.digest.sha256 != model.sha256 {
        lines.push(format!(
            "{what} has the sha256 {}, the file {} has {}",
            first.digest.sha256, model.name, model.sha256
        ));
    }
    for file in beside {
        match data.iter().find(|d| d.name == file.name) {
            None => lines.push(format!("{what} does not name the data file {}", file.name)),
            Some(d) if d.digest.sha256 != file.sha256 => lines.push(format!(
                "{what} has the sha256 {} for {}, the file has {}",
                d.digest.sha256, file.name, file.sha256
            )),
            Some(_) => {}
        }
    }
    for extra in data.iter().filter(|d| !beside.iter().any(|f| f.name == d.name)) {
        lines.push(format!("{what} names {}, which the model does not use", extra.name));
    }
    if data.len() > beside.len() && data.iter().all(|d| beside.iter().any(|f| f.name == d.name)) {
        lines.push(format!("{what} names a data file twice"));
    }
}

/// The weight that a change is about, if it has these elements.
fn present<'m>(model: &'m Model, change: &InitializerChange, digest: &Sha256Digest) -> Result<&'m Weight, String> {
    let index = model.weight_index(&change.name).ok_or("is no weight of the model")?;
    let weight = model.weights().get(index).ok_or("is no weight of the model")?;
    let file = file_of(model, weight);
    if (weight.storage().name(), weight.elements(), &file) != (change.dtype.as_str(), change.elements, &change.file) {
        return Err(format!(
            "is {} elements of {} in {}, the record has {} of {} in {}",
            weight.elements(),
            weight.storage().name(),
            file.as_deref().unwrap_or("the model file"),
            change.elements,
            change.dtype,
            change.file.as_deref().unwrap_or("the model file")
        ));
    }
    let there = model.weight_sha256(weight).map_err(|e| e.to_string())?;
    if there == digest.sha256 {
        Ok(weight)
    } else {
        Err(format!("has elements with the sha256 {there}, the record has {}", digest.sha256))
    }
}

/// The data file that holds a weight, as records name it.
pub fn file_of(model: &Model, weight: &Weight) -> Option<String> {
    let location = model.data_files().get(weight.data_file()?)?.location();
    Some(location.iter().map(|n| n.to_string_lossy()).collect::<Vec<_>>().join("/"))
}

fn metadata(model: &Model, changes: &[MetadataChange]) -> Vec<String> {
    let mut lines = Vec::new();
    for change in changes {
        let found = model.proto().metadata_props.get(change.index).filter(|p| p.key() == change.key);
        match found.map(|p| hex(&Sha256::digest(p.value()))) {
            None => lines.push(format!("metadata entry {} is not '{}'", change.index, change.key)),
            Some(sum) if sum != change.after.sha256 => lines.push(format!(
                "metadata entry '{}' has the sha256 {sum}, the record has {}",
                change.key, change.after.sha256
            )),
            Some(_) => {}
        }
    }
    lines
}

/// What can be said with the original at hand: its weights are those of the record, and all that changed is listed.
fn history(p: &Predicate, original: &Model, model: &Model) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    let mut listed = Vec::new();
    let mut deltas: Vec<(&InitializerChange, Delta)> = Vec::new();
    for change in &p.changes.initializers {
        let old = match present(original, change, &change.before) {
            Ok(old) => old,
            Err(why) => {
                lines.push(format!("'{}' of the original {why}", change.name));
                continue;
            }
        };
        listed.extend(original.weight_index(&change.name));
        let new = model.weight_index(&change.name).and_then(|i| model.weights().get(i));
        let Some(new) = new.filter(|n| n.shape() == old.shape()) else { continue };
        deltas.push((change, delta(&original.read(old)?, &model.read(new)?)));
    }
    let total = deltas.iter().fold(0.0, |sum, (_, d)| sum + d.absolute);
    for (change, d) in &deltas {
        if d.changed != change.changed {
            lines.push(format!(
                "{} elements of '{}' changed, the record says {}",
                d.changed, change.name, change.changed
            ));
        }
        let said = [change.share, change.relative].map(f64::to_bits);
        if said != [share(d.absolute, total), d.relative].map(f64::to_bits) {
            lines.push(format!("the record has another share or relative change of '{}' than the files", change.name));
        }
    }
    let edits = match scrubbed(p, original) {
        Ok(edits) => edits,
        Err(why) => {
            lines.push(why);
            Vec::new()
        }
    };
    lines.extend(differences_outside(original, model, &listed, &edits)?);
    Ok(lines)
}

/// The edits that take the class names out of the original's metadata, if the record says that this was done.
fn scrubbed(p: &Predicate, original: &Model) -> Result<Vec<crate::onnx::Edit>, String> {
    if p.changes.metadata.is_empty() {
        return Ok(Vec::new());
    }
    let classes = p.build_definition.external_parameters.get("modelClasses").and_then(serde_json::Value::as_u64);
    let classes =
        classes.and_then(|n| usize::try_from(n).ok()).ok_or("the record does not say how many classes there are")?;
    let forgotten: Vec<usize> = p.classes.iter().map(|c| c.id).collect();
    let (edits, values) = names::scrub(original, &forgotten, classes).map_err(|e| format!("the original: {e}"))?;
    let listed: Vec<usize> = p.changes.metadata.iter().map(|c| c.index).collect();
    if values.keys().copied().collect::<Vec<_>>() == listed {
        Ok(edits)
    } else {
        Err("the record lists other metadata entries than those that name the classes".to_owned())
    }
}
