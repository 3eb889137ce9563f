//! The one error type of the library.

use std::fmt;

/// What kind of trouble an [`Error`] reports. Decides the exit code of the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// A file could not be read or written.
    Io,
    /// Bytes are not what their format demands (ONNX, npz, IDX, safetensors).
    Format,
    /// The input is valid but needs something this version does not do.
    Unsupported,
    /// The arguments contradict each other or the model.
    Invalid,
    /// An engine is missing, or failed while running.
    Engine,
    /// Samples cannot be told apart in one batch; run them one by one. Handled inside the library.
    NeedsSingles,
    /// A defect of this program.
    Internal,
}

/// An error with its kind and a one-line message: what was wrong, where, and what would help.
pub struct Error {
    kind: Kind,
    message: String,
}

/// The library's result type.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// Makes an error of the given kind.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }
    /// The file system refused: `what` names the file and the attempt.
    pub fn io(what: impl fmt::Display, cause: &std::io::Error) -> Self {
        Self::new(Kind::Io, format!("{what}: {cause}"))
    }
    /// Malformed bytes.
    pub fn format(message: impl Into<String>) -> Self {
        Self::new(Kind::Format, message)
    }
    /// A valid input that is not supported.
    pub fn unsupported(message: impl Into<String>) -> Self {
        Self::new(Kind::Unsupported, message)
    }
    /// Wrong arguments.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(Kind::Invalid, message)
    }
    /// An engine failed or is missing.
    pub fn engine(message: impl Into<String>) -> Self {
        Self::new(Kind::Engine, message)
    }
    /// A defect of this program.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(Kind::Internal, message)
    }
    /// What kind of trouble this is.
    pub fn kind(&self) -> Kind {
        self.kind
    }
    /// The same error with `place` put before its message.
    #[must_use]
    pub fn at(mut self, place: impl fmt::Display) -> Self {
        self.message = format!("{place}: {}", self.message);
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.kind, self.message)
    }
}

impl std::error::Error for Error {}
