//! The mean of Fishers that are each divided by their trace, taken where the Fishers lie.

use crate::engine::{Engine, Session, Tensor};
use crate::error::{Error, Result};
use crate::graph::{Attrs, Batch, Graph};
use crate::ops::{reduce_sum, reshape};
use crate::tensor::{Array, DType, TensorType};

/// Adds up `Σ_s member[k,s] · F_s / tr F_s` for every group `k`.
pub(super) struct Mean {
    session: Box<dyn Session>,
    sums: Vec<Tensor>,
    shape: [usize; 2],
    float: DType,
}

impl Mean {
    /// For Fishers `[slots, …]` of these types and `groups` groups.
    pub(super) fn new(engine: &dyn Engine, types: &[TensorType], slots: usize, groups: usize) -> Result<Self> {
        let float = types.first().map_or(DType::F32, |t| t.dtype);
        let mut g = Graph::new(0);
        let member = g.input("member", TensorType::new(float, [groups, slots]), Batch::None);
        let (mut flat, mut traces) = (Vec::new(), Vec::new());
        for (k, ty) in types.iter().enumerate() {
            let f = g.input(format!("fisher.{k}"), ty.clone(), Batch::None);
            let f = reshape(&mut g, f, &[slots, ty.len() / slots.max(1)])?;
            flat.push(f);
            traces.push(reduce_sum(&mut g, f, &[1], false)?);
        }
        let mut trace = *traces.first().ok_or_else(|| Error::internal("a mean of no Fisher"))?;
        for &t in &traces[1..] {
            trace = g.push("Add", &[trace, t], Attrs::new())?;
        }
        // a class without gradient adds nothing
        let (zero, one) = (g.scalar(0.0, float), g.scalar(1.0, float));
        let empty = g.push("Equal", &[trace, zero], Attrs::new())?;
        let trace = g.push("Where", &[empty, one, trace], Attrs::new())?;
        let scaled = g.push("Div", &[member, trace], Attrs::new())?;
        let mut sums = Vec::new();
        for (k, (ty, f)) in types.iter().zip(flat).enumerate() {
            let shape = [&[groups], &ty.shape[1..]].concat();
            let mean = g.push("MatMul", &[scaled, f], Attrs::new())?;
            let mean = reshape(&mut g, mean, &shape)?;
            let sum = g.input(format!("sum.{k}"), TensorType::new(float, shape.clone()), Batch::None);
            let sum = g.push("Add", &[sum, mean], Attrs::new())?;
            g.outputs.push(sum);
            sums.push(engine.upload(&Array::full_float(float, &shape, 0.0))?);
        }
        // inputs were made as they were met; the session is fed in that order
        Ok(Self { session: engine.prepare(&g)?, sums, shape: [groups, slots], float })
    }

    /// Adds Fishers `[slots, …]`; `member` is `[groups, slots]`.
    pub(super) fn add(&mut self, fishers: Vec<Tensor>, member: &[f64]) -> Result<()> {
        let member = Array::from_vec(&self.shape, member.to_vec())?.to_float(self.float);
        let mut feeds = vec![Tensor::Host(member)];
        feeds.extend(fishers);
        feeds.append(&mut self.sums);
        self.sums = self.session.run(&feeds)?;
        Ok(())
    }

    pub(super) fn finish(self) -> Vec<Tensor> {
        self.sums
    }
}
