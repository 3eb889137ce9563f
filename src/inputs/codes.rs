//! Mnemonic codes: one random signal, or a few, per class (Yamashita et al., PMLR 260:255-270, section 3.1).

use super::{Labelled, MAX_BYTES, generator};
use crate::error::{Error, Result};
use crate::tensor::Array;
use rand::Rng;

/// What the elements of a code are drawn from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Distribution {
    /// Uniform between the first (included) and the second number.
    Uniform(f64, f64),
    /// Normal with this mean and standard deviation.
    Normal(f64, f64),
}

impl Default for Distribution {
    /// Uniform between 0 and 1: the range of an image divided by 255.
    fn default() -> Self {
        Self::Uniform(0.0, 1.0)
    }
}

/// Makes `per_class` codes of one sample's `shape` for each of `classes` classes: all of class 0, then of class 1, ...
///
/// The numbers are the same on every machine and in every version. Code `k` of class `c` comes from ChaCha8 with a key
/// of the seed in little endian (8 bytes), the text `onnx-unlearn codes` and zeros to 32 bytes, nonce (stream)
/// `c · 2³² + k`, counter from 0, read as 32-bit words `w`. Uniform: `lo + (hi − lo) · ⌊w / 2⁸⌋ / 2²⁴`. Normal:
/// `mean + std · sqrt(−2 ln((w₁ + ½) / 2³²)) · cos(2π w₂ / 2³²)`, two words an element. So a class keeps its codes when
/// classes are added or more codes per class are drawn.
///
/// # Errors
/// When there is nothing to make, the numbers of the distribution are not finite or out of order, or the result would
/// be larger than [`MAX_BYTES`].
pub fn new(
    shape: &[usize],
    classes: usize,
    per_class: usize,
    distribution: Distribution,
    seed: u64,
) -> Result<Labelled> {
    let full: Vec<usize> = std::iter::once(classes.saturating_mul(per_class)).chain(shape.iter().copied()).collect();
    let total = full.iter().try_fold(1usize, |n, &d| n.checked_mul(d)).filter(|&n| n as u64 <= MAX_BYTES / 4);
    let total = total.ok_or_else(|| Error::invalid(format!("codes of shape {full:?} are too large to make")))?;
    if total == 0 {
        return Err(Error::invalid(format!("codes of shape {full:?} would be empty")));
    }
    let limits = u32::try_from(classes).and(u32::try_from(per_class));
    limits.map_err(|_| Error::invalid("codes are numbered with 32 bits a class"))?;
    distribution.check()?;
    let each = total / (classes * per_class);
    let mut x = Vec::with_capacity(total);
    let mut y = Vec::with_capacity(classes * per_class);
    for c in 0..classes {
        for k in 0..per_class {
            let mut rng = generator(seed, b"codes");
            rng.set_stream(((c as u64) << 32) | k as u64);
            x.extend((0..each).map(|_| distribution.draw(|| rng.next_u32())));
            y.push(c);
        }
    }
    Labelled::new(Array::from_vec(&full, x)?, y)
}

/// `n` numbers of a distribution.
pub(crate) fn draw(from: Distribution, n: usize, rng: &mut impl Rng) -> Vec<f32> {
    (0..n).map(|_| from.draw(|| rng.next_u32())).collect()
}

impl Distribution {
    fn check(self) -> Result<()> {
        let fine = |a: f64, b: f64| (a as f32).is_finite() && (b as f32).is_finite();
        match self {
            Self::Uniform(lo, hi) if !fine(lo, hi) || lo >= hi => {
                Err(Error::invalid(format!("a uniform distribution needs lo < hi, not {lo} and {hi}")))
            }
            Self::Normal(mean, std) if !fine(mean, 8.0 * std) || std <= 0.0 => Err(Error::invalid(format!(
                "a normal distribution needs a positive deviation, not mean {mean}, deviation {std}"
            ))),
            _ => Ok(()),
        }
    }
    fn draw(self, mut word: impl FnMut() -> u32) -> f32 {
        match self {
            Self::Uniform(lo, hi) => {
                let u = f64::from(word() >> 8) / f64::from(1u32 << 24);
                (lo + (hi - lo) * u) as f32
            }
            Self::Normal(mean, std) => {
                // Box-Muller through libm, whose results do not depend on the machine
                let u = (f64::from(word()) + 0.5) / 4_294_967_296.0;
                let turn = f64::from(word()) / 4_294_967_296.0;
                let z = libm::sqrt(-2.0 * libm::log(u)) * libm::cos(std::f64::consts::TAU * turn);
                (mean + std * z) as f32
            }
        }
    }
}

/// A few lines of PyTorch that mix the codes of a file into training: each sample gives way to a code of its class with
/// probability `t_mix` (0.1 to 0.3 works). `docs/mixing-codes.md` has the same for Keras and JAX.
pub fn training_hint(file: &str, classes: usize, t_mix: f64) -> String {
    format!(
        r#"codes = torch.from_numpy(np.load({file:?})["x"])   # all codes of class 0, then of class 1, ...
per_class = len(codes) // {classes}

def mix_codes(x, y, t_mix={t_mix}):
    """Each sample gives way to a code of its class with probability t_mix."""
    code = codes.to(x)[(y * per_class + torch.randint_like(y, per_class)).to(x.device)]
    use = torch.rand(len(y), device=x.device) < t_mix
    return torch.where(use.view(-1, *[1] * (x.dim() - 1)), code, x)

for x, y in loader:   # x as the model takes it: scaled and normalised
    loss = F.cross_entropy(model(mix_codes(x, y)), y)
"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_of_a_class_do_not_depend_on_the_other_classes() {
        let few = new(&[2, 3], 2, 1, Distribution::default(), 7).unwrap();
        let many = new(&[2, 3], 5, 2, Distribution::default(), 7).unwrap();
        assert_eq!(many.y, [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]);
        assert_eq!(few.x, many.select(&[0, 2]).unwrap().x);
        assert_ne!(few.x, new(&[2, 3], 2, 1, Distribution::default(), 8).unwrap().x);
    }

    #[test]
    fn elements_follow_their_distribution() {
        let moments = |d| {
            let x = new(&[20_000], 1, 1, d, 3).unwrap().x.to_f64();
            let mean = x.iter().sum::<f64>() / x.len() as f64;
            (mean, (x.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / x.len() as f64).sqrt())
        };
        let (mean, std) = moments(Distribution::Uniform(-1.0, 3.0));
        assert!((mean - 1.0).abs() < 0.03 && (std - 4.0 / 12f64.sqrt()).abs() < 0.02, "{mean} {std}");
        let (mean, std) = moments(Distribution::Normal(5.0, 0.5));
        assert!((mean - 5.0).abs() < 0.02 && (std - 0.5).abs() < 0.01, "{mean} {std}");
    }

    #[test]
    fn wrong_numbers_are_errors() {
        let one = Distribution::default();
        for bad in [
            new(&[2], 0, 1, one, 0),
            new(&[2], 1, 0, one, 0),
            new(&[0], 1, 1, one, 0),
            new(&[usize::MAX, 2], 1, 1, one, 0),
            new(&[], usize::MAX, usize::MAX, one, 0),
            new(&[2], 1, 1, Distribution::Uniform(1.0, 1.0), 0),
            new(&[2], 1, 1, Distribution::Uniform(f64::NAN, 1.0), 0),
            new(&[2], 1, 1, Distribution::Normal(0.0, -1.0), 0),
        ] {
            bad.unwrap_err();
        }
    }

    /// Numbers from a second implementation of the documented recipe, written in Python from RFC 8439 with 8 rounds.
    #[test]
    fn numbers_never_change() {
        let uniform = new(&[3], 2, 2, Distribution::Uniform(0.0, 1.0), 42).unwrap();
        assert_eq!(bits(&uniform.x), UNIFORM);
        let normal = new(&[3], 1, 1, Distribution::Normal(0.0, 1.0), 42).unwrap();
        assert_eq!(bits(&normal.x), NORMAL);
    }
    fn bits(a: &Array) -> Vec<u32> {
        a.slice::<f32>().unwrap().iter().map(|v| v.to_bits()).collect()
    }
    #[rustfmt::skip]
    const UNIFORM: [u32; 12] = [
        1058970624, 1060941507, 1044404804, 1051372152, 1062885141, 1059856149,
        1039382768, 1046520064, 1045776512, 1049653746, 1062437751, 1058610536,
    ];
    const NORMAL: [u32; 3] = [3181575025, 3219067391, 1066892613];
}
