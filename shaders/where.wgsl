// y = c ? a : b with broadcasting, one invocation per element; elements are moved as words.

struct Params {
    n: u32,
    rank: u32,
    shape: array<u32, 8>,
    c_strides: array<u32, 8>,
    a_strides: array<u32, 8>,
    b_strides: array<u32, 8>,
}

@group(0) @binding(0) var<storage, read> c: array<u32>;
@group(0) @binding(1) var<storage, read> a: array<u32>;
@group(0) @binding(2) var<storage, read> b: array<u32>;
@group(0) @binding(3) var<storage, read_write> y: array<u32>;
@group(0) @binding(4) var<storage, read> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = id.x + id.y * groups.x * 64u;
    if i >= params.n { return; }
    var k = 0u;
    var p = 0u;
    var q = 0u;
    var rest = i;
    for (var axis = i32(params.rank) - 1; axis >= 0; axis--) {
        let at = rest % params.shape[axis];
        rest = rest / params.shape[axis];
        k += at * params.c_strides[axis];
        p += at * params.a_strides[axis];
        q += at * params.b_strides[axis];
    }
    if c[k] != 0u { y[i] = a[p]; } else { y[i] = b[q]; }
}
