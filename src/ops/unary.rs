//! Functions of one element: <https://onnx.ai/onnx/operators/>.

use super::support::{PARALLEL, given};
use super::{Arg, Bind, Case, Kernel, NodeView, Op, Params, Sampler, Spec, Step, Vjp, grid_1d};
use crate::error::{Error, Result};
use crate::graph::{Attr, Attrs, Batch, Graph, ValueId};
use crate::tensor::{Array, DType, TensorType};
use rayon::prelude::*;

/// `y = f(x; a, b)` for each element.
struct Unary {
    name: &'static str,
    version: i64,
    /// The branch of `shaders/unary.wgsl`.
    code: u32,
    f32: fn(&[f32], f32, f32, &mut [f32]),
    f64: fn(&[f64], f64, f64, &mut [f64]),
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
    (|$x:ident| $e32:expr, $e64:expr) => { f!(@ $x _a _b $e32, $e64) };
    (@ $x:ident $a:ident $b:ident $e32:expr, $e64:expr) => {
        (
            |x: &[f32], $a: f32, $b: f32, y: &mut [f32]| y.iter_mut().zip(x).for_each(|(y, &$x)| *y = $e32),
            |x: &[f64], $a: f64, $b: f64, y: &mut [f64]| y.iter_mut().zip(x).for_each(|(y, &$x)| *y = $e64),
        )
    };
}

type Functions = (fn(&[f32], f32, f32, &mut [f32]), fn(&[f64], f64, f64, &mut [f64]));

const fn unary(
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
        params: &[],
        vjp,
        sampler: Sampler::within(-3.0, 3.0),
        tolerance: 1e-5,
    }
}

impl Unary {
    const fn params(mut self, params: &'static [(&'static str, f32)]) -> Self {
        self.params = params;
        self
    }
    const fn sampled(mut self, low: f64, high: f64, avoid: &'static [f64]) -> Self {
        self.sampler = Sampler { low, high, avoid, distinct: false };
        self
    }
    /// The lavapipe and GPU versions of exp, log and tanh are approximations.
    const fn tolerance(mut self, tolerance: f64) -> Self {
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

/// The kernel of an element-wise function with parameters `a` and `b`.
fn kernel(n: &NodeView, code: u32, [a, b]: [f64; 2]) -> Result<Kernel> {
    let len = n.ty(0)?.len();
    Ok(Kernel::one(Step {
        shader: crate::shader!("unary"),
        overrides: vec![("OP", f64::from(code))],
        binds: vec![Bind::Input(0), Bind::Output(0)],
        params: Params::new().u("n", len).f("a", a).f("b", b),
        grid: grid_1d(len),
    }))
}

fn map(
    x: &Array,
    f32: fn(&[f32], f32, f32, &mut [f32]),
    f64: fn(&[f64], f64, f64, &mut [f64]),
    [a, b]: [f64; 2],
) -> Result<Array> {
    fn go<T: crate::tensor::Element>(x: &Array, f: impl Fn(&[T], &mut [T]) + Sync) -> Result<Array> {
        let x_ = x.slice::<T>()?;
        let mut y = vec![T::default(); x_.len()];
        y.par_chunks_mut(PARALLEL).zip(x_.par_chunks(PARALLEL)).for_each(|(y, x)| f(x, y));
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
        Ok(vec![n.ty(0)?.clone()])
    }
    fn batch(&self, _: &NodeView, from: &[Batch], _: usize, _: &[TensorType]) -> Vec<Batch> {
        vec![from[0]]
    }
    fn eval(&self, n: &NodeView, x: &[Option<&Array>]) -> Result<Vec<Array>> {
        let x = given(x, 0)?;
        if let (Array::I64(a), "Neg") = (x, self.name) {
            return Ok(vec![Array::new(a.mapv(i64::wrapping_neg))]);
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
            return Err(Error::unsupported(format!("{} on {} has no kernel", self.name, n.dtype(0)?)));
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
        cases
    }
    fn stacked(&self, g: &mut Graph, inputs: &[Option<ValueId>], attrs: &Attrs, _: usize) -> Result<Option<ValueId>> {
        g.push_some(self.name, inputs, attrs.clone()).map(Some)
    }
}

/// `dy · mask`, where `mask` is a condition.
fn masked(b: &mut Vjp, mask: ValueId) -> Result<ValueId> {
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
.sampled(-3.0, 3.0, &[0.0]);

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

static SIGMOID: Unary = unary("Sigmoid", 13, 2, f!(|x| 1.0 / (1.0 + (-x).exp())), |b| {
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

static EXP: Unary = unary("Exp", 13, 4, f!(|x| x.exp()), |b| {
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
});

static ERF: Unary = unary("Erf", 13, 8, f!(|x| libm::erff(x), libm::erf(x)), |b| {
    // dx = dy · 2/√π · exp(−x²)
    let (x, dy) = (b.x(0)?, b.dy()?);
    let xx = b.mul(x, x)?;
    let minus = b.neg(xx)?;
    let bell = b.op("Exp", &[minus])?;
    let slope = b.scale(bell, std::f64::consts::FRAC_2_SQRT_PI)?;
    b.mul(dy, slope)
});

static HARD_SIGMOID: Unary = unary("HardSigmoid", 6, 9, f!(|x, a, b| (a * x + b).clamp(0.0, 1.0)), |b| {
    // dx = alpha · dy where 0 < y < 1
    let alpha = b.view().float("alpha", 0.2)?;
    let (y, dy) = (b.y(0)?, b.dy()?);
    inside(b, y, dy, 0.0, 1.0, alpha)
})
.params(&[("alpha", 0.2), ("beta", 0.5)])
.sampled(-6.0, 6.0, &[-2.5, 2.5, -1.0 / 1.4, 0.75 / 0.35]);

static SOFTPLUS: Unary = unary("Softplus", 1, 12, f!(|x| x.max(0.0) + (-x.abs()).exp().ln_1p()), |b| {
    // dx = dy · sigmoid(x)
    let (x, dy) = (b.x(0)?, b.dy()?);
    let slope = b.op("Sigmoid", &[x])?;
    b.mul(dy, slope)
})
.tolerance(2e-5); // GPUs approximate ln

/// `factor · dy` where `low < v < high`, 0 elsewhere.
fn inside(b: &mut Vjp, v: ValueId, dy: ValueId, low: f64, high: f64, factor: f64) -> Result<ValueId> {
    let (low, high) = (b.scalar_like(low, v), b.scalar_like(high, v));
    let above = b.op("Greater", &[v, low])?;
    let below = b.op("Less", &[v, high])?;
    let mask = b.op("And", &[above, below])?;
    let scaled = if factor == 1.0 { dy } else { b.scale(dy, factor)? };
    let zero = b.scalar_like(0.0, dy);
    b.choose(mask, scaled, zero)
}

static HARD_SWISH: Unary = unary("HardSwish", 14, 10, f!(|x| x * (x / 6.0 + 0.5).clamp(0.0, 1.0)), |b| {
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

/// `Clip`: bounds are optional constant inputs (attributes before opset 11).
struct Clip;

impl Clip {
    fn bounds(n: &NodeView) -> Result<[f64; 2]> {
        let limit = if n.dtype(0)? == DType::F64 { f64::MAX } else { f64::from(f32::MAX) };
        Ok([n.scalar_input(1)?.unwrap_or(-limit), n.scalar_input(2)?.unwrap_or(limit)])
    }
}

impl Op for Clip {
    fn spec(&self) -> Spec {
        Spec::new("Clip", 13, (1, 3))
    }
    fn infer(&self, n: &NodeView) -> Result<Vec<TensorType>> {
        Self::bounds(n)?;
        Ok(vec![n.ty(0)?.clone()])
    }
    fn batch(&self, _: &NodeView, from: &[Batch], _: usize, _: &[TensorType]) -> Vec<Batch> {
        vec![from[0]]
    }
    fn eval(&self, n: &NodeView, x: &[Option<&Array>]) -> Result<Vec<Array>> {
        let [low, high] = Self::bounds(n)?;
        let x = given(x, 0)?;
        if let Array::I64(a) = x {
            return Ok(vec![Array::new(a.mapv(|v| v.max(low as i64).min(high as i64)))]);
        }
        // min after max, as ONNX has it when the bounds cross
        let (f32, f64): Functions = f!(|x, a, b| x.max(a).min(b));
        Ok(vec![map(x, f32, f64, [low, high])?])
    }
    fn vjp(&self, b: &mut Vjp) -> Result<()> {
        // dx = dy where min < x < max
        let [low, high] = Self::bounds(&b.view())?;
        let (x, dy) = (b.x(0)?, b.dy()?);
        let dx = inside(b, x, dy, low, high, 1.0)?;
        b.set_dx(0, dx);
        Ok(())
    }
    fn kernel(&self, n: &NodeView) -> Result<Kernel> {
        if !n.dtype(0)?.is_float() {
            return Err(Error::unsupported(format!("Clip on {} has no kernel", n.dtype(0)?)));
        }
        kernel(n, 11, Self::bounds(n)?)
    }
    fn cases(&self) -> Vec<Case> {
        let scalar = |v: f32| Arg::Const(Array::full(&[], v), DType::F32);
        let s = Sampler { low: -4.0, high: 8.0, avoid: &[-1.0, 0.0, 6.0], distinct: false };
        vec![
            Case::new("Clip both", &[&[4, 9]]).arg(scalar(0.0)).arg(scalar(6.0)).sampled(&s),
            Case::new("Clip low", &[&[4, 9]]).arg(scalar(-1.0)).sampled(&s),
            Case::new("Clip high", &[&[4, 9]]).arg(Arg::Absent).arg(scalar(6.0)).sampled(&s),
            Case::new("Clip none", &[&[4, 9]]).sampled(&s),
        ]
    }
    fn import(
        &self,
        g: &mut Graph,
        opset: i64,
        inputs: &[Option<ValueId>],
        mut attrs: Attrs,
        wanted: &[bool],
    ) -> Result<Vec<Option<ValueId>>> {
        let mut inputs = inputs.to_vec();
        if opset < 11 {
            let dtype = inputs.first().copied().flatten().map_or(DType::F32, |x| g.dtype(x));
            for name in ["min", "max"] {
                inputs.push(match attrs.take(name) {
                    Some(Attr::Float(v)) => Some(g.scalar(f64::from(v), dtype)),
                    _ => None,
                });
            }
        }
        g.push_multi(&Clip, &inputs, attrs, wanted)
    }
}

pub(super) static OPS: &[&dyn Op] =
    &[&RELU, &LEAKY_RELU, &SIGMOID, &TANH, &EXP, &LOG, &SQRT, &NEG, &ERF, &HARD_SIGMOID, &HARD_SWISH, &SOFTPLUS, &Clip];
