//! The `onnx-unlearn` command: parses the arguments, runs one subcommand, turns its result into an exit code.

use anyhow::Context;
use clap::Parser;
use onnx_unlearn::cli::{Cli, Status};
use std::process::ExitCode;

fn main() -> ExitCode {
    // Mesa's layer that reorders adapters complains on stderr where no display server runs; adapters are ranked by
    // ourselves
    #[cfg(target_os = "linux")]
    if std::env::var_os("NODEVICE_SELECT").is_none() {
        // SAFETY: no other thread runs yet
        unsafe { std::env::set_var("NODEVICE_SELECT", "1") };
    }
    onnx_unlearn::memory::keep_freed();
    #[cfg(unix)]
    leave_nothing_behind();
    // clap exits with 2 by itself on wrong usage
    let cli = Cli::parse();
    match run(cli) {
        Ok(status) => ExitCode::from(status.code()),
        Err(e) => {
            let status = e.downcast_ref::<onnx_unlearn::Error>().map_or(Status::Internal, Status::of);
            eprintln!("error: {e:#}");
            ExitCode::from(status.code())
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<Status> {
    // a defect becomes one line and exit code 3; the hook keeps the place for a bug report
    std::panic::set_hook(Box::new(|info| eprintln!("internal error: {info}")));
    let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| cli.run()));
    match done {
        Ok(result) => Ok(result?),
        Err(_) => Err(onnx_unlearn::Error::internal("this is a defect of onnx-unlearn; please report it"))
            .context("the work was given up"),
    }
}

/// Removes unfinished files before Ctrl-C or a polite kill ends the process. Where this cannot be had, the next run
/// that writes there cleans up.
#[cfg(unix)]
fn leave_nothing_behind() {
    use signal_hook::consts::{SIGINT, SIGTERM};
    let Ok(mut signals) = signal_hook::iterator::Signals::new([SIGINT, SIGTERM]) else { return };
    std::thread::spawn(move || {
        if let Some(signal) = signals.forever().next() {
            onnx_unlearn::interrupt::clean_up();
            // the shell is to see what ended the process
            let _ = signal_hook::low_level::emulate_default_handler(signal);
        }
    });
}
