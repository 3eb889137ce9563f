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

impl Options {
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
        Ok(session::program(&self.gpu, graph)?.bytes())
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
}
