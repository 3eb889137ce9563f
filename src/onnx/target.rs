//! Where patched files go: which targets are refused, temporary names, and putting all files in place.

use super::external::parent;
use super::files::{self, Identity};
use super::journal;
use super::load::Model;
use super::patch::PatchOptions;
use super::staged::Companion;
use crate::error::{Error, Result};
use crate::files::{self as written, Part, Temporary, existing, flush};
use crate::interrupt::{self, Unfinished};
use crate::memory;
use std::collections::BTreeSet;
use std::fs::{Metadata, Permissions};
use std::path::{Path, PathBuf};

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

/// All files to write, data files first.
#[derive(Debug)]
pub(super) struct Outputs {
    pub list: Vec<Output>,
    in_place: bool,
    /// Stands in the names of temporary files that get their names together, different for every target.
    mark: String,
    /// Files besides the model's own get their names with them.
    companions: bool,
    /// Directories made for data files; removed again unless everything succeeds.
    created: Created,
}

#[derive(Debug, Default)]
struct Created(Vec<(PathBuf, Unfinished)>);

impl Drop for Created {
    fn drop(&mut self) {
        for (directory, _) in self.0.iter().rev() {
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
    let mark = mark(target);
    let (in_place, companions, created) = (is_input, options.companions, Created::default());
    let mut outputs = Outputs { list: vec![], in_place, mark, companions, created };
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

/// Eight hexadecimal digits that the path of a target decides.
fn mark(target: &Path) -> String {
    use sha2::{Digest, Sha256};
    let folder = parent(target).canonicalize().unwrap_or_else(|_| parent(target).to_path_buf());
    let path = folder.join(target.file_name().unwrap_or_default());
    Sha256::digest(path.as_os_str().as_encoded_bytes()).iter().take(4).map(|b| format!("{b:02x}")).collect()
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
                    let make = || std::fs::create_dir(&path).map(|()| path.clone());
                    self.created.0.push(Unfinished::make(make, PathBuf::as_path).map_err(failed)?);
                }
            }
        }
        Ok(location.file_name().map_or(path.clone(), |name| path.join(name)))
    }

    /// Removes what killed runs left beside the outputs.
    pub(super) fn sweep(&self) {
        self.list.iter().map(|o| parent(&o.path)).collect::<BTreeSet<_>>().into_iter().for_each(|d| self.sweep_in(d));
    }

    fn sweep_in(&self, directory: &Path) {
        written::sweep(directory, Part::Alone);
        written::sweep(directory, Part::Together(&self.mark));
    }

    /// The temporary file beside an output: private until it gets the permissions of its source, or at once those of
    /// any new file when there is none.
    pub(super) fn temporary(&self, output: &Output) -> std::io::Result<Temporary> {
        Temporary::beside(&output.path, self.part(), output.permissions.is_some())
    }

    fn part(&self) -> Part<'_> {
        if self.companions || self.list.len() > 1 { Part::Together(&self.mark) } else { Part::Alone }
    }

    /// Gives every temporary file its final name, data files first, then the model, then its companions, and flushes the
    /// directories.
    ///
    /// Several files are written down in a journal before the first gets its name. When a rename fails that the
    /// journal cannot help, since no file has its name yet, everything is as it was.
    ///
    /// A journal speaks of nothing outside of the model's directory. Companions that go elsewhere therefore get their
    /// names before it stands: never is a model there without them.
    pub(super) fn commit(
        mut self,
        mut temps: Vec<Temporary>,
        model: &Model,
        target: &Path,
        companions: &[Companion],
    ) -> Result<Vec<PathBuf>> {
        if !companions.is_empty() && !self.companions {
            return Err(Error::internal("companions of a model that was staged alone"));
        }
        let mut elsewhere = Vec::new();
        for companion in companions {
            let inside = self.admit(companion, model, target)?;
            self.sweep_in(parent(&companion.path));
            let part = if inside { self.part() } else { Part::Alone };
            let temp = companion.write(part)?;
            if inside {
                temps.push(temp);
                let path = companion.path.clone();
                self.list.push(Output { file: None, path, permissions: None, replace: true });
            } else {
                elsewhere.push((temp, companion.path.as_path()));
            }
        }
        // dropped after the hold, which putting things back takes again
        let mut outside = Outside::default();
        let _held = interrupt::hold();
        if self.in_place {
            model.check_unchanged()?;
        }
        for output in &self.list {
            let taken = existing(&output.path)?.is_some();
            if taken && !output.replace {
                return Err(Error::invalid(format!("cannot write {}: it exists by now", output.path.display())));
            }
        }
        for (temp, path) in elsewhere {
            outside.put(temp, path)?;
        }
        let renames = || temps.iter().map(Temporary::path).zip(self.list.iter().map(|o| o.path.as_path()));
        let standing = if temps.len() > 1 { Some(journal::begin(target, renames())?) } else { None };
        let mut done = Vec::new();
        let mut left = temps.into_iter().zip(&self.list);
        while let Some((temp, output)) = left.next() {
            if let Err((e, temp)) = temp.persist(&output.path, output.replace) {
                match standing {
                    Some(journal) if done.is_empty() => journal.end()?,
                    // some have their names: the journal stands, and with it all that it speaks of
                    Some(_) => {
                        std::iter::once(temp).chain(left.map(|(t, _)| t)).for_each(Temporary::leave);
                        outside.keep();
                    }
                    None => {}
                }
                return Err(Error::io(format!("cannot write {}", output.path.display()), &e));
            }
            done.push(output.path.clone());
        }
        self.created.0.clear();
        done.extend(outside.keep());
        done.iter().map(|p| parent(p)).collect::<BTreeSet<_>>().into_iter().for_each(flush);
        if let Some(journal) = standing {
            journal.end()?;
        }
        Ok(done)
    }

    /// Looks at the place of a companion; true when it lies below the target's directory.
    fn admit(&self, companion: &Companion, model: &Model, target: &Path) -> Result<bool> {
        let path = &companion.path;
        let refuse = |why: &str| Err(Error::invalid(format!("cannot write {}: {why}", path.display())));
        let Ok(folder) = parent(path).canonicalize() else { return refuse("its directory does not exist") };
        let Some(name) = path.file_name() else { return refuse("it names no file") };
        let is_own = |found: &Metadata| {
            let found = Identity::of(found);
            model.opened.as_ref().is_some_and(|o| o.identity.is_same_file(&found))
        };
        if existing(path)?.is_some_and(|found| is_own(&found) || is_data(model, &found)) {
            return refuse("it is a file of the input");
        }
        let taken = |o: &Output| o.path.file_name() == Some(name) && same_path(parent(&o.path), &folder);
        if self.list.iter().any(taken) {
            return refuse("another output has the same name");
        }
        Ok(parent(target).canonicalize().is_ok_and(|base| folder.starts_with(base)))
    }
}

/// Companions that have their names already, outside of what a journal may speak of; unless all succeeds, what was
/// there before is put back.
#[derive(Debug, Default)]
struct Outside(Vec<(PathBuf, Option<Vec<u8>>)>);

impl Outside {
    fn put(&mut self, temp: Temporary, path: &Path) -> Result<()> {
        let failed = |e: std::io::Error| Error::io(format!("cannot write {}", path.display()), &e);
        if self.0.iter().any(|(p, _)| p.file_name() == path.file_name() && same_path(parent(p), parent(path))) {
            return Err(Error::invalid(format!("{} is written twice", path.display())));
        }
        let before = match existing(path)? {
            Some(found) => {
                memory::check(found.len(), format_args!("keeping {} until all is done", path.display()))?;
                Some(std::fs::read(path).map_err(failed)?)
            }
            None => None,
        };
        temp.persist(path, true).map_err(|(e, _)| failed(e))?;
        self.0.push((path.to_path_buf(), before));
        Ok(())
    }
    /// Nothing is put back any more; where they are.
    fn keep(&mut self) -> Vec<PathBuf> {
        std::mem::take(&mut self.0).into_iter().map(|(path, _)| path).collect()
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        for (path, before) in self.0.drain(..) {
            // the error that led here is the one to be told
            let _ = match before {
                Some(bytes) => written::write_bytes(&path, &bytes).ok(),
                None => std::fs::remove_file(&path).ok(),
            };
        }
    }
}
