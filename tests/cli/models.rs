//! Models that are refused, and how.

use super::common::{arg, fixture, tool};
use super::{FIXED, Room, codes, forget, model};
use onnx_unlearn::onnx::Model;
use onnx_unlearn::onnx::proto::{ModelProto, NodeProto};
use prost::Message;

#[test]
fn a_missing_model() {
    let room = Room::new();
    let path = room.path("none.onnx");
    room.refuses_model(&path, &["none.onnx", "cannot open"]);
    room.refused(&["inspect", arg(&path)], &["none.onnx"]);
}

#[test]
fn files_that_are_no_models() {
    let room = Room::new();
    let files: [(&str, &[u8]); 6] = [
        ("empty.onnx", b""),
        ("text.onnx", b"This is a text, and a model is none.\n"),
        ("picture.onnx", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x01\0\0\0\x01\x08\x06\0\0\0\x1f\x15\xc4\x89"),
        ("page.onnx", b"<!DOCTYPE html><html><body>404</body></html>"),
        ("zeros.onnx", &[0; 64]),
        ("ones.onnx", &[0xff; 64]),
    ];
    for (name, bytes) in files {
        let path = room.write(name, bytes);
        room.refused(&["inspect", arg(&path)], &[name, "not an ONNX model"]);
        room.refused(&forget(&path, "out.onnx", &FIXED), &[name, "not an ONNX model"]);
    }
    let dir = room.0.path();
    room.refused(&["inspect", arg(dir)], &["directory"]);
    // a file of another kind that is a fixture
    room.refused(&["inspect", arg(&codes())], &["ZIP archive"]);
}

#[test]
fn truncated_models() {
    let room = Room::new();
    let whole = std::fs::read(fixture("cnn.onnx")).unwrap();
    let n = whole.len();
    for cut in [1, 2, 3, 7, 20, 100, 1000, n / 4, n / 2, n - 1000, n - 100, n - 20, n - 5, n - 1] {
        let path = room.write("cut.onnx", &whole[..cut]);
        room.refused(&["inspect", arg(&path)], &["cut.onnx"]);
        room.refused(&forget(&path, "out.onnx", &FIXED), &["cut.onnx"]);
    }
    room.refuses_model(&room.path("cut.onnx"), &["cut.onnx"]);
}

pub(super) fn decoded() -> ModelProto {
    ModelProto::decode(&std::fs::read(model()).unwrap()[..]).unwrap()
}

fn edited(edit: impl FnOnce(&mut Vec<NodeProto>)) -> Vec<u8> {
    let mut proto = decoded();
    edit(&mut proto.graph.as_mut().unwrap().node);
    proto.encode_to_vec()
}

#[test]
fn unsupported_ops_are_listed_all_at_once() {
    let room = Room::new();
    let bytes = edited(|nodes| {
        let at = |op: &str| nodes.iter().position(|n| n.op_type() == op).unwrap();
        let (sigmoid, gemm) = (at("Sigmoid"), at("Gemm"));
        nodes[sigmoid].op_type = Some("Mystery".into());
        nodes[sigmoid].name = Some("odd one".into());
        nodes[gemm].domain = Some("com.example".into());
        nodes[gemm].name = Some("strange".into());
    });
    let path = room.write("odd.onnx", bytes);
    let words = ["op Mystery is not supported", "'odd one'", "op com.example.Gemm is not supported", "'strange'"];
    room.refuses_model(&path, &words);
    // inspect shows what it can, and the obstacles
    let out = tool(["inspect", arg(&path), "--tensors"]).output().unwrap();
    assert_eq!(out.status.code(), Some(2));
    let text = String::from_utf8(out.stdout).unwrap();
    assert!(words.iter().all(|w| text.contains(w)), "{text}");
    assert!(text.contains("fc1.weight"), "{text}");
    let out = tool(["inspect", arg(&path), "--json"]).output().unwrap();
    assert_eq!(out.status.code(), Some(2));
    let report: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(report["obstacles"].as_array().unwrap().len(), 2, "{report}");
}

#[test]
fn models_that_do_not_hold_together() {
    let room = Room::new();
    let path = room.write("loose.onnx", edited(|nodes| nodes[1].input[0] = "nowhere".into()));
    room.refuses_model(&path, &["loose.onnx", "'nowhere'"]);
    let mut old = decoded();
    old.opset_import[0].version = Some(3);
    let path = room.write("old.onnx", old.encode_to_vec());
    room.refuses_model(&path, &["operator set 3"]);
    let mut new = decoded();
    new.opset_import[0].version = Some(1000);
    let path = room.write("new.onnx", new.encode_to_vec());
    room.refuses_model(&path, &["operator set 1000"]);
}

#[test]
fn nan_among_the_weights() {
    let room = Room::new();
    let mut bytes = std::fs::read(model()).unwrap();
    let known = Model::open(model()).unwrap();
    let weight = &known.weights()[known.weight_index("fc2.weight").unwrap()];
    let at = weight.runs()[0].start + 4 * 17;
    bytes[at..at + 4].copy_from_slice(&f32::NAN.to_le_bytes());
    let path = room.write("nan.onnx", bytes);
    room.refuses_model(&path, &["nan.onnx", "fc2.weight", "NaN"]);
}
