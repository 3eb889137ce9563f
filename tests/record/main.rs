//! Records: what they say, that they are the same every time, and that no byte of a model, of its data or of its record
//! can change unseen.

#[path = "../common/mod.rs"]
mod common;
mod signatures;

use common::{arg, fixture, tool};
use onnx_unlearn::onnx::Model;
use onnx_unlearn::onnx::proto::{DataLocation, ModelProto, StringStringEntryProto};
use onnx_unlearn::record::{self, Against, PublicKey};
use prost::Message;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

const SECRET: &str = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n-----END PRIVATE KEY-----\n";
/// RFC 8410, section 10.1 and 10.3.
const PUBLIC: &str = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n-----END PUBLIC KEY-----\n";
const NAMES: &str = "{0: 'T-shirt', 1: 'Trouser', 2: 'Pullover', 3: 'Dress', 4: 'Coat', 5: 'Sandal', 6: 'Shirt', 7: 'Sneaker', 8: 'Bag', 9: 'Ankle boot'}";

struct Room(TempDir);

impl Room {
    /// A folder with a model in it, its weights in a data file, the class names in its metadata.
    fn new() -> Self {
        let room = Self(tempfile::tempdir().unwrap());
        let mut m = ModelProto::decode(&std::fs::read(fixture("mlp.onnx")).unwrap()[..]).unwrap();
        let entry = |k: &str, v: &str| StringStringEntryProto { key: Some(k.into()), value: Some(v.into()) };
        m.metadata_props = vec![
            entry("names", NAMES),
            entry("description", "tells a Sneaker from a Shirt, Sneakers from Shirts"),
            entry("author", "nobody"),
        ];
        room.write("inline.onnx", &m.encode_to_vec());
        let mut data = Vec::new();
        for t in m.graph.as_mut().unwrap().initializer.iter_mut().filter(|t| t.raw_data.is_some()) {
            let bytes = t.raw_data.take().unwrap();
            let place = [("location", "data/w.bin".to_owned()), ("offset", data.len().to_string())];
            t.external_data = place.iter().map(|(k, v)| entry(k, v)).collect();
            t.data_location = Some(DataLocation::External.into());
            data.extend_from_slice(&bytes);
            // alignment, which belongs to no tensor
            data.resize(data.len().next_multiple_of(64), 0);
        }
        std::fs::create_dir(room.path("data")).unwrap();
        room.write("data/w.bin", &data);
        room.write("m.onnx", &m.encode_to_vec());
        room.write("key.pem", SECRET.as_bytes());
        room.write("pub.pem", PUBLIC.as_bytes());
        std::fs::create_dir(room.path("out")).unwrap();
        room
    }
    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
    fn write(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.path(name), bytes).unwrap();
    }
    fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap()
    }
    /// Exit code, stdout and stderr of a command in this folder.
    fn run(&self, args: &[&str]) -> (i32, String, String) {
        let out = tool(args).current_dir(self.0.path()).output().unwrap();
        let text = |b: Vec<u8>| String::from_utf8(b).unwrap();
        (out.status.code().unwrap(), text(out.stdout), text(out.stderr))
    }
    fn succeeds(&self, args: &[&str]) -> String {
        let (code, stdout, stderr) = self.run(args);
        assert_eq!(code, 0, "{args:?}: {stdout}{stderr}");
        stdout
    }
    /// Runs `forget` for class 7 with strengths given, which is quick.
    fn forget(&self, model: &str, more: &[&str]) {
        let codes = fixture("mlp.codes.npz");
        let strength = ["--rule", "dampen", "--alpha", "10", "--lambda", "1", "--engine", "cpu"];
        let args = [&["forget", model, "--class", "7", "--inputs", arg(&codes)], &strength[..], more].concat();
        self.succeeds(&args);
    }
    fn names(&self, folder: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.path(folder)).unwrap();
        let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
    fn record(&self, name: &str) -> Value {
        serde_json::from_slice(&self.read(name)).unwrap()
    }
}

/// Everything that is wrong with these bytes, as `verify` finds it.
fn mismatches(model: &Path, record: &[u8], original: Option<&Model>, key: Option<&PublicKey>) -> Vec<String> {
    let (model, parsed) = (Model::open(model), record::parse(record));
    let mut lines: Vec<String> =
        [model.as_ref().err(), parsed.as_ref().err()].into_iter().flatten().map(|e| e.to_string()).collect();
    if let (Ok(model), Ok(parsed)) = (&model, &parsed) {
        lines.extend(record::verify(parsed, &Against { model, original, key }).unwrap());
    }
    lines
}

fn flip(bytes: &[u8], rng: &mut ChaCha8Rng) -> (Vec<u8>, usize) {
    let at = rng.random_range(0..bytes.len());
    let mut flipped = bytes.to_vec();
    flipped[at] ^= 1 << rng.random_range(0..8);
    (flipped, at)
}

#[test]
fn an_honest_pair_agrees_and_the_same_run_gives_the_same_bytes() {
    let room = Room::new();
    for (model, out) in [("m.onnx", "out/f.onnx"), ("inline.onnx", "f.onnx")] {
        let more = ["-o", out, "--record", "r.json", "--request-id", "2026-014", "--legal-basis", "GDPR art. 17 (1) b"];
        room.forget(model, &more);
        let first = room.read("r.json");
        assert_eq!(room.names(".").iter().filter(|n| n.starts_with('.')).count(), 0);
        room.succeeds(&["verify", out, "--record", "r.json"]);
        let said = room.succeeds(&["verify", out, "--record", "r.json", "--original", model]);
        assert!(said.contains("every byte outside of the listed changes is the same"), "{said}");
        assert!(said.contains("2026-014") && said.contains("signature: none"), "{said}");
        // elsewhere, by absolute paths, under another name
        let other = Room::new();
        let (model, record) = (other.path(model), other.path("r.json"));
        let target = other.path("out/other.onnx");
        let more = [
            "-o",
            arg(&target),
            "--record",
            arg(&record),
            "--request-id",
            "2026-014",
            "--legal-basis",
            "GDPR art. 17 (1) b",
        ];
        other.forget(arg(&model), &more);
        let second = String::from_utf8(other.read("r.json")).unwrap();
        assert!(!second.contains(arg(other.0.path())), "a path of this machine");
        let (mut a, mut b): (Value, Value) =
            (serde_json::from_slice(&first).unwrap(), serde_json::from_str(&second).unwrap());
        a["subject"][0]["name"] = Value::Null;
        b["subject"][0]["name"] = Value::Null;
        (a["predicate"]["recordDigest"], b["predicate"]["recordDigest"]) = (Value::Null, Value::Null);
        assert_eq!(a, b);
        std::fs::remove_file(room.path(out)).unwrap();
        let _ = std::fs::remove_dir_all(room.path("out/data"));
        let more = ["-o", out, "--record", "r.json", "--request-id", "2026-014", "--legal-basis", "GDPR art. 17 (1) b"];
        room.forget(if out == "f.onnx" { "inline.onnx" } else { "m.onnx" }, &more);
        assert!(room.read("r.json") == first, "another run gives another record");
    }
    let r = room.record("r.json");
    let p = &r["predicate"];
    assert_eq!(p["classes"][0], serde_json::json!({ "id": 7, "name": null, "nameHmacSha256": null }));
    assert!(!r.to_string().contains("Sneaker"));
    assert_eq!(p["buildDefinition"]["resolvedDependencies"].as_array().unwrap().len(), 2);
    assert_eq!(p["changes"]["metadata"], serde_json::json!([]));
}

#[test]
fn the_digest_can_be_checked_with_other_tools() {
    use sha2::{Digest, Sha256};
    let room = Room::new();
    room.forget("inline.onnx", &["-o", "f.onnx", "--record", "r.json"]);
    let text = String::from_utf8(room.read("r.json")).unwrap();
    let digest = room.record("r.json")["predicate"]["recordDigest"]["sha256"].as_str().unwrap().to_owned();
    let blank = text.replace(&digest, &"0".repeat(64));
    let hex = |b: &[u8]| b.iter().map(|b| format!("{b:02x}")).collect::<String>();
    assert_eq!(hex(&Sha256::digest(blank)), digest);
    let first = &room.record("r.json")["predicate"]["changes"]["initializers"][0];
    // the elements of a weight in raw_data are found in the file as they are
    let m = ModelProto::decode(&room.read("f.onnx")[..]).unwrap();
    let t = m.graph.unwrap().initializer.into_iter().find(|t| Some(t.name()) == first["name"].as_str()).unwrap();
    assert_eq!(first["after"]["sha256"], hex(&Sha256::digest(t.raw_data.unwrap())));
}

/// A thousand flips of one bit: in the model, in its data, in the record, signed and not.
#[test]
fn no_flipped_bit_stays_unseen() {
    let room = Room::new();
    let signed = ["-o", "out/s.onnx", "--record", "s.json", "--sign-key", "key.pem"];
    room.forget("inline.onnx", &signed);
    room.forget("m.onnx", &["-o", "out/f.onnx", "--record", "r.json"]);
    let original = Model::open(room.path("m.onnx")).unwrap();
    let mut rng = ChaCha8Rng::seed_from_u64(1000);
    let (model, data, target) = (room.read("out/f.onnx"), room.read("out/data/w.bin"), room.path("out/f.onnx"));
    let record = room.read("r.json");
    assert_eq!(mismatches(&target, &record, Some(&original), None), Vec::<String>::new());
    for i in 0..1000 {
        // without the original nothing else may be needed
        let original = (i % 10 < 3).then_some(&original);
        let (what, name, bytes) = match i % 5 {
            0 => ("the model", "out/f.onnx", &model),
            1 => ("the data", "out/data/w.bin", &data),
            2 | 3 => ("the record", "r.json", &record),
            _ => ("the signed record", "s.json", &room.read("s.json")),
        };
        let (flipped, at) = flip(bytes, &mut rng);
        let found = match name {
            "r.json" => mismatches(&target, &flipped, original, None),
            "s.json" => mismatches(&room.path("out/s.onnx"), &flipped, None, None),
            name => {
                // another file in the place of the one that is mapped
                std::fs::remove_file(room.path(name)).unwrap();
                room.write(name, &flipped);
                let found = mismatches(&target, &record, original, None);
                std::fs::remove_file(room.path(name)).unwrap();
                room.write(name, bytes);
                found
            }
        };
        assert!(!found.is_empty(), "flip {i}: byte {at} of {what} changed unseen");
    }
    assert_eq!(mismatches(&target, &record, Some(&original), None), Vec::<String>::new());
    // and through the command
    for (i, name) in ["out/f.onnx", "out/data/w.bin", "r.json"].into_iter().cycle().take(24).enumerate() {
        let bytes = room.read(name);
        let (flipped, at) = flip(&bytes, &mut rng);
        room.write(name, &flipped);
        let (code, stdout, stderr) = room.run(&["verify", "out/f.onnx", "--record", "r.json", "--original", "m.onnx"]);
        assert_eq!(code, 4, "flip {i}: byte {at} of {name}: {stdout}{stderr}");
        assert!(stdout.contains("mismatch: "), "{stdout}");
        room.write(name, &bytes);
    }
    room.succeeds(&["verify", "out/f.onnx", "--record", "r.json", "--original", "m.onnx"]);
}

/// What a flip does not do: whole changes by somebody who makes the record's own hash right again.
#[test]
fn a_record_that_agrees_with_itself_is_held_against_the_files() {
    let room = Room::new();
    room.forget("m.onnx", &["-o", "out/f.onnx", "--record", "r.json"]);
    let parsed = record::parse(&room.read("r.json")).unwrap();
    let original = Model::open(room.path("m.onnx")).unwrap();
    let target = room.path("out/f.onnx");
    let forged = |change: &dyn Fn(&mut record::Statement)| {
        let mut statement = parsed.statement.clone();
        change(&mut statement);
        mismatches(&target, &record::seal(statement, None).unwrap(), Some(&original), None).join("\n")
    };
    assert_eq!(forged(&|_| {}), "");
    let zeros = || record::Sha256Digest::new(&"0".repeat(64));
    for (word, change) in [
        ("sha256", &(|s: &mut record::Statement| s.subject[0].digest = zeros()) as &dyn Fn(&mut record::Statement)),
        ("data/w.bin", &|s| s.subject[1].digest = zeros()),
        ("does not name the data file", &|s| drop(s.subject.pop())),
        ("does not use", &|s| s.subject.push(record::Subject { name: "x".into(), digest: zeros() })),
        ("twice", &|s| s.subject.push(s.subject[1].clone())),
        ("_type", &|s| s.kind = "https://in-toto.io/Statement/v0.1".into()),
        ("predicateType", &|s| s.predicate_type.push('x')),
        ("builder.id", &|s| s.predicate.run_details.builder.id.clear()),
        ("of the original has elements", &|s| s.predicate.changes.initializers[0].before = zeros()),
        ("has elements", &|s| s.predicate.changes.initializers[0].after = zeros()),
        ("is no weight", &|s| s.predicate.changes.initializers[0].name = "other".into()),
        ("elements of", &|s| s.predicate.changes.initializers[0].changed += 1),
        ("of float16", &|s| s.predicate.changes.initializers[0].dtype = "float16".into()),
        ("outside of the listed weights", &|s| drop(s.predicate.changes.initializers.remove(0))),
        ("share", &|s| s.predicate.changes.initializers[0].share *= 0.5),
        ("relative", &|s| s.predicate.changes.initializers[0].relative *= 0.5),
        ("weightsChanged", &|s| s.predicate.measures.weights_changed += 1),
        ("headShare", &|s| s.predicate.measures.head_share = 0.25),
        ("retainedSamples", &|s| s.predicate.measures.retained_samples += 1),
        ("the original", &|s| drop(s.predicate.build_definition.resolved_dependencies.remove(0))),
        ("classes", &|s| s.predicate.classes[0].id = 3),
    ] {
        let found = forged(change);
        assert!(found.contains(word), "'{word}' is not in: {found}");
    }
    // a byte that no weight owns, in a model whose record was made to fit it
    let mut odd = room.read("out/data/w.bin");
    *odd.last_mut().unwrap() ^= 1;
    std::fs::remove_file(room.path("out/data/w.bin")).unwrap();
    room.write("out/data/w.bin", &odd);
    let fits = |s: &mut record::Statement| {
        let files = Model::open(&target).unwrap().digests();
        s.subject = files.iter().map(record::Subject::from).collect();
    };
    assert_eq!(
        forged(&fits),
        format!(
            "data file data/w.bin differs from the original outside of the listed weights, first at byte {}",
            odd.len() - 1
        )
    );
}

#[test]
fn spellings_and_strangers_members_are_refused() {
    let room = Room::new();
    room.forget("inline.onnx", &["-o", "f.onnx", "--record", "r.json"]);
    let text = String::from_utf8(room.read("r.json")).unwrap();
    let target = room.path("f.onnx");
    let compact = serde_json::to_string(&room.record("r.json")).unwrap();
    for (what, bytes) in [
        ("another spelling", compact),
        ("white space", text.replacen(": ", ":  ", 1)),
        ("no newline", text.trim_end().to_owned()),
        ("more after it", format!("{text} ")),
        ("an escape", text.replacen("forgetting", "f\\u006frgetting", 1)),
        ("a key twice", text.replacen("\"doubts\"", "\"doubts\": [],\n    \"doubts\"", 1)),
        ("a key twice in a map", text.replacen("\"architecture\"", "\"architecture\": \"x\",\n \"architecture\"", 1)),
        ("an unknown member", text.replacen("\"doubts\"", "\"more\": 1,\n    \"doubts\"", 1)),
        ("an integer as float", text.replacen("\"id\": 7", "\"id\": 7.0", 1)),
        ("a digit more", text.replacen("\"id\": 7", "\"id\": 07", 1)),
    ] {
        assert_ne!(bytes, text, "{what}");
        assert!(!mismatches(&target, bytes.as_bytes(), None, None).is_empty(), "{what} stays unseen");
    }
}

#[test]
fn names_are_left_out_hashed_or_written_as_asked() {
    let room = Room::new();
    room.write("hmac", b"a key of at least sixteen bytes");
    room.forget("inline.onnx", &["-o", "f.onnx", "--record", "r.json", "--hmac-key", "hmac"]);
    let class = room.record("r.json")["predicate"]["classes"][0].clone();
    assert_eq!(class["name"], Value::Null);
    assert_eq!(
        class["nameHmacSha256"],
        record::names::name_hmac(b"a key of at least sixteen bytes", "Sneaker").unwrap()
    );
    room.forget("inline.onnx", &["-o", "f.onnx", "--record", "r.json", "--name-class"]);
    assert_eq!(room.record("r.json")["predicate"]["classes"][0]["name"], "Sneaker");
    room.write("short", b"short");
    let (codes, plain) = (fixture("mlp.codes.npz"), fixture("mlp.onnx"));
    for (model, flag, word) in [
        ("inline.onnx", &["--hmac-key", "short"][..], "least"),
        (arg(&plain), &["--name-class"], "metadata_props"),
        (arg(&plain), &["--scrub-metadata"], "metadata_props"),
    ] {
        let args = ["forget", model, "--class", "7", "--inputs", arg(&codes), "-o", "n.onnx", "--record", "n.json"];
        let (code, _, stderr) = room.run(&[&args, flag].concat());
        assert!(code == 2 && stderr.contains(word), "{stderr}");
        assert!(!room.path("n.onnx").exists() && !room.path("n.json").exists());
    }
}

#[test]
fn a_name_goes_out_of_the_metadata_and_nothing_else_changes() {
    let room = Room::new();
    for (model, out) in [("inline.onnx", "f.onnx"), ("m.onnx", "out/f.onnx")] {
        room.forget(model, &["-o", out, "--record", "r.json", "--scrub-metadata"]);
        let (old, new) = (room.read(model), room.read(out));
        let contains = |b: &[u8]| b.windows(7).any(|w| w == b"Sneaker");
        assert!(contains(&old));
        // 'Sneakers' is another word
        let props = ModelProto::decode(&new[..]).unwrap().metadata_props;
        assert_eq!(props[0].value(), NAMES.replace("Sneaker", "class_7"));
        assert_eq!(props[1].value(), "tells a class_7 from a Shirt, Sneakers from Shirts");
        assert_eq!(props[2].value(), "nobody");
        room.succeeds(&["verify", out, "--record", "r.json"]);
        room.succeeds(&["verify", out, "--record", "r.json", "--original", model]);
        let r = room.record("r.json");
        assert!(!r.to_string().contains("Sneaker"));
        assert_eq!(r["predicate"]["changes"]["metadata"].as_array().unwrap().len(), 2);
        // the weights are those of a run without it
        room.forget(model, &["-o", if out == "f.onnx" { "g.onnx" } else { "data/g.onnx" }, "--record", "g.json"]);
        assert_eq!(
            room.record("g.json")["predicate"]["changes"]["initializers"],
            r["predicate"]["changes"]["initializers"]
        );
        // one byte of metadata more
        let at = new.windows(6).position(|w| w == b"nobody").unwrap();
        let mut other = new.clone();
        other[at] = b'N';
        room.write(out, &other);
        let (code, said, _) = room.run(&["verify", out, "--record", "r.json", "--original", model]);
        assert!(code == 4 && said.contains(&format!("first at byte {at}")), "{said}");
    }
}

#[test]
fn wrong_usage_is_no_mismatch() {
    let room = Room::new();
    room.forget("inline.onnx", &["-o", "f.onnx", "--record", "r.json"]);
    for args in [
        &["verify", "none.onnx", "--record", "r.json"][..],
        &["verify", "f.onnx", "--record", "none.json"],
        &["verify", "f.onnx", "--record", "r.json", "--original", "none.onnx"],
        &["verify", "f.onnx", "--record", "r.json", "--key", "none.pem"],
        &["verify", "f.onnx", "--record", "r.json", "--key", "r.json"],
        &["verify", "f.onnx", "--record", "out"],
        &["verify", "f.onnx"],
    ] {
        let (code, _, stderr) = room.run(args);
        assert_eq!(code, 2, "{args:?}: {stderr}");
    }
    let codes = fixture("mlp.codes.npz");
    for more in [
        &["-o", "n.onnx", "--request-id", "x"][..],
        &["-o", "n.onnx", "--record", "inline.onnx"],
        &["-o", "n.onnx", "--record", "n.onnx"],
        &["-o", "n.onnx", "--record", "out"],
        &["-o", "n.onnx", "--record", "none/r.json"],
        &["-o", "n.onnx", "--record", "key.pem", "--sign-key", "key.pem"],
    ] {
        let before = room.names(".");
        let args = [&["forget", "inline.onnx", "--class", "7", "--inputs", arg(&codes)], more].concat();
        let (code, _, stderr) = room.run(&args);
        assert_eq!(code, 2, "{args:?}: {stderr}");
        assert_eq!(room.names("."), before, "{args:?}");
    }
}

/// The examples in the documents are what this program writes, and what the schema describes.
#[test]
fn the_schema_holds_for_examples_and_for_new_records() {
    let Some(python) = std::env::var_os("ONNX_UNLEARN_PYTHON") else {
        let missing =
            onnx_unlearn::Error::engine("ONNX_UNLEARN_PYTHON names no Python that has the package jsonschema");
        common::available::<()>(Err(missing));
        return;
    };
    let room = Room::new();
    room.write("hmac", b"a key of at least sixteen bytes");
    room.forget(
        "inline.onnx",
        &["-o", "f.onnx", "--record", "r.json", "--scrub-metadata", "--name-class", "--hmac-key", "hmac"],
    );
    room.forget("m.onnx", &["-o", "out/f.onnx", "--record", "s.json", "--sign-key", "key.pem", "--request-id", "1"]);
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let examples = ["record.json", "record.signed.json"].map(|n| root.join("docs/examples").join(n));
    for example in &examples {
        let parsed = record::parse(&std::fs::read(example).unwrap()).unwrap();
        assert_eq!(parsed.faults, Vec::<String>::new(), "{}", example.display());
    }
    let out = Command::new(python)
        .arg(root.join("tests/python/check_record.py"))
        .arg(root.join("docs/record.schema.json"))
        .args([room.path("r.json"), room.path("s.json")])
        .args(&examples)
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    assert_eq!(String::from_utf8(out.stdout).unwrap(), "4 records valid\n");
}
