//! Where the change lies, weight by weight.

use super::{Cell, Column, Kind, Row, Table, counted, shown};
use crate::forget::Change;
use crate::report::format;

/// Most weights that are shown one by one.
const WEIGHTS: usize = 40;

/// One plain sentence on where the change lies.
pub(super) fn where_it_lies(changes: &[Change], head: &[String]) -> String {
    let is_head = |c: &Change| head.contains(&c.name);
    let changed = |in_head: bool| changes.iter().filter(|c| c.changed > 0 && is_head(c) == in_head).count();
    let share: f64 = changes.iter().filter(|c| is_head(c)).map(|c| c.share).sum();
    match (changed(true), changed(false)) {
        (0, 0) => "No weight changed.".to_owned(),
        (_, 0) => "The change lies in the last layer alone: everything below it is as it was, so that the class is \
                   hidden and not forgotten."
            .to_owned(),
        (0, _) => "The change lies below the last layer, which is as it was.".to_owned(),
        _ => format!("{} % of the change lies in the last layer, the rest below it.", format::percent(share)),
    }
}

/// The weights in the order of the file: all that changed, or those that changed most and a row for the rest.
pub(super) fn table(changes: &[Change], head: &[String]) -> Table {
    let changed: Vec<&Change> = changes.iter().filter(|c| c.changed > 0).collect();
    let mut order: Vec<usize> = (0..changed.len()).collect();
    order.sort_by(|a, b| changed[*b].share.total_cmp(&changed[*a].share).then(a.cmp(b)));
    let rest = order.split_off(order.len().min(WEIGHTS));
    order.sort_unstable();
    let rest_share: f64 = rest.iter().map(|i| changed[*i].share).sum();
    let most = changed.iter().map(|c| c.share).fold(rest_share, f64::max);
    let bar = |share: f64| Cell::Bar(percent(share), if most > 0.0 { share / most } else { 0.0 });
    let elements =
        |changed: usize, all: usize| Cell::Noted(format::count(changed), format!("of {}", format::count(all)));
    let mut rows: Vec<Row> = order
        .iter()
        .map(|i| {
            let c = changed[*i];
            let tag = if head.contains(&c.name) { "last layer" } else { "" };
            let cells =
                [Cell::text(shown(&c.name)), elements(c.changed, c.elements), relative(c.relative), bar(c.share)];
            Row::new(cells).tagged(tag)
        })
        .collect();
    let sum = |of: &dyn Fn(&Change) -> usize| rest.iter().map(|i| of(changed[*i])).sum::<usize>();
    if !rest.is_empty() {
        let name = format!("{} other weights that changed less", format::count(rest.len()));
        let elements = elements(sum(&|c| c.changed), sum(&|c| c.elements));
        rows.push(Row::new([Cell::text(name), elements, Cell::text(""), bar(rest_share)]).rest());
    }
    let same: Vec<&Change> = changes.iter().filter(|c| c.changed == 0).collect();
    if !same.is_empty() {
        let all = same.iter().map(|c| c.elements).sum();
        let name = format!("{} that did not change", counted(same.len(), "weight"));
        rows.push(Row::new([Cell::text(name), elements(0, all), Cell::text("0"), bar(0.0)]).rest());
    }
    let column = |text, kind| Column { text, kind };
    Table {
        caption: "Weights in the order of the file; share is of Σ|Δw| over all, relative is ‖Δw‖ / ‖w‖".to_owned(),
        columns: vec![
            column("weight", Kind::Name),
            column("elements changed", Kind::Number),
            column("relative", Kind::Number),
            column("share of the change", Kind::Drawn),
        ],
        rows,
    }
}

/// A share in percent that is not shown as nothing when it is little.
fn percent(share: f64) -> String {
    if share > 0.0 && share < 0.0005 { "< 0.1 %".to_owned() } else { format!("{} %", format::percent(share)) }
}

fn relative(v: f64) -> Cell {
    Cell::text(if v.is_infinite() { "∞".to_owned() } else { format::significant(v, 3) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(name: &str, changed: usize, share: f64) -> Change {
        Change { name: name.to_owned(), elements: 10, changed, share, relative: 0.1 }
    }

    #[test]
    fn the_sentence_says_where() {
        let head = ["fc".to_owned()];
        let said = |body, top| where_it_lies(&[change("conv", body, 0.25), change("fc", top, 0.75)], &head);
        assert!(said(0, 0).starts_with("No weight"));
        assert!(said(0, 1).contains("last layer alone") && said(0, 1).contains("hidden"));
        assert!(said(1, 0).contains("below the last layer"));
        assert!(said(1, 1).starts_with("75.0 %"));
    }

    #[test]
    fn many_weights_end_in_a_row_for_the_rest() {
        let all: Vec<Change> = (0..100).map(|i| change(&format!("w{i}"), 1, f64::from(i) / 4950.0)).collect();
        let t = table(&all, &[]);
        assert_eq!(t.rows.len(), WEIGHTS + 1);
        assert!(matches!(&t.rows[0].cells[0], Cell::Text(name) if name == "w60"), "the file's order");
        let Some(Cell::Bar(share, part)) = t.rows.last().and_then(|r| r.cells.last()) else { panic!("no bar") };
        assert_eq!((&share[..], *part), ("35.8 %", 1.0), "the rest is drawn to the same scale");
        assert_eq!([0.0, 0.0001, 0.2].map(percent), ["0.0 %", "< 0.1 %", "20.0 %"]);
    }
}
