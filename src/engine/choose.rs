//! Choosing an engine, and saying why.

use super::{Engine, cpu::Cpu, ort::OrtEngine, wgpu};
use crate::error::{Error, Result};
use std::path::PathBuf;

/// Which engine is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Choice {
    /// A real GPU if there is one, else ONNX Runtime if its library is found, else the embedded engine; that one for
    /// [`LITTLE`] work as well.
    #[default]
    Auto,
    /// WGSL kernels on any adapter, software adapters included.
    Wgpu,
    /// ONNX Runtime.
    Ort,
    /// The embedded engine.
    Cpu,
}

/// An engine and the reason for taking it.
pub struct Chosen {
    /// The engine.
    pub engine: Box<dyn Engine>,
    /// One sentence.
    pub why: String,
}

/// Products of numbers that the embedded engine sums in less time than it takes to look for a GPU and to load ONNX Runtime,
/// which is 0.1 to 0.2 s on two cores (docs/benchmarks.md, "Speed against PyTorch"); convolutions are the slowest.
pub const LITTLE: u64 = 300_000_000;

/// The same as [`choose`] for work of so many products.
///
/// # Errors
/// As [`choose`].
pub fn choose_for(
    products: u64,
    choice: Choice,
    library: Option<PathBuf>,
    wishes: impl Into<wgpu::Wishes>,
) -> Result<Chosen> {
    let wishes = wishes.into();
    // who names a library or a form of shaders wants to see it used
    if choice == Choice::Auto && library.is_none() && wishes == wgpu::Wishes::default() && products <= LITTLE {
        let why = "so little work takes less time than to look for a device".to_owned();
        return Ok(Chosen { engine: Box::new(Cpu), why });
    }
    choose(choice, library, wishes)
}

/// Opens the engine that is asked for. `library` is where ONNX Runtime lies, if the user says so, and
/// `wishes` how a GPU multiplies and keeps weights.
///
/// # Errors
/// When an engine that was asked for by name cannot be had; `Auto` always ends with the embedded engine.
pub fn choose(choice: Choice, library: Option<PathBuf>, wishes: impl Into<wgpu::Wishes>) -> Result<Chosen> {
    let wgpu::Wishes { kernels, storage } = wishes.into();
    let options = wgpu::Options { kernels, storage, ..wgpu::Options::default() };
    let gpu = |allow_software| wgpu::WgpuEngine::new(&wgpu::Options { allow_software, ..options.clone() });
    let named = |engine: Box<dyn Engine>| Chosen { engine, why: "asked for by name".to_owned() };
    match choice {
        Choice::Cpu => Ok(named(Box::new(Cpu))),
        Choice::Wgpu => gpu(true).map(|e| named(Box::new(e))).map_err(by_name),
        Choice::Ort => OrtEngine::new(library.as_deref()).map(|e| named(Box::new(e))).map_err(by_name),
        Choice::Auto => {
            let no_gpu = match gpu(false) {
                Ok(e) => return Ok(Chosen { engine: Box::new(e), why: "a GPU is present".to_owned() }),
                Err(e) => e,
            };
            match OrtEngine::new(library.as_deref()) {
                Ok(e) => Ok(Chosen { engine: Box::new(e), why: format!("{}; ONNX Runtime was found", brief(&no_gpu)) }),
                // a library that the user points at must not be passed over in silence
                Err(e) if library.is_some() => Err(Error::invalid(e.to_string())),
                Err(e) => Ok(Chosen { engine: Box::new(Cpu), why: format!("{}; {}", brief(&no_gpu), brief(&e)) }),
            }
        }
    }
}

/// The head of a message: what is missing, without where it was looked for. Asking by name shows the rest.
fn brief(e: &Error) -> String {
    let message = e.to_string();
    message.split([':', ';', '(']).next().unwrap_or(&message).trim().to_owned()
}

fn by_name(e: Error) -> Error {
    Error::invalid(format!("{e}; '--engine auto' takes what is there"))
}
