// y = f(x over the reduced axes), one invocation per output element. The element's place among the kept
// axes gives its first x; the innermost reduced axis is a run of equal steps, the others are counted
// around it. Each run is folded on its own first, which keeps long sums exact. OP picks f, INT the
// element type, when the pipeline is made.

struct Params {
    n: u32,
    kept_rank: u32,
    gone_rank: u32,
    outer: u32,
    run: u32,
    run_stride: u32,
    kept: array<u32, 8>,
    kept_strides: array<u32, 8>,
    gone: array<u32, 8>,
    gone_strides: array<u32, 8>,
}

@group(0) @binding(0) var<storage, read> x: array<u32>;
@group(0) @binding(1) var<storage, read_write> y: array<u32>;
@group(0) @binding(2) var<storage, read> params: Params;

override OP: u32 = 0u;
override INT: u32 = 0u;

fn run_sum(first: u32) -> f32 {
    var sum = 0.0;
    for (var k = 0u; k < params.run; k++) {
        sum += bitcast<f32>(x[first + k * params.run_stride]);
    }
    return sum;
}

fn run_sum_int(first: u32) -> i32 {
    var sum = 0;
    for (var k = 0u; k < params.run; k++) {
        sum += bitcast<i32>(x[first + k * params.run_stride]);
    }
    return sum;
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = id.x + id.y * groups.x * 64u;
    if i >= params.n { return; }
    var base = 0u;
    var rest = i;
    for (var axis = i32(params.kept_rank) - 1; axis >= 0; axis--) {
        base += rest % params.kept[axis] * params.kept_strides[axis];
        rest = rest / params.kept[axis];
    }
    var sum = 0.0;
    var sum_int = 0;
    for (var o = 0u; o < params.outer; o++) {
        var first = base;
        rest = o;
        for (var axis = i32(params.gone_rank) - 1; axis >= 0; axis--) {
            first += rest % params.gone[axis] * params.gone_strides[axis];
            rest = rest / params.gone[axis];
        }
        if INT == 1u { sum_int += run_sum_int(first); } else { sum += run_sum(first); }
    }
    let count = params.outer * params.run;
    if INT == 1u {
        if OP == 1u { sum_int = sum_int / i32(count); }
        y[i] = bitcast<u32>(sum_int);
    } else {
        if OP == 1u { sum = sum / f32(count); }
        y[i] = bitcast<u32>(sum);
    }
}
