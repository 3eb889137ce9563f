//! Weights that lie on a device as float16: to the bit what they are in 32 bits, whatever reads them.

mod common;

use common::{FIXTURES, build, classifier, fixture, with_gradients};
use half::f16;
use onnx_unlearn::classifier::Weights;
use onnx_unlearn::engine::wgpu::{Kernels, Options, Storage, WgpuEngine};
use onnx_unlearn::engine::{Engine, Tensor};
use onnx_unlearn::fisher::SquareSums;
use onnx_unlearn::graph::{Attrs, Batch, Graph, Source};
use onnx_unlearn::inputs;
use onnx_unlearn::ops::{self, Case, Form, Gradient, Kernel, Op};
use onnx_unlearn::tensor::{Array, DType, TensorType};

/// An engine with these shaders that keeps all that it can as float16, and one that keeps nothing so.
fn engines(kernels: Kernels) -> Option<[WgpuEngine; 2]> {
    let with =
        |storage| Options { allow_software: true, kernels, storage, fewest_halves: Some(1), ..Options::default() };
    let halves = common::available(WgpuEngine::new(&with(Storage::F16)))?;
    let floats = common::available(WgpuEngine::new(&with(Storage::F32)))?;
    assert!(halves.keeps_halves() && !floats.keeps_halves());
    Some([halves, floats])
}

/// The nearest float16 of every element.
fn rounded(a: &Array) -> Array {
    let Ok(floats) = a.slice::<f32>() else { return a.clone() };
    Array::from_vec(a.shape(), floats.iter().map(|&v| f16::from_f32(v).to_f32()).collect()).unwrap()
}

fn bits(out: &[Tensor]) -> Vec<Vec<u64>> {
    let bits = |t: &Tensor| t.to_array().unwrap().to_f64().iter().map(|v| v.to_bits()).collect();
    out.iter().map(bits).collect()
}

#[test]
fn every_half_is_itself() {
    for kernels in [Kernels::Direct, Kernels::Tiled] {
        let Some([engine, _]) = engines(kernels) else { return };
        let all: Vec<f32> = (0..=u16::MAX).map(f16::from_bits).filter(|h| h.is_finite()).map(f16::to_f32).collect();
        // an odd number of them
        let all = Array::from_vec(&[all.len() - 1], all[1..].to_vec()).unwrap();
        let mut g = Graph::new(0);
        let x = g.input("x", all.ty(), Batch::None);
        g.outputs = vec![g.push("Neg", &[x], Attrs::new()).unwrap(), x];
        let weight = engine.upload_weight(&all).unwrap();
        assert_eq!(bits(std::slice::from_ref(&weight)), bits(&[Tensor::Host(all.clone())]));
        g.outputs.truncate(1);
        let negative = engine.prepare(&g).unwrap().run(std::slice::from_ref(&weight)).unwrap();
        let want: Vec<f32> = all.slice::<f32>().unwrap().iter().map(|v| -v).collect();
        assert_eq!(bits(&negative), bits(&[Tensor::Host(Array::from_vec(all.shape(), want).unwrap())]));
        // returned as it is
        g.outputs.push(x);
        let both = engine.prepare(&g).unwrap().run(&[weight]).unwrap();
        assert_eq!(bits(&both[1..]), bits(&[Tensor::Host(all)]));
    }
}

#[test]
fn what_is_no_half_stays_in_32_bits() {
    let Some([engine, _]) = engines(Kernels::Tiled) else { return };
    let mut g = Graph::new(0);
    let x = g.input("x", TensorType::new(DType::F32, [3]), Batch::None);
    g.outputs = vec![g.push("Neg", &[x], Attrs::new()).unwrap()];
    let mut session = engine.prepare(&g).unwrap();
    for v in [[1.0, 2.0, 0.1], [1.0, 65_536.0, 0.5], [1.0, f32::INFINITY, 0.5], [0.0, -0.0, 1e-8], [0.5, -0.25, 6e-8]] {
        let array = Array::from_vec(&[3], v.to_vec()).unwrap();
        let weight = engine.upload_weight(&array).unwrap();
        assert_eq!(bits(std::slice::from_ref(&weight)), bits(&[Tensor::Host(array)]), "{v:?}");
        let want = Array::from_vec(&[3], v.map(|v| -v).to_vec()).unwrap();
        assert_eq!(bits(&session.run(&[weight]).unwrap()), bits(&[Tensor::Host(want)]), "{v:?}");
    }
}

/// A session meets weights as float16 first, then as floats, then both.
#[test]
fn weights_may_change() {
    let Some([engine, other]) = engines(Kernels::Tiled) else { return };
    let wave = |n: usize, k: f64| (0..n).map(|i| (i as f64 * k).sin() as f32).collect::<Vec<f32>>();
    let array = |shape: [usize; 2], k| Array::from_vec(&shape, wave(shape[0] * shape[1], k)).unwrap();
    let (x, changed) = (array([5, 70], 0.3), array([70, 66], 0.7));
    let original = rounded(&changed);
    let mut g = Graph::new(0);
    let ids = [&x, &changed].map(|a| g.input("", a.ty(), Batch::None));
    g.outputs = vec![g.push("MatMul", &ids, Attrs::new()).unwrap()];
    let mut session = engine.prepare(&g).unwrap();
    let mut plain = other.prepare(&g).unwrap();
    let (halves, floats) = (engine.upload_weight(&original).unwrap(), engine.upload_weight(&changed).unwrap());
    let mut bytes = Vec::new();
    for (weight, array) in [(&halves, &original), (&floats, &changed), (&halves, &original), (&floats, &changed)] {
        let got = session.run(&[Tensor::Host(x.clone()), weight.clone()]).unwrap();
        let want = plain.run(&[Tensor::Host(x.clone()), Tensor::Host(array.clone())]).unwrap();
        assert_eq!(bits(&got), bits(&want));
        bytes.push(session.device_bytes().unwrap());
    }
    assert!(bytes[0] < bytes[1] && bytes[1..].iter().all(|&b| b == bytes[1]), "{bytes:?}");
    assert!(session.run(&[Tensor::Host(x)]).is_err(), "a feed is missing");
}

/// Whether a shader of this case, or of its gradient, may read float16 itself.
fn reads_halves(graph: &Graph) -> bool {
    let reads = |step: &ops::Step| ["matmul", "conv", "gather"].contains(&step.shader.name);
    graph.nodes().iter().any(|node| {
        let kernel = node.op.kernel(&graph.view_of(node));
        matches!(kernel, Ok(Kernel::Steps { steps, .. }) if steps.iter().any(reads))
    })
}

fn case_agrees([halves, floats]: &[WgpuEngine; 2], op: &'static dyn Op, case: &Case) {
    let mut built = vec![build(op, case, DType::F32).unwrap()];
    if case.gradient == Gradient::Checked {
        built.push(with_gradients(build(op, case, DType::F32).unwrap(), case, DType::F32).unwrap());
    }
    for built in built.into_iter().filter(|b| reads_halves(&b.graph)) {
        let feeds: Vec<Array> = built.feeds.iter().map(rounded).collect();
        let packed: Vec<Tensor> = feeds.iter().map(|a| halves.upload_weight(a).unwrap()).collect();
        let plain: Vec<Tensor> = feeds.into_iter().map(Tensor::Host).collect();
        let got = halves.prepare(&built.graph).unwrap().run(&packed).unwrap();
        let want = floats.prepare(&built.graph).unwrap().run(&plain).unwrap();
        assert_eq!(bits(&got), bits(&want), "{} ({:?})", case.name, halves.form());
    }
}

#[test]
fn cases_are_the_same_to_the_bit() {
    let Some(engines) = engines(Kernels::Tiled) else { return };
    assert_eq!(engines[0].form(), Form::Tiled);
    ops::table().for_each(|op| op.cases().iter().for_each(|case| case_agrees(&engines, op, case)));
}

#[test]
fn a_fisher_is_the_same_to_the_bit_in_less_memory() {
    for kernels in [Kernels::Tiled, Kernels::Direct] {
        for (model, codes) in FIXTURES.into_iter().filter(|(model, _)| ["mlp", "cnn", "resnet_bn"].contains(model)) {
            let Some(engines) = engines(kernels) else { return };
            let c = classifier(model);
            let bound = c.bind(1).unwrap();
            let data =
                inputs::load(&fixture(&format!("{codes}.codes.npz")), &c.expected(), &inputs::Options::default())
                    .unwrap();
            let sums = engines.map(|engine| {
                let mut weights = Weights { names: Vec::new(), tensors: Vec::new() };
                for (name, id) in &bound.weights {
                    let Source::Weight(elements) = &bound.graph.value(*id).source else { continue };
                    weights.names.push(name.clone());
                    weights.tensors.push(engine.upload_weight(&rounded(elements)).unwrap());
                }
                let mut squares = SquareSums::new(&c, &engine, &weights, 1, data.len()).unwrap();
                let sums = squares.run(&data, &[vec![1.0; data.len()]], &mut |_| ()).unwrap();
                (sums, engine.peak_bytes().unwrap())
            });
            let [(halves, less), (floats, more)] = sums;
            assert_eq!(bits(&halves), bits(&floats), "{model}");
            println!("{model}, {kernels:?}: {less} bytes, {more} in 32 bits");
            assert!(kernels == Kernels::Direct || less < more, "{model}: {less} bytes, {more} in 32 bits");
        }
    }
}
