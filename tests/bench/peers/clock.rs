//! What both peers are timed with.

use std::time::Instant;

const RUNS: usize = 7;

/// Seconds of the first run, which compiles shaders, and the median of seven more.
pub fn measure(mut run: impl FnMut() -> anyhow::Result<()>) -> anyhow::Result<(f64, f64)> {
    let mut timed = || {
        let start = Instant::now();
        run().map(|()| start.elapsed().as_secs_f64())
    };
    let first = timed()?;
    let mut warm = (0..RUNS).map(|_| timed()).collect::<anyhow::Result<Vec<_>>>()?;
    warm.sort_by(f64::total_cmp);
    Ok((first, warm[RUNS / 2]))
}
