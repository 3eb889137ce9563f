// y = x · (bias + factor · Σ x²)^(−beta), summed over size neighbouring channels from `before` channels
// ahead; x is [batch, channels, inner]. One invocation per element.

struct Params {
    n: u32,
    channels: u32,
    inner: u32,
    before: u32,
    size: u32,
    factor: f32,
    beta: f32,
    bias: f32,
}

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
@group(0) @binding(2) var<storage, read> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = id.x + id.y * groups.x * 64u;
    if i >= params.n { return; }
    let c = i / params.inner % params.channels;
    // the same place in channel 0
    let base = i - c * params.inner;
    let first = c - min(c, params.before);
    let end = min(c + params.size - params.before, params.channels);
    var sum = 0.0;
    for (var k = first; k < end; k++) {
        let v = x[base + k * params.inner];
        sum += v * v;
    }
    y[i] = x[i] * pow(params.bias + params.factor * sum, -params.beta);
}
