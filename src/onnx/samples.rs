//! Hand-made models for this room's tests.

use super::proto::*;
use prost::Message;

/// A length-delimited field on the wire.
pub(super) fn field(number: u8, content: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    prost::encoding::encode_varint(u64::from(number) << 3 | 2, &mut out);
    prost::encoding::encode_varint(content.len() as u64, &mut out);
    out.extend_from_slice(content);
    out
}

/// A tensor without elements yet.
pub(super) fn tensor(name: &str, data_type: i32, dims: &[i64]) -> TensorProto {
    TensorProto { name: Some(name.into()), data_type: Some(data_type), dims: dims.into(), ..Default::default() }
}

/// A tensor of little-endian bytes.
pub(super) fn raw(name: &str, data_type: i32, dims: &[i64], bytes: impl Into<Vec<u8>>) -> TensorProto {
    TensorProto { raw_data: Some(bytes.into().into()), ..tensor(name, data_type, dims) }
}

pub(super) fn bytes_of(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// A tensor whose elements lie in `location`.
pub(super) fn external(name: &str, data_type: i32, dims: &[i64], pairs: &[(&str, &str)]) -> TensorProto {
    let entry = |(k, v): &(&str, &str)| StringStringEntryProto { key: Some((*k).into()), value: Some((*v).into()) };
    let external_data = pairs.iter().map(entry).collect();
    TensorProto { external_data, data_location: Some(1), ..tensor(name, data_type, dims) }
}

pub(super) fn constant(output: &str, attribute: AttributeProto) -> NodeProto {
    NodeProto {
        op_type: Some("Constant".into()),
        output: vec![output.into()],
        attribute: vec![attribute],
        ..Default::default()
    }
}

/// A model of these nodes and initializers.
pub(super) fn model(node: Vec<NodeProto>, initializer: Vec<TensorProto>) -> ModelProto {
    let graph = GraphProto { name: Some("g".into()), node, initializer, ..Default::default() };
    ModelProto {
        ir_version: Some(8),
        opset_import: vec![OperatorSetIdProto { domain: None, version: Some(17) }],
        graph: Some(Box::new(graph)),
        ..Default::default()
    }
}

/// `[1, 2]` in every place that the scan knows, as float and as double.
pub(super) fn sample() -> ModelProto {
    let plain = raw("raw", 1, &[2], bytes_of(&[1.0, 2.0]));
    let typed = TensorProto { float_data: vec![1.0, 2.0], ..tensor("typed", 1, &[2]) };
    let double = TensorProto { double_data: vec![1.0, 2.0], ..tensor("double", 11, &[2]) };
    let attribute =
        |name: &str, kind: i32| AttributeProto { name: Some(name.into()), r#type: Some(kind), ..Default::default() };
    let value =
        AttributeProto { t: Some(Box::new(TensorProto { name: None, ..plain.clone() })), ..attribute("value", 4) };
    let floats = AttributeProto { floats: vec![1.0, 2.0], ..attribute("value_floats", 6) };
    let inner = GraphProto { initializer: vec![plain.clone()], ..Default::default() };
    let branch = AttributeProto { g: Some(Box::new(inner)), ..attribute("then_branch", 5) };
    let nodes = vec![constant("c", value), constant("d", floats), constant("e", branch)];
    let functions = vec![FunctionProto { name: Some("f".into()), ..Default::default() }];
    ModelProto { functions, ..model(nodes, vec![plain, typed, double]) }
}

/// [`sample`] with half precision, a scalar, an unpacked field and an integer besides, as bytes.
pub(super) fn everything() -> Vec<u8> {
    let mut m = sample();
    let graph = m.graph.as_mut().unwrap();
    graph.initializer.push(raw("f16", 10, &[3], [0x3c00_u16, 0x7e01, 0x8000].map(u16::to_le_bytes).concat()));
    graph.initializer.push(raw("bf16", 16, &[1, 2], [0x3f80_u16, 0x4000].map(u16::to_le_bytes).concat()));
    graph.initializer.push(raw("scalar", 1, &[], bytes_of(&[7.0])));
    graph.initializer.push(raw("steps", 7, &[1], 5_i64.to_le_bytes()));
    graph.initializer.push(TensorProto { int32_data: vec![0x3c00, 0x4000], ..tensor("halves", 10, &[2]) });
    graph.initializer.push(tensor("none", 1, &[0, 4]));
    let mut unpacked = tensor("unpacked", 1, &[2]).encode_to_vec();
    for v in [1.0_f32, 2.0] {
        unpacked.push(4 << 3 | 5);
        unpacked.extend(v.to_le_bytes());
    }
    let graph = m.graph.take().unwrap().encode_to_vec();
    [m.encode_to_vec(), field(7, &[graph, field(5, &unpacked)].concat())].concat()
}
