//! `peer-wonnx MODEL EXTENT …`: wonnx's forward pass of a model with one input `x` of that shape and one output `logits`,
//! on the adapter that wgpu finds, as one JSON line. The outputs' sum tells that both sides ran the same.

use anyhow::Context;
use std::collections::HashMap;

#[path = "../../clock.rs"]
mod clock;

fn main() -> anyhow::Result<()> {
    let mut words = std::env::args().skip(1);
    let model = words.next().context("peer-wonnx MODEL EXTENT …")?;
    let shape = words.map(|w| w.parse::<usize>()).collect::<Result<Vec<_>, _>>()?;
    let session = pollster::block_on(wonnx::Session::from_path(&model))?;
    let x: Vec<f32> = (0..shape.iter().product()).map(|i: usize| (i as f32 * 0.37).sin()).collect();
    let mut sum = 0.0;
    let (first, warm) = clock::measure(|| {
        let inputs = HashMap::from([("x".to_owned(), x.as_slice().into())]);
        let out = pollster::block_on(session.run(&inputs))?;
        let y: &[f32] = (&out["logits"]).try_into().map_err(|e| anyhow::anyhow!("{e:?}"))?;
        sum = y.iter().sum::<f32>();
        Ok(())
    })?;
    println!(r#"{{"peer":"wonnx","what":"forward {model}","first":{first:.4},"median":{warm:.5},"sum":{sum}}}"#);
    Ok(())
}
