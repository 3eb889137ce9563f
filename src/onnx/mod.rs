//! ONNX files: reading, checking, and changing weights in place.
#![deny(clippy::unwrap_used, clippy::as_conversions, clippy::indexing_slicing)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::as_conversions, clippy::indexing_slicing))]

mod export;
pub mod proto;

<<<<<<< HEAD
pub(crate) use export::narrowed;
pub use export::{ExportOptions, export, to_bytes};
=======
mod external;
mod files;
mod load;
mod run;
pub mod import;
mod scan;
mod schema;
mod values;
mod weights;
mod wire;

pub use external::DataFile;
pub use import::{ImportOptions, Imported, import};
pub use load::Model;
pub use run::Run;
pub use values::tensor_to_array;
pub use weights::{Storage, Weight};
>>>>>>> main
