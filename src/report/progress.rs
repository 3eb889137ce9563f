//! A progress bar that appears only where someone waits.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Shorter work shows nothing.
const PATIENCE: Duration = Duration::from_secs(1);

/// Progress of one task on stderr: shown after one second, on a terminal only, and removed at the end.
///
/// May be shared between threads. Dropping it removes the bar.
#[derive(Debug)]
pub struct Progress {
    bar: ProgressBar,
    start: Instant,
    /// Nothing more to decide: it is drawn, or never will be.
    settled: AtomicBool,
}

impl Progress {
    /// Progress through `len` steps of what `task` says (`"fisher"`, `"reading images"`).
    pub fn new(task: &str, len: usize) -> Self {
        let bar = ProgressBar::with_draw_target(Some(len as u64), ProgressDrawTarget::hidden());
        bar.set_message(task.to_owned());
        if let Ok(style) = ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len} {eta}") {
            bar.set_style(style);
        }
        Self { bar, start: Instant::now(), settled: AtomicBool::new(false) }
    }
    /// Progress that is never shown.
    pub fn hidden() -> Self {
        Self { bar: ProgressBar::hidden(), start: Instant::now(), settled: AtomicBool::new(true) }
    }
    /// `steps` more are done.
    pub fn inc(&self, steps: usize) {
        self.bar.inc(steps as u64);
        if self.start.elapsed() >= PATIENCE && !self.settled.swap(true, Ordering::Relaxed) {
            // stderr() draws on a terminal only
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
        }
    }
    /// The number of steps turned out to be another.
    pub fn set_len(&self, len: usize) {
        self.bar.set_length(len as u64);
    }
    /// Steps done so far.
    pub fn position(&self) -> usize {
        usize::try_from(self.bar.position()).unwrap_or(usize::MAX)
    }
    /// Wraps a line for stderr so that the bar does not run through it.
    pub fn say(&self, line: &str) {
        self.bar.suspend(|| eprintln!("{line}"));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_work_shows_nothing() {
        let p = Progress::new("test", 10);
        p.inc(3);
        p.inc(4);
        assert!(p.bar.is_hidden());
        assert_eq!(p.position(), 7);
        assert!(Progress::hidden().bar.is_hidden());
    }
}
