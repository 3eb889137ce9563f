//! Opening files that strangers may have prepared, and telling files apart.

use crate::error::{Error, Result};
use bytes::Bytes;
use std::fs::{File, Metadata};
use std::path::Path;
use std::time::SystemTime;

/// Which file this is, and in which state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    /// Device and inode where the system has them.
    file: Option<(u64, u64)>,
    length: u64,
    modified: Option<SystemTime>,
}

impl Identity {
    pub(super) fn of(metadata: &Metadata) -> Self {
        #[cfg(unix)]
        let file = {
            use std::os::unix::fs::MetadataExt;
            Some((metadata.dev(), metadata.ino()))
        };
        #[cfg(not(unix))]
        let file = None;
        Self { file, length: metadata.len(), modified: metadata.modified().ok() }
    }

    /// True when both are one file, by whichever name; false too where the system does not say.
    pub(super) fn is_same_file(&self, other: &Self) -> bool {
        self.file.is_some() && self.file == other.file
    }
}

/// How many names the file has.
pub(super) fn links(metadata: &Metadata) -> u64 {
    #[cfg(unix)]
    {
        std::os::unix::fs::MetadataExt::nlink(metadata)
    }
    #[cfg(not(unix))]
    {
        let _ = metadata;
        1
    }
}

/// A file that was opened once and is read through this handle's map alone.
#[derive(Debug)]
pub(crate) struct Opened {
    pub bytes: Bytes,
    /// For locking.
    pub file: File,
    pub metadata: Metadata,
    pub identity: Identity,
}

/// Opens a regular file and maps it, after following symbolic links.
///
/// The kind of the file is looked at before opening, since opening a FIFO would wait for a writer, and again
/// on the open handle, since the name may have been given to another file in between.
///
/// # Errors
/// `Io` when the system refuses or the file changed under the name, `Invalid` when it is no regular file.
pub(crate) fn open(path: &Path) -> Result<Opened> {
    let name = path.display();
    let refused = |e| Error::io(format!("cannot open {name}"), &e);
    let before = std::fs::metadata(path).map_err(refused)?;
    if !before.is_file() {
        let what = if before.is_dir() { "a directory" } else { "not a regular file" };
        return Err(Error::invalid(format!("{name} is {what}")));
    }
    let opened = hold(File::open(path).map_err(refused)?, path)?;
    if opened.identity != Identity::of(&before) {
        return Err(Error::new(crate::error::Kind::Io, format!("{name} changed while it was opened")));
    }
    Ok(opened)
}

/// Maps an open file, which has to be a regular one.
fn hold(file: File, path: &Path) -> Result<Opened> {
    let refused = |e| Error::io(format!("cannot open {}", path.display()), &e);
    let metadata = file.metadata().map_err(refused)?;
    if !metadata.is_file() {
        let what = if metadata.is_dir() { "a directory" } else { "not a regular file" };
        return Err(Error::invalid(format!("{} is {what}", path.display())));
    }
    let bytes = map(&file).map_err(refused)?;
    Ok(Opened { bytes, file, identity: Identity::of(&metadata), metadata })
}

/// Opens a regular file below `base` by plain names, none of which may be a symbolic link: every step starts from the
/// open directory before it, so that nothing can be swapped in between.
///
/// # Errors
/// As [`open`].
#[cfg(unix)]
pub(super) fn open_below(base: &Path, relative: &Path) -> Result<Opened> {
    use rustix::fs::{Mode, OFlags, openat};
    let path = base.join(relative);
    let refused = |e: rustix::io::Errno| Error::io(format!("cannot open {}", path.display()), &e.into());
    let here = OFlags::RDONLY | OFlags::CLOEXEC;
    let mut at = rustix::fs::open(base, here | OFlags::DIRECTORY, Mode::empty()).map_err(refused)?;
    let mut names = relative.iter().peekable();
    while let Some(name) = names.next() {
        // opening a FIFO must not wait for a writer
        let kind = if names.peek().is_some() { OFlags::DIRECTORY } else { OFlags::NONBLOCK };
        at = openat(&at, name, here | OFlags::NOFOLLOW | kind, Mode::empty()).map_err(refused)?;
    }
    hold(File::from(at), &path)
}

#[cfg(not(unix))]
pub(super) fn open_below(base: &Path, relative: &Path) -> Result<Opened> {
    open(&base.join(relative))
}

/// A whole file, which may be empty, as a map.
#[cfg(not(windows))]
pub(super) fn map(file: &File) -> std::io::Result<Bytes> {
    if file.metadata()?.len() == 0 {
        // some systems do not map nothing
        return Ok(Bytes::new());
    }
    // SAFETY: the map is read-only, and this library never writes to a file in place; it replaces files by
    // renaming. Another process that truncates the file while it is mapped ends this one with SIGBUS: that is
    // the price of reading models larger than memory.
    #[allow(unsafe_code, reason = "mapping a file has no safe form")]
    let map = unsafe { memmap2::Mmap::map(file)? };
    Ok(Bytes::from_owner(map))
}

/// A whole file, read: Windows refuses to replace a file that is mapped, which a change in place does.
#[cfg(windows)]
pub(super) fn map(mut file: &File) -> std::io::Result<Bytes> {
    use std::io::{Error, Read, Seek};
    let length = file.metadata()?.len();
    crate::memory::check(length, "reading the file").map_err(Error::other)?;
    let mut bytes = Vec::new();
    file.rewind()?;
    file.take(length).read_to_end(&mut bytes)?;
    Ok(bytes.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_regular_files_open() {
        let dir = tempfile::tempdir().unwrap();
        assert!(open(dir.path()).unwrap_err().to_string().ends_with("is a directory"));
        assert!(open(&dir.path().join("none")).unwrap_err().to_string().contains("cannot open"));
        let path = dir.path().join("f");
        std::fs::write(&path, b"abc").unwrap();
        assert_eq!(&open(&path).unwrap().bytes[..], b"abc");
        std::fs::write(&path, b"").unwrap();
        assert!(open(&path).unwrap().bytes.is_empty());
        #[cfg(target_os = "linux")]
        assert!(open(Path::new("/dev/zero")).unwrap_err().to_string().ends_with("not a regular file"));
    }

    #[cfg(unix)]
    #[test]
    fn hard_links_are_one_file() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        std::fs::write(&a, b"abc").unwrap();
        std::fs::hard_link(&a, &b).unwrap();
        let (a, b) = (open(&a).unwrap(), open(&b).unwrap());
        assert!(a.identity.is_same_file(&b.identity));
        assert_eq!(links(&a.metadata), 2);
    }
}
