//! The work of a Fisher that is kept, cut into blocks that are the same whoever computes them.
//!
//! The samples of a class, in the order of the inputs, are cut into chunks of [`CHUNK`]. A block is what one call of
//! the engine sums: one chunk, or several small ones of neighbouring classes, each into a sum of its own. Sums of chunks
//! are added in a binary tree over the chunks of a class whose shape their number decides, so that every addition has
//! the same two operands in whichever order the parts of the work are done or joined.

use super::MAX_CLASS_ELEMENTS;
use crate::error::{Error, Result};
use std::collections::BTreeMap;
use std::ops::Range;

/// Samples of a class that are summed on the device; their sum is what the tree of additions begins with.
pub const CHUNK: usize = 256;

/// Chunks of one block.
const MAX_SLOTS: usize = 8;

/// Number of chunks of so many samples.
pub fn chunks(samples: usize) -> usize {
    samples.div_ceil(CHUNK)
}

/// Where the tree over these chunks divides: the greatest power of two below their number lies on the left.
fn split(range: &Range<usize>) -> usize {
    let n = range.len();
    range.start + if n < 2 { n } else { 1 << (n - 1).ilog2() }
}

/// The two halves of a node of the tree; `None` for a single chunk.
pub(super) fn halves(node: &Range<usize>) -> Option<(Range<usize>, Range<usize>)> {
    let middle = split(node);
    (node.len() > 1).then_some((node.start..middle, middle..node.end))
}

/// True when this is a node of the tree over `all` chunks.
pub(super) fn is_node(range: &Range<usize>, all: usize) -> bool {
    let mut node = 0..all;
    while node != *range {
        match halves(&node) {
            Some((left, _)) if range.end <= left.end => node = left,
            Some((_, right)) if range.start >= right.start => node = right,
            _ => return false,
        }
    }
    !range.is_empty()
}

/// The fewest nodes of the tree over `all` chunks that make up a range of them, in order.
pub(super) fn cover(range: &Range<usize>, all: usize) -> Vec<Range<usize>> {
    fn go(range: &Range<usize>, node: Range<usize>, out: &mut Vec<Range<usize>>) {
        if range.start <= node.start && node.end <= range.end {
            out.push(node);
        } else if let Some((left, right)) = halves(&node) {
            for half in [left, right] {
                if range.start < half.end && half.start < range.end {
                    go(range, half, out);
                }
            }
        }
    }
    let mut out = Vec::new();
    if !range.is_empty() {
        go(range, 0..all, &mut out);
    }
    out
}

/// Some samples of one class that are summed at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Chunk {
    pub(super) class: usize,
    /// Which chunk of its class.
    pub(super) index: usize,
    /// Where its samples lie in the inputs.
    pub(super) positions: Vec<usize>,
}

/// All work of one estimate, in the order of classes.
#[derive(Clone, Debug)]
pub struct Plan {
    pub(super) blocks: Vec<Vec<Chunk>>,
    /// Classes with the number of samples of each.
    pub samples: Vec<(usize, usize)>,
}

impl Plan {
    /// The work for these classes of the inputs, all of them where none is named, on weights of so many elements.
    ///
    /// # Errors
    /// When a class has no sample.
    pub fn new(by_class: &BTreeMap<usize, Vec<usize>>, classes: &[usize], elements: usize) -> Result<Self> {
        if let Some(c) = classes.iter().find(|c| !by_class.contains_key(c)) {
            return Err(Error::invalid(format!("no labelled input belongs to class {c}")));
        }
        let slots = (MAX_CLASS_ELEMENTS / elements.max(1)).clamp(1, MAX_SLOTS);
        let mut plan = Self { blocks: Vec::new(), samples: Vec::new() };
        let mut held = 0;
        for (&class, at) in by_class.iter().filter(|(c, _)| classes.is_empty() || classes.contains(c)) {
            plan.samples.push((class, at.len()));
            for (index, positions) in at.chunks(CHUNK).enumerate() {
                let chunk = Chunk { class, index, positions: positions.to_vec() };
                held += positions.len();
                match plan.blocks.last_mut().filter(|b| b.len() < slots && held <= CHUNK) {
                    Some(block) => block.push(chunk),
                    None => {
                        held = positions.len();
                        plan.blocks.push(vec![chunk]);
                    }
                }
            }
        }
        Ok(plan)
    }

    /// The blocks of part `k` of `n`: neighbours, and as many as the other parts have or one more.
    ///
    /// # Errors
    /// When there is no such part.
    pub fn shard(&self, k: usize, n: usize) -> Result<Range<usize>> {
        if k >= n {
            return Err(Error::invalid(format!("there is no part {k} of {n}: they are counted from 0")));
        }
        let at = |k: usize| (self.blocks.len() as u128 * k as u128 / n as u128) as usize;
        Ok(at(k)..at(k + 1))
    }

    /// All blocks.
    pub fn all(&self) -> Range<usize> {
        0..self.blocks.len()
    }

    /// Number of samples of some blocks.
    pub fn samples_of(&self, blocks: &Range<usize>) -> usize {
        self.blocks[blocks.clone()].iter().flatten().map(|c| c.positions.len()).sum()
    }

    /// Sums and samples of a run, for blocks of one chunk and for blocks of several; `None` where there is no such
    /// block.
    pub(super) fn sessions(&self) -> [Option<(usize, usize)>; 2] {
        [false, true].map(|several| {
            let blocks = self.blocks.iter().filter(|b| (b.len() > 1) == several);
            let size = |b: &Vec<Chunk>| (b.len(), b.iter().map(|c| c.positions.len()).sum::<usize>());
            blocks.map(size).reduce(|a, b| (a.0.max(b.0), a.1.max(b.1)))
        })
    }

    /// Sums that wait for others of their class at most while a block is computed.
    pub(super) fn waiting(&self) -> usize {
        let chunks = self.samples.iter().map(|&(_, n)| chunks(n)).max().unwrap_or(1);
        if chunks > 1 { chunks.ilog2() as usize + 1 } else { 0 }
    }

    /// What the sums of these blocks are sums of, once they are added as far as the tree allows: class and chunks.
    pub fn rows(&self, blocks: &Range<usize>) -> Vec<(usize, Range<usize>)> {
        let mut ranges: Vec<(usize, Range<usize>)> = Vec::new();
        for chunk in self.blocks[blocks.clone()].iter().flatten() {
            match ranges.last_mut().filter(|(class, _)| *class == chunk.class) {
                Some((_, range)) => range.end = chunk.index + 1,
                None => ranges.push((chunk.class, chunk.index..chunk.index + 1)),
            }
        }
        let all: BTreeMap<usize, usize> = self.samples.iter().map(|&(c, n)| (c, chunks(n))).collect();
        let nodes =
            |(class, range): (usize, Range<usize>)| cover(&range, all[&class]).into_iter().map(move |r| (class, r));
        ranges.into_iter().flat_map(nodes).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_range_is_covered_by_nodes_that_join_to_the_whole() {
        for all in 1..40 {
            for a in 0..all {
                for b in a + 1..=all {
                    let nodes = cover(&(a..b), all);
                    assert_eq!((nodes[0].start, nodes[nodes.len() - 1].end), (a, b));
                    assert!(nodes.windows(2).all(|w| w[0].end == w[1].start));
                    assert!(nodes.iter().all(|n| is_node(n, all)), "{nodes:?} of {all}");
                    // no two neighbours could have been one node
                    assert!(nodes.windows(2).all(|w| !is_node(&(w[0].start..w[1].end), all)));
                }
            }
            assert!(matches!(&cover(&(0..all), all)[..], [node] if *node == (0..all)));
        }
        assert!(!is_node(&(1..3), 4) && !is_node(&(0..5), 4) && !is_node(&(2..2), 4));
        assert!(is_node(&(4..6), 6) && is_node(&(4..6), 7) && !is_node(&(5..7), 7));
    }

    #[test]
    fn shards_are_all_of_the_work_and_each_block_once() {
        let mut at = 0;
        let counts = [3, 1, 700, 256, 257, 5, 5, 5, 5, 5, 5, 5, 5, 5];
        let by_class = counts.iter().enumerate().map(|(c, n)| {
            at += n;
            (2 * c, (at - n..at).collect::<Vec<_>>())
        });
        let plan = Plan::new(&by_class.collect(), &[], 1000).unwrap();
        let mut seen: Vec<usize> = plan.blocks.iter().flatten().flat_map(|c| c.positions.clone()).collect();
        seen.sort_unstable();
        assert_eq!(seen, (0..at).collect::<Vec<_>>());
        assert!(
            plan.blocks
                .iter()
                .all(|b| b.len() <= MAX_SLOTS && b.iter().map(|c| c.positions.len()).sum::<usize>() <= CHUNK)
        );
        for n in 1..30 {
            let parts: Vec<_> = (0..n).map(|k| plan.shard(k, n).unwrap()).collect();
            assert_eq!((parts[0].start, parts[n - 1].end), (0, plan.blocks.len()));
            assert!(parts.windows(2).all(|w| w[0].end == w[1].start && w[0].len().abs_diff(w[1].len()) <= 1));
        }
        assert!(plan.shard(3, 3).is_err() && plan.shard(0, 0).is_err());
        assert_eq!(plan.rows(&plan.all()).len(), counts.len());
    }
}
