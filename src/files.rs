//! Writing files so that a reader sees the old file or the whole new one.

use crate::error::{Error, Result};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

/// Writes `path` through a temporary file beside it: `fill` writes, then the file is synced and renamed.
/// When anything fails, `path` is as it was and the temporary file is gone.
///
/// # Errors
/// When the directory is missing or not writable, when `path` exists but is no regular file, and whatever
/// `fill` returns.
pub fn write_atomically<T>(path: &Path, fill: impl FnOnce(&mut BufWriter<File>) -> Result<T>) -> Result<T> {
    let fail = |e: &std::io::Error| Error::io(format!("cannot write {}", path.display()), e);
    if std::fs::metadata(path).is_ok_and(|m| !m.is_file()) {
        // a rename would put a plain file in the place of a device or a pipe
        return Err(Error::invalid(format!("cannot write {}: it exists and is no regular file", path.display())));
    }
    let directory = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut builder = tempfile::Builder::new();
    builder.prefix(".onnx-unlearn-").suffix(".tmp");
    #[cfg(unix)]
    {
        // the permissions of an ordinary new file: the umask is taken off this
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(std::fs::Permissions::from_mode(0o666));
    }
    let temporary = builder.tempfile_in(directory).map_err(|e| fail(&e))?;
    let (file, temporary) = temporary.into_parts();
    let mut writer = BufWriter::new(file);
    let value = fill(&mut writer)?;
    let file = writer.into_inner().map_err(|e| fail(e.error()))?;
    file.sync_all().map_err(|e| fail(&e))?;
    drop(file);
    temporary.persist(path).map_err(|e| fail(&e.error))?;
    Ok(value)
}

/// Whether two paths name one file: the same words, or the same place once links are resolved.
pub(crate) fn same_file(a: &Path, b: &Path) -> bool {
    a == b || a.canonicalize().ok().is_some_and(|a| b.canonicalize().ok() == Some(a))
}

/// Writes the given bytes as [`write_atomically`] does.
///
/// # Errors
/// As [`write_atomically`].
pub fn write_bytes(path: &Path, bytes: &[u8]) -> Result<()> {
    write_atomically(path, |w| {
        w.write_all(bytes).map_err(|e| Error::io(format!("cannot write {}", path.display()), &e))
    })
}
