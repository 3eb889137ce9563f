//! Device buffers that are used again.

use super::device::{Gpu, lock};
use crate::error::{Error, Result};
use std::collections::HashMap;
use std::sync::Arc;
use wgpu::{Buffer, BufferDescriptor, BufferUsages};

/// Free buffers beyond this many bytes are given back to the system.
const MOST_FREE: u64 = 256 << 20;

/// Buffers nobody uses, by size.
#[derive(Default)]
pub(super) struct Free {
    by_size: HashMap<u64, Vec<Buffer>>,
    bytes: u64,
}

/// A buffer that somebody uses; it goes back to the pool when the last user drops it. Work that was
/// submitted before still finds its elements, since the queue runs in order.
pub(super) struct Held {
    pub buffer: Buffer,
    gpu: Arc<Gpu>,
}

impl Gpu {
    /// A buffer of this size with any contents.
    ///
    /// # Errors
    /// When it exceeds the adapter's limits. Short memory is reported to the enclosing
    /// [`Gpu::guarded`].
    pub(super) fn take(self: &Arc<Self>, bytes: u64) -> Result<Arc<Held>> {
        if bytes > self.limits.max_buffer_size {
            return Err(Error::engine(format!(
                "a buffer of {bytes} bytes is needed, this adapter allows {}",
                self.limits.max_buffer_size
            )));
        }
        let pooled = {
            let mut free = lock(&self.free);
            let found = free.by_size.get_mut(&bytes).and_then(Vec::pop);
            if found.is_some() {
                free.bytes -= bytes;
            }
            found
        };
        let buffer = pooled.unwrap_or_else(|| {
            self.device.create_buffer(&BufferDescriptor {
                label: None,
                size: bytes,
                usage: BufferUsages::STORAGE | BufferUsages::COPY_SRC | BufferUsages::COPY_DST,
                mapped_at_creation: false,
            })
        });
        Ok(Arc::new(Held { buffer, gpu: self.clone() }))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let bytes = self.buffer.size();
        let mut free = lock(&self.gpu.free);
        if free.bytes + bytes <= MOST_FREE {
            free.bytes += bytes;
            free.by_size.entry(bytes).or_default().push(self.buffer.clone());
        }
    }
}
