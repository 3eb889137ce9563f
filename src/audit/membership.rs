//! Measure 2: telling samples that the model was trained with from others of the same class.

use super::observe::Seen;
use super::stats::{self, Auc, mean};
use super::{Case, Measure, Number, Observers, Roc, Unit, Verdict, bands, mean_of};
use crate::error::Result;
use crate::inputs::Labelled;

const ID: &str = "membership";
const NAME: &str = "membership inference";

/// Points of a curve that are kept.
const MOST_POINTS: usize = 400;

/// No log-probability counts as less: the least that float32 tells from 0.
const FLOOR: f64 = -87.0;

/// How much surer than of a population sample a model must be of a member (γ of RMIA).
const GAMMA: f64 = 1.0;

/// What the attacks see of the members, then the others.
struct Trial {
    positive: Vec<bool>,
    truth: Vec<usize>,
}

pub(super) fn measure(case: &Case, observers: &mut Observers) -> Result<(Measure, Vec<Roc>)> {
    let not = |why: &str| Ok((Measure::not_measured(ID, NAME, why), Vec::new()));
    let (members, others) = match (case.samples.members, case.samples.non_members) {
        (Some(members), Some(others)) => (members, others),
        (None, None) => return not("it takes training samples of the class (--members) and others (--non-members)"),
        (Some(_), None) => return not("members were given, and no non-members to tell them from"),
        (None, Some(_)) => return not("non-members were given, and no members to tell from them"),
    };
    let of_class = |l: &Labelled| l.split_by(&case.request.classes).map(|(inside, _)| inside);
    let (members, others) = (of_class(members)?, of_class(others)?);
    let both = members.concat(&others)?;
    let positive: Vec<bool> = (0..both.len()).map(|i| i < members.len()).collect();
    let shown = observers.see(&both)?;
    let trial = Trial { positive, truth: both.y };
    let attacks: [(&'static str, &str); 3] =
        [("loss", "loss"), ("entropy", "entropy"), ("modified_entropy", "modified entropy")];
    let scores = |seen: &Seen| trial.scores(seen);
    let (after, before) = (scores(&shown.after), scores(&shown.before));
    let references: Vec<[Vec<f64>; 3]> = shown.references.iter().map(scores).collect();
    let split = format!("members {}, non-members {}", members.len(), others.len());
    let auc = |scores: &[f64]| Auc::new(scores, &trial.positive);
    let (mut numbers, mut curves) = (Vec::new(), Vec::new());
    for (k, (attack, name)) in attacks.into_iter().enumerate() {
        let number = Number::new(
            &format!("auc_{attack}"),
            format!("AUC of the {name} attack"),
            Unit::Auc,
            0.0,
            both_len(&trial),
            &*split,
        )
        .before(auc(&before[k]).value)
        .reference(mean_of(&references, |r| auc(&r[k]).value));
        numbers.push(from_chance(number, &auc(&after[k])));
        curves.push((attack, name, stats::roc(&after[k], &trial.positive)));
    }
    if !references.is_empty() {
        let scores = rmia(&trial.target(&shown.after), &trial.outside(&shown.references), &trial.positive);
        let number = Number::new("auc_rmia", "AUC of the RMIA attack", Unit::Auc, 0.0, both_len(&trial), &*split)
            .before(auc(&rmia(&trial.target(&shown.before), &trial.outside(&shown.references), &trial.positive)).value);
        numbers.push(from_chance(number, &auc(&scores)));
        curves.push(("rmia", "RMIA", stats::roc(&scores, &trial.positive)));
    }
    let mut unresolved = Vec::new();
    for (attack, name, points) in &curves {
        for (rate, label, band) in [(0.01, "1 %", bands::MEMBERSHIP_RATE), (0.001, "0.1 %", bands::MEMBERSHIP_LOW_RATE)]
        {
            let hits = (stats::tpr_at(points, rate) * members.len() as f64).round() as usize;
            let id = format!("tpr_{}_{attack}", if rate > 0.005 { "1" } else { "0.1" });
            let name = format!("members found by the {name} attack at {label} false alarms");
            let number = Number::share(&id, name, hits, members.len(), &*split);
            if others.len() as f64 * rate < 1.0 {
                unresolved.push(label);
                numbers.push(number.unresolved());
            } else {
                numbers.push(number.judged(band));
            }
        }
    }
    unresolved.sort_unstable();
    unresolved.dedup();
    let strangers = references_see_it(&numbers);
    if strangers {
        // what a model that saw neither sample tells apart lies in the samples
        for n in numbers.iter_mut().filter(|n| n.verdict == Some(Verdict::Fail)) {
            n.verdict = Some(Verdict::Warn);
        }
    }
    let furthest = numbers.iter().filter(|n| n.unit == Unit::Auc).filter_map(|n| n.value);
    let furthest = furthest.fold(0.5, |a: f64, b| if (b - 0.5).abs() > (a - 0.5).abs() { b } else { a });
    let verdict = numbers.iter().filter_map(|n| n.verdict).max();
    let says = match verdict {
        Some(Verdict::Pass) => "training samples of the class cannot be told from others",
        Some(Verdict::Fail) if furthest < 0.5 => {
            "training samples of the class stand out as less sure: the change leaves a trace of them"
        }
        Some(Verdict::Fail) => "training samples of the class can still be told from others",
        _ => "training samples of the class may be told from others, or there are too few to say",
    };
    let mut measure = Measure::new(ID, NAME, numbers, format!("{says} (AUC {furthest:.3} furthest from 0.5)"));
    for label in unresolved {
        let least = if label == "1 %" { 100 } else { 1000 };
        measure =
            measure.detail(format!("{} non-members do not resolve a rate of {label}: it takes {least}", others.len()));
    }
    if strangers {
        measure = measure.detail("the references, which saw neither, tell members from non-members as well: the samples themselves differ, so that nothing fails here");
    }
    if references.is_empty() {
        measure = measure.detail("RMIA needs a reference model");
    }
    let roc = curves.into_iter().map(|(attack, _, points)| Roc { attack, points: stats::thinned(points, MOST_POINTS) });
    Ok((measure, roc.collect()))
}

fn both_len(trial: &Trial) -> usize {
    trial.positive.len()
}

/// An area judged by its distance from chance, in either direction.
fn from_chance(mut number: Number, auc: &Auc) -> Number {
    let [lo, hi] = auc.interval();
    number.value = Some(auc.value);
    let far = (auc.value - 0.5).abs();
    let near = if lo <= 0.5 && hi >= 0.5 { 0.0 } else { (lo - 0.5).abs().min((hi - 0.5).abs()) };
    let furthest = (lo - 0.5).abs().max((hi - 0.5).abs());
    number.within([lo, hi]).judged_by(far, Some([near, furthest]), bands::MEMBERSHIP)
}

/// True where an attack on the references, which saw neither members nor others, succeeds by more than the band.
fn references_see_it(numbers: &[Number]) -> bool {
    numbers.iter().filter_map(|n| n.reference).any(|r| (r - 0.5).abs() > bands::MEMBERSHIP.pass)
}

impl Trial {
    /// Scores of the three attacks; members are expected above others.
    fn scores(&self, seen: &Seen) -> [Vec<f64>; 3] {
        let log_p = seen.log_p();
        let rows = || log_p.chunks(seen.classes).zip(&self.truth);
        [
            rows().map(|(row, &y)| row[y].max(FLOOR)).collect(),
            rows().map(|(row, _)| row.iter().map(|&v| v.max(FLOOR) * v.exp()).sum()).collect(),
            rows().map(|(row, &y)| -modified_entropy(row, y)).collect(),
        ]
    }
    /// Log-probability of every sample's own class.
    fn target(&self, seen: &Seen) -> Vec<f64> {
        let log_p = seen.log_p();
        log_p.chunks(seen.classes).zip(&self.truth).map(|(row, &y)| row[y].max(FLOOR)).collect()
    }
    /// The same under every reference.
    fn outside(&self, references: &[Seen]) -> Vec<Vec<f64>> {
        references.iter().map(|r| self.target(r)).collect()
    }
}

/// `−(1 − p_y) log p_y − Σ_{i≠y} p_i log(1 − p_i)` of a row of log-probabilities (Song and Mittal, arXiv 2003.10595,
/// equation 8); logarithms are cut at −87.
pub fn modified_entropy(log_p: &[f64], y: usize) -> f64 {
    let one_minus = |p: f64| (1.0 - p).max(0.0);
    log_p
        .iter()
        .enumerate()
        .map(|(i, &v)| {
            let p = v.exp();
            if i == y { -one_minus(p) * v.max(FLOOR) } else { -p * one_minus(p).ln().max(FLOOR) }
        })
        .sum()
}

/// Scores of RMIA with reference models that were not trained with the samples (Zarifzadeh et al., arXiv 2312.03262,
/// section 2): the share of population samples `z` for which `(p(x)/p̄(x)) / (p(z)/p̄(z)) ≥ γ`, with p̄ the mean over the
/// references and γ 1. The population are the samples that are not `positive`, each but itself. `target` and `outside` hold
/// log-probabilities of the samples' own classes, of the model and of every reference.
pub fn rmia(target: &[f64], outside: &[Vec<f64>], positive: &[bool]) -> Vec<f64> {
    let ratio: Vec<f64> = (0..target.len())
        .map(|i| {
            let p: Vec<f64> = outside.iter().map(|o| o[i].exp()).collect();
            target[i] - mean(&p).ln().max(FLOOR)
        })
        .collect();
    let mut population: Vec<f64> = ratio.iter().zip(positive).filter(|(_, p)| !**p).map(|(r, _)| *r).collect();
    population.sort_by(f64::total_cmp);
    ratio
        .iter()
        .zip(positive)
        .map(|(r, &is_member)| {
            let own = usize::from(!is_member);
            let below = population.partition_point(|z| r - z >= GAMMA.ln());
            // with γ 1 a population sample is among those that it is compared with
            (below - own.min(below)) as f64 / (population.len() - own).max(1) as f64
        })
        .collect()
}
