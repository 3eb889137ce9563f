//! Pad: <https://onnx.ai/onnx/operators/onnx__Pad.html>.

use super::constant::{fill, filled, word};
use super::copy::{Copy, Side};
use super::layout::{attr_to_input, dims};
use super::slice::slice;
use super::support::given;
use super::{Arg, Bind, Case, Kernel, NodeView, Op, Spec, Vjp};
use crate::error::{Error, Result};
use crate::graph::{Attr, Attrs, Batch, Graph, ValueId, batch};
use crate::tensor::{Array, DType, TensorType};

/// Pad with zeros; nothing is added when there is nothing to pad.
pub(super) fn pad(g: &mut Graph, x: ValueId, pads: &[i64]) -> Result<ValueId> {
    if pads.iter().all(|&p| p == 0) {
        return Ok(x);
    }
    let pads = g.ints(pads);
    g.push("Pad", &[x, pads], Attrs::new())
}

/// Elements added before and after each axis.
type Ends = Vec<(i64, i64)>;

/// `y = x` with `value` around it, or cropped where a pad is negative. In the other modes it is a Gather along each
/// padded axis.
struct Pad;

impl Pad {
    /// Elements added before and after every axis, and the shape that results.
    fn pads(n: &NodeView) -> Result<(Ends, Vec<usize>)> {
        let x = n.shape(0)?;
        let pads = n.ints_input(1)?.unwrap_or_default();
        let all = Self::all(x.len(), &pads, n.ints_input(3)?.as_deref())?;
        let mut shape = Vec::with_capacity(x.len());
        for (&d, &(low, high)) in x.iter().zip(&all) {
            let extent = dims(&[d])[0].checked_add(low).and_then(|d| d.checked_add(high));
            let extent = extent.and_then(|d| usize::try_from(d).ok());
            shape.push(extent.ok_or_else(|| Error::format(format!("pads = {pads:?} do not fit shape {x:?}")))?);
        }
        Ok((all, shape))
    }
    fn all(rank: usize, pads: &[i64], axes: Option<&[i64]>) -> Result<Ends> {
        let wrong = || Error::format(format!("pads = {pads:?} with axes = {axes:?} do not fit rank {rank}"));
        let every: Vec<i64> = (0..).take(rank).collect();
        let axes = axes.unwrap_or(&every);
        if pads.len() != 2 * axes.len() {
            return Err(wrong());
        }
        let mut out = vec![None; rank];
        for (i, &axis) in axes.iter().enumerate() {
            let axis = if axis < 0 { axis + dims(&[rank])[0] } else { axis };
            let slot = usize::try_from(axis).ok().and_then(|a| out.get_mut(a)).ok_or_else(wrong)?;
            if slot.replace((pads[i], pads[axes.len() + i])).is_some() {
                return Err(wrong());
            }
        }
        Ok(out.into_iter().map(Option::unwrap_or_default).collect())
    }
    /// The copy of what stays of `x`, and the new shape.
    fn copy(n: &NodeView) -> Result<(Copy, Vec<usize>)> {
        let (pads, shape) = Self::pads(n)?;
        let x = n.shape(0)?;
        let (mut src, mut dst) = (Side::whole(x), Side::whole(&shape));
        let mut kept = Vec::with_capacity(x.len());
        for (a, &(low, high)) in pads.iter().enumerate() {
            let cut = |p: i64| usize::try_from(p.saturating_neg()).unwrap_or(0);
            kept.push(x[a].saturating_sub(cut(low)).saturating_sub(cut(high)));
            src.offset += cut(low) * src.strides[a].cast_unsigned();
            dst.offset += usize::try_from(low).unwrap_or(0) * dst.strides[a].cast_unsigned();
        }
        Ok((Copy::new(&kept, &src, &dst), shape))
    }
    fn value(n: &NodeView) -> Result<Array> {
        let dtype = n.dtype(0)?;
        if n.optional(2).is_none() {
            return Ok(match dtype {
                DType::F32 | DType::F64 => Array::full_float(dtype, &[], 0.0),
                DType::Bool => Array::full(&[], false),
                _ => Array::full(&[], 0i64),
            });
        }
        let v = n.constant(2)?;
        if v.len() != 1 || n.dtype(2)? != dtype {
            return Err(Error::format(format!("constant_value is {}, one element of {dtype} is needed", v.ty())));
        }
        Ok(v.clone())
    }
}

impl Op for Pad {
    fn spec(&self) -> Spec {
        Spec::new("Pad", 25, (2, 4))
    }
    fn frozen_inputs(&self) -> &'static [usize] {
        &[2]
    }
    fn expand(
        &'static self,
        g: &mut Graph,
        inputs: &[Option<ValueId>],
        attrs: &Attrs,
        _: &[bool],
    ) -> Result<Option<Vec<Option<ValueId>>>> {
        let view = g.view(self, "", inputs, attrs, &[true]);
        let mode = match view.string("mode", "constant")? {
            "constant" => return Ok(None),
            "edge" => Mode::Edge,
            "reflect" => Mode::Reflect,
            "wrap" => Mode::Wrap,
            other => return Err(view.unsupported("mode", other)),
        };
        let shape = view.shape(0)?.to_vec();
        let pads = view.ints_input(1)?.unwrap_or_default();
        let all = Self::all(shape.len(), &pads, view.ints_input(3)?.as_deref())?;
        let x = inputs.first().copied().flatten().ok_or_else(|| Error::format("input 0 is missing"))?;
        let mut y = x;
        for (axis, &(low, high)) in all.iter().enumerate() {
            let d = dims(&[shape[axis]])[0];
            let known = d > 0 || (low <= 0 && high <= 0);
            if !known || low < -d || high < -d || low.saturating_add(high) < -d || low.max(high) > LARGEST {
                return Err(Error::unsupported(format!("pads = {pads:?} on shape {shape:?}")));
            }
            y = grow(g, y, axis, (low, high), mode)?;
        }
        if y == x {
            y = g.push("Identity", &[x], Attrs::new())?;
        }
        Ok(Some(vec![Some(y)]))
    }
    fn infer(&self, n: &NodeView) -> Result<Vec<TensorType>> {
        Self::value(n)?;
        Ok(vec![TensorType::new(n.dtype(0)?, Self::pads(n)?.1)])
    }
    fn batch(&self, n: &NodeView, from: &[Batch], _: usize, _: &[TensorType]) -> Vec<Batch> {
        let Ok((pads, _)) = Self::pads(n) else {
            return vec![Batch::Lost];
        };
        let padded: Vec<usize> = (0..pads.len()).filter(|&a| pads[a] != (0, 0)).collect();
        vec![batch::unless_on(from, &padded)]
    }
    fn eval(&self, n: &NodeView, x: &[Option<&Array>]) -> Result<Vec<Array>> {
        let (copy, shape) = Self::copy(n)?;
        let mut y = filled(&shape, &Self::value(n)?)?;
        copy.write(given(x, 0)?, &mut y)?;
        Ok(vec![y])
    }
    fn vjp(&self, b: &mut Vjp) -> Result<()> {
        // dx = dy with what was added cropped, and 0 where x was cropped: Pad by −pads
        let (pads, _) = Self::pads(&b.view())?;
        let back: Vec<i64> = pads.iter().map(|p| -p.0).chain(pads.iter().map(|p| -p.1)).collect();
        let dy = b.dy()?;
        let dx = pad(b.graph(), dy, &back)?;
        b.set_exact(0, dx);
        Ok(())
    }
    fn kernel(&self, n: &NodeView) -> Result<Kernel> {
        let (copy, shape) = Self::copy(n)?;
        let mut steps: Vec<_> = fill(0, shape.iter().product(), word(&Self::value(n)?)).into_iter().collect();
        steps.extend(copy.step(Bind::Input(0), Bind::Output(0))?);
        Ok(Kernel::many(steps))
    }
    fn cases(&self) -> Vec<Case> {
        let value = |v: f32| Arg::Const(Array::full(&[], v), DType::F32);
        vec![
            Case::new("Pad image", &[&[1, 2, 3, 4]]).ints(&[0, 0, 1, 2, 0, 0, 3, 0]),
            Case::new("Pad value", &[&[2, 3]]).ints(&[1, 0, 0, 2]).arg(value(1.5)),
            Case::new("Pad crop", &[&[5, 4]]).ints(&[-1, 1, -2, -1]),
            Case::new("Pad crop to nothing and back", &[&[2, 3]]).ints(&[-2, 0, 2, 0]),
            Case::new("Pad axes", &[&[2, 3, 2]]).ints(&[1, 0, 0, 2]).arg(Arg::Absent).ints(&[-1, 0]),
            Case::new("Pad nothing", &[&[2, 3]]).ints(&[0; 4]),
            Case::new("Pad reflect", &[&[2, 3, 4]]).ints(&[0, 2, 1, 1, 0, 3]).attr("mode", "reflect"),
            Case::new("Pad edge", &[&[2, 3]]).ints(&[1, 4, 0, 2]).attr("mode", "edge"),
            Case::new("Pad wrap", &[&[2, 3]]).ints(&[5, 0, 1, 2]).attr("mode", "wrap"),
            Case::new("Pad wrap and crop", &[&[2, 5]]).ints(&[2, -1]).arg(Arg::Absent).ints(&[1]).attr("mode", "wrap"),
            Case::new("Pad edge of nothing", &[&[2, 3]]).ints(&[0; 4]).attr("mode", "edge"),
        ]
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
        if opset < 11 {
            attr_to_input(g, &mut inputs, &mut attrs, "pads", 1)?;
            match attrs.take("value") {
                None => {}
                Some(Attr::Float(v)) => {
                    let dtype = inputs.first().copied().flatten().map_or(DType::F32, |x| g.dtype(x));
                    inputs.resize(3, None);
                    inputs[2] = Some(g.scalar(f64::from(v), dtype));
                }
                Some(a) => return Err(Error::format(format!("attribute value = {a:?} is not a float"))),
            }
        }
        g.push_multi(&Self, &inputs, attrs, wanted)
    }
}

/// What stands beyond the borders.
#[derive(Clone, Copy, PartialEq)]
enum Mode {
    /// The element at the border.
    Edge,
    /// The elements behind the border, backwards.
    Reflect,
    /// The elements from the other end.
    Wrap,
}

/// Pads beyond this are refused: the places they are taken from are held as constants.
const LARGEST: i64 = 1 << 24;

impl Mode {
    /// The place inside an axis of extent `d` that stands for place `i` outside.
    fn place(self, i: i64, d: i64) -> i64 {
        match self {
            Self::Edge => i.clamp(0, d - 1),
            Self::Wrap => i.rem_euclid(d),
            Self::Reflect if d == 1 => 0,
            Self::Reflect => {
                let i = i.rem_euclid(2 * (d - 1));
                i.min(2 * (d - 1) - i)
            }
        }
    }
}

/// Places taken from along an axis, `low` before and `high` after it.
fn grow(g: &mut Graph, x: ValueId, axis: usize, (low, high): (i64, i64), mode: Mode) -> Result<ValueId> {
    if (low, high) == (0, 0) {
        return Ok(x);
    }
    let (a, d) = (dims(&[axis])[0], dims(&[g.shape(x)[axis]])[0]);
    if low <= 0 && high <= 0 {
        return slice(g, x, &[-low], &[d + high], &[a], &[1]);
    }
    let places: Vec<i64> = (-low..d + high).map(|i| mode.place(i, d)).collect();
    let places = g.ints(&places);
    g.push("Gather", &[x, places], Attrs::new().with("axis", a))
}

pub(super) static OPS: &[&dyn Op] = &[&Pad];

#[cfg(test)]
mod tests {
    use super::*;

    fn counting(g: &mut Graph, shape: &[usize]) -> ValueId {
        let v: Vec<f32> = (0u8..).take(shape.iter().product()).map(f32::from).collect();
        g.constant(Array::from_vec(shape, v).unwrap())
    }

    /// What an op of operator set `opset` gives for 0, 1, 2, … in this shape.
    fn imported(
        op: &dyn Op,
        opset: i64,
        shape: &[usize],
        more: &[&[i64]],
        attrs: Attrs,
        outputs: usize,
    ) -> Result<Vec<Array>> {
        let mut g = Graph::new(0);
        let mut inputs = vec![Some(counting(&mut g, shape))];
        inputs.extend(more.iter().map(|v| Some(g.ints(v))));
        let y = op.import(&mut g, opset, &inputs, attrs, &vec![true; outputs])?;
        Ok(y.into_iter().map(|y| g.constant_of(y.unwrap()).unwrap().clone()).collect())
    }

    fn floats(shape: &[usize], v: &[f32]) -> Array {
        Array::from_vec(shape, v.to_vec()).unwrap()
    }

    #[test]
    fn pads_of_operator_set_10_have_attributes() {
        let attrs = Attrs::new().with("pads", vec![1i64, 0]).with("value", 7f32).with("mode", "constant");
        assert_eq!(imported(&Pad, 10, &[2], &[], attrs, 1).unwrap(), [floats(&[3], &[7., 0., 1.])]);
    }

    #[test]
    fn reflect_and_edge() {
        let mode = |m: &str| Attrs::new().with("mode", m);
        let y = imported(&Pad, 18, &[4], &[&[3, 2]], mode("reflect"), 1).unwrap();
        assert_eq!(y, [floats(&[9], &[3., 2., 1., 0., 1., 2., 3., 2., 1.])]);
        let y = imported(&Pad, 18, &[2, 2], &[&[1, 0, 0, 2]], mode("edge"), 1).unwrap();
        assert_eq!(y, [floats(&[3, 4], &[0., 1., 1., 1., 0., 1., 1., 1., 2., 3., 3., 3.])]);
        assert_eq!(imported(&Pad, 18, &[2], &[&[0, 0]], mode("edge"), 1).unwrap(), [floats(&[2], &[0., 1.])]);
        let y = imported(&Pad, 19, &[3], &[&[4, -1]], mode("wrap"), 1).unwrap();
        assert_eq!(y, [floats(&[6], &[2., 0., 1., 2., 0., 1.])]);
        let y = imported(&Pad, 18, &[3], &[&[0, 5]], mode("reflect"), 1).unwrap();
        assert_eq!(y, [floats(&[8], &[0., 1., 2., 1., 0., 1., 2., 1.])]);
        for (pads, m) in [(&[-3i64, -2], "edge"), (&[1, 1], "mirror")] {
            assert!(imported(&Pad, 19, &[4], &[pads], mode(m), 1).is_err());
        }
    }
}
