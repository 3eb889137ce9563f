//! Everything in a model that is not supported, found before any work is done.

use super::super::proto::{DataType, FunctionProto, ModelProto, NodeProto, TensorProto};
use super::functions::{Library, function_label};
use super::needed::Needed;
use super::{Wanted, in_range, is_default, known, node_label, opset, versions};
use crate::tensor::DType;
use std::collections::{BTreeMap, HashSet};

/// Ops of quantised models.
const QUANTISED: [&str; 8] = [
    "QuantizeLinear",
    "DequantizeLinear",
    "DynamicQuantizeLinear",
    "QLinearConv",
    "QLinearMatMul",
    "ConvInteger",
    "MatMulInteger",
    "QLinearAdd",
];

/// Nodes named in one message.
const SHOWN: usize = 5;

/// Everything in the model that is not supported, one line each, before any work is done. Ops are joined by
/// type, with the nodes that use them.
pub fn obstacles(model: &ModelProto) -> Vec<String> {
    obstacles_of(model, &Wanted::All)
}

/// [`obstacles`] in the way of these outputs.
pub fn obstacles_of(model: &ModelProto, wanted: &Wanted) -> Vec<String> {
    let mut found = Found::default();
    if let Err(e) = opset(model) {
        found.other.push(e.to_string());
    }
    let Some(graph) = &model.graph else { return found.lines() };
    let needed = match Needed::of(graph, wanted) {
        Ok(needed) => needed,
        Err(e) => {
            found.other.push(e.to_string());
            return found.lines();
        }
    };
    let library = Library::of(model);
    let nodes = || needed.nodes.iter().filter_map(|&i| Some((i, graph.node.get(i)?)));
    found.other.extend(library.obstacles(nodes().map(|(_, n)| n)));
    let default = model.opset_import.iter().find(|o| is_default(o.domain())).map_or(0, |o| o.version());
    let mut seen = HashSet::new();
    for (i, node) in nodes() {
        let label = node_label(node, i);
        match library.find(node) {
            Some(f) => found.function(&library, f, &mut seen),
            None => found.node(node, &label, default),
        }
    }
    for t in graph.initializer.iter().filter(|t| needed.reads(t.name())) {
        found.element_type(t, &format!("'{}'", t.name()));
    }
    if !graph.sparse_initializer.is_empty() {
        found.other.push("sparse initializers are not supported".to_owned());
    }
    found.lines()
}

/// Obstacles by their kind.
#[derive(Default)]
struct Found {
    /// Op, with its nodes.
    missing: BTreeMap<String, Vec<String>>,
    /// Ops of quantised models, with their nodes.
    quantised: BTreeMap<String, Vec<String>>,
    /// Op and why its form is not known, with its nodes.
    newer: BTreeMap<String, Vec<String>>,
    /// Element type, with its tensors.
    types: BTreeMap<String, Vec<String>>,
    other: Vec<String>,
}

impl Found {
    /// Looks at one node that stands in operator set `version`.
    fn node(&mut self, node: &NodeProto, label: &str, version: i64) {
        let (is_default, label) = (is_default(node.domain()), format!("'{label}'"));
        let Some(op) = known(node) else {
            if is_default && QUANTISED.contains(&node.op_type()) {
                self.quantised.entry(node.op_type().to_owned()).or_default().push(label);
            } else if !(is_default && node.op_type() == "If") {
                // which branch an `If` takes is known when the graph is built
                let domain = if is_default { String::new() } else { format!("{}.", node.domain()) };
                self.missing.entry(format!("{domain}{}", node.op_type())).or_default().push(label);
            }
            return;
        };
        for t in node.attribute.iter().filter_map(|a| a.t.as_deref()) {
            self.element_type(t, &label);
        }
        let spec = op.spec();
        if spec.domain.is_empty()
            && let Some(newer) = versions::unknown_form(spec.name, spec.version, version)
        {
            let why = format!("op {} has a new form since operator set {newer}", spec.name);
            self.newer.entry(format!("{why}, known is that of {}", spec.version)).or_default().push(label);
        }
    }

    /// Notes a tensor of a type that no graph holds.
    fn element_type(&mut self, t: &TensorProto, place: &str) {
        if DType::from_onnx(t.data_type()).is_none() {
            let kind = DataType::try_from(t.data_type()).map_or("unknown".to_owned(), |t| format!("{t:?}"));
            self.types.entry(kind.to_lowercase()).or_default().push(place.to_owned());
        }
    }

    /// Looks at the body of a function, and of those that it calls.
    fn function<'m>(&mut self, library: &Library<'m>, f: &'m FunctionProto, seen: &mut HashSet<*const FunctionProto>) {
        let mut open = vec![f];
        while let Some(f) = open.pop() {
            if !seen.insert(std::ptr::from_ref(f)) {
                continue;
            }
            let version = library.opset_of(f).unwrap_or_default();
            if let Err(e) = in_range(version) {
                self.other.push(e.at(format!("function {}", function_label(f))).to_string());
            }
            for (i, inner) in f.node.iter().enumerate() {
                match library.find(inner) {
                    Some(g) => open.push(g),
                    None => self.node(inner, &format!("{}/{}", function_label(f), node_label(inner, i)), version),
                }
            }
        }
    }

    fn lines(self) -> Vec<String> {
        let mut out = self.other;
        out.extend(self.missing.iter().map(|(op, nodes)| format!("op {op} is not supported (node {})", some(nodes))));
        if !self.quantised.is_empty() {
            let ops: Vec<&str> = self.quantised.keys().map(String::as_str).collect();
            let nodes: Vec<String> = self.quantised.values().flatten().cloned().collect();
            out.push(format!(
                "the model is quantised ({}; node {}): rounded weights have no gradients; use the float model that it \
                 was made from and quantise the result again",
                ops.join(", "),
                some(&nodes)
            ));
        }
        out.extend(self.newer.iter().map(|(why, nodes)| format!("{why} (node {})", some(nodes))));
        out.extend(
            self.types.iter().map(|(t, names)| format!("elements of type {t} are not supported ({})", some(names))),
        );
        out
    }
}

fn some(names: &[String]) -> String {
    let more = names.len().saturating_sub(SHOWN);
    let shown: Vec<&str> = names.iter().take(SHOWN).map(String::as_str).collect();
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{}{more}", shown.join(", "))
}
