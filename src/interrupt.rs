//! What is cleaned up when somebody presses Ctrl-C.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Files and folders that exist only until the present work succeeds, oldest first.
static UNFINISHED: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());
/// Held while finished files get their names, which is not to be stopped half-way.
static COMMIT: Mutex<()> = Mutex::new(());

fn lock<T>(m: &'static Mutex<T>) -> MutexGuard<'static, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Something unfinished; forgotten again when this is dropped, which removes nothing.
#[derive(Debug)]
pub(crate) struct Unfinished(PathBuf);

impl Unfinished {
    /// Makes something and notes its path; an interruption comes before or after both.
    pub(crate) fn make<T, E>(
        make: impl FnOnce() -> Result<T, E>,
        path: impl FnOnce(&T) -> &Path,
    ) -> Result<(T, Self), E> {
        let mut all = lock(&UNFINISHED);
        let made = make()?;
        let path = path(&made).to_path_buf();
        all.push(path.clone());
        Ok((made, Self(path)))
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        let mut all = lock(&UNFINISHED);
        if let Some(i) = all.iter().rposition(|p| *p == self.0) {
            all.remove(i);
        }
    }
}

/// No interruption happens while the guard lives.
pub(crate) fn hold() -> MutexGuard<'static, ()> {
    lock(&COMMIT)
}

/// Removes everything unfinished, once no commit is under way; after this no file is begun or gets its name.
///
/// For a program's handler of interrupting signals, which ends the process next.
pub fn clean_up() {
    let commit = lock(&COMMIT);
    let all = lock(&UNFINISHED);
    for path in all.iter().rev() {
        // a folder goes when it is empty, as it is once the files in it are gone
        let _ = std::fs::remove_file(path).or_else(|_| std::fs::remove_dir(path));
    }
    // whatever still runs waits for the end
    std::mem::forget((commit, all));
}
