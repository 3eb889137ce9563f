//! Ops that ONNX has under another name since.

use super::composite::Composite;
use super::{Arg, Case, Op, Spec};
use crate::tensor::{Array, DType};

/// <https://onnx.ai/onnx/operators/onnx__Scatter.html>: `ScatterElements` since operator set 11
static SCATTER: Composite = Composite {
    spec: Spec::new("Scatter", 11, (3, 3)),
    write: |p| {
        let (data, indices, updates) = (p.x(0)?, p.x(1)?, p.x(2)?);
        let attrs = p.view().attrs.clone();
        Ok(vec![Some(p.emit("ScatterElements", &[data, indices, updates], attrs)?)])
    },
    cases: || {
        let at = |v: [i64; 4]| {
            Arg::Fed(Array::from_vec(&[2, 2], v.to_vec()).unwrap_or_else(|_| Array::ints(&[0])), DType::I64)
        };
        let updates = || Arg::Float(vec![2, 2], super::Sampler::within(-2.0, 2.0));
        vec![
            Case::new("Scatter rows", &[&[3, 4]]).arg(at([0, 2, 1, 0])).arg(updates()),
            Case::new("Scatter columns", &[&[3, 4]]).arg(at([0, 3, -2, 1])).arg(updates()).attr("axis", 1),
        ]
    },
};

pub(super) static OPS: &[&dyn Op] = &[&SCATTER];
