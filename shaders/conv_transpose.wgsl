// ConvTranspose with large strides: y[n, g, c, o] = bias[g, c] + sum of w[g, m, c, k] * x[n, g, m, i] over m and
// those i and k with i * stride + k * dilation - begin = o. One invocation makes one element.

struct Params {
    elements: u32,
    groups: u32,
    m: u32,
    c: u32,
    // extents of x and y
    small: array<u32, 3>,
    large: array<u32, 3>,
    kernel: array<u32, 3>,
    stride: array<u32, 3>,
    dilation: array<u32, 3>,
    begin: array<u32, 3>,
    // stride / gcd(stride, dilation): from one tap that hits an element of x to the next
    every: array<u32, 3>,
}

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> w: array<f32>;
@group(0) @binding(2) var<storage, read> bias: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;
@group(0) @binding(4) var<storage, read> params: Params;

override HAS_BIAS: u32 = 0u;

// The first tap whose distance from element o is a multiple of the stride; the kernel's extent if none.
fn first(axis: u32, o: u32) -> u32 {
    let stride = params.stride[axis];
    let wanted = (o + params.begin[axis]) % stride;
    var found = params.kernel[axis];
    // backwards, without a return inside the loop, which OpenGL on llvmpipe gets wrong
    for (var k = min(params.every[axis], params.kernel[axis]); k > 0u; k--) {
        if (k - 1u) * params.dilation[axis] % stride == wanted { found = k - 1u; }
    }
    return found;
}

// The element of x that tap k hits from o: beyond x where there is none.
fn hit(axis: u32, o: u32, k: u32) -> u32 {
    let place = o + params.begin[axis];
    let tap = k * params.dilation[axis];
    if place < tap { return 0xffffffffu; }
    return (place - tap) / params.stride[axis];
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let at = id.x + id.y * groups.x * 64u;
    if at >= params.elements { return; }
    var rest = at;
    let o2 = rest % params.large[2];
    rest = rest / params.large[2];
    let o1 = rest % params.large[1];
    rest = rest / params.large[1];
    let o0 = rest % params.large[0];
    rest = rest / params.large[0];
    let c = rest % params.c;
    let plane = rest / params.c;
    let g = plane % params.groups;
    let size = params.small[0] * params.small[1] * params.small[2];
    let taps = params.kernel[0] * params.kernel[1] * params.kernel[2];
    let first1 = first(1u, o1);
    let first2 = first(2u, o2);
    var sum = 0.0;
    if HAS_BIAS == 1u { sum = bias[g * params.c + c]; }
    for (var k0 = first(0u, o0); k0 < params.kernel[0]; k0 += params.every[0]) {
        let i0 = hit(0u, o0, k0);
        if i0 >= params.small[0] { continue; }
        for (var k1 = first1; k1 < params.kernel[1]; k1 += params.every[1]) {
            let i1 = hit(1u, o1, k1);
            if i1 >= params.small[1] { continue; }
            for (var k2 = first2; k2 < params.kernel[2]; k2 += params.every[2]) {
                let i2 = hit(2u, o2, k2);
                if i2 >= params.small[2] { continue; }
                var p = plane * params.m * size + (i0 * params.small[1] + i1) * params.small[2] + i2;
                var q = (g * params.m * params.c + c) * taps + (k0 * params.kernel[1] + k1) * params.kernel[2] + k2;
                for (var m = 0u; m < params.m; m++) {
                    sum += w[q] * x[p];
                    p += size;
                    q += params.c * taps;
                }
            }
        }
    }
    y[at] = sum;
}
