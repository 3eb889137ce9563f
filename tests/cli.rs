//! The binary from outside: bad input ends in one line, exit code 2 and no file; good input in exit code 0.

mod common;

use common::{arg, fixture, json, tool};
use onnx_unlearn::inputs::npz;
use onnx_unlearn::onnx::Model;
use onnx_unlearn::onnx::proto::{ModelProto, NodeProto};
use onnx_unlearn::tensor::Array;
use prost::Message;
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

// ---- models -------------------------------------------------------------------------------------

#[test]
fn a_missing_model() {
    let room = Room::new();
    let path = room.path("none.onnx");
    room.refuses_model(&path, &["none.onnx", "cannot open"]);
    room.refused(&["inspect", arg(&path)], &["none.onnx"]);
}

#[test]
fn files_that_are_no_models() {
    let room = Room::new();
    let files: [(&str, &[u8]); 6] = [
        ("empty.onnx", b""),
        ("text.onnx", b"This is a text, and a model is none.\n"),
        ("picture.onnx", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x01\0\0\0\x01\x08\x06\0\0\0\x1f\x15\xc4\x89"),
        ("page.onnx", b"<!DOCTYPE html><html><body>404</body></html>"),
        ("zeros.onnx", &[0; 64]),
        ("ones.onnx", &[0xff; 64]),
    ];
    for (name, bytes) in files {
        let path = room.write(name, bytes);
        room.refused(&["inspect", arg(&path)], &[name, "not an ONNX model"]);
        room.refused(&forget(&path, "out.onnx", &FIXED), &[name, "not an ONNX model"]);
    }
    let dir = room.0.path();
    room.refused(&["inspect", arg(dir)], &["directory"]);
    // a file of another kind that is a fixture
    room.refused(&["inspect", arg(&codes())], &["ZIP archive"]);
}

#[test]
fn truncated_models() {
    let room = Room::new();
    let whole = std::fs::read(fixture("cnn.onnx")).unwrap();
    let n = whole.len();
    for cut in [1, 2, 3, 7, 20, 100, 1000, n / 4, n / 2, n - 1000, n - 100, n - 20, n - 5, n - 1] {
        let path = room.write("cut.onnx", &whole[..cut]);
        room.refused(&["inspect", arg(&path)], &["cut.onnx"]);
        room.refused(&forget(&path, "out.onnx", &FIXED), &["cut.onnx"]);
    }
    room.refuses_model(&room.path("cut.onnx"), &["cut.onnx"]);
}

fn decoded() -> ModelProto {
    ModelProto::decode(&std::fs::read(model()).unwrap()[..]).unwrap()
}

fn edited(edit: impl FnOnce(&mut Vec<NodeProto>)) -> Vec<u8> {
    let mut proto = decoded();
    edit(&mut proto.graph.as_mut().unwrap().node);
    proto.encode_to_vec()
}

#[test]
fn unsupported_ops_are_listed_all_at_once() {
    let room = Room::new();
    let bytes = edited(|nodes| {
        let at = |op: &str| nodes.iter().position(|n| n.op_type() == op).unwrap();
        let (sigmoid, gemm) = (at("Sigmoid"), at("Gemm"));
        nodes[sigmoid].op_type = Some("Mystery".into());
        nodes[sigmoid].name = Some("odd one".into());
        nodes[gemm].domain = Some("com.example".into());
        nodes[gemm].name = Some("strange".into());
    });
    let path = room.write("odd.onnx", bytes);
    let words = ["op Mystery is not supported", "'odd one'", "op com.example.Gemm is not supported", "'strange'"];
    room.refuses_model(&path, &words);
    // inspect shows what it can, and the obstacles
    let out = tool(["inspect", arg(&path), "--tensors"]).output().unwrap();
    assert_eq!(out.status.code(), Some(2));
    let text = String::from_utf8(out.stdout).unwrap();
    assert!(words.iter().all(|w| text.contains(w)), "{text}");
    assert!(text.contains("fc1.weight"), "{text}");
    let out = tool(["inspect", arg(&path), "--json"]).output().unwrap();
    assert_eq!(out.status.code(), Some(2));
    let report: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(report["obstacles"].as_array().unwrap().len(), 2, "{report}");
}

#[test]
fn models_that_do_not_hold_together() {
    let room = Room::new();
    let path = room.write("loose.onnx", edited(|nodes| nodes[1].input[0] = "nowhere".into()));
    room.refuses_model(&path, &["loose.onnx", "'nowhere'"]);
    let mut old = decoded();
    old.opset_import[0].version = Some(3);
    let path = room.write("old.onnx", old.encode_to_vec());
    room.refuses_model(&path, &["operator set 3"]);
    let mut new = decoded();
    new.opset_import[0].version = Some(1000);
    let path = room.write("new.onnx", new.encode_to_vec());
    room.refuses_model(&path, &["operator set 1000"]);
}

#[test]
fn nan_among_the_weights() {
    let room = Room::new();
    let mut bytes = std::fs::read(model()).unwrap();
    let known = Model::open(model()).unwrap();
    let weight = &known.weights()[known.weight_index("fc2.weight").unwrap()];
    let at = weight.runs()[0].start + 4 * 17;
    bytes[at..at + 4].copy_from_slice(&f32::NAN.to_le_bytes());
    let path = room.write("nan.onnx", bytes);
    room.refuses_model(&path, &["nan.onnx", "fc2.weight", "NaN"]);
}

// ---- labelled inputs ----------------------------------------------------------------------------

fn x(shape: &[usize]) -> Array {
    let n: usize = shape.iter().product();
    Array::from_vec(shape, (0..n).map(|i| (i % 256) as f32 / 255.0).collect()).unwrap()
}

#[test]
fn codes_that_do_not_fit() {
    let room = Room::new();
    let y = Array::ints(&(0..10).collect::<Vec<_>>());
    let mut holed = x(&[10, 1, 28, 28]);
    holed.slice_mut::<f32>().unwrap()[3 * 784 + 5] = f32::NAN;
    let mut endless = x(&[10, 1, 28, 28]);
    endless.slice_mut::<f32>().unwrap()[784] = f32::INFINITY;
    let eleven = Array::ints(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 10]);
    let few = Array::ints(&[0, 1, 2]);
    let negative = Array::ints(&[0, 1, 2, 3, 4, 5, 6, 7, 8, -1]);
    let halves = Array::full(&[10], 0.5f32);
    let right = x(&[10, 1, 28, 28]);
    type Refused<'a> = (&'a str, &'a [(&'a str, &'a Array)], &'a [&'a str]);
    let cases: &[Refused] = &[
        ("shape", &[("x", &x(&[10, 1, 27, 28])), ("y", &y)], &["[10, 1, 27, 28]", "[1, 28, 28]"]),
        ("channels", &[("x", &x(&[10, 3, 28, 28])), ("y", &y)], &["[10, 3, 28, 28]"]),
        ("no_y", &[("x", &right)], &["\"y\""]),
        ("no_x", &[("y", &y)], &["\"x\""]),
        ("nan", &[("x", &holed), ("y", &y)], &["NaN", "sample 3"]),
        ("infinite", &[("x", &endless), ("y", &y)], &["inf", "sample 1"]),
        ("class", &[("x", &right), ("y", &eleven)], &["class 10", "10 classes"]),
        ("few", &[("x", &right), ("y", &few)], &["10", "3"]),
        ("negative", &[("x", &right), ("y", &negative)], &["-1"]),
        ("halves", &[("x", &right), ("y", &halves)], &["y"]),
        ("nothing", &[("x", &x(&[0, 1, 28, 28])), ("y", &Array::ints(&[]))], &["no labelled inputs"]),
    ];
    let model = model();
    for (name, arrays, words) in cases {
        let path = room.path(&format!("{name}.npz"));
        npz::write(&path, arrays).unwrap();
        let words = [&[name as &str], *words].concat();
        let mut args = forget(&model, "out.onnx", &FIXED);
        args[3] = arg(&path).to_owned();
        room.refused(&args, &words);
        room.refused(&["fisher", arg(&model), "--inputs", arg(&path), "-o", "f.safetensors"], &words);
        room.refused(&["evaluate", arg(&model), "--data", arg(&path)], &words);
    }
}

#[test]
fn labelled_inputs_that_are_none() {
    let room = Room::new();
    let model = model();
    let with = |inputs: &str| {
        let mut args = forget(&model, "out.onnx", &FIXED);
        args[3] = inputs.to_owned();
        args
    };
    room.refused(&with("none.npz"), &["none.npz"]);
    room.write("text.npz", "not a zip file");
    room.refused(&with("text.npz"), &["text.npz", "npz"]);
    let whole = std::fs::read(codes()).unwrap();
    for cut in [0, 10, whole.len() / 2, whole.len() - 1] {
        room.write("cut.npz", &whole[..cut]);
        room.refused(&with("cut.npz"), &["cut.npz"]);
    }
    room.refused(&with(arg(&model)), &["mlp.onnx", ".npz"]);
    std::fs::create_dir(room.path("folder")).unwrap();
    room.refused(&with("folder"), &["folder"]);
}

// ---- classes and strengths ----------------------------------------------------------------------

#[test]
fn classes_that_cannot_be_forgotten() {
    let room = Room::new();
    let (model, codes) = (model(), codes());
    let f = |more: &[&str]| forget(&model, "out.onnx", more);
    room.refused(&f(&["--class", "10"]), &["class 10", "10 classes", "0 to 9"]);
    room.refused(&f(&["--class", "0,99"]), &["class 99"]);
    room.refused(&f(&["--class", "0,1,2,3,4,5,6,7,8,9"]), &["every class", "retained"]);
    room.usage(&f(&[]), &["--class"]);
    room.usage(&f(&["--class", "-1"]), &["-1"]);
    room.usage(&f(&["--class", "shirt"]), &["shirt"]);
    let fisher = ["fisher", arg(&model), "--inputs", arg(&codes), "-o", "f.safetensors", "--engine", "cpu"];
    room.refused(&[&fisher[..], &["--class", "10"]].concat(), &["class 10"]);
    room.refused(&["evaluate", arg(&model), "--data", arg(&codes), "--forgotten", "10"], &["class 10"]);
    // a class that has no input
    let path = room.path("few.npz");
    npz::write(&path, &[("x", &x(&[2, 1, 28, 28])), ("y", &Array::ints(&[1, 2]))]).unwrap();
    let mut args = f(&FIXED);
    args[3] = arg(&path).to_owned();
    room.refused(&args, &["no labelled input belongs to class 0"]);
}

#[test]
fn strengths_that_do_not_belong_to_the_rule() {
    let room = Room::new();
    let model = model();
    let f = |more: &str| {
        forget(&model, "out.onnx", &[&["--class", "0"], &more.split(' ').collect::<Vec<_>>()[..]].concat())
    };
    for more in [
        "--rule ratio --alpha 1 --lambda 1",
        "--rule dampen --lambda1 1 --lambda2 1",
        "--rule dampen --alpha 1 --lambda 1 --lambda1 1 --lambda2 1",
        "--rule auto --alpha 1 --lambda 1",
        "--alpha 1 --lambda 1",
        "--lambda1 1 --lambda2 1",
    ] {
        room.refused(&f(more), &["strengths belong to a rule"]);
    }
    room.refused(&f("--rule dampen --alpha=-1 --lambda 1"), &["--alpha", "-1"]);
    room.refused(&f("--rule dampen --alpha nan --lambda 1"), &["--alpha", "NaN"]);
    room.refused(&f("--rule ratio --lambda1 inf --lambda2 1"), &["--lambda1", "inf"]);
    room.usage(&f("--rule dampen --alpha 1"), &["--lambda"]);
    room.usage(&f("--rule ratio --lambda1 1"), &["--lambda2"]);
    room.usage(&f("--rule dampen --alpha much --lambda 1"), &["much"]);
    room.usage(&f("--rule burn"), &["burn", "dampen"]);
}

// ---- where output goes --------------------------------------------------------------------------

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

// ---- what works ---------------------------------------------------------------------------------

#[test]
fn help_of_every_command() {
    for command in [
        "",
        "inspect",
        "codes",
        "codes new",
        "gradients",
        "fisher",
        "fisher merge",
        "fisher compare",
        "forget",
        "evaluate",
    ] {
        let out = tool(command.split_whitespace().chain(["--help"])).output().unwrap();
        assert!(out.status.success(), "{command}");
        assert!(out.stderr.is_empty(), "{command}");
        let text = String::from_utf8(out.stdout).unwrap();
        assert!(text.contains("Usage: onnx-unlearn"), "{command}: {text}");
        assert!(text.lines().all(|l| l.chars().count() <= 100), "{command}: a line over 100 columns");
    }
    let out = tool(["--version"]).output().unwrap();
    assert_eq!(String::from_utf8(out.stdout).unwrap(), format!("onnx-unlearn {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn inspect_says_what_a_model_is() {
    for (name, trainable) in [("mlp", 318_010), ("cnn", 98_442), ("resnet", 173_338)] {
        let report = json(&["inspect", arg(&fixture(&format!("{name}.onnx")))]);
        assert_eq!(report["classifier"]["classes"], 10, "{name}");
        assert_eq!(report["trainable"], trainable, "{name}");
        assert_eq!(report["obstacles"], serde_json::json!([]), "{name}");
        assert_eq!(report["classifier"]["batch"], "open", "{name}");
    }
    // running statistics are weights of the file, but not trainable ones
    let report = json(&["inspect", arg(&fixture("resnet_bn.onnx"))]);
    let weights = report["weights"].as_array().unwrap();
    let statistics: Vec<_> = weights.iter().filter(|w| w["name"].as_str().unwrap().contains("running_")).collect();
    assert!(!statistics.is_empty());
    assert!(statistics.iter().all(|w| w["trainable"] == false));
    assert!(weights.iter().any(|w| w["trainable"] == true));
    let out = tool(["inspect", arg(&model())]).output().unwrap();
    let text = String::from_utf8(out.stdout).unwrap();
    assert!(out.status.success() && out.stderr.is_empty());
    assert!(text.contains("gradients, fisher, forget, evaluate"), "{text}");
}

#[test]
fn new_codes_can_be_used_at_once() {
    let room = Room::new();
    let model = model();
    let path = room.path("codes.npz");
    let report = json(&["codes", "new", arg(&model), "-o", arg(&path), "--seed", "5", "--per-class", "2"]);
    assert_eq!(report["sample_shape"], serde_json::json!([1, 28, 28]));
    assert_eq!(npz::read(&path, "x").unwrap().shape(), [20, 1, 28, 28]);
    assert_eq!(npz::read(&path, "y").unwrap(), Array::ints(&(0..20).map(|i| i / 2).collect::<Vec<_>>()));
    // the same seed gives the same file; the text says how codes are used
    let again = room.path("again.npz");
    let out =
        tool(["codes", "new", arg(&model), "-o", arg(&again), "--seed", "5", "--per-class", "2"]).output().unwrap();
    assert!(String::from_utf8(out.stdout).unwrap().contains("def mix_codes"));
    assert!(std::fs::read(&path).unwrap() == std::fs::read(&again).unwrap());
    let mut args = forget(&model, "out.onnx", &FIXED);
    args[3] = arg(&path).to_owned();
    tool(&args).current_dir(room.0.path()).assert().success();
    assert!(room.path("out.onnx").is_file());
    // another range
    json(&["codes", "new", arg(&model), "-o", arg(&again), "--range=-3,-2"]);
    assert!(npz::read(&again, "x").unwrap().to_f64().iter().all(|v| (-3.0..=-2.0).contains(v)));
    json(&["codes", "new", arg(&model), "-o", arg(&again), "--distribution", "normal", "--range", "-3,0.5"]);
}

#[test]
fn gradients_are_models() {
    let room = Room::new();
    for (mode, suffix, leading, inputs) in [
        ("sum", "grad", &[][..], &["input", "labels", "sample_weights"][..]),
        ("per-sample", "grad", &[3], &["input", "labels"]),
        ("fisher", "fisher", &[], &["input", "labels", "sample_weights"]),
    ] {
        for name in ["mlp", "cnn", "resnet_bn"] {
            let from = fixture(&format!("{name}.onnx"));
            let out = room.path(&format!("{name}.{mode}.onnx"));
            let report = json(&["gradients", arg(&from), "-o", arg(&out), "--mode", mode, "--batch", "3"]);
            assert_eq!(report["batch"], 3);
            let (from, found) = (Model::open(&from).unwrap(), Model::open(&out).unwrap());
            let graph = found.proto().graph.as_ref().unwrap();
            assert_eq!(graph.input.iter().map(|i| i.name()).collect::<Vec<_>>(), inputs, "{name} {mode}");
            let (loss, gradients) = graph.output.split_first().unwrap();
            assert_eq!(loss.name(), "loss");
            assert_eq!(report["outputs"], graph.output.len());
            assert!(!gradients.is_empty());
            for output in gradients {
                let weight = output.name().strip_suffix(&format!(".{suffix}")).unwrap();
                let weight = &from.weights()[from.weight_index(weight).unwrap()];
                let want: Vec<i64> = leading.iter().copied().chain(weight.shape().iter().map(|&d| d as i64)).collect();
                assert_eq!(extents(output), want, "{name} {mode} {}", output.name());
            }
            assert!(graph.node.iter().all(|n| n.domain().is_empty()), "{name} {mode}: standard ops only");
        }
    }
}

fn extents(value: &onnx_unlearn::onnx::proto::ValueInfoProto) -> Vec<i64> {
    use onnx_unlearn::onnx::proto::{dimension, type_proto};
    let Some(type_proto::Value::TensorType(t)) = &value.r#type.as_ref().unwrap().value else {
        panic!("{} is no tensor", value.name());
    };
    let extent = |d: &onnx_unlearn::onnx::proto::Dimension| match d.value {
        Some(dimension::Value::DimValue(n)) => n,
        _ => -1,
    };
    t.shape.as_ref().unwrap().dim.iter().map(extent).collect()
}

#[test]
fn a_fisher_file_holds_every_weight() {
    let room = Room::new();
    let (model, codes) = (fixture("cnn.onnx"), fixture("cnn.codes.npz"));
    let known = Model::open(&model).unwrap();
    let path = room.path("f.safetensors");
    for (more, classes) in [(&[][..], (0..10).collect()), (&["--class", "4,2"], vec![2, 4])] {
        let args = ["fisher", arg(&model), "--inputs", arg(&codes), "-o", arg(&path), "--engine", "cpu"];
        let report = json(&[&args[..], more].concat());
        let bytes = std::fs::read(&path).unwrap();
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(file.len(), known.weights().len());
        for w in known.weights() {
            let t = file.tensor(w.name()).unwrap();
            assert_eq!(t.dtype(), safetensors::Dtype::F32);
            assert_eq!(t.shape(), [&[classes.len()], w.shape()].concat(), "{}", w.name());
            let values: Vec<f32> = t.data().as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
            assert!(values.iter().all(|v| v.is_finite() && *v >= 0.0), "{}", w.name());
            let each = values.len() / classes.len();
            let mean = |i: usize| values.iter().skip(i).step_by(each).map(|v| f64::from(*v)).sum::<f64>();
            let top = (0..each).map(mean).fold(0.0, f64::max) / classes.len() as f64;
            assert!(top > 0.0, "{}", w.name());
            let said = report["weights"].as_array().unwrap().iter().find(|r| r["name"] == w.name()).unwrap();
            assert!((said["max"].as_f64().unwrap() / top - 1.0).abs() < 1e-6);
        }
        let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
        let about = header.metadata().as_ref().unwrap();
        let origin: serde_json::Value = serde_json::from_str(&about["origin"]).unwrap();
        assert_eq!(origin, report["origin"]);
        assert_eq!(origin["samples"], classes.iter().map(|c| serde_json::json!([c, 1])).collect::<serde_json::Value>());
    }
}

#[test]
fn evaluate_agrees_with_the_labels() {
    let (model, images) = (model(), fixture("fmnist_test_1000.npz"));
    let args = ["evaluate", arg(&model), "--data", arg(&images), "--engine", "cpu"];
    let report = json(&args);
    assert_eq!(report["samples"], 1000);
    assert_eq!(report["A_R"], serde_json::Value::Null);
    // 86.9 % on all 10,000 images
    let accuracy = report["accuracy"].as_f64().unwrap();
    assert!((0.84..0.90).contains(&accuracy), "{accuracy}");
    let classes = report["classes"].as_array().unwrap();
    let number = |v: &serde_json::Value| v.as_f64().unwrap();
    let right: f64 = classes.iter().map(|c| number(&c["accuracy"]) * number(&c["samples"])).sum();
    assert!((right / 1000.0 - accuracy).abs() < 1e-9);
    assert_eq!(classes.iter().map(|c| c["answered"].as_u64().unwrap()).sum::<u64>(), 1000);
    // numbers that start with a minus, one for each of one channel
    let dark = json(&[&args[..], &["--mean", "-0.25", "--std", "2", "--limit", "5"]].concat());
    assert_eq!(dark["samples"], 5);
    let out = tool([&args[..], &["--mean", "-0.25,0.5"]].concat()).output().unwrap();
    assert!(String::from_utf8(out.stderr).unwrap().contains("mean"), "two means for one channel");
    assert_eq!(out.status.code(), Some(2));
    let some = json(&[&args[..], &["--limit", "50", "--forgotten", "3,7"]].concat());
    assert_eq!(some["samples"], 50);
    assert!((number(&some["A_F"]) + number(&some["E_F"]) - 1.0).abs() < 1e-12);
}

/// Results go to stdout alone, and nothing else does.
#[test]
fn streams_are_kept_apart() {
    let room = Room::new();
    let model = model();
    for args in every_command(&model, &room.0) {
        let out = tool(&args).current_dir(room.0.path()).output().unwrap();
        assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
        assert_eq!(String::from_utf8(out.stderr).unwrap(), "", "{args:?}");
        let text = String::from_utf8(out.stdout).unwrap();
        assert!(!text.is_empty() && !text.contains('\u{1b}'), "{args:?}: {text}");
    }
}

/// `onnx-unlearn … | head -0`
#[test]
fn a_reader_that_went_away_is_no_error() {
    let room = Room::new();
    let model = model();
    let mut all = every_command(&model, &room.0);
    all.push(strings(&["inspect", arg(&model)]));
    all.push(strings(&["inspect", arg(&model), "--json"]));
    all.push(strings(&["forget", "--help"]));
    for args in all {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let out = std::process::Command::new(env!("CARGO_BIN_EXE_onnx-unlearn"))
            .args(&args)
            .stdout(writer)
            .stderr(std::process::Stdio::piped())
            .output()
            .unwrap();
        let stderr = String::from_utf8(out.stderr).unwrap();
        assert_eq!((out.status.code(), stderr.as_str()), (Some(0), ""), "{args:?}");
    }
}
