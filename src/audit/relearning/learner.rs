//! Plain gradient descent on a classifier's weights; they stay where the engine works.

use super::super::Case;
use super::super::observe::head_names;
use super::{Course, Parts};
use crate::autodiff::gradient::{Mode, free_name, gradient_graph};
use crate::classifier::{Classifier, batch_feeds};
use crate::engine::{Session, Tensor};
use crate::error::{Error, Result};
use crate::forget::answers::Answers;
use crate::graph::{Attrs, Batch, Graph, Source};
use crate::inputs::{Labelled, generator, shuffle};
use crate::tensor::{Array, TensorType};
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeMap;

/// Samples of a step.
pub(super) const BATCH: usize = 32;

/// A step of descent and a look at answers, prepared.
pub(super) struct Learner {
    step: Box<dyn Session>,
    step_graph: Graph,
    look: Box<dyn Session>,
    look_graph: Graph,
    /// The weights at the start, in the order both graphs take them.
    start: Vec<Tensor>,
    /// Which of them the step's outputs are.
    moved: Vec<usize>,
    classes: usize,
}

impl Learner {
    /// Prepares a classifier, with other elements for the initializers that are replaced.
    pub(super) fn new(case: &Case, classifier: &Classifier, replaced: &BTreeMap<String, Array>) -> Result<Self> {
        let looked = classifier.bind_replacing(super::MOST_LOOKED_AT, replaced)?;
        let mut look_graph = looked.graph;
        let head = classifier.head(&look_graph)?;
        look_graph.outputs = vec![head.rows(&mut look_graph)?];
        let mut weights = Vec::new();
        for (id, data) in look_graph.weights() {
            weights.push((look_graph.label(id), case.engine.upload(data)?));
        }
        look_graph.feed_weights();
        let bound = classifier.bind_replacing(BATCH, replaced)?;
        let gradients = gradient_graph(&bound.graph, &bound.weights, None, Mode::Sum)?;
        let mut g = gradients.graph;
        let ids = g.feed_weights();
        let names: Vec<String> = ids.iter().map(|&id| g.label(id)).collect();
        if !names.iter().eq(weights.iter().map(|(n, _)| n)) {
            return Err(Error::internal("two graphs of a model differ in their weights"));
        }
        let float = g.dtype(gradients.head.logits);
        let rate = free_name(&g, "rate");
        let rate = g.input(rate, TensorType::new(float, []), Batch::None);
        g.set_scope("step");
        let (mut outputs, mut moved) = (Vec::new(), Vec::new());
        for (name, d) in gradients.gradients {
            let Some(at) = names.iter().position(|n| *n == name) else { continue };
            let step = g.push("Mul", &[d, rate], Attrs::new())?;
            outputs.push(g.push("Sub", &[ids[at], step], Attrs::new())?);
            moved.push(at);
        }
        g.outputs = outputs;
        Ok(Self {
            step: case.engine.prepare(&g)?,
            step_graph: g,
            look: case.engine.prepare(&look_graph)?,
            look_graph,
            start: weights.into_iter().map(|(_, t)| t).collect(),
            moved,
            classes: head.classes,
        })
    }

    /// Looks, and then goes on step by step until `ends` says so.
    pub(super) fn run(
        &mut self,
        parts: &Parts,
        rate: f64,
        seed: u64,
        ends: impl Fn(&Course) -> bool,
    ) -> Result<Course> {
        let mut weights = self.start.clone();
        let mut course = Course { forgotten: Vec::new(), retained: Vec::new() };
        let mut orders = [&parts.learn_forgotten, &parts.learn_retained].map(|l| Order::new(l.len(), seed));
        loop {
            course.forgotten.push(self.look(&weights, &parts.look_forgotten)?);
            course.retained.push(self.look(&weights, &parts.look_retained)?);
            if ends(&course) {
                return Ok(course);
            }
            self.descend(&mut weights, parts, rate, &mut orders)?;
        }
    }

    /// What is answered rightly.
    fn look(&mut self, weights: &[Tensor], data: &Labelled) -> Result<Vec<bool>> {
        let batch = self.look_graph.batch;
        let mut right = Vec::with_capacity(data.len());
        for from in (0..data.len()).step_by(batch) {
            let to = (from + batch).min(data.len());
            let (inputs, _) = batch_feeds(&self.look_graph, data, from, to, batch)?;
            let feeds: Vec<Tensor> =
                inputs.into_iter().map(|(_, a)| Tensor::Host(a)).chain(weights.iter().cloned()).collect();
            let out = self.look.run(&feeds)?;
            let logits = out.first().ok_or_else(|| Error::internal("a session gave no logits"))?.to_array()?.to_f64();
            let answers = Answers::classes_of(&logits, self.classes);
            right.extend((from..to).zip(answers).map(|(i, a)| data.y[i] == a));
        }
        Ok(right)
    }

    /// One step: `w ← w − rate · ∂(mean loss)/∂w`.
    fn descend(&mut self, weights: &mut [Tensor], parts: &Parts, rate: f64, orders: &mut [Order; 2]) -> Result<()> {
        let batch = self.step_graph.batch;
        let half = batch.div_ceil(2);
        let [forgotten, retained] = orders;
        let mut data = parts.learn_forgotten.select(&forgotten.draw(half))?;
        if batch > half {
            data = data.concat(&parts.learn_retained.select(&retained.draw(batch - half))?)?;
        }
        let (inputs, data) = batch_feeds(&self.step_graph, &data, 0, batch, batch)?;
        let float =
            self.step_graph.value(*self.step_graph.inputs.last().ok_or_else(|| Error::internal("no rate"))?).ty.dtype;
        let mut feeds: Vec<Tensor> = inputs.into_iter().map(|(_, a)| Tensor::Host(a)).collect();
        feeds.push(Tensor::Host(data.labels()));
        feeds.push(Tensor::Host(Array::full_float(float, &[batch], 1.0 / batch as f64)));
        feeds.extend(weights.iter().cloned());
        feeds.push(Tensor::Host(Array::full_float(float, &[], rate)));
        for (at, new) in self.moved.iter().zip(self.step.run(&feeds)?) {
            weights[*at] = new;
        }
        Ok(())
    }
}

/// Positions in an order that is drawn anew whenever it ends.
struct Order {
    positions: Vec<usize>,
    rng: ChaCha8Rng,
    next: usize,
}

impl Order {
    fn new(len: usize, seed: u64) -> Self {
        Self { positions: (0..len).collect(), rng: generator(seed, b"order"), next: len }
    }
    fn draw(&mut self, n: usize) -> Vec<usize> {
        (0..n)
            .map(|_| {
                if self.next == self.positions.len() {
                    shuffle(&mut self.positions, &mut self.rng);
                    self.next = 0;
                }
                self.next += 1;
                self.positions[self.next - 1]
            })
            .collect()
    }
}

/// The tensors of the last layer with what they hold for the forgotten classes set to the mean of the others; none where
/// the classes' part of them cannot be told.
pub(super) fn fresh_rows(case: &Case, classifier: &Classifier) -> Result<BTreeMap<String, Array>> {
    let model = classifier.model();
    // BEFORE's head names the bias that AFTER may hide behind an infinity
    let mut names = head_names(classifier)?;
    names.extend(head_names(case.models.before)?);
    names.sort_unstable();
    names.dedup();
    let weights = bound_arrays(classifier)?;
    let mut rows = BTreeMap::new();
    for name in names {
        let found = match weights.get(&name) {
            Some(array) => array.clone(),
            None => match model.weight_index(&name).and_then(|i| model.weights().get(i)) {
                Some(weight) => model.read(weight)?,
                None => continue,
            },
        };
        let axes: Vec<usize> = (0..found.shape().len()).filter(|&a| found.shape()[a] == case.class_count).collect();
        match axes[..] {
            [axis] => rows.insert(name, levelled(&found, axis, case)?),
            [] => continue,
            // the classes' axis of a square matrix is not told by its shape
            _ => return Ok(BTreeMap::new()),
        };
    }
    Ok(rows)
}

/// The elements of a classifier's weights by name.
fn bound_arrays(classifier: &Classifier) -> Result<BTreeMap<String, Array>> {
    let bound = classifier.bind(1)?;
    let named = bound.weights.iter().filter_map(|(name, id)| match &bound.graph.value(*id).source {
        Source::Weight(data) => Some((name.clone(), data.clone())),
        _ => None,
    });
    Ok(named.collect())
}

/// What a tensor holds for forgotten classes along `axis` set to the mean of what it holds for the others.
fn levelled(a: &Array, axis: usize, case: &Case) -> Result<Array> {
    let elements = a.to_f64();
    let inner: usize = a.shape()[axis + 1..].iter().product();
    let mut out = elements.clone();
    let outer = elements.len() / (inner * case.class_count).max(1);
    for o in 0..outer {
        for k in 0..inner {
            let at = |c: usize| (o * case.class_count + c) * inner + k;
            let kept: Vec<f64> = (0..case.class_count)
                .filter(|&c| !case.is_forgotten(c))
                .map(|c| elements[at(c)])
                .filter(|v| v.is_finite())
                .collect();
            let mean = if kept.is_empty() { 0.0 } else { super::stats::mean(&kept) };
            for c in (0..case.class_count).filter(|&c| case.is_forgotten(c)) {
                out[at(c)] = mean;
            }
        }
    }
    Ok(Array::from_vec(a.shape(), out)?.to_float(a.dtype()))
}
