//! A folder with one folder of images per class.

use super::raw::{Data, Elem, Raw, checked_len};
use super::{Expected, MAX_BYTES, Options};
use crate::error::{Error, Result};
use image::{DynamicImage, ImageDecoder, ImageReader};
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const READ: [&str; 4] = ["png", "jpg", "jpeg", "bmp"];
/// Images that are not read; passing over them in silence would lose samples.
const NOT_READ: [&str; 8] = ["webp", "gif", "tif", "tiff", "ppm", "pgm", "avif", "heic"];

/// How a sample lies in memory.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Layout {
    channels: usize,
    height: usize,
    width: usize,
    /// Channels come last.
    last: bool,
}

impl Layout {
    /// `[1|3, h, w]`, `[h, w, 1|3]` or `[h, w]`; where both would do, channels come first.
    fn of(sample: &[usize]) -> Result<Self> {
        let new = |channels, height, width, last| Ok(Self { channels, height, width, last });
        match *sample {
            [c @ (1 | 3), h, w] => new(c, h, w, false),
            [h, w, c @ (1 | 3)] => new(c, h, w, true),
            [h, w] => new(1, h, w, false),
            _ => Err(Error::unsupported(format!(
                "a folder of images suits a model whose input is [1 or 3, height, width] or [height, width, 1 or 3], not {sample:?}"
            ))),
        }
    }
}

/// The images of a folder of classes, none of them read yet.
#[derive(Clone, Debug)]
pub(super) struct Images {
    root: PathBuf,
    layout: Layout,
    sample: Vec<usize>,
    /// Path and class of each, in the order of class ids, then of names.
    pub(super) files: Vec<(PathBuf, usize)>,
}

impl Images {
    /// Finds the images that the options choose.
    pub(super) fn list(root: &Path, expected: &Expected, options: &Options) -> Result<Self> {
        let layout = Layout::of(&expected.sample.shape)?;
        let mut files = Vec::new();
        for (class, folder) in classes(root, expected.classes)? {
            files.extend(images(root, &folder)?.into_iter().map(|path| (path, class)));
        }
        if let Some(rows) = options.choose(files.len())? {
            files = rows.into_iter().map(|i| std::mem::take(&mut files[i])).collect();
        }
        Ok(Self { root: root.to_path_buf(), layout, sample: expected.sample.shape.clone(), files })
    }
    /// Name inside the folder, the same on every system, and length in bytes of each image.
    pub(super) fn listing(&self) -> Result<Vec<(String, u64)>> {
        let of = |(path, _): &(PathBuf, usize)| {
            let inside = path.strip_prefix(&self.root).unwrap_or(path);
            let parts: Vec<_> = inside.components().map(|c| c.as_os_str().to_string_lossy()).collect();
            let meta = path.metadata().map_err(|e| Error::io(format!("cannot read {}", path.display()), &e))?;
            Ok((parts.join("/"), meta.len()))
        };
        self.files.iter().map(of).collect()
    }
    /// Reads and decodes the images at these positions: bytes of the sample's shape, and classes.
    pub(super) fn read(&self, positions: &[usize]) -> Result<(Raw, Vec<usize>)> {
        let shape = [&[positions.len()], &self.sample[..]].concat();
        let total = checked_len(&shape)?;
        if total as u64 > MAX_BYTES / 4 {
            return Err(Error::invalid(format!(
                "{} images of {:?} are too many at once; use fewer samples",
                positions.len(),
                self.sample
            )));
        }
        let mut data = vec![0; total];
        let each = (total / positions.len().max(1)).max(1);
        data.par_chunks_mut(each).zip(positions).try_for_each(|(out, &i)| {
            let (path, _) = &self.files[i];
            decode(path, self.layout, out).map_err(|e| e.at(path.strip_prefix(&self.root).unwrap_or(path).display()))
        })?;
        let y = positions.iter().map(|&i| self.files[i].1).collect();
        Ok((Raw { shape, elem: Elem::U8, data: Data::Byte(data) }, y))
    }
}

/// Class folders by class id: the number that each is named, or their place in the order of names.
fn classes(root: &Path, classes: usize) -> Result<BTreeMap<usize, PathBuf>> {
    let folders: Vec<_> = entries(root)?.into_iter().filter(|(_, path)| path.is_dir()).collect();
    if folders.is_empty() {
        return Err(Error::invalid("holds neither IDX files nor one folder of images per class"));
    }
    let numbers: Option<Vec<usize>> = folders.iter().map(|(name, _)| name.parse().ok()).collect();
    let Some(numbers) = numbers else {
        if folders.len() != classes {
            let n = folders.len();
            return Err(Error::invalid(format!(
                "{n} class folders, but the model has {classes} classes; name each folder by its class id"
            )));
        }
        return Ok(folders.into_iter().map(|(_, path)| path).enumerate().collect());
    };
    let mut all = BTreeMap::new();
    for (c, (name, path)) in numbers.into_iter().zip(folders) {
        if c >= classes {
            return Err(Error::invalid(format!(
                "folder {name:?}: the model has {classes} classes (0 to {})",
                classes.saturating_sub(1)
            )));
        }
        if all.insert(c, path).is_some() {
            return Err(Error::invalid(format!("two folders for class {c}")));
        }
    }
    Ok(all)
}

/// The images of one class, sorted by name.
fn images(root: &Path, folder: &Path) -> Result<Vec<PathBuf>> {
    // messages name paths inside the root; the caller puts the root before them
    let inside = |path: &Path| path.strip_prefix(root).unwrap_or(path).display().to_string();
    let mut all = Vec::new();
    for (name, path) in entries(folder)? {
        let suffix = Path::new(&name).extension().unwrap_or_default().to_string_lossy().to_lowercase();
        if path.is_dir() {
            return Err(Error::invalid(format!("{}: a folder inside a class folder", inside(&path))));
        } else if NOT_READ.contains(&suffix.as_str()) {
            return Err(Error::unsupported(format!(
                "{}: {suffix} images are not read, only {}",
                inside(&path),
                READ.join(", ")
            )));
        } else if READ.contains(&suffix.as_str()) {
            all.push(path);
        }
    }
    if all.is_empty() {
        return Err(Error::invalid(format!("{} holds no images ({})", inside(folder), READ.join(", "))));
    }
    Ok(all)
}

/// Names and paths in a folder, sorted by name; hidden ones are left out.
pub(super) fn entries(folder: &Path) -> Result<Vec<(String, PathBuf)>> {
    let cannot = |e| Error::io(format!("cannot read {}", folder.display()), &e);
    let mut all = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(cannot)? {
        let entry = entry.map_err(cannot)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with('.') {
            all.push((name, entry.path()));
        }
    }
    all.sort();
    Ok(all)
}

/// Decodes one image into `out`. Colours become grey as Pillow does it (ITU-R 601); transparency is dropped.
fn decode(path: &Path, layout: Layout, out: &mut [u8]) -> Result<()> {
    let reader = ImageReader::open(path).and_then(ImageReader::with_guessed_format);
    let reader = reader.map_err(|e| Error::io("cannot be read", &e))?;
    let bad = |e: image::ImageError| Error::format(format!("cannot be decoded: {e}"));
    let decoder = reader.into_decoder().map_err(bad)?;
    // sizes come from the header, before anything is decoded
    let (width, height) = decoder.dimensions();
    if (width as usize, height as usize) != (layout.width, layout.height) {
        return Err(Error::invalid(format!(
            "image of {width}x{height} pixels (width x height), but the model takes {}x{}; resize it first",
            layout.width, layout.height
        )));
    }
    let image = DynamicImage::from_decoder(decoder).map_err(bad)?;
    if layout.channels == 1 {
        match image {
            DynamicImage::ImageLuma8(_)
            | DynamicImage::ImageLumaA8(_)
            | DynamicImage::ImageLuma16(_)
            | DynamicImage::ImageLumaA16(_) => {
                out.copy_from_slice(image.to_luma8().as_raw());
            }
            _ => {
                for (o, p) in out.iter_mut().zip(image.to_rgb8().pixels()) {
                    let [r, g, b] = p.0.map(u32::from);
                    *o = ((299 * r + 587 * g + 114 * b + 500) / 1000) as u8;
                }
            }
        }
        return Ok(());
    }
    let rgb = image.to_rgb8();
    if layout.last {
        out.copy_from_slice(rgb.as_raw());
    } else {
        for (i, p) in rgb.pixels().enumerate() {
            for (c, v) in p.0.into_iter().enumerate() {
                out[c * layout.height * layout.width + i] = v;
            }
        }
    }
    Ok(())
}
