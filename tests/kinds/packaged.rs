//! The models inside the onnx package.

use super::common::{arg, engines, tool};
use super::{decoded, off, path, refused, summed};
use onnx_unlearn::autodiff::gradient::Mode;
use onnx_unlearn::autodiff::head::head_weights;
use onnx_unlearn::classifier::{Classifier, ClassifierOptions};
use onnx_unlearn::inputs::Labelled;
use onnx_unlearn::onnx::proto::NodeProto;
use onnx_unlearn::tensor::Array;
use prost::Message;
use std::path::PathBuf;
use std::time::Instant;

/// A Python with the package `onnx`.
fn python() -> Option<std::ffi::OsString> {
    let python = std::env::var_os("ONNX_UNLEARN_PYTHON");
    if python.is_none() {
        assert!(std::env::var_os("ONNX_UNLEARN_REQUIRE_ENGINES").is_none(), "ONNX_UNLEARN_PYTHON is not set");
        println!("skipped: ONNX_UNLEARN_PYTHON names no Python with the package onnx");
    }
    python
}

#[test]
fn the_table_of_operator_versions_is_onnxs() {
    let Some(python) = python() else { return };
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/python/check_versions.py");
    let out = std::process::Command::new(python).arg(script).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
}

/// The `light_*` models of the Python package `onnx`, with their weights filled by ConstantOfShape.
fn light_models() -> Vec<PathBuf> {
    let Some(python) = python() else { return Vec::new() };
    let code = "import onnx.backend.test as t; print(list(t.__path__)[0])";
    let out = std::process::Command::new(python).args(["-c", code]).output().unwrap();
    let folder = PathBuf::from(String::from_utf8(out.stdout).unwrap().trim()).join("data/light");
    let mut all: Vec<PathBuf> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| p.extension().is_some_and(|e| e == "onnx"))
        .collect();
    all.sort();
    assert_eq!(all.len(), 9, "{}", folder.display());
    all
}

#[test]
fn the_light_models_have_gradients() {
    for file in light_models() {
        let c =
            Classifier::open(&file, ClassifierOptions::default()).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        assert_eq!((c.classes(), c.input().shape.len()), (1000, 4), "{}", file.display());
        for mode in [Mode::Sum, Mode::Fisher { sets: 1 }] {
            let g = c.gradients(1, mode).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
            assert!(g.gradients.len() >= 16, "{}: {}", file.display(), g.gradients.len());
        }
        if file.ends_with("light_squeezenet.onnx") {
            engines_agree_on_one_sample(&c);
        }
        // the file holds one value for all elements of such a weight
        let e = c.check_rewritable().unwrap_err().to_string();
        assert!(e.contains("ConstantOfShape"), "{e}");
    }
}

/// Loss and gradients of a large image on `cpu` and `ort`. All elements of a weight being equal, every class has the
/// same logit, and what flows back behind the last layer is the sum of `p − e_y`, which is zero: only the last layer has
/// a gradient that is more than rounding.
fn engines_agree_on_one_sample(c: &Classifier) {
    let shape = &c.input().shape;
    let n: usize = shape.iter().product();
    let x: Vec<f32> = (0..n).map(|i| ((i + 1) as f32 * 0.618_034).fract()).collect();
    let data = Labelled::new(Array::from_vec(shape, x).unwrap(), vec![7]).unwrap();
    let g = c.gradients(1, Mode::Sum).unwrap();
    let bound = c.bind(1).unwrap();
    let last = head_weights(&bound.graph, &c.head(&bound.graph).unwrap());
    let last: Vec<String> = last.iter().map(|&w| bound.graph.label(w)).collect();
    assert_eq!(last.len(), 2);
    let all: Vec<_> = engines().iter().filter(|e| e.name() != "wgpu").map(|e| summed(&**e, &g, &data, &[])).collect();
    assert!((all[0][0][0] - 1000f64.ln()).abs() < 1e-4, "{:?}", all[0][0]);
    for other in &all[1..] {
        assert!(off(&all[0][0], &other[0]) < 1e-5);
        for (k, (name, _)) in g.gradients.iter().enumerate().filter(|(_, (name, _))| last.contains(name)) {
            let off = off(&all[0][k + 1], &other[k + 1]);
            assert!(off < 1e-3, "{name}: off by {off:.1e}");
        }
    }
}

#[test]
fn every_obstacle_of_a_large_model_is_in_one_message() {
    let mut model = decoded("views.onnx");
    let graph = model.graph.as_mut().unwrap();
    let mut weight = graph.initializer[0].clone();
    (weight.name, weight.dims, weight.float_data) = (Some("large".into()), vec![4096, 4096], Vec::new());
    weight.raw_data = Some(vec![0; 4 * 4096 * 4096].into());
    graph.initializer.push(weight);
    let mut last = graph.node[0].output[0].clone();
    for k in 0..3000 {
        let op = ["Mystery", "Enigma", "QLinearConv"][k % 3];
        graph.node.push(NodeProto {
            op_type: Some(op.into()),
            name: Some(format!("n{k}")),
            domain: (k % 3 == 1).then(|| "com.example".into()),
            input: vec![last],
            output: vec![format!("r{k}")],
            ..NodeProto::default()
        });
        last = format!("r{k}");
    }
    graph.output[0].name = Some(last);
    let room = tempfile::tempdir().unwrap();
    let file = room.path().join("large.onnx");
    std::fs::write(&file, model.encode_to_vec()).unwrap();
    let start = Instant::now();
    let line = refused(&["gradients", arg(&file), "-o", arg(&room.path().join("out.onnx"))]);
    let words = ["op Mystery is not", "'n0'", "and 995 more", "op com.example.Enigma", "quantised (QLinearConv"];
    assert!(words.iter().all(|w| line.contains(w)), "{line}");
    // the promise is two seconds; a machine that runs other tests gets some more
    assert!(start.elapsed().as_secs() < 10, "{:?}", start.elapsed());
    let shown = String::from_utf8(tool(["inspect", arg(&file)]).output().unwrap().stdout).unwrap();
    assert!(words.iter().all(|w| shown.contains(w)) && shown.lines().count() < 25, "{shown}");
}

#[test]
fn inspect_fits_one_screen() {
    for (name, words) in [
        ("skl_mlp", ["3, answered by", "before the trailing Softmax", "cpu:"]),
        ("skl_binary", ["2, answered by", "before the trailing Sigmoid", "ort:"]),
        ("time_major", ["open:", "time", "batch"]),
        ("double", ["computed in float64", "67 float64", "in float32"]),
        ("functions", ["functions", "before the trailing Softmax", "wgpu:"]),
    ] {
        let model = path(&format!("{name}.onnx"));
        let out = tool(["inspect", arg(&model)]).output().unwrap();
        let text = String::from_utf8(out.stdout).unwrap();
        assert!(out.status.success() && text.lines().count() <= 24, "{text}");
        assert!(words.iter().all(|w| text.contains(w)), "{name}: {words:?} in\n{text}");
    }
}
