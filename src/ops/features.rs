//! What scikit-learn's pipelines do to features before a network sees them: ops of the domain `ai.onnx.ml`.

use super::composite::{Composite, Parts};
use super::{Case, Op, Sampler, Spec};
use crate::error::{Error, Result};
use crate::graph::{Attr, Attrs, ValueId};
use crate::tensor::{Array, DType};

/// Input 0 as floats: these ops take integers as well.
fn features(p: &mut Parts) -> Result<ValueId> {
    let x = p.x(0)?;
    if p.dtype(x).is_float() {
        return Ok(x);
    }
    p.emit("Cast", &[x], Attrs::new().with("to", i64::from(DType::F32.onnx())))
}

/// An attribute with one number for all features or one for each, as a constant; `None` where it is left out.
fn for_features(p: &mut Parts, name: &str, x: ValueId) -> Result<Option<ValueId>> {
    let values = match p.view().attrs.get(name) {
        None => return Ok(None),
        Some(Attr::Floats(v)) if v.is_empty() => return Ok(None),
        Some(Attr::Floats(v)) => v.clone(),
        Some(a) => return Err(Error::format(format!("attribute {name} = {a:?} is not a list of floats"))),
    };
    let features = p.shape(x).last().copied().unwrap_or(1);
    if values.len() != 1 && values.len() != features {
        let given = values.len();
        return Err(Error::format(format!("attribute {name} has {given} numbers for {features} features")));
    }
    let (dtype, shape) = (p.dtype(x), [values.len()]);
    Ok(Some(p.graph().constant(Array::from_vec(&shape, values)?.to_float(dtype))))
}

/// <https://onnx.ai/onnx/operators/onnx_aionnxml_Scaler.html>: `(x − offset) · scale`
static SCALER: Composite = Composite {
    spec: Spec::of_domain("ai.onnx.ml", "Scaler", (1, 1)),
    write: |p| {
        let mut x = features(p)?;
        if let Some(offset) = for_features(p, "offset", x)? {
            x = p.sub(x, offset)?;
        }
        if let Some(scale) = for_features(p, "scale", x)? {
            x = p.mul(x, scale)?;
        }
        Ok(vec![Some(x)])
    },
    cases: || {
        vec![
            Case::new("Scaler each feature", &[&[4, 3]])
                .attr("offset", vec![0.5f32, -1.0, 2.0])
                .attr("scale", vec![2.0f32, 0.25, -1.5]),
            Case::new("Scaler all features alike", &[&[2, 5]]).attr("offset", vec![0.5f32]).attr("scale", vec![3.0f32]),
            Case::new("Scaler scale alone", &[&[2, 2]]).attr("scale", vec![0.5f32, 4.0]),
        ]
    },
};

/// <https://onnx.ai/onnx/operators/onnx_aionnxml_Normalizer.html>: `x / norm(x)` of every row
static NORMALIZER: Composite = Composite {
    spec: Spec::of_domain("ai.onnx.ml", "Normalizer", (1, 1)),
    write: |p| {
        let x = features(p)?;
        let norm = p.view().string("norm", "MAX")?.to_owned();
        let over = |op: &str| (op.to_owned(), Attrs::new().with("keepdims", 1));
        let (op, attrs) = match norm.as_str() {
            "MAX" => over("ReduceMax"),
            "L1" => over("ReduceL1"),
            "L2" => over("ReduceL2"),
            other => return Err(p.view().unsupported("norm", other)),
        };
        let last = i64::try_from(p.shape(x).len()).unwrap_or(1) - 1;
        let axes = p.graph().ints(&[last]);
        let norm = p.emit(&op, &[x, axes], attrs)?;
        // a row of nothing stays one
        let (zero, one) = (p.scalar_like(0.0, norm), p.scalar_like(1.0, norm));
        let is_none = p.op("Equal", &[norm, zero])?;
        let norm = p.choose(is_none, one, norm)?;
        Ok(vec![Some(p.div(x, norm)?)])
    },
    cases: || {
        let case = |norm: &str| {
            Case::new(&format!("Normalizer {norm}"), &[])
                .arg(super::Arg::Float(vec![3, 4], Sampler::within(0.5, 2.0)))
                .attr("norm", norm)
        };
        ["MAX", "L1", "L2"].map(case).into()
    },
};

/// <https://onnx.ai/onnx/operators/onnx_aionnxml_Binarizer.html>: 1 above the threshold, else 0
static BINARIZER: Composite = Composite {
    spec: Spec::of_domain("ai.onnx.ml", "Binarizer", (1, 1)),
    write: |p| {
        let x = features(p)?;
        let threshold = p.view().float("threshold", 0.0)?;
        let bound = p.scalar_like(threshold, x);
        let is_above = p.op("Greater", &[x, bound])?;
        let (one, zero) = (p.scalar_like(1.0, x), p.scalar_like(0.0, x));
        Ok(vec![Some(p.choose(is_above, one, zero)?)])
    },
    cases: || vec![Case::new("Binarizer", &[&[3, 4]]).attr("threshold", 0.25f32).no_gradient("it is flat")],
};

/// <https://onnx.ai/onnx/operators/onnx_aionnxml_ArrayFeatureExtractor.html>: some features of every row, by their numbers
static EXTRACTOR: Composite = Composite {
    spec: Spec::of_domain("ai.onnx.ml", "ArrayFeatureExtractor", (2, 2)),
    write: |p| {
        let (mut x, numbers) = (p.x(0)?, p.x(1)?);
        let (shape, count) = (p.shape(x), p.shape(numbers).iter().product());
        if let [features] = shape[..] {
            x = p.reshape(x, &[1, features])?;
        }
        let numbers = p.reshape(numbers, &[count])?;
        Ok(vec![Some(p.emit("Gather", &[x, numbers], Attrs::new().with("axis", -1))?)])
    },
    cases: || {
        vec![
            Case::new("ArrayFeatureExtractor rows", &[&[3, 5]]).ints(&[4, 0, 4]),
            Case::new("ArrayFeatureExtractor one row", &[&[5]]).ints(&[2, 1]),
        ]
    },
};

pub(super) static OPS: &[&dyn Op] = &[&SCALER, &NORMALIZER, &BINARIZER, &EXTRACTOR];
