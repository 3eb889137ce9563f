// y[z] = alpha * a[z] * b[z] (+ beta * c), batched with broadcasting. One invocation makes 8 rows of 8
// columns; neighbours along x make neighbouring columns. Nothing is shared, which suits CPU adapters.
// Indices beyond the edge are clamped when loading and skipped when storing.

struct Params {
    m: u32,
    n: u32,
    k: u32,
    batches: u32,
    rank: u32,
    a_strides: array<u32, 2>,
    b_strides: array<u32, 2>,
    c_strides: array<u32, 2>,
    alpha: f32,
    beta: f32,
    shape: array<u32, 8>,
    a_batch: array<u32, 8>,
    b_batch: array<u32, 8>,
}

@group(0) @binding(0) var<storage, read> a: array<f32>;
@group(0) @binding(1) var<storage, read> b: array<f32>;
@group(0) @binding(2) var<storage, read> c: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;
@group(0) @binding(4) var<storage, read> params: Params;

override HAS_C: u32 = 0u;

fn store(z: u32, row: u32, col: u32, v: vec4<f32>) {
    if row >= params.m { return; }
    for (var i = 0u; i < 4u; i++) {
        let j = col + i;
        if j < params.n {
            var r = params.alpha * v[i];
            if HAS_C == 1u { r += params.beta * c[row * params.c_strides[0] + j * params.c_strides[1]]; }
            y[(z * params.m + row) * params.n + j] = r;
        }
    }
}

@compute @workgroup_size(8, 8)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_id) local: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let row = group.y * 64u + local.y * 8u;
    let col = group.x * 64u + local.x * 8u;
    if row >= params.m || col >= params.n { return; }
    let p0 = min(row + 0u, params.m - 1u) * params.a_strides[0];
    let p1 = min(row + 1u, params.m - 1u) * params.a_strides[0];
    let p2 = min(row + 2u, params.m - 1u) * params.a_strides[0];
    let p3 = min(row + 3u, params.m - 1u) * params.a_strides[0];
    let p4 = min(row + 4u, params.m - 1u) * params.a_strides[0];
    let p5 = min(row + 5u, params.m - 1u) * params.a_strides[0];
    let p6 = min(row + 6u, params.m - 1u) * params.a_strides[0];
    let p7 = min(row + 7u, params.m - 1u) * params.a_strides[0];
    let q0 = min(col + 0u, params.n - 1u) * params.b_strides[1];
    let q1 = min(col + 1u, params.n - 1u) * params.b_strides[1];
    let q2 = min(col + 2u, params.n - 1u) * params.b_strides[1];
    let q3 = min(col + 3u, params.n - 1u) * params.b_strides[1];
    let q4 = min(col + 4u, params.n - 1u) * params.b_strides[1];
    let q5 = min(col + 5u, params.n - 1u) * params.b_strides[1];
    let q6 = min(col + 6u, params.n - 1u) * params.b_strides[1];
    let q7 = min(col + 7u, params.n - 1u) * params.b_strides[1];
    for (var z = group.z; z < params.batches; z += groups.z) {
        var at_a = 0u;
        var at_b = 0u;
        var rest = z;
        for (var axis = i32(params.rank) - 1; axis >= 0; axis--) {
            let i = rest % params.shape[axis];
            rest = rest / params.shape[axis];
            at_a += i * params.a_batch[axis];
            at_b += i * params.b_batch[axis];
        }
        var s00 = vec4<f32>();
        var s01 = vec4<f32>();
        var s10 = vec4<f32>();
        var s11 = vec4<f32>();
        var s20 = vec4<f32>();
        var s21 = vec4<f32>();
        var s30 = vec4<f32>();
        var s31 = vec4<f32>();
        var s40 = vec4<f32>();
        var s41 = vec4<f32>();
        var s50 = vec4<f32>();
        var s51 = vec4<f32>();
        var s60 = vec4<f32>();
        var s61 = vec4<f32>();
        var s70 = vec4<f32>();
        var s71 = vec4<f32>();
        for (var k = 0u; k < params.k; k++) {
            let b0 = vec4<f32>(b[at_b + q0], b[at_b + q1], b[at_b + q2], b[at_b + q3]);
            let b1 = vec4<f32>(b[at_b + q4], b[at_b + q5], b[at_b + q6], b[at_b + q7]);
            let a0 = a[at_a + p0];
            let a1 = a[at_a + p1];
            let a2 = a[at_a + p2];
            let a3 = a[at_a + p3];
            let a4 = a[at_a + p4];
            let a5 = a[at_a + p5];
            let a6 = a[at_a + p6];
            let a7 = a[at_a + p7];
            s00 += a0 * b0;
            s01 += a0 * b1;
            s10 += a1 * b0;
            s11 += a1 * b1;
            s20 += a2 * b0;
            s21 += a2 * b1;
            s30 += a3 * b0;
            s31 += a3 * b1;
            s40 += a4 * b0;
            s41 += a4 * b1;
            s50 += a5 * b0;
            s51 += a5 * b1;
            s60 += a6 * b0;
            s61 += a6 * b1;
            s70 += a7 * b0;
            s71 += a7 * b1;
            at_a += params.a_strides[1];
            at_b += params.b_strides[0];
        }
        store(z, row + 0u, col, s00);
        store(z, row + 0u, col + 4u, s01);
        store(z, row + 1u, col, s10);
        store(z, row + 1u, col + 4u, s11);
        store(z, row + 2u, col, s20);
        store(z, row + 2u, col + 4u, s21);
        store(z, row + 3u, col, s30);
        store(z, row + 3u, col + 4u, s31);
        store(z, row + 4u, col, s40);
        store(z, row + 4u, col + 4u, s41);
        store(z, row + 5u, col, s50);
        store(z, row + 5u, col + 4u, s51);
        store(z, row + 6u, col, s60);
        store(z, row + 6u, col + 4u, s61);
        store(z, row + 7u, col, s70);
        store(z, row + 7u, col + 4u, s71);
    }
}
