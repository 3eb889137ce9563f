//! Graphs as ONNX models of standard operators, which any runtime takes.

use super::proto::{
    AttributeProto, AttributeType, Dimension, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto,
    TensorShapeProto, TypeProto, ValueInfoProto, dimension, type_proto,
};
use crate::error::{Error, Result};
use crate::graph::{Attr, Graph, Node, OPSET, Source, ValueId, passes};
use crate::ops::{INTERNAL, MANY};
use crate::tensor::{Array, DType, TensorType};
use bytemuck::NoUninit;
use bytes::Bytes;
use ndarray::{ArcArray, IxDyn};
use prost::Message;
use std::collections::{HashMap, HashSet};

/// Protobuf's limit for one message, and so for a model file without external data.
const LARGEST: usize = (1 << 31) - 1;

/// What [`export`] cannot know from the graph.
#[derive(Clone, Debug, Default)]
pub struct ExportOptions {
    /// Name of the graph; `onnx-unlearn` when empty.
    pub graph_name: String,
    /// Names of the outputs, in order. An output beyond the list, or whose name here is empty, keeps the
    /// name of its value.
    pub output_names: Vec<String>,
}

/// The graph as an ONNX model (<https://onnx.ai/onnx/repo-docs/IR.html>): without nodes that reach no
/// output, our own ops lowered to standard ones, weights and constants as initializers, all shapes static.
///
/// Inputs, weights and the model's values keep their names where no two share one; our own values are
/// numbered. An output that is not the sole output of a node (an input, a constant, the same value twice)
/// is made by an `Identity`.
///
/// # Errors
/// When [`ExportOptions::output_names`] has too many names, repeats one, or takes that of an input or weight.
pub fn export(graph: &Graph, options: &ExportOptions) -> Result<ModelProto> {
    let graph = lowered(graph)?;
    let mut names = Names::default();
    let Outputs { names: output_names, copies } = name_outputs(&graph, options, &mut names)?;
    let mut proto = GraphProto {
        name: Some(if options.graph_name.is_empty() { "onnx-unlearn".into() } else { options.graph_name.clone() }),
        ..GraphProto::default()
    };
    for &id in &graph.inputs {
        let name = names.of(&graph, id);
        proto.input.push(value_info(name, &graph.value(id).ty)?);
    }
    let read = graph.nodes().iter().flat_map(|n| n.inputs.iter().flatten()).chain(copies.iter().map(|(id, _)| id));
    let mut seen = HashSet::new();
    for &id in read.filter(|id| seen.insert(**id)) {
        let v = graph.value(id);
        let elements = match &v.source {
            Source::Const(a) | Source::Weight(a) => Some(a.clone()),
            Source::Stored(elements) => Some(elements.read()?),
            _ => None,
        };
        if let Some(a) = elements {
            let tensor = tensor(&a, v.ty.dtype).map_err(|e| e.at(graph.label(id)))?;
            proto.initializer.push(TensorProto { name: Some(names.of(&graph, id)), ..tensor });
        }
    }
    let made: HashSet<ValueId> = graph.outputs.iter().copied().collect();
    let mut node_names = Unique::default();
    for node in graph.nodes() {
        for &id in node.outputs.iter().flatten().filter(|id| !made.contains(id)) {
            proto.value_info.push(value_info(names.of(&graph, id), &graph.value(id).ty)?);
        }
        let wanted = if node.name.is_empty() { node.op.spec().name } else { &node.name };
        let name = node_names.claim(wanted);
        proto.node.push(node_proto(&graph, node, name, &mut names)?);
    }
    for (id, output) in copies {
        proto.node.push(NodeProto {
            input: vec![names.of(&graph, id)],
            name: Some(node_names.claim(&output)),
            output: vec![output],
            op_type: Some("Identity".into()),
            ..NodeProto::default()
        });
    }
    for (&id, name) in graph.outputs.iter().zip(output_names) {
        proto.output.push(value_info(name, &graph.value(id).ty)?);
    }
    // not that of the model: runtimes often know fewer operator sets than exporters
    let needed = graph.nodes().iter().map(|n| n.op.opset(&graph.view_of(n)));
    let opset = needed.fold(OPSET, i64::max);
    Ok(ModelProto {
        ir_version: Some(ir_version(opset)),
        producer_name: Some(env!("CARGO_PKG_NAME").into()),
        producer_version: Some(env!("CARGO_PKG_VERSION").into()),
        graph: Some(Box::new(proto)),
        opset_import: vec![OperatorSetIdProto { domain: Some(String::new()), version: Some(opset) }],
        ..ModelProto::default()
    })
}

/// [`export`] as the bytes of an `.onnx` file.
///
/// # Errors
/// As [`export`], and when the file would exceed the 2 GiB of a protobuf message.
pub fn to_bytes(graph: &Graph, options: &ExportOptions) -> Result<Vec<u8>> {
    let model = export(graph, options)?;
    let size = model.encoded_len();
    if size > LARGEST {
        return Err(Error::unsupported(format!("the model takes {size} bytes, more than the 2 GiB of an ONNX file")));
    }
    Ok(model.encode_to_vec())
}

/// The file format version that came with an operator set, which tools of its time accept.
fn ir_version(opset: i64) -> i64 {
    match opset {
        ..=18 => 8,
        19..=20 => 9,
        21..=22 => 10,
        23 => 11,
        24 => 12,
        _ => 13,
    }
}

/// The pruned graph without ops of our own or newer than its operator set.
///
/// # Errors
/// When an op of our own cannot be expressed by standard ones.
pub(crate) fn lowered(graph: &Graph) -> Result<Graph> {
    let mut graph = graph.clone();
    passes::prune(&mut graph);
    // a lowering may use another op of our own, so go on until there is none
    loop {
        graph = lower_once(&graph)?;
        passes::prune(&mut graph);
        if graph.nodes().iter().all(|n| n.op.spec().domain != INTERNAL) {
            return Ok(graph);
        }
    }
}

fn lower_once(from: &Graph) -> Result<Graph> {
    let mut to = Graph::new(from.batch);
    to.opset = from.opset;
    let mut map: HashMap<ValueId, ValueId> = HashMap::new();
    for &id in &from.inputs {
        let v = from.value(id);
        map.insert(id, to.input(from.label(id), v.ty.clone(), v.batch));
    }
    for id in from.ids() {
        let v = from.value(id);
        let new = match &v.source {
            Source::Const(a) => to.constant_as(a.clone(), v.ty.dtype),
            Source::Weight(a) => to.weight(from.label(id), a.clone()),
            Source::Stored(elements) => to.stored(from.label(id), v.ty.clone(), elements.clone()),
            _ => continue,
        };
        to.value_mut(new).name.clone_from(&v.name);
        map.insert(id, new);
    }
    for node in from.nodes() {
        let known = |id: &ValueId| map.get(id).copied();
        let inputs: Vec<Option<ValueId>> = node.inputs.iter().map(|i| i.as_ref().and_then(known)).collect();
        to.set_scope(node.name.as_str());
        let spec = node.op.spec();
        let lower = node.op.lower(&mut to, &inputs, &node.attrs);
        let outputs = match lower.map_err(|e| e.at(format!("lowering {}", spec.name)))? {
            Some(made) => made.into_iter().map(Some).collect(),
            None if spec.domain == INTERNAL => {
                return Err(Error::internal(format!("{} has no lowering", spec.name)));
            }
            None => {
                let wanted: Vec<bool> = node.outputs.iter().map(Option::is_some).collect();
                to.push_multi(node.op, &inputs, node.attrs.clone(), &wanted)?
            }
        };
        for (old, new) in node.outputs.iter().zip(outputs) {
            let (Some(old), Some(new)) = (*old, new) else { continue };
            if from.value(old).ty != to.value(new).ty {
                return Err(Error::internal(format!(
                    "{} is {}, its lowering gives {}",
                    spec.name,
                    from.value(old).ty,
                    to.value(new).ty
                )));
            }
            let value = to.value_mut(new);
            value.batch = from.value(old).batch;
            if value.name.is_none() {
                value.name.clone_from(&from.value(old).name);
            }
            map.insert(old, new);
        }
    }
    let outputs = from.outputs.iter().map(|o| map.get(o).copied()).collect::<Option<Vec<_>>>();
    to.outputs = outputs.ok_or_else(|| Error::internal("an output was never computed"))?;
    Ok(to)
}

/// Names given out once each.
#[derive(Default)]
struct Unique {
    taken: HashSet<String>,
    next: HashMap<String, usize>,
}

impl Unique {
    /// `wanted`, or `wanted_1`, `wanted_2`, … when it is taken.
    fn claim(&mut self, wanted: &str) -> String {
        let mut name = wanted.to_owned();
        let next = self.next.entry(name.clone()).or_insert(0);
        while !self.taken.insert(name.clone()) {
            *next += 1;
            name = format!("{wanted}_{next}");
        }
        name
    }
}

/// The name of every value in the file.
#[derive(Default)]
struct Names {
    unique: Unique,
    given: HashMap<ValueId, String>,
}

impl Names {
    fn of(&mut self, graph: &Graph, id: ValueId) -> String {
        let unique = &mut self.unique;
        let name = self.given.entry(id).or_insert_with(|| match &graph.value(id).name {
            Some(name) if !name.is_empty() => unique.claim(name),
            _ => unique.claim(&format!("v{}", id.index())),
        });
        name.clone()
    }
}

/// The outputs of the file.
#[derive(Default)]
struct Outputs {
    names: Vec<String>,
    /// Those that an `Identity` makes, with the value that it copies.
    copies: Vec<(ValueId, String)>,
}

/// Names inputs, weights and outputs, which come before all other values.
fn name_outputs(graph: &Graph, options: &ExportOptions, names: &mut Names) -> Result<Outputs> {
    let asked = &options.output_names;
    if asked.len() > graph.outputs.len() {
        return Err(Error::invalid(format!("{} output names for {} outputs", asked.len(), graph.outputs.len())));
    }
    let asked: Vec<&str> = asked.iter().map(String::as_str).filter(|n| !n.is_empty()).collect();
    let asked_for = |k: usize| options.output_names.get(k).filter(|n| !n.is_empty());
    let fixed = graph.inputs.iter().copied().chain(graph.weights().map(|(id, _)| id));
    let mut fixed_names = HashSet::new();
    for id in fixed {
        fixed_names.insert(names.of(graph, id));
    }
    for name in asked {
        if fixed_names.contains(name) {
            return Err(Error::invalid(format!("output name '{name}' is that of an input or weight")));
        }
        if !names.unique.taken.insert(name.to_owned()) {
            return Err(Error::invalid(format!("output name '{name}' is given twice")));
        }
    }
    let mut outputs = Outputs::default();
    for (k, &id) in graph.outputs.iter().enumerate() {
        let direct = matches!(graph.value(id).source, Source::Node { .. }) && !names.given.contains_key(&id);
        let own = graph.value(id).name.clone().filter(|n| !n.is_empty());
        let name = match (asked_for(k), own) {
            (Some(name), _) => name.clone(),
            (None, Some(own)) if direct => names.unique.claim(&own),
            (None, Some(own)) => names.unique.claim(&format!("{own}_output")),
            (None, None) => names.unique.claim(&format!("output_{k}")),
        };
        if direct {
            names.given.insert(id, name.clone());
        } else {
            outputs.copies.push((id, name.clone()));
        }
        outputs.names.push(name);
    }
    Ok(outputs)
}

fn node_proto(graph: &Graph, node: &Node, name: String, names: &mut Names) -> Result<NodeProto> {
    let mut list = |ids: &[Option<ValueId>]| -> Vec<String> {
        let given = ids.iter().rposition(Option::is_some).map_or(0, |i| i + 1);
        ids.iter().take(given).map(|id| id.map_or_else(String::new, |id| names.of(graph, id))).collect()
    };
    let (input, mut output) = (list(&node.inputs), list(&node.outputs));
    // only an optional output may go without a name, and none of an op with any number of them (Split)
    let spec = node.op.spec();
    let required = if spec.outputs.1 == MANY { node.op.infer(&graph.view_of(node))?.len() } else { spec.outputs.0 };
    if output.len() < required {
        output.resize(required, String::new());
    }
    for name in output.iter_mut().take(required).filter(|n| n.is_empty()) {
        *name = names.unique.claim("unused");
    }
    Ok(NodeProto {
        input,
        output,
        name: Some(name),
        op_type: Some(spec.name.into()),
        attribute: node.attrs.iter().map(|(name, value)| attribute(name, value)).collect::<Result<_>>()?,
        ..NodeProto::default()
    })
}

fn attribute(name: &str, value: &Attr) -> Result<AttributeProto> {
    let a = AttributeProto { name: Some(name.into()), ..AttributeProto::default() };
    let (a, kind) = match value {
        Attr::Int(v) => (AttributeProto { i: Some(*v), ..a }, AttributeType::Int),
        Attr::Float(v) => (AttributeProto { f: Some(*v), ..a }, AttributeType::Float),
        Attr::Str(v) => (AttributeProto { s: Some(Bytes::from(v.clone())), ..a }, AttributeType::String),
        Attr::Ints(v) => (AttributeProto { ints: v.clone(), ..a }, AttributeType::Ints),
        Attr::Floats(v) => (AttributeProto { floats: v.clone(), ..a }, AttributeType::Floats),
        Attr::Strs(v) => {
            let strings = v.iter().map(|s| Bytes::from(s.clone())).collect();
            (AttributeProto { strings, ..a }, AttributeType::Strings)
        }
        Attr::Tensor(v, dtype) => {
            let t = tensor(v, *dtype).map_err(|e| e.at(format!("attribute {name}")))?;
            (AttributeProto { t: Some(Box::new(t)), ..a }, AttributeType::Tensor)
        }
    };
    Ok(AttributeProto { r#type: Some(kind.into()), ..a })
}

fn value_info(name: String, ty: &TensorType) -> Result<ValueInfoProto> {
    let dim = |d| Ok(Dimension { value: Some(dimension::Value::DimValue(d)), ..Dimension::default() });
    let shape = TensorShapeProto { dim: dims(&ty.shape)?.into_iter().map(dim).collect::<Result<_>>()? };
    let tensor = type_proto::Tensor { elem_type: Some(ty.dtype.onnx()), shape: Some(shape) };
    let ty = TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..TypeProto::default() };
    Ok(ValueInfoProto { name: Some(name), r#type: Some(ty), ..ValueInfoProto::default() })
}

fn dims(shape: &[usize]) -> Result<Vec<i64>> {
    let too_large = |_| Error::unsupported(format!("shape {shape:?} exceeds 64 bits"));
    shape.iter().map(|&d| i64::try_from(d).map_err(too_large)).collect()
}

/// The elements in their exact type, little endian; not copied where they are stored that way.
fn tensor(array: &Array, dtype: DType) -> Result<TensorProto> {
    let ints = || array.slice::<i64>();
    let raw = match dtype {
        DType::F32 => shared(array.typed::<f32>()?),
        DType::F64 => shared(array.typed::<f64>()?),
        DType::Bool => shared(array.typed::<bool>()?),
        DType::I64 => shared(array.typed::<i64>()?),
        DType::I8 => packed::<i8>(ints()?, dtype)?,
        DType::I16 => packed::<i16>(ints()?, dtype)?,
        DType::I32 => packed::<i32>(ints()?, dtype)?,
        DType::U8 => packed::<u8>(ints()?, dtype)?,
        DType::U16 => packed::<u16>(ints()?, dtype)?,
        DType::U32 => packed::<u32>(ints()?, dtype)?,
        DType::U64 => packed::<u64>(ints()?, dtype)?,
    };
    Ok(TensorProto {
        dims: dims(array.shape())?,
        data_type: Some(dtype.onnx()),
        raw_data: Some(raw),
        ..TensorProto::default()
    })
}

// ONNX is little endian, and so is every platform that wgpu and ONNX Runtime run on
#[cfg(target_endian = "big")]
compile_error!("big-endian platforms are not supported");

struct Raw<T>(ArcArray<T, IxDyn>);

impl<T: NoUninit> AsRef<[u8]> for Raw<T> {
    fn as_ref(&self) -> &[u8] {
        bytemuck::cast_slice(self.0.as_slice().unwrap_or_default())
    }
}

/// The memory of an array, which the bytes keep alive.
fn shared<T: NoUninit + Send + Sync>(array: &ArcArray<T, IxDyn>) -> Bytes {
    Bytes::from_owner(Raw(array.clone()))
}

fn packed<T: NoUninit + TryFrom<i64>>(v: &[i64], dtype: DType) -> Result<Bytes> {
    narrowed::<T>(v, dtype).map(|v| Bytes::copy_from_slice(bytemuck::cast_slice(&v)))
}

/// Integers in the type that stands for `dtype`.
///
/// # Errors
/// When one does not fit.
pub(crate) fn narrowed<T: TryFrom<i64>>(v: &[i64], dtype: DType) -> Result<Vec<T>> {
    v.iter().map(|&i| T::try_from(i).map_err(|_| Error::invalid(format!("{i} does not fit {dtype}")))).collect()
}
