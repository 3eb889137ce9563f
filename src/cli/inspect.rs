//! `inspect`: what a model is, and what can be done with it.

use super::common::{ModelArgs, named};
use super::{Context, Status};
use crate::classifier::Classifier;
use crate::error::Result;
use crate::onnx::Model;
use crate::onnx::import::{node_label, obstacles};
use crate::report::{Align, Table, format};
use std::collections::BTreeMap;

/// Shows inputs, outputs, head, weights and ops of a model, and everything in it that is not supported.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    model: ModelArgs,
}

#[derive(serde::Serialize)]
struct WeightReport {
    name: String,
    shape: Vec<usize>,
    r#type: String,
    place: String,
    trainable: bool,
}

#[derive(serde::Serialize)]
struct Report {
    file: String,
    ir_version: i64,
    opset: Option<i64>,
    producer: String,
    nodes: usize,
    ops: BTreeMap<String, usize>,
    classifier: Option<ClassifierReport>,
    weights: Vec<WeightReport>,
    parameters: usize,
    trainable: usize,
    obstacles: Vec<String>,
}

#[derive(serde::Serialize)]
struct ClassifierReport {
    inputs: Vec<String>,
    outputs: Vec<String>,
    classes: usize,
    logits: String,
    softmax_removed: Option<&'static str>,
    head_weights: Vec<String>,
    nodes_after_folding: usize,
    batch: String,
}

impl Args {
    pub(super) fn run(self, context: &Context) -> Result<Status> {
        let model = Model::open(&self.model.model).map_err(|e| named(e, &self.model.model))?;
        let mut report = describe(&model, &self.model);
        match Classifier::from_model(model, self.model.options()).and_then(|c| head(&c)) {
            Ok((found, trainable)) => {
                for w in &mut report.weights {
                    w.trainable = trainable.contains(&w.name);
                }
                report.trainable =
                    report.weights.iter().filter(|w| w.trainable).map(|w| w.shape.iter().product::<usize>()).sum();
                report.classifier = Some(found);
            }
            Err(e) if report.obstacles.is_empty() => report.obstacles.push(e.to_string()),
            Err(_) => {}
        }
        context.print(&report, || text(&report))?;
        Ok(if report.obstacles.is_empty() { Status::Done } else { Status::BadInput })
    }
}

fn describe(model: &Model, args: &ModelArgs) -> Report {
    let proto = model.proto();
    let graph = proto.graph.as_deref();
    let mut ops = BTreeMap::new();
    for (i, node) in graph.into_iter().flat_map(|g| g.node.iter().enumerate()) {
        let name = if node.op_type().is_empty() { node_label(node, i) } else { node.op_type().to_owned() };
        *ops.entry(name).or_insert(0) += 1;
    }
    let weights: Vec<WeightReport> = model
        .weights()
        .iter()
        .map(|w| WeightReport {
            name: w.name().to_owned(),
            shape: w.shape().to_vec(),
            r#type: w.storage().dtype().to_string(),
            place: w
                .data_file()
                .and_then(|i| model.data_files().get(i))
                .map_or("model".to_owned(), |f| f.location().display().to_string()),
            trainable: false,
        })
        .collect();
    Report {
        file: args.model.display().to_string(),
        ir_version: proto.ir_version(),
        opset: model.opset(""),
        producer: format!("{} {}", proto.producer_name(), proto.producer_version()).trim().to_owned(),
        nodes: graph.map_or(0, |g| g.node.len()),
        ops,
        classifier: None,
        parameters: weights.iter().map(|w| w.shape.iter().product::<usize>()).sum(),
        weights,
        trainable: 0,
        obstacles: obstacles(proto),
    }
}

fn head(classifier: &Classifier) -> Result<(ClassifierReport, Vec<String>)> {
    let bound = classifier.bind(1)?;
    let g = &bound.graph;
    let head = classifier.head(g)?;
    let weights = crate::autodiff::head::head_weights(g, &head);
    let names =
        |ids: &[crate::graph::ValueId]| ids.iter().map(|&i| format!("{} {}", g.label(i), g.value(i).ty)).collect();
    // an op without a derivative is an obstacle as well
    classifier.gradients_or_singles(2, crate::autodiff::gradient::Mode::Fisher { sets: 1 })?;
    let report = ClassifierReport {
        inputs: names(&g.inputs),
        outputs: names(&g.outputs),
        classes: head.classes,
        logits: g.label(head.logits),
        softmax_removed: head.peeled,
        head_weights: weights.iter().map(|&w| g.label(w)).collect(),
        nodes_after_folding: g.nodes().len(),
        batch: if bound.batch_is_fixed { format!("fixed at {}", g.batch) } else { "open".to_owned() },
    };
    Ok((report, bound.weights.into_iter().map(|(n, _)| n).collect()))
}

fn text(r: &Report) -> String {
    let ops: Vec<String> = r.ops.iter().map(|(op, n)| format!("{op} {n}")).collect();
    let mut out = format!(
        "{}: IR {}, opset {}, {}\n{} nodes: {}\n",
        r.file,
        r.ir_version,
        r.opset.map_or("none".to_owned(), |v| v.to_string()),
        if r.producer.is_empty() { "producer unknown" } else { &r.producer },
        r.nodes,
        ops.join(", ")
    );
    if let Some(c) = &r.classifier {
        out += &format!("inputs:  {}\noutputs: {}\n", c.inputs.join(", "), c.outputs.join(", "));
        out += &format!("batch:   {}\n", c.batch);
        let softmax = c.softmax_removed.map_or(String::new(), |op| format!(", before the trailing {op}"));
        out += &format!(
            "head:    {} classes, logits '{}'{softmax}, weights {}\n",
            c.classes,
            c.logits,
            c.head_weights.join(", ")
        );
        out += &format!("graph:   {} nodes after folding\n", c.nodes_after_folding);
    }
    let mut table = Table::new([
        ("tensor", Align::Left),
        ("shape", Align::Left),
        ("type", Align::Left),
        ("elements", Align::Right),
        ("place", Align::Left),
        ("trainable", Align::Left),
    ]);
    for w in &r.weights {
        let trainable = if w.trainable { "yes" } else { "no" };
        let shape = format!("{:?}", w.shape);
        let elements = format::count(w.shape.iter().product());
        table.row([&w.name, &shape, &w.r#type, &elements, &w.place, trainable]);
    }
    out += &format!(
        "\n{table}\n{} float elements, {} of them trainable\n",
        format::count(r.parameters),
        format::count(r.trainable)
    );
    if r.obstacles.is_empty() {
        out += "supported: gradients, fisher, forget, evaluate\n";
    } else {
        out += "not supported:\n";
        for o in &r.obstacles {
            out += &format!("  {o}\n");
        }
    }
    out
}
