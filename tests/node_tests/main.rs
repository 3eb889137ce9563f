//! The backend node tests of the Python package `onnx`, of one op each, with inputs and outputs that its own
//! reference computed: on all engines, but for those with ops that we do not claim. What fails has to be on
//! the list `ignored.txt`, and what is on the list has to fail. `docs/ops.md` is made from what comes out.

#[path = "../common/mod.rs"]
mod common;
mod ignored;
mod judge;
mod package;
mod table;

use ignored::Ignored;
use judge::Passed;
use onnx_unlearn::engine::{Engine, cpu::Cpu};
use package::{NodeTest, Package};
use std::collections::BTreeMap;

/// Fewer tests than this must never pass: cpu, wgpu, ort.
const LEAST: [(&str, usize); 3] = [("cpu", 1345), ("wgpu", 1345), ("ort", 1325)];

/// What came of the tests on one engine.
pub struct Outcome {
    pub engine: &'static str,
    /// By position in the list of tests; `None` where ops are not claimed.
    pub results: Vec<Option<Result<Passed, String>>>,
}

impl Outcome {
    fn of(engine: &dyn Engine, tests: &[NodeTest]) -> Self {
        let run = |t: &NodeTest| t.unclaimed().is_empty().then(|| judge::run(engine, t).map_err(|e| format!("{e:?}")));
        Self { engine: engine.name(), results: tests.iter().map(run).collect() }
    }
    pub fn passed(&self, i: usize) -> bool {
        matches!(self.results[i], Some(Ok(_)))
    }
    fn count(&self, how: Passed) -> usize {
        self.results.iter().filter(|r| matches!(r, Some(Ok(p)) if *p == how)).count()
    }
}

fn engines() -> Option<Vec<Box<dyn Engine>>> {
    Some(vec![Box::new(Cpu), Box::new(common::wgpu()?), Box::new(common::ort()?)])
}

/// Failures that no entry of the list explains.
fn unexplained(tests: &[NodeTest], outcome: &Outcome, ignored: &Ignored) -> Vec<String> {
    let mut out = Vec::new();
    let mut explained = 0;
    for (test, result) in tests.iter().zip(&outcome.results) {
        let Some(Err(why)) = result else { continue };
        match ignored.of_failure(outcome.engine, &test.name) {
            Some(entry) => {
                println!("ignored on {}: {}: {}", outcome.engine, test.name, entry.reason);
                explained += 1;
            }
            None => out.push(format!("{} on {}: {why}", test.name, outcome.engine)),
        }
    }
    println!(
        "{}: {} computed, {} constant, {explained} ignored, {} fail",
        outcome.engine,
        outcome.count(Passed::Computed),
        outcome.count(Passed::Folded),
        out.len()
    );
    out
}

/// How many tests need each op that is not claimed.
fn unclaimed(tests: &[NodeTest]) -> BTreeMap<String, usize> {
    let mut out = BTreeMap::new();
    for name in tests.iter().flat_map(NodeTest::unclaimed) {
        *out.entry(name).or_insert(0) += 1;
    }
    out
}

#[test]
fn node_tests_of_the_package_onnx() {
    let (Some(package), Some(engines)) = (Package::find(), engines()) else { return };
    let only = std::env::var("ONNX_UNLEARN_CASE").unwrap_or_default();
    let tests = package.tests(&only);
    // one thread an engine
    let outcomes: Vec<Outcome> = std::thread::scope(|s| {
        let started: Vec<_> = engines.iter().map(|e| s.spawn(|| Outcome::of(e.as_ref(), &tests))).collect();
        started.into_iter().map(|t| t.join().unwrap()).collect()
    });
    let ignored = Ignored::read();
    let failures: Vec<String> = outcomes.iter().flat_map(|o| unexplained(&tests, o, &ignored)).collect();
    let missing = unclaimed(&tests);
    let not_claimed = tests.iter().filter(|t| !t.unclaimed().is_empty()).count();
    println!("{not_claimed} of {} tests need ops that are not claimed: {missing:?}", tests.len());
    assert!(failures.is_empty(), "{} fail:\n{}", failures.len(), failures.join("\n"));
    if !only.is_empty() {
        return;
    }
    let stale = ignored.stale();
    assert!(stale.is_empty(), "ignored, and nothing of it fails: {}", stale.join("; "));
    for ((name, least), outcome) in LEAST.iter().zip(&outcomes) {
        let passed = outcome.count(Passed::Computed) + outcome.count(Passed::Folded);
        assert!(*name == outcome.engine && passed >= *least, "only {passed} pass on {}", outcome.engine);
    }
    let lagging = table::lagging(&package);
    assert!(lagging.is_empty(), "ONNX changed these ops since: {}", lagging.join(", "));
    table::check(&table::write(&package, &tests, &outcomes, &engines, &missing));
}
