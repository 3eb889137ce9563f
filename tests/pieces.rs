//! Tensors that are larger than an adapter binds: the same results in pieces.

mod common;

use common::{build, classifier, codes, difference, run, text, with_gradients};
use onnx_unlearn::Kind;
use onnx_unlearn::classifier::Weights;
use onnx_unlearn::engine::parts::{cut, split};
use onnx_unlearn::engine::wgpu::{Options, WgpuEngine};
use onnx_unlearn::engine::{Engine, cpu::Cpu};
use onnx_unlearn::fisher::estimate;
use onnx_unlearn::forget::{Method, Request, Rule, Strength, forget};
use onnx_unlearn::graph::{Attrs, Batch, Graph, ValueId};
use onnx_unlearn::ops::{self, Gradient};
use onnx_unlearn::tensor::{Array, DType, TensorType};
use std::collections::BTreeSet;

/// The elements of an array in the pieces of its shape.
fn pieces(a: &Array, most: usize) -> Vec<Array> {
    let elements = a.to_f64();
    let of = |v: &[f64]| Array::from_vec(&[v.len()], v.to_vec()).unwrap();
    let part = |v: &[f64]| match a {
        Array::I64(_) => Array::ints(&v.iter().map(|&v| v as i64).collect::<Vec<_>>()),
        Array::Bool(_) => Array::from_vec(&[v.len()], v.iter().map(|&v| v != 0.0).collect()).unwrap(),
        _ => of(v).to_float(a.dtype()),
    };
    cut(a.shape(), most).into_iter().map(|r| part(&elements[r])).collect()
}

/// What a graph that was split gives, in the shapes of the whole one; every value of it fits.
fn in_pieces(graph: &Graph, feeds: &[Array], most: usize) -> onnx_unlearn::Result<Vec<Array>> {
    let parted = split(graph, most)?;
    let computed = parted.nodes().iter().flat_map(|n| n.inputs.iter().chain(&n.outputs)).flatten();
    for &id in computed.chain(&parted.inputs).chain(&parted.outputs) {
        assert!(parted.value(id).ty.len() <= most, "{} of {} elements", parted.label(id), parted.value(id).ty.len());
    }
    let fed: Vec<Array> = feeds.iter().flat_map(|a| pieces(a, most)).collect();
    assert_eq!(fed.len(), parted.inputs.len());
    let shaped = fed.iter().zip(&parted.inputs).map(|(a, &id)| a.reshaped(parted.shape(id)));
    let mut found = run(&Cpu, &parted, &shaped.collect::<Result<Vec<_>, _>>()?)?.into_iter();
    let whole = |id: &ValueId| {
        let ty = &graph.value(*id).ty;
        let n = cut(&ty.shape, most).len();
        let all: Vec<f64> = found.by_ref().take(n).flat_map(|a| a.to_f64()).collect();
        Array::from_vec(&ty.shape, all)
    };
    graph.outputs.iter().map(whole).collect()
}

#[test]
fn every_op_that_can_is_the_same_in_pieces() {
    let mut done = BTreeSet::new();
    for op in ops::table() {
        for case in op.cases() {
            let plain = build(op, &case, DType::F64).map_err(text).unwrap();
            let built = match case.gradient {
                Gradient::Checked => with_gradients(plain, &case, DType::F64).map_err(text).unwrap(),
                Gradient::None(_) => plain,
            };
            let Ok(want) = run(&Cpu, &built.graph, &built.feeds) else { continue };
            let largest = built.graph.values().iter().map(|v| v.ty.len()).max().unwrap_or(0);
            for parts in [2, 3, 7] {
                // axes and shapes stay whole
                let most = largest.div_ceil(parts).max(12);
                let found = match in_pieces(&built.graph, &built.feeds, most) {
                    Ok(found) => found,
                    Err(e) if e.kind() == Kind::Engine => continue,
                    Err(e) => panic!("{} at most {most}: {e}", case.name),
                };
                for (found, want) in found.iter().zip(&want) {
                    let off =
                        difference(&found.to_float(DType::F64), &Array::from_vec(want.shape(), want.to_f64()).unwrap());
                    assert!(off < 1e-9, "{} at most {most}: off by {off:e}", case.name);
                }
                done.insert(op.spec().name);
            }
        }
    }
    for op in [
        "Add",
        "Div",
        "Where",
        "Equal",
        "And",
        "Sqrt",
        "Pow",
        "Relu",
        "Min",
        "Cast",
        "Not",
        "Gemm",
        "MatMul",
        "MatMulSquared",
        "Reshape",
        "Flatten",
        "Concat",
        "Slice",
        "ReduceSum",
        "ReduceMean",
        "ReduceMax",
        "ReduceMin",
    ] {
        assert!(done.contains(op), "{op} is not among {done:?}");
    }
}

fn input(g: &mut Graph, name: &str, shape: &[usize]) -> ValueId {
    g.input(name, TensorType::new(DType::F64, shape), Batch::None)
}

fn waves(shape: &[usize], step: f64) -> Array {
    Array::from_vec(shape, (0..shape.iter().product()).map(|i: usize| (i as f64 * step).sin()).collect()).unwrap()
}

/// One layer forward, back, its Fisher added up and taken apart, and the products of stacked rows.
#[test]
fn a_layer_that_is_too_large() {
    let mut g = Graph::new(0);
    let (x, w, c) = (input(&mut g, "x", &[4, 24]), input(&mut g, "w", &[40, 24]), input(&mut g, "c", &[40]));
    let (sum, u) = (input(&mut g, "sum", &[2, 40, 24]), input(&mut g, "u", &[2, 4]));
    let y = g.push("Gemm", &[x, w, c], Attrs::new().with("transB", 1).with("alpha", 0.5f32)).unwrap();
    let dx = g.push("Gemm", &[y, w], Attrs::new()).unwrap();
    let dw = g.push("Gemm", &[y, x], Attrs::new().with("transA", 1)).unwrap();
    let [tall, wide] = [(y, [4, 40, 1]), (x, [4, 1, 24])].map(|(v, shape)| {
        let shape = g.ints(&shape);
        g.push("Reshape", &[v, shape], Attrs::new()).unwrap()
    });
    let squared = g.push("MatMulSquared", &[tall, wide, u], Attrs::new()).unwrap();
    let added = g.push("Add", &[sum, squared], Attrs::new()).unwrap();
    let row = g.ints(&[1, 960]);
    let [a, b] = [dw, w].map(|v| g.push("Reshape", &[v, row], Attrs::new()).unwrap());
    let stack = g.push("Concat", &[a, b], Attrs::new().with("axis", 0)).unwrap();
    let scaled = g.push("Mul", &[stack, b], Attrs::new()).unwrap();
    let products = g.push("Gemm", &[scaled, stack], Attrs::new().with("transB", 1)).unwrap();
    let parts = input(&mut g, "parts", &[3, 2]);
    let mixed = g.push("MatMul", &[parts, stack], Attrs::new()).unwrap();
    g.outputs = vec![y, dx, dw, added, products, mixed];
    for s in 0..2 {
        let (from, to, axis) = (g.ints(&[s]), g.ints(&[s + 1]), g.ints(&[0]));
        let one = g.push("Slice", &[added, from, to, axis], Attrs::new()).unwrap();
        let shape = g.ints(&[40, 24]);
        let one = g.push("Reshape", &[one, shape], Attrs::new()).unwrap();
        g.outputs.push(one);
    }
    let feeds: Vec<Array> = g.inputs.iter().enumerate().map(|(i, &id)| waves(g.shape(id), 0.7 + i as f64)).collect();
    let want = run(&Cpu, &g, &feeds).unwrap();
    for most in [2000, 960, 500, 400, 100, 40, 17] {
        let found = in_pieces(&g, &feeds, most);
        // the rows of x and y are operands of the squares, which are not cut in them
        let Ok(found) = found else {
            assert!(most < 160, "{most}: {}", found.unwrap_err());
            continue;
        };
        for (k, (found, want)) in found.iter().zip(&want).enumerate() {
            let off = difference(found, want);
            assert!(off < 1e-12, "output {k} at most {most}: off by {off:e}");
        }
    }
}

#[test]
fn what_cannot_be_cut_is_refused_by_name() {
    let mut g = Graph::new(0);
    let x = input(&mut g, "x", &[8, 8]);
    g.set_scope("the wide one");
    g.outputs = vec![g.push("Softmax", &[x], Attrs::new()).unwrap()];
    let e = split(&g, 63).err().unwrap().to_string();
    assert!(e.contains("the wide one") && e.contains("Softmax") && e.contains("batch"), "{e}");
    assert_eq!(split(&g, 64).unwrap().nodes().len(), 1);
}

/// An adapter that binds less than the largest weight of the model.
fn narrow(bytes: u64) -> Option<WgpuEngine> {
    let options = Options { allow_software: true, max_binding: Some(bytes), ..Options::default() };
    common::available(WgpuEngine::new(&options))
}

#[test]
fn a_fisher_in_pieces() {
    let c = classifier("mlp");
    let data = codes("mlp", &c);
    for bytes in [1 << 20, 100_000] {
        let Some(engine) = narrow(bytes) else { return };
        let fisher = |engine: &dyn Engine| {
            let weights = Weights::upload(engine, &c.bind(1).unwrap()).unwrap();
            let sets = [vec![1.0; data.len()], (0..data.len()).map(|i| i as f64).collect()];
            estimate(&c, engine, &weights, &data, &sets, &mut |_| ()).unwrap().to_arrays().unwrap()
        };
        for ((name, found), (_, want)) in fisher(&engine).into_iter().zip(fisher(&Cpu)) {
            let off = difference(&found, &want);
            assert!(off < 1e-4, "{name}, {bytes} bytes at once: off by {off:e}");
        }
    }
}

#[test]
fn forgetting_in_pieces() {
    let c = classifier("mlp");
    let data = codes("mlp", &c);
    let Some(engine) = narrow(1 << 20) else { return };
    for strength in [
        Strength::Dampen { alpha: 10.0, lambda: 1.0 },
        Strength::Ratio { lambda1: 1e-3, lambda2: 10.0, sign: 1.0 },
        Strength::Noise { sigma: 0.1, seed: 3 },
        Strength::Ascent { body: 2, head: 3 },
    ] {
        let request = Request::new(vec![3], Method::Fixed(strength));
        let new = |engine: &dyn Engine| forget(&c, engine, &data, &request, &mut |_| ()).unwrap().new;
        for ((name, found), (_, want)) in new(&engine).into_iter().zip(new(&Cpu)) {
            let off = difference(&found, &want);
            assert!(off < 2e-4, "{name} by {strength}: off by {off:e}");
        }
    }
    let request = Request::new(vec![3, 5], Method::Search(vec![Rule::Ascent, Rule::Dampen]));
    let outcome = forget(&c, &engine, &data, &request, &mut |_| ()).unwrap();
    assert!(outcome.doubts.is_empty(), "{:?}", outcome.doubts);
}

/// Sums over all elements of large weights: one accumulator of 32 bits would stop growing.
#[test]
fn long_sums_in_pieces() {
    let n = 3 << 21;
    let mut g = Graph::new(0);
    let rows = |g: &mut Graph, name: &str| g.input(name, TensorType::new(DType::F32, [2, n]), Batch::None);
    let (a, b) = (rows(&mut g, "a"), rows(&mut g, "b"));
    g.outputs = vec![g.push("Gemm", &[a, b], Attrs::new().with("transB", 1)).unwrap()];
    let feed = |from: usize| {
        Array::from_vec(&[2, n], (0..2 * n).map(|i| 1.0 + ((i + from) % 1013) as f32 / 1013.0).collect()).unwrap()
    };
    let feeds = [feed(0), feed(5)];
    let wide = feeds.iter().map(|a| a.to_f64()).collect::<Vec<_>>();
    let line = |v: &[f64], i: usize| v[i * n..(i + 1) * n].to_vec();
    let want: Vec<f64> = [(0, 0), (0, 1), (1, 0), (1, 1)]
        .map(|(i, j)| line(&wide[0], i).iter().zip(line(&wide[1], j)).map(|(a, b)| a * b).sum())
        .to_vec();
    let want = Array::from_vec(&[2, 2], want).unwrap();
    for engine in [common::wgpu(), narrow(8 << 20)].into_iter().flatten() {
        let found = run(&engine, &g, &feeds).unwrap();
        let off = difference(&found[0], &want);
        assert!(off < 1e-5, "{} bytes at once: off by {off:e}", engine.max_tensor_bytes());
    }
}

/// A weight that the adapter at hand cannot bind at once, fed, constant and read from a file.
#[test]
fn a_weight_over_the_real_limit() {
    let Some(engine) = common::wgpu() else { return };
    if engine.max_tensor_bytes() > 1 << 28 {
        return;
    }
    let columns = 512;
    let rows = usize::try_from(engine.max_tensor_bytes()).unwrap() / 4 / columns + 3;
    let values: Vec<f32> = (0..rows * columns).map(|i| ((i % 1013) as f32 - 506.0) / 506.0).collect();
    let w = Array::from_vec(&[rows, columns], values).unwrap();
    let x = Array::from_vec(&[2, columns], (0..2 * columns).map(|i| (i as f32 * 0.3).cos()).collect()).unwrap();
    let stored = w.clone();
    let sources: [&dyn Fn(&mut Graph) -> ValueId; 3] = [
        &|g| g.input("w", TensorType::new(DType::F32, [rows, columns]), Batch::None),
        &|g| g.constant(w.clone()),
        &|g| {
            let read = stored.clone();
            let elements = onnx_unlearn::graph::Stored::new(move || Ok(read.clone()));
            g.stored("w", TensorType::new(DType::F32, [rows, columns]), elements)
        },
    ];
    let mut want = None;
    for (k, source) in sources.iter().enumerate() {
        let mut g = Graph::new(0);
        let xi = g.input("x", TensorType::new(DType::F32, [2, columns]), Batch::None);
        let wi = source(&mut g);
        g.outputs = vec![g.push("Gemm", &[xi, wi], Attrs::new().with("transB", 1)).unwrap()];
        let feeds = if k == 0 { vec![x.clone(), w.clone()] } else { vec![x.clone()] };
        let want = want.get_or_insert_with(|| run(&Cpu, &g, &feeds).unwrap());
        let found = run(&engine, &g, &feeds).unwrap();
        let off = difference(&found[0], &want[0]);
        assert!(off < 1e-5, "source {k}: off by {off:e}");
    }
    // and there and back again
    let there = engine.upload(&w).unwrap();
    assert!(there.to_array().unwrap() == w);
}
