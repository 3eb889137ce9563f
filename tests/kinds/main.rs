//! Every kind of model file: real exports and the forms that exporters write, against references made without this
//! project's code (`fixtures/make_kinds.py`).

#[path = "../common/mod.rs"]
mod common;
mod functions;
mod packaged;
mod refused;
mod training;

use common::{arg, engines, fixture, json, tool};
use onnx_unlearn::autodiff::gradient::{GradientGraph, Mode};
use onnx_unlearn::classifier::{Classifier, ClassifierOptions, Weights, batch_feeds};
use onnx_unlearn::engine::{Engine, Tensor};
use onnx_unlearn::fisher::estimate;
use onnx_unlearn::inputs::{self, Labelled, Split};
use onnx_unlearn::onnx::Model;
use onnx_unlearn::onnx::proto::ModelProto;
use onnx_unlearn::tensor::Array;
use prost::Message;
use std::collections::BTreeMap;
use std::path::PathBuf;

#[derive(serde::Deserialize)]
struct Reference {
    loss: f64,
    grad: BTreeMap<String, Vec<f64>>,
    fisher: BTreeMap<String, Vec<f64>>,
}

/// A model file and what belongs to it.
#[derive(Clone, Copy)]
struct Kind {
    model: &'static str,
    inputs: &'static str,
    reference: &'static str,
    output: Option<&'static str>,
    batch_axis: Option<usize>,
}

const fn kind(model: &'static str, inputs: &'static str, reference: &'static str) -> Kind {
    Kind { model, inputs, reference, output: None, batch_axis: None }
}

/// A file that has inputs and a reference of its own.
const fn own(name: &'static str) -> Kind {
    kind(name, name, name)
}

/// The network of `skl_mlp` in another form.
const fn mlp(name: &'static str) -> Kind {
    kind(name, "skl_mlp", "skl_mlp")
}

const KINDS: [Kind; 38] = [
    own("skl_mlp"),
    own("skl_binary"),
    own("skl_pipeline"),
    own("skl_normalizer"),
    own("keras_nhwc"),
    own("torch_functions"),
    own("torch_dynamo"),
    mlp("softmax_parts"),
    mlp("softmax_max"),
    mlp("softmax_reciprocal"),
    mlp("log_of_softmax"),
    mlp("log_sum"),
    mlp("log_sum_max"),
    mlp("views"),
    mlp("half_inside"),
    mlp("fixed_1"),
    mlp("fixed_4"),
    mlp("several_outputs"),
    Kind { output: Some("z"), ..mlp("features") },
    kind("time_major", "time_major", "skl_mlp"),
    Kind { batch_axis: Some(1), ..kind("time_major_unnamed", "time_major", "skl_mlp") },
    kind("half", "skl_mlp", "half"),
    kind("bfloat", "skl_mlp", "bfloat"),
    kind("double", "skl_mlp", "double"),
    mlp("functions"),
    kind("shared_in_function", "skl_mlp", "shared_in_function"),
    mlp("branch"),
    kind("sigmoid_column", "skl_binary", "skl_binary"),
    kind("sigmoid_vector", "skl_binary", "skl_binary"),
    kind("sigmoid_parts", "skl_binary", "skl_binary"),
    own("torch_lstm"),
    own("torch_lstm_both"),
    own("torch_gru"),
    own("torch_gru_both"),
    own("tokens"),
    own("word"),
    own("bytes"),
    Kind { output: Some("z"), ..mlp("several_outputs") },
];

fn path(file: &str) -> PathBuf {
    fixture("kinds").join(file)
}

fn inputs_of(kind: &Kind) -> PathBuf {
    path(&format!("{}.npz", kind.inputs))
}

fn open(kind: &Kind) -> Classifier {
    let options = ClassifierOptions {
        output: kind.output.map(str::to_owned),
        samples: inputs::sample_shapes(&inputs_of(kind), Split::Test).unwrap(),
        batch_axes: kind.batch_axis.into_iter().map(|axis| (String::new(), axis)).collect(),
        ..ClassifierOptions::default()
    };
    Classifier::open(&path(&format!("{}.onnx", kind.model)), options).unwrap()
}

/// Labelled inputs; bytes stay as they are.
fn labelled(kind: &Kind, c: &Classifier) -> Labelled {
    inputs::load(&inputs_of(kind), &c.expected(), &inputs::Options::default()).unwrap()
}

fn reference(kind: &Kind) -> Reference {
    let text = std::fs::read_to_string(path(&format!("{}.json", kind.reference))).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// The name that scikit-learn's converter gives a weight of the networks that are also written by hand.
fn name_in(reference: &Reference, weight: &str) -> String {
    let renamed = match weight {
        "w1" => "coefficient",
        "b1" => "intercepts",
        "w2" => "coefficient1",
        "b2" => "intercepts1",
        other => other,
    };
    if reference.grad.contains_key(weight) { weight } else { renamed }.to_owned()
}

/// Runs a gradient graph over all samples; sums its outputs.
fn summed(engine: &dyn Engine, g: &GradientGraph, data: &Labelled, masks: &[Array]) -> Vec<Vec<f64>> {
    let mut session = engine.prepare(&g.graph).unwrap();
    let batch = g.graph.batch;
    let mut total: Vec<Vec<f64>> = Vec::new();
    for from in (0..data.len()).step_by(batch) {
        let to = (from + batch).min(data.len());
        let (fed, part) = batch_feeds(&g.graph, data, from, to, batch).unwrap();
        let mut feeds: Vec<Tensor> = fed.into_iter().map(|(_, a)| a.into()).collect();
        feeds.extend(masks.iter().cloned().map(Tensor::from));
        feeds.push(part.labels().into());
        let u = (0..batch).map(|i| f64::from(u8::from(from + i < to))).collect();
        let u = Array::from_vec(&[batch], u).unwrap();
        feeds.push(u.to_float(g.graph.dtype(g.sample_weights.unwrap())).into());
        let out = session.run(&feeds).unwrap();
        total.resize(out.len(), Vec::new());
        for (sum, a) in total.iter_mut().zip(out) {
            let a = a.to_array().unwrap().to_f64();
            sum.resize(a.len(), 0.0);
            sum.iter_mut().zip(a).for_each(|(s, v)| *s += v);
        }
    }
    total
}

/// The greatest difference relative to the entry or to the tensor's root mean square, whichever is greater.
fn off(got: &[f64], want: &[f64]) -> f64 {
    if got.len() != want.len() {
        return f64::INFINITY;
    }
    let typical = (want.iter().map(|v| v * v).sum::<f64>() / want.len() as f64).sqrt().max(1e-12);
    let each = got.iter().zip(want).map(|(g, w)| (g - w).abs() / w.abs().max(typical));
    each.fold(0.0, |m, d| if d.is_nan() { f64::INFINITY } else { f64::max(m, d) })
}

fn compare(kind: &Kind, engine: &dyn Engine, wrong: &mut Vec<String>) {
    let c = open(kind).on(engine).unwrap();
    let data = labelled(kind, &c);
    let want = reference(kind);
    // the references have nine digits
    let tolerance = if c.input().dtype == onnx_unlearn::tensor::DType::F64 { 1e-7 } else { 1e-4 };
    let mut note = |what: &str, off: f64, tolerance: f64| {
        if off > tolerance {
            wrong.push(format!("{} {} {what}: off by {off:.1e}", kind.model, engine.name()));
        }
    };
    let (g, _) = c.gradients_or_singles(data.len(), Mode::Sum).unwrap();
    let sums = summed(engine, &g, &data, &[]);
    // a sure answer has a loss far below the precision of its logits
    let loss = (sums[0].iter().sum::<f64>() - want.loss).abs() / want.loss.max(1.0);
    note("loss", loss, tolerance);
    let mut met = 0;
    for ((name, _), got) in g.gradients.iter().zip(&sums[1..]) {
        if let Some(want) = want.grad.get(&name_in(&want, name)) {
            note(name, off(got, want), tolerance);
            met += 1;
        }
    }
    assert_eq!(met, want.grad.len(), "{}: weights {:?}", kind.model, g.gradients);
    let weights = Weights::upload(engine, &c.bind(1).unwrap()).unwrap();
    let found = estimate(&c, engine, &weights, &data, &[vec![1.0; data.len()]], &mut |_| ()).unwrap();
    for (name, got) in found.to_arrays().unwrap() {
        if let Some(want) = want.fisher.get(&name_in(&want, &name)) {
            note(&format!("Fisher of {name}"), off(&got.to_f64(), want), 2.0 * tolerance);
        }
    }
}

#[test]
fn every_kind_has_the_gradients_and_fisher_of_its_reference_on_every_engine() {
    let mut wrong = Vec::new();
    for engine in engines() {
        for kind in &KINDS {
            compare(kind, &*engine, &mut wrong);
        }
    }
    assert!(wrong.is_empty(), "{} differences:\n{}", wrong.len(), wrong.join("\n"));
}

/// The flags that a kind needs.
fn flags(kind: &Kind) -> Vec<String> {
    let mut all = Vec::new();
    if let Some(output) = kind.output {
        all.extend(["--output".to_owned(), output.to_owned()]);
    }
    if let Some(axis) = kind.batch_axis {
        all.extend(["--batch-axis".to_owned(), axis.to_string()]);
    }
    all
}

#[test]
fn every_kind_forgets_and_stays_the_same_file_but_for_its_weights() {
    let room = tempfile::tempdir().unwrap();
    for kind in &KINDS {
        let (model, inputs) = (path(&format!("{}.onnx", kind.model)), inputs_of(kind));
        let out = room.path().join("out.onnx");
        let flags = flags(kind);
        // without its word the network of `word` answers by its bias alone, and that is class 1
        let class = if kind.model == "word" { "0" } else { "1" };
        let mut args = vec!["forget", arg(&model), "--inputs", arg(&inputs), "--class", class, "-o", arg(&out)];
        args.extend(["--engine", "cpu"]);
        args.extend(flags.iter().map(String::as_str));
        let report = json(&args);
        let inputs = &report["inputs"];
        let (before, after) = (&inputs["forgotten_answered_before"], &inputs["forgotten_answered_after"]);
        assert!(after.as_u64() < before.as_u64(), "{}: {inputs}", kind.model);
        assert!(report["elements_changed"].as_u64() > Some(0), "{}", kind.model);
        // every byte outside of the weights is the same
        let (old, new) = (std::fs::read(&model).unwrap(), std::fs::read(&out).unwrap());
        assert_eq!(old.len(), new.len(), "{}", kind.model);
        let opened = Model::open(&model).unwrap();
        let mut is_weight = vec![false; old.len()];
        for w in opened.weights() {
            for run in w.runs() {
                let width = w.storage().width();
                for k in 0..run.count {
                    is_weight[run.start + k * run.step..][..width].fill(true);
                }
            }
        }
        assert!((0..old.len()).all(|i| old[i] == new[i] || is_weight[i]), "{}", kind.model);
        // what was reported is what the file answers
        let data = path(&format!("{}.npz", kind.inputs));
        let mut args = vec!["evaluate", arg(&out), "--data", arg(&data), "--forgotten", class, "--engine", "cpu"];
        args.extend(flags.iter().map(String::as_str));
        let answered = json(&args);
        let share = after.as_f64().unwrap() / inputs["forgotten_samples"].as_f64().unwrap();
        assert!((answered["A_F"].as_f64().unwrap() - share).abs() < 1e-9, "{}: {answered}", kind.model);
    }
}

#[test]
fn half_precision_is_rounded_and_counted() {
    let room = tempfile::tempdir().unwrap();
    let out = room.path().join("out.onnx");
    for (model, name) in [("half", "float16"), ("bfloat", "bfloat16")] {
        let (model, inputs) = (path(&format!("{model}.onnx")), path("skl_mlp.npz"));
        let args =
            ["forget", arg(&model), "--inputs", arg(&inputs), "--class", "1", "-o", arg(&out), "--engine", "cpu"];
        let report = json(&args);
        let rounding = &report["rounding"][name];
        assert_eq!(rounding["changed"], report["elements_changed"], "{report}");
        assert!(rounding["rounded"].as_u64() > Some(0), "{report}");
        let text = tool(args).output().unwrap();
        assert!(String::from_utf8(text.stdout).unwrap().contains("rounded to nearest even"));
    }
}

fn decoded(name: &str) -> ModelProto {
    ModelProto::decode(&std::fs::read(path(name)).unwrap()[..]).unwrap()
}

fn refused(args: &[&str]) -> String {
    let out = tool(args).output().unwrap();
    assert_eq!(out.status.code(), Some(2), "{args:?}");
    let line = String::from_utf8(out.stderr).unwrap();
    assert_eq!(line.lines().count(), 1, "{line}");
    line
}
