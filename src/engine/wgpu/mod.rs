//! The GPU engine: the ops' WGSL kernels on Vulkan, Metal, DX12 or OpenGL through wgpu.

mod adapter;
mod device;
mod pool;
mod session;
mod subgroups;
mod transfer;

use super::{Engine, Session, Tensor};
use crate::error::{Error, Result};
use crate::graph::Graph;
use crate::ops::Form;
use crate::tensor::Array;
use device::Gpu;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Which adapter to use.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Takes an adapter that computes on the CPU (lavapipe, WARP) when there is no hardware.
    pub allow_software: bool,
    /// Takes only adapters whose name contains this, in any case; software too. Unset: the environment
    /// variable `ONNX_UNLEARN_ADAPTER` if that is set.
    pub adapter_name: Option<String>,
    /// Looks only at these backends (`vulkan`, `metal`, `dx12`, `gl`, separated by commas). Unset: the
    /// environment variable `WGPU_BACKEND` if that is set.
    pub backend: Option<String>,
    /// How shaders that multiply are written. [`Kernels::Auto`]: as the environment variable
    /// `ONNX_UNLEARN_KERNELS` says if that is set.
    pub kernels: Kernels,
    /// How weights lie on the device. [`Storage::Auto`]: as the environment variable `ONNX_UNLEARN_STORAGE` says if that is
    /// set.
    pub storage: Storage,
    /// Weights of fewer elements lie in 32 bits; 4,096 where it is not said.
    pub fewest_halves: Option<usize>,
    /// Binds at most so many bytes at once, where the adapter allows more: larger tensors are kept in pieces.
    pub max_binding: Option<u64>,
}

/// How shaders that multiply are written; see [`Form`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Kernels {
    /// As suits the adapter: tiled on a GPU, direct where a CPU computes, with subgroups if they fit.
    #[default]
    Auto,
    /// [`Form::Direct`], which runs everywhere.
    Direct,
    /// [`Form::Subgroups`], or an error where the adapter has none of 8 neighbours.
    Subgroups,
    /// [`Form::Tiled`], which runs everywhere.
    Tiled,
}

impl Kernels {
    /// `auto`, `direct`, `subgroups` or `tiled`, in any case.
    ///
    /// # Errors
    /// For any other name.
    pub fn parse(name: &str) -> Result<Self> {
        match name.trim().to_lowercase().as_str() {
            "auto" => Ok(Self::Auto),
            "direct" => Ok(Self::Direct),
            "subgroups" => Ok(Self::Subgroups),
            "tiled" => Ok(Self::Tiled),
            other => Err(Error::engine(format!("'{other}' are no kernels: use auto, direct, subgroups or tiled"))),
        }
    }
}

/// How weights lie on a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Storage {
    /// As suits the adapter: [`Storage::F16`] where shaders are tiled, as on a GPU.
    #[default]
    Auto,
    /// Those that are float16 to the bit lie so, in half the memory; all others in 32 bits.
    F16,
    /// All in 32 bits.
    F32,
}

impl Storage {
    /// `auto`, `f16` or `f32`, in any case.
    ///
    /// # Errors
    /// For any other name.
    pub fn parse(name: &str) -> Result<Self> {
        match name.trim().to_lowercase().as_str() {
            "auto" => Ok(Self::Auto),
            "f16" => Ok(Self::F16),
            "f32" => Ok(Self::F32),
            other => Err(Error::engine(format!("'{other}' is no storage: use auto, f16 or f32"))),
        }
    }
}

/// What a user says about the shaders and the memory of a GPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Wishes {
    /// How shaders multiply.
    pub kernels: Kernels,
    /// How weights lie.
    pub storage: Storage,
}

impl From<Kernels> for Wishes {
    fn from(kernels: Kernels) -> Self {
        Self { kernels, ..Self::default() }
    }
}

impl Options {
    fn storage(&self) -> Result<Storage> {
        match (self.storage, std::env::var("ONNX_UNLEARN_STORAGE")) {
            (Storage::Auto, Ok(name)) if !name.trim().is_empty() => Storage::parse(&name),
            (storage, _) => Ok(storage),
        }
    }
    fn kernels(&self) -> Result<Kernels> {
        match (self.kernels, std::env::var("ONNX_UNLEARN_KERNELS")) {
            (Kernels::Auto, Ok(name)) if !name.trim().is_empty() => Kernels::parse(&name),
            (kernels, _) => Ok(kernels),
        }
    }
}

/// How long one dispatch took.
#[derive(Clone, Debug)]
pub struct Timing {
    /// The node it belongs to: `node 'name' (Op)`.
    pub node: String,
    /// Its shader.
    pub shader: &'static str,
    /// Seconds from handing it to the queue until it was done.
    pub seconds: f64,
}

/// Runs graphs on a GPU. Sessions share the device, the compiled shaders and the free memory.
pub struct WgpuEngine {
    gpu: Arc<Gpu>,
}

impl WgpuEngine {
    /// Opens the best adapter there is: discrete, integrated, virtual, then, if allowed, software.
    ///
    /// # Errors
    /// [`crate::Kind::Engine`] when no adapter can be used, with the reason and a remedy.
    pub fn new(options: &Options) -> Result<Self> {
        Ok(Self { gpu: Arc::new(Gpu::open(options)?) })
    }
    /// True when the adapter computes on the CPU.
    pub fn is_software(&self) -> bool {
        self.gpu.info.device_type == wgpu::DeviceType::Cpu
    }
    /// Runs a graph twice, the second time one dispatch after the other, and returns how long each of these took:
    /// for finding out where the time goes. Waiting for the device takes its share of every dispatch, some 0.1 ms.
    ///
    /// # Errors
    /// As [`Engine::prepare`] and [`Session::run`].
    pub fn time(&self, graph: &Graph, feeds: &[Tensor]) -> Result<Vec<Timing>> {
        let mut session = session::GpuSession::new(self.gpu.clone(), graph)?;
        // code is generated when a shader first runs
        for out in session.run(feeds)? {
            out.to_array()?;
        }
        session.time(feeds)
    }
    /// How its shaders that multiply are written.
    pub fn form(&self) -> Form {
        self.gpu.form
    }
    /// True when weights that are float16 to the bit lie so.
    pub fn keeps_halves(&self) -> bool {
        self.gpu.keeps_halves
    }
    /// Bytes that are bound at once at most; larger tensors are kept in pieces.
    pub fn max_tensor_bytes(&self) -> u64 {
        self.gpu.limits.max_storage_buffer_binding_size
    }
}

impl Engine for WgpuEngine {
    fn name(&self) -> &'static str {
        "wgpu"
    }
    fn describe(&self) -> String {
        adapter::describe(&self.gpu.info)
    }
    fn device(&self) -> BTreeMap<&'static str, String> {
        adapter::facts(&self.gpu.info)
    }
    fn shaders(&self) -> Vec<(&'static str, &'static str)> {
        self.gpu.shaders()
    }
    fn forecast(&self, graph: &Graph) -> Result<u64> {
        Ok(session::program(&self.gpu, graph, &vec![false; graph.inputs.len()])?.bytes())
    }
    fn peak_bytes(&self) -> Option<u64> {
        Some(self.gpu.peak_bytes())
    }
    fn on_device(&self) -> bool {
        true
    }
    fn prepare(&self, graph: &Graph) -> Result<Box<dyn Session>> {
        Ok(Box::new(session::GpuSession::new(self.gpu.clone(), graph)?))
    }
    fn upload(&self, array: &Array) -> Result<Tensor> {
        Ok(Tensor::Device(Arc::new(transfer::GpuTensor::upload(&self.gpu, array)?)))
    }
    fn upload_weight(&self, array: &Array) -> Result<Tensor> {
        if !self.gpu.keeps_halves {
            return self.upload(array);
        }
        Ok(Tensor::Device(Arc::new(transfer::GpuTensor::upload_halves(&self.gpu, array)?)))
    }
}
