//! Replacing several files as if they were one.
//!
//! No file system renames two files at once. So the names that finished files are about to get are written down
//! first, in a file beside the model: from the moment that this journal stands, the change is decided. Should the
//! process be killed between two renames, the next one that writes the model carries the rest out ([`recover`]);
//! until then the model does not open here.
//!
//! A journal lies in the folder of a model and is therefore as little to be trusted as the model: it can give
//! names to unfinished files of this program below that folder, and can do nothing else.

use super::external::{parent, plain};
use crate::error::{Error, Kind, Result};
use crate::files::{self, Part, Temporary};
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

/// A longer journal is none: 16,384 data files with names of 1 KiB.
const MAX_BYTES: u64 = 32 << 20;

/// Files that get their names together, and the order in which they do.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Journal {
    /// The version of this format.
    version: u32,
    renames: Vec<Rename>,
}

/// Both paths are relative to the model's directory, with '/' between names.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Rename {
    from: String,
    to: String,
}

/// Where the journal of a model stands.
fn place(model: &Path) -> Option<PathBuf> {
    let name = model.file_name()?.to_str()?;
    Some(parent(model).join(format!(".{name}.onnx-unlearn-journal")))
}

/// Refuses a model whose files were being replaced when a run was killed.
///
/// # Errors
/// `Io`, with what completes the change.
pub(super) fn check(model: &Path) -> Result<()> {
    match place(model).filter(|p| p.symlink_metadata().is_ok()) {
        None => Ok(()),
        Some(_) => Err(Error::new(
            Kind::Io,
            "its files are being replaced, or were when a run was stopped; `onnx-unlearn forget` on this model completes that first",
        )),
    }
}

/// A journal that stands.
#[derive(Debug)]
pub(super) struct Standing {
    path: PathBuf,
    /// Open and locked until the renames are done.
    _file: File,
}

/// Writes down that these unfinished files are to get these names. All lie below the model's directory.
///
/// # Errors
/// `Io` when it cannot be written; `Unsupported` when a name is no UTF-8.
pub(super) fn begin<'a>(model: &Path, renames: impl Iterator<Item = (&'a Path, &'a Path)>) -> Result<Standing> {
    let odd = |p: &Path| Error::unsupported(format!("{} cannot be written down in a journal", p.display()));
    let path = place(model).ok_or_else(|| odd(model))?;
    let base = parent(model);
    let resolved =
        |p: &Path| parent(p).canonicalize().map_err(|e| Error::io(format!("cannot resolve {}", p.display()), &e));
    let root = resolved(model)?;
    let relative = |p: &Path| -> Result<String> {
        let whole = resolved(p)?.join(p.file_name().unwrap_or_default());
        let names: Option<Vec<&str>> =
            whole.strip_prefix(&root).map_err(|_| odd(p))?.iter().map(|n| n.to_str()).collect();
        names.map(|n| n.join("/")).ok_or_else(|| odd(p))
    };
    let renames = renames.map(|(from, to)| Ok(Rename { from: relative(from)?, to: relative(to)? }));
    let journal = Journal { version: 1, renames: renames.collect::<Result<_>>()? };
    let text = serde_json::to_vec(&journal).map_err(|e| Error::internal(e.to_string()))?;
    let failed = |e: std::io::Error| Error::io(format!("cannot write {}", path.display()), &e);
    let mut temporary = Temporary::beside(&path, Part::Alone, false).map_err(failed)?;
    temporary.file_mut().write_all(&text).and_then(|()| temporary.file().sync_all()).map_err(failed)?;
    let file = temporary.file().try_clone().map_err(failed)?;
    temporary.persist(&path, false).map_err(|(e, _)| failed(e))?;
    files::flush(base);
    Ok(Standing { path, _file: file })
}

impl Standing {
    /// Takes the journal away once every file has its name, or when none has.
    pub(super) fn end(self) -> Result<()> {
        let failed = |e: std::io::Error| Error::io(format!("cannot remove {}", self.path.display()), &e);
        std::fs::remove_file(&self.path).map_err(failed)?;
        files::flush(parent(&self.path));
        Ok(())
    }
}

/// Completes a change of several files that a killed run had decided; true when there was one.
///
/// To be called before a model is written; reading never changes a file.
///
/// # Errors
/// `Invalid` when another run is at it, `Format` when the journal is not what this program writes, `Io` when the
/// system refuses.
pub fn recover(model: &Path) -> Result<bool> {
    let Some(path) = place(model).filter(|p| p.symlink_metadata().is_ok()) else { return Ok(false) };
    let journal = || -> Result<()> {
        let mut file = open(&path)?;
        files::lock(&file, &path)?;
        let mut text = Vec::new();
        let failed = |e: std::io::Error| Error::io("cannot be read", &e);
        (&mut file).take(MAX_BYTES).read_to_end(&mut text).map_err(failed)?;
        let journal: Journal =
            serde_json::from_slice(&text).map_err(|e| Error::format(format!("is no journal of this program: {e}")))?;
        if journal.version != 1 {
            return Err(Error::unsupported(format!("has version {}, this program knows 1", journal.version)));
        }
        // all are looked at before the first file gets its name
        let steps = journal.renames.iter().map(|r| step(model, r)).collect::<Result<Vec<_>>>()?;
        for (from, to) in steps.iter().filter(|(from, _)| from.symlink_metadata().is_ok()) {
            std::fs::rename(from, to).map_err(|e| Error::io(format!("cannot write {}", to.display()), &e))?;
            files::flush(parent(to));
        }
        Standing { path: path.clone(), _file: file }.end()
    };
    journal().map_err(|e| e.at(path.display())).map(|()| true)
}

fn open(path: &Path) -> Result<File> {
    let refuse = |e: std::io::Error| Error::io("cannot be opened", &e);
    if !path.symlink_metadata().map_err(refuse)?.is_file() {
        return Err(Error::invalid("is no regular file"));
    }
    File::open(path).map_err(refuse)
}

/// Both paths of a rename, checked: an unfinished file of this program and a plain name in the same directory, which
/// is reached through no link, and in which no link, directory or device stands at either name.
fn step(model: &Path, rename: &Rename) -> Result<(PathBuf, PathBuf)> {
    let refuse = |why: &str| Error::format(format!("'{}' to '{}': {why}", rename.from, rename.to));
    let (from, to) = (plain(&rename.from)?, plain(&rename.to)?);
    let name = from.file_name().and_then(|n| n.to_str()).unwrap_or_default();
    if !files::is_unfinished_part(name) || from.parent() != to.parent() {
        return Err(refuse("this program writes no such step"));
    }
    let base = parent(model);
    let mut path = base.to_path_buf();
    for folder in to.parent().into_iter().flat_map(Path::iter) {
        path.push(folder);
        if !path.symlink_metadata().is_ok_and(|m| m.is_dir()) {
            return Err(refuse("the way there is not all folders"));
        }
    }
    let (from, to) = (base.join(from), base.join(to));
    files::existing(&to)?;
    if from.symlink_metadata().is_ok_and(|m| !m.is_file()) {
        return Err(refuse("the first is no regular file"));
    }
    Ok((from, to))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Room(tempfile::TempDir);

    impl Room {
        fn new() -> Self {
            let room = Self(tempfile::tempdir().unwrap());
            for (name, text) in [("m.onnx", "old model"), ("w", "old data"), (".onnx-unlearn-1.part", "new data")] {
                std::fs::write(room.path(name), text).unwrap();
            }
            room
        }
        fn path(&self, name: &str) -> PathBuf {
            self.0.path().join(name)
        }
        fn journal(&self, text: &str) {
            std::fs::write(self.path(".m.onnx.onnx-unlearn-journal"), text).unwrap();
        }
        fn recover(&self) -> Result<bool> {
            recover(&self.path("m.onnx"))
        }
        fn text(&self, name: &str) -> String {
            std::fs::read_to_string(self.path(name)).unwrap()
        }
    }

    #[test]
    fn a_decided_change_is_carried_out() {
        let room = Room::new();
        assert!(!room.recover().unwrap());
        std::fs::write(room.path(".onnx-unlearn-2.part"), "new model").unwrap();
        let renames = [(".onnx-unlearn-1.part", "w"), (".onnx-unlearn-2.part", "m.onnx")]
            .map(|(a, b)| (room.path(a), room.path(b)));
        let model = room.path("m.onnx");
        let standing = begin(&model, renames.iter().map(|(a, b)| (a.as_path(), b.as_path()))).unwrap();
        assert!(check(&model).is_err());
        let e = room.recover().unwrap_err().to_string();
        assert!(e.contains("another run"), "{e}");
        // killed after the first rename
        std::fs::rename(room.path(".onnx-unlearn-1.part"), room.path("w")).unwrap();
        drop(standing);
        assert!(room.recover().unwrap());
        assert_eq!((room.text("w"), room.text("m.onnx")), ("new data".into(), "new model".into()));
        assert!(check(&model).is_ok());
        assert_eq!(std::fs::read_dir(room.0.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_journal_is_a_strangers_word() {
        let outside = tempfile::tempdir().unwrap();
        let target = outside.path().join("target");
        std::fs::write(&target, "mine").unwrap();
        let target = target.to_str().unwrap();
        let step = |from: &str, to: &str| {
            serde_json::json!({ "version": 1, "renames": [{ "from": from, "to": to }] }).to_string()
        };
        let long = "x".repeat(300);
        for text in [
            String::new(),
            "{}".to_owned(),
            "[".repeat(100_000),
            r#"{"version":2,"renames":[]}"#.to_owned(),
            r#"{"version":1,"renames":[],"more":1}"#.to_owned(),
            step(".onnx-unlearn-1.part", target),
            step(".onnx-unlearn-1.part", "../target"),
            step("../.onnx-unlearn-1.part", "../w"),
            step("w", "m.onnx"),
            step(".onnx-unlearn-1.part", ""),
            step(".onnx-unlearn-1.part", "."),
            step(".onnx-unlearn-1.part", "none/w"),
            step("none/.onnx-unlearn-1.part", "none/w"),
            step("linked/.onnx-unlearn-1.part", "linked/w"),
            step(".onnx-unlearn-1.part", "link"),
            step(".onnx-unlearn-1.part", "folder"),
            step(".onnx-unlearn-2.part", "w"),
            step(&format!(".onnx-unlearn-{long}.part"), &long),
        ] {
            let room = Room::new();
            std::fs::create_dir(room.path("folder")).unwrap();
            std::fs::create_dir(room.path(".onnx-unlearn-2.part")).unwrap();
            #[cfg(unix)]
            {
                std::os::unix::fs::symlink(outside.path(), room.path("linked")).unwrap();
                std::os::unix::fs::symlink(target, room.path("link")).unwrap();
            }
            room.journal(&text);
            assert!(room.recover().is_err(), "{text}");
            assert_eq!((room.text("w"), room.text("m.onnx")), ("old data".into(), "old model".into()), "{text}");
            assert_eq!(std::fs::read_to_string(target).unwrap(), "mine", "{text}");
            assert!(room.path(".onnx-unlearn-1.part").exists(), "{text}");
        }
    }
}
