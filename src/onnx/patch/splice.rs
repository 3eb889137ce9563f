//! One pass over a file: bytes of the source, with the new elements of weights in their places.
//!
//! One thread puts new elements into copies of pieces of the source, another writes what is ready.

use super::encode::encode;
use super::{Job, NewValues, PatchedWeight, unwritable};
use crate::error::{Error, Result};
use crate::onnx::edit::{Edit, edited, moved};
use crate::onnx::weights::Weight;
use crate::tensor::Array;
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread;

/// Elements handled at a time; bounds memory whatever the size of a weight.
pub(super) const CHUNK: usize = 1 << 16;

/// Pieces that wait to be written, at most.
const WAITING: usize = 8;

/// New bytes and where they belong.
struct Piece {
    at: usize,
    bytes: Vec<u8>,
}

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
    file: &mut (impl Write + Seek + Send),
    source: &[u8],
    edits: &[Edit],
    changes: &V,
    jobs: &mut [(&Job<'_>, &mut PatchedWeight)],
    path: &Path,
) -> Result<()> {
    let changed = if edits.is_empty() { None } else { Some(edited(source, edits)?) };
    let base = changed.as_deref().unwrap_or(source);
    let out = Spliced { file, base, end: 0 };
    jobs.sort_by_key(|(job, _)| job.weight.runs().first().map(|r| r.start));
    thread::scope(|scope| {
        let (ready, pieces) = sync_channel(WAITING);
        let (done, used) = channel();
        let writer = thread::Builder::new()
            .spawn_scoped(scope, move || write_all(out, &pieces, &done))
            .map_err(|e| Error::io("cannot start a thread", &e))?;
        let mut splicer = Splicer { source, edits, ready, used };
        let spliced = jobs.iter_mut().try_for_each(|(job, done)| {
            let values = job.values(changes).map_err(|e| e.at(format!("weight '{}'", job.weight.name)))?;
            done.changed = splicer.splice(job.weight, &values)?;
            Ok(())
        });
        // the writer ends when no more can come
        drop(splicer);
        let written = writer.join().map_err(|_| Error::internal("writing panicked"))?;
        let mut out = written.map_err(|e| unwritable(path, &e))?;
        spliced?;
        out.reach(base.len()).map_err(|e| unwritable(path, &e))
    })
}

/// Writes pieces as they come and what lies between them, and gives their memory back.
fn write_all<'a, F: Write + Seek>(
    mut out: Spliced<'a, F>,
    pieces: &Receiver<Piece>,
    done: &Sender<Vec<u8>>,
) -> std::io::Result<Spliced<'a, F>> {
    for Piece { at, bytes } in pieces {
        out.put(at, &bytes)?;
        // nobody needs it after the last piece
        let _ = done.send(bytes);
    }
    Ok(out)
}

/// Makes the pieces.
struct Splicer<'a> {
    source: &'a [u8],
    edits: &'a [Edit],
    ready: SyncSender<Piece>,
    used: Receiver<Vec<u8>>,
}

impl Splicer<'_> {
    /// Hands over the new elements of a weight in the place of the old ones; counts those that differ.
    fn splice(&mut self, weight: &Weight, values: &Array) -> Result<usize> {
        let (mut changed, mut done, width) = (0_usize, 0_usize, weight.storage.width());
        for run in weight.runs() {
            for first in (0..run.count).step_by(CHUNK) {
                let part = run.part(first, CHUNK).and_then(|p| Some((p.count, p.span(width)?)));
                let to = moved(*run, self.edits).part(first, CHUNK).map(|p| p.start);
                let piece = part.and_then(|(n, span)| Some((n, to?, self.source.get(span)?)));
                let (n, at, old) = piece.ok_or_else(|| Error::internal("a weight leaves its file"))?;
                let mut bytes = self.used.try_recv().unwrap_or_default();
                bytes.clear();
                bytes.extend_from_slice(old);
                let encoded = encode(&mut bytes, run.step, weight.storage, values, done);
                let more = encoded.map_err(|e| e.at(format!("'{}'", weight.name)))?;
                done = done.saturating_add(n);
                if more == 0 {
                    continue;
                }
                changed = changed.saturating_add(more);
                // the writer's own error is the one to be told
                self.ready.send(Piece { at, bytes }).map_err(|_| Error::internal("writing ended early"))?;
            }
        }
        Ok(changed)
    }
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
