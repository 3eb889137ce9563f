//! From protobuf messages to a [`Graph`]: batch and named extents are bound, floats get one precision,
//! and every node goes through [`crate::ops::Op::import`].

use super::proto::{
    AttributeProto, AttributeType, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, dimension,
    type_proto,
};
use crate::error::{Error, Kind, Result};
use crate::graph::{Attr, Attrs, Batch, Graph, OPSET, ValueId};
use crate::ops::{self, Op};
use crate::tensor::{Array, DType, TensorType};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

/// The newest operator set whose changes this version knows.
pub const NEWEST_OPSET: i64 = 28;
/// The oldest operator set that is read.
pub const OLDEST_OPSET: i64 = 7;

/// How a model is bound to a graph.
#[derive(Clone, Debug)]
pub struct ImportOptions {
    /// Number of samples where the model leaves it open.
    pub batch: usize,
    /// Extents by the name the model gives them.
    pub dims: BTreeMap<String, usize>,
    /// Shape of one sample of each input (no batch axis), for extents the model leaves open.
    pub samples: BTreeMap<String, Vec<usize>>,
    /// `F32` or `F64`: what every float of the model is computed in.
    pub float: DType,
}

impl Default for ImportOptions {
    fn default() -> Self {
        Self { batch: 1, dims: BTreeMap::new(), samples: BTreeMap::new(), float: DType::F32 }
    }
}

/// A model as a graph.
#[derive(Clone)]
pub struct Imported {
    /// The graph; its inputs are the model's, its outputs too.
    pub graph: Graph,
    /// Trainable tensors with their names, in the model's order.
    pub weights: Vec<(String, ValueId)>,
    /// True when the model itself fixes the number of samples.
    pub batch_is_fixed: bool,
}

/// Reads the elements of a tensor message, external data included.
pub type ReadTensor<'a> = dyn Fn(&TensorProto) -> Result<(Array, DType)> + 'a;

/// Turns a model into a graph.
///
/// # Errors
/// [`Kind::Unsupported`] with one message that names every obstacle; [`Kind::Format`] when the graph is
/// not well formed; [`Kind::Invalid`] when an extent is left open.
pub fn import(model: &ModelProto, read: &ReadTensor, options: &ImportOptions) -> Result<Imported> {
    let graph = model.graph.as_ref().ok_or_else(|| Error::format("the model holds no graph"))?;
    let obstacles = obstacles(model);
    if !obstacles.is_empty() {
        return Err(Error::unsupported(obstacles.join("; ")));
    }
    let mut import = Import {
        g: Graph::new(0),
        names: HashMap::new(),
        weights: Vec::new(),
        opset: opset(model)?,
        float: options.float,
        frozen: frozen(graph),
        read,
    };
    import.g.opset = import.opset.max(OPSET);
    let fixed = import.inputs(graph, options)?;
    for t in &graph.initializer {
        import.initializer(t)?;
    }
    for (i, node) in graph.node.iter().enumerate() {
        import.node(node, i)?;
    }
    for output in &graph.output {
        let id = import.lookup(output.name()).map_err(|e| e.at("graph output"))?;
        import.g.outputs.push(id);
    }
    import.g.set_scope("");
    Ok(Imported { graph: import.g, weights: import.weights, batch_is_fixed: fixed })
}

/// The version of the default operator set that the model names.
///
/// # Errors
/// When it names none, or one outside the range that is read.
pub fn opset(model: &ModelProto) -> Result<i64> {
    let of = |domain: &str| model.opset_import.iter().find(|o| o.domain() == domain).map(|o| o.version());
    let v = of("").or_else(|| of("ai.onnx")).ok_or_else(|| Error::format("the model names no default operator set"))?;
    if v < OLDEST_OPSET {
        return Err(Error::unsupported(format!(
            "operator set {v} is older than {OLDEST_OPSET}; convert the model first"
        )));
    }
    if v > NEWEST_OPSET {
        return Err(Error::unsupported(format!("operator set {v} is newer than {NEWEST_OPSET}, the newest known")));
    }
    Ok(v)
}

fn is_default(domain: &str) -> bool {
    domain.is_empty() || domain == "ai.onnx"
}

/// What a node is called in messages.
pub fn node_label(node: &NodeProto, index: usize) -> String {
    match node.name() {
        "" => format!("{}_{index}", node.op_type()),
        name => name.to_owned(),
    }
}

fn known(node: &NodeProto) -> Option<&'static dyn Op> {
    let op = ops::find(node.op_type()).ok().filter(|op| op.spec().domain.is_empty())?;
    is_default(node.domain()).then_some(op)
}

/// Everything in the model that is not supported, one line each, before any work is done. Ops are joined by
/// type, with the nodes that use them.
pub fn obstacles(model: &ModelProto) -> Vec<String> {
    let mut out = Vec::new();
    if let Err(e) = opset(model) {
        out.push(e.to_string());
    }
    let Some(graph) = &model.graph else { return out };
    let mut missing: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (i, node) in graph.node.iter().enumerate() {
        if known(node).is_none() {
            let domain = if is_default(node.domain()) { String::new() } else { format!("{}.", node.domain()) };
            missing.entry(format!("{domain}{}", node.op_type())).or_default().push(node_label(node, i));
        }
    }
    for (op, nodes) in missing {
        let more = nodes.len().saturating_sub(5);
        let shown: Vec<String> = nodes.into_iter().take(5).map(|n| format!("'{n}'")).collect();
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        out.push(format!("op {op} is not supported (node {}{more})", shown.join(", ")));
    }
    if !graph.sparse_initializer.is_empty() {
        out.push("sparse initializers are not supported".to_owned());
    }
    out
}

/// Names of tensors that ops read as settings or statistics, never as trainable weights.
fn frozen(graph: &GraphProto) -> HashSet<String> {
    let mut out = HashSet::new();
    for node in &graph.node {
        let Some(op) = known(node) else { continue };
        for &i in op.frozen_inputs() {
            if let Some(name) = node.input.get(i) {
                out.insert(name.clone());
            }
        }
    }
    out
}

struct Import<'a> {
    g: Graph,
    names: HashMap<String, ValueId>,
    weights: Vec<(String, ValueId)>,
    opset: i64,
    float: DType,
    frozen: HashSet<String>,
    read: &'a ReadTensor<'a>,
}

impl Import<'_> {
    fn lookup(&self, name: &str) -> Result<ValueId> {
        self.names
            .get(name)
            .copied()
            .ok_or_else(|| Error::format(format!("value '{name}' is used before any node or initializer gives it")))
    }

    fn define(&mut self, name: &str, id: ValueId) -> Result<()> {
        if self.names.insert(name.to_owned(), id).is_some() {
            return Err(Error::format(format!("value '{name}' is given twice")));
        }
        let value = self.g.value_mut(id);
        if value.name.is_none() {
            value.name = Some(name.to_owned());
        }
        Ok(())
    }

    fn precision(&self, dtype: DType) -> DType {
        if dtype.is_float() { self.float } else { dtype }
    }

    /// Adds the graph's inputs; true when they fix the number of samples.
    fn inputs(&mut self, graph: &GraphProto, options: &ImportOptions) -> Result<bool> {
        // before IR 4 initializers are listed among the inputs as well
        let given: HashSet<&str> = graph.initializer.iter().map(|t| t.name()).collect();
        let inputs: Vec<&ValueInfoProto> = graph.input.iter().filter(|i| !given.contains(i.name())).collect();
        if inputs.is_empty() {
            return Err(Error::unsupported("the model has no input"));
        }
        let batch = batch_of(&inputs);
        check_names(&inputs, &options.dims)?;
        let mut missing = BTreeSet::new();
        let samples = match &batch {
            BatchDim::Fixed(n) => *n,
            _ => options.batch,
        };
        self.g.batch = samples;
        let mut shapes = Vec::new();
        for info in &inputs {
            shapes.push(bind(info, &batch, samples, options, &mut missing)?);
        }
        if !missing.is_empty() {
            let names: Vec<String> = missing.into_iter().collect();
            return Err(Error::invalid(format!(
                "the model leaves extents open: {}; bind each with --dim NAME=N",
                names.join(", ")
            )));
        }
        for (info, (dtype, shape)) in inputs.iter().zip(shapes) {
            let batched = shape.first() == Some(&samples) && !shape.is_empty();
            let at = if batched { Batch::LEADING } else { Batch::None };
            let ty = TensorType::new(self.precision(dtype), shape);
            let id = self.g.input(info.name(), ty, at);
            self.define(info.name(), id)?;
        }
        Ok(matches!(batch, BatchDim::Fixed(_)))
    }

    fn initializer(&mut self, t: &TensorProto) -> Result<()> {
        let (data, dtype) = (self.read)(t).map_err(|e| e.at(format!("initializer '{}'", t.name())))?;
        let trainable = dtype.is_float() && !data.shape().is_empty() && !self.frozen.contains(t.name());
        self.tensor(t.name(), data, dtype, trainable)
    }

    /// Adds a tensor of the model as a weight or as a constant.
    fn tensor(&mut self, name: &str, data: Array, dtype: DType, trainable: bool) -> Result<()> {
        if dtype.is_float() && data.to_f64().iter().any(|v| v.is_nan()) {
            return Err(Error::invalid(format!("tensor '{name}' holds NaN")));
        }
        let data = data.to_float(self.float);
        // infinities mark masks, which are no weights
        let id = if trainable && !data.is_empty() && data.is_finite() {
            let id = self.g.weight(name, data);
            self.weights.push((name.to_owned(), id));
            id
        } else {
            self.g.constant_as(data, self.precision(dtype))
        };
        self.define(name, id)
    }

    fn node(&mut self, node: &NodeProto, index: usize) -> Result<()> {
        let label = node_label(node, index);
        self.g.set_scope(&label);
        let place = |e: Error| {
            if e.kind() == Kind::NeedsSingles { e } else { e.at(format!("node '{label}' ({})", node.op_type())) }
        };
        let op = known(node).ok_or_else(|| place(Error::unsupported("the op is not supported")))?;
        let mut attrs = Attrs::new();
        for a in &node.attribute {
            attrs.set(a.name(), self.attribute(a).map_err(place)?);
        }
        self.adapt(node.op_type(), &mut attrs);
        if let ("Constant", Some(Attr::Tensor(data, dtype)), [name]) =
            (node.op_type(), attrs.get("value"), &node.output[..])
        {
            let trainable =
                dtype.is_float() && !data.shape().is_empty() && data.len() > 1 && !self.frozen.contains(name);
            let (data, dtype) = (data.clone(), *dtype);
            return self.tensor(name, data, dtype, trainable);
        }
        let mut inputs = Vec::with_capacity(node.input.len());
        for name in &node.input {
            inputs.push(if name.is_empty() { None } else { Some(self.lookup(name).map_err(place)?) });
        }
        while inputs.last() == Some(&None) {
            inputs.pop();
        }
        let wanted: Vec<bool> = node.output.iter().map(|o| !o.is_empty()).collect();
        let outputs = op.import(&mut self.g, self.opset, &inputs, attrs, &wanted)?;
        for (name, id) in node.output.iter().zip(outputs) {
            if let (false, Some(id)) = (name.is_empty(), id) {
                self.define(name, id).map_err(place)?;
            }
        }
        Ok(())
    }

    /// Brings attributes that speak of float types to the precision in use.
    fn adapt(&self, op: &str, attrs: &mut Attrs) {
        let named = if op == "EyeLike" { "dtype" } else { "to" };
        if let ("Cast" | "EyeLike", Some(Attr::Int(to))) = (op, attrs.get(named))
            && let Some(dtype) = i32::try_from(*to).ok().and_then(DType::from_onnx)
        {
            attrs.set(named, i64::from(self.precision(dtype).onnx()));
        }
        let floats: Vec<(String, Attr)> = attrs
            .iter()
            .filter_map(|(k, a)| match a {
                Attr::Tensor(data, dtype) if dtype.is_float() => {
                    Some((k.to_owned(), Attr::Tensor(data.to_float(self.float), self.float)))
                }
                _ => None,
            })
            .collect();
        for (name, a) in floats {
            attrs.set(&name, a);
        }
    }

    fn attribute(&self, a: &AttributeProto) -> Result<Attr> {
        let text = |b: &bytes::Bytes| {
            String::from_utf8(b.to_vec()).map_err(|_| Error::format(format!("attribute {} is not UTF-8", a.name())))
        };
        let kind = AttributeType::try_from(a.r#type.unwrap_or_default()).unwrap_or(AttributeType::Undefined);
        Ok(match kind {
            AttributeType::Float => Attr::Float(a.f.unwrap_or_default()),
            AttributeType::Int => Attr::Int(a.i.unwrap_or_default()),
            AttributeType::String => Attr::Str(text(&a.s.clone().unwrap_or_default())?),
            AttributeType::Floats => Attr::Floats(a.floats.clone()),
            AttributeType::Ints => Attr::Ints(a.ints.clone()),
            AttributeType::Strings => Attr::Strs(a.strings.iter().map(text).collect::<Result<_>>()?),
            AttributeType::Tensor => {
                let t = a.t.as_ref().ok_or_else(|| Error::format(format!("attribute {} holds no tensor", a.name())))?;
                let (data, dtype) = (self.read)(t).map_err(|e| e.at(format!("attribute {}", a.name())))?;
                Attr::Tensor(data, dtype)
            }
            other => return Err(Error::unsupported(format!("attribute {} of type {other:?}", a.name()))),
        })
    }
}

/// How the model states its number of samples: the first extent of its first input.
enum BatchDim {
    Fixed(usize),
    Named(String),
    Open,
}

fn extents(info: &ValueInfoProto) -> Option<(i32, &[super::proto::Dimension])> {
    match info.r#type.as_ref()?.value.as_ref()? {
        type_proto::Value::TensorType(t) => Some((t.elem_type.unwrap_or_default(), &t.shape.as_ref()?.dim)),
        _ => None,
    }
}

fn batch_of(inputs: &[&ValueInfoProto]) -> BatchDim {
    let first = inputs.first().and_then(|i| extents(i)).and_then(|(_, dims)| dims.first());
    match first.and_then(|d| d.value.as_ref()) {
        Some(dimension::Value::DimValue(n)) if *n > 0 => BatchDim::Fixed(usize::try_from(*n).unwrap_or(1)),
        Some(dimension::Value::DimParam(name)) if !name.is_empty() => BatchDim::Named(name.clone()),
        _ => BatchDim::Open,
    }
}

/// Every bound name must be that of an open extent: the model's own, or `input.axis` where it has none.
fn check_names(inputs: &[&ValueInfoProto], dims: &BTreeMap<String, usize>) -> Result<()> {
    let mut known = BTreeSet::new();
    for info in inputs {
        for (axis, dim) in extents(info).map_or(&[][..], |(_, dims)| dims).iter().enumerate() {
            match &dim.value {
                Some(dimension::Value::DimValue(n)) if *n > 0 => {}
                Some(dimension::Value::DimParam(p)) if !p.is_empty() => drop(known.insert(p.clone())),
                _ => drop(known.insert(format!("{}.{axis}", info.name()))),
            }
        }
    }
    let Some(name) = dims.keys().find(|name| !known.contains(*name)) else { return Ok(()) };
    let known = if known.is_empty() { "none".to_owned() } else { known.into_iter().collect::<Vec<_>>().join(", ") };
    Err(Error::invalid(format!("--dim {name}: the model's inputs have no open extent of that name; they have {known}")))
}

/// Element type and static shape of an input; names of extents that stay open go to `missing`.
fn bind(
    info: &ValueInfoProto,
    batch: &BatchDim,
    samples: usize,
    options: &ImportOptions,
    missing: &mut BTreeSet<String>,
) -> Result<(DType, Vec<usize>)> {
    let name = info.name();
    let (code, dims) =
        extents(info).ok_or_else(|| Error::unsupported(format!("input '{name}' is not a tensor of known rank")))?;
    let dtype =
        DType::from_onnx(code).ok_or_else(|| Error::unsupported(format!("input '{name}' has element type {code}")))?;
    let mut shape = Vec::with_capacity(dims.len());
    for (axis, dim) in dims.iter().enumerate() {
        let hint = options.samples.get(name).filter(|s| s.len() + 1 == dims.len());
        let open = |label: String, missing: &mut BTreeSet<String>| {
            let at = axis.checked_sub(1).and_then(|a| hint.and_then(|s| s.get(a)));
            options.dims.get(&label).or(at).copied().unwrap_or_else(|| {
                missing.insert(label);
                1
            })
        };
        shape.push(match &dim.value {
            Some(dimension::Value::DimValue(n)) if *n > 0 => {
                usize::try_from(*n).map_err(|_| Error::format(format!("input '{name}' has extent {n}")))?
            }
            Some(dimension::Value::DimParam(p)) if matches!(batch, BatchDim::Named(b) if b == p) => samples,
            Some(dimension::Value::DimParam(p)) if options.dims.contains_key(p) => {
                options.dims.get(p).copied().unwrap_or(1)
            }
            Some(dimension::Value::DimParam(p)) if axis > 0 && !p.is_empty() => open(p.clone(), missing),
            // an open first extent is the batch: exporters name it as they like
            _ if axis == 0 => samples,
            Some(dimension::Value::DimValue(n)) if *n < 0 => {
                return Err(Error::format(format!("input '{name}' has extent {n}")));
            }
            _ => open(format!("{name}.{axis}"), missing),
        });
    }
    if let BatchDim::Named(p) = batch
        && let Some(n) = options.dims.get(p).filter(|&&n| n != samples)
    {
        return Err(Error::invalid(format!("--dim {p}={n} names the batch; use --batch")));
    }
    Ok((dtype, shape))
}
