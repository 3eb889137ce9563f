//! Test cases that an op brings along.

use crate::graph::Attrs;
use crate::tensor::{Array, DType};
use rand::{Rng, RngExt, SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;

/// How the elements of a float input are drawn, so that they stay away from kinks and poles.
#[derive(Clone, Debug)]
pub struct Sampler {
    /// Least value.
    pub low: f64,
    /// Greatest value.
    pub high: f64,
    /// Points from which every element keeps a distance of at least 0.05.
    pub avoid: &'static [f64],
    /// All elements differ by at least `(high − low) / count` (for max and sorting).
    pub distinct: bool,
}

impl Sampler {
    /// Uniform between `low` and `high`.
    pub const fn within(low: f64, high: f64) -> Self {
        Self { low, high, avoid: &[], distinct: false }
    }
    /// Draws `count` elements.
    pub fn draw(&self, count: usize, rng: &mut impl Rng) -> Vec<f64> {
        if self.distinct {
            let step = (self.high - self.low) / count.max(1) as f64;
            let mut v: Vec<f64> = (0..count).map(|i| self.low + step * (i as f64 + 0.5)).collect();
            v.shuffle(rng);
            return v;
        }
        (0..count)
            .map(|_| {
                loop {
                    let v = rng.random_range(self.low..self.high);
                    if self.avoid.iter().all(|k| (v - k).abs() >= 0.05) {
                        return v;
                    }
                }
            })
            .collect()
    }
}

/// One input of a case.
#[derive(Clone, Debug)]
pub enum Arg {
    /// A float input that is fed, and differentiated.
    Float(Vec<usize>, Sampler),
    /// A fed input of fixed elements (indices, conditions).
    Fed(Array, DType),
    /// A constant.
    Const(Array, DType),
    /// Left out.
    Absent,
}

/// Whether a case's gradient is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gradient {
    /// With respect to every [`Arg::Float`].
    Checked,
    /// Not at all; `&str` says why there is none.
    None(&'static str),
}

/// Shapes, attributes and samplers of one test of an op.
#[derive(Clone, Debug)]
pub struct Case {
    /// What is special about it.
    pub name: String,
    /// Inputs in ONNX order.
    pub inputs: Vec<Arg>,
    /// Attributes.
    pub attrs: Attrs,
    /// Which outputs are asked for.
    pub wanted: Vec<bool>,
    /// Greatest difference between an f32 engine and the f64 reference, relative to the greatest element
    /// of the output (at least 1). 1e-5 unless the op sums many terms or uses a GPU's `exp`.
    pub tolerance: f64,
    /// Whether the gradient is checked.
    pub gradient: Gradient,
}

impl Case {
    /// A case with float inputs drawn from −2…2, one output, tolerance 1e-5 and a checked gradient.
    pub fn new(name: &str, shapes: &[&[usize]]) -> Self {
        Self {
            name: name.to_owned(),
            inputs: shapes.iter().map(|s| Arg::Float(s.to_vec(), Sampler::within(-2.0, 2.0))).collect(),
            attrs: Attrs::new(),
            wanted: vec![true],
            tolerance: 1e-5,
            gradient: Gradient::Checked,
        }
    }
    /// One more attribute.
    #[must_use]
    pub fn attr(mut self, name: &str, v: impl Into<crate::graph::Attr>) -> Self {
        self.attrs.set(name, v);
        self
    }
    /// One more input.
    #[must_use]
    pub fn arg(mut self, a: Arg) -> Self {
        self.inputs.push(a);
        self
    }
    /// One more input: a constant `int64` vector.
    #[must_use]
    pub fn ints(self, v: &[i64]) -> Self {
        self.arg(Arg::Const(Array::ints(v), DType::I64))
    }
    /// Draws every float input from this sampler instead.
    #[must_use]
    pub fn sampled(mut self, s: &Sampler) -> Self {
        for a in &mut self.inputs {
            if let Arg::Float(_, old) = a {
                *old = s.clone();
            }
        }
        self
    }
    /// Draws float input `i` from this sampler instead.
    #[must_use]
    pub fn sampled_at(mut self, i: usize, s: &Sampler) -> Self {
        if let Some(Arg::Float(_, old)) = self.inputs.get_mut(i) {
            *old = s.clone();
        }
        self
    }
    /// Another tolerance; the caller says why in a comment.
    #[must_use]
    pub fn within(mut self, tolerance: f64) -> Self {
        self.tolerance = tolerance;
        self
    }
    /// Asks for these outputs.
    #[must_use]
    pub fn outputs(mut self, wanted: &[bool]) -> Self {
        self.wanted = wanted.to_vec();
        self
    }
    /// No gradient is checked, and why.
    #[must_use]
    pub fn no_gradient(mut self, why: &'static str) -> Self {
        self.gradient = Gradient::None(why);
        self
    }
    /// The generator for this case: the same numbers on every engine and at every run.
    pub fn rng(&self) -> ChaCha8Rng {
        let seed =
            self.name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
        ChaCha8Rng::seed_from_u64(seed)
    }
}
