//! Finding the softmax or sigmoid at the end of a graph by what it computes, so that one in several nodes (Exp,
//! ReduceSum and Div, with or without the maximum taken off, Log of Softmax, …) is found like one in a single node.

use super::{per_sample, producer};
use crate::error::{Error, Result};
use crate::graph::{Graph, Source, ValueId, passes};
use crate::tensor::Array;
use std::collections::{BTreeSet, HashMap};

/// A head of more nodes than this is not looked through.
const MOST_NODES: usize = 24;
/// The numbers that are put in lie between minus and plus this. Probabilities then go down to 1e-7, which a sum in
/// f32 still tells apart.
const RANGE: f64 = 8.0;
/// As many numbers are put in at least.
const LEAST_NUMBERS: usize = 16;

/// What stands between logits and answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Softmax,
    LogSoftmax,
    /// Of one number, which names two classes.
    Sigmoid,
    /// `[1 − σ(z), σ(z)]`
    SigmoidPair,
    /// Of each of several numbers.
    Sigmoids,
}

impl Form {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Softmax => "Softmax",
            Self::LogSoftmax => "LogSoftmax",
            Self::Sigmoid | Self::SigmoidPair | Self::Sigmoids => "Sigmoid",
        }
    }
    /// The forms from `m` numbers a sample to `k`.
    fn candidates(m: usize, k: usize) -> &'static [Self] {
        match (m, k) {
            (1, 1) => &[Self::Sigmoid],
            (1, 2) => &[Self::SigmoidPair],
            (m, k) if m == k => &[Self::Softmax, Self::LogSoftmax, Self::Sigmoids],
            _ => &[],
        }
    }
    /// What this form makes of the numbers of one sample.
    fn of(self, z: &[f64]) -> Vec<f64> {
        let sigmoid = |z: f64| 1.0 / (1.0 + (-z).exp());
        let total: f64 = z.iter().map(|z| z.exp()).sum();
        match self {
            Self::Softmax => z.iter().map(|z| z.exp() / total).collect(),
            Self::LogSoftmax => z.iter().map(|z| z - total.ln()).collect(),
            Self::Sigmoid | Self::Sigmoids => z.iter().map(|&z| sigmoid(z)).collect(),
            Self::SigmoidPair => z.iter().flat_map(|&z| [sigmoid(-z), sigmoid(z)]).collect(),
        }
    }
}

/// The form that makes `y`, which holds `k` numbers a sample, and the value it is made from: the earliest of which `y`
/// is a function, found by putting numbers in and comparing what comes out.
///
/// # Errors
/// For a sigmoid of each of several classes, which is no classifier of one class a sample.
pub(super) fn recognise(g: &Graph, y: ValueId, k: usize) -> Result<Option<(Form, ValueId)>> {
    let mut found = None;
    for x in before(g, y) {
        let Some(m) = per_sample(g, x) else { continue };
        let forms = Form::candidates(m, k);
        let Some((z, got)) = (m > 0 && !forms.is_empty()).then(|| probe(g, x, m, y)).flatten() else { continue };
        let fits = |form: &&Form| {
            let want: Vec<f64> = z.chunks(m).flat_map(|row| form.of(row)).collect();
            got.len() == want.len() && got.iter().zip(&want).all(|(g, w)| (g - w).abs() <= 1e-6 + 1e-4 * w.abs())
        };
        if let Some(&form) = forms.iter().find(fits) {
            found = Some((form, x));
        }
    }
    match found {
        Some((Form::Sigmoids, _)) => Err(Error::unsupported(format!(
            "output '{}' is a Sigmoid of each of {k} classes: a model of several classes a sample, where one class is \
             needed",
            g.label(y)
        ))),
        found => Ok(found),
    }
}

/// Values that `y` is made from without weights, the latest first.
fn before(g: &Graph, y: ValueId) -> Vec<ValueId> {
    let mut open = BTreeSet::from([y]);
    let mut out = Vec::new();
    // ids grow along the graph: the greatest comes after all others that it could be made from
    while let Some(id) = open.pop_last() {
        if id != y {
            out.push(id);
        }
        let Some(node) = producer(g, id).filter(|_| out.len() < MOST_NODES) else { continue };
        let inputs = || node.inputs.iter().flatten().copied();
        let only_answers = inputs().all(|i| match g.value(i).source {
            Source::Const(_) => true,
            Source::Weight(_) => false,
            _ => g.value(i).batch != crate::graph::Batch::None,
        });
        if only_answers {
            open.extend(inputs().filter(|&i| g.constant_of(i).is_none()));
        }
    }
    out
}

/// Numbers for `x`, and what they make of `y`; `None` where `y` depends on something else as well.
fn probe(g: &Graph, x: ValueId, m: usize, y: ValueId) -> Option<(Vec<f64>, Vec<f64>)> {
    let n = g.batch * m;
    let (mut all, mut out) = (Vec::new(), Vec::new());
    while all.len() < LEAST_NUMBERS {
        // spread evenly by the golden ratio: no two near each other, and the same in every run
        let at = |i: usize| ((all.len() + i + 1) as f64 * 0.618_033_988_749_895).fract();
        let z: Vec<f64> = (0..n).map(|i| RANGE * (2.0 * at(i) - 1.0)).collect();
        let data = Array::from_vec(g.shape(x), z.clone()).ok()?.to_float(g.dtype(x));
        let mut to = Graph::new(g.batch);
        let constant = to.constant_as(data, g.dtype(x));
        let mut map = HashMap::from([(x, constant)]);
        passes::replay(g, &mut to, &[y], &mut map).ok()?;
        out.extend(to.constant_of(*map.get(&y)?)?.to_f64());
        all.extend(z);
    }
    Some((all, out))
}
