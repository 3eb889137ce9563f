// Conv, and with TRANSPOSED ConvTranspose, of few channels per group: y[n, g, m, o] = bias[g, m] +
// sum_{c, k} w[g, m, c, k] * x[n, g, c, i], where i = o * stride + k * dilation - begin, or for
// ConvTranspose the i with i * stride + k * dilation - begin = o. One invocation makes one element.

struct Params {
    elements: u32,
    groups: u32,
    c: u32,
    m: u32,
    w_g: u32,
    w_m: u32,
    w_c: u32,
    input: array<u32, 3>,
    output: array<u32, 3>,
    kernel: array<u32, 3>,
    stride: array<u32, 3>,
    dilation: array<u32, 3>,
    begin: array<u32, 3>,
}

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> w: array<f32>;
@group(0) @binding(2) var<storage, read> bias: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;
@group(0) @binding(4) var<storage, read> params: Params;

override HAS_BIAS: u32 = 0u;
override TRANSPOSED: u32 = 0u;

// The input's index that tap k sees from output index o; beyond the input where there is none.
fn seen(axis: u32, o: u32, k: u32) -> u32 {
    let tap = k * params.dilation[axis];
    if TRANSPOSED == 1u {
        let t = o + params.begin[axis];
        if t < tap || (t - tap) % params.stride[axis] != 0u { return 0xffffffffu; }
        return (t - tap) / params.stride[axis];
    }
    // below the input the difference wraps to a large number
    return o * params.stride[axis] + tap - params.begin[axis];
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let at = id.x + id.y * groups.x * 64u;
    if at >= params.elements { return; }
    var rest = at;
    let o2 = rest % params.output[2];
    rest = rest / params.output[2];
    let o1 = rest % params.output[1];
    rest = rest / params.output[1];
    let o0 = rest % params.output[0];
    rest = rest / params.output[0];
    let m = rest % params.m;
    let plane = rest / params.m;
    let g = plane % params.groups;
    let size = params.input[0] * params.input[1] * params.input[2];
    var sum = 0.0;
    if HAS_BIAS == 1u { sum = bias[g * params.m + m]; }
    let w_base = g * params.w_g + m * params.w_m;
    for (var k0 = 0u; k0 < params.kernel[0]; k0++) {
        let i0 = seen(0u, o0, k0);
        if i0 >= params.input[0] { continue; }
        for (var k1 = 0u; k1 < params.kernel[1]; k1++) {
            let i1 = seen(1u, o1, k1);
            if i1 >= params.input[1] { continue; }
            for (var k2 = 0u; k2 < params.kernel[2]; k2++) {
                let i2 = seen(2u, o2, k2);
                if i2 >= params.input[2] { continue; }
                var p = plane * params.c * size + (i0 * params.input[1] + i1) * params.input[2] + i2;
                var q = w_base + (k0 * params.kernel[1] + k1) * params.kernel[2] + k2;
                for (var c = 0u; c < params.c; c++) {
                    sum += w[q] * x[p];
                    p += size;
                    q += params.w_c;
                }
            }
        }
    }
    y[at] = sum;
}
