//! Losses: <https://onnx.ai/onnx/operators/onnx__SoftmaxCrossEntropyLoss.html> and the negative log likelihood, which
//! gradients of a whole classifier do not need (the tool has its own), but which models may hold.

use super::composite::{Composite, Parts};
use super::{Arg, Case, Op, Sampler, Spec};
use crate::error::{Error, Result};
use crate::graph::{Attrs, ValueId};
use crate::tensor::{Array, DType};

/// What becomes of the losses of all places.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reduction {
    None,
    Sum,
    Mean,
}

/// `ℓ = −w[t] · log_p[t]` for log-probabilities `[N, C, d…]` and class ids t `[N, d…]`, reduced. Where t is
/// `ignore_index`, loss and weight are 0. Inputs 1 and 2 are t and the weights `[C]`.
fn likelihood(p: &mut Parts, log_p: ValueId) -> Result<ValueId> {
    let (reduction, ignored) = {
        let n = p.view();
        let reduction = match n.string("reduction", "mean")? {
            "none" => Reduction::None,
            "sum" => Reduction::Sum,
            "mean" => Reduction::Mean,
            other => return Err(n.unsupported("reduction", other)),
        };
        let ignored = if n.attrs.get("ignore_index").is_some() { Some(n.int("ignore_index", 0)?) } else { None };
        (reduction, ignored)
    };
    let (target, weight, shape) = (p.x(1)?, p.optional_x(2), p.shape(log_p));
    let &[samples, classes, ref places @ ..] = shape.as_slice() else {
        return Err(Error::format(format!("scores of shape {shape:?} have no axis of classes")));
    };
    if p.shape(target) != [&[samples], places].concat() || !p.dtype(target).is_int() {
        let ty = &p.view().ty(1)?.clone();
        return Err(Error::format(format!("class ids are {ty}, scores have shape {shape:?}")));
    }
    if let Some(w) = weight
        && p.shape(w) != [classes]
    {
        return Err(Error::format(format!("weights have shape {:?}, there are {classes} classes", p.shape(w))));
    }
    let mut along = vec![1; shape.len()];
    along[1] = classes;
    let column = p.unsqueeze(target, &[1])?;
    let (id_type, float) = (p.dtype(target), p.dtype(log_p));
    let ids = p.int_constant(&along, (0..classes as i64).collect(), id_type)?;
    let hot = p.op("Equal", &[column, ids])?;
    let zero = p.scalar_like(0.0, log_p);
    // an ignored class counts for nothing; an id outside the classes meets none of them anyway
    let ignored = ignored.and_then(|i| usize::try_from(i).ok()).filter(|&i| i < classes);
    let mut kept = vec![1.0; classes];
    ignored.into_iter().for_each(|i| kept[i] = 0.0);
    let mut factor = p.float_constant(&along, kept, float)?;
    if let Some(w) = weight {
        let w = p.reshape(w, &along)?;
        factor = p.mul(w, factor)?;
    }
    let mut picked = log_p;
    if let Some(i) = ignored {
        // even where its probability is 0
        let keep = Array::from_vec(&along, (0..classes).map(|c| c != i).collect())?;
        let keep = p.graph().constant(keep);
        picked = p.choose(keep, picked, zero)?;
    }
    let picked = p.choose(hot, picked, zero)?;
    let weighted = p.mul(picked, factor)?;
    let losses = p.reduce_sum(weighted, &[1], false)?;
    let losses = p.neg(losses)?;
    let all: Vec<usize> = (0..shape.len() - 1).collect();
    match reduction {
        Reduction::None => Ok(losses),
        Reduction::Sum => p.reduce_sum(losses, &all, false),
        Reduction::Mean => {
            let sum = p.reduce_sum(losses, &all, false)?;
            let weights = p.choose(hot, factor, zero)?;
            let every: Vec<usize> = (0..shape.len()).collect();
            let total = p.reduce_sum(weights, &every, false)?;
            p.div(sum, total)
        }
    }
}

/// Class ids of these extents.
fn ids(shape: &[usize], v: &[i64], dtype: DType) -> Arg {
    Arg::Fed(Array::from_vec(shape, v.to_vec()).unwrap_or_else(|_| Array::ints(v)), dtype)
}

fn cases(name: &str, scores: &Sampler) -> Vec<Case> {
    let case = |what: &str, shape: &[usize], t: Arg| {
        // GPUs approximate exp and ln
        Case::new(&format!("{name} {what}"), &[shape]).sampled(scores).arg(t).within(2e-5)
    };
    let weighted = |c: Case, classes: usize| c.arg(Arg::Float(vec![classes], Sampler::within(0.5, 1.5)));
    let few = || ids(&[3], &[4, 0, 2], DType::I64);
    let map = || ids(&[2, 3, 2], &[0, 2, 1, 1, 2, 0, 2, 2, 1, 0, 0, 1], DType::I64);
    vec![
        case("mean", &[3, 5], few()),
        case("sum", &[3, 5], few()).attr("reduction", "sum"),
        case("none", &[3, 5], few()).attr("reduction", "none"),
        case("int32", &[3, 5], ids(&[3], &[1, 1, 3], DType::I32)).attr("reduction", "none"),
        weighted(case("weights", &[3, 5], few()), 5),
        weighted(case("weights, sum", &[3, 5], few()), 5).attr("reduction", "sum"),
        case("ignored class", &[3, 5], few()).attr("ignore_index", 0),
        case("ignored beyond the classes", &[3, 5], ids(&[3], &[-100, 3, 1], DType::I64)).attr("ignore_index", -100),
        case("map", &[2, 3, 3, 2], map()),
        case("map, one by one", &[2, 3, 3, 2], map()).attr("reduction", "none"),
        weighted(case("map, weights, ignored", &[2, 3, 3, 2], map()), 3).attr("ignore_index", 1),
        weighted(case("map, ignored one by one", &[2, 3, 3, 2], map()), 3)
            .attr("ignore_index", 2)
            .attr("reduction", "none"),
    ]
}

/// The loss of log-probabilities.
static LIKELIHOOD: Composite = Composite {
    spec: Spec::new("NegativeLogLikelihoodLoss", 22, (2, 3)),
    write: |p| {
        let log_p = p.x(0)?;
        Ok(vec![Some(likelihood(p, log_p)?)])
    },
    cases: || cases("NegativeLogLikelihoodLoss", &Sampler::within(-3.0, -0.1)),
};

/// The loss of scores; output 1 holds their log-probabilities.
static ENTROPY: Composite = Composite {
    spec: Spec::new("SoftmaxCrossEntropyLoss", 13, (2, 3)).outputs(1, 2),
    write: |p| {
        let scores = p.x(0)?;
        let log_p = p.emit("LogSoftmax", &[scores], Attrs::new().with("axis", 1))?;
        let loss = likelihood(p, log_p)?;
        Ok(vec![Some(loss), p.wants(1).then_some(log_p)])
    },
    cases: || {
        let mut cases = cases("SoftmaxCrossEntropyLoss", &Sampler::within(-2.0, 2.0));
        let both = Case::new("SoftmaxCrossEntropyLoss log_prob", &[&[2, 4, 3]])
            .arg(ids(&[2, 3], &[3, 1, 0, 0, 2, 1], DType::I64))
            .within(2e-5) // as above
            .outputs(&[true, true]);
        cases.push(both);
        cases
    },
};

pub(super) static OPS: &[&dyn Op] = &[&LIKELIHOOD, &ENTROPY];
