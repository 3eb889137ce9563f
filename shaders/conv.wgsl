// y[n, g, m, q] = bias[g, m] + sum_{c, t} w[g, m, c, t] * x[n, g, c, q * x_step + t * x_tap], all places being
// linear in the indices (x is padded beforehand, so nothing is masked). ConvTranspose is one such sum for each
// remainder of the output's place by the stride. One invocation makes 8 channels m of 8 positions (n, q);
// neighbours make neighbouring positions. Indices beyond the edge are clamped when loading and skipped
// when storing. Differences wrap: steps may be negative.

struct Params {
    positions: u32,
    c: u32,
    m: u32,
    position_blocks: u32,
    m_blocks: u32,
    blocks: u32,
    // an invocation's positions: first = lane * lane_step, the next ones position_step apart
    lane_step: u32,
    position_step: u32,
    q: array<u32, 3>,
    taps: array<u32, 3>,
    x_first: u32,
    x_n: u32,
    x_g: u32,
    x_c: u32,
    x_step: array<u32, 3>,
    x_tap: array<u32, 3>,
    y_first: u32,
    y_n: u32,
    y_g: u32,
    y_m: u32,
    y_step: array<u32, 3>,
    w_first: u32,
    w_g: u32,
    w_m: u32,
    w_c: u32,
    w_tap: array<u32, 3>,
}

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> w: array<f32>;
@group(0) @binding(2) var<storage, read> bias: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;
@group(0) @binding(4) var<storage, read> params: Params;

override HAS_BIAS: u32 = 0u;

// a / b. CPU adapters divide integers lane by lane, floats all at once: a first quotient, then what it missed.
fn quotient(a: u32, b: u32) -> u32 {
    let first = u32(f32(a) / f32(b));
    let more = first + u32(i32(f32(i32(a - first * b)) / f32(b)));
    let rest = i32(a - more * b);
    return more + u32(rest >= i32(b)) - u32(rest < 0);
}

// sample and position on each axis
fn split(position: u32) -> vec4<u32> {
    let p = min(position, params.positions - 1u);
    let row = quotient(p, params.q[2]);
    let plane = quotient(row, params.q[1]);
    let n = quotient(plane, params.q[0]);
    return vec4<u32>(n, plane - n * params.q[0], row - plane * params.q[1], p - row * params.q[2]);
}

fn place_x(position: u32) -> u32 {
    let p = split(position);
    return p.x * params.x_n + p.y * params.x_step[0] + p.z * params.x_step[1] + p.w * params.x_step[2];
}

fn store(base: u32, position: u32, v0: vec4<f32>, v1: vec4<f32>, left: u32) {
    if position >= params.positions { return; }
    let p = split(position);
    let at = base + p.x * params.y_n + p.y * params.y_step[0] + p.z * params.y_step[1] + p.w * params.y_step[2];
    for (var i = 0u; i < min(left, 4u); i++) { y[at + i * params.y_m] = v0[i]; }
    for (var i = 4u; i < min(left, 8u); i++) { y[at + i * params.y_m] = v1[i - 4u]; }
}

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_id) local: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    var block = group.x + group.y * groups.x;
    if block >= params.blocks { return; }
    let step = params.position_step;
    let p0 = block % params.position_blocks * 512u + local.x * params.lane_step;
    if p0 >= params.positions { return; }
    block = block / params.position_blocks;
    let m0 = block % params.m_blocks * 8u;
    let g = block / params.m_blocks;
    let x_base = params.x_first + g * params.x_g;
    let x0 = x_base + place_x(p0);
    let x1 = x_base + place_x(p0 + step);
    let x2 = x_base + place_x(p0 + 2u * step);
    let x3 = x_base + place_x(p0 + 3u * step);
    let x4 = x_base + place_x(p0 + 4u * step);
    let x5 = x_base + place_x(p0 + 5u * step);
    let x6 = x_base + place_x(p0 + 6u * step);
    let x7 = x_base + place_x(p0 + 7u * step);
    let w_base = params.w_first + g * params.w_g;
    let w0 = w_base + min(m0, params.m - 1u) * params.w_m;
    let w1 = w_base + min(m0 + 1u, params.m - 1u) * params.w_m;
    let w2 = w_base + min(m0 + 2u, params.m - 1u) * params.w_m;
    let w3 = w_base + min(m0 + 3u, params.m - 1u) * params.w_m;
    let w4 = w_base + min(m0 + 4u, params.m - 1u) * params.w_m;
    let w5 = w_base + min(m0 + 5u, params.m - 1u) * params.w_m;
    let w6 = w_base + min(m0 + 6u, params.m - 1u) * params.w_m;
    let w7 = w_base + min(m0 + 7u, params.m - 1u) * params.w_m;
    // s<i>0 and s<i>1 hold position i: channels 0 to 3 and 4 to 7
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
    if HAS_BIAS == 1u {
        let b = g * params.m + m0;
        let last = g * params.m + params.m - 1u;
        s00 = vec4<f32>(bias[min(b, last)], bias[min(b + 1u, last)], bias[min(b + 2u, last)], bias[min(b + 3u, last)]);
        s01 = vec4<f32>(bias[min(b + 4u, last)], bias[min(b + 5u, last)], bias[min(b + 6u, last)], bias[min(b + 7u, last)]);
        s10 = s00;
        s11 = s01;
        s20 = s00;
        s21 = s01;
        s30 = s00;
        s31 = s01;
        s40 = s00;
        s41 = s01;
        s50 = s00;
        s51 = s01;
        s60 = s00;
        s61 = s01;
        s70 = s00;
        s71 = s01;
    }
    for (var t0 = 0u; t0 < params.taps[0]; t0++) {
        for (var t1 = 0u; t1 < params.taps[1]; t1++) {
            for (var t2 = 0u; t2 < params.taps[2]; t2++) {
                var dx = t0 * params.x_tap[0] + t1 * params.x_tap[1] + t2 * params.x_tap[2];
                var dw = t0 * params.w_tap[0] + t1 * params.w_tap[1] + t2 * params.w_tap[2];
                for (var c = 0u; c < params.c; c++) {
                    let b0 = vec4<f32>(w[w0 + dw], w[w1 + dw], w[w2 + dw], w[w3 + dw]);
                    let b1 = vec4<f32>(w[w4 + dw], w[w5 + dw], w[w6 + dw], w[w7 + dw]);
                    let a0 = x[x0 + dx];
                    let a1 = x[x1 + dx];
                    let a2 = x[x2 + dx];
                    let a3 = x[x3 + dx];
                    let a4 = x[x4 + dx];
                    let a5 = x[x5 + dx];
                    let a6 = x[x6 + dx];
                    let a7 = x[x7 + dx];
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
                    dx += params.x_c;
                    dw += params.w_c;
                }
            }
        }
    }
    let y_base = params.y_first + g * params.y_g + m0 * params.y_m;
    let left = params.m - m0;
    store(y_base, p0, s00, s01, left);
    store(y_base, p0 + step, s10, s11, left);
    store(y_base, p0 + 2u * step, s20, s21, left);
    store(y_base, p0 + 3u * step, s30, s31, left);
    store(y_base, p0 + 4u * step, s40, s41, left);
    store(y_base, p0 + 5u * step, s50, s51, left);
    store(y_base, p0 + 6u * step, s60, s61, left);
    store(y_base, p0 + 7u * step, s70, s71, left);
}
