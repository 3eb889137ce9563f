//! `plan`: what it writes, and what it refuses.

mod common;

use common::{arg, fixture, json, tool};
use predicates::prelude::PredicateBooleanExt;
use predicates::str::contains;
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::Path;

fn read(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// Checks that everything a plan points to is there.
fn check(plan: &Value, data: usize) {
    let number = |v: &Value| usize::try_from(v.as_u64().unwrap()).unwrap();
    let inside = |span: &Value| assert!(number(&span[0]) + number(&span[1]) <= data, "{span} leaves the data");
    assert_eq!(plan["format"], "onnx-unlearn plan 1");
    assert_eq!(number(&plan["data_bytes"]), data);
    let pipelines = plan["pipelines"].as_array().unwrap();
    for pipeline in pipelines {
        assert!(plan["shaders"][number(&pipeline["shader"])]["wgsl"].as_str().unwrap().contains("fn main"));
    }
    for graph in plan["plans"].as_array().unwrap() {
        graph["constants"].as_array().unwrap().iter().for_each(inside);
        inside(&graph["params"]);
        let places = [("constant", "constants"), ("input", "inputs"), ("slot", "slots")];
        for dispatch in graph["dispatches"].as_array().unwrap() {
            let writes = pipelines[number(&dispatch["pipeline"])]["writes"].as_array().unwrap();
            let buffers = dispatch["buffers"].as_array().unwrap();
            assert_eq!(writes.len(), buffers.len());
            for (buffer, written) in buffers.iter().zip(writes) {
                let (_, list) = places.iter().find(|(kind, _)| buffer[0] == *kind).unwrap();
                let held = &graph[*list][number(&buffer[1])];
                let size = match *list {
                    "slots" => number(held),
                    "inputs" => number(&held["bytes"]),
                    _ => number(&held[1]).next_multiple_of(16),
                };
                assert!(number(&buffer[2]) <= size.max(16), "{buffer} of {size} bytes");
                assert!(written == false || buffer[0] == "slot", "a plan writes only to its slots");
            }
            assert!(number(&dispatch["params"][0]) % 256 == 0);
            assert!(number(&dispatch["params"][0]) + number(&dispatch["params"][1]) <= number(&graph["params"][1]));
        }
    }
}

fn roles(plan: &Value, name: &str) -> BTreeSet<String> {
    let graph = plan["plans"].as_array().unwrap().iter().find(|p| p["name"] == name).unwrap();
    graph["inputs"].as_array().unwrap().iter().map(|i| i["role"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn every_kind_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let (model, codes) = (fixture("cnn.onnx"), fixture("cnn.codes.npz"));
    for (kind, names, with) in [
        ("forward", &["forward"][..], &["--inputs", arg(&codes)][..]),
        ("fisher", &["fisher"], &["--batch", "3"]),
        ("rewrite", &["dampen", "ratio"], &[]),
        ("forget", &["forward", "fisher", "dampen", "ratio"], &["--inputs", arg(&codes)]),
    ] {
        let file = folder.path().join(format!("{kind}.json"));
        let args = [&["plan", arg(&model), "--webgpu", "--for", kind, "-o", arg(&file)][..], with].concat();
        let report = json(&args);
        let data = std::fs::read(file.with_extension("bin")).unwrap();
        let plan = read(&file);
        check(&plan, data.len());
        assert_eq!(report["plans"], serde_json::json!(names));
        let found: Vec<&str> = plan["plans"].as_array().unwrap().iter().map(|p| p["name"].as_str().unwrap()).collect();
        assert_eq!(found, names);
        // what forgets takes the weights from the model file; all others bring them
        let brought: Vec<bool> = plan["plans"]
            .as_array()
            .unwrap()
            .iter()
            .flat_map(|p| p["inputs"].as_array().unwrap())
            .filter(|i| i["role"] == "weight")
            .map(|i| i["data"].is_array())
            .collect();
        assert!(!brought.is_empty() && brought.iter().all(|&b| b == (kind != "forget")));
        assert_eq!(plan["weights"].is_array(), kind == "forget");
        assert_eq!(plan["samples"].is_object(), kind == "forget" || kind == "forward");
    }
    let plan = read(&folder.path().join("forget.json"));
    assert_eq!(plan["samples"]["classes"], serde_json::json!([0, 1, 2, 3, 4, 5, 6, 7, 8, 9]));
    let set = |names: &[&str]| names.iter().map(|&n| n.to_owned()).collect::<BTreeSet<String>>();
    assert_eq!(roles(&plan, "forward"), set(&["sample", "weight"]));
    assert_eq!(roles(&plan, "fisher"), set(&["sample", "labels", "sample_weights", "weight"]));
    assert_eq!(roles(&plan, "dampen"), set(&["weight", "forget_fisher", "retain_fisher", "strength"]));
}

/// The places of the weights are those of their elements, packed or not.
#[test]
fn places_hold_the_elements() {
    let folder = tempfile::tempdir().unwrap();
    for (model, inputs) in [("cnn.onnx", "cnn.codes.npz"), ("kinds/skl_mlp.onnx", "kinds/skl_mlp.npz")] {
        let (model, inputs) = (fixture(model), fixture(inputs));
        let args = ["plan", arg(&model), "--webgpu", "--for", "forget", "--inputs", arg(&inputs), "-o"];
        tool(args).arg(folder.path()).assert().success();
        let plan = read(&folder.path().join("plan.json"));
        let file = std::fs::read(&model).unwrap();
        let opened = onnx_unlearn::onnx::Model::open(&model).unwrap();
        for weight in plan["weights"].as_array().unwrap() {
            let mut elements = Vec::new();
            for run in weight["runs"].as_array().unwrap() {
                let [start, step, count] = [0, 1, 2].map(|k| usize::try_from(run[k].as_u64().unwrap()).unwrap());
                elements.extend((0..count).map(|i| {
                    let at = start + i * step;
                    f32::from_le_bytes(file[at..at + 4].try_into().unwrap())
                }));
            }
            let index = opened.weight_index(weight["name"].as_str().unwrap()).unwrap();
            let want = opened.read(&opened.weights()[index]).unwrap();
            assert_eq!(elements, want.slice::<f32>().unwrap());
        }
    }
}

#[test]
fn what_cannot_be_planned_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (model, codes) = (fixture("cnn.onnx"), fixture("cnn.codes.npz"));
    let refused = |args: &[&str], why: &str| {
        tool(args).assert().code(2).stderr(contains(why).and(contains("panicked").not()));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "{args:?} wrote something");
    };
    let file = folder.path().join("plan.json");
    let base = ["plan", arg(&model), "-o", arg(&file)];
    refused(&base, "--webgpu");
    let with = |more: &[&'static str]| [&base[..], &["--webgpu"], more].concat();
    refused(&with(&["--for", "forget"]), "--inputs");
    refused(&with(&["--batch", "0"]), "--batch 0");
    refused(&with(&["--scale", "2"]), "--scale");
    refused(&[&with(&["--for", "rewrite"])[..], &["--inputs", arg(&codes)]].concat(), "read no samples");
    let wrong = folder.path().join("plan.bin");
    refused(&["plan", arg(&model), "--webgpu", "-o", arg(&wrong)], "FILE.json");
    let half = fixture("kinds/half.onnx");
    let inputs = folder.path().with_extension("npz");
    tool(["codes", "new", arg(&half), "-o", arg(&inputs)]).assert().success();
    let args = ["plan", arg(&half), "--webgpu", "--for", "forget", "-o", arg(&file), "--inputs", arg(&inputs)];
    refused(&args, "float16");
    std::fs::remove_file(inputs).unwrap();
}
