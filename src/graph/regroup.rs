//! Brings samples back into sight where a model interleaves their rows.
//!
//! Attention that puts tokens before samples joins `[tokens, samples, k]` to `[tokens·samples, k]` for one matrix product
//! and takes the rows apart again behind it. On the joined axis the samples alternate, which [`Batch`] does not express.
//! A product treats every row alike, so that it may as well see the rows sample after sample.

use super::{Attr, Attrs, Batch, Graph, Source, ValueId};
use crate::error::Result;
use crate::ops::{Op, reshape, transpose};

impl Graph {
    /// What such a node gives, computed so that the samples stay in sight; `None` where that is of no help.
    ///
    /// # Errors
    /// As [`Graph::push_multi`].
    pub(super) fn regrouped(
        &mut self,
        op: &'static dyn Op,
        inputs: &[Option<ValueId>],
        attrs: &Attrs,
        shape: &[usize],
    ) -> Result<Option<ValueId>> {
        let Some((Some(joined), others)) = inputs.split_first() else { return Ok(None) };
        let Some(whole) = self.before_join(*joined) else { return Ok(None) };
        if others.iter().flatten().any(|&id| self.value(id).batch != Batch::None) {
            return Ok(None);
        }
        match op.spec().name {
            "Reshape" => {
                let apart = reshape(self, whole, shape)?;
                Ok((self.value(apart).batch != Batch::Lost).then_some(apart))
            }
            name if self.treats_rows_alike(name, *joined, others, attrs) => {
                self.sample_after_sample(op, whole, *joined, others, attrs)
            }
            _ => Ok(None),
        }
    }

    /// What a Reshape has made this value of, if that has lost the samples.
    fn before_join(&self, joined: ValueId) -> Option<ValueId> {
        let value = self.value(joined);
        let (Batch::Lost, Source::Node { node, output: 0 }) = (value.batch, &value.source) else { return None };
        let node = self.nodes.get(*node).filter(|n| n.op.spec().name == "Reshape")?;
        let whole = node.inputs.first().copied().flatten()?;
        matches!(self.value(whole).batch, Batch::Axis { .. }).then_some(whole)
    }

    /// A product of the rows of a matrix with a matrix that all rows share.
    fn treats_rows_alike(&self, op: &str, rows: ValueId, others: &[Option<ValueId>], attrs: &Attrs) -> bool {
        let rank = |id: &Option<ValueId>| id.map(|id| self.shape(id).len());
        let matrices = self.shape(rows).len() == 2 && others.first().and_then(rank) == Some(2);
        let turned = matches!(attrs.get("transA"), Some(Attr::Int(v)) if *v != 0);
        let added = others.get(1).copied().flatten();
        let same_for_rows = added.is_none_or(|c| match self.shape(c) {
            [extent, _] => *extent == 1,
            _ => true,
        });
        matrices && matches!(op, "MatMul" | "Gemm") && !turned && same_for_rows
    }

    /// The node on rows that lie sample after sample, and its rows brought back into the order that the model has.
    fn sample_after_sample(
        &mut self,
        op: &'static dyn Op,
        whole: ValueId,
        joined: ValueId,
        others: &[Option<ValueId>],
        attrs: &Attrs,
    ) -> Result<Option<ValueId>> {
        let (Batch::Axis { axis, .. }, &[rows, k]) = (self.value(whole).batch, self.shape(joined)) else {
            return Ok(None);
        };
        let outer: usize = self.shape(whole).iter().take(axis).product();
        let Some(inner) = rows.checked_div(outer) else { return Ok(None) };
        if outer * inner != rows {
            return Ok(None);
        }
        let split = reshape(self, whole, &[outer, inner, k])?;
        if !matches!(self.value(split).batch, Batch::Axis { axis: 1, .. }) {
            return Ok(None);
        }
        let grouped = transpose(self, split, &[1, 0, 2])?;
        let grouped = reshape(self, grouped, &[rows, k])?;
        let inputs: Vec<_> = std::iter::once(Some(grouped)).chain(others.iter().copied()).collect();
        let y = self.push_some(op.spec().name, &inputs, attrs.clone())?;
        let &[_, m] = self.shape(y) else { return Ok(None) };
        let y = reshape(self, y, &[inner, outer, m])?;
        let y = transpose(self, y, &[1, 0, 2])?;
        Ok(Some(reshape(self, y, &[rows, m])?))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::tensor::{Array, DType, TensorType};

    /// `[tokens, samples, k] → [tokens·samples, k] → product → [tokens, samples, m]`, as attention in PyTorch has it.
    fn rows_joined(op: &str, attrs: Attrs, weight: &[usize]) -> (Graph, ValueId) {
        let mut g = Graph::new(2);
        let x = g.input("x", TensorType::new(DType::F32, [3, 2, 4]), Batch::Axis { axis: 1, rows: 1 });
        let w = (0..weight.iter().product()).map(|i: usize| f32::from(u16::try_from(i).unwrap())).collect::<Vec<_>>();
        let w = g.weight("w", Array::from_vec(weight, w).unwrap());
        let joined = reshape(&mut g, x, &[6, 4]).unwrap();
        assert_eq!(g.value(joined).batch, Batch::Lost);
        let y = g.push(op, &[joined, w], attrs).unwrap();
        let y = reshape(&mut g, y, &[3, 2, 5]).unwrap();
        g.outputs = vec![y];
        crate::graph::passes::prune(&mut g);
        (g, y)
    }

    #[test]
    fn rows_of_joined_tokens_keep_their_samples_and_their_order() {
        for (op, attrs, weight) in [("MatMul", Attrs::new(), [4, 5]), ("Gemm", Attrs::new().with("transB", 1), [5, 4])]
        {
            let (g, y) = rows_joined(op, attrs, &weight);
            assert_eq!(g.value(y).batch, Batch::Axis { axis: 1, rows: 1 }, "{op}");
            let x: Vec<f32> = (0..24u16).map(f32::from).collect();
            let x = Array::from_vec(&[3, 2, 4], x).unwrap();
            use crate::engine::{Engine, Tensor, cpu::Cpu};
            let found = Cpu.prepare(&g).unwrap().run(&[Tensor::Host(x)]).unwrap();
            let found = found.first().unwrap().to_array().unwrap().to_f64();
            let at = |row: usize, m: usize| -> f64 {
                let w = |k: usize| if op == "MatMul" { k * 5 + m } else { m * 4 + k };
                (0..4).map(|k| f64::from(u32::try_from((row * 4 + k) * w(k)).unwrap())).sum()
            };
            let want: Vec<f64> = (0..6).flat_map(|row| (0..5).map(move |m| (row, m))).map(|(r, m)| at(r, m)).collect();
            assert_eq!(found, want, "{op}");
        }
    }
}
