// The end of a reduction that went through partial results: y = FINISH(x joined over the parts), where x
// is [parts, n] as reduce.wgsl left it in scratch. One invocation per output element. The constants are
// those of reduce.wgsl.

struct Params {
    n: u32,
    parts: u32,
    // elements that an output is made of
    total: u32,
}

@group(0) @binding(0) var<storage, read_write> x: array<u32>;
@group(0) @binding(1) var<storage, read_write> y: array<u32>;
@group(0) @binding(2) var<storage, read> params: Params;

override JOIN: u32 = 0u;
override FINISH: u32 = 0u;
override INT: u32 = 0u;

fn join(p: f32, q: f32) -> f32 {
    switch JOIN {
        // a NaN wins
        case 1u: { return select(p, q, q > p || q != q); }
        case 2u: { return select(p, q, q < p || q != q); }
        case 3u: { return p * q; }
        default: { return p + q; }
    }
}

fn join_int(p: i32, q: i32) -> i32 {
    switch JOIN {
        case 1u: { return max(p, q); }
        case 2u: { return min(p, q); }
        case 3u: { return p * q; }
        default: { return p + q; }
    }
}

// some drivers make a finite number of log(0); constants may not be infinite
fn logarithm(v: f32) -> f32 {
    var lowest = 0xff800000u;
    if v == 0.0 { return bitcast<f32>(lowest); }
    return log(v);
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = id.x + id.y * groups.x * 64u;
    if i >= params.n { return; }
    if INT == 1u {
        var v = bitcast<i32>(x[i]);
        for (var p = 1u; p < params.parts; p++) {
            v = join_int(v, bitcast<i32>(x[p * params.n + i]));
        }
        if FINISH == 1u { v = v / i32(params.total); }
        y[i] = bitcast<u32>(v);
        return;
    }
    var v = bitcast<f32>(x[i]);
    for (var p = 1u; p < params.parts; p++) {
        v = join(v, bitcast<f32>(x[p * params.n + i]));
    }
    switch FINISH {
        case 1u: { v = v / f32(params.total); }
        case 2u: { v = sqrt(v); }
        case 3u: { v = logarithm(v); }
        default: {}
    }
    y[i] = bitcast<u32>(v);
}
