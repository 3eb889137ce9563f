//! Which memory a value takes on a device: views share the memory of what they view, and memory is
//! used again as soon as nothing reads what lies in it.

use crate::graph::{Graph, Source, Value, passes};
use crate::ops::Kernel;
use crate::tensor::{DType, TensorType};

/// For every value the value whose memory it shares (itself for most), where `view[i]` says that node
/// `i` only views its first input.
pub(crate) fn roots(g: &Graph, view: &[bool]) -> Vec<usize> {
    let mut root: Vec<usize> = (0..g.values().len()).collect();
    for (i, node) in g.nodes().iter().enumerate().filter(|(i, _)| view[*i]) {
        if let (Some(Some(x)), Some(Some(y))) = (node.inputs.first(), node.outputs.first()) {
            debug_assert!(matches!(g.value(*y).source, Source::Node { node, .. } if node == i));
            root[y.index()] = root[x.index()];
        }
    }
    root
}

/// For every root the last node that reads it through any of its views; `usize::MAX` when the graph
/// returns it.
pub(crate) fn last_use(g: &Graph, root: &[usize]) -> Vec<Option<usize>> {
    let mut last = vec![None; root.len()];
    for (v, used) in passes::last_use(g).into_iter().enumerate() {
        let l = &mut last[root[v]];
        *l = (*l).max(used);
    }
    last
}

/// The most bytes that all values computed on the host take at once, each dropped after its last use, and views taking
/// nothing; constants, weights and feeds are there already.
pub(crate) fn host_bytes(g: &Graph) -> u64 {
    let view: Vec<bool> = g.nodes().iter().map(|n| matches!(n.op.kernel(&g.view_of(n)), Ok(Kernel::Alias))).collect();
    let root = roots(g, &view);
    let last = last_use(g, &root);
    let (mut now, mut most) = (0_u64, 0_u64);
    for (i, (node, view)) in g.nodes().iter().zip(&view).enumerate() {
        if !view {
            let made = node.outputs.iter().flatten().map(|id| element_bytes(&g.value(*id).ty));
            now = now.saturating_add(made.fold(0, u64::saturating_add));
            most = most.max(now);
        }
        let mut over: Vec<usize> =
            node.inputs.iter().chain(&node.outputs).flatten().map(|id| root[id.index()]).collect();
        over.sort_unstable();
        over.dedup();
        let computed = |id: usize| matches!(g.values()[id].source, Source::Node { .. });
        for id in over.into_iter().filter(|&id| computed(id) && last[id].is_none_or(|l| l <= i)) {
            now = now.saturating_sub(element_bytes(&g.values()[id].ty));
        }
    }
    most
}

/// Bytes of all that a graph is given: constants, weights and feeds. What stays in its file is read when it is used.
pub(crate) fn given_bytes(g: &Graph) -> u64 {
    let given = |v: &&Value| matches!(v.source, Source::Input | Source::Const(_) | Source::Weight(_));
    g.values().iter().filter(given).map(|v| element_bytes(&v.ty)).fold(0, u64::saturating_add)
}

/// Bytes of a value on the host, where all integers are `int64`.
pub(crate) fn element_bytes(ty: &TensorType) -> u64 {
    let width = match ty.dtype {
        DType::Bool => 1,
        DType::F32 => 4,
        _ => 8,
    };
    (ty.len() as u64).saturating_mul(width)
}

/// The memory one node needs: what it reads and writes, by root, and scratch that only it uses.
#[derive(Clone, Debug, Default)]
pub(crate) struct Job {
    /// The node's place in the order that last uses are counted in.
    pub at: usize,
    pub reads: Vec<usize>,
    /// Root and bytes.
    pub writes: Vec<(usize, u64)>,
    /// Bytes.
    pub scratch: Vec<u64>,
}

/// Memory in slots that are used again.
#[derive(Clone, Debug, Default)]
pub(crate) struct Slots {
    /// Bytes of each slot.
    pub sizes: Vec<u64>,
    /// The slot of every root that a job writes.
    pub of_root: Vec<Option<usize>>,
    /// The slots of every job's scratch.
    pub scratch: Vec<Vec<usize>>,
}

impl Slots {
    /// Gives every written root a slot. What a job writes never lies where it or a later job still
    /// reads; what is used to the end (`usize::MAX`) has a slot of its own size to itself.
    pub(crate) fn assign(jobs: &[Job], last: &[Option<usize>]) -> Self {
        let mut s = Self { of_root: vec![None; last.len()], ..Self::default() };
        let mut free: Vec<usize> = Vec::new();
        for job in jobs {
            for &(root, bytes) in &job.writes {
                let slot = if last[root] == Some(usize::MAX) { s.add(bytes) } else { s.take(&mut free, bytes) };
                s.of_root[root] = Some(slot);
            }
            let scratch: Vec<usize> = job.scratch.iter().map(|&bytes| s.take(&mut free, bytes)).collect();
            free.extend(&scratch);
            s.scratch.push(scratch);
            let done = |root: usize| last[root].is_none_or(|l| l <= job.at);
            let mut over: Vec<usize> = job.reads.iter().copied().chain(job.writes.iter().map(|w| w.0)).collect();
            over.sort_unstable();
            over.dedup();
            free.extend(over.into_iter().filter(|&r| done(r)).filter_map(|r| s.of_root[r]));
        }
        s
    }

    fn add(&mut self, bytes: u64) -> usize {
        self.sizes.push(bytes);
        self.sizes.len() - 1
    }

    /// The smallest free slot that is large enough, else the largest one made larger, else a new one.
    fn take(&mut self, free: &mut Vec<usize>, bytes: u64) -> usize {
        let fits = |&i: &usize| self.sizes[free[i]] >= bytes;
        let best = (0..free.len())
            .filter(fits)
            .min_by_key(|&i| self.sizes[free[i]])
            .or_else(|| (0..free.len()).max_by_key(|&i| self.sizes[free[i]]));
        match best {
            Some(i) => {
                let slot = free.swap_remove(i);
                self.sizes[slot] = self.sizes[slot].max(bytes);
                slot
            }
            None => self.add(bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Job, Slots};

    fn job(at: usize, reads: &[usize], writes: &[(usize, u64)], scratch: &[u64]) -> Job {
        Job { at, reads: reads.to_vec(), writes: writes.to_vec(), scratch: scratch.to_vec() }
    }

    #[test]
    fn a_chain_needs_two_slots() {
        let jobs: Vec<Job> = (0..9).map(|i| job(i, &[i], &[(i + 1, 64)], &[])).collect();
        let mut last: Vec<Option<usize>> = (0..10).map(Some).collect();
        last[9] = Some(usize::MAX);
        let s = Slots::assign(&jobs, &last);
        // the output keeps a slot of its own
        assert_eq!(s.sizes, [64, 64, 64]);
        for (i, j) in jobs.iter().enumerate().skip(1) {
            assert_ne!(s.of_root[j.reads[0]], s.of_root[j.writes[0].0], "job {i} writes what it reads");
        }
    }

    #[test]
    fn slots_grow_rather_than_multiply() {
        let jobs = [job(0, &[], &[(0, 16)], &[]), job(1, &[0], &[(1, 32)], &[8]), job(2, &[1], &[(2, 640)], &[])];
        let s = Slots::assign(&jobs, &[Some(1), Some(2), None]);
        assert_eq!(s.sizes.len(), 3);
        assert_eq!(s.sizes.iter().sum::<u64>(), 16 + 32 + 640 - 16 + 8);
        assert!(!s.scratch[1].contains(&s.of_root[0].unwrap()), "scratch lies on an input");
    }

    #[test]
    fn what_nobody_reads_is_free_at_once() {
        let jobs = [job(0, &[], &[(0, 16), (1, 16)], &[]), job(1, &[0], &[(2, 16)], &[])];
        let s = Slots::assign(&jobs, &[Some(1), None, Some(usize::MAX)]);
        assert_eq!(s.sizes, [16, 16, 16]);
    }
}
