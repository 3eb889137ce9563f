//! Graphs that fit the memory there is.

use super::Engine;
use crate::classifier::Classifier;
use crate::error::{Error, Result};
use crate::graph::{Graph, ValueId, order};
use crate::memory;

/// What the program takes on the host besides what it computes: code, threads, what kernels pack for themselves, and what the
/// allocator holds ready.
pub const OWN: u64 = 160 << 20;

/// Into so many parts the forward pass is cut, one after the other until the graph fits.
const PARTS: [usize; 8] = [2, 3, 4, 6, 8, 12, 16, 24];

/// A graph that computes parts of the forward pass twice.
pub(crate) struct Lighter {
    pub(crate) graph: Graph,
    pub(crate) bytes: u64,
    /// Parts of the forward pass; all but the last are computed twice.
    pub(crate) parts: usize,
}

/// The graph with the forward pass, which ends where the labels are read, cut into the fewest parts with which it takes
/// at most `limit` bytes, else those with which it takes the least; `None` where none takes less than the graph itself.
/// `bytes` says what a graph takes.
///
/// # Errors
/// As `bytes`.
pub(crate) fn lighter(
    g: &Graph,
    labels: ValueId,
    limit: Option<u64>,
    bytes: impl Fn(&Graph) -> Result<u64>,
) -> Result<Option<Lighter>> {
    let end = order::first_reached(g, &[labels]);
    let mut least = bytes(g)?;
    let mut best = None;
    for parts in PARTS {
        let Some(graph) = order::recompute(g, end, parts)? else { break };
        let bytes = bytes(&graph)?;
        if bytes < least {
            least = bytes;
            best = Some(Lighter { graph, bytes, parts });
        }
        if limit.is_some_and(|l| least <= l) {
            break;
        }
    }
    Ok(best)
}

/// What the process takes besides the work: itself, and the model's files, which are mapped.
pub(crate) fn beside(classifier: &Classifier) -> u64 {
    let model = classifier.model();
    let files = model.data_files().iter().map(|f| f.bytes().len()).sum::<usize>() + model.bytes().len();
    OWN.saturating_add(files as u64)
}

/// The error when `what` does not fit.
pub(crate) fn too_much(what: &str, bytes: u64, parts: usize, engine: &dyn Engine, limit: u64) -> Error {
    let how = if parts > 1 { ", computing the forward pass twice" } else { "" };
    let advice = if engine.keeps_order() { "" } else { "; the engines cpu and wgpu may take less" };
    Error::unsupported(format!(
        "{what} takes about {} of memory on {}{how}, and the limit is {}{advice}",
        memory::in_words(bytes),
        engine.name(),
        memory::in_words(limit)
    ))
}
