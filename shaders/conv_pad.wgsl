// Every plane of x with zeros around it: y[plane, i] = x[plane, i - begin]. One invocation makes the element
// at one place of up to 16 planes.

struct Params {
    planes: u32,
    // workgroups that one plane takes
    blocks: u32,
    input: array<u32, 3>,
    padded: array<u32, 3>,
    begin: array<u32, 3>,
}

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
@group(0) @binding(2) var<storage, read> params: Params;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_id) local: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let block = group.x + group.y * groups.x;
    let place = block % params.blocks * 64u + local.x;
    let size = params.padded[0] * params.padded[1] * params.padded[2];
    if place >= size { return; }
    // in front of the input the differences wrap to large numbers
    let i2 = place % params.padded[2] - params.begin[2];
    let i1 = place / params.padded[2] % params.padded[1] - params.begin[1];
    let i0 = place / params.padded[2] / params.padded[1] - params.begin[0];
    let inside = i0 < params.input[0] && i1 < params.input[1] && i2 < params.input[2];
    let source = select(0u, (i0 * params.input[1] + i1) * params.input[2] + i2, inside);
    let step = params.input[0] * params.input[1] * params.input[2];
    let first = block / params.blocks * 16u;
    for (var plane = first; plane < min(first + 16u, params.planes); plane++) {
        y[plane * size + place] = select(0.0, x[plane * step + source], inside);
    }
}
