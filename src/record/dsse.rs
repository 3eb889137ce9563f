//! Signed records: the DSSE envelope with an Ed25519 key.
//!
//! <https://github.com/secure-systems-lab/dsse/blob/master/protocol.md>

use super::statement::Signer;
use crate::error::{Error, Result};
use crate::files::hex;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use ed25519_dalek::pkcs8::{DecodePrivateKey, DecodePublicKey, EncodePublicKey};
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Media type of what is signed.
const PAYLOAD_TYPE: &str = "application/vnd.in-toto+json";

/// A DSSE envelope.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Envelope {
    payload: String,
    payload_type: String,
    signatures: Vec<Signed>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Signed {
    keyid: String,
    sig: String,
}

/// What a signature is made over: the payload and its type, with their lengths.
fn authenticated(payload: &[u8]) -> Vec<u8> {
    let head = format!("DSSEv1 {} {PAYLOAD_TYPE} {} ", PAYLOAD_TYPE.len(), payload.len());
    [head.as_bytes(), payload].concat()
}

/// A key to sign with.
pub struct Secret(SigningKey);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

impl Secret {
    /// Reads an Ed25519 key from PEM, in PKCS#8 and not encrypted.
    ///
    /// # Errors
    /// `Format` when it is none.
    pub fn from_pem(pem: &str) -> Result<Self> {
        SigningKey::from_pkcs8_pem(pem).map(Self).map_err(|e| {
            Error::format(format!("is no Ed25519 key in PKCS#8 ({e}); `openssl genpkey -algorithm ed25519` makes one"))
        })
    }
    /// The public half, as a record names it.
    pub(super) fn signer(&self) -> Result<Signer> {
        PublicKey(self.0.verifying_key()).signer()
    }
    /// Wraps a statement.
    pub(super) fn sign(&self, payload: &[u8]) -> Result<Envelope> {
        let signature = self.0.sign(&authenticated(payload));
        Ok(Envelope {
            payload: BASE64.encode(payload),
            payload_type: PAYLOAD_TYPE.to_owned(),
            signatures: vec![Signed { keyid: self.signer()?.keyid, sig: BASE64.encode(signature.to_bytes()) }],
        })
    }
}

/// A key to check signatures with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey(VerifyingKey);

impl PublicKey {
    /// Reads an Ed25519 public key from PEM.
    ///
    /// # Errors
    /// `Format` when it is none.
    pub fn from_pem(pem: &str) -> Result<Self> {
        VerifyingKey::from_public_key_pem(pem).map(Self).map_err(|e| {
            Error::format(format!("is no Ed25519 public key ({e}); `openssl pkey -pubout` writes that of a key"))
        })
    }
    fn of(signer: &Signer) -> Option<Self> {
        let der = BASE64.decode(&signer.public_key).ok()?;
        VerifyingKey::from_public_key_der(&der).ok().map(Self)
    }
    fn signer(&self) -> Result<Signer> {
        let der = self.0.to_public_key_der().map_err(|e| Error::internal(format!("public key: {e}")))?;
        let keyid = hex(&Sha256::digest(der.as_bytes()));
        Ok(Signer { keyid, public_key: BASE64.encode(der.as_bytes()) })
    }
}

impl Envelope {
    /// The statement's bytes.
    pub(super) fn payload(&self) -> Result<Vec<u8>> {
        BASE64.decode(&self.payload).map_err(|e| Error::format(format!("has a payload that is no base64: {e}")))
    }
}

/// A line for everything that is wrong with the signature of a record.
pub(super) fn faults(
    envelope: Option<&Envelope>,
    signer: Option<&Signer>,
    demanded: Option<&PublicKey>,
) -> Vec<String> {
    let mut faults = Vec::new();
    let (envelope, signer) = match (envelope, signer) {
        (None, None) => {
            return demanded.map(|_| vec!["the record is not signed".to_owned()]).unwrap_or_default();
        }
        (None, Some(_)) => return vec!["the record names a signer and is not signed".to_owned()],
        (Some(_), None) => return vec!["the record is signed and names no signer".to_owned()],
        (Some(envelope), Some(signer)) => (envelope, signer),
    };
    if envelope.payload_type != PAYLOAD_TYPE {
        faults.push(format!("the payload has the type '{}', not '{PAYLOAD_TYPE}'", envelope.payload_type));
    }
    let Some(key) = PublicKey::of(signer).filter(|k| k.signer().is_ok_and(|s| s == *signer)) else {
        faults.push("the record names a signer whose key is no Ed25519 key, or has another id".to_owned());
        return faults;
    };
    if demanded.is_some_and(|d| *d != key) {
        faults.push("the record is signed with another key than the given one".to_owned());
    }
    match &envelope.signatures[..] {
        [one] if one.keyid == signer.keyid => {
            let signature = BASE64.decode(&one.sig).ok().and_then(|s| Signature::from_slice(&s).ok());
            let payload = envelope.payload().unwrap_or_default();
            let is_valid = signature.is_some_and(|s| key.0.verify_strict(&authenticated(&payload), &s).is_ok());
            if !is_valid {
                faults.push("the signature is not valid".to_owned());
            }
        }
        _ => faults.push("the envelope does not hold exactly the signature of its signer".to_owned()),
    }
    faults
}
