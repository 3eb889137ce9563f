//! Stochastic gradient descent with momentum; weights and velocities stay where the engine works.

use super::Options;
use crate::autodiff::gradient::Mode;
use crate::classifier::{Classifier, Weights, batch_feeds};
use crate::engine::{Engine, Session, Tensor};
use crate::error::{Error, Result};
use crate::graph::{Attrs, Batch, Graph, ValueId};
use crate::inputs::Labelled;
use crate::ops::Pen;
use crate::tensor::{Array, DType, TensorType};

/// More samples than this never share a run; it bounds the memory that activations take. A step adds up several runs.
const MAX_BATCH: usize = 64;

/// Weights, and what moves them on.
#[derive(Clone)]
pub struct State {
    /// All weights of the model.
    pub weights: Weights,
    /// Velocities of those that move, in the order of [`State::moving`].
    pub velocities: Vec<Tensor>,
    /// Names of the weights that move.
    pub moving: Vec<String>,
}

/// `v ← μ v + ∂ℓ/∂w + δ w`, `w ← w − rate · v` for every weight that the loss depends on, where ℓ is the mean loss of the
/// step's samples.
pub(super) struct Sgd<'a> {
    engine: &'a dyn Engine,
    graph: Graph,
    slopes: Box<dyn Session>,
    step: Box<dyn Session>,
    weight_ids: Vec<ValueId>,
    names: Vec<String>,
    types: Vec<TensorType>,
    zeros: Vec<Tensor>,
    float: DType,
    pub(super) unused: Vec<String>,
}

impl<'a> Sgd<'a> {
    pub(super) fn new(classifier: &Classifier, engine: &'a dyn Engine, options: &Options) -> Result<Self> {
        let gradients = classifier.gradients(options.batch.min(MAX_BATCH), Mode::Sum)?;
        let mut g = gradients.graph;
        let weight_ids = g.feed_weights();
        let float = g.dtype(gradients.head.logits);
        let (mut names, mut types, mut outputs) = (Vec::new(), Vec::new(), Vec::new());
        g.set_scope("accumulate");
        let loss = g.input("accumulated.loss", g.value(gradients.loss).ty.clone(), Batch::None);
        outputs.push(g.push("Add", &[loss, gradients.loss], Attrs::new())?);
        for (k, (name, d)) in gradients.gradients.into_iter().enumerate() {
            let ty = g.value(d).ty.clone();
            let sum = g.input(format!("accumulated.{k}"), ty.clone(), Batch::None);
            outputs.push(g.push("Add", &[sum, d], Attrs::new())?);
            names.push(name);
            types.push(ty);
        }
        g.outputs = outputs;
        let slopes = engine.prepare(&g)?;
        let step = engine.prepare(&step_graph(&types, float, options)?)?;
        let zero = |ty: &TensorType| engine.upload(&Array::full_float(ty.dtype, &ty.shape, 0.0));
        let zeros = types.iter().map(zero).collect::<Result<_>>()?;
        let unused = gradients.unused;
        Ok(Self { engine, graph: g, slopes, step, weight_ids, names, types, zeros, float, unused })
    }

    /// These weights with no velocity.
    pub(super) fn at_rest(&self, weights: Weights) -> Result<State> {
        Ok(State { weights, velocities: self.zeros.clone(), moving: self.names.clone() })
    }

    /// Weights and velocities that were kept, by name.
    pub(super) fn resume(&self, weights: Vec<(String, Array)>, velocities: Vec<(String, Array)>) -> Result<State> {
        let of_this = velocities.len() == self.names.len()
            && velocities.iter().zip(&self.names).all(|((n, _), name)| n == name)
            && velocities.iter().zip(&self.types).all(|((_, a), ty)| a.ty() == *ty);
        if !of_this {
            return Err(Error::invalid("it keeps the velocities of other weights than this model's"));
        }
        let upload = |(_, a): &(String, Array)| self.engine.upload(a);
        let velocities = velocities.iter().map(upload).collect::<Result<_>>()?;
        let tensors = weights.iter().map(upload).collect::<Result<_>>()?;
        let weights = Weights { names: weights.into_iter().map(|(n, _)| n).collect(), tensors };
        Ok(State { weights, velocities, moving: self.names.clone() })
    }

    /// Nothing, to add losses to.
    pub(super) fn no_loss(&self) -> Result<Tensor> {
        self.engine.upload(&Array::full_float(self.float, &[], 0.0))
    }

    /// Moves the state on by one step on all of these samples; the loss so far, with their mean loss added.
    pub(super) fn step(&mut self, state: &mut State, data: &Labelled, rate: f64, loss: Tensor) -> Result<Tensor> {
        let (n, batch) = (data.len(), self.graph.batch);
        let fixed = state.weights.feeds(&self.graph, &self.weight_ids)?;
        let mut sums = vec![loss];
        sums.extend(self.zeros.iter().cloned());
        for from in (0..n).step_by(batch) {
            let to = (from + batch).min(n);
            let (inputs, part) = batch_feeds(&self.graph, data, from, to, batch)?;
            let mut feeds: Vec<Tensor> = inputs.into_iter().map(|(_, a)| Tensor::Host(a)).collect();
            feeds.push(Tensor::Host(part.labels()));
            // samples that only fill the batch up count nothing
            let u: Vec<f64> = (from..from + batch).map(|i| if i < to { 1.0 / n as f64 } else { 0.0 }).collect();
            feeds.push(Tensor::Host(Array::from_vec(&[batch], u)?.to_float(self.float)));
            feeds.extend(fixed.iter().cloned());
            feeds.append(&mut sums);
            sums = self.slopes.run(&feeds)?;
        }
        let mut sums = sums.into_iter();
        let loss = sums.next().ok_or_else(|| Error::internal("a step gave no loss"))?;
        let mut feeds = vec![Tensor::Host(Array::full_float(self.float, &[], rate))];
        let mut places = Vec::with_capacity(self.names.len());
        for ((name, velocity), slope) in self.names.iter().zip(state.velocities.drain(..)).zip(sums) {
            let at = state.weights.names.iter().position(|n| n == name);
            let at = at.ok_or_else(|| Error::internal(format!("weight {name} was not uploaded")))?;
            feeds.extend([state.weights.tensors[at].clone(), velocity, slope]);
            places.push(at);
        }
        let mut moved = self.step.run(&feeds)?.into_iter();
        for at in places {
            let (Some(w), Some(v)) = (moved.next(), moved.next()) else {
                return Err(Error::internal("a step gave too few weights"));
            };
            state.weights.tensors[at] = w;
            state.velocities.push(v);
        }
        Ok(loss)
    }
}

/// Inputs are the rate, then `w`, `v` and the slope of each weight; outputs are the new `w` and `v` of each.
fn step_graph(types: &[TensorType], float: DType, options: &Options) -> Result<Graph> {
    let mut g = Graph::new(0);
    let rate = g.input("rate", TensorType::new(float, []), Batch::None);
    for (k, ty) in types.iter().enumerate() {
        let [w, v, slope] = ["w", "v", "slope"].map(|what| g.input(format!("{what}.{k}"), ty.clone(), Batch::None));
        let mut p = Pen::new(&mut g);
        let pull = p.scale(w, options.decay)?;
        let slope = p.add(slope, pull)?;
        let kept = p.scale(v, options.momentum)?;
        let v = p.add(kept, slope)?;
        let step = p.mul(v, rate)?;
        let w = p.sub(w, step)?;
        g.outputs.extend([w, v]);
    }
    Ok(g)
}
