//! The wgpu engine: what stays on the device, what is shared, and what is refused.

mod common;

use common::{difference, run};
use onnx_unlearn::engine::wgpu::{Kernels, Options, WgpuEngine};
use onnx_unlearn::engine::{Engine, Session, Tensor, cpu::Cpu};
use onnx_unlearn::graph::{Attrs, Batch, Graph, ValueId};
use onnx_unlearn::ops::Form;
use onnx_unlearn::tensor::{Array, DType, TensorType};
use onnx_unlearn::{Kind, Result};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

fn array(shape: &[usize], v: &[f32]) -> Array {
    Array::from_vec(shape, v.to_vec()).unwrap()
}

fn input(g: &mut Graph, name: &str, shape: &[usize]) -> ValueId {
    g.input(name, TensorType::new(DType::F32, shape), Batch::None)
}

fn reshape(g: &mut Graph, x: ValueId, shape: &[i64]) -> ValueId {
    let shape = g.ints(shape);
    g.push("Reshape", &[x, shape], Attrs::new()).unwrap()
}

/// A graph of one op on one input of this shape.
fn unary(op: &str, shape: &[usize]) -> Graph {
    let mut g = Graph::new(0);
    let x = input(&mut g, "x", shape);
    g.outputs = vec![g.push(op, &[x], Attrs::new()).unwrap()];
    g
}

fn arrays(out: &[Tensor]) -> Vec<Array> {
    out.iter().map(|t| t.to_array().unwrap()).collect()
}

fn error<T>(r: Result<T>) -> onnx_unlearn::Error {
    r.err().expect("this has to fail")
}

#[test]
fn tensors_pass_from_session_to_session_on_the_device() {
    let Some(engine) = common::wgpu() else { return };
    let mut neg = engine.prepare(&unary("Neg", &[2, 3])).unwrap();
    let mut relu = engine.prepare(&unary("Relu", &[2, 3])).unwrap();
    let x = array(&[2, 3], &[1.0, -2.0, 3.0, -4.0, 5.0, -6.0]);
    let on_device = engine.upload(&x).unwrap();
    assert!(matches!(on_device, Tensor::Device(_)));
    let y = neg.run(&[on_device]).unwrap();
    let z = relu.run(&y).unwrap();
    // an older output is not touched by a later run
    let again = neg.run(&[Tensor::Host(x.clone())]).unwrap();
    let other = neg.run(&[Tensor::Host(array(&[2, 3], &[9.0; 6]))]).unwrap();
    assert_eq!(arrays(&z), [array(&[2, 3], &[0.0, 2.0, 0.0, 4.0, 0.0, 6.0])]);
    assert_eq!(arrays(&y), arrays(&again));
    assert_eq!(arrays(&other), [array(&[2, 3], &[-9.0; 6])]);
}

#[test]
fn a_session_takes_its_own_output() {
    let Some(engine) = common::wgpu() else { return };
    let mut g = Graph::new(0);
    let (sum, x) = (input(&mut g, "sum", &[3]), input(&mut g, "x", &[3]));
    g.outputs = vec![g.push("Add", &[sum, x], Attrs::new()).unwrap()];
    let mut session = engine.prepare(&g).unwrap();
    let mut sum = Tensor::Host(array(&[3], &[0.0; 3]));
    for k in 0..100 {
        let x = Tensor::Host(array(&[3], &[1.0, k as f32, -1.0]));
        sum = session.run(&[sum, x]).unwrap().remove(0);
    }
    assert_eq!(sum.to_array().unwrap(), array(&[3], &[100.0, 4950.0, -100.0]));
}

#[test]
fn outputs_that_are_no_results_are_right() {
    let Some(engine) = common::wgpu() else { return };
    let mut g = Graph::new(0);
    let x = input(&mut g, "x", &[2, 3]);
    let w = g.weight("w", array(&[3], &[7.0, 8.0, 9.0]));
    let y = g.push("Neg", &[x], Attrs::new()).unwrap();
    let view = reshape(&mut g, y, &[3, 2]);
    let flat = reshape(&mut g, view, &[6]);
    let of_input = reshape(&mut g, x, &[6]);
    let of_weight = reshape(&mut g, w, &[1, 3]);
    let z = g.push("Relu", &[flat], Attrs::new()).unwrap();
    let constant = g.constant(array(&[2], &[0.5, 0.25]));
    g.outputs = vec![view, x, of_input, w, of_weight, z, y, y, constant];
    let mut session = engine.prepare(&g).unwrap();
    let feeds = [[1.0, -2.0, 3.0, -4.0, 5.0, -6.0], [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]].map(|v| array(&[2, 3], &v));
    // all runs first: an output that is the feed's own buffer must outlive the next feed
    let got: Vec<_> = feeds.iter().map(|x| session.run(&[Tensor::Host(x.clone())]).unwrap()).collect();
    let fed = engine.upload(&feeds[0]).unwrap();
    let of_device = session.run(&[fed]).unwrap();
    for (out, x) in got.iter().chain([&of_device]).zip(feeds.iter().chain([&feeds[0]])) {
        assert_eq!(arrays(out), run(&Cpu, &g, std::slice::from_ref(x)).unwrap());
    }
}

#[test]
fn one_buffer_may_be_bound_twice() {
    let Some(engine) = common::wgpu() else { return };
    let mut g = Graph::new(0);
    let (a, b) = (input(&mut g, "a", &[4]), input(&mut g, "b", &[4]));
    let square = g.push("Mul", &[a, a], Attrs::new()).unwrap();
    let product = g.push("Mul", &[a, b], Attrs::new()).unwrap();
    let fourth = g.push("Mul", &[square, square], Attrs::new()).unwrap();
    g.outputs = vec![square, product, fourth];
    let x = engine.upload(&array(&[4], &[1.0, 2.0, -3.0, 0.5])).unwrap();
    let out = arrays(&engine.prepare(&g).unwrap().run(&[x.clone(), x]).unwrap());
    assert_eq!(out[0], array(&[4], &[1.0, 4.0, 9.0, 0.25]));
    assert_eq!(out[1], out[0]);
    assert_eq!(out[2], array(&[4], &[1.0, 16.0, 81.0, 0.0625]));
}

/// A graph whose nodes read random earlier values, of several sizes, some through views.
fn random_graph(rng: &mut ChaCha8Rng, nodes: usize) -> Graph {
    let mut g = Graph::new(0);
    let sizes: [usize; 3] = [6, 60, 600];
    let mut values: Vec<Vec<ValueId>> =
        sizes.iter().enumerate().map(|(i, &n)| vec![input(&mut g, &format!("x{i}"), &[n])]).collect();
    for _ in 0..nodes {
        let k = rng.random_range(0..sizes.len());
        // mostly recent values, so that memory becomes free
        let pick = |rng: &mut ChaCha8Rng| {
            let back = values[k].len().min(if rng.random_range(0..10) == 0 { 100 } else { 4 });
            values[k][values[k].len() - 1 - rng.random_range(0..back)]
        };
        let (a, b) = (pick(rng), pick(rng));
        let y = match rng.random_range(0..6) {
            0 => {
                let wide = reshape(&mut g, a, &[2, -1]);
                let t = g.push("Tanh", &[wide], Attrs::new()).unwrap();
                reshape(&mut g, t, &[-1])
            }
            1 => g.push("Sub", &[a, b], Attrs::new()).unwrap(),
            2 => g.push("Mul", &[a, b], Attrs::new()).unwrap(),
            3 => {
                let v = reshape(&mut g, a, &[-1]);
                g.push("Neg", &[v], Attrs::new()).unwrap()
            }
            4 => g.push("Tanh", &[a], Attrs::new()).unwrap(),
            _ => g.push("Sigmoid", &[a], Attrs::new()).unwrap(),
        };
        let y = g.push("HardSigmoid", &[y], Attrs::new()).unwrap();
        values[k].push(y);
        if rng.random_range(0..20) == 0 {
            g.outputs.push(y);
        }
    }
    g.outputs.extend(values.iter().map(|v| v[v.len() - 1]));
    g
}

#[test]
fn memory_is_used_again_without_harm() {
    let Some(engine) = common::wgpu() else { return };
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    for _ in 0..4 {
        let g = random_graph(&mut rng, 150);
        let mut session = engine.prepare(&g).unwrap();
        let mut kept = Vec::new();
        for _ in 0..3 {
            let feeds: Vec<Array> = g
                .inputs
                .iter()
                .map(|&id| {
                    let v: Vec<f32> = (0..g.shape(id)[0]).map(|_| rng.random_range(-1.0..1.0)).collect();
                    array(g.shape(id), &v)
                })
                .collect();
            let tensors: Vec<Tensor> = feeds.iter().cloned().map(Tensor::from).collect();
            kept.push((session.run(&tensors).unwrap(), run(&Cpu, &g, &feeds).unwrap()));
        }
        for (got, want) in kept {
            for (got, want) in arrays(&got).iter().zip(&want) {
                assert!(difference(got, want) < 1e-5, "{got:?} instead of {want:?}");
            }
        }
    }
}

#[test]
fn a_long_chain_needs_little_memory() {
    let Some(engine) = common::wgpu() else { return };
    let mut g = Graph::new(0);
    let mut y = input(&mut g, "x", &[1024]);
    for _ in 0..100 {
        y = g.push("Tanh", &[y], Attrs::new()).unwrap();
    }
    g.outputs = vec![y];
    let bytes = engine.prepare(&g).unwrap().device_bytes().unwrap();
    // the feed, two values in turn, the output; 256 bytes of parameters a node
    assert!(bytes <= 4 * 4096 + 100 * 256, "{bytes} bytes");
}

#[test]
fn empty_tensors_pass() {
    let Some(engine) = common::wgpu() else { return };
    let mut g = Graph::new(0);
    let x = input(&mut g, "x", &[0, 3]);
    let y = input(&mut g, "y", &[1, 3]);
    let sum = g.push("Add", &[x, y], Attrs::new()).unwrap();
    let view = reshape(&mut g, sum, &[0, 1, 3]);
    g.outputs = vec![sum, view, x];
    let feeds = [array(&[0, 3], &[]), array(&[1, 3], &[1.0; 3])];
    assert_eq!(run(&engine, &g, &feeds).unwrap(), run(&Cpu, &g, &feeds).unwrap());
    assert_eq!(engine.upload(&feeds[0]).unwrap().to_array().unwrap(), feeds[0]);
}

#[test]
fn integers_and_conditions_pass_and_are_checked() {
    let Some(engine) = common::wgpu() else { return };
    let mut g = Graph::new(0);
    let x = g.input("labels", TensorType::new(DType::I64, [3]), Batch::None);
    let two = g.constant(Array::ints(&[2]));
    let y = g.push("Equal", &[x, two], Attrs::new()).unwrap();
    g.outputs = vec![x, y];
    let fits = Array::ints(&[i64::from(i32::MIN), 2, i64::from(i32::MAX)]);
    let out = run(&engine, &g, std::slice::from_ref(&fits)).unwrap();
    assert_eq!(out, [fits, Array::from_vec(&[3], vec![false, true, false]).unwrap()]);

    let large = Array::ints(&[1, 1 << 31, 3]);
    let e = error(run(&engine, &g, std::slice::from_ref(&large)));
    assert!(
        e.kind() == Kind::Engine && e.to_string().contains("labels") && e.to_string().contains("2147483648"),
        "{e}"
    );
    assert!(engine.upload(&large).is_err());
    let big = g.constant(Array::ints(&[1 << 40]));
    let y = g.push("Equal", &[x, big], Attrs::new()).unwrap();
    g.outputs = vec![y];
    assert!(error(engine.prepare(&g)).to_string().contains("1099511627776"));
}

#[test]
fn float64_is_refused() {
    let Some(engine) = common::wgpu() else { return };
    let mut g = Graph::new(0);
    g.set_scope("layer1");
    let x = g.input("x", TensorType::new(DType::F64, [3]), Batch::None);
    g.outputs = vec![g.push("Neg", &[x], Attrs::new()).unwrap()];
    let e = error(engine.prepare(&g));
    assert!(e.kind() == Kind::Engine && e.to_string().contains("layer1") && e.to_string().contains("float64"), "{e}");
    assert!(engine.upload(&Array::full(&[2], 1.0f64)).is_err());
}

#[test]
fn a_tensor_beyond_the_limit_names_its_node() {
    let Some(engine) = common::wgpu() else { return };
    let elements = usize::try_from(engine.max_tensor_bytes() / 4 + 1).unwrap();
    let mut g = Graph::new(0);
    g.set_scope("huge");
    let x = input(&mut g, "x", &[elements]);
    // sums of neighbours are not computed in pieces
    g.outputs = vec![g.push("Softmax", &[x], Attrs::new()).unwrap()];
    let e = error(engine.prepare(&g));
    assert!(e.kind() == Kind::Engine && e.to_string().contains("huge") && e.to_string().contains("batch"), "{e}");
}

#[test]
fn a_product_of_more_columns_than_workgroups_on_a_line() {
    let columns = 65_535 * 64 + 70;
    let mut g = Graph::new(0);
    let (a, b) = (input(&mut g, "a", &[1, 2]), input(&mut g, "b", &[2, columns]));
    g.outputs = vec![g.push("MatMul", &[a, b], Attrs::new()).unwrap()];
    let feeds = [array(&[1, 2], &[2.0, -1.0]), {
        let v: Vec<f32> = (0..2 * columns).map(|i| (i % 1009) as f32).collect();
        array(&[2, columns], &v)
    }];
    let want = run(&Cpu, &g, &feeds).unwrap();
    for kernels in [Kernels::Direct, Kernels::Tiled] {
        let Some(engine) = common::wgpu_in(kernels) else { return };
        let found = run(&engine, &g, &feeds).unwrap();
        assert!(difference(&found[0], &want[0]) < 1e-6, "{kernels:?}");
    }
}

/// Names of the shaders that a graph runs, in order.
fn shaders_of(engine: &WgpuEngine, g: &Graph) -> Vec<&'static str> {
    let feeds: Vec<Tensor> = g.inputs.iter().map(|&id| Array::full(g.shape(id), 0.5f32).into()).collect();
    engine.time(g, &feeds).unwrap().iter().map(|t| t.shader).collect()
}

#[test]
fn a_sum_is_made_where_its_later_operand_is() {
    let Some(engine) = common::wgpu() else { return };
    let wave = |shape: &[usize], step: f32| {
        let v: Vec<f32> = (0..shape.iter().product()).map(|i: usize| (i as f32 * step).sin()).collect();
        array(shape, &v)
    };
    let mut g = Graph::new(0);
    let x = input(&mut g, "x", &[2, 8, 6, 6]);
    let conv = |g: &mut Graph, x: ValueId, k: usize, step: f32| {
        let (w, b) = (g.constant(wave(&[8, 8, k, k], step)), g.constant(wave(&[8], step)));
        let pads = [(k / 2) as i64; 4];
        g.push("Conv", &[x, w, b], Attrs::new().with("pads", &pads[..])).unwrap()
    };
    // two residual blocks, the second on the branch of a convolution, and a third value that is added to a sum
    let first = conv(&mut g, x, 3, 0.7);
    let sum = g.push("Add", &[first, x], Attrs::new()).unwrap();
    let y = g.push("Relu", &[sum], Attrs::new()).unwrap();
    let (wide, narrow) = (conv(&mut g, y, 3, 0.4), conv(&mut g, y, 1, 0.9));
    let both = g.push("Add", &[wide, narrow], Attrs::new()).unwrap();
    let three = g.push("Add", &[both, y], Attrs::new()).unwrap();
    // who else reads a value finds it as it was
    let kept = conv(&mut g, three, 1, 0.3);
    let last = g.push("Add", &[kept, x], Attrs::new()).unwrap();
    g.outputs = vec![last, kept];
    let names = shaders_of(&engine, &g);
    assert_eq!(names.iter().filter(|n| **n == "binary").count(), 2, "{names:?}");
    assert_eq!(names.iter().filter(|n| **n == "unary").count(), 0, "{names:?}");
    let feeds = [wave(&[2, 8, 6, 6], 0.2)];
    for kernels in [Kernels::Direct, Kernels::Subgroups, Kernels::Tiled] {
        let Some(engine) = common::wgpu_in(kernels) else { continue };
        let (found, want) = (run(&engine, &g, &feeds).unwrap(), run(&Cpu, &g, &feeds).unwrap());
        for (found, want) in found.iter().zip(&want) {
            let off = difference(found, want);
            assert!(off < 1e-5, "{kernels:?}: off by {off:e}");
        }
    }
}

#[test]
fn a_relu_is_done_where_its_operand_is_made() {
    let Some(engine) = common::wgpu() else { return };
    let mut g = Graph::new(0);
    let x = input(&mut g, "x", &[2, 4, 6, 6]);
    let wave = |shape: &[usize]| {
        let v: Vec<f32> = (0..shape.iter().product()).map(|i: usize| (i as f32 * 0.7).sin()).collect();
        array(shape, &v)
    };
    let (w, v) = (g.weight("w", wave(&[8, 4, 3, 3])), g.weight("v", wave(&[8, 1, 3, 3])));
    let conv = g.push("Conv", &[x, w], Attrs::new().with("pads", vec![1, 1, 1, 1])).unwrap();
    let first = g.push("Relu", &[conv], Attrs::new()).unwrap();
    let depthwise = Attrs::new().with("pads", vec![1, 1, 1, 1]).with("group", 8);
    let second = g.push("Conv", &[first, v], depthwise).unwrap();
    let second = g.push("Relu", &[second], Attrs::new()).unwrap();
    let sum = g.push("Sub", &[first, second], Attrs::new()).unwrap();
    let third = g.push("Relu", &[sum], Attrs::new()).unwrap();
    g.outputs = vec![third];
    let feed = wave(&[2, 4, 6, 6]);
    let check = |g: &Graph, relus: usize| {
        let (got, want) =
            (run(&engine, g, std::slice::from_ref(&feed)).unwrap(), run(&Cpu, g, std::slice::from_ref(&feed)).unwrap());
        got.iter().zip(&want).for_each(|(got, want)| assert!(difference(got, want) < 1e-5));
        assert_eq!(shaders_of(&engine, g).iter().filter(|s| **s == "unary").count(), relus);
    };
    check(&g, 0);
    // what else reads the operand has to find it as it was
    g.outputs = vec![third, sum];
    check(&g, 1);
    // the gradient asks of the Relu itself which elements pass
    let zero = g.constant(array(&[], &[0.0]));
    let mask = g.push("Greater", &[sum, zero], Attrs::new()).unwrap();
    let passed = g.push("Where", &[mask, x, zero], Attrs::new());
    assert!(passed.is_err(), "the shapes differ");
    let passed = g.push("Where", &[mask, second, zero], Attrs::new()).unwrap();
    g.outputs = vec![third, passed];
    check(&g, 0);
}

#[test]
fn kernels_are_as_they_are_asked_for() {
    let names = [
        ("auto", Kernels::Auto),
        ("Direct", Kernels::Direct),
        ("subgroups", Kernels::Subgroups),
        (" tiled", Kernels::Tiled),
    ];
    for (name, kernels) in names {
        assert_eq!(Kernels::parse(name).unwrap(), kernels);
    }
    assert!(error(Kernels::parse("fast")).to_string().contains("'fast'"));
    for (kernels, form) in [(Kernels::Direct, Form::Direct), (Kernels::Tiled, Form::Tiled)] {
        let Some(engine) = common::wgpu_in(kernels) else { return };
        assert_eq!(engine.form(), form);
    }
    let Some(engine) = common::wgpu() else { return };
    if std::env::var_os("ONNX_UNLEARN_KERNELS").is_none() {
        assert_eq!(engine.form() == Form::Tiled, !engine.is_software());
    }
}

#[test]
fn wrong_feeds_are_refused() {
    let Some(engine) = common::wgpu() else { return };
    let Some(other) = common::wgpu() else { return };
    let mut session = engine.prepare(&unary("Neg", &[2, 3])).unwrap();
    let x = array(&[2, 3], &[1.0; 6]);
    let mut refused = |t: Tensor| assert_eq!(error(session.run(&[t])).kind(), Kind::Invalid);
    refused(Tensor::Host(array(&[3, 2], &[1.0; 6])));
    refused(engine.upload(&array(&[3, 2], &[1.0; 6])).unwrap());
    refused(engine.upload(&Array::from_vec(&[2, 3], vec![1i64; 6]).unwrap()).unwrap());
    refused(other.upload(&x).unwrap());
    assert_eq!(error(session.run(&[])).kind(), Kind::Invalid);
    // and the session still works
    assert_eq!(arrays(&session.run(&[x.into()]).unwrap()), [array(&[2, 3], &[-1.0; 6])]);
}

#[test]
fn sessions_run_on_several_threads() {
    let Some(engine) = common::wgpu() else { return };
    let mut rng = ChaCha8Rng::seed_from_u64(11);
    let graphs: Vec<Graph> = (0..4).map(|_| random_graph(&mut rng, 40)).collect();
    std::thread::scope(|s| {
        for g in &graphs {
            let engine = &engine;
            s.spawn(move || {
                for k in 0..5 {
                    let feeds: Vec<Array> =
                        g.inputs.iter().map(|&id| Array::full(g.shape(id), 0.1 * k as f32)).collect();
                    let (got, want) = (run(engine, g, &feeds).unwrap(), run(&Cpu, g, &feeds).unwrap());
                    for (got, want) in got.iter().zip(&want) {
                        assert!(difference(got, want) < 1e-5);
                    }
                }
            });
        }
    });
    fn shared<T: Send + Sync>() {}
    fn sent<T: Send + ?Sized>() {}
    shared::<WgpuEngine>();
    sent::<dyn Session>();
}

#[test]
fn sines_keep_their_digits_after_many_turns() {
    let Some(engine) = common::wgpu() else { return };
    let x: Vec<f32> = (-500..500).map(|k| k as f32 * 23.7).collect();
    for (op, exact) in [("Sin", f64::sin as fn(f64) -> f64), ("Cos", f64::cos)] {
        let feed = array(&[x.len()], &x);
        let y = run(&engine, &unary(op, &[x.len()]), &[feed]).unwrap().remove(0).to_f64();
        let off = x.iter().zip(y).map(|(x, y)| (y - exact(f64::from(*x))).abs()).fold(0.0, f64::max);
        assert!(off < 1e-6, "{op} errs by {off:e}");
    }
}

#[test]
fn a_missing_adapter_is_explained() {
    let open = |name: Option<&str>, backend: Option<&str>| {
        error(WgpuEngine::new(&Options {
            allow_software: true,
            adapter_name: name.map(str::to_owned),
            backend: backend.map(str::to_owned),
            ..Options::default()
        }))
    };
    let e = open(Some("Abacus 3000"), None);
    assert!(e.kind() == Kind::Engine && e.to_string().contains("adapter"), "{e}");
    let e = open(None, Some("vulcan"));
    assert!(e.kind() == Kind::Engine && e.to_string().contains("'vulcan'"), "{e}");
    let absent = if cfg!(windows) { "metal" } else { "dx12" };
    assert!(open(None, Some(absent)).to_string().contains("no GPU adapter was found"));
}

#[test]
fn software_has_to_be_asked_for() {
    let Some(engine) = common::wgpu() else { return };
    assert!(!engine.describe().is_empty());
    if engine.is_software() && std::env::var_os("ONNX_UNLEARN_ADAPTER").is_none() {
        let e = error(WgpuEngine::new(&Options::default()));
        assert!(e.kind() == Kind::Engine && e.to_string().contains("software"), "{e}");
    }
}
