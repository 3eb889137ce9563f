//! The GPU engine: the ops' WGSL kernels on Vulkan, Metal, DX12 or OpenGL through wgpu.

mod adapter;
mod device;
mod pool;
mod session;
mod transfer;

use super::program::Program;
use super::{Engine, Session, Tensor};
use crate::error::Result;
use crate::graph::Graph;
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
    /// Bytes that one tensor may have at most.
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
        Ok(Program::new(graph, &session::limits(&self.gpu))?.bytes())
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
