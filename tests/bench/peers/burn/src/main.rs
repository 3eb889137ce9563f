//! `peer-burn N`: burn's N×N×N matrix product on the adapter that wgpu finds, as one JSON line.

use burn::backend::Wgpu;
use burn::tensor::{Distribution, Tensor};

#[path = "../../clock.rs"]
mod clock;

fn main() -> anyhow::Result<()> {
    let n: usize = std::env::args().nth(1).unwrap_or_else(|| "1024".to_owned()).parse()?;
    let device = Default::default();
    let random = || Tensor::<Wgpu, 2>::random([n, n], Distribution::Default, &device);
    let (a, b) = (random(), random());
    // one element read back: what it comes from has then been computed
    let (first, warm) = clock::measure(|| {
        let _ = a.clone().matmul(b.clone()).slice([0..1, 0..1]).into_data();
        Ok(())
    })?;
    let gflops = 2.0 * (n as f64).powi(3) / warm / 1e9;
    println!(r#"{{"peer":"burn","what":"matmul {n}","first":{first:.4},"median":{warm:.5},"gflops":{gflops:.2}}}"#);
    Ok(())
}
