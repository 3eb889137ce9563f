//! Inputs made from a model alone: that they are what they claim, on every engine; and forgetting with nothing else.

mod common;

use common::{arg, classifier, engines, fixture, json, tool};
use onnx_unlearn::classifier::{Classifier, ClassifierOptions};
use onnx_unlearn::engine::cpu::Cpu;
use onnx_unlearn::forget::answers::Answers;
use onnx_unlearn::graph::{Attrs, Batch, Graph, ValueId};
use onnx_unlearn::inputs::synthesis::{Options, Synthesised, synthesise};
use onnx_unlearn::onnx::proto::ModelProto;
use onnx_unlearn::onnx::{ExportOptions, Model, to_bytes};
use onnx_unlearn::tensor::{Array, DType, TensorType};
use prost::Message;
use serde_json::Value;
use std::path::Path;

/// Few steps: enough for most classes of the fixtures.
const QUICK: Options = Options { per_class: 1, steps: 40, seed: 3, range: Some((0.0, 1.0)), rate: 0.05, tau: 1.0 };

fn make(c: &Classifier, options: &Options) -> Synthesised {
    synthesise(c, &Cpu, options, &mut |_, _| ()).unwrap()
}

/// Samples that the model answers with their class, run apart from the descent.
fn answered(c: &Classifier, made: &Synthesised) -> usize {
    let n = made.inputs.len();
    let graph = c.bind(n).unwrap().graph;
    let logits = common::run(&Cpu, &graph, std::slice::from_ref(&made.inputs.x)).unwrap().remove(0).to_f64();
    let answers = Answers::classes_of(&logits, c.classes());
    answers.iter().zip(&made.inputs.y).filter(|(a, y)| a == y).count()
}

#[test]
fn every_engine_finds_inputs_of_every_class() {
    let c = classifier("cnn_nocodes");
    for engine in engines() {
        let (mut last, mut calls) = ((0, 0), 0);
        let made = synthesise(&c, &*engine, &QUICK, &mut |done, all| {
            assert!(done > last.0 && done <= all);
            (last, calls) = ((done, all), calls + 1);
        })
        .unwrap();
        assert_eq!((last, calls), ((40, 40), 40));
        assert_eq!(made.inputs.x.shape(), [10, 1, 28, 28]);
        assert_eq!(made.inputs.y, (0..10).collect::<Vec<_>>());
        assert!(made.inputs.x.to_f64().iter().all(|v| (0.0..=1.0).contains(v)), "{}", engine.name());
        assert!(made.reached >= 9, "{}: {} of 10 reached", engine.name(), made.reached);
        assert!(answered(&c, &made) >= 9, "{}", engine.name());
    }
}

/// The numbers follow from the seed; a class's do not depend on how many inputs a class gets.
#[test]
fn the_seed_decides() {
    let c = classifier("mlp");
    let options = Options { steps: 5, ..QUICK };
    let made = make(&c, &options);
    assert_eq!(made, make(&c, &options));
    assert_ne!(made.inputs.x, make(&c, &Options { seed: 4, ..options }).inputs.x);
    let two = make(&c, &Options { per_class: 2, ..options });
    assert_eq!(two.inputs.y[..4], [0, 0, 1, 1]);
    let firsts = two.inputs.select(&(0..10).map(|c| 2 * c).collect::<Vec<_>>()).unwrap();
    // a matrix product of another height may round otherwise, and a step has the length of the sign of a slope
    let (a, b) = (firsts.x.to_f64(), made.inputs.x.to_f64());
    let off = a.iter().zip(&b).filter(|(a, b)| (*a - *b).abs() > 1e-3).count();
    assert!(off * 100 < a.len(), "{off} of {} elements differ", a.len());
}

/// More steps lead further down, and total variation makes smoother images.
#[test]
fn descent_goes_down() {
    let c = classifier("cnn_nocodes");
    let short = make(&c, &Options { steps: 1, ..QUICK });
    assert!(short.reached < 5, "noise is answered with its class already: {}", short.reached);
    let rough = make(&c, &Options { tau: 0.0, ..QUICK });
    let smooth = make(&c, &Options { tau: 20.0, ..QUICK });
    let steps = |s: &Synthesised| {
        let v = s.inputs.x.to_f64();
        v.windows(2).map(|p| (p[1] - p[0]).abs()).sum::<f64>() / v.len() as f64
    };
    assert!(steps(&smooth) < 0.7 * steps(&rough), "{} and {}", steps(&smooth), steps(&rough));
}

#[test]
fn a_range_is_found_that_reaches_the_classes() {
    let made = make(&classifier("cnn_nocodes"), &Options { range: None, steps: 1, ..QUICK });
    assert_eq!(made.range, (0.0, 1.0));
    assert!(made.range_reason.contains("of 10 classes"), "{}", made.range_reason);
    // the same model behind a division by 255 needs plain pixels
    let scaled = toy(255.0, DType::F32);
    let made = make(&scaled, &Options { range: None, ..QUICK });
    assert_eq!(made.range, (0.0, 255.0), "{}", made.range_reason);
}

/// A classifier of four samples of six numbers, less than `scale` each, and a mask; class `k` is where number `k` is
/// great.
fn toy(scale: f64, dtype: DType) -> Classifier {
    let mut g = Graph::new(4);
    let x = g.input("x", TensorType::new(dtype, [4, 6]), Batch::LEADING);
    let mask = g.input("attention_mask", TensorType::new(DType::I64, [4, 6]), Batch::LEADING);
    let bias = g.input("offset", TensorType::new(DType::F32, [4, 3]), Batch::LEADING);
    let part = g.scalar(8.0 / scale, DType::F32);
    let mask = g.push("Cast", &[mask], Attrs::new().with("to", 1)).unwrap();
    let push = |g: &mut Graph, op: &str, inputs: &[ValueId]| g.push(op, inputs, Attrs::new()).unwrap();
    let (x, part) = (push(&mut g, "Mul", &[x, mask]), part);
    let x = push(&mut g, "Mul", &[x, part]);
    let w: Vec<f32> = (0..18).map(|i| if i / 3 == i % 3 { 2.0 } else { -0.1 * (1 + i % 3) as f32 }).collect();
    let w = g.weight("w", Array::from_vec(&[6, 3], w).unwrap());
    let threshold = g.weight("threshold", Array::from_vec(&[3], vec![-2.0f32, -2.0, -2.0]).unwrap());
    let y = push(&mut g, "MatMul", &[x, w]);
    let y = push(&mut g, "Add", &[y, threshold]);
    let y = push(&mut g, "Add", &[y, bias]);
    g.outputs = vec![y];
    open(&g)
}

fn open(g: &Graph) -> Classifier {
    let bytes = to_bytes(g, &ExportOptions::default()).unwrap();
    Classifier::from_model(Model::from_bytes("made", bytes).unwrap(), ClassifierOptions::default()).unwrap()
}

#[test]
fn other_inputs_are_held_at_neutral_values() {
    let made = make(&toy(1.0, DType::F32), &QUICK);
    assert_eq!(made.inputs.extra["attention_mask"], Array::full(&[3, 6], 1i64));
    assert_eq!(made.inputs.extra["offset"], Array::full(&[3, 3], 0f32));
    assert_eq!(made.notes, ["input 'attention_mask' is held at ones", "input 'offset' is held at zeros"]);
    assert_eq!(made.reached, 3);
}

/// Tokens, embedded and averaged; with `twice` something else reads them as well.
fn tokens(twice: bool) -> Graph {
    let mut g = Graph::new(2);
    let ids = g.input("ids", TensorType::new(DType::I64, [2, 5]), Batch::LEADING);
    let table: Vec<f32> = (0..21).map(|i| ((i * 37) % 17) as f32 / 8.0 - 1.0).collect();
    let table = g.weight("table", Array::from_vec(&[7, 3], table).unwrap());
    let e = g.push("Gather", &[table, ids], Attrs::new()).unwrap();
    let axes = g.ints(&[1]);
    let e = g.push("ReduceSum", &[e, axes], Attrs::new().with("keepdims", 0)).unwrap();
    let w = Array::from_vec(&[3, 3], vec![1f32, -1.0, 0.0, 0.0, 1.0, -1.0, -1.0, 0.0, 1.0]).unwrap();
    let w = g.weight("w", w);
    let mut y = g.push("MatMul", &[e, w], Attrs::new()).unwrap();
    if twice {
        g.set_scope("padding");
        let pad = g.ints(&[0]);
        let pad = g.push("Equal", &[ids, pad], Attrs::new()).unwrap();
        let pad = g.push("Cast", &[pad], Attrs::new().with("to", 1)).unwrap();
        let pad = g.push("ReduceSum", &[pad, axes], Attrs::new().with("keepdims", 1)).unwrap();
        y = g.push("Add", &[y, pad], Attrs::new()).unwrap();
    }
    g.outputs = vec![y];
    g
}

#[test]
fn tokens_are_found_at_the_embedding() {
    let c = open(&tokens(false));
    let error = synthesise(&c, &Cpu, &QUICK, &mut |_, _| ()).unwrap_err().to_string();
    assert!(error.contains("int64") && error.contains("embedding"), "{error}");
    let c = c.from_embedding().unwrap();
    assert_eq!(c.sample_shape(), [5, 3]);
    assert_eq!(c.classes(), 3);
    let made = make(&c, &Options { range: None, ..QUICK });
    assert_eq!(made.reached, 3);
    let table: Vec<f64> = (0..21).map(|i| f64::from((i * 37) % 17) / 8.0 - 1.0).collect();
    let mean = table.iter().sum::<f64>() / 21.0;
    let deviation = (table.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / 21.0).sqrt();
    assert!((made.range.0 - (mean - 2.0 * deviation)).abs() < 1e-6, "{:?}", made.range);
    assert!((made.range.1 - (mean + 2.0 * deviation)).abs() < 1e-6, "{:?}", made.range);
    let error = open(&tokens(true)).from_embedding().err().unwrap().to_string();
    assert!(error.contains("'ids'") && error.contains("Equal") && error.contains("--inputs"), "{error}");
}

/// The whole way for a model of tokens: its weights change behind the embedding.
#[test]
fn a_model_of_tokens_forgets_without_inputs() {
    let dir = tempfile::tempdir().unwrap();
    let (model, out) = (dir.path().join("tokens.onnx"), dir.path().join("out.onnx"));
    std::fs::write(&model, to_bytes(&tokens(false), &ExportOptions::default()).unwrap()).unwrap();
    let flags =
        ["--class", "1", "-o", arg(&out), "--engine", "cpu", "--rule", "dampen", "--alpha", "1", "--lambda", "0.1"];
    let report = json(&[&["forget", arg(&model)][..], &flags].concat());
    assert_eq!(report["made"]["samples"], 24, "{report}");
    assert_eq!(report["changes"].as_array().unwrap().iter().find(|c| c["name"] == "table").unwrap()["changed"], 0);
    assert!(report["elements_changed"].as_u64().unwrap() > 0);
}

fn evaluate(model: &Path, class: &str) -> Value {
    let images = fixture("fmnist_test_1000.npz");
    json(&["evaluate", arg(model), "--data", arg(&images), "--forgotten", class, "--engine", "cpu"])
}

/// No data, no codes: a class and the file.
#[test]
fn a_class_is_forgotten_without_any_inputs() {
    let dir = tempfile::tempdir().unwrap();
    let (model, out) = (fixture("cnn_nocodes.onnx"), dir.path().join("out.onnx"));
    // fewer inputs than by default, which would take a minute and a half in a debug build
    let few = ["--per-class", "3", "--steps", "80", "--engine", "cpu"];
    let report = json(&[&["forget", arg(&model), "--class", "7", "-o", arg(&out)][..], &few].concat());
    assert_eq!(report["made"]["samples"], 30);
    assert_eq!(report["made"]["range"], serde_json::json!([0.0, 1.0]));
    assert!(report["made"]["reached"].as_u64().unwrap() >= 28, "{}", report["made"]);
    assert_eq!(report["inputs"]["forgotten_answered_after"], 0);
    let (before, after) = (evaluate(&model, "7"), evaluate(&out, "7"));
    let of = |r: &Value, what: &str| r[what].as_f64().unwrap();
    assert!(of(&before, "A_F") > 0.9, "{before}");
    assert!(of(&after, "A_F") <= 0.05, "{after}");
    assert!(of(&after, "A_R") >= of(&before, "A_R") - 0.03, "A_R {} then {}", before["A_R"], after["A_R"]);
}

/// Features as they are measured, each in a range of its own, which stands in the model.
#[test]
fn a_model_that_standardises_its_features_tells_their_ranges() {
    let (file, data) = (fixture("kinds/skl_pipeline.onnx"), fixture("kinds/skl_pipeline.npz"));
    let c = Classifier::open(&file, ClassifierOptions::default()).unwrap();
    let made = make(&c, &Options { per_class: 2, range: None, ..QUICK });
    assert!(made.range_reason.contains("two deviations"), "{}", made.range_reason);
    assert_eq!((made.reached, answered(&c, &made)), (6, 6));
    let model = ModelProto::decode(&std::fs::read(&file).unwrap()[..]).unwrap();
    let scaler = model.graph.unwrap().node.into_iter().find(|n| n.op_type() == "Scaler").unwrap();
    let of = |name: &str| scaler.attribute.iter().find(|a| a.name() == name).unwrap().floats.clone();
    let (offset, scale) = (of("offset"), of("scale"));
    for (i, v) in made.inputs.x.to_f64().into_iter().enumerate() {
        let z = (v - f64::from(offset[i % 4])) * f64::from(scale[i % 4]);
        assert!(z.abs() <= 2.0 + 1e-4, "{z} deviations");
    }
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out.onnx");
    // class 1 lies between both others, and eight hidden units give way to no class alone: docs/benchmarks.md
    for class in ["0", "2"] {
        json(&["forget", arg(&file), "--class", class, "-o", arg(&out), "--depth", "head", "--engine", "cpu"]);
        let measured =
            |m: &Path| json(&["evaluate", arg(m), "--data", arg(&data), "--forgotten", class, "--engine", "cpu"]);
        let (before, after) = (measured(&file), measured(&out));
        assert_eq!(after["A_F"], 0.0, "class {class}");
        // of twenty samples one at most
        assert!(after["A_R"].as_f64() >= before["A_R"].as_f64().map(|a| a - 0.051), "{class}: {}", after["A_R"]);
    }
}

/// Inputs that were made say that class 1 is forgotten; random ones, which cover four features, that it is not.
#[test]
fn random_inputs_of_a_few_features_raise_doubts() {
    let dir = tempfile::tempdir().unwrap();
    let (file, data) = (fixture("kinds/skl_mlp.onnx"), fixture("kinds/skl_mlp.npz"));
    let out = dir.path().join("out.onnx");
    let mut found = 0;
    for class in ["0", "1", "2"] {
        let report = json(&["forget", arg(&file), "--class", class, "-o", arg(&out), "--engine", "cpu"]);
        let after = json(&["evaluate", arg(&out), "--data", arg(&data), "--forgotten", class, "--engine", "cpu"]);
        let doubts: Vec<&str> = report["doubts"].as_array().unwrap().iter().map(|d| d.as_str().unwrap()).collect();
        if after["A_F"].as_f64().unwrap() > 0.1 {
            assert!(doubts.iter().any(|d| d.contains("random inputs")), "class {class}: {doubts:?}");
            found += 1;
        }
    }
    assert!(found > 0, "every class is forgotten: another model has to show the doubt");
    // what is given says more of data than random inputs do
    let given = ["--inputs", arg(&data), "--engine", "cpu"];
    let report = json(&[&["forget", arg(&file), "--class", "1", "-o", arg(&out)][..], &given].concat());
    assert!(!report["doubts"].to_string().contains("random"), "{}", report["doubts"]);
}

#[test]
fn one_seed_writes_one_file() {
    let dir = tempfile::tempdir().unwrap();
    let (model, out) = (fixture("mlp.onnx"), dir.path().join("out.onnx"));
    let written = |seed: &str| {
        let quick = ["--class", "7", "--per-class", "2", "--steps", "15", "--seed", seed, "--engine", "cpu"];
        json(&[&["forget", arg(&model), "-o", arg(&out)][..], &quick].concat());
        std::fs::read(&out).unwrap()
    };
    let first = written("1");
    assert!(first == written("1"));
    assert!(first != written("2"));
}

#[test]
fn codes_synthesize_writes_labelled_inputs() {
    let dir = tempfile::tempdir().unwrap();
    let (model, codes, out) = (fixture("mlp.onnx"), dir.path().join("codes.npz"), dir.path().join("out.onnx"));
    let quick = ["--per-class", "2", "--steps", "30", "--range", "0,1", "--engine", "cpu"];
    let args = [&["codes", "synthesize", arg(&model), "-o", arg(&codes)][..], &quick].concat();
    let report = json(&args);
    assert_eq!(report["inputs"]["samples"], 20);
    assert_eq!(report["inputs"]["range_reason"], "given");
    let text = String::from_utf8(tool(&args).output().unwrap().stdout).unwrap();
    assert!(text.contains("20 made from the model alone, 2 a class, 30 steps, seed 0"), "{text}");
    let fixed = ["--class", "0", "--rule", "dampen", "--alpha", "6", "--lambda", "1", "--engine", "cpu"];
    let report = json(&[&["forget", arg(&model), "--inputs", arg(&codes), "-o", arg(&out)][..], &fixed].concat());
    assert!(report["made"].is_null());
    assert_eq!(report["inputs"]["forgotten_samples"], 2);
}

#[test]
fn wrong_flags_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (model, codes, out) = (fixture("mlp.onnx"), fixture("mlp.codes.npz"), dir.path().join("out"));
    let synthesize = ["codes", "synthesize", arg(&model), "-o", arg(&out)];
    let forget = ["forget", arg(&model), "--class", "0", "-o", arg(&out)];
    let given = [&forget[..], &["--inputs", arg(&codes)]].concat();
    let cases: [(&[&str], &[&str], &str); 8] = [
        (&synthesize, &["--range", "1"], "two numbers"),
        (&synthesize, &["--range", "1,0"], "lo < hi"),
        (&synthesize, &["--range", "0,NaN"], "lo < hi"),
        (&synthesize, &["--per-class", "0"], "at least one input"),
        (&synthesize, &["--steps", "0"], "one step"),
        (&given, &["--steps", "5"], "--steps"),
        (&given, &["--range", "0,1"], "--range"),
        (&forget, &["--limit", "5"], "--limit"),
    ];
    for (base, more, word) in cases {
        let run = tool([base, more].concat()).output().unwrap();
        let stderr = String::from_utf8(run.stderr).unwrap();
        assert_eq!(run.status.code(), Some(2), "{more:?}: {stderr}");
        assert!(stderr.contains(word) && stderr.lines().count() == 1, "{more:?}: {stderr}");
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}
