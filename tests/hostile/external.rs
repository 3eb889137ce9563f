//! Weights in other files: names that lead elsewhere, numbers that lie, links, and what is no file.

use super::Room;
use super::models::{self, HIDDEN, INPUTS, bytes_of, changed, external, values, with_w1};
use onnx_unlearn::onnx::proto::*;
use std::path::PathBuf;

const N: usize = HIDDEN * INPUTS;
const DIMS: [i64; 2] = [HIDDEN as i64, INPUTS as i64];

fn data() -> Vec<u8> {
    bytes_of(&values(N, 1))
}

fn at(pairs: &[(&str, &str)]) -> Vec<u8> {
    with_w1(external("w1", &DIMS, pairs))
}

/// A folder with a model in it, and a file beside the folder that no model may reach.
fn room() -> Room {
    let room = Room::new();
    room.write("outside.bin", data());
    room.write("in/w.bin", data());
    room.write("in/sub/w.bin", data());
    room
}

#[test]
fn locations_that_lead_elsewhere() {
    let room = room();
    let outside = room.path("outside.bin");
    for (case, location, word) in [
        ("parent", "../outside.bin", "leaves"),
        ("parent within", "sub/../../outside.bin", "leaves"),
        ("parent that comes back", "sub/../w.bin", "leaves"),
        ("backslashes", "..\\outside.bin", "backslash"),
        ("absolute", outside.to_str().unwrap(), "absolute"),
        ("a device by its path", "/dev/zero", "absolute"),
        ("a drive", "C:\\x", "backslash"),
        ("a drive with slashes", "C:/x", "absolute"),
        ("a server", "//server/share", "absolute"),
        ("empty", "", "empty"),
        ("the folder itself", ".", "names no file"),
        ("the folder with a slash", "./", ""),
        ("NUL", "w.bin\0.txt", "NUL"),
        ("two slashes", "sub//w.bin", "empty part"),
        ("a folder", "sub", "directory"),
        ("missing", "none.bin", "cannot open"),
        ("below a file", "w.bin/x", "w.bin"),
        ("a name of 300 bytes", &"n".repeat(300), "cannot open"),
        ("the model itself", "m.onnx", "model file itself"),
        ("the model itself by another way", "./m.onnx", "model file itself"),
    ] {
        room.write("in/m.onnx", at(&[("location", location)]));
        room.refuses_model(case, "in/m.onnx", &["in/m.onnx", "graph.initializer[0]", word]);
    }
}

#[test]
fn offsets_lengths_and_keys_that_lie() {
    let room = room();
    let size = (4 * N).to_string();
    for (case, pairs, words) in [
        ("no location", &[("offset", "0")][..], &["location"][..]),
        ("offset negative", &[("offset", "-4")], &["offset '-4'"]),
        ("offset with a sign", &[("offset", "+4")], &["offset '+4'"]),
        ("offset no number", &[("offset", "four")], &["offset 'four'"]),
        ("offset empty", &[("offset", "")], &["offset ''"]),
        ("offset hexadecimal", &[("offset", "0x4")], &["offset '0x4'"]),
        ("offset of 25 digits", &[("offset", "9999999999999999999999999")], &["offset"]),
        ("offset 2^64 - 1", &[("offset", "18446744073709551615")], &["past its end"]),
        ("offset past the end", &[("offset", "4096")], &["past its end (128)"]),
        ("offset that leaves too little", &[("offset", "4")], &["past its end (128)"]),
        ("length negative", &[("length", "-1")], &["length '-1'"]),
        ("length no number", &[("length", "all")], &["length 'all'"]),
        ("length 2^64 - 1", &[("length", "18446744073709551615")], &["need 128 bytes"]),
        ("length above what dims say", &[("length", "132")], &["need 128 bytes"]),
        ("length below what dims say", &[("length", "64")], &["need 128 bytes"]),
        ("an unknown key", &[("codec", "zstd")], &["unknown key 'codec'"]),
        ("location twice", &[("location", "sub/w.bin")], &["'location' twice"]),
        ("length twice", &[("length", "128"), ("length", "128")], &["'length' twice"]),
        ("checksum no SHA-1", &[("checksum", "1234")], &["checksum '1234'"]),
        ("checksum of other letters", &[("checksum", "zzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzz")], &["SHA-1"]),
        (
            "wrong checksum",
            &[("checksum", "da39a3ee5e6b4b0d3255bfef95601890afd80709")],
            &["w.bin", "does not have the checksum"],
        ),
    ] {
        let location: &[(&str, &str)] = if case == "no location" { &[] } else { &[("location", "w.bin")] };
        room.write("in/m.onnx", at(&[location, pairs].concat()));
        room.refuses_model(case, "in/m.onnx", &[&["in/m.onnx", "graph.initializer[0]"], words].concat());
    }
    // the same tensor, told truly
    models::codes(&room.path("c.npz"));
    for pairs in [&[("location", "w.bin")][..], &[("location", "./sub/w.bin"), ("offset", "0"), ("length", &size)]] {
        room.write("in/m.onnx", at(pairs));
        room.succeeds("control", &["inspect", "in/m.onnx"]);
        std::fs::create_dir(room.path("out")).unwrap();
        room.succeeds("control", &models::forget("in/m.onnx", &["-o", "out/m.onnx"]));
        std::fs::remove_dir_all(room.path("out")).unwrap();
    }
}

/// A right checksum is believed; a change would make it wrong.
#[test]
fn a_checksum_is_kept_true() {
    use sha1::Digest;
    let room = room();
    let sum: String = sha1::Sha1::digest(data()).iter().map(|b| format!("{b:02X}")).collect();
    room.write("in/m.onnx", at(&[("location", "w.bin"), ("checksum", &sum)]));
    models::codes(&room.path("c.npz"));
    room.succeeds("a right checksum", &["inspect", "in/m.onnx"]);
    std::fs::create_dir(room.path("out")).unwrap();
    room.refuses("a right checksum", &models::forget("in/m.onnx", &["-o", "out/m.onnx"]), &["checksum"]);
    room.refuses("a right checksum", &models::forget("in/m.onnx", &["--in-place"]), &["checksum"]);
}

#[test]
fn tensors_that_overlap_in_their_file() {
    let room = room();
    // w2 [3, 8] takes 96 bytes, b1 32
    let case = |case: &str, tensors: &[(usize, &str, &[i64], &str)]| {
        let bytes = changed(|g| {
            for &(i, name, dims, offset) in tensors {
                g.initializer[i] = external(name, dims, &[("location", "w.bin"), ("offset", offset)]);
            }
        });
        room.write("in/m.onnx", bytes);
        room.write("in/w.bin", [data(), data(), data()].concat());
        models::codes(&room.path("c.npz"));
        room.succeeds(case, &["inspect", "in/m.onnx"]);
        std::fs::create_dir_all(room.path("out")).unwrap();
        for more in [&["-o", "out/m.onnx"][..], &["--in-place"]] {
            room.refuses(case, &models::forget("in/m.onnx", more), &["share bytes"]);
        }
    };
    case("the same bytes", &[(1, "b1", &[8], "0"), (3, "b2", &[3], "0")]);
    case("the end of one is the start of another", &[(0, "w1", &DIMS, "0"), (2, "w2", &[3, 8], "124")]);
    case("one within another", &[(0, "w1", &DIMS, "0"), (3, "b2", &[3], "64")]);
    case("half an element", &[(1, "b1", &[8], "0"), (3, "b2", &[3], "30")]);
    // a weight that is changed and a number of another type that is not
    let bytes = changed(|g| {
        g.initializer[0] = external("w1", &DIMS, &[("location", "w.bin")]);
        let steps = external("steps", &[2], &[("location", "w.bin"), ("offset", "120")]);
        g.initializer.push(TensorProto { data_type: Some(DataType::Int64.into()), ..steps });
    });
    room.write("in/m.onnx", bytes);
    room.refuses("an integer over a weight", &models::forget("in/m.onnx", &["--in-place"]), &["share bytes"]);
}

#[test]
fn external_data_in_subgraphs_attributes_and_functions() {
    let tensor = |location: &str| external("t", &[2], &[("location", location)]);
    let hold = |name: &str, location: &str| AttributeProto {
        t: Some(Box::new(tensor(location))),
        ..models::attribute(name, AttributeType::Tensor)
    };
    let branch = |location: &str| {
        let g = GraphProto { initializer: vec![tensor(location)], ..Default::default() };
        AttributeProto { g: Some(Box::new(g)), ..models::attribute("then_branch", AttributeType::Graph) }
    };
    let room = room();
    for (location, word) in [("../outside.bin", "leaves"), ("none.bin", "cannot open"), ("/dev/zero", "absolute")] {
        let cases = [
            (
                "in an attribute",
                changed(|g| g.node.push(models::node("Constant", &[], &["k"], vec![hold("value", location)]))),
            ),
            (
                "in a list of an attribute",
                changed(|g| {
                    let list = AttributeProto {
                        tensors: vec![tensor(location)],
                        ..models::attribute("values", AttributeType::Tensors)
                    };
                    g.node.push(models::node("Relu", &["x"], &["k"], vec![list]));
                }),
            ),
            ("in a subgraph", changed(|g| g.node.push(models::node("If", &["x"], &["k"], vec![branch(location)])))),
            (
                "in a sparse initializer",
                changed(|g| {
                    let sparse = SparseTensorProto { values: Some(tensor(location)), indices: None, dims: vec![4] };
                    g.sparse_initializer.push(sparse);
                }),
            ),
        ];
        for (case, bytes) in cases {
            room.write("in/m.onnx", bytes);
            room.refuses_model(case, "in/m.onnx", &["in/m.onnx", word]);
        }
        let mut m = models::classifier();
        let node = models::node("Constant", &[], &["k"], vec![hold("value", location)]);
        m.functions.push(FunctionProto { name: Some("f".into()), node: vec![node], ..Default::default() });
        room.write("in/m.onnx", prost::Message::encode_to_vec(&m));
        room.refuses_model("in a function", "in/m.onnx", &["in/m.onnx", word]);
    }
}

#[cfg(unix)]
#[test]
fn links_and_what_is_no_file() {
    use std::os::unix::fs::symlink;
    let room = room();
    symlink(room.path("outside.bin"), room.path("in/link.bin")).unwrap();
    symlink("w.bin", room.path("in/near.bin")).unwrap();
    symlink(room.root(), room.path("in/up")).unwrap();
    symlink("sub", room.path("in/alias")).unwrap();
    symlink("loop.bin", room.path("in/loop.bin")).unwrap();
    symlink("/dev/zero", room.path("in/zero.bin")).unwrap();
    std::fs::hard_link(room.path("outside.bin"), room.path("in/hard.bin")).unwrap();
    let made = std::process::Command::new("mkfifo").arg(room.path("in/fifo.bin")).status().unwrap();
    assert!(made.success());
    let _socket = std::os::unix::net::UnixListener::bind(room.path("in/socket.bin")).unwrap();
    for (case, location, word) in [
        ("a symbolic link out", "link.bin", "symbolic link"),
        ("a symbolic link within", "near.bin", "symbolic link"),
        ("a linked parent out", "up/outside.bin", "symbolic link"),
        ("a linked parent within", "alias/w.bin", "symbolic link"),
        ("a link to itself", "loop.bin", "symbolic link"),
        ("a link to a device", "zero.bin", "symbolic link"),
        ("a hard link", "hard.bin", "hard link"),
        ("a FIFO", "fifo.bin", "not a regular file"),
        ("a socket", "socket.bin", "not a regular file"),
    ] {
        room.write("in/m.onnx", at(&[("location", location)]));
        room.refuses_model(case, "in/m.onnx", &["in/m.onnx", word]);
    }
    // and the model itself
    std::fs::remove_file(room.path("in/m.onnx")).unwrap();
    room.refuses_model("a FIFO as the model", "in/fifo.bin", &["not a regular file"]);
    room.refuses_model("a folder as the model", "in/sub", &["in/sub"]);
    room.refuses_model("a device as the model", "/dev/zero", &["not a regular file"]);
}

/// As root alone a device can be made; for everyone else there is the one behind a link, above.
#[cfg(target_os = "linux")]
#[test]
fn a_device_beside_the_model() {
    let room = room();
    let path = room.path("in/device.bin");
    let made = std::process::Command::new("mknod").arg(&path).args(["c", "1", "5"]).output().unwrap();
    if made.status.success() {
        room.write("in/m.onnx", at(&[("location", "device.bin")]));
        room.refuses_model("a device", "in/m.onnx", &["not a regular file"]);
    }
}

/// A hub's cache: the names are links into one folder of blobs.
#[cfg(unix)]
#[test]
fn the_cache_of_a_model_hub() {
    use std::os::unix::fs::symlink;
    let room = Room::new();
    room.write("blobs/1111", at(&[("location", "w.bin")]));
    room.write("blobs/2222", data());
    let snapshot = room.path("snapshots/abc");
    std::fs::create_dir_all(&snapshot).unwrap();
    symlink("../../blobs/1111", snapshot.join("m.onnx")).unwrap();
    symlink("../../blobs/2222", snapshot.join("w.bin")).unwrap();
    models::codes(&room.path("c.npz"));
    std::fs::create_dir(room.path("out")).unwrap();
    room.succeeds("inspect", &["inspect", "snapshots/abc/m.onnx"]);
    room.succeeds("forget", &models::forget("snapshots/abc/m.onnx", &["-o", "out/m.onnx"]));
    assert!(room.path("out/w.bin").is_file());
    // other models of the cache share the blobs: they are not changed
    let in_place = models::forget("snapshots/abc/m.onnx", &["--in-place"]);
    room.refuses("in place through links", &in_place, &["symbolic link"]);
    // out of the blobs is out
    room.write("elsewhere.bin", data());
    std::fs::remove_file(snapshot.join("w.bin")).unwrap();
    symlink("../../elsewhere.bin", snapshot.join("w.bin")).unwrap();
    room.refuses_model("out of the blobs", "snapshots/abc/m.onnx", &["symbolic link"]);
}

/// A file is opened once, and what was opened is what is read, whatever its name is given to meanwhile.
#[cfg(unix)]
#[test]
fn files_swapped_after_they_were_opened() {
    use onnx_unlearn::onnx::Model;
    let room = room();
    let path: PathBuf = room.write("in/m.onnx", at(&[("location", "w.bin")]));
    let model = Model::open(&path).unwrap();
    let w = &model.weights()[model.weight_index("w1").unwrap()];
    let before = model.read(w).unwrap();
    room.write("new.bin", vec![0x7f; 4 * N]);
    std::fs::rename(room.path("new.bin"), room.path("in/w.bin")).unwrap();
    assert_eq!(model.read(w).unwrap(), before);
    // and what would be changed in place is no longer what was read
    let changes = [(model.weight_index("w1").unwrap(), before)];
    let options = onnx_unlearn::onnx::PatchOptions { in_place: true, ..Default::default() };
    let e = onnx_unlearn::onnx::patch(&model, &changes, &path, &options).unwrap_err();
    assert!(e.to_string().contains("changed since it was opened"), "{e}");
    assert_eq!(std::fs::read(room.path("in/w.bin")).unwrap(), vec![0x7f; 4 * N]);
}

/// While one program swaps a file for a link and back, no run ever reads what lies behind the link.
#[cfg(unix)]
#[test]
fn a_file_swapped_for_a_link_again_and_again() {
    use std::os::unix::fs::symlink;
    use std::sync::atomic::{AtomicBool, Ordering};
    let room = room();
    room.write("outside.bin", bytes_of(&[1e30; N]));
    let path = room.write("in/m.onnx", at(&[("location", "w.bin")]));
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let (link, plain, name) = (room.path("in/l"), room.path("in/p"), room.path("in/w.bin"));
                symlink(room.path("outside.bin"), &link).unwrap();
                std::fs::rename(link, &name).unwrap();
                std::fs::write(&plain, data()).unwrap();
                std::fs::rename(plain, &name).unwrap();
            }
        });
        for _ in 0..2000 {
            if let Ok(model) = onnx_unlearn::onnx::Model::open(&path) {
                let w = &model.weights()[model.weight_index("w1").unwrap()];
                assert!(model.read(w).unwrap().to_f64().iter().all(|v| v.abs() < 1.0), "read through the link");
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
}
