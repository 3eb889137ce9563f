//! The checks that every op has to pass reject a wrong op.

mod common;

use common::{build, central_differences, close, run};
use onnx_unlearn::Result;
use onnx_unlearn::engine::cpu::Cpu;
use onnx_unlearn::graph::{Attrs, Batch, Graph, ValueId};
use onnx_unlearn::ops::{self, Case, Kernel, NodeView, Op, Spec, Vjp};
use onnx_unlearn::tensor::{Array, DType, TensorType};

/// An op of the table with another derivative rule, or with results that are off by a factor.
struct Altered {
    real: &'static str,
    vjp: Option<fn(&mut Vjp) -> Result<()>>,
    factor: f64,
}

impl Altered {
    const fn rule(real: &'static str, vjp: fn(&mut Vjp) -> Result<()>) -> Self {
        Self { real, vjp: Some(vjp), factor: 1.0 }
    }
    fn real(&self) -> &'static dyn Op {
        ops::find(self.real).unwrap()
    }
}

impl Op for Altered {
    fn spec(&self) -> Spec {
        self.real().spec()
    }
    fn infer(&self, n: &NodeView) -> Result<Vec<TensorType>> {
        self.real().infer(n)
    }
    fn batch(&self, n: &NodeView, from: &[Batch], samples: usize, out: &[TensorType]) -> Vec<Batch> {
        self.real().batch(n, from, samples, out)
    }
    fn eval(&self, n: &NodeView, x: &[Option<&Array>]) -> Result<Vec<Array>> {
        let scaled = |a: Array| {
            let v = a.to_f64().into_iter().map(|v| v * self.factor).collect();
            Ok(Array::from_vec(a.shape(), v)?.to_float(a.dtype()))
        };
        self.real().eval(n, x)?.into_iter().map(scaled).collect()
    }
    fn vjp(&self, b: &mut Vjp) -> Result<()> {
        match self.vjp {
            Some(rule) => rule(b),
            None => self.real().vjp(b),
        }
    }
    fn kernel(&self, n: &NodeView) -> Result<Kernel> {
        self.real().kernel(n)
    }
    fn cases(&self) -> Vec<Case> {
        self.real().cases()
    }
    fn lower(&self, g: &mut Graph, inputs: &[Option<ValueId>], attrs: &Attrs) -> Result<Option<Vec<ValueId>>> {
        self.real().lower(g, inputs, attrs)
    }
}

/// How many of the op's cases pass the check of central differences, of how many.
fn passes(op: &'static dyn Op) -> (usize, usize) {
    let cases = op.cases();
    (cases.iter().filter(|c| central_differences(op, c).is_ok()).count(), cases.len())
}

/// No case of a wrong rule may pass; `what` says what is wrong with it.
fn rejected(op: &'static Altered, what: &str) {
    let (passed, all) = passes(op.real());
    assert_eq!(passed, all, "{} itself", op.real);
    for case in op.cases() {
        let found = central_differences(op, &case);
        let e = found.err().unwrap_or_else(|| panic!("{} with {what} passes in case {}", op.real, case.name));
        assert!(e.contains("gradient of input slot"), "{} with {what} fails for another reason: {e}", op.real);
    }
}

#[test]
fn the_wrapper_itself_is_harmless() {
    static SAME: Altered = Altered { real: "Tanh", vjp: None, factor: 1.0 };
    assert_eq!(passes(&SAME), passes(SAME.real()));
}

#[test]
fn a_factor_of_one_thousandth_is_rejected() {
    static TANH: Altered = Altered::rule("Tanh", |b| {
        // dx = dy (1 − y²) · 1.001
        let (y, dy) = (b.y(0)?, b.dy()?);
        let square = b.mul(y, y)?;
        let minus = b.neg(square)?;
        let slope = b.shift(minus, 1.0)?;
        let right = b.mul(dy, slope)?;
        let dx = b.scale(right, 1.001)?;
        b.set_dx(0, dx);
        Ok(())
    });
    rejected(&TANH, "a gradient 1.001 times too great");
}

#[test]
fn a_wrong_sign_in_one_input_is_rejected() {
    static SIGN: Altered = Altered::rule("Exp", |b| {
        // dx = −dy y
        let (y, dy) = (b.y(0)?, b.dy()?);
        let product = b.mul(dy, y)?;
        let dx = b.neg(product)?;
        b.set_dx(0, dx);
        Ok(())
    });
    rejected(&SIGN, "the wrong sign");
}

#[test]
fn a_missing_transposition_is_rejected() {
    static STRAIGHT: Altered = Altered::rule("MatMul", |b| {
        // da = dy · b and db = a · dy, where dy · bᵀ and aᵀ · dy are right
        let (p, q, dy) = (b.x(0)?, b.x(1)?, b.dy()?);
        let da = b.op("MatMul", &[dy, q])?;
        let db = b.op("MatMul", &[p, dy])?;
        b.set_exact(0, da);
        b.set_exact(1, db);
        Ok(())
    });
    // square operands, or the shapes alone would tell
    let square = Case::new("MatMul square", &[&[3, 3], &[3, 3]]);
    central_differences(STRAIGHT.real(), &square).unwrap();
    let e = central_differences(&STRAIGHT, &square).unwrap_err();
    assert!(e.contains("gradient of input slot 0"), "{e}");
}

#[test]
fn a_gradient_of_the_wrong_input_is_rejected() {
    static SWAPPED: Altered = Altered::rule("Mul", |b| {
        // da = dy · a and db = dy · b, where dy · b and dy · a are right
        let (p, q, dy) = (b.x(0)?, b.x(1)?, b.dy()?);
        let (da, db) = (b.mul(dy, p)?, b.mul(dy, q)?);
        b.set_dx(0, da);
        b.set_dx(1, db);
        Ok(())
    });
    let same = Case::new("Mul square", &[&[2, 3], &[2, 3]]);
    central_differences(SWAPPED.real(), &same).unwrap();
    central_differences(&SWAPPED, &same).unwrap_err();
}

/// The comparison of engines with the reference sees results that are off by ten times the tolerance.
#[test]
fn results_off_by_a_little_are_rejected() {
    static OFF: Altered = Altered { real: "Exp", vjp: None, factor: 1.0 + 1e-4 };
    for case in OFF.cases() {
        let outputs = |op: &'static dyn Op, dtype| {
            let b = build(op, &case, dtype).unwrap();
            run(&Cpu, &b.graph, &b.feeds).unwrap()
        };
        let want = outputs(OFF.real(), DType::F64);
        close(&outputs(OFF.real(), DType::F32), &want, case.tolerance).unwrap();
        close(&outputs(&OFF, DType::F32), &want, case.tolerance).unwrap_err();
    }
}
