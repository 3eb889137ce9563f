//! Measure 4: telling forgotten samples from others by the probabilities of the remaining classes.

use super::logistic::cross_fit;
use super::observe::Seen;
use super::stats::Auc;
use super::{ALL, Case, Measure, Number, Unit, Verdict, bands, mean_of};
use crate::forget::answers::Answers;
use ndarray::Array2;

const ID: &str = "leak";
const NAME: &str = "class leak";

/// No remaining log-probability counts as less than this: the least that float32 tells from 0.
const FLOOR: f64 = -87.0;

pub(super) fn measure(case: &Case) -> Measure {
    let retained = case.retained();
    if retained.len() < 2 {
        return Measure::not_measured(ID, NAME, "one class remains, so that its probability is always 1");
    }
    let of = |seen: &Seen| attacks(case, seen, &retained);
    let after = of(&case.shown.after);
    let before = of(&case.shown.before);
    let references: Vec<[Auc; 3]> = case.shown.references.iter().map(of).collect();
    let named = [
        ("auc_max", "AUC by the greatest remaining probability"),
        ("auc_entropy", "AUC by the entropy of the remaining probabilities"),
        ("auc_linear", "AUC by a linear reader of the remaining log-probabilities"),
    ];
    let numbers: Vec<Number> = named
        .iter()
        .enumerate()
        .map(|(k, (id, name))| {
            let number = Number::new(id, *name, Unit::Auc, after[k].value, case.truth().len(), ALL)
                .within(after[k].interval())
                .before(before[k].value)
                .reference(mean_of(&references, |r| r[k].value));
            if references.is_empty() {
                return number.judged(bands::LEAK_ALONE);
            }
            let others: Vec<Auc> = references.iter().map(|r| r[k].clone()).collect();
            let (excess, interval) = after[k].above(&others);
            number.judged_by(excess, Some(interval), bands::LEAK)
        })
        .collect();
    let greatest = numbers.iter().filter_map(|n| n.value).fold(0.0, f64::max);
    let says = match (references.is_empty(), numbers.iter().filter_map(|n| n.verdict).max()) {
        (true, Some(Verdict::Pass)) => "hardly at all",
        (true, _) => "which a model that never saw the class may allow as well: only a reference tells",
        (false, Some(Verdict::Pass)) => "no more than for the reference",
        (false, Some(Verdict::Fail)) => "more than for the reference: the class shows through",
        _ => "perhaps more than for the reference",
    };
    let meaning =
        format!("the remaining probabilities tell forgotten samples from others with an AUC of {greatest:.3}, {says}");
    Measure::new(ID, NAME, numbers, meaning).detail(
        "areas count in either direction; probabilities are renormalised over the retained classes; the linear \
                 reader is fitted on four fifths of the samples and asked on the rest, five times",
    )
}

/// Areas of the three attacks, in either direction.
fn attacks(case: &Case, seen: &Seen, retained: &[usize]) -> [Auc; 3] {
    let n = case.truth().len();
    let remaining: Vec<f64> =
        seen.logits.chunks(case.class_count).flat_map(|row| retained.iter().map(|&c| row[c])).collect();
    let log_p: Vec<f64> =
        Answers::log_probabilities(&remaining, retained.len()).into_iter().map(|v| v.max(FLOOR)).collect();
    let rows = || log_p.chunks(retained.len());
    let greatest: Vec<f64> = rows().map(|r| r.iter().copied().fold(f64::NEG_INFINITY, f64::max)).collect();
    let entropy: Vec<f64> = rows().map(|r| -r.iter().map(|v| v * v.exp()).sum::<f64>()).collect();
    let auc = |scores: &[f64]| Auc::new(scores, &case.forgotten).either_direction();
    let classes: Vec<usize> = case.forgotten.iter().map(|&f| usize::from(f)).collect();
    let x = Array2::from_shape_vec((n, retained.len()), log_p.clone()).unwrap_or_default();
    let fitted = cross_fit(&x, &classes, 2, case.seed());
    let linear: Vec<f64> = fitted.logits.outer_iter().map(|r| r[1] - r[0]).collect();
    [auc(&greatest), auc(&entropy), auc(&linear)]
}
