//! Transposed convolution: <https://onnx.ai/onnx/operators/onnx__ConvTranspose.html>.

use super::conv::{check_bias, check_floats, groups, planes};
use super::correlate::Layout;
use super::support::{float_type, given};
use super::window::{Window, sized};
use super::{Case, Kernel, NodeView, Op, Spec, Vjp, conv_grad};
use crate::error::{Error, Result};
use crate::graph::{Attrs, Batch, batch};
use crate::tensor::{Array, TensorType};

/// `y = x ⋆ᵀ w + b`: x `[n, C, …]`, w `[C, M / group, …]`, b `[M]`, y `[n, M, …]`.
struct ConvTranspose;

impl ConvTranspose {
    /// The layout of the Conv whose gradient this is: its large side is y, its small side x.
    fn layout(n: &NodeView) -> Result<Layout> {
        let (rows, channels, small) = planes(n.shape(0)?)?;
        let (c, m, kernel) = planes(n.shape(1)?)?;
        let groups = groups(n, &[channels])?;
        if kernel.len() != small.len() || c != channels {
            return Err(Error::format(format!(
                "weights of shape {:?} do not fit an input of shape {:?} in {groups} groups",
                n.shape(1)?,
                n.shape(0)?
            )));
        }
        if n.ints("kernel_shape")?.is_some_and(|k| !k.iter().copied().eq(kernel.iter().map(|&d| d as i64))) {
            return Err(Error::format(format!(
                "attribute kernel_shape = {:?} contradicts weights of shape {:?}",
                n.ints("kernel_shape")?,
                n.shape(1)?
            )));
        }
        Ok(Layout { n: rows, groups, c: m, m: c / groups, window: Window::transposed(n, small, kernel)? })
    }
}

impl Op for ConvTranspose {
    fn spec(&self) -> Spec {
        Spec::new("ConvTranspose", 22, (2, 3))
    }
    fn infer(&self, n: &NodeView) -> Result<Vec<TensorType>> {
        check_floats(n)?;
        let l = Self::layout(n)?;
        check_bias(n, 2, l.groups * l.c)?;
        Ok(vec![sized(n.dtype(0)?, [&[l.n, l.groups * l.c][..], &l.window.input()].concat())?])
    }
    fn batch(&self, _: &NodeView, from: &[Batch], _: usize, _: &[TensorType]) -> Vec<Batch> {
        vec![batch::leading(from)]
    }
    fn eval(&self, n: &NodeView, x: &[Option<&Array>]) -> Result<Vec<Array>> {
        let l = Self::layout(n)?;
        let (x, w, b) = (given(x, 0)?, given(x, 1)?, x.get(2).copied().flatten());
        let shape = [&[l.n, l.groups * l.c][..], &l.window.input()].concat();
        float_type!(x, T => {
            let b = b.map(Array::slice::<T>).transpose()?;
            Ok(vec![Array::from_vec(&shape, l.conv_transpose::<T>(x.slice()?, w.slice()?, b))?])
        })
    }
    fn vjp(&self, b: &mut Vjp) -> Result<()> {
        let Layout { groups, window, .. } = Self::layout(&b.view())?;
        let (x, w, dy) = (b.x(0)?, b.x(1)?, b.dy()?);
        if b.wants(0) {
            // dx = dy ⋆ w, over as much of dy as x reaches
            let reached = reached(b, dy, &window)?;
            let attrs = window.attrs().with("group", groups as i64);
            let dx = b.emit("Conv", &[reached, w], attrs)?;
            b.set_dx(0, dx);
        }
        if b.wants(1) {
            // dw[c, m, k] = Σ_{n, o} x[n, c, o] · dy[n, m, i(o, k)]
            conv_grad::set_weight_gradient(b, dy, x, &window, groups)?;
        }
        if b.wants(2) {
            // db[m] = Σ_{n, i} dy[n, m, i]
            b.set_along(2, dy, 1);
        }
        Ok(())
    }
    fn kernel(&self, n: &NodeView) -> Result<Kernel> {
        Self::layout(n)?.conv_transpose_kernel(n.optional(2).is_some())
    }
    fn cases(&self) -> Vec<Case> {
        let case = |name: &str, shapes: &[&[usize]]| Case::new(&format!("ConvTranspose {name}"), shapes);
        vec![
            case("plain", &[&[2, 3, 4, 5], &[3, 4, 3, 2]]),
            case("bias", &[&[2, 3, 4, 3], &[3, 2, 3, 3], &[2]]).attr("pads", vec![1, 1, 1, 1]),
            case("pointwise", &[&[2, 3, 4, 3], &[3, 5, 1, 1], &[5]]),
            case("strided", &[&[2, 2, 3, 4], &[2, 3, 3, 3]]).attr("strides", vec![3, 2]),
            case("output padding", &[&[1, 2, 3, 4], &[2, 3, 3, 3]])
                .attr("strides", vec![3, 2])
                .attr("output_padding", vec![2, 1]),
            // more output padding than strides: dy has elements that no window of x reaches
            case("much output padding", &[&[1, 2, 3, 4], &[2, 2, 2, 2]])
                .attr("dilations", vec![3, 3])
                .attr("output_padding", vec![2, 1]),
            case("dilated", &[&[1, 2, 4, 3], &[2, 3, 3, 2], &[3]]).attr("dilations", vec![2, 3]),
            case("asymmetric pads", &[&[2, 2, 4, 5], &[2, 3, 3, 3]])
                .attr("pads", vec![0, 2, 1, 1])
                .attr("strides", vec![2, 2]),
            case("everything", &[&[2, 4, 4, 3], &[4, 3, 3, 2], &[6]])
                .attr("group", 2)
                .attr("strides", vec![2, 3])
                .attr("dilations", vec![3, 2])
                .attr("pads", vec![2, 1, 0, 1])
                .attr("output_padding", vec![1, 2])
                .attr("kernel_shape", vec![3, 2]),
            case("output shape", &[&[1, 2, 3, 4], &[2, 2, 4, 3]])
                .attr("strides", vec![3, 2])
                .attr("output_shape", vec![7, 8]),
            case("output shape same upper", &[&[1, 2, 3, 4], &[2, 2, 4, 3]])
                .attr("strides", vec![3, 2])
                .attr("auto_pad", "SAME_UPPER")
                .attr("output_shape", vec![7, 8]),
            case("output shape beyond reach", &[&[1, 2, 3, 2], &[2, 2, 2, 2], &[2]]).attr("output_shape", vec![6, 3]),
            case("same upper", &[&[1, 2, 3, 4], &[2, 2, 4, 5]])
                .attr("auto_pad", "SAME_UPPER")
                .attr("strides", vec![3, 2]),
            case("same lower", &[&[1, 2, 3, 4], &[2, 2, 4, 5]])
                .attr("auto_pad", "SAME_LOWER")
                .attr("strides", vec![3, 2]),
            case("valid", &[&[1, 2, 3, 4], &[2, 2, 4, 3]]).attr("auto_pad", "VALID"),
            case("depthwise", &[&[2, 4, 5, 3], &[4, 1, 3, 3], &[4]]).attr("group", 4).attr("strides", vec![2, 1]),
            case("stride and dilation share a factor", &[&[1, 4, 4, 3], &[4, 5, 4, 3]])
                .attr("strides", vec![4, 2])
                .attr("dilations", vec![2, 4])
                .attr("pads", vec![1, 2, 3, 0]),
            // more remainders than the shader splits by
            case("large strides", &[&[2, 4, 3, 2], &[4, 3, 7, 6], &[6]])
                .attr("group", 2)
                .attr("strides", vec![6, 4])
                .attr("dilations", vec![3, 2])
                .attr("pads", vec![4, 3, 1, 2]),
            case("gaps", &[&[1, 2, 3, 2], &[2, 2, 1, 2]]).attr("strides", vec![3, 4]),
            case("pads beyond the kernel", &[&[1, 2, 6, 5], &[2, 2, 2, 2]]).attr("pads", vec![3, 2, 1, 1]),
            case("1-D", &[&[3, 2, 5], &[2, 4, 3], &[4]]).attr("pads", vec![1, 2]).attr("strides", vec![2]),
            case("3-D", &[&[1, 2, 3, 2, 3], &[2, 3, 2, 3, 2]])
                .attr("strides", vec![1, 2, 1])
                .attr("pads", vec![1, 0, 1, 0, 1, 0]),
            // 24 · 9 = 216 products an output
            case("larger", &[&[3, 24, 7, 6], &[24, 16, 3, 3], &[16]])
                .attr("strides", vec![2, 2])
                .attr("pads", vec![1, 1, 1, 1]),
        ]
    }
}

/// `dy` without the elements behind the last window, where these would make room for one more.
fn reached(b: &mut Vjp, dy: super::ValueId, window: &Window) -> Result<super::ValueId> {
    if window.axes.iter().all(|a| a.tail() > -(a.stride as i64)) {
        return Ok(dy);
    }
    let ends: Vec<i64> = window.axes.iter().map(|a| (a.input as i64 + a.tail()).min(a.input as i64)).collect();
    let axes: Vec<i64> = (2..).take(ends.len()).collect();
    let g = b.graph();
    let inputs = [dy, g.ints(&vec![0; ends.len()]), g.ints(&ends), g.ints(&axes)];
    b.emit("Slice", &inputs, Attrs::new())
}

pub(super) static OPS: &[&dyn Op] = &[&ConvTranspose];
