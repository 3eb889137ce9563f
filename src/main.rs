//! The `onnx-unlearn` command: parses the arguments, runs one subcommand, turns its result into an exit code.

use anyhow::Context;
use clap::Parser;
use onnx_unlearn::cli::{Cli, Status};
use std::process::ExitCode;

fn main() -> ExitCode {
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
