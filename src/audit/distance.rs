//! Measure 3: how far the answers to forgotten samples are from those of a model that never saw the class.

use super::observe::{Observer, Seen};
use super::{Case, FORGOTTEN, Measure, Number, Unit, Verdict, bands, mean_of, stats};
use crate::error::Result;
use crate::graph::Source;
use crate::inputs::{generator, shuffle};
use crate::tensor::Array;
use std::collections::BTreeMap;
use std::f64::consts::LN_2;

const ID: &str = "distance";
const NAME: &str = "distance to never having seen it";

/// Log-probabilities count as no less, so that a class that is cut off does not make a divergence infinite: the least that
/// float32 tells from 0.
const FLOOR: f64 = -87.0;

/// `Σ p (log p − log q)` of two rows of log-probabilities; in nats.
pub fn kullback_leibler(log_p: &[f64], log_q: &[f64]) -> f64 {
    log_p.iter().zip(log_q).map(|(&p, &q)| p.exp() * (p.max(FLOOR) - q.max(FLOOR))).sum()
}

/// `½ KL(p ‖ m) + ½ KL(q ‖ m)` with `m = ½ (p + q)` of two rows of log-probabilities; in nats, at most ln 2.
pub fn jensen_shannon(log_p: &[f64], log_q: &[f64]) -> f64 {
    let middle: Vec<f64> = log_p.iter().zip(log_q).map(|(p, q)| (0.5 * (p.exp() + q.exp())).ln()).collect();
    0.5 * (kullback_leibler(log_p, &middle) + kullback_leibler(log_q, &middle))
}

/// `‖p − q‖₂` of two rows of log-probabilities (Golatkar et al., arXiv 1911.04933).
pub fn activation_distance(log_p: &[f64], log_q: &[f64]) -> f64 {
    log_p.iter().zip(log_q).map(|(p, q)| (p.exp() - q.exp()).powi(2)).sum::<f64>().sqrt()
}

type Distance = fn(&[f64], &[f64]) -> f64;

pub(super) fn measure(case: &Case) -> Result<Measure> {
    if case.shown.references.is_empty() { without_reference(case) } else { Ok(with_reference(case)) }
}

/// Distance of two models on every forgotten sample.
fn between(case: &Case, a: &Seen, b: &Seen, distance: Distance) -> Vec<f64> {
    let (a, b, k) = (a.log_p(), b.log_p(), case.class_count);
    let row = |v: &'_ [f64], i: usize| v[i * k..(i + 1) * k].to_vec();
    case.positions(true).into_iter().map(|i| distance(&row(&a, i), &row(&b, i))).collect()
}

fn with_reference(case: &Case) -> Measure {
    let references = &case.shown.references;
    // of every sample the mean over the references
    let to_references = |seen: &Seen, distance: Distance| -> Vec<f64> {
        let all: Vec<Vec<f64>> = references.iter().map(|r| between(case, r, seen, distance)).collect();
        let n = all.first().map_or(0, Vec::len);
        (0..n).map(|i| all.iter().map(|v| v[i]).sum::<f64>() / all.len() as f64).collect()
    };
    let pairs: Vec<(&Seen, &Seen)> =
        (0..references.len()).flat_map(|i| (0..i).map(move |j| (&references[i], &references[j]))).collect();
    let reversed: Distance = |p, q| kullback_leibler(q, p);
    let named: [(&str, &str, Unit, Distance); 4] = [
        ("js", "Jensen–Shannon divergence from the reference", Unit::Nats, jensen_shannon),
        ("kl", "KL(reference ‖ AFTER)", Unit::Nats, kullback_leibler),
        ("kl_reversed", "KL(AFTER ‖ reference)", Unit::Nats, reversed),
        ("activation_distance", "activation distance from the reference", Unit::Plain, activation_distance),
    ];
    let numbers: Vec<Number> = named
        .into_iter()
        .map(|(id, name, unit, distance)| {
            let each = to_references(&case.shown.after, distance);
            let (value, interval) = stats::mean_within(&each, case.seed());
            let number = Number::new(id, name, unit, value, each.len(), FORGOTTEN)
                .within(interval)
                .before(stats::mean(&to_references(&case.shown.before, distance)))
                .reference(mean_of(&pairs, |(a, b)| stats::mean(&between(case, a, b, distance))));
            if id == "js" { number.judged(bands::DISTANCE) } else { number }
        })
        .collect();
    let js = &numbers[0];
    let says = match js.verdict {
        Some(Verdict::Pass) => "close to those of a model that never saw the class",
        Some(Verdict::Fail) => "unlike those of a model that never saw the class",
        _ => "somewhat unlike those of a model that never saw the class",
    };
    let meaning = format!(
        "answers to forgotten samples are {says}: {:.3} of at most {LN_2:.3} nats ({:.3} before)",
        js.value.unwrap_or(f64::NAN),
        js.before.unwrap_or(f64::NAN)
    );
    let among = match references.len() {
        1 => "with one reference there is no telling how far two such models are from each other".to_owned(),
        k => format!("the reference value is the distance among the {k} references"),
    };
    Measure::new(ID, NAME, numbers, meaning)
        .detail(among)
        .detail("log-probabilities are cut at −87, so that a class that is cut off leaves KL finite")
}

/// ZRF: likeness of the answers to those of a model of random weights.
fn without_reference(case: &Case) -> Result<Measure> {
    let teacher = random_teacher(case)?;
    let zrf = |seen: &Seen| -> Vec<f64> {
        between(case, seen, &teacher, jensen_shannon).into_iter().map(|d| 1.0 - d / LN_2).collect()
    };
    let (after, before) = (zrf(&case.shown.after), zrf(&case.shown.before));
    let (value, interval) = stats::mean_within(&after, case.seed());
    let lost: Vec<f64> = before.iter().zip(&after).map(|(b, a)| b - a).collect();
    let (excess, within) = stats::mean_within(&lost, case.seed());
    let number =
        Number::new("zrf", "likeness to a random model's answers (ZRF)", Unit::Plain, value, after.len(), FORGOTTEN)
            .within(interval)
            .before(stats::mean(&before))
            .judged_by(excess, Some(within), bands::ZRF_LOSS);
    let says = if number.verdict == Some(Verdict::Pass) { "less sure than" } else { "about as sure as" };
    let meaning = format!("answers to forgotten samples are {says} before; without a reference this is weak evidence");
    Ok(Measure::new(ID, NAME, vec![number], meaning)
        .detail("zero retrain forgetting, 1 − JS / ln 2 (Chundawat et al., arXiv 2205.08096), against BEFORE with the elements of every weight in random order; it sees only how random answers are, never fails, and is weaker than a distance to a reference (--reference)"))
}

/// What BEFORE shows on the data with the elements of every weight in random order.
fn random_teacher(case: &Case) -> Result<Seen> {
    let mut replaced = BTreeMap::new();
    let bound = case.models.before.bind(1)?;
    for (k, (name, id)) in bound.weights.iter().enumerate() {
        if let Source::Weight(data) = &bound.graph.value(*id).source {
            let mut rng = generator(case.seed(), b"teacher");
            rng.set_stream(k as u64);
            let mut elements = data.to_f64();
            shuffle(&mut elements, &mut rng);
            replaced.insert(name.clone(), Array::from_vec(data.shape(), elements)?.to_float(data.dtype()));
        }
    }
    Observer::with_weights(case.models.before, case.engine, case.samples.data.len(), &replaced)?.see(case.samples.data)
}
