//! Gradients with the samples apart, through ops that move elements: a batch of three has to give what
//! three single samples give.

use onnx_unlearn::autodiff::gradient::{Mode, gradient_graph};
use onnx_unlearn::autodiff::{Samples, backward};
use onnx_unlearn::engine::{Engine, Tensor, cpu::Cpu};
use onnx_unlearn::error::Kind;
use onnx_unlearn::graph::{Attr, Attrs, Batch, Graph, ValueId};
use onnx_unlearn::ops::find;
use onnx_unlearn::tensor::{Array, DType, TensorType};
use onnx_unlearn::{Error, Result};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// A network of one batched input and some weights; its output has the samples on axis 0.
type Net<'a> = &'a dyn Fn(&mut Graph, ValueId, &[ValueId], i64) -> Result<ValueId>;

fn random(shape: &[usize], rng: &mut ChaCha8Rng) -> Array {
    Array::from_vec(shape, (0..shape.iter().product()).map(|_| rng.random_range(-2.0..2.0)).collect::<Vec<f64>>())
        .unwrap()
}

/// Rows `at..at + count` of the first axis.
fn part(a: &Array, at: usize, count: usize) -> Array {
    let row: usize = a.shape()[1..].iter().product();
    let shape = [&[count], &a.shape()[1..]].concat();
    match a {
        Array::I64(_) => Array::from_vec(&shape, a.slice::<i64>().unwrap()[at * row..][..count * row].to_vec()),
        _ => Array::from_vec(&shape, a.slice::<f64>().unwrap()[at * row..][..count * row].to_vec()),
    }
    .unwrap()
}

/// The gradients of every weight, samples apart.
fn gradients(net: Net, x: &Array, weights: &[Array], seed: &dyn Fn(&[usize]) -> Array) -> Result<Vec<Array>> {
    let n = x.shape()[0];
    let mut g = Graph::new(n);
    let fed = g.input("x", TensorType::new(x.dtype(), x.shape()), Batch::LEADING);
    let w: Vec<ValueId> = weights.iter().enumerate().map(|(i, w)| g.weight(format!("w{i}"), w.clone())).collect();
    let y = net(&mut g, fed, &w, i64::try_from(n).unwrap())?;
    let r = seed(g.shape(y));
    let batch = g.value(y).batch;
    let dy = g.input("dy", TensorType::new(DType::F64, r.shape()), batch);
    let dw = backward(&mut g, &[(y, dy)], &w, Samples::Apart)?;
    g.outputs = dw.into_iter().map(Option::unwrap).collect();
    Cpu.prepare(&g)?.run(&[x.clone().into(), r.into()])?.iter().map(Tensor::to_array).collect()
}

fn agrees(x: &Array, weights: &[&[usize]], net: Net) {
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    let weights: Vec<Array> = weights.iter().map(|s| random(s, &mut rng)).collect();
    let all = std::cell::RefCell::new(None);
    let whole = gradients(net, x, &weights, &|shape| {
        let r = random(shape, &mut ChaCha8Rng::seed_from_u64(8));
        *all.borrow_mut() = Some(r.clone());
        r
    })
    .unwrap();
    let seed = all.into_inner().unwrap();
    let n = x.shape()[0];
    let rows = seed.shape()[0] / n;
    for s in 0..n {
        let one = gradients(net, &part(x, s, 1), &weights, &|_| part(&seed, s * rows, rows)).unwrap();
        for (i, (whole, one)) in whole.iter().zip(&one).enumerate() {
            assert_eq!(whole.shape()[1..], *weights[i].shape(), "weight {i}");
            let (whole, one) = (part(whole, s, 1).to_f64(), one.to_f64());
            assert!(whole.iter().zip(&one).all(|(a, b)| (a - b).abs() < 1e-12), "weight {i}: {whole:?}, alone {one:?}");
        }
    }
}

fn floats(shape: &[usize]) -> Array {
    random(shape, &mut ChaCha8Rng::seed_from_u64(6))
}

fn attr(name: &str, v: impl Into<Attr>) -> Attrs {
    Attrs::new().with(name, v)
}

/// An op whose second input is a constant vector.
fn with_ints(g: &mut Graph, op: &str, x: ValueId, v: &[i64]) -> Result<ValueId> {
    let v = g.ints(v);
    g.push(op, &[x, v], Attrs::new())
}

#[test]
fn embedding_tables() {
    let ids = Array::from_vec::<i64>(&[3, 4], vec![0, 3, 3, -1, 1, 1, 1, 1, 2, -5, 0, 4]).unwrap();
    agrees(&ids, &[&[5, 2]], &|g, x, w, _| g.push("Gather", &[w[0], x], Attrs::new()));
    // the table's entries along its last axis; the samples come to lie in the middle
    agrees(&ids, &[&[2, 5]], &|g, x, w, _| {
        let y = g.push("Gather", &[w[0], x], attr("axis", 1))?;
        g.push("Transpose", &[y], attr("perm", vec![1, 0, 2]))
    });
    // several rows of indices for each sample
    agrees(&ids, &[&[5, 2]], &|g, x, w, n| {
        let x = with_ints(g, "Reshape", x, &[4 * n])?;
        g.push("Gather", &[w[0], x], Attrs::new())
    });
}

#[test]
fn class_tokens() {
    let net = |op: &'static str| {
        move |g: &mut Graph, x: ValueId, w: &[ValueId], n: i64| {
            let token = with_ints(g, op, w[0], &[n, 1, 1])?;
            let y = g.push("Concat", &[token, x], attr("axis", 1))?;
            let y = g.push("Mul", &[y, y], Attrs::new())?;
            g.push("Add", &[y, w[1]], Attrs::new())
        }
    };
    for op in ["Expand", "Tile"] {
        agrees(&floats(&[3, 2, 4]), &[&[1, 1, 4], &[3, 4]], &net(op));
    }
    // with several rows for each sample
    agrees(&floats(&[3, 4, 2]), &[&[4, 1]], &|g, x, w, n| {
        let x = with_ints(g, "Reshape", x, &[4 * n, 2])?;
        let column = with_ints(g, "Tile", w[0], &[n, 1])?;
        let y = g.push("Concat", &[column, x], attr("axis", 1))?;
        g.push("Mul", &[y, y], Attrs::new())
    });
}

#[test]
fn weights_that_are_moved_before_use() {
    agrees(&floats(&[3, 3]), &[&[2, 3], &[1, 2]], &|g, x, w, _| {
        let v = g.push("Transpose", &[w[0]], Attrs::new())?;
        let v = with_ints(g, "Reshape", v, &[-1])?;
        let (start, end, axis) = (g.ints(&[-2]), g.ints(&[0]), g.ints(&[0]));
        let step = g.ints(&[-1]);
        let v = g.push("Slice", &[v, start, end, axis, step], Attrs::new())?;
        let v = with_ints(g, "Unsqueeze", v, &[-2])?;
        let fixed = g.constant(Array::full(&[1, 1], 2.5f64));
        let v = g.push("Concat", &[v, fixed, w[1]], attr("axis", -1))?;
        let v = with_ints(g, "Squeeze", v, &[0])?;
        let v = g.push("Identity", &[v], Attrs::new())?;
        let v = g.push("Cast", &[v], attr("to", i64::from(DType::F64.onnx())))?;
        let k = g.ints(&[0, -1, 2]);
        let v = g.push("Gather", &[v, k], Attrs::new())?;
        let v = with_ints(g, "Unsqueeze", v, &[0])?;
        let v = with_ints(g, "Expand", v, &[1, 3])?;
        let v = with_ints(g, "Tile", v, &[2, 1])?;
        let k = g.constant(Array::full(&[], 1i64));
        let v = g.push("Gather", &[v, k], Attrs::new())?;
        g.push("Mul", &[v, x], Attrs::new())
    });
}

#[test]
fn weights_that_are_split() {
    agrees(&floats(&[3, 2]), &[&[2, 4]], &|g, x, w, _| {
        let split = onnx_unlearn::ops::find("Split")?;
        let parts = split.import(g, 13, &[Some(w[0])], attr("axis", 1), &[true, true])?;
        let y = g.push("MatMul", &[x, parts[0].unwrap()], Attrs::new())?;
        let z = g.push("MatMul", &[y, parts[1].unwrap()], Attrs::new())?;
        g.push("Add", &[y, z], Attrs::new())
    });
}

#[test]
fn samples_that_are_moved() {
    agrees(&floats(&[3, 2, 6]), &[&[6], &[2, 1, 3], &[4]], &|g, x, w, n| {
        let y = with_ints(g, "Reshape", x, &[2 * n, 6])?;
        let y = g.push("Mul", &[y, w[0]], Attrs::new())?;
        let y = with_ints(g, "Reshape", y, &[n, 2, 2, 3])?;
        let y = g.push("Transpose", &[y], attr("perm", vec![1, 2, 0, 3]))?;
        let y = g.push("Mul", &[y, w[1]], Attrs::new())?;
        let split = onnx_unlearn::ops::find("Split")?;
        let sizes = g.ints(&[1, 2]);
        let parts = g.push_multi(split, &[Some(y), Some(sizes)], attr("axis", 3), &[true, true])?;
        let y = g.push("Concat", &[parts[1].unwrap(), parts[0].unwrap(), parts[0].unwrap()], attr("axis", 3))?;
        let y = g.push("Add", &[y, w[2]], Attrs::new())?;
        let y = with_ints(g, "Pad", y, &[1, 0, 0, 0, 0, -1, 0, 1])?;
        let (start, end, axis) = (g.ints(&[0]), g.ints(&[3]), g.ints(&[-1]));
        let step = g.ints(&[2]);
        let y = g.push("Slice", &[y, start, end, axis, step], Attrs::new())?;
        let y = with_ints(g, "Unsqueeze", y, &[0])?;
        let y = g.push("Mul", &[y, y], Attrs::new())?;
        let y = with_ints(g, "Squeeze", y, &[0])?;
        let k = g.ints(&[2, 0, 2]);
        let y = g.push("Gather", &[y, k], attr("axis", 0))?;
        let y = g.push("Transpose", &[y], attr("perm", vec![2, 0, 1, 3]))?;
        g.push("Flatten", &[y], Attrs::new())
    });
}

#[test]
fn indices_for_every_element() {
    agrees(&floats(&[3, 4]), &[&[4], &[1, 2]], &|g, x, w, n| {
        let y = g.push("Mul", &[x, w[0]], Attrs::new())?;
        let k = g.constant(Array::from_vec::<i64>(&[1, 2], vec![3, -4])?);
        let k = with_ints(g, "Expand", k, &[n, 1])?;
        let u = with_ints(g, "Expand", w[1], &[n, 1])?;
        let y = g.push("ScatterElements", &[y, k, u], attr("axis", 1).with("reduction", "add"))?;
        let y = g.push("Mul", &[y, y], Attrs::new())?;
        let y = g.push("ScatterElements", &[y, k, u], attr("axis", 1))?;
        let y = g.push("Mul", &[y, y], Attrs::new())?;
        let picked = g.push("GatherElements", &[y, k], attr("axis", 1))?;
        g.push("Concat", &[y, picked], attr("axis", 1))
    });
}

#[test]
fn mixed_samples_are_refused() {
    let refused = |net: Net| {
        let x = floats(&[2, 3]);
        let e: Error = gradients(net, &x, &[floats(&[3])], &|shape| floats(shape)).unwrap_err();
        assert_eq!(e.kind(), Kind::NeedsSingles, "{e}");
    };
    refused(&|g, x, w, _| {
        let x = g.push("Concat", &[x, x], attr("axis", 0))?;
        g.push("Mul", &[x, w[0]], Attrs::new())
    });
    refused(&|g, x, w, _| {
        let k = g.ints(&[1, 0]);
        let x = g.push("Gather", &[x, k], Attrs::new())?;
        g.push("Mul", &[x, w[0]], Attrs::new())
    });
    refused(&|g, x, w, _| {
        let x = with_ints(g, "Pad", x, &[1, 0, 0, 0])?;
        g.push("Mul", &[x, w[0]], Attrs::new())
    });
}

#[test]
fn einsum() {
    let equation = |e: &'static str| {
        move |g: &mut Graph, x: ValueId, w: &[ValueId], _: i64| g.push("Einsum", &[x, w[0]], attr("equation", e))
    };
    agrees(&floats(&[3, 2, 4]), &[&[4, 5]], &equation("bij,jk->bik"));
    agrees(&floats(&[3, 2, 4]), &[&[5, 2]], &equation("bil,oi->bol"));
    // an axis that both share, and samples on the left alone
    agrees(&floats(&[3, 2, 4, 5]), &[&[2, 6, 5]], &equation("bhwc,hkc->bhwk"));
    agrees(&floats(&[3, 2, 4]), &[&[2, 4]], &equation("bij,ij->bj"));
    agrees(&floats(&[3, 2]), &[&[4]], &equation("bi,o->bio"));
    agrees(&floats(&[3, 2]), &[&[3, 2, 4]], &|g, x, w, _| {
        g.push("Einsum", &[x, w[0], x], attr("equation", "bi,jio,bi->bjo"))
    });
}

/// Arithmetic on weights before they are used.
#[test]
fn weights_that_are_calculated_with() {
    let x = floats(&[3, 4]);
    agrees(&x, &[&[4, 4], &[4], &[4, 1]], &|g, x, w, _| {
        let half = g.scalar(0.5, DType::F64);
        let scaled = g.push("Mul", &[w[0], half], Attrs::new())?;
        // of the same rank, and stretched
        let sum = g.push("Sub", &[scaled, w[2]], Attrs::new())?;
        let product = g.push("Mul", &[sum, w[0]], Attrs::new())?;
        let product = g.push("MatMul", &[w[0], product], Attrs::new())?;
        let y = g.push("MatMul", &[x, product], Attrs::new())?;
        let square = g.push("Mul", &[w[1], w[1]], Attrs::new())?;
        let z = g.push("Add", &[x, square], Attrs::new())?;
        g.push("Concat", &[y, z], attr("axis", 1))
    });
}

/// A recurrent layer over x `[n, steps, inputs]`, as exporters write it: samples behind the steps, and what the classifier
/// sees is the last state of each direction beside the mean of all outputs.
fn recurrent(op: &'static str, attrs: Attrs) -> impl Fn(&mut Graph, ValueId, &[ValueId], i64) -> Result<ValueId> {
    move |g, x, w, n| {
        let x = g.push("Transpose", &[x], attr("perm", vec![1, 0, 2]))?;
        let inputs: Vec<_> = std::iter::once(x).chain(w.iter().copied()).map(Some).collect();
        let out = g.push_multi(find(op)?, &inputs, attrs.clone(), &[true, true])?;
        let [Some(all), Some(last)] = out[..] else { panic!("two outputs") };
        let all = g.push("Transpose", &[all], attr("perm", vec![2, 0, 1, 3]))?;
        let all = with_ints(g, "ReduceMean", all, &[1])?;
        let last = g.push("Transpose", &[last], attr("perm", vec![1, 0, 2]))?;
        let parts = [with_ints(g, "Reshape", all, &[n, -1])?, with_ints(g, "Reshape", last, &[n, -1])?];
        g.push("Concat", &parts, attr("axis", 1))
    }
}

#[test]
fn recurrent_layers() {
    let x = floats(&[3, 4, 2]);
    for (op, gates) in [("RNN", 1), ("GRU", 3), ("LSTM", 4)] {
        let rows = gates * 2;
        let two: [&[usize]; 3] = [&[2, rows, 2], &[2, rows, 2], &[2, 2 * rows]];
        agrees(&x, &two, &recurrent(op, attr("direction", "bidirectional")));
        let one: [&[usize]; 3] = [&[1, rows, 2], &[1, rows, 2], &[1, 2 * rows]];
        agrees(&x, &one, &recurrent(op, attr("direction", "reverse")));
        agrees(&x, &one[..2], &recurrent(op, Attrs::new()));
        if op == "GRU" {
            agrees(&x, &one, &recurrent(op, attr("linear_before_reset", 1)));
            agrees(&x, &two, &recurrent(op, attr("linear_before_reset", 1).with("direction", "bidirectional")));
        }
    }
}

/// States that are zeros, or the same for all samples, and lengths that are full do not tie the samples together.
#[test]
fn recurrent_layers_with_settings() {
    let x = floats(&[3, 4, 2]);
    let weights: [&[usize]; 4] = [&[1, 8, 2], &[1, 8, 2], &[1, 16], &[1, 6]];
    for h0 in [0.0, 0.5] {
        agrees(&x, &weights, &|g, x, w, n| {
            let rows = usize::try_from(n).unwrap();
            let x = g.push("Transpose", &[x], attr("perm", vec![1, 0, 2]))?;
            let lengths = g.constant_as(Array::full(&[rows], 4i64), DType::I32);
            let state = g.constant(Array::full(&[1, rows, 2], h0));
            let inputs = [x, w[0], w[1], w[2], lengths, state, state, w[3]].map(Some);
            let y = g.push_multi(find("LSTM")?, &inputs, Attrs::new(), &[false, true])?;
            let y = y[1].ok_or_else(|| Error::internal("no Y_h"))?;
            with_ints(g, "Reshape", y, &[n, -1])
        });
    }
}

#[test]
fn tokens() {
    let ids = Array::from_vec::<i64>(&[3, 4], vec![0, 3, 3, -1, 1, 1, 1, 1, 2, -5, 0, 4]).unwrap();
    agrees(&ids, &[&[5, 2]], &|g, x, w, _| {
        let (depth, values) = (g.ints(&[5]), g.constant(Array::from_vec(&[2], vec![0.0, 1.0f64])?));
        let hot = g.push("OneHot", &[x, depth, values], Attrs::new())?;
        g.push("MatMul", &[hot, w[0]], Attrs::new())
    });
    // positions that are counted, as some encoders do
    agrees(&ids, &[&[8, 2]], &|g, x, w, _| {
        let zero = g.constant(Array::full(&[], 0i64));
        let given = g.push("Less", &[zero, x], Attrs::new())?;
        let given = g.push("Cast", &[given], attr("to", i64::from(DType::I64.onnx())))?;
        let axis = g.constant(Array::full(&[], 1i64));
        let places = g.push("CumSum", &[given, axis], Attrs::new())?;
        g.push("Gather", &[w[0], places], Attrs::new())
    });
    agrees(&ids, &[&[5, 3, 2]], &|g, x, w, n| {
        let k = with_ints(g, "Reshape", x, &[n, 4, 1])?;
        g.push("GatherND", &[w[0], k], Attrs::new())
    });
}

#[test]
fn attention_layers() {
    let op = |name: &str| onnx_unlearn::ops::find(name);
    agrees(&floats(&[3, 4, 6]), &[&[6, 8], &[6, 4], &[6, 4], &[8], &[4, 1]], &|g, x, w, _| {
        let q = g.push("MatMul", &[x, w[0]], Attrs::new())?;
        let q = g.push("Add", &[q, w[3]], Attrs::new())?;
        let k = g.push("MatMul", &[x, w[1]], Attrs::new())?;
        let v = g.push("MatMul", &[x, w[2]], Attrs::new())?;
        let attrs = attr("q_num_heads", 4).with("kv_num_heads", 2).with("is_causal", 1);
        let mask = with_ints(g, "Expand", w[4], &[4, 4])?;
        let inputs = [Some(q), Some(k), Some(v), Some(mask)];
        Ok(g.push_multi(op("Attention")?, &inputs, attrs, &[true])?[0].unwrap())
    });
    agrees(&floats(&[3, 2, 4, 6]), &[&[6]], &|g, x, w, n| {
        let y = g.push("Mul", &[x, w[0]], Attrs::new())?;
        let angles = g.constant(floats(&[9, 3]));
        let places = g.constant(Array::from_vec::<i64>(&[1, 4], vec![3, 8, 0, 1])?);
        let places = with_ints(g, "Expand", places, &[n, 1])?;
        let y = g.push("RotaryEmbedding", &[y, angles, angles, places], Attrs::new())?;
        g.push("Mul", &[y, y], Attrs::new())
    });
}

#[test]
fn images_that_are_resampled() {
    agrees(&floats(&[3, 4, 4, 5]), &[&[4, 1, 1], &[5]], &|g, x, w, n| {
        let y = g.push("Mul", &[x, w[0]], Attrs::new())?;
        let sizes = g.ints(&[n, 4, 6, 7]);
        let y = g.push_some("Resize", &[Some(y), None, None, Some(sizes)], attr("mode", "linear"))?;
        let y = g.push("DepthToSpace", &[y], attr("blocksize", 2))?;
        let pads = g.ints(&[0, 0, 0, 2, 0, 0, 1, 0]);
        let y = g.push("Pad", &[y, pads], attr("mode", "reflect"))?;
        let shape = g.ints(&[5]);
        let y = g.push("CenterCropPad", &[y, shape], attr("axes", vec![3i64]))?;
        let y = g.push("Mul", &[y, w[1]], Attrs::new())?;
        g.push("Trilu", &[y], Attrs::new())
    });
    agrees(&floats(&[3, 2, 3]), &[&[2, 3]], &|g, x, w, n| {
        let theta = g.push("Mul", &[x, w[0]], Attrs::new())?;
        let size = g.ints(&[n, 1, 2, 3]);
        let grid = g.push("AffineGrid", &[theta, size], Attrs::new())?;
        let image = with_ints(g, "Reshape", x, &[n, 1, 2, 3])?;
        g.push("GridSample", &[image, grid], attr("padding_mode", "border"))
    });
}

#[test]
fn elements_that_are_chosen() {
    let top = onnx_unlearn::ops::find("TopK").unwrap();
    agrees(&floats(&[3, 6]), &[&[6]], &|g, x, w, n| {
        let y = g.push("Mul", &[x, w[0]], Attrs::new())?;
        let k = g.ints(&[3]);
        let best = g.push_multi(top, &[Some(y), Some(k)], Attrs::new(), &[true, true])?;
        let (values, places) = (best[0].unwrap(), best[1].unwrap());
        let picked = g.push("GatherElements", &[x, places], attr("axis", 1))?;
        let y = g.push("Mul", &[values, picked], Attrs::new())?;
        let lengths = g.constant(Array::from_vec::<i64>(&[1], vec![2])?);
        let lengths = with_ints(g, "Expand", lengths, &[n])?;
        g.push("ReverseSequence", &[y, lengths], attr("batch_axis", 0).with("time_axis", 1))
    });
    // updates of a middle axis, the samples behind it
    agrees(&floats(&[3, 4]), &[&[2, 1], &[4]], &|g, x, w, n| {
        let y = g.push("Mul", &[x, w[1]], Attrs::new())?;
        let y = g.push("Transpose", &[y], Attrs::new())?;
        let k = g.constant(Array::from_vec::<i64>(&[2, 1], vec![3, 1])?);
        let u = with_ints(g, "Expand", w[0], &[2, n])?;
        let y = g.push("ScatterND", &[y, k, u], attr("reduction", "add"))?;
        let y = g.push("Transpose", &[y], Attrs::new())?;
        g.push("Mul", &[y, y], Attrs::new())
    });
}

#[test]
fn the_fisher_of_an_embedding_makes_no_table_for_each_sample() {
    let (n, entries, width) = (3, 50, 2);
    let mut g = Graph::new(n);
    let mut rng = ChaCha8Rng::seed_from_u64(9);
    let ids = g.input("ids", TensorType::new(DType::I64, [n, 4]), Batch::LEADING);
    let table = g.weight("table", random(&[entries, width], &mut rng));
    let head = g.weight("head", random(&[width, 3], &mut rng));
    let y = g.push("Gather", &[table, ids], Attrs::new()).unwrap();
    let y = with_ints(&mut g, "ReduceMean", y, &[1]).unwrap();
    let y = with_ints(&mut g, "Squeeze", y, &[1]).unwrap();
    g.outputs = vec![g.push("MatMul", &[y, head], Attrs::new()).unwrap()];
    let weights = [("table".to_owned(), table), ("head".to_owned(), head)];
    let made = |mode| gradient_graph(&g, &weights, None, mode).unwrap().graph;
    let (fisher, apart) = (made(Mode::Fisher { sets: 2 }), made(Mode::PerSample));
    let makes_tables = |g: &Graph| {
        let mut made = g.nodes().iter().flat_map(|node| node.outputs.iter().flatten());
        made.any(|&v| g.shape(v) == [n, entries, width])
    };
    assert!(makes_tables(&apart) && !makes_tables(&fisher));
    let ids = Array::from_vec::<i64>(&[n, 4], vec![7, 49, 7, 7, 0, -1, 0, 1, 7, 2, 2, 2]).unwrap();
    let labels = Array::ints(&[0, 2, 1]);
    let u = Array::from_vec(&[2, n], vec![0.5f64, 1.0, 0.0, 2.0, 0.25, 1.5]).unwrap();
    let run = |g: &Graph, feeds: Vec<Array>| -> Vec<Array> {
        let feeds: Vec<Tensor> = feeds.into_iter().map(Tensor::from).collect();
        Cpu.prepare(g).unwrap().run(&feeds).unwrap().iter().map(|t| t.to_array().unwrap()).collect()
    };
    let each = run(&apart, vec![ids.clone(), labels.clone()]);
    let sums = run(&fisher, vec![ids, labels, u.clone()]);
    for (each, sums) in each.iter().zip(&sums).skip(1) {
        let size = each.len() / n;
        let (each, sums, u) = (each.to_f64(), sums.to_f64(), u.to_f64());
        for (k, got) in sums.iter().enumerate() {
            let want: f64 = (0..n).map(|s| u[k / size * n + s] * each[s * size + k % size].powi(2)).sum();
            assert!((got - want).abs() < 1e-12, "element {k}: {got} instead of {want}");
        }
    }
}
