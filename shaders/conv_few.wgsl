// The sum of conv.wgsl where a group has few channels m: one invocation makes 8 positions (n, q) of one
// channel.

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
// Whether a Relu follows, which then has nothing left to do.
override RELU: u32 = 0u;

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

fn store(base: u32, position: u32, v: f32) {
    if position >= params.positions { return; }
    let p = split(position);
    let at = base + p.x * params.y_n + p.y * params.y_step[0] + p.z * params.y_step[1] + p.w * params.y_step[2];
    y[at] = select(v, 0.0, RELU == 1u && v < 0.0);
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
    let m = block % params.m_blocks;
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
    let w_base = params.w_first + g * params.w_g + m * params.w_m;
    var s0 = vec4<f32>();
    if HAS_BIAS == 1u { s0 = vec4<f32>(bias[g * params.m + m]); }
    var s1 = s0;
    for (var t0 = 0u; t0 < params.taps[0]; t0++) {
        for (var t1 = 0u; t1 < params.taps[1]; t1++) {
            for (var t2 = 0u; t2 < params.taps[2]; t2++) {
                var dx = t0 * params.x_tap[0] + t1 * params.x_tap[1] + t2 * params.x_tap[2];
                var dw = w_base + t0 * params.w_tap[0] + t1 * params.w_tap[1] + t2 * params.w_tap[2];
                for (var c = 0u; c < params.c; c++) {
                    s0 += w[dw] * vec4<f32>(x[x0 + dx], x[x1 + dx], x[x2 + dx], x[x3 + dx]);
                    s1 += w[dw] * vec4<f32>(x[x4 + dx], x[x5 + dx], x[x6 + dx], x[x7 + dx]);
                    dx += params.x_c;
                    dw += params.w_c;
                }
            }
        }
    }
    let y_base = params.y_first + g * params.y_g + m * params.y_m;
    for (var i = 0u; i < 4u; i++) {
        store(y_base, p0 + i * step, s0[i]);
        store(y_base, p0 + (i + 4u) * step, s1[i]);
    }
}
