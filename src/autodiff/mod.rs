//! Reverse-mode differentiation: the backward pass is written into the same graph.

pub mod gradient;
pub mod head;
mod settle;

use crate::error::{Error, Kind, Result};
use crate::graph::{Attrs, Batch, Graph, ValueId, passes};
use crate::ops::Vjp;
use settle::settle;

/// What becomes of the samples in the gradient of a value that does not depend on them (a weight).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Samples {
    /// Summed: the gradient has the value's shape.
    Summed,
    /// Kept apart: the gradient is `[samples, …shape]`.
    Apart,
}

/// Writes the gradients of `Σ_k ⟨seed_k, y_k⟩` with respect to the values `wrt` into the graph, where
/// `seeds` holds the pairs `(y_k, seed_k)`; returns one per value, `None` where none of the `y_k`
/// depends on it.
///
/// # Errors
/// [`Kind::NeedsSingles`] when samples cannot be kept apart in one batch: bind the graph to a batch of 1
/// instead. [`Kind::Unsupported`] when an op on the way has no derivative; the message names the node.
pub fn backward(
    g: &mut Graph,
    seeds: &[(ValueId, ValueId)],
    wrt: &[ValueId],
    samples: Samples,
) -> Result<Vec<Option<ValueId>>> {
    let single = g.batch <= 1;
    let apart = samples == Samples::Apart && !single;
    let mut sweep = Sweep { needed: passes::reached_from(g, wrt), apart, adjoints: Vec::new() };
    for &(y, seed) in seeds {
        sweep.contribute(g, y, seed)?;
    }
    for index in (0..g.nodes().len()).rev() {
        sweep.step(g, index)?;
    }
    let mut out = Vec::with_capacity(wrt.len());
    for &w in wrt {
        let mut d = sweep.adjoint(w);
        if let (Some(v), true, true) = (d, samples == Samples::Apart, single) {
            let shape = [&[1], g.shape(w)].concat();
            d = Some(crate::ops::reshape(g, v, &shape)?);
        }
        out.push(d);
    }
    Ok(out)
}

struct Sweep {
    /// Values through which a wanted gradient flows.
    needed: Vec<bool>,
    apart: bool,
    /// What has come together of the gradient of each value, by index; only the forward values have any.
    adjoints: Vec<Option<ValueId>>,
}

impl Sweep {
    /// Adds to a value's gradient at once: the parts of a weight that is used in many places need not live side by side.
    fn contribute(&mut self, g: &mut Graph, to: ValueId, d: ValueId) -> Result<()> {
        let i = to.index();
        if self.adjoints.len() <= i {
            self.adjoints.resize(i + 1, None);
        }
        self.adjoints[i] = Some(match self.adjoints[i] {
            None => d,
            Some(sum) => g.push("Add", &[sum, d], Attrs::new())?,
        });
        Ok(())
    }

    /// The gradient of a value from which the sweep has seen all uses.
    fn adjoint(&self, id: ValueId) -> Option<ValueId> {
        self.adjoints.get(id.index()).copied().flatten()
    }

    fn needs(&self, id: ValueId) -> bool {
        self.needed.get(id.index()).copied().unwrap_or(false)
    }

    /// Carries the gradients of node `index`'s outputs back to its inputs.
    fn step(&mut self, g: &mut Graph, index: usize) -> Result<()> {
        let node = g.nodes()[index].clone();
        let wanted: Vec<bool> =
            node.inputs.iter().map(|i| i.is_some_and(|id| self.needs(id) && g.dtype(id).is_float())).collect();
        if !wanted.contains(&true) {
            return Ok(());
        }
        let mut dy = Vec::with_capacity(node.outputs.len());
        for o in &node.outputs {
            dy.push(match o {
                Some(o) if g.dtype(*o).is_float() => self.adjoint(*o),
                _ => None,
            });
        }
        if dy.iter().all(Option::is_none) {
            return Ok(());
        }
        let place = |e: Error| e.at(format!("gradient of '{}'", node.name));
        g.set_scope(format!("{}/grad", node.name));
        let batched = node.outputs.iter().flatten().any(|&o| g.value(o).batch != Batch::None);
        if self.apart && !batched {
            return self.step_stacked(g, index, dy, wanted).map_err(place);
        }
        self.refuse_lost(g, &node)?;
        let apart: Vec<bool> =
            node.inputs.iter().map(|i| self.apart && i.is_some_and(|id| g.value(id).batch == Batch::None)).collect();
        let mut b = Vjp::new(g, index, dy, wanted.clone(), apart.clone());
        node.op.vjp(&mut b).map_err(place)?;
        for (i, dx) in b.finish().into_iter().enumerate() {
            let (Some(x), true) = (node.inputs[i], wanted[i]) else {
                continue;
            };
            let dx = dx.ok_or_else(|| {
                place(Error::internal(format!("{} gives no gradient for input {i}", node.op.spec().name)))
            })?;
            let shape = g.shape(x).to_vec();
            let dx = settle(g, dx, &shape, apart[i]).map_err(place)?;
            self.contribute(g, x, dx)?;
        }
        Ok(())
    }

    /// A node of weights alone whose gradient comes with the samples apart: its rule works on a stacked
    /// copy of the node, whose inputs have the samples as one more leading axis.
    fn step_stacked(&mut self, g: &mut Graph, index: usize, dy: Vec<Option<ValueId>>, wanted: Vec<bool>) -> Result<()> {
        let node = g.nodes()[index].clone();
        let singles = || {
            let op = node.op.spec().name;
            Error::new(Kind::NeedsSingles, format!("node '{}' ({op}) computes on weights alone", node.name))
        };
        if node.outputs.len() != 1 {
            return Err(singles());
        }
        let n = g.batch;
        let mut inputs = node.inputs.clone();
        for (input, _) in inputs.iter_mut().zip(&wanted).filter(|(_, w)| **w) {
            let Some(x) = *input else { continue };
            let one = [&[1], g.shape(x)].concat();
            let x = crate::ops::reshape(g, x, &one)?;
            let shape: Vec<i64> =
                [&[n], &one[1..]].concat().iter().map(|&d| i64::try_from(d).unwrap_or(i64::MAX)).collect();
            let shape = g.ints(&shape);
            let x = g.push("Expand", &[x, shape], Attrs::new())?;
            g.value_mut(x).batch = Batch::LEADING;
            *input = Some(x);
        }
        let before = g.nodes().len();
        let y = node.op.stacked(g, &inputs, &node.attrs, n)?.ok_or_else(singles)?;
        let stacked = g.nodes().len() - 1;
        let same =
            g.nodes()[stacked].op.spec().name == node.op.spec().name && g.nodes()[stacked].outputs.contains(&Some(y));
        if stacked < before || !same {
            return Err(singles());
        }
        let seen = g.nodes()[stacked].inputs.clone();
        let wanted: Vec<bool> = seen.iter().map(|i| inputs.iter().zip(&wanted).any(|(x, w)| *w && x == i)).collect();
        let mut b = Vjp::new(g, stacked, dy, wanted, vec![false; seen.len()]);
        node.op.vjp(&mut b)?;
        for (i, dx) in b.finish().into_iter().enumerate() {
            let (Some(dx), Some(sx)) = (dx, seen[i]) else {
                continue;
            };
            let Some(k) = inputs.iter().position(|x| *x == Some(sx)) else {
                continue;
            };
            let (Some(x), true) = (node.inputs[k], node.inputs[k] != Some(sx)) else {
                continue;
            };
            let shape = g.shape(sx).to_vec();
            let dx = settle(g, dx, &shape, false)?;
            self.contribute(g, x, dx)?;
        }
        Ok(())
    }

    fn refuse_lost(&self, g: &Graph, node: &crate::graph::Node) -> Result<()> {
        let lost = |id: &ValueId| g.value(*id).batch == Batch::Lost;
        if self.apart && node.inputs.iter().chain(&node.outputs).flatten().any(lost) {
            return Err(Error::new(
                Kind::NeedsSingles,
                format!("the samples cannot be followed through node '{}'", node.name),
            ));
        }
        Ok(())
    }
}
