//! `fisher merge`: parts that were computed apart become one Fisher.

use crate::cli::common::check_target;
use crate::cli::{Context, Status};
use crate::error::Result;
use crate::fisher::merge;
use crate::fisher::store::{Kept, Origin};
use crate::report::format;
use std::path::{Path, PathBuf};

/// Joins the parts that 'fisher --shard' wrote.
///
/// The result is the same to the bit in whatever order the parts are named, and the same as without parts. Parts of
/// different models or inputs, parts that overlap, and gaps are refused.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    /// The parts.
    #[arg(required = true, value_name = "PART.safetensors")]
    parts: Vec<PathBuf>,
    /// The new file.
    #[arg(short, value_name = "FILE.safetensors")]
    o: PathBuf,
}

#[derive(serde::Serialize)]
struct Report {
    file: PathBuf,
    parts: usize,
    origin: Origin,
}

impl Args {
    pub(super) fn run(self, context: &Context) -> Result<Status> {
        check_target(&self.o, &self.parts.iter().map(PathBuf::as_path).collect::<Vec<&Path>>())?;
        let parts = self.parts.iter().map(|p| Kept::open(p)).collect::<Result<Vec<_>>>()?;
        let origin = merge(&parts, &self.o)?;
        let report = Report { file: self.o, parts: parts.len(), origin };
        context.print(&report, || {
            let samples: usize = report.origin.samples.iter().map(|(_, n)| n).sum();
            format!(
                "wrote {}: {} parts, {} classes, {} samples\n",
                report.file.display(),
                report.parts,
                format::count(report.origin.samples.len()),
                format::count(samples)
            )
        })?;
        Ok(Status::Done)
    }
}
