// Where every k of a sum lies in two buffers: linear in its four indices. The last k stands for those that fill up the last
// four. Places in the second buffer come after those in the first.

struct Params {
    k: u32,
    fours: u32,
    extents: array<u32, 4>,
    first: array<u32, 4>,
    second: array<u32, 4>,
}

@group(0) @binding(0) var<storage, read_write> places: array<u32>;
@group(0) @binding(1) var<storage, read> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let k = id.x + id.y * groups.x * 64u;
    if k >= 4u * params.fours { return; }
    var rest = min(k, params.k - 1u);
    var at = vec2<u32>();
    for (var axis = 3i; axis >= 0; axis--) {
        let i = rest % params.extents[axis];
        rest = rest / params.extents[axis];
        at += vec2<u32>(i * params.first[axis], i * params.second[axis]);
    }
    places[k] = at.x;
    places[4u * params.fours + k] = at.y;
}
