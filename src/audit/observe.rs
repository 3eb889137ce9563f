//! What a classifier shows on samples: logits, penultimate features, and logits under another model's head.

use crate::autodiff::head::{Features, head_features};
use crate::classifier::{Classifier, batch_feeds};
use crate::engine::{Engine, Session, Tensor};
use crate::error::{Error, Result};
use crate::forget::answers::Answers;
use crate::graph::{Attrs, Batch, Graph, Source, ValueId, passes};
use crate::inputs::Labelled;
use crate::ops::{reduce_sum, reshape, transpose};
use crate::tensor::{Array, DType, TensorType};
use ndarray::Array2;
use std::collections::{BTreeMap, HashMap};

/// Samples in one run; it bounds the memory that activations take.
const MAX_BATCH: usize = 128;

/// What was seen of some samples.
#[derive(Clone, Default)]
pub(super) struct Seen {
    /// Number of classes.
    pub(super) classes: usize,
    /// `[samples · classes]`.
    pub(super) logits: Vec<f64>,
    /// Penultimate features, averaged over places or tokens.
    pub(super) features: Option<Array2<f64>>,
    /// Logits of the original head on these features.
    pub(super) old_head: Option<Vec<f64>>,
}

impl Seen {
    /// The class answered for each sample.
    pub(super) fn answers(&self) -> Vec<usize> {
        Answers::classes_of(&self.logits, self.classes)
    }
    /// `log softmax` of each row.
    pub(super) fn log_p(&self) -> Vec<f64> {
        Answers::log_probabilities(&self.logits, self.classes)
    }
}

/// The last layer of a model as a graph of its own: from the features to the logits.
pub(super) struct HeadGraph {
    graph: Graph,
    features: TensorType,
}

/// Shows samples to one classifier.
pub(super) struct Observer {
    graph: Graph,
    session: Box<dyn Session>,
    head: Option<Box<dyn Session>>,
    classes: usize,
    has_features: bool,
}

/// The batch that `n` samples run in.
fn batch_of(n: usize) -> usize {
    n.clamp(1, MAX_BATCH)
}

impl HeadGraph {
    /// The head of a classifier, for as many samples as an [`Observer`] of `n` samples runs at once.
    ///
    /// # Errors
    /// With the reason why the head cannot stand alone.
    pub(super) fn of(classifier: &Classifier, n: usize) -> Result<Self> {
        let mut from = classifier.bind(batch_of(n))?.graph;
        let head = classifier.head(&from)?;
        let found = head_features(&from, &head)
            .ok_or_else(|| Error::unsupported("no last product of features with a weight was found"))?;
        let rows = head.rows(&mut from)?;
        let value = from.value(found.value).clone();
        let mut graph = Graph::new(from.batch);
        let input = graph.input("features", value.ty.clone(), value.batch);
        let mut map = HashMap::from([(found.value, input)]);
        for (id, data) in from.weights() {
            map.insert(id, graph.weight(from.label(id), data.clone()));
        }
        passes::replay(&from, &mut graph, &[rows], &mut map)
            .map_err(|_| Error::unsupported("the last layer reads more than the features"))?;
        let rows = map.get(&rows).copied().ok_or_else(|| Error::internal("the logits were not replayed"))?;
        graph.outputs = vec![rows];
        Ok(Self { graph, features: value.ty })
    }
}

impl Observer {
    /// Prepares a classifier for `n` samples; with `old_head` for that head on its features as well.
    ///
    /// # Errors
    /// As [`Classifier::bind`] and [`Engine::prepare`]; when the head does not take this classifier's features.
    pub(super) fn new(
        classifier: &Classifier,
        engine: &dyn Engine,
        n: usize,
        old_head: Option<&HeadGraph>,
    ) -> Result<Self> {
        Self::of(classifier, engine, classifier.bind(batch_of(n))?.graph, old_head)
    }

    /// The same with other elements for these weights, without features under another head.
    ///
    /// # Errors
    /// As [`Observer::new`].
    pub(super) fn with_weights(
        classifier: &Classifier,
        engine: &dyn Engine,
        n: usize,
        weights: &BTreeMap<String, Array>,
    ) -> Result<Self> {
        Self::of(classifier, engine, classifier.bind_replacing(batch_of(n), weights)?.graph, None)
    }

    fn of(
        classifier: &Classifier,
        engine: &dyn Engine,
        mut graph: Graph,
        old_head: Option<&HeadGraph>,
    ) -> Result<Self> {
        let head = classifier.head(&graph)?;
        let logits = head.rows(&mut graph)?;
        let mut outputs = vec![logits];
        let found = head_features(&graph, &head);
        if let Some(found) = found
            && let Some(rows) = pooled(&mut graph, found)?
        {
            outputs.extend([rows, found.value]);
        }
        let has_features = outputs.len() > 1;
        let head_session = match old_head {
            None => None,
            Some(h) if has_features && found.is_some_and(|f| graph.value(f.value).ty == h.features) => {
                Some(engine.prepare(&h.graph)?)
            }
            Some(h) => {
                return Err(Error::unsupported(format!(
                    "the original head takes features {}, which this model does not have",
                    h.features
                )));
            }
        };
        if head_session.is_none() {
            outputs.truncate(2);
        }
        graph.outputs = outputs;
        passes::prune(&mut graph);
        Ok(Self { session: engine.prepare(&graph)?, graph, head: head_session, classes: head.classes, has_features })
    }

    /// Shows it all samples.
    ///
    /// # Errors
    /// When the engine fails.
    pub(super) fn see(&mut self, data: &Labelled) -> Result<Seen> {
        let (batch, classes) = (self.graph.batch, self.classes);
        let (mut logits, mut rows, mut old) = (Vec::new(), Vec::new(), Vec::new());
        let mut width = 0;
        for from in (0..data.len()).step_by(batch) {
            let to = (from + batch).min(data.len());
            let (inputs, _) = batch_feeds(&self.graph, data, from, to, batch)?;
            let feeds: Vec<Tensor> = inputs.into_iter().map(|(_, a)| Tensor::Host(a)).collect();
            let mut out = self.session.run(&feeds)?.into_iter();
            let mut next = || out.next().ok_or_else(|| Error::internal("a session gave too few outputs"));
            let read = |t: Tensor, width: usize, into: &mut Vec<f64>| -> Result<()> {
                into.extend(t.to_array()?.to_f64().into_iter().take((to - from) * width));
                Ok(())
            };
            read(next()?, classes, &mut logits)?;
            if self.has_features {
                let t = next()?;
                width = t.ty().shape.get(1).copied().unwrap_or(0);
                read(t, width, &mut rows)?;
            }
            if let Some(head) = &mut self.head {
                let answers = head.run(&[next()?])?.into_iter().next();
                read(answers.ok_or_else(|| Error::internal("a head gave no logits"))?, classes, &mut old)?;
            }
        }
        let features = if self.has_features {
            let rows = Array2::from_shape_vec((data.len(), width), rows);
            Some(rows.map_err(|e| Error::internal(format!("features: {e}")))?)
        } else {
            None
        };
        if logits.iter().chain(&old).any(|v| v.is_nan() || *v == f64::INFINITY) {
            return Err(Error::invalid("its answers to the samples are NaN or infinite: nothing can be measured"));
        }
        // a class may be cut off by minus infinity, but no feature
        let features = features.filter(|f: &Array2<f64>| f.iter().all(|v| v.is_finite()));
        Ok(Seen { classes, logits, features, old_head: self.head.is_some().then_some(old) })
    }
}

/// The features as `[samples, features]`: the mean over all axes but the samples' and the one the last layer sums over.
/// `None` where the samples cannot be told apart in them.
fn pooled(g: &mut Graph, found: Features) -> Result<Option<ValueId>> {
    let Batch::Axis { axis, rows } = g.value(found.value).batch else { return Ok(None) };
    let shape = g.shape(found.value).to_vec();
    if axis == found.axis {
        return Ok(None);
    }
    let others: Vec<usize> = (0..shape.len()).filter(|&a| a != axis && a != found.axis).collect();
    let order: Vec<usize> = [&[axis], &others[..], &[found.axis]].concat();
    let v = transpose(g, found.value, &order)?;
    let (n, width) = (g.batch, shape[found.axis]);
    let places: usize = rows * others.iter().map(|&a| shape[a]).product::<usize>();
    let v = reshape(g, v, &[n, places, width])?;
    let sum = reduce_sum(g, v, &[1], false)?;
    let part = g.scalar(1.0 / places as f64, g.dtype(sum));
    g.push("Mul", &[sum, part], Attrs::new()).map(Some)
}

/// True where the first input is of floats: blending needs that.
pub(super) fn takes_floats(classifier: &Classifier) -> bool {
    matches!(classifier.input().dtype, DType::F32 | DType::F64)
}

/// Names of the weights that a graph's head reads.
pub(super) fn head_names(classifier: &Classifier) -> Result<Vec<String>> {
    let g = classifier.bind(1)?.graph;
    let head = classifier.head(&g)?;
    let ids = crate::autodiff::head::head_weights(&g, &head);
    Ok(ids.into_iter().filter(|id| matches!(g.value(*id).source, Source::Weight(_))).map(|id| g.label(id)).collect())
}
