//! Tensors whose fields contradict each other, and element types of every kind.

use super::Room;
use super::models::{self, HIDDEN, INPUTS, bytes_of, changed, classifier, raw, tensor, values, with_w1};
use half::{bf16, f16};
use onnx_unlearn::onnx::proto::*;
use prost::Message;

const N: usize = HIDDEN * INPUTS;
const DIMS: [i64; 2] = [HIDDEN as i64, INPUTS as i64];

fn w1() -> Vec<f32> {
    values(N, 1)
}

fn of(data_type: DataType) -> TensorProto {
    tensor("w1", data_type, &DIMS)
}

#[test]
fn tensors_that_contradict_themselves() {
    let bytes = bytes_of(&w1());
    let with = |dims: &[i64]| raw("w1", DataType::Float, dims, bytes.clone());
    let mut nan = w1();
    nan[7] = f32::NAN;
    let cases: Vec<(&str, TensorProto, &[&str])> = vec![
        ("negative dim", with(&[-8, 4]), &["w1", "-8"]),
        ("dim of -1", with(&[8, -1]), &["w1"]),
        ("least of all dims", with(&[i64::MIN, 4]), &["w1"]),
        ("zero dim with data", with(&[0, 4]), &["w1"]),
        ("dims that overflow", with(&[i64::MAX, i64::MAX]), &["w1"]),
        ("dims that overflow to the right number", with(&[1 << 33, 1 << 31, 8, 4]), &["w1"]),
        ("dims whose bytes overflow", with(&[1 << 62]), &["w1"]),
        ("a thousand dims", with(&[1; 1000]), &["w1"]),
        ("raw_data too short", raw("w1", DataType::Float, &DIMS, bytes[..124].to_vec()), &["w1"]),
        ("raw_data too long", raw("w1", DataType::Float, &DIMS, [&bytes[..], &[0; 4]].concat()), &["w1"]),
        ("raw_data not whole elements", raw("w1", DataType::Float, &DIMS, bytes[..127].to_vec()), &["w1"]),
        ("no data at all", of(DataType::Float), &["w1"]),
        ("raw_data and float_data", TensorProto { float_data: w1(), ..with(&DIMS) }, &["w1"]),
        ("raw_data and int32_data", TensorProto { int32_data: vec![1], ..with(&DIMS) }, &["w1"]),
        ("float_data too short", TensorProto { float_data: w1()[1..].to_vec(), ..of(DataType::Float) }, &["w1"]),
        ("double_data for float", TensorProto { double_data: vec![1.0; N], ..of(DataType::Float) }, &["w1"]),
        ("float_data for double", TensorProto { float_data: w1(), ..of(DataType::Double) }, &["w1"]),
        (
            "float16 out of range in int32_data",
            TensorProto { int32_data: vec![70_000; N], ..of(DataType::Float16) },
            &["w1"],
        ),
        ("negative float16 in int32_data", TensorProto { int32_data: vec![-1; N], ..of(DataType::Float16) }, &["w1"]),
        ("float16 too few in int32_data", TensorProto { int32_data: vec![0; N - 1], ..of(DataType::Float16) }, &["w1"]),
        (
            "a segment",
            TensorProto { segment: Some(Segment { begin: Some(0), end: Some(4) }), ..with(&DIMS) },
            &["w1", "segment"],
        ),
        ("no type", TensorProto { data_type: None, ..with(&DIMS) }, &["w1"]),
        ("type 0", TensorProto { data_type: Some(0), ..with(&DIMS) }, &["w1"]),
        ("type 99", TensorProto { data_type: Some(99), ..with(&DIMS) }, &["w1"]),
        ("type -1", TensorProto { data_type: Some(-1), ..with(&DIMS) }, &["w1"]),
        ("strings", TensorProto { string_data: vec!["a".into(); N], ..of(DataType::String) }, &["w1"]),
        ("complex numbers", raw("w1", DataType::Complex64, &DIMS, vec![0; 8 * N]), &["w1"]),
        ("float8", raw("w1", DataType::Float8e4m3fn, &DIMS, vec![0; N]), &["w1"]),
        ("packed int4 as a float weight", raw("w1", DataType::Int4, &DIMS, vec![0x21; N / 2]), &["w1"]),
        ("packed int4 of the wrong length", raw("w1", DataType::Int4, &DIMS, vec![0x21; N]), &["w1"]),
        ("NaN", raw("w1", DataType::Float, &DIMS, bytes_of(&nan)), &["w1", "NaN"]),
        ("data_location 7", TensorProto { data_location: Some(7), ..with(&DIMS) }, &["data location 7"]),
        ("external without a location", TensorProto { data_location: Some(1), ..of(DataType::Float) }, &["location"]),
    ];
    let room = Room::new();
    for (case, t, words) in cases {
        room.write("m.onnx", with_w1(t));
        room.refuses_model(case, "m.onnx", &[&["m.onnx"], words].concat());
    }
}

#[test]
fn graphs_of_odd_tensors() {
    let sparse = SparseTensorProto {
        values: Some(raw("w1", DataType::Float, &[1], bytes_of(&[1.0]))),
        indices: Some(raw("", DataType::Int64, &[1], 3_i64.to_le_bytes())),
        dims: DIMS.into(),
    };
    let room = Room::new();
    let cases: Vec<(&str, Vec<u8>, &[&str])> = vec![
        ("a sparse initializer", changed(|g| g.sparse_initializer.push(sparse)), &["sparse"]),
        (
            "two initializers of one name",
            changed(|g| g.initializer.push(g.initializer[0].clone())),
            &["two tensors", "w1"],
        ),
        (
            "two integer initializers of one name",
            changed(|g| {
                let t = raw("i", DataType::Int64, &[1], 3_i64.to_le_bytes());
                g.initializer.extend([t.clone(), t]);
            }),
            &["'i'", "two tensors"],
        ),
        ("an initializer without a name", changed(|g| g.initializer[0].name = None), &["w1"]),
    ];
    for (case, bytes, words) in cases {
        room.write("m.onnx", bytes);
        room.refuses_model(case, "m.onnx", &[&["m.onnx"], words].concat());
    }
}

/// Weights that are unusual and right: they are read, changed where they lie, and nothing else changes.
#[test]
fn every_float_type_is_changed_where_it_lies() {
    let halves: Vec<u16> = w1().iter().map(|v| f16::from_f32(*v).to_bits()).collect();
    let short: Vec<u16> = w1().iter().map(|v| bf16::from_f32(*v).to_bits()).collect();
    let le = |v: &[u16]| v.iter().flat_map(|b| b.to_le_bytes()).collect::<Vec<u8>>();
    let doubles: Vec<f64> = w1().iter().map(|v| f64::from(*v)).collect();
    let mut subnormal = w1();
    (subnormal[3], subnormal[4]) = (1e-40, -1e-45);
    let cases: Vec<(&str, TensorProto)> = vec![
        ("float in float_data", TensorProto { float_data: w1(), ..of(DataType::Float) }),
        ("double in double_data", TensorProto { double_data: doubles.clone(), ..of(DataType::Double) }),
        (
            "double in raw_data",
            raw("w1", DataType::Double, &DIMS, doubles.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>()),
        ),
        ("float16 in raw_data", raw("w1", DataType::Float16, &DIMS, le(&halves))),
        ("bfloat16 in raw_data", raw("w1", DataType::Bfloat16, &DIMS, le(&short))),
        ("subnormal weights", raw("w1", DataType::Float, &DIMS, bytes_of(&subnormal))),
    ];
    let room = Room::new();
    models::codes(&room.path("c.npz"));
    for (case, t) in cases {
        let bytes = with_w1(t);
        room.write("m.onnx", &bytes);
        room.succeeds(case, &models::forget("m.onnx", &["-o", "out.onnx"]));
        let after = std::fs::read(room.path("out.onnx")).unwrap();
        assert_eq!(after.len(), bytes.len(), "{case}");
        let (a, b) = (ModelProto::decode(&bytes[..]).unwrap(), ModelProto::decode(&after[..]).unwrap());
        let (mut a, mut b) = (a.graph.unwrap(), b.graph.unwrap());
        assert_ne!(a.initializer, b.initializer, "{case}: nothing was forgotten");
        a.initializer.clear();
        b.initializer.clear();
        assert_eq!(a, b, "{case}");
    }
}

/// Half precision in varints cannot be changed in place: refused when it would have to be, read all the same.
#[test]
fn half_precision_in_int32_data() {
    for (case, data_type, bits) in [
        ("float16 in int32_data", DataType::Float16, f16::from_f32 as fn(f32) -> f16),
        ("bfloat16 in int32_data", DataType::Bfloat16, |v| f16::from_bits(bf16::from_f32(v).to_bits())),
    ] {
        let int32_data = w1().iter().map(|v| i32::from(bits(*v).to_bits())).collect();
        let room = Room::new();
        room.write("m.onnx", with_w1(TensorProto { int32_data, ..of(data_type) }));
        models::codes(&room.path("c.npz"));
        room.succeeds(case, &["inspect", "m.onnx"]);
        room.refuses(case, &models::forget("m.onnx", &["-o", "out.onnx"]), &["w1", "varying length"]);
        room.refuses(case, &models::forget("m.onnx", &["--in-place"]), &["w1", "varying length"]);
    }
}

/// An infinite weight is a mask, which is no weight: nothing is computed from it that is not finite.
#[test]
fn infinite_weights() {
    for (case, v) in [("infinity", f32::INFINITY), ("minus infinity", f32::NEG_INFINITY)] {
        let mut w = w1();
        w[5] = v;
        let room = Room::new();
        room.write("m.onnx", with_w1(raw("w1", DataType::Float, &DIMS, bytes_of(&w))));
        models::codes(&room.path("c.npz"));
        room.refuses(case, &models::forget("m.onnx", &["-o", "out.onnx"]), &["finite"]);
    }
}

/// The type of a weight has to be that of the input it meets.
#[test]
fn a_model_of_mixed_precision_computes_in_one() {
    let room = Room::new();
    let mut m = classifier();
    for t in &mut m.graph.as_mut().unwrap().initializer {
        let v: Vec<u8> = t
            .raw_data()
            .as_chunks::<4>()
            .0
            .iter()
            .flat_map(|b| f16::from_f32(f32::from_le_bytes(*b)).to_le_bytes())
            .collect();
        t.data_type = Some(DataType::Float16.into());
        t.raw_data = Some(v.into());
    }
    room.write("m.onnx", m.encode_to_vec());
    models::codes(&room.path("c.npz"));
    room.succeeds("all weights float16", &models::forget("m.onnx", &["-o", "out.onnx"]));
}
