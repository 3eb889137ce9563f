//! How long a Fisher takes once everything is loaded, and what its parts take: one JSON line for each measurement, in
//! seconds. The tables in docs/benchmarks.md read these lines; tests/bench/peers.py prints them beside PyTorch's.
//!
//!     cargo bench --bench fisher -- MODEL INPUTS.npz ENGINE [REPEATS [WHAT]]
//!
//! WHAT is the one measurement to make.

use onnx_unlearn::autodiff::gradient::Mode;
use onnx_unlearn::classifier::{Classifier, ClassifierOptions, Weights, batch_feeds};
use onnx_unlearn::engine::choose::{Choice, choose};
use onnx_unlearn::engine::wgpu::Kernels;
use onnx_unlearn::engine::{Engine, Session, Tensor};
use onnx_unlearn::fisher::SquareSums;
use onnx_unlearn::graph::Graph;
use onnx_unlearn::inputs::{self, Labelled};
use onnx_unlearn::tensor::Array;
use onnx_unlearn::{Error, Result};
use serde_json::json;
use std::path::Path;
use std::time::Instant;

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let [model, source, engine, rest @ ..] = &args[..] else {
        // `cargo test --benches` runs every bench without arguments
        println!("usage: MODEL INPUTS.npz ENGINE [REPEATS [WHAT]]");
        return Ok(());
    };
    // as the program does
    onnx_unlearn::memory::keep_freed();
    let choice = match engine.as_str() {
        "cpu" => Choice::Cpu,
        "ort" => Choice::Ort,
        "wgpu" => Choice::Wgpu,
        other => return Err(Error::invalid(format!("no engine is called '{other}'"))),
    };
    let repeats = rest.first().and_then(|r| r.parse().ok()).unwrap_or(7);
    let only = rest.get(1).map(String::as_str);
    let bench = Bench { model, engine, repeats, only };
    let engine = choose(choice, None, Kernels::Auto)?.engine;
    let engine = &*engine;
    let start = Instant::now();
    let c = Classifier::open(Path::new(model), ClassifierOptions::default())?.on(engine)?;
    let data = inputs::load(Path::new(source), &c.expected(), &inputs::Options::default())?;
    let weights = Weights::upload(engine, &c.bind(1)?)?;
    bench.say("load", &[start.elapsed().as_secs_f64()]);
    bench.forward(&c, engine, &data)?;
    bench.gradients(&c, engine, &data)?;
    let n = data.len();
    bench.fisher("fisher, one sum", &c, engine, &weights, &data, &[vec![1.0; n]])?;
    let by_class: Vec<Vec<f64>> =
        data.by_class().values().map(|at| (0..n).map(|i| f64::from(u8::from(at.contains(&i)))).collect()).collect();
    bench.fisher("fisher, a sum for each class", &c, engine, &weights, &data, &by_class)
}

struct Bench<'a> {
    model: &'a str,
    engine: &'a str,
    repeats: usize,
    /// The one measurement to make.
    only: Option<&'a str>,
}

impl Bench<'_> {
    fn wants(&self, what: &str) -> bool {
        self.only.is_none_or(|only| only == what)
    }

    fn say(&self, what: &str, seconds: &[f64]) {
        let mut sorted = seconds.to_vec();
        sorted.sort_by(f64::total_cmp);
        let line = json!({"model": self.model, "engine": self.engine, "what": what, "median": sorted[sorted.len() / 2],
            "least": sorted[0], "repeats": sorted.len()});
        println!("{line}");
    }

    /// Runs once to warm up, then measures.
    fn repeat(&self, what: &str, mut run: impl FnMut() -> Result<()>) -> Result<()> {
        let mut seconds = Vec::new();
        for i in 0..=self.repeats {
            let start = Instant::now();
            run()?;
            let took = start.elapsed().as_secs_f64();
            if i > 0 {
                seconds.push(took);
            }
        }
        self.say(what, &seconds);
        Ok(())
    }

    fn forward(&self, c: &Classifier, engine: &dyn Engine, data: &Labelled) -> Result<()> {
        if !self.wants("answers") {
            return Ok(());
        }
        let g = c.bind(data.len())?.graph;
        let mut session = engine.prepare(&g)?;
        let (feeds, _) = batch_feeds(&g, data, 0, data.len(), data.len())?;
        let feeds: Vec<Tensor> = feeds.into_iter().map(|(_, a)| Tensor::Host(a)).collect();
        self.repeat("answers", || session.run(&feeds).map(drop))
    }

    /// The gradient summed over the samples.
    fn gradients(&self, c: &Classifier, engine: &dyn Engine, data: &Labelled) -> Result<()> {
        if !self.wants("gradients, summed") {
            return Ok(());
        }
        let g: Graph = c.gradients(data.len(), Mode::Sum)?.graph;
        let mut session: Box<dyn Session> = engine.prepare(&g)?;
        let (feeds, part) = batch_feeds(&g, data, 0, data.len(), data.len())?;
        let mut feeds: Vec<Tensor> = feeds.into_iter().map(|(_, a)| Tensor::Host(a)).collect();
        feeds.push(Tensor::Host(part.labels()));
        feeds.push(Tensor::Host(Array::full(&[data.len()], 1.0f32)));
        self.repeat("gradients, summed", || session.run(&feeds).map(drop))
    }

    fn fisher(
        &self,
        what: &str,
        c: &Classifier,
        engine: &dyn Engine,
        weights: &Weights,
        data: &Labelled,
        sets: &[Vec<f64>],
    ) -> Result<()> {
        if !self.wants(what) {
            return Ok(());
        }
        let start = Instant::now();
        let mut squares = SquareSums::new(c, engine, weights, sets.len(), data.len())?;
        self.say(&format!("{what}: session"), &[start.elapsed().as_secs_f64()]);
        self.repeat(what, || squares.run(data, sets, &mut |_| ()).map(drop))
    }
}
