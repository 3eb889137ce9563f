// dst[dst_offset + Σ_d i_d · dst_strides_d] = src[src_offset + Σ_d i_d · src_strides_d]: one invocation moves
// one word. Serves every op that only moves elements (Transpose, Expand, Slice, Concat, Split, Pad, Tile).

struct Params {
    n: u32,
    rank: u32,
    src_offset: i32,
    dst_offset: i32,
    shape: array<u32, 8>,
    src_strides: array<i32, 8>,
    dst_strides: array<i32, 8>,
}

@group(0) @binding(0) var<storage, read> src: array<u32>;
@group(0) @binding(1) var<storage, read_write> dst: array<u32>;
@group(0) @binding(2) var<storage, read> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = id.x + id.y * groups.x * 64u;
    if i >= params.n { return; }
    var p = params.src_offset;
    var q = params.dst_offset;
    var rest = i;
    for (var axis = i32(params.rank) - 1; axis > 0; axis--) {
        let extent = params.shape[axis];
        let outer = rest / extent;
        let at = i32(rest - outer * extent);
        rest = outer;
        p += at * params.src_strides[axis];
        q += at * params.dst_strides[axis];
    }
    p += i32(rest) * params.src_strides[0];
    q += i32(rest) * params.dst_strides[0];
    dst[q] = src[p];
}
