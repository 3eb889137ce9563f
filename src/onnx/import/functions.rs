//! Functions local to a model, written out where they are called, and branches whose condition is settled.

use super::super::proto::{AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto};
use super::{Import, in_range, is_default, known, node_label, subgraph};
use crate::error::{Error, Result};
use crate::graph::{Attr, ValueId};
use std::collections::{HashMap, HashSet};

/// A model with more nodes than this, functions written out, is refused.
const MAX_NODES: usize = 1 << 20;
/// Functions that call each other deeper than this are refused.
const MAX_DEPTH: usize = 64;

/// Ops whose inputs of these numbers are parameters.
const PARAMETERS: [(&str, &[usize]); 5] = [
    ("Conv", &[1, 2]),
    ("ConvTranspose", &[1, 2]),
    ("Gemm", &[1, 2]),
    ("MatMul", &[1]),
    ("BatchNormalization", &[1, 2]),
];

type Key<'m> = (&'m str, &'m str, &'m str);

fn domain(d: &str) -> &str {
    if is_default(d) { "" } else { d }
}

/// What a function is called in messages, and what its weights' names begin with.
pub(super) fn function_label(f: &FunctionProto) -> String {
    let mut label = f.name().to_owned();
    if !is_default(f.domain()) {
        label = format!("{}.{label}", f.domain());
    }
    if !f.overload().is_empty() {
        label = format!("{label}:{}", f.overload());
    }
    label
}

/// The name of the weight that a Constant node in a function's body holds.
pub(in super::super) fn weight_name(f: &FunctionProto, output: &str) -> String {
    format!("{}/{output}", function_label(f))
}

/// The functions of a model.
pub(super) struct Library<'m> {
    functions: HashMap<Key<'m>, &'m FunctionProto>,
    opset: Option<i64>,
}

impl<'m> Library<'m> {
    pub(super) fn of(model: &'m ModelProto) -> Self {
        let functions = model.functions.iter().map(|f| ((domain(f.domain()), f.name(), f.overload()), f)).collect();
        let opset = model.opset_import.iter().find(|o| is_default(o.domain())).map(|o| o.version());
        Self { functions, opset }
    }

    /// The function that a node calls.
    pub(super) fn find(&self, node: &NodeProto) -> Option<&'m FunctionProto> {
        // the keys live as long as the model, the node may not
        let functions: &HashMap<Key<'_>, &'m FunctionProto> = &self.functions;
        functions.get(&(domain(node.domain()), node.op_type(), node.overload())).copied()
    }

    /// The version of the default operator set in a function's body.
    pub(super) fn opset_of(&self, f: &FunctionProto) -> Option<i64> {
        f.opset_import.iter().find(|o| is_default(o.domain())).map(|o| o.version()).or(self.opset)
    }

    /// The newest of all operator sets in use.
    pub(super) fn newest_opset(&self, of_model: i64) -> i64 {
        self.functions.values().filter_map(|f| self.opset_of(f)).fold(of_model, i64::max)
    }

    /// What keeps the functions that `nodes` call from being written out: recursion, depth, size.
    pub(super) fn obstacles<'p>(&self, nodes: impl Iterator<Item = &'p NodeProto>) -> Vec<String> {
        let mut sizes = HashMap::new();
        let mut total = 0_usize;
        let mut out = Vec::new();
        for node in nodes {
            let Some(f) = self.find(node) else { continue };
            match self.size(f, &mut sizes, 0) {
                Ok(n) => total = total.saturating_add(n),
                Err(e) => out.push(e.to_string()),
            }
        }
        if total > MAX_NODES {
            out.push(format!("its functions written out have more than {MAX_NODES} nodes"));
        }
        out.dedup();
        out
    }

    /// Number of nodes of a function with the functions that it calls written out. A size of `None` is being
    /// counted: who meets it calls itself.
    fn size(
        &self,
        f: &'m FunctionProto,
        sizes: &mut HashMap<*const FunctionProto, Option<usize>>,
        depth: usize,
    ) -> Result<usize> {
        let here = std::ptr::from_ref(f);
        match sizes.get(&here) {
            Some(Some(n)) => return Ok(*n),
            Some(None) => {
                return Err(Error::format(format!("function {} calls itself", function_label(f))));
            }
            None if depth > MAX_DEPTH => {
                return Err(Error::unsupported(format!("functions call each other deeper than {MAX_DEPTH}")));
            }
            None => {}
        }
        sizes.insert(here, None);
        let mut n = 0_usize;
        for node in all_nodes(&f.node) {
            n = n.saturating_add(match self.find(node) {
                Some(inner) => self.size(inner, sizes, depth.saturating_add(1))?,
                None => 1,
            });
        }
        sizes.insert(here, Some(n));
        Ok(n)
    }

    /// Names among `nodes` that ops read as settings or statistics, in functions as well. Names inside a function
    /// have its label in front, as its weights have.
    pub(super) fn frozen(&self, nodes: &[NodeProto]) -> HashSet<String> {
        self.read_by(nodes, &|node| known(node).map_or(&[], |op| op.frozen_inputs()))
    }

    /// Names among `nodes` that ops read as parameters.
    pub(super) fn parameters(&self, nodes: &[NodeProto]) -> HashSet<String> {
        let of = |node: &NodeProto| -> &'static [usize] {
            PARAMETERS.iter().find(|(op, _)| *op == node.op_type()).map_or(&[], |(_, inputs)| *inputs)
        };
        self.read_by(nodes, &of)
    }

    fn read_by(&self, nodes: &[NodeProto], of: &dyn Fn(&NodeProto) -> &'static [usize]) -> HashSet<String> {
        let mut bodies: HashMap<*const FunctionProto, HashSet<String>> = HashMap::new();
        let mut out = self.read_in(nodes, of, &mut bodies, 0);
        for f in self.functions.values() {
            if let Some(names) = bodies.get(&std::ptr::from_ref(*f)) {
                out.extend(names.iter().map(|n| weight_name(f, n)));
            }
        }
        out
    }

    fn read_in(
        &self,
        nodes: &[NodeProto],
        of: &dyn Fn(&NodeProto) -> &'static [usize],
        bodies: &mut HashMap<*const FunctionProto, HashSet<String>>,
        depth: usize,
    ) -> HashSet<String> {
        let mut out = HashSet::new();
        for node in all_nodes(nodes) {
            let Some(f) = self.find(node) else {
                out.extend(of(node).iter().filter_map(|&i| node.input.get(i).cloned()));
                continue;
            };
            let key = std::ptr::from_ref(f);
            if !bodies.contains_key(&key) && depth <= MAX_DEPTH {
                let inner = self.read_in(&f.node, of, bodies, depth.saturating_add(1));
                bodies.insert(key, inner);
            }
            if let Some(inner) = bodies.get(&key) {
                let pairs = f.input.iter().zip(&node.input);
                out.extend(pairs.filter(|(formal, _)| inner.contains(*formal)).map(|(_, actual)| actual.clone()));
            }
        }
        out
    }
}

/// The nodes and those of the branches of `If` among them.
pub(super) fn all_nodes(nodes: &[NodeProto]) -> Vec<&NodeProto> {
    let mut out: Vec<&NodeProto> = Vec::new();
    let mut rest: Vec<&NodeProto> = nodes.iter().rev().collect();
    while let Some(node) = rest.pop() {
        out.push(node);
        for g in node.attribute.iter().filter_map(|a| a.g.as_deref()) {
            rest.extend(g.node.iter().rev());
        }
    }
    out
}

/// Where names mean something: the model's graph, a function call, or a branch.
pub(super) struct Scope {
    names: HashMap<String, ValueId>,
    /// Attributes of the call, and the function's own values for those that it does not give.
    attrs: HashMap<String, Attr>,
    opset: i64,
    /// In front of the names of nodes and values: the calling node.
    prefix: String,
    /// In front of the names of weights: the function. `None` in the model's graph.
    function: Option<String>,
    /// A branch sees the names around it; a function does not.
    sees_outer: bool,
}

impl Scope {
    pub(super) fn of_model(opset: i64) -> Self {
        Self {
            names: HashMap::new(),
            attrs: HashMap::new(),
            opset,
            prefix: String::new(),
            function: None,
            sees_outer: false,
        }
    }
}

impl Import<'_> {
    fn prefix(&self) -> &str {
        self.scopes.last().map_or("", |s| &s.prefix)
    }
    pub(super) fn opset(&self) -> i64 {
        self.scopes.last().map_or(0, |s| s.opset)
    }
    /// The name of a node for messages: behind those of the nodes that called its function.
    pub(super) fn label(&self, node: &NodeProto, index: usize) -> String {
        format!("{}{}", self.prefix(), node_label(node, index))
    }
    /// The name that a weight has in the file.
    pub(super) fn place(&self, name: &str) -> String {
        match self.scopes.last().and_then(|s| s.function.as_ref()) {
            Some(function) => format!("{function}/{name}"),
            None => name.to_owned(),
        }
    }
    /// True inside a branch, whose tensors are not listed as weights of the file.
    pub(super) fn in_branch(&self) -> bool {
        self.scopes.last().is_some_and(|s| s.sees_outer)
    }
    pub(super) fn is_frozen(&self, name: &str) -> bool {
        self.frozen.contains(&self.place(name))
    }
    /// An attribute of the call that is being written out.
    pub(super) fn of_call(&self, name: &str) -> Result<Option<Attr>> {
        match self.scopes.last() {
            Some(scope) if scope.function.is_some() => Ok(scope.attrs.get(name).cloned()),
            _ => Err(Error::format(format!("attribute '{name}' is referred to outside of a function"))),
        }
    }

    pub(super) fn lookup(&self, name: &str) -> Result<ValueId> {
        for scope in self.scopes.iter().rev() {
            if let Some(&id) = scope.names.get(name) {
                return Ok(id);
            }
            if !scope.sees_outer {
                break;
            }
        }
        Err(Error::format(format!("value '{name}' is used before any node or initializer gives it")))
    }

    pub(super) fn define(&mut self, name: &str, id: ValueId) -> Result<()> {
        let full = format!("{}{name}", self.prefix());
        let scope = self.scopes.last_mut().ok_or_else(|| Error::internal("names outside of any graph"))?;
        if scope.names.insert(name.to_owned(), id).is_some() {
            return Err(Error::format(format!("value '{name}' is given twice")));
        }
        let value = self.g.value_mut(id);
        if value.name.is_none() {
            value.name = Some(full);
        }
        Ok(())
    }

    /// Writes a function out.
    pub(super) fn call(&mut self, f: &FunctionProto, node: &NodeProto, label: &str) -> Result<()> {
        let here = |e: Error| e.at(format!("function {}", function_label(f)));
        if node.input.len() > f.input.len() || node.output.len() > f.output.len() {
            return Err(here(Error::format(format!(
                "node '{label}' has {} inputs and {} outputs, the function {} and {}",
                node.input.len(),
                node.output.len(),
                f.input.len(),
                f.output.len()
            ))));
        }
        let mut scope = Scope {
            opset: in_range(self.library.opset_of(f).unwrap_or_else(|| self.opset())).map_err(here)?,
            prefix: format!("{label}/"),
            function: Some(function_label(f)),
            ..Scope::of_model(0)
        };
        for (formal, actual) in f.input.iter().zip(&node.input) {
            if !actual.is_empty() {
                scope.names.insert(formal.clone(), self.lookup(actual).map_err(here)?);
            }
        }
        self.call_attributes(f, &node.attribute, &mut scope).map_err(here)?;
        let left_out: HashSet<&str> = f
            .input
            .iter()
            .enumerate()
            .filter(|(i, _)| node.input.get(*i).is_none_or(String::is_empty))
            .map(|(_, name)| name.as_str())
            .collect();
        self.scopes.push(scope);
        let done = self.body(&f.node, &f.output, &left_out);
        self.scopes.pop();
        let outputs = done?;
        for (name, id) in node.output.iter().zip(outputs).filter(|(name, _)| !name.is_empty()) {
            self.define(name, id).map_err(here)?;
        }
        Ok(())
    }

    fn call_attributes(&self, f: &FunctionProto, given: &[AttributeProto], scope: &mut Scope) -> Result<()> {
        for default in &f.attribute_proto {
            scope.attrs.insert(default.name().to_owned(), self.attribute(default)?);
        }
        for (name, value) in self.attributes(given)?.iter() {
            scope.attrs.insert(name.to_owned(), value.clone());
        }
        Ok(())
    }

    /// Adds the nodes of a body in the innermost scope; gives its outputs. Inputs of these nodes that name a
    /// left-out input of the function are left out as well.
    fn body(&mut self, nodes: &[NodeProto], outputs: &[String], left_out: &HashSet<&str>) -> Result<Vec<ValueId>> {
        let mut read: HashSet<&str> = outputs.iter().map(String::as_str).collect();
        read.extend(all_nodes(nodes).into_iter().flat_map(|n| n.input.iter().map(String::as_str)));
        for (i, node) in nodes.iter().enumerate() {
            let is_read = |name: &str| read.contains(name);
            if node.input.iter().any(|name| left_out.contains(name.as_str())) {
                let mut node = node.clone();
                node.input.iter_mut().filter(|name| left_out.contains(name.as_str())).for_each(String::clear);
                self.node(&node, i, &is_read)?;
            } else {
                self.node(node, i, &is_read)?;
            }
        }
        outputs.iter().map(|name| self.lookup(name)).collect()
    }

    /// Writes out the branch that a settled condition takes.
    pub(super) fn branch(&mut self, node: &NodeProto, label: &str) -> Result<()> {
        let condition = node.input.first().ok_or_else(|| Error::format("the condition is missing"))?;
        let condition = self.lookup(condition)?;
        let taken = self.g.constant_of(condition).and_then(|a| a.to_f64().first().map(|&v| v != 0.0));
        let taken = taken.ok_or_else(|| {
            Error::unsupported("the condition has to be constant, and here it depends on the model's inputs")
        })?;
        let name = if taken { "then_branch" } else { "else_branch" };
        let graph = subgraph(node, name).ok_or_else(|| Error::format(format!("attribute {name} is missing")))?;
        let outer = self.scopes.last();
        self.scopes.push(Scope {
            opset: self.opset(),
            prefix: format!("{label}/"),
            function: outer.and_then(|s| s.function.clone()),
            attrs: outer.map(|s| s.attrs.clone()).unwrap_or_default(),
            sees_outer: true,
            ..Scope::of_model(0)
        });
        let done = self.branch_body(graph);
        self.scopes.pop();
        for (name, id) in node.output.iter().zip(done?).filter(|(name, _)| !name.is_empty()) {
            self.define(name, id)?;
        }
        Ok(())
    }

    fn branch_body(&mut self, graph: &GraphProto) -> Result<Vec<ValueId>> {
        for t in &graph.initializer {
            let (data, dtype) = (self.read)(t).map_err(|e| e.at(format!("initializer '{}'", t.name())))?;
            if dtype.is_float() && data.len() > 1 {
                return Err(Error::unsupported(format!("tensor '{}' is a weight inside a branch", t.name())));
            }
            self.tensor(t.name(), data, dtype, false)?;
        }
        let outputs: Vec<String> = graph.output.iter().map(|o| o.name().to_owned()).collect();
        self.body(&graph.node, &outputs, &HashSet::new())
    }
}
