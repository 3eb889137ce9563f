//! Functions of one element: <https://onnx.ai/onnx/operators/>. The machine, and the plain ones.

use super::convert::narrow;
use super::smooth;
use super::support::{PARALLEL, given, written};
use super::{Arg, Bind, Case, Kernel, NodeView, Op, Params, Sampler, Spec, Step, Vjp, grid_1d};
use crate::error::{Error, Result};
use crate::graph::{Attrs, Batch, Graph, ValueId};
use crate::tensor::{Array, DType, TensorType};
use rayon::prelude::*;
use std::mem::MaybeUninit;

/// `y = f(x; a, b)` for each element.
pub(super) struct Unary {
    pub(super) name: &'static str,
    version: i64,
    /// The branch of `shaders/unary.wgsl`.
    code: u32,
    f32: fn(&[f32], f32, f32, &mut [f32]),
    f64: fn(&[f64], f64, f64, &mut [f64]),
    /// The same for integers, where ONNX takes them.
    int: Option<fn(i64) -> i64>,
    /// The parameters a and b: attribute name and ONNX's default.
    params: &'static [(&'static str, f32)],
    /// Emits `dy · f'(x)`.
    vjp: fn(&mut Vjp) -> Result<ValueId>,
    sampler: Sampler,
    tolerance: f64,
}

macro_rules! f {
    (|$x:ident| $e:expr) => { f!(|$x, _a, _b| $e) };
    (|$x:ident, $a:ident, $b:ident| $e:expr) => { f!(@ $x $a $b $e, $e) };
    (@ $x:ident $a:ident $b:ident $e32:expr, $e64:expr) => {
        (
            |x: &[f32], $a: f32, $b: f32, y: &mut [f32]| y.iter_mut().zip(x).for_each(|(y, &$x)| *y = $e32),
            |x: &[f64], $a: f64, $b: f64, y: &mut [f64]| y.iter_mut().zip(x).for_each(|(y, &$x)| *y = $e64),
        )
    };
}

pub(super) use f;

/// The same where single precision is done in place by a function of `smooth.rs`.
macro_rules! many {
    ($f32:path, |$x:ident| $e64:expr) => {
        (
            |x: &[f32], _: f32, _: f32, y: &mut [f32]| {
                y.copy_from_slice(x);
                $f32(y);
            },
            |x: &[f64], _: f64, _: f64, y: &mut [f64]| y.iter_mut().zip(x).for_each(|(y, &$x)| *y = $e64),
        )
    };
}

pub(super) type Functions = (fn(&[f32], f32, f32, &mut [f32]), fn(&[f64], f64, f64, &mut [f64]));

pub(super) const fn unary(
    name: &'static str,
    version: i64,
    code: u32,
    f: Functions,
    vjp: fn(&mut Vjp) -> Result<ValueId>,
) -> Unary {
    Unary {
        name,
        version,
        code,
        f32: f.0,
        f64: f.1,
        int: None,
        params: &[],
        vjp,
        sampler: Sampler::within(-3.0, 3.0),
        tolerance: 1e-5,
    }
}

impl Unary {
    pub(super) const fn params(mut self, params: &'static [(&'static str, f32)]) -> Self {
        self.params = params;
        self
    }
    pub(super) const fn sampled(mut self, low: f64, high: f64, avoid: &'static [f64]) -> Self {
        self.sampler = Sampler { low, high, avoid, distinct: false };
        self
    }
    pub(super) const fn ints(mut self, f: fn(i64) -> i64) -> Self {
        self.int = Some(f);
        self
    }
    /// The lavapipe and GPU versions of exp, log and tanh are approximations.
    pub(super) const fn tolerance(mut self, tolerance: f64) -> Self {
        self.tolerance = tolerance;
        self
    }
    fn values(&self, n: &NodeView) -> Result<[f64; 2]> {
        let mut v = [0.0; 2];
        for (slot, (name, default)) in v.iter_mut().zip(self.params) {
            *slot = n.float(name, *default)?;
        }
        Ok(v)
    }
}

/// The kernel of an element-wise function of floats with parameters `a` and `b`.
pub(super) fn kernel(n: &NodeView, code: u32, [a, b]: [f64; 2]) -> Result<Kernel> {
    words(n, code, [a, b].map(|v| (v as f32).to_bits()))
}

/// The kernel of an element-wise function of integers with parameters `a` and `b`.
pub(super) fn kernel_int(n: &NodeView, code: u32, [a, b]: [i64; 2]) -> Result<Kernel> {
    words(n, code, [a, b].map(|v| (v.clamp(i32::MIN.into(), i32::MAX.into()) as i32).cast_unsigned()))
}

fn words(n: &NodeView, code: u32, [a, b]: [u32; 2]) -> Result<Kernel> {
    let x = n.ty(0)?;
    Ok(Kernel::one(Step {
        shader: crate::shader!("unary"),
        overrides: vec![("OP", f64::from(code)), ("INT", f64::from(u8::from(!x.dtype.is_float())))],
        binds: vec![Bind::Input(0), Bind::Output(0)],
        params: Params::new().u("n", x.len()).u("a", a as usize).u("b", b as usize),
        grid: grid_1d(x.len()),
    }))
}

/// Elements that a function is called with at once, and that stay in the cache until they are written.
const AT_ONCE: usize = 512;

/// `f` of every element, in the precision of `x`.
pub(super) fn map(
    x: &Array,
    f32: fn(&[f32], f32, f32, &mut [f32]),
    f64: fn(&[f64], f64, f64, &mut [f64]),
    [a, b]: [f64; 2],
) -> Result<Array> {
    fn go<T: crate::tensor::Element>(x: &Array, f: impl Fn(&[T], &mut [T]) + Sync) -> Result<Array> {
        let from = x.slice::<T>()?;
        let chunk = |(cells, x): (&mut [MaybeUninit<T>], &[T])| {
            let mut y = [T::default(); AT_ONCE];
            for (cells, x) in cells.chunks_mut(AT_ONCE).zip(x.chunks(AT_ONCE)) {
                f(x, &mut y[..x.len()]);
                cells.iter_mut().zip(y).for_each(|(cell, y)| _ = cell.write(y));
            }
        };
        // SAFETY: chunks make up the whole, and every element of one is written.
        let y = unsafe {
            written(from.len(), |cells| cells.par_chunks_mut(PARALLEL).zip(from.par_chunks(PARALLEL)).for_each(chunk))
        };
        Array::from_vec(x.shape(), y)
    }
    match x {
        Array::F32(_) => go(x, |x, y| f32(x, a as f32, b as f32, y)),
        Array::F64(_) => go(x, |x, y| f64(x, a, b, y)),
        _ => Err(Error::unsupported(format!("elements of type {}", x.dtype()))),
    }
}

impl Op for Unary {
    fn spec(&self) -> Spec {
        Spec::new(self.name, self.version, (1, 1))
    }
    fn infer(&self, n: &NodeView) -> Result<Vec<TensorType>> {
        let x = n.ty(0)?;
        if !(x.dtype.is_float() || self.int.is_some() && x.dtype.is_int()) {
            return Err(Error::format(format!("{} of {}", self.name, x.dtype)));
        }
        Ok(vec![x.clone()])
    }
    fn batch(&self, _: &NodeView, from: &[Batch], _: usize, _: &[TensorType]) -> Vec<Batch> {
        vec![from[0]]
    }
    fn eval(&self, n: &NodeView, x: &[Option<&Array>]) -> Result<Vec<Array>> {
        let x = given(x, 0)?;
        if let (Array::I64(a), Some(f)) = (x, self.int) {
            let dtype = n.dtype(0)?;
            return Ok(vec![Array::new(a.mapv(|v| narrow(f(v), dtype)))]);
        }
        Ok(vec![map(x, self.f32, self.f64, self.values(n)?)?])
    }
    fn vjp(&self, b: &mut Vjp) -> Result<()> {
        let dx = (self.vjp)(b)?;
        b.set_dx(0, dx);
        Ok(())
    }
    fn kernel(&self, n: &NodeView) -> Result<Kernel> {
        if !n.dtype(0)?.is_float() {
            return kernel_int(n, self.code, [0; 2]);
        }
        kernel(n, self.code, self.values(n)?)
    }
    fn cases(&self) -> Vec<Case> {
        let case = |name: &str, shape: &[usize]| {
            Case::new(&format!("{} {name}", self.name), &[shape]).sampled(&self.sampler).within(self.tolerance)
        };
        let mut cases = vec![case("matrix", &[5, 7]), case("scalar", &[]), case("rank 4", &[2, 3, 5, 4])];
        if !self.params.is_empty() {
            let mut other = case("other parameters", &[3, 4]);
            for (i, (name, _)) in self.params.iter().enumerate() {
                other = other.attr(name, 0.35 - 0.1 * i as f32);
            }
            cases.push(other);
        }
        if self.int.is_some() {
            let x = Arg::Fed(Array::ints(&[7, -3, 0, 1, -128]), DType::I64);
            cases.push(Case::new(&format!("{} int64", self.name), &[]).arg(x).no_gradient("integers"));
        }
        cases
    }
    fn stacked(&self, g: &mut Graph, inputs: &[Option<ValueId>], attrs: &Attrs, _: usize) -> Result<Option<ValueId>> {
        g.push_some(self.name, inputs, attrs.clone()).map(Some)
    }
}

/// The derivative of steps: 0 but where they jump, and there is none there.
fn flat(b: &mut Vjp) -> Result<ValueId> {
    // dx = 0 · dy
    let dy = b.dy()?;
    b.scale(dy, 0.0)
}

/// `dy · mask`, where `mask` is a condition.
pub(super) fn masked(b: &mut Vjp, mask: ValueId) -> Result<ValueId> {
    let dy = b.dy()?;
    let zero = b.scalar_like(0.0, dy);
    b.choose(mask, dy, zero)
}

static RELU: Unary = unary("Relu", 14, 0, f!(|x| if x < 0.0 { 0.0 } else { x }), |b| {
    // dx = dy where x > 0
    let (x, zero) = (b.x(0)?, b.x(0)?);
    let zero = b.scalar_like(0.0, zero);
    let mask = b.op("Greater", &[x, zero])?;
    masked(b, mask)
})
.sampled(-3.0, 3.0, &[0.0])
.ints(|v| v.max(0));

static LEAKY_RELU: Unary = unary("LeakyRelu", 16, 1, f!(|x, a, _b| if x < 0.0 { a * x } else { x }), |b| {
    // dx = dy where x > 0, alpha · dy elsewhere
    let alpha = b.view().float("alpha", 0.01)?;
    let (x, dy) = (b.x(0)?, b.dy()?);
    let zero = b.scalar_like(0.0, x);
    let mask = b.op("Greater", &[x, zero])?;
    let slow = b.scale(dy, alpha)?;
    b.choose(mask, dy, slow)
})
.params(&[("alpha", 0.01)])
.sampled(-3.0, 3.0, &[0.0]);

static SIGMOID: Unary = unary("Sigmoid", 13, 2, many!(smooth::sigmoid, |x| 1.0 / (1.0 + (-x).exp())), |b| {
    // dx = dy · y · (1 − y)
    let (y, dy) = (b.y(0)?, b.dy()?);
    let yy = b.mul(y, y)?;
    let slope = b.sub(y, yy)?;
    b.mul(dy, slope)
});

static TANH: Unary = unary("Tanh", 13, 3, f!(|x| x.tanh()), |b| {
    // dx = dy · (1 − y²)
    let (y, dy) = (b.y(0)?, b.dy()?);
    let yy = b.mul(y, y)?;
    let one = b.scalar_like(1.0, y);
    let slope = b.sub(one, yy)?;
    b.mul(dy, slope)
});

static EXP: Unary = unary("Exp", 13, 4, many!(smooth::exp, |x| x.exp()), |b| {
    // dx = dy · y
    let (y, dy) = (b.y(0)?, b.dy()?);
    b.mul(dy, y)
});

static LOG: Unary = unary("Log", 13, 5, f!(|x| x.ln()), |b| {
    // dx = dy / x
    let (x, dy) = (b.x(0)?, b.dy()?);
    b.div(dy, x)
})
.sampled(0.3, 4.0, &[])
.tolerance(2e-5);

static SQRT: Unary = unary("Sqrt", 13, 6, f!(|x| x.sqrt()), |b| {
    // dx = dy / (2 y)
    let (y, dy) = (b.y(0)?, b.dy()?);
    let half = b.scale(dy, 0.5)?;
    b.div(half, y)
})
.sampled(0.2, 4.0, &[]);

static NEG: Unary = unary("Neg", 13, 7, f!(|x| -x), |b| {
    // dx = −dy
    let dy = b.dy()?;
    b.neg(dy)
})
.ints(i64::wrapping_neg);

static RECIPROCAL: Unary = unary("Reciprocal", 13, 13, f!(|x| 1.0 / x), |b| {
    // dx = −dy · y²
    let (y, dy) = (b.y(0)?, b.dy()?);
    let yy = b.mul(y, y)?;
    let product = b.mul(dy, yy)?;
    b.neg(product)
})
.sampled(0.3, 4.0, &[]);

static ABS: Unary = unary("Abs", 13, 14, f!(|x| x.abs()), |b| {
    // dx = dy · sign x
    let (x, dy) = (b.x(0)?, b.dy()?);
    let sign = b.op("Sign", &[x])?;
    b.mul(dy, sign)
})
.sampled(-3.0, 3.0, &[0.0])
.ints(i64::wrapping_abs);

static SIGN: Unary = unary("Sign", 13, 15, f!(|x| if x == 0.0 { x } else { x.signum() }), flat)
    .sampled(-3.0, 3.0, &[0.0])
    .ints(i64::signum);

/// Where steps are.
const WHOLE: &[f64] = &[-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0];

static FLOOR: Unary = unary("Floor", 13, 16, f!(|x| x.floor()), flat).sampled(-3.0, 3.0, WHOLE);
static CEIL: Unary = unary("Ceil", 13, 17, f!(|x| x.ceil()), flat).sampled(-3.0, 3.0, WHOLE);
// halves go to the even side
static ROUND: Unary =
    unary("Round", 22, 18, f!(|x| x.round_ties_even()), flat).sampled(-3.0, 3.0, &[-2.5, -1.5, -0.5, 0.5, 1.5, 2.5]);

static ERF: Unary = unary("Erf", 13, 8, many!(smooth::erf, |x| libm::erf(x)), |b| {
    // dx = dy · 2/√π · exp(−x²)
    let (x, dy) = (b.x(0)?, b.dy()?);
    let xx = b.mul(x, x)?;
    let minus = b.neg(xx)?;
    let bell = b.op("Exp", &[minus])?;
    let slope = b.scale(bell, std::f64::consts::FRAC_2_SQRT_PI)?;
    b.mul(dy, slope)
});

pub(super) static OPS: &[&dyn Op] = &[
    &RELU,
    &LEAKY_RELU,
    &SIGMOID,
    &TANH,
    &EXP,
    &LOG,
    &SQRT,
    &NEG,
    &ERF,
    &RECIPROCAL,
    &ABS,
    &SIGN,
    &FLOOR,
    &CEIL,
    &ROUND,
];
