//! Convolution: <https://onnx.ai/onnx/operators/onnx__Conv.html>.

use super::correlate::Layout;
use super::support::{float_type, given};
use super::window::{Window, sized};
use super::{Case, Kernel, NodeView, Op, Spec, Vjp, conv_grad};
use crate::error::{Error, Result};
use crate::graph::{Batch, batch};
use crate::tensor::{Array, TensorType};

/// `y = x ⋆ w + b`: x `[n, C, …]`, w `[M, C / group, …]`, b `[M]`, y `[n, M, …]`.
pub(super) struct Conv;

/// Attribute `group`, which has to divide all of `channels`.
pub(super) fn groups(n: &NodeView, channels: &[usize]) -> Result<usize> {
    let group = n.int("group", 1)?;
    usize::try_from(group)
        .ok()
        .filter(|&g| g > 0 && channels.iter().all(|c| c % g == 0))
        .ok_or_else(|| Error::format(format!("attribute group = {group} does not divide the channels {channels:?}")))
}

/// Batch, channels and spatial extents of a shape that has all of them.
pub(super) fn planes(shape: &[usize]) -> Result<(usize, usize, &[usize])> {
    match shape {
        [n, c, spatial @ ..] if !spatial.is_empty() => Ok((*n, *c, spatial)),
        _ => Err(Error::format(format!("a tensor of shape {shape:?} has no batch, channels and spatial axes"))),
    }
}

/// Checks an optional bias vector of `m` entries.
pub(super) fn check_bias(n: &NodeView, i: usize, m: usize) -> Result<()> {
    match n.optional(i) {
        Some(b) if b.shape != [m] || b.dtype != n.dtype(0)? => {
            Err(Error::format(format!("the bias is {b}, {}[{m}] is needed", n.dtype(0)?)))
        }
        _ => Ok(()),
    }
}

/// Checks that inputs 0 and 1 are of the same float type.
pub(super) fn check_floats(n: &NodeView) -> Result<()> {
    let (x, w) = (n.dtype(0)?, n.dtype(1)?);
    if x != w || !x.is_float() {
        return Err(Error::format(format!("operands are {x} and {w}")));
    }
    Ok(())
}

impl Conv {
    fn layout(n: &NodeView) -> Result<Layout> {
        let (rows, channels, input) = planes(n.shape(0)?)?;
        let (m, c, kernel) = planes(n.shape(1)?)?;
        let groups = groups(n, &[channels, m])?;
        if kernel.len() != input.len() || c * groups != channels {
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
        Ok(Layout { n: rows, groups, c, m: m / groups, window: Window::sliding(n, input, kernel)? })
    }
}

impl Op for Conv {
    fn spec(&self) -> Spec {
        Spec::new("Conv", 22, (2, 3))
    }
    fn infer(&self, n: &NodeView) -> Result<Vec<TensorType>> {
        check_floats(n)?;
        let l = Self::layout(n)?;
        check_bias(n, 2, l.groups * l.m)?;
        Ok(vec![sized(n.dtype(0)?, [&[l.n, l.groups * l.m][..], &l.window.output()].concat())?])
    }
    fn batch(&self, _: &NodeView, from: &[Batch], _: usize, _: &[TensorType]) -> Vec<Batch> {
        vec![batch::leading(from)]
    }
    fn eval(&self, n: &NodeView, x: &[Option<&Array>]) -> Result<Vec<Array>> {
        let l = Self::layout(n)?;
        let (x, w, b) = (given(x, 0)?, given(x, 1)?, x.get(2).copied().flatten());
        let shape = [&[l.n, l.groups * l.m][..], &l.window.output()].concat();
        float_type!(x, T => {
            let b = b.map(Array::slice::<T>).transpose()?;
            Ok(vec![Array::from_vec(&shape, l.conv::<T>(x.slice()?, w.slice()?, b))?])
        })
    }
    fn vjp(&self, b: &mut Vjp) -> Result<()> {
        let Layout { groups, window, .. } = Self::layout(&b.view())?;
        let (x, w, dy) = (b.x(0)?, b.x(1)?, b.dy()?);
        if b.wants(0) {
            // dx = dy ⋆ᵀ w
            let attrs = window.transposed_attrs().with("group", groups as i64);
            let dx = b.emit("ConvTranspose", &[dy, w], attrs)?;
            b.set_dx(0, dx);
        }
        if b.wants(1) {
            // dw[m, c, k] = Σ_{n, o} dy[n, m, o] · x[n, c, i(o, k)]
            conv_grad::set_weight_gradient(b, x, dy, &window, groups)?;
        }
        if b.wants(2) {
            // db[m] = Σ_{n, o} dy[n, m, o]
            b.set_along(2, dy, 1);
        }
        Ok(())
    }
    fn kernel(&self, n: &NodeView) -> Result<Kernel> {
        Self::layout(n)?.conv_kernel(n.optional(2).is_some())
    }
    fn cases(&self) -> Vec<Case> {
        let case = |name: &str, shapes: &[&[usize]]| Case::new(&format!("Conv {name}"), shapes);
        vec![
            case("plain", &[&[2, 3, 5, 6], &[4, 3, 3, 2]]),
            case("bias", &[&[2, 3, 5, 4], &[2, 3, 3, 3], &[2]]).attr("pads", vec![1, 1, 1, 1]),
            case("pointwise", &[&[3, 5, 4, 3], &[7, 5, 1, 1], &[7]]),
            case("pointwise strided", &[&[2, 4, 5, 4], &[3, 4, 1, 1]]).attr("strides", vec![2, 2]),
            case("strided with remainder", &[&[2, 2, 8, 6], &[3, 2, 3, 3]]).attr("strides", vec![3, 2]),
            case("dilated", &[&[1, 2, 9, 8], &[3, 2, 3, 2], &[3]]).attr("dilations", vec![2, 3]),
            case("asymmetric pads", &[&[2, 2, 4, 5], &[3, 2, 3, 3]]).attr("pads", vec![0, 2, 1, 1]),
            case("everything", &[&[2, 4, 9, 8], &[6, 2, 3, 2], &[6]])
                .attr("group", 2)
                .attr("strides", vec![2, 3])
                .attr("dilations", vec![3, 2])
                .attr("pads", vec![2, 1, 0, 3])
                .attr("kernel_shape", vec![3, 2]),
            case("same upper", &[&[1, 2, 7, 6], &[2, 2, 4, 3]])
                .attr("auto_pad", "SAME_UPPER")
                .attr("strides", vec![2, 1]),
            case("same lower", &[&[1, 2, 7, 6], &[2, 2, 4, 3]])
                .attr("auto_pad", "SAME_LOWER")
                .attr("strides", vec![2, 1]),
            case("valid", &[&[1, 2, 7, 6], &[2, 2, 4, 3]]).attr("auto_pad", "VALID").attr("strides", vec![2, 2]),
            case("groups", &[&[2, 6, 4, 5], &[9, 2, 2, 3]]).attr("group", 3),
            case("depthwise", &[&[2, 4, 6, 5], &[4, 1, 3, 3], &[4]]).attr("group", 4).attr("pads", vec![1, 1, 1, 1]),
            case("depthwise multiplier", &[&[2, 3, 7, 6], &[6, 1, 3, 2]]).attr("group", 3).attr("strides", vec![2, 2]),
            case("1-D", &[&[3, 2, 9], &[4, 2, 3], &[4]]).attr("pads", vec![1, 2]).attr("strides", vec![2]),
            case("1-D dilated groups", &[&[2, 4, 11], &[4, 2, 3]]).attr("group", 2).attr("dilations", vec![3]),
            case("3-D", &[&[1, 2, 4, 5, 3], &[3, 2, 2, 3, 2]])
                .attr("pads", vec![1, 0, 1, 0, 1, 0])
                .attr("strides", vec![1, 2, 1]),
            case("wide pads", &[&[1, 1, 2, 3], &[2, 1, 2, 2]]).attr("pads", vec![3, 2, 2, 3]),
            // 16 · 9 = 144 products an output, the weight gradient sums 3 · 12 · 11 = 396
            case("larger", &[&[3, 16, 12, 11], &[24, 16, 3, 3], &[24]]).attr("pads", vec![1, 1, 1, 1]),
        ]
    }
}

pub(super) static OPS: &[&dyn Op] = &[&Conv];

#[cfg(test)]
mod tests {
    use crate::graph::{Attrs, Batch, Graph};
    use crate::tensor::{DType, TensorType};

    fn message(shapes: [&[usize]; 2], attrs: Attrs) -> String {
        let mut g = Graph::new(0);
        let ids = shapes.map(|s| g.input("x", TensorType::new(DType::F32, s), Batch::None));
        g.push("Conv", &ids, attrs).map_or_else(|e| e.to_string(), |_| String::new())
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let shapes: [&[usize]; 2] = [&[1, 4, 5, 5], &[6, 2, 3, 3]];
        let has = |attrs: Attrs, part: &str| {
            let text = message(shapes, attrs);
            assert!(text.contains(part), "{text:?} does not say {part:?}");
        };
        has(Attrs::new(), "do not fit an input of shape [1, 4, 5, 5] in 1 groups");
        let two = || Attrs::new().with("group", 2);
        assert_eq!(message(shapes, two()), "");
        has(Attrs::new().with("group", 0), "attribute group = 0");
        has(two().with("group", 3), "attribute group = 3");
        has(two().with("pads", vec![1, -1, 0, 0]), "attribute pads = [1, -1, 0, 0]");
        has(two().with("pads", vec![1, 1]), "attribute pads = [1, 1]");
        has(two().with("strides", vec![0, 1]), "attribute strides = [0, 1]");
        has(two().with("dilations", vec![3, 1]), "a window of 7 elements does not fit 5");
        has(two().with("dilations", vec![i64::MAX, 1]), "attribute dilations");
        has(two().with("auto_pad", "SAME"), "attribute auto_pad = \"SAME\"");
        has(two().with("kernel_shape", vec![5, 3]), "attribute kernel_shape");
        assert!(message([&[1, 4], &[6, 4]], Attrs::new()).contains("no batch, channels and spatial axes"));
    }
}
