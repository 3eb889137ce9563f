//! A graph made ready for the GPU: memory planned, pipelines compiled, constants uploaded; a run binds
//! the feeds and submits everything at once.

use super::device::{Gpu, Pipeline};
use super::pool::Held;
use super::transfer::GpuTensor;
use super::words;
use crate::engine::plan::{self, Job, Slots};
use crate::engine::{Session, Tensor};
use crate::error::{Error, Result};
use crate::graph::{Graph, Node, Source, ValueId, passes};
use crate::ops::{Bind, Kernel, Step};
use crate::tensor::{Array, DType, TensorType};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use wgpu::{BindGroup, BindGroupDescriptor, BindGroupEntry, BindingResource, Buffer, BufferBinding, SubmissionIndex};

/// Offsets of storage bindings are multiples of this on every adapter (WebGPU's default).
const ALIGN: usize = 256;

/// Runs that may be under way at once, so that the host cannot pile up work without end.
const IN_FLIGHT: usize = 2;

/// Where the elements of a value lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// A constant or weight.
    Fixed(usize),
    /// The feed of an input of the graph.
    Feed(usize),
    /// Planned memory.
    Slot(usize),
}

/// One step, ready to be encoded.
struct Dispatch {
    pipeline: Arc<Pipeline>,
    /// Buffer and bytes of each binding but the last.
    binds: Vec<(Place, u64)>,
    /// Where its parameters lie in [`GpuSession::params`], and their bytes.
    params: (u64, u64),
    grid: [u32; 3],
    /// The bind group of the last run, and the buffers it binds.
    bound: Option<(Vec<Buffer>, BindGroup)>,
}

/// An input of the graph.
struct Input {
    label: String,
    ty: TensorType,
    /// Whether anything reads it.
    used: bool,
    /// Where it goes when it is fed from the host.
    held: Option<Arc<Held>>,
}

/// A graph made ready for the GPU. It keeps no host memory of constants and weights.
pub(super) struct GpuSession {
    gpu: Arc<Gpu>,
    inputs: Vec<Input>,
    dispatches: Vec<Dispatch>,
    params: Arc<Held>,
    fixed: Vec<Arc<Held>>,
    slots: Vec<Arc<Held>>,
    outputs: Vec<(Place, TensorType)>,
    running: VecDeque<SubmissionIndex>,
    bytes: u64,
}

/// The node in messages.
fn place(node: &Node) -> impl Fn(Error) -> Error {
    let label = format!("node '{}' ({})", node.name, node.op.spec().name);
    move |e| e.at(&label)
}

/// Works out places while a session is made.
struct Places<'a> {
    gpu: &'a Arc<Gpu>,
    graph: &'a Graph,
    root: &'a [usize],
    slots: &'a Slots,
    /// Input number by value index.
    inputs: HashMap<usize, usize>,
    fixed: Vec<Arc<Held>>,
    fixed_of: HashMap<usize, usize>,
    /// Small constants by their elements: rules make many equal scalars.
    small: HashMap<Vec<u8>, usize>,
}

impl Places<'_> {
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
                let i = match &value.source {
                    Source::Stored(elements) => self.upload(&elements.read()?),
                    Source::Const(a) | Source::Weight(a) => self.upload(a),
                    _ => Err(unknown()),
                };
                let i = i.map_err(|e| e.at(format!("value {}", self.graph.label(id))))?;
                self.fixed_of.insert(root, i);
                Ok(Place::Fixed(i))
            }
        }
    }

    fn upload(&mut self, a: &Array) -> Result<usize> {
        let bytes = words::encode(a)?;
        let small = bytes.len() <= 64;
        if let (true, Some(&i)) = (small, self.small.get(&*bytes)) {
            return Ok(i);
        }
        fits(self.gpu, &a.ty())?;
        let held = self.gpu.take(words::bytes(a.len()))?;
        self.gpu.write(&held.buffer, &bytes)?;
        self.fixed.push(held);
        let i = self.fixed.len() - 1;
        if small {
            self.small.insert(bytes.into_owned(), i);
        }
        Ok(i)
    }
}

/// Checks that a tensor can be bound; returns its bytes.
fn fits(gpu: &Gpu, ty: &TensorType) -> Result<u64> {
    if ty.dtype == DType::F64 {
        return Err(words::no_f64());
    }
    let bytes = words::bytes(ty.len());
    let most = gpu.limits.max_storage_buffer_binding_size;
    if bytes > most {
        return Err(Error::engine(format!(
            "{ty} takes {bytes} bytes, and this adapter binds at most {most} at once; a smaller batch may help"
        )));
    }
    Ok(bytes)
}

/// Checks a step against what every adapter must allow.
fn check_step(gpu: &Gpu, step: &Step) -> Result<()> {
    let most = gpu.limits.max_storage_buffers_per_shader_stage as usize;
    if step.binds.len() + 1 > most {
        return Err(Error::engine(format!("{} buffers are bound, {most} are allowed", step.binds.len() + 1)));
    }
    let most = gpu.limits.max_compute_workgroups_per_dimension;
    if step.grid.iter().any(|&g| g > most) {
        return Err(Error::engine(format!(
            "shader '{}' needs {:?} workgroups, {most} a dimension are allowed; a smaller batch may help",
            step.shader.name, step.grid
        )));
    }
    Ok(())
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

impl GpuSession {
    pub(super) fn new(gpu: Arc<Gpu>, graph: &Graph) -> Result<Self> {
        let mut graph = graph.clone();
        passes::prune(&mut graph);
        gpu.clone().guarded(|| Self::plan(gpu, graph))
    }

    fn plan(gpu: Arc<Gpu>, graph: Graph) -> Result<Self> {
        let kernels = graph
            .nodes()
            .iter()
            .map(|n| n.op.kernel(&graph.view_of(n)).map_err(place(n)))
            .collect::<Result<Vec<Kernel>>>()?;
        let view: Vec<bool> = kernels.iter().map(|k| matches!(k, Kernel::Alias)).collect();
        let root = plan::roots(&graph, &view);
        let jobs = Self::jobs(&gpu, &graph, &kernels, &root)?;
        let slots = Slots::assign(&jobs, &plan::last_use(&graph, &root));
        let mut places = Places {
            gpu: &gpu,
            graph: &graph,
            root: &root,
            slots: &slots,
            inputs: graph.inputs.iter().enumerate().map(|(i, id)| (id.index(), i)).collect(),
            fixed: Vec::new(),
            fixed_of: HashMap::new(),
            small: HashMap::new(),
        };
        let (mut dispatches, mut params) = (Vec::new(), Vec::<u8>::new());
        for (job, scratch) in jobs.iter().zip(&slots.scratch) {
            let (node, kernel) = (&graph.nodes()[job.at], &kernels[job.at]);
            let Kernel::Steps { steps, .. } = kernel else { continue };
            for step in steps.iter().filter(|s| !s.grid.contains(&0)) {
                let mut one = || -> Result<Dispatch> {
                    check_step(&gpu, step)?;
                    let binds = step
                        .binds
                        .iter()
                        .map(|&b| match value_of(node, b)? {
                            Ok(id) => Ok((places.of(id)?, fits(&gpu, &graph.value(id).ty)?)),
                            Err(i) => Ok((Place::Slot(scratch[i]), job.scratch[i])),
                        })
                        .collect::<Result<Vec<_>>>()?;
                    let words = step.params.words();
                    params.resize(params.len().next_multiple_of(ALIGN), 0);
                    let at = (params.len() as u64, words.len() as u64 * 4);
                    params.extend_from_slice(bytemuck::cast_slice(&words));
                    Ok(Dispatch { pipeline: gpu.pipeline(step)?, binds, params: at, grid: step.grid, bound: None })
                };
                dispatches.push(one().map_err(place(node))?);
            }
        }
        let outputs = graph
            .outputs
            .iter()
            .map(|&id| {
                fits(&gpu, &graph.value(id).ty).map_err(|e| e.at(format!("output {}", graph.label(id))))?;
                Ok((places.of(id)?, graph.value(id).ty.clone()))
            })
            .collect::<Result<Vec<_>>>()?;
        let fixed = places.fixed;
        let bound =
            |p: Place| dispatches.iter().flat_map(|d| &d.binds).any(|b| b.0 == p) || outputs.iter().any(|o| o.0 == p);
        let inputs: Vec<Input> = (0..)
            .zip(&graph.inputs)
            .map(|(i, &id)| Input {
                label: format!("input {}", graph.label(id)),
                ty: graph.value(id).ty.clone(),
                used: bound(Place::Feed(i)),
                held: None,
            })
            .collect();
        let all_params = gpu.take(words::bytes(params.len() / 4))?;
        gpu.write(&all_params.buffer, &params)?;
        let made = slots.sizes.iter().map(|&bytes| gpu.take(bytes)).collect::<Result<Vec<_>>>()?;
        let fed: u64 = inputs.iter().filter(|i| i.used).map(|i| words::bytes(i.ty.len())).sum();
        let held = fixed.iter().chain(&made).chain([&all_params]).map(|h| h.buffer.size()).sum::<u64>();
        Ok(Self {
            params: all_params,
            slots: made,
            running: VecDeque::new(),
            gpu,
            inputs,
            dispatches,
            fixed,
            outputs,
            bytes: fed + held,
        })
    }

    /// What every node that runs reads and writes.
    fn jobs(gpu: &Gpu, graph: &Graph, kernels: &[Kernel], root: &[usize]) -> Result<Vec<Job>> {
        let mut jobs = Vec::new();
        for (at, (node, kernel)) in graph.nodes().iter().zip(kernels).enumerate() {
            let Kernel::Steps { scratch, steps } = kernel else { continue };
            let mut job = Job { at, ..Job::default() };
            let undeclared = |b: &Bind| matches!(b, Bind::Scratch(i) | Bind::Filled(i) if *i >= scratch.len());
            if steps.iter().flat_map(|s| &s.binds).any(undeclared) {
                return Err(place(node)(Error::internal("the kernel binds a scratch buffer that it does not declare")));
            }
            // every input, bound or not: the plan must free it after its last reader
            job.reads = node.inputs.iter().flatten().map(|id| root[id.index()]).collect();
            for id in node.outputs.iter().flatten() {
                job.writes.push((id.index(), fits(gpu, &graph.value(*id).ty).map_err(place(node))?));
            }
            for &words in scratch {
                let ty = TensorType::new(DType::F32, [words]);
                job.scratch.push(fits(gpu, &ty).map_err(|e| place(node)(e.at("scratch memory")))?);
            }
            jobs.push(job);
        }
        Ok(jobs)
    }

    /// The buffer that holds each feed; uploads those that come from the host.
    fn bind_feeds(&mut self, feeds: &[Tensor]) -> Result<Vec<Option<Arc<Held>>>> {
        if feeds.len() != self.inputs.len() {
            let n = self.inputs.len();
            return Err(Error::invalid(format!("{} tensors fed to a graph of {n} inputs", feeds.len())));
        }
        self.inputs.iter_mut().zip(feeds).map(|(i, feed)| i.bind(&self.gpu, feed).map_err(|e| e.at(&i.label))).collect()
    }

    fn submit(&mut self, feeds: &[Tensor]) -> Result<Vec<Tensor>> {
        let feeds = self.bind_feeds(feeds)?;
        // an output that somebody still holds stays his; this run writes to another buffer
        for (p, _) in &self.outputs {
            if let Place::Slot(i) = *p
                && Arc::strong_count(&self.slots[i]) > 1
            {
                self.slots[i] = self.gpu.take(self.slots[i].buffer.size())?;
            }
        }
        let (fixed, slots) = (&self.fixed, &self.slots);
        let held = |p: Place| match p {
            Place::Fixed(i) => Ok(&fixed[i]),
            Place::Slot(i) => Ok(&slots[i]),
            Place::Feed(i) => feeds[i].as_ref().ok_or_else(|| Error::internal("an input that is read was not fed")),
        };
        let device = &self.gpu.device;
        let mut encoder = device.create_command_encoder(&Default::default());
        let mut pass = encoder.begin_compute_pass(&Default::default());
        for d in &mut self.dispatches {
            let buffers = d.binds.iter().map(|b| Ok(&held(b.0)?.buffer)).collect::<Result<Vec<&Buffer>>>()?;
            let fresh = d.bound.take().filter(|(old, _)| old.iter().eq(buffers.iter().copied()));
            let (_, group) = d.bound.insert(fresh.unwrap_or_else(|| {
                let params = (&self.params.buffer, d.params.0, d.params.1);
                let whole = buffers.iter().zip(&d.binds).map(|(b, (_, bytes))| (*b, 0, *bytes));
                let entries: Vec<BindGroupEntry> =
                    (0u32..).zip(whole.chain([params])).map(|(i, (b, at, bytes))| entry(i, b, at, bytes)).collect();
                let group = device.create_bind_group(&BindGroupDescriptor {
                    label: None,
                    layout: &d.pipeline.layout,
                    entries: &entries,
                });
                (buffers.into_iter().cloned().collect(), group)
            }));
            pass.set_pipeline(&d.pipeline.compiled);
            pass.set_bind_group(0, &*group, &[]);
            let [x, y, z] = d.grid;
            pass.dispatch_workgroups(x, y, z);
        }
        drop(pass);
        self.running.push_back(self.gpu.queue.submit([encoder.finish()]));
        self.outputs
            .iter()
            .map(|(p, ty)| {
                let held = held(*p)?.clone();
                Ok(Tensor::Device(Arc::new(GpuTensor { gpu: self.gpu.clone(), held, ty: ty.clone() })))
            })
            .collect()
    }
}

impl Input {
    fn bind(&mut self, gpu: &Arc<Gpu>, feed: &Tensor) -> Result<Option<Arc<Held>>> {
        let found = feed.ty();
        let same = found.dtype == self.ty.dtype || (found.dtype.is_int() && self.ty.dtype.is_int());
        if found.shape != self.ty.shape || !same {
            return Err(Error::invalid(format!("it is {}, it was fed {found}", self.ty)));
        }
        let array = match feed {
            _ if !self.used => return Ok(None),
            Tensor::Device(d) => {
                let here = d.as_any().downcast_ref::<GpuTensor>().filter(|t| Arc::ptr_eq(&t.gpu, gpu));
                let here =
                    here.ok_or_else(|| Error::invalid("the tensor lives on another device; download it first"))?;
                return Ok(Some(here.held.clone()));
            }
            Tensor::Host(a) => a,
        };
        let bytes = words::encode(array)?;
        let held = match self.held.take() {
            // a tensor that an earlier run returned may still be this buffer
            Some(h) if Arc::strong_count(&h) == 1 => h,
            _ => gpu.take(fits(gpu, &self.ty)?)?,
        };
        gpu.write(&held.buffer, &bytes)?;
        self.held = Some(held.clone());
        Ok(Some(held))
    }
}

fn entry(binding: u32, buffer: &Buffer, offset: u64, bytes: u64) -> BindGroupEntry<'_> {
    let size = std::num::NonZero::new(bytes);
    BindGroupEntry { binding, resource: BindingResource::Buffer(BufferBinding { buffer, offset, size }) }
}

impl Session for GpuSession {
    fn run(&mut self, feeds: &[Tensor]) -> Result<Vec<Tensor>> {
        if self.running.len() >= IN_FLIGHT
            && let Some(oldest) = self.running.pop_front()
        {
            self.gpu.wait(oldest)?;
        }
        let gpu = self.gpu.clone();
        let out = gpu.guarded(|| self.submit(feeds));
        if out.is_err() {
            // bind groups made while something failed may be broken
            self.dispatches.iter_mut().for_each(|d| d.bound = None);
        }
        out
    }
    fn device_bytes(&self) -> Option<u64> {
        Some(self.bytes)
    }
}
