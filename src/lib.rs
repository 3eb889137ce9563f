//! Makes a trained ONNX classifier forget classes, by differentiating its graph.
#![warn(missing_docs, unreachable_pub)]

pub mod audit;
pub mod autodiff;
pub mod classifier;
#[doc(hidden)]
pub mod cli;
pub mod engine;
pub mod error;
pub mod files;
pub mod fisher;
pub mod forget;
#[doc(hidden)]
pub mod fuzz;
pub mod graph;
pub mod inputs;
pub mod interrupt;
pub mod memory;
pub mod onnx;
pub mod ops;
pub mod record;
pub mod report;
pub mod tensor;
pub mod training;

pub use error::{Error, Kind, Result};
