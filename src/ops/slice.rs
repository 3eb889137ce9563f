//! Ops that take a part of a tensor: <https://onnx.ai/onnx/operators/>.

use super::copy::{Copy, Side};
use super::layout::{attr_to_input, behind, constant_ints, dims};
use super::pad::pad;
use super::support::{given, strides};
use super::{Arg, Bind, Case, Kernel, MANY, NodeView, Op, Spec, Vjp};
use crate::error::{Error, Result};
use crate::graph::{Attrs, Batch, Graph, ValueId, batch};
use crate::tensor::{Array, TensorType};

/// What a Slice takes of one axis: elements `start`, `start + step`, … , `count` of them.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Range {
    start: usize,
    step: i64,
    count: usize,
}

impl Range {
    /// ONNX's rule: a negative bound counts from the end, and bounds beyond the axis are cut.
    fn new(extent: usize, start: i64, end: i64, step: i64) -> Result<Self> {
        if step == 0 {
            return Err(Error::format("steps = 0 is not a step"));
        }
        if extent == 0 {
            return Ok(Self { start: 0, step, count: 0 });
        }
        let d = extent as i128;
        let bound = |v: i64, low, high| (if v < 0 { i128::from(v) + d } else { i128::from(v) }).clamp(low, high);
        let (start, end, wide) = match i128::from(step) {
            s if s > 0 => (bound(start, 0, d), bound(end, 0, d), s),
            s => (bound(start, 0, d - 1), bound(end, -1, d - 1), s),
        };
        // the distance rounded up to whole steps
        let count = ((end - start + wide - wide.signum()) / wide).max(0);
        Ok(Self { start: if count == 0 { 0 } else { start as usize }, step, count: count as usize })
    }
    /// The least index taken.
    fn low(&self) -> usize {
        if self.step < 0 { self.start - (self.count - 1) * self.step.unsigned_abs() as usize } else { self.start }
    }
}

/// `y = x[start:end:step]` on some axes.
struct Slice;

impl Slice {
    /// What is taken of every axis.
    fn ranges(n: &NodeView) -> Result<Vec<Range>> {
        let x = n.shape(0)?;
        let starts = n.ints_input(1)?.unwrap_or_default();
        let ends = n.ints_input(2)?.unwrap_or_default();
        let axes = n.ints_input(3)?.unwrap_or_else(|| (0..).take(starts.len()).collect());
        let steps = n.ints_input(4)?.unwrap_or_else(|| vec![1; starts.len()]);
        if ends.len() != starts.len() || axes.len() != starts.len() || steps.len() != starts.len() {
            return Err(Error::format(format!(
                "starts = {starts:?}, ends = {ends:?}, axes = {axes:?} and steps = {steps:?} differ in length"
            )));
        }
        n.axes(&axes, x.len())?;
        let mut out: Vec<Range> = x.iter().map(|&count| Range { start: 0, step: 1, count }).collect();
        for (i, &axis) in axes.iter().enumerate() {
            let axis = n.axis(axis, x.len())?;
            out[axis] = Range::new(x[axis], starts[i], ends[i], steps[i])?;
        }
        Ok(out)
    }
    fn copy(n: &NodeView) -> Result<(Copy, Vec<usize>)> {
        let ranges = Self::ranges(n)?;
        let from = strides(n.shape(0)?);
        let shape: Vec<usize> = ranges.iter().map(|r| r.count).collect();
        let src = Side {
            offset: ranges.iter().zip(&from).map(|(r, s)| r.start * s).sum(),
            strides: ranges
                .iter()
                .zip(&from)
                // the step over at most one element does not matter, and may be huge
                .map(|(r, s)| if r.count > 1 { r.step as isize * s.cast_signed() } else { 0 })
                .collect(),
        };
        Ok((Copy::into_whole(&shape, &src), shape))
    }
}

impl Op for Slice {
    fn spec(&self) -> Spec {
        Spec::new("Slice", 13, (3, 5))
    }
    fn infer(&self, n: &NodeView) -> Result<Vec<TensorType>> {
        Ok(vec![TensorType::new(n.dtype(0)?, Self::copy(n)?.1)])
    }
    fn batch(&self, n: &NodeView, from: &[Batch], _: usize, _: &[TensorType]) -> Vec<Batch> {
        let (Some(x), Ok(ranges)) = (n.optional(0), Self::ranges(n)) else {
            return vec![Batch::Lost];
        };
        let cut: Vec<usize> =
            (0..ranges.len()).filter(|&a| ranges[a] != Range { start: 0, step: 1, count: x.shape[a] }).collect();
        vec![batch::unless_on(from, &cut)]
    }
    fn eval(&self, n: &NodeView, x: &[Option<&Array>]) -> Result<Vec<Array>> {
        let (copy, shape) = Self::copy(n)?;
        Ok(vec![copy.array(given(x, 0)?, &shape)?])
    }
    fn vjp(&self, b: &mut Vjp) -> Result<()> {
        // dx = dy put back where it was taken from, 0 elsewhere
        let ranges = Self::ranges(&b.view())?;
        let x = b.shape(b.x(0)?);
        let mut dx = b.dy()?;
        if ranges.iter().any(|r| r.count == 0) {
            // nothing was taken; a Pad of nothing gives all zeros
            let pads: Vec<i64> = dims(&ranges.iter().map(|_| 0).collect::<Vec<_>>())
                .into_iter()
                .chain(x.iter().zip(&ranges).map(|(&d, r)| dims(&[d])[0] - dims(&[r.count])[0]))
                .collect();
            dx = pad(b.graph(), dx, &pads)?;
            b.set_exact(0, dx);
            return Ok(());
        }
        let back: Vec<i64> = (0i64..).zip(&ranges).filter(|(_, r)| r.step < 0 && r.count > 1).map(|(a, _)| a).collect();
        if !back.is_empty() {
            let ones = vec![-1; back.len()];
            dx = slice(b.graph(), dx, &ones, &vec![i64::MIN; back.len()], &back, &ones)?;
        }
        // steps: every element gets step − 1 zeros behind it
        let step = |r: &Range| if r.count > 1 { r.step.unsigned_abs() as usize } else { 1 };
        let mut shape: Vec<usize> = ranges.iter().map(|r| r.count).collect();
        for (axis, r) in ranges.iter().enumerate().filter(|(_, r)| step(r) > 1) {
            let apart = [&shape[..=axis], &[1], &shape[axis + 1..]].concat();
            dx = b.reshape(dx, &apart)?;
            let mut pads = vec![0; 2 * apart.len()];
            pads[apart.len() + axis + 1] = dims(&[step(r) - 1])[0];
            dx = pad(b.graph(), dx, &pads)?;
            shape[axis] *= step(r);
            dx = b.reshape(dx, &shape)?;
        }
        let low = ranges.iter().map(|r| dims(&[r.low()])[0]);
        // negative where the zeros behind the last element reach beyond the axis
        let high = ranges.iter().enumerate().map(|(a, r)| dims(&[x[a]])[0] - dims(&[r.low() + shape[a]])[0]);
        let pads: Vec<i64> = low.chain(high).collect();
        dx = pad(b.graph(), dx, &pads)?;
        b.set_exact(0, dx);
        Ok(())
    }
    fn kernel(&self, n: &NodeView) -> Result<Kernel> {
        Self::copy(n)?.0.kernel(n.ty(0)?.len())
    }
    fn cases(&self) -> Vec<Case> {
        let case = |name: &str, shape: &[usize]| Case::new(&format!("Slice {name}"), &[shape]);
        vec![
            case("one axis", &[5, 4]).ints(&[1]).ints(&[4]).ints(&[0]),
            case("default axes", &[5, 4, 3]).ints(&[1, 0]).ints(&[3, 2]),
            case("negative bounds", &[5, 4]).ints(&[-3, -4]).ints(&[-1, 1000]).ints(&[0, -1]),
            case("steps", &[7, 9]).ints(&[1, 0]).ints(&[7, 9]).ints(&[0, 1]).ints(&[2, 4]),
            case("step over the end", &[2, 8]).ints(&[1]).ints(&[8]).ints(&[1]).ints(&[3]),
            case("reversed", &[4, 3]).ints(&[-1]).ints(&[i64::MIN]).ints(&[0]).ints(&[-1]),
            case("negative steps", &[8, 5]).ints(&[6, 4]).ints(&[0, -6]).ints(&[0, 1]).ints(&[-2, -3]),
            case("huge step", &[4, 3]).ints(&[1]).ints(&[4]).ints(&[0]).ints(&[i64::MAX]),
            case("nothing", &[4, 3]).ints(&[3]).ints(&[1]).ints(&[0]),
            case("everything", &[4, 3]).ints(&[0]).ints(&[i64::MAX]).ints(&[0]),
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
        if opset < 10 {
            for (at, name) in (1..).zip(["starts", "ends", "axes"]) {
                attr_to_input(g, &mut inputs, &mut attrs, name, at)?;
            }
        }
        g.push_multi(&Slice, &inputs, attrs, wanted)
    }
    fn stacked(&self, g: &mut Graph, inputs: &[Option<ValueId>], attrs: &Attrs, _: usize) -> Result<Option<ValueId>> {
        let Some(x) = inputs.first().copied().flatten() else {
            return Ok(None);
        };
        let rank = g.shape(x).len() - 1;
        let starts = constant_ints(g, inputs, 1)?.unwrap_or_default();
        let axes = constant_ints(g, inputs, 3)?.unwrap_or_else(|| (0..).take(starts.len()).collect());
        let axes: Vec<i64> = axes.iter().map(|&a| behind(a, rank)).collect();
        let mut inputs = inputs.to_vec();
        inputs.resize(inputs.len().max(4), None);
        inputs[3] = Some(g.ints(&axes));
        g.push_some("Slice", &inputs, attrs.clone()).map(Some)
    }
}

/// Slice by constants.
pub(super) fn slice(
    g: &mut Graph,
    x: ValueId,
    starts: &[i64],
    ends: &[i64],
    axes: &[i64],
    steps: &[i64],
) -> Result<ValueId> {
    let inputs = [x, g.ints(starts), g.ints(ends), g.ints(axes), g.ints(steps)];
    // a last step of 1 everywhere is the default
    let given = if steps.iter().all(|&s| s == 1) { 4 } else { 5 };
    g.push("Slice", &inputs[..given], Attrs::new())
}

/// Cuts `x` into consecutive parts along an axis.
struct Split;

impl Split {
    /// The axis and the extent of every part on it.
    fn parts(n: &NodeView) -> Result<(usize, Vec<usize>)> {
        let x = n.shape(0)?;
        let axis = n.axis(n.int("axis", 0)?, x.len())?;
        let d = x[axis];
        if let Some(split) = n.ints_input(1)? {
            let parts: Option<Vec<usize>> = split.iter().map(|&s| usize::try_from(s).ok()).collect();
            let sum = |p: &Vec<usize>| p.iter().try_fold(0usize, |n, &s| n.checked_add(s));
            let parts = parts.filter(|p| sum(p) == Some(d));
            let wrong = || Error::format(format!("split = {split:?} does not fill extent {d} of axis {axis}"));
            return Ok((axis, parts.ok_or_else(wrong)?));
        }
        let count = n.int("num_outputs", dims(&[n.wanted.len()])[0])?;
        let wrong = || Error::format(format!("extent {d} of axis {axis} cannot be split in {count} parts"));
        let count = usize::try_from(count).ok().filter(|&c| c > 0 && c <= n.wanted.len().max(d)).ok_or_else(wrong)?;
        // the last part may be smaller
        let most = d.div_ceil(count);
        let last = d.checked_sub(most * (count - 1)).ok_or_else(wrong)?;
        let mut parts = vec![most; count];
        parts[count - 1] = last;
        Ok((axis, parts))
    }
    /// The copy that makes each part, and its shape.
    fn copies(n: &NodeView) -> Result<Vec<(Copy, Vec<usize>)>> {
        let (axis, parts) = Self::parts(n)?;
        let x = n.shape(0)?;
        let mut src = Side::whole(x);
        Ok(parts
            .into_iter()
            .map(|part| {
                let mut shape = x.to_vec();
                shape[axis] = part;
                let copy = Copy::into_whole(&shape, &src);
                src.offset += part * src.strides[axis].cast_unsigned();
                (copy, shape)
            })
            .collect())
    }
}

impl Op for Split {
    fn spec(&self) -> Spec {
        Spec::new("Split", 18, (1, 2)).outputs(1, MANY)
    }
    fn infer(&self, n: &NodeView) -> Result<Vec<TensorType>> {
        let dtype = n.dtype(0)?;
        Ok(Self::copies(n)?.into_iter().map(|(_, shape)| TensorType::new(dtype, shape)).collect())
    }
    fn batch(&self, n: &NodeView, from: &[Batch], _: usize, out: &[TensorType]) -> Vec<Batch> {
        vec![Self::parts(n).map_or(Batch::Lost, |(axis, _)| batch::unless_on(from, &[axis])); out.len()]
    }
    fn eval(&self, n: &NodeView, x: &[Option<&Array>]) -> Result<Vec<Array>> {
        let x = given(x, 0)?;
        Self::copies(n)?.iter().map(|(copy, shape)| copy.array(x, shape)).collect()
    }
    fn vjp(&self, b: &mut Vjp) -> Result<()> {
        // dx = the parts' gradients joined; 0 where a part does not reach the loss
        let (axis, parts) = Self::parts(&b.view())?;
        let rank = b.shape(b.x(0)?).len();
        let dy: Vec<Option<ValueId>> = (0..parts.len()).map(|i| b.dy_of(i)).collect();
        if let Some(all) = dy.iter().copied().collect::<Option<Vec<_>>>() {
            let axis = dims(&[axis])[0];
            let dx = b.emit("Concat", &all, Attrs::new().with("axis", axis))?;
            b.set_exact(0, dx);
            return Ok(());
        }
        let extent: usize = parts.iter().sum();
        let (mut start, mut dx) = (0, None);
        for (part, d) in parts.into_iter().zip(dy) {
            if let Some(d) = d {
                let mut pads = vec![0; 2 * rank];
                pads[axis] = dims(&[start])[0];
                pads[rank + axis] = dims(&[extent - start - part])[0];
                let d = pad(b.graph(), d, &pads)?;
                dx = Some(match dx {
                    None => d,
                    Some(sum) => b.add(sum, d)?,
                });
            }
            start += part;
        }
        if let Some(dx) = dx {
            b.set_exact(0, dx);
        }
        Ok(())
    }
    fn kernel(&self, n: &NodeView) -> Result<Kernel> {
        let mut steps = Vec::new();
        for (i, (copy, _)) in Self::copies(n)?.iter().enumerate().filter(|(i, _)| n.wants(*i)) {
            steps.extend(copy.step(Bind::Input(0), Bind::Output(i))?);
        }
        Ok(Kernel::many(steps))
    }
    fn cases(&self) -> Vec<Case> {
        vec![
            Case::new("Split sizes", &[&[6, 2]]).ints(&[1, 3, 2]).outputs(&[true, true, true]),
            Case::new("Split inner axis", &[&[2, 5, 3]]).ints(&[2, 3]).attr("axis", 1).outputs(&[true, true]),
            Case::new("Split uneven", &[&[2, 7]])
                .arg(Arg::Absent)
                .attr("axis", -1)
                .attr("num_outputs", 3)
                .outputs(&[true; 3]),
            Case::new("Split evenly", &[&[4, 3]]).attr("num_outputs", 2).outputs(&[true, true]),
            Case::new("Split part unused", &[&[6, 2]]).ints(&[1, 3, 2]).outputs(&[true, false, true]),
            Case::new("Split empty part", &[&[3, 2]]).ints(&[0, 3]).outputs(&[false, true]),
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
        if opset < 13 {
            attr_to_input(g, &mut inputs, &mut attrs, "split", 1)?;
        }
        // operator set 18 wants to be told what the number of outputs told before
        if opset < 18 && inputs.get(1).copied().flatten().is_none() {
            attrs.set("num_outputs", dims(&[wanted.len()])[0]);
        }
        // Parts of a weight keep their samples apart as slices, since only ops of one output can be stacked.
        if let Some(x) = inputs.first().copied().flatten()
            && g.batch > 0
            && g.value(x).batch == Batch::None
            && g.constant_of(x).is_none()
        {
            let (axis, parts) = Self::parts(&g.view(self, "", &inputs, &attrs, wanted))?;
            if wanted.len() > parts.len() {
                return Err(Error::format(format!("it has {} outputs, {} are used", parts.len(), wanted.len())));
            }
            let mut start = 0;
            let mut out = Vec::with_capacity(parts.len());
            for (part, &want) in parts.into_iter().zip(wanted) {
                let [first, end, along] = [start, start + part, axis].map(|v| dims(&[v])[0]);
                out.push(if want { Some(slice(g, x, &[first], &[end], &[along], &[1])?) } else { None });
                start += part;
            }
            return Ok(out);
        }
        g.push_multi(&Split, &inputs, attrs, wanted)
    }
}

pub(super) static OPS: &[&dyn Op] = &[&Slice, &Split];

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
    fn slices_of_operator_set_9_have_attributes() {
        let attrs = Attrs::new().with("starts", vec![1i64]).with("ends", vec![-1i64]).with("axes", vec![1i64]);
        let y = imported(&Slice, 9, &[2, 4], &[], attrs, 1).unwrap();
        assert_eq!(y, [floats(&[2, 2], &[1., 2., 5., 6.])]);
    }

    #[test]
    fn splits_of_old_operator_sets() {
        let attrs = Attrs::new().with("axis", 1).with("split", vec![1i64, 3]);
        let y = imported(&Split, 11, &[1, 4], &[], attrs, 2).unwrap();
        assert_eq!(y, [floats(&[1, 1], &[0.]), floats(&[1, 3], &[1., 2., 3.])]);
        let y = imported(&Split, 13, &[4], &[], Attrs::new(), 2).unwrap();
        assert_eq!(y, [floats(&[2], &[0., 1.]), floats(&[2], &[2., 3.])]);
        let e = imported(&Split, 13, &[4], &[&[1, 2]], Attrs::new(), 2).unwrap_err();
        assert!(e.to_string().contains("split = [1, 2]"), "{e}");
    }

    #[test]
    fn bounds_at_the_ends_of_the_integers() {
        let all = [i64::MIN, -5, -1, 0, 1, 4, 5, i64::MAX];
        for extent in [0, 1, 4] {
            for i in 0..512 {
                let [s, e, step] = [all[i % 8], all[i / 8 % 8], all[i / 64]];
                let Ok(r) = Range::new(extent, s, e, step) else {
                    assert_eq!(step, 0);
                    continue;
                };
                assert!(r.count <= extent && (r.count == 0 || (r.start < extent && r.low() <= r.start)), "{r:?}");
            }
        }
    }
}
