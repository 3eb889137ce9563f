//! <https://onnx.ai/onnx/operators/onnx__Col2Im.html>: blocks of an image laid back where they were taken, and summed
//! where they overlap, as `torch.nn.Fold` is exported.

use super::composite::{Composite, Parts};
use super::{Arg, Case, NodeView, Op, Spec};
use crate::error::{Error, Result};
use crate::graph::{Attrs, ValueId};
use crate::tensor::{Array, DType};

/// What a node says of image and blocks, an entry for each spatial axis.
struct Blocks {
    image: Vec<usize>,
    block: Vec<usize>,
    strides: Vec<usize>,
    dilations: Vec<usize>,
    /// How many blocks lie along the axis.
    count: Vec<usize>,
    /// Rows of the image behind the last block's end, where no block lies.
    rest: Vec<usize>,
    pads: Vec<i64>,
}

impl Blocks {
    fn of(n: &NodeView) -> Result<Self> {
        let extents = |i: usize| -> Result<Vec<usize>> {
            let v = n.ints_input(i)?.unwrap_or_default();
            let wrong = || Error::format(format!("input {i} = {v:?} holds an extent below 1"));
            v.iter().map(|&d| usize::try_from(d).ok().filter(|&d| d > 0).ok_or_else(wrong)).collect()
        };
        let (image, block) = (extents(1)?, extents(2)?);
        let rank = image.len();
        let list = |name: &str, len: usize, default: i64, least: i64| -> Result<Vec<i64>> {
            let v = n.ints(name)?.map_or_else(|| vec![default; len], <[i64]>::to_vec);
            match v.len() == len && v.iter().all(|&d| d >= least) {
                true => Ok(v),
                false => Err(n.unsupported(name, v)),
            }
        };
        let sizes = |name| -> Result<Vec<usize>> { Ok(list(name, rank, 1, 1)?.iter().map(|&d| d as usize).collect()) };
        let (strides, dilations, pads) = (sizes("strides")?, sizes("dilations")?, list("pads", 2 * rank, 0, 0)?);
        if block.len() != rank {
            return Err(Error::format(format!("an image of shape {image:?} has no blocks of shape {block:?}")));
        }
        let (mut count, mut rest) = (Vec::new(), Vec::new());
        for i in 0..rank {
            let padded = image[i] + (pads[i] + pads[rank + i]) as usize;
            let reach = dilations[i] * (block[i] - 1) + 1;
            let steps = padded.checked_sub(reach).ok_or_else(|| {
                Error::format(format!("blocks of shape {block:?} do not fit into an image of shape {image:?}"))
            })?;
            count.push(steps / strides[i] + 1);
            rest.push(steps % strides[i]);
        }
        Ok(Self { image, block, strides, dilations, count, rest, pads })
    }
}

/// Block element p of every channel is a channel of its own, which a transposed convolution spreads with a kernel
/// that is 1 at p alone.
fn write(p: &mut Parts) -> Result<Vec<Option<ValueId>>> {
    let (x, b) = (p.x(0)?, Blocks::of(&p.view())?);
    let (shape, block): (Vec<usize>, usize) = (p.shape(x), b.block.iter().product());
    let blocks: usize = b.count.iter().product();
    let &[samples, columns, found] = &shape[..] else {
        return Err(Error::format(format!(
            "input 0 is of shape {shape:?}, [samples, channels · block, blocks] is needed"
        )));
    };
    if columns % block != 0 || found != blocks {
        return Err(Error::format(format!(
            "input 0 is of shape {shape:?}; an image of shape {:?} has {blocks} blocks of {block} elements a channel",
            b.image
        )));
    }
    let channels = columns / block;
    let apart = p.reshape(x, &[&[samples, columns], &b.count[..]].concat())?;
    let mut kernel = vec![0.0; columns * block];
    (0..columns).for_each(|c| kernel[c * block + c % block] = 1.0);
    let kernel = Array::from_vec::<f64>(&[&[columns, 1], &b.block[..]].concat(), kernel)?.to_float(p.dtype(x));
    let kernel = p.g.constant(kernel);
    let ints = |v: &[usize]| v.iter().map(|&d| d as i64).collect::<Vec<i64>>();
    let attrs = Attrs::new()
        .with("group", channels as i64)
        .with("strides", ints(&b.strides))
        .with("dilations", ints(&b.dilations))
        .with("output_padding", ints(&b.rest))
        .with("pads", b.pads);
    Ok(vec![Some(p.emit("ConvTranspose", &[apart, kernel], attrs)?)])
}

fn cases() -> Vec<Case> {
    let case = |name: &str, shape: [usize; 3], image: [i64; 2], block: [i64; 2]| {
        let ints = |v: [i64; 2]| Arg::Const(Array::ints(&v), DType::I64);
        Case::new(&format!("Col2Im {name}"), &[&shape]).arg(ints(image)).arg(ints(block))
    };
    vec![
        case("apart", [2, 6, 4], [4, 6], [2, 3]).attr("strides", vec![2i64, 3]),
        case("overlapping", [1, 8, 12], [4, 5], [2, 2]),
        case("dilated", [1, 4, 8], [4, 6], [2, 2]).attr("dilations", vec![2i64, 2]),
        case("padded", [2, 6, 20], [4, 5], [2, 3]).attr("pads", vec![1i64, 0, 0, 2]),
        case("with a rest", [1, 4, 4], [5, 4], [2, 2]).attr("strides", vec![2i64, 2]),
    ]
}

static COL2IM: Composite = Composite { spec: Spec::new("Col2Im", 18, (3, 3)), write, cases };

pub(super) static OPS: &[&dyn Op] = &[&COL2IM];
