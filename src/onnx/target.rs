//! Where patched files go: which targets are refused, temporary names, and putting all files in place.

use super::external::parent;
use super::files::{self, Identity};
use super::load::Model;
use super::patch::PatchOptions;
use crate::error::{Error, Kind, Result};
use std::collections::BTreeSet;
use std::fs::{Metadata, Permissions};
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;

/// One file to write.
#[derive(Debug)]
pub(super) struct Output {
    /// Which data file it is a copy of; `None` for the model.
    pub file: Option<usize>,
    pub path: PathBuf,
    pub permissions: Option<Permissions>,
    /// An existing file may be replaced.
    replace: bool,
}

/// All files to write, data files first, and the temporary files that will become them.
#[derive(Debug)]
pub(super) struct Outputs {
    pub list: Vec<Output>,
    pub temps: Vec<NamedTempFile>,
    in_place: bool,
    /// Directories made for data files; removed again unless everything succeeds.
    created: Created,
}

#[derive(Debug, Default)]
struct Created(Vec<PathBuf>);

impl Drop for Created {
    fn drop(&mut self) {
        for directory in self.0.iter().rev() {
            // one that is no longer empty is not ours alone
            let _ = std::fs::remove_dir(directory);
        }
    }
}

/// Decides which files to write. `touched` holds the files of the changed weights, `None` for the model.
pub(super) fn outputs(
    model: &Model,
    touched: &BTreeSet<Option<usize>>,
    target: &Path,
    options: &PatchOptions,
) -> Result<Outputs> {
    let refuse = |why: &str| Err(Error::invalid(format!("cannot write {}: {why}", target.display())));
    if target.file_name().is_none() {
        return refuse("it names no file");
    }
    if !parent(target).is_dir() {
        return refuse("its directory does not exist");
    }
    let existing = existing(target)?;
    let is_input = match (&existing, &model.opened) {
        (Some(found), Some(opened)) => {
            opened.identity.is_same_file(&Identity::of(found)) || same_path(target, model.path())
        }
        _ => false,
    };
    match (is_input, options.in_place) {
        (true, false) => return refuse("it is the input; choose another output or rewrite it in place"),
        (false, true) => return refuse("rewriting in place needs the model itself as target"),
        _ => {}
    }
    if existing.as_ref().is_some_and(|found| is_data(model, found)) {
        return refuse("it is a data file of the model");
    }
    let mut outputs = Outputs { list: vec![], temps: vec![], in_place: is_input, created: Created::default() };
    if is_input {
        if existing.as_ref().is_some_and(|found| files::links(found) > 1) {
            return refuse("it has other names (hard links), which would keep the old weights");
        }
        outputs.replace_data(model, touched);
    } else if same_path(parent(target), parent(model.path())) && model.opened.is_some() {
        if touched.iter().any(Option::is_some) {
            return refuse(
                "changed weights lie in data files beside the input, whose names stand in the model; \
                 write to another directory or rewrite in place",
            );
        }
    } else {
        outputs.copy_data(model, target, options)?;
    }
    if !is_input || touched.contains(&None) {
        let permissions = model.opened.as_ref().map(|o| o.metadata.permissions());
        outputs.list.push(Output { file: None, path: target.to_path_buf(), permissions, replace: true });
    }
    Ok(outputs)
}

/// What stands at a place to be written, if anything; only a writable regular file may.
fn existing(path: &Path) -> Result<Option<Metadata>> {
    let found = match path.symlink_metadata() {
        Ok(found) => found,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::io(format!("cannot write {}", path.display()), &e)),
    };
    let why = if found.is_symlink() {
        "it is a symbolic link; name the file that it points to"
    } else if found.is_dir() {
        "it is a directory"
    } else if !found.is_file() {
        "it is not a regular file"
    } else if found.permissions().readonly() {
        "it is read-only"
    } else {
        return Ok(Some(found));
    };
    Err(Error::invalid(format!("cannot write {}: {why}", path.display())))
}

fn is_data(model: &Model, found: &Metadata) -> bool {
    let found = Identity::of(found);
    model.data_files().iter().any(|f| f.opened.identity.is_same_file(&found))
}

fn same_path(a: &Path, b: &Path) -> bool {
    matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}

impl Outputs {
    /// In place: the data files that change, where they are.
    fn replace_data(&mut self, model: &Model, touched: &BTreeSet<Option<usize>>) {
        for i in touched.iter().flatten() {
            if let Some(data) = model.data_files().get(*i) {
                let permissions = Some(data.opened.metadata.permissions());
                self.list.push(Output { file: Some(*i), path: data.real.clone(), permissions, replace: true });
            }
        }
    }

    /// Elsewhere: every data file, under the same relative name.
    fn copy_data(&mut self, model: &Model, target: &Path, options: &PatchOptions) -> Result<()> {
        for (i, data) in model.data_files().iter().enumerate() {
            let path = self.directories(parent(target), &data.location)?;
            let refuse = |why: &str| Err(Error::invalid(format!("cannot write data file {}: {why}", path.display())));
            let found = existing(&path)?;
            if found.as_ref().is_some_and(|f| is_data(model, f)) {
                return refuse("it is the input's own");
            }
            if path.file_name() == target.file_name() && same_path(parent(&path), parent(target)) {
                return refuse("the output model has the same name");
            }
            if found.is_some() && !options.overwrite_data {
                return refuse("it exists already and may belong to another model");
            }
            let permissions = Some(data.opened.metadata.permissions());
            self.list.push(Output { file: Some(i), path, permissions, replace: options.overwrite_data });
        }
        Ok(())
    }

    /// Makes the directories of a data file below `base`; gives its path.
    fn directories(&mut self, base: &Path, location: &Path) -> Result<PathBuf> {
        let mut path = base.to_path_buf();
        for name in location.parent().into_iter().flat_map(Path::iter) {
            path.push(name);
            match path.symlink_metadata() {
                Ok(found) if found.is_dir() => {}
                Ok(_) => return Err(Error::invalid(format!("{} is not a directory", path.display()))),
                Err(_) => {
                    let failed = |e| Error::io(format!("cannot make the directory {}", path.display()), &e);
                    std::fs::create_dir(&path).map_err(failed)?;
                    self.created.0.push(path.clone());
                }
            }
        }
        Ok(location.file_name().map_or(path.clone(), |name| path.join(name)))
    }

    /// Renames every temporary file to its final name, data files first, and flushes the directories.
    ///
    /// When a rename fails, files that the earlier ones made are removed again; files that they replaced
    /// cannot be brought back, which only concerns several files in place.
    pub(super) fn commit(mut self, model: &Model) -> Result<Vec<PathBuf>> {
        if self.in_place {
            self.check_unchanged(model)?;
        }
        let (mut done, mut made): (Vec<PathBuf>, Vec<PathBuf>) = (Vec::new(), Vec::new());
        for (temp, output) in std::mem::take(&mut self.temps).into_iter().zip(&self.list) {
            let is_new = output.path.symlink_metadata().is_err();
            let renamed =
                if output.replace { temp.persist(&output.path) } else { temp.persist_noclobber(&output.path) };
            if let Err(e) = renamed {
                for path in &made {
                    let _ = std::fs::remove_file(path);
                }
                return Err(Error::io(format!("cannot write {}", output.path.display()), &e.error));
            }
            if is_new {
                made.push(output.path.clone());
            }
            done.push(output.path.clone());
        }
        self.created.0.clear();
        for directory in done.iter().map(|p| parent(p)).collect::<BTreeSet<_>>() {
            flush(directory);
        }
        Ok(done)
    }

    /// Refuses to replace a file that someone else wrote in the meantime.
    fn check_unchanged(&self, model: &Model) -> Result<()> {
        for output in &self.list {
            let opened = match output.file {
                None => model.opened.as_ref(),
                Some(i) => model.data_files().get(i).map(|f| &f.opened),
            };
            let now = output.path.metadata().ok().map(|m| Identity::of(&m));
            if now.as_ref() != opened.map(|o| &o.identity) {
                return Err(Error::new(Kind::Io, format!("{} changed since it was opened", output.path.display())));
            }
        }
        Ok(())
    }
}

/// A temporary file beside an output, recognisable by its name should this process be killed.
///
/// It is private until it gets the permissions of its source, or at once those of any new file when there is none.
pub(super) fn temporary(output: &Output) -> std::io::Result<NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".onnx-unlearn-").suffix(".tmp");
    #[cfg(unix)]
    if output.permissions.is_none() {
        // the umask is taken off this
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    }
    builder.tempfile_in(parent(&output.path))
}

/// Makes renames in a directory durable. The renames stand already, so a file system that cannot flush a
/// directory is no reason to fail.
fn flush(directory: &Path) {
    #[cfg(unix)]
    if let Ok(directory) = std::fs::File::open(directory) {
        let _ = directory.sync_all();
    }
    #[cfg(not(unix))]
    let _ = directory;
}
