//! Device buffers that are used again.

use super::device::{Gpu, lock};
use crate::error::{Error, Result};
use std::collections::HashMap;
use std::sync::Arc;
use wgpu::{Buffer, BufferDescriptor, BufferUsages};

/// Free buffers beyond this many bytes are given back to the system.
const MOST_FREE: u64 = 256 << 20;

/// Buffers nobody uses, by size, and what all buffers take.
#[derive(Default)]
pub(super) struct Free {
    by_size: HashMap<u64, Vec<Buffer>>,
    bytes: u64,
    /// Bytes of the buffers that somebody uses, now and at most so far.
    used: u64,
    most_used: u64,
    /// The most bytes of all buffers so far.
    most: u64,
}

impl Free {
    /// A buffer of this size, if there is one. If there is none, room is made for a new one: buffers that nobody uses
    /// never add to the most that is used at once.
    fn take(&mut self, bytes: u64) -> Option<Buffer> {
        self.used += bytes;
        self.most_used = self.most_used.max(self.used);
        let found = self.by_size.get_mut(&bytes).and_then(Vec::pop);
        if found.is_some() {
            self.bytes -= bytes;
        } else {
            while self.used + self.bytes > self.most_used && self.drop_one() {}
        }
        self.most = self.most.max(self.used + self.bytes);
        found
    }

    /// Gives the largest buffer back to the system.
    fn drop_one(&mut self) -> bool {
        self.by_size.retain(|_, buffers| !buffers.is_empty());
        let Some(size) = self.by_size.keys().copied().max() else { return false };
        drop(self.by_size.get_mut(&size).and_then(Vec::pop));
        self.bytes -= size;
        true
    }

    fn put(&mut self, buffer: Buffer) {
        let bytes = buffer.size();
        self.used -= bytes;
        if self.bytes + bytes <= MOST_FREE {
            self.bytes += bytes;
            self.by_size.entry(bytes).or_default().push(buffer);
        }
    }
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
        let pooled = lock(&self.free).take(bytes);
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

    /// The most bytes of all buffers so far.
    pub(super) fn peak_bytes(&self) -> u64 {
        lock(&self.free).most
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        lock(&self.gpu.free).put(self.buffer.clone());
    }
}
