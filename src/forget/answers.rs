//! What a classifier answers with given weights, and with its old head on a changed body.

use super::last;
use crate::autodiff::head::head_weights;
use crate::classifier::{Classifier, Weights, batch_feeds};
use crate::engine::{Engine, Session, Tensor};
use crate::error::{Error, Result};
use crate::graph::{Graph, ValueId, passes};
use crate::inputs::Labelled;
use crate::tensor::Array;
use rayon::prelude::*;
use std::collections::HashMap;

/// Samples whose probabilities a thread takes at once.
const ROWS: usize = 64;

/// Logits of every sample under given weights.
#[derive(Clone, Debug, PartialEq)]
pub struct Answers {
    /// Number of classes.
    pub classes: usize,
    /// `[samples · classes]`, row by row.
    pub logits: Vec<f64>,
    /// The same under the old head: the last layer's original weights on the changed body. Absent where it was
    /// not asked for or the model has no body.
    pub old_head: Option<Vec<f64>>,
}

impl Answers {
    /// The class answered for each sample: the greatest logit, the first of equals. A NaN is never greatest.
    pub fn classes_of(logits: &[f64], classes: usize) -> Vec<usize> {
        logits
            .chunks(classes)
            .map(|row| (0..classes).fold(0, |best, c| if row[c] > row[best] || row[best].is_nan() { c } else { best }))
            .collect()
    }
    /// `log softmax` of each row.
    pub fn log_probabilities(logits: &[f64], classes: usize) -> Vec<f64> {
        let mut out = logits.to_vec();
        out.par_chunks_mut(classes.max(1) * ROWS).for_each(|rows| {
            for row in rows.chunks_mut(classes.max(1)) {
                let top = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let log_sum = row.iter().map(|z| (z - top).exp()).sum::<f64>().ln();
                row.iter_mut().for_each(|z| *z = *z - top - log_sum);
            }
        });
        out
    }
    /// The answers to the first `n` samples.
    #[must_use]
    pub fn first(mut self, n: usize) -> Self {
        let elements = n * self.classes;
        self.logits.truncate(elements);
        self.old_head.iter_mut().for_each(|z| z.truncate(elements));
        self
    }
    /// False when a logit is NaN or infinite.
    pub fn is_finite(&self) -> bool {
        self.logits.iter().chain(self.old_head.iter().flatten()).all(|v| v.is_finite())
    }
}

/// Runs a classifier on samples with weights that are fed.
pub struct Answerer {
    graph: Graph,
    session: Box<dyn Session>,
    weight_ids: Vec<ValueId>,
    head_ids: Vec<ValueId>,
    /// Names of the last layer's weights.
    pub head: Vec<String>,
    classes: usize,
    batch: usize,
    /// Whether the last output is what the last layer reads, samples first.
    shows_features: bool,
    features: Option<Array>,
    /// Samples that were run forward.
    pub passes: usize,
}

impl Answerer {
    /// Prepares the classifier for batches of up to `batch` samples; with `old_head` the last layer's old
    /// weights are fed as well.
    ///
    /// # Errors
    /// As [`Classifier::bind`] and [`Engine::prepare`].
    pub fn new(classifier: &Classifier, engine: &dyn Engine, batch: usize, old_head: bool) -> Result<Self> {
        Self::prepare(classifier, engine, batch, old_head, false)
    }

    /// The same with the old head, and with what the last layer reads, where that is one value of few elements:
    /// [`Answerer::features`] has it after each call.
    ///
    /// # Errors
    /// As [`Answerer::new`].
    pub(super) fn of_search(
        classifier: &Classifier,
        engine: &dyn Engine,
        batch: usize,
        samples: usize,
    ) -> Result<Self> {
        let graph = classifier.bind(1)?.graph;
        let each = last::features(&graph, classifier)?.map_or(0, |id| graph.value(id).ty.len());
        let are_few = each > 0 && each.saturating_mul(samples) <= MOST_FEATURES;
        Self::prepare(classifier, engine, batch, true, are_few)
    }

    fn prepare(
        classifier: &Classifier,
        engine: &dyn Engine,
        batch: usize,
        old_head: bool,
        shows_features: bool,
    ) -> Result<Self> {
        let bound = classifier.bind(batch)?;
        let mut graph = bound.graph;
        let head = classifier.head(&graph)?;
        let features = if shows_features { last::features(&graph, classifier)? } else { None };
        let ids = head_weights(&graph, &head);
        let names: Vec<String> = ids.iter().map(|&id| graph.label(id)).collect();
        let logits = head.rows(&mut graph)?;
        let weight_ids = graph.feed_weights();
        let mut outputs = vec![logits];
        let mut head_ids = Vec::new();
        if old_head && ids.len() < weight_ids.len() {
            outputs.push(second_head(&mut graph, logits, &ids, &mut head_ids)?);
        }
        outputs.extend(features);
        graph.outputs = outputs;
        let batch = graph.batch;
        let session = engine.prepare(&graph)?;
        Ok(Self {
            graph,
            session,
            weight_ids,
            head_ids,
            head: names,
            classes: head.classes,
            batch,
            shows_features: features.is_some(),
            features: None,
            passes: 0,
        })
    }

    /// What the last layer read of the samples that were answered last, `[samples, …]`; `None` where it is not shown.
    pub(super) fn features(&mut self) -> Option<Array> {
        self.features.take()
    }

    /// The answers to all samples under `weights`; `old` gives the old head's.
    ///
    /// # Errors
    /// When the engine fails.
    pub fn answer(
        &mut self,
        weights: &Weights,
        old: &Weights,
        data: &Labelled,
        progress: &mut dyn FnMut(usize),
    ) -> Result<Answers> {
        let mut fixed = weights.feeds(&self.graph, &self.weight_ids)?;
        fixed.extend(old_head_feeds(&self.graph, &self.head_ids, old)?);
        let mut out =
            Answers { classes: self.classes, logits: Vec::new(), old_head: (!self.head_ids.is_empty()).then(Vec::new) };
        let (mut features, mut shape) = (Vec::new(), Vec::new());
        for from in (0..data.len()).step_by(self.batch) {
            let to = (from + self.batch).min(data.len());
            let (inputs, _) = batch_feeds(&self.graph, data, from, to, self.batch)?;
            let feeds: Vec<Tensor> =
                inputs.into_iter().map(|(_, a)| Tensor::Host(a)).chain(fixed.iter().cloned()).collect();
            let results = self.session.run(&feeds)?;
            let take = (to - from) * self.classes;
            let read = |i: usize, into: &mut Vec<f64>| -> Result<()> {
                let t = results.get(i).ok_or_else(|| Error::internal("a session gave too few outputs"))?;
                into.extend(t.to_array()?.to_f64().into_iter().take(take));
                Ok(())
            };
            read(0, &mut out.logits)?;
            if let Some(old) = &mut out.old_head {
                read(1, old)?;
            }
            if let Some(shown) = results.last().filter(|_| self.shows_features) {
                let shown = shown.to_array()?;
                shape = shown.shape().to_vec();
                let each = shown.len() / self.batch;
                features.extend(shown.to_f64().into_iter().take(each * (to - from)));
            }
            progress(to);
        }
        self.features = None;
        if let (true, Some(samples)) = (self.shows_features, shape.first_mut()) {
            *samples = data.len();
            self.features = Some(Array::from_vec(&shape, features)?);
        }
        self.passes += data.len();
        Ok(out)
    }
}

/// Features of all samples have at most so many elements where they are shown.
const MOST_FEATURES: usize = 1 << 24;

/// Prefix of the inputs that hold the old head.
const OLD: &str = "old head: ";

/// What the inputs that [`second_head`] adds are fed with.
pub(super) fn old_head_feeds(g: &Graph, ids: &[ValueId], old: &Weights) -> Result<Vec<Tensor>> {
    let feed = |&id: &ValueId| {
        let name = g.label(id);
        let name = name.strip_prefix(OLD).unwrap_or(&name);
        old.get(name).cloned().ok_or_else(|| Error::internal(format!("weight {name} was not uploaded")))
    };
    ids.iter().map(feed).collect()
}

/// Adds the logits again, computed from the same features with weights that are inputs of their own.
pub(super) fn second_head(
    g: &mut Graph,
    logits: ValueId,
    head: &[ValueId],
    inputs: &mut Vec<ValueId>,
) -> Result<ValueId> {
    let from = g.clone();
    let depends = passes::reached_from(&from, head);
    let mut map: HashMap<ValueId, ValueId> =
        from.ids().filter(|id| !depends[id.index()] && from.constant_of(*id).is_none()).map(|id| (id, id)).collect();
    for &id in head {
        let ty = from.value(id).ty.clone();
        let old = g.input(format!("{OLD}{}", from.label(id)), ty, crate::graph::Batch::None);
        map.insert(id, old);
        inputs.push(old);
    }
    passes::replay(&from, g, &[logits], &mut map)?;
    map.get(&logits).copied().ok_or_else(|| Error::internal("the logits do not depend on the head"))
}
