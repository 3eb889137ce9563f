//! A graph as GPU work, all of it plain data: which memory every value takes, and the dispatches in order. The
//! [`wgpu`](super::wgpu) engine runs it, and a [`Bundle`](super::bundle::Bundle) writes it out.

use super::plan::{self, Job, Slots};
use super::{chains, fuse, halves, words};
use crate::error::{Error, Result};
use crate::graph::{Graph, Node, Source, ValueId, passes};
use crate::ops::{Bind, Kernel, Step};
use crate::tensor::{Array, DType, TensorType};
use std::collections::HashMap;

/// Offsets of storage bindings are multiples of this on every adapter (WebGPU's default).
const ALIGN: usize = 256;

/// Constants of at most this many words are kept once for all equal ones: rules make many equal scalars.
const SMALL: usize = 16;

/// What an adapter allows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Bytes of one binding.
    pub binding: u64,
    /// Storage buffers of one dispatch, its parameters among them.
    pub buffers: usize,
    /// Workgroups in each direction.
    pub groups: u32,
}

impl Limits {
    /// Checks that a tensor can be bound; returns its bytes.
    pub(crate) fn fits(&self, ty: &TensorType) -> Result<u64> {
        if ty.dtype == DType::F64 {
            return Err(words::no_f64());
        }
        let bytes = words::bytes(ty.len());
        if bytes > self.binding {
            return Err(Error::engine(format!(
                "{ty} takes {bytes} bytes, and this adapter binds at most {} at once; a smaller batch may help",
                self.binding
            )));
        }
        Ok(bytes)
    }

    fn check(&self, step: &Step) -> Result<()> {
        if step.binds.len() + 1 > self.buffers {
            return Err(Error::engine(format!(
                "{} buffers are bound, {} are allowed",
                step.binds.len() + 1,
                self.buffers
            )));
        }
        if step.grid.iter().any(|&g| g > self.groups) {
            return Err(Error::engine(format!(
                "shader '{}' needs {:?} workgroups, {} a dimension are allowed; a smaller batch may help",
                step.shader.name, step.grid, self.groups
            )));
        }
        Ok(())
    }
}

/// Where the elements of a value lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// In [`Program::fixed`].
    Fixed(usize),
    /// In the feed of an input.
    Feed(usize),
    /// In planned memory, [`Program::slots`].
    Slot(usize),
}

/// One step with its buffers.
pub(crate) struct Dispatch {
    /// The node in messages.
    pub node: String,
    /// Shader, overrides and grid.
    pub step: Step,
    /// Buffer and bytes of each binding but the last.
    pub binds: Vec<(Place, u64)>,
    /// Where its parameters lie in [`Program::params`], and their bytes.
    pub params: (u64, u64),
}

/// An input of the graph.
pub(crate) struct Input {
    /// Its name.
    pub name: String,
    /// Its type.
    pub ty: TensorType,
    /// Whether anything reads it.
    pub used: bool,
    /// Whether it is fed as halves.
    pub is_halves: bool,
}

impl Input {
    /// Words of its feed.
    pub(crate) fn words(&self) -> usize {
        if self.is_halves { halves::words(self.ty.len()) } else { self.ty.len() }
    }
}

/// Which inputs are fed as [`halves`], and whether shaders that multiply are of the tiled form, which reads them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Halves {
    pub fed: Vec<bool>,
    pub is_tiled: bool,
}

/// A constant or a weight.
pub(crate) struct Fixed {
    /// Its value in messages.
    label: String,
    source: Source,
    /// Bytes of its buffer.
    bytes: u64,
}

impl Fixed {
    /// Its elements.
    ///
    /// # Errors
    /// When they stay in a file that cannot be read.
    pub(crate) fn read(&self) -> Result<Array> {
        match &self.source {
            Source::Stored(elements) => elements.read(),
            Source::Const(a) | Source::Weight(a) => Ok(a.clone()),
            _ => Err(Error::internal("a value that is computed was taken for a constant")),
        }
        .map_err(|e| self.named(e))
    }
    /// The error with the value's name in front.
    pub(crate) fn named(&self, e: Error) -> Error {
        e.at(format!("value {}", self.label))
    }
}

/// A graph ready to be given to a device.
pub(crate) struct Program {
    /// One for each input of the graph.
    pub inputs: Vec<Input>,
    /// In the order in which they run.
    pub dispatches: Vec<Dispatch>,
    /// The parameters of all dispatches.
    pub params: Vec<u8>,
    /// Constants and weights that a dispatch reads or the graph returns.
    pub fixed: Vec<Fixed>,
    /// Bytes of every piece of planned memory.
    pub slots: Vec<u64>,
    /// Where the outputs lie, and their types.
    pub outputs: Vec<(Place, TensorType)>,
}

/// The node in messages.
fn label(node: &Node) -> String {
    format!("node '{}' ({})", node.name, node.op.spec().name)
}

impl Program {
    /// Bytes of all buffers: constants, parameters, feeds and everything in between.
    pub(crate) fn bytes(&self) -> u64 {
        let fixed = self.fixed.iter().map(|f| f.bytes);
        let fed = self.inputs.iter().map(|i| words::bytes(i.words()));
        let params = words::bytes(self.params.len() / 4);
        fixed.chain(fed).chain(self.slots.iter().copied()).chain([params]).fold(0, u64::saturating_add)
    }

    /// Plans what the outputs of a graph need.
    ///
    /// # Errors
    /// When a node has no kernel, or exceeds the limits; the node is named.
    pub(crate) fn new(graph: &Graph, limits: &Limits, halves: &Halves) -> Result<Self> {
        let mut graph = graph.clone();
        passes::prune(&mut graph);
        fuse::conditions(&mut graph);
        let mut kernels = graph
            .nodes()
            .iter()
            .map(|n| n.op.kernel(&graph.view_of(n)).map_err(|e| e.at(label(n))))
            .collect::<Result<Vec<Kernel>>>()?;
        fuse::sums(&mut graph, &mut kernels);
        fuse::relus(&graph, &mut kernels);
        chains::join(&mut graph, &mut kernels);
        let view: Vec<bool> = kernels.iter().map(|k| matches!(k, Kernel::Alias)).collect();
        let root = plan::roots(&graph, &view);
        let is_halves = halves::values(&graph, &root, &halves.fed);
        halves::read(&graph, &mut kernels, &root, &is_halves, halves.is_tiled);
        let jobs = jobs(limits, &graph, &kernels, &root)?;
        let slots = Slots::assign(&jobs, &plan::last_use(&graph, &root));
        let mut places = Places {
            limits,
            graph: &graph,
            root: &root,
            is_halves: &is_halves,
            slots: &slots,
            inputs: graph.inputs.iter().enumerate().map(|(i, id)| (id.index(), i)).collect(),
            fixed: Vec::new(),
            fixed_of: HashMap::new(),
            small: HashMap::new(),
        };
        let (mut dispatches, mut params) = (Vec::new(), Vec::new());
        for (job, scratch) in jobs.iter().zip(&slots.scratch) {
            let (node, kernel) = (&graph.nodes()[job.at], &kernels[job.at]);
            let Kernel::Steps { steps, .. } = kernel else { continue };
            for step in steps.iter().filter(|s| !s.grid.contains(&0)) {
                let binds = places.of_step(node, step, scratch, &job.scratch).map_err(|e| e.at(label(node)))?;
                let words = step.params.words();
                params.resize(params.len().next_multiple_of(ALIGN), 0);
                let at = (params.len() as u64, words.len() as u64 * 4);
                params.extend_from_slice(bytemuck::cast_slice(&words));
                dispatches.push(Dispatch { node: label(node), step: step.clone(), binds, params: at });
            }
        }
        let outputs = graph
            .outputs
            .iter()
            .map(|&id| {
                let ty = &graph.value(id).ty;
                limits.fits(ty).map_err(|e| e.at(format!("output {}", graph.label(id))))?;
                Ok((places.of(id)?, ty.clone()))
            })
            .collect::<Result<Vec<_>>>()?;
        let fixed = places.fixed;
        let bound =
            |p: Place| dispatches.iter().flat_map(|d| &d.binds).any(|b| b.0 == p) || outputs.iter().any(|o| o.0 == p);
        let inputs = graph.inputs.iter().enumerate().map(|(i, &id)| Input {
            name: graph.label(id),
            ty: graph.value(id).ty.clone(),
            used: bound(Place::Feed(i)),
            is_halves: is_halves[id.index()],
        });
        Ok(Self { inputs: inputs.collect(), dispatches, params, fixed, slots: slots.sizes.clone(), outputs })
    }
}

/// What every node that runs reads and writes.
fn jobs(limits: &Limits, graph: &Graph, kernels: &[Kernel], root: &[usize]) -> Result<Vec<Job>> {
    let mut jobs = Vec::new();
    for (at, (node, kernel)) in graph.nodes().iter().zip(kernels).enumerate() {
        let Kernel::Steps { scratch, steps } = kernel else { continue };
        let place = |e: Error| e.at(label(node));
        let mut job = Job { at, ..Job::default() };
        let undeclared = |b: &Bind| matches!(b, Bind::Scratch(i) | Bind::Filled(i) if *i >= scratch.len());
        if steps.iter().flat_map(|s| &s.binds).any(undeclared) {
            return Err(place(Error::internal("the kernel binds a scratch buffer that it does not declare")));
        }
        // every input, bound or not: the plan must free it after its last reader
        job.reads = node.inputs.iter().flatten().map(|id| root[id.index()]).collect();
        for id in node.outputs.iter().flatten() {
            job.writes.push((id.index(), limits.fits(&graph.value(*id).ty).map_err(place)?));
        }
        for &words in scratch {
            let ty = TensorType::new(DType::F32, [words]);
            job.scratch.push(limits.fits(&ty).map_err(|e| place(e.at("scratch memory")))?);
        }
        jobs.push(job);
    }
    Ok(jobs)
}

/// Works out places while a program is made.
struct Places<'a> {
    limits: &'a Limits,
    graph: &'a Graph,
    root: &'a [usize],
    is_halves: &'a [bool],
    slots: &'a Slots,
    /// Input number by value index.
    inputs: HashMap<usize, usize>,
    fixed: Vec<Fixed>,
    fixed_of: HashMap<usize, usize>,
    /// Small constants by their elements.
    small: HashMap<Vec<u8>, usize>,
}

impl Places<'_> {
    /// The buffer and bytes of every binding of a step.
    fn of_step(&mut self, node: &Node, step: &Step, slots: &[usize], scratch: &[u64]) -> Result<Vec<(Place, u64)>> {
        self.limits.check(step)?;
        let one = |bind: &Bind| match value_of(node, *bind)? {
            Ok(id) if self.is_halves[self.root[id.index()]] => {
                Ok((self.of(id)?, words::bytes(halves::words(self.graph.value(id).ty.len()))))
            }
            Ok(id) => Ok((self.of(id)?, self.limits.fits(&self.graph.value(id).ty)?)),
            Err(i) => Ok((Place::Slot(slots[i]), scratch[i])),
        };
        step.binds.iter().map(one).collect()
    }

    fn of(&mut self, id: ValueId) -> Result<Place> {
        let root = self.root[id.index()];
        let unknown = || Error::internal(format!("value {} has no memory", self.graph.label(id)));
        let value = self.graph.values().get(root).ok_or_else(unknown)?;
        match &value.source {
            Source::Node { .. } => self.slots.of_root[root].map(Place::Slot).ok_or_else(unknown),
            Source::Input => self.inputs.get(&root).copied().map(Place::Feed).ok_or_else(unknown),
            Source::Const(_) | Source::Weight(_) | Source::Stored(_) => {
                if let Some(&i) = self.fixed_of.get(&root) {
                    return Ok(Place::Fixed(i));
                }
                let bytes = words::bytes(value.ty.len());
                let i =
                    self.fix(Fixed { label: self.graph.label(id), source: value.source.clone(), bytes }, &value.ty)?;
                self.fixed_of.insert(root, i);
                Ok(Place::Fixed(i))
            }
        }
    }

    fn fix(&mut self, fixed: Fixed, ty: &TensorType) -> Result<usize> {
        self.limits.fits(ty).map_err(|e| fixed.named(e))?;
        let new = self.fixed.len();
        let i = if ty.len() <= SMALL {
            let array = fixed.read()?;
            let bytes = words::encode(&array).map_err(|e| fixed.named(e))?;
            *self.small.entry(bytes.into_owned()).or_insert(new)
        } else {
            new
        };
        if i == new {
            self.fixed.push(fixed);
        }
        Ok(i)
    }
}

/// The value that a binding names, or the number of the scratch buffer.
fn value_of(node: &Node, bind: Bind) -> Result<Result<ValueId, usize>> {
    let (list, i, what) = match bind {
        Bind::Input(i) => (&node.inputs, i, "input"),
        Bind::Output(i) => (&node.outputs, i, "output"),
        Bind::Scratch(i) | Bind::Filled(i) => return Ok(Err(i)),
    };
    let id = list.get(i).copied().flatten();
    id.map(Ok).ok_or_else(|| Error::internal(format!("the kernel binds {what} {i}, which the node leaves out")))
}
