//! Ops whose outputs are known before anything is fed: <https://onnx.ai/onnx/operators/>. Pushing one
//! leaves a constant in the graph and no node.

use super::support::given;
use super::{Arg, Bind, Case, Kernel, NodeView, Op, Params, Spec, Step, Vjp, grid_1d};
use crate::error::{Error, Result};
use crate::graph::Attr;
use crate::tensor::{Array, DType, Element, TensorType};

/// The word that stands for the only element of `v` on a GPU.
pub(super) fn word(v: &Array) -> u32 {
    match v {
        // cut to what integers are on a GPU
        Array::I64(v) => v.first().map_or(0, |&v| v.clamp(i32::MIN.into(), i32::MAX.into()) as i32 as u32),
        Array::Bool(v) => v.first().map_or(0, |&v| u32::from(v)),
        v => v.to_f64().first().map_or(0, |&v| (v as f32).to_bits()),
    }
}

/// The dispatch that fills output `to` of `len` elements with one word; `None` when it has none.
pub(super) fn fill(to: usize, len: usize, word: u32) -> Option<Step> {
    (len > 0).then(|| Step {
        shader: crate::shader!("fill"),
        overrides: Vec::new(),
        binds: vec![Bind::Output(to)],
        params: Params::new().u("n", len).u("value", word as usize),
        grid: grid_1d(len),
    })
}

/// An array filled with the only element of `v`.
pub(super) fn filled(shape: &[usize], v: &Array) -> Result<Array> {
    fn go<T: Element>(shape: &[usize], v: &Array) -> Result<Array> {
        let v = v.slice::<T>()?.first().ok_or_else(|| Error::format("there is no element to fill with"))?;
        Ok(Array::full(shape, *v))
    }
    match v {
        Array::F32(_) => go::<f32>(shape, v),
        Array::F64(_) => go::<f64>(shape, v),
        Array::I64(_) => go::<i64>(shape, v),
        Array::Bool(_) => go::<bool>(shape, v),
    }
}

/// No node of such an op is ever added.
fn folded(n: &NodeView) -> Error {
    Error::internal(format!("{} should have become a constant", n.op))
}

/// A Range is a constant, and those are not larger than this.
const LONGEST: usize = 1 << 24;

/// The extents of `x`, or those from `start` to `end`.
struct Shape;

impl Shape {
    fn extents(n: &NodeView) -> Result<Vec<i64>> {
        let x = n.shape(0)?;
        let rank = i64::try_from(x.len()).unwrap_or(i64::MAX);
        // bounds beyond the axes are cut
        let bound = |v: i64| usize::try_from(if v < 0 { v + rank } else { v }.clamp(0, rank)).unwrap_or(0);
        let (start, end) = (bound(n.int("start", 0)?), bound(n.int("end", rank)?));
        Ok(super::layout::dims(x.get(start..end).unwrap_or_default()))
    }
}

impl Op for Shape {
    fn spec(&self) -> Spec {
        Spec::new("Shape", 25, (1, 1))
    }
    fn infer(&self, n: &NodeView) -> Result<Vec<TensorType>> {
        Ok(vec![TensorType::new(DType::I64, [Self::extents(n)?.len()])])
    }
    fn fold(&self, n: &NodeView) -> Option<Vec<Array>> {
        Some(vec![Array::ints(&Self::extents(n).ok()?)])
    }
    fn eval(&self, n: &NodeView, _: &[Option<&Array>]) -> Result<Vec<Array>> {
        Ok(vec![Array::ints(&Self::extents(n)?)])
    }
    fn vjp(&self, b: &mut Vjp) -> Result<()> {
        Err(b.not_differentiable(0, "a shape is constant"))
    }
    fn kernel(&self, n: &NodeView) -> Result<Kernel> {
        Err(folded(n))
    }
    fn cases(&self) -> Vec<Case> {
        let case = |name: &str| Case::new(name, &[&[2, 3, 5]]).no_gradient("integers");
        vec![
            case("Shape"),
            case("Shape start").attr("start", 1),
            case("Shape negative bounds").attr("start", -2).attr("end", -1),
            case("Shape bounds beyond").attr("start", -9).attr("end", 9),
            case("Shape crossed bounds").attr("start", 2).attr("end", 1),
        ]
    }
}

/// The number of elements of `x`.
struct Size;

impl Op for Size {
    fn spec(&self) -> Spec {
        Spec::new("Size", 25, (1, 1))
    }
    fn infer(&self, n: &NodeView) -> Result<Vec<TensorType>> {
        n.ty(0)?;
        Ok(vec![TensorType::new(DType::I64, [])])
    }
    fn fold(&self, n: &NodeView) -> Option<Vec<Array>> {
        Some(vec![Array::full(&[], i64::try_from(n.optional(0)?.len()).ok()?)])
    }
    fn eval(&self, _: &NodeView, x: &[Option<&Array>]) -> Result<Vec<Array>> {
        Ok(vec![Array::full(&[], i64::try_from(given(x, 0)?.len()).unwrap_or(i64::MAX))])
    }
    fn vjp(&self, b: &mut Vjp) -> Result<()> {
        Err(b.not_differentiable(0, "a size is constant"))
    }
    fn kernel(&self, n: &NodeView) -> Result<Kernel> {
        Err(folded(n))
    }
    fn cases(&self) -> Vec<Case> {
        vec![Case::new("Size", &[&[2, 3, 5]]).no_gradient("integers")]
    }
}

/// A tensor given as an attribute.
struct Constant;

impl Constant {
    fn value(n: &NodeView) -> Result<(Array, DType)> {
        let mut all = n.attrs.iter();
        let (Some((name, value)), None) = (all.next(), all.next()) else {
            return Err(Error::format("one attribute has to hold the value"));
        };
        Ok(match (name, value) {
            ("value", Attr::Tensor(a, dtype)) => (a.clone(), *dtype),
            ("value_float", Attr::Float(v)) => (Array::full(&[], *v), DType::F32),
            ("value_floats", Attr::Floats(v)) => (Array::from_vec(&[v.len()], v.clone())?, DType::F32),
            ("value_int", Attr::Int(v)) => (Array::full(&[], *v), DType::I64),
            ("value_ints", Attr::Ints(v)) => (Array::ints(v), DType::I64),
            // an empty list does not say what it is a list of
            ("value_floats", Attr::Ints(v)) if v.is_empty() => (Array::from_vec::<f32>(&[0], Vec::new())?, DType::F32),
            ("value_ints", Attr::Floats(v)) if v.is_empty() => (Array::ints(&[]), DType::I64),
            _ => return Err(Error::unsupported(format!("attribute {name} is not supported (opset {})", n.opset))),
        })
    }
}

impl Op for Constant {
    fn spec(&self) -> Spec {
        Spec::new("Constant", 25, (0, 0))
    }
    fn infer(&self, n: &NodeView) -> Result<Vec<TensorType>> {
        let (a, dtype) = Self::value(n)?;
        Ok(vec![TensorType::new(dtype, a.shape())])
    }
    fn fold(&self, n: &NodeView) -> Option<Vec<Array>> {
        Some(vec![Self::value(n).ok()?.0])
    }
    fn eval(&self, n: &NodeView, _: &[Option<&Array>]) -> Result<Vec<Array>> {
        Ok(vec![Self::value(n)?.0])
    }
    fn vjp(&self, b: &mut Vjp) -> Result<()> {
        Err(b.not_differentiable(0, "it has no inputs"))
    }
    fn kernel(&self, n: &NodeView) -> Result<Kernel> {
        Err(folded(n))
    }
    fn cases(&self) -> Vec<Case> {
        let case = |name: &str| Case::new(&format!("Constant {name}"), &[]).no_gradient("it has no inputs");
        vec![
            case("tensor").attr("value", Attr::Tensor(Array::full(&[2, 3], 1.5f32), DType::F32)),
            case("float").attr("value_float", 2.5f32),
            case("floats").attr("value_floats", vec![1.0f32, -2.0]),
            case("int").attr("value_int", 7),
            case("ints").attr("value_ints", vec![3i64, -4]),
        ]
    }
}

/// One value in a shape that is given as an input.
struct ConstantOfShape;

impl ConstantOfShape {
    fn value(n: &NodeView) -> Result<(Array, DType)> {
        match n.attrs.get("value") {
            None => Ok((Array::full(&[], 0f32), DType::F32)),
            Some(Attr::Tensor(a, dtype)) if a.len() == 1 => Ok((a.clone(), *dtype)),
            Some(a) => Err(Error::format(format!("attribute value = {a:?} is not a tensor of one element"))),
        }
    }
    fn shape(n: &NodeView) -> Result<Vec<usize>> {
        let shape = n.ints_input(0)?.unwrap_or_default();
        let wrong = |_| Error::format(format!("input {shape:?} is not a shape"));
        shape.iter().map(|&d| usize::try_from(d).map_err(wrong)).collect()
    }
}

impl Op for ConstantOfShape {
    fn spec(&self) -> Spec {
        Spec::new("ConstantOfShape", 25, (1, 1))
    }
    fn infer(&self, n: &NodeView) -> Result<Vec<TensorType>> {
        Ok(vec![TensorType::new(Self::value(n)?.1, Self::shape(n)?)])
    }
    fn eval(&self, n: &NodeView, _: &[Option<&Array>]) -> Result<Vec<Array>> {
        Ok(vec![filled(&Self::shape(n)?, &Self::value(n)?.0)?])
    }
    fn vjp(&self, b: &mut Vjp) -> Result<()> {
        Err(b.not_differentiable(0, "a shape is constant"))
    }
    fn kernel(&self, n: &NodeView) -> Result<Kernel> {
        let len = Self::shape(n)?.iter().product();
        Ok(Kernel::many(fill(0, len, word(&Self::value(n)?.0)).into_iter().collect()))
    }
    fn cases(&self) -> Vec<Case> {
        let case = |name: &str| Case::new(&format!("ConstantOfShape {name}"), &[]).no_gradient("integers");
        vec![
            case("zeros").ints(&[2, 3]),
            case("int64").ints(&[4]).attr("value", Attr::Tensor(Array::ints(&[-5]), DType::I64)),
            case("scalar").ints(&[]).attr("value", Attr::Tensor(Array::full(&[1], 2.5f32), DType::F32)),
        ]
    }
}

/// `start, start + delta, …` below (or, counting down, above) `limit`.
struct Range;

impl Range {
    fn count(n: &NodeView) -> Result<usize> {
        for i in 0..3 {
            if n.constant(i)?.len() != 1 || n.dtype(i)? != n.dtype(0)? || n.dtype(i)? == DType::Bool {
                return Err(Error::format(format!("input {i} is {}, a number is needed", n.ty(i)?)));
            }
        }
        if let Array::I64(_) = n.constant(0)? {
            let at = |i: usize| -> Result<i128> { Ok(n.constant(i)?.slice::<i64>()?[0].into()) };
            let (distance, delta) = (at(1)? - at(0)?, at(2)?);
            if delta == 0 {
                return Err(Error::format("delta = 0 reaches no limit"));
            }
            // the distance rounded up to whole steps
            let count = (distance + delta - delta.signum()) / delta;
            return usize::try_from(count.max(0)).map_err(|_| Error::unsupported("a range without end"));
        }
        let at = |i: usize| -> Result<f64> { Ok(n.constant(i)?.to_f64()[0]) };
        let count = ((at(1)? - at(0)?) / at(2)?).ceil();
        if !count.is_finite() {
            return Err(Error::format(format!("delta = {} reaches no limit", at(2)?)));
        }
        // a float beyond the integers becomes the greatest, which the graph refuses
        Ok(count.max(0.0) as usize)
    }
}

impl Op for Range {
    fn spec(&self) -> Spec {
        Spec::new("Range", 27, (3, 3))
    }
    fn frozen_inputs(&self) -> &'static [usize] {
        &[0, 1, 2]
    }
    fn infer(&self, n: &NodeView) -> Result<Vec<TensorType>> {
        let count = Self::count(n)?;
        if count > LONGEST {
            return Err(Error::unsupported(format!("a range of {count} elements")));
        }
        Ok(vec![TensorType::new(n.dtype(0)?, [count])])
    }
    fn eval(&self, n: &NodeView, x: &[Option<&Array>]) -> Result<Vec<Array>> {
        let count = Self::count(n)?;
        let (start, delta) = (given(x, 0)?, given(x, 2)?);
        Ok(vec![match start {
            Array::I64(_) => {
                let (start, delta) = (start.slice::<i64>()?[0], delta.slice::<i64>()?[0]);
                let at = |i| delta.wrapping_mul(i).wrapping_add(start);
                Array::ints(&(0i64..).take(count).map(at).collect::<Vec<_>>())
            }
            _ => {
                let (first, step) = (start.to_f64()[0], delta.to_f64()[0]);
                let v = (0..count).map(|i| first + i as f64 * step).collect();
                Array::from_vec::<f64>(&[count], v)?.to_float(start.dtype())
            }
        }])
    }
    fn vjp(&self, b: &mut Vjp) -> Result<()> {
        Err(b.not_differentiable(0, "it is constant"))
    }
    fn kernel(&self, n: &NodeView) -> Result<Kernel> {
        Err(folded(n))
    }
    fn cases(&self) -> Vec<Case> {
        let int = |v: i64| Arg::Const(Array::full(&[], v), DType::I64);
        let float = |v: f32| Arg::Const(Array::full(&[], v), DType::F32);
        let case = |name: &str| Case::new(&format!("Range {name}"), &[]).no_gradient("constant");
        vec![
            case("up").arg(int(1)).arg(int(10)).arg(int(3)),
            case("down").arg(int(5)).arg(int(-4)).arg(int(-2)),
            case("empty").arg(int(5)).arg(int(5)).arg(int(1)),
            case("floats").arg(float(0.5)).arg(float(3.0)).arg(float(0.75)),
        ]
    }
}

pub(super) static OPS: &[&dyn Op] = &[&Shape, &Size, &Constant, &ConstantOfShape, &Range];
