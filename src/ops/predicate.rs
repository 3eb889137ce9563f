//! Which floats are no numbers: <https://onnx.ai/onnx/operators/onnx__IsNaN.html>,
//! <https://onnx.ai/onnx/operators/onnx__IsInf.html>.

use super::convert::map;
use super::support::given;
use super::unary::kernel;
use super::{Arg, Case, Kernel, NodeView, Op, Spec, Vjp};
use crate::error::{Error, Result};
use crate::graph::{Attrs, Batch, Graph, ValueId};
use crate::tensor::{Array, DType, TensorType};

/// `y = f(x)`, a condition on each float.
struct Predicate {
    name: &'static str,
    /// The branch of `shaders/unary.wgsl`.
    code: u32,
    /// The element, then whether −∞ counts, and whether +∞ does.
    holds: fn(f64, bool, bool) -> bool,
}

impl Predicate {
    /// Whether −∞ counts, and whether +∞ does.
    fn signs(n: &NodeView) -> Result<[bool; 2]> {
        Ok([n.int("detect_negative", 1)? != 0, n.int("detect_positive", 1)? != 0])
    }
}

impl Op for Predicate {
    fn spec(&self) -> Spec {
        Spec::new(self.name, 20, (1, 1))
    }
    fn infer(&self, n: &NodeView) -> Result<Vec<TensorType>> {
        let x = n.ty(0)?;
        if !x.dtype.is_float() {
            return Err(Error::format(format!("{} of {}", self.name, x.dtype)));
        }
        Self::signs(n)?;
        Ok(vec![TensorType::new(DType::Bool, x.shape.clone())])
    }
    fn batch(&self, _: &NodeView, from: &[Batch], _: usize, _: &[TensorType]) -> Vec<Batch> {
        vec![from[0]]
    }
    fn eval(&self, n: &NodeView, x: &[Option<&Array>]) -> Result<Vec<Array>> {
        let ([negative, positive], x) = (Self::signs(n)?, given(x, 0)?);
        let holds = |v: f64| (self.holds)(v, negative, positive);
        Ok(vec![match x {
            Array::F32(_) => map(x, |v: f32| holds(v.into()))?,
            _ => map(x, holds)?,
        }])
    }
    fn vjp(&self, b: &mut Vjp) -> Result<()> {
        Err(b.not_differentiable(0, "conditions are flat"))
    }
    fn kernel(&self, n: &NodeView) -> Result<Kernel> {
        kernel(n, self.code, Self::signs(n)?.map(|s| f64::from(u8::from(s))))
    }
    fn cases(&self) -> Vec<Case> {
        let case = |name: &str| {
            let v = vec![1.0, f32::NAN, f32::INFINITY, -0.0, f32::NEG_INFINITY, f32::MAX, -f32::NAN, f32::MIN];
            let x = Array::from_vec(&[2, 4], v).unwrap_or_else(|_| Array::full(&[], 0f32));
            Case::new(&format!("{} {name}", self.name), &[])
                .arg(Arg::Fed(x, DType::F32))
                .no_gradient("conditions are flat")
        };
        if self.name == "IsNaN" {
            return vec![case("all")];
        }
        vec![case("both"), case("positive").attr("detect_negative", 0), case("negative").attr("detect_positive", 0)]
    }
    fn stacked(&self, g: &mut Graph, inputs: &[Option<ValueId>], attrs: &Attrs, _: usize) -> Result<Option<ValueId>> {
        g.push_some(self.name, inputs, attrs.clone()).map(Some)
    }
}

static IS_NAN: Predicate = Predicate { name: "IsNaN", code: 35, holds: |v, _, _| v.is_nan() };
static IS_INF: Predicate = Predicate {
    name: "IsInf",
    code: 36,
    holds: |v, negative, positive| v == f64::INFINITY && positive || v == f64::NEG_INFINITY && negative,
};

pub(super) static OPS: &[&dyn Op] = &[&IS_NAN, &IS_INF];
