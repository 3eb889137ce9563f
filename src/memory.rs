//! How much memory there is, so that a file cannot make the system kill this process or another one.

use crate::error::{Error, Result};

/// The variable that sets the bytes that may be taken, in the place of what the system says.
pub const VARIABLE: &str = "ONNX_UNLEARN_MEMORY";

/// Bytes that can be taken: what [`VARIABLE`] says, else what the system can still give (Linux, control groups
/// included); `None` where neither is known.
pub fn available() -> Option<u64> {
    let said = std::env::var(VARIABLE).ok().and_then(|text| text.trim().parse().ok());
    said.or_else(|| [system(), group()].into_iter().flatten().min())
}

/// Checks that so many bytes can be taken for `what`.
///
/// # Errors
/// [`Unsupported`](crate::Kind::Unsupported) when the machine does not have them.
pub fn check(bytes: u64, what: impl std::fmt::Display) -> Result<()> {
    // asking takes longer than small things do
    if bytes < 64 << 20 {
        return Ok(());
    }
    match available().filter(|&has| bytes > has) {
        None => Ok(()),
        Some(has) => Err(Error::unsupported(format!(
            "{what} takes about {} of memory, {} can be had",
            in_words(bytes),
            in_words(has)
        ))),
    }
}

fn in_words(bytes: u64) -> String {
    if bytes >= 1 << 30 {
        format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30))
    } else {
        format!("{} MiB", bytes >> 20)
    }
}

/// What the kernel thinks it can give without swapping.
fn system() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// What is left of this control group's limit; memory that only caches files counts as left.
fn group() -> Option<u64> {
    let read = |name: &str| std::fs::read_to_string(format!("/sys/fs/cgroup/{name}")).ok();
    let number = |name: &str| read(name)?.trim().parse::<u64>().ok();
    let cached = read("memory.stat")
        .and_then(|s| s.lines().find_map(|l| l.strip_prefix("inactive_file ")?.parse::<u64>().ok()))
        .unwrap_or(0);
    Some(number("memory.max")?.saturating_sub(number("memory.current")?.saturating_sub(cached)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_things_fit_and_endless_ones_do_not() {
        check(1, "a").unwrap();
        if available().is_some() {
            let e = check(u64::MAX, "everything").unwrap_err().to_string();
            assert!(e.contains("everything takes about") && e.contains("GiB"), "{e}");
        }
        #[cfg(target_os = "linux")]
        assert!(system().unwrap() > 1 << 20);
    }
}
