//! Everything an operator is stands in one file of this folder: its shapes, reference evaluation,
//! derivative, kernel and test cases. The table at the end of this file lists the families.

mod block;
mod cases;
pub(crate) mod chain;
mod composite;
mod copy;
mod correlate;
mod correlate_gpu;
mod fold;
mod kernel;
pub(crate) mod linalg;
mod padded;
mod pen;
mod pen_layout;
mod product;
mod recurrent;
mod smooth;
mod squared;
pub(crate) mod support;
mod tile;
mod together;
mod view;
mod vjp;
mod window;
mod winograd;

pub use block::Form;
pub use cases::{Arg, Case, Gradient, Sampler};
pub use kernel::{Bind, Kernel, Params, Shader, Step, grid_1d};
pub use pen::Pen;
pub(crate) use pen::{reduce_sum, reshape, transpose};
pub(crate) use transpose::swaps_last;
pub use view::NodeView;
pub use vjp::{Dx, Vjp};

use crate::error::{Error, Kind, Result};
use crate::graph::{Attrs, Batch, Graph, OPSET, ValueId};
use crate::tensor::{Array, TensorType};
use std::collections::HashMap;
use std::sync::LazyLock;

/// The domain of our own ops, which never leave this program: export lowers them to standard ones.
pub const INTERNAL: &str = "onnx-unlearn";

/// Name, versions and arity of an operator.
#[derive(Clone, Copy, Debug)]
pub struct Spec {
    /// ONNX name.
    pub name: &'static str,
    /// Empty for `ai.onnx`; [`INTERNAL`] for our own; else the standard's other domain.
    pub domain: &'static str,
    /// The newest operator set version in which ONNX changed this op and that is understood here.
    pub version: i64,
    /// Least and greatest number of inputs.
    pub inputs: (usize, usize),
    /// Least and greatest number of outputs.
    pub outputs: (usize, usize),
    /// See [`Op::frozen_inputs`].
    pub frozen: &'static [usize],
}

/// Stands for "any number" in [`Spec`].
pub const MANY: usize = usize::MAX;

impl Spec {
    /// A standard op with one output.
    pub const fn new(name: &'static str, version: i64, inputs: (usize, usize)) -> Self {
        Self { name, domain: "", version, inputs, outputs: (1, 1), frozen: &[] }
    }
    /// An op of another domain that its name alone tells from all others, with one output.
    pub const fn of_domain(domain: &'static str, name: &'static str, inputs: (usize, usize)) -> Self {
        Self { name, domain, version: 1, inputs, outputs: (1, 1), frozen: &[] }
    }
    /// One of our own ops, with one output.
    pub const fn internal(name: &'static str, inputs: (usize, usize)) -> Self {
        Self { name, domain: INTERNAL, version: 1, inputs, outputs: (1, 1), frozen: &[] }
    }
    /// The same with another number of outputs.
    #[must_use]
    pub const fn outputs(mut self, least: usize, most: usize) -> Self {
        self.outputs = (least, most);
        self
    }
    /// The same with inputs that hold settings or statistics.
    #[must_use]
    pub const fn frozen(mut self, inputs: &'static [usize]) -> Self {
        self.frozen = inputs;
        self
    }
    pub(crate) fn check_arity(&self, inputs: &[Option<ValueId>], wanted: &[bool]) -> Result<()> {
        let given = inputs.iter().rposition(Option::is_some).map_or(0, |i| i + 1);
        let missing = (0..self.inputs.0.min(inputs.len())).any(|i| inputs[i].is_none());
        if given > self.inputs.1 || inputs.len() < self.inputs.0 || missing {
            return Err(Error::format(format!(
                "{given} inputs given, it takes {} to {}",
                self.inputs.0, self.inputs.1
            )));
        }
        if wanted.is_empty() {
            return Err(Error::format("it names no output"));
        }
        if wanted.len() > self.outputs.1 {
            return Err(Error::format(format!("{} outputs named, it has {} at most", wanted.len(), self.outputs.1)));
        }
        Ok(())
    }
}

/// One operator. Stateless: all it knows of a node comes through the [`NodeView`].
pub trait Op: Sync {
    /// Name, versions and arity.
    fn spec(&self) -> Spec;
    /// For ops that are made of others (see `composite.rs`): pushes those and returns the outputs. The graph then
    /// never holds this op, and nothing else of this trait but `spec`, `import` and `cases` is asked.
    ///
    /// # Errors
    /// As [`Graph::push_multi`].
    fn expand(
        &'static self,
        g: &mut Graph,
        inputs: &[Option<ValueId>],
        attrs: &Attrs,
        wanted: &[bool],
    ) -> Result<Option<Vec<Option<ValueId>>>> {
        let _ = (g, inputs, attrs, wanted);
        Ok(None)
    }
    /// Type of every output that the op can have for this node, in ONNX order.
    ///
    /// # Errors
    /// When inputs or attributes do not fit, naming the attribute and its value.
    fn infer(&self, n: &NodeView) -> Result<Vec<TensorType>>;
    /// Where the samples lie in the outputs, given where they lie in the inputs (at least one of them is
    /// [`Batch::Axis`], none is `Lost`). `Lost` is always right, only slower.
    fn batch(&self, n: &NodeView, from: &[Batch], samples: usize, out: &[TensorType]) -> Vec<Batch> {
        let _ = (n, from, samples);
        vec![Batch::Lost; out.len()]
    }
    /// The reference: computes every output that [`Op::infer`] lists. `x` holds the inputs given, in
    /// order, `None` where one is left out. Must do f32 and f64.
    ///
    /// # Errors
    /// When the elements do not fit (an index out of range, say).
    fn eval(&self, n: &NodeView, x: &[Option<&Array>]) -> Result<Vec<Array>>;
    /// True when [`Op::eval`] takes this input with its last two axes swapped in memory (see [`Array::matrices`]).
    fn reads_swapped(&self, input: usize) -> bool {
        let _ = input;
        false
    }
    /// All outputs, where they follow from the types of the inputs alone (the shape of a value, say): the
    /// node is then never added.
    fn fold(&self, n: &NodeView) -> Option<Vec<Array>> {
        let _ = n;
        None
    }
    /// Emits nodes for the gradients with respect to the inputs that are wanted.
    ///
    /// # Errors
    /// When the op has no derivative; use [`Vjp::not_differentiable`].
    fn vjp(&self, b: &mut Vjp) -> Result<()>;
    /// The WGSL dispatches that compute the wanted outputs, as plain data.
    ///
    /// # Errors
    /// When the node needs what the shader does not do.
    fn kernel(&self, n: &NodeView) -> Result<Kernel>;
    /// Shapes, attributes and samplers under which all of the above is tested on every engine.
    fn cases(&self) -> Vec<Case>;
    /// The first version of the default operator set in which a node like this exists and means what it
    /// means here; export asks for no less.
    fn opset(&self, n: &NodeView) -> i64 {
        let _ = n;
        OPSET
    }
    /// Adds this op as a model of operator set `opset` has it, in the form that the rest of this trait
    /// understands (that of [`crate::graph::OPSET`] or newer).
    ///
    /// # Errors
    /// As [`Graph::push_multi`].
    fn import(
        &self,
        g: &mut Graph,
        opset: i64,
        inputs: &[Option<ValueId>],
        attrs: Attrs,
        wanted: &[bool],
    ) -> Result<Vec<Option<ValueId>>> {
        let _ = opset;
        g.push_multi(find(self.spec().name)?, inputs, attrs, wanted)
    }
    /// Inputs that hold settings or statistics: a float tensor there is never a trainable weight.
    fn frozen_inputs(&self) -> &'static [usize] {
        self.spec().frozen
    }
    /// For our own ops, and for standard ones that are newer than [`crate::graph::OPSET`] or that ONNX
    /// Runtime does only in part: the same in other standard ops, pushed on `g`. All others return `None`.
    ///
    /// # Errors
    /// As [`Graph::push_multi`].
    fn lower(&self, g: &mut Graph, inputs: &[Option<ValueId>], attrs: &Attrs) -> Result<Option<Vec<ValueId>>> {
        let _ = (g, inputs, attrs);
        Ok(None)
    }
    /// The internal op that computes `Σ_n u[s,n] · y[n]²` of this op's first output without ever holding
    /// `y`, for outputs whose first axis is the samples. It takes this node's inputs and attributes, and
    /// `u` of shape `[s, n]` as one more input; it gives `[s, …]`.
    fn squared(&self, n: &NodeView) -> Option<&'static str> {
        let _ = n;
        None
    }
    /// For ops of weights alone: pushes the op for inputs that all carry one more leading axis (`samples`
    /// entries), and returns the output that carries it too. `None`: samples run one by one.
    ///
    /// # Errors
    /// As [`Graph::push_multi`].
    fn stacked(
        &self,
        g: &mut Graph,
        inputs: &[Option<ValueId>],
        attrs: &Attrs,
        samples: usize,
    ) -> Result<Option<ValueId>> {
        let _ = (g, inputs, attrs, samples);
        Ok(None)
    }
}

/// Finds an op by its ONNX name.
///
/// # Errors
/// When the table has no such op.
pub fn find(name: &str) -> Result<&'static dyn Op> {
    static BY_NAME: LazyLock<HashMap<&'static str, &'static dyn Op>> =
        LazyLock::new(|| table().map(|op| (op.spec().name, op)).collect());
    BY_NAME.get(name).copied().ok_or_else(|| Error::new(Kind::Unsupported, format!("op {name} is not supported")))
}

/// All ops, family by family.
pub fn table() -> impl Iterator<Item = &'static dyn Op> {
    FAMILIES.iter().flat_map(|f| f.iter().copied())
}

macro_rules! families {
    ($($name:ident)*) => {
        $(mod $name;)*
        static FAMILIES: &[&[&dyn Op]] = &[$($name::OPS),*];
    };
}

// One word a family; see docs/adding-an-op.md.
families! {
    unary binary layout transpose slice pad join constant convert matmul gemm conv conv_transpose conv_grad pool max_pool
    unpool norm batch_norm lp softmax loss reduce arg squares gather scatter variadic lrn cells
    activation trigonometry clip predicate integer renamed einsum select rearrange gather_nd top_k cumsum embedding resize
    grid attention features
}
