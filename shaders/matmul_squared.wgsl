// y[s] = sum_n u[s,n] * (a[n] * b[n])^2, element by element, for a [samples, m, k] and b [samples, k, n].
// One invocation makes 8 rows of 8 columns of one set; the products of a sample never reach memory.

struct Params { m: u32, n: u32, k: u32, samples: u32, sets: u32 }

@group(0) @binding(0) var<storage, read> a: array<f32>;
@group(0) @binding(1) var<storage, read> b: array<f32>;
@group(0) @binding(2) var<storage, read> u: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;
@group(0) @binding(4) var<storage, read> params: Params;

fn store(s: u32, row: u32, col: u32, v: vec4<f32>) {
    if row >= params.m { return; }
    for (var i = 0u; i < 4u; i++) {
        if col + i < params.n { y[(s * params.m + row) * params.n + col + i] = v[i]; }
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
    let p0 = min(row + 0u, params.m - 1u) * params.k;
    let p1 = min(row + 1u, params.m - 1u) * params.k;
    let p2 = min(row + 2u, params.m - 1u) * params.k;
    let p3 = min(row + 3u, params.m - 1u) * params.k;
    let p4 = min(row + 4u, params.m - 1u) * params.k;
    let p5 = min(row + 5u, params.m - 1u) * params.k;
    let p6 = min(row + 6u, params.m - 1u) * params.k;
    let p7 = min(row + 7u, params.m - 1u) * params.k;
    let q0 = min(col + 0u, params.n - 1u) * 1u;
    let q1 = min(col + 1u, params.n - 1u) * 1u;
    let q2 = min(col + 2u, params.n - 1u) * 1u;
    let q3 = min(col + 3u, params.n - 1u) * 1u;
    let q4 = min(col + 4u, params.n - 1u) * 1u;
    let q5 = min(col + 5u, params.n - 1u) * 1u;
    let q6 = min(col + 6u, params.n - 1u) * 1u;
    let q7 = min(col + 7u, params.n - 1u) * 1u;
    for (var s = group.z; s < params.sets; s += groups.z) {
        var t00 = vec4<f32>();
        var t01 = vec4<f32>();
        var t10 = vec4<f32>();
        var t11 = vec4<f32>();
        var t20 = vec4<f32>();
        var t21 = vec4<f32>();
        var t30 = vec4<f32>();
        var t31 = vec4<f32>();
        var t40 = vec4<f32>();
        var t41 = vec4<f32>();
        var t50 = vec4<f32>();
        var t51 = vec4<f32>();
        var t60 = vec4<f32>();
        var t61 = vec4<f32>();
        var t70 = vec4<f32>();
        var t71 = vec4<f32>();
        for (var sample = 0u; sample < params.samples; sample++) {
            let weight = u[s * params.samples + sample];
            if weight == 0.0 { continue; }
            var at_a = sample * params.m * params.k;
            var at_b = sample * params.k * params.n;
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
                at_a += 1u;
                at_b += params.n;
            }
            t00 += weight * s00 * s00;
            t01 += weight * s01 * s01;
            t10 += weight * s10 * s10;
            t11 += weight * s11 * s11;
            t20 += weight * s20 * s20;
            t21 += weight * s21 * s21;
            t30 += weight * s30 * s30;
            t31 += weight * s31 * s31;
            t40 += weight * s40 * s40;
            t41 += weight * s41 * s41;
            t50 += weight * s50 * s50;
            t51 += weight * s51 * s51;
            t60 += weight * s60 * s60;
            t61 += weight * s61 * s61;
            t70 += weight * s70 * s70;
            t71 += weight * s71 * s71;
        }
        store(s, row + 0u, col, t00);
        store(s, row + 0u, col + 4u, t01);
        store(s, row + 1u, col, t10);
        store(s, row + 1u, col + 4u, t11);
        store(s, row + 2u, col, t20);
        store(s, row + 2u, col + 4u, t21);
        store(s, row + 3u, col, t30);
        store(s, row + 3u, col + 4u, t31);
        store(s, row + 4u, col, t40);
        store(s, row + 4u, col + 4u, t41);
        store(s, row + 5u, col, t50);
        store(s, row + 5u, col + 4u, t51);
        store(s, row + 6u, col, t60);
        store(s, row + 6u, col + 4u, t61);
        store(s, row + 7u, col, t70);
        store(s, row + 7u, col + 4u, t71);
    }
}
