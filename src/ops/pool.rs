//! Pooling: <https://onnx.ai/onnx/operators/onnx__AveragePool.html> and its neighbours; the greatest elements are found in
//! `max_pool.rs`.

use super::conv::planes;
use super::correlate_gpu::window_params;
use super::linalg::Real;
use super::max_pool::{max, max_pool_grad};
use super::support::{float_type, given};
use super::window::{Window, kernel_shape, sized};
use super::{Bind, Case, Kernel, NodeView, Op, Params, Sampler, Spec, Step, Vjp, find, grid_1d};
use crate::error::{Error, Result};
use crate::graph::{Attr, Attrs, Batch, Graph, OPSET, ValueId, batch};
use crate::tensor::{Array, TensorType};
use rayon::prelude::*;

/// The window of a pool, and the number of planes (batch · channels) it slides over.
pub(super) fn window(n: &NodeView) -> Result<(Window, usize)> {
    let (rows, channels, input) = planes(n.shape(0)?)?;
    let w = Window::sliding(n, input, &kernel_shape(n, input.len())?)?;
    if w.has_blind_position() {
        return Err(Error::unsupported(format!(
            "attribute pads = {:?}: a window lies wholly in the padding",
            n.ints("pads")?
        )));
    }
    Ok((w, rows * channels))
}

/// The numbers that `shaders/pool.wgsl` makes of a window.
pub(super) const MAX: u8 = 0;
pub(super) const PLACE: u8 = 1;
const MEAN: u8 = 2;

/// The step that writes one of them to output `output`.
pub(super) fn step(n: &NodeView, w: &Window, planes: usize, op: u8, pads: bool, output: usize) -> Result<Step> {
    let axes = w.three()?;
    let len = planes * w.positions();
    let int = !n.dtype(0)?.is_float();
    Ok(Step {
        shader: crate::shader!("pool"),
        overrides: vec![
            ("OP", f64::from(op)),
            ("COUNT_PADS", f64::from(u8::from(pads))),
            ("INT", f64::from(u8::from(int))),
        ],
        binds: vec![Bind::Input(0), Bind::Output(output)],
        params: window_params(Params::new().u("elements", len), &axes).list::<3>("end", &axes.map(|a| a.end), 0),
        grid: grid_1d(len),
    })
}

/// Batch and channels of `x` with other spatial axes.
pub(super) fn with_spatial(n: &NodeView, spatial: &[usize]) -> Result<Vec<usize>> {
    let (rows, channels, _) = planes(n.shape(0)?)?;
    Ok([&[rows, channels], spatial].concat())
}

/// `y` = mean over a window; padding counts as zeros if `count_include_pad`, and not at all otherwise.
struct AveragePool;

impl AveragePool {
    /// The number of elements that every position divides by.
    fn counts(n: &NodeView, w: &Window) -> Result<Vec<usize>> {
        let pads = n.int("count_include_pad", 0)? != 0;
        Ok(w.axes.iter().fold(vec![1], |outer, a| {
            let along: Vec<usize> = (0..a.output).map(|o| if pads { a.padded(o) } else { a.seen(o).len() }).collect();
            outer.iter().flat_map(|o| along.iter().map(move |c| o * c)).collect()
        }))
    }
}

fn average<T: Real + std::ops::Div<Output = T>>(w: &Window, counts: &[usize], x: &[T]) -> Vec<T> {
    let (inputs, len) = (w.inputs(), w.positions());
    let counts: Vec<T> = counts.iter().map(|&c| T::from_f64(c as f64)).collect();
    let mut y = vec![T::ZERO; x.len() / inputs * len];
    y.par_chunks_mut(len).zip(x.par_chunks(inputs)).for_each(|(y, x)| {
        for tap in 0..w.taps() {
            w.runs(tap, 0..w.rows().1, |r| {
                let x = x[r.input..].iter().step_by(w.step());
                y[r.out..][..r.len].iter_mut().zip(x).for_each(|(y, &x)| *y += x);
            });
        }
        y.iter_mut().zip(&counts).for_each(|(y, &c)| *y = *y / c);
    });
    y
}

impl Op for AveragePool {
    fn spec(&self) -> Spec {
        Spec::new("AveragePool", 22, (1, 1))
    }
    fn infer(&self, n: &NodeView) -> Result<Vec<TensorType>> {
        if !n.dtype(0)?.is_float() {
            return Err(Error::unsupported(format!("the mean of {}", n.dtype(0)?)));
        }
        Ok(vec![sized(n.dtype(0)?, with_spatial(n, &window(n)?.0.output())?)?])
    }
    fn batch(&self, _: &NodeView, from: &[Batch], _: usize, _: &[TensorType]) -> Vec<Batch> {
        vec![batch::leading(from)]
    }
    fn eval(&self, n: &NodeView, x: &[Option<&Array>]) -> Result<Vec<Array>> {
        let (w, _) = window(n)?;
        let shape = with_spatial(n, &w.output())?;
        let counts = Self::counts(n, &w)?;
        let x = given(x, 0)?;
        float_type!(x, T => Ok(vec![Array::from_vec(&shape, average::<T>(&w, &counts, x.slice()?))?]))
    }
    fn vjp(&self, b: &mut Vjp) -> Result<()> {
        // dx = (dy / count) ⋆ᵀ 1, each channel on its own
        let (x, dy) = (b.x(0)?, b.dy()?);
        let (w, counts) = {
            let n = b.view();
            let (w, _) = window(&n)?;
            let counts = Self::counts(&n, &w)?;
            (w, counts)
        };
        let (dtype, channels) = (b.dtype(dy), b.shape(x)[1]);
        let inverse: Vec<f64> = counts.iter().map(|&c| 1.0 / c as f64).collect();
        let share = if inverse.iter().all(|&i| i == inverse[0]) {
            b.scale(dy, inverse[0])?
        } else {
            let map = Array::from_vec(&w.output(), inverse)?.to_float(dtype);
            let map = b.graph().constant(map);
            b.mul(dy, map)?
        };
        let ones = Array::full_float(dtype, &[&[channels, 1], &w.kernel()[..]].concat(), 1.0);
        let ones = b.graph().constant(ones);
        let dx = b.emit("ConvTranspose", &[share, ones], w.transposed_attrs().with("group", channels as i64))?;
        b.set_dx(0, dx);
        Ok(())
    }
    fn kernel(&self, n: &NodeView) -> Result<Kernel> {
        let (w, planes) = window(n)?;
        let pads = n.int("count_include_pad", 0)? != 0;
        Ok(Kernel::one(step(n, &w, planes, MEAN, pads, 0)?))
    }
    fn cases(&self) -> Vec<Case> {
        let case = |name: &str, shape: &[usize], kernel: &[i64]| {
            Case::new(&format!("AveragePool {name}"), &[shape]).attr("kernel_shape", kernel)
        };
        let with_pads = |name: &str, shape: &[usize], kernel: &[i64]| {
            case(&format!("{name} counting pads"), shape, kernel).attr("count_include_pad", 1)
        };
        [pool_cases(case), pool_cases(with_pads)].concat()
    }
    fn opset(&self, n: &NodeView) -> i64 {
        // which also says that padding counts no further than declared, whatever ceil_mode adds
        let counted = ["ceil_mode", "count_include_pad"].iter().all(|a| !matches!(n.int(a, 0), Ok(0)));
        if n.attrs.get("dilations").is_some() || counted { 19 } else { OPSET }
    }
    fn import(
        &self,
        g: &mut Graph,
        opset: i64,
        inputs: &[Option<ValueId>],
        attrs: Attrs,
        wanted: &[bool],
    ) -> Result<Vec<Option<ValueId>>> {
        if let (Some(Attr::Ints(d)), true) = (attrs.get("dilations"), opset < 19) {
            return Err(Error::format(format!(
                "attribute dilations = {d:?} came with opset 19, this is opset {opset}"
            )));
        }
        g.push_multi(&Self, inputs, attrs, wanted)
    }
}

/// Cases that every pool has, where `case` makes one of a name, the shape of x and a kernel.
pub(super) fn pool_cases(case: impl Fn(&str, &[usize], &[i64]) -> Case) -> Vec<Case> {
    vec![
        case("plain", &[2, 3, 6, 4], &[2, 2]).attr("strides", vec![2, 2]),
        case("overlapping", &[2, 2, 5, 6], &[3, 2]),
        case("pads", &[1, 2, 6, 5], &[3, 3]).attr("strides", vec![2, 2]).attr("pads", vec![1, 0, 1, 2]),
        case("dilated", &[1, 2, 7, 8], &[2, 3]).attr("dilations", vec![3, 2]).attr("pads", vec![1, 1, 1, 0]),
        case("remainder", &[1, 2, 8, 7], &[2, 3]).attr("strides", vec![3, 2]),
        case("ceil", &[1, 2, 8, 6], &[3, 3]).attr("strides", vec![2, 2]).attr("ceil_mode", 1),
        case("ceil with pads", &[1, 2, 6, 7], &[3, 2])
            .attr("strides", vec![2, 3])
            .attr("pads", vec![1, 0, 1, 1])
            .attr("ceil_mode", 1),
        // without the rule a last window would start in the padding
        case("ceil dropping a window", &[1, 1, 4, 5], &[1, 2])
            .attr("strides", vec![2, 3])
            .attr("pads", vec![0, 1, 0, 1])
            .attr("ceil_mode", 1),
        case("same upper", &[1, 2, 7, 6], &[4, 3]).attr("auto_pad", "SAME_UPPER").attr("strides", vec![2, 1]),
        case("same lower", &[1, 2, 7, 6], &[4, 3]).attr("auto_pad", "SAME_LOWER").attr("strides", vec![2, 1]),
        case("valid", &[1, 2, 7, 6], &[3, 4]).attr("auto_pad", "VALID").attr("strides", vec![2, 1]),
        case("1-D", &[2, 3, 9], &[3]).attr("strides", vec![2]).attr("pads", vec![1, 1]),
        case("3-D", &[1, 2, 4, 3, 5], &[2, 3, 2]).attr("strides", vec![2, 1, 1]),
    ]
}

/// `y` = mean, or greatest element, over all spatial axes, which stay as extents of 1.
struct Global {
    name: &'static str,
    /// Where the greatest element is wanted.
    max: bool,
}

impl Global {
    fn window(n: &NodeView) -> Result<Window> {
        Window::global(planes(n.shape(0)?)?.2)
    }
}

impl Op for Global {
    fn spec(&self) -> Spec {
        Spec::new(self.name, 22, (1, 1))
    }
    fn infer(&self, n: &NodeView) -> Result<Vec<TensorType>> {
        if !n.dtype(0)?.is_float() {
            return Err(Error::unsupported(format!("elements of type {}", n.dtype(0)?)));
        }
        Ok(vec![TensorType::new(n.dtype(0)?, with_spatial(n, &Self::window(n)?.output())?)])
    }
    fn batch(&self, _: &NodeView, from: &[Batch], _: usize, _: &[TensorType]) -> Vec<Batch> {
        vec![batch::leading(from)]
    }
    fn eval(&self, n: &NodeView, x: &[Option<&Array>]) -> Result<Vec<Array>> {
        let w = Self::window(n)?;
        let shape = with_spatial(n, &w.output())?;
        let x = given(x, 0)?;
        float_type!(x, T => {
            let x = x.slice::<T>()?;
            let y = if self.max {
                max(&w, x).0
            } else {
                let count = T::from_f64(w.inputs() as f64);
                x.par_chunks(w.inputs()).map(|x| x.iter().copied().sum::<T>() / count).collect()
            };
            Ok(vec![Array::from_vec(&shape, y)?])
        })
    }
    fn vjp(&self, b: &mut Vjp) -> Result<()> {
        let (x, dy) = (b.x(0)?, b.dy()?);
        let w = Self::window(&b.view())?;
        let dx = if self.max {
            // as MaxPool over everything
            let pool = b.graph().push_multi(find("MaxPool")?, &[Some(x)], w.attrs(), &[false, true])?;
            let at = pool.get(1).copied().flatten().ok_or_else(|| Error::internal("MaxPool gave no indices"))?;
            max_pool_grad(b, x, dy, at, &w)?
        } else {
            // dx = dy / count, stretched over the spatial axes
            b.scale(dy, 1.0 / w.inputs() as f64)?
        };
        b.set_dx(0, dx);
        Ok(())
    }
    fn kernel(&self, n: &NodeView) -> Result<Kernel> {
        let (rows, channels, _) = planes(n.shape(0)?)?;
        let op = if self.max { MAX } else { MEAN };
        Ok(Kernel::one(step(n, &Self::window(n)?, rows * channels, op, false, 0)?))
    }
    fn cases(&self) -> Vec<Case> {
        let case = |name: &str, shape: &[usize]| {
            let apart = Sampler { low: -2.0, high: 2.0, avoid: &[], distinct: true };
            Case::new(&format!("{} {name}", self.name), &[shape]).sampled(&apart)
        };
        vec![
            case("2-D", &[2, 3, 4, 5]),
            case("1-D", &[2, 3, 7]),
            case("3-D", &[1, 2, 3, 2, 4]),
            case("single", &[3, 2, 1, 1]),
        ]
    }
}

static GLOBAL_AVERAGE_POOL: Global = Global { name: "GlobalAveragePool", max: false };
static GLOBAL_MAX_POOL: Global = Global { name: "GlobalMaxPool", max: true };

pub(super) static OPS: &[&dyn Op] = &[&AveragePool, &GLOBAL_AVERAGE_POOL, &GLOBAL_MAX_POOL];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::DType;

    fn import(op: &str, opset: i64, attrs: Attrs) -> Result<Graph> {
        let mut g = Graph::new(0);
        let x = g.input("x", TensorType::new(DType::F32, [1, 1, 5, 6]), Batch::None);
        let y = find(op)?.import(&mut g, opset, &[Some(x)], attrs, &[true])?;
        g.outputs = y.into_iter().flatten().collect();
        Ok(g)
    }

    #[test]
    fn old_forms() -> Result<()> {
        let window = || Attrs::new().with("kernel_shape", vec![2, 2]);
        // MaxPool-1 has neither storage_order nor ceil_mode nor dilations
        assert_eq!(import("MaxPool", 7, window())?.shape(import("MaxPool", 7, window())?.outputs[0]), [1, 1, 4, 5]);
        let columns = import("MaxPool", 8, window().with("storage_order", 1))?;
        assert_eq!(columns.nodes()[0].attrs.get("storage_order"), None);
        assert_eq!(columns.nodes().len(), 1);
        let dilated = || window().with("dilations", vec![2, 1]);
        assert_eq!(import("AveragePool", 19, dilated())?.nodes()[0].op.spec().name, "AveragePool");
        let refused = import("AveragePool", 11, dilated()).err().map(|e| e.to_string());
        assert!(refused.is_some_and(|e| e.contains("dilations = [2, 1] came with opset 19")));
        Ok(())
    }
}
