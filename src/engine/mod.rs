//! Engines run graphs. They know values and nodes, and neither classes nor strengths.

pub mod bundle;
mod chains;
pub mod choose;
pub mod cpu;
pub mod fit;
mod fuse;
mod halves;
pub mod ort;
mod ort_library;
pub mod parts;
pub(crate) mod plan;
pub(crate) mod program;
pub mod wgpu;
mod words;

use crate::error::Result;
use crate::graph::Graph;
use crate::tensor::{Array, TensorType};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Elements on the host or on an engine's device. Cheap to clone.
#[derive(Clone)]
pub enum Tensor {
    /// On the host.
    Host(Array),
    /// On a device; only the engine that made it can be fed with it.
    Device(Arc<dyn DeviceTensor>),
}

/// Elements that live on a device.
pub trait DeviceTensor: Send + Sync {
    /// Copies the elements to the host.
    ///
    /// # Errors
    /// When the device is lost.
    fn download(&self) -> Result<Array>;
    /// Element type and shape.
    fn ty(&self) -> TensorType;
    /// For the engine that made it.
    fn as_any(&self) -> &dyn std::any::Any;
}

impl Tensor {
    /// Element type (of the storage, for integers on the host) and shape.
    pub fn ty(&self) -> TensorType {
        match self {
            Self::Host(a) => a.ty(),
            Self::Device(d) => d.ty(),
        }
    }
    /// The elements on the host.
    ///
    /// # Errors
    /// When the device is lost.
    pub fn to_array(&self) -> Result<Array> {
        match self {
            Self::Host(a) => Ok(a.clone()),
            Self::Device(d) => d.download(),
        }
    }
}

impl From<Array> for Tensor {
    fn from(a: Array) -> Self {
        Self::Host(a)
    }
}

/// Something that runs graphs.
pub trait Engine: Send + Sync {
    /// `cpu`, `wgpu` or `ort`.
    fn name(&self) -> &'static str;
    /// One line: the adapter or library in use.
    fn describe(&self) -> String;
    /// What computes, for records: adapter, driver, library. Nothing in it depends on where files lie.
    fn device(&self) -> BTreeMap<&'static str, String> {
        BTreeMap::new()
    }
    /// Name and WGSL source of every shader that was compiled so far, sorted by name.
    fn shaders(&self) -> Vec<(&'static str, &'static str)> {
        Vec::new()
    }
    /// Makes a graph ready to run; constants and weights are moved to the device once.
    ///
    /// # Errors
    /// When the graph needs what the engine cannot do, or exceeds its limits.
    fn prepare(&self, graph: &Graph) -> Result<Box<dyn Session>>;
    /// The most bytes that a run of this graph takes: constants, feeds, outputs and everything in between, on the device
    /// where there is one.
    ///
    /// # Errors
    /// When the engine cannot run the graph.
    fn forecast(&self, graph: &Graph) -> Result<u64> {
        Ok(plan::given_bytes(graph).saturating_add(plan::host_bytes(graph)))
    }
    /// The most bytes that were taken so far: of the engine's device where there is one, else of this process (Linux
    /// alone says so).
    fn peak_bytes(&self) -> Option<u64> {
        crate::memory::peak()
    }
    /// Whether nodes run in the order of the graph, so that values that are computed twice save memory.
    fn keeps_order(&self) -> bool {
        true
    }
    /// Whether what sessions return stays on a device.
    fn on_device(&self) -> bool {
        false
    }
    /// Opens a model file as a user of the model will; `None` where the engine does not read files by itself.
    ///
    /// # Errors
    /// When its users will not be able to, or memory is short for so many `bytes` of weights.
    fn opens(&self, _file: &std::path::Path, _bytes: u64) -> Option<Result<()>> {
        None
    }
    /// Moves elements to where this engine works, so that feeding them costs nothing.
    ///
    /// # Errors
    /// When memory is short.
    fn upload(&self, array: &Array) -> Result<Tensor> {
        Ok(Tensor::Host(array.clone()))
    }
    /// The same for elements that are read often and stay as they are, which may lie in less memory.
    ///
    /// # Errors
    /// As [`Engine::upload`].
    fn upload_weight(&self, array: &Array) -> Result<Tensor> {
        self.upload(array)
    }
}

/// A graph made ready.
pub trait Session: Send {
    /// Runs the graph once: one tensor for each of [`Graph::inputs`], one back for each of
    /// [`Graph::outputs`]. Outputs stay on the device.
    ///
    /// # Errors
    /// When a feed has the wrong type, or the engine fails.
    fn run(&mut self, feeds: &[Tensor]) -> Result<Vec<Tensor>>;
    /// Bytes of device memory that were planned for constants, feeds and everything in between; `None`
    /// where the engine does not plan.
    fn device_bytes(&self) -> Option<u64> {
        None
    }
}
