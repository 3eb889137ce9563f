//! Transpose, and how products tell a swap of two axes: <https://onnx.ai/onnx/operators/onnx__Transpose.html>.

use super::copy::{Copy, Side};
use super::layout::{behind, dims, unstacked};
use super::support::{given, strides};
use super::{Case, Kernel, NodeView, Op, Spec, Vjp};
use crate::error::{Error, Result};
use crate::graph::{Attr, Attrs, Batch, Graph, ValueId};
use crate::tensor::{Array, TensorType};

/// `y[i_perm0, i_perm1, …] = x[i_0, i_1, …]`
struct Transpose;

impl Transpose {
    fn perm(n: &NodeView) -> Result<Vec<usize>> {
        let rank = n.shape(0)?.len();
        let Some(perm) = n.ints("perm")? else {
            return Ok((0..rank).rev().collect());
        };
        let wrong = || Error::format(format!("attribute perm = {perm:?} does not order the axes of rank {rank}"));
        let p = perm.iter().map(|&a| n.axis(a, rank).map_err(|_| wrong())).collect::<Result<Vec<_>>>()?;
        if p.len() == rank && (0..rank).all(|a| p.contains(&a)) { Ok(p) } else { Err(wrong()) }
    }
    fn copy(n: &NodeView) -> Result<(Copy, Vec<usize>)> {
        let x = n.shape(0)?;
        let perm = Self::perm(n)?;
        let from = strides(x);
        let shape: Vec<usize> = perm.iter().map(|&a| x[a]).collect();
        let src = Side { offset: 0, strides: perm.iter().map(|&a| from[a].cast_signed()).collect() };
        Ok((Copy::into_whole(&shape, &src), shape))
    }
}

/// True for a node that swaps the last two axes of its input, and does nothing else.
pub(crate) fn swaps_last(n: &NodeView) -> bool {
    let Ok(perm) = Transpose::perm(n) else { return false };
    let rank = perm.len();
    n.op == "Transpose" && rank > 1 && (0..rank - 2).chain([rank - 1, rank - 2]).eq(perm)
}

impl Op for Transpose {
    fn spec(&self) -> Spec {
        Spec::new("Transpose", 25, (1, 1))
    }
    fn infer(&self, n: &NodeView) -> Result<Vec<TensorType>> {
        Ok(vec![TensorType::new(n.dtype(0)?, Self::copy(n)?.1)])
    }
    fn batch(&self, n: &NodeView, from: &[Batch], _: usize, _: &[TensorType]) -> Vec<Batch> {
        let (Batch::Axis { axis, rows }, Ok(perm)) = (from[0], Self::perm(n)) else {
            return vec![from[0]];
        };
        vec![perm.iter().position(|&a| a == axis).map_or(Batch::Lost, |axis| Batch::Axis { axis, rows })]
    }
    fn eval(&self, n: &NodeView, x: &[Option<&Array>]) -> Result<Vec<Array>> {
        let (copy, shape) = Self::copy(n)?;
        Ok(vec![copy.array(given(x, 0)?, &shape)?])
    }
    fn vjp(&self, b: &mut Vjp) -> Result<()> {
        // dx = dy under the inverse permutation
        let perm = Self::perm(&b.view())?;
        let mut inverse = vec![0; perm.len()];
        for (to, &from) in perm.iter().enumerate() {
            inverse[from] = to;
        }
        let dy = b.dy()?;
        let dx = b.transpose(dy, &inverse)?;
        b.set_exact(0, dx);
        Ok(())
    }
    fn kernel(&self, n: &NodeView) -> Result<Kernel> {
        Self::copy(n)?.0.kernel(n.ty(0)?.len())
    }
    fn cases(&self) -> Vec<Case> {
        vec![
            Case::new("Transpose default", &[&[2, 3, 4]]),
            Case::new("Transpose NCHW to NHWC", &[&[2, 3, 4, 5]]).attr("perm", vec![0, 2, 3, 1]),
            Case::new("Transpose heads", &[&[2, 5, 3, 4]]).attr("perm", vec![0, 2, 1, 3]),
            Case::new("Transpose matrix", &[&[37, 70]]).attr("perm", vec![1, 0]),
            Case::new("Transpose unit axes", &[&[1, 4, 1, 3]]).attr("perm", vec![2, 1, 0, 3]),
            Case::new("Transpose rank 6", &[&[2, 3, 2, 1, 2, 3]]).attr("perm", vec![0, 4, 2, 5, 3, 1]),
            Case::new("Transpose scalar", &[&[]]),
        ]
    }
    fn stacked(&self, g: &mut Graph, inputs: &[Option<ValueId>], attrs: &Attrs, _: usize) -> Result<Option<ValueId>> {
        let rank = unstacked(g, inputs).len();
        let perm: Vec<i64> = match attrs.get("perm") {
            Some(Attr::Ints(p)) => p.iter().map(|&a| behind(a, rank)).collect(),
            _ => dims(&(1..=rank).rev().collect::<Vec<_>>()),
        };
        let attrs = Attrs::new().with("perm", [&[0], &perm[..]].concat());
        g.push_some("Transpose", inputs, attrs).map(Some)
    }
}

pub(super) static OPS: &[&dyn Op] = &[&Transpose];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_order_the_axes_is_an_error() {
        let mut g = Graph::new(0);
        let x = g.constant(Array::full(&[2, 3], 1f32));
        for perm in [vec![0i64], vec![0, 0], vec![0, 2]] {
            assert!(g.push("Transpose", &[x], Attrs::new().with("perm", perm)).is_err());
        }
    }

    #[test]
    fn large_transposes_are_done_in_parts() {
        let mut g = Graph::new(0);
        let (p, q) = (301usize, 517usize);
        let v: Vec<i64> = (0..).take(p * q).collect();
        let x = g.constant(Array::from_vec(&[p, q], v).unwrap());
        let y = g.push("Transpose", &[x], Attrs::new()).unwrap();
        let y = g.constant_of(y).unwrap().slice::<i64>().unwrap();
        assert!(y.iter().enumerate().all(|(i, &v)| v as usize == i % p * q + i / p));
    }
}
