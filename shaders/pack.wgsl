// y[row, k] = w[first + group * w_g + channel * w_m + places[k]], rows of whole fours with zeros at their ends. One invocation
// makes four elements.

struct Params { rows: u32, m: u32, k: u32, fours: u32, w_first: u32, w_g: u32, w_m: u32 }

@group(0) @binding(0) var<storage, read> w: array<f32>;
// places in x come first
@group(0) @binding(1) var<storage, read> places: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read_write> y: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = id.x + id.y * groups.x * 64u;
    if i >= params.rows * params.fours { return; }
    let row = i / params.fours;
    let four = i % params.fours;
    let at = params.w_first + row / params.m * params.w_g + row % params.m * params.w_m + places[params.fours + four];
    let live = 4u * four + vec4<u32>(0u, 1u, 2u, 3u) < vec4<u32>(params.k);
    y[i] = select(vec4<f32>(), vec4<f32>(w[at.x], w[at.y], w[at.z], w[at.w]), live);
}
