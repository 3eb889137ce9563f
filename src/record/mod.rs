//! The record of a run: an in-toto statement that names every file, every changed weight and how it was done, by hashes
//! that anybody can compute again.
//!
//! <https://github.com/in-toto/attestation/blob/main/spec/v1/statement.md>; the form of the predicate follows SLSA's
//! provenance, <https://slsa.dev/spec/v1.0/provenance>.

mod canonical;
mod dsse;
mod measure;
pub mod names;
mod statement;
mod verify;

pub use canonical::{MAX_BYTES, Parsed, parse, seal};
pub use dsse::{PublicKey, Secret};
pub use measure::{Delta, delta, share};
pub use statement::*;
pub use verify::{Against, file_of, verify};
