//! Circular and hyperbolic functions and their inverses: <https://onnx.ai/onnx/operators/>.

use super::unary::{Unary, f, unary};
use super::{Op, Vjp};
use crate::error::Result;
use crate::graph::ValueId;

/// `dy / √v`
fn over_root(b: &mut Vjp, v: ValueId) -> Result<ValueId> {
    let dy = b.dy()?;
    let root = b.op("Sqrt", &[v])?;
    b.div(dy, root)
}

/// `1 − x²`, as `(1 − x) · (1 + x)`, which is exact near ±1
fn one_less_square(b: &mut Vjp) -> Result<ValueId> {
    let x = b.x(0)?;
    let one = b.scalar_like(1.0, x);
    let (less, more) = (b.sub(one, x)?, b.add(one, x)?);
    b.mul(less, more)
}

static SIN: Unary = unary("Sin", 22, 19, f!(|x| x.sin()), |b| {
    // dx = dy · cos x
    let (x, dy) = (b.x(0)?, b.dy()?);
    let slope = b.op("Cos", &[x])?;
    b.mul(dy, slope)
})
.sampled(-9.0, 9.0, &[]);

static COS: Unary = unary("Cos", 22, 20, f!(|x| x.cos()), |b| {
    // dx = −dy · sin x
    let (x, dy) = (b.x(0)?, b.dy()?);
    let sine = b.op("Sin", &[x])?;
    let product = b.mul(dy, sine)?;
    b.neg(product)
})
.sampled(-9.0, 9.0, &[]);

static TAN: Unary = unary("Tan", 22, 21, f!(|x| x.tan()), |b| {
    // dx = dy · (1 + y²)
    let (y, dy) = (b.y(0)?, b.dy()?);
    let yy = b.mul(y, y)?;
    let slope = b.shift(yy, 1.0)?;
    b.mul(dy, slope)
})
.sampled(-1.2, 1.2, &[]);

static ASIN: Unary = unary("Asin", 22, 22, f!(|x| x.asin()), |b| {
    // dx = dy / √(1 − x²)
    let v = one_less_square(b)?;
    over_root(b, v)
})
.sampled(-0.9, 0.9, &[]);

static ACOS: Unary = unary("Acos", 22, 23, f!(|x| x.acos()), |b| {
    // dx = −dy / √(1 − x²)
    let v = one_less_square(b)?;
    let dx = over_root(b, v)?;
    b.neg(dx)
})
.sampled(-0.9, 0.9, &[]);

static ATAN: Unary = unary("Atan", 22, 24, f!(|x| x.atan()), |b| {
    // dx = dy / (1 + x²)
    let (x, dy) = (b.x(0)?, b.dy()?);
    let xx = b.mul(x, x)?;
    let below = b.shift(xx, 1.0)?;
    b.div(dy, below)
});

static SINH: Unary = unary("Sinh", 22, 25, f!(|x| x.sinh()), |b| {
    // dx = dy · cosh x
    let (x, dy) = (b.x(0)?, b.dy()?);
    let slope = b.op("Cosh", &[x])?;
    b.mul(dy, slope)
});

static COSH: Unary = unary("Cosh", 22, 26, f!(|x| x.cosh()), |b| {
    // dx = dy · sinh x
    let (x, dy) = (b.x(0)?, b.dy()?);
    let slope = b.op("Sinh", &[x])?;
    b.mul(dy, slope)
});

static ASINH: Unary = unary("Asinh", 22, 27, f!(|x| x.asinh()), |b| {
    // dx = dy / √(x² + 1)
    let x = b.x(0)?;
    let xx = b.mul(x, x)?;
    let v = b.shift(xx, 1.0)?;
    over_root(b, v)
});

static ACOSH: Unary = unary("Acosh", 22, 28, f!(|x| x.acosh()), |b| {
    // dx = dy / √(x² − 1)
    let v = one_less_square(b)?;
    let v = b.neg(v)?;
    over_root(b, v)
})
.sampled(1.2, 6.0, &[]);

static ATANH: Unary = unary("Atanh", 22, 29, f!(|x| x.atanh()), |b| {
    // dx = dy / (1 − x²)
    let (v, dy) = (one_less_square(b)?, b.dy()?);
    b.div(dy, v)
})
.sampled(-0.9, 0.9, &[]);

pub(super) static OPS: &[&dyn Op] = &[&SIN, &COS, &TAN, &ASIN, &ACOS, &ATAN, &SINH, &COSH, &ASINH, &ACOSH, &ATANH];
