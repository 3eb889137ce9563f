// y = exp(x − m) / Σ exp(x − m) with m = max x, its logarithm, or 1 at the first maximum alone, along one axis
// of x as [outer, run, inner]. One invocation does one run.

struct Params {
    n: u32,
    run: u32,
    inner: u32,
}

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
@group(0) @binding(2) var<storage, read> params: Params;

// 0 softmax, 1 its logarithm, 2 hardmax
override KIND: u32 = 0u;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = id.x + id.y * groups.x * 64u;
    if i >= params.n { return; }
    let inner = params.inner;
    let first = i / inner * inner * params.run + i % inner;
    let end = first + inner * params.run;
    if KIND == 2u {
        var at = first;
        for (var k = first; k < end; k += inner) {
            y[k] = 0.0;
            if x[k] > x[at] { at = k; }
        }
        y[at] = 1.0;
        return;
    }
    var most = x[first];
    for (var k = first; k < end; k += inner) {
        most = max(most, x[k]);
    }
    var sum = 0.0;
    for (var k = first; k < end; k += inner) {
        let e = exp(x[k] - most);
        sum += e;
        if KIND == 0u { y[k] = e; }
    }
    if KIND == 1u {
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
