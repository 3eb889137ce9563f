//! Elements to the device and back.

use super::device::Gpu;
use super::pool::Held;
use crate::engine::{DeviceTensor, words};
use crate::error::{Error, Result};
use crate::tensor::{Array, TensorType};
use std::sync::{Arc, mpsc};
use wgpu::{Buffer, BufferDescriptor, BufferUsages, MapMode};

/// Transfers go in pieces of at most this many bytes, so that the memory they pass through stays small.
const PIECE: u64 = 64 << 20;

impl Gpu {
    /// Queues the copy of these bytes to the start of a buffer, in order with all other work.
    ///
    /// # Errors
    /// When the device is lost.
    pub(super) fn write(&self, buffer: &Buffer, bytes: &[u8]) -> Result<()> {
        let pieces = bytes.chunks(PIECE as usize);
        let last = pieces.len().saturating_sub(1);
        for (i, piece) in pieces.enumerate() {
            self.queue.write_buffer(buffer, i as u64 * PIECE, piece);
            if i < last {
                self.wait(self.queue.submit([]))?;
            }
        }
        Ok(())
    }

    /// The first `n` words of a buffer, once all work submitted so far is done.
    ///
    /// # Errors
    /// When the device is lost.
    fn read(&self, buffer: &Buffer, n: usize) -> Result<Vec<u32>> {
        let mut out = vec![0u32; n];
        let total = n as u64 * 4;
        if total == 0 {
            return Ok(out);
        }
        let staging = self.device.create_buffer(&BufferDescriptor {
            label: Some("download"),
            size: total.min(PIECE),
            usage: BufferUsages::MAP_READ | BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        let to: &mut [u8] = bytemuck::cast_slice_mut(&mut out);
        for (i, piece) in to.chunks_mut(PIECE as usize).enumerate() {
            let len = piece.len() as u64;
            let mut encoder = self.device.create_command_encoder(&Default::default());
            encoder.copy_buffer_to_buffer(buffer, i as u64 * PIECE, &staging, 0, len);
            let index = self.queue.submit([encoder.finish()]);
            let (sender, receiver) = mpsc::channel();
            // the receiver outlives the wait below; nobody listens only when that failed
            staging.map_async(MapMode::Read, 0..len, move |r| drop(sender.send(r)));
            self.wait(index)?;
            let view = match receiver.recv() {
                Ok(Ok(())) => staging.get_mapped_range(0..len).map_err(|e| Error::engine(format!("download: {e}")))?,
                Ok(Err(e)) => return Err(Error::engine(format!("download: {e}"))),
                Err(_) => return Err(Error::engine("download: the device never answered")),
            };
            piece.copy_from_slice(&view);
            drop(view);
            staging.unmap();
        }
        Ok(out)
    }
}

/// Elements in a device buffer.
pub(super) struct GpuTensor {
    pub gpu: Arc<Gpu>,
    pub held: Arc<Held>,
    pub ty: TensorType,
}

impl GpuTensor {
    /// Moves an array to the device.
    ///
    /// # Errors
    /// When an element or the size does not fit.
    pub(super) fn upload(gpu: &Arc<Gpu>, array: &Array) -> Result<Self> {
        let bytes = words::encode(array)?;
        gpu.guarded(|| {
            let held = gpu.take(words::bytes(array.len()))?;
            gpu.write(&held.buffer, &bytes)?;
            Ok(Self { gpu: gpu.clone(), held, ty: array.ty() })
        })
    }
}

impl DeviceTensor for GpuTensor {
    fn download(&self) -> Result<Array> {
        let read = self.gpu.guarded(|| self.gpu.read(&self.held.buffer, self.ty.len()))?;
        words::decode(&self.ty, read)
    }
    fn ty(&self) -> TensorType {
        self.ty.clone()
    }
    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}
