//! Ops that give the same elements another shape: <https://onnx.ai/onnx/operators/>.

use super::copy::{Copy, Side};
use super::support::{broadcast, broadcast_strides, given};
use super::{Case, Kernel, NodeView, Op, Spec, Vjp};
use crate::error::{Error, Result};
use crate::graph::{Attr, Attrs, Batch, Graph, ValueId, batch};
use crate::tensor::{Array, TensorType};

/// Extents as ONNX takes them.
pub(super) fn dims(shape: &[usize]) -> Vec<i64> {
    shape.iter().map(|&d| i64::try_from(d).unwrap_or(i64::MAX)).collect()
}

/// Moves a list attribute of an old operator set to where the constant input `at` now is.
pub(super) fn attr_to_input(
    g: &mut Graph,
    inputs: &mut Vec<Option<ValueId>>,
    attrs: &mut Attrs,
    name: &str,
    at: usize,
) -> Result<()> {
    match attrs.take(name) {
        None => Ok(()),
        Some(Attr::Ints(v)) => {
            inputs.resize(inputs.len().max(at + 1), None);
            inputs[at] = Some(g.ints(&v));
            Ok(())
        }
        Some(a) => Err(Error::format(format!("attribute {name} = {a:?} is not a list of integers"))),
    }
}

/// The integers of a constant input of a node that is being pushed.
pub(super) fn constant_ints(g: &Graph, inputs: &[Option<ValueId>], i: usize) -> Result<Option<Vec<i64>>> {
    match inputs.get(i).copied().flatten() {
        None => Ok(None),
        Some(id) => g
            .constant_of(id)
            .ok_or_else(|| Error::unsupported(format!("input {i} has to be constant")))?
            .to_i64()
            .map(Some),
    }
}

/// See [`View::stacked`].
type Stacked = fn(&Graph, &[Option<ValueId>], &Attrs, usize) -> Result<Option<Vec<i64>>>;

/// A view of the elements in the same order. Each kind says what shape it gives.
struct View {
    name: &'static str,
    version: i64,
    /// Least and greatest number of inputs.
    inputs: (usize, usize),
    /// The new shape, from the old one.
    shape: fn(&NodeView, &[usize]) -> Result<Vec<usize>>,
    /// The constant inputs after the first that give, to a tensor with one more leading axis of so many
    /// entries, the new shape with that axis in front; `None` where the op cannot.
    stacked: Stacked,
    cases: fn() -> Vec<Case>,
}

impl View {
    fn out(&self, n: &NodeView) -> Result<Vec<usize>> {
        (self.shape)(n, n.shape(0)?)
    }
}

impl Op for View {
    fn spec(&self) -> Spec {
        Spec::new(self.name, self.version, self.inputs)
    }
    fn infer(&self, n: &NodeView) -> Result<Vec<TensorType>> {
        Ok(vec![TensorType::new(n.dtype(0)?, self.out(n)?)])
    }
    fn batch(&self, n: &NodeView, from: &[Batch], samples: usize, out: &[TensorType]) -> Vec<Batch> {
        let x = n.optional(0).map_or(&[][..], |t| &t.shape);
        vec![batch::reshape(from[0], samples, x, &out[0].shape)]
    }
    fn eval(&self, n: &NodeView, x: &[Option<&Array>]) -> Result<Vec<Array>> {
        Ok(vec![given(x, 0)?.reshaped(&self.out(n)?)?])
    }
    fn vjp(&self, b: &mut Vjp) -> Result<()> {
        // dx = dy in the shape of x
        let shape = b.shape(b.x(0)?);
        let dy = b.dy()?;
        let dx = b.reshape(dy, &shape)?;
        b.set_exact(0, dx);
        Ok(())
    }
    fn kernel(&self, _: &NodeView) -> Result<Kernel> {
        Ok(Kernel::Alias)
    }
    fn cases(&self) -> Vec<Case> {
        (self.cases)()
    }
    fn import(
        &self,
        g: &mut Graph,
        opset: i64,
        inputs: &[Option<ValueId>],
        mut attrs: Attrs,
        wanted: &[bool],
    ) -> Result<Vec<Option<ValueId>>> {
        let mut inputs = inputs.to_vec();
        if opset < 13 && matches!(self.name, "Squeeze" | "Unsqueeze") {
            attr_to_input(g, &mut inputs, &mut attrs, "axes", 1)?;
        }
        g.push_multi(super::find(self.name)?, &inputs, attrs, wanted)
    }
    fn stacked(
        &self,
        g: &mut Graph,
        inputs: &[Option<ValueId>],
        attrs: &Attrs,
        samples: usize,
    ) -> Result<Option<ValueId>> {
        let Some(ints) = (self.stacked)(g, inputs, attrs, samples)? else {
            return Ok(None);
        };
        let ints = g.ints(&ints);
        let inputs = [inputs.first().copied().flatten(), Some(ints)];
        g.push_some(self.name, &inputs, attrs.clone()).map(Some)
    }
}

/// The shape of input 0 without the leading axis that [`Op::stacked`] finds on it.
pub(super) fn unstacked(g: &Graph, inputs: &[Option<ValueId>]) -> Vec<usize> {
    inputs.first().copied().flatten().map_or_else(Vec::new, |x| g.shape(x).iter().skip(1).copied().collect())
}

/// True when the inputs that [`Op::stacked`] finds with one more leading axis have the greatest rank. Axes of ops that
/// broadcast align from the right: the samples of an input of fewer axes would come to lie among them.
pub(super) fn aligned(g: &Graph, inputs: &[Option<ValueId>]) -> bool {
    let leads = |x: ValueId| usize::from(g.value(x).batch == Batch::LEADING);
    let rank = inputs.iter().flatten().map(|&x| g.shape(x).len() - leads(x)).max().unwrap_or(0);
    inputs.iter().flatten().all(|&x| leads(x) == 0 || g.shape(x).len() == rank + 1)
}

/// A possibly negative axis of a tensor of this rank, moved behind one more leading axis.
pub(super) fn behind(axis: i64, rank: usize) -> i64 {
    if axis < 0 { axis + dims(&[rank])[0] + 1 } else { axis + 1 }
}

/// The shape that a Reshape asks for: 0 keeps an extent (unless `allowzero`), −1 stands for the rest.
fn reshape_to(x: &[usize], to: &[i64], allowzero: bool) -> Result<Vec<usize>> {
    let wrong = || Error::format(format!("shape {x:?} cannot be reshaped to {to:?}"));
    let mut out = Vec::with_capacity(to.len());
    let mut open = None;
    for (i, &d) in to.iter().enumerate() {
        out.push(match d {
            0 if !allowzero => *x.get(i).ok_or_else(wrong)?,
            -1 if open.is_none() => {
                open = Some(i);
                1
            }
            d => usize::try_from(d).map_err(|_| wrong())?,
        });
    }
    let len: usize = x.iter().product();
    let filled = out.iter().try_fold(1usize, |n, &d| n.checked_mul(d)).ok_or_else(wrong)?;
    if let Some(i) = open {
        // with a zero extent beside it the open one is not determined; 0 is as good as any
        out[i] = len.checked_div(filled).unwrap_or(0);
    }
    if out.iter().product::<usize>() == len { Ok(out) } else { Err(wrong()) }
}

static RESHAPE: View = View {
    name: "Reshape",
    version: 25,
    inputs: (2, 2),
    shape: |n, x| reshape_to(x, &n.ints_input(1)?.unwrap_or_default(), n.int("allowzero", 0)? != 0),
    stacked: |g, inputs, attrs, samples| {
        let to = constant_ints(g, inputs, 1)?.unwrap_or_default();
        let allowzero = matches!(attrs.get("allowzero"), Some(Attr::Int(v)) if *v != 0);
        let shape = reshape_to(&unstacked(g, inputs), &to, allowzero)?;
        Ok(Some(dims(&[&[samples], &shape[..]].concat())))
    },
    cases: || {
        vec![
            Case::new("Reshape merge", &[&[2, 3, 4]]).ints(&[2, 12]),
            Case::new("Reshape split with rest", &[&[6, 4]]).ints(&[2, -1, 2]),
            Case::new("Reshape keep", &[&[2, 3, 4]]).ints(&[0, -1]),
            Case::new("Reshape to scalar", &[&[1, 1]]).ints(&[]),
            Case::new("Reshape allowzero", &[&[2, 3]]).ints(&[3, 2]).attr("allowzero", 1),
        ]
    },
};

static FLATTEN: View = View {
    name: "Flatten",
    version: 25,
    inputs: (1, 1),
    shape: |n, x| {
        let axis = n.int("axis", 1)?;
        // one more than the last axis is allowed: everything lies before it
        let at = if usize::try_from(axis).is_ok_and(|a| a == x.len()) { x.len() } else { n.axis(axis, x.len())? };
        Ok(vec![x[..at].iter().product(), x[at..].iter().product()])
    },
    stacked: |_, _, _, _| Ok(None),
    cases: || {
        vec![
            Case::new("Flatten default", &[&[2, 3, 4]]),
            Case::new("Flatten axis 0", &[&[2, 3]]).attr("axis", 0),
            Case::new("Flatten axis 2", &[&[2, 3, 4, 2]]).attr("axis", 2),
            Case::new("Flatten negative axis", &[&[2, 3, 4]]).attr("axis", -1),
            Case::new("Flatten behind the last axis", &[&[2, 3]]).attr("axis", 2),
        ]
    },
};

/// The axes that a Squeeze removes.
fn squeezed(x: &[usize], axes: Option<Vec<i64>>) -> Result<Vec<usize>> {
    let Some(axes) = axes else {
        return Ok((0..x.len()).filter(|&a| x[a] == 1).collect());
    };
    axes.iter()
        .map(|&axis| {
            let at = usize::try_from(if axis < 0 { axis + dims(&[x.len()])[0] } else { axis });
            at.ok().filter(|&a| x.get(a) == Some(&1)).ok_or_else(|| {
                Error::format(format!("axis {axis} of shape {x:?} cannot be squeezed: it has no extent of 1"))
            })
        })
        .collect()
}

static SQUEEZE: View = View {
    name: "Squeeze",
    version: 25,
    inputs: (1, 2),
    shape: |n, x| {
        let gone = squeezed(x, n.ints_input(1)?)?;
        Ok((0..x.len()).filter(|a| !gone.contains(a)).map(|a| x[a]).collect())
    },
    stacked: |g, inputs, _, _| {
        let gone = squeezed(&unstacked(g, inputs), constant_ints(g, inputs, 1)?)?;
        Ok(Some(dims(&gone).into_iter().map(|a| a + 1).collect()))
    },
    cases: || {
        vec![
            Case::new("Squeeze all", &[&[1, 3, 1, 2]]),
            Case::new("Squeeze one", &[&[1, 3, 1, 2]]).ints(&[2]),
            Case::new("Squeeze negative axes", &[&[1, 3, 1]]).ints(&[-1, -3]),
        ]
    },
};

static UNSQUEEZE: View = View {
    name: "Unsqueeze",
    version: 25,
    inputs: (2, 2),
    shape: |n, x| {
        let axes = n.ints_input(1)?.unwrap_or_default();
        let rank = x.len() + axes.len();
        let new = n.axes(&axes, rank)?;
        let mut old = x.iter().copied();
        Ok((0..rank).map(|a| if new.contains(&a) { 1 } else { old.next().unwrap_or(1) }).collect())
    },
    stacked: |g, inputs, _, _| {
        let axes = constant_ints(g, inputs, 1)?.unwrap_or_default();
        let rank = unstacked(g, inputs).len() + axes.len();
        Ok(Some(axes.iter().map(|&a| behind(a, rank)).collect()))
    },
    cases: || {
        vec![
            Case::new("Unsqueeze front", &[&[3, 2]]).ints(&[0]),
            Case::new("Unsqueeze several", &[&[3, 2]]).ints(&[1, 3]),
            Case::new("Unsqueeze negative axes", &[&[3, 2]]).ints(&[-1, 0]),
            Case::new("Unsqueeze scalar", &[&[]]).ints(&[0]),
        ]
    },
};

/// `y = x`
struct Identity;

impl Op for Identity {
    fn spec(&self) -> Spec {
        Spec::new("Identity", 25, (1, 1))
    }
    fn infer(&self, n: &NodeView) -> Result<Vec<TensorType>> {
        Ok(vec![n.ty(0)?.clone()])
    }
    fn batch(&self, _: &NodeView, from: &[Batch], _: usize, _: &[TensorType]) -> Vec<Batch> {
        vec![from[0]]
    }
    fn eval(&self, _: &NodeView, x: &[Option<&Array>]) -> Result<Vec<Array>> {
        Ok(vec![given(x, 0)?.clone()])
    }
    fn vjp(&self, b: &mut Vjp) -> Result<()> {
        // dx = dy
        let dy = b.dy()?;
        b.set_exact(0, dy);
        Ok(())
    }
    fn kernel(&self, _: &NodeView) -> Result<Kernel> {
        Ok(Kernel::Alias)
    }
    fn cases(&self) -> Vec<Case> {
        vec![Case::new("Identity", &[&[2, 3]])]
    }
    fn stacked(&self, g: &mut Graph, inputs: &[Option<ValueId>], attrs: &Attrs, _: usize) -> Result<Option<ValueId>> {
        g.push_some("Identity", inputs, attrs.clone()).map(Some)
    }
}

/// `y = x` broadcast to a constant shape.
struct Expand;

impl Expand {
    fn shape(n: &NodeView) -> Result<Vec<usize>> {
        let to = n.ints_input(1)?.unwrap_or_default();
        let wrong = |_| Error::format(format!("shape {to:?} is not a shape"));
        let to = to.iter().map(|&d| usize::try_from(d).map_err(wrong)).collect::<Result<Vec<_>>>()?;
        broadcast(&[n.shape(0)?, &to])
    }
    fn copy(n: &NodeView) -> Result<(Copy, Vec<usize>)> {
        let shape = Self::shape(n)?;
        let strides = broadcast_strides(n.shape(0)?, &shape).into_iter().map(usize::cast_signed).collect();
        Ok((Copy::into_whole(&shape, &Side { offset: 0, strides }), shape))
    }
}

impl Op for Expand {
    fn spec(&self) -> Spec {
        Spec::new("Expand", 13, (2, 2))
    }
    fn infer(&self, n: &NodeView) -> Result<Vec<TensorType>> {
        Ok(vec![TensorType::new(n.dtype(0)?, Self::shape(n)?)])
    }
    fn batch(&self, n: &NodeView, from: &[Batch], _: usize, out: &[TensorType]) -> Vec<Batch> {
        let (Batch::Axis { axis, rows }, Some(x)) = (from[0], n.optional(0)) else {
            return vec![from[0]];
        };
        let to = axis + out[0].shape.len() - x.shape.len();
        // only the axis of a single sample can be stretched: all of it is that sample's
        let rows = if out[0].shape[to] == x.shape[axis] { rows } else { out[0].shape[to] };
        vec![Batch::Axis { axis: to, rows }]
    }
    fn eval(&self, n: &NodeView, x: &[Option<&Array>]) -> Result<Vec<Array>> {
        let (copy, shape) = Self::copy(n)?;
        Ok(vec![copy.array(given(x, 0)?, &shape)?])
    }
    fn vjp(&self, b: &mut Vjp) -> Result<()> {
        // dx = dy summed over the stretched axes, which is the sweep's work
        let dy = b.dy()?;
        b.set_dx(0, dy);
        Ok(())
    }
    fn kernel(&self, n: &NodeView) -> Result<Kernel> {
        Self::copy(n)?.0.kernel(n.ty(0)?.len())
    }
    fn cases(&self) -> Vec<Case> {
        vec![
            Case::new("Expand rank", &[&[3, 1]]).ints(&[2, 1, 4]),
            Case::new("Expand inner", &[&[2, 1, 3]]).ints(&[2, 4, 3]),
            Case::new("Expand one-sided", &[&[2, 3]]).ints(&[1, 1]),
            Case::new("Expand scalar", &[&[]]).ints(&[2, 3]),
            Case::new("Expand nothing", &[&[2, 3]]).ints(&[3]),
        ]
    }
    fn stacked(
        &self,
        g: &mut Graph,
        inputs: &[Option<ValueId>],
        attrs: &Attrs,
        samples: usize,
    ) -> Result<Option<ValueId>> {
        let to = constant_ints(g, inputs, 1)?.unwrap_or_default();
        // a new axis would have to go between the samples and the rest
        if to.len() > unstacked(g, inputs).len() {
            return Ok(None);
        }
        let mut shape = vec![1; unstacked(g, inputs).len() - to.len()];
        shape.extend(to);
        shape.insert(0, dims(&[samples])[0]);
        let shape = g.ints(&shape);
        g.push_some("Expand", &[inputs[0], Some(shape)], attrs.clone()).map(Some)
    }
}

pub(super) static OPS: &[&dyn Op] = &[&RESHAPE, &FLATTEN, &SQUEEZE, &UNSQUEEZE, &Identity, &Expand];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_of_operator_set_12_are_attributes() {
        let mut g = Graph::new(0);
        let x = g.constant(Array::full(&[1, 3, 1], 1f32));
        let axes = Attrs::new().with("axes", vec![0i64]);
        let y = SQUEEZE.import(&mut g, 12, &[Some(x)], axes.clone(), &[true]).unwrap()[0].unwrap();
        assert_eq!(g.shape(y), [3, 1]);
        let z = UNSQUEEZE.import(&mut g, 12, &[Some(y)], axes, &[true]).unwrap()[0].unwrap();
        assert_eq!(g.shape(z), [1, 3, 1]);
    }

    #[test]
    fn what_does_not_fit_is_an_error() {
        let mut g = Graph::new(0);
        let x = g.constant(Array::full(&[2, 3], 1f32));
        for to in [&[4, 2][..], &[-1, -1], &[-1, 4], &[-2, 3], &[2, 3, 0], &[i64::MAX, i64::MAX]] {
            let to = g.ints(to);
            assert!(g.push("Reshape", &[x, to], Attrs::new()).is_err());
        }
        let huge = g.ints(&[i64::MAX, i64::MAX, 1, 1]);
        assert!(g.push("Expand", &[x, huge], Attrs::new()).is_err());
    }
}
