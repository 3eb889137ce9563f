//! The page of an audit.

use super::classes::{self, ClassAnswers};
use super::matrix::matrices;
use super::{
    Axis, Block, Cell, Chart, Column, Counts, Fact, Figure, File, Kind, Level, Line, Marker, Page, Row, Scale, Section,
    Series, Table, capital, class_list, clipped, counted, origin, pictures, sentence, shown, weights,
};
use crate::audit::{Audit, Confusion, Depth, Measure, Number, Roc, Verdict, stats};
use crate::error::Result;
use crate::forget::Change;
use crate::inputs::Labelled;
use crate::report::format;
use std::collections::BTreeMap;

/// Most numbers of a measure, and most remarks on it.
const NUMBERS: usize = 100;
/// The least power of ten of a rate that is drawn.
const LEAST_RATE: i32 = -5;

/// An audit that is done.
pub struct Run<'a> {
    /// The command, word by word.
    pub command: &'a [String],
    /// Name of the model that knows the classes.
    pub before: &'a str,
    /// Name of the one that is to have forgotten them.
    pub after: &'a str,
    /// Name of the data.
    pub data: &'a str,
    /// Engine and adapter, and why they were taken.
    pub engine: &'a str,
    /// What was found.
    pub audit: &'a Audit,
    /// Codes, which are shown as pictures. The data never is: it may be personal.
    pub codes: Option<&'a Labelled>,
    /// Hashes of the files, in order.
    pub files: &'a [File],
}

/// The page of an audit.
///
/// # Errors
/// `Internal` when a picture cannot be encoded.
pub fn page(run: &Run<'_>) -> Result<Page> {
    let audit = run.audit;
    let mut sections = vec![verdicts_section(audit), answers_section(audit), measures_section(audit)];
    sections.push(change_section(audit));
    sections.extend(codes_section(run)?);
    sections.push(origin::section(
        "Typed again with the same files on the same engine, this command gives the same audit.",
        run.command,
        run.files,
        run.engine,
        audit.seed,
    ));
    sections.push(limits_section(audit));
    Ok(Page {
        origin: "onnx-unlearn audit",
        headline: headline(audit),
        level: level(audit.verdict),
        summary: summary(run),
        figures: figures(audit),
        doubts_title: if audit.verdict == Verdict::Fail { "What speaks against it" } else { "Doubts" },
        doubts: doubts(audit),
        no_doubt: "Nothing that was measured speaks against it. What was not measured stands below, and so do the limits.",
        sections,
    })
}

fn level(verdict: Verdict) -> Level {
    match verdict {
        Verdict::NotMeasured => Level::Plain,
        Verdict::Pass => Level::Good,
        Verdict::Warn => Level::Unsure,
        Verdict::Fail => Level::Bad,
    }
}

fn word(verdict: Verdict) -> &'static str {
    if verdict == Verdict::NotMeasured { "not measured" } else { verdict.word() }
}

fn with(audit: &Audit, verdict: Verdict) -> impl Iterator<Item = &Measure> {
    audit.measures.iter().filter(move |m| m.verdict == verdict)
}

fn headline(audit: &Audit) -> String {
    let what = capital(&class_list(&audit.classes));
    let of = |verdict| format!("{} of {}", with(audit, verdict).count(), counted(audit.measures.len(), "measure"));
    match audit.verdict {
        Verdict::Pass => format!("{what}: forgotten, by all that was measured"),
        Verdict::Warn => format!("{what}: not shown to be forgotten, {} warn", of(Verdict::Warn)),
        Verdict::Fail => format!("{what}: not forgotten, {} fail", of(Verdict::Fail)),
        Verdict::NotMeasured => format!("{what}: nothing could be measured"),
    }
}

fn summary(run: &Run<'_>) -> Vec<Fact> {
    let a = run.audit;
    let references = match a.references {
        0 => "none: several measures say less without a model that was trained without the class".to_owned(),
        n => format!("{} trained without {}", counted(n, "model"), class_list(&a.classes)),
    };
    let count = |verdict: Verdict| (with(a, verdict).count(), word(verdict));
    let counts = [Verdict::Fail, Verdict::Warn, Verdict::Pass, Verdict::NotMeasured].map(count);
    let verdicts: Vec<String> = counts.iter().filter(|(n, _)| *n > 0).map(|(n, word)| format!("{n} {word}")).collect();
    let mut all = vec![
        Fact::new("Asked", format!("whether {} has forgotten {}", shown(run.after), class_list(&a.classes))),
        Fact::new(
            "Compared with",
            format!("{}, which knows {} classes", shown(run.before), format::count(a.class_count)),
        ),
        Fact::new(
            "Measured on",
            format!(
                "{}: {}, {} of them of forgotten classes",
                shown(run.data),
                counted(a.samples, "sample"),
                format::count(a.forgotten_samples)
            ),
        ),
        Fact::new("References", references),
        Fact::new("Verdicts", verdicts.join(", ")),
    ];
    all.extend(a.depth.as_ref().map(|d| Fact::new("Where", sentence(&d.sentence))));
    all
}

fn figures(audit: &Audit) -> Vec<Figure> {
    let figure = |measure: &str, id: &str, text: &str| {
        let n = audit.measure(measure)?.number(id)?;
        let before = n.before.map(|b| format!("{} before", show(n, b)));
        let interval = interval(n).map(|i| format!("95 % interval {i}"));
        Some(Figure {
            value: show(n, n.value?),
            text: text.to_owned(),
            note: before.into_iter().chain(interval).collect::<Vec<_>>().join("; "),
            level: n.verdict.map_or(Level::Plain, level),
        })
    };
    let wanted = [
        ("answers", "answered", "forgotten samples still answered with a forgotten class"),
        ("answers", "A_R", "retained samples answered rightly"),
        ("old_head", "old_head", "forgotten samples answered under the old last layer"),
    ];
    wanted.into_iter().filter_map(|(measure, id, text)| figure(measure, id, text)).collect()
}

fn doubts(audit: &Audit) -> Vec<String> {
    let one = |m: &Measure| format!("{} – {}: {}", word(m.verdict), m.name, clipped(&m.meaning, 400));
    with(audit, Verdict::Fail).chain(with(audit, Verdict::Warn)).map(one).collect()
}

/// A number with its unit, which is not parted from it by the end of a line.
fn show(n: &Number, v: f64) -> String {
    n.unit.show(v).replace(" %", "\u{a0}%")
}

/// An interval with its unit once: `78.2 to 91.3 %`.
fn interval(n: &Number) -> Option<String> {
    let [lo, hi] = n.interval?;
    let (lo, hi) = (show(n, lo), show(n, hi));
    let lo = ["\u{a0}%", " points"].iter().find_map(|unit| lo.strip_suffix(unit)).unwrap_or(&lo);
    Some(format!("{lo} to {hi}"))
}

fn column(text: &'static str, kind: Kind) -> Column {
    Column { text, kind }
}

fn verdicts_section(audit: &Audit) -> Section {
    let row = |m: &Measure| {
        Row::new([
            Cell::text(m.name),
            Cell::Verdict(level(m.verdict), word(m.verdict).to_owned()),
            Cell::text(clipped(&m.meaning, 400)),
        ])
    };
    let table = Table {
        caption: "What each measure comes to".to_owned(),
        columns: vec![column("measure", Kind::Words), column("verdict", Kind::Words), column("in words", Kind::Words)],
        rows: audit.measures.iter().map(row).collect(),
    };
    Section { id: "verdicts", title: "Verdicts".to_owned(), blocks: vec![Block::Table(table)] }
}

fn counts(confusion: &Confusion) -> Counts {
    let rows = confusion.counts.iter().enumerate();
    let cells = rows.flat_map(|(y, row)| row.iter().enumerate().map(move |(a, n)| ((y, a), *n)));
    let of: BTreeMap<(usize, usize), usize> = cells.filter(|(_, n)| *n > 0).collect();
    Counts { of, classes: confusion.counts.len() }
}

fn answers_section(audit: &Audit) -> Section {
    let (before, after) = (&audit.confusion_before.counts, &audit.confusion_after.counts);
    let of_class = |class: usize| {
        let samples: usize = before[class].iter().sum();
        let (was, is) = (before[class][class], after[class][class]);
        let share = |k: usize| k as f64 / samples as f64;
        (samples > 0).then(|| ClassAnswers {
            class,
            samples,
            right_before: was,
            right_after: is,
            before: share(was),
            after: share(is),
            interval: Some(stats::wilson(is, samples)),
        })
    };
    let all: Vec<ClassAnswers> = (0..before.len()).filter_map(of_class).collect();
    let caption = "Answers to the data, class by class; 95 % intervals are Wilson's".to_owned();
    let table = classes::table(&all, &audit.classes, caption, "accuracy", Some(&stats::wilson));
    let (was, is) = (counts(&audit.confusion_before), counts(&audit.confusion_after));
    let (both, note) = matrices(&was, &is, &audit.classes, "data");
    let mut blocks = vec![
        Block::Text(
            "The track runs from 0 to 100 %: a ring for the accuracy before, a disc with its interval for that after."
                .to_owned(),
        ),
        Block::Table(table),
        Block::Matrices(both),
    ];
    blocks.extend(note.map(Block::Text));
    Section { id: "answers", title: "Before and after, class by class".to_owned(), blocks }
}

fn measures_section(audit: &Audit) -> Section {
    let text = "“After” is the number for the model that is to have forgotten, with its 95 % interval. Bands, formulas and \
                their reasons stand in docs/audit.md.";
    let mut blocks = vec![Block::Text(text.to_owned())];
    for (i, m) in audit.measures.iter().enumerate() {
        let heading = format!("{}. {}", i + 1, capital(m.name));
        blocks.push(Block::Heading(heading, level(m.verdict), word(m.verdict).to_owned()));
        blocks.push(Block::Text(sentence(&m.meaning)));
        if !m.numbers.is_empty() {
            blocks.push(Block::Table(numbers_table(m)));
        }
        if m.id == "membership" && !audit.roc.is_empty() {
            blocks.push(Block::Chart(Box::new(roc_chart(&audit.roc, m))));
        }
        if !m.details.is_empty() {
            blocks.push(Block::List(m.details.iter().take(NUMBERS).map(|d| sentence(d)).collect()));
        }
    }
    Section { id: "measures", title: "The measures".to_owned(), blocks }
}

fn numbers_table(measure: &Measure) -> Table {
    let has = |of: fn(&Number) -> bool| measure.numbers.iter().any(of);
    let (before, reference) = (has(|n| n.before.is_some()), has(|n| n.reference.is_some()));
    let or_nothing = |n: &Number, v: Option<f64>| Cell::text(v.map_or_else(String::new, |v| show(n, v)));
    let row = |n: &Number| {
        let value = n.value.map_or_else(|| "too few".to_owned(), |v| show(n, v));
        let split = format!("n {}, {}", format::count(n.n), shown(&n.split));
        let mut cells = vec![Cell::Noted(shown(&n.name), split)];
        cells.extend(before.then(|| or_nothing(n, n.before)));
        cells.push(Cell::Noted(value, interval(n).unwrap_or_default()));
        cells.extend(reference.then(|| or_nothing(n, n.reference)));
        cells.push(n.verdict.map_or_else(|| Cell::text(""), |v| Cell::Verdict(level(v), word(v).to_owned())));
        Row::new(cells)
    };
    let mut columns = vec![column("number", Kind::Words)];
    columns.extend(before.then(|| column("before", Kind::Number)));
    columns.push(column("after", Kind::Number));
    columns.extend(reference.then(|| column("reference", Kind::Number)));
    columns.push(column("verdict", Kind::Words));
    Table {
        caption: format!("Numbers of the measure “{}”", measure.name),
        columns,
        rows: measure.numbers.iter().take(NUMBERS).map(row).collect(),
    }
}

/// The power of ten at or below the least rate that is not 0, on one axis.
fn least_rate(curves: &[Roc], axis: usize) -> i32 {
    let rates = curves.iter().flat_map(|c| &c.points).map(|p| p[axis]).filter(|v| *v > 0.0);
    let least = rates.fold(0.1, f64::min).log10();
    // 0.001 has a logarithm of nearly -3
    (LEAST_RATE..=-1).rev().find(|e| f64::from(*e) <= least + 1e-9).unwrap_or(LEAST_RATE)
}

fn roc_chart(curves: &[Roc], measure: &Measure) -> Chart {
    let name = |r: &Roc| r.attack.replace('_', " ");
    let area = |r: &Roc| {
        let area = measure.number(&format!("auc_{}", r.attack)).and_then(|n| n.value);
        area.map_or_else(|| name(r), |v| format!("{}, AUC {v:.3}", name(r)))
    };
    let areas: Vec<String> = curves.iter().map(area).collect();
    let axis = |label: &str, k: usize| Axis { label: label.to_owned(), scale: Scale::Log(least_rate(curves, k)) };
    Chart {
        id: "roc-chart",
        title: "Membership inference on the forgotten classes; both axes are logarithmic, and a rate of 0 stands at the edge".to_owned(),
        alt: format!(
            "The share of members that each attack finds, against the share of others that it takes for members. {}. \
             Guessing is the dotted line, with an AUC of 0.5.",
            areas.join("; ")
        ),
        x: axis("others taken for members, % (false positives)", 0),
        y: axis("members found, % (true positives)", 1),
        dots: vec![],
        chosen: None,
        lines: curves
            .iter()
            .enumerate()
            .map(|(i, r)| Line { points: r.points.clone(), marker: Marker::of(i) })
            .collect(),
        guide: Some(([[0.0, 0.0], [1.0, 1.0]], "guessing")),
        series: areas
            .into_iter()
            .enumerate()
            .map(|(i, name)| Series { name, marker: Marker::of(i), is_line: true })
            .collect(),
    }
}

fn change_section(audit: &Audit) -> Section {
    let blocks = match &audit.depth {
        Some(depth) => {
            let (changes, head) = weights_of(depth);
            vec![Block::Text(sentence(&depth.sentence)), Block::Table(weights::table(&changes, &head))]
        }
        None => {
            let why = audit.no_depth.as_deref().unwrap_or("the files differ");
            vec![Block::Text(sentence(&format!("not measured: {why}")))]
        }
    };
    Section { id: "change", title: "Where the change lies".to_owned(), blocks }
}

/// The tensors as weights, and the names of those of the last layer.
fn weights_of(depth: &Depth) -> (Vec<Change>, Vec<String>) {
    let change = |l: &crate::audit::Layer| Change {
        name: l.name.clone(),
        elements: l.elements,
        changed: l.changed,
        share: l.share,
        relative: l.relative,
    };
    let head = depth.layers.iter().filter(|l| l.is_head).map(|l| l.name.clone());
    (depth.layers.iter().map(change).collect(), head.collect())
}

fn codes_section(run: &Run<'_>) -> Result<Option<Section>> {
    let Some(codes) = run.codes else { return Ok(None) };
    let (all, note) = pictures(codes, &run.audit.classes, "code")?;
    let blocks = vec![Block::Text(note), Block::Pictures(all)];
    Ok(Some(Section { id: "codes", title: "The codes".to_owned(), blocks }))
}

fn limits_section(audit: &Audit) -> Section {
    let mut all = vec![
        "A verdict holds for this data and these attacks. Stronger attacks, or other samples, may find what these do not."
            .to_owned(),
        "An interval tells how sure a number is, given samples drawn as the data was. It says nothing of data of another \
         kind."
            .to_owned(),
        "The samples of the data are not shown: they may be personal.".to_owned(),
        "Copies of the original model, and models made from it, still know the class.".to_owned(),
    ];
    let missing: Vec<&str> = with(audit, Verdict::NotMeasured).map(|m| m.name).collect();
    if !missing.is_empty() {
        all.insert(0, format!("Not measured: {}.", missing.join(", ")));
    }
    if audit.references == 0 {
        let text = "Without a model that was trained without the class there is nothing to compare distances, probes and \
                    relearning with, so that they warn at most.";
        all.insert(0, text.to_owned());
    }
    Section { id: "limits", title: "Limits".to_owned(), blocks: vec![Block::List(all)] }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_begin_at_the_least_rate() {
        let curve = |least: f64| [Roc { attack: "loss", points: vec![[0.0, 0.0], [least, 0.02], [1.0, 1.0]] }];
        let least = |v| least_rate(&curve(v), 0);
        assert_eq!([0.3, 0.1, 0.01, 0.001, 0.0009, 1e-9].map(least), [-1, -1, -2, -3, -4, LEAST_RATE]);
        assert_eq!(least_rate(&curve(0.3), 1), -2);
    }
}
