//! How fast the wgpu engine is on this adapter: one JSON line for each measurement, medians of warm runs. docs/benchmarks.md
//! reads these lines; nothing of this is used by the tool.
//!
//!     cargo bench --bench kernels -- matmul [N]
//!     cargo bench --bench kernels -- forward MODEL [BATCH]
//!     cargo bench --bench kernels -- fisher MODEL INPUTS.npz
//!     cargo bench --bench kernels -- shares forward|fisher MODEL [BATCH]     # EACH=1: also a line a dispatch
//!
//! Operations are counted from the model's shapes: two for each product of a matrix product or a convolution. Backward, a
//! weight's gradient takes as many as its layer, and so does the gradient of a layer's input where a weight lies before it.

use onnx_unlearn::autodiff::gradient::Mode;
use onnx_unlearn::classifier::{Classifier, ClassifierOptions, Weights, batch_feeds};
use onnx_unlearn::engine::wgpu::{Options, WgpuEngine};
use onnx_unlearn::engine::{Engine, Session, Tensor};
use onnx_unlearn::fisher::estimate;
use onnx_unlearn::graph::{Attrs, Batch, Graph};
use onnx_unlearn::inputs;
use onnx_unlearn::tensor::{Array, DType, TensorType};
use onnx_unlearn::{Error, Result};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

/// Warm runs of which the median is taken.
const RUNS: usize = 7;

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let engine = WgpuEngine::new(&Options { allow_software: true, ..Options::default() })?;
    let number = |text: &str| text.parse().map_err(|_| Error::invalid(format!("'{text}' is no number")));
    let mut line = match args[..] {
        ["matmul"] => matmul(&engine, 1024)?,
        ["matmul", n] => matmul(&engine, number(n)?)?,
        ["forward", model] => forward(&engine, model, 1)?,
        ["forward", model, batch] => forward(&engine, model, number(batch)?)?,
        ["fisher", model, inputs] => fisher(&engine, model, inputs)?,
        ["shares", what, model] => shares(&engine, what, model, 1)?,
        ["shares", what, model, batch] => shares(&engine, what, model, number(batch)?)?,
        _ => {
            return Err(Error::invalid(
                "usage: matmul [N] | forward MODEL [BATCH] | fisher MODEL INPUTS.npz | shares forward|fisher MODEL [BATCH]",
            ));
        }
    };
    line["adapter"] = engine.describe().into();
    line["measured"] = args.join(" ").into();
    println!("{line}");
    Ok(())
}

/// Seconds of the first run, and of the median of the warm ones.
fn timed(mut run: impl FnMut() -> Result<()>) -> Result<(f64, f64)> {
    let mut seconds = Vec::new();
    for _ in 0..=RUNS {
        let started = Instant::now();
        run()?;
        seconds.push(started.elapsed().as_secs_f64());
    }
    let first = seconds.remove(0);
    seconds.sort_by(f64::total_cmp);
    Ok((first, seconds[seconds.len() / 2]))
}

fn rates(operations: u64, (first, median): (f64, f64)) -> Value {
    json!({"first_s": first, "median_s": median, "runs": RUNS, "gflop": operations as f64 / 1e9,
        "gflop_per_s": operations as f64 / 1e9 / median})
}

/// Runs a session and waits for its first output.
fn finish(session: &mut dyn Session, feeds: &[Tensor]) -> Result<()> {
    session.run(feeds)?.first().map_or(Ok(()), |t| t.to_array().map(drop))
}

fn wave(shape: &[usize]) -> Result<Array> {
    Array::from_vec(shape, (0..shape.iter().product()).map(|i: usize| (i as f32 * 0.37).sin()).collect::<Vec<f32>>())
}

fn matmul(engine: &WgpuEngine, n: usize) -> Result<Value> {
    let mut g = Graph::new(0);
    let ids = ["a", "b"].map(|name| g.input(name, TensorType::new(DType::F32, [n, n]), Batch::None));
    let y = g.push("MatMul", &ids, Attrs::new())?;
    // one element comes back, so that the copy is not measured
    let (from, to, axes) = (g.ints(&[0, 0]), g.ints(&[1, 1]), g.ints(&[0, 1]));
    g.outputs = vec![g.push("Slice", &[y, from, to, axes], Attrs::new())?];
    let feeds = [engine.upload(&wave(&[n, n])?)?, engine.upload(&wave(&[n, n])?)?];
    let mut session = engine.prepare(&g)?;
    let seconds = timed(|| finish(&mut *session, &feeds))?;
    Ok(rates(2 * (n as u64).pow(3), seconds))
}

fn open(engine: &WgpuEngine, model: &str) -> Result<Classifier> {
    Classifier::open(Path::new(model), ClassifierOptions::default())?.on(engine)
}

fn forward(engine: &WgpuEngine, model: &str, batch: usize) -> Result<Value> {
    let mut g = open(engine, model)?.bind(batch)?.graph;
    g.outputs.truncate(1);
    let feeds = any_feeds(engine, &g)?;
    let mut session = engine.prepare(&g)?;
    let seconds = timed(|| finish(&mut *session, &feeds))?;
    let mut line = rates(operations(&g).0, seconds);
    line["device_bytes"] = session.device_bytes().into();
    Ok(line)
}

fn any_feeds(engine: &WgpuEngine, g: &Graph) -> Result<Vec<Tensor>> {
    let feed = |&id| {
        let (shape, dtype) = (g.shape(id), g.dtype(id));
        engine.upload(&if dtype.is_float() { wave(shape)? } else { Array::full(shape, 0i64) })
    };
    g.inputs.iter().map(feed).collect()
}

/// The whole estimate, two sets of classes: preparing the graph, uploading, and all runs.
fn fisher(engine: &WgpuEngine, model: &str, source: &str) -> Result<Value> {
    let c = open(engine, model)?;
    let data = inputs::load(Path::new(source), &c.expected(), &inputs::Options::default())?;
    let weights = Weights::upload(engine, &c.bind(1)?)?;
    let sets = [0, 1].map(|s| data.y.iter().map(|&y| f64::from(u8::from((y == 0) == (s == 0)))).collect::<Vec<f64>>());
    let whole = timed(|| {
        let fisher = estimate(&c, engine, &weights, &data, &sets, &mut |_| ())?;
        fisher.sums.last().map_or(Ok(()), |t| t.to_array().map(drop))
    })?;
    let (gradients, one_by_one) = c.gradients_or_singles(data.len(), Mode::Fisher { sets: 2 })?;
    let mut g = gradients.graph;
    g.outputs = gradients.gradients.iter().map(|(_, id)| *id).collect();
    let (mut feeds, batch): (Vec<Tensor>, _) = {
        let (own, part) = batch_feeds(&g, &data, 0, data.len().min(g.batch), g.batch)?;
        (own.into_iter().map(|(_, a)| Tensor::Host(a)).collect(), part)
    };
    feeds.push(Tensor::Host(batch.labels()));
    feeds.push(Tensor::Host(Array::full(&[2, g.batch], 0.5f32)));
    let mut session = engine.prepare(&g)?;
    let pass = timed(|| finish(&mut *session, &feeds))?;
    let (forward, backward) = operations(&c.bind(g.batch)?.graph);
    let passes = data.len().div_ceil(g.batch) as u64;
    let mut line = rates((forward + backward) * passes, whole);
    line["pass"] = rates(forward + backward, pass);
    line["batch"] = g.batch.into();
    line["one_by_one"] = one_by_one.into();
    line["device_bytes"] = session.device_bytes().into();
    Ok(line)
}

/// Seconds of every op and shader, one dispatch at a time.
fn shares(engine: &WgpuEngine, what: &str, model: &str, batch: usize) -> Result<Value> {
    let c = open(engine, model)?;
    let g = match what {
        "forward" => c.bind(batch)?.graph,
        "fisher" => {
            let gradients = c.gradients_or_singles(batch, Mode::Fisher { sets: 2 })?.0;
            let mut g = gradients.graph;
            g.outputs = gradients.gradients.iter().map(|(_, id)| *id).collect();
            g
        }
        other => return Err(Error::invalid(format!("'{other}' is neither forward nor fisher"))),
    };
    let feeds = any_feeds(engine, &g)?;
    let mut by_kind: BTreeMap<String, (usize, f64)> = BTreeMap::new();
    let all = engine.time(&g, &feeds)?;
    let total: f64 = all.iter().map(|t| t.seconds).sum();
    for t in &all {
        let op = t.node.rsplit_once('(').map_or("", |(_, op)| op.trim_end_matches(')'));
        let entry = by_kind.entry(format!("{op}/{}", t.shader)).or_default();
        *entry = (entry.0 + 1, entry.1 + t.seconds);
        if std::env::var_os("EACH").is_some() {
            println!("{}", json!({"node": t.node, "shader": t.shader, "ms": t.seconds * 1e3}));
        }
    }
    let kinds =
        by_kind.into_iter().map(|(kind, (n, s))| (kind, json!({"dispatches": n, "ms": s * 1e3, "share": s / total})));
    Ok(json!({"total_s": total, "kinds": kinds.collect::<serde_json::Map<_, _>>()}))
}

/// Operations of a forward graph's products, and of what the gradients of all its weights take.
fn operations(g: &Graph) -> (u64, u64) {
    let is_weight = |id: &onnx_unlearn::graph::ValueId| g.weights().any(|(w, _)| w == *id);
    let mut needs: Vec<bool> = g.ids().map(|id| is_weight(&id)).collect();
    let (mut forward, mut backward) = (0, 0);
    for node in g.nodes() {
        let wanted: Vec<bool> = node.inputs.iter().map(|i| i.is_some_and(|id| needs[id.index()])).collect();
        let any = wanted.contains(&true);
        for id in node.outputs.iter().flatten() {
            needs[id.index()] = any;
        }
        let shape = |i: usize| node.inputs.get(i).copied().flatten().map_or(&[][..], |id| g.shape(id));
        let y = node.outputs.first().copied().flatten().map_or(&[][..], |id| g.shape(id));
        let out = y.iter().product::<usize>();
        let products = match node.op.spec().name {
            "MatMul" => out * shape(0).last().unwrap_or(&0),
            "Gemm" => shape(0).iter().product::<usize>() * y[1],
            "Conv" => out * shape(1)[1..].iter().product::<usize>(),
            _ => 0,
        } as u64;
        forward += 2 * products;
        backward += 2 * products * wanted.iter().take(2).filter(|w| **w).count() as u64;
    }
    (forward, backward)
}
