//! `forget --requests`: all past requests of a registry, run again on an export.

mod common;

use common::{arg, fixture, tool};
use serde_json::Value;
use std::path::{Path, PathBuf};

struct Room(tempfile::TempDir);

/// Strengths are given, since a search is slow.
const FLAGS: &str = "inputs = \"codes.npz\"\nrule = \"dampen\"\nalpha = 10\nlambda = 1.0\nengine = \"cpu\"\n";

impl Room {
    fn new(requests: &str) -> Self {
        let room = Self(tempfile::tempdir().unwrap());
        std::fs::copy(fixture("mlp.onnx"), room.path("m.onnx")).unwrap();
        std::fs::copy(fixture("mlp.codes.npz"), room.path("codes.npz")).unwrap();
        std::fs::create_dir(room.path("records")).unwrap();
        room.write(requests);
        room
    }
    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
    fn write(&self, requests: &str) {
        std::fs::write(self.path("requests.toml"), requests.replace("FLAGS", FLAGS)).unwrap();
    }
    /// From another folder, since paths in the file are relative to it.
    fn run(&self, more: &[&str]) -> (i32, String, String) {
        let file = self.path("requests.toml");
        let out = tool([&["forget", "--requests", arg(&file)], more].concat()).current_dir("/").output().unwrap();
        let text = |b: Vec<u8>| String::from_utf8(b).unwrap();
        (out.status.code().unwrap(), text(out.stdout), text(out.stderr))
    }
    fn ended(&self, more: &[&str]) -> Vec<String> {
        let (code, stdout, stderr) = self.run(&[more, &["--json", "--quiet"]].concat());
        assert_eq!(code, 0, "{stdout}{stderr}");
        let lines: Value = serde_json::from_str(&stdout).unwrap();
        lines.as_array().unwrap().iter().map(|l| l["ended"].as_str().unwrap().to_owned()).collect()
    }
    fn record(&self, name: &str) -> Value {
        serde_json::from_slice(&std::fs::read(self.path(name)).unwrap()).unwrap()
    }
    fn verifies(&self, output: &str, record: &str, original: &Path) {
        let (output, record) = (self.path(output), self.path(record));
        tool(["verify", arg(&output), "--record", arg(&record), "--original", arg(original)]).assert().success();
    }
    fn names(&self) -> Vec<String> {
        let mut names: Vec<_> =
            std::fs::read_dir(self.0.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

const TWO: &str = r#"
model = "m.onnx"

[[request]]
id = "2026-001"
classes = [7]
legal-basis = "GDPR art. 17"
output = "one.onnx"
FLAGS
[[request]]
id = "2026-002"
classes = [4, 1]
output = "two.onnx"
FLAGS"#;

#[test]
fn each_request_runs_on_the_output_of_the_one_before_and_once() {
    let room = Room::new(TWO);
    let records = room.path("records");
    let to = ["--record-dir", arg(&records)];
    assert_eq!(room.ended(&to), ["done", "done"]);
    room.verifies("one.onnx", "records/2026-001.json", &room.path("m.onnx"));
    room.verifies("two.onnx", "records/2026-002.json", &room.path("one.onnx"));
    let (one, two) = (room.record("records/2026-001.json"), room.record("records/2026-002.json"));
    // a chain: what the first made is what the second was made from
    assert_eq!(one["subject"][0]["digest"], two["predicate"]["buildDefinition"]["resolvedDependencies"][0]["digest"]);
    assert_eq!(two["predicate"]["buildDefinition"]["externalParameters"]["forgotten"], serde_json::json!([7]));
    assert_eq!(one["predicate"]["request"]["legalBasis"], "GDPR art. 17");
    // nine codes, since that of class 7 stands for nothing any more
    assert_eq!(two["predicate"]["measures"]["retainedSamples"], 7);
    assert_eq!(two["predicate"]["measures"]["forgottenSamples"], 2);
    // again: nothing to do
    let before = std::fs::read(records.join("2026-002.json")).unwrap();
    assert_eq!(room.ended(&to), ["kept", "kept"]);
    // a file that is gone or not what the record says is made again, to the byte
    std::fs::remove_file(room.path("two.onnx")).unwrap();
    assert_eq!(room.ended(&to), ["kept", "done"]);
    assert!(std::fs::read(records.join("2026-002.json")).unwrap() == before);
    // other parameters are another request
    room.write(&TWO.replace("classes = [4, 1]", "classes = [4]"));
    assert_eq!(room.ended(&to), ["kept", "done"]);
}

#[test]
fn past_requests_run_again_on_a_new_export() {
    let room = Room::new(TWO);
    assert_eq!(room.ended(&[]), ["done", "done"]);
    room.verifies("one.onnx", "one.onnx.record.json", &room.path("m.onnx"));
    // the new export: the model after another request, which is as good as any
    let export = room.path("export.onnx");
    let codes = room.path("codes.npz");
    let model = room.path("m.onnx");
    let how = ["--rule", "dampen", "--alpha", "10", "--lambda", "1", "--engine", "cpu", "--quiet"];
    tool([&["forget", arg(&model), "--class", "9", "--inputs", arg(&codes), "-o", arg(&export)], &how[..]].concat())
        .assert()
        .success();
    assert_eq!(room.ended(&[arg(&export)]), ["done", "done"]);
    room.verifies("one.onnx", "one.onnx.record.json", &export);
    room.verifies("two.onnx", "two.onnx.record.json", &room.path("one.onnx"));
}

#[test]
fn a_request_that_fails_stops_those_after_it() {
    let room = Room::new(
        &format!("{TWO}\n[[request]]\nid = \"3\"\nclasses = [0]\noutput = \"three.onnx\"\nFLAGS")
            .replace("[4, 1]", "[4, 11]"),
    );
    let (code, stdout, stderr) = room.run(&["--quiet"]);
    assert_eq!(code, 2, "{stdout}{stderr}");
    assert!(stderr.contains("request 2026-002: ") && stderr.contains("class 11 is out of range"), "{stderr}");
    for word in ["done", "failed", "not run"] {
        assert!(stdout.contains(word), "{stdout}");
    }
    assert!(room.path("one.onnx").exists());
    assert!(!room.path("two.onnx").exists() && !room.path("three.onnx").exists());
    assert!(!room.path("two.onnx.record.json").exists());
    // mended, it goes on where it stopped
    room.write(TWO);
    assert_eq!(room.ended(&[]), ["kept", "done"]);
}

#[test]
fn files_of_requests_that_are_none_write_nothing() {
    let request = |text: &str| format!("model = \"m.onnx\"\n[[request]]\nid = \"a\"\n{text}");
    for (text, word) in [
        (String::new(), "request"),
        ("request = []".to_owned(), "no [[request]]"),
        ("[[request]]\nid = \"a\"\nclasses = [1]\noutput = \"o\"".to_owned(), "no model"),
        (request("classes = [1]"), "output"),
        (request("output = \"o\""), "classes"),
        (request("classes = []\noutput = \"o\""), "class"),
        (request("classes = [-1]\noutput = \"o\""), "-1"),
        (request("classes = [1]\noutput = \"o\"\nwhat = 1"), "'what' is no flag"),
        (request("classes = [1]\noutput = \"o\"\nin-place = true"), "'in-place' is no flag"),
        (request("classes = [1]\noutput = \"o\"\nalpha = [[1]]"), "alpha"),
        (request("classes = [1]\noutput = \"o\"\nname-class = 3"), "name-class"),
        (request("classes = [1]\noutput = \"o\"\nrule = \"none\""), "none"),
        (
            request("classes = [1]\noutput = \"o\"\n[[request]]\nid = \"a\"\nclasses = [2]\noutput = \"p\""),
            "two requests",
        ),
        (
            request("classes = [1]\noutput = \"o\"\n[[request]]\nid = \"b\"\nclasses = [2]\noutput = \"o\""),
            "write one file",
        ),
        (request("classes = [1]\noutput = \"o\"\nid = \"b\""), "duplicate"),
        ("model = [".repeat(10_000), "requests.toml"),
        ("#".repeat(2 << 20), "requests.toml"),
    ] {
        let room = Room::new(&text);
        let before = room.names();
        let (code, _, stderr) = room.run(&["--quiet"]);
        assert_eq!(code, 2, "{text:.80}: {stderr}");
        assert!(stderr.contains(word) && stderr.trim_end().lines().count() == 1, "{text:.80}: {word}: {stderr}");
        assert_eq!(room.names(), before, "{text:.80}");
    }
    let room = Room::new(&TWO.replace("2026-001", "../2026"));
    let records = room.path("records");
    let (code, _, stderr) = room.run(&["--record-dir", arg(&records)]);
    assert!(code == 2 && stderr.contains("names no file"), "{stderr}");
    let (code, _, stderr) = room.run(&["--class", "3"]);
    assert!(code == 2 && stderr.contains("--requests"), "{stderr}");
}
