//! The part of a model's graph that the outputs asked for come from.

use super::super::proto::{DataType, GraphProto, NodeProto, ValueInfoProto, type_proto};
use super::Wanted;
use super::functions::all_nodes;
use crate::error::{Error, Result};
use std::collections::{HashMap, HashSet};

/// Nodes and outputs that are imported.
pub(super) struct Needed<'m> {
    /// Positions of nodes, in the model's order.
    pub nodes: Vec<usize>,
    /// Name of every output, and the value that stands for it.
    pub outputs: Vec<(&'m str, &'m str)>,
    read: HashSet<&'m str>,
}

impl<'m> Needed<'m> {
    /// # Errors
    /// When the model has no output of the name asked for, or none that holds floats.
    pub(super) fn of(graph: &'m GraphProto, wanted: &Wanted) -> Result<Self> {
        let makers = makers(graph);
        let outputs = outputs(graph, wanted, &makers)?;
        let mut read: HashSet<&str> = HashSet::new();
        let mut is_needed = vec![false; graph.node.len()];
        let mut open: Vec<&str> = outputs.iter().map(|(_, value)| *value).collect();
        while let Some(name) = open.pop() {
            if !read.insert(name) {
                continue;
            }
            let Some(&maker) = makers.get(name) else { continue };
            let (Some(node), Some(flag)) = (graph.node.get(maker), is_needed.get_mut(maker)) else { continue };
            if !std::mem::replace(flag, true) {
                let inner = all_nodes(std::slice::from_ref(node));
                open.extend(inner.into_iter().flat_map(|n| &n.input).map(String::as_str).filter(|n| !n.is_empty()));
                // what a branch hands on may be a value from outside of it
                let graphs = all_nodes(std::slice::from_ref(node)).into_iter().flat_map(|n| &n.attribute);
                open.extend(graphs.filter_map(|a| a.g.as_deref()).flat_map(|g| &g.output).map(|o| o.name()));
            }
        }
        let nodes = is_needed.iter().enumerate().filter(|(_, n)| **n).map(|(i, _)| i).collect();
        Ok(Self { nodes, outputs, read })
    }

    /// The first value that a needed node or output reads and that nothing in the model gives.
    pub(super) fn missing(&self, graph: &'m GraphProto) -> Option<&'m str> {
        let made = graph.node.iter().flat_map(|n| &n.output).map(String::as_str);
        let held = graph.initializer.iter().map(|t| t.name());
        let given: HashSet<&str> = made.chain(held).chain(graph.input.iter().map(|i| i.name())).collect();
        let nodes = self.nodes.iter().filter_map(|&i| graph.node.get(i));
        let read = nodes.flat_map(|n| &n.input).map(String::as_str).chain(self.outputs.iter().map(|o| o.1));
        read.into_iter().find(|name| !name.is_empty() && !given.contains(name))
    }

    /// True when a needed node or output reads the value of that name.
    pub(super) fn reads(&self, name: &str) -> bool {
        self.read.contains(name)
    }
}

/// Which node makes each value.
fn makers(graph: &GraphProto) -> HashMap<&str, usize> {
    let mut makers = HashMap::new();
    for (i, node) in graph.node.iter().enumerate() {
        for name in node.output.iter().filter(|o| !o.is_empty()) {
            makers.insert(name.as_str(), i);
        }
    }
    makers
}

fn outputs<'m>(
    graph: &'m GraphProto,
    wanted: &Wanted,
    makers: &HashMap<&str, usize>,
) -> Result<Vec<(&'m str, &'m str)>> {
    let all = || graph.output.iter().map(|o| (o.name(), o.name()));
    let Wanted::Answer(asked) = wanted else { return Ok(all().collect()) };
    let told = || graph.output.iter().map(describe).collect::<Vec<_>>().join(", ");
    let chosen: Vec<&ValueInfoProto> = match asked {
        Some(name) => {
            let found = graph.output.iter().find(|o| o.name() == name);
            vec![found.ok_or_else(|| Error::invalid(format!("the model has no output '{name}'; it has {}", told())))?]
        }
        None => graph.output.iter().collect(),
    };
    let mut out = Vec::new();
    for o in chosen {
        let maker = makers.get(o.name()).and_then(|&i| graph.node.get(i));
        if let Some(probabilities) = maker.and_then(zipped) {
            out.push((o.name(), probabilities));
        } else if holds_floats(o) {
            out.push((o.name(), o.name()));
        }
    }
    if out.is_empty() {
        return Err(Error::unsupported(format!(
            "no output is [samples, classes] of floats, as a classifier's is; the model has {}",
            told()
        )));
    }
    Ok(out)
}

/// What a `ZipMap` node makes maps of.
fn zipped(node: &NodeProto) -> Option<&str> {
    (node.domain() == "ai.onnx.ml" && node.op_type() == "ZipMap").then_some(node.input.first()?.as_str())
}

/// True for a tensor of floats, and where the model does not say what it is.
fn holds_floats(output: &ValueInfoProto) -> bool {
    use DataType as T;
    match output.r#type.as_ref().and_then(|t| t.value.as_ref()) {
        None => true,
        Some(type_proto::Value::TensorType(t)) => matches!(
            T::try_from(t.elem_type.unwrap_or_default()),
            Ok(T::Undefined | T::Float | T::Float16 | T::Bfloat16 | T::Double)
        ),
        Some(_) => false,
    }
}

/// An output as messages name it.
fn describe(output: &ValueInfoProto) -> String {
    let kind = match output.r#type.as_ref().and_then(|t| t.value.as_ref()) {
        Some(type_proto::Value::TensorType(t)) => match DataType::try_from(t.elem_type.unwrap_or_default()) {
            Ok(t) => format!("{t:?}").to_lowercase(),
            Err(_) => "of unknown type".to_owned(),
        },
        Some(_) => "no tensor".to_owned(),
        None => "of unknown type".to_owned(),
    };
    format!("'{}' ({kind})", output.name())
}
