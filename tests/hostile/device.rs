//! Devices that fail: each failure is an error that names the device, and nothing is written.

use super::Room;
use super::child::{self, Limits};
use super::common;
use super::models::{self, classifier};
use onnx_unlearn::classifier::{Classifier, ClassifierOptions};
use onnx_unlearn::engine::{Engine, Session, Tensor, cpu::Cpu};
use onnx_unlearn::forget::{self, Method, Request, Rule, Strength};
use onnx_unlearn::graph::Graph;
use onnx_unlearn::inputs::{self, Expected};
use onnx_unlearn::onnx::Model;
use onnx_unlearn::tensor::Array;
use onnx_unlearn::{Error, Kind, Result};
use prost::Message;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

fn room() -> Room {
    let room = Room::new();
    room.write("m.onnx", classifier().encode_to_vec());
    models::codes(&room.path("c.npz"));
    room
}

/// A forget on the GPU engine, on whatever adapter there is.
fn on_gpu(out: &[&'static str]) -> Vec<&'static str> {
    let mut args = models::forget("m.onnx", out);
    let at = args.iter().position(|a| *a == "cpu").unwrap();
    args[at] = "wgpu";
    args
}

/// Runs it with one failure provoked; the exit code tells a failing engine from bad input.
fn fails(room: &Room, case: &str, variable: (&str, &str), code: i32, words: &[&str]) {
    let before = room.contents();
    let mut command = child::command(room.root(), &on_gpu(&["-o", "out.onnx"]));
    command.env(variable.0, variable.1);
    let ended = child::watch(&mut command, &Limits { memory: 2 << 30, ..Limits::default() });
    assert_eq!(ended.code, Some(code), "{case}: {}", ended.stderr);
    for word in words {
        assert!(ended.stderr.contains(word), "{case}: {word:?} is not in {}", ended.stderr);
    }
    assert!(before == room.contents(), "{case}: something was written");
}

#[test]
fn adapters_that_are_not_there() {
    let room = room();
    fails(&room, "no adapter of that name", ("ONNX_UNLEARN_ADAPTER", "no such thing"), 2, &["no such thing"]);
    fails(&room, "no backend of that name", ("WGPU_BACKEND", "dx12"), 2, &["--engine auto"]);
}

/// Where there is no GPU but a program that plays one, `auto` passes it over and says so; by name it is taken and
/// named.
#[test]
fn a_software_adapter_is_named_and_not_chosen() {
    let room = room();
    let gpu = onnx_unlearn::engine::wgpu::Options { allow_software: false, ..Default::default() };
    if onnx_unlearn::engine::wgpu::WgpuEngine::new(&gpu).is_ok() {
        return; // a real GPU is chosen, as it should be
    }
    let engine = |out: &str, more: &[&str]| {
        let mut args = models::forget("m.onnx", &[&["-o", out, "--json"], more].concat());
        let at = args.iter().position(|a| *a == "cpu").unwrap();
        args[at] = "auto";
        let ended = child::run(room.root(), &args, &Limits { memory: 2 << 30, ..Limits::default() });
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        let report: serde_json::Value = serde_json::from_str(&ended.stdout).unwrap();
        report["engine"].clone()
    };
    // who says how shaders are to multiply wants a device, however little there is to compute
    let found = engine("a.onnx", &["--kernels", "direct"]);
    assert_ne!(found["name"], "wgpu");
    assert!(found["why"].as_str().unwrap().contains("only software adapters"), "{found}");
    let found = engine("b.onnx", &[]);
    assert_eq!(found["name"], "cpu");
    assert!(found["why"].as_str().unwrap().contains("so little work"), "{found}");
}

/// What an engine computes is looked at before anything is written: here by weights that overflow on the way.
#[test]
fn results_that_are_not_finite_are_not_written() {
    let room = room();
    let huge = models::changed(|g| {
        for t in &mut g.initializer {
            let n = t.raw_data().len() / 4;
            t.raw_data = Some(models::bytes_of(&vec![1e38; n]).into());
        }
    });
    room.write("m.onnx", huge);
    let engines = if common::wgpu().is_some() { &["cpu", "wgpu"][..] } else { &["cpu"] };
    for engine in engines {
        let mut args = models::forget("m.onnx", &["-o", "out.onnx"]);
        let at = args.iter().position(|a| *a == "cpu").unwrap();
        args[at] = engine;
        let before = room.contents();
        let ended = child::run(room.root(), &args, &Limits { memory: 2 << 30, ..Limits::default() });
        assert!(matches!(ended.code, Some(2 | 3)), "{engine}: {:?} {}", ended.code, ended.stderr);
        assert!(ended.stderr.contains("finite"), "{engine}: {}", ended.stderr);
        assert!(before == room.contents(), "{engine}: something was written");
    }
}

/// What goes wrong with a device.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Trouble {
    /// As wgpu reports it.
    Lost,
    OutOfMemory,
    /// The driver returns nonsense and says nothing.
    Nan,
}

/// The embedded engine, until it fails at one of its runs.
struct Failing {
    trouble: Trouble,
    at: usize,
    runs: Arc<AtomicUsize>,
}

struct FailingSession(Box<dyn Session>, Trouble, usize, Arc<AtomicUsize>);

impl Engine for Failing {
    fn name(&self) -> &'static str {
        "failing"
    }
    fn describe(&self) -> String {
        format!("{:?} at run {}", self.trouble, self.at)
    }
    fn prepare(&self, graph: &Graph) -> Result<Box<dyn Session>> {
        Ok(Box::new(FailingSession(Cpu.prepare(graph)?, self.trouble, self.at, self.runs.clone())))
    }
}

impl Session for FailingSession {
    fn run(&mut self, feeds: &[Tensor]) -> Result<Vec<Tensor>> {
        let out = self.0.run(feeds)?;
        // what fails once fails from then on, as a lost device does
        if self.3.fetch_add(1, Ordering::Relaxed) < self.2 {
            return Ok(out);
        }
        match self.1 {
            Trouble::Lost => Err(Error::engine("device lost")),
            Trouble::OutOfMemory => Err(Error::engine("out of memory")),
            Trouble::Nan => out
                .into_iter()
                .map(|t| {
                    let a = t.to_array()?;
                    Ok(Tensor::Host(if a.dtype().is_float() {
                        Array::full_float(a.dtype(), a.shape(), f64::NAN)
                    } else {
                        a
                    }))
                })
                .collect(),
        }
    }
}

/// At whichever run a device fails, the whole work fails with it: nothing is computed from what it left.
#[test]
fn a_device_that_fails_at_any_run() {
    let room = room();
    let open =
        || Classifier::from_model(Model::open(room.path("m.onnx")).unwrap(), ClassifierOptions::default()).unwrap();
    let classifier = open();
    let expected = Expected::of_input(classifier.input(), classifier.classes()).unwrap();
    let data = inputs::load(&room.path("c.npz"), &expected, &inputs::Options::default()).unwrap();
    let methods =
        [Method::Fixed(Strength::Dampen { alpha: 1.0, lambda: 1.0 }), Method::Search(vec![Rule::Dampen, Rule::Ratio])];
    for method in methods {
        let request = Request::new(vec![0], method);
        let try_at = |trouble, at| {
            let engine = Failing { trouble, at, runs: Arc::default() };
            let done = forget::forget(&classifier, &engine, &data, &request, &mut |_| {}).map(|_| ());
            (done, engine.runs.load(Ordering::Relaxed))
        };
        let (done, runs) = try_at(Trouble::Lost, usize::MAX);
        done.unwrap();
        assert!(runs > 3, "{runs} runs");
        for trouble in [Trouble::Lost, Trouble::OutOfMemory, Trouble::Nan] {
            for at in 0..runs.min(40) {
                let e = try_at(trouble, at)
                    .0
                    .expect_err(&format!("{trouble:?} at run {at} of {runs}: {:?}", request.method));
                if trouble == Trouble::Nan {
                    let said = e.to_string();
                    assert!(said.contains("finite") || said.contains("no strength"), "at run {at} of {runs}: {said}");
                } else {
                    assert_eq!(e.kind(), Kind::Engine, "{trouble:?} at run {at}: {e}");
                }
            }
        }
    }
}

/// A value that no buffer of the adapter can hold is refused by its name, before anything runs.
#[test]
fn a_tensor_over_the_limits() {
    let Some(engine) = common::wgpu() else { return };
    let elements = usize::try_from(engine.max_tensor_bytes() / 4).unwrap() + 1;
    let mut g = Graph::new(0);
    let ty = onnx_unlearn::tensor::TensorType::new(onnx_unlearn::tensor::DType::F32, [1]);
    let x = g.input("x", ty, onnx_unlearn::graph::Batch::None);
    g.set_scope("the wide one");
    let shape = g.ints(&[i64::try_from(elements).unwrap()]);
    let y = g.push("Expand", &[x, shape], onnx_unlearn::graph::Attrs::new()).unwrap();
    g.outputs = vec![y];
    let e = engine.prepare(&g).err().expect("no adapter holds this");
    assert!(e.to_string().contains("the wide one"), "{e}");
}

/// By name a program that plays a GPU is taken, and the report says what it is.
#[test]
fn a_software_adapter_says_what_it_is() {
    let Some(engine) = common::wgpu() else { return };
    let room = room();
    let mut args = on_gpu(&["-o", "out.onnx"]);
    args.push("--json");
    let ended = child::run(room.root(), &args, &Limits { memory: 2 << 30, ..Limits::default() });
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let report: serde_json::Value = serde_json::from_str(&ended.stdout).unwrap();
    let adapter = report["engine"]["adapter"].as_str().unwrap();
    assert_eq!(adapter.contains("software"), engine.is_software(), "{adapter}");
}
