//! Functions of models.

use super::{decoded, kind, open};
use onnx_unlearn::onnx::import::{Wanted, obstacles_of};
use onnx_unlearn::onnx::proto::{ModelProto, NodeProto};
use onnx_unlearn::onnx::{ImportOptions, import};
use std::time::Instant;

fn imported(model: &ModelProto) -> onnx_unlearn::Result<onnx_unlearn::onnx::Imported> {
    import(model, &onnx_unlearn::onnx::tensor_to_array, &ImportOptions::default())
}

#[test]
fn a_function_that_calls_itself_is_refused() {
    let mut model = decoded("functions.onnx");
    // Dense calls Net, which calls Dense
    let call = NodeProto {
        op_type: Some("Net".into()),
        domain: Some("local".into()),
        input: ["v", "k", "c", "k", "c"].map(String::from).to_vec(),
        output: vec!["unused".into()],
        ..NodeProto::default()
    };
    let dense = model.functions.iter_mut().find(|f| f.name() == "Dense").unwrap();
    dense.node.push(call);
    let e = imported(&model).err().unwrap().to_string();
    assert!(e.contains("calls itself") && e.contains("local."), "{e}");
}

#[test]
fn functions_that_grow_without_bound_are_refused_at_once() {
    let mut model = decoded("shared_in_function.onnx");
    let scale = model.functions[0].clone();
    // Scale_k calls Scale_{k-1} twice: 2^40 nodes
    for k in 1..=40 {
        let mut f = scale.clone();
        f.name = Some(format!("Scale{k}"));
        let inner = if k == 1 { "Scale".to_owned() } else { format!("Scale{}", k - 1) };
        let call = |input: &str, output: &str| NodeProto {
            op_type: Some(inner.clone()),
            domain: Some("local".into()),
            input: vec![input.into()],
            output: vec![output.into()],
            ..NodeProto::default()
        };
        f.node = vec![call("v", "t"), call("t", "r")];
        model.functions.push(f);
    }
    for node in &mut model.graph.as_mut().unwrap().node {
        if node.op_type() == "Scale" {
            node.op_type = Some("Scale40".into());
        }
    }
    let start = Instant::now();
    let e = imported(&model).err().unwrap().to_string();
    assert!(e.contains("more than") && start.elapsed().as_secs() < 5, "{e}");
}

#[test]
fn obstacles_look_into_functions() {
    let mut model = decoded("functions.onnx");
    let normal = model.functions.iter_mut().find(|f| f.name() == "Normal").unwrap();
    normal.node[0].op_type = Some("Mystery".into());
    normal.node[0].name = Some("odd".into());
    let lines = obstacles_of(&model, &Wanted::All);
    assert_eq!(lines, ["op Mystery is not supported (node 'local.Normal/odd')"]);
}

#[test]
fn a_weight_in_a_function_called_twice_is_one_weight() {
    let c = open(&kind("shared_in_function", "skl_mlp", "shared_in_function"));
    let bound = c.bind(2).unwrap();
    let names: Vec<&str> = bound.weights.iter().map(|(n, _)| n.as_str()).collect();
    assert_eq!(names.iter().filter(|n| n.contains('/')).collect::<Vec<_>>(), [&"local.Scale/s"]);
    assert!(c.model().weight_index("local.Scale/s").is_some());
}
