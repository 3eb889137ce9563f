//! What commands that write a page tell of themselves.

use super::common::named;
use crate::error::{Error, Result};
use crate::report::html::File;
use sha2::{Digest, Sha256};
use std::path::Path;

/// The command that was typed, word by word, with the program's name and not its path in front.
pub(super) fn command() -> Vec<String> {
    let words = std::env::args_os().skip(1).map(|w| w.to_string_lossy().into_owned());
    std::iter::once(env!("CARGO_PKG_NAME").to_owned()).chain(words).collect()
}

/// A file that was read, with its hash; a folder has none.
///
/// # Errors
/// `Io` when it cannot be read again.
pub(super) fn hashed(role: &'static str, path: &Path) -> Result<Option<File>> {
    if !path.is_file() {
        return Ok(None);
    }
    let bytes = std::fs::read(path).map_err(|e| named(Error::io("cannot be read again", &e), path))?;
    let sha256 = Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect();
    let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
    Ok(Some(File { role, name, sha256 }))
}
