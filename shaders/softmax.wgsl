// y = exp(x − m) / Σ exp(x − m) with m = max x, or its logarithm, along one axis of x as [outer, run,
// inner]. One invocation does one run.

struct Params {
    n: u32,
    run: u32,
    inner: u32,
}

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
@group(0) @binding(2) var<storage, read> params: Params;

override LOG: u32 = 0u;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = id.x + id.y * groups.x * 64u;
    if i >= params.n { return; }
    let inner = params.inner;
    let first = i / inner * inner * params.run + i % inner;
    let end = first + inner * params.run;
    var most = x[first];
    for (var k = first; k < end; k += inner) {
        most = max(most, x[k]);
    }
    var sum = 0.0;
    for (var k = first; k < end; k += inner) {
        let e = exp(x[k] - most);
        sum += e;
        if LOG == 0u { y[k] = e; }
    }
    if LOG == 1u {
        let scale = log(sum);
        for (var k = first; k < end; k += inner) {
            y[k] = x[k] - most - scale;
        }
    } else {
        for (var k = first; k < end; k += inner) {
            y[k] = y[k] / sum;
        }
    }
}
