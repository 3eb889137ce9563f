use super::super::proto::*;
use super::super::samples::*;
use super::super::tensor_to_array;
use super::*;
use crate::error::Kind;

fn open_bytes(bytes: &[u8]) -> Result<Model> {
    Model::from_bytes("test.onnx", bytes.to_vec())
}

fn open(model: &ModelProto) -> Result<Model> {
    open_bytes(&model.encode_to_vec())
}

fn floats(a: &Array) -> Vec<f32> {
    a.slice::<f32>().unwrap().to_vec()
}

#[test]
fn reads_every_weight_where_it_lies() {
    let model = open_bytes(&everything()).unwrap();
    let names: Vec<_> = model.weights().iter().map(Weight::name).collect();
    let all = ["c", "d", "raw", "typed", "double", "f16", "bf16", "scalar", "halves", "none", "unpacked"];
    assert_eq!(names, all);
    for name in ["c", "d", "raw", "typed", "unpacked", "bf16", "halves"] {
        let w = &model.weights()[model.weight_index(name).unwrap()];
        assert_eq!(floats(&model.read(w).unwrap()), [1.0, 2.0], "{name}");
        assert_eq!(w.is_patchable(), name != "halves");
    }
    let read = |name: &str| model.read(&model.weights()[model.weight_index(name).unwrap()]).unwrap();
    assert_eq!(read("double"), Array::from_vec(&[2], vec![1.0_f64, 2.0]).unwrap());
    assert_eq!(read("scalar").shape(), &[] as &[usize]);
    assert_eq!(read("none").shape(), &[0, 4]);
    let half = floats(&read("f16"));
    assert!(half[0] == 1.0 && half[1].is_nan() && half[2].to_bits() == 0x8000_0000);
    assert_eq!(model.opset("ai.onnx"), Some(17));
    assert_eq!(model.opset("other"), None);
}

#[test]
fn opens_a_file_and_shares_its_memory() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.onnx");
    std::fs::write(&path, everything()).unwrap();
    let model = Model::open(&path).unwrap();
    let raw = model.proto().graph.as_ref().unwrap().initializer[0].raw_data.as_ref().unwrap();
    assert!(model.bytes().as_ptr_range().contains(&raw.as_ptr()));
    assert_eq!(model.path(), path);
}

#[test]
fn says_what_a_file_is_when_it_is_no_model() {
    let message = |b: &[u8]| open_bytes(b).unwrap_err().to_string();
    assert_eq!(message(b""), "test.onnx: not an ONNX model: the file is empty");
    assert!(message(b"version https://git-lfs.github.com/spec/v1").contains("git lfs pull"));
    assert!(message(b"PK\x03\x04....").contains("ZIP"));
    assert!(message(b"hello, world").starts_with("test.onnx: not an ONNX model: "));
    let good = sample().encode_to_vec();
    assert!(message(&good[..good.len() - 1]).contains("damaged or truncated"));
    assert!(message(&[good, vec![0; 4]].concat()).contains("damaged or truncated"));
    let e = Model::open("does-not-exist.onnx").unwrap_err();
    assert_eq!(e.kind(), Kind::Io);
    assert!(e.to_string().starts_with("cannot open does-not-exist.onnx"), "{e}");
}

#[test]
fn the_header_must_be_there() {
    let without = |change: fn(&mut ModelProto)| {
        let mut m = sample();
        change(&mut m);
        open(&m).unwrap_err().to_string()
    };
    assert!(without(|m| m.ir_version = None).contains("no ir_version"));
    assert!(without(|m| m.graph = None).contains("no graph"));
    assert!(without(|m| m.opset_import.clear()).contains("no opset_import"));
    let twice =
        without(|m| m.opset_import.push(OperatorSetIdProto { domain: Some("ai.onnx".into()), version: Some(9) }));
    assert!(twice.contains("two versions"));
}

#[test]
fn weights_whose_data_do_not_fit_are_refused() {
    let bad = [
        raw("w", 1, &[3], bytes_of(&[1.0, 2.0])),
        raw("w", 1, &[-2], bytes_of(&[1.0, 2.0])),
        raw("w", 1, &[1 << 40, 1 << 40], bytes_of(&[1.0, 2.0])),
        raw("w", 1, &[i64::MAX, 0], vec![0; 4]),
        tensor("w", 1, &[2]),
        TensorProto { float_data: vec![1.0; 3], ..tensor("w", 1, &[2]) },
        TensorProto { float_data: vec![1.0; 2], ..raw("w", 1, &[2], bytes_of(&[1.0, 2.0])) },
        TensorProto { double_data: vec![1.0; 2], ..tensor("w", 1, &[2]) },
        TensorProto { int32_data: vec![70_000; 2], ..tensor("w", 10, &[2]) },
        TensorProto { int32_data: vec![1], ..tensor("w", 10, &[2]) },
        TensorProto { segment: Some(Segment { begin: Some(0), end: Some(1) }), ..raw("w", 1, &[1], vec![0; 4]) },
    ];
    for t in bad {
        let e = open(&model(vec![], vec![t.clone()])).unwrap_err().to_string();
        assert!(e.starts_with("test.onnx: graph.initializer[0]: 'w': "), "{e}");
        assert!(tensor_to_array(&t).is_err(), "{t:?}");
    }
    let twice = model(vec![], vec![raw("w", 1, &[1], vec![0; 4]), raw("w", 1, &[1], vec![0; 4])]);
    assert!(open(&twice).unwrap_err().to_string().contains("two tensors are named 'w'"));
}

#[test]
fn every_element_type_reads_from_either_field() {
    let ints = |v: &[i64]| Array::ints(v);
    let cases = [
        (raw("t", 2, &[2], vec![1, 255]), ints(&[1, 255]), DType::U8),
        (raw("t", 3, &[2], vec![1, 255]), ints(&[1, -1]), DType::I8),
        (raw("t", 4, &[1], vec![255, 255]), ints(&[65535]), DType::U16),
        (raw("t", 5, &[1], vec![255, 255]), ints(&[-1]), DType::I16),
        (raw("t", 6, &[1], vec![255; 4]), ints(&[-1]), DType::I32),
        (raw("t", 7, &[1], vec![255; 8]), ints(&[-1]), DType::I64),
        (raw("t", 12, &[1], vec![255; 4]), ints(&[0xffff_ffff]), DType::U32),
        (raw("t", 13, &[1], 9_u64.to_le_bytes()), ints(&[9]), DType::U64),
        (raw("t", 9, &[2], vec![0, 1]), Array::from_vec(&[2], vec![false, true]).unwrap(), DType::Bool),
        (TensorProto { int32_data: vec![-1, 5], ..tensor("t", 3, &[2]) }, ints(&[-1, 5]), DType::I8),
        (TensorProto { int32_data: vec![7], ..tensor("t", 6, &[1]) }, ints(&[7]), DType::I32),
        (TensorProto { int64_data: vec![-7], ..tensor("t", 7, &[1]) }, ints(&[-7]), DType::I64),
        (TensorProto { uint64_data: vec![7], ..tensor("t", 12, &[1]) }, ints(&[7]), DType::U32),
        (TensorProto { uint64_data: vec![7], ..tensor("t", 13, &[1]) }, ints(&[7]), DType::U64),
        (
            TensorProto { int32_data: vec![0, 1], ..tensor("t", 9, &[2]) },
            Array::from_vec(&[2], vec![false, true]).unwrap(),
            DType::Bool,
        ),
        (
            TensorProto { int32_data: vec![0x3f80], ..tensor("t", 16, &[]) },
            Array::from_vec(&[], vec![1.0_f32]).unwrap(),
            DType::F32,
        ),
    ];
    for (t, array, dtype) in cases {
        assert_eq!(tensor_to_array(&t).unwrap(), (array, dtype), "{t:?}");
    }
    let refused = [
        TensorProto { int32_data: vec![256], ..tensor("t", 2, &[1]) },
        TensorProto { uint64_data: vec![1 << 32], ..tensor("t", 12, &[1]) },
        raw("t", 13, &[1], u64::MAX.to_le_bytes()),
        TensorProto { string_data: vec!["a".into()], ..tensor("t", 8, &[1]) },
        raw("t", 22, &[2], vec![0x21]),
        raw("t", 99, &[2], vec![0x21]),
        tensor("t", 0, &[]),
    ];
    for t in refused {
        assert!(tensor_to_array(&t).is_err(), "{t:?}");
    }
}

#[test]
fn external_data_are_found_and_held_to_the_shape() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.onnx");
    std::fs::write(
        dir.path().join("w.bin"),
        [vec![9; 4], bytes_of(&[1.0, 2.0]), 5_i64.to_le_bytes().to_vec()].concat(),
    )
    .unwrap();
    let try_open = |pairs: &[(&str, &str)]| {
        let pairs = [&[("location", "w.bin")], pairs].concat();
        std::fs::write(&path, model(vec![], vec![external("w", 1, &[2], &pairs)]).encode_to_vec()).unwrap();
        Model::open(&path)
    };
    let good = try_open(&[("offset", "4"), ("length", "8")]).unwrap();
    assert_eq!(floats(&good.read(&good.weights()[0]).unwrap()), [1.0, 2.0]);
    let (array, _) = good.array(&good.proto().graph.as_ref().unwrap().initializer[0]).unwrap();
    assert_eq!(floats(&array), [1.0, 2.0]);
    assert!(try_open(&[("offset", "4")]).is_ok(), "the length may be missing");
    for bad in [
        &[("offset", "4"), ("length", "4")][..],
        &[("offset", "13")],
        &[("offset", "18446744073709551615")],
        &[("offset", "-4")],
        &[("length", "8589934592")],
    ] {
        let e = try_open(bad).unwrap_err();
        assert!(e.to_string().contains("graph.initializer[0]: "), "{bad:?}: {e}");
    }
    // other types and subgraphs are held to the same rules
    let steps = external("s", 7, &[1], &[("location", "w.bin"), ("offset", "12")]);
    let inner = |t: TensorProto| {
        let g = GraphProto { initializer: vec![t], ..Default::default() };
        let branch = AttributeProto { name: Some("then_branch".into()), g: Some(Box::new(g)), ..Default::default() };
        NodeProto { op_type: Some("If".into()), attribute: vec![branch], ..Default::default() }
    };
    std::fs::write(&path, model(vec![inner(steps.clone())], vec![steps.clone()]).encode_to_vec()).unwrap();
    let m = Model::open(&path).unwrap();
    assert_eq!(m.array(&steps).unwrap().0, Array::ints(&[5]));
    let outside = external("s", 7, &[1], &[("location", "../w.bin")]);
    std::fs::write(&path, model(vec![inner(outside)], vec![]).encode_to_vec()).unwrap();
    let e = Model::open(&path).unwrap_err().to_string();
    assert!(e.contains("graph.node[0].attribute[0].g.initializer[0]: ") && e.contains("leaves"), "{e}");
    // the model as its own data, and a model in memory
    std::fs::write(&path, model(vec![], vec![external("w", 2, &[1], &[("location", "m.onnx")])]).encode_to_vec())
        .unwrap();
    assert!(Model::open(&path).unwrap_err().to_string().contains("model file itself"));
    assert!(open_bytes(&std::fs::read(&path).unwrap()).is_err());
}

/// An independent implementation reads what these structs write, and the other way round.
#[test]
fn agrees_with_onnx_protobuf() {
    use onnx_protobuf::Message as _;
    let bytes = everything();
    let theirs = onnx_protobuf::ModelProto::parse_from_bytes(&bytes).unwrap();
    let ours = ModelProto::decode(bytes.as_slice()).unwrap();
    assert_eq!(theirs.ir_version, ours.ir_version());
    assert_eq!(theirs.opset_import[0].version, 17);
    assert_eq!(theirs.functions[0].name, "f");
    let (t, o) = (theirs.graph.as_ref().unwrap(), ours.graph.as_ref().unwrap());
    assert_eq!(t.initializer.len(), o.initializer.len());
    for (t, o) in t.initializer.iter().zip(&o.initializer) {
        assert_eq!((t.name.as_str(), &t.dims, t.data_type), (o.name(), &o.dims, o.data_type()));
        assert_eq!((&t.raw_data[..], &t.float_data), (o.raw_data(), &o.float_data));
        assert_eq!((&t.double_data, &t.int32_data), (&o.double_data, &o.int32_data));
    }
    for (t, o) in t.node.iter().zip(&o.node) {
        assert_eq!((t.op_type.as_str(), &t.output), (o.op_type(), &o.output));
        let (t, o) = (&t.attribute[0], &o.attribute[0]);
        assert_eq!(
            (t.name.as_str(), &t.floats, t.t.is_some(), t.g.is_some()),
            (o.name(), &o.floats, o.t.is_some(), o.g.is_some())
        );
    }
    let again = theirs.write_to_bytes().unwrap();
    open_bytes(&again).unwrap();
    assert_eq!(ModelProto::decode(again.as_slice()).unwrap().graph.unwrap().node, o.node);
}

#[test]
fn truncation_anywhere_never_panics() {
    let bytes = everything();
    for end in 0..bytes.len() {
        let _ = open_bytes(&bytes[..end]);
    }
}

proptest::proptest! {
    #[test]
    fn changed_bytes_never_panic(at in proptest::prelude::any::<proptest::sample::Index>(), value: u8) {
        let mut bytes = everything();
        let n = bytes.len();
        bytes[at.index(n)] = value;
        if let Ok(model) = open_bytes(&bytes) {
            for w in model.weights() {
                let _ = model.read(w);
            }
        }
    }
}
