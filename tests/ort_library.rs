//! Loading the ONNX Runtime library. A process loads one library once, so this is one test in a process of
//! its own: everything that fails comes first.

mod common;

use onnx_unlearn::engine::{Engine, ort::OrtEngine};
use onnx_unlearn::{Error, Kind};
use std::path::{Path, PathBuf};
use std::process::Command;

fn refused(library: &Path) -> String {
    let e: Error = OrtEngine::new(Some(library)).err().expect("it loads");
    assert_eq!(e.kind(), Kind::Engine);
    let message = e.to_string();
    assert!(!message.contains('\n'), "{message}");
    assert!(message.contains(&library.display().to_string()), "{message}");
    message
}

/// A shared library made of these lines of Rust; none where there is no compiler.
fn compiled(folder: &Path, name: &str, source: &str) -> Option<PathBuf> {
    let (code, library) = (folder.join(format!("{name}.rs")), folder.join(format!("lib{name}.so")));
    std::fs::write(&code, source).expect("the folder is ours");
    let compiler = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let done = Command::new(compiler).args(["--crate-type", "cdylib", "-o"]).arg(&library).arg(&code).output().ok()?;
    done.status.success().then_some(library)
}

#[test]
fn a_library_is_loaded_once_and_failures_are_explained() {
    let folder = tempfile::tempdir().expect("a folder for the test");
    let missing = folder.path().join("libonnxruntime.so");
    assert!(refused(&missing).contains("no such file"));

    let text = folder.path().join("text.so");
    std::fs::write(&text, "not a library").expect("the folder is ours");
    refused(&text);

    if let Some(other) = compiled(folder.path(), "other", "") {
        assert!(refused(&other).contains("not an ONNX Runtime library"));
    }
    let old = r#"
        #[repr(C)]
        pub struct Base(extern "C" fn(u32) -> *const u8, extern "C" fn() -> *const u8);
        extern "C" fn api(_: u32) -> *const u8 { std::ptr::null() }
        extern "C" fn version() -> *const u8 { b"1.10.0\0".as_ptr() }
        static BASE: Base = Base(api, version);
        #[no_mangle]
        pub extern "C" fn OrtGetApiBase() -> *const Base { &BASE }
    "#;
    if let Some(old) = compiled(folder.path(), "old", old) {
        let message = refused(&old);
        assert!(message.contains("1.10.0 is older than 1.17"), "{message}");
    }

    let Some(engine) = common::ort() else { return };
    assert_eq!(engine.name(), "ort");
    let library = engine.library().to_owned();
    assert!(engine.describe().contains(&library.display().to_string()));
    assert_eq!(OrtEngine::new(Some(&library)).expect("the same again").library(), library);
    assert!(refused(&text).contains("already loaded from"));
}
