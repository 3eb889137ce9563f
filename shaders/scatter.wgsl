// y[Σ_d i_d · y_strides_d + index · y_step] ← u[Σ_d i_d · u_strides_d + j · u_step] for j = 0 … count − 1 in
// order, with index = indices[Σ_d i_d · k_strides_d + j · k_step], counted from the end where negative.
// MODE: 0 replaces; 1 adds, 3 multiplies, 5 takes the greater, 7 the smaller of floats; 2, 4, 6, 8 of integers. One invocation walks one line (all j of one i): lines
// never meet in y, so the order of additions is fixed without atomics. Indices out of range are skipped.

struct Params {
    n: u32,
    rank: u32,
    count: u32,
    extent: i32,
    y_step: u32,
    u_step: u32,
    k_step: u32,
    shape: array<u32, 8>,
    y_strides: array<u32, 8>,
    u_strides: array<u32, 8>,
    k_strides: array<u32, 8>,
}

@group(0) @binding(0) var<storage, read> indices: array<i32>;
@group(0) @binding(1) var<storage, read> u: array<u32>;
@group(0) @binding(2) var<storage, read_write> y: array<u32>;
@group(0) @binding(3) var<storage, read> params: Params;

override MODE: u32 = 0u;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = id.x + id.y * groups.x * 64u;
    if i >= params.n { return; }
    var to = 0u;
    var source = 0u;
    var k = 0u;
    var rest = i;
    for (var axis = i32(params.rank) - 1; axis >= 0; axis--) {
        let at = rest % params.shape[axis];
        rest = rest / params.shape[axis];
        to += at * params.y_strides[axis];
        source += at * params.u_strides[axis];
        k += at * params.k_strides[axis];
    }
    for (var j = 0u; j < params.count; j++) {
        var index = indices[k];
        if index < 0 { index += params.extent; }
        if index >= 0 && index < params.extent {
            let place = to + u32(index) * params.y_step;
            let v = u[source];
            switch MODE {
                case 0u: { y[place] = v; }
                case 1u: { y[place] = bitcast<u32>(bitcast<f32>(y[place]) + bitcast<f32>(v)); }
                case 2u: { y[place] = y[place] + v; }
                case 3u: { y[place] = bitcast<u32>(bitcast<f32>(y[place]) * bitcast<f32>(v)); }
                case 4u: { y[place] = y[place] * v; }
                case 5u: { y[place] = bitcast<u32>(max(bitcast<f32>(y[place]), bitcast<f32>(v))); }
                case 6u: { y[place] = bitcast<u32>(max(bitcast<i32>(y[place]), bitcast<i32>(v))); }
                case 7u: { y[place] = bitcast<u32>(min(bitcast<f32>(y[place]), bitcast<f32>(v))); }
                default: { y[place] = bitcast<u32>(min(bitcast<i32>(y[place]), bitcast<i32>(v))); }
            }
        }
        source += params.u_step;
        k += params.k_step;
    }
}
