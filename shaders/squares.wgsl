// z[s, e] = Σ_n u[s, n] · y[n, e]². One invocation does one element e for all s, four at a time, so that
// y is read once for each four sums.

struct Params {
    size: u32,
    samples: u32,
    sums: u32,
}

@group(0) @binding(0) var<storage, read> y: array<f32>;
@group(0) @binding(1) var<storage, read> u: array<f32>;
@group(0) @binding(2) var<storage, read_write> z: array<f32>;
@group(0) @binding(3) var<storage, read> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let e = id.x + id.y * groups.x * 64u;
    if e >= params.size { return; }
    for (var s = 0u; s < params.sums; s += 4u) {
        let count = min(4u, params.sums - s);
        // the last rows stand in for those beyond the end
        let rows = min(vec4(s, s + 1u, s + 2u, s + 3u), vec4(params.sums - 1u)) * params.samples;
        var sum = vec4(0.0);
        for (var n = 0u; n < params.samples; n++) {
            let v = y[n * params.size + e];
            sum += v * v * vec4(u[rows.x + n], u[rows.y + n], u[rows.z + n], u[rows.w + n]);
        }
        for (var k = 0u; k < count; k++) {
            z[(s + k) * params.size + e] = sum[k];
        }
    }
}
