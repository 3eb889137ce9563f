//! What an audit says: measures made of numbers, each with its interval, its reference and its verdict.

use crate::report::format;
use serde::Serialize;

/// What a number, a measure or a whole audit comes to. Ordered: a worse verdict is greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Nothing could be said; the measure says why. Neither good nor bad.
    NotMeasured,
    /// Inside the band, and the interval excludes what would fail.
    Pass,
    /// Between the bands, or measured on too little to tell.
    Warn,
    /// Beyond the band, and the interval excludes what would pass.
    Fail,
}

impl Verdict {
    /// The word in capitals, as reports print it; a dash where nothing was measured.
    pub fn word(self) -> &'static str {
        match self {
            Self::NotMeasured => "-",
            Self::Pass => "PASS",
            Self::Warn => "WARN",
            Self::Fail => "FAIL",
        }
    }
}

/// What a number counts in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// A share of samples, 0 to 1.
    Share,
    /// A difference of shares, -1 to 1.
    Difference,
    /// An area under a ROC curve, 0 to 1.
    Auc,
    /// A divergence in nats.
    Nats,
    /// Steps of gradient descent.
    Steps,
    /// A ratio, a distance or a similarity without a unit.
    Plain,
}

impl Unit {
    /// A number with its unit, as reports print it.
    pub fn show(self, v: f64) -> String {
        match self {
            Self::Share => format!("{} %", format::percent(v)),
            Self::Difference => format!("{} points", format::points(v)),
            Self::Steps => format!("{v:.0}"),
            Self::Auc | Self::Nats | Self::Plain => format!("{v:.3}"),
        }
    }
}

/// The two bounds that a number is judged by: `excess` is what the number exceeds its ideal or its reference by.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Band {
    /// An excess up to here passes.
    pub pass: f64,
    /// An excess above this fails; absent where the number alone is no proof of failure.
    pub fail: Option<f64>,
}

impl Band {
    /// The verdict on an excess that lies in `interval` with 95 % confidence.
    ///
    /// Passing takes an excess within the band and an interval that excludes failure, failing an excess beyond the band
    /// and an interval that excludes passing. Everything else is a warning, so that few samples never pass nor fail.
    pub fn judge(self, excess: f64, interval: Option<[f64; 2]>) -> Verdict {
        let [lo, hi] = interval.unwrap_or([excess, excess]);
        let fails = |v: f64| self.fail.is_some_and(|f| v > f);
        if excess.is_nan() || (excess > self.pass && !(fails(excess) && lo > self.pass)) {
            Verdict::Warn
        } else if excess > self.pass {
            Verdict::Fail
        } else if fails(hi) {
            Verdict::Warn
        } else {
            Verdict::Pass
        }
    }
}

/// One number of a measure.
#[derive(Clone, Debug, Serialize)]
pub struct Number {
    /// Short and stable: `A_R`, `auc_loss`.
    pub id: String,
    /// In words.
    pub name: String,
    /// The value for AFTER; absent where the samples do not resolve it.
    pub value: Option<f64>,
    /// What it counts in.
    pub unit: Unit,
    /// Number of samples that it was computed on.
    pub n: usize,
    /// Which samples: `data: forgotten`, say.
    pub split: String,
    /// 95 % interval of the value.
    pub interval: Option<[f64; 2]>,
    /// The same number for BEFORE.
    pub before: Option<f64>,
    /// The same number for the reference, the mean of several.
    pub reference: Option<f64>,
    /// What the band is compared with, and its 95 % interval: the value, or what it exceeds its ideal by.
    pub excess: Option<Excess>,
    /// Absent where the number is told and not judged.
    pub band: Option<Band>,
    /// Absent where the number is told and not judged.
    pub verdict: Option<Verdict>,
}

/// What a number exceeds its ideal or its reference by.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Excess {
    /// The excess.
    pub value: f64,
    /// Its 95 % interval.
    pub interval: Option<[f64; 2]>,
}

impl Number {
    /// A number that is told and not judged.
    pub fn new(id: &str, name: impl Into<String>, unit: Unit, value: f64, n: usize, split: impl Into<String>) -> Self {
        Self {
            id: id.to_owned(),
            name: name.into(),
            value: Some(value),
            unit,
            n,
            split: split.into(),
            interval: None,
            before: None,
            reference: None,
            excess: None,
            band: None,
            verdict: None,
        }
    }
    /// A share of `n` samples with its Wilson interval.
    pub fn share(id: &str, name: impl Into<String>, hits: usize, n: usize, split: impl Into<String>) -> Self {
        let value = if n > 0 { hits as f64 / n as f64 } else { f64::NAN };
        Self { interval: Some(super::stats::wilson(hits, n)), ..Self::new(id, name, Unit::Share, value, n, split) }
    }
    /// With the interval of the value.
    #[must_use]
    pub fn within(mut self, interval: [f64; 2]) -> Self {
        self.interval = Some(interval);
        self
    }
    /// With the same number of BEFORE.
    #[must_use]
    pub fn before(mut self, value: f64) -> Self {
        self.before = Some(value);
        self
    }
    /// With the same number of the reference, if there is one.
    #[must_use]
    pub fn reference(mut self, value: Option<f64>) -> Self {
        self.reference = value;
        self
    }
    /// Judged by its own value.
    #[must_use]
    pub fn judged(self, band: Band) -> Self {
        let (value, interval) = (self.value.unwrap_or(f64::NAN), self.interval);
        self.judged_by(value, interval, band)
    }
    /// Judged by an excess.
    #[must_use]
    pub fn judged_by(mut self, excess: f64, interval: Option<[f64; 2]>, band: Band) -> Self {
        self.excess = Some(Excess { value: excess, interval });
        self.verdict = Some(band.judge(excess, interval));
        self.band = Some(band);
        self
    }
    /// The samples do not resolve it.
    #[must_use]
    pub fn unresolved(mut self) -> Self {
        (self.value, self.interval, self.excess, self.band, self.verdict) = (None, None, None, None, None);
        self
    }
}

/// One of the measures of an audit.
#[derive(Clone, Debug, Serialize)]
pub struct Measure {
    /// Short and stable: `answers`, `membership`, `distance`, `leak`, `probe`, `relearning`, `old_head`, `codes`.
    pub id: &'static str,
    /// In words.
    pub name: &'static str,
    /// The worst verdict of its numbers.
    pub verdict: Verdict,
    /// One plain line on what the numbers say.
    pub meaning: String,
    /// The numbers.
    pub numbers: Vec<Number>,
    /// How it was measured, and what limits it.
    pub details: Vec<String>,
}

impl Measure {
    /// A measure of these numbers.
    pub fn new(id: &'static str, name: &'static str, numbers: Vec<Number>, meaning: impl Into<String>) -> Self {
        let verdict = numbers.iter().filter_map(|n| n.verdict).max().unwrap_or(Verdict::NotMeasured);
        Self { id, name, verdict, meaning: meaning.into(), numbers, details: Vec::new() }
    }
    /// A measure that could not be taken, and why.
    pub fn not_measured(id: &'static str, name: &'static str, why: impl Into<String>) -> Self {
        let meaning = format!("not measured: {}", why.into());
        Self { id, name, verdict: Verdict::NotMeasured, meaning, numbers: Vec::new(), details: Vec::new() }
    }
    /// With one more detail.
    #[must_use]
    pub fn detail(mut self, text: impl Into<String>) -> Self {
        self.details.push(text.into());
        self
    }
    /// The number of that id.
    pub fn number(&self, id: &str) -> Option<&Number> {
        self.numbers.iter().find(|n| n.id == id)
    }
}

/// One attack's ROC curve, from (0, 0) to (1, 1): the share of members found against the share of others taken for one.
#[derive(Clone, Debug, Serialize)]
pub struct Roc {
    /// The attack: `loss`, `entropy`, `modified_entropy`, `rmia`.
    pub attack: &'static str,
    /// False and true positive rate, rising; thinned where there are many, except at low rates.
    pub points: Vec<[f64; 2]>,
}

/// How many samples of each class were answered with which.
#[derive(Clone, Debug, Serialize)]
pub struct Confusion {
    /// `counts[truth][answer]`.
    pub counts: Vec<Vec<usize>>,
}

impl Confusion {
    /// Counts answers.
    pub fn new(truth: &[usize], answers: &[usize], classes: usize) -> Self {
        let mut counts = vec![vec![0; classes]; classes];
        for (&y, &a) in truth.iter().zip(answers) {
            counts[y][a] += 1;
        }
        Self { counts }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_samples_neither_pass_nor_fail() {
        let band = Band { pass: 0.05, fail: Some(0.2) };
        let judge = |v: f64, lo: f64, hi: f64| band.judge(v, Some([lo, hi]));
        assert_eq!(judge(0.0, 0.0, 0.1), Verdict::Pass);
        assert_eq!(judge(0.0, 0.0, 0.6), Verdict::Warn, "too few samples to pass");
        assert_eq!(judge(0.5, 0.3, 0.7), Verdict::Fail);
        assert_eq!(judge(0.5, 0.01, 0.99), Verdict::Warn, "too few samples to fail");
        assert_eq!(judge(0.1, 0.08, 0.12), Verdict::Warn, "between the bands");
        assert_eq!(judge(f64::NAN, 0.0, 0.0), Verdict::Warn);
        let soft = Band { pass: 0.05, fail: None };
        assert_eq!(soft.judge(1.0, Some([0.9, 1.0])), Verdict::Warn);
        assert_eq!(soft.judge(0.0, Some([0.0, 1.0])), Verdict::Pass);
        assert!(Verdict::Fail > Verdict::Warn && Verdict::Warn > Verdict::Pass && Verdict::Pass > Verdict::NotMeasured);
    }
}
