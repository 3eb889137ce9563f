//! Inputs as pictures.

use crate::error::{Error, Result};
use crate::inputs::Labelled;
use crate::report::format;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use image::{ColorType, ImageEncoder, codecs::png::PngEncoder};

/// Most pictures on a page.
const PICTURES: usize = 24;
/// Longest side of a picture that is kept, in pixels.
const SIDE: usize = 96;
/// Height of the strip that a row of numbers becomes, in pixels.
const STRIP: usize = 12;

/// An input as a picture.
#[derive(Clone, Debug)]
pub struct Picture {
    /// The PNG as a `data:` address.
    pub source: String,
    /// Width in pixels.
    pub width: usize,
    /// Height in pixels.
    pub height: usize,
    /// What stands below.
    pub caption: String,
    /// What it is, for someone who does not see it.
    pub alt: String,
    /// True where the class is to be forgotten.
    pub is_forgotten: bool,
}

/// How the numbers of a sample lie in a picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Layout {
    channels: usize,
    height: usize,
    width: usize,
    /// Channels come last.
    is_last: bool,
    /// A row of numbers.
    is_strip: bool,
}

impl Layout {
    fn of(shape: &[usize]) -> Self {
        let image = |channels, height, width, is_last| Self { channels, height, width, is_last, is_strip: false };
        match *shape {
            [c @ (1 | 3), h, w] if h > 1 && w > 1 => image(c, h, w, false),
            [h, w, c @ (1 | 3)] if h > 1 && w > 1 => image(c, h, w, true),
            [h, w] if h > 1 && w > 1 => image(1, h, w, false),
            _ => {
                let n = shape.iter().product();
                Self { channels: 1, height: 1, width: n, is_last: false, is_strip: true }
            }
        }
    }
    fn at(self, c: usize, y: usize, x: usize) -> usize {
        if self.is_last { (y * self.width + x) * self.channels + c } else { (c * self.height + y) * self.width + x }
    }
    /// Width and height of the picture.
    fn size(self) -> (usize, usize) {
        if self.is_strip {
            return (self.width.min(2 * SIDE), STRIP);
        }
        let longest = self.width.max(self.height);
        let shrunk = |n: usize| if longest > SIDE { (n * SIDE / longest).max(1) } else { n };
        (shrunk(self.width), shrunk(self.height))
    }
}

/// The first input of every class as a picture, those of the classes to forget first and no more than two dozen; and what is
/// to be said of them. `name` says what they are: `code`, `input`.
///
/// Images of one or three channels are shown as such, everything else as a strip of its numbers in order. Black and white
/// are the least and the greatest number of all that are shown.
///
/// # Errors
/// `Internal` when a picture cannot be encoded.
pub fn pictures(data: &Labelled, forgotten: &[usize], name: &str) -> Result<(Vec<Picture>, String)> {
    let mut first: Vec<(usize, usize)> = data.by_class().into_iter().map(|(c, at)| (c, at[0])).collect();
    let classes = first.len();
    first.sort_by_key(|(c, _)| (!forgotten.contains(c), *c));
    first.truncate(PICTURES);
    let shown = data.select(&first.iter().map(|(_, i)| *i).collect::<Vec<_>>())?;
    let shape = &shown.x.shape()[1..];
    let layout = Layout::of(shape);
    let numbers = shown.x.to_f64();
    let length: usize = shape.iter().product();
    let (lo, hi) = numbers.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(lo, hi), v| (lo.min(*v), hi.max(*v)));
    let grey = |v: f64| if hi > lo { (255.0 * (v - lo) / (hi - lo)).round() as u8 } else { 127 };
    let mut all = Vec::new();
    if length > 0 {
        for ((class, _), sample) in first.iter().zip(numbers.chunks(length)) {
            let (width, height) = layout.size();
            let is_forgotten = forgotten.contains(class);
            all.push(Picture {
                source: png(&pixels(layout, sample, &grey), width, height, layout.channels)?,
                width,
                height,
                caption: format!("class {class}"),
                alt: format!("{name} of class {class}{}", if is_forgotten { ", to be forgotten" } else { "" }),
                is_forgotten,
            });
        }
    }
    let what = if layout.is_strip { "as a strip of its numbers in order" } else { "as a picture" };
    let rest = match classes - all.len() {
        0 => String::new(),
        1 => " One more class is not shown.".to_owned(),
        n => format!(" {} more classes are not shown.", format::count(n)),
    };
    let digits = |v| format::significant(v, 3);
    let note = format!(
        "The first {name} of each class {what}; one is {}. Black is {}, white is {}.{rest}",
        shape.iter().map(usize::to_string).collect::<Vec<_>>().join(" × "),
        digits(lo),
        digits(hi)
    );
    Ok((all, note))
}

/// Bytes of the picture, row by row, channels last; several numbers under one pixel become their mean.
fn pixels(layout: Layout, sample: &[f64], grey: &impl Fn(f64) -> u8) -> Vec<u8> {
    let (width, height) = layout.size();
    let span = |i: usize, of: usize, all: usize| (i * all / of)..((i + 1) * all / of).max(i * all / of + 1);
    let mut out = Vec::with_capacity(width * height * layout.channels);
    for y in 0..height {
        let rows = if layout.is_strip { 0..1 } else { span(y, height, layout.height) };
        for x in 0..width {
            let columns = span(x, width, layout.width);
            for c in 0..layout.channels {
                let places = rows.clone().flat_map(|y| columns.clone().map(move |x| (y, x)));
                let (mut sum, mut n) = (0.0, 0.0);
                for (y, x) in places {
                    sum += sample[layout.at(c, y, x)];
                    n += 1.0;
                }
                out.push(grey(sum / n));
            }
        }
    }
    out
}

fn png(pixels: &[u8], width: usize, height: usize, channels: usize) -> Result<String> {
    let failed = |e: &dyn std::fmt::Display| Error::internal(format!("cannot encode a picture: {e}"));
    let size = |n: usize| u32::try_from(n).map_err(|e| failed(&e));
    let color = if channels == 3 { ColorType::Rgb8 } else { ColorType::L8 };
    let mut bytes = Vec::new();
    PngEncoder::new(&mut bytes)
        .write_image(pixels, size(width)?, size(height)?, color.into())
        .map_err(|e| failed(&e))?;
    Ok(format!("data:image/png;base64,{}", STANDARD.encode(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::Array;

    fn decoded(p: &Picture) -> image::DynamicImage {
        let bytes = STANDARD.decode(p.source.strip_prefix("data:image/png;base64,").unwrap()).unwrap();
        image::load_from_memory(&bytes).unwrap()
    }

    fn labelled(shape: &[usize], classes: &[usize]) -> Labelled {
        let n: usize = shape.iter().product();
        let x = (0..n * classes.len()).map(|i| i as f32).collect::<Vec<_>>();
        let whole: Vec<usize> = std::iter::once(classes.len()).chain(shape.iter().copied()).collect();
        Labelled::new(Array::from_vec(&whole, x).unwrap(), classes.to_vec()).unwrap()
    }

    #[test]
    fn grey_and_rgb_images_keep_their_pixels() {
        let (all, note) = pictures(&labelled(&[1, 2, 3], &[4, 0]), &[4], "code").unwrap();
        assert_eq!(all.iter().map(|p| &p.caption[..]).collect::<Vec<_>>(), ["class 4", "class 0"]);
        assert!(all[0].is_forgotten && all[0].alt.contains("to be forgotten"), "{}", all[0].alt);
        assert_eq!(decoded(&all[0]).to_luma8().into_raw(), [0, 23, 46, 70, 93, 116]);
        assert!(note.contains("1 × 2 × 3") && note.contains("white is 11.0"), "{note}");
        let first = decoded(&pictures(&labelled(&[3, 2, 2], &[0]), &[], "input").unwrap().0[0]).to_rgb8();
        let last = decoded(&pictures(&labelled(&[2, 2, 3], &[0]), &[], "input").unwrap().0[0]).to_rgb8();
        assert_eq!(first.get_pixel(1, 0).0, [23, 116, 209], "channels first");
        assert_eq!(last.get_pixel(1, 0).0, [70, 93, 116], "channels last");
    }

    #[test]
    fn everything_else_is_a_strip() {
        for shape in [&[7][..], &[1, 7], &[7, 1, 1]] {
            let (all, note) = pictures(&labelled(shape, &[0]), &[], "input").unwrap();
            assert_eq!((all[0].width, all[0].height), (7, STRIP));
            assert_eq!(decoded(&all[0]).to_luma8().get_pixel(6, 3).0, [255]);
            assert!(note.contains("strip"), "{note}");
        }
        let (all, _) = pictures(&labelled(&[5, 3, 2, 2], &[0]), &[], "input").unwrap();
        assert_eq!(all[0].width, 60);
        let (all, _) = pictures(&labelled(&[100_000], &[0]), &[], "input").unwrap();
        assert_eq!(all[0].width, 2 * SIDE);
    }

    #[test]
    fn large_pictures_and_many_classes_are_bounded() {
        let classes: Vec<usize> = (0..100).collect();
        let (all, note) = pictures(&labelled(&[1, 300, 150], &classes), &[99], "input").unwrap();
        assert_eq!((all.len(), all[0].width, all[0].height), (PICTURES, 48, 96));
        assert_eq!(all[0].caption, "class 99");
        assert!(note.contains("76 more classes are not shown"), "{note}");
    }

    #[test]
    fn equal_numbers_are_grey() {
        let x = Array::from_vec(&[1, 2, 2], vec![3f32; 4]).unwrap();
        let (all, _) = pictures(&Labelled::new(x, vec![0]).unwrap(), &[], "input").unwrap();
        assert_eq!(decoded(&all[0]).to_luma8().into_raw(), [127; 4]);
    }
}
