//! What is refused.

use super::common::{arg, json, tool};
use super::{decoded, inputs_of, own, path, refused};
use onnx_unlearn::classifier::{Classifier, ClassifierOptions};
use onnx_unlearn::inputs::{self, Split};
use onnx_unlearn::onnx::Model;
use prost::Message;

#[test]
fn quantised_models_are_refused_in_one_message() {
    let (model, inputs) = (path("quantised.onnx"), path("skl_mlp.npz"));
    let out = tempfile::tempdir().unwrap();
    let out = out.path().join("out.onnx");
    let line = refused(&["forget", arg(&model), "--inputs", arg(&inputs), "--class", "1", "-o", arg(&out)]);
    assert!(line.contains("the model is quantised (DequantizeLinear; node"), "{line}");
    assert!(!out.exists());
    let shown = tool(["inspect", arg(&model)]).output().unwrap();
    assert_eq!(shown.status.code(), Some(2));
    assert!(String::from_utf8(shown.stdout).unwrap().contains("the model is quantised"));
}

#[test]
fn a_missing_input_is_named_with_type_and_shape() {
    let kind = own("tokens");
    let room = tempfile::tempdir().unwrap();
    let file = room.path().join("ids.npz");
    let ids = onnx_unlearn::inputs::npz::read(&inputs_of(&kind), "input_ids").unwrap();
    let y = onnx_unlearn::inputs::npz::read(&inputs_of(&kind), "y").unwrap();
    onnx_unlearn::inputs::npz::write(&file, &[("x", &ids), ("y", &y)]).unwrap();
    let model = path("tokens.onnx");
    let line = refused(&["evaluate", arg(&model), "--data", arg(&file), "--engine", "cpu"]);
    assert!(line.contains("\"attention_mask\", int32[7] a sample"), "{line}");
}

#[test]
fn an_answer_that_could_be_several_is_asked_for() {
    let (model, data) = (path("features.onnx"), path("skl_mlp.npz"));
    let line = refused(&["evaluate", arg(&model), "--data", arg(&data), "--engine", "cpu"]);
    assert!(line.contains("choose with --output: 'a' float32[1, 8], 'z' float32[1, 3]"), "{line}");
    let line = refused(&["evaluate", arg(&model), "--data", arg(&data), "--engine", "cpu", "--output", "no"]);
    assert!(line.contains("no output 'no'; it has 'a' (float), 'z' (float)"), "{line}");
}

#[test]
fn an_input_that_the_answer_does_not_read_is_not_asked_for() {
    let mut model = decoded("several_outputs.onnx");
    let graph = model.graph.as_mut().unwrap();
    let mut spare = graph.input[0].clone();
    spare.name = Some("spare".into());
    graph.input.insert(0, spare);
    let model = Model::from_bytes("spare", model.encode_to_vec()).unwrap();
    let c = Classifier::from_model(model, ClassifierOptions::default()).unwrap();
    assert_eq!((c.expected().name.as_str(), c.extra_inputs().len()), ("x", 0));
}

#[test]
fn heads_that_name_no_class_are_refused() {
    let room = tempfile::tempdir().unwrap();
    let file = room.path().join("model.onnx");
    // a sigmoid of each of three classes
    let mut model = decoded("views.onnx");
    let graph = model.graph.as_mut().unwrap();
    for node in &mut graph.node {
        if node.op_type() == "Softmax" {
            (node.op_type, node.attribute) = (Some("Sigmoid".into()), Vec::new());
        }
    }
    std::fs::write(&file, model.encode_to_vec()).unwrap();
    let data = path("skl_mlp.npz");
    let line = refused(&["evaluate", arg(&file), "--data", arg(&data), "--engine", "cpu"]);
    assert!(line.contains("Sigmoid of each of 3 classes"), "{line}");
    // one number a sample without a sigmoid
    let mut model = decoded("sigmoid_column.onnx");
    for node in &mut model.graph.as_mut().unwrap().node {
        if node.op_type() == "Sigmoid" {
            node.op_type = Some("Tanh".into());
        }
    }
    std::fs::write(&file, model.encode_to_vec()).unwrap();
    let data = path("skl_binary.npz");
    let line = refused(&["evaluate", arg(&file), "--data", arg(&data), "--engine", "cpu"]);
    assert!(
        line.contains("no output is [samples, classes]") && line.contains("only where it ends in Sigmoid"),
        "{line}"
    );
}

#[test]
fn open_extents_are_those_of_the_inputs() {
    let c = |options| Classifier::open(&path("spatial.onnx"), options);
    let e = c(ClassifierOptions::default()).err().unwrap().to_string();
    assert!(e.contains("height, width"), "{e}");
    let samples = inputs::sample_shapes(&path("torch_dynamo.npz"), Split::Test).unwrap();
    let by_inputs = c(ClassifierOptions { samples, ..ClassifierOptions::default() }).unwrap();
    assert_eq!(by_inputs.sample_shape(), [1, 8, 8]);
    let dims = [("height", 8), ("width", 8)].map(|(n, d)| (n.to_owned(), d)).into();
    let by_name = c(ClassifierOptions { dims, ..ClassifierOptions::default() }).unwrap();
    assert_eq!(by_name.sample_shape(), [1, 8, 8]);
    let room = tempfile::tempdir().unwrap();
    let out = room.path().join("fisher.safetensors");
    let (model, data) = (path("spatial.onnx"), path("torch_dynamo.npz"));
    json(&["fisher", arg(&model), "--inputs", arg(&data), "-o", arg(&out), "--engine", "cpu"]);
}
