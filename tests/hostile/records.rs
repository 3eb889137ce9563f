//! Records from strangers: whatever their bytes, `verify` says in bounded time and memory that they do not belong to the model.

use super::Room;
use super::child::{self, Limits};
use super::models::{self, classifier};
use onnx_unlearn::record::Statement;
use prost::Message;

/// The key of RFC 8410, section 10.3.
pub const SECRET: &str = "-----BEGIN PRIVATE KEY-----
MC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC
-----END PRIVATE KEY-----
";

/// A record of one weight of two elements.
pub fn statement() -> Statement {
    let zeros = serde_json::json!({ "sha256": "0".repeat(64) });
    serde_json::from_value(serde_json::json!({
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{ "name": "f.onnx", "digest": zeros }],
        "predicateType": onnx_unlearn::record::PREDICATE,
        "predicate": {
            "buildDefinition": {
                "buildType": onnx_unlearn::record::BUILD,
                "externalParameters": { "classes": [1], "modelClasses": 2, "seed": 0 },
                "internalParameters": {
                    "engine": "cpu",
                    "device": { "threads": "2" },
                    "shaders": {},
                    "rule": "dampen",
                    "strengths": { "alpha": 1.5, "lambda": 1e-7 },
                    "inputs": { "made": false, "samples": { "0": 1, "1": 1 }, "sha256": "0".repeat(64) },
                },
                "resolvedDependencies": [
                    { "name": "m.onnx", "digest": zeros, "annotations": { "role": "model" } },
                    { "name": "images", "digest": { "dirHash": "0".repeat(64) }, "annotations": { "role": "inputs" } },
                ],
            },
            "runDetails": { "builder": { "id": onnx_unlearn::record::BUILDER, "version": { "onnx-unlearn": "0.1.0" } } },
            "request": { "id": "1", "legalBasis": null },
            "classes": [{ "id": 1, "name": null, "nameHmacSha256": null }],
            "changes": {
                "initializers": [{
                    "name": "w", "file": null, "dtype": "float32", "elements": 2, "changed": 1, "share": 1.0,
                    "relative": 0.25, "head": true, "before": zeros, "after": zeros,
                }],
                "metadata": [{ "index": 0, "key": "names", "after": zeros }],
            },
            "measures": {
                "retainedSamples": 1, "forgottenSamples": 1, "retainedRightBefore": 1, "retainedRightAfter": 1,
                "forgottenAnsweredBefore": 1, "forgottenAnsweredAfter": 0, "oldHeadAnsweredAfter": 0,
                "candidates": 1, "headShare": 1.0, "weightsChanged": 1, "elementsChanged": 1,
            },
            "doubts": [],
            "limits": ["none"],
            "signer": null,
            "recordDigest": zeros,
        },
    }))
    .unwrap()
}

/// A room with a model, what was forgotten of it, and the record.
fn room() -> Room {
    let room = Room::new();
    models::codes(&room.path("c.npz"));
    room.write("m.onnx", classifier().encode_to_vec());
    room.succeeds("a record", &models::forget("m.onnx", &["-o", "f.onnx", "--record", "r.json"]));
    room
}

const VERIFY: [&str; 6] = ["verify", "f.onnx", "--record", "bad.json", "--original", "m.onnx"];

#[test]
fn bytes_that_are_no_record_of_the_model() {
    let room = room();
    let good = String::from_utf8(std::fs::read(room.path("r.json")).unwrap()).unwrap();
    let replaced = |from: &str, to: &str| {
        assert!(good.contains(from), "{from}");
        good.replacen(from, to, 1).into_bytes()
    };
    let mut cases: Vec<(String, Vec<u8>)> = [
        ("empty", Vec::new()),
        ("one byte", b"{".to_vec()),
        ("no JSON", vec![0xff; 100]),
        ("no object", b"[]\n".to_vec()),
        ("null", b"null\n".to_vec()),
        ("an empty object", b"{}\n".to_vec()),
        ("arrays 100,000 deep", vec![b'['; 100_000]),
        ("objects 100,000 deep", b"{\"a\":".repeat(100_000)),
        ("deep in a parameter", replaced("\"dims\": {}", &format!("\"dims\": {}", "[".repeat(100_000)))),
        ("a number beyond 64 bits", replaced("\"candidates\": 1", "\"candidates\": 99999999999999999999999")),
        ("a number beyond float64", replaced("\"headShare\": ", "\"headShare\": 1e999, \"x\": ")),
        ("a million digits", replaced("\"candidates\": 1", &format!("\"candidates\": {}", "9".repeat(1_000_000)))),
        ("a negative count", replaced("\"candidates\": 1", "\"candidates\": -1")),
        ("text for a number", replaced("\"candidates\": 1", "\"candidates\": \"1\"")),
        (
            "a number for text",
            replaced("\"engine\": \"cpu\",\n        \"inputs\"", "\"engine\": 1,\n        \"inputs\""),
        ),
        ("an array for an object", replaced("\"shaders\": {}", "\"shaders\": []")),
        ("a key twice", replaced("\"doubts\": [", "\"doubts\": [], \"doubts\": [")),
        ("a key twice in a map", replaced("\"threads\"", "\"threads\": \"0\", \"threads\"")),
        ("an unknown key", replaced("\"doubts\"", "\"more\": 0, \"doubts\"")),
        ("half a surrogate", replaced("\"cpu\"", "\"\\ud800\"")),
        ("NUL in a name", replaced("\"w1\"", "\"w\\u0000\"")),
        ("an envelope of nothing", b"{\n  \"payload\": \"\"\n}\n".to_vec()),
        (
            "an envelope that is no base64",
            b"{\n  \"payload\": \"*\",\n  \"payloadType\": \"\",\n  \"signatures\": []\n}\n".to_vec(),
        ),
        ("the record of another model", onnx_unlearn::record::seal(statement(), None).unwrap()),
        ("the model", std::fs::read(room.path("f.onnx")).unwrap()),
    ]
    .map(|(name, bytes)| (name.to_owned(), bytes))
    .into();
    for at in (0..good.len()).step_by(good.len() / 30) {
        cases.push((format!("the first {at} bytes"), good.as_bytes()[..at].to_vec()));
    }
    for (case, bytes) in cases {
        room.write("bad.json", bytes);
        let before = room.contents();
        let ended = room.run(&VERIFY);
        assert_eq!(ended.code, Some(4), "{case}: {}{}", ended.stdout, ended.stderr);
        assert!(ended.stdout.contains("mismatch: ") && ended.stderr.is_empty(), "{case}: {}", ended.stdout);
        assert!(ended.stdout.len() < 4096, "{case}: {} bytes of message", ended.stdout.len());
        assert!(room.contents() == before, "{case}");
    }
}

#[test]
fn a_record_of_100_megabytes_is_not_read() {
    let room = room();
    let mut long = std::fs::read(room.path("r.json")).unwrap();
    long.resize(100 << 20, b' ');
    room.write("bad.json", long);
    let limits = Limits { memory: 250 << 20, ..Limits::default() };
    let ended = child::run(room.root(), &VERIFY, &limits);
    assert_eq!(ended.code, Some(4), "{}", ended.stderr);
    assert!(ended.stdout.contains("longer than 64 MiB"), "{}", ended.stdout);
}

/// What is no file is wrong usage.
#[cfg(unix)]
#[test]
fn records_that_are_no_files() {
    let room = room();
    std::fs::create_dir(room.path("bad.json")).unwrap();
    room.refuses("a folder", &VERIFY, &["bad.json", "regular file"]);
    std::fs::remove_dir(room.path("bad.json")).unwrap();
    let name = std::ffi::CString::new(room.path("bad.json").to_str().unwrap()).unwrap();
    // SAFETY: the name ends with a NUL
    assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
    let ended = room.run(&VERIFY);
    assert!(ended.code == Some(2) && ended.stderr.contains("regular file"), "a pipe: {}", ended.stderr);
    std::fs::remove_file(room.path("bad.json")).unwrap();
    room.refuses("nothing", &VERIFY, &["bad.json"]);
    // a device that never ends
    let ended = room.run(&["verify", "f.onnx", "--record", "/dev/zero"]);
    assert!(ended.code == Some(2) && ended.stderr.contains("regular file"), "{}", ended.stderr);
}

/// The record and the model come together, or neither does.
#[cfg(unix)]
#[test]
fn a_full_disk_leaves_neither_model_nor_record() {
    let room = Room::new();
    models::codes(&room.path("c.npz"));
    room.write("m.onnx", classifier().encode_to_vec());
    std::fs::create_dir(room.path("records")).unwrap();
    for record in ["r.json", "records/r.json"] {
        let before = room.contents();
        let args = models::forget("m.onnx", &["-o", "f.onnx", "--record", record]);
        let mut command = child::command(room.root(), &args);
        // the model fits, the record does not
        let most = std::fs::metadata(room.path("m.onnx")).unwrap().len() + 64;
        limit_files(&mut command, most);
        let ended = child::watch(&mut command, &Limits::default());
        assert_eq!(ended.code, Some(2), "{record}: {}", ended.stderr);
        assert!(ended.stderr.contains("r.json"), "{record}: {}", ended.stderr);
        assert!(room.contents() == before, "{record}: something is left");
    }
}

/// No file may grow beyond this.
#[cfg(unix)]
fn limit_files(command: &mut std::process::Command, bytes: u64) {
    use std::os::unix::process::CommandExt;
    // SAFETY: only calls that are allowed between fork and exec
    unsafe {
        command.pre_exec(move || {
            let limit = libc::rlimit { rlim_cur: bytes, rlim_max: bytes };
            libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
            if libc::setrlimit(libc::RLIMIT_FSIZE, &limit) == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
        });
    }
}
