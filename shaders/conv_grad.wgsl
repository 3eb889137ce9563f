// dw[part, g, m, c, t] = sum over the part's samples n and all positions q of
// dy[n, g, m, q] * x[n, g, c, q * x_step + t * x_tap], where x is padded beforehand, so that nothing is masked.
// SQUARED: dw[part, s, g, m, c, t] = sum_n u[s, n] * (sum_q ...)^2 instead, two sets s at a time; the gradient of
// a sample never reaches memory. One invocation makes 8 channels m of 8 taps (c, t); neighbours make
// neighbouring taps. Indices beyond the edge are clamped when loading and skipped when storing.

struct Params {
    samples: u32,
    parts: u32,
    sets: u32,
    m: u32,
    // taps of all channels, and of one
    columns: u32,
    taps: u32,
    m_blocks: u32,
    column_blocks: u32,
    groups: u32,
    invocations: u32,
    positions: array<u32, 3>,
    kernel: array<u32, 3>,
    x_n: u32,
    x_g: u32,
    x_c: u32,
    x_step: array<u32, 3>,
    x_tap: array<u32, 3>,
    dy_n: u32,
    dy_g: u32,
    dy_m: u32,
}

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> dy: array<f32>;
@group(0) @binding(2) var<storage, read> u: array<f32>;
@group(0) @binding(3) var<storage, read_write> dw: array<f32>;
@group(0) @binding(4) var<storage, read> params: Params;

override SQUARED: u32 = 0u;

// a / b. CPU adapters divide integers lane by lane, floats all at once: a first quotient, then what it missed.
fn quotient(a: u32, b: u32) -> u32 {
    let first = u32(f32(a) / f32(b));
    let more = first + u32(i32(f32(i32(a - first * b)) / f32(b)));
    let rest = i32(a - more * b);
    return more + u32(rest >= i32(b)) - u32(rest < 0);
}

fn place_x(column: u32) -> u32 {
    let k = min(column, params.columns - 1u);
    let c = quotient(k, params.taps);
    let tap = k - c * params.taps;
    let row = quotient(tap, params.kernel[2]);
    let plane = quotient(row, params.kernel[1]);
    return c * params.x_c
        + plane * params.x_tap[0]
        + (row - plane * params.kernel[1]) * params.x_tap[1]
        + (tap - row * params.kernel[2]) * params.x_tap[2];
}

fn store(base: u32, row: u32, column: u32, v0: vec4<f32>, v1: vec4<f32>) {
    if row >= params.m { return; }
    let at = base + row * params.columns;
    for (var i = 0u; i < 4u; i++) {
        let k = column + i * params.column_blocks;
        if k < params.columns { dw[at + k] = v0[i]; }
    }
    for (var i = 4u; i < 8u; i++) {
        let k = column + i * params.column_blocks;
        if k < params.columns { dw[at + k] = v1[i - 4u]; }
    }
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    var rest = id.x + id.y * groups.x * 64u;
    if rest >= params.invocations { return; }
    let column = rest % params.column_blocks;
    rest = rest / params.column_blocks;
    let m0 = rest % params.m_blocks * 8u;
    rest = rest / params.m_blocks;
    let g = rest % params.groups;
    rest = rest / params.groups;
    let part = rest % params.parts;
    let s = rest / params.parts * 2u;
    let x0 = g * params.x_g + place_x(column);
    let x1 = g * params.x_g + place_x(column + params.column_blocks);
    let x2 = g * params.x_g + place_x(column + 2u * params.column_blocks);
    let x3 = g * params.x_g + place_x(column + 3u * params.column_blocks);
    let x4 = g * params.x_g + place_x(column + 4u * params.column_blocks);
    let x5 = g * params.x_g + place_x(column + 5u * params.column_blocks);
    let x6 = g * params.x_g + place_x(column + 6u * params.column_blocks);
    let x7 = g * params.x_g + place_x(column + 7u * params.column_blocks);
    let d0 = g * params.dy_g + min(m0, params.m - 1u) * params.dy_m;
    let d1 = g * params.dy_g + min(m0 + 1u, params.m - 1u) * params.dy_m;
    let d2 = g * params.dy_g + min(m0 + 2u, params.m - 1u) * params.dy_m;
    let d3 = g * params.dy_g + min(m0 + 3u, params.m - 1u) * params.dy_m;
    let d4 = g * params.dy_g + min(m0 + 4u, params.m - 1u) * params.dy_m;
    let d5 = g * params.dy_g + min(m0 + 5u, params.m - 1u) * params.dy_m;
    let d6 = g * params.dy_g + min(m0 + 6u, params.m - 1u) * params.dy_m;
    let d7 = g * params.dy_g + min(m0 + 7u, params.m - 1u) * params.dy_m;
    // s<i>0 and s<i>1 hold channel i: taps 0 to 3 and 4 to 7; t and u are the sums of two sets
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
    var t00 = vec4<f32>();
    var u00 = vec4<f32>();
    var t01 = vec4<f32>();
    var u01 = vec4<f32>();
    var t10 = vec4<f32>();
    var u10 = vec4<f32>();
    var t11 = vec4<f32>();
    var u11 = vec4<f32>();
    var t20 = vec4<f32>();
    var u20 = vec4<f32>();
    var t21 = vec4<f32>();
    var u21 = vec4<f32>();
    var t30 = vec4<f32>();
    var u30 = vec4<f32>();
    var t31 = vec4<f32>();
    var u31 = vec4<f32>();
    var t40 = vec4<f32>();
    var u40 = vec4<f32>();
    var t41 = vec4<f32>();
    var u41 = vec4<f32>();
    var t50 = vec4<f32>();
    var u50 = vec4<f32>();
    var t51 = vec4<f32>();
    var u51 = vec4<f32>();
    var t60 = vec4<f32>();
    var u60 = vec4<f32>();
    var t61 = vec4<f32>();
    var u61 = vec4<f32>();
    var t70 = vec4<f32>();
    var u70 = vec4<f32>();
    var t71 = vec4<f32>();
    var u71 = vec4<f32>();
    let end = (part + 1u) * params.samples / params.parts;
    for (var n = part * params.samples / params.parts; n < end; n++) {
        var dd = n * params.dy_n;
        for (var q0 = 0u; q0 < params.positions[0]; q0++) {
            for (var q1 = 0u; q1 < params.positions[1]; q1++) {
                var dx = n * params.x_n + q0 * params.x_step[0] + q1 * params.x_step[1];
                for (var q2 = 0u; q2 < params.positions[2]; q2++) {
                    let b0 = vec4<f32>(x[x0 + dx], x[x1 + dx], x[x2 + dx], x[x3 + dx]);
                    let b1 = vec4<f32>(x[x4 + dx], x[x5 + dx], x[x6 + dx], x[x7 + dx]);
                    let a0 = dy[d0 + dd];
                    let a1 = dy[d1 + dd];
                    let a2 = dy[d2 + dd];
                    let a3 = dy[d3 + dd];
                    let a4 = dy[d4 + dd];
                    let a5 = dy[d5 + dd];
                    let a6 = dy[d6 + dd];
                    let a7 = dy[d7 + dd];
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
                    dx += params.x_step[2];
                    dd += 1u;
                }
            }
        }
        if SQUARED == 1u {
            let u0 = u[s * params.samples + n];
            let u1 = u[min(s + 1u, params.sets - 1u) * params.samples + n];
            t00 += u0 * s00 * s00;
            u00 += u1 * s00 * s00;
            s00 = vec4<f32>();
            t01 += u0 * s01 * s01;
            u01 += u1 * s01 * s01;
            s01 = vec4<f32>();
            t10 += u0 * s10 * s10;
            u10 += u1 * s10 * s10;
            s10 = vec4<f32>();
            t11 += u0 * s11 * s11;
            u11 += u1 * s11 * s11;
            s11 = vec4<f32>();
            t20 += u0 * s20 * s20;
            u20 += u1 * s20 * s20;
            s20 = vec4<f32>();
            t21 += u0 * s21 * s21;
            u21 += u1 * s21 * s21;
            s21 = vec4<f32>();
            t30 += u0 * s30 * s30;
            u30 += u1 * s30 * s30;
            s30 = vec4<f32>();
            t31 += u0 * s31 * s31;
            u31 += u1 * s31 * s31;
            s31 = vec4<f32>();
            t40 += u0 * s40 * s40;
            u40 += u1 * s40 * s40;
            s40 = vec4<f32>();
            t41 += u0 * s41 * s41;
            u41 += u1 * s41 * s41;
            s41 = vec4<f32>();
            t50 += u0 * s50 * s50;
            u50 += u1 * s50 * s50;
            s50 = vec4<f32>();
            t51 += u0 * s51 * s51;
            u51 += u1 * s51 * s51;
            s51 = vec4<f32>();
            t60 += u0 * s60 * s60;
            u60 += u1 * s60 * s60;
            s60 = vec4<f32>();
            t61 += u0 * s61 * s61;
            u61 += u1 * s61 * s61;
            s61 = vec4<f32>();
            t70 += u0 * s70 * s70;
            u70 += u1 * s70 * s70;
            s70 = vec4<f32>();
            t71 += u0 * s71 * s71;
            u71 += u1 * s71 * s71;
            s71 = vec4<f32>();
        }
    }
    let per_set = params.groups * params.m * params.columns;
    let base = g * params.m * params.columns;
    if SQUARED == 1u {
        let at = base + (part * params.sets + s) * per_set;
        store(at, m0, column, t00, t01);
        store(at, m0 + 1u, column, t10, t11);
        store(at, m0 + 2u, column, t20, t21);
        store(at, m0 + 3u, column, t30, t31);
        store(at, m0 + 4u, column, t40, t41);
        store(at, m0 + 5u, column, t50, t51);
        store(at, m0 + 6u, column, t60, t61);
        store(at, m0 + 7u, column, t70, t71);
        if s + 1u < params.sets {
            store(at + per_set, m0, column, u00, u01);
            store(at + per_set, m0 + 1u, column, u10, u11);
            store(at + per_set, m0 + 2u, column, u20, u21);
            store(at + per_set, m0 + 3u, column, u30, u31);
            store(at + per_set, m0 + 4u, column, u40, u41);
            store(at + per_set, m0 + 5u, column, u50, u51);
            store(at + per_set, m0 + 6u, column, u60, u61);
            store(at + per_set, m0 + 7u, column, u70, u71);
        }
    } else {
        let at = base + part * per_set;
        store(at, m0, column, s00, s01);
        store(at, m0 + 1u, column, s10, s11);
        store(at, m0 + 2u, column, s20, s21);
        store(at, m0 + 3u, column, s30, s31);
        store(at, m0 + 4u, column, s40, s41);
        store(at, m0 + 5u, column, s50, s51);
        store(at, m0 + 6u, column, s60, s61);
        store(at, m0 + 7u, column, s70, s71);
    }
}
