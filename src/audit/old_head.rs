//! Measure 7: the original head on the changed body.

use super::observe::Seen;
use super::{Case, FORGOTTEN, Measure, Number, RETAINED, Unit, Verdict, bands, mean_of, percent, stats};
use crate::forget::answers::Answers;

const ID: &str = "old_head";
const NAME: &str = "old head on the new body";

/// A head that tells less than this on its own body tells nothing on another.
const LEAST: f64 = 0.1;

pub(super) fn measure(case: &Case) -> Measure {
    if let Some(why) = &case.no_old_head {
        return Measure::not_measured(ID, NAME, why);
    }
    let Some(under) = of(case, &case.shown.after) else {
        return Measure::not_measured(ID, NAME, "no penultimate features were found");
    };
    let before = {
        let answers = case.shown.before.answers();
        Under::new(case, &answers)
    };
    if before.lift() < LEAST {
        let why = "BEFORE itself answers forgotten samples with a forgotten class hardly more often than others";
        return Measure::not_measured(ID, NAME, why);
    }
    let references: Vec<Under> = case.shown.references.iter().filter_map(|r| of(case, r)).collect();
    let a_f = Number::share(
        "A_F",
        "forgotten samples answered rightly under the original head",
        under.right,
        under.n,
        FORGOTTEN,
    )
    .before(before.right as f64 / before.n as f64)
    .reference(mean_of(&references, |r| r.right as f64 / r.n as f64));
    let alarms = Number::share(
        "false_alarms",
        "other samples answered with a forgotten class under it",
        under.alarms,
        under.others,
        RETAINED,
    )
    .before(before.alarms as f64 / before.others as f64)
    .reference(mean_of(&references, |r| r.alarms as f64 / r.others as f64));
    let lift = under.lift();
    let interval = stats::difference((under.answered, under.n), (under.alarms, under.others));
    let reference = mean_of(&references, Under::lift);
    let base = reference.unwrap_or(0.0).max(0.0);
    // as a part of what the original head tells on its own body
    let part = |v: f64| (v - base) / before.lift();
    let lift_number = Number::new(
        "lift",
        "answered with a forgotten class: forgotten samples above others",
        Unit::Difference,
        lift,
        under.n + under.others,
        super::ALL,
    )
    .within(interval)
    .before(before.lift())
    .reference(reference)
    .judged_by(part(lift), Some(interval.map(part)), bands::OLD_HEAD);
    let says = match lift_number.verdict {
        Some(Verdict::Fail) => "the body still knows the class: it is hidden, not forgotten",
        Some(Verdict::Pass) => "the body no longer feeds the original head with the class",
        _ => "part of the class is left in the body",
    };
    let meaning = format!(
        "under the original head {} of the forgotten samples are right ({} before): {says}",
        percent(a_f.value.unwrap_or(f64::NAN)),
        percent(a_f.before.unwrap_or(f64::NAN))
    );
    Measure::new(ID, NAME, vec![a_f, alarms, lift_number], meaning)
}

/// Answers under the original head.
struct Under {
    n: usize,
    others: usize,
    /// Forgotten samples answered with their own class.
    right: usize,
    /// Forgotten samples answered with a forgotten class.
    answered: usize,
    /// Other samples answered with a forgotten class.
    alarms: usize,
}

impl Under {
    fn new(case: &Case, answers: &[usize]) -> Self {
        let (lost, kept) = (case.positions(true), case.positions(false));
        let answered = |at: &[usize]| at.iter().filter(|&&i| case.is_forgotten(answers[i])).count();
        Self {
            n: lost.len(),
            others: kept.len(),
            right: lost.iter().filter(|&&i| answers[i] == case.truth()[i]).count(),
            answered: answered(&lost),
            alarms: answered(&kept),
        }
    }
    /// What the share of answered forgotten samples exceeds that of others by: a head that answers the class to
    /// everything knows nothing of it.
    fn lift(&self) -> f64 {
        self.answered as f64 / self.n as f64 - self.alarms as f64 / self.others as f64
    }
}

fn of(case: &Case, seen: &Seen) -> Option<Under> {
    let logits = seen.old_head.as_ref()?;
    Some(Under::new(case, &Answers::classes_of(logits, case.class_count)))
}
