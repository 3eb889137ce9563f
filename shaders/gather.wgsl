// y[i] = x[Σ_d i_d · x_strides_d + index · step] with index = indices[Σ_d i_d · k_strides_d], counted from the
// end where negative: one invocation per element of y, moved as a word. An index out of range gives 0.

struct Params {
    n: u32,
    rank: u32,
    extent: i32,
    step: u32,
    shape: array<u32, 8>,
    x_strides: array<u32, 8>,
    k_strides: array<u32, 8>,
}

@group(0) @binding(0) var<storage, read> x: array<u32>;
@group(0) @binding(1) var<storage, read> indices: array<i32>;
@group(0) @binding(2) var<storage, read_write> y: array<u32>;
@group(0) @binding(3) var<storage, read> params: Params;

// Whether x is halves, two to a word.
override HALVES: u32 = 0u;

//: include halves

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = id.x + id.y * groups.x * 64u;
    if i >= params.n { return; }
    var source = 0u;
    var k = 0u;
    var rest = i;
    for (var axis = i32(params.rank) - 1; axis >= 0; axis--) {
        let at = rest % params.shape[axis];
        rest = rest / params.shape[axis];
        source += at * params.x_strides[axis];
        k += at * params.k_strides[axis];
    }
    var index = indices[k];
    if index < 0 { index += params.extent; }
    if index >= 0 && index < params.extent {
        let place = source + u32(index) * params.step;
        if HALVES == 1u {
            y[i] = bitcast<u32>(half_of(x[place / 2u], place % 2u));
        } else {
            y[i] = x[place];
        }
    } else {
        y[i] = 0u;
    }
}
