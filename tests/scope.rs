//! What may change, how deep, and what is said of the result.

mod common;

use common::{arg, fixture, json, tool};
use serde_json::Value;
use std::path::PathBuf;

const FIXED: [&str; 6] = ["--rule", "dampen", "--alpha", "6", "--lambda", "1"];

/// `forget` of class 0 of a fixture with its codes on the embedded engine.
fn command(name: &str, out: &str, more: &[&str]) -> Vec<String> {
    let (model, codes) = (fixture(&format!("{name}.onnx")), fixture(&format!("{name}.codes.npz")));
    let base = ["forget", arg(&model), "--inputs", arg(&codes), "--class", "0", "-o", out, "--engine", "cpu"];
    base.iter().chain(more).map(|s| (*s).to_owned()).collect()
}

fn run(name: &str, more: &[&str]) -> (Value, Vec<u8>) {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out.onnx");
    let args = command(name, arg(&out), more);
    let report = json(&args.iter().map(String::as_str).collect::<Vec<_>>());
    (report, std::fs::read(&out).unwrap())
}

/// Names of the weights that changed.
fn changed(report: &Value) -> Vec<&str> {
    let all = report["changes"].as_array().unwrap().iter();
    all.filter(|c| c["changed"].as_u64().unwrap() > 0).map(|c| c["name"].as_str().unwrap()).collect()
}

#[test]
fn scope_and_protection_say_what_may_change() {
    let with = |more: &[&str]| run("mlp", &[&FIXED[..], more].concat()).0;
    assert_eq!(changed(&with(&[])), ["fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"]);
    assert_eq!(changed(&with(&["--scope", "head"])), ["fc2.weight", "fc2.bias"]);
    assert_eq!(changed(&with(&["--scope", "body"])), ["fc1.weight", "fc1.bias"]);
    assert_eq!(changed(&with(&["--protect", "*.bias"])), ["fc1.weight", "fc2.weight"]);
    assert_eq!(changed(&with(&["--scope", "body", "--protect", "fc?.bias"])), ["fc1.weight"]);
    // what may change does so as if nothing were protected
    let (all, some) = (with(&[]), with(&["--protect", "fc1.*"]));
    let of = |r: &Value| r["changes"].as_array().unwrap()[2]["changed"].clone();
    assert_eq!(of(&all), of(&some));
}

#[test]
fn wrong_scopes_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let out: PathBuf = dir.path().join("out.onnx");
    for (more, word) in [
        (&["--protect", "fc9.*"][..], "fits no weight"),
        (&["--protect", "*"], "leave no weight"),
        (&["--scope", "head", "--protect", "fc2.*"], "leave no weight"),
        (&["--rule", "dampen", "--sigma", "1"], "--rule noise takes --sigma"),
        (&["--rule", "noise", "--alpha", "1", "--lambda", "1"], "--rule noise takes --sigma"),
        (&["--rule", "noise", "--sigma=-1"], "at least 0"),
    ] {
        let run = tool(command("mlp", arg(&out), more)).output().unwrap();
        let stderr = String::from_utf8(run.stderr).unwrap();
        assert_eq!(run.status.code(), Some(2), "{more:?}: {stderr}");
        assert!(stderr.contains(word), "{more:?}: {stderr}");
        assert!(!out.exists());
    }
}

/// A result that the inputs speak against is written, and named.
#[test]
fn doubts_are_said_and_counted() {
    let weak = ["--rule", "dampen", "--alpha", "1e9", "--lambda", "1"];
    let report = run("mlp", &weak).0;
    assert!(report["doubts"].to_string().contains("still answered"), "{}", report["doubts"]);
    let strict = |more: &[&str]| {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out.onnx");
        let run = tool(command("mlp", arg(&out), more)).output().unwrap();
        assert!(out.exists());
        (run.status.code(), String::from_utf8(run.stdout).unwrap())
    };
    let (code, text) = strict(&[&weak[..], &["--strict"]].concat());
    assert_eq!(code, Some(1));
    assert!(text.contains("unsure: 100 % of the forget inputs are still answered"), "{text}");
    assert_eq!(strict(&weak).0, Some(0));
    let (code, text) = strict(&["--strict"]);
    assert!(code == Some(0) && !text.contains("unsure"), "{text}");
}

/// The old head on the changed body: part of the forget inputs' probability that is left.
fn old_head(depth: &str) -> (f64, f64) {
    let report = run("cnn", &["--depth", depth, "--rule", "dampen"]).0;
    let last = report["tried"].as_array().unwrap().last().unwrap().clone();
    (last["old_head_probability"].as_f64().unwrap(), last["retained_probability"].as_f64().unwrap())
}

#[test]
fn depth_reaches_into_the_body() {
    let (head, auto, body) = (old_head("head"), old_head("auto"), old_head("body"));
    assert!(body.0 < 0.55 && body.0 < 0.6 * head.0, "head {head:?}, body {body:?}");
    assert!(auto == head, "head {head:?}, auto {auto:?}");
    assert!(body.1 >= 0.88 && head.1 >= 0.9, "head {head:?}, body {body:?}");
}

#[test]
fn noise_is_seeded() {
    let noise = |seed: &str| run("mlp", &["--rule", "noise", "--sigma", "0.01", "--seed", seed]);
    let (report, file) = noise("1");
    assert_eq!(report["rule"], "noise");
    assert_eq!(report["strength"], serde_json::json!([["sigma", 0.01]]));
    assert!(file == noise("1").1);
    assert!(file != noise("2").1);
    let searched = run("mlp", &["--rule", "noise"]).0;
    assert_eq!(searched["rule"], "noise");
    assert!(searched["tried"].as_array().unwrap().len() > 1);
}
