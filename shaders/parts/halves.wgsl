// The lower (0) or the upper (1) half of a word as the float that it is: IEEE 754 binary16 without infinities and NaN.
// Built from integers, since devices may take the smallest floats for 0.
fn half_of(word: u32, which: u32) -> f32 {
    let bits = (word >> (16u * which)) & 0xffffu;
    let exponent = (bits >> 10u) & 31u;
    let mantissa = bits & 1023u;
    // below 2^-14 a half is a multiple of 2^-24
    let small = bitcast<u32>(f32(mantissa) * 5.9604645e-8);
    let large = ((exponent + 112u) << 23u) | (mantissa << 13u);
    return bitcast<f32>(((bits & 0x8000u) << 16u) | select(large, small, exponent == 0u));
}
