//! What passes and what fails. Every bound has its reason here and in `docs/audit.md`.

use super::Band;

const fn band(pass: f64, fail: f64) -> Band {
    Band { pass, fail: Some(fail) }
}

/// Told apart from failure by other measures alone: beyond it stands a warning.
const fn warn_beyond(pass: f64) -> Band {
    Band { pass, fail: None }
}

/// Share of the forgotten classes' samples that are still answered with a forgotten class. A model that never saw the
/// class answers it to nothing; 5 % are as many as wrong labels are in common data sets, and one answer in five is a
/// class that still works.
pub const ANSWERED: Band = band(0.05, 0.20);
/// Loss of accuracy on the retained classes. Two points are what another seed of the same training makes; five are
/// another model.
pub const RETAINED_DROP: Band = band(0.02, 0.05);
/// Loss of accuracy of the retained class that lost most. The greatest of many losses is above their mean by chance
/// alone, so that the bounds are wide: models retrained with another seed differ by up to seven points there.
pub const CLASS_DROP: Band = band(0.10, 0.20);
/// Distance of an attack's AUC from 0.5, in either direction. At 0.55 an attacker is right 54 times in 100 at the best
/// threshold of equal normal scores, at 0.6 57 times: an advantage over guessing that can be used.
pub const MEMBERSHIP: Band = band(0.05, 0.10);
/// True positive rate of an attack at 1 % false positives: five and fifteen times what guessing finds.
pub const MEMBERSHIP_RATE: Band = band(0.05, 0.15);
/// The same at 0.1 % false positives.
pub const MEMBERSHIP_LOW_RATE: Band = band(0.02, 0.05);
/// Mean Jensen–Shannon divergence of the outputs on forgotten samples from the reference's, in nats: a tenth and three
/// tenths of ln 2, which is its greatest value.
pub const DISTANCE: Band = band(0.1 * std::f64::consts::LN_2, 0.3 * std::f64::consts::LN_2);
/// Without a reference: ZRF of the original above that of the changed model. Answers to a class that is no longer known are
/// less sure, by more than a twentieth. Weak: a warning at most.
pub const ZRF_LOSS: Band = warn_beyond(-0.05);
/// AUC of telling forgotten samples by the remaining probabilities above the reference's. Two models retrained with
/// different seeds differ by up to 0.04 there.
pub const LEAK: Band = band(0.05, 0.10);
/// The same AUC where there is no reference. Models that never saw a class tell it from others as well, so that no value
/// proves anything.
pub const LEAK_ALONE: Band = warn_beyond(0.60);
/// Recovery of the forgotten classes by a linear probe above the reference's. Half of what would fail is left for the
/// chance of which features a training finds.
pub const PROBE: Band = band(0.10, 0.20);
/// The same recovery where there is no reference: general features recover classes that were never seen.
pub const PROBE_ALONE: Band = warn_beyond(0.50);
/// CKA of the forgotten samples' features with the original's above the reference's. A small change of the body may
/// forget, so that likeness alone is no failure.
pub const CKA: Band = warn_beyond(0.10);
/// The same where there is no reference.
pub const CKA_ALONE: Band = warn_beyond(0.90);
/// `1 − (steps + 1) / (the reference's steps + 1)` until the class is back, 1 where it never left: about half and a quarter of
/// the reference's steps.
pub const RELEARNING: Band = band(0.50, 0.75);
/// Share of forgotten samples that the original head answers with a forgotten class, above the share of others answered so
/// and above the reference's, as a part of the same on BEFORE's own body. A quarter is beyond what features that fit the
/// head by chance give; half means that the body still carries the class more often than not.
pub const OLD_HEAD: Band = band(0.25, 0.50);
/// Share of samples with a code blended in that are answered with the code's forgotten class, above the reference's.
pub const CODES: Band = band(0.05, 0.20);
