// a negative base is right for whole exponents only, as in ONNX
fn power(p: f32, q: f32) -> f32 {
    if q == floor(q) && abs(q) <= 32.0 {
        // products are exact where pow is not
        let r = product(p, u32(abs(q)));
        return select(r, 1.0 / r, q < 0.0);
    }
    let r = pow(abs(p), q);
    if p < 0.0 && floor(q) == q && fract(q * 0.5) != 0.0 { return -r; }
    return r;
}

fn product(p: f32, q: u32) -> f32 {
    var r = 1.0;
    var square = p;
    for (var rest = q; rest > 0u; rest >>= 1u) {
        if (rest & 1u) == 1u { r *= square; }
        square *= square;
    }
    return r;
}

// p − q · k with the whole number k that p / q is cut to; the quotient's rounding is made up for
fn remainder(p: f32, q: f32) -> f32 {
    let size = abs(q);
    var r = abs(p) - size * trunc(abs(p) / size);
    if r < 0.0 { r += size; }
    if r >= size { r -= size; }
    return select(r, -r, p < 0.0);
}

// Arithmetic of two elements, by the number that OP has in binary.wgsl.

fn operation_0(p: f32, q: f32) -> f32 { return p + q; }
fn operation_1(p: f32, q: f32) -> f32 { return p - q; }
fn operation_2(p: f32, q: f32) -> f32 { return p * q; }
fn operation_3(p: f32, q: f32) -> f32 { return p / q; }
fn operation_4(p: f32, q: f32) -> f32 { return power(p, q); }
fn operation_6(p: f32, q: f32) -> f32 { return remainder(p, q); }
