//! Labelled inputs, classes and strengths that do not fit.

use super::common::arg;
use super::{FIXED, Room, codes, forget, model};
use onnx_unlearn::inputs::npz;
use onnx_unlearn::tensor::Array;

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
