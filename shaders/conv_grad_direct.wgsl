// dw as in conv_grad.wgsl, for few channels m per group or where x is too large to pad: one invocation
// makes one element of one part (and one set, if SQUARED), reading x in place.

struct Params {
    samples: u32,
    parts: u32,
    sets: u32,
    groups: u32,
    m: u32,
    c: u32,
    elements: u32,
    input: array<u32, 3>,
    output: array<u32, 3>,
    kernel: array<u32, 3>,
    stride: array<u32, 3>,
    dilation: array<u32, 3>,
    begin: array<u32, 3>,
}

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> dy: array<f32>;
@group(0) @binding(2) var<storage, read> u: array<f32>;
@group(0) @binding(3) var<storage, read_write> dw: array<f32>;
@group(0) @binding(4) var<storage, read> params: Params;

override SQUARED: u32 = 0u;

// Below the input the difference wraps to a large number.
fn seen(axis: u32, o: u32, k: u32) -> u32 {
    return o * params.stride[axis] + k * params.dilation[axis] - params.begin[axis];
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let at = id.x + id.y * groups.x * 64u;
    if at >= params.elements { return; }
    var rest = at;
    let k2 = rest % params.kernel[2];
    rest = rest / params.kernel[2];
    let k1 = rest % params.kernel[1];
    rest = rest / params.kernel[1];
    let k0 = rest % params.kernel[0];
    rest = rest / params.kernel[0];
    let c = rest % params.c;
    rest = rest / params.c;
    // of all groups
    let m = rest % (params.groups * params.m);
    rest = rest / (params.groups * params.m);
    let s = rest % params.sets;
    let part = rest / params.sets;
    let channel = m / params.m * params.c + c;
    let size = params.input[0] * params.input[1] * params.input[2];
    let positions = params.output[0] * params.output[1] * params.output[2];
    var total = 0.0;
    let end = (part + 1u) * params.samples / params.parts;
    for (var n = part * params.samples / params.parts; n < end; n++) {
        let p = (n * params.groups * params.c + channel) * size;
        let q = (n * params.groups * params.m + m) * positions;
        var sum = 0.0;
        for (var o0 = 0u; o0 < params.output[0]; o0++) {
            let i0 = seen(0u, o0, k0);
            if i0 >= params.input[0] { continue; }
            for (var o1 = 0u; o1 < params.output[1]; o1++) {
                let i1 = seen(1u, o1, k1);
                if i1 >= params.input[1] { continue; }
                let row = p + (i0 * params.input[1] + i1) * params.input[2];
                let d = q + (o0 * params.output[1] + o1) * params.output[2];
                for (var o2 = 0u; o2 < params.output[2]; o2++) {
                    let i2 = seen(2u, o2, k2);
                    if i2 < params.input[2] { sum += dy[d + o2] * x[row + i2]; }
                }
            }
        }
        if SQUARED == 1u { total += u[s * params.samples + n] * sum * sum; } else { total += sum; }
    }
    dw[at] = total;
}
