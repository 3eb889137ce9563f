// The `best` greatest (or least) of `count` elements along an axis, in order, and their places: one invocation
// per element, which counts how many come before it. INT: words are integers. NaN counts as the greatest.

struct Params {
    n: u32,
    count: u32,
    inner: u32,
    best: u32,
    least: u32,
}

@group(0) @binding(0) var<storage, read> x: array<u32>;
@group(0) @binding(1) var<storage, read_write> values: array<u32>;
@group(0) @binding(2) var<storage, read_write> places: array<i32>;
@group(0) @binding(3) var<storage, read> params: Params;

override INT: u32 = 0u;

// integers in the order of the floats, 0 and −0 alike
fn order(v: u32) -> i32 {
    let bits = bitcast<i32>(v);
    if INT != 0u { return bits; }
    if (v & 0x7fffffffu) > 0x7f800000u { return 0x7fffffff; }
    if (v & 0x7fffffffu) == 0u { return 0; }
    return select(bits, -bitcast<i32>(v & 0x7fffffffu), bits < 0);
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = id.x + id.y * groups.x * 64u;
    if i >= params.n { return; }
    let inner = i % params.inner;
    let line = i / params.inner;
    let mine = line % params.count;
    let outer = line / params.count;
    let first = outer * params.count * params.inner + inner;
    let v = order(x[i]);
    var before = 0u;
    for (var k = 0u; k < params.count; k++) {
        let w = order(x[first + k * params.inner]);
        let better = select(w > v, w < v, params.least != 0u);
        if better || (w == v && k < mine) { before++; }
    }
    if before < params.best {
        let to = (outer * params.best + before) * params.inner + inner;
        values[to] = x[i];
        places[to] = i32(mine);
    }
}
