//! The binary from outside: bad input ends in one line, exit code 2 and no file; good input in exit code 0.

#[path = "../common/mod.rs"]
mod common;
mod inputs;
mod models;
mod places;
mod works;

use common::{arg, fixture, tool};
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// A folder for one test; what a command leaves in it is looked at.
struct Room(TempDir);

impl Room {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }
    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }
    /// Every file below the folder, with its bytes.
    fn files(&self) -> BTreeSet<(OsString, Vec<u8>)> {
        let entries = std::fs::read_dir(self.0.path()).unwrap().map(Result::unwrap);
        entries.map(|e| (e.file_name(), std::fs::read(e.path()).unwrap_or_default())).collect()
    }
    /// Runs a command that has to fail: exit code 2, nothing on stdout, no file changed. Its words on stderr.
    fn fails<S: AsRef<str>>(&self, args: &[S]) -> String {
        let args: Vec<&str> = args.iter().map(AsRef::as_ref).collect();
        let before = self.files();
        let out = tool(&args).current_dir(self.0.path()).output().unwrap();
        let stderr = String::from_utf8(out.stderr).unwrap();
        assert_eq!(out.status.code(), Some(2), "{args:?}: {stderr}");
        assert_eq!(String::from_utf8(out.stdout).unwrap(), "", "{args:?}");
        assert!(stderr.starts_with("error: "), "{args:?}: {stderr}");
        assert!(before == self.files(), "{args:?} left something behind");
        stderr
    }
    /// The same, and the error is one line that holds all of `words`.
    fn refused<S: AsRef<str>>(&self, args: &[S], words: &[&str]) {
        let line = self.fails(args);
        assert_eq!(line.lines().count(), 1, "not one line: {line}");
        for word in words {
            assert!(line.contains(word), "{word:?} is not in {line}");
        }
    }
    /// The same for wrong usage, which also shows how it is done right.
    fn usage<S: AsRef<str>>(&self, args: &[S], words: &[&str]) {
        let text = self.fails(args);
        for word in words {
            assert!(text.contains(word), "{word:?} is not in {text}");
        }
    }
    /// Refuses a model in every command that reads one.
    fn refuses_model(&self, model: &Path, words: &[&str]) {
        for args in every_command(model, &self.0) {
            self.refused(&args, words);
        }
    }
}

fn codes() -> PathBuf {
    fixture("mlp.codes.npz")
}

fn model() -> PathBuf {
    fixture("mlp.onnx")
}

fn strings(args: &[&str]) -> Vec<String> {
    args.iter().map(|&a| a.to_owned()).collect()
}

/// A right `forget`, but for the model.
fn forget(model: &Path, out: &str, more: &[&str]) -> Vec<String> {
    let codes = codes();
    let args = ["forget", arg(model), "--inputs", arg(&codes), "-o", out, "--engine", "cpu"];
    strings(&[&args[..], more].concat())
}

const FIXED: [&str; 8] = ["--class", "0", "--rule", "dampen", "--alpha", "6", "--lambda", "1"];

/// Every command that writes, on one model.
fn every_command(model: &Path, dir: &TempDir) -> Vec<Vec<String>> {
    let (codes, images) = (codes(), fixture("fmnist_test_1000.npz"));
    let out = dir.path().join("out");
    let (m, c, o, i) = (arg(model), arg(&codes), arg(&out), arg(&images));
    vec![
        strings(&["codes", "new", m, "-o", o]),
        strings(&["gradients", m, "-o", o]),
        strings(&["fisher", m, "--inputs", c, "-o", o, "--engine", "cpu"]),
        forget(model, o, &FIXED),
        strings(&["evaluate", m, "--data", i, "--engine", "cpu"]),
    ]
}
