//! The way back from a max pool: <https://onnx.ai/onnx/operators/onnx__MaxUnpool.html>.

use super::composite::Composite;
use super::conv::planes;
use super::window::{Window, kernel_shape};
use super::{Arg, Case, Op, Spec};
use crate::error::Error;
use crate::graph::Attrs;
use crate::tensor::{Array, DType};

/// Puts the elements of x `[N, C, …]` where the indices say, counted in the flattened output that kernel, strides and
/// pads imply; everything else is 0. A larger `output_shape` (input 2) adds zeros behind.
static MAX_UNPOOL: Composite = Composite {
    spec: Spec::new("MaxUnpool", 22, (2, 3)),
    write: |p| {
        let (x, at) = (p.x(0)?, p.x(1)?);
        let (shape, full, wanted) = {
            let n = p.view();
            let shape = n.shape(0)?.to_vec();
            let (rows, channels, small) = planes(&shape)?;
            if n.shape(1)? != shape || n.dtype(1)? != DType::I64 {
                return Err(Error::format(format!("indices are {}, x is {}", n.ty(1)?, n.ty(0)?)));
            }
            let window = Window::transposed(&n, small, &kernel_shape(&n, small.len())?)?;
            let full = [&[rows, channels], &window.input()[..]].concat();
            let wanted = match n.ints_input(2)? {
                None => full.clone(),
                Some(v) => v.iter().map(|&d| usize::try_from(d).unwrap_or(0)).collect(),
            };
            (shape, full, wanted)
        };
        if wanted.len() != full.len() || wanted[..2] != full[..2] || wanted.iter().zip(&full).any(|(w, f)| w < f) {
            return Err(Error::unsupported(format!("an output_shape of {wanted:?} where {full:?} are implied")));
        }
        let (samples, size): (usize, usize) = (full[0], full[1..].iter().product());
        let many: usize = shape[1..].iter().product();
        // places inside a sample, so that samples stay apart
        let extent = p.number_like(size as i64, at);
        let before = p.div(at, extent)?;
        let before = p.mul(before, extent)?;
        let at = p.sub(at, before)?;
        let (at, flat) = (p.reshape(at, &[samples, many])?, p.reshape(x, &[samples, many])?);
        let zeros = Array::full_float(p.dtype(x), &[samples, size], 0.0);
        let zeros = p.graph().constant(zeros);
        let y = p.emit("ScatterElements", &[zeros, at, flat], Attrs::new().with("axis", 1))?;
        let mut y = p.reshape(y, &full)?;
        if wanted != full {
            let behind = wanted.iter().zip(&full).map(|(w, f)| (w - f) as i64);
            let pads: Vec<i64> = vec![0; full.len()].into_iter().chain(behind).collect();
            let (pads, zero) = (p.graph().ints(&pads), p.scalar_like(0.0, x));
            y = p.op("Pad", &[y, pads, zero])?;
        }
        Ok(vec![Some(y)])
    },
    cases: || {
        let indices = |shape: &[usize], v: &[i64]| {
            Arg::Fed(Array::from_vec(shape, v.to_vec()).unwrap_or_else(|_| Array::ints(v)), DType::I64)
        };
        let case = |name: &str, x: &[usize], at: &[i64], kernel: &[i64]| {
            Case::new(&format!("MaxUnpool {name}"), &[x]).arg(indices(x, at)).attr("kernel_shape", kernel)
        };
        vec![
            case("2-D", &[2, 1, 2, 3], &[0, 3, 4, 13, 14, 22, 24, 27, 29, 42, 38, 47], &[2, 2])
                .attr("strides", vec![2, 2]),
            case("channels", &[1, 2, 1, 2], &[1, 2, 7, 4], &[1, 2]).attr("strides", vec![1, 2]),
            case("pads", &[1, 1, 2, 2], &[0, 2, 4, 5], &[2, 2])
                .attr("strides", vec![2, 2])
                .attr("pads", vec![0, 1, 1, 0]),
            case("1-D, larger output", &[2, 1, 3], &[1, 2, 5, 6, 9, 11], &[2])
                .attr("strides", vec![2])
                .ints(&[2, 1, 8]),
        ]
    },
};

pub(super) static OPS: &[&dyn Op] = &[&MAX_UNPOOL];
