//! Measure 1: what is answered.

use super::observe::Seen;
use super::{ALL, Case, FORGOTTEN, Measure, Number, RETAINED, Unit, bands, mean_of, percent, stats};

const ID: &str = "answers";
const NAME: &str = "answers";

pub(super) fn measure(case: &Case) -> Measure {
    let (kept, lost) = (case.positions(false), case.positions(true));
    let truth = case.truth();
    let right = |seen: &Seen, at: &[usize]| -> Vec<bool> {
        let answers = seen.answers();
        at.iter().map(|&i| answers[i] == truth[i]).collect()
    };
    let forgotten_answers = |seen: &Seen, at: &[usize]| {
        let answers = seen.answers();
        at.iter().filter(|&&i| case.is_forgotten(answers[i])).count()
    };
    let hits = |v: &[bool]| v.iter().filter(|b| **b).count();
    let share = |k: usize, n: usize| k as f64 / n as f64;
    let (before, after, references) = (&case.shown.before, &case.shown.after, &case.shown.references);
    let accuracy = |id: &str, name: &str, at: &[usize], split: &str| {
        let of = |seen: &Seen| share(hits(&right(seen, at)), at.len());
        Number::share(id, name, hits(&right(after, at)), at.len(), split)
            .before(of(before))
            .reference(mean_of(references, of))
    };
    let answered = |id: &str, name: &str, at: &[usize], split: &str| {
        let of = |seen: &Seen| share(forgotten_answers(seen, at), at.len());
        Number::share(id, name, forgotten_answers(after, at), at.len(), split)
            .before(of(before))
            .reference(mean_of(references, of))
    };
    let a_r = accuracy("A_R", "accuracy on retained classes (A_R)", &kept, RETAINED);
    let a_f = accuracy("A_F", "accuracy on forgotten classes (A_F)", &lost, FORGOTTEN);
    let e_f = Number {
        id: "E_F".to_owned(),
        name: "error on forgotten classes (E_F)".to_owned(),
        value: a_f.value.map(|v| 1.0 - v),
        interval: a_f.interval.map(|[lo, hi]| [1.0 - hi, 1.0 - lo]),
        before: a_f.before.map(|v| 1.0 - v),
        reference: a_f.reference.map(|v| 1.0 - v),
        ..a_f.clone()
    };
    let all: Vec<usize> = (0..truth.len()).collect();
    let still = answered("answered", "forgotten samples answered with a forgotten class", &lost, FORGOTTEN)
        .judged(bands::ANSWERED);
    let anywhere = answered("answered_anywhere", "all samples answered with a forgotten class", &all, ALL);
    let (was, is) = (right(before, &kept), right(after, &kept));
    let lost_accuracy = share(hits(&was), kept.len()) - share(hits(&is), kept.len());
    let drop = difference("A_R_drop", "accuracy lost on retained classes", lost_accuracy, kept.len(), RETAINED)
        .within(stats::paired_difference(&was, &is))
        .judged(bands::RETAINED_DROP);
    let (worst_class, worst) = worst_class(case, right);
    let meaning = format!(
        "forgotten samples are answered with a forgotten class {} of {} times ({} before); retained classes are right in \
         {} ({} before)",
        forgotten_answers(after, &lost),
        lost.len(),
        forgotten_answers(before, &lost),
        percent(a_r.value.unwrap_or(f64::NAN)),
        percent(a_r.before.unwrap_or(f64::NAN)),
    );
    let mut numbers = vec![a_r, a_f, e_f, still, anywhere, drop];
    numbers.extend(worst);
    let measure = Measure::new(ID, NAME, numbers, meaning);
    match worst_class {
        Some(class) => measure.detail(format!(
            "the retained class that lost most is {class}; the greatest of many losses is above their mean by chance"
        )),
        None => measure,
    }
}

fn difference(id: &str, name: &str, value: f64, n: usize, split: impl Into<String>) -> Number {
    Number::new(id, name, Unit::Difference, value, n, split)
}

/// The retained class that lost most, and its loss.
fn worst_class(case: &Case, right: impl Fn(&Seen, &[usize]) -> Vec<bool>) -> (Option<usize>, Option<Number>) {
    let by_class = case.samples.data.by_class();
    let share = |v: &[bool]| v.iter().filter(|b| **b).count() as f64 / v.len() as f64;
    let drop = |after: &Seen, at: &[usize]| {
        let (was, is) = (right(&case.shown.before, at), right(after, at));
        (share(&was) - share(&is), stats::paired_difference(&was, &is), at.len())
    };
    let worst_of = |seen: &Seen| {
        let retained = by_class.iter().filter(|(c, _)| !case.is_forgotten(**c));
        retained.map(|(&c, at)| (c, drop(seen, at))).max_by(|a, b| a.1.0.total_cmp(&b.1.0))
    };
    let Some((class, (value, interval, n))) = worst_of(&case.shown.after) else { return (None, None) };
    let reference = mean_of(&case.shown.references, |r| worst_of(r).map_or(f64::NAN, |w| w.1.0));
    let name = "accuracy lost on the retained class that lost most";
    let number = difference("class_drop", name, value, n, format!("data: class {class}"))
        .within(interval)
        .reference(reference)
        .judged(bands::CLASS_DROP);
    (Some(class), Some(number))
}
