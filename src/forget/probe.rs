//! Random inputs within the range of the inputs. Of a few features they cover where data lie, and what becomes of them tells
//! more than inputs that were made from the model: those lie where it is certain.

use super::Aim;
use super::answers::{Answerer, Answers};
use super::guard::Noise;
use crate::classifier::{Classifier, Weights};
use crate::error::Result;
use crate::inputs::Labelled;
use crate::tensor::Array;

/// With more features than this nearly all random inputs are unlike any data.
const MOST_FEATURES: usize = 64;

/// With so few they are like data of all classes.
const FEW_FEATURES: usize = 8;

const COUNT: usize = 1000;

/// A side of which fewer random inputs are says nothing.
const LEAST: usize = 20;

/// So many of a side may behave otherwise.
const STRAY: f64 = 0.05;

/// What has become of the random inputs that were answered with a class to forget, and of all others.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Counts {
    forgotten: usize,
    still_answered: usize,
    others: usize,
    changed: usize,
}

impl Counts {
    fn of(before: &[usize], after: &[usize], forgotten: &[usize]) -> Self {
        let mut c = Self::default();
        for (was, is) in before.iter().zip(after) {
            if forgotten.contains(was) {
                c.forgotten += 1;
                c.still_answered += usize::from(forgotten.contains(is));
            } else {
                c.others += 1;
                c.changed += usize::from(was != is);
            }
        }
        c
    }

    fn doubts(self, features: usize) -> Vec<String> {
        let part = |n: usize, of: usize| if of < LEAST { 0.0 } else { n as f64 / of as f64 };
        let mut all = Vec::new();
        let left = part(self.still_answered, self.forgotten);
        if left > STRAY {
            all.push(format!("{:.0} % of random inputs that were answered with the class still are", 100.0 * left));
        }
        let changed = part(self.changed, self.others);
        if features <= FEW_FEATURES && changed > STRAY {
            all.push(format!("{:.0} % of random inputs of other classes are answered otherwise", 100.0 * changed));
        }
        all
    }
}

/// Reasons to doubt a result that random inputs give; none where a sample has many features, or is no table of numbers.
///
/// # Errors
/// When the engine fails.
pub(super) fn doubts(
    classifier: &Classifier,
    answerer: &mut Answerer,
    [old, new]: [&Weights; 2],
    data: &Labelled,
    aim: &Aim,
    seed: u64,
) -> Result<Vec<String>> {
    let features = data.x.len() / data.len().max(1);
    if features > MOST_FEATURES || !data.x.dtype().is_float() || !data.extra.is_empty() {
        return Ok(Vec::new());
    }
    let noise = Noise::over(classifier, data, seed);
    let mut number = noise.numbers(b"probes");
    let x: Vec<f64> = (0..COUNT * features).map(|i| number(i % features)).collect();
    let shape = [&[COUNT], &data.x.shape()[1..]].concat();
    let x = Array::from_vec(&shape, x)?.to_float(data.x.dtype());
    let probes = Labelled::new(x, vec![0; COUNT])?;
    let mut answered = |weights: &Weights| -> Result<Vec<usize>> {
        let answers = answerer.answer(weights, old, &probes, &mut |_| ())?;
        Ok(Answers::classes_of(&answers.logits, answers.classes))
    };
    let counts = Counts::of(&answered(old)?, &answered(new)?, aim.classes());
    Ok(counts.doubts(features))
}

#[cfg(test)]
mod tests {
    use super::Counts;

    #[test]
    fn both_sides_are_counted() {
        let c = Counts::of(&[0, 0, 1, 2, 2], &[0, 1, 1, 1, 2], &[0]);
        assert_eq!(c, Counts { forgotten: 2, still_answered: 1, others: 3, changed: 1 });
    }

    #[test]
    fn a_few_strays_are_no_doubt() {
        let counts = Counts { forgotten: 100, still_answered: 5, others: 100, changed: 5 };
        assert!(counts.doubts(4).is_empty());
        let many = Counts { still_answered: 6, changed: 40, ..counts };
        assert_eq!(many.doubts(4).len(), 2);
        assert!(many.doubts(4)[0].contains("6 % of random inputs that were answered"));
        // of many features others change without a loss to data
        assert_eq!(many.doubts(30).len(), 1);
        assert!(Counts { forgotten: 3, still_answered: 3, ..counts }.doubts(4).is_empty());
    }
}
