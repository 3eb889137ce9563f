//! Activations: <https://onnx.ai/onnx/operators/>. Those of one pass have a branch in `shaders/unary.wgsl`,
//! the others are made of other ops.

use super::composite::Composite;
use super::unary::{Unary, f, unary};
use super::{Case, Op, Sampler, Spec, Vjp};
use crate::error::Result;
use crate::graph::ValueId;

/// `factor · dy` where `low < v < high`, 0 elsewhere.
pub(super) fn inside(b: &mut Vjp, v: ValueId, dy: ValueId, low: f64, high: f64, factor: f64) -> Result<ValueId> {
    let (low, high) = (b.scalar_like(low, v), b.scalar_like(high, v));
    let above = b.op("Greater", &[v, low])?;
    let below = b.op("Less", &[v, high])?;
    let mask = b.op("And", &[above, below])?;
    let scaled = if factor == 1.0 { dy } else { b.scale(dy, factor)? };
    let zero = b.scalar_like(0.0, dy);
    b.choose(mask, scaled, zero)
}

static HARD_SIGMOID: Unary = unary("HardSigmoid", 22, 9, f!(|x, a, b| (a * x + b).clamp(0.0, 1.0)), |b| {
    // dx = alpha · dy where 0 < y < 1
    let alpha = b.view().float("alpha", 0.2)?;
    let (y, dy) = (b.y(0)?, b.dy()?);
    inside(b, y, dy, 0.0, 1.0, alpha)
})
.params(&[("alpha", 0.2), ("beta", 0.5)])
.sampled(-6.0, 6.0, &[-2.5, 2.5, -1.0 / 1.4, 0.75 / 0.35]);

static SOFTPLUS: Unary = unary("Softplus", 22, 12, f!(|x| x.max(0.0) + (-x.abs()).exp().ln_1p()), |b| {
    // dx = dy · sigmoid(x)
    let (x, dy) = (b.x(0)?, b.dy()?);
    let slope = b.op("Sigmoid", &[x])?;
    b.mul(dy, slope)
})
.tolerance(2e-5); // GPUs approximate ln

static HARD_SWISH: Unary = unary("HardSwish", 22, 10, f!(|x| x * (x / 6.0 + 0.5).clamp(0.0, 1.0)), |b| {
    // dx = dy · (x/3 + 1/2) where −3 < x < 3, dy where x ≥ 3, 0 where x ≤ −3
    let (x, dy) = (b.x(0)?, b.dy()?);
    let third = b.scale(x, 1.0 / 3.0)?;
    let slope = b.shift(third, 0.5)?;
    let middle = b.mul(dy, slope)?;
    let (low, high, zero) = (b.scalar_like(-3.0, x), b.scalar_like(3.0, x), b.scalar_like(0.0, x));
    let above = b.op("Greater", &[x, low])?;
    let below = b.op("Less", &[x, high])?;
    let upper = b.choose(below, middle, dy)?;
    b.choose(above, upper, zero)
})
.sampled(-5.0, 5.0, &[-3.0, 3.0]);

/// `dy` where `x > edge`, `dy · slope` elsewhere.
fn kinked(b: &mut Vjp, edge: f64, slope: ValueId) -> Result<ValueId> {
    let (x, dy) = (b.x(0)?, b.dy()?);
    let edge = b.scalar_like(edge, x);
    let mask = b.op("Greater", &[x, edge])?;
    let below = b.mul(dy, slope)?;
    b.choose(mask, dy, below)
}

static ELU: Unary = unary("Elu", 22, 30, f!(|x, a, _b| if x > 0.0 { x } else { a * x.exp_m1() }), |b| {
    // dx = dy where x > 0, dy · alpha · exp(x) elsewhere
    let (x, alpha) = (b.x(0)?, b.view().float("alpha", 1.0)?);
    let bell = b.op("Exp", &[x])?;
    let slope = b.scale(bell, alpha)?;
    kinked(b, 0.0, slope)
})
.params(&[("alpha", 1.0)])
.sampled(-3.0, 3.0, &[0.0]);

/// The f32 that ONNX gives as defaults.
const SELU_ALPHA: f32 = 1.673_263_2;
const SELU_GAMMA: f32 = 1.050_701;

static SELU: Unary = unary("Selu", 22, 31, f!(|x, a, b| b * if x > 0.0 { x } else { a * x.exp_m1() }), |b| {
    // dx = gamma · (dy where x > 0, dy · alpha · exp(x) elsewhere)
    let alpha = b.view().float("alpha", SELU_ALPHA)?;
    let (x, gamma) = (b.x(0)?, b.view().float("gamma", SELU_GAMMA)?);
    let bell = b.op("Exp", &[x])?;
    let slope = b.scale(bell, alpha)?;
    let dx = kinked(b, 0.0, slope)?;
    b.scale(dx, gamma)
})
.params(&[("alpha", SELU_ALPHA), ("gamma", SELU_GAMMA)])
.sampled(-3.0, 3.0, &[0.0]);

static CELU: Unary = unary("Celu", 12, 32, f!(|x, a, _b| x.max(0.0) + (a * (x / a).exp_m1()).min(0.0)), |b| {
    // dx = dy where x > 0, dy · exp(x / alpha) elsewhere
    let (x, alpha) = (b.x(0)?, b.view().float("alpha", 1.0)?);
    let scaled = b.scale(x, 1.0 / alpha)?;
    let slope = b.op("Exp", &[scaled])?;
    kinked(b, 0.0, slope)
})
.params(&[("alpha", 1.0)])
.sampled(-3.0, 3.0, &[0.0]);

static THRESHOLDED_RELU: Unary = unary("ThresholdedRelu", 22, 33, f!(|x, a, _b| if x > a { x } else { 0.0 }), |b| {
    // dx = dy where x > alpha, 0 elsewhere
    let (alpha, zero) = (b.view().float("alpha", 1.0)?, b.dy()?);
    let zero = b.scalar_like(0.0, zero);
    kinked(b, alpha, zero)
})
.params(&[("alpha", 1.0)])
.sampled(-3.0, 3.0, &[1.0, 0.35]);

static SOFTSIGN: Unary = unary("Softsign", 22, 34, f!(|x| x / (1.0 + x.abs())), |b| {
    // dx = dy / (1 + |x|)²
    let (x, dy) = (b.x(0)?, b.dy()?);
    let size = b.op("Abs", &[x])?;
    let below = b.shift(size, 1.0)?;
    let squared = b.mul(below, below)?;
    b.div(dy, squared)
})
.sampled(-3.0, 3.0, &[0.0]);

/// <https://onnx.ai/onnx/operators/onnx__Swish.html>: `y = x · sigmoid(alpha · x)`
static SWISH: Composite = Composite {
    spec: Spec::new("Swish", 24, (1, 1)),
    write: |p| {
        let (x, alpha) = (p.x(0)?, p.view().float("alpha", 1.0)?);
        let scaled = if alpha == 1.0 { x } else { p.scale(x, alpha)? };
        let gate = p.op("Sigmoid", &[scaled])?;
        Ok(vec![Some(p.mul(x, gate)?)])
    },
    cases: || vec![Case::new("Swish", &[&[3, 5]]), Case::new("Swish alpha", &[&[2, 3, 4]]).attr("alpha", 1.7f32)],
};

/// <https://onnx.ai/onnx/operators/onnx__Gelu.html>: `y = x · (1 + erf(x / √2)) / 2`, or with
/// `tanh(√(2/π) · (x + 0.044715 · x³))` in place of erf
static GELU: Composite = Composite {
    spec: Spec::new("Gelu", 20, (1, 1)),
    write: |p| {
        let x = p.x(0)?;
        let half = p.scale(x, 0.5)?;
        let curve = match p.view().string("approximate", "none")? {
            "none" => {
                let scaled = p.scale(x, std::f64::consts::FRAC_1_SQRT_2)?;
                p.op("Erf", &[scaled])?
            }
            "tanh" => {
                // x + c · x³ = x · (1 + c · x²)
                let xx = p.mul(x, x)?;
                let cubic = p.scale(xx, 0.044715)?;
                let factor = p.shift(cubic, 1.0)?;
                let bent = p.mul(x, factor)?;
                let scaled = p.scale(bent, (2.0 / std::f64::consts::PI).sqrt())?;
                p.op("Tanh", &[scaled])?
            }
            other => return Err(p.view().unsupported("approximate", other)),
        };
        let gate = p.shift(curve, 1.0)?;
        Ok(vec![Some(p.mul(half, gate)?)])
    },
    cases: || {
        let wide = Sampler::within(-6.0, 6.0);
        let case = |name: &str, shape: &[usize]| Case::new(&format!("Gelu {name}"), &[shape]).sampled(&wide);
        vec![
            case("matrix", &[5, 7]),
            case("scalar", &[]),
            case("tanh", &[2, 3, 4]).attr("approximate", "tanh"),
            case("none", &[4]).attr("approximate", "none"),
        ]
    },
};

/// <https://onnx.ai/onnx/operators/onnx__Mish.html>: `y = x · tanh(softplus(x))`
static MISH: Composite = Composite {
    spec: Spec::new("Mish", 22, (1, 1)),
    write: |p| {
        let x = p.x(0)?;
        let soft = p.op("Softplus", &[x])?;
        let gate = p.op("Tanh", &[soft])?;
        Ok(vec![Some(p.mul(x, gate)?)])
    },
    cases: || {
        // 2e-5: GPUs approximate ln
        let case = |name: &str, shape: &[usize]| Case::new(&format!("Mish {name}"), &[shape]).within(2e-5);
        vec![case("matrix", &[5, 7]), case("wide", &[3, 4]).sampled(&Sampler::within(-20.0, 20.0))]
    },
};

/// <https://onnx.ai/onnx/operators/onnx__PRelu.html>: `y = x < 0 ? slope · x : x`, where slope broadcasts to x
static PRELU: Composite = Composite {
    spec: Spec::new("PRelu", 16, (2, 2)),
    write: |p| {
        let (x, slope) = (p.x(0)?, p.x(1)?);
        let dtype = p.dtype(x);
        let zero = p.g.constant_as(super::convert::cast(&crate::tensor::Array::full(&[], 0i64), dtype)?, dtype);
        let below = p.op("Less", &[x, zero])?;
        let slow = p.mul(slope, x)?;
        let y = p.choose(below, slow, x)?;
        if p.shape(y) != p.shape(x) {
            let message = format!("slope of shape {:?} does not broadcast to {:?}", p.shape(slope), p.shape(x));
            return Err(crate::error::Error::format(message));
        }
        Ok(vec![Some(y)])
    },
    cases: || {
        let x = Sampler { low: -3.0, high: 3.0, avoid: &[0.0], distinct: false };
        let case = |name: &str, shapes: &[&[usize]]| Case::new(&format!("PRelu {name}"), shapes).sampled_at(0, &x);
        vec![
            case("channels", &[&[2, 3, 4, 5], &[3, 1, 1]]),
            case("one slope", &[&[3, 5], &[1]]),
            case("last axis", &[&[3, 5], &[5]]),
            case("each element", &[&[2, 3], &[2, 3]]),
        ]
    },
};

/// <https://onnx.ai/onnx/operators/onnx__Shrink.html>: `y = x + bias` where `x < −lambd`, `x − bias` where
/// `x > lambd`, 0 elsewhere
static SHRINK: Composite = Composite {
    spec: Spec::new("Shrink", 9, (1, 1)),
    write: |p| {
        let x = p.x(0)?;
        let (lambd, bias) = (p.view().float("lambd", 0.5)?, p.view().float("bias", 0.0)?);
        let (low, high, zero) = (p.scalar_like(-lambd, x), p.scalar_like(lambd, x), p.scalar_like(0.0, x));
        let (below, above) = (p.op("Less", &[x, low])?, p.op("Greater", &[x, high])?);
        let (up, down) = if bias == 0.0 { (x, x) } else { (p.shift(x, bias)?, p.shift(x, -bias)?) };
        let upper = p.choose(above, down, zero)?;
        Ok(vec![Some(p.choose(below, up, upper)?)])
    },
    cases: || {
        let x = Sampler { low: -3.0, high: 3.0, avoid: &[-1.5, -0.5, 0.5, 1.5], distinct: false };
        let case = |name: &str| Case::new(&format!("Shrink {name}"), &[&[4, 7]]).sampled(&x);
        vec![case("hard"), case("soft").attr("lambd", 1.5f32).attr("bias", 1.5f32), case("bias").attr("bias", 0.2f32)]
    },
};

pub(super) static OPS: &[&dyn Op] = &[
    &HARD_SIGMOID,
    &HARD_SWISH,
    &SOFTPLUS,
    &ELU,
    &SELU,
    &CELU,
    &THRESHOLDED_RELU,
    &SOFTSIGN,
    &SWISH,
    &GELU,
    &MISH,
    &PRELU,
    &SHRINK,
];
