//! The last layer on its own. While only it changes, the features that it reads stay what they are: they are computed once,
//! and what is tried of the last layer is a small product.

use super::Aim;
use super::answers::{Answerer, Answers};
use super::ascent::{Ascent, Part};
use super::rewrite::Basis;
use crate::autodiff::head::head_weights;
use crate::classifier::{Classifier, ClassifierOptions, Weights, batch_feeds};
use crate::engine::cpu::Cpu;
use crate::engine::{Engine, Session, Tensor};
use crate::error::{Error, Result};
use crate::graph::{Batch, Graph, Source, ValueId, passes};
use crate::inputs::Labelled;
use crate::onnx::proto::{ModelProto, dimension, type_proto};
use crate::onnx::{ExportOptions, Model, export};
use crate::tensor::{Array, TensorType};
use prost::Message;
use std::collections::HashMap;

/// A classifier cut before its last layer.
pub(super) struct Cut {
    head: Classifier,
    body: Graph,
    weight_ids: Vec<ValueId>,
}

impl Cut {
    /// `None` where the last layer does not read one value that has the samples on its first axis, or is no classifier by
    /// itself.
    ///
    /// # Errors
    /// As [`Classifier::bind`].
    pub(super) fn of(classifier: &Classifier, engine: &dyn Engine, batch: usize) -> Result<Option<Self>> {
        let Some(head) = head_alone(&classifier.bind(1)?.graph, classifier, engine)? else { return Ok(None) };
        let mut body = classifier.bind(batch)?.graph;
        let Some(features) = features(&body, classifier)? else { return Ok(None) };
        let weight_ids = body.feed_weights();
        body.outputs = vec![features];
        Ok(Some(Self { head, body, weight_ids }))
    }

    /// The features of all samples under these weights, with the classes of the samples.
    fn features(&self, engine: &dyn Engine, weights: &Weights, data: &Labelled) -> Result<Labelled> {
        let mut session: Box<dyn Session> = engine.prepare(&self.body)?;
        let fixed = weights.feeds(&self.body, &self.weight_ids)?;
        let (batch, mut shape, mut all) = (self.body.batch, Vec::new(), Vec::new());
        for from in (0..data.len()).step_by(batch) {
            let to = (from + batch).min(data.len());
            let (inputs, _) = batch_feeds(&self.body, data, from, to, batch)?;
            let feeds: Vec<Tensor> =
                inputs.into_iter().map(|(_, a)| Tensor::Host(a)).chain(fixed.iter().cloned()).collect();
            let results = session.run(&feeds)?;
            let found = results.first().ok_or_else(|| Error::internal("a session gave no features"))?.to_array()?;
            shape = found.shape().to_vec();
            let each = found.len() / batch;
            all.extend(found.to_f64().into_iter().take(each * (to - from)));
        }
        shape[0] = data.len();
        Labelled::new(Array::from_vec(&shape, all)?.to_float(self.head.float()), data.y.clone())
    }
}

/// Weights, and what the last layer reads under them where that is known.
pub(super) struct Body<'a> {
    pub(super) weights: &'a Weights,
    pub(super) features: Option<Array>,
}

/// What the model is shown.
pub(super) struct Shown<'a> {
    /// The labelled inputs, then samples that are only listened to.
    pub(super) all: &'a Labelled,
    /// How many are inputs.
    pub(super) inputs: usize,
    /// Which of them are to be forgotten.
    pub(super) aim: &'a Aim,
}

/// The last layer above a body that has settled.
///
/// Its steps are made from what it reads of the body as it came: data keep much of that, while inputs that were learned by
/// heart are far from it once the body has moved, and what pushes them down may lift data up.
pub(super) struct Last<'a> {
    ascent: Ascent<'a>,
    answerer: Answerer,
    /// Of the body that has settled.
    features: Labelled,
    /// Of the body as it came, where that is another.
    unmoved: Option<Labelled>,
    /// What the old head answers on this body.
    old_head: Option<Vec<f64>>,
}

impl<'a> Last<'a> {
    /// `settled` are the answers under the weights of `now`, and `original` are those as they came, where their body is another.
    ///
    /// # Errors
    /// As [`Ascent::new`].
    pub(super) fn new(
        cut: &Cut,
        engine: &'a dyn Engine,
        basis: &Basis,
        shown: &Shown<'_>,
        now: &Body<'_>,
        original: Option<&Body<'_>>,
        settled: &Answers,
    ) -> Result<Self> {
        let features = |of: &Body<'_>| match &of.features {
            Some(known) => Labelled::new(known.to_float(cut.head.float()), shown.all.y.clone()),
            None => cut.features(engine, of.weights, shown.all),
        };
        let unmoved = original.map(features).transpose()?;
        let features = features(now)?;
        let inputs = unmoved.as_ref().unwrap_or(&features).batch(0..shown.inputs)?;
        let ascent = Ascent::new(&cut.head, engine, basis, Part::Head, &inputs, shown.aim, Vec::new())?;
        let answerer = Answerer::new(&cut.head, engine, features.len().min(256), false)?;
        Ok(Self { ascent, answerer, features, unmoved, old_head: settled.old_head.clone() })
    }

    /// As [`Ascent::step`].
    pub(super) fn step(&mut self, weights: &Weights) -> Result<Weights> {
        self.ascent.step(weights)
    }

    /// The answers to all samples under these weights, whose body has settled.
    pub(super) fn answers(&mut self, weights: &Weights) -> Result<Answers> {
        let answers = self.answerer.answer(weights, weights, &self.features, &mut |_| ())?;
        Ok(Answers { old_head: self.old_head.clone(), ..answers })
    }

    /// The same if the body had stayed as it came.
    pub(super) fn unmoved(&mut self, weights: &Weights) -> Result<Answers> {
        let features = self.unmoved.as_ref().unwrap_or(&self.features);
        self.answerer.answer(weights, weights, features, &mut |_| ())
    }
}

/// The one value that enters the last layer, if it has the samples on its first axis and is computed by a node.
pub(super) fn features(g: &Graph, classifier: &Classifier) -> Result<Option<ValueId>> {
    let head = classifier.head(g)?;
    let weights = head_weights(g, &head);
    let depends = passes::reached_from(g, &weights);
    let is_reached = |id: &ValueId| depends[id.index()];
    let mut above = vec![false; g.values().len()];
    above[head.logits.index()] = is_reached(&head.logits);
    let mut entering: Vec<ValueId> = Vec::new();
    for node in g.nodes().iter().rev() {
        if !node.outputs.iter().flatten().any(|o| above[o.index()]) {
            continue;
        }
        for id in node.inputs.iter().flatten() {
            if is_reached(id) {
                above[id.index()] = true;
            } else if g.constant_of(*id).is_none() && !entering.contains(id) {
                entering.push(*id);
            }
        }
    }
    let [one] = entering[..] else { return Ok(None) };
    let value = g.value(one);
    let is_first = value.batch == Batch::LEADING && value.ty.shape.first() == Some(&g.batch);
    Ok((is_first && value.ty.dtype.is_float() && matches!(value.source, Source::Node { .. })).then_some(one))
}

/// The last layer as a classifier of features.
fn head_alone(g: &Graph, classifier: &Classifier, engine: &dyn Engine) -> Result<Option<Classifier>> {
    let Some(features) = features(g, classifier)? else { return Ok(None) };
    let head = classifier.head(g)?;
    let mut alone = Graph::new(g.batch);
    alone.opset = g.opset;
    let entry = alone.input("features".to_owned(), g.value(features).ty.clone(), Batch::LEADING);
    let mut map = HashMap::from([(features, entry)]);
    for id in head_weights(g, &head) {
        let Source::Weight(data) = &g.value(id).source else { return Ok(None) };
        map.insert(id, alone.weight(g.label(id), data.clone()));
    }
    passes::replay(g, &mut alone, &[head.logits], &mut map)?;
    let Some(&logits) = map.get(&head.logits) else { return Ok(None) };
    alone.outputs = vec![logits];
    let made = |is_open: bool| {
        let mut file = export(&alone, &ExportOptions::default())?;
        if is_open {
            open_batch(&mut file);
        }
        let model = Model::from_bytes("last layer", file.encode_to_vec())?;
        Classifier::from_model(model, ClassifierOptions::default())
    };
    // a last layer that is no classifier by itself is tried as a part of the whole
    let same = |c: &Classifier| c.classes() == classifier.classes() && c.bind(2).is_ok();
    let Some(one_by_one) = made(false).ok().filter(same) else { return Ok(None) };
    let rows = waves(&g.value(features).ty, 3)?;
    let expected = logits_of(&one_by_one, &rows)?;
    let agrees = |c: &Classifier| {
        let alike = |(a, b): (&f64, &f64)| (a - b).abs() <= 1e-4 * b.abs().max(1.0);
        logits_of(c, &rows).is_ok_and(|found| found.len() == expected.len() && found.iter().zip(&expected).all(alike))
    };
    // nodes that were bound to one sample may hold their number in a shape
    let together = made(true).ok().filter(same).filter(agrees);
    together.unwrap_or(one_by_one).on(engine).map(Some)
}

/// Leaves the number of samples of the first input open.
fn open_batch(file: &mut ModelProto) {
    let inputs = file.graph.as_mut().map(|g| &mut g.input);
    let ty = inputs.and_then(|i| i.first_mut()).and_then(|i| i.r#type.as_mut()).and_then(|t| t.value.as_mut());
    if let Some(type_proto::Value::TensorType(t)) = ty
        && let Some(first) = t.shape.as_mut().and_then(|s| s.dim.first_mut())
    {
        first.value = Some(dimension::Value::DimParam("N".to_owned()));
    }
}

/// Features of some samples, of no meaning.
fn waves(of_one: &TensorType, samples: usize) -> Result<Labelled> {
    let shape = [&[samples], &of_one.shape[1..]].concat();
    let v: Vec<f64> = (0..shape.iter().product()).map(|i: usize| (i as f64 * 0.7).sin()).collect();
    Labelled::new(Array::from_vec(&shape, v)?.to_float(of_one.dtype), vec![0; samples])
}

fn logits_of(c: &Classifier, rows: &Labelled) -> Result<Vec<f64>> {
    let weights = Weights::upload(&Cpu, &c.bind(1)?)?;
    Ok(Answerer::new(c, &Cpu, rows.len(), false)?.answer(&weights, &weights, rows, &mut |_| ())?.logits)
}
