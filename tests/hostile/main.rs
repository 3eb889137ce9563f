//! Files from strangers, crashes and full disks. Every bad input is a named case; each ends in one line on stderr and
//! exit code 2, changes no file, and keeps to its bounds of time and memory.

mod bytes;
mod child;
#[path = "../common/mod.rs"]
mod common;
mod device;
mod external;
mod files;
mod graphs;
mod killed;
mod models;
mod properties;
mod records;
mod tensors;
mod writing;

use child::{Ended, Limits};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// A folder for one test; what a command leaves in it is looked at.
pub(crate) struct Room(TempDir);

/// What lies in a folder: the bytes of files, what else stands there in words.
pub type Contents = BTreeMap<PathBuf, Result<Vec<u8>, String>>;

impl Room {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }
    pub fn root(&self) -> &Path {
        self.0.path()
    }
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
    pub fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).unwrap();
        }
        std::fs::write(&path, bytes).unwrap();
        path
    }
    /// Everything below the folder, links not followed.
    pub fn contents(&self) -> Contents {
        let mut all = Contents::new();
        let mut folders = vec![self.root().to_path_buf()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                let kind = path.symlink_metadata().unwrap().file_type();
                let what = if kind.is_file() { Ok(std::fs::read(&path).unwrap()) } else { Err(format!("{kind:?}")) };
                if kind.is_dir() {
                    folders.push(path.clone());
                }
                all.insert(path, what);
            }
        }
        all
    }
    /// Names in the folder itself, hidden ones included, sorted.
    pub fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.root()).unwrap();
        let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// Runs a command in this folder.
    pub fn run(&self, args: &[&str]) -> Ended {
        child::run(self.root(), args, &Limits::default())
    }
    /// Runs a command that has to succeed.
    pub fn succeeds(&self, case: &str, args: &[&str]) -> Ended {
        let ended = self.run(args);
        assert_eq!(ended.code, Some(0), "{case}: {args:?}: {}", ended.stderr);
        ended
    }
    /// Runs a command that has to fail: exit code 2, one line on stderr with all of `words`, no file changed, all
    /// within the bounds.
    pub fn refuses(&self, case: &str, args: &[&str], words: &[&str]) {
        self.refuses_within(case, args, words, &Limits::default());
    }
    pub fn refuses_within(&self, case: &str, args: &[&str], words: &[&str], limits: &Limits) {
        let before = self.contents();
        let ended = child::run(self.root(), args, limits);
        let said = &ended.stderr;
        assert_eq!(ended.code, Some(2), "{case}: {args:?}: {said}");
        let lines = said.lines().filter(|l| !l.starts_with("note: ")).count();
        // inspect shows what it found out, and the obstacles with it
        let text = if args.first() == Some(&"inspect") && said.is_empty() {
            &ended.stdout
        } else {
            assert!(said.contains("error: ") && lines == 1, "{case}: {args:?}: {said}");
            said
        };
        for word in words {
            assert!(text.contains(word), "{case}: {args:?}: {word:?} is not in {text}");
        }
        assert!(self.contents() == before, "{case}: {args:?} changed or left something");
    }
    /// A model that every command has to refuse.
    pub fn refuses_model(&self, case: &str, model: &str, words: &[&str]) {
        let limits = &Limits::default();
        if !self.path("c.npz").exists() {
            models::codes(&self.path("c.npz"));
        }
        self.refuses_within(case, &["inspect", model], words, limits);
        self.refuses_within(case, &models::forget(model, &["-o", "out.onnx"]), words, limits);
        self.refuses_within(case, &models::forget(model, &["--in-place"]), words, limits);
    }
}
