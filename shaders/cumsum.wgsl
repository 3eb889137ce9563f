// Running sums along an axis of `count` elements: one invocation per line. INT: words are integers.

struct Params {
    n: u32,
    count: u32,
    inner: u32,
    exclusive: u32,
    reverse: u32,
}

@group(0) @binding(0) var<storage, read> x: array<u32>;
@group(0) @binding(1) var<storage, read_write> y: array<u32>;
@group(0) @binding(2) var<storage, read> params: Params;

override INT: u32 = 0u;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = id.x + id.y * groups.x * 64u;
    if i >= params.n { return; }
    let first = i / params.inner * params.count * params.inner + i % params.inner;
    var sum = 0.0;
    var whole = 0u;
    for (var k = 0u; k < params.count; k++) {
        let at = first + select(k, params.count - 1u - k, params.reverse != 0u) * params.inner;
        let v = x[at];
        if params.exclusive != 0u { y[at] = select(bitcast<u32>(sum), whole, INT != 0u); }
        sum += bitcast<f32>(v);
        whole += v;
        if params.exclusive == 0u { y[at] = select(bitcast<u32>(sum), whole, INT != 0u); }
    }
}
