//! How many samples share a run of a Fisher estimate, and what is computed twice, so that it fits the memory there is.

use super::MAX_BATCH;
use crate::autodiff::gradient::Mode;
use crate::classifier::Classifier;
use crate::engine::fit::{self, Lighter};
use crate::engine::{Engine, plan};
use crate::error::Result;
use crate::graph::{Attrs, Batch, Graph, ValueId, order, passes};
use crate::memory;
use crate::tensor::{DType, TensorType};

/// Where no limit is set, a batch is no larger than that what it holds in between stays below this, on the host and on a
/// device. More samples at once save no time there.
const BETWEEN: [u64; 2] = [1 << 30, 2 << 30];

/// What a Fisher estimate takes at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Forecast {
    /// Samples that share a run.
    pub batch: usize,
    /// Bytes: on a device of that device, else of the whole process, its files in memory and [`OWN`](fit::OWN) included.
    pub bytes: u64,
    /// Parts of the forward pass that are computed twice to save memory, and the last one, which is not; 1 without.
    pub parts: usize,
}

/// The work of an estimate.
pub(super) struct Task<'c, 'e> {
    pub(super) classifier: &'c Classifier,
    pub(super) engine: &'e dyn Engine,
    /// Sets of weights of the samples.
    pub(super) sets: usize,
    /// Samples of one call.
    pub(super) samples: usize,
    /// Bytes that something else takes meanwhile.
    pub(super) beside: u64,
}

/// A graph whose outputs are sums of squares. On a device they are added to those that are fed, in the order of `types`.
pub(super) struct Built {
    pub(super) graph: Graph,
    pub(super) weights: Vec<ValueId>,
    pub(super) names: Vec<String>,
    pub(super) types: Vec<TensorType>,
    pub(super) unused: Vec<String>,
    pub(super) one_by_one: Option<String>,
    pub(super) float: DType,
    pub(super) forecast: Forecast,
    labels: ValueId,
}

/// What an estimate takes for this number of samples in a call (of which at most 32 share a run), of one set.
///
/// # Errors
/// As [`super::estimate`]; also when a memory limit of the classifier is too low for one sample.
pub fn forecast(classifier: &Classifier, engine: &dyn Engine, samples: usize) -> Result<Forecast> {
    let built = Task { classifier, engine, sets: 1, samples, beside: 0 }.build()?;
    Ok(built.forecast)
}

impl Task<'_, '_> {
    /// The graph of the largest batch that fits; where one sample does not, the one that computes the least twice.
    pub(super) fn build(&self) -> Result<Built> {
        let most = self.samples.clamp(1, MAX_BATCH);
        let first = match self.of_batch(most) {
            Ok(built) if self.fits(&built) => return Ok(built),
            // a tensor that the device cannot bind may be smaller in a smaller batch
            Err(e) if most == 1 || !self.engine.on_device() => return Err(e),
            first => first,
        };
        let one = match self.of_batch(1) {
            Ok(one) => one,
            Err(e) => return first.and(Err(e)),
        };
        // the model's own number of samples, or one by one: there is no other
        if one.graph.batch > 1 || first.as_ref().is_ok_and(|b| b.graph.batch == 1) || !self.fits(&one) {
            return self.cut(one);
        }
        let mut batch = first.map_or(most / 2, |b| self.guess(&one, &b)).clamp(1, most - 1);
        while batch > 1 {
            match self.of_batch(batch) {
                Ok(built) if self.fits(&built) => return Ok(built),
                _ => batch -= (batch / 4).max(1),
            }
        }
        Ok(one)
    }

    /// The batch that should just fit: what is taken grows with it by the same amount for every sample.
    fn guess(&self, one: &Built, more: &Built) -> usize {
        let (limit, least, most) = match self.classifier.memory_limit() {
            Some(limit) => (limit, one.forecast.bytes, more.forecast.bytes),
            None => (self.most_between(), self.between(one), self.between(more)),
        };
        let samples = more.graph.batch.saturating_sub(1).max(1) as u64;
        let each = (most.saturating_sub(least) / samples).max(1);
        usize::try_from(1 + limit.saturating_sub(least) / each).unwrap_or(usize::MAX)
    }

    /// Bytes of what a run makes.
    fn between(&self, built: &Built) -> u64 {
        match self.engine.on_device() {
            true => built.forecast.bytes.saturating_sub(self.beside + plan::given_bytes(&built.graph)),
            false => plan::host_bytes(&built.graph),
        }
    }

    fn most_between(&self) -> u64 {
        match self.engine.on_device() {
            true => BETWEEN[1],
            false => BETWEEN[0].min(memory::available().unwrap_or(u64::MAX)),
        }
    }

    fn fits(&self, built: &Built) -> bool {
        if let Some(limit) = self.classifier.memory_limit() {
            return built.forecast.bytes <= limit;
        }
        let between = self.between(built);
        if built.graph.batch > 1 {
            return between <= self.most_between();
        }
        self.engine.on_device() || between < memory::SMALL || memory::available().is_none_or(|has| between <= has)
    }

    /// The graph that fits by computing parts of the forward pass twice.
    fn cut(&self, whole: Built) -> Result<Built> {
        if self.fits(&whole) {
            return Ok(whole);
        }
        let limit = self.classifier.memory_limit();
        let found = match self.engine.keeps_order() {
            true => fit::lighter(&whole.graph, whole.labels, limit, |g| self.bytes(g))?,
            false => None,
        };
        let built = match found {
            Some(Lighter { graph, bytes, parts }) => {
                Built { graph, forecast: Forecast { bytes, parts, ..whole.forecast }, ..whole }
            }
            None => whole,
        };
        match limit {
            Some(limit) if built.forecast.bytes > limit => {
                let what = match built.graph.batch {
                    1 => "the Fisher of one sample".to_owned(),
                    n => format!("the Fisher of the {n} samples that the model takes at once"),
                };
                Err(fit::too_much(&what, built.forecast.bytes, built.forecast.parts, self.engine, limit))
            }
            _ => Ok(built),
        }
    }

    /// The graph for so many samples a run, or as many as the model takes.
    fn of_batch(&self, batch: usize) -> Result<Built> {
        let (gradients, one_by_one) = self.classifier.gradients_or_singles(batch, Mode::Fisher { sets: self.sets })?;
        let mut g = gradients.graph;
        let weights = g.feed_weights();
        let (mut types, mut outputs) = (Vec::new(), Vec::new());
        g.set_scope("accumulate");
        for (k, &(_, d)) in gradients.gradients.iter().enumerate() {
            let ty = g.value(d).ty.clone();
            outputs.push(if self.engine.on_device() {
                let sum = g.input(format!("accumulated.{k}"), ty.clone(), Batch::None);
                g.push("Add", &[sum, d], Attrs::new())?
            } else {
                d
            });
            types.push(ty);
        }
        g.outputs = outputs;
        passes::prune(&mut g);
        if self.engine.keeps_order() {
            order::end_early(&mut g);
        }
        let forecast = Forecast { batch: g.batch, bytes: self.bytes(&g)?, parts: 1 };
        Ok(Built {
            float: gradients.sample_weights.map_or(DType::F32, |u| g.dtype(u)),
            graph: g,
            weights,
            names: gradients.gradients.into_iter().map(|(n, _)| n).collect(),
            types,
            unused: gradients.unused,
            one_by_one,
            forecast,
            labels: gradients.labels,
        })
    }

    /// The most bytes that the estimate takes with this graph.
    fn bytes(&self, g: &Graph) -> Result<u64> {
        let run = self.engine.forecast(g)?;
        if self.engine.on_device() {
            return Ok(run.saturating_add(self.beside));
        }
        let sums = |width: fn(&TensorType) -> u64| g.outputs.iter().map(|&id| width(&g.value(id).ty)).sum::<u64>();
        let plain = sums(plan::element_bytes);
        // those of the runs before
        let before = if self.samples > g.batch { plain } else { 0 };
        let end = plan::given_bytes(g).saturating_add(plain).saturating_add(sums(|ty| ty.len() as u64 * 8));
        let of_process = fit::beside(self.classifier).saturating_add(self.beside);
        Ok(of_process.saturating_add(run.saturating_add(before).max(end)))
    }
}
