//! The binary as a child process under watch.

use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// What a run may take.
pub struct Limits {
    /// A child that still runs then hangs, and is killed. Far beyond what any case takes.
    pub time: Duration,
    /// The most memory it may ever have held, in bytes.
    pub memory: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { time: Duration::from_secs(60), memory: 400 << 20 }
    }
}

/// How a run ended.
pub struct Ended {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// The command, with nothing in its environment that would change what it prints.
pub fn command(folder: &Path, args: &[&str]) -> Command {
    let mut c = Command::new(env!("CARGO_BIN_EXE_onnx-unlearn"));
    c.current_dir(folder).args(args).env("NO_COLOR", "1").env("COLUMNS", "120");
    c.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    c
}

/// Runs the binary to its end, within the limits.
pub fn run(folder: &Path, args: &[&str], limits: &Limits) -> Ended {
    watch(&mut command(folder, args), limits)
}

/// Runs a command to its end, within the limits.
pub fn watch(command: &mut Command, limits: &Limits) -> Ended {
    let mut child = command.spawn().unwrap();
    let drain = |pipe: Option<Box<dyn Read + Send>>| {
        let mut pipe = pipe.unwrap();
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            pipe.read_to_end(&mut bytes).unwrap();
            String::from_utf8_lossy(&bytes).into_owned()
        })
    };
    let out = drain(child.stdout.take().map(|p| Box::new(p) as _));
    let err = drain(child.stderr.take().map(|p| Box::new(p) as _));
    let (code, memory) = wait(&mut child, limits.time, command);
    assert!(memory <= limits.memory, "{command:?} took {} MiB", memory >> 20);
    Ended { code, stdout: out.join().unwrap(), stderr: err.join().unwrap() }
}

/// Waits for the end; gives the exit code and the most bytes of memory that were ever resident.
///
/// A system may count what the parent held when it started the child as the child's. Where all that is known is no more
/// than that, the greatest that was seen while the child ran stands for it.
#[cfg(unix)]
fn wait(child: &mut Child, time: Duration, command: &Command) -> (Option<i32>, u64) {
    let end = Instant::now() + time;
    let id = child.id() as libc::pid_t;
    let inherited = most_of_parent();
    let mut seen = None;
    loop {
        seen = most_seen(id).or(seen);
        let mut status = 0;
        // SAFETY: both outlive the call; the child is waited for here alone
        let (found, usage) = unsafe {
            let mut usage: libc::rusage = std::mem::zeroed();
            (libc::wait4(id, &mut status, libc::WNOHANG, &mut usage), usage)
        };
        if found == id {
            let code = libc::WIFEXITED(status).then(|| libc::WEXITSTATUS(status));
            let most = usage.ru_maxrss as u64 * UNIT;
            return (code, if most > inherited { most } else { seen.unwrap_or(most) });
        }
        if Instant::now() > end {
            child.kill().unwrap();
            panic!("{command:?} still runs after {time:?}");
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// What the system counts memory in: kilobytes, but on Apple's systems bytes.
#[cfg(unix)]
const UNIT: u64 = if cfg!(target_vendor = "apple") { 1 } else { 1024 };

/// The most bytes that this process ever held.
#[cfg(unix)]
fn most_of_parent() -> u64 {
    // SAFETY: it outlives the call
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_SELF, &mut usage);
        usage
    };
    usage.ru_maxrss as u64 * UNIT
}

/// The most bytes that a running process ever held, where the system tells.
#[cfg(unix)]
fn most_seen(id: libc::pid_t) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? << 10)
}

#[cfg(not(unix))]
fn wait(child: &mut Child, time: Duration, command: &Command) -> (Option<i32>, u64) {
    let end = Instant::now() + time;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return (status.code(), 0);
        }
        if Instant::now() > end {
            child.kill().unwrap();
            panic!("{command:?} still runs after {time:?}");
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}
