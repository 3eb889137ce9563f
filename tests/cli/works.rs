//! What works.

use super::common::{arg, fixture, json, tool};
use super::{FIXED, Room, every_command, forget, model, strings};
use onnx_unlearn::inputs::npz;
use onnx_unlearn::onnx::Model;
use onnx_unlearn::tensor::Array;

#[test]
fn help_of_every_command() {
    for command in [
        "",
        "inspect",
        "codes",
        "codes new",
        "gradients",
        "fisher",
        "fisher merge",
        "fisher compare",
        "forget",
        "evaluate",
    ] {
        let out = tool(command.split_whitespace().chain(["--help"])).output().unwrap();
        assert!(out.status.success(), "{command}");
        assert!(out.stderr.is_empty(), "{command}");
        let text = String::from_utf8(out.stdout).unwrap();
        assert!(text.contains("Usage: onnx-unlearn"), "{command}: {text}");
        assert!(text.lines().all(|l| l.chars().count() <= 100), "{command}: a line over 100 columns");
    }
    let out = tool(["--version"]).output().unwrap();
    assert_eq!(String::from_utf8(out.stdout).unwrap(), format!("onnx-unlearn {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn inspect_says_what_a_model_is() {
    for (name, trainable) in [("mlp", 318_010), ("cnn", 98_442), ("resnet", 173_338)] {
        let report = json(&["inspect", arg(&fixture(&format!("{name}.onnx")))]);
        assert_eq!(report["classifier"]["classes"], 10, "{name}");
        assert_eq!(report["trainable"], trainable, "{name}");
        assert_eq!(report["obstacles"], serde_json::json!([]), "{name}");
        assert_eq!(report["classifier"]["batch"], "open", "{name}");
    }
    // running statistics are weights of the file, but not trainable ones
    let report = json(&["inspect", arg(&fixture("resnet_bn.onnx"))]);
    let weights = report["weights"].as_array().unwrap();
    let statistics: Vec<_> = weights.iter().filter(|w| w["name"].as_str().unwrap().contains("running_")).collect();
    assert!(!statistics.is_empty());
    assert!(statistics.iter().all(|w| w["trainable"] == false));
    assert!(weights.iter().any(|w| w["trainable"] == true));
    let out = tool(["inspect", arg(&model())]).output().unwrap();
    let text = String::from_utf8(out.stdout).unwrap();
    assert!(out.status.success() && out.stderr.is_empty());
    assert!(text.contains("gradients, fisher, forget, evaluate"), "{text}");
}

#[test]
fn new_codes_can_be_used_at_once() {
    let room = Room::new();
    let model = model();
    let path = room.path("codes.npz");
    let report = json(&["codes", "new", arg(&model), "-o", arg(&path), "--seed", "5", "--per-class", "2"]);
    assert_eq!(report["sample_shape"], serde_json::json!([1, 28, 28]));
    assert_eq!(npz::read(&path, "x").unwrap().shape(), [20, 1, 28, 28]);
    assert_eq!(npz::read(&path, "y").unwrap(), Array::ints(&(0..20).map(|i| i / 2).collect::<Vec<_>>()));
    // the same seed gives the same file; the text says how codes are used
    let again = room.path("again.npz");
    let out =
        tool(["codes", "new", arg(&model), "-o", arg(&again), "--seed", "5", "--per-class", "2"]).output().unwrap();
    assert!(String::from_utf8(out.stdout).unwrap().contains("def mix_codes"));
    assert!(std::fs::read(&path).unwrap() == std::fs::read(&again).unwrap());
    let mut args = forget(&model, "out.onnx", &FIXED);
    args[3] = arg(&path).to_owned();
    tool(&args).current_dir(room.0.path()).assert().success();
    assert!(room.path("out.onnx").is_file());
    // another range
    json(&["codes", "new", arg(&model), "-o", arg(&again), "--range=-3,-2"]);
    assert!(npz::read(&again, "x").unwrap().to_f64().iter().all(|v| (-3.0..=-2.0).contains(v)));
    json(&["codes", "new", arg(&model), "-o", arg(&again), "--distribution", "normal", "--range", "-3,0.5"]);
}

#[test]
fn gradients_are_models() {
    let room = Room::new();
    for (mode, suffix, leading, inputs) in [
        ("sum", "grad", &[][..], &["input", "labels", "sample_weights"][..]),
        ("per-sample", "grad", &[3], &["input", "labels"]),
        ("fisher", "fisher", &[], &["input", "labels", "sample_weights"]),
    ] {
        for name in ["mlp", "cnn", "resnet_bn"] {
            let from = fixture(&format!("{name}.onnx"));
            let out = room.path(&format!("{name}.{mode}.onnx"));
            let report = json(&["gradients", arg(&from), "-o", arg(&out), "--mode", mode, "--batch", "3"]);
            assert_eq!(report["batch"], 3);
            let (from, found) = (Model::open(&from).unwrap(), Model::open(&out).unwrap());
            let graph = found.proto().graph.as_ref().unwrap();
            assert_eq!(graph.input.iter().map(|i| i.name()).collect::<Vec<_>>(), inputs, "{name} {mode}");
            let (loss, gradients) = graph.output.split_first().unwrap();
            assert_eq!(loss.name(), "loss");
            assert_eq!(report["outputs"], graph.output.len());
            assert!(!gradients.is_empty());
            for output in gradients {
                let weight = output.name().strip_suffix(&format!(".{suffix}")).unwrap();
                let weight = &from.weights()[from.weight_index(weight).unwrap()];
                let want: Vec<i64> = leading.iter().copied().chain(weight.shape().iter().map(|&d| d as i64)).collect();
                assert_eq!(extents(output), want, "{name} {mode} {}", output.name());
            }
            assert!(graph.node.iter().all(|n| n.domain().is_empty()), "{name} {mode}: standard ops only");
        }
    }
}

fn extents(value: &onnx_unlearn::onnx::proto::ValueInfoProto) -> Vec<i64> {
    use onnx_unlearn::onnx::proto::{dimension, type_proto};
    let Some(type_proto::Value::TensorType(t)) = &value.r#type.as_ref().unwrap().value else {
        panic!("{} is no tensor", value.name());
    };
    let extent = |d: &onnx_unlearn::onnx::proto::Dimension| match d.value {
        Some(dimension::Value::DimValue(n)) => n,
        _ => -1,
    };
    t.shape.as_ref().unwrap().dim.iter().map(extent).collect()
}

#[test]
fn a_fisher_file_holds_every_weight() {
    let room = Room::new();
    let (model, codes) = (fixture("cnn.onnx"), fixture("cnn.codes.npz"));
    let known = Model::open(&model).unwrap();
    let path = room.path("f.safetensors");
    for (more, classes) in [(&[][..], (0..10).collect()), (&["--class", "4,2"], vec![2, 4])] {
        let args = ["fisher", arg(&model), "--inputs", arg(&codes), "-o", arg(&path), "--engine", "cpu"];
        let report = json(&[&args[..], more].concat());
        let bytes = std::fs::read(&path).unwrap();
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(file.len(), known.weights().len());
        for w in known.weights() {
            let t = file.tensor(w.name()).unwrap();
            assert_eq!(t.dtype(), safetensors::Dtype::F32);
            assert_eq!(t.shape(), [&[classes.len()], w.shape()].concat(), "{}", w.name());
            let values: Vec<f32> = t.data().as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
            assert!(values.iter().all(|v| v.is_finite() && *v >= 0.0), "{}", w.name());
            let each = values.len() / classes.len();
            let mean = |i: usize| values.iter().skip(i).step_by(each).map(|v| f64::from(*v)).sum::<f64>();
            let top = (0..each).map(mean).fold(0.0, f64::max) / classes.len() as f64;
            assert!(top > 0.0, "{}", w.name());
            let said = report["weights"].as_array().unwrap().iter().find(|r| r["name"] == w.name()).unwrap();
            assert!((said["max"].as_f64().unwrap() / top - 1.0).abs() < 1e-6);
        }
        let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
        let about = header.metadata().as_ref().unwrap();
        let origin: serde_json::Value = serde_json::from_str(&about["origin"]).unwrap();
        assert_eq!(origin, report["origin"]);
        assert_eq!(origin["samples"], classes.iter().map(|c| serde_json::json!([c, 1])).collect::<serde_json::Value>());
    }
}

#[test]
fn evaluate_agrees_with_the_labels() {
    let (model, images) = (model(), fixture("fmnist_test_1000.npz"));
    let args = ["evaluate", arg(&model), "--data", arg(&images), "--engine", "cpu"];
    let report = json(&args);
    assert_eq!(report["samples"], 1000);
    assert_eq!(report["A_R"], serde_json::Value::Null);
    // 86.9 % on all 10,000 images
    let accuracy = report["accuracy"].as_f64().unwrap();
    assert!((0.84..0.90).contains(&accuracy), "{accuracy}");
    let classes = report["classes"].as_array().unwrap();
    let number = |v: &serde_json::Value| v.as_f64().unwrap();
    let right: f64 = classes.iter().map(|c| number(&c["accuracy"]) * number(&c["samples"])).sum();
    assert!((right / 1000.0 - accuracy).abs() < 1e-9);
    assert_eq!(classes.iter().map(|c| c["answered"].as_u64().unwrap()).sum::<u64>(), 1000);
    // numbers that start with a minus, one for each of one channel
    let dark = json(&[&args[..], &["--mean", "-0.25", "--std", "2", "--limit", "5"]].concat());
    assert_eq!(dark["samples"], 5);
    let out = tool([&args[..], &["--mean", "-0.25,0.5"]].concat()).output().unwrap();
    assert!(String::from_utf8(out.stderr).unwrap().contains("mean"), "two means for one channel");
    assert_eq!(out.status.code(), Some(2));
    let some = json(&[&args[..], &["--limit", "50", "--forgotten", "3,7"]].concat());
    assert_eq!(some["samples"], 50);
    assert!((number(&some["A_F"]) + number(&some["E_F"]) - 1.0).abs() < 1e-12);
}

/// Results go to stdout alone, and nothing else does.
#[test]
fn streams_are_kept_apart() {
    let room = Room::new();
    let model = model();
    for args in every_command(&model, &room.0) {
        let out = tool(&args).current_dir(room.0.path()).output().unwrap();
        assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
        assert_eq!(String::from_utf8(out.stderr).unwrap(), "", "{args:?}");
        let text = String::from_utf8(out.stdout).unwrap();
        assert!(!text.is_empty() && !text.contains('\u{1b}'), "{args:?}: {text}");
    }
}

/// `onnx-unlearn … | head -0`
#[test]
fn a_reader_that_went_away_is_no_error() {
    let room = Room::new();
    let model = model();
    let mut all = every_command(&model, &room.0);
    all.push(strings(&["inspect", arg(&model)]));
    all.push(strings(&["inspect", arg(&model), "--json"]));
    all.push(strings(&["forget", "--help"]));
    for args in all {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let out = std::process::Command::new(env!("CARGO_BIN_EXE_onnx-unlearn"))
            .args(&args)
            .stdout(writer)
            .stderr(std::process::Stdio::piped())
            .output()
            .unwrap();
        let stderr = String::from_utf8(out.stderr).unwrap();
        assert_eq!((out.status.code(), stderr.as_str()), (Some(0), ""), "{args:?}");
    }
}
