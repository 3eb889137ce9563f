//! The report of `inspect` on one screen.

use super::{Report, Sum};
use crate::fisher::Forecast;
use crate::memory::in_words;
use crate::report::{Align, Table, format};
use std::collections::BTreeMap;

/// As many kinds of op are named.
const OPS: usize = 8;
/// As many names of weights, files or the like are named in a line.
const NAMES: usize = 4;

pub(super) fn text(r: &Report, tensors: bool) -> String {
    let mut out = String::new();
    let mut line = |label: &str, text: &str| {
        let label = if label.is_empty() { String::new() } else { format!("{label}:") };
        out += &format!("{label:<12} {text}\n");
    };
    let opset = r.opset.map_or("none".to_owned(), |v| v.to_string());
    let producer = if r.producer.is_empty() { "producer unknown" } else { &r.producer };
    line("model", &format!("{}, IR {}, opset {opset}, {producer}", r.file, r.ir_version));
    line("graph", &graph(r));
    line("inputs", &r.inputs.join(", "));
    line("outputs", &some(&r.outputs, NAMES));
    if let Some(c) = &r.classifier {
        line("batch", &c.batch);
        let peeled = c.softmax_removed.map_or(String::new(), |op| format!(" before the trailing {op}"));
        line("classes", &format!("{}, answered by '{}', logits '{}'{peeled}", c.classes, c.output, c.logits));
        line("head", &some(&c.head_weights, NAMES));
    }
    line("parameters", &parameters(r));
    if let Some(c) = &r.classifier {
        let n = r.weights.iter().filter(|w| w.trainable).count();
        line("trainable", &format!("{} in {n} tensors, computed in {}", format::count(r.trainable), c.float));
        let samples = match &c.one_by_one {
            None => "run together".to_owned(),
            Some(why) => format!("run one by one: {why}"),
        };
        line("samples", &samples);
    }
    for e in &r.engines {
        line(e.name, &format!("{}: {}", if e.runs_it { "yes" } else { "no" }, e.detail));
        if let Some(f) = &e.fisher {
            line("", &memory(f));
        }
    }
    if !r.open_extents.is_empty() {
        let open = some(&r.open_extents, NAMES);
        line("open", &format!("{open}: bound by the labelled inputs, or by --dim NAME=N, which shows more here"));
    }
    if r.obstacles.is_empty() && r.open_extents.is_empty() {
        let stuck = r.classifier.as_ref().and_then(|c| c.not_rewritable.as_ref());
        line(
            "supported",
            if stuck.is_some() { "gradients, fisher, evaluate" } else { "gradients, fisher, forget, evaluate" },
        );
        if let Some(why) = stuck {
            line("no forget", why);
        }
    }
    if !r.obstacles.is_empty() {
        out += "not supported:\n";
        for o in &r.obstacles {
            out += &format!("  {o}\n");
        }
    }
    if tensors {
        out += &format!("\n{}", table(r));
    }
    out
}

/// What a Fisher takes on an engine.
fn memory([one, most]: &[Forecast; 2]) -> String {
    let of = |f: &Forecast| {
        let twice = if f.parts > 1 { ", the forward pass computed twice" } else { "" };
        format!("{}{twice}", in_words(f.bytes))
    };
    let more = if most.batch > one.batch { format!(", of {} at once {}", most.batch, of(most)) } else { String::new() };
    let samples = if one.batch > 1 { format!("{} samples", one.batch) } else { "one sample".to_owned() };
    format!("memory of a Fisher: of {samples} {}{more}", of(one))
}

fn graph(r: &Report) -> String {
    let mut ops: Vec<(&String, &usize)> = r.ops.iter().collect();
    ops.sort_by_key(|(name, n)| (std::cmp::Reverse(**n), *name));
    let named: Vec<String> = ops.iter().map(|(op, n)| format!("{op} {n}")).collect();
    let mut text = format!("{} nodes", format::count(r.nodes));
    if let Some(c) = &r.classifier {
        text += &format!(", {} after folding", format::count(c.nodes_after_folding));
    }
    if r.functions > 0 {
        text += &format!(", {} functions", r.functions);
    }
    format!("{text}: {}", some(&named, OPS))
}

fn parameters(r: &Report) -> String {
    let kinds = |sums: Vec<(String, &Sum)>| {
        let all: Vec<String> =
            sums.into_iter().map(|(name, s)| format!("{} {name}", format::count(s.elements))).collect();
        some(&all, NAMES)
    };
    let types = kinds(r.types.iter().map(|(t, s)| ((*t).to_owned(), s)).collect());
    let only_inside = r.places.keys().all(|p| p == "model");
    let mut text = format!("{} in {} tensors", format::count(r.parameters), r.weights.len());
    if !r.types.is_empty() {
        text += &format!(": {types}");
    }
    if !only_inside {
        let places: BTreeMap<&String, &Sum> = r.places.iter().collect();
        text += &format!("; {}", kinds(places.into_iter().map(|(p, s)| (format!("in {p}"), s)).collect()));
    }
    text
}

fn some(names: &[String], most: usize) -> String {
    let shown = names.iter().take(most).cloned().collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(most) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

fn table(r: &Report) -> String {
    let mut table = Table::new([
        ("tensor", Align::Left),
        ("shape", Align::Left),
        ("type", Align::Left),
        ("elements", Align::Right),
        ("place", Align::Left),
        ("trainable", Align::Left),
    ]);
    for w in &r.weights {
        let trainable = if w.trainable { "yes" } else { "no" };
        let shape = format!("{:?}", w.shape);
        let elements = format::count(w.shape.iter().product());
        table.row([&w.name, &shape, w.r#type, &elements, &w.place, trainable]);
    }
    table.to_string()
}
