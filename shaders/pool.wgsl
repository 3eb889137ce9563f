// One number of every window over a plane: OP 0 its greatest element, 1 the place of the first such in the
// flattened x, 2 its sum divided by the taps inside the input or, with COUNT_PADS, inside the declared
// padding. One invocation a window. Padding has no elements. The maximum of a window with a NaN is NaN.

struct Params {
    elements: u32,
    input: array<u32, 3>,
    output: array<u32, 3>,
    kernel: array<u32, 3>,
    stride: array<u32, 3>,
    dilation: array<u32, 3>,
    begin: array<u32, 3>,
    end: array<u32, 3>,
}

@group(0) @binding(0) var<storage, read> x: array<u32>;
@group(0) @binding(1) var<storage, read_write> y: array<u32>;
@group(0) @binding(2) var<storage, read> params: Params;

override OP: u32 = 0u;
override COUNT_PADS: u32 = 0u;
// elements are i32
override INT: u32 = 0u;

// Taps of the window from `first` that lie below `limit`, both counted from the start of the padding.
fn below(axis: u32, first: u32, limit: u32) -> u32 {
    if first >= limit { return 0u; }
    return min((limit - first - 1u) / params.dilation[axis] + 1u, params.kernel[axis]);
}

// The tap from which on the window sees the input.
fn skipped(axis: u32, first: u32) -> u32 {
    if first >= params.begin[axis] { return 0u; }
    return (params.begin[axis] - first - 1u) / params.dilation[axis] + 1u;
}

fn padded(axis: u32, first: u32) -> u32 {
    return below(axis, first, params.begin[axis] + params.input[axis] + params.end[axis]);
}

fn replaces(v: u32, best: u32) -> bool {
    if INT == 1u { return bitcast<i32>(v) > bitcast<i32>(best); }
    let p = bitcast<f32>(v);
    let q = bitcast<f32>(best);
    return !(p <= q) && q == q;
}

// a / b. CPU adapters divide integers lane by lane, floats all at once: a first quotient, then what it missed.
fn quotient(a: u32, b: u32) -> u32 {
    let first = u32(f32(a) / f32(b));
    let more = first + u32(i32(f32(i32(a - first * b)) / f32(b)));
    let rest = i32(a - more * b);
    return more + u32(rest >= i32(b)) - u32(rest < 0);
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let at = id.x + id.y * groups.x * 64u;
    if at >= params.elements { return; }
    let row = quotient(at, params.output[2]);
    let slab = quotient(row, params.output[1]);
    let plane = quotient(slab, params.output[0]);
    let f2 = (at - row * params.output[2]) * params.stride[2];
    let f1 = (row - slab * params.output[1]) * params.stride[1];
    let f0 = (slab - plane * params.output[0]) * params.stride[0];
    let from0 = skipped(0u, f0);
    let from1 = skipped(1u, f1);
    let from2 = skipped(2u, f2);
    let to0 = below(0u, f0, params.begin[0] + params.input[0]);
    let to1 = below(1u, f1, params.begin[1] + params.input[1]);
    let to2 = below(2u, f2, params.begin[2] + params.input[2]);
    var best = 0u;
    var place = 0xffffffffu;
    var sum = 0.0;
    for (var k0 = from0; k0 < to0; k0++) {
        let i0 = f0 + k0 * params.dilation[0] - params.begin[0];
        for (var k1 = from1; k1 < to1; k1++) {
            let i1 = f1 + k1 * params.dilation[1] - params.begin[1];
            let start = ((plane * params.input[0] + i0) * params.input[1] + i1) * params.input[2];
            for (var k2 = from2; k2 < to2; k2++) {
                let i = start + f2 + k2 * params.dilation[2] - params.begin[2];
                let v = x[i];
                sum += bitcast<f32>(v);
                if place == 0xffffffffu || replaces(v, best) {
                    best = v;
                    place = i;
                }
            }
        }
    }
    switch OP {
        case 0u: { y[at] = best; }
        case 1u: { y[at] = place; }
        default: {
            var count = (to0 - from0) * (to1 - from1) * (to2 - from2);
            if COUNT_PADS == 1u { count = padded(0u, f0) * padded(1u, f1) * padded(2u, f2); }
            y[at] = bitcast<u32>(sum / f32(count));
        }
    }
}
