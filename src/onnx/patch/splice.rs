//! One pass over a file: bytes of the source, with the new elements of weights in their places.

use super::{Job, NewValues, PatchedWeight, unwritable};
use crate::error::{Error, Result};
use crate::onnx::edit::{Edit, edited, moved};
use crate::onnx::weights::{Storage, Weight};
use crate::tensor::Array;
use half::{bf16, f16};
use std::fmt::Display;
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;

/// Elements handled at a time; bounds memory whatever the size of a weight.
pub(super) const CHUNK: usize = 1 << 16;

/// A file that is written from start to end: bytes of `base`, or others in their place.
struct Spliced<'a, F> {
    file: &'a mut F,
    base: &'a [u8],
    end: usize,
}

impl<F: Write + Seek> Spliced<'_, F> {
    /// Writes what comes before `to`.
    fn reach(&mut self, to: usize) -> std::io::Result<()> {
        if let Some(gap) = self.base.get(self.end..to) {
            self.file.write_all(gap)?;
            self.end = to;
        }
        Ok(())
    }
    /// Puts bytes in the place of those at `at`; what was passed already is gone back to.
    fn put(&mut self, at: usize, bytes: &[u8]) -> std::io::Result<()> {
        let seek = |n: usize| SeekFrom::Start(u64::try_from(n).unwrap_or(u64::MAX));
        let end = at.saturating_add(bytes.len());
        if at >= self.end {
            self.reach(at)?;
            self.file.write_all(bytes)?;
            self.end = end;
            return Ok(());
        }
        self.reach(end)?;
        self.file.seek(seek(at))?;
        self.file.write_all(bytes)?;
        self.file.seek(seek(self.end)).map(|_| ())
    }
}

/// Writes a whole file in the order in which its weights lie, so that most bytes are written once.
pub(super) fn splice_all<V: NewValues + ?Sized>(
    file: &mut (impl Write + Seek),
    source: &[u8],
    edits: &[Edit],
    changes: &V,
    jobs: &mut [(&Job<'_>, &mut PatchedWeight)],
    path: &Path,
) -> Result<()> {
    let changed = if edits.is_empty() { None } else { Some(edited(source, edits)?) };
    let base = changed.as_deref().unwrap_or(source);
    let mut out = Spliced { file, base, end: 0 };
    jobs.sort_by_key(|(job, _)| job.weight.runs().first().map(|r| r.start));
    for (job, done) in jobs {
        let values = job.values(changes).map_err(|e| e.at(format!("weight '{}'", job.weight.name)))?;
        done.changed = splice(&mut out, source, edits, job.weight, &values, path)?;
    }
    out.reach(base.len()).map_err(|e| unwritable(path, &e))
}

/// Writes the new elements of a weight in the place of the old ones; counts those that differ.
fn splice<F: Write + Seek>(
    out: &mut Spliced<'_, F>,
    source: &[u8],
    edits: &[Edit],
    weight: &Weight,
    values: &Array,
    path: &Path,
) -> Result<usize> {
    let (mut changed, mut done, width) = (0_usize, 0_usize, weight.storage.width());
    let mut bytes = Vec::new();
    for run in weight.runs() {
        for first in (0..run.count).step_by(CHUNK) {
            let part = run.part(first, CHUNK).and_then(|p| Some((p.count, p.span(width)?)));
            let to = moved(*run, edits).part(first, CHUNK).map(|p| p.start);
            let piece = part.and_then(|(n, span)| Some((n, to?, source.get(span)?)));
            let (n, at, old) = piece.ok_or_else(|| Error::internal("a weight leaves its file"))?;
            bytes.clear();
            bytes.extend_from_slice(old);
            let encoded = encode(&mut bytes, run.step, weight.storage, values, done);
            let more = encoded.map_err(|e| e.at(format!("'{}'", weight.name)))?;
            done = done.saturating_add(n);
            if more == 0 {
                continue;
            }
            changed = changed.saturating_add(more);
            out.put(at, &bytes).map_err(|e| unwritable(path, &e))?;
        }
    }
    Ok(changed)
}

/// Puts the values from element `first` on into `bytes`; counts the elements whose bytes change.
fn encode(bytes: &mut [u8], step: usize, storage: Storage, values: &Array, first: usize) -> Result<usize> {
    if let (Storage::F64, Array::F64(_)) = (storage, values) {
        let new = values.slice::<f64>()?.get(first..).unwrap_or_default();
        return replace(bytes, step, new, f64::from_le_bytes, f64::to_le_bytes);
    }
    let new = values.slice::<f32>()?.get(first..).unwrap_or_default();
    match storage {
        Storage::F32 => replace(bytes, step, new, f32::from_le_bytes, f32::to_le_bytes),
        Storage::F16 => {
            replace(bytes, step, new, |b| f16::from_le_bytes(b).to_f32(), |v| f16::from_f32(v).to_le_bytes())
        }
        Storage::Bf16 => {
            replace(bytes, step, new, |b| bf16::from_le_bytes(b).to_f32(), |v| bf16::from_f32(v).to_le_bytes())
        }
        Storage::F64 => replace(bytes, step, new, |b| narrow(f64::from_le_bytes(b)), |v| f64::from(v).to_le_bytes()),
    }
}

/// The nearest `f32`.
#[allow(clippy::as_conversions, clippy::cast_possible_truncation, reason = "rounding is the purpose")]
fn narrow(v: f64) -> f32 {
    v as f32
}

/// The two float types, compared by their bits: `-0.0` is not `0.0`, and a NaN equals itself.
trait Real: Copy + Display {
    fn same(self, other: Self) -> bool;
    fn finite(self) -> bool;
}

impl Real for f32 {
    fn same(self, other: Self) -> bool {
        self.to_bits() == other.to_bits()
    }
    fn finite(self) -> bool {
        self.is_finite()
    }
}

impl Real for f64 {
    fn same(self, other: Self) -> bool {
        self.to_bits() == other.to_bits()
    }
    fn finite(self) -> bool {
        self.is_finite()
    }
}

fn replace<const N: usize, V: Real>(
    bytes: &mut [u8],
    step: usize,
    new: &[V],
    load: impl Fn([u8; N]) -> V,
    save: impl Fn(V) -> [u8; N],
) -> Result<usize> {
    let mut changed = 0_usize;
    let elements = bytes.chunks_mut(step.max(1)).filter_map(|c| c.first_chunk_mut::<N>());
    for (old, &value) in elements.zip(new) {
        if load(*old).same(value) {
            continue;
        }
        let stored = save(value);
        if value.finite() && !load(stored).finite() {
            return Err(Error::invalid(format!("the value {value} does not fit its {}-bit type", 8 * N)));
        }
        if *old != stored {
            *old = stored;
            changed = changed.saturating_add(1);
        }
    }
    Ok(changed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    #[test]
    fn pieces_in_any_order_land_where_they_belong() {
        let base: Vec<u8> = (0..40).collect();
        let orders: [&[(usize, usize)]; 4] = [
            &[(3, 4), (10, 2), (30, 10)],
            &[(30, 4), (3, 4), (10, 2)],
            // each reaches over the end of the one before, and starts before it
            &[(8, 8), (4, 16), (0, 24)],
            &[],
        ];
        for order in orders {
            let (mut want, mut bytes) = (base.clone(), Vec::new());
            let mut file = Cursor::new(&mut bytes);
            let mut out = Spliced { file: &mut file, base: &base, end: 0 };
            for &(at, n) in order {
                want[at..at + n].fill(200);
                out.put(at, &vec![200; n]).unwrap();
            }
            out.reach(base.len()).unwrap();
            assert_eq!(bytes, want, "{order:?}");
        }
    }
}
