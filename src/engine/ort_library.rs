//! Finding an ONNX Runtime library on this machine, without running anything.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// A library that may be there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    /// A file, or a bare name for the system's loader.
    pub path: PathBuf,
    /// Where the name comes from, for messages.
    pub origin: &'static str,
}

/// What was asked for by name, or all candidates in the order in which they are tried.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Search {
    /// The user named it: nothing else will do.
    Named(Candidate),
    /// The first that loads.
    Found(Vec<Candidate>),
}

/// The names under which the system's loader may know the library.
#[cfg(target_os = "windows")]
const SYSTEM: &[&str] = &["onnxruntime.dll"];
#[cfg(target_vendor = "apple")]
const SYSTEM: &[&str] = &["libonnxruntime.dylib"];
#[cfg(not(any(target_os = "windows", target_vendor = "apple")))]
const SYSTEM: &[&str] = &["libonnxruntime.so", "libonnxruntime.so.1"];

/// Where to look: `named`, `$ORT_DYLIB_PATH`, the PyPI package `onnxruntime` of the active Python, the
/// system's loader. `env` reads an environment variable.
pub(super) fn search(named: Option<&Path>, env: impl Fn(&str) -> Option<OsString>) -> Search {
    let variable = |name: &str| env(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let named = named.map(|p| (p.to_owned(), "the given path"));
    if let Some((path, origin)) = named.or_else(|| variable("ORT_DYLIB_PATH").map(|p| (p, "ORT_DYLIB_PATH"))) {
        // a folder stands for the library in it
        let path = if path.is_dir() { library_in(&path).unwrap_or(path) } else { path };
        let path = std::path::absolute(&path).unwrap_or(path);
        return Search::Named(Candidate { path, origin });
    }
    let mut found = Vec::new();
    for (prefix, origin) in python_prefixes(&variable) {
        for folder in site_packages(&prefix) {
            if let Some(path) = library_in(&folder.join("onnxruntime").join("capi")) {
                found.push(Candidate { path, origin });
            }
        }
    }
    found.extend(SYSTEM.iter().map(|name| Candidate { path: name.into(), origin: "the system's loader" }));
    Search::Found(found)
}

/// Folders in which a Python may be installed: the active environment, then those of `python3` and
/// `python` on the search path.
fn python_prefixes(variable: &impl Fn(&str) -> Option<PathBuf>) -> Vec<(PathBuf, &'static str)> {
    let mut prefixes = Vec::new();
    for name in ["VIRTUAL_ENV", "CONDA_PREFIX"] {
        prefixes.extend(variable(name).map(|p| (p, name)));
    }
    let path = variable("PATH").unwrap_or_default();
    for folder in std::env::split_paths(&path) {
        for name in ["python3", "python", "python.exe"] {
            let program = folder.join(name);
            if !program.is_file() {
                continue;
            }
            // a virtual environment links to the Python that made it, which may hold the package instead
            for program in [Some(program.clone()), program.canonicalize().ok()].into_iter().flatten() {
                let Some(bin) = program.parent() else { continue };
                let parent = bin.parent().unwrap_or(bin).to_owned();
                // pyenv's folder of shims stands beside its folder of versions
                prefixes.extend(sorted_folders(&parent.join("versions")).into_iter().map(|p| (p, "python on PATH")));
                prefixes.push((parent, "python on PATH"));
                if cfg!(windows) {
                    prefixes.push((bin.to_owned(), "python on PATH"));
                }
            }
        }
    }
    prefixes.extend(variable("HOME").map(|p| (p.join(".local"), "the user's Python packages")));
    let mut seen = std::collections::HashSet::new();
    prefixes.retain(|(p, _)| seen.insert(p.clone()));
    prefixes
}

/// The folders of installed packages under a prefix, newest Python first.
fn site_packages(prefix: &Path) -> Vec<PathBuf> {
    let mut folders = vec![prefix.join("Lib").join("site-packages")];
    for lib in ["lib", "lib64", "local/lib"] {
        for python in sorted_folders(&prefix.join(lib)) {
            if python.file_name().is_some_and(|n| n.to_string_lossy().starts_with("python")) {
                folders.extend(["site-packages", "dist-packages"].map(|f| python.join(f)));
            }
        }
    }
    folders
}

/// The ONNX Runtime library in a folder.
fn library_in(folder: &Path) -> Option<PathBuf> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder).ok()?.flatten().map(|e| e.path()).collect();
    files.sort();
    files.into_iter().rev().find(|f| f.file_name().is_some_and(|n| is_library(&n.to_string_lossy())))
}

/// `libonnxruntime.so.1.23.2`, `libonnxruntime.1.23.2.dylib`, `onnxruntime.dll`; not the libraries beside it.
fn is_library(name: &str) -> bool {
    name == "onnxruntime.dll"
        || name.strip_prefix("libonnxruntime.").is_some_and(|rest| rest.starts_with("so") || rest.ends_with("dylib"))
}

/// The folders in a folder, greatest version first.
fn sorted_folders(folder: &Path) -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> =
        std::fs::read_dir(folder).into_iter().flatten().flatten().map(|e| e.path()).filter(|p| p.is_dir()).collect();
    // 3.9 comes before 3.11
    folders.sort_by_key(|p| {
        let name = p.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        name.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse::<u32>().ok()).collect::<Vec<_>>()
    });
    folders.reverse();
    folders
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn touch(root: &Path, file: &str) -> PathBuf {
        let path = root.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, "").unwrap();
        path
    }

    fn found(search: Search) -> Vec<PathBuf> {
        match search {
            Search::Found(c) => c.into_iter().map(|c| c.path).collect(),
            Search::Named(c) => panic!("{c:?}"),
        }
    }

    #[test]
    fn what_is_named_is_all_there_is() {
        let env = |name: &str| (name == "ORT_DYLIB_PATH").then(|| OsString::from("/from/env.so"));
        let named = search(Some(Path::new("/given.so")), env);
        assert_eq!(named, Search::Named(Candidate { path: "/given.so".into(), origin: "the given path" }));
        let named = search(None, env);
        assert_eq!(named, Search::Named(Candidate { path: "/from/env.so".into(), origin: "ORT_DYLIB_PATH" }));
    }

    #[test]
    fn a_folder_stands_for_its_library() {
        let root = tempfile::tempdir().unwrap();
        touch(root.path(), "libonnxruntime_providers_shared.so");
        let library = touch(root.path(), "libonnxruntime.so.1.23.2");
        let Search::Named(c) = search(Some(root.path()), |_| None) else { panic!("not named") };
        assert_eq!(c.path, library);
    }

    #[test]
    fn the_active_environment_comes_before_python_on_the_path_and_the_system() {
        let root = tempfile::tempdir().unwrap();
        let r = root.path();
        let package = "site-packages/onnxruntime/capi/libonnxruntime.so.1.23.2";
        let old = touch(r, &format!("venv/lib/python3.9/{package}"));
        let new = touch(r, &format!("venv/lib/python3.11/{package}"));
        let path = touch(r, &format!("usr/lib/python3.12/{package}"));
        let pyenv = touch(r, &format!("pyenv/versions/3.11.7/lib/python3.11/{package}"));
        touch(r, "usr/bin/python3");
        touch(r, "pyenv/shims/python3");
        let env = |name: &str| match name {
            "VIRTUAL_ENV" => Some(r.join("venv").into_os_string()),
            "PATH" => std::env::join_paths([r.join("nowhere"), r.join("usr/bin"), r.join("pyenv/shims")]).ok(),
            _ => None,
        };
        let mut want = vec![new, old, path, pyenv];
        want.extend(SYSTEM.iter().map(PathBuf::from));
        assert_eq!(found(search(None, env)), want);
    }

    #[test]
    fn nothing_set_leaves_the_system() {
        let system: Vec<PathBuf> = SYSTEM.iter().map(PathBuf::from).collect();
        assert_eq!(found(search(None, |_| None)), system);
    }

    #[test]
    fn names_of_the_library() {
        for yes in ["libonnxruntime.so", "libonnxruntime.so.1.19.2", "libonnxruntime.1.20.0.dylib", "onnxruntime.dll"] {
            assert!(is_library(yes), "{yes}");
        }
        for no in ["libonnxruntime_providers_shared.so", "libonnxruntime4j_jni.so", "onnxruntime.lib", "libonnx.so"] {
            assert!(!is_library(no), "{no}");
        }
    }
}
