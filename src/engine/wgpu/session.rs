//! A program made ready for the GPU: memory taken, pipelines compiled, constants uploaded; a run binds
//! the feeds and submits everything at once.

use super::Timing;
use super::device::{Gpu, Pipeline};
use super::pool::Held;
use super::transfer::GpuTensor;
use crate::engine::program::{Halves, Limits, Place, Program};
use crate::engine::{Session, Tensor, parts, program, words};
use crate::error::{Error, Result};
use crate::graph::Graph;
use crate::ops::Form;
use crate::tensor::TensorType;
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, OnceLock};
use std::time::Instant;
use wgpu::{
    BindGroup, BindGroupDescriptor, BindGroupEntry, BindingResource, Buffer, BufferBinding, ComputePass, Device,
    SubmissionIndex,
};

/// Runs that may be under way at once, so that the host cannot pile up work without end.
const IN_FLIGHT: usize = 2;

/// One step, ready to be encoded.
struct Dispatch {
    /// The node in messages, and the shader.
    node: String,
    shader: &'static str,
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
    pieces: Vec<Piece>,
}

/// Elements of an input that lie in one buffer.
struct Piece {
    range: Range<usize>,
    /// Whether anything reads it.
    used: bool,
    /// Whether it is read as halves.
    is_halves: bool,
    /// Where it goes when it is fed from the host.
    held: Option<Arc<Held>>,
}

/// A graph made ready for the GPU. It keeps no host memory of constants and weights, unless feeds may be halves.
pub(super) struct GpuSession {
    gpu: Arc<Gpu>,
    /// The graph, to be made ready anew for feeds that lie otherwise.
    graph: Option<Arc<Graph>>,
    /// Which feeds it takes as halves: those of the first run that are, until one of them comes as floats.
    halves: Vec<bool>,
    has_run: bool,
    /// Not so where making it ready anew failed.
    is_ready: bool,
    inputs: Vec<Input>,
    dispatches: Vec<Dispatch>,
    params: Arc<Held>,
    fixed: Vec<Arc<Held>>,
    slots: Vec<Arc<Held>>,
    /// Where the pieces of each lie.
    outputs: Vec<(Vec<Place>, TensorType)>,
    running: VecDeque<SubmissionIndex>,
    bytes: u64,
}

/// What programs for a device must keep to.
pub(super) fn limits(gpu: &Gpu) -> Limits {
    Limits {
        binding: gpu.limits.max_storage_buffer_binding_size,
        buffers: gpu.limits.max_storage_buffers_per_shader_stage as usize,
        groups: gpu.limits.max_compute_workgroups_per_dimension,
    }
}

/// A graph for a device, its large tensors in pieces; `halves[i]` says that input `i` is fed as halves.
pub(super) fn program(gpu: &Gpu, graph: &Graph, halves: &[bool]) -> Result<Program> {
    let pieces = |(&id, &is_halves)| vec![is_halves; gpu.ranges(&graph.value(id).ty.shape).len()];
    let fed = graph.inputs.iter().zip(halves).flat_map(pieces).collect();
    let halves = Halves { fed, is_tiled: gpu.form == Form::Tiled };
    Program::new(&parts::split(graph, gpu.most_elements())?, &limits(gpu), &halves)
}

impl GpuSession {
    pub(super) fn new(gpu: Arc<Gpu>, graph: &Graph) -> Result<Self> {
        let mut session = Self::with(&gpu, graph, vec![false; graph.inputs.len()])?;
        session.graph = gpu.keeps_halves.then(|| Arc::new(graph.clone()));
        Ok(session)
    }

    fn with(gpu: &Arc<Gpu>, graph: &Graph, halves: Vec<bool>) -> Result<Self> {
        let program = program(gpu, graph, &halves)?;
        gpu.clone().guarded(|| Self::load(gpu.clone(), graph, halves, program))
    }

    /// Makes the graph ready anew for feeds that are halves where it knows none, or floats where it takes halves.
    fn adapt(&mut self, feeds: &[Tensor]) -> Result<()> {
        let first = !std::mem::replace(&mut self.has_run, true);
        let Some(graph) = self.graph.clone().filter(|_| feeds.len() == self.halves.len()) else { return Ok(()) };
        let is_halves = |feed| on_device(feed).is_some_and(|t| t.is_halves);
        let wanted: Vec<bool> =
            feeds.iter().zip(&self.halves).map(|(feed, &known)| is_halves(feed) && (known || first)).collect();
        if wanted != self.halves {
            // the memory of both would be too much
            self.slots.clear();
            self.fixed.clear();
            self.dispatches.clear();
            self.is_ready = false;
            *self = Self { graph: Some(graph.clone()), has_run: true, ..Self::with(&self.gpu, &graph, wanted)? };
        }
        Ok(())
    }

    fn load(gpu: Arc<Gpu>, graph: &Graph, halves: Vec<bool>, program: Program) -> Result<Self> {
        let upload = |bytes: &[u8], words: usize| -> Result<Arc<Held>> {
            let held = gpu.take(words::bytes(words))?;
            gpu.write(&held.buffer, bytes)?;
            Ok(held)
        };
        let mut fixed = Vec::with_capacity(program.fixed.len());
        for one in program.fixed {
            let array = one.read()?;
            fixed.push(upload(&words::encode(&array).map_err(|e| one.named(e))?, array.len())?);
        }
        let params = upload(&program.params, program.params.len() / 4)?;
        let slots = program.slots.iter().map(|&bytes| gpu.take(bytes)).collect::<Result<Vec<_>>>()?;
        let dispatches = program
            .dispatches
            .into_iter()
            .map(|d| {
                let pipeline = gpu.pipeline(&d.step).map_err(|e| e.at(&d.node))?;
                let (shader, grid) = (d.step.shader.name, d.step.grid);
                Ok(Dispatch { node: d.node, shader, pipeline, binds: d.binds, params: d.params, grid, bound: None })
            })
            .collect::<Result<Vec<_>>>()?;
        let fed: u64 = program.inputs.iter().filter(|i| i.used).map(|i| words::bytes(i.words())).sum();
        // the pieces of the graph's inputs and outputs, in order
        let mut feeds = program.inputs.into_iter();
        let mut inputs = Vec::with_capacity(graph.inputs.len());
        for &id in &graph.inputs {
            let ty = graph.value(id).ty.clone();
            let pieces = gpu.ranges(&ty.shape).into_iter().zip(&mut feeds);
            let piece =
                |(range, of): (_, program::Input)| Piece { range, used: of.used, is_halves: of.is_halves, held: None };
            let pieces = pieces.map(piece).collect();
            inputs.push(Input { label: format!("input {}", graph.label(id)), ty, pieces });
        }
        let mut made = program.outputs.into_iter();
        let mut outputs = Vec::with_capacity(graph.outputs.len());
        for &id in &graph.outputs {
            let ty = graph.value(id).ty.clone();
            outputs.push((made.by_ref().take(gpu.ranges(&ty.shape).len()).map(|(place, _)| place).collect(), ty));
        }
        let held = fixed.iter().chain(&slots).chain([&params]).map(|h| h.buffer.size()).sum::<u64>();
        let running = VecDeque::new();
        let bytes = fed + held;
        Ok(Self {
            gpu,
            graph: None,
            halves,
            has_run: false,
            is_ready: true,
            inputs,
            dispatches,
            params,
            fixed,
            slots,
            outputs,
            running,
            bytes,
        })
    }

    /// The buffers that hold the pieces of each feed; uploads those that come from the host.
    fn bind_feeds(&mut self, feeds: &[Tensor]) -> Result<Vec<Option<Arc<Held>>>> {
        if feeds.len() != self.inputs.len() {
            let n = self.inputs.len();
            return Err(Error::invalid(format!("{} tensors fed to a graph of {n} inputs", feeds.len())));
        }
        let mut all = Vec::with_capacity(feeds.len());
        for (input, feed) in self.inputs.iter_mut().zip(feeds) {
            all.extend(input.bind(&self.gpu, feed).map_err(|e| e.at(&input.label))?);
        }
        Ok(all)
    }

    /// Hands all work to the queue, or one dispatch after the other when `timings` wants the seconds of each.
    fn submit(&mut self, feeds: &[Tensor], mut timings: Option<&mut Vec<Timing>>) -> Result<Vec<Tensor>> {
        self.adapt(feeds)?;
        if !self.is_ready {
            return Err(Error::engine("the graph could not be made ready for weights that lie otherwise"));
        }
        let feeds = self.bind_feeds(feeds)?;
        // an output that somebody still holds stays his; this run writes to another buffer
        for p in self.outputs.iter().flat_map(|(places, _)| places) {
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
        let each = if timings.is_some() { 1 } else { self.dispatches.len().max(1) };
        for dispatches in self.dispatches.chunks_mut(each) {
            let mut encoder = self.gpu.device.create_command_encoder(&Default::default());
            let mut pass = encoder.begin_compute_pass(&Default::default());
            for d in dispatches.iter_mut() {
                let buffers = d.binds.iter().map(|b| Ok(&held(b.0)?.buffer)).collect::<Result<Vec<&Buffer>>>()?;
                d.encode(&self.gpu.device, &self.params.buffer, &buffers, &mut pass);
            }
            drop(pass);
            let commands = encoder.finish();
            let started = Instant::now();
            let submission = self.gpu.queue.submit([commands]);
            match (&mut timings, dispatches) {
                (Some(timings), [d, ..]) => {
                    self.gpu.wait(submission)?;
                    let seconds = started.elapsed().as_secs_f64();
                    timings.push(Timing { node: d.node.clone(), shader: d.shader, seconds });
                }
                _ => self.running.push_back(submission),
            }
        }
        self.outputs
            .iter()
            .map(|(places, ty)| {
                let held = places.iter().map(|&p| held(p).cloned()).collect::<Result<Vec<_>>>()?;
                let (gpu, ty) = (self.gpu.clone(), ty.clone());
                Ok(Tensor::Device(Arc::new(GpuTensor { gpu, held, ty, is_halves: false, floats: OnceLock::new() })))
            })
            .collect()
    }

    /// Runs the graph once, one dispatch at a time; returns how long each took, waiting included.
    ///
    /// # Errors
    /// As [`Session::run`].
    pub(super) fn time(&mut self, feeds: &[Tensor]) -> Result<Vec<Timing>> {
        let mut timings = Vec::with_capacity(self.dispatches.len());
        let gpu = self.gpu.clone();
        gpu.guarded(|| self.submit(feeds, Some(&mut timings)))?;
        Ok(timings)
    }
}

impl Dispatch {
    /// Encodes it with these buffers; the bind group of the last run is kept where it binds the same.
    fn encode(&mut self, device: &Device, params: &Buffer, buffers: &[&Buffer], pass: &mut ComputePass<'_>) {
        let fresh = self.bound.take().filter(|(old, _)| old.iter().eq(buffers.iter().copied()));
        let (_, group) = self.bound.insert(fresh.unwrap_or_else(|| {
            let params = (params, self.params.0, self.params.1);
            let whole = buffers.iter().zip(&self.binds).map(|(b, (_, bytes))| (*b, 0, *bytes));
            let entries: Vec<BindGroupEntry> =
                (0u32..).zip(whole.chain([params])).map(|(i, (b, at, bytes))| entry(i, b, at, bytes)).collect();
            let group = device.create_bind_group(&BindGroupDescriptor {
                label: None,
                layout: &self.pipeline.layout,
                entries: &entries,
            });
            (buffers.iter().copied().cloned().collect(), group)
        }));
        pass.set_pipeline(&self.pipeline.compiled);
        pass.set_bind_group(0, &*group, &[]);
        let [x, y, z] = self.grid;
        pass.dispatch_workgroups(x, y, z);
    }
}

impl Input {
    fn bind(&mut self, gpu: &Arc<Gpu>, feed: &Tensor) -> Result<Vec<Option<Arc<Held>>>> {
        let found = feed.ty();
        let same = found.dtype == self.ty.dtype || (found.dtype.is_int() && self.ty.dtype.is_int());
        if found.shape != self.ty.shape || !same {
            return Err(Error::invalid(format!("it is {}, it was fed {found}", self.ty)));
        }
        if self.pieces.iter().all(|p| !p.used) {
            return Ok(vec![None; self.pieces.len()]);
        }
        match feed {
            Tensor::Device(_) => {
                let here = on_device(feed).filter(|t| Arc::ptr_eq(&t.gpu, gpu));
                let here =
                    here.ok_or_else(|| Error::invalid("the tensor lives on another device; download it first"))?;
                if here.is_halves && !self.pieces.iter().all(|p| p.is_halves) {
                    return Ok(vec![Some(here.floats()?)]);
                }
                Ok(here.held.iter().cloned().map(Some).collect())
            }
            Tensor::Host(a) => {
                let bytes = words::encode(a)?;
                self.pieces.iter_mut().map(|p| p.bind(gpu, words::of(&bytes, &p.range)).map(Some)).collect()
            }
        }
    }
}

impl Piece {
    fn bind(&mut self, gpu: &Arc<Gpu>, bytes: &[u8]) -> Result<Arc<Held>> {
        let held = match self.held.take() {
            // a tensor that an earlier run returned may still be this buffer
            Some(h) if Arc::strong_count(&h) == 1 => h,
            _ => gpu.take(words::bytes(self.range.len()))?,
        };
        gpu.write(&held.buffer, bytes)?;
        self.held = Some(held.clone());
        Ok(held)
    }
}

/// The tensor of a device of ours.
fn on_device(feed: &Tensor) -> Option<&GpuTensor> {
    match feed {
        Tensor::Device(d) => d.as_any().downcast_ref(),
        Tensor::Host(_) => None,
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
        let out = gpu.guarded(|| self.submit(feeds, None));
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
