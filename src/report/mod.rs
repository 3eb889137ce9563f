//! What people and programs read: aligned tables, numbers, progress, JSON.

pub mod emit;
pub mod format;
pub mod html;
mod progress;
mod table;

pub use progress::Progress;
pub use table::{Align, Table};

use crate::error::{Error, Kind, Result};
use serde::Serialize;
use std::io::{self, Write};

/// Writes a value as indented JSON and a newline. NaN and infinities become `null`.
///
/// A reader that has gone away (`… --json | head`) is no error.
///
/// # Errors
/// When the value cannot be said in JSON or the output cannot be written.
pub fn write_json(out: &mut impl Write, value: &impl Serialize) -> Result<()> {
    let mut text = serde_json::to_string_pretty(value).map_err(|e| Error::internal(format!("json: {e}")))?;
    text.push('\n');
    write_text(out, &text)
}

/// Writes text as it is. A reader that has gone away is no error.
///
/// # Errors
/// When the output cannot be written.
pub fn write_text(out: &mut impl Write, text: &str) -> Result<()> {
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => {
            Err(Error::new(Kind::Io, format!("cannot write output: {e}")))
        }
        _ => Ok(()),
    }
}
