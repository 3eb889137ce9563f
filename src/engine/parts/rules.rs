//! How nodes are computed in pieces.

use super::blocks::Block;
use super::{Held, Splitter, cut, product};
use crate::error::{Error, Result};
use crate::graph::{Attrs, Node, ValueId};
use crate::ops::Kernel;
use crate::tensor::TensorType;
use std::ops::Range;

/// Shaders whose elements depend on those at the same place alone.
const BY_ELEMENT: [&str; 5] = ["unary", "binary", "where", "variadic", "convert"];

/// The output of a node that reads or makes pieces; `None` where there is no way.
pub(super) fn apply(
    s: &mut Splitter<'_>,
    node: &Node,
    inputs: &[Option<Held>],
    out: &TensorType,
) -> Result<Option<Held>> {
    let given: Vec<&Held> = inputs.iter().flatten().collect();
    let Some(&x) = given.first() else { return Ok(None) };
    match node.op.spec().name {
        "Gemm" | "MatMul" => return product::of_matrices(s, node, inputs, out),
        "MatMulSquared" => return product::squared(s, node, &given, out),
        "WeightedSquareSum" => return product::square_sum(s, node, &given, out),
        "ReduceSum" | "ReduceMean" | "ReduceMax" | "ReduceMin" => return reduced(s, node, x, out),
        "Concat" => return joined(s, &given, out),
        "Slice" => return sliced(s, node, x, out),
        _ => {}
    }
    match node.op.kernel(&s.from.view_of(node))? {
        // other extents for the same elements
        Kernel::Alias => {
            let held = Held { ty: out.clone(), ..x.clone() };
            s.settle(held).map(Some)
        }
        Kernel::Steps { steps, scratch } => {
            let by_element = |shader: &str| BY_ELEMENT.contains(&shader);
            if !scratch.is_empty() || !steps.iter().all(|step| by_element(step.shader.name)) {
                return Ok(None);
            }
            by_elements(s, node, inputs, out)
        }
    }
}

/// Ops whose operands are broadcast.
fn by_elements(s: &mut Splitter<'_>, node: &Node, inputs: &[Option<Held>], out: &TensorType) -> Result<Option<Held>> {
    let alike = inputs.iter().flatten().find(|h| !h.is_whole() && h.shape() == out.shape);
    let ranges = alike.map_or_else(|| cut(&out.shape, s.most), |h| h.ranges.clone());
    let mut ids = Vec::with_capacity(ranges.len());
    for range in &ranges {
        let Some(block) = Block::of(&out.shape, range) else { return Ok(None) };
        let mut operands = Vec::with_capacity(inputs.len());
        for held in inputs {
            operands.push(match held {
                None => None,
                Some(held) => match operand(s, held, &out.shape, &block)? {
                    Some(id) => Some(id),
                    None => return Ok(None),
                },
            });
        }
        ids.extend(s.to.push_multi(node.op, &operands, node.attrs.clone(), &[true])?.into_iter().flatten());
    }
    s.settle(Held { ty: out.clone(), ranges, ids }).map(Some)
}

/// What a block of the output reads of an operand.
fn operand(s: &mut Splitter<'_>, held: &Held, out: &[usize], block: &Block) -> Result<Option<ValueId>> {
    let lead = out.len() - held.shape().len();
    let wanted: Vec<Range<usize>> = (held.shape().iter().enumerate())
        .map(|(a, &extent)| if extent == 1 { 0..1 } else { block.on(a + lead, extent) })
        .collect();
    if held.is_whole() {
        return s.slice(held.ids[0], &wanted).map(Some);
    }
    let Some(range) = flat(held.shape(), &wanted) else { return Ok(None) };
    let shape: Vec<usize> = wanted.iter().map(Range::len).collect();
    s.range(held, &range, &shape).map(Some)
}

/// The one range of elements that a part of every axis is, if it is one.
fn flat(shape: &[usize], wanted: &[Range<usize>]) -> Option<Range<usize>> {
    let first = wanted.iter().zip(shape).fold(0, |at, (w, &d)| at * d + w.start);
    let last = wanted.iter().zip(shape).fold(0, |at, (w, &d)| at * d + w.end.saturating_sub(1));
    let len: usize = wanted.iter().map(Range::len).product();
    (last + 1 == first + len).then_some(first..first + len)
}

/// Every piece by itself, then what falls together.
fn reduced(s: &mut Splitter<'_>, node: &Node, x: &Held, out: &TensorType) -> Result<Option<Held>> {
    let rank = x.shape().len();
    if s.from.view_of(node).int("noop_with_empty_axes", 0)? != 0 {
        return Ok(None);
    }
    let axes: Vec<usize> = match node.inputs.get(1).copied().flatten() {
        None => (0..rank).collect(),
        Some(id) => match s.from.constant_of(id) {
            Some(axes) => {
                let axes = axes.to_i64()?.into_iter().map(|a| if a < 0 { a + rank as i64 } else { a });
                axes.filter_map(|a| usize::try_from(a).ok()).collect()
            }
            None => return Ok(None),
        },
    };
    let name = node.op.spec().name;
    let (each, pair) = match name {
        "ReduceSum" | "ReduceMean" => ("ReduceSum", "Add"),
        "ReduceMax" => ("ReduceMax", "Max"),
        _ => ("ReduceMin", "Min"),
    };
    let kept: Vec<usize> = (0..rank).map(|a| if axes.contains(&a) { 1 } else { x.shape()[a] }).collect();
    let mut found: Vec<(Range<usize>, ValueId)> = Vec::new();
    for (range, &id) in x.ranges.iter().zip(&x.ids) {
        let block = Block::of(x.shape(), range).ok_or_else(|| Error::internal("a piece that is no block"))?;
        let of_axes: Vec<i64> = axes.iter().map(|&a| a as i64).collect();
        let of_axes = s.to.ints(&of_axes);
        let part = s.to.push(each, &[id, of_axes], Attrs::new().with("keepdims", 1))?;
        let place: Vec<Range<usize>> =
            (0..rank).map(|a| if axes.contains(&a) { 0..1 } else { block.on(a, x.shape()[a]) }).collect();
        let Some(place) = flat(&kept, &place) else { return Ok(None) };
        match found.iter_mut().find(|(r, _)| *r == place) {
            Some((_, sum)) => *sum = s.op(pair, &[*sum, part])?,
            None => found.push((place, part)),
        }
    }
    if name == "ReduceMean" {
        let many: usize = axes.iter().map(|&a| x.shape()[a]).product();
        let by = s.to.scalar(1.0 / many.max(1) as f64, out.dtype);
        for (_, id) in &mut found {
            *id = s.op("Mul", &[*id, by])?;
        }
    }
    found.sort_by_key(|(r, _)| r.start);
    let (ranges, ids) = found.into_iter().unzip();
    s.settle(Held { ty: out.clone(), ranges, ids }).map(Some)
}

/// One behind the other along the first axis that has an extent.
fn joined(s: &mut Splitter<'_>, parts: &[&Held], out: &TensorType) -> Result<Option<Held>> {
    let differs = |a: usize| parts.iter().any(|p| p.shape()[a] != out.shape[a]);
    let axis = (0..out.shape.len()).find(|&a| differs(a)).unwrap_or(0);
    if out.shape[..axis].iter().any(|&d| d != 1) {
        return Ok(None);
    }
    let mut held = Held { ty: out.clone(), ranges: Vec::new(), ids: Vec::new() };
    let mut at = 0;
    for part in parts {
        held.ranges.extend(part.ranges.iter().map(|r| at + r.start..at + r.end));
        held.ids.extend(&part.ids);
        at += part.ty.len();
    }
    s.settle(held).map(Some)
}

/// Places one after the other, none left out on any axis but the first that is cut.
fn sliced(s: &mut Splitter<'_>, node: &Node, x: &Held, out: &TensorType) -> Result<Option<Held>> {
    let ints = |i: usize| {
        let id = node.inputs.get(i).copied().flatten()?;
        s.from.constant_of(id).and_then(|a| a.to_i64().ok())
    };
    let (Some(starts), Some(_)) = (ints(1), ints(2)) else { return Ok(None) };
    let axes = ints(3).unwrap_or_else(|| (0..starts.len() as i64).collect());
    if ints(4).is_some_and(|steps| steps.iter().any(|&step| step != 1)) {
        return Ok(None);
    }
    let rank = x.shape().len();
    let mut wanted: Vec<Range<usize>> = x.shape().iter().map(|&d| 0..d).collect();
    for (&start, &axis) in starts.iter().zip(&axes) {
        let axis = usize::try_from(if axis < 0 { axis + rank as i64 } else { axis }).unwrap_or(0);
        let extent = x.shape()[axis] as i64;
        let start = if start < 0 { start + extent } else { start }.clamp(0, extent) as usize;
        wanted[axis] = start..start + out.shape[axis];
    }
    let Some(range) = flat(x.shape(), &wanted) else { return Ok(None) };
    let mut held = Held { ty: out.clone(), ranges: Vec::new(), ids: Vec::new() };
    for of in &x.ranges {
        let (from, to) = (range.start.max(of.start), range.end.min(of.end));
        if from < to {
            held.ids.push(s.range(x, &(from..to), &[to - from])?);
            held.ranges.push(from - range.start..to - range.start);
        }
    }
    s.settle(held).map(Some)
}
