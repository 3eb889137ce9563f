//! What a Fisher file says of each weight in two numbers.

use super::kept::Kept;
use crate::error::{Error, Result};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};

/// Elements that are read at a time.
const PIECE: usize = 1 << 16;

/// Of the Fisher of one weight, the mean over all classes of the file.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Summary {
    /// Mean over the elements; 0 where there are none.
    pub mean: f64,
    /// The greatest element.
    pub max: f64,
}

impl Kept {
    /// One for each weight, in the order of [`Kept::weights`]. The file is read again piece by piece: many classes of a
    /// large model take more than the memory there is.
    ///
    /// # Errors
    /// `Io` when the file cannot be read; `Invalid` when it is a part.
    pub fn summaries(&self) -> Result<Vec<Summary>> {
        self.check_whole()?;
        let refused = |e: std::io::Error| Error::io(format!("cannot read {}", self.path.display()), &e);
        let mut file = File::open(&self.path).map_err(refused)?;
        let scales: Vec<f64> =
            self.origin.samples.iter().map(|(_, n)| 1.0 / (*n * self.origin.samples.len()) as f64).collect();
        let width = if self.layout.wide { 8 } else { 4 };
        let (mut bytes, mut sums) = (Vec::new(), Vec::new());
        let mut all = Vec::with_capacity(self.places.len());
        for (place, shape) in self.places.iter().zip(&self.layout.shapes) {
            let elements: usize = shape.iter().product();
            let (mut total, mut max) = (0.0, 0.0f64);
            for from in (0..elements).step_by(PIECE) {
                let count = PIECE.min(elements - from);
                sums.clear();
                sums.resize(count, 0.0);
                bytes.resize(count * width, 0);
                for (row, scale) in scales.iter().enumerate() {
                    let at = place.start + (row * elements + from) * width;
                    file.seek(SeekFrom::Start(at as u64)).and_then(|_| file.read_exact(&mut bytes)).map_err(refused)?;
                    add(&mut sums, *scale, &bytes, self.layout.wide);
                }
                total += sums.iter().sum::<f64>();
                max = sums.iter().copied().fold(max, f64::max);
            }
            all.push(Summary { mean: total / elements.max(1) as f64, max });
        }
        Ok(all)
    }
}

/// Adds `scale` times the numbers that the bytes are.
fn add(sums: &mut [f64], scale: f64, bytes: &[u8], wide: bool) {
    if wide {
        sums.iter_mut().zip(bytes.as_chunks().0).for_each(|(s, b)| *s += scale * f64::from_le_bytes(*b));
    } else {
        sums.iter_mut().zip(bytes.as_chunks().0).for_each(|(s, b)| *s += scale * f64::from(f32::from_le_bytes(*b)));
    }
}
