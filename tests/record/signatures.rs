//! Signatures of records.

use super::common::{arg, fixture};
use super::{PUBLIC, Room};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use onnx_unlearn::record::{self, Secret};
use serde_json::Value;
use std::process::Command;

#[test]
fn signatures_are_demanded_and_checked() {
    let room = Room::new();
    room.forget("inline.onnx", &["-o", "f.onnx", "--record", "s.json", "--sign-key", "key.pem"]);
    let first = room.read("s.json");
    room.forget("inline.onnx", &["-o", "f.onnx", "--record", "s.json", "--sign-key", "key.pem"]);
    assert!(room.read("s.json") == first, "Ed25519 signs the same the same way");
    let verify = |record: &str, key: &[&str]| {
        let args = [&["verify", "f.onnx", "--record", record, "--original", "inline.onnx"], key].concat();
        let (code, stdout, _) = room.run(&args);
        (code, stdout)
    };
    let (code, said) = verify("s.json", &[]);
    assert!(code == 0 && said.contains("by the key that the record names"), "{said}");
    let (code, said) = verify("s.json", &["--key", "pub.pem"]);
    assert!(code == 0 && said.contains("by the given key"), "{said}");
    let other = PUBLIC.replace(
        "MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=",
        "MCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=",
    );
    room.write("other.pem", other.as_bytes());
    let (code, said) = verify("s.json", &["--key", "other.pem"]);
    assert!(code == 4 && said.contains("another key"), "{said}");
    // unsigned, taken out of its envelope, and signed by somebody else
    room.forget("inline.onnx", &["-o", "f.onnx", "--record", "r.json"]);
    let (code, said) = verify("r.json", &["--key", "pub.pem"]);
    assert!(code == 4 && said.contains("not signed"), "{said}");
    let parsed = record::parse(&first).unwrap();
    let envelope: Value = serde_json::from_slice(&first).unwrap();
    room.write("inner.json", &BASE64.decode(envelope["payload"].as_str().unwrap()).unwrap());
    let (code, said) = verify("inner.json", &[]);
    assert!(code == 4 && said.contains("names a signer and is not signed"), "{said}");
    let forger = Secret::from_pem("-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAB\n-----END PRIVATE KEY-----\n").unwrap();
    room.write("forged.json", &record::seal(parsed.statement, Some(&forger)).unwrap());
    assert_eq!(verify("forged.json", &[]).0, 0, "a whole forgery is consistent: only a known key tells");
    let (code, said) = verify("forged.json", &["--key", "pub.pem"]);
    assert!(code == 4 && said.contains("another key"), "{said}");
    for bad in ["m.onnx", "pub.pem"] {
        let codes = fixture("mlp.codes.npz");
        let args = [
            "forget",
            "inline.onnx",
            "--class",
            "7",
            "--inputs",
            arg(&codes),
            "-o",
            "n.onnx",
            "--record",
            "n.json",
            "--sign-key",
            bad,
        ];
        let (code, _, stderr) = room.run(&args);
        assert!(code == 2 && stderr.contains(bad), "{stderr}");
        assert!(!room.path("n.onnx").exists() && !room.path("n.json").exists());
    }
}

/// OpenSSL, where it is installed, knows nothing of this program.
#[test]
fn another_program_verifies_the_signature() {
    if Command::new("openssl").arg("version").output().is_err() {
        eprintln!("skipped: no openssl");
        return;
    }
    let room = Room::new();
    let openssl = |args: &[&str]| {
        let out = Command::new("openssl").args(args).current_dir(room.0.path()).output().unwrap();
        assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
    };
    openssl(&["genpkey", "-algorithm", "ed25519", "-out", "key.pem"]);
    openssl(&["pkey", "-in", "key.pem", "-pubout", "-out", "pub.pem"]);
    room.forget("inline.onnx", &["-o", "f.onnx", "--record", "s.json", "--sign-key", "key.pem"]);
    room.succeeds(&["verify", "f.onnx", "--record", "s.json", "--key", "pub.pem"]);
    let e = room.record("s.json");
    let decoded = |v: &Value| BASE64.decode(v.as_str().unwrap()).unwrap();
    let payload = decoded(&e["payload"]);
    let kind = e["payloadType"].as_str().unwrap();
    room.write("sig", &decoded(&e["signatures"][0]["sig"]));
    room.write("signed", &[format!("DSSEv1 {} {kind} {} ", kind.len(), payload.len()).as_bytes(), &payload].concat());
    openssl(&["pkeyutl", "-verify", "-pubin", "-inkey", "pub.pem", "-rawin", "-in", "signed", "-sigfile", "sig"]);
}
