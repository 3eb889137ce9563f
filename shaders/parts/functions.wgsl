// Abramowitz and Stegun 7.1.26 errs by 1.5e-7: too coarse near 0, where the Maclaurin series takes over.
fn erf(v: f32) -> f32 {
    let s = v * v;
    if s < 1.0 {
        var term = v;
        var sum = v;
        for (var k = 1u; k < 12u; k++) {
            term = -term * s / f32(k);
            sum += term / f32(2u * k + 1u);
        }
        return 1.1283791671 * sum;
    }
    let t = 1.0 / (1.0 + 0.3275911 * abs(v));
    let poly = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))));
    return sign(v) * (1.0 - poly * exp(-s));
}

// that of a driver may err by 1e-4; halving the angle brings the argument below 0.42, where the series is short
fn arc_tangent(v: f32) -> f32 {
    let size = abs(v);
    let small = select(size, 1.0 / size, size > 1.0);
    let half = small / (1.0 + sqrt(1.0 + small * small));
    let s = -half * half;
    var sum = 1.0 / 19.0;
    for (var k = 8; k >= 0; k--) {
        sum = sum * s + 1.0 / f32(2 * k + 1);
    }
    let angle = 2.0 * half * sum;
    return select(1.0, -1.0, v < 0.0) * select(angle, 1.57079632679 - angle, size > 1.0);
}

fn arc_sine(v: f32) -> f32 {
    return arc_tangent(v / sqrt((1.0 - v) * (1.0 + v)));
}

// Where v lies on the circle, as sine and cosine: WGSL lets those of a driver err by 5e-4. The quarter turns taken
// off are π/2 in three parts, of which the first two are exact in products with whole numbers below 2¹³; the rest is
// within π/4, where the series is short.
fn circle(v: f32) -> vec2<f32> {
    let quarters = round(v * 0.636619772);
    if abs(quarters) >= 65536.0 { return vec2<f32>(sin(v), cos(v)); }
    let r = ((v - quarters * 1.5703125) - quarters * 4.837512969970703e-4) - quarters * 7.549789954891882e-8;
    let s = r * r;
    let sine = r * (1.0 + s * (-1.0 / 6.0 + s * (1.0 / 120.0 + s * (-1.0 / 5040.0 + s / 362880.0))));
    let cosine = 1.0 + s * (-0.5 + s * (1.0 / 24.0 + s * (-1.0 / 720.0 + s * (1.0 / 40320.0 - s / 3628800.0))));
    switch i32(quarters) & 3 {
        case 1: { return vec2<f32>(cosine, -sine); }
        case 2: { return vec2<f32>(-sine, -cosine); }
        case 3: { return vec2<f32>(-cosine, sine); }
        default: { return vec2<f32>(sine, cosine); }
    }
}

// some drivers make a finite number of log(0); constants may not be infinite
fn logarithm(v: f32) -> f32 {
    var lowest = 0xff800000u;
    if v == 0.0 { return bitcast<f32>(lowest); }
    return log(v);
}

// The functions of one element v, with parameters a and b, by the number that OP has in unary.wgsl.

fn function_0(v: f32, a: f32, b: f32) -> f32 { return select(v, 0.0, v < 0.0); }
fn function_1(v: f32, a: f32, b: f32) -> f32 { return select(v, a * v, v < 0.0); }
fn function_2(v: f32, a: f32, b: f32) -> f32 { return 1.0 / (1.0 + exp(-v)); }
// some drivers overflow inside tanh
fn function_3(v: f32, a: f32, b: f32) -> f32 { return tanh(clamp(v, -15.0, 15.0)); }
fn function_4(v: f32, a: f32, b: f32) -> f32 { return exp(v); }
fn function_5(v: f32, a: f32, b: f32) -> f32 { return logarithm(v); }
fn function_6(v: f32, a: f32, b: f32) -> f32 { return sqrt(v); }
fn function_7(v: f32, a: f32, b: f32) -> f32 { return -v; }
fn function_8(v: f32, a: f32, b: f32) -> f32 { return erf(v); }
fn function_9(v: f32, a: f32, b: f32) -> f32 { return clamp(a * v + b, 0.0, 1.0); }
fn function_10(v: f32, a: f32, b: f32) -> f32 { return v * clamp(v / 6.0 + 0.5, 0.0, 1.0); }
fn function_11(v: f32, a: f32, b: f32) -> f32 { return min(max(v, a), b); }
fn function_12(v: f32, a: f32, b: f32) -> f32 { return max(v, 0.0) + log(1.0 + exp(-abs(v))); }
fn function_13(v: f32, a: f32, b: f32) -> f32 { return 1.0 / v; }
fn function_14(v: f32, a: f32, b: f32) -> f32 { return abs(v); }
fn function_15(v: f32, a: f32, b: f32) -> f32 { return sign(v); }
fn function_16(v: f32, a: f32, b: f32) -> f32 { return floor(v); }
fn function_17(v: f32, a: f32, b: f32) -> f32 { return ceil(v); }
// halves go to the even side
fn function_18(v: f32, a: f32, b: f32) -> f32 { return round(v); }
fn function_19(v: f32, a: f32, b: f32) -> f32 { return circle(v).x; }
fn function_20(v: f32, a: f32, b: f32) -> f32 { return circle(v).y; }
fn function_21(v: f32, a: f32, b: f32) -> f32 {
    let at = circle(v);
    return at.x / at.y;
}
fn function_22(v: f32, a: f32, b: f32) -> f32 { return arc_sine(v); }
fn function_23(v: f32, a: f32, b: f32) -> f32 { return 1.57079632679 - arc_sine(v); }
fn function_24(v: f32, a: f32, b: f32) -> f32 { return arc_tangent(v); }
fn function_25(v: f32, a: f32, b: f32) -> f32 { return 0.5 * (exp(v) - exp(-v)); }
fn function_26(v: f32, a: f32, b: f32) -> f32 { return 0.5 * (exp(v) + exp(-v)); }
fn function_27(v: f32, a: f32, b: f32) -> f32 { return sign(v) * log(abs(v) + sqrt(v * v + 1.0)); }
fn function_28(v: f32, a: f32, b: f32) -> f32 { return log(v + sqrt((v - 1.0) * (v + 1.0))); }
fn function_29(v: f32, a: f32, b: f32) -> f32 { return 0.5 * log((1.0 + v) / (1.0 - v)); }
fn function_30(v: f32, a: f32, b: f32) -> f32 { return select(a * (exp(v) - 1.0), v, v > 0.0); }
fn function_31(v: f32, a: f32, b: f32) -> f32 { return b * select(a * (exp(v) - 1.0), v, v > 0.0); }
fn function_32(v: f32, a: f32, b: f32) -> f32 { return max(v, 0.0) + min(a * (exp(v / a) - 1.0), 0.0); }
fn function_33(v: f32, a: f32, b: f32) -> f32 { return select(0.0, v, v > a); }
fn function_34(v: f32, a: f32, b: f32) -> f32 { return v / (1.0 + abs(v)); }
