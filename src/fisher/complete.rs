//! Classes that a kept Fisher lacks, estimated from the inputs that it was made from.

use super::kept::{Computed, Kept};
use super::plan::{CHUNK, chunks, halves};
use super::sums::joined_hash;
use super::{ClassSums, Plan};
use crate::classifier::{Classifier, Weights};
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::inputs::{Labelled, Source};
use std::collections::BTreeMap;
use std::ops::Range;

/// Classes that were estimated besides those of a file.
#[derive(Default)]
pub(crate) struct Completed {
    pub(crate) classes: BTreeMap<usize, Computed>,
    /// Why samples ran one by one, if they had to.
    pub(crate) one_by_one: Option<String>,
}

impl Kept {
    /// Estimates classes that this lacks, if there are any, from `data`, which has to hold the samples that this was
    /// made from.
    ///
    /// # Errors
    /// `Invalid` when `data` has other samples of a class that is held; and as [`ClassSums::new`].
    pub(crate) fn complete(
        &self,
        classifier: &Classifier,
        engine: &dyn Engine,
        weights: &Weights,
        data: &Labelled,
        missing: &[usize],
        progress: &mut dyn FnMut(usize),
    ) -> Result<Completed> {
        if missing.is_empty() {
            return Ok(Completed::default());
        }
        self.check_inputs(data, missing)?;
        estimate_classes(classifier, engine, weights, data, missing, progress)
    }

    /// Checks that inputs hold the samples that this was made from, by the hashes of classes that both have.
    fn check_inputs(&self, data: &Labelled, missing: &[usize]) -> Result<()> {
        let lacks = format!("holds no Fisher of class {}", missing[0]);
        let mut agree = false;
        for (class, at) in data.by_class() {
            let Some(row) = self.origin.rows.iter().find(|r| r.class == class) else { continue };
            if hash(data, &at, &(0..chunks(at.len())))? != row.sha256 {
                return Err(Error::invalid(format!(
                    "{lacks}, and it was made from other samples of class {class} than the inputs have, so that the \
                     missing class cannot be estimated from them"
                )));
            }
            agree = true;
        }
        if agree {
            Ok(())
        } else {
            Err(Error::invalid(format!("{lacks}, and the inputs have no class that it was made from")))
        }
    }
}

/// Estimates some classes by themselves.
///
/// # Errors
/// As [`ClassSums::new`]; also when a class has no sample.
pub(crate) fn estimate_classes(
    classifier: &Classifier,
    engine: &dyn Engine,
    weights: &Weights,
    data: &Labelled,
    classes: &[usize],
    progress: &mut dyn FnMut(usize),
) -> Result<Completed> {
    let elements = weights.tensors.iter().map(|t| t.ty().len()).sum();
    let plan = Plan::new(&data.by_class(), classes, elements)?;
    let source = Source::of(data.clone(), &classifier.expected());
    let mut sums = ClassSums::new(classifier, engine, weights, &plan)?;
    let names = sums.names.clone();
    let mut classes = BTreeMap::new();
    sums.run(&source, &plan.all(), progress, &mut |node| {
        let samples = plan.samples.iter().find(|(c, _)| *c == node.row.class).map_or(1, |(_, n)| *n);
        let sums = names.iter().cloned().zip(node.sums).collect();
        classes.insert(node.row.class, Computed { samples, sums });
        Ok(())
    })?;
    Ok(Completed { classes, one_by_one: sums.one_by_one })
}

/// The hash of some chunks of a class's samples, as a file's row has it.
fn hash(data: &Labelled, positions: &[usize], node: &Range<usize>) -> Result<String> {
    match halves(node) {
        Some((left, right)) => Ok(joined_hash(&hash(data, positions, &left)?, &hash(data, positions, &right)?)),
        None => {
            let chunk = positions.chunks(CHUNK).nth(node.start).unwrap_or_default();
            Ok(crate::files::hex(&data.select(chunk)?.digest()))
        }
    }
}
