//! Remainders, shifts and bits: <https://onnx.ai/onnx/operators/onnx__Mod.html>,
//! <https://onnx.ai/onnx/operators/onnx__BitShift.html> and their relatives.

use super::binary::kernel;
use super::composite::Composite;
use super::convert::{bits, narrow, signed};
use super::support::{broadcast, given, zip_map};
use super::{Arg, Case, Kernel, NodeView, Op, Sampler, Spec, Vjp};
use crate::error::{Error, Result};
use crate::graph::{Batch, batch};
use crate::tensor::{Array, DType, TensorType};

/// The type of both operands, broadcast.
fn same(n: &NodeView) -> Result<TensorType> {
    let (a, b) = (n.ty(0)?, n.ty(1)?);
    if a.dtype != b.dtype {
        return Err(Error::format(format!("operands are {} and {}", a.dtype, b.dtype)));
    }
    Ok(TensorType::new(a.dtype, broadcast(&[&a.shape, &b.shape])?))
}

fn fed(shape: &[usize], v: &[i64], dtype: DType) -> Arg {
    Arg::Fed(Array::from_vec(shape, v.to_vec()).unwrap_or_else(|_| Array::ints(&[1])), dtype)
}

/// What is left of `a` when `b` is taken off as often as it goes: with the sign of `b`, or with `fmod` that
/// of `a`, as in C.
struct Mod;

impl Mod {
    fn as_in_c(n: &NodeView) -> Result<bool> {
        match n.int("fmod", 0)? {
            0 if n.dtype(0)?.is_float() => {
                Err(Error::format("attribute fmod = 0 is for integers; floats need fmod = 1"))
            }
            0 => Ok(false),
            1 => Ok(true),
            other => Err(n.unsupported("fmod", other)),
        }
    }
}

impl Op for Mod {
    fn spec(&self) -> Spec {
        Spec::new("Mod", 13, (2, 2))
    }
    fn infer(&self, n: &NodeView) -> Result<Vec<TensorType>> {
        let y = same(n)?;
        Self::as_in_c(n)?;
        if y.dtype == DType::Bool {
            return Err(Error::format("Mod of bool"));
        }
        Ok(vec![y])
    }
    fn batch(&self, n: &NodeView, from: &[Batch], _: usize, out: &[TensorType]) -> Vec<Batch> {
        vec![batch::elementwise(n, from, &out[0])]
    }
    fn eval(&self, n: &NodeView, x: &[Option<&Array>]) -> Result<Vec<Array>> {
        let (a, b, as_in_c) = (given(x, 0)?, given(x, 1)?, Self::as_in_c(n)?);
        let shape = broadcast(&[a.shape(), b.shape()])?;
        Ok(vec![match a {
            Array::F32(_) => zip_map::<f32, f32, f32>(a, b, &shape, |p, q| p % q)?,
            Array::F64(_) => zip_map::<f64, f64, f64>(a, b, &shape, |p, q| p % q)?,
            // 0 where there is nothing to divide by
            _ if as_in_c => zip_map::<i64, i64, i64>(a, b, &shape, |p, q| p.checked_rem(q).unwrap_or(0))?,
            _ => zip_map::<i64, i64, i64>(a, b, &shape, |p, q| {
                let r = p.checked_rem(q).unwrap_or(0);
                if r != 0 && (r < 0) != (q < 0) { r + q } else { r }
            })?,
        }])
    }
    fn vjp(&self, b: &mut Vjp) -> Result<()> {
        // y = a − b · k with a whole number k: da = dy, db = −dy · k
        let (p, q, y, dy) = (b.x(0)?, b.x(1)?, b.y(0)?, b.dy()?);
        b.set_dx(0, dy);
        if b.wants(1) {
            let multiple = b.sub(y, p)?;
            let minus_k = b.div(multiple, q)?;
            let dq = b.mul(dy, minus_k)?;
            b.set_dx(1, dq);
        }
        Ok(())
    }
    fn kernel(&self, n: &NodeView) -> Result<Kernel> {
        kernel(n, 5 + u32::from(Self::as_in_c(n)?))
    }
    fn cases(&self) -> Vec<Case> {
        let ints = |name: &str| {
            Case::new(&format!("Mod {name}"), &[])
                .arg(fed(&[2, 4], &[7, -7, 7, -7, 6, -6, 0, 5], DType::I64))
                .arg(fed(&[4], &[3, 3, -3, -3], DType::I64))
                .no_gradient("integers")
        };
        // dividends and divisors whose quotient is never near a whole number: 0.3 … 0.7 off
        let float = |name: &str, shapes: &[&[usize]], a: &Sampler| {
            let b = Sampler::within(1.0, 1.2);
            Case::new(&format!("Mod {name}"), shapes).sampled_at(0, a).sampled_at(1, &b).attr("fmod", 1)
        };
        vec![
            ints("ints"),
            ints("ints as in C").attr("fmod", 1),
            float("floats", &[&[3, 5], &[5]], &Sampler::within(2.6, 2.9)),
            float("negative floats", &[&[2, 1, 3], &[4, 1]], &Sampler::within(-1.9, -1.3)),
        ]
    }
}

/// A function of the bits of two integers.
struct Bits {
    name: &'static str,
    version: i64,
    /// The branch of `shaders/binary.wgsl`; a shift to the right has the next one.
    code: u32,
    f: fn(i64, i64) -> i64,
}

impl Bits {
    /// True for a shift to the right.
    fn right(&self, n: &NodeView) -> Result<bool> {
        match n.string("direction", if self.name == "BitShift" { "" } else { "LEFT" })? {
            "RIGHT" => Ok(true),
            "LEFT" => Ok(false),
            other => Err(n.unsupported("direction", other)),
        }
    }
}

impl Op for Bits {
    fn spec(&self) -> Spec {
        Spec::new(self.name, self.version, (2, 2))
    }
    fn infer(&self, n: &NodeView) -> Result<Vec<TensorType>> {
        let y = same(n)?;
        self.right(n)?;
        if !y.dtype.is_int() || self.name == "BitShift" && signed(y.dtype) {
            return Err(Error::format(format!("{} of {}", self.name, y.dtype)));
        }
        Ok(vec![y])
    }
    fn batch(&self, n: &NodeView, from: &[Batch], _: usize, out: &[TensorType]) -> Vec<Batch> {
        vec![batch::elementwise(n, from, &out[0])]
    }
    fn eval(&self, n: &NodeView, x: &[Option<&Array>]) -> Result<Vec<Array>> {
        let (a, b, dtype) = (given(x, 0)?, given(x, 1)?, n.dtype(0)?);
        let shape = broadcast(&[a.shape(), b.shape()])?;
        let shift_right = |p: i64, q: i64| u32::try_from(q).map_or(0, |q| p.checked_shr(q).unwrap_or(0));
        Ok(vec![match self.right(n)? {
            true => zip_map(a, b, &shape, shift_right)?,
            false => zip_map(a, b, &shape, |p, q| narrow((self.f)(p, q), dtype))?,
        }])
    }
    fn vjp(&self, b: &mut Vjp) -> Result<()> {
        Err(b.not_differentiable(0, "bits are flat"))
    }
    fn kernel(&self, n: &NodeView) -> Result<Kernel> {
        kernel(n, self.code + u32::from(self.right(n)?))
    }
    fn cases(&self) -> Vec<Case> {
        let case = |name: &str, t: DType| {
            Case::new(&format!("{} {name}", self.name), &[])
                .arg(fed(&[2, 3], &[100, 6, 3, 0, 127, 41], t))
                .arg(fed(&[3], &[1, 2, 7], t))
                .no_gradient("integers")
        };
        if self.name == "BitShift" {
            return vec![
                case("left", DType::U8).attr("direction", "LEFT"),
                case("right", DType::U8).attr("direction", "RIGHT"),
                case("right, uint32", DType::U32).attr("direction", "RIGHT"),
            ];
        }
        let negative = Case::new(&format!("{} negative", self.name), &[])
            .arg(fed(&[3], &[-1, -128, 77], DType::I32))
            .arg(fed(&[2, 1], &[-20, 63], DType::I32))
            .no_gradient("integers");
        vec![case("bytes", DType::U8), negative]
    }
}

static BIT_SHIFT: Bits = Bits {
    name: "BitShift",
    version: 11,
    code: 7,
    f: |p, q| u32::try_from(q).map_or(0, |q| p.checked_shl(q).unwrap_or(0)),
};
static BITWISE_AND: Bits = Bits { name: "BitwiseAnd", version: 18, code: 20, f: |p, q| p & q };
static BITWISE_OR: Bits = Bits { name: "BitwiseOr", version: 18, code: 21, f: |p, q| p | q };
static BITWISE_XOR: Bits = Bits { name: "BitwiseXor", version: 18, code: 22, f: |p, q| p ^ q };

/// <https://onnx.ai/onnx/operators/onnx__BitwiseNot.html>: every bit turned
static BITWISE_NOT: Composite = Composite {
    spec: Spec::new("BitwiseNot", 18, (1, 1)),
    write: |p| {
        let x = p.x(0)?;
        let dtype = p.dtype(x);
        let ones = match dtype {
            t if signed(t) => -1,
            DType::U8 | DType::U16 | DType::U32 => (1 << bits(dtype)) - 1,
            _ => return Err(Error::unsupported(format!("BitwiseNot of {dtype} is not supported"))),
        };
        let ones = p.g.constant_as(Array::full(&[], ones), dtype);
        Ok(vec![Some(p.op("BitwiseXor", &[x, ones])?)])
    },
    cases: || {
        let case = |name: &str, v: &[i64], t| {
            Case::new(&format!("BitwiseNot {name}"), &[]).arg(fed(&[v.len()], v, t)).no_gradient("integers")
        };
        vec![case("bytes", &[0, 1, 200, 255], DType::U8), case("int32", &[0, -1, 77, i32::MIN.into()], DType::I32)]
    },
};

pub(super) static OPS: &[&dyn Op] = &[&Mod, &BIT_SHIFT, &BITWISE_AND, &BITWISE_OR, &BITWISE_XOR, &BITWISE_NOT];
