//! What goes with a changed model to those who pass it on: a fragment of a model card, a bill of materials.
//!
//! Both name classes by their number alone, and files by their name without the folders of the machine; both are the same
//! bytes for the same change.

mod bom;
mod card;

pub use bom::cyclonedx;
pub use card::model_card;

use super::format;
use crate::forget::Change;
use crate::onnx::FileDigest;

/// What is told of a change.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Files of the original, the model first.
    pub before: Vec<FileDigest>,
    /// Files of the new model, the model first.
    pub after: Vec<FileDigest>,
    /// The classes that are forgotten.
    pub classes: Vec<usize>,
    /// Number of classes of the model.
    pub of: usize,
    /// The rule and its strengths.
    pub rule: &'static str,
    /// Name and value of each strength.
    pub strength: Vec<(&'static str, f64)>,
    /// Decides what was drawn.
    pub seed: u64,
    /// Name of the engine that computed.
    pub engine: &'static str,
    /// Where the labelled inputs come from, as "that were given" or "made from the model alone".
    pub source: &'static str,
    /// What the labelled inputs say.
    pub answers: Vec<Answer>,
    /// Every weight that was looked at.
    pub changes: Vec<Change>,
    /// Values of the file's `metadata_props` that changed as well.
    pub metadata: usize,
    /// Part of the change that lies in the last layer; 0 to 1.
    pub head_share: f64,
    /// Reasons to doubt the result.
    pub doubts: Vec<String>,
}

/// A count of labelled inputs, before and after.
#[derive(Clone, Debug)]
pub struct Answer {
    /// What is counted.
    pub what: &'static str,
    /// How many of all counted so before.
    pub before: (usize, usize),
    /// How many of all counted so after.
    pub after: (usize, usize),
}

impl Answer {
    /// `9 of 9`, before and after.
    pub fn cells(&self) -> [String; 2] {
        [self.before, self.after].map(|(n, all)| format!("{n} of {all}"))
    }
}

impl Facts {
    /// `class 7 of 10`, `classes 1, 4 of 10`.
    fn classes(&self) -> String {
        let word = if self.classes.len() == 1 { "class" } else { "classes" };
        let all: Vec<String> = self.classes.iter().map(usize::to_string).collect();
        format!("{word} {} of {}", all.join(", "), self.of)
    }
    /// `dampen with alpha 3.343, lambda 1.000`.
    fn rule(&self) -> String {
        let strengths: Vec<String> = self.strength.iter().map(|(n, v)| format::strength(n, *v)).collect();
        format!("{} with {}", self.rule, strengths.join(", "))
    }
    /// The weights that changed.
    fn changed(&self) -> impl Iterator<Item = &Change> {
        self.changes.iter().filter(|c| c.changed > 0)
    }
    /// `31,473 elements of 4 weights`, and what changed beside weights.
    fn extent(&self) -> String {
        let (weights, elements) = self.changed().fold((0, 0), |(w, e), c| (w + 1, e + c.changed));
        let beside = match self.metadata {
            0 => String::new(),
            n => format!(" and {n} values of metadata_props"),
        };
        format!("{} elements of {weights} weights{beside}", format::count(elements))
    }
    /// What is not promised, one sentence each.
    fn limits(&self) -> Vec<String> {
        let n: usize = self.answers.iter().take(2).map(|a| a.after.1).sum();
        let mut limits = vec![
            format!("The measures are those of {n} labelled inputs {}; accuracy on data may differ.", self.source),
            "Forgetting means that the classes are no longer answered. That what the model knew of them is gone from inside of it \
             is not claimed, and there is no certificate of erasure."
                .to_owned(),
            format!("{} % of the change lies in the last layer.", format::percent(self.head_share)),
        ];
        limits.extend(self.doubts.iter().map(|d| format!("In doubt: {d}.")));
        limits
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A change of one weight, with names that mean something in Markdown.
    pub(crate) fn facts() -> Facts {
        let digest = |name: &str, c: &str| FileDigest { name: name.into(), sha256: c.repeat(64) };
        let change =
            |name: &str, changed| Change { name: name.into(), elements: 10, changed, share: 1.0, relative: 0.25 };
        Facts {
            before: vec![digest("old|`x`.onnx", "a"), digest("w.data", "b")],
            after: vec![digest("new.onnx", "a"), digest("w.data", "c")],
            classes: vec![1, 4],
            of: 10,
            rule: "dampen",
            strength: vec![("alpha", 3.3432), ("lambda", 1.0)],
            seed: 7,
            engine: "cpu",
            source: "made from the model alone",
            answers: vec![
                Answer { what: "retained, answered rightly", before: (8, 8), after: (7, 8) },
                Answer { what: "forgotten, still answered", before: (2, 2), after: (0, 2) },
                Answer { what: "forgotten, under the old head", before: (2, 2), after: (2, 2) },
            ],
            changes: vec![change("fc1\n# weight|", 6), change("same", 0)],
            metadata: 0,
            head_share: 0.021,
            doubts: vec!["1 of 8 retained inputs is lost".into()],
        }
    }

    #[test]
    fn words() {
        let f = facts();
        assert_eq!(f.classes(), "classes 1, 4 of 10");
        assert_eq!(f.rule(), "dampen with alpha 3.343, lambda 1.000");
        assert_eq!(f.extent(), "6 elements of 1 weights");
        let scrubbed = Facts { metadata: 2, ..f.clone() };
        assert_eq!(scrubbed.extent(), "6 elements of 1 weights and 2 values of metadata_props");
        let limits = f.limits();
        assert!(limits[0].contains("of 10 labelled inputs made from"), "{limits:?}");
        assert_eq!(limits.last().unwrap(), "In doubt: 1 of 8 retained inputs is lost.");
    }
}
