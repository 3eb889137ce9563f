// y[i] = sum_p x[p, i], in order; one invocation an element of y.

struct Params { elements: u32, parts: u32 }

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
@group(0) @binding(2) var<storage, read> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let at = id.x + id.y * groups.x * 64u;
    if at >= params.elements { return; }
    var sum = 0.0;
    for (var p = 0u; p < params.parts; p++) { sum += x[p * params.elements + at]; }
    y[at] = sum;
}
