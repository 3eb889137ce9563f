//! Elements to the device and back.

use super::device::Gpu;
use super::pool::Held;
use crate::engine::{DeviceTensor, halves, parts, words};
use crate::error::{Error, Result};
use crate::tensor::{Array, TensorType};
use std::ops::Range;
use std::sync::{Arc, OnceLock, mpsc};
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

    /// The first words of a buffer, as many as `out` takes, once all work submitted so far is done.
    ///
    /// # Errors
    /// When the device is lost.
    fn read(&self, buffer: &Buffer, out: &mut [u32]) -> Result<()> {
        let total = out.len() as u64 * 4;
        if total == 0 {
            return Ok(());
        }
        let staging = self.device.create_buffer(&BufferDescriptor {
            label: Some("download"),
            size: total.min(PIECE),
            usage: BufferUsages::MAP_READ | BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        let to: &mut [u8] = bytemuck::cast_slice_mut(out);
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
        Ok(())
    }
}

/// Elements in device buffers.
pub(super) struct GpuTensor {
    pub gpu: Arc<Gpu>,
    /// The buffers of the ranges that [`Gpu::ranges`] gives; one for most.
    pub held: Vec<Arc<Held>>,
    pub ty: TensorType,
    /// Whether its elements are [`halves`], in one buffer.
    pub is_halves: bool,
    /// The same as floats, once somebody needed them so.
    pub floats: OnceLock<Arc<Held>>,
}

impl Gpu {
    /// The ranges of the elements of a tensor of this shape that lie in a buffer each.
    pub(super) fn ranges(&self, shape: &[usize]) -> Vec<Range<usize>> {
        parts::cut(shape, self.most_elements())
    }
}

impl GpuTensor {
    /// Moves an array to the device.
    ///
    /// # Errors
    /// When an element or the size does not fit.
    pub(super) fn upload(gpu: &Arc<Gpu>, array: &Array) -> Result<Self> {
        let bytes = words::encode(array)?;
        gpu.guarded(|| {
            let one = |range: Range<usize>| {
                let held = gpu.take(words::bytes(range.len()))?;
                gpu.write(&held.buffer, words::of(&bytes, &range))?;
                Ok(held)
            };
            let held = gpu.ranges(array.shape()).into_iter().map(one).collect::<Result<Vec<_>>>()?;
            Ok(Self { gpu: gpu.clone(), held, ty: array.ty(), is_halves: false, floats: OnceLock::new() })
        })
    }

    /// The same as halves, where that loses nothing and the array lies in one buffer.
    ///
    /// # Errors
    /// As [`GpuTensor::upload`].
    pub(super) fn upload_halves(gpu: &Arc<Gpu>, array: &Array) -> Result<Self> {
        let fits = array.len() >= gpu.fewest_halves && gpu.ranges(array.shape()).len() == 1;
        let Some(packed) = fits.then(|| halves::pack(array)).flatten() else { return Self::upload(gpu, array) };
        gpu.guarded(|| {
            let held = gpu.take(words::bytes(packed.len()))?;
            gpu.write(&held.buffer, bytemuck::cast_slice(&packed))?;
            Ok(Self { gpu: gpu.clone(), held: vec![held], ty: array.ty(), is_halves: true, floats: OnceLock::new() })
        })
    }

    /// The buffer of the floats that its halves are.
    ///
    /// # Errors
    /// When the device is lost, or memory is short.
    pub(super) fn floats(&self) -> Result<Arc<Held>> {
        if let Some(known) = self.floats.get() {
            return Ok(known.clone());
        }
        let array = self.download()?;
        let held = self.gpu.take(words::bytes(array.len()))?;
        self.gpu.write(&held.buffer, &words::encode(&array)?)?;
        Ok(self.floats.get_or_init(|| held).clone())
    }
}

impl DeviceTensor for GpuTensor {
    fn download(&self) -> Result<Array> {
        if let ([held], true) = (&self.held[..], self.is_halves) {
            let mut packed = vec![0u32; halves::words(self.ty.len())];
            self.gpu.guarded(|| self.gpu.read(&held.buffer, &mut packed))?;
            return Array::from_vec(&self.ty.shape, halves::unpack(&packed, self.ty.len()));
        }
        let mut all = vec![0u32; self.ty.len()];
        self.gpu.guarded(|| {
            let ranges = self.gpu.ranges(&self.ty.shape);
            self.held.iter().zip(ranges).try_for_each(|(held, r)| self.gpu.read(&held.buffer, &mut all[r]))
        })?;
        words::decode(&self.ty, all)
    }
    fn ty(&self) -> TensorType {
        self.ty.clone()
    }
    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}
