//! Activations made of other ops.

use super::composite::Composite;
use super::{Case, Op, Spec};

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

pub(super) static OPS: &[&dyn Op] = &[&SWISH];
