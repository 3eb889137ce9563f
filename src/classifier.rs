//! A classifier from its file, bound to graphs of the batch size that is asked for.

use crate::autodiff::gradient::{GradientGraph, Mode, gradient_graph};
use crate::autodiff::head::{Head, find_head};
use crate::engine::{Engine, Tensor};
use crate::error::{Error, Kind, Result};
use crate::graph::Graph;
use crate::inputs::{Labelled, embedding};
use crate::onnx::{ImportOptions, Imported, Model, import};
use crate::tensor::{Array, DType, TensorType};
use std::collections::BTreeMap;
use std::path::Path;

/// A classifier read from a file.
pub struct Classifier {
    model: Model,
    output: Option<String>,
    options: ImportOptions,
    classes: usize,
    input: TensorType,
    extra: BTreeMap<String, TensorType>,
    /// Range of the embedding's elements, where the embedding's output is the first input.
    embedding: Option<(f64, f64)>,
}

/// How a classifier is read.
#[derive(Clone, Debug, Default)]
pub struct ClassifierOptions {
    /// The output that names the class, where there are several.
    pub output: Option<String>,
    /// Extents by the name the model gives them.
    pub dims: BTreeMap<String, usize>,
    /// Shape of one sample of the first input, for extents the model leaves open.
    pub sample: Option<Vec<usize>>,
}

impl Classifier {
    /// Reads a model and finds its head.
    ///
    /// # Errors
    /// When the file is no supported classifier; unsupported ops are all named at once.
    pub fn open(path: &Path, options: ClassifierOptions) -> Result<Self> {
        Self::from_model(Model::open(path)?, options)
    }

    /// The same for a model that is already read.
    ///
    /// # Errors
    /// As [`Classifier::open`].
    pub fn from_model(model: Model, options: ClassifierOptions) -> Result<Self> {
        let mut import_options = ImportOptions { dims: options.dims, ..ImportOptions::default() };
        if let Some(sample) = options.sample {
            let name = first_input(&model);
            import_options.samples.insert(name, sample);
        }
        let mut this = Self {
            model,
            output: options.output,
            options: import_options,
            classes: 0,
            input: TensorType::new(DType::F32, []),
            extra: BTreeMap::new(),
            embedding: None,
        };
        let bound = this.bind(1)?;
        this.describe(&bound.graph)?;
        Ok(this)
    }

    /// The same classifier from the output of its embedding on, which becomes its first input: for models of
    /// integers, whose inputs no gradient reaches.
    ///
    /// # Errors
    /// When the first input is read by anything but one embedding, naming the node.
    pub fn from_embedding(mut self) -> Result<Self> {
        let cut = embedding::cut(&self.bind(1)?)?;
        self.embedding = Some(cut.range);
        self.describe(&cut.imported.graph)?;
        Ok(self)
    }

    /// Reads classes and inputs off a graph of this classifier.
    fn describe(&mut self, g: &Graph) -> Result<()> {
        self.classes = self.head(g)?.classes;
        let first = g.inputs.first().copied().ok_or_else(|| Error::unsupported("the model has no input"))?;
        self.input = g.value(first).ty.clone();
        for &id in g.inputs.iter().skip(1) {
            let ty = &g.value(id).ty;
            self.extra.insert(g.label(id), TensorType::new(ty.dtype, ty.shape.get(1..).unwrap_or(&[])));
        }
        Ok(())
    }

    /// The model file.
    pub fn model(&self) -> &Model {
        &self.model
    }
    /// Number of classes.
    pub fn classes(&self) -> usize {
        self.classes
    }
    /// Type of the first input, bound to the model's own batch size or to 1.
    pub fn input(&self) -> &TensorType {
        &self.input
    }
    /// Shape of one sample of the first input.
    pub fn sample_shape(&self) -> &[usize] {
        self.input.shape.get(1..).unwrap_or(&[])
    }
    /// Type of one sample of every further input, by name.
    pub fn extra_inputs(&self) -> BTreeMap<String, TensorType> {
        self.extra.clone()
    }
    /// Two deviations around the mean of the embedding's elements, if the embedding's output is the first input.
    pub fn embedding_range(&self) -> Option<(f64, f64)> {
        self.embedding
    }
    /// The model as a graph for so many samples (or as many as the model itself fixes).
    ///
    /// # Errors
    /// As [`import()`], and as [`Classifier::from_embedding`].
    pub fn bind(&self, batch: usize) -> Result<Imported> {
        let options = ImportOptions { batch, ..self.options.clone() };
        let whole = import(self.model.proto(), &|t| self.model.array(t), &options)?;
        if self.embedding.is_some() { Ok(embedding::cut(&whole)?.imported) } else { Ok(whole) }
    }
    /// The classifier's head in one of its graphs.
    ///
    /// # Errors
    /// As [`find_head`].
    pub fn head(&self, g: &Graph) -> Result<Head> {
        find_head(g, self.output.as_deref())
    }
    /// The gradient graph for so many samples.
    ///
    /// # Errors
    /// As [`gradient_graph`]; [`Kind::NeedsSingles`] when a batch of more than one cannot keep its samples apart.
    pub fn gradients(&self, batch: usize, mode: Mode) -> Result<GradientGraph> {
        let bound = self.bind(batch)?;
        gradient_graph(&bound.graph, &bound.weights, self.output.as_deref(), mode)
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
                let graph = gradient_graph(&bound.graph, &bound.weights, self.output.as_deref(), mode)?;
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
                all.tensors.push(engine.upload(data)?);
            }
        }
        Ok(all)
    }
    /// The elements of the weight of that name.
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.names.iter().position(|n| n == name).map(|i| &self.tensors[i])
    }
    /// The elements of the weights that a graph takes as inputs, in the order of `ids`.
    pub(crate) fn feeds(&self, g: &Graph, ids: &[crate::graph::ValueId]) -> Result<Vec<Tensor>> {
        ids.iter()
            .map(|&id| {
                let name = g.label(id);
                self.get(&name).cloned().ok_or_else(|| Error::internal(format!("weight {name} was not uploaded")))
            })
            .collect()
    }
}

/// The model's own inputs for samples `from..to`, filled up to `batch` samples by repeating the last.
pub(crate) fn batch_feeds(
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
        if Some(id) == first {
            feeds.push((name, part.x.clone()));
        } else if let Some(a) = part.extra.get(&name) {
            feeds.push((name, a.clone()));
        }
    }
    Ok((feeds, part))
}

/// Name of the first input that is not an initializer.
fn first_input(model: &Model) -> String {
    let Some(graph) = &model.proto().graph else { return String::new() };
    let given = |name: &str| graph.initializer.iter().any(|t| t.name() == name);
    graph.input.iter().map(|i| i.name()).find(|name| !given(name)).unwrap_or_default().to_owned()
}
