//! Answers class by class, before and after.

use super::{Cell, Column, Kind, Row, Table, Track};
use crate::report::format;

/// Most rows for single classes.
const ROWS: usize = 40;

/// What was answered to the samples of one class.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct ClassAnswers {
    pub(super) class: usize,
    pub(super) samples: usize,
    /// Samples answered with the class.
    pub(super) right_before: usize,
    pub(super) right_after: usize,
    /// What the track shows, each between 0 and 1.
    pub(super) before: f64,
    pub(super) after: f64,
    pub(super) interval: Option<[f64; 2]>,
}

/// A table of classes: those to forget first, then those that changed most where there are too many to show all.
///
/// `drawn` is the head of the column with the track, `interval` gives that of a share of samples that are added up.
pub(super) fn table(
    all: &[ClassAnswers],
    forgotten: &[usize],
    caption: String,
    drawn: &'static str,
    interval: Option<&dyn Fn(usize, usize) -> [f64; 2]>,
) -> Table {
    let (shown, rest) = choose(all, forgotten);
    let mut rows: Vec<Row> = shown
        .iter()
        .map(|c| {
            let tag = if forgotten.contains(&c.class) { "to forget" } else { "" };
            Row::new(cells(c.class.to_string(), c)).tagged(tag)
        })
        .collect();
    if let Some(sum) = sum(&rest, interval) {
        rows.push(Row::new(cells(format!("{} others", format::count(rest.len())), &sum)).rest());
    }
    let column = |text, kind| Column { text, kind };
    let columns = vec![
        column("class", Kind::Words),
        column("inputs", Kind::Number),
        column("right before", Kind::Number),
        column("right after", Kind::Number),
        column(drawn, Kind::Drawn),
    ];
    Table { caption, columns, rows }
}

fn cells(name: String, c: &ClassAnswers) -> [Cell; 5] {
    let numbers = [c.samples, c.right_before, c.right_after].map(|n| Cell::text(format::count(n)));
    let [samples, before, after] = numbers;
    let track = Track { before: c.before, after: c.after, interval: c.interval };
    [Cell::text(name), samples, before, after, Cell::Track(track)]
}

/// The classes that are shown one by one, in order with those to forget first, and the others.
fn choose(all: &[ClassAnswers], forgotten: &[usize]) -> (Vec<ClassAnswers>, Vec<ClassAnswers>) {
    let is_lost = |c: &ClassAnswers| forgotten.contains(&c.class);
    let mut order = all.to_vec();
    order.sort_by(|a, b| {
        let moved = |c: &ClassAnswers| (c.after - c.before).abs();
        is_lost(b).cmp(&is_lost(a)).then(moved(b).total_cmp(&moved(a))).then(a.class.cmp(&b.class))
    });
    // a table of nothing but classes to forget would not say what became of the others
    let lost = order.iter().filter(|c| is_lost(c)).count();
    let kept = order.len() - lost;
    let most_lost = ROWS - kept.min(ROWS / 2);
    let drop = lost.saturating_sub(most_lost);
    let (mut shown, mut rest) = (Vec::new(), order.split_off(lost));
    let hidden = order.split_off(order.len() - drop);
    shown.append(&mut order);
    let room = ROWS - shown.len();
    let tail = rest.split_off(rest.len().min(room));
    shown.append(&mut rest);
    shown.sort_by_key(|c| (!is_lost(c), c.class));
    (shown, [hidden, tail].concat())
}

fn sum(rest: &[ClassAnswers], interval: Option<&dyn Fn(usize, usize) -> [f64; 2]>) -> Option<ClassAnswers> {
    let mut all = ClassAnswers::default();
    for c in rest {
        all.samples += c.samples;
        all.right_before += c.right_before;
        all.right_after += c.right_after;
        all.before += c.before * c.samples as f64;
        all.after += c.after * c.samples as f64;
    }
    let n = all.samples.max(1) as f64;
    (all.before, all.after) = (all.before / n, all.after / n);
    all.interval = interval.map(|f| f(all.right_after, all.samples));
    (!rest.is_empty()).then_some(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class(class: usize, after: f64) -> ClassAnswers {
        ClassAnswers { class, samples: 2, right_before: 2, right_after: 1, before: 1.0, after, interval: None }
    }

    #[test]
    fn few_classes_are_all_shown_and_many_are_added_up() {
        let few: Vec<_> = (0..10).map(|c| class(c, 1.0)).collect();
        let (shown, rest) = choose(&few, &[7]);
        assert_eq!(shown.iter().map(|c| c.class).collect::<Vec<_>>(), [7, 0, 1, 2, 3, 4, 5, 6, 8, 9]);
        assert!(rest.is_empty());
        let many: Vec<_> = (0..1000).map(|c| class(c, if c == 500 { 0.2 } else { 0.9 })).collect();
        let (shown, rest) = choose(&many, &[7]);
        assert_eq!((shown.len(), rest.len(), shown[0].class), (ROWS, 1000 - ROWS, 7));
        assert!(shown.iter().any(|c| c.class == 500), "the one that lost most");
        let lost: Vec<usize> = (0..900).collect();
        let (shown, rest) = choose(&many, &lost);
        assert_eq!(shown.iter().filter(|c| c.class >= 900).count(), ROWS / 2);
        let sum = sum(&rest, None).unwrap();
        assert_eq!((sum.samples, sum.right_after), (2 * (1000 - ROWS), 1000 - ROWS));
        assert!((sum.after - 0.9).abs() < 0.01);
    }
}
