//! Steps away from a class: their arithmetic against a plain implementation on a linear model, and the rule as a whole.

mod common;

use common::{arg, engines, fixture, json, tool};
use onnx_unlearn::classifier::{Classifier, ClassifierOptions, Weights};
use onnx_unlearn::engine::Tensor;
use onnx_unlearn::forget::ascent::{Ascent, Part};
use onnx_unlearn::forget::rewrite::Basis;
use onnx_unlearn::forget::{Aim, Method, Request};
use onnx_unlearn::graph::{Attrs, Batch, Graph};
use onnx_unlearn::inputs::Labelled;
use onnx_unlearn::onnx::{ExportOptions, Model, to_bytes};
use onnx_unlearn::tensor::{Array, DType, TensorType};
use serde_json::Value;

const FEATURES: usize = 3;
const CLASSES: usize = 4;

/// Fixed numbers between −1 and 1.
fn numbers(n: usize, salt: usize) -> Vec<f64> {
    (0..n).map(|i| f64::from(((i * 37 + salt * 101 + 11) % 97) as u32) / 48.5 - 1.0).collect()
}

/// `z = x · W`.
fn linear(w: &[f64]) -> Classifier {
    let mut g = Graph::new(1);
    let x = g.input("x", TensorType::new(DType::F32, [1, FEATURES]), Batch::LEADING);
    let w = g.weight("w", Array::from_vec(&[FEATURES, CLASSES], w.to_vec()).unwrap().to_float(DType::F32));
    let z = g.push("MatMul", &[x, w], Attrs::new()).unwrap();
    g.outputs = vec![z];
    let bytes = to_bytes(&g, &ExportOptions::default()).unwrap();
    Classifier::from_model(Model::from_bytes("made", bytes).unwrap(), ClassifierOptions::default()).unwrap()
}

/// `softmax` over the classes for which `member` holds; 0 for all others.
fn softmax(z: &[f64], member: impl Fn(usize) -> bool) -> Vec<f64> {
    let e: Vec<f64> = z.iter().enumerate().map(|(k, z)| if member(k) { z.exp() } else { 0.0 }).collect();
    let sum: f64 = e.iter().sum();
    e.into_iter().map(|v| v / sum).collect()
}

/// One step as the module's head writes it, in f64.
fn plain_step(w: &[f64], x: &[f64], forgotten: &[usize], f_f: &[f64], f_r: &[f64]) -> Vec<f64> {
    let mut slope = vec![0.0; w.len()];
    let n = x.len() / FEATURES;
    for row in x.chunks(FEATURES) {
        let z: Vec<f64> = (0..CLASSES).map(|k| (0..FEATURES).map(|i| row[i] * w[i * CLASSES + k]).sum()).collect();
        let (p_f, p_r) = (softmax(&z, |k| forgotten.contains(&k)), softmax(&z, |k| !forgotten.contains(&k)));
        for i in 0..FEATURES {
            for k in 0..CLASSES {
                slope[i * CLASSES + k] += row[i] * (p_f[k] - p_r[k]) / n as f64;
            }
        }
    }
    let mean = f_r.iter().sum::<f64>() / f_r.len() as f64;
    let scale: Vec<f64> = (0..w.len())
        .map(|i| {
            let both = f_f[i] + f_r[i];
            // the linear model is all last layer: rows of other classes stay
            if both == 0.0 || !forgotten.contains(&(i % CLASSES)) {
                0.0
            } else {
                (f_f[i] / both).powi(4) / (f_r[i] + 0.1 * mean)
            }
        })
        .collect();
    let total: f64 = (0..w.len()).map(|i| scale[i] * slope[i] * slope[i]).sum();
    (0..w.len()).map(|i| w[i] - scale[i] * slope[i] / total).collect()
}

#[test]
fn a_step_is_what_the_formula_says() {
    let w = numbers(FEATURES * CLASSES, 1);
    let mut f_f: Vec<f64> = numbers(w.len(), 2).iter().map(|v| v * v).collect();
    let mut f_r: Vec<f64> = numbers(w.len(), 3).iter().map(|v| v * v).collect();
    // no Fisher at all, none of the retained classes, none of those to forget
    (f_f[0], f_r[0]) = (0.0, 0.0);
    f_r[5] = 0.0;
    f_f[7] = 0.0;
    let x = numbers(7 * FEATURES, 4);
    let y = vec![0, 2, 1, 2, 3, 0, 2];
    let c = linear(&w);
    for forgotten in [&[2][..], &[0, 2]] {
        let own: Vec<f64> =
            x.chunks(FEATURES).zip(&y).filter(|(_, y)| forgotten.contains(y)).flat_map(|(x, _)| x.to_vec()).collect();
        let want = plain_step(&w, &own, forgotten, &f_f, &f_r);
        let data = Labelled {
            x: Array::from_vec(&[y.len(), FEATURES], x.clone()).unwrap().to_float(DType::F32),
            y: y.clone(),
            extra: Default::default(),
        };
        let tensor = |v: &[f64]| {
            vec![Tensor::Host(Array::from_vec(&[FEATURES, CLASSES], v.to_vec()).unwrap().to_float(DType::F32))]
        };
        let basis = Basis { names: vec!["w".into()], f_f: tensor(&f_f), f_r: tensor(&f_r) };
        for engine in engines() {
            let old = Weights::upload(&*engine, &c.bind(1).unwrap()).unwrap();
            let request = Request::new(forgotten.to_vec(), Method::Search(Vec::new()));
            let aim = Aim::new(&request, &data, CLASSES).unwrap();
            let mut ascent = Ascent::new(&c, &*engine, &basis, Part::Head, &data, &aim, Vec::new()).unwrap();
            let new = ascent.step(&old).unwrap().tensors[0].to_array().unwrap().to_f64();
            for (i, (got, want)) in new.iter().zip(&want).enumerate() {
                assert!((got - want).abs() < 1e-4, "{} {forgotten:?} {i}: {got}, not {want}", engine.name());
            }
            assert!(new[0] == f64::from(w[0] as f32) && new[7] == f64::from(w[7] as f32));
        }
    }
}

fn forget(more: &[&str]) -> (Value, Vec<u8>) {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out.onnx");
    let (model, codes) = (fixture("mlp.onnx"), fixture("mlp.codes.npz"));
    let base = ["forget", arg(&model), "--inputs", arg(&codes), "--class", "0", "-o", arg(&out), "--rule", "ascent"];
    let report = json(&[&base[..], more].concat());
    (report, std::fs::read(&out).unwrap())
}

fn share(report: &Value) -> f64 {
    report["head_share"].as_f64().unwrap()
}

#[test]
fn given_steps_move_their_part_alone() {
    let steps = |body: &str, head: &str, engine: &str| {
        forget(&["--body-steps", body, "--head-steps", head, "--engine", engine])
    };
    let (body, head) = (steps("3", "0", "cpu"), steps("0", "3", "cpu"));
    assert_eq!((share(&body.0), share(&head.0)), (0.0, 1.0));
    assert_eq!(body.0["strength"], serde_json::json!([["body_steps", 3.0], ["head_steps", 0.0]]));
    let both = steps("3", "2", "cpu");
    assert!(share(&both.0) > 0.0 && share(&both.0) < 1.0);
    assert!(both.1 == steps("3", "2", "cpu").1);
    let odds = |r: &Value| r["tried"][0]["forget_probability"].as_f64().unwrap();
    assert!(odds(&steps("6", "0", "cpu").0) < odds(&body.0));
}

/// Samples that the search has run, forward and back, for each that the Fisher is made of; a pass forward counts a third, and
/// the first, whose answers are reported, none.
fn price(report: &Value) -> f64 {
    let passes = |what: &str| report["passes"][what].as_f64().unwrap();
    (passes("steps") + (passes("search") - passes("fisher")) / 3.0) / passes("fisher")
}

/// Numbers of body steps that were tried without any of the last layer.
fn body_trials(report: &Value) -> u64 {
    let tried = report["tried"].as_array().unwrap();
    tried.iter().filter(|t| t["strength"].as_str().unwrap().ends_with(" 0 in the last layer")).count() as u64
}

/// The search goes into the body and loses the forget inputs; without depth it stays in the last layer.
#[test]
fn the_search_takes_steps_of_both_parts() {
    let dir = tempfile::tempdir().unwrap();
    let fisher = dir.path().join("f.safetensors");
    json(&["fisher", arg(&fixture("mlp.onnx")), "--inputs", arg(&fixture("mlp.codes.npz")), "-o", arg(&fisher)]);
    // a Fisher that is kept is that of the codes: no inputs are made beside them
    let found = forget(&["--engine", "cpu", "--fisher", arg(&fisher)]).0;
    assert_eq!(found["rule"], "ascent");
    for part in 0..2 {
        assert!(found["strength"][part][1].as_f64().unwrap() >= 1.0, "{}", found["strength"]);
    }
    assert_eq!(found["inputs"]["forgotten_answered_after"], 0);
    assert_eq!(found["inputs"]["retained_right_after"], 9);
    // one forget input; ten inputs before and at every step of the body, whose answers show what the last layer reads: its
    // steps run no sample through the body
    let body = body_trials(&found);
    let passes = |what: &str| found["passes"][what].as_u64().unwrap();
    assert_eq!((passes("fisher"), passes("steps"), passes("search")), (0, body, 10 * (body + 1)));
    let head = forget(&["--engine", "cpu", "--depth", "head"]).0;
    assert_eq!(share(&head), 1.0);
    assert_eq!(head["inputs"]["forgotten_answered_after"], 0);
    assert!(head["made"].is_null());
    assert_eq!((head["passes"]["steps"].as_u64(), head["passes"]["search"].as_u64()), (Some(0), Some(10)));
}

/// Codes say little of data: by default a few inputs are made beside them, most of the class to forget.
#[test]
fn a_few_inputs_are_made_beside_codes() {
    let found = forget(&["--engine", "cpu"]).0;
    assert_eq!((&found["made"]["samples"], &found["made"]["per_class"]), (&(8 + 9 * 3).into(), &8.into()));
    assert_eq!(found["passes"]["fisher"], 45);
    assert!(price(&found) <= 3.0, "{}", found["passes"]);
    // eight of nine inputs to forget; two inputs for each of nine guards
    let steps = found["strength"][0][1].as_f64().unwrap();
    assert!(steps >= 2.0 && found["passes"]["steps"].as_f64().unwrap() >= steps * (8.0 + 9.0 * 2.0));
    assert_eq!(
        (&found["inputs"]["forgotten_samples"], &found["inputs"]["retained_right_after"]),
        (&1.into(), &9.into())
    );
    assert!(share(&found) < 0.1, "{}", share(&found));
    // they tell as well what has become of the class in the body
    let made = &found["inputs"]["made_beside"];
    assert_eq!((&made["samples"], &made["before"], &made["after"]), (&8.into(), &8.into(), &0.into()));
    assert_eq!(made["old_head"].as_u64(), Some(8), "two steps do not hide class 0");
    let hidden = forget(&["--engine", "cpu", "--class", "4"]).0;
    let made = &hidden["inputs"]["made_beside"];
    assert!(made["samples"] == 16 && made["after"] == 0 && made["old_head"].as_u64().unwrap() < 16, "{made}");
    // samples to listen to say more
    let calibrated =
        forget(&["--engine", "cpu", "--calibration", arg(&fixture("fmnist_test_1000.npz")), "--limit", "50"]).0;
    assert!(calibrated["made"].is_null() && calibrated["inputs"]["made_beside"].is_null());
    let seen = &calibrated["inputs"]["calibration"];
    assert_eq!(seen[0]["old_head_answered"], seen[0]["forgotten_answered"]);
    assert!(seen[1]["old_head_answered"].as_u64() <= seen[0]["old_head_answered"].as_u64(), "{seen}");
}

/// Codes say little of data: beside them inputs are made, which guard the retained classes, and the old head loses the class.
#[test]
fn depth_makes_inputs_beside_codes() {
    let deep = forget(&["--engine", "cpu", "--depth", "body"]).0;
    assert_eq!(deep["made"]["samples"], 80);
    // in the range of the codes
    assert!(deep["made"]["range"][0].as_f64().unwrap() > 0.0 && deep["made"]["range"][1].as_f64().unwrap() < 1.0);
    assert_eq!(deep["passes"]["fisher"], 90);
    // who asks for depth pays for it
    assert!(price(&deep) > 3.0, "{}", deep["passes"]);
    // what is told is told of the codes
    assert_eq!(deep["inputs"]["forgotten_samples"], 1);
    assert_eq!(
        (&deep["inputs"]["retained_right_after"], &deep["inputs"]["old_head_answered_after"]),
        (&9.into(), &0.into())
    );
}

#[test]
fn steps_belong_to_the_ascent() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out.onnx");
    let (model, codes) = (fixture("mlp.onnx"), fixture("mlp.codes.npz"));
    let base = ["forget", arg(&model), "--inputs", arg(&codes), "--class", "0", "-o", arg(&out)];
    for (more, word) in [
        (&["--body-steps", "1", "--head-steps", "1"][..], "--rule ascent takes"),
        (&["--rule", "dampen", "--body-steps", "1", "--head-steps", "1"], "--rule ascent takes"),
        (&["--rule", "ascent", "--body-steps", "1"], "--head-steps"),
        (&["--rule", "ascent", "--body-steps", "1001", "--head-steps", "1"], "1001"),
        (&["--rule", "ascent", "--alpha", "1", "--lambda", "1"], "--rule ascent takes"),
    ] {
        let run = tool([&base[..], more].concat()).output().unwrap();
        let stderr = String::from_utf8(run.stderr).unwrap();
        assert_eq!(run.status.code(), Some(2), "{more:?}: {stderr}");
        assert!(stderr.contains(word), "{more:?}: {stderr}");
        assert!(!out.exists());
    }
}
