//! From protobuf messages to a [`Graph`]: batch and named extents are bound, floats get one precision, functions
//! and settled branches are written out, and every node goes through [`crate::ops::Op::import`].

mod attributes;
mod functions;
mod glob;
mod inputs;
mod needed;
mod obstacles;
mod training;
mod versions;

pub(super) use functions::weight_name;
pub use inputs::{input_names, open_extents};
pub use obstacles::{obstacles, obstacles_of};
pub use training::Training;

use super::proto::{GraphProto, ModelProto, NodeProto, TensorProto};
use super::values::shape;
use crate::error::{Error, Kind, Result};
use crate::graph::{Attr, Graph, OPSET, Stored, ValueId};
use crate::ops::{self, Op};
use crate::tensor::{Array, DType, TensorType};
use functions::{Library, Scope};
use glob::glob;
use needed::Needed;
use std::collections::{BTreeMap, HashMap, HashSet};

/// The newest operator set whose changes this version knows.
pub const NEWEST_OPSET: i64 = 28;
/// The oldest operator set that is read.
pub const OLDEST_OPSET: i64 = 7;

/// Which outputs of a model are computed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Wanted {
    /// All of them.
    #[default]
    All,
    /// Those that can hold a classifier's answer, or the one of that name: tensors of floats. What only makes class
    /// names, integers or maps of them (`ZipMap`) is left out; the tensor that a `ZipMap` reads stands for it.
    Answer(Option<String>),
}

/// How a model is bound to a graph.
#[derive(Clone, Debug)]
pub struct ImportOptions {
    /// Number of samples where the model leaves it open.
    pub batch: usize,
    /// Extents by the name the model gives them.
    pub dims: BTreeMap<String, usize>,
    /// Shape of one sample of each input (no batch axis), for extents the model leaves open.
    pub samples: BTreeMap<String, Vec<usize>>,
    /// The axis that holds the samples, by input, where the model does not tell. An empty name is the first input.
    pub batch_axes: BTreeMap<String, usize>,
    /// `F32` or `F64`: what every float of the model is computed in.
    pub float: DType,
    /// Which outputs are computed.
    pub outputs: Wanted,
    /// Training form of BatchNormalization and Dropout; inference form when absent.
    pub training: Option<Training>,
    /// Patterns (`*`, `?`) of the names of the weights that are differentiated and changed; all when empty. Others
    /// are constants, and large ones stay in their file.
    pub layers: Vec<String>,
}

impl Default for ImportOptions {
    fn default() -> Self {
        Self {
            batch: 1,
            dims: BTreeMap::new(),
            samples: BTreeMap::new(),
            batch_axes: BTreeMap::new(),
            float: DType::F32,
            outputs: Wanted::All,
            training: None,
            layers: Vec::new(),
        }
    }
}

/// A model as a graph.
#[derive(Clone)]
pub struct Imported {
    /// The graph; its inputs are the model's, its outputs those that were asked for.
    pub graph: Graph,
    /// Trainable tensors with their names, in the model's order.
    pub weights: Vec<(String, ValueId)>,
    /// Weights of which the file holds no elements that could be changed: what `ConstantOfShape` fills.
    pub filled: Vec<String>,
    /// True when the model itself fixes the number of samples.
    pub batch_is_fixed: bool,
    /// Inputs that are masks of Dropout; they come after the model's own.
    pub masks: Vec<ValueId>,
    /// Nodes whose training form joins the samples of a batch.
    pub batch_statistics: Vec<String>,
}

/// Reads the elements of a tensor message, external data included.
pub type ReadTensor<'a> = dyn Fn(&TensorProto) -> Result<(Array, DType)> + 'a;

/// Turns a model into a graph.
///
/// # Errors
/// [`Kind::Unsupported`] with one message that names every obstacle; [`Kind::Format`] when the graph is
/// not well formed; [`Kind::Invalid`] when an extent is left open.
pub fn import(model: &ModelProto, read: &ReadTensor, options: &ImportOptions) -> Result<Imported> {
    import_stored(model, read, &|_| Ok(None), options)
}

/// Large tensors that stay in their file; `None` for all others.
pub type StoredTensor<'a> = dyn Fn(&TensorProto) -> Result<Option<Stored>> + 'a;

/// As [`import()`], where tensors that are not to change may stay in their file.
///
/// # Errors
/// As [`import()`].
pub fn import_stored(
    model: &ModelProto,
    read: &ReadTensor,
    stored: &StoredTensor,
    options: &ImportOptions,
) -> Result<Imported> {
    let graph = model.graph.as_ref().ok_or_else(|| Error::format("the model holds no graph"))?;
    let obstacles = obstacles_of(model, &options.outputs);
    if !obstacles.is_empty() {
        return Err(Error::unsupported(obstacles.join("; ")));
    }
    let needed = Needed::of(graph, &options.outputs)?;
    let library = Library::of(model);
    let mut import = Import {
        g: Graph::new(0),
        weights: Vec::new(),
        filled: Vec::new(),
        by_place: HashMap::new(),
        scopes: vec![Scope::of_model(opset(model)?)],
        float: options.float,
        frozen: library.frozen(&graph.node),
        parameters: library.parameters(&graph.node),
        library: &library,
        training: options.training,
        masks: Vec::new(),
        batch_statistics: Vec::new(),
        read,
        stored,
        layers: &options.layers,
    };
    import.g.opset = library.newest_opset(opset(model)?).max(OPSET);
    let fixed = import.inputs(graph, &needed, options)?;
    for t in &graph.initializer {
        // a weight that the answer does not depend on is worth a word as well
        if needed.reads(t.name()) || DType::from_onnx(t.data_type()).is_some_and(DType::is_float) {
            import.initializer(t)?;
        }
    }
    for &i in &needed.nodes {
        if let Some(node) = graph.node.get(i) {
            import.node(node, i, &|name| needed.reads(name))?;
        }
    }
    for (_, value) in &needed.outputs {
        let id = import.lookup(value).map_err(|e| e.at("graph output"))?;
        import.g.outputs.push(id);
    }
    import.g.set_scope("");
    Ok(Imported {
        graph: import.g,
        weights: import.weights,
        filled: import.filled,
        batch_is_fixed: fixed,
        masks: import.masks,
        batch_statistics: import.batch_statistics,
    })
}

/// The version of the default operator set that the model names; one that has none of its ops need not name it.
///
/// # Errors
/// When it names none, or one outside the range that is read.
pub fn opset(model: &ModelProto) -> Result<i64> {
    let found = model.opset_import.iter().find(|o| is_default(o.domain())).map(|o| o.version());
    let is_needed =
        !model.functions.is_empty() || model.graph.iter().flat_map(|g| &g.node).any(|n| is_default(n.domain()));
    let found = found.or((!is_needed).then_some(OPSET));
    in_range(found.ok_or_else(|| Error::format("the model names no default operator set"))?)
}

fn in_range(v: i64) -> Result<i64> {
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

/// The op of a node that calls no function.
fn known(node: &NodeProto) -> Option<&'static dyn Op> {
    let domain = if is_default(node.domain()) { "" } else { node.domain() };
    ops::find(node.op_type()).ok().filter(|op| op.spec().domain == domain && domain != ops::INTERNAL)
}

struct Import<'a> {
    g: Graph,
    weights: Vec<(String, ValueId)>,
    filled: Vec<String>,
    /// Weights that stand in functions, which may be called more than once.
    by_place: HashMap<String, ValueId>,
    /// The model's graph, and the function calls and branches that are being written out.
    scopes: Vec<Scope>,
    float: DType,
    /// Names of tensors that ops read as settings or statistics, never as trainable weights.
    frozen: HashSet<String>,
    /// Names of tensors that ops read as parameters.
    parameters: HashSet<String>,
    library: &'a Library<'a>,
    training: Option<Training>,
    masks: Vec<ValueId>,
    batch_statistics: Vec<String>,
    read: &'a ReadTensor<'a>,
    stored: &'a StoredTensor<'a>,
    /// Patterns of the names of weights; empty for all.
    layers: &'a [String],
}

impl Import<'_> {
    fn precision(&self, dtype: DType) -> DType {
        if dtype.is_float() { self.float } else { dtype }
    }

    fn initializer(&mut self, t: &TensorProto) -> Result<()> {
        if !self.is_chosen(t.name())
            && let Some(elements) = (self.stored)(t).map_err(|e| e.at(format!("initializer '{}'", t.name())))?
            && let Some(dtype) = DType::from_onnx(t.data_type())
        {
            let (float, ty) = (self.float, TensorType::new(self.precision(dtype), shape(t)?));
            let elements = Stored::new(move || Ok(elements.read()?.to_float(float)));
            let id = self.g.stored(t.name(), ty, elements);
            return self.define(t.name(), id);
        }
        let (data, dtype) = (self.read)(t).map_err(|e| e.at(format!("initializer '{}'", t.name())))?;
        let trainable = dtype.is_float() && !data.shape().is_empty() && !self.is_frozen(t.name());
        self.tensor(t.name(), data, dtype, trainable)
    }

    /// Adds a tensor of the model as a weight or as a constant.
    fn tensor(&mut self, name: &str, data: Array, dtype: DType, trainable: bool) -> Result<()> {
        refuse_nan(name, &data)?;
        let trainable = trainable && self.is_chosen(name);
        let data = data.to_float(self.float);
        // infinities mark masks, which are no weights
        let id = if trainable && !data.is_empty() && data.is_finite() {
            self.weight(&self.place(name), data)
        } else {
            self.g.constant_as(data, self.precision(dtype))
        };
        self.define(name, id)
    }

    /// Whether a weight of that name is one of those that are asked for.
    fn is_chosen(&self, name: &str) -> bool {
        self.layers.is_empty() || self.layers.iter().any(|p| glob(p, name))
    }

    /// The weight of that name, which a second call of its function shares.
    fn weight(&mut self, name: &str, data: Array) -> ValueId {
        if let Some(&id) = self.by_place.get(name) {
            return id;
        }
        let id = self.g.weight(name, data);
        self.weights.push((name.to_owned(), id));
        self.by_place.insert(name.to_owned(), id);
        id
    }

    /// Adds a node; `read` tells whether anything reads an output of that name.
    fn node(&mut self, node: &NodeProto, index: usize, read: &dyn Fn(&str) -> bool) -> Result<()> {
        let label = self.label(node, index);
        self.g.set_scope(&label);
        let place = |e: Error| {
            let here = format!("node '{label}' ({})", node.op_type());
            if e.kind() == Kind::NeedsSingles || e.to_string().contains(&here) { e } else { e.at(here) }
        };
        if let Some(function) = self.library.find(node) {
            return self.call(function, node, &label);
        }
        if is_default(node.domain()) && node.op_type() == "If" {
            return self.branch(node, &label).map_err(place);
        }
        let op = known(node).ok_or_else(|| place(Error::unsupported("the op is not supported")))?;
        let mut attrs = self.attributes(&node.attribute).map_err(place)?;
        self.adapt(node.op_type(), &mut attrs);
        if let ("Constant", Some(Attr::Tensor(data, dtype)), [name]) =
            (node.op_type(), attrs.get("value"), &node.output[..])
        {
            let own = node.attribute.iter().all(|a| a.ref_attr_name().is_empty());
            let trainable =
                own && dtype.is_float() && !data.shape().is_empty() && data.len() > 1 && !self.is_frozen(name);
            if trainable && self.in_branch() {
                return Err(place(Error::unsupported("it is a weight inside a branch")));
            }
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
        let is_norm = node.op_type() == "BatchNormalization";
        // no op leaves out its first output, and one that nothing reads costs work; but the outputs of an old
        // BatchNormalization say whether it trains
        let is_wanted = |(i, name): (usize, &String)| !name.is_empty() && (i == 0 || is_norm || read(name));
        let wanted: Vec<bool> = node.output.iter().enumerate().map(is_wanted).collect();
        if is_norm {
            self.train_batch_norm(&label, &mut attrs, &wanted);
        }
        let trained = match node.op_type() {
            "Dropout" => self.train_dropout(&label, &inputs, &attrs).map_err(place)?,
            _ => None,
        };
        let opset = self.opset();
        let outputs = match trained {
            Some(outputs) => outputs,
            None => op.import(&mut self.g, opset, &inputs, attrs, &wanted).map_err(place)?,
        };
        for (name, id) in node.output.iter().zip(outputs) {
            if let (false, Some(id)) = (name.is_empty(), id) {
                let id = self.filled_weight(node, name, id);
                self.define(name, id).map_err(place)?;
            }
        }
        Ok(())
    }

    /// What `ConstantOfShape` fills is a weight where an op reads it as its parameter: exports without their
    /// weights have them so.
    fn filled_weight(&mut self, node: &NodeProto, name: &str, id: ValueId) -> ValueId {
        let fills = node.op_type() == "ConstantOfShape" && self.parameters.contains(name) && !self.is_frozen(name);
        match self.g.constant_of(id).cloned() {
            Some(data) if fills && self.scopes.len() == 1 && data.len() > 1 && self.g.dtype(id).is_float() => {
                self.filled.push(name.to_owned());
                self.weight(name, data)
            }
            _ => id,
        }
    }
}

/// Weights are numbers.
pub(super) fn refuse_nan(name: &str, data: &Array) -> Result<()> {
    let nan = match data {
        Array::F32(a) => a.iter().any(|v| v.is_nan()),
        Array::F64(a) => a.iter().any(|v| v.is_nan()),
        _ => false,
    };
    if nan { Err(Error::invalid(format!("tensor '{name}' holds NaN"))) } else { Ok(()) }
}

/// The graph in an attribute of a node.
fn subgraph<'p>(node: &'p NodeProto, name: &str) -> Option<&'p GraphProto> {
    node.attribute.iter().find(|a| a.name() == name)?.g.as_deref()
}
