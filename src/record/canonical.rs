//! The one spelling of a record: JSON with sorted keys, two spaces a level, the shortest number that reads back, and a
//! newline at the end. Other spellings are refused, so that no byte of a record is free.

use super::dsse::{Envelope, Secret};
use super::statement::{Sha256Digest, Statement};
use crate::error::{Error, Result};
use crate::files::hex;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

/// A longer file is no record.
pub const MAX_BYTES: u64 = 64 << 20;

/// What stands in the place of the record's own hash while it is computed.
const BLANK: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// A record that was read, and what is wrong with it as a document.
#[derive(Clone, Debug)]
pub struct Parsed {
    /// What it says.
    pub statement: Statement,
    /// The envelope around it, if there is one.
    pub(super) envelope: Option<Envelope>,
    /// A line for everything that this program would not have written so.
    pub faults: Vec<String>,
}

/// The bytes of a value in the one spelling.
pub(super) fn spelled(value: &impl Serialize) -> Result<Vec<u8>> {
    // maps of serde_json are sorted, structs are in the order of their members
    let sorted = serde_json::to_value(value).map_err(|e| Error::internal(format!("json: {e}")))?;
    let mut text = serde_json::to_vec_pretty(&sorted).map_err(|e| Error::internal(format!("json: {e}")))?;
    text.push(b'\n');
    Ok(text)
}

/// The hash that a statement has to carry.
fn own_digest(statement: &Statement) -> Result<Sha256Digest> {
    let mut blank = statement.clone();
    blank.predicate.record_digest = Sha256Digest::new(BLANK);
    Ok(Sha256Digest::new(&hex(&Sha256::digest(spelled(&blank)?))))
}

/// The bytes of a record: the statement with its own hash, in an envelope if there is a key to sign with.
///
/// # Errors
/// `Internal` when a number is not finite.
pub fn seal(mut statement: Statement, key: Option<&Secret>) -> Result<Vec<u8>> {
    statement.predicate.signer = key.map(Secret::signer).transpose()?;
    statement.predicate.record_digest = own_digest(&statement)?;
    let bytes = spelled(&statement)?;
    let sealed = match key {
        Some(key) => spelled(&key.sign(&bytes)?)?,
        None => bytes,
    };
    // a NaN has no spelling and would come back as null
    match parse(&sealed) {
        Ok(read) if read.statement == statement && read.faults.is_empty() => Ok(sealed),
        Ok(read) => Err(Error::internal(format!("the record does not read back: {}", read.faults.join("; ")))),
        Err(e) => Err(Error::internal(format!("the record does not read back: {e}"))),
    }
}

/// Reads a record.
///
/// # Errors
/// `Format` when it is none; what is merely spelled otherwise, or does not have its own hash, is a fault of what is
/// returned.
pub fn parse(bytes: &[u8]) -> Result<Parsed> {
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > MAX_BYTES {
        return Err(Error::format(format!("is no record: longer than {} MiB", MAX_BYTES >> 20)));
    }
    let mut faults = Vec::new();
    // the first key of an envelope in the one spelling; a statement has "_type" first
    let (statement, envelope) = if bytes.starts_with(b"{\n  \"payload") {
        let envelope: Envelope = read("a signed record", bytes, &mut faults)?;
        let payload = envelope.payload()?;
        (read("the signed statement", &payload, &mut faults)?, Some(envelope))
    } else {
        (read::<Statement>("a record", bytes, &mut faults)?, None)
    };
    if own_digest(&statement)? != statement.predicate.record_digest {
        faults.push("the record does not have the hash that it gives for itself".to_owned());
    }
    Ok(Parsed { statement, envelope, faults })
}

fn read<T: Serialize + DeserializeOwned>(what: &str, bytes: &[u8], faults: &mut Vec<String>) -> Result<T> {
    let value: T = serde_json::from_slice(bytes).map_err(|e| Error::format(format!("is not {what}: {e}")))?;
    if spelled(&value)? != bytes {
        faults.push(format!("{what} is not spelled as this program spells it"));
    }
    Ok(value)
}
