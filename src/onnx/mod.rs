//! ONNX files: reading, checking, and changing weights in place.
#![deny(clippy::unwrap_used, clippy::as_conversions, clippy::indexing_slicing)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::as_conversions, clippy::indexing_slicing))]

mod export;
pub mod proto;

pub(crate) use export::narrowed;
pub use export::{ExportOptions, export, to_bytes};
