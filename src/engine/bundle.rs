//! Graphs written out as GPU work, for whatever runs WGSL: one JSON text with shaders, buffers and dispatches, and one
//! piece of binary data with constants and whatever else is put there. `docs/web/player.js` plays it in a browser.
//!
//! The data holds 32-bit words, little-endian: floats, integers as `int32`, conditions as 0 and 1. A span is
//! `[offset, bytes]` in it.

use super::program::{Halves, Limits, Place, Program};
use super::words;
use crate::error::{Error, Result};
use crate::graph::Graph;
use crate::ops::{Bind, Form, Shader, Step};
use crate::tensor::{Array, DType, TensorType};
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashMap};

/// Stands in every text.
const FORMAT: &str = "onnx-unlearn plan 1";

/// What every WebGPU adapter allows: <https://www.w3.org/TR/webgpu/#limits>.
const WEBGPU: Limits = Limits { binding: 128 << 20, buffers: 8, groups: 65_535 };

/// A part of the data: offset and bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Span(pub u64, pub u64);

/// What an input of a plan is for.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(tag = "role", content = "of", rename_all = "snake_case")]
pub enum Role {
    /// Nothing is said.
    #[default]
    None,
    /// An input of the model, by its name.
    Sample(String),
    /// Class ids of the samples.
    Labels,
    /// `[sets, samples]`: what the squared gradient of a sample counts in each set.
    SampleWeights,
    /// A weight of the model, by its name.
    Weight(String),
    /// Fisher of the classes to forget, by the weight's name.
    ForgetFisher(String),
    /// Fisher of the classes to retain, by the weight's name.
    RetainFisher(String),
    /// Standard normal numbers, by the weight's name.
    Noise(String),
    /// A strength of a rule, by its name.
    Strength(String),
}

#[derive(Serialize)]
struct ShaderText {
    name: &'static str,
    wgsl: &'static str,
}

#[derive(Serialize)]
struct Pipeline {
    shader: usize,
    overrides: BTreeMap<&'static str, f64>,
    /// Whether each binding but the last is written.
    writes: Vec<bool>,
}

/// Shader, its overrides bit by bit, and which bindings are written.
type PipelineKey = (usize, Vec<(&'static str, u64)>, Vec<bool>);

#[derive(Serialize)]
struct Buffer {
    name: String,
    dtype: String,
    shape: Vec<usize>,
    /// Bytes of its buffer.
    bytes: u64,
}

impl Buffer {
    fn new(name: String, ty: &TensorType) -> Self {
        Self { name, dtype: ty.dtype.to_string(), shape: ty.shape.clone(), bytes: words::bytes(ty.len()) }
    }
}

#[derive(Serialize)]
struct InputBuffer {
    #[serde(flatten)]
    buffer: Buffer,
    /// False when no dispatch reads it.
    used: bool,
    #[serde(flatten)]
    role: Role,
    /// Its elements, where the plan brings some.
    data: Option<Span>,
}

#[derive(Serialize)]
struct OutputBuffer {
    #[serde(flatten)]
    buffer: Buffer,
    at: (&'static str, usize),
}

#[derive(Serialize)]
struct Dispatch {
    node: String,
    pipeline: usize,
    /// Kind, number and bound bytes of each buffer but the last, which holds the parameters.
    buffers: Vec<(&'static str, usize, u64)>,
    /// Offset and bytes in the plan's parameters.
    params: (u64, u64),
    grid: [u32; 3],
}

/// One graph.
#[derive(Serialize)]
struct Plan {
    name: String,
    inputs: Vec<InputBuffer>,
    outputs: Vec<OutputBuffer>,
    constants: Vec<Span>,
    params: Span,
    /// Bytes of every buffer in between.
    slots: Vec<u64>,
    dispatches: Vec<Dispatch>,
}

/// Several graphs and their data.
#[derive(Serialize)]
pub struct Bundle {
    #[serde(skip)]
    form: Form,
    format: &'static str,
    data_bytes: u64,
    shaders: Vec<ShaderText>,
    pipelines: Vec<Pipeline>,
    plans: Vec<Plan>,
    #[serde(flatten)]
    more: BTreeMap<&'static str, serde_json::Value>,
    #[serde(skip)]
    data: Vec<u8>,
    /// Where equal data lies already.
    #[serde(skip)]
    known: HashMap<[u8; 32], Span>,
    #[serde(skip)]
    shader_of: HashMap<&'static str, usize>,
    #[serde(skip)]
    pipeline_of: HashMap<PipelineKey, usize>,
}

/// The dispatches of a graph in their order, as any adapter with WebGPU's default limits runs them.
///
/// # Errors
/// As [`Bundle::add`].
pub fn steps(graph: &Graph) -> Result<Vec<Step>> {
    Ok(Program::new(graph, &WEBGPU, &Halves::default())?.dispatches.into_iter().map(|d| d.step).collect())
}

/// The same where every float that is fed lies in halves, with shaders of this form.
///
/// # Errors
/// As [`Bundle::add`].
pub fn steps_of_halves(graph: &Graph, form: Form) -> Result<Vec<Step>> {
    let fed = graph.inputs.iter().map(|&id| graph.dtype(id) == DType::F32).collect();
    let program = Program::new(graph, &WEBGPU, &Halves { fed, is_tiled: form == Form::Tiled })?;
    Ok(program.dispatches.into_iter().map(|d| d.step).collect())
}

impl Default for Bundle {
    fn default() -> Self {
        Self::new(Form::Tiled)
    }
}

impl Bundle {
    /// An empty one, whose shaders are written in this form. Subgroups are no part of WebGPU's defaults: what asks for
    /// them gets the direct form.
    pub fn new(form: Form) -> Self {
        Self {
            form: if form == Form::Subgroups { Form::Direct } else { form },
            format: FORMAT,
            data_bytes: 0,
            shaders: Vec::new(),
            pipelines: Vec::new(),
            plans: Vec::new(),
            more: BTreeMap::new(),
            data: Vec::new(),
            known: HashMap::new(),
            shader_of: HashMap::new(),
            pipeline_of: HashMap::new(),
        }
    }

    /// Adds a graph. `roles` and `data` are asked about each of its inputs; `outputs` names its outputs.
    ///
    /// # Errors
    /// When a node cannot run within WebGPU's default limits.
    pub fn add(
        &mut self,
        name: &str,
        graph: &Graph,
        outputs: &[String],
        mut input: impl FnMut(&str) -> Result<(Role, Option<Array>)>,
    ) -> Result<()> {
        let program = Program::new(graph, &WEBGPU, &Halves::default())?;
        let mut inputs = Vec::with_capacity(program.inputs.len());
        for i in &program.inputs {
            WEBGPU.fits(&i.ty).map_err(|e| e.at(format!("input {}", i.name)))?;
            let (role, elements) = input(&i.name)?;
            let data = elements.map(|a| self.put(&a)).transpose()?;
            inputs.push(InputBuffer { buffer: Buffer::new(i.name.clone(), &i.ty), used: i.used, role, data });
        }
        let constants =
            program.fixed.iter().map(|f| self.put(&f.read()?).map_err(|e| f.named(e))).collect::<Result<Vec<_>>>()?;
        let params = self.put_bytes(&program.params);
        let dispatches = program.dispatches.iter().map(|d| Dispatch {
            node: d.node.clone(),
            pipeline: self.pipeline(&d.step),
            buffers: d.binds.iter().map(|&(place, bytes)| (kind(place).0, kind(place).1, bytes)).collect(),
            params: d.params,
            grid: d.step.grid,
        });
        let dispatches = dispatches.collect();
        let named = |i: usize| outputs.get(i).cloned().unwrap_or_else(|| format!("output {i}"));
        let outputs = program.outputs.iter().enumerate();
        let outputs = outputs.map(|(i, (at, ty))| OutputBuffer { buffer: Buffer::new(named(i), ty), at: kind(*at) });
        let plan = Plan {
            name: name.to_owned(),
            inputs,
            outputs: outputs.collect(),
            constants,
            params,
            slots: program.slots,
            dispatches,
        };
        self.plans.push(plan);
        Ok(())
    }

    /// Puts elements into the data.
    ///
    /// # Errors
    /// When an element is no 32-bit word.
    pub fn put(&mut self, a: &Array) -> Result<Span> {
        Ok(self.put_bytes(&words::encode(a)?))
    }

    /// Adds a member to the text.
    ///
    /// # Errors
    /// When the value cannot be JSON.
    pub fn say(&mut self, key: &'static str, value: &impl Serialize) -> Result<()> {
        let value = serde_json::to_value(value).map_err(|e| Error::internal(format!("json: {e}")))?;
        self.more.insert(key, value);
        Ok(())
    }

    /// The text.
    ///
    /// # Errors
    /// When it cannot be JSON.
    pub fn json(&self) -> Result<String> {
        serde_json::to_string(self).map_err(|e| Error::internal(format!("json: {e}")))
    }

    /// The data.
    pub fn data(&self) -> &[u8] {
        &self.data
    }

    /// Number of dispatches of all graphs.
    pub fn dispatches(&self) -> usize {
        self.plans.iter().map(|p| p.dispatches.len()).sum()
    }

    fn put_bytes(&mut self, bytes: &[u8]) -> Span {
        let hash = Sha256::digest(bytes).into();
        if let Some(span) = self.known.get(&hash) {
            return *span;
        }
        let span = Span(self.data.len() as u64, bytes.len() as u64);
        self.data.extend_from_slice(bytes);
        self.data_bytes = self.data.len() as u64;
        self.known.insert(hash, span);
        span
    }

    fn shader(&mut self, shader: Shader) -> usize {
        *self.shader_of.entry(shader.name).or_insert_with(|| {
            self.shaders.push(ShaderText { name: shader.name, wgsl: shader.text(self.form) });
            self.shaders.len() - 1
        })
    }

    fn pipeline(&mut self, step: &Step) -> usize {
        let shader = self.shader(step.shader);
        let writes: Vec<bool> = step.binds.iter().map(Bind::is_written).collect();
        let bits = step.overrides.iter().map(|&(name, v)| (name, v.to_bits())).collect();
        *self.pipeline_of.entry((shader, bits, writes.clone())).or_insert_with(|| {
            let overrides = step.overrides.iter().copied().collect();
            self.pipelines.push(Pipeline { shader, overrides, writes });
            self.pipelines.len() - 1
        })
    }
}

fn kind(place: Place) -> (&'static str, usize) {
    match place {
        Place::Fixed(i) => ("constant", i),
        Place::Feed(i) => ("input", i),
        Place::Slot(i) => ("slot", i),
    }
}
