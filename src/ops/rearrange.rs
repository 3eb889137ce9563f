//! Ops that put the same elements elsewhere: <https://onnx.ai/onnx/operators/>.

use super::composite::{Composite, Parts};
use super::layout::dims;
use super::pad::pad;
use super::support::strides;
use super::{Arg, Case, Op, Spec};
use crate::error::{Error, Result};
use crate::graph::{Attrs, ValueId};
use crate::tensor::{Array, DType};

/// Extents `[n, c, h, w]` and the block size.
fn image(p: &Parts) -> Result<([usize; 4], usize)> {
    let shape = p.view().shape(0)?.to_vec();
    let &[n, c, h, w] = &shape[..] else {
        return Err(Error::format(format!("shape {shape:?} is not [n, c, h, w]")));
    };
    let block = p.view().int("blocksize", 0)?;
    let wrong = || Error::format(format!("attribute blocksize = {block} is not positive"));
    Ok(([n, c, h, w], usize::try_from(block).ok().filter(|&b| b > 0 && b <= 1 << 16).ok_or_else(wrong)?))
}

/// <https://onnx.ai/onnx/operators/onnx__DepthToSpace.html>: blocks of channels become squares of the image.
static DEPTH_TO_SPACE: Composite = Composite {
    spec: Spec::new("DepthToSpace", 13, (1, 1)),
    write: |p| {
        let (x, ([n, c, h, w], b)) = (p.x(0)?, image(p)?);
        if c % (b * b) != 0 {
            return Err(Error::format(format!("{c} channels are no blocks of {b}×{b}")));
        }
        let d = c / (b * b);
        let (split, perm) = match p.view().string("mode", "DCR")? {
            "DCR" => ([n, b, b, d, h, w], [0, 3, 4, 1, 5, 2]),
            "CRD" => ([n, d, b, b, h, w], [0, 1, 4, 2, 5, 3]),
            other => return Err(p.view().unsupported("mode", other)),
        };
        let y = p.reshape(x, &split)?;
        let y = p.transpose(y, &perm)?;
        Ok(vec![Some(p.reshape(y, &[n, d, h * b, w * b])?)])
    },
    cases: || {
        vec![
            Case::new("DepthToSpace", &[&[2, 8, 2, 3]]).attr("blocksize", 2),
            Case::new("DepthToSpace CRD", &[&[1, 18, 3, 2]]).attr("blocksize", 3).attr("mode", "CRD"),
        ]
    },
};

/// <https://onnx.ai/onnx/operators/onnx__SpaceToDepth.html>: squares of the image become blocks of channels.
static SPACE_TO_DEPTH: Composite = Composite {
    spec: Spec::new("SpaceToDepth", 13, (1, 1)),
    write: |p| {
        let (x, ([n, c, h, w], b)) = (p.x(0)?, image(p)?);
        if h % b != 0 || w % b != 0 {
            return Err(Error::format(format!("an image of {h}×{w} is not cut into squares of {b}×{b}")));
        }
        let y = p.reshape(x, &[n, c, h / b, b, w / b, b])?;
        let y = p.transpose(y, &[0, 3, 5, 1, 2, 4])?;
        Ok(vec![Some(p.reshape(y, &[n, c * b * b, h / b, w / b])?)])
    },
    cases: || {
        vec![
            Case::new("SpaceToDepth", &[&[2, 2, 4, 6]]).attr("blocksize", 2),
            Case::new("SpaceToDepth whole", &[&[1, 2, 3, 3]]).attr("blocksize", 3),
        ]
    },
};

/// <https://onnx.ai/onnx/operators/onnx__ReverseSequence.html>: the first so many entries along the time axis
/// backwards, as many as each sequence has.
static REVERSE_SEQUENCE: Composite = Composite {
    spec: Spec::new("ReverseSequence", 10, (2, 2)),
    write: |p| {
        let (x, lengths) = (p.x(0)?, p.x(1)?);
        let shape = p.shape(x);
        let time = p.view().axis(p.view().int("time_axis", 0)?, shape.len())?;
        let batch = p.view().axis(p.view().int("batch_axis", 1)?, shape.len())?;
        if time == batch || p.shape(lengths) != [shape[batch]] {
            return Err(Error::format(format!(
                "sequence_lens of shape {:?}, time axis {time} and batch axis {batch} do not fit shape {shape:?}",
                p.shape(lengths)
            )));
        }
        let mut along = vec![1; shape.len()];
        along[time] = shape[time];
        let places = dims(&(0..shape[time]).collect::<Vec<_>>());
        let t = p.int_constant(&along, places, DType::I64)?;
        let mut across = vec![1; shape.len()];
        across[batch] = shape[batch];
        let n = p.cast(lengths, DType::I64)?;
        let n = p.reshape(n, &across)?;
        let inside = p.op("Less", &[t, n])?;
        let one = p.number_like(1, t);
        let last = p.sub(n, one)?;
        let back = p.sub(last, t)?;
        let from = p.choose(inside, back, t)?;
        let from = p.expand(from, &shape)?;
        let axis = dims(&[time])[0];
        Ok(vec![Some(p.emit("GatherElements", &[x, from], Attrs::new().with("axis", axis))?)])
    },
    cases: || {
        let lengths = |v: &[i64]| Arg::Fed(Array::ints(v), DType::I64);
        vec![
            Case::new("ReverseSequence", &[&[4, 3, 2]]).arg(lengths(&[4, 1, 3])),
            Case::new("ReverseSequence batch first", &[&[3, 4]])
                .arg(lengths(&[2, 4, 3]))
                .attr("batch_axis", 0)
                .attr("time_axis", 1),
        ]
    },
};

/// <https://onnx.ai/onnx/operators/onnx__CenterCropPad.html>: the middle, or `x` in the middle of zeros.
static CENTER_CROP_PAD: Composite = Composite {
    spec: Spec::new("CenterCropPad", 18, (2, 2)),
    write: |p| {
        let x = p.x(0)?;
        let shape = dims(&p.shape(x));
        let to = p.view().ints_input(1)?.unwrap_or_default();
        let axes = p.view().ints("axes")?.map_or_else(|| (0..).take(shape.len()).collect(), <[i64]>::to_vec);
        p.view().axes(&axes, shape.len())?;
        if to.len() != axes.len() || to.iter().any(|&d| d < 0) {
            return Err(Error::format(format!("shape = {to:?} does not fit axes {axes:?}")));
        }
        let mut pads = vec![0; 2 * shape.len()];
        for (&axis, &d) in axes.iter().zip(&to) {
            let a = p.view().axis(axis, shape.len())?;
            // the smaller half stands in front, whether it is added or taken
            let change = d - shape[a];
            pads[a] = change / 2;
            pads[shape.len() + a] = change - change / 2;
        }
        let y: ValueId = pad(p.graph(), x, &pads)?;
        Ok(vec![Some(y)])
    },
    cases: || {
        vec![
            Case::new("CenterCropPad crop", &[&[5, 6]]).ints(&[2, 3]),
            Case::new("CenterCropPad pad", &[&[2, 3]]).ints(&[5, 5]),
            Case::new("CenterCropPad both", &[&[2, 5, 3]]).ints(&[8, 2]).attr("axes", vec![-1i64, 1]),
        ]
    },
};

/// An attribute of one number for each of `rank` axes, or the default everywhere.
fn each_axis(p: &Parts, name: &str, rank: usize, default: i64) -> Result<Vec<usize>> {
    let given = p.view().ints(name)?.map_or_else(|| vec![default; rank], <[i64]>::to_vec);
    let v: Option<Vec<usize>> = given.iter().map(|&v| usize::try_from(v).ok()).collect();
    v.filter(|v| v.len() == rank && v.iter().all(|&v| v <= 1 << 24))
        .ok_or_else(|| Error::format(format!("attribute {name} = {given:?} does not fit {rank} axes")))
}

/// <https://onnx.ai/onnx/operators/onnx__Col2Im.html>: the columns of blocks added where the blocks lay.
static COL2IM: Composite = Composite {
    spec: Spec::new("Col2Im", 18, (3, 3)),
    write: |p| {
        let x = p.x(0)?;
        let shape = p.shape(x);
        let sizes = |p: &Parts, i: usize| -> Result<Vec<usize>> {
            let v = p.view().ints_input(i)?.unwrap_or_default();
            let wrong = || Error::format(format!("input {i} = {v:?} holds no extents"));
            v.iter().map(|&d| usize::try_from(d).ok().filter(|&d| d > 0 && d <= 1 << 24).ok_or_else(wrong)).collect()
        };
        let (image, block) = (sizes(p, 1)?, sizes(p, 2)?);
        let rank = image.len();
        let dilations = each_axis(p, "dilations", rank, 1)?;
        let steps = each_axis(p, "strides", rank, 1)?;
        let pads = each_axis(p, "pads", 2 * rank, 0)?;
        let wrong = || {
            Error::format(format!("columns of shape {shape:?} do not fit blocks of {block:?} in an image of {image:?}"))
        };
        let &[n, columns, count] = &shape[..] else { return Err(wrong()) };
        let size: usize = block.iter().product();
        if block.len() != rank || columns % size != 0 {
            return Err(wrong());
        }
        let padded: Vec<usize> = (0..rank).map(|a| image[a] + pads[a] + pads[rank + a]).collect();
        // the blocks along every axis
        let blocks = (0..rank)
            .map(|a| {
                let last = padded[a].checked_sub(dilations[a] * (block[a] - 1) + 1)?;
                Some(last.checked_div(steps[a])? + 1)
            })
            .collect::<Option<Vec<usize>>>()
            .filter(|b| b.iter().product::<usize>() == count)
            .ok_or_else(wrong)?;
        // where in the padded image each element of each block lies
        let (in_block, in_blocks, in_image) = (strides(&block), strides(&blocks), strides(&padded));
        let place = |k: usize, l: usize| -> usize {
            let along = |a: usize| l / in_blocks[a] % blocks[a] * steps[a] + k / in_block[a] % block[a] * dilations[a];
            (0..rank).map(|a| along(a) * in_image[a]).sum()
        };
        let places = (0..size).flat_map(|k| (0..count).map(move |l| (k, l))).map(|(k, l)| place(k, l));
        let places = dims(&places.collect::<Vec<_>>());
        let places = p.graph().ints(&places);
        let channels = columns / size;
        let x = p.reshape(x, &[n, channels, size * count])?;
        let whole = dims(&[padded.iter().product::<usize>()])[0];
        let y = p.emit("GatherGrad", &[places, x], Attrs::new().with("axis", 2).with("dim", whole))?;
        let mut y = p.reshape(y, &[&[n, channels], &padded[..]].concat())?;
        for a in 0..rank {
            y = p.slice(y, a + 2, [pads[a], pads[a] + image[a], 1])?;
        }
        Ok(vec![Some(y)])
    },
    cases: || {
        let case = |name: &str, shape: &[usize]| Case::new(&format!("Col2Im {name}"), &[shape]);
        vec![
            case("blocks", &[2, 8, 6]).ints(&[4, 6]).ints(&[2, 2]).attr("strides", vec![2i64, 2]),
            case("overlapping", &[1, 6, 12]).ints(&[4, 6]).ints(&[2, 3]),
            case("pads and dilations", &[1, 8, 9])
                .ints(&[4, 5])
                .ints(&[2, 2])
                .attr("dilations", vec![2i64, 1])
                .attr("pads", vec![1i64, 0, 0, 2])
                .attr("strides", vec![1i64, 2]),
        ]
    },
};

pub(super) static OPS: &[&dyn Op] = &[&DEPTH_TO_SPACE, &SPACE_TO_DEPTH, &REVERSE_SEQUENCE, &CENTER_CROP_PAD, &COL2IM];
