//! A small classifier that nothing is wrong with, its parts, and its codes.

use onnx_unlearn::inputs::npz;
use onnx_unlearn::onnx::proto::*;
use onnx_unlearn::tensor::Array;
use prost::Message;
use std::path::Path;

pub const CLASSES: usize = 3;
pub const INPUTS: usize = 4;
pub const HIDDEN: usize = 8;

pub fn tensor(name: &str, data_type: DataType, dims: &[i64]) -> TensorProto {
    TensorProto { name: Some(name.into()), data_type: Some(data_type.into()), dims: dims.into(), ..Default::default() }
}

pub fn raw(name: &str, data_type: DataType, dims: &[i64], bytes: impl Into<Vec<u8>>) -> TensorProto {
    TensorProto { raw_data: Some(bytes.into().into()), ..tensor(name, data_type, dims) }
}

/// `n` floats, the same every time, none of them zero.
pub fn values(n: usize, seed: usize) -> Vec<f32> {
    (0..n).map(|i| (((i * 37 + seed * 101) % 89) as f32 - 44.5) / 60.0).collect()
}

pub fn bytes_of(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

pub fn floats(name: &str, dims: &[usize], seed: usize) -> TensorProto {
    let wide: Vec<i64> = dims.iter().map(|&d| d as i64).collect();
    raw(name, DataType::Float, &wide, bytes_of(&values(dims.iter().product(), seed)))
}

pub fn external(name: &str, dims: &[i64], pairs: &[(&str, &str)]) -> TensorProto {
    let pair = |(k, v): &(&str, &str)| StringStringEntryProto { key: Some((*k).into()), value: Some((*v).into()) };
    TensorProto {
        external_data: pairs.iter().map(pair).collect(),
        data_location: Some(1),
        ..tensor(name, DataType::Float, dims)
    }
}

pub fn int(name: &str, v: i64) -> AttributeProto {
    AttributeProto { i: Some(v), ..attribute(name, AttributeType::Int) }
}

pub fn ints(name: &str, v: &[i64]) -> AttributeProto {
    AttributeProto { ints: v.into(), ..attribute(name, AttributeType::Ints) }
}

pub fn attribute(name: &str, kind: AttributeType) -> AttributeProto {
    AttributeProto { name: Some(name.into()), r#type: Some(kind.into()), ..Default::default() }
}

pub fn node(op: &str, inputs: &[&str], outputs: &[&str], attributes: Vec<AttributeProto>) -> NodeProto {
    let strings = |v: &[&str]| v.iter().map(|&s| s.to_owned()).collect();
    NodeProto {
        op_type: Some(op.into()),
        input: strings(inputs),
        output: strings(outputs),
        attribute: attributes,
        ..Default::default()
    }
}

/// A float value; an extent of 0 is the batch.
pub fn value(name: &str, dims: &[usize]) -> ValueInfoProto {
    let dim = |&d: &usize| Dimension {
        value: Some(match d {
            0 => dimension::Value::DimParam("batch".into()),
            d => dimension::Value::DimValue(d as i64),
        }),
        ..Default::default()
    };
    let shape = TensorShapeProto { dim: dims.iter().map(dim).collect() };
    let tensor = type_proto::Tensor { elem_type: Some(DataType::Float.into()), shape: Some(shape) };
    let kind = TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..Default::default() };
    ValueInfoProto { name: Some(name.into()), r#type: Some(kind), ..Default::default() }
}

/// A model of these nodes and initializers, from `x` to `logits`.
pub fn model_of(node: Vec<NodeProto>, initializer: Vec<TensorProto>, input: &[usize]) -> ModelProto {
    let graph = GraphProto {
        name: Some("g".into()),
        node,
        initializer,
        input: vec![value("x", input)],
        output: vec![value("logits", &[0, CLASSES])],
        ..Default::default()
    };
    ModelProto {
        ir_version: Some(8),
        opset_import: vec![OperatorSetIdProto { domain: None, version: Some(17) }],
        producer_name: Some("tests".into()),
        graph: Some(Box::new(graph)),
        ..Default::default()
    }
}

/// Two Gemm layers and a Relu: `w1 [8, 4]`, `b1`, `w2 [3, 8]`, `b2`.
pub fn classifier() -> ModelProto {
    let gemm = |x: &str, w: &str, b: &str, y: &str| node("Gemm", &[x, w, b], &[y], vec![int("transB", 1)]);
    let nodes = vec![gemm("x", "w1", "b1", "h"), node("Relu", &["h"], &["r"], vec![]), gemm("r", "w2", "b2", "logits")];
    let weights = vec![
        floats("w1", &[HIDDEN, INPUTS], 1),
        floats("b1", &[HIDDEN], 2),
        floats("w2", &[CLASSES, HIDDEN], 3),
        floats("b2", &[CLASSES], 4),
    ];
    model_of(nodes, weights, &[0, INPUTS])
}

/// The classifier with one change.
pub fn changed(change: impl FnOnce(&mut GraphProto)) -> Vec<u8> {
    let mut m = classifier();
    change(m.graph.as_mut().unwrap());
    m.encode_to_vec()
}

/// The classifier with one initializer in the place of `w1`.
pub fn with_w1(t: TensorProto) -> Vec<u8> {
    changed(|g| g.initializer[0] = t)
}

/// Writes codes for the classifier: two of each class.
pub fn codes(path: &Path) {
    let n = 2 * CLASSES;
    let x = Array::from_vec(&[n, INPUTS], values(n * INPUTS, 5)).unwrap();
    let y = Array::ints(&(0..n).map(|i| (i % CLASSES) as i64).collect::<Vec<_>>());
    npz::write(path, &[("x", &x), ("y", &y)]).unwrap();
}

/// A `forget` of class 0 with codes in `c.npz`.
pub fn forget<'a>(model: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let args = ["forget", model, "--inputs", "c.npz", "--class", "0", "--engine", "cpu"];
    [&args[..], &["--rule", "dampen", "--alpha", "1", "--lambda", "1"], more].concat()
}

/// A length-delimited field.
pub fn field(number: u64, content: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    prost::encoding::encode_varint(number << 3 | 2, &mut out);
    prost::encoding::encode_varint(content.len() as u64, &mut out);
    out.extend_from_slice(content);
    out
}
