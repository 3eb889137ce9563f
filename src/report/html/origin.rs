//! How a run is done again.

use super::{Block, Fact, Section, clipped, command_words, shown};
use crate::report::format;

/// Most files that are listed.
const FILES: usize = 40;

/// A file that a run read or wrote.
#[derive(Clone, Debug)]
pub struct File {
    /// `before`, `after`, `inputs`.
    pub role: &'static str,
    /// Its name.
    pub name: String,
    /// SHA-256 in hexadecimal.
    pub sha256: String,
}

/// The command, the hashes of the files and what computed; `again` says what the command gives when it is typed again.
pub(super) fn section(again: &str, command: &[String], files: &[File], engine: &str, seed: u64) -> Section {
    let file = |f: &File| Fact::code(format!("{}: {}", f.role, shown(&f.name)), format!("sha256 {}", f.sha256));
    let mut facts: Vec<Fact> = files.iter().take(FILES).map(file).collect();
    if files.len() > FILES {
        facts.push(Fact::new("files", format!("{} more are not listed", format::count(files.len() - FILES))));
    }
    facts.push(Fact::new("engine", clipped(engine, 400)));
    facts.push(Fact::new("seed", seed.to_string()));
    facts.push(Fact::new("version", format!("onnx-unlearn {}", env!("CARGO_PKG_VERSION"))));
    let blocks = vec![Block::Text(again.to_owned()), Block::Command(command_words(command)), Block::Facts(facts)];
    Section { id: "origin", title: "How to do it again".to_owned(), blocks }
}
