//! Files of our own kinds, made by somebody else: codes, Fishers.

use super::Room;
use super::child::{self, Limits};
use super::models::{self, CLASSES, HIDDEN, INPUTS, classifier, values};
use onnx_unlearn::fisher::Row;
use onnx_unlearn::fisher::plan::CHUNK;
use onnx_unlearn::fisher::store::{self, Origin};
use onnx_unlearn::inputs::npz;
use onnx_unlearn::onnx::Model;
use onnx_unlearn::tensor::Array;
use prost::Message;
use safetensors::tensor::{Dtype, TensorView};
use std::collections::HashMap;
use std::io::{Cursor, Write};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

/// An array as NumPy writes it.
fn npy(descr: &str, shape: &str, data: &[u8]) -> Vec<u8> {
    let header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n");
    let n = u16::try_from(header.len()).unwrap().to_le_bytes();
    [b"\x93NUMPY\x01\x00", &n[..], header.as_bytes(), data].concat()
}

fn zipped(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, bytes) in entries {
        zip.start_file(*name, SimpleFileOptions::default().compression_method(CompressionMethod::Deflated)).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

/// Codes that the classifier takes, as arrays.
fn right() -> (Array, Array) {
    let n = 2 * CLASSES;
    let x = Array::from_vec(&[n, INPUTS], values(n * INPUTS, 5)).unwrap();
    (x, Array::ints(&(0..n).map(|i| (i % CLASSES) as i64).collect::<Vec<_>>()))
}

#[test]
fn codes_that_do_not_fit_or_lie() {
    let (x, y) = right();
    let n = 2 * CLASSES;
    let of = |x: &Array, y: &Array| {
        let room = Room::new();
        let path = room.path("made.npz");
        npz::write(&path, &[("x", x), ("y", y)]).unwrap();
        std::fs::read(path).unwrap()
    };
    let with = |at: usize, v: f32| {
        let mut x = x.clone();
        x.slice_mut::<f32>().unwrap()[at] = v;
        x
    };
    let labels = |v: &[i64]| Array::ints(v);
    let x_raw = npy("<f4", "(6, 4)", &models::bytes_of(&values(n * INPUTS, 5)));
    let y_raw = npy("|u1", "(6,)", &[0, 1, 2, 0, 1, 2]);
    let mut flipped = zipped(&[("x.npy", &x_raw), ("y.npy", &y_raw)]);
    let middle = flipped.len() / 3;
    flipped[middle] ^= 0x55;
    let object = npy("|O", "(6, 4)", b"\x80\x04cos\nsystem\n(S'true'\ntR.");
    let cases: Vec<(&str, Vec<u8>, &[&str])> = vec![
        ("NaN codes", of(&with(5, f32::NAN), &y), &["NaN", "sample 1"]),
        ("infinite codes", of(&with(9, f32::INFINITY), &y), &["inf", "sample 2"]),
        ("a class out of range", of(&x, &labels(&[0, 1, 2, 0, 1, 3])), &["class 3", "3 classes"]),
        ("a negative class", of(&x, &labels(&[0, 1, 2, 0, 1, -1])), &["-1"]),
        ("class 2^63 - 1", of(&x, &labels(&[0, 1, 2, 0, 1, i64::MAX])), &["class"]),
        ("classes that are no integers", of(&x, &Array::full(&[n], 0.5f32)), &["y"]),
        ("fewer classes than samples", of(&x, &labels(&[0, 1, 2])), &["6", "3"]),
        ("samples of another shape", of(&Array::full(&[n, 5], 0.5f32), &y), &["[6, 5]", "[4]"]),
        ("samples of another rank", of(&Array::full(&[n, 2, 2, 2], 0.5f32), &y), &["[6, 2, 2, 2]"]),
        ("a scalar for x", of(&Array::full(&[], 0.5f32), &y), &["x"]),
        ("no samples", of(&Array::full(&[0, 4], 0.5f32), &labels(&[])), &["no labelled inputs"]),
        ("no y", zipped(&[("x.npy", &x_raw)]), &["\"y\""]),
        ("no x", zipped(&[("y.npy", &y_raw)]), &["\"x\""]),
        ("a pickle", zipped(&[("x.npy", &object), ("y.npy", &y_raw)]), &["x"]),
        ("strings", zipped(&[("x.npy", &npy("<U4", "(6, 4)", &[0; 384])), ("y.npy", &y_raw)]), &["x"]),
        ("complex numbers", zipped(&[("x.npy", &npy("<c8", "(6, 4)", &[0; 192])), ("y.npy", &y_raw)]), &["x"]),
        (
            "a header that promises more",
            zipped(&[("x.npy", &npy("<f4", "(600, 4)", &[0; 96])), ("y.npy", &y_raw)]),
            &["x"],
        ),
        (
            "a header of 2^64 elements",
            zipped(&[("x.npy", &npy("<f4", "(4294967296, 4294967296)", &[])), ("y.npy", &y_raw)]),
            &["x"],
        ),
        ("a negative extent", zipped(&[("x.npy", &npy("<f4", "(-6, 4)", &[0; 96])), ("y.npy", &y_raw)]), &["x"]),
        (
            "brackets without end",
            zipped(&[("x.npy", &npy("<f4", &"(".repeat(60_000), &[])), ("y.npy", &y_raw)]),
            &["x"],
        ),
        ("a flipped byte", flipped, &[]),
        ("an empty file", vec![], &["npz"]),
        ("a text", b"no zip".to_vec(), &["npz"]),
        ("a zip cut off", of(&x, &y)[..200].to_vec(), &["npz"]),
        ("a model instead", classifier().encode_to_vec(), &["npz"]),
    ];
    let room = Room::new();
    room.write("m.onnx", classifier().encode_to_vec());
    for (case, bytes, words) in cases {
        room.write("c.npz", bytes);
        let words = [&["c.npz"], words].concat();
        room.refuses(case, &models::forget("m.onnx", &["-o", "out.onnx"]), &words);
        room.refuses(case, &["fisher", "m.onnx", "--inputs", "c.npz", "-o", "f", "--engine", "cpu"], &words);
        room.refuses(case, &["evaluate", "m.onnx", "--data", "c.npz", "--engine", "cpu"], &words);
    }
}

/// Small files that unpack to gigabytes: refused by what the header says, or by what the machine has.
#[test]
fn npz_bombs() {
    let room = Room::new();
    room.write("m.onnx", classifier().encode_to_vec());
    let y = npy("|u1", "(6,)", &[0, 1, 2, 0, 1, 2]);
    let entry = |shape: &str, descr: &str, zeros: usize| {
        let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
        let options =
            SimpleFileOptions::default().compression_method(CompressionMethod::Deflated).compression_level(Some(9));
        zip.start_file("x.npy", options).unwrap();
        zip.write_all(&npy(descr, shape, &[])).unwrap();
        let block = vec![0; 1 << 20];
        for _ in 0..zeros >> 20 {
            zip.write_all(&block).unwrap();
        }
        zip.start_file("y.npy", options).unwrap();
        zip.write_all(&y).unwrap();
        zip.finish().unwrap().into_inner()
    };
    let size = 256 << 20;
    let limits = Limits { memory: 700 << 20, ..Limits::default() };
    for (case, bytes) in [
        ("zeros behind a small header", entry("(6, 4)", "<f4", size)),
        ("as many samples as it takes", entry(&format!("({}, 4)", size / 4), "|u1", size)),
    ] {
        assert!(bytes.len() < 2 << 20, "{case}");
        room.write("c.npz", bytes);
        let mut command = child::command(room.root(), &models::forget("m.onnx", &["-o", "out.onnx"]));
        command.env(onnx_unlearn::memory::VARIABLE, (512 << 20).to_string());
        let ended = child::watch(&mut command, &limits);
        assert_eq!(ended.code, Some(2), "{case}: {}", ended.stderr);
        assert!(ended.stderr.contains("c.npz"), "{case}: {}", ended.stderr);
        assert_eq!(room.names(), ["c.npz", "m.onnx"], "{case}");
    }
    // ten thousand and one arrays
    let names: Vec<String> = (0..10_001).map(|i| format!("a{i}.npy")).collect();
    let many: Vec<(&str, &[u8])> = names.iter().map(|n| (n.as_str(), &[][..])).collect();
    room.write("c.npz", zipped(&many));
    room.refuses("ten thousand arrays", &models::forget("m.onnx", &["-o", "out.onnx"]), &["10001 arrays"]);
}

#[test]
fn classes_that_cannot_be_forgotten() {
    let room = Room::new();
    room.write("m.onnx", classifier().encode_to_vec());
    models::codes(&room.path("c.npz"));
    for (case, classes, words) in [
        ("out of range", "3", &["class 3", "0 to 2"][..]),
        ("far out of range", "18446744073709551615", &["class 18446744073709551615"]),
        ("every class", "0,1,2", &["every class"]),
    ] {
        let args = ["forget", "m.onnx", "--inputs", "c.npz", "--class", classes, "--engine", "cpu", "-o", "out.onnx"];
        room.refuses(case, &args, words);
    }
}

// ---- Fisher files -------------------------------------------------------------------------------

/// The header of a Fisher file of this model, with one change to what it says of its origin.
fn about(model: &Model, change: impl FnOnce(&mut Origin)) -> HashMap<String, String> {
    let hash = "0123456789abcdef".repeat(4);
    let mut origin = Origin {
        model_sha256: store::model_sha256(model),
        listing_sha256: hash.clone(),
        samples: vec![(0, 2), (1, 2), (2, 2)],
        chunk: CHUNK,
        engines: vec!["cpu".to_owned()],
        rows: (0..3).map(|class| Row { class, from: 0, to: 1, sha256: hash.clone() }).collect(),
        ..Origin::default()
    };
    origin.inputs_sha256 = Some(inputs_sha256(&origin));
    change(&mut origin);
    let pair = |k: &str, v: &str| (k.to_owned(), v.to_owned());
    HashMap::from([pair("format", "onnx-unlearn fisher 2"), pair("origin", &serde_json::to_string(&origin).unwrap())])
}

/// The hash of all inputs, worked out from what the header says of them.
fn inputs_sha256(origin: &Origin) -> String {
    use sha2::{Digest, Sha256};
    let text: String = origin.rows.iter().map(|r| format!("{}:{}\n", r.class, r.sha256)).collect();
    Sha256::digest(text).iter().map(|b| format!("{b:02x}")).collect()
}

fn fisher(tensors: &[(&str, Dtype, &[usize], Vec<u8>)], about: HashMap<String, String>) -> Vec<u8> {
    let views = tensors.iter().map(|(n, t, s, b)| (*n, TensorView::new(*t, s.to_vec(), b).unwrap()));
    safetensors::serialize(views, Some(about)).unwrap()
}

fn words(v: &[f32]) -> Vec<u8> {
    models::bytes_of(v)
}

#[test]
fn fisher_files_that_lie_or_belong_to_another_model() {
    let model = Model::from_bytes("m.onnx", classifier().encode_to_vec()).unwrap();
    let w1 = [3, HIDDEN, INPUTS];
    let good = |v: f32| vec![("w1", Dtype::F32, &w1[..], words(&[v; 3 * HIDDEN * INPUTS]))];
    let header = |text: &str, data: usize| {
        let text = text.as_bytes();
        [&(text.len() as u64).to_le_bytes()[..], text, &vec![0; data]].concat()
    };
    let said = || about(&model, |_| ());
    let lie = |change: fn(&mut Origin)| fisher(&good(0.5), about(&model, change));
    let with = |key: &str, value: &str| {
        let mut a = said();
        a.insert(key.to_owned(), value.to_owned());
        fisher(&good(0.5), a)
    };
    let whole = fisher(&good(0.5), said());
    let room = Room::new();
    let path = room.write("f.safetensors", &whole);
    let kept = store::load(&path, &model).unwrap();
    assert_eq!(kept.weights().collect::<Vec<_>>(), [("w1", &w1[1..])]);
    assert_eq!(kept.origin.samples, [(0, 2), (1, 2), (2, 2)]);
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("empty", vec![], "no safetensors"),
        ("cut off", whole[..whole.len() - 1].to_vec(), "no safetensors"),
        ("cut off in the header", whole[..40].to_vec(), "no safetensors"),
        ("more bytes than tensors", [&whole[..], &[0; 4]].concat(), "no safetensors"),
        ("a header of 2^64 bytes", [&[0xff; 8][..], b"{}"].concat(), "no safetensors"),
        ("a header beyond the file", [&1000_u64.to_le_bytes()[..], b"{}"].concat(), "no safetensors"),
        ("a header that is no JSON", header("{{{{", 0), "no safetensors"),
        ("a header of brackets", header(&"[".repeat(100_000), 0), "no safetensors"),
        (
            "offsets past the end",
            header(r#"{"w1":{"dtype":"F32","shape":[8,4],"data_offsets":[0,128]}}"#, 64),
            "no safetensors",
        ),
        (
            "offsets backwards",
            header(r#"{"w1":{"dtype":"F32","shape":[8,4],"data_offsets":[128,0]}}"#, 128),
            "no safetensors",
        ),
        (
            "offsets unlike the shape",
            header(r#"{"w1":{"dtype":"F32","shape":[8,5],"data_offsets":[0,128]}}"#, 128),
            "no safetensors",
        ),
        (
            "a shape that overflows",
            header(
                r#"{"w1":{"dtype":"F32","shape":[9223372036854775807,9223372036854775807],"data_offsets":[0,128]}}"#,
                128,
            ),
            "no safetensors",
        ),
        (
            "overlapping tensors",
            header(
                r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}"#,
                12,
            ),
            "no safetensors",
        ),
        ("no word on its origin", fisher(&good(0.5), HashMap::new()), "no Fisher file"),
        ("another format", with("format", "onnx-unlearn fisher 1"), "no Fisher file"),
        ("an origin that is no JSON", with("origin", "{"), "origin cannot be read"),
        ("an origin of brackets", with("origin", &"[".repeat(100_000)), "origin cannot be read"),
        ("an origin that says too little", with("origin", "{}"), "model_sha256"),
        ("an origin of the wrong kind", with("origin", r#"{"model_sha256":3}"#), "origin cannot be read"),
        ("other blocks", lie(|o| o.chunk = 1), "blocks of 1 samples"),
        ("classes out of order", lie(|o| o.samples.swap(0, 1)), "in their order"),
        ("a class twice", lie(|o| o.samples[1].0 = 0), "in their order"),
        ("a class without samples", lie(|o| o.samples[1].1 = 0), "in their order"),
        ("sums out of order", lie(|o| o.rows.swap(0, 1)), "out of order"),
        ("a class in two sums", lie(|o| o.rows[1].class = 0), "overlap"),
        ("a sum of an unknown class", lie(|o| o.rows[1].class = 7), "of class 7"),
        ("a sum of blocks that are not there", lie(|o| o.rows[1].to = usize::MAX), "of class 1"),
        ("a sum of no block", lie(|o| o.rows[1].to = 0), "of class 1"),
        ("a sum that ends before it begins", lie(|o| (o.rows[1].from, o.rows[1].to) = (1, 0)), "of class 1"),
        ("more samples than there are numbers", lie(|o| o.samples[1].1 = usize::MAX), "hash of its inputs"),
        ("a hash that is none", lie(|o| o.rows[0].sha256 = "zz".to_owned()), "'zz'"),
        ("another hash of the inputs", lie(|o| o.inputs_sha256 = Some("0".repeat(64))), "hash of its inputs"),
        ("no hash of the inputs", lie(|o| o.inputs_sha256 = None), "hash of its inputs"),
        ("four sums and an axis of three", lie(|o| o.samples.push((3, 1))), "hash of its inputs"),
        (
            "a part",
            lie(|o| {
                o.samples.push((3, 1));
                o.inputs_sha256 = None;
            }),
            "class 3",
        ),
        (
            "a part of a class",
            lie(|o| {
                o.samples[2].1 = 300;
                o.inputs_sha256 = None;
            }),
            "samples 256 to 299",
        ),
        ("an axis of two", fisher(&[("w1", Dtype::F32, &[2, 8, 4], vec![0; 256])], said()), "3 sums"),
        ("a number", fisher(&[("w1", Dtype::F32, &[], vec![0; 4])], said()), "3 sums"),
        ("no weight", fisher(&[], said()), "no weight"),
        (
            "half of it float64",
            fisher(&[("w1", Dtype::F32, &w1, vec![0; 384]), ("w2", Dtype::F64, &[3, 3, 8], vec![0; 576])], said()),
            "float32 or float64 throughout",
        ),
        ("float16", fisher(&[("w1", Dtype::F16, &w1, vec![0; 192])], said()), "F16"),
        ("another shape", fisher(&[("w1", Dtype::F32, &[3, 4, 8], vec![0; 384])], said()), "shape [4, 8]"),
        ("a weight that is not there", fisher(&[("w9", Dtype::F32, &[3, 1], vec![0; 12])], said()), "'w9'"),
        ("another model", lie(|o| o.model_sha256 = "0".repeat(64)), "another model"),
    ];
    for (case, bytes, word) in cases {
        std::fs::write(&path, &bytes).unwrap();
        let e = store::load(&path, &model).expect_err(case);
        assert_ne!(e.kind(), onnx_unlearn::Kind::Internal, "{case}");
        let e = e.to_string();
        assert!(e.contains(word) && e.contains("f.safetensors"), "{case}: {word:?} is not in {e}");
    }
    assert_eq!(room.names(), ["f.safetensors"]);
}

/// Sums are looked at when they are used: nothing is forgotten with what no sum of squares is, nor joined.
#[test]
fn sums_that_are_none() {
    let model = Model::from_bytes("m.onnx", classifier().encode_to_vec()).unwrap();
    let room = Room::new();
    room.write("m.onnx", classifier().encode_to_vec());
    models::codes(&room.path("c.npz"));
    let shapes: [(&str, &[usize]); 4] = [("b1", &[3, 8]), ("b2", &[3, 3]), ("w1", &[3, 8, 4]), ("w2", &[3, 3, 8])];
    let sums = |v: f64, wide: bool| {
        let tensors = shapes.map(|(name, shape)| {
            let mut values = vec![0.5; shape.iter().product()];
            values[if name == "w2" { 5 } else { 0 }] = if name == "w2" { v } else { 0.25 };
            let bytes = if wide {
                values.iter().flat_map(|v: &f64| v.to_le_bytes()).collect()
            } else {
                values.iter().flat_map(|v| (*v as f32).to_le_bytes()).collect::<Vec<u8>>()
            };
            (name, if wide { Dtype::F64 } else { Dtype::F32 }, shape, bytes)
        });
        fisher(&tensors, about(&model, |_| ()))
    };
    for wide in [false, true] {
        room.write("f", sums(0.5, wide));
        room.succeeds("a Fisher", &models::forget("m.onnx", &["--fisher", "f", "-o", "good.onnx"]));
        for (v, word) in [(f64::NAN, "NaN"), (f64::INFINITY, "inf"), (-1.0, "-1"), (-0.125, "-0.125")] {
            room.write("f", sums(v, wide));
            let words = ["f: ", "'w2'", word];
            room.refuses("bad sum", &models::forget("m.onnx", &["--fisher", "f", "-o", "out.onnx"]), &words);
            room.refuses("bad sum", &models::forget("m.onnx", &["--fisher", "f", "--in-place"]), &words);
            room.refuses("bad sum", &["fisher", "merge", "f", "-o", "joined"], &words);
        }
    }
    room.write("f", sums(f64::MAX, true));
    room.refuses("too great", &models::forget("m.onnx", &["--fisher", "f", "-o", "out.onnx"]), &["f: ", "too great"]);
    for (case, file) in [("no file", "nothing"), ("a folder", "."), ("a model", "m.onnx"), ("inputs", "c.npz")] {
        room.refuses(case, &models::forget("m.onnx", &["--fisher", file, "-o", "out.onnx"]), &[file]);
    }
}

/// What `fisher` writes is what [`store::load`] reads.
#[test]
fn a_fisher_of_this_program_is_read_again() {
    let room = Room::new();
    let path = room.write("m.onnx", classifier().encode_to_vec());
    models::codes(&room.path("c.npz"));
    let args = ["fisher", "m.onnx", "--inputs", "c.npz", "-o", "f.safetensors", "--engine", "cpu"];
    room.succeeds("a Fisher", &args);
    let model = Model::open(&path).unwrap();
    let kept = store::load(&room.path("f.safetensors"), &model).unwrap();
    let weights: Vec<(&str, &[usize])> = kept.weights().collect();
    assert_eq!(weights, [("b1", &[8][..]), ("b2", &[3]), ("w1", &[8, 4]), ("w2", &[3, 8])]);
    assert_eq!(kept.classes(), [0, 1, 2]);
}
