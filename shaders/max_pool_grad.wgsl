// dx[i] = sum of dy[o] over the windows o whose maximum lies at i. One invocation an element of dx: it asks
// all windows that see it, in order, so that no two invocations write to one place.

struct Params {
    elements: u32,
    input: array<u32, 3>,
    output: array<u32, 3>,
    kernel: array<u32, 3>,
    stride: array<u32, 3>,
    dilation: array<u32, 3>,
    begin: array<u32, 3>,
}

@group(0) @binding(0) var<storage, read> dy: array<f32>;
@group(0) @binding(1) var<storage, read> indices: array<u32>;
@group(0) @binding(2) var<storage, read_write> dx: array<f32>;
@group(0) @binding(3) var<storage, read> params: Params;

// First and last window that cover element i.
fn windows(axis: u32, i: u32) -> vec2<u32> {
    let place = i + params.begin[axis];
    let reach = (params.kernel[axis] - 1u) * params.dilation[axis];
    var first = 0u;
    if place > reach { first = quotient(place - reach - 1u, params.stride[axis]) + 1u; }
    return vec2<u32>(first, min(quotient(place, params.stride[axis]) + 1u, params.output[axis]));
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
    let row = quotient(at, params.input[2]);
    let slab = quotient(row, params.input[1]);
    let plane = quotient(slab, params.input[0]);
    let w2 = windows(2u, at - row * params.input[2]);
    let w1 = windows(1u, row - slab * params.input[1]);
    let w0 = windows(0u, slab - plane * params.input[0]);
    var sum = 0.0;
    for (var o0 = w0.x; o0 < w0.y; o0++) {
        for (var o1 = w1.x; o1 < w1.y; o1++) {
            let start = ((plane * params.output[0] + o0) * params.output[1] + o1) * params.output[2];
            for (var o2 = w2.x; o2 < w2.y; o2++) {
                if indices[start + o2] == at { sum += dy[start + o2]; }
            }
        }
    }
    dx[at] = sum;
}
