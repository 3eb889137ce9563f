//! ONNX files: reading, checking, and changing weights in place.
#![deny(clippy::unwrap_used, clippy::as_conversions, clippy::indexing_slicing)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::as_conversions, clippy::indexing_slicing))]

mod compare;
mod digest;
mod edit;
mod export;
mod external;
mod files;
pub mod import;
mod journal;
mod load;
mod patch;
pub mod proto;
mod run;
#[cfg(test)]
mod samples;
mod scan;
mod schema;
mod staged;
mod target;
mod values;
mod weights;
mod wire;

pub use compare::differences_outside;
pub use digest::FileDigest;
pub use edit::{Edit, metadata_edits};
pub use export::{ExportOptions, export, to_bytes};
pub(crate) use export::{lowered, narrowed};
pub use external::DataFile;
pub(crate) use files::open as open_mapped;
pub use import::{ImportOptions, Imported, import, import_stored};
pub use journal::recover;
pub use load::Model;
pub use patch::{NewValues, PatchOptions, PatchReport, PatchedWeight, patch, patch_to_bytes, stage};
pub use run::Run;
pub use staged::{Companion, Staged};
pub use values::tensor_to_array;
pub use weights::{Rounding, Storage, Weight};
