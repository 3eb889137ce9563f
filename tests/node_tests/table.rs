//! `docs/ops.md`, made from the table of ops, their cases and what came of the node tests.

use crate::package::{NodeTest, Package};
use crate::{Outcome, common};
use onnx_unlearn::engine::Engine;
use onnx_unlearn::graph::Graph;
use onnx_unlearn::onnx::import::{NEWEST_OPSET, OLDEST_OPSET};
use onnx_unlearn::ops::{self, Gradient, Op};
use onnx_unlearn::tensor::DType;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

const HEAD: &str = "# Ops

Made by the conformance test from the code and from its own run; to make it anew:

```console
$ ONNX_UNLEARN_WRITE_DOCS=1 cargo test --test node_tests
```

- *opsets*: the operator sets whose form of the op is read. Older forms are brought to the newest one on import.
- *forward*: `kernel`: has a kernel of its own; `parts`: is made of other ops when a model is read; `constant`: is
  computed when a model is read, since what it gives follows from shapes and constants.
- *gradient*: `checked`: held against central differences in float64 on every case that has one.
- *engines*: those that run the op, with the share of its cases where that is not all (`cargo test --test ops` compares
  what they compute).
- *cases*: shapes, attributes and types that the op brings along as tests.
- *node tests*: how many of the backend node tests of the Python package onnx 1.22.0 that need this op, and no op that
  is missing here, pass on `cpu`, `wgpu` and `ort`, and how many there are. Why the others fail stands, by name, in
  [`tests/node_tests/ignored.txt`](../tests/node_tests/ignored.txt).

| op | opsets | forward | gradient | engines | cases | node tests |
| --- | --- | --- | --- | --- | ---: | ---: |
";

/// The file as it should be.
pub fn write(
    package: &Package,
    tests: &[NodeTest],
    outcomes: &[Outcome],
    engines: &[Box<dyn Engine>],
    missing: &BTreeMap<String, usize>,
) -> String {
    let mut out = HEAD.to_owned();
    let mut all: Vec<&'static dyn Op> = ops::table().filter(|op| op.spec().domain.is_empty()).collect();
    all.sort_by_key(|op| op.spec().name);
    for op in all {
        let (name, cases) = (op.spec().name, op.cases());
        let graphs: Vec<Graph> = cases.iter().map(|c| common::build(op, c, DType::F32).unwrap().graph).collect();
        let able: Vec<String> = engines.iter().filter_map(|e| able(e.as_ref(), &graphs)).collect();
        let [from, to] = opsets(package, op);
        let _ = writeln!(
            out,
            "| {name} | {from}–{to} | {} | {} | {} | {} | {} |",
            forward(name, &graphs),
            gradient(op),
            able.join(", "),
            cases.len(),
            passed(name, tests, outcomes),
        );
    }
    let total = |o: &Outcome| (0..tests.len()).filter(|&i| o.passed(i)).count().to_string();
    let claimed = tests.iter().filter(|t| t.unclaimed().is_empty()).count();
    let mut of_features: Vec<&str> =
        ops::table().map(|op| op.spec()).filter(|s| s.domain == "ai.onnx.ml").map(|s| s.name).collect();
    of_features.sort_unstable();
    let totals: Vec<String> = outcomes.iter().map(total).collect();
    let _ = write!(
        out,
        "\nOf the {} node tests, {claimed} need these ops alone; {} of them pass.\n\n\
         `If` is settled when a model is read, where its condition is constant: the branch taken stands in its place.\n\n\
         Of the domain `ai.onnx.ml`, made of parts: {}, which prepare features before a network.\n\n\
         ## Not supported\n\nOps of the other \
         {} node tests, with the number of tests that need them. A model with one of them is refused, by name:\n\n",
        tests.len(),
        totals.join(" / "),
        of_features.join(", "),
        tests.len() - claimed
    );
    let names: Vec<String> = missing.iter().map(|(name, count)| format!("{name} {count}")).collect();
    out.push_str(&wrapped(&names));
    out
}

/// A list in lines of no more than 120 characters.
fn wrapped(items: &[String]) -> String {
    let mut out = String::new();
    let mut line = String::new();
    for (i, item) in items.iter().enumerate() {
        let end = if i + 1 == items.len() { "." } else { "," };
        if line.len() + item.len() + 2 > 118 {
            out.push_str(&line);
            out.push('\n');
            line.clear();
        }
        let space = if line.is_empty() { "" } else { " " };
        let _ = write!(line, "{space}{item}{end}");
    }
    out + &line + "\n"
}

/// Ops that an operator set changed after the version that we know.
pub fn lagging(package: &Package) -> Vec<String> {
    let ours = ops::table().filter(|op| op.spec().domain.is_empty());
    let lag = ours.filter(|op| opsets(package, *op)[1] < package.newest);
    lag.map(|op| format!("{} {}", op.spec().name, op.spec().version)).collect()
}

/// From the first version of an op to the last before one that we do not know.
fn opsets(package: &Package, op: &dyn Op) -> [i64; 2] {
    let spec = op.spec();
    let history = package.history.get(spec.name).unwrap_or_else(|| panic!("ONNX has no op {}", spec.name));
    let first = history.first().copied().unwrap_or_default();
    let unknown = history.range(spec.version + 1..).next().map(|v| v - 1);
    [first.max(OLDEST_OPSET), unknown.unwrap_or(NEWEST_OPSET).min(package.newest)]
}

/// The engine's name, with the share of the cases that it takes unless that is all; `None` when it takes none.
fn able(engine: &dyn Engine, graphs: &[Graph]) -> Option<String> {
    let takes = graphs.iter().filter(|g| engine.prepare(g).is_ok()).count();
    match takes {
        0 => None,
        n if n == graphs.len() => Some(engine.name().to_owned()),
        n => Some(format!("{} ({n} of {})", engine.name(), graphs.len())),
    }
}

fn forward(name: &str, graphs: &[Graph]) -> &'static str {
    let mut nodes = graphs.iter().flat_map(|g| g.nodes()).peekable();
    match (nodes.peek().is_some(), nodes.any(|n| n.op.spec().name == name)) {
        (false, _) => "constant",
        (true, true) => "kernel",
        (true, false) => "parts",
    }
}

fn gradient(op: &dyn Op) -> String {
    let reason = |c: &ops::Case| match c.gradient {
        Gradient::Checked => None,
        Gradient::None(why) => Some(why),
    };
    let reasons: Vec<Option<&str>> = op.cases().iter().map(reason).collect();
    match reasons.iter().min() {
        Some(Some(why)) => format!("none: {why}"),
        _ => "checked".to_owned(),
    }
}

/// `passed on cpu / wgpu / ort of all`
fn passed(op: &str, tests: &[NodeTest], outcomes: &[Outcome]) -> String {
    let users: Vec<usize> =
        (0..tests.len()).filter(|&i| tests[i].unclaimed().is_empty() && tests[i].ops().contains(op)).collect();
    if users.is_empty() {
        return "none".to_owned();
    }
    let count = |o: &Outcome| users.iter().filter(|&&i| o.passed(i)).count().to_string();
    format!("{} of {}", outcomes.iter().map(count).collect::<Vec<_>>().join(" / "), users.len())
}

/// Compares the file with what it should be, or writes it.
pub fn check(want: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/ops.md");
    if std::env::var_os("ONNX_UNLEARN_WRITE_DOCS").is_some() {
        std::fs::write(&path, want).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    let differs = found.lines().zip(want.lines()).find(|(f, w)| f != w);
    assert!(
        found == want,
        "docs/ops.md is out of date, near {differs:?}; make it anew: ONNX_UNLEARN_WRITE_DOCS=1 cargo test --test node_tests"
    );
}
