// y = join(y, x) · scale with x stretched to the shape of y, or y = x for the FIRST operand. One invocation
// per element of y; one dispatch for each operand.

struct Params {
    n: u32,
    rank: u32,
    scale: f32,
    shape: array<u32, 8>,
    strides: array<u32, 8>,
}

@group(0) @binding(0) var<storage, read> x: array<u32>;
@group(0) @binding(1) var<storage, read_write> y: array<u32>;
@group(0) @binding(2) var<storage, read> params: Params;

// 0 sum, 1 max, 2 min
override JOIN: u32 = 0u;
override INT: u32 = 0u;
override FIRST: u32 = 0u;

fn float(p: f32, q: f32) -> f32 {
    switch JOIN {
        // a NaN wins
        case 1u: { return select(p, q, q > p || q != q); }
        case 2u: { return select(p, q, q < p || q != q); }
        default: { return p + q; }
    }
}

fn int(p: i32, q: i32) -> i32 {
    switch JOIN {
        case 1u: { return max(p, q); }
        case 2u: { return min(p, q); }
        default: { return p + q; }
    }
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = id.x + id.y * groups.x * 64u;
    if i >= params.n { return; }
    var at = 0u;
    var rest = i;
    for (var axis = i32(params.rank) - 1; axis >= 0; axis--) {
        at += rest % params.shape[axis] * params.strides[axis];
        rest = rest / params.shape[axis];
    }
    if INT == 1u {
        var v = bitcast<i32>(x[at]);
        if FIRST == 0u { v = int(bitcast<i32>(y[i]), v); }
        y[i] = bitcast<u32>(v);
    } else {
        var v = bitcast<f32>(x[at]);
        if FIRST == 0u { v = float(bitcast<f32>(y[i]), v); }
        y[i] = bitcast<u32>(v * params.scale);
    }
}
