//! How much memory there is, so that a file cannot make the system kill this process or another one.

use crate::error::{Error, Result};

/// The variable that sets the bytes that may be taken, in the place of what the system says.
pub const VARIABLE: &str = "ONNX_UNLEARN_MEMORY";

/// Asking takes longer than things of fewer bytes do.
pub(crate) const SMALL: u64 = 64 << 20;

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
    if bytes < SMALL {
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

/// Lets the allocator keep what is freed for what comes next, where it would give it back to the system and ask for it again
/// with every tensor (glibc). For the start of a program; the most that is taken stays the same.
pub fn keep_freed() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: two settings of the allocator, which takes them at any time; one that it refuses stays as it is.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, 32 << 20);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 256 << 20);
    }
}

/// Bytes for people.
pub(crate) fn in_words(bytes: u64) -> String {
    if bytes >= 1 << 30 {
        format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30))
    } else {
        format!("{} MiB", bytes >> 20)
    }
}

/// Bytes as people write them: a number, with K, M, G or T for powers of 1024.
///
/// # Errors
/// When it is no such text, or none.
pub fn parse(text: &str) -> Result<u64> {
    let upper = text.trim().to_ascii_uppercase();
    let digits = upper.trim_end_matches("IB").trim_end_matches('B');
    let (number, power) = match digits.char_indices().last() {
        Some((at, unit)) if "KMGT".contains(unit) => (&digits[..at], "KMGT".find(unit).unwrap_or(0) as i32 + 1),
        _ => (digits, 0),
    };
    let bytes = number.trim().parse::<f64>().ok().map(|n| n * 1024_f64.powi(power));
    bytes
        .filter(|b| *b >= 1.0 && *b < u64::MAX as f64)
        .map(|b| b as u64)
        .ok_or_else(|| Error::invalid(format!("'{text}' is no number of bytes, such as 4G or 500M")))
}

/// The most bytes of this process that lay in memory at once so far, the pages of files among them (Linux).
pub fn peak() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
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
    fn bytes_are_read_as_people_write_them() {
        for (text, bytes) in
            [("1", 1), ("500M", 500 << 20), ("4G", 4 << 30), ("1.5g", 3 << 29), ("2 GiB", 2 << 30), ("7KB", 7168)]
        {
            assert_eq!(parse(text).unwrap(), bytes, "{text}");
        }
        for text in ["", "G", "0", "-1G", "4X", "many", "1e30G", "é"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

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
