// y = x in another element type, one invocation per element. MODE: 0 float to int (towards zero, cut to
// low … high), 1 number to bool, 2 int to float, 3 int to a narrower int (the lowest `bits` are kept),
// 4 not.

struct Params { n: u32, low: i32, high: i32, bits: u32, signed: u32 }

@group(0) @binding(0) var<storage, read> x: array<u32>;
@group(0) @binding(1) var<storage, read_write> y: array<u32>;
@group(0) @binding(2) var<storage, read> params: Params;

override MODE: u32 = 0u;

fn to_int(v: f32) -> i32 {
    // by its bits, since a comparison with itself may be optimised away: NaN gives 0
    if (bitcast<u32>(v) & 0x7fffffffu) > 0x7f800000u { return 0; }
    // 2147483520 is the greatest f32 below 2³¹
    if v > 2147483520.0 { return params.high; }
    if v < -2147483648.0 { return params.low; }
    return clamp(i32(v), params.low, params.high);
}

fn narrow(v: u32) -> u32 {
    if params.signed == 1u { return bitcast<u32>(extractBits(bitcast<i32>(v), 0u, params.bits)); }
    return extractBits(v, 0u, params.bits);
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = id.x + id.y * groups.x * 64u;
    if i >= params.n { return; }
    let v = x[i];
    switch MODE {
        case 0u: { y[i] = bitcast<u32>(to_int(bitcast<f32>(v))); }
        // −0.0 is false too
        case 1u: { y[i] = u32((v & params.bits) != 0u); }
        case 2u: { y[i] = bitcast<u32>(f32(bitcast<i32>(v))); }
        case 3u: { y[i] = narrow(v); }
        default: { y[i] = 1u - v; }
    }
}
