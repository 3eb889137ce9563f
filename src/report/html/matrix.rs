//! Confusion matrices, of the classes that they are about where there are many.

use crate::report::format;
use std::collections::{BTreeMap, BTreeSet};

/// Most classes that a matrix shows one by one.
const CLASSES: usize = 12;

/// How many samples of which class were answered with which.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// By class and answer; absent is 0.
    pub of: BTreeMap<(usize, usize), usize>,
    /// Number of classes.
    pub classes: usize,
}

impl Counts {
    /// Counts answers.
    pub fn new(truth: &[usize], answers: &[usize], classes: usize) -> Self {
        let mut of = BTreeMap::new();
        for (&y, &a) in truth.iter().zip(answers) {
            *of.entry((y, a)).or_insert(0) += 1;
        }
        Self { of, classes }
    }
    fn get(&self, truth: usize, answer: usize) -> usize {
        self.of.get(&(truth, answer)).copied().unwrap_or(0)
    }
}

/// A confusion matrix as it is shown.
#[derive(Clone, Debug)]
pub struct Matrix {
    /// What it shows.
    pub caption: String,
    /// Heads of the columns: answers.
    pub columns: Vec<String>,
    /// A row for each class.
    pub rows: Vec<MatrixRow>,
}

/// A row of a matrix.
#[derive(Clone, Debug)]
pub struct MatrixRow {
    /// The class.
    pub head: String,
    /// True where the class is to be forgotten.
    pub is_forgotten: bool,
    /// One cell for each answer.
    pub cells: Vec<Heat>,
}

/// A cell of a matrix.
#[derive(Clone, Debug)]
pub struct Heat {
    /// The number; nothing for 0.
    pub text: String,
    /// Style: how great a part of the row it is, and whether the answer is right.
    pub style: String,
}

/// The classes that a matrix of these answers shows one by one: those to forget, those that their samples are answered
/// with, those whose answers changed most.
fn concerned(before: &Counts, after: &Counts, forgotten: &[usize]) -> Vec<usize> {
    let classes = before.classes.max(after.classes);
    if classes <= CLASSES {
        return (0..classes).collect();
    }
    let mut weight: BTreeMap<usize, usize> = BTreeMap::new();
    let keys: BTreeSet<(usize, usize)> = before.of.keys().chain(after.of.keys()).copied().collect();
    for (y, a) in keys {
        let moved = before.get(y, a).abs_diff(after.get(y, a));
        *weight.entry(y).or_insert(0) += moved;
        *weight.entry(a).or_insert(0) += moved;
    }
    let mut order: Vec<usize> = (0..classes).collect();
    order.sort_by_key(|c| (!forgotten.contains(c), usize::MAX - weight.get(c).copied().unwrap_or(0), *c));
    // many classes to forget must leave room for those that their samples go to
    let (lost, kept): (Vec<usize>, Vec<usize>) = order.into_iter().partition(|c| forgotten.contains(c));
    let room = CLASSES - kept.len().min(CLASSES / 2);
    let lost: Vec<usize> = lost.into_iter().take(room).collect();
    let room = CLASSES - lost.len();
    let mut all: Vec<usize> = lost.into_iter().chain(kept.into_iter().take(room)).collect();
    all.sort_unstable();
    all
}

/// Both matrices, with the same classes, and what is left out of them, if anything is.
pub(super) fn matrices(
    before: &Counts,
    after: &Counts,
    forgotten: &[usize],
    what: &str,
) -> (Vec<Matrix>, Option<String>) {
    let shown = concerned(before, after, forgotten);
    let classes = before.classes.max(after.classes);
    let all = [("Before", before), ("After", after)].map(|(when, counts)| {
        let caption = format!("{when}: class (rows), answer (columns), {what}");
        matrix(caption, counts, &shown, forgotten, classes > shown.len())
    });
    let note = (classes > shown.len()).then(|| {
        format!(
            "Of {} classes these are the {} that the change concerns most; “rest” adds up the others.",
            format::count(classes),
            shown.len()
        )
    });
    (all.into(), note)
}

fn matrix(caption: String, counts: &Counts, shown: &[usize], forgotten: &[usize], has_rest: bool) -> Matrix {
    let place = |c: usize| shown.binary_search(&c).unwrap_or(shown.len());
    let width = shown.len() + usize::from(has_rest);
    let mut sums = vec![vec![0; width]; width];
    let mut right = vec![0; width];
    for (&(y, a), &n) in &counts.of {
        sums[place(y)][place(a)] += n;
        right[place(y)] += if y == a { n } else { 0 };
    }
    let heads = || shown.iter().map(usize::to_string).chain(has_rest.then(|| "rest".to_owned()));
    let rows = heads().zip(&sums).enumerate().map(|(i, (head, row))| {
        let total: usize = row.iter().sum();
        let cell = |(j, &n): (usize, &usize)| {
            // “rest” answered with “rest” is right only in part
            let is_right = i == j && (i < shown.len() || right[i] == n);
            Heat { text: short(n), style: style(n, total, is_right) }
        };
        let is_forgotten = shown.get(i).is_some_and(|c| forgotten.contains(c));
        MatrixRow { head, is_forgotten, cells: row.iter().enumerate().map(cell).collect() }
    });
    Matrix { caption, columns: heads().collect(), rows: rows.collect() }
}

/// A count in at most four letters; nothing for 0.
fn short(n: usize) -> String {
    match n {
        0 => String::new(),
        1..10_000 => n.to_string(),
        10_000..1_000_000 => format!("{}k", (n + 500) / 1_000),
        _ => format!("{}M", (n + 500_000) / 1_000_000),
    }
}

/// `h0` to `h5` by the part of the row, and `right` or `wrong`.
fn style(n: usize, total: usize, is_right: bool) -> String {
    let level = if n == 0 { 0 } else { (n * 5).div_ceil(total.max(1)) };
    format!("h{level} {}", if is_right { "right" } else { "wrong" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_classes_are_all_shown() {
        let before = Counts::new(&[0, 0, 1, 2], &[0, 1, 1, 2], 3);
        let after = Counts::new(&[0, 0, 1, 2], &[0, 1, 2, 2], 3);
        let (both, note) = matrices(&before, &after, &[1], "codes");
        assert_eq!((both[0].columns.join(" "), note), ("0 1 2".to_owned(), None));
        let text = |m: &Matrix| m.rows.iter().map(|r| r.cells.iter().map(|c| c.text.clone()).collect()).collect();
        let [b, a]: [Vec<Vec<String>>; 2] = [text(&both[0]), text(&both[1])];
        assert_eq!(b, [["1", "1", ""], ["", "1", ""], ["", "", "1"]]);
        assert_eq!(a[1], ["", "", "1"]);
        assert_eq!(both[1].rows[1].cells[2].style, "h5 wrong");
        assert_eq!(both[1].rows[0].cells[0].style, "h3 right");
        assert!(both[0].rows[1].is_forgotten && !both[0].rows[0].is_forgotten);
    }

    #[test]
    fn counts_fit_their_cells() {
        let all = [0, 7, 9_999, 10_499, 999_400, 12_600_000].map(short);
        assert_eq!(all, ["", "7", "9999", "10k", "999k", "13M"]);
    }

    #[test]
    fn of_many_classes_those_remain_that_matter() {
        let truth: Vec<usize> = (0..1000).collect();
        let mut answers = truth.clone();
        let before = Counts::new(&truth, &answers, 1000);
        (answers[700], answers[30]) = (412, 31);
        let after = Counts::new(&truth, &answers, 1000);
        let shown = concerned(&before, &after, &[700]);
        assert_eq!(shown.len(), CLASSES);
        assert!([700, 412, 30, 31].iter().all(|c| shown.contains(c)), "{shown:?}");
        let (both, note) = matrices(&before, &after, &[700], "samples");
        assert_eq!(both[1].columns.len(), CLASSES + 1);
        let sum: usize = both[1].rows.iter().flat_map(|r| &r.cells).filter_map(|c| c.text.parse::<usize>().ok()).sum();
        assert_eq!(sum, 1000, "nothing is lost");
        assert!(note.unwrap().contains("Of 1,000 classes"));
        let half: Vec<usize> = (0..500).collect();
        let shown = concerned(&before, &after, &half);
        assert_eq!(shown.iter().filter(|c| **c < 500).count(), CLASSES / 2);
    }
}
