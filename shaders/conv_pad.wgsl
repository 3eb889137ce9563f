// Every plane of x with zeros around it: y[plane, i] = x[plane, i - begin]. One invocation an element of y.

struct Params {
    elements: u32,
    input: array<u32, 3>,
    padded: array<u32, 3>,
    begin: array<u32, 3>,
}

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
@group(0) @binding(2) var<storage, read> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let at = id.x + id.y * groups.x * 64u;
    if at >= params.elements { return; }
    var rest = at;
    // in front of the input the differences wrap to large numbers
    let i2 = rest % params.padded[2] - params.begin[2];
    rest = rest / params.padded[2];
    let i1 = rest % params.padded[1] - params.begin[1];
    rest = rest / params.padded[1];
    let i0 = rest % params.padded[0] - params.begin[0];
    let plane = rest / params.padded[0];
    var v = 0.0;
    if i0 < params.input[0] && i1 < params.input[1] && i2 < params.input[2] {
        v = x[((plane * params.input[0] + i0) * params.input[1] + i1) * params.input[2] + i2];
    }
    y[at] = v;
}
