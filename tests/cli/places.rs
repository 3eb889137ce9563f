//! Where output goes, engines and extents.

use super::common::{arg, tool};
use super::models::decoded;
use super::{FIXED, Room, codes, forget, model, strings};
use prost::Message;

#[test]
fn help_begins_with_what_the_command_does() {
    for (command, does) in
        [("forget", "Makes a classifier forget"), ("fisher", "Estimates"), ("verify", "Holds a model")]
    {
        let out = tool([command, "--help"]).output().unwrap();
        let text = String::from_utf8(out.stdout).unwrap();
        assert!(text.starts_with(does), "{command}: {text}");
    }
}

#[test]
fn outputs_that_cannot_be_written() {
    let room = Room::new();
    let (model, codes) = (model(), codes());
    std::fs::create_dir(room.path("folder")).unwrap();
    room.write("file", "");
    for (out, words) in
        [("none/out", &["none", "does not exist"][..]), ("folder", &["folder"]), ("file/out", &["file"])]
    {
        let (m, c) = (arg(&model), arg(&codes));
        room.refused(&["codes", "new", m, "-o", out], words);
        room.refused(&["gradients", m, "-o", out], words);
        room.refused(&["fisher", m, "--inputs", c, "-o", out], words);
        room.refused(&forget(&model, out, &FIXED), words);
    }
    room.usage(&["forget", arg(&model), "--inputs", arg(&codes), "--class", "0"], &["OUT.onnx"]);
    let copy = room.write("m.onnx", std::fs::read(&model).unwrap());
    // nothing that is read is ever written
    let inputs = room.write("c.npz", std::fs::read(&codes).unwrap());
    let words = ["m.onnx", "it is read as well"];
    room.refused(&["gradients", arg(&copy), "-o", "m.onnx"], &words);
    room.refused(&["codes", "new", arg(&copy), "-o", "m.onnx"], &words);
    room.refused(&["fisher", arg(&copy), "--inputs", "c.npz", "-o", "m.onnx"], &words);
    let words = ["c.npz", "it is read as well"];
    room.refused(&["fisher", arg(&copy), "--inputs", arg(&inputs), "-o", "c.npz"], &words);
    let mut args = forget(&copy, "c.npz", &FIXED);
    args[3] = arg(&inputs).to_owned();
    room.refused(&args, &words);
}

#[cfg(unix)]
#[test]
fn folders_that_are_read_only() {
    use std::os::unix::fs::PermissionsExt;
    let room = Room::new();
    let folder = room.path("locked");
    std::fs::create_dir(&folder).unwrap();
    std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o555)).unwrap();
    if std::fs::write(folder.join("probe"), "").is_ok() {
        eprintln!("skipped: this user may write to read-only folders, as root may");
        return;
    }
    let (model, codes) = (model(), codes());
    room.refused(&forget(&model, "locked/out.onnx", &FIXED), &["cannot write", "locked"]);
    room.refused(&["codes", "new", arg(&model), "-o", "locked/out.npz"], &["cannot write", "locked"]);
    room.refused(&["gradients", arg(&model), "-o", "locked/out.onnx"], &["cannot write", "locked"]);
    room.refused(&["fisher", arg(&model), "--inputs", arg(&codes), "-o", "locked/f"], &["cannot write", "locked"]);
}

// ---- engines and extents ------------------------------------------------------------------------

#[test]
fn engines_that_are_not_there() {
    let room = Room::new();
    let model = model();
    let f = |engine: &str| {
        let mut args = forget(&model, "out.onnx", &FIXED);
        args[7] = engine.to_owned();
        args
    };
    let library = ["--ort-library".to_owned(), "/nonexistent/libonnxruntime.so".to_owned()];
    for engine in ["ort", "auto"] {
        if engine == "auto" && gpu() {
            continue; // the library is not asked for
        }
        let args = [f(engine), library.to_vec()].concat();
        room.refused(&args, &["/nonexistent/libonnxruntime.so", "no such file"]);
    }
    let text = room.write("libonnxruntime.so", "no library");
    let args = [f("ort"), vec!["--ort-library".to_owned(), arg(&text).to_owned()]].concat();
    room.refused(&args, &["libonnxruntime.so"]);
    room.usage(&f("abacus"), &["abacus", "wgpu", "ort", "cpu"]);
}

/// Whether `auto` takes a GPU on this machine.
fn gpu() -> bool {
    use onnx_unlearn::engine::wgpu::{Options, WgpuEngine};
    WgpuEngine::new(&Options { allow_software: false, ..Options::default() }).is_ok()
}

#[test]
fn extents_bound_wrongly() {
    let room = Room::new();
    let model = model();
    let bind = |dim: &str| strings(&["gradients", arg(&model), "-o", "out.onnx", "--dim", dim]);
    room.usage(&bind("batch"), &["NAME=N"]);
    room.usage(&bind("batch=0"), &["above 0"]);
    room.usage(&bind("batch=many"), &["whole number"]);
    room.refused(&bind("batch=3"), &["batch", "--batch"]);
    room.refused(&bind("sequence=3"), &["sequence", "batch"]);
    room.refused(&["gradients", arg(&model), "-o", "out.onnx", "--batch", "0"], &["--batch"]);
    room.refused(&["gradients", arg(&model), "-o", "out.onnx", "--output", "other"], &["'other'", "'logits'"]);
    // extents that are open: with and without a name, and bound to what does not fit
    let path = room.write("open.onnx", opened(&["height", ""]));
    let bind = |dims: &[&str]| {
        let mut args = strings(&["gradients", arg(&path), "-o", "out.onnx"]);
        args.extend(dims.iter().flat_map(|d| ["--dim".to_owned(), (*d).to_owned()]));
        args
    };
    room.refused(&bind(&[]), &["height", "input.3", "--dim NAME=N"]);
    room.refused(&bind(&["height=28"]), &["input.3", "--dim NAME=N"]);
    room.refused(&bind(&["height=28", "input.3=27"]), &["open.onnx"]);
    tool(bind(&["height=28", "input.3=28"])).current_dir(room.0.path()).assert().success();
}

/// The MLP with its last extents left open under these names.
fn opened(names: &[&str]) -> Vec<u8> {
    use onnx_unlearn::onnx::proto::{dimension, type_proto};
    let mut proto = decoded();
    let input = &mut proto.graph.as_mut().unwrap().input[0];
    let Some(type_proto::Value::TensorType(t)) = &mut input.r#type.as_mut().unwrap().value else {
        panic!("the input is no tensor");
    };
    let dims = &mut t.shape.as_mut().unwrap().dim;
    let first = dims.len() - names.len();
    for (dim, name) in dims[first..].iter_mut().zip(names) {
        dim.value = (!name.is_empty()).then(|| dimension::Value::DimParam((*name).to_owned()));
    }
    proto.encode_to_vec()
}

#[test]
fn wrong_usage() {
    let room = Room::new();
    room.usage(&["frobnicate"], &["frobnicate"]);
    room.usage(&["forget"], &["MODEL"]);
    room.usage(&["inspect", arg(&model()), "--colour"], &["--colour"]);
    room.refused(&["codes", "new", arg(&model()), "--range", "1,0"], &["lo < hi"]);
    room.refused(&["codes", "new", arg(&model()), "--range", "1"], &["--range", "two numbers"]);
    room.refused(&["codes", "new", arg(&model()), "--per-class", "0"], &["empty"]);
    // without a command it shows what there is
    let out = tool::<&str>([]).output().unwrap();
    assert_eq!(out.status.code(), Some(2));
    assert!(String::from_utf8(out.stderr).unwrap().contains("forget"));
}
