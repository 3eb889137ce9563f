//! The rules that change weights, written as nodes: they run wherever the model runs.

use crate::error::Result;
use crate::graph::{Attrs, Graph, ValueId};

/// A rule with its strengths.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Strength {
    /// `w_i ← w_i + sign · α_l η_i` with `η = f_F / f_R` and `α_l = min(λ1, λ2 / max_l η)` (Yamashita et al.,
    /// arXiv 2306.05670, equations 7 to 9).
    Ratio {
        /// Cap on the step per unit of η.
        lambda1: f64,
        /// Cap on the greatest step of an initializer.
        lambda2: f64,
        /// +1 or −1.
        sign: f64,
    },
    /// `w_i ← w_i · min(λ f_R / f_F, 1)` where `f_F > α f_R` (Foster et al., arXiv 2308.07707, equations 3 and 4,
    /// with the Fisher of the retained classes in the place of that of all).
    Dampen {
        /// How many times the Fisher of the retained classes the forget Fisher must exceed.
        alpha: f64,
        /// Scale of what is left.
        lambda: f64,
    },
    /// `w_i ← w_i + σ rms(w_l) ε_i / max((f_R,i / mean_l f_R)^¼, 1/10)` with ε standard normal: noise that is least where
    /// the retained classes are sensitive, after the Fisher forgetting of Golatkar et al. (arXiv 1911.04933), whose
    /// scale is absolute. It knows nothing of the classes to forget and promises no (ε, δ).
    Noise {
        /// Deviation for a weight of mean Fisher, as a part of the root mean square of its initializer.
        sigma: f64,
        /// Decides ε.
        seed: u64,
    },
    /// Steps away from the classes to forget, short where the retained classes are sensitive
    /// ([`Ascent`](super::ascent::Ascent)): first of the body, then of the last layer.
    Ascent {
        /// Steps of all weights but the last layer's.
        body: usize,
        /// Steps of the last layer's weights.
        head: usize,
    },
}

/// Which rule, without its strengths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rule {
    /// [`Strength::Ratio`]
    Ratio,
    /// [`Strength::Dampen`]
    Dampen,
    /// [`Strength::Noise`]
    Noise,
    /// [`Strength::Ascent`]
    Ascent,
}

impl Strength {
    /// Which rule this is.
    pub fn rule(&self) -> Rule {
        match self {
            Self::Ratio { .. } => Rule::Ratio,
            Self::Dampen { .. } => Rule::Dampen,
            Self::Noise { .. } => Rule::Noise,
            Self::Ascent { .. } => Rule::Ascent,
        }
    }
    /// The strengths as the rule's graph takes them, in order.
    pub fn values(&self) -> Vec<f64> {
        match *self {
            Self::Ratio { lambda1, lambda2, sign } => vec![lambda1, lambda2, sign],
            Self::Dampen { alpha, lambda } => vec![alpha, lambda],
            Self::Noise { sigma, .. } => vec![sigma],
            Self::Ascent { body, head } => vec![body as f64, head as f64],
        }
    }
}

impl std::fmt::Display for Strength {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match *self {
            Self::Ratio { lambda1, lambda2, sign } => {
                write!(f, "ratio, λ1 {lambda1:.4e}, λ2 {lambda2:.4e}, sign {}", if sign < 0.0 { '−' } else { '+' })
            }
            Self::Dampen { alpha, lambda } => write!(f, "dampen, α {alpha:.4}, λ {lambda:.4}"),
            Self::Noise { sigma, seed } => write!(f, "noise, σ {sigma:.4e}, seed {seed}"),
            Self::Ascent { body, head } => write!(f, "ascent, {body} steps in the body, {head} in the last layer"),
        }
    }
}

/// What a rule reads for one weight: values of equal shape.
#[derive(Clone, Copy, Debug)]
pub struct Operands {
    /// The weight.
    pub w: ValueId,
    /// Fisher of the classes to forget.
    pub f_f: ValueId,
    /// Fisher of the classes to retain.
    pub f_r: ValueId,
    /// Standard normal numbers, for the rule that takes some.
    pub noise: Option<ValueId>,
}

impl Rule {
    /// Names of the strengths, as on the command line.
    pub fn strengths(self) -> &'static [&'static str] {
        match self {
            Self::Ratio => &["lambda1", "lambda2", "sign"],
            Self::Dampen => &["alpha", "lambda"],
            Self::Noise => &["sigma"],
            Self::Ascent => &["body_steps", "head_steps"],
        }
    }
    /// As on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ratio => "ratio",
            Self::Dampen => "dampen",
            Self::Noise => "noise",
            Self::Ascent => "ascent",
        }
    }
    /// Adds the nodes that change one weight.
    ///
    /// # Errors
    /// When the shapes differ, or the rule is the ascent, which reads gradients.
    pub fn push(self, g: &mut Graph, x: Operands, strengths: &[ValueId]) -> Result<ValueId> {
        match (self, strengths) {
            (Self::Ratio, &[lambda1, lambda2, sign]) => ratio(g, x, lambda1, lambda2, sign),
            (Self::Dampen, &[alpha, lambda]) => dampen(g, x, alpha, lambda),
            (Self::Noise, &[sigma]) => noise(g, x, sigma),
            (Self::Ascent, _) => Err(crate::error::Error::internal("an ascent needs gradients, not a rule's nodes")),
            _ => Err(crate::error::Error::internal("a rule was given the wrong number of strengths")),
        }
    }
}

fn op(g: &mut Graph, name: &str, inputs: &[ValueId]) -> Result<ValueId> {
    g.push(name, inputs, Attrs::new())
}

/// `a / b` with 1 in the place of a zero `b`, so that no engine divides by zero; and where `b` is zero.
fn guarded(g: &mut Graph, a: ValueId, b: ValueId) -> Result<(ValueId, ValueId)> {
    let dtype = g.dtype(b);
    let (zero, one) = (g.scalar(0.0, dtype), g.scalar(1.0, dtype));
    let empty = op(g, "Equal", &[b, zero])?;
    let b = op(g, "Where", &[empty, one, b])?;
    Ok((op(g, "Div", &[a, b])?, empty))
}

/// Paper: `η = f_F / f_R`; `0/0` counts as 0 and `x/0` as the greatest finite η of the initializer.
fn ratio(g: &mut Graph, x: Operands, lambda1: ValueId, lambda2: ValueId, sign: ValueId) -> Result<ValueId> {
    let dtype = g.dtype(x.w);
    let zero = g.scalar(0.0, dtype);
    let (q, empty) = guarded(g, x.f_f, x.f_r)?;
    let limit = g.scalar(if dtype == crate::tensor::DType::F64 { 1e300 } else { 1e38 }, dtype);
    let small = op(g, "LessOrEqual", &[q, limit])?;
    let q = op(g, "Where", &[small, q, limit])?;
    let finite = op(g, "Where", &[empty, zero, q])?;
    let top = g.push_some("ReduceMax", &[Some(finite)], Attrs::new().with("keepdims", 0))?;
    let positive = op(g, "Greater", &[x.f_f, zero])?;
    let unbounded = op(g, "And", &[empty, positive])?;
    let eta = op(g, "Where", &[unbounded, top, finite])?;
    // α_l = min(λ1, λ2 / max η)
    let (cap, none) = guarded(g, lambda2, top)?;
    let cap = op(g, "Where", &[none, lambda1, cap])?;
    let lower = op(g, "Less", &[lambda1, cap])?;
    let alpha = op(g, "Where", &[lower, lambda1, cap])?;
    let alpha = op(g, "Mul", &[alpha, sign])?;
    let step = op(g, "Mul", &[eta, alpha])?;
    op(g, "Add", &[x.w, step])
}

/// `w · min(λ f_R / f_F, 1)` where `f_F > α f_R`.
fn dampen(g: &mut Graph, x: Operands, alpha: ValueId, lambda: ValueId) -> Result<ValueId> {
    let one = g.scalar(1.0, g.dtype(x.w));
    let bound = op(g, "Mul", &[x.f_r, alpha])?;
    let chosen = op(g, "Greater", &[x.f_f, bound])?;
    let (beta, _) = guarded(g, x.f_r, x.f_f)?;
    let beta = op(g, "Mul", &[beta, lambda])?;
    let below = op(g, "Less", &[beta, one])?;
    let beta = op(g, "Where", &[below, beta, one])?;
    let damped = op(g, "Mul", &[x.w, beta])?;
    op(g, "Where", &[chosen, damped, x.w])
}

/// The greatest part of the mean deviation that a weight without a Fisher gets, inverted.
const LEAST_ROOT: f64 = 0.1;

/// `w + σ rms(w) ε / max((f_R / mean f_R)^¼, 1/10)`.
fn noise(g: &mut Graph, x: Operands, sigma: ValueId) -> Result<ValueId> {
    let epsilon = x.noise.ok_or_else(|| crate::error::Error::internal("the rule was given no noise"))?;
    let mean = |g: &mut Graph, v: ValueId| g.push_some("ReduceMean", &[Some(v)], Attrs::new().with("keepdims", 0));
    let square = op(g, "Mul", &[x.w, x.w])?;
    let square = mean(g, square)?;
    let rms = op(g, "Sqrt", &[square])?;
    let f_mean = mean(g, x.f_r)?;
    let (q, _) = guarded(g, x.f_r, f_mean)?;
    let root = op(g, "Sqrt", &[q])?;
    let root = op(g, "Sqrt", &[root])?;
    let least = g.scalar(LEAST_ROOT, g.dtype(x.w));
    let low = op(g, "Less", &[root, least])?;
    let root = op(g, "Where", &[low, least, root])?;
    let scale = op(g, "Mul", &[sigma, rms])?;
    let step = op(g, "Mul", &[epsilon, scale])?;
    let step = op(g, "Div", &[step, root])?;
    op(g, "Add", &[x.w, step])
}
