//! Fisher files: safetensors with the sums of each class by itself, and what they were made from.
//!
//! Every tensor is `[rows, …shape]`, where a row is the sum `Σ_n (∂ℓ_n/∂w)²` over some samples of one class; in a whole
//! Fisher there is one row for each class. The elements are float32 where no addition was made outside of the engine,
//! and float64 otherwise. The header says what the rows are of.

use super::plan::{CHUNK, chunks};
use super::sums::Row;
use crate::error::{Error, Result};
use crate::files;
use crate::onnx::Model;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::path::Path;

pub use super::kept::{Kept, load};
pub use crate::files::sha256;

/// Stands in the header of every file.
pub(super) const FORMAT: &str = "onnx-unlearn fisher 2";

/// What a Fisher file says of its origin.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Origin {
    /// SHA-256 of the model, hexadecimal, as [`model_sha256`] has it.
    pub model_sha256: String,
    /// The output that was said to name the class.
    pub output: Option<String>,
    /// [`Source::listing_sha256`](crate::inputs::Source::listing_sha256) of the inputs.
    pub listing_sha256: String,
    /// SHA-256, hexadecimal, over the classes and the hashes of their samples; only in a whole Fisher.
    pub inputs_sha256: Option<String>,
    /// Classes of the whole Fisher, with the number of samples of each.
    pub samples: Vec<(usize, usize)>,
    /// Samples that are summed before sums are added, [`CHUNK`].
    pub chunk: usize,
    /// Engines that computed it, sorted.
    pub engines: Vec<String>,
    /// Weights that the answer does not depend on.
    pub unused: Vec<String>,
    /// What each row is of, in the order of classes and of chunks.
    pub rows: Vec<Row>,
}

impl Origin {
    /// True when every class has one sum over all its samples.
    pub fn is_whole(&self) -> bool {
        let whole = |(&(class, n), row): (&(usize, usize), &Row)| row.class == class && row.range() == (0..chunks(n));
        self.samples.len() == self.rows.len() && self.samples.iter().zip(&self.rows).all(whole)
    }

    /// The hash of all samples, for a whole Fisher.
    pub(super) fn hash_of_inputs(&self) -> Option<String> {
        self.is_whole().then(|| {
            let mut hash = Sha256::new();
            self.rows.iter().for_each(|r| hash.update(format!("{}:{}\n", r.class, r.sha256)));
            files::hex(&hash.finalize())
        })
    }

    /// Checks that the parts of this agree with each other.
    ///
    /// # Errors
    /// `Format` with what does not.
    pub(super) fn check(&self) -> Result<()> {
        let bad = |what: String| Err(Error::format(format!("its header {what}")));
        if self.chunk != CHUNK {
            return bad(format!("speaks of blocks of {} samples, this program has {CHUNK}", self.chunk));
        }
        if self.samples.windows(2).any(|w| w[0].0 >= w[1].0) || self.samples.iter().any(|(_, n)| *n == 0) {
            return bad("does not give the samples of its classes in their order".to_owned());
        }
        let samples: BTreeMap<usize, usize> = self.samples.iter().copied().collect();
        for row in &self.rows {
            let all = samples.get(&row.class).map(|n| chunks(*n));
            if !all.is_some_and(|all| super::plan::is_node(&row.range(), all)) {
                return bad(format!("speaks of blocks {} to {} of class {}", row.from, row.to, row.class));
            }
            if row.sha256.len() != 64 || !row.sha256.bytes().all(|b| b.is_ascii_hexdigit()) {
                return bad(format!("gives '{}' as a SHA-256", row.sha256));
            }
        }
        if self.rows.windows(2).any(|w| (w[0].class, w[0].to) > (w[1].class, w[1].from)) {
            return bad("has sums that overlap or are out of order".to_owned());
        }
        if self.inputs_sha256 != self.hash_of_inputs() {
            return bad("gives a hash of its inputs that their parts do not have".to_owned());
        }
        Ok(())
    }
}

/// Names and shapes of the weights, and the precision of the sums.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Layout {
    pub(super) names: Vec<String>,
    /// Without the axis of rows.
    pub(super) shapes: Vec<Vec<usize>>,
    /// The elements are float64.
    pub(super) wide: bool,
}

impl Layout {
    fn width(&self) -> usize {
        if self.wide { 8 } else { 4 }
    }
    fn elements(&self, weight: usize) -> usize {
        self.shapes[weight].iter().product()
    }
}

/// Puts the rows of a file in their places.
pub(super) struct Writer<'a, 'f> {
    out: &'a mut BufWriter<&'f File>,
    layout: &'a Layout,
    /// Where the elements of each weight begin.
    starts: Vec<u64>,
    pub(super) origin: Origin,
    path: &'a Path,
}

impl Writer<'_, '_> {
    /// Writes the sum of one weight in one row.
    pub(super) fn put(&mut self, weight: usize, row: usize, sum: &[f64]) -> Result<()> {
        let width = self.layout.width();
        let at = self.starts[weight] + (row * self.layout.elements(weight) * width) as u64;
        let mut bytes = Vec::with_capacity(sum.len() * width);
        if self.layout.wide {
            sum.iter().for_each(|v| bytes.extend(v.to_le_bytes()));
        } else {
            sum.iter().for_each(|v| bytes.extend((*v as f32).to_le_bytes()));
        }
        let written = self.out.seek(SeekFrom::Start(at)).and_then(|_| self.out.write_all(&bytes));
        written.map_err(|e| Error::io(format!("cannot write {}", self.path.display()), &e))
    }
}

/// Writes a Fisher file: `fill` puts every row in its place and gives it its hash. Equal sums give equal bytes.
///
/// # Errors
/// What `fill` returns, and when the file cannot be written.
pub(super) fn write(
    path: &Path,
    layout: &Layout,
    origin: Origin,
    fill: impl FnOnce(&mut Writer<'_, '_>) -> Result<()>,
) -> Result<Origin> {
    let unknown = "0".repeat(64);
    let mut origin = origin;
    origin.rows.iter_mut().for_each(|r| r.sha256.clone_from(&unknown));
    origin.inputs_sha256 = origin.is_whole().then_some(unknown);
    let (header, starts) = header(layout, &origin)?;
    files::write_atomically(path, |out| {
        let mut writer = Writer { out, layout, starts, origin, path };
        fill(&mut writer)?;
        let Writer { out, mut origin, .. } = writer;
        origin.inputs_sha256 = origin.hash_of_inputs();
        let (now, _) = self::header(layout, &origin)?;
        if now.len() != header.len() {
            return Err(Error::internal("the header of a Fisher file changed its length"));
        }
        let done = out.seek(SeekFrom::Start(0)).and_then(|_| out.write_all(&now));
        done.map_err(|e| Error::io(format!("cannot write {}", path.display()), &e))?;
        Ok(origin)
    })
}

/// Length and text of the header, and where each weight's elements begin in the file.
fn header(layout: &Layout, origin: &Origin) -> Result<(Vec<u8>, Vec<u64>)> {
    #[derive(Serialize)]
    struct Info<'a> {
        dtype: &'a str,
        shape: Vec<usize>,
        data_offsets: [u64; 2],
    }
    let json = |v: serde_json::Result<String>| v.map_err(|e| Error::internal(format!("JSON: {e}")));
    let about = BTreeMap::from([("format", FORMAT.to_owned()), ("origin", json(serde_json::to_string(origin))?)]);
    let mut order: Vec<usize> = (0..layout.names.len()).collect();
    order.sort_by_key(|&i| &layout.names[i]);
    let mut starts = vec![0; order.len()];
    let mut text = format!("{{\"__metadata__\":{}", json(serde_json::to_string(&about))?);
    let mut at = 0;
    for i in order {
        let end = at + (origin.rows.len() * layout.elements(i) * layout.width()) as u64;
        let info = Info {
            dtype: if layout.wide { "F64" } else { "F32" },
            shape: [&[origin.rows.len()], &layout.shapes[i][..]].concat(),
            data_offsets: [at, end],
        };
        let name = json(serde_json::to_string(&layout.names[i]))?;
        text += &format!(",{name}:{}", json(serde_json::to_string(&info))?);
        starts[i] = at;
        at = end;
    }
    text.push('}');
    // elements begin at a multiple of their width
    text.extend(std::iter::repeat_n(' ', text.len().next_multiple_of(8) - text.len()));
    let before = 8 + text.len() as u64;
    starts.iter_mut().for_each(|s| *s += before);
    Ok(([&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat(), starts))
}

/// SHA-256 of a model, hexadecimal: of its file, and of its data files in the order of their first use after it.
pub fn model_sha256(model: &Model) -> String {
    let mut hash = Sha256::new_with_prefix(model.bytes());
    model.data_files().iter().for_each(|f| hash.update(f.bytes()));
    files::hex(&hash.finalize())
}
