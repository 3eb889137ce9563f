//! Arithmetic, comparison and logic of two broadcast operands, and `Where`.

use super::convert::{bits, narrow, signed};
use super::layout::aligned;
use super::product::flag;
use super::support::{broadcast, broadcast_strides, given, zip_map};
use super::{Arg, Bind, Case, Kernel, NodeView, Op, Params, Sampler, Spec, Step, Vjp, grid_1d};
use crate::error::{Error, Result};
use crate::graph::{Attrs, Batch, Graph, ValueId, batch};
use crate::tensor::{Array, DType, TensorType};

/// What a binary op gives.
enum Out {
    /// The operands' type.
    Same,
    /// `bool`.
    Bool,
}

/// `y = f(a, b)` with broadcasting.
struct Binary {
    name: &'static str,
    version: i64,
    /// The branch of `shaders/binary.wgsl`.
    code: u32,
    out: Out,
    eval: fn(&Array, &Array, &[usize]) -> Result<Array>,
    vjp: fn(&mut Vjp) -> Result<()>,
    sampler: Sampler,
}

macro_rules! arithmetic {
    ($float:expr, $float64:expr, $int:expr) => {
        |a, b, s| match a {
            Array::F32(_) => zip_map::<f32, f32, f32>(a, b, s, $float),
            Array::F64(_) => zip_map::<f64, f64, f64>(a, b, s, $float64),
            Array::I64(_) => zip_map::<i64, i64, i64>(a, b, s, $int),
            Array::Bool(_) => Err(Error::format("arithmetic on bool")),
        }
    };
}

macro_rules! compare {
    ($op:tt) => {
        |a, b, s| match a {
            Array::F32(_) => zip_map::<f32, f32, bool>(a, b, s, |p, q| p $op q),
            Array::F64(_) => zip_map::<f64, f64, bool>(a, b, s, |p, q| p $op q),
            Array::I64(_) => zip_map::<i64, i64, bool>(a, b, s, |p, q| p $op q),
            Array::Bool(_) => zip_map::<bool, bool, bool>(a, b, s, |p, q| p $op q),
        }
    };
}

macro_rules! logic {
    ($op:tt) => {
        |a, b, s| zip_map::<bool, bool, bool>(a, b, s, |p, q| p $op q)
    };
}

fn flat(b: &mut Vjp) -> Result<()> {
    Err(b.not_differentiable(0, "comparisons are flat"))
}

const fn binary(
    name: &'static str,
    version: i64,
    code: u32,
    eval: fn(&Array, &Array, &[usize]) -> Result<Array>,
    vjp: fn(&mut Vjp) -> Result<()>,
) -> Binary {
    Binary { name, version, code, out: Out::Same, eval, vjp, sampler: Sampler::within(-2.0, 2.0) }
}

const fn condition(
    name: &'static str,
    version: i64,
    code: u32,
    eval: fn(&Array, &Array, &[usize]) -> Result<Array>,
) -> Binary {
    Binary { name, version, code, out: Out::Bool, eval, vjp: flat, sampler: Sampler::within(-2.0, 2.0) }
}

/// The kernel of a function of two broadcast operands, a branch of `shaders/binary.wgsl`.
pub(super) fn kernel(n: &NodeView, code: u32) -> Result<Kernel> {
    let (a, b) = (n.ty(0)?, n.ty(1)?);
    if a.dtype != b.dtype {
        return Err(Error::unsupported(format!("{} of {} and {} has no kernel", n.op, a.dtype, b.dtype)));
    }
    let shape = broadcast(&[&a.shape, &b.shape])?;
    let len = shape.iter().product();
    let plain = (a.shape == shape || a.len() == 1) && (b.shape == shape || b.len() == 1);
    if shape.len() > 8 {
        return Err(Error::unsupported(format!("rank {} has no kernel", shape.len())));
    }
    Ok(Kernel::one(Step {
        shader: crate::shader!("binary"),
        overrides: vec![
            ("OP", f64::from(code)),
            ("INT", f64::from(u8::from(!a.dtype.is_float()))),
            ("BROADCAST", f64::from(u8::from(!plain))),
        ],
        binds: vec![Bind::Input(0), Bind::Input(1), Bind::Output(0)],
        params: Params::new()
            .u("n", len)
            .u("rank", shape.len())
            .u("a_step", usize::from(a.len() != 1))
            .u("b_step", usize::from(b.len() != 1))
            .u("bits", bits(a.dtype) as usize)
            .u("signed", usize::from(signed(a.dtype)))
            .list::<8>("shape", &shape, 1)
            .list::<8>("a_strides", &broadcast_strides(&a.shape, &shape), 0)
            .list::<8>("b_strides", &broadcast_strides(&b.shape, &shape), 0),
        grid: grid_1d(len),
    }))
}

impl Op for Binary {
    fn spec(&self) -> Spec {
        Spec::new(self.name, self.version, (2, 2))
    }
    fn infer(&self, n: &NodeView) -> Result<Vec<TensorType>> {
        let (a, b) = (n.ty(0)?, n.ty(1)?);
        if a.dtype != b.dtype && !(self.name == "Pow" && a.dtype.is_float()) {
            let message = format!("operands are {} and {}", a.dtype, b.dtype);
            return Err(if self.name == "Pow" { Error::unsupported(message) } else { Error::format(message) });
        }
        let dtype = if matches!(self.out, Out::Bool) { DType::Bool } else { a.dtype };
        Ok(vec![TensorType::new(dtype, broadcast(&[&a.shape, &b.shape])?)])
    }
    fn batch(&self, n: &NodeView, from: &[Batch], _: usize, out: &[TensorType]) -> Vec<Batch> {
        vec![batch::elementwise(n, from, &out[0])]
    }
    fn eval(&self, n: &NodeView, x: &[Option<&Array>]) -> Result<Vec<Array>> {
        let (a, b) = (given(x, 0)?, given(x, 1)?);
        let shape = broadcast(&[a.shape(), b.shape()])?;
        let cast;
        let b = if a.dtype() == b.dtype() || matches!(self.out, Out::Bool) {
            b
        } else {
            // Pow may have an exponent of another type
            cast = Array::from_vec(b.shape(), b.to_f64())?.to_float(a.dtype());
            &cast
        };
        Ok(vec![match ((self.eval)(a, b, &shape)?, n.dtype(0)?) {
            // narrow integers wrap
            (Array::I64(y), t) if bits(t) < 64 => Array::new(y.mapv(|v| narrow(v, t)).into_owned()),
            (y, _) => y,
        }])
    }
    fn vjp(&self, b: &mut Vjp) -> Result<()> {
        (self.vjp)(b)
    }
    fn kernel(&self, n: &NodeView) -> Result<Kernel> {
        kernel(n, self.code)
    }
    fn cases(&self) -> Vec<Case> {
        if self.code >= 20 {
            let bools = |shape: &[usize], k: usize| {
                let v = (0..shape.iter().product()).map(|i: usize| (i / k).is_multiple_of(2)).collect();
                Arg::Fed(Array::from_vec(shape, v).unwrap_or_else(|_| Array::full(&[], true)), DType::Bool)
            };
            return vec![
                Case::new(&format!("{} broadcast", self.name), &[])
                    .arg(bools(&[3, 4], 1))
                    .arg(bools(&[4], 2))
                    .no_gradient("logic"),
            ];
        }
        let case = |name: &str, shapes: &[&[usize]]| {
            let c = Case::new(&format!("{} {name}", self.name), shapes);
            let c = if self.name == "Pow" { c.sampled_at(0, &Sampler::within(0.3, 2.0)) } else { c };
            // a divisor stays away from its pole
            let c = if self.name == "Div" { c.sampled_at(1, &self.sampler) } else { c };
            if matches!(self.out, Out::Bool) { c.no_gradient("comparisons are flat") } else { c }
        };
        let mut cases = vec![
            case("same shape", &[&[3, 5], &[3, 5]]),
            case("row", &[&[3, 5], &[5]]),
            case("column", &[&[3, 1], &[3, 5]]),
            case("both ways", &[&[2, 1, 4], &[3, 1]]),
            case("scalar", &[&[2, 3, 2, 2], &[]]),
            case("channel", &[&[2, 3, 4, 5], &[1, 3, 1, 1]]),
        ];
        let ints = |shape: &[usize], v: Vec<i64>, t| {
            Arg::Fed(Array::from_vec(shape, v).unwrap_or_else(|_| Array::ints(&[1])), t)
        };
        cases.push(
            Case::new(&format!("{} int64", self.name), &[])
                .arg(ints(&[2, 3], vec![7, -3, 4, 0, 12, 5], DType::I64))
                .arg(ints(&[3], vec![7, -2, 3], DType::I64))
                .no_gradient("integers"),
        );
        if self.name == "Equal" {
            let bools = |v: [bool; 4]| Arg::Fed(Array::new(ndarray::arr1(&v).into_dyn()), DType::Bool);
            cases.push(
                Case::new("Equal bool", &[])
                    .arg(bools([true, true, false, false]))
                    .arg(bools([true, false, true, false]))
                    .no_gradient("logic"),
            );
        }
        if self.name != "Pow" {
            cases.push(
                Case::new(&format!("{} uint8", self.name), &[])
                    .arg(ints(&[2, 3], vec![200, 3, 4, 0, 12, 255], DType::U8))
                    .arg(ints(&[3], vec![100, 4, 3], DType::U8))
                    .no_gradient("integers"),
            );
            if matches!(self.out, Out::Same) {
                // results beyond int32, as which the GPU has them
                cases.push(
                    Case::new(&format!("{} uint32", self.name), &[])
                        .arg(ints(&[3], vec![3, 2_000_000_000, 7], DType::U32))
                        .arg(ints(&[3], vec![5, 1_000_000_000, 7], DType::U32))
                        .no_gradient("integers"),
                );
            }
        }
        cases
    }
    fn import(
        &self,
        g: &mut Graph,
        _: i64,
        inputs: &[Option<ValueId>],
        attrs: Attrs,
        wanted: &[bool],
    ) -> Result<Vec<Option<ValueId>>> {
        let op = super::find(self.name)?;
        let (&[Some(p), Some(q)], "Pow") = (inputs, self.name) else {
            return g.push_multi(op, inputs, attrs, wanted);
        };
        let to = |g: &mut Graph, v, t: DType| g.push("Cast", &[v], Attrs::new().with("to", i64::from(t.onnx())));
        let (base, exponent) = (g.dtype(p), g.dtype(q));
        if base == exponent {
            g.push_multi(op, inputs, attrs, wanted)
        } else if base.is_int() && exponent.is_float() {
            // computed in floats, and of the type of the base
            let p = to(g, p, exponent)?;
            let y = g.push("Pow", &[p, q], attrs)?;
            Ok(vec![Some(to(g, y, base)?)])
        } else {
            let q = to(g, q, base)?;
            g.push_multi(op, &[Some(p), Some(q)], attrs, wanted)
        }
    }
    fn stacked(&self, g: &mut Graph, inputs: &[Option<ValueId>], attrs: &Attrs, _: usize) -> Result<Option<ValueId>> {
        if !aligned(g, inputs) {
            return Ok(None);
        }
        g.push_some(self.name, inputs, attrs.clone()).map(Some)
    }
}

static ADD: Binary = binary("Add", 14, 0, arithmetic!(|p, q| p + q, |p, q| p + q, i64::wrapping_add), |b| {
    // da = dy, db = dy
    let dy = b.dy()?;
    b.set_dx(0, dy);
    b.set_dx(1, dy);
    Ok(())
});

static SUB: Binary = binary("Sub", 14, 1, arithmetic!(|p, q| p - q, |p, q| p - q, i64::wrapping_sub), |b| {
    // da = dy, db = −dy
    let dy = b.dy()?;
    b.set_dx(0, dy);
    if b.wants(1) {
        let minus = b.neg(dy)?;
        b.set_dx(1, minus);
    }
    Ok(())
});

static MUL: Binary = binary("Mul", 14, 2, arithmetic!(|p, q| p * q, |p, q| p * q, i64::wrapping_mul), |b| {
    // da = dy · b, db = dy · a
    let (p, q, dy) = (b.x(0)?, b.x(1)?, b.dy()?);
    if b.wants(0) {
        let dp = b.mul(dy, q)?;
        b.set_dx(0, dp);
    }
    if b.wants(1) {
        let dq = b.mul(dy, p)?;
        b.set_dx(1, dq);
    }
    Ok(())
});

static DIV: Binary = Binary {
    sampler: Sampler::within(0.5, 2.0),
    ..binary("Div", 14, 3, arithmetic!(|p, q| p / q, |p, q| p / q, |p: i64, q| p.checked_div(q).unwrap_or(0)), |b| {
        // da = dy / b, db = −dy · y / b
        let (q, dy) = (b.x(1)?, b.dy()?);
        let dp = b.div(dy, q)?;
        b.set_dx(0, dp);
        if b.wants(1) {
            let y = b.y(0)?;
            let product = b.mul(dp, y)?;
            let dq = b.neg(product)?;
            b.set_dx(1, dq);
        }
        Ok(())
    })
};

static POW: Binary = binary(
    "Pow",
    15,
    4,
    arithmetic!(f32::powf, f64::powf, |p: i64, q: i64| u32::try_from(q).map_or(0, |q| p.wrapping_pow(q))),
    |b| {
        let (p, q, dy) = (b.x(0)?, b.x(1)?, b.dy()?);
        if b.wants(0) {
            // da = dy · b · a^(b−1)
            let less = b.shift(q, -1.0)?;
            let power = b.op("Pow", &[p, less])?;
            let slope = b.mul(power, q)?;
            let dp = b.mul(dy, slope)?;
            b.set_dx(0, dp);
        }
        if b.wants(1) {
            // db = dy · y · ln a
            let y = b.y(0)?;
            let ln = b.op("Log", &[p])?;
            let slope = b.mul(y, ln)?;
            let dq = b.mul(dy, slope)?;
            b.set_dx(1, dq);
        }
        Ok(())
    },
);

static GREATER: Binary = condition("Greater", 13, 10, compare!(>));
static LESS: Binary = condition("Less", 13, 11, compare!(<));
static GREATER_OR_EQUAL: Binary = condition("GreaterOrEqual", 16, 12, compare!(>=));
static LESS_OR_EQUAL: Binary = condition("LessOrEqual", 16, 13, compare!(<=));
static EQUAL: Binary = condition("Equal", 19, 14, compare!(==));
static AND: Binary = condition("And", 7, 20, logic!(&));
static OR: Binary = condition("Or", 7, 21, logic!(|));
static XOR: Binary = condition("Xor", 7, 22, logic!(^));

/// `y = condition ? a : b` with broadcasting.
struct Where;

impl Where {
    fn shape(n: &NodeView) -> Result<Vec<usize>> {
        broadcast(&[n.shape(0)?, n.shape(1)?, n.shape(2)?])
    }
}

impl Op for Where {
    fn spec(&self) -> Spec {
        Spec::new("Where", 16, (3, 3))
    }
    fn infer(&self, n: &NodeView) -> Result<Vec<TensorType>> {
        if n.dtype(0)? != DType::Bool || n.dtype(1)? != n.dtype(2)? {
            return Err(Error::format(format!("operands are {}, {} and {}", n.dtype(0)?, n.dtype(1)?, n.dtype(2)?)));
        }
        Ok(vec![TensorType::new(n.dtype(1)?, Self::shape(n)?)])
    }
    fn batch(&self, n: &NodeView, from: &[Batch], _: usize, out: &[TensorType]) -> Vec<Batch> {
        vec![batch::elementwise(n, from, &out[0])]
    }
    fn eval(&self, _: &NodeView, x: &[Option<&Array>]) -> Result<Vec<Array>> {
        use crate::tensor::Element;
        fn go<T: Element>(c: &Array, a: &Array, b: &Array) -> Result<Array> {
            let shape = broadcast(&[c.shape(), a.shape(), b.shape()])?;
            let (cs, ps, qs) = (c.slice::<bool>()?, a.slice::<T>()?, b.slice::<T>()?);
            let sc = broadcast_strides(c.shape(), &shape);
            let sa = broadcast_strides(a.shape(), &shape);
            let sb = broadcast_strides(b.shape(), &shape);
            let last = |s: &[usize]| s.last().copied().unwrap_or(0);
            let (ic, ia, ib) = (last(&sc), last(&sa), last(&sb));
            let run = shape.last().copied().unwrap_or(1);
            let mut out = vec![T::default(); shape.iter().product()];
            super::support::rows(&shape, [&sc, &sa, &sb], |o, [c, p, q]| {
                for (i, o) in out[o..o + run].iter_mut().enumerate() {
                    *o = if cs[c + i * ic] { ps[p + i * ia] } else { qs[q + i * ib] };
                }
            });
            Array::from_vec(&shape, out)
        }
        let (c, a, b) = (given(x, 0)?, given(x, 1)?, given(x, 2)?);
        Ok(vec![match a {
            Array::F32(_) => go::<f32>(c, a, b)?,
            Array::F64(_) => go::<f64>(c, a, b)?,
            Array::I64(_) => go::<i64>(c, a, b)?,
            Array::Bool(_) => go::<bool>(c, a, b)?,
        }])
    }
    fn vjp(&self, b: &mut Vjp) -> Result<()> {
        // da = condition ? dy : 0, db = condition ? 0 : dy
        let (c, dy) = (b.x(0)?, b.dy()?);
        let zero = b.scalar_like(0.0, dy);
        if b.wants(1) {
            let da = b.choose(c, dy, zero)?;
            b.set_dx(1, da);
        }
        if b.wants(2) {
            let db = b.choose(c, zero, dy)?;
            b.set_dx(2, db);
        }
        Ok(())
    }
    fn kernel(&self, n: &NodeView) -> Result<Kernel> {
        let shape = Self::shape(n)?;
        let len = shape.iter().product();
        if shape.len() > 8 {
            return Err(Error::unsupported(format!("rank {} has no kernel", shape.len())));
        }
        let operands = [n.ty(0)?, n.ty(1)?, n.ty(2)?];
        let plain = operands.iter().all(|ty| ty.shape == shape || ty.len() == 1);
        let steps = operands.map(|ty| usize::from(ty.len() != 1));
        Ok(Kernel::one(Step {
            shader: crate::shader!("where"),
            // an engine may hand over the float itself whose sign is the condition
            overrides: vec![("BROADCAST", flag(!plain)), ("POSITIVE", flag(n.dtype(0)?.is_float()))],
            binds: vec![Bind::Input(0), Bind::Input(1), Bind::Input(2), Bind::Output(0)],
            params: Params::new()
                .u("n", len)
                .u("rank", shape.len())
                .u("c_step", steps[0])
                .u("a_step", steps[1])
                .u("b_step", steps[2])
                .list::<8>("shape", &shape, 1)
                .list::<8>("c_strides", &broadcast_strides(n.shape(0)?, &shape), 0)
                .list::<8>("a_strides", &broadcast_strides(n.shape(1)?, &shape), 0)
                .list::<8>("b_strides", &broadcast_strides(n.shape(2)?, &shape), 0),
            grid: grid_1d(len),
        }))
    }
    fn cases(&self) -> Vec<Case> {
        let c = |shape: &[usize]| {
            let v = (0..shape.iter().product()).map(|i: usize| (i * 7 + 3) % 5 < 2).collect();
            Arg::Fed(Array::from_vec(shape, v).unwrap_or_else(|_| Array::full(&[], true)), DType::Bool)
        };
        let s = || Sampler::within(-2.0, 2.0);
        vec![
            Case::new("Where same shape", &[])
                .arg(c(&[3, 4]))
                .arg(Arg::Float(vec![3, 4], s()))
                .arg(Arg::Float(vec![3, 4], s())),
            Case::new("Where int32", &[])
                .arg(c(&[4]))
                .arg(Arg::Fed(Array::ints(&[1, -2, 3, 4]), DType::I32))
                .arg(Arg::Fed(Array::ints(&[-9]), DType::I32))
                .no_gradient("integers"),
            Case::new("Where bool", &[]).arg(c(&[3, 4])).arg(c(&[4])).arg(c(&[3, 1])).no_gradient("logic"),
            Case::new("Where broadcast", &[])
                .arg(c(&[4, 1]))
                .arg(Arg::Float(vec![2, 1, 3], s()))
                .arg(Arg::Float(vec![], s())),
        ]
    }
}

pub(super) static OPS: &[&dyn Op] = &[
    &ADD,
    &SUB,
    &MUL,
    &DIV,
    &POW,
    &GREATER,
    &LESS,
    &GREATER_OR_EQUAL,
    &LESS_OR_EQUAL,
    &EQUAL,
    &AND,
    &OR,
    &XOR,
    &Where,
];
