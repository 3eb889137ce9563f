//! Writing files so that a reader sees the old file or the whole new one.

use crate::error::{Error, Result};
use crate::interrupt::{self, Unfinished};
use std::fs::{File, Metadata, TryLockError};
use std::io::{self, BufWriter, Write};
use std::path::Path;
use tempfile::NamedTempFile;

/// What a file that is being written is part of; its name says so.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Part<'a> {
    /// One file, which replaces another by itself.
    Alone,
    /// One of several files that get their names together, under this mark. A journal may speak of them, so that they
    /// are swept only where it is known that none does.
    Together(&'a str),
}

impl Part<'_> {
    /// How names begin and end.
    fn affixes(self) -> (String, &'static str) {
        match self {
            Self::Alone => (".onnx-unlearn-".to_owned(), ".tmp"),
            Self::Together(mark) => (format!(".onnx-unlearn-{mark}-"), ".part"),
        }
    }
}

/// Writes `path` through a temporary file beside it: `fill` writes, then the file is synced and renamed.
/// When anything fails, `path` is as it was and the temporary file is gone.
///
/// # Errors
/// When the directory is missing or not writable, when `path` is no regular file or is read-only, and whatever
/// `fill` returns.
pub fn write_atomically<T>(path: &Path, fill: impl FnOnce(&mut BufWriter<&File>) -> Result<T>) -> Result<T> {
    let fail = |e: &io::Error| Error::io(format!("cannot write {}", path.display()), e);
    existing(path)?;
    sweep(parent(path), Part::Alone);
    let temporary = Temporary::beside(path, Part::Alone, false).map_err(|e| fail(&e))?;
    let mut writer = BufWriter::new(temporary.file());
    let value = fill(&mut writer)?;
    writer.flush().map_err(|e| fail(&e))?;
    drop(writer);
    temporary.file().sync_all().map_err(|e| fail(&e))?;
    let _held = interrupt::hold();
    temporary.persist(path, true).map_err(|(e, _)| fail(&e))?;
    flush(parent(path));
    Ok(value)
}

/// What stands at a place to be written, if anything; only a writable regular file may.
///
/// # Errors
/// `Invalid` for a symbolic link, a directory, a device, a read-only file.
pub(crate) fn existing(path: &Path) -> Result<Option<Metadata>> {
    let found = match path.symlink_metadata() {
        Ok(found) => found,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::io(format!("cannot write {}", path.display()), &e)),
    };
    let why = if found.is_symlink() {
        "it is a symbolic link; name the file that it points to"
    } else if found.is_dir() {
        "it is a directory"
    } else if !found.is_file() {
        // a rename would put a plain file in the place of a device or a pipe
        "it is no regular file"
    } else if found.permissions().readonly() {
        "it is read-only"
    } else {
        return Ok(Some(found));
    };
    Err(Error::invalid(format!("cannot write {}: {why}", path.display())))
}

/// The directory that a file lies in, for a path that may be a bare name.
pub(crate) fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(p) if !p.as_os_str().is_empty() => p,
        _ => Path::new("."),
    }
}

/// A file that is being written, under a name by which a later run knows it should this one be killed.
///
/// It is locked as long as this process lives: a file of that name that nobody holds is left over.
#[derive(Debug)]
pub(crate) struct Temporary {
    file: NamedTempFile,
    unfinished: Unfinished,
}

impl Temporary {
    /// Makes an empty file beside `path`, readable by its owner alone when `private`.
    pub(crate) fn beside(path: &Path, part: Part<'_>, private: bool) -> io::Result<Self> {
        let mut builder = tempfile::Builder::new();
        let (prefix, suffix) = part.affixes();
        builder.prefix(&prefix).suffix(suffix);
        #[cfg(unix)]
        if !private {
            // the permissions of an ordinary new file: the umask is taken off this
            builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        }
        #[cfg(not(unix))]
        let _ = private;
        loop {
            let (file, unfinished) =
                Unfinished::make(|| builder.tempfile_in(parent(path)), |f: &NamedTempFile| f.path())?;
            // a run that sweeps may have found the file before it was locked; where files have no locks, none sweeps
            let _ = file.as_file().lock();
            if file.path().exists() {
                return Ok(Self { file, unfinished });
            }
        }
    }
    pub(crate) fn file(&self) -> &File {
        self.file.as_file()
    }
    pub(crate) fn file_mut(&mut self) -> &mut File {
        self.file.as_file_mut()
    }
    pub(crate) fn path(&self) -> &Path {
        self.file.path()
    }
    /// Gives the file its name, in place of another one if `replace`; without that, an existing file is an error.
    pub(crate) fn persist(self, path: &Path, replace: bool) -> Result<(), (io::Error, Self)> {
        let Self { file, unfinished } = self;
        let done = if replace { file.persist(path) } else { file.persist_noclobber(path) };
        done.map(drop).map_err(|e| (e.error, Self { file: e.file, unfinished }))
    }
    /// Leaves the file where it is.
    pub(crate) fn leave(self) {
        let _ = self.file.keep();
    }
}

/// True for the name of a file that was being written together with others.
pub(crate) fn is_unfinished_part(name: &str) -> bool {
    let (prefix, _) = Part::Alone.affixes();
    name.starts_with(&prefix) && name.ends_with(Part::Together("").affixes().1)
}

/// Removes what killed runs left in a directory: files with the name of a [`Temporary`] of this part that nobody holds.
///
/// Failing to is no reason to fail.
pub(crate) fn sweep(directory: &Path, part: Part<'_>) {
    let (prefix, suffix) = part.affixes();
    let Ok(entries) = std::fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let ours = name.to_str().is_some_and(|n| n.starts_with(&prefix) && n.ends_with(suffix));
        if !ours || !entry.file_type().is_ok_and(|t| t.is_file()) {
            continue;
        }
        if let Ok(file) = File::open(entry.path())
            && file.try_lock().is_ok()
        {
            // still locked while it goes, so that its maker, should it only just have been made, sees that it is gone
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

/// Takes the lock of an open file for as long as the handle lives.
///
/// # Errors
/// `Invalid` when another process holds it. Where files have no locks, there is none, which is no error.
pub(crate) fn lock(file: &File, path: &Path) -> Result<()> {
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => {
            Err(Error::invalid(format!("{} is being changed by another run; wait for it to end", path.display())))
        }
        Ok(()) | Err(TryLockError::Error(_)) => Ok(()),
    }
}

/// Makes renames in a directory durable. The renames stand already, so a file system that cannot flush a
/// directory is no reason to fail.
pub(crate) fn flush(directory: &Path) {
    #[cfg(unix)]
    if let Ok(directory) = File::open(directory) {
        let _ = directory.sync_all();
    }
    #[cfg(not(unix))]
    let _ = directory;
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

/// SHA-256 of a file, hexadecimal.
///
/// # Errors
/// When it cannot be read.
pub fn sha256(path: &Path) -> Result<String> {
    use sha2::{Digest, Sha256};
    let mut file = File::open(path).map_err(|e| Error::io(path.display(), &e))?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match io::Read::read(&mut file, &mut buffer).map_err(|e| Error::io(path.display(), &e))? {
            0 => break,
            n => hash.update(&buffer[..n]),
        }
    }
    Ok(hex(&hash.finalize()))
}

/// Bytes as hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn left_over_files_go_and_those_in_use_stay() {
        let dir = tempfile::tempdir().unwrap();
        let left = dir.path().join(".onnx-unlearn-abc.tmp");
        std::fs::write(&left, "x").unwrap();
        std::fs::write(dir.path().join("mine.tmp"), "x").unwrap();
        std::fs::create_dir(dir.path().join(".onnx-unlearn-d.tmp")).unwrap();
        let used = Temporary::beside(&dir.path().join("out"), Part::Alone, true).unwrap();
        let part = Temporary::beside(&dir.path().join("out"), Part::Together("1"), true).unwrap();
        let left_part = part.path().to_path_buf();
        part.leave();
        sweep(dir.path(), Part::Alone);
        sweep(dir.path(), Part::Together("2"));
        assert!(left_part.exists(), "a journal may speak of it");
        sweep(dir.path(), Part::Together("1"));
        assert!(!left_part.exists());
        assert!(!left.exists());
        assert!(used.path().exists(), "a file that is being written was removed");
        assert!(dir.path().join("mine.tmp").exists() && dir.path().join(".onnx-unlearn-d.tmp").exists());
        write_bytes(&dir.path().join("out"), b"new").unwrap();
        assert!(used.path().exists());
        assert!(used.persist(&dir.path().join("other"), false).is_ok());
        assert!(Temporary::beside(&left, Part::Alone, true).unwrap().persist(&dir.path().join("out"), false).is_err());
        assert_eq!(std::fs::read(dir.path().join("out")).unwrap(), b"new");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 4);
    }
}
