//! What takes the `p`-th root of a sum of `p`-th powers: <https://onnx.ai/onnx/operators/onnx__LpPool.html>,
//! GlobalLpPool and LpNormalization; and MeanVarianceNormalization, whose deviation is such a root too.

use super::composite::{Composite, Parts};
use super::conv::planes;
use super::window::{Window, kernel_shape};
use super::{Case, Op, Pen, Sampler, Spec};
use crate::error::{Error, Result};
use crate::graph::{Attr, ValueId};
use crate::tensor::Array;

/// Attribute `p`, 2 by default, a whole number from 1 on.
fn order(p: &Parts) -> Result<u32> {
    let n = p.view();
    let order = n.int("p", 2)?;
    u32::try_from(order).ok().filter(|&p| p > 0).ok_or_else(|| n.unsupported("p", order))
}

/// `|x|^order`
fn power(p: &mut Pen, x: ValueId, order: u32) -> Result<ValueId> {
    match order {
        1 => p.op("Abs", &[x]),
        2 => p.mul(x, x),
        even if even % 2 == 0 => {
            let square = p.mul(x, x)?;
            let half = p.scalar_like(f64::from(even / 2), x);
            p.op("Pow", &[square, half])
        }
        odd => {
            let size = p.op("Abs", &[x])?;
            let odd = p.scalar_like(f64::from(odd), x);
            p.op("Pow", &[size, odd])
        }
    }
}

/// `s^(1 / order)` for `s ≥ 0`. The slope is infinite at 0, where all that was summed is 0 and so has the derivative 0
/// here, as an absolute value has: a zero never turns into a NaN.
pub(super) fn root(p: &mut Pen, s: ValueId, order: u32) -> Result<ValueId> {
    if order == 1 {
        return Ok(s);
    }
    let (zero, one) = (p.scalar_like(0.0, s), p.scalar_like(1.0, s));
    let positive = p.op("Greater", &[s, zero])?;
    let safe = p.choose(positive, s, one)?;
    let root = if order == 2 {
        p.op("Sqrt", &[safe])?
    } else {
        let exponent = p.scalar_like(1.0 / f64::from(order), s);
        p.op("Pow", &[safe, exponent])?
    };
    p.choose(positive, root, zero)
}

/// Samplers for order `p`: for 1, away from the kink of the absolute value.
fn sampler() -> Sampler {
    Sampler { low: -2.0, high: 2.0, avoid: &[0.0], distinct: false }
}

/// `y = (Σ |x|^p)^(1 / p)` over a window; padding counts as 0.
static LP_POOL: Composite = Composite {
    spec: Spec::new("LpPool", 22, (1, 1)),
    write: |p| {
        let (x, order) = (p.x(0)?, order(p)?);
        let (window, channels) = {
            let n = p.view();
            let (_, channels, input) = planes(n.shape(0)?)?;
            (Window::sliding(&n, input, &kernel_shape(&n, input.len())?)?, channels)
        };
        let powers = power(p, x, order)?;
        // a sum over a window is a convolution with ones, each channel on its own
        let ones = Array::full_float(p.dtype(x), &[&[channels, 1], &window.kernel()[..]].concat(), 1.0);
        let ones = p.graph().constant(ones);
        let sums = p.emit("Conv", &[powers, ones], window.attrs().with("group", channels as i64))?;
        Ok(vec![Some(root(p, sums, order)?)])
    },
    cases: || {
        let case = |name: &str, shape: &[usize], kernel: &[i64]| {
            Case::new(&format!("LpPool {name}"), &[shape]).attr("kernel_shape", kernel).sampled(&sampler())
        };
        let mut cases = super::pool::pool_cases(case);
        cases.extend([
            case("order 1", &[2, 3, 5, 4], &[2, 3]).attr("p", 1).attr("strides", vec![2, 1]),
            // GPUs approximate powers
            case("order 3", &[2, 3, 5, 4], &[2, 3]).attr("p", 3).within(2e-5),
            case("order 4", &[2, 3, 5, 4], &[3, 2]).attr("p", 4).attr("pads", vec![1, 1, 0, 0]).within(2e-5),
        ]);
        cases
    },
};

/// `y = (Σ |x|^p)^(1 / p)` over all spatial axes, which stay as extents of 1.
static GLOBAL_LP_POOL: Composite = Composite {
    spec: Spec::new("GlobalLpPool", 22, (1, 1)),
    write: |p| {
        let (x, order) = (p.x(0)?, order(p)?);
        let shape = p.shape(x);
        planes(&shape)?;
        let powers = power(p, x, order)?;
        let spatial: Vec<usize> = (2..shape.len()).collect();
        let sums = p.reduce_sum(powers, &spatial, true)?;
        Ok(vec![Some(root(p, sums, order)?)])
    },
    cases: || {
        let case = |name: &str, shape: &[usize]| {
            Case::new(&format!("GlobalLpPool {name}"), &[shape]).sampled(&sampler()).within(2e-5) // GPUs' powers
        };
        vec![
            case("2-D", &[2, 3, 4, 5]),
            case("1-D, order 1", &[2, 3, 7]).attr("p", 1),
            case("3-D, order 3", &[1, 2, 3, 2, 4]).attr("p", 3),
        ]
    },
};

/// `y = x / (Σ |x|^p)^(1 / p)` along an axis, with p 1 or 2; 0 where all of x is.
static LP_NORMALIZATION: Composite = Composite {
    spec: Spec::new("LpNormalization", 22, (1, 1)),
    write: |p| {
        let (x, order) = (p.x(0)?, order(p)?);
        let axis = {
            let n = p.view();
            if order > 2 {
                return Err(n.unsupported("p", order));
            }
            n.axis(n.int("axis", -1)?, n.shape(0)?.len())?
        };
        let powers = power(p, x, order)?;
        let sums = p.reduce_sum(powers, &[axis], true)?;
        let norm = root(p, sums, order)?;
        let (zero, one) = (p.scalar_like(0.0, x), p.scalar_like(1.0, x));
        let positive = p.op("Greater", &[norm, zero])?;
        let divisor = p.choose(positive, norm, one)?;
        Ok(vec![Some(p.div(x, divisor)?)])
    },
    cases: || {
        let case =
            |name: &str, shape: &[usize]| Case::new(&format!("LpNormalization {name}"), &[shape]).sampled(&sampler());
        vec![
            case("rows", &[3, 5]),
            case("order 1", &[3, 5]).attr("p", 1),
            case("channels", &[2, 3, 4, 5]).attr("axis", 1),
            case("order 1, first axis", &[4, 3, 2]).attr("p", 1).attr("axis", -3),
        ]
    },
};

/// `y = (x − mean) / (deviation + 1e-9)` over `axes`, as ONNX's function for it has it.
static MEAN_VARIANCE: Composite = Composite {
    spec: Spec::new("MeanVarianceNormalization", 13, (1, 1)),
    write: |p| {
        let x = p.x(0)?;
        let axes: Vec<i64> = {
            let n = p.view();
            let given = n.ints("axes")?.unwrap_or(&[0, 2, 3]);
            n.axes(given, n.shape(0)?.len())?.into_iter().map(|a| a as i64).collect()
        };
        if axes.is_empty() || p.shape(x).contains(&0) {
            return Err(Error::unsupported(format!("the mean of {:?} over axes {axes:?}", p.shape(x))));
        }
        let axes = p.graph().ints(&axes);
        let mean = p.op("ReduceMean", &[x, axes])?;
        let centered = p.sub(x, mean)?;
        let squares = p.mul(centered, centered)?;
        let var = p.op("ReduceMean", &[squares, axes])?;
        let deviation = root(p, var, 2)?;
        let divisor = p.shift(deviation, 1e-9)?;
        Ok(vec![Some(p.div(centered, divisor)?)])
    },
    cases: || {
        let case = |name: &str, shape: &[usize]| Case::new(&format!("MeanVarianceNormalization {name}"), &[shape]);
        vec![
            case("images", &[2, 3, 4, 5]),
            case("one image at a time", &[2, 3, 4, 5]).attr("axes", vec![-1, 1, 2]),
            case("rows", &[3, 6]).attr("axes", Attr::Ints(vec![1])),
        ]
    },
};

pub(super) static OPS: &[&dyn Op] = &[&LP_POOL, &GLOBAL_LP_POOL, &LP_NORMALIZATION, &MEAN_VARIANCE];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autodiff::{Samples, backward};
    use crate::engine::{Engine, Tensor, cpu::Cpu};
    use crate::graph::{Attrs, Batch, Graph};
    use crate::tensor::{DType, TensorType};

    #[test]
    fn zeros_have_finite_gradients() -> Result<()> {
        for (op, shape) in [
            ("LpPool", &[1, 1, 4][..]),
            ("GlobalLpPool", &[1, 1, 4]),
            ("LpNormalization", &[1, 4]),
            ("MeanVarianceNormalization", &[1, 4]),
        ] {
            let mut g = Graph::new(0);
            let x = g.input("x", TensorType::new(DType::F32, shape), Batch::None);
            let attrs = match op {
                "LpPool" => Attrs::new().with("kernel_shape", vec![2]),
                "MeanVarianceNormalization" => Attrs::new().with("axes", vec![1]),
                _ => Attrs::new(),
            };
            let y = g.push(op, &[x], attrs)?;
            let seed = g.constant(Array::full(g.shape(y), 1.0f32));
            let dx = backward(&mut g, &[(y, seed)], &[x], Samples::Summed)?;
            g.outputs = vec![y, dx[0].ok_or_else(|| Error::internal("no gradient"))?];
            let out = Cpu.prepare(&g)?.run(&[Tensor::from(Array::full(shape, 0.0f32))])?;
            for v in &out {
                assert!(v.to_array()?.to_f64().iter().all(|v| v.is_finite()), "{op}: {:?}", v.to_array()?);
            }
        }
        Ok(())
    }
}
