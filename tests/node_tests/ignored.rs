//! The list of tests that we fail knowingly, `ignored.txt`.

use std::cell::Cell;
use std::path::Path;

/// A line of the list.
pub struct Entry {
    engines: Vec<String>,
    pattern: String,
    pub reason: String,
    /// Whether a test that it names has failed.
    needed: Cell<bool>,
}

/// The list.
pub struct Ignored(Vec<Entry>);

impl Ignored {
    /// Reads the list.
    pub fn read() -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/node_tests/ignored.txt");
        let text = std::fs::read_to_string(path).unwrap();
        let entry = |line: &str| {
            let mut words = line.splitn(3, ' ').map(str::trim);
            let (engines, pattern, reason) = (words.next(), words.next(), words.next());
            let (Some(engines), Some(pattern), Some(reason)) = (engines, pattern, reason) else {
                panic!("not 'engines test reason': {line}");
            };
            let engines = engines.split(',').map(str::to_owned).collect();
            Entry { engines, pattern: pattern.into(), reason: reason.into(), needed: Cell::new(false) }
        };
        let lines = text.lines().map(str::trim);
        Self(lines.filter(|l| !l.is_empty() && !l.starts_with('#')).map(entry).collect())
    }

    /// The entry for a test that fails on an engine.
    pub fn of_failure(&self, engine: &str, test: &str) -> Option<&Entry> {
        let entry = self.0.iter().find(|e| e.engines.iter().any(|e| e == engine) && matches(&e.pattern, test))?;
        entry.needed.set(true);
        Some(entry)
    }

    /// Entries that name no test that fails.
    pub fn stale(&self) -> Vec<String> {
        let stale = self.0.iter().filter(|e| !e.needed.get());
        stale.map(|e| format!("{} {}", e.engines.join(","), e.pattern)).collect()
    }
}

/// Whether `name` begins with the pattern, in which `*` stands for anything.
fn matches(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => name.starts_with(pattern),
        Some((start, rest)) => name
            .strip_prefix(start)
            .is_some_and(|left| (0..=left.len()).any(|i| left.is_char_boundary(i) && matches(rest, &left[i..]))),
    }
}

#[test]
fn patterns_match_from_the_start() {
    assert!(matches("test_cast_*_to_INT4", "test_cast_FLOAT_to_INT4") && matches("test_a", "test_ab"));
    assert!(!matches("cast", "test_cast") && !matches("test_*_b", "test_b"));
}
