//! exp, erf and what is made of them, of many floats at once: loops that the compiler turns into vectors, where the functions
//! of the system's library take one float a call.

/// 1.5 · 2²³: adding it rounds a float of less than 2²² to an integer, which then stands in its last bits.
const ROUND: f32 = 12_582_912.0;
/// ln 2 in two parts; products of the first with integers of at most 9 bits are exact.
const LN_2: [f32; 2] = [0.693_359_4, -2.121_944_4e-4];
/// Beyond these exp is infinite, and 0.
const EXP: [f32; 2] = [89.0, -104.0];

/// `erf x = x · Σ_k ERF[k] x²ᵏ` on [0, 1]: least greatest relative error, 1.2e-9.
const ERF: [f32; 7] = [
    std::f32::consts::FRAC_2_SQRT_PI,
    -0.376_126_26,
    0.112_835_85,
    -0.026_853_812,
    0.005_188_327_4,
    -8.010_191e-4,
    7.853_853e-5,
];
/// `1 − erf x = exp(−x²) · Σ_k REST[k] xᵏ` on [1, 4]: least greatest error, 1.3e-8.
const REST: [f32; 8] = [
    0.986_127_1,
    -1.048_209_7,
    0.792_593_2,
    -0.431_677_96,
    0.164_132_67,
    -0.040_997_83,
    0.006_005_062,
    -3.888_790_4e-4,
];

#[inline(always)]
fn polynomial<const N: usize>(coefficients: [f32; N], x: f32) -> f32 {
    coefficients.iter().rev().fold(0.0, |y, c| y * x + c)
}

#[inline(always)]
fn exp_of(x: f32) -> f32 {
    // comparisons that leave a NaN as it is
    let x = if x > EXP[0] { EXP[0] } else { x };
    let x = if x < EXP[1] { EXP[1] } else { x };
    // x = n ln 2 + r, |r| ≤ ln √2
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let whole = shifted - ROUND;
    let r = x - whole * LN_2[0] - whole * LN_2[1];
    // the series: what follows is below 6e-9
    let y = polynomial([1.0, 1.0, 1.0 / 2.0, 1.0 / 6.0, 1.0 / 24.0, 1.0 / 120.0, 1.0 / 720.0, 1.0 / 5040.0], r);
    // 2ⁿ in two factors, each of which is a normal float
    let n = shifted.to_bits().cast_signed().wrapping_sub(ROUND.to_bits().cast_signed());
    let half = n >> 1;
    let power = |n: i32| f32::from_bits((n.wrapping_add(127) << 23).cast_unsigned());
    y * power(half) * power(n.wrapping_sub(half))
}

#[inline(always)]
fn erf_of(x: f32) -> f32 {
    let a = x.abs();
    let a = if a > 4.0 { 4.0 } else { a };
    let near = a * polynomial(ERF, a * a);
    let far = 1.0 - exp_of(-a * a) * polynomial(REST, a);
    let y = if a < 1.0 { near } else { far };
    y.copysign(x)
}

#[inline(always)]
fn sigmoid_of(x: f32) -> f32 {
    1.0 / (1.0 + exp_of(-x))
}

macro_rules! many {
    ($(#[$doc:meta])* $name:ident, $of:ident) => {
        $(#[$doc])*
        pub(super) fn $name(x: &mut [f32]) {
            #[cfg(target_arch = "x86_64")]
            if std::arch::is_x86_feature_detected!("avx2") {
                #[target_feature(enable = "avx2")]
                fn wide(x: &mut [f32]) {
                    for x in x {
                        *x = $of(*x);
                    }
                }
                // SAFETY: the processor has these instructions.
                return unsafe { wide(x) };
            }
            for x in x {
                *x = $of(*x);
            }
        }
    };
}

many!(
    /// `x = eˣ`, to 1.5 units in the last place.
    exp,
    exp_of
);
many!(
    /// `x = erf x`, to 2.5 units in the last place.
    erf,
    erf_of
);
many!(
    /// `x = 1 / (1 + e⁻ˣ)`.
    sigmoid,
    sigmoid_of
);

/// Floats with an exp of many at once.
pub(super) trait Exp: Sized {
    /// `x = eˣ`.
    fn exp_all(x: &mut [Self]);
}

impl Exp for f32 {
    fn exp_all(x: &mut [Self]) {
        exp(x);
    }
}

impl Exp for f64 {
    fn exp_all(x: &mut [Self]) {
        x.iter_mut().for_each(|x| *x = x.exp());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The greatest error over all floats that lie so many apart, in units in the last place of what is right.
    fn worst(f: fn(&mut [f32]), right: fn(f64) -> f64, [from, to]: [f32; 2]) -> f64 {
        let mut worst = 0.0_f64;
        for sign in [1.0, -1.0] {
            for (k, x) in (from.to_bits()..to.to_bits()).step_by(997).map(|b| sign * f32::from_bits(b)).enumerate() {
                // one alone, and among others
                let mut y = vec![x; 1 + k % 3 * 8];
                f(&mut y);
                assert!(y.iter().all(|v| v.to_bits() == y[0].to_bits()), "f({x}) is not the same everywhere");
                let want = right(f64::from(x));
                let unit = f64::from((want as f32).abs().max(f32::MIN_POSITIVE)) * f64::from(f32::EPSILON);
                worst = worst.max((f64::from(y[0]) - want).abs() / unit);
            }
        }
        worst
    }

    #[test]
    fn floats_are_near_what_is_right() {
        let found = [
            worst(exp, f64::exp, [1e-30, 88.7]),
            worst(erf, libm::erf, [1e-30, 5.0]),
            worst(sigmoid, |x| 1.0 / (1.0 + (-x).exp()), [1e-30, 87.0]),
        ];
        assert!(found[0] < 1.5 && found[1] < 2.5 && found[2] < 2.5, "{found:?}");
    }

    #[test]
    fn what_lies_beyond_is_what_it_is() {
        let ends = |f: fn(&mut [f32]), x: f32| {
            let mut y = [x; 9];
            f(&mut y);
            y[8]
        };
        let inf = f32::INFINITY;
        assert_eq!([-inf, -110.0, 89.1, 1e30, inf].map(|x| ends(exp, x)), [0.0, 0.0, inf, inf, inf]);
        assert_eq!([-inf, -4.5, 0.0, 4.5, inf].map(|x| ends(erf, x)), [-1.0, -1.0, 0.0, 1.0, 1.0]);
        assert_eq!([-inf, 0.0, inf].map(|x| ends(sigmoid, x)), [0.0, 0.5, 1.0]);
        assert!(ends(erf, -0.0).is_sign_negative());
        assert!([exp, erf, sigmoid].into_iter().all(|f| ends(f, f32::NAN).is_nan()));
        // a float below the normal ones
        assert!((ends(exp, -100.0) - (-100.0_f64).exp() as f32).abs() <= f32::from_bits(1));
    }
}
