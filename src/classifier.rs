//! A classifier from its file, bound to graphs of the batch size that is asked for.

use crate::autodiff::gradient::{GradientGraph, Mode, gradient_graph};
use crate::autodiff::head::{Head, find_head};
use crate::engine::{Engine, Tensor};
use crate::error::{Error, Kind, Result};
use crate::graph::{Batch, Graph, ValueId};
use crate::inputs::bounds::Bounds;
use crate::inputs::{Expected, Labelled, embedding};
use crate::onnx::import::{Training, Wanted, input_names};
use crate::onnx::proto::TensorProto;
use crate::onnx::{ImportOptions, Imported, Model, Storage, import_stored};
use crate::tensor::{Array, DType, TensorType};
use std::collections::BTreeMap;
use std::path::Path;

/// A classifier read from a file.
pub struct Classifier {
    model: Model,
    options: ImportOptions,
    classes: usize,
    input: TensorType,
    extra: BTreeMap<String, TensorType>,
    memory_limit: Option<u64>,
    /// Range of the embedding's elements, where the embedding's output is the first input.
    embedding: Option<(f64, f64)>,
    /// Range of each element of the first input, where the model tells it.
    bounds: Option<Bounds>,
}

/// How a classifier is read.
#[derive(Clone, Debug, Default)]
pub struct ClassifierOptions {
    /// The output that names the class, where there are several.
    pub output: Option<String>,
    /// Extents by the name the model gives them.
    pub dims: BTreeMap<String, usize>,
    /// Shape of one sample of each input, for extents the model leaves open; `x` is the first input.
    pub samples: BTreeMap<String, Vec<usize>>,
    /// The axis that holds the samples, by input, where the model does not tell; an empty name is the first input.
    pub batch_axes: BTreeMap<String, usize>,
    /// Training form of BatchNormalization and Dropout.
    pub training: Option<Training>,
    /// Patterns of the names of the weights that count as trainable, as [`ImportOptions::layers`] has them.
    pub layers: Vec<String>,
}

impl ClassifierOptions {
    /// The same for [`import()`]; the samples of the first input are still called `x`.
    pub(crate) fn import(self) -> ImportOptions {
        ImportOptions {
            dims: self.dims,
            samples: self.samples,
            batch_axes: self.batch_axes,
            outputs: Wanted::Answer(self.output),
            training: self.training,
            layers: self.layers,
            ..ImportOptions::default()
        }
    }
}

impl Classifier {
    /// Reads a model and finds its head.
    ///
    /// # Errors
    /// When the file is no supported classifier; unsupported ops are all named at once.
    pub fn open(path: &Path, options: ClassifierOptions) -> Result<Self> {
        Self::from_model(Model::open(path)?, options)
    }

    /// The same for a model that is already read. A model whose weights are mostly float64 is computed in float64.
    ///
    /// # Errors
    /// As [`Classifier::open`].
    pub fn from_model(model: Model, options: ClassifierOptions) -> Result<Self> {
        let mut options = options.import();
        if let Some(x) = options.samples.remove("x") {
            let first = first_input(&model, &options);
            options.samples.insert(first, x);
        }
        options.float = own_float(&model);
        let (input, extra) = (TensorType::new(DType::F32, []), BTreeMap::new());
        let (memory_limit, embedding, bounds) = (None, None, None);
        let mut this = Self { model, options, classes: 0, input, extra, memory_limit, embedding, bounds };
        this.look()?;
        Ok(this)
    }

    /// The same classifier from the output of its embedding on, which becomes its first input: for models of
    /// integers, whose inputs no gradient reaches.
    ///
    /// # Errors
    /// When the first input is read by anything but one embedding, naming the node.
    pub fn from_embedding(mut self) -> Result<Self> {
        self.embedding = Some(embedding::cut(&self.bind(1)?)?.range);
        self.look()?;
        Ok(self)
    }

    /// Notes classes and inputs.
    fn look(&mut self) -> Result<()> {
        let bound = self.bind(1)?;
        if let (None, Some(node)) = (self.options.training, bound.batch_statistics.first()) {
            return Err(Error::unsupported(format!(
                "node '{node}' (BatchNormalization) is in its training form, so that a sample's answer depends on its \
                 batch; export the model for inference (only 'gradients --training-mode' takes it as it is)"
            )));
        }
        let g = &bound.graph;
        self.classes = self.head(g)?.classes;
        self.bounds = Bounds::of_model(g)?;
        let masks = bound.masks.len();
        let own = &g.inputs[..g.inputs.len() - masks];
        for (k, &id) in own.iter().enumerate() {
            let ty = samples_first(g, id)?;
            if k == 0 {
                self.input = ty;
            } else {
                self.extra.insert(g.label(id), TensorType::new(ty.dtype, &ty.shape[1..]));
            }
        }
        Ok(())
    }

    /// This classifier as an engine computes it: only `cpu` keeps float64, the others compute in float32.
    ///
    /// # Errors
    /// Never for a model that was opened.
    pub fn on(self, engine: &dyn Engine) -> Result<Self> {
        if engine.name() == "cpu" { Ok(self) } else { self.in_float32() }
    }

    /// This classifier with every float computed in float32.
    ///
    /// # Errors
    /// Never for a model that was opened.
    pub fn in_float32(mut self) -> Result<Self> {
        if self.options.float == DType::F64 {
            self.options.float = DType::F32;
            self.look()?;
        }
        Ok(self)
    }

    /// This classifier with a limit on the bytes that work on it may take: on a device of that device, else of the
    /// process. Batches are made smaller for it, and values computed twice.
    pub fn within(mut self, bytes: Option<u64>) -> Self {
        self.memory_limit = bytes;
        self
    }
    /// The bytes that work on this classifier may take, if they are limited.
    pub fn memory_limit(&self) -> Option<u64> {
        self.memory_limit
    }
    /// The model file.
    pub fn model(&self) -> &Model {
        &self.model
    }
    /// What every float is computed in.
    pub fn float(&self) -> DType {
        self.options.float
    }
    /// Number of classes.
    pub fn classes(&self) -> usize {
        self.classes
    }
    /// Type of the first input with the samples on its first axis, bound to the model's own batch size or to 1.
    pub fn input(&self) -> &TensorType {
        &self.input
    }
    /// Two deviations around the mean of the embedding's elements, if the embedding's output is the first input.
    pub fn embedding_range(&self) -> Option<(f64, f64)> {
        self.embedding
    }
    /// Range of each element of the first input, where the model standardises each by itself before anything else.
    pub(crate) fn bounds(&self) -> Option<&Bounds> {
        self.bounds.as_ref()
    }
    /// What labelled inputs have to be.
    pub fn expected(&self) -> Expected {
        Expected {
            name: first_input(&self.model, &self.options),
            sample: TensorType::new(self.input.dtype, self.sample_shape()),
            classes: self.classes,
            extra: self.extra.clone(),
        }
    }
    /// Shape of one sample of the first input.
    pub fn sample_shape(&self) -> &[usize] {
        self.input.shape.get(1..).unwrap_or(&[])
    }
    /// Type of one sample of every further input, by name.
    pub fn extra_inputs(&self) -> BTreeMap<String, TensorType> {
        self.extra.clone()
    }
    /// Checks that the file holds elements of every weight, which a new file could hold in another value.
    ///
    /// # Errors
    /// Naming the weights of which it does not.
    pub fn check_rewritable(&self) -> Result<()> {
        let bound = self.bind(1)?;
        let stuck = |name: &str| !self.model.weight_index(name).is_some_and(|i| self.model.weights()[i].is_patchable());
        let names: Vec<String> =
            bound.weights.iter().filter(|(n, _)| stuck(n)).take(3).map(|(n, _)| format!("'{n}'")).collect();
        if names.is_empty() {
            return Ok(());
        }
        Err(Error::unsupported(format!(
            "the file holds no elements of {} that could be changed in place: ConstantOfShape fills them, or they are \
             stored with varying length",
            names.join(", ")
        )))
    }
    /// The model as a graph for so many samples (or as many as the model itself fixes).
    ///
    /// # Errors
    /// As [`import_stored`], and as [`Classifier::from_embedding`].
    pub fn bind(&self, batch: usize) -> Result<Imported> {
        self.bind_replacing(batch, &BTreeMap::new())
    }
    /// As [`Classifier::bind`], with other elements for the initializers of these names, of the same shapes.
    ///
    /// # Errors
    /// As [`Classifier::bind`].
    pub(crate) fn bind_replacing(&self, batch: usize, replaced: &BTreeMap<String, Array>) -> Result<Imported> {
        let options = ImportOptions { batch, ..self.options.clone() };
        let array = |t: &TensorProto| match replaced.get(t.name()) {
            Some(a) => Ok((a.clone(), a.dtype())),
            None => self.model.array(t),
        };
        let stored = |t: &TensorProto| if replaced.contains_key(t.name()) { Ok(None) } else { self.model.stored(t) };
        let whole = import_stored(self.model.proto(), &array, &stored, &options)?;
        if whole.weights.is_empty() && !self.options.layers.is_empty() {
            let patterns = self.options.layers.join(", ");
            return Err(Error::invalid(format!("--layers {patterns} names no weight; inspect lists them")));
        }
        if self.embedding.is_some() { Ok(embedding::cut(&whole)?.imported) } else { Ok(whole) }
    }
    /// The classifier's head in one of its graphs.
    ///
    /// # Errors
    /// As [`find_head`].
    pub fn head(&self, g: &Graph) -> Result<Head> {
        find_head(g, None)
    }
    /// The gradient graph for so many samples.
    ///
    /// # Errors
    /// As [`gradient_graph`]; [`Kind::NeedsSingles`] when a batch of more than one cannot keep its samples apart.
    pub fn gradients(&self, batch: usize, mode: Mode) -> Result<GradientGraph> {
        let bound = self.bind(batch)?;
        refuse_batch_statistics(&bound, mode)?;
        gradient_graph(&bound.graph, &bound.weights, None, mode)
    }
    /// The gradient graph for up to `batch` samples, or for one where samples cannot be kept apart; then with
    /// the reason.
    ///
    /// # Errors
    /// As [`Classifier::gradients`].
    pub fn gradients_or_singles(&self, batch: usize, mode: Mode) -> Result<(GradientGraph, Option<String>)> {
        match self.gradients(batch, mode) {
            Err(e) if e.kind() == Kind::NeedsSingles => {
                let bound = self.bind(1)?;
                if bound.graph.batch > 1 {
                    return Err(Error::unsupported(format!(
                        "the model fixes its batch at {} and its samples cannot be kept apart: {e}",
                        bound.graph.batch
                    )));
                }
                let graph = gradient_graph(&bound.graph, &bound.weights, None, mode)?;
                Ok((graph, Some(e.to_string())))
            }
            other => Ok((other?, None)),
        }
    }
}

/// Names and present elements of a classifier's weights, uploaded to one engine.
#[derive(Clone)]
pub struct Weights {
    /// Names in the model's order.
    pub names: Vec<String>,
    /// Elements.
    pub tensors: Vec<Tensor>,
}

impl Weights {
    /// Uploads the weights of a bound model.
    ///
    /// # Errors
    /// When memory is short.
    pub fn upload(engine: &dyn Engine, bound: &Imported) -> Result<Self> {
        let mut all = Self { names: Vec::new(), tensors: Vec::new() };
        for (name, id) in &bound.weights {
            if let crate::graph::Source::Weight(data) = &bound.graph.value(*id).source {
                all.names.push(name.clone());
                all.tensors.push(engine.upload_weight(data)?);
            }
        }
        Ok(all)
    }
    /// The elements of the weight of that name.
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.names.iter().position(|n| n == name).map(|i| &self.tensors[i])
    }
    /// The elements of the weights that a graph takes as inputs, in the order of `ids`.
    pub(crate) fn feeds(&self, g: &Graph, ids: &[ValueId]) -> Result<Vec<Tensor>> {
        ids.iter()
            .map(|&id| {
                let name = g.label(id);
                self.get(&name).cloned().ok_or_else(|| Error::internal(format!("weight {name} was not uploaded")))
            })
            .collect()
    }
}

/// The model's own inputs for samples `from..to`, filled up to `batch` samples by repeating the last, each with the
/// samples on the axis where the graph has them; and these samples.
///
/// # Errors
/// When the range ends past the last sample.
pub fn batch_feeds(
    g: &Graph,
    data: &Labelled,
    from: usize,
    to: usize,
    batch: usize,
) -> Result<(Vec<(String, Array)>, Labelled)> {
    let positions: Vec<usize> = (0..batch).map(|i| (from + i).min(to - 1)).collect();
    let part = data.select(&positions)?;
    let first = g.inputs.first().copied();
    let mut feeds = Vec::new();
    for &id in &g.inputs {
        let name = g.label(id);
        let found = if Some(id) == first { Some(&part.x) } else { part.extra.get(&name) };
        if let Some(a) = found {
            feeds.push((name, placed(a, g, id)?.to_float(g.dtype(id))));
        }
    }
    Ok((feeds, part))
}

/// Samples, which come on the first axis, on the axis where an input has them.
pub(crate) fn placed(a: &Array, g: &Graph, id: ValueId) -> Result<Array> {
    let Batch::Axis { axis, .. } = g.value(id).batch else { return Ok(a.clone()) };
    let mut axes: Vec<usize> = (1..a.shape().len()).collect();
    axes.insert(axis.min(axes.len()), 0);
    Ok(a.transposed(&axes))
}

/// Type of an input with the samples on its first axis.
fn samples_first(g: &Graph, id: ValueId) -> Result<TensorType> {
    let value = g.value(id);
    let Batch::Axis { axis, .. } = value.batch else {
        return Err(Error::unsupported(format!(
            "input '{}' {} has no axis that counts the samples; name it with --batch-axis, or make the input a constant",
            g.label(id),
            value.ty
        )));
    };
    let mut ty = value.ty.clone();
    let samples = ty.shape.remove(axis);
    ty.shape.insert(0, samples);
    Ok(ty)
}

/// The precision that most elements of a model's weights have.
fn own_float(model: &Model) -> DType {
    let (mut wide, mut all) = (0, 0);
    for w in model.weights() {
        all += w.elements();
        wide += if w.storage() == Storage::F64 { w.elements() } else { 0 };
    }
    if 2 * wide > all { DType::F64 } else { DType::F32 }
}

/// Statistics of a batch join its samples, so that no sample has a gradient of its own.
fn refuse_batch_statistics(bound: &Imported, mode: Mode) -> Result<()> {
    match bound.batch_statistics.first() {
        Some(node) if mode != Mode::Sum => Err(Error::unsupported(format!(
            "node '{node}' (BatchNormalization) normalises with the statistics of the batch in training mode: every \
             sample's loss depends on all samples, so that only the summed gradient exists"
        ))),
        _ => Ok(()),
    }
}

/// Name of the first input that the answer reads.
fn first_input(model: &Model, options: &ImportOptions) -> String {
    let names = input_names(model.proto(), options).unwrap_or_default();
    names.into_iter().next().unwrap_or_default()
}
