//! `inspect`: what a model is, and what can be done with it.

mod text;

use super::common::{MemoryArgs, ModelArgs, named};
use super::{Context, Status};
use crate::autodiff::gradient::Mode;
use crate::autodiff::head::head_weights;
use crate::classifier::Classifier;
use crate::engine::cpu::Cpu;
use crate::engine::ort::OrtEngine;
use crate::engine::{Engine, wgpu};
use crate::error::{Error, Result};
use crate::fisher::{Forecast, forecast};
use crate::graph::{Batch, Graph, ValueId};
use crate::onnx::Model;
use crate::onnx::import::{Wanted, obstacles_of, open_extents};
use crate::onnx::proto::{DataType, Dimension, ValueInfoProto, dimension, type_proto};
use crate::tensor::DType;
use std::collections::{BTreeMap, BTreeSet};

/// The memory of gradient graphs with more nodes is not predicted.
const PLANNED: usize = 100_000;

/// Shows what a model is: inputs, outputs, classes, head, parameters, engines, and everything that is not supported.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// One line for each float tensor as well.
    #[arg(long)]
    tensors: bool,
    #[command(flatten)]
    memory: MemoryArgs,
}

#[derive(serde::Serialize)]
struct WeightReport {
    name: String,
    shape: Vec<usize>,
    r#type: &'static str,
    place: String,
    trainable: bool,
}

/// Tensors of one kind.
#[derive(Default, serde::Serialize)]
struct Sum {
    tensors: usize,
    elements: usize,
}

#[derive(serde::Serialize)]
struct Report {
    file: String,
    ir_version: i64,
    opset: Option<i64>,
    producer: String,
    nodes: usize,
    functions: usize,
    ops: BTreeMap<String, usize>,
    inputs: Vec<String>,
    outputs: Vec<String>,
    classifier: Option<ClassifierReport>,
    weights: Vec<WeightReport>,
    /// Float tensors by the type in which they are stored.
    types: BTreeMap<&'static str, Sum>,
    /// Float tensors by the file that holds them.
    places: BTreeMap<String, Sum>,
    parameters: usize,
    trainable: usize,
    engines: Vec<EngineReport>,
    /// Extents that labelled inputs or `--dim` have to bind.
    open_extents: Vec<String>,
    obstacles: Vec<String>,
}

#[derive(serde::Serialize)]
struct ClassifierReport {
    output: String,
    classes: usize,
    logits: String,
    softmax_removed: Option<&'static str>,
    head_weights: Vec<String>,
    nodes_after_folding: usize,
    batch: String,
    /// Why samples run one by one in a Fisher estimate, if they have to.
    one_by_one: Option<String>,
    /// Weights of which the file holds no elements that could be changed.
    not_rewritable: Option<String>,
    float: String,
}

#[derive(serde::Serialize)]
struct EngineReport {
    name: &'static str,
    runs_it: bool,
    detail: String,
    /// What a Fisher takes at most, one sample a run and as many as share a run where there are enough.
    fisher: Option<[Forecast; 2]>,
}

impl Args {
    pub(super) fn run(self, context: &Context) -> Result<Status> {
        let model = Model::open(&self.model.model).map_err(|e| named(e, &self.model.model))?;
        let mut report = describe(&model, &self.model);
        if report.obstacles.is_empty() {
            match open_extents(model.proto(), &self.model.options().import()) {
                Ok(open) => report.open_extents = open,
                Err(e) => report.obstacles.push(e.to_string()),
            }
        }
        if report.obstacles.is_empty() && report.open_extents.is_empty() {
            let found = Classifier::from_model(model, self.model.options())
                .and_then(|c| classify(c.within(self.memory.memory_limit), &self, &mut report));
            if let Err(e) = found {
                report.obstacles.push(e.to_string());
            }
        }
        context.print(&report, || text::text(&report, self.tensors))?;
        Ok(if report.obstacles.is_empty() { Status::Done } else { Status::BadInput })
    }
}

fn describe(model: &Model, args: &ModelArgs) -> Report {
    let proto = model.proto();
    let graph = proto.graph.as_deref();
    let mut ops = BTreeMap::new();
    for node in graph.into_iter().flat_map(|g| &g.node) {
        let domain = if matches!(node.domain(), "" | "ai.onnx") { "" } else { node.domain() };
        let dot = if domain.is_empty() { "" } else { "." };
        *ops.entry(format!("{domain}{dot}{}", node.op_type())).or_insert(0) += 1;
    }
    let (mut types, mut places) = (BTreeMap::<_, Sum>::new(), BTreeMap::<String, Sum>::new());
    let mut weights = Vec::new();
    for w in model.weights() {
        let file = w.data_file().and_then(|i| model.data_files().get(i));
        let place = file.map_or("model".to_owned(), |f| f.location().display().to_string());
        for sum in [types.entry(w.storage().name()).or_default(), places.entry(place.clone()).or_default()] {
            sum.tensors += 1;
            sum.elements += w.elements();
        }
        weights.push(WeightReport {
            name: w.name().to_owned(),
            shape: w.shape().to_vec(),
            r#type: w.storage().name(),
            place,
            trainable: false,
        });
    }
    let given: BTreeSet<&str> = graph.into_iter().flat_map(|g| &g.initializer).map(|t| t.name()).collect();
    Report {
        file: args.model.display().to_string(),
        ir_version: proto.ir_version(),
        opset: model.opset(""),
        producer: format!("{} {}", proto.producer_name(), proto.producer_version()).trim().to_owned(),
        nodes: graph.map_or(0, |g| g.node.len()),
        functions: proto.functions.len(),
        ops,
        inputs: graph.into_iter().flat_map(|g| &g.input).filter(|i| !given.contains(i.name())).map(declared).collect(),
        outputs: graph.into_iter().flat_map(|g| &g.output).map(declared).collect(),
        classifier: None,
        parameters: weights.iter().map(|w| w.shape.iter().product::<usize>()).sum(),
        weights,
        types,
        places,
        trainable: 0,
        engines: Vec::new(),
        open_extents: Vec::new(),
        obstacles: obstacles_of(proto, &Wanted::Answer(args.output.clone())),
    }
}

/// An input or output as the model declares it.
fn declared(info: &ValueInfoProto) -> String {
    let extent = |d: &Dimension| match &d.value {
        Some(dimension::Value::DimValue(n)) if *n > 0 => n.to_string(),
        Some(dimension::Value::DimParam(p)) if !p.is_empty() => p.clone(),
        _ => "?".to_owned(),
    };
    let kind = match info.r#type.as_ref().and_then(|t| t.value.as_ref()) {
        Some(type_proto::Value::TensorType(t)) => {
            let name = match DataType::try_from(t.elem_type.unwrap_or_default()) {
                Ok(DataType::Float) => "float32".to_owned(),
                Ok(DataType::Double) => "float64".to_owned(),
                Ok(other) => format!("{other:?}").to_lowercase(),
                Err(_) => "of unknown type".to_owned(),
            };
            let extents = t.shape.as_ref().map(|s| s.dim.iter().map(extent).collect::<Vec<_>>().join(", "));
            extents.map_or(name.clone(), |e| format!("{name}[{e}]"))
        }
        Some(type_proto::Value::SequenceType(_)) => "sequence".to_owned(),
        Some(_) => "no tensor".to_owned(),
        None => "of unknown type".to_owned(),
    };
    format!("{} {kind}", info.name())
}

/// Adds what only the graph tells: the head, the weights, and which engines run it.
fn classify(classifier: Classifier, args: &Args, report: &mut Report) -> Result<()> {
    let bound = classifier.bind(1)?;
    let g = &bound.graph;
    let head = classifier.head(g)?;
    let trainable: BTreeSet<&str> = bound.weights.iter().map(|(n, _)| n.as_str()).collect();
    for w in &mut report.weights {
        w.trainable = trainable.contains(w.name.as_str());
    }
    report.trainable = bound.weights.iter().map(|(_, id)| g.value(*id).ty.len()).sum();
    // an op without a derivative is an obstacle as well
    let (gradients, one_by_one) = classifier.gradients_or_singles(2, Mode::Fisher { sets: 1 })?;
    report.classifier = Some(ClassifierReport {
        output: g.label(head.output),
        classes: head.classes,
        logits: g.label(head.logits),
        softmax_removed: head.peeled,
        head_weights: head_weights(g, &head).iter().map(|&w| g.label(w)).collect(),
        nodes_after_folding: g.nodes().len(),
        batch: batch(g, bound.batch_is_fixed),
        one_by_one,
        not_rewritable: classifier.check_rewritable().err().map(|e| e.to_string()),
        float: classifier.float().to_string(),
    });
    let float = classifier.float();
    report.engines = vec![on_cpu(&gradients.graph, &classifier)];
    let classifier = match float {
        DType::F64 => args.model.open()?.in_float32()?.within(args.memory.memory_limit),
        _ => classifier,
    };
    report.engines.extend(engines(
        &gradients.graph,
        &classifier,
        if float == DType::F64 { ", in float32" } else { "" },
    ));
    Ok(())
}

/// How the samples lie in the inputs.
fn batch(g: &Graph, is_fixed: bool) -> String {
    let number = if is_fixed { format!("fixed at {}", g.batch) } else { "open".to_owned() };
    let elsewhere = |id: &ValueId| match g.value(*id).batch {
        Batch::Axis { axis, .. } if axis > 0 => Some(format!("on axis {axis} of {}", g.label(*id))),
        _ => None,
    };
    let places: Vec<String> = g.inputs.iter().filter_map(elsewhere).collect();
    if places.is_empty() { number } else { format!("{number}, {}", places.join(", ")) }
}

/// An engine and what a Fisher takes on it.
fn engine_report(name: &'static str, found: Result<(String, Option<[Forecast; 2]>)>) -> EngineReport {
    match found {
        Ok((detail, fisher)) => EngineReport { name, runs_it: true, detail, fisher },
        Err(e) => EngineReport { name, runs_it: false, detail: e.to_string(), fisher: None },
    }
}

/// What a Fisher takes of one sample a run and of as many as share one; `None` for graphs that take long to plan.
fn forecasts(g: &Graph, classifier: &Classifier, engine: &dyn Engine) -> Result<Option<[Forecast; 2]>> {
    if g.nodes().len() > PLANNED {
        return Ok(None);
    }
    Ok(Some([forecast(classifier, engine, 1)?, forecast(classifier, engine, usize::MAX)?]))
}

fn on_cpu(g: &Graph, classifier: &Classifier) -> EngineReport {
    engine_report("cpu", forecasts(g, classifier, &Cpu).map(|f| ("embedded".to_owned(), f)))
}

/// Which other engines run a gradient graph, and if not, why.
fn engines(g: &Graph, classifier: &Classifier, narrower: &str) -> [EngineReport; 2] {
    let gpu = |allow_software| wgpu::WgpuEngine::new(&wgpu::Options { allow_software, ..wgpu::Options::default() });
    let on_gpu = || {
        for node in g.nodes() {
            let kernel = node.op.kernel(&g.view_of(node));
            kernel.map_err(|e| e.at(format!("node '{}' ({})", node.name, node.op.spec().name)))?;
        }
        let adapter = gpu(false).or_else(|e| gpu(true).map_err(|_| e))?;
        let only = if adapter.is_software() { ", a software adapter: only by '--engine wgpu'" } else { "" };
        Ok((format!("{}{only}{narrower}", adapter.describe()), forecasts(g, classifier, &adapter)?))
    };
    let in_ort = || {
        let engine = OrtEngine::new(None).map_err(first_clause)?;
        Ok((format!("{}{narrower}", engine.describe()), forecasts(g, classifier, &engine)?))
    };
    [engine_report("wgpu", on_gpu()), engine_report("ort", in_ort())]
}

/// What is missing, without where it was looked for.
fn first_clause(e: Error) -> Error {
    let text = e.to_string();
    Error::engine(text.split([':', ';']).next().unwrap_or(&text).trim().to_owned())
}
