//! Ops that change the element type, or nothing at all: <https://onnx.ai/onnx/operators/>.

use super::constant::{fill, filled};
use super::copy::{Copy, Side};
use super::support::{PARALLEL, given};
use super::{Arg, Bind, Case, Kernel, NodeView, Op, Params, Sampler, Spec, Step, Vjp, grid_1d};
use crate::error::{Error, Result};
use crate::graph::{Attrs, Batch, Graph, ValueId};
use crate::tensor::{Array, DType, Element, TensorType};
use rayon::prelude::*;

pub(super) fn map<A: Element, B: Element>(x: &Array, f: impl Fn(A) -> B + Sync) -> Result<Array> {
    let v = x.slice::<A>()?;
    let mut y = vec![B::default(); v.len()];
    y.par_iter_mut().with_min_len(PARALLEL).zip(v).for_each(|(y, &x)| *y = f(x));
    Array::from_vec(x.shape(), y)
}

/// The lowest bits of an integer in the width of another integer type, as ONNX narrows integers.
pub(super) fn narrow(v: i64, to: DType) -> i64 {
    match to {
        DType::I8 => i64::from(v as i8),
        DType::I16 => i64::from(v as i16),
        DType::I32 => i64::from(v as i32),
        DType::U8 => i64::from(v as u8),
        DType::U16 => i64::from(v as u16),
        DType::U32 => i64::from(v as u32),
        _ => v,
    }
}

pub(super) fn bits(t: DType) -> u32 {
    match t {
        DType::Bool => 1,
        DType::I8 | DType::U8 => 8,
        DType::I16 | DType::U16 => 16,
        DType::I32 | DType::U32 | DType::F32 => 32,
        DType::I64 | DType::U64 | DType::F64 => 64,
    }
}

pub(super) fn signed(t: DType) -> bool {
    matches!(t, DType::I8 | DType::I16 | DType::I32 | DType::I64)
}

/// `x` as elements of another type. Floats are cut towards zero; ONNX leaves open what becomes of those
/// beyond an integer type: here the nearest integer, and 0 for NaN.
pub(super) fn cast(x: &Array, to: DType) -> Result<Array> {
    let (low, high) = to.int_range().unwrap_or((0, 0));
    Ok(match (x, to) {
        (Array::F32(_), DType::F64) | (Array::F64(_), DType::F32) => x.to_float(to),
        (Array::F32(_), DType::F32) | (Array::F64(_), DType::F64) | (Array::Bool(_), DType::Bool) => x.clone(),
        (Array::I64(_), DType::F32) => map(x, |v: i64| v as f32)?,
        (Array::I64(_), DType::F64) => map(x, |v: i64| v as f64)?,
        (Array::Bool(_), DType::F32) => map(x, |v: bool| f32::from(u8::from(v)))?,
        (Array::Bool(_), DType::F64) => map(x, |v: bool| f64::from(u8::from(v)))?,
        (Array::F32(_), DType::Bool) => map(x, |v: f32| v != 0.0)?,
        (Array::F64(_), DType::Bool) => map(x, |v: f64| v != 0.0)?,
        (Array::I64(_), DType::Bool) => map(x, |v: i64| v != 0)?,
        (Array::Bool(_), _) => map(x, |v: bool| i64::from(v))?,
        (Array::I64(_), _) => map(x, |v| narrow(v, to))?,
        (Array::F32(_), _) => map(x, |v: f32| (v as i64).clamp(low, high))?,
        (Array::F64(_), _) => map(x, |v: f64| (v as i64).clamp(low, high))?,
    })
}

/// The same elements in the type that attribute `to` names.
struct Cast;

impl Cast {
    fn to(n: &NodeView) -> Result<DType> {
        let code = n.int("to", 0)?;
        i32::try_from(code).ok().and_then(DType::from_onnx).ok_or_else(|| n.unsupported("to", code))
    }
}

impl Op for Cast {
    fn spec(&self) -> Spec {
        Spec::new("Cast", 25, (1, 1))
    }
    fn infer(&self, n: &NodeView) -> Result<Vec<TensorType>> {
        Ok(vec![TensorType::new(Self::to(n)?, n.shape(0)?)])
    }
    fn batch(&self, _: &NodeView, from: &[Batch], _: usize, _: &[TensorType]) -> Vec<Batch> {
        vec![from[0]]
    }
    fn eval(&self, n: &NodeView, x: &[Option<&Array>]) -> Result<Vec<Array>> {
        Ok(vec![cast(given(x, 0)?, Self::to(n)?)?])
    }
    fn vjp(&self, b: &mut Vjp) -> Result<()> {
        // dx = dy in the type of x; the sweep comes here between float types only
        let to = i64::from(b.dtype(b.x(0)?).onnx());
        let dy = b.dy()?;
        let dx = b.emit("Cast", &[dy], Attrs::new().with("to", to))?;
        b.set_exact(0, dx);
        Ok(())
    }
    fn kernel(&self, n: &NodeView) -> Result<Kernel> {
        let (x, to) = (n.ty(0)?, Self::to(n)?);
        let from = x.dtype;
        let (mut mask, (low, high)) = (bits(to), to.int_range().unwrap_or((0, 0)));
        let mode = match (from, to) {
            (f, DType::Bool) if f != DType::Bool => {
                mask = if f.is_float() { 0x7fff_ffff } else { u32::MAX };
                1
            }
            (f, t) if f.is_float() && t.is_int() => 0,
            // 0 and 1 are the same words as integers
            (f, t) if !f.is_float() && t.is_float() => 2,
            (f, t) if f.is_int() && t.is_int() && bits(t) < 32 && (bits(t) < bits(f) || signed(t) != signed(f)) => 3,
            _ => return Ok(Kernel::Alias),
        };
        let cut = |v: i64| v.clamp(i32::MIN.into(), i32::MAX.into());
        Ok(Kernel::one(Step {
            shader: crate::shader!("convert"),
            overrides: vec![("MODE", f64::from(mode))],
            binds: vec![Bind::Input(0), Bind::Output(0)],
            params: Params::new()
                .u("n", x.len())
                .i("low", cut(low))
                .i("high", cut(high))
                .u("bits", mask as usize)
                .u("signed", usize::from(signed(to))),
            grid: grid_1d(x.len()),
        }))
    }
    fn cases(&self) -> Vec<Case> {
        let to = |t: DType| i64::from(t.onnx());
        // far from whole numbers, where the two precisions could be cut differently
        let s = Sampler { low: -3.9, high: 3.9, avoid: &[-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0], distinct: false };
        let float = |name: &str, t| {
            Case::new(&format!("Cast {name}"), &[&[3, 4]])
                .sampled(&s)
                .attr("to", to(t))
                .no_gradient("but from float to float, which a test of its own checks")
        };
        let fixed = |name: &str, a: Array, from, t| {
            Case::new(&format!("Cast {name}"), &[]).arg(Arg::Fed(a, from)).attr("to", to(t)).no_gradient("integers")
        };
        let floats = |v: &[f32]| Array::from_vec(&[v.len()], v.to_vec()).unwrap_or_else(|_| Array::ints(&[]));
        let bools = Array::from_vec(&[2], vec![true, false]).unwrap_or_else(|_| Array::ints(&[]));
        vec![
            float("float to int64", DType::I64),
            float("float to int32", DType::I32),
            float("float to bool", DType::Bool),
            // float32 to itself in one precision, rounding in the other: central differences would see steps
            float("float to float", DType::F32),
            fixed("beyond int8", floats(&[300.0, -300.0, 127.5, f32::NAN, f32::INFINITY]), DType::F32, DType::I8),
            fixed("beyond uint8", floats(&[300.0, -1.5, -0.5, 7e9]), DType::F32, DType::U8),
            fixed("zeros to bool", floats(&[0.0, -0.0, 1e-30]), DType::F32, DType::Bool),
            fixed("int to float", Array::ints(&[-3, 0, 70_000]), DType::I64, DType::F32),
            fixed("int to bool", Array::ints(&[-3, 0, 256]), DType::I64, DType::Bool),
            fixed("int64 to int8", Array::ints(&[200, -129, 5]), DType::I64, DType::I8),
            fixed("int8 to uint8", Array::ints(&[-1, 0, 5]), DType::I8, DType::U8),
            fixed("int32 to int64", Array::ints(&[-1, 70_000]), DType::I32, DType::I64),
            fixed("bool to float", bools.clone(), DType::Bool, DType::F32),
            fixed("bool to int", bools, DType::Bool, DType::I64),
        ]
    }
    fn import(
        &self,
        g: &mut Graph,
        _: i64,
        inputs: &[Option<ValueId>],
        mut attrs: Attrs,
        wanted: &[bool],
    ) -> Result<Vec<Option<ValueId>>> {
        // newer than our operator set, and about types of eight bits that a graph does not have
        attrs.take("saturate");
        attrs.take("round_mode");
        g.push_multi(&Cast, inputs, attrs, wanted)
    }
    fn stacked(&self, g: &mut Graph, inputs: &[Option<ValueId>], attrs: &Attrs, _: usize) -> Result<Option<ValueId>> {
        g.push_some("Cast", inputs, attrs.clone()).map(Some)
    }
}

/// The same elements in the type of a second input; imported as the Cast that it is.
struct CastLike;

impl Op for CastLike {
    fn spec(&self) -> Spec {
        Spec::new("CastLike", 25, (2, 2))
    }
    fn frozen_inputs(&self) -> &'static [usize] {
        &[1]
    }
    fn infer(&self, n: &NodeView) -> Result<Vec<TensorType>> {
        Ok(vec![TensorType::new(n.dtype(1)?, n.shape(0)?)])
    }
    fn batch(&self, _: &NodeView, from: &[Batch], _: usize, _: &[TensorType]) -> Vec<Batch> {
        vec![from[0]]
    }
    fn eval(&self, n: &NodeView, x: &[Option<&Array>]) -> Result<Vec<Array>> {
        Ok(vec![cast(given(x, 0)?, n.dtype(1)?)?])
    }
    fn vjp(&self, b: &mut Vjp) -> Result<()> {
        Err(b.not_differentiable(0, "it is imported as Cast"))
    }
    fn kernel(&self, _: &NodeView) -> Result<Kernel> {
        Err(Error::unsupported("CastLike is imported as Cast"))
    }
    fn cases(&self) -> Vec<Case> {
        // what is left in a graph after import is Cast; of constants it folds
        let c = |v: f32, t| Arg::Const(Array::full(&[2], v), t);
        let int = Arg::Const(Array::ints(&[0]), DType::I64);
        vec![Case::new("CastLike", &[]).arg(c(2.5, DType::F32)).arg(int).no_gradient("integers")]
    }
    fn import(
        &self,
        g: &mut Graph,
        _: i64,
        inputs: &[Option<ValueId>],
        _: Attrs,
        wanted: &[bool],
    ) -> Result<Vec<Option<ValueId>>> {
        let [Some(x), Some(like)] = *inputs else {
            return Err(Error::format("two inputs are needed"));
        };
        let to = i64::from(g.dtype(like).onnx());
        g.push_multi(&Cast, &[Some(x)], Attrs::new().with("to", to), wanted)
    }
}

/// `y = !x`
struct Not;

impl Op for Not {
    fn spec(&self) -> Spec {
        Spec::new("Not", 1, (1, 1))
    }
    fn infer(&self, n: &NodeView) -> Result<Vec<TensorType>> {
        if n.dtype(0)? != DType::Bool {
            return Err(Error::format(format!("the operand is {}", n.dtype(0)?)));
        }
        Ok(vec![n.ty(0)?.clone()])
    }
    fn batch(&self, _: &NodeView, from: &[Batch], _: usize, _: &[TensorType]) -> Vec<Batch> {
        vec![from[0]]
    }
    fn eval(&self, _: &NodeView, x: &[Option<&Array>]) -> Result<Vec<Array>> {
        Ok(vec![map(given(x, 0)?, |v: bool| !v)?])
    }
    fn vjp(&self, b: &mut Vjp) -> Result<()> {
        Err(b.not_differentiable(0, "logic is flat"))
    }
    fn kernel(&self, n: &NodeView) -> Result<Kernel> {
        let len = n.ty(0)?.len();
        Ok(Kernel::one(Step {
            shader: crate::shader!("convert"),
            overrides: vec![("MODE", 4.0)],
            binds: vec![Bind::Input(0), Bind::Output(0)],
            params: Params::new().u("n", len).i("low", 0).i("high", 0).u("bits", 0).u("signed", 0),
            grid: grid_1d(len),
        }))
    }
    fn cases(&self) -> Vec<Case> {
        let bools = Array::from_vec(&[3], vec![true, false, true]).unwrap_or_else(|_| Array::ints(&[]));
        vec![Case::new("Not", &[]).arg(Arg::Fed(bools, DType::Bool)).no_gradient("logic")]
    }
}

/// Inference only: `y = x`, and nothing is masked. Training mode is refused, unless nothing is dropped in it: exporters
/// write it with a ratio of 0 where a model calls the function with its own defaults (Swin).
struct Dropout;

impl Dropout {
    fn refuse_training(n: &NodeView) -> Result<()> {
        let training = n.optional(2).is_some() && n.constant(2)?.to_f64().first() != Some(&0.0);
        let drops = n.optional(1).is_none() || n.constant(1)?.to_f64().first() != Some(&0.0);
        if training && drops {
            return Err(Error::unsupported("training_mode = true is not supported: it would draw at random"));
        }
        Ok(())
    }
}

impl Op for Dropout {
    fn spec(&self) -> Spec {
        Spec::new("Dropout", 22, (1, 3)).outputs(1, 2)
    }
    fn frozen_inputs(&self) -> &'static [usize] {
        &[1]
    }
    fn infer(&self, n: &NodeView) -> Result<Vec<TensorType>> {
        Self::refuse_training(n)?;
        Ok(vec![n.ty(0)?.clone(), TensorType::new(DType::Bool, n.shape(0)?)])
    }
    fn batch(&self, _: &NodeView, from: &[Batch], _: usize, _: &[TensorType]) -> Vec<Batch> {
        vec![from[0]; 2]
    }
    fn eval(&self, _: &NodeView, x: &[Option<&Array>]) -> Result<Vec<Array>> {
        let x = given(x, 0)?;
        Ok(vec![x.clone(), Array::full(x.shape(), true)])
    }
    fn vjp(&self, b: &mut Vjp) -> Result<()> {
        // dx = dy
        let dy = b.dy()?;
        b.set_exact(0, dy);
        for i in 1..b.n_inputs() {
            if b.wants(i) {
                return Err(b.not_differentiable(i, "it is not used in inference"));
            }
        }
        Ok(())
    }
    fn kernel(&self, n: &NodeView) -> Result<Kernel> {
        if !n.wants(1) {
            return Ok(Kernel::Alias);
        }
        let x = n.shape(0)?;
        let mut steps = Vec::new();
        if n.wants(0) {
            steps.extend(Copy::into_whole(x, &Side::whole(x)).step(Bind::Input(0), Bind::Output(0))?);
        }
        steps.extend(fill(1, n.ty(0)?.len(), 1));
        Ok(Kernel::many(steps))
    }
    fn cases(&self) -> Vec<Case> {
        let ratio = |v: f32| Arg::Const(Array::full(&[], v), DType::F32);
        let training = |v: bool| Arg::Const(Array::full(&[], v), DType::Bool);
        vec![
            Case::new("Dropout", &[&[3, 4]]),
            Case::new("Dropout with mask", &[&[3, 4]]).arg(ratio(0.3)).arg(training(false)).outputs(&[true, true]),
            Case::new("Dropout of nothing", &[&[3, 4]]).arg(ratio(0.0)).arg(training(true)),
        ]
    }
    fn import(
        &self,
        g: &mut Graph,
        opset: i64,
        inputs: &[Option<ValueId>],
        attrs: Attrs,
        wanted: &[bool],
    ) -> Result<Vec<Option<ValueId>>> {
        // checks everything, and needs no node where the mask is unused
        self.spec().check_arity(inputs, wanted)?;
        Self::refuse_training(&g.view(self, "", inputs, &attrs, wanted))?;
        let Some(x) = inputs[0] else {
            return Err(Error::format("input 0 is missing"));
        };
        let mut out = g.push_multi(super::find("Identity")?, &[Some(x)], Attrs::new(), &[wanted[0]])?;
        if wanted.get(1) == Some(&true) {
            let shape = g.shape(x).to_vec();
            // before operator set 10 the mask had the type of x
            let dtype = if opset < 10 { g.dtype(x) } else { DType::Bool };
            let mask = cast(&filled(&shape, &Array::full(&[], true))?, dtype)?;
            out.push(Some(g.constant_as(mask, dtype)));
        }
        Ok(out)
    }
}

pub(super) static OPS: &[&dyn Op] = &[&Cast, &CastLike, &Not, &Dropout];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autodiff::{Samples, backward};

    #[test]
    fn gradient_of_a_cast_has_the_type_of_its_input() {
        let mut g = Graph::new(0);
        let x = g.input("x", TensorType::new(DType::F32, [2]), Batch::None);
        let y = g.push("Cast", &[x], Attrs::new().with("to", i64::from(DType::F64.onnx()))).unwrap();
        let dy = g.input("dy", TensorType::new(DType::F64, [2]), Batch::None);
        let dx = backward(&mut g, &[(y, dy)], &[x], Samples::Summed).unwrap()[0].unwrap();
        assert_eq!(g.value(dx).ty, TensorType::new(DType::F32, [2]));
    }

    #[test]
    fn dropout_becomes_identity_and_refuses_training() {
        let mut g = Graph::new(0);
        let x = g.input("x", TensorType::new(DType::F32, [2]), Batch::None);
        let ratio = Attrs::new().with("ratio", 0.5f32);
        let y = Dropout.import(&mut g, 7, &[Some(x)], ratio, &[true, true]).unwrap();
        assert_eq!(g.nodes()[0].op.spec().name, "Identity");
        assert_eq!(g.constant_of(y[1].unwrap()), Some(&Array::full(&[2], 1f32)));
        let yes = g.constant(Array::full(&[], true));
        let e = Dropout.import(&mut g, 13, &[Some(x), None, Some(yes)], Attrs::new(), &[true]).unwrap_err();
        assert!(e.to_string().contains("training_mode = true"), "{e}");
    }

    #[test]
    fn an_unknown_type_is_named() {
        let mut g = Graph::new(0);
        let x = g.input("x", TensorType::new(DType::F32, [2]), Batch::None);
        let e = g.push("Cast", &[x], Attrs::new().with("to", 8)).unwrap_err();
        assert!(e.to_string().contains("to = 8"), "{e}");
    }
}
