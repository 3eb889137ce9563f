//! How far a walk goes into the body, and what it may cost.

use super::search::Depth;

/// What a search may run, forward and back, for each sample that the Fisher is made of, beside the answers before: those are
/// reported whatever the rule.
const PRICE: f64 = 3.0;

/// How far below nought log-odds are to go.
pub(super) const MARGIN: f64 = 4.0;

/// A pass forward as part of one that goes back as well.
pub(super) const FORWARD: f64 = 1.0 / 3.0;

/// How far the body changes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Budget {
    /// Part of its probability that every retained class keeps.
    pub(super) kept: f64,
    /// Part of their answers' probability that canaries keep.
    pub(super) spared: f64,
    /// It is enough when the old head gives the forget inputs log-odds so far below nought, and where nothing guards the
    /// others, as far again as they were above.
    pub(super) margin: f64,
    /// Whether the search stays within [`PRICE`].
    pub(super) is_bounded: bool,
}

impl Budget {
    /// For inputs that tell how data fare, for a few of them beside others, and for others alone, which may be memorised and
    /// then say less; with those [`Depth::Body`] pays for depth. Found by trying (docs/benchmarks.md).
    pub(super) fn of(depth: Depth, is_guided: bool, is_beside: bool, is_calibrated: bool) -> Self {
        let margin = MARGIN;
        // who asks for depth, or gives samples to listen to, has a longer search
        let is_bounded = depth != Depth::Body && !is_calibrated;
        let of = |kept, spared, margin| Self { kept, spared, margin, is_bounded };
        match (depth, is_guided) {
            // what codes do not say, the samples do
            (Depth::Auto | Depth::Head, false) if is_calibrated => of(0.985, 0.0, margin),
            (Depth::Auto, true) if is_beside => of(0.985, 0.75, 2.0),
            (Depth::Body, true) => of(0.985, 0.65, margin),
            (_, true) => of(0.985, 0.75, margin),
            (Depth::Body, false) => of(0.95, 0.0, margin),
            (_, false) => of(0.999, 0.0, margin),
        }
    }

    /// What is left for the body when `inputs` will be answered at the end.
    pub(super) fn purse(&self, inputs: usize) -> f64 {
        if self.is_bounded { (PRICE - FORWARD) * inputs as f64 } else { f64::INFINITY }
    }

    /// Steps without guards that can be paid for, each from so many forget inputs and answered by all.
    pub(super) fn steps(&self, inputs: usize, forget: usize) -> usize {
        let end = FORWARD * inputs as f64;
        // the answers at the end are those to the last step
        ((self.purse(inputs) + end) / (forget as f64 + end)) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_search_stays_within_its_price() {
        let codes = Budget::of(Depth::Auto, false, false, false);
        for (inputs, forget) in [(10, 1), (100, 10), (1000, 64), (2, 1)] {
            let steps = codes.steps(inputs, forget) as f64;
            let spent = FORWARD * inputs as f64 * steps + steps * forget as f64;
            let each = forget as f64 + FORWARD * inputs as f64;
            assert!(spent <= PRICE * inputs as f64 && spent + each > PRICE * inputs as f64, "{inputs}: {steps}");
        }
        assert!((codes.purse(30) - 80.0).abs() < 1e-9);
        for unbounded in [Budget::of(Depth::Body, true, true, false), Budget::of(Depth::Auto, true, false, true)] {
            assert!(unbounded.purse(10) == f64::INFINITY && unbounded.steps(10, 1) > 1000);
        }
    }
}
