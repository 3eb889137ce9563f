// The sums of conv_grad.wgsl where a group has few channels m: one invocation makes 8 taps (c, t) of one
// channel.

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

fn store(base: u32, column: u32, v0: vec4<f32>, v1: vec4<f32>) {
    for (var i = 0u; i < 4u; i++) {
        let k = column + i * params.column_blocks;
        if k < params.columns { dw[base + k] = v0[i]; }
        let l = k + 4u * params.column_blocks;
        if l < params.columns { dw[base + l] = v1[i]; }
    }
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    var rest = id.x + id.y * groups.x * 64u;
    if rest >= params.invocations { return; }
    let column = rest % params.column_blocks;
    rest = rest / params.column_blocks;
    let m = rest % params.m_blocks;
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
    let d0 = g * params.dy_g + m * params.dy_m;
    // the taps' sums, and the sums of two sets
    var s0 = vec4<f32>();
    var s1 = vec4<f32>();
    var t0 = vec4<f32>();
    var t1 = vec4<f32>();
    var u0 = vec4<f32>();
    var u1 = vec4<f32>();
    let end = (part + 1u) * params.samples / params.parts;
    for (var n = part * params.samples / params.parts; n < end; n++) {
        var dd = d0 + n * params.dy_n;
        for (var q0 = 0u; q0 < params.positions[0]; q0++) {
            for (var q1 = 0u; q1 < params.positions[1]; q1++) {
                var dx = n * params.x_n + q0 * params.x_step[0] + q1 * params.x_step[1];
                for (var q2 = 0u; q2 < params.positions[2]; q2++) {
                    s0 += dy[dd] * vec4<f32>(x[x0 + dx], x[x1 + dx], x[x2 + dx], x[x3 + dx]);
                    s1 += dy[dd] * vec4<f32>(x[x4 + dx], x[x5 + dx], x[x6 + dx], x[x7 + dx]);
                    dx += params.x_step[2];
                    dd += 1u;
                }
            }
        }
        if SQUARED == 1u {
            let v = u[s * params.samples + n];
            let w = u[min(s + 1u, params.sets - 1u) * params.samples + n];
            t0 += v * s0 * s0;
            t1 += v * s1 * s1;
            u0 += w * s0 * s0;
            u1 += w * s1 * s1;
            s0 = vec4<f32>();
            s1 = vec4<f32>();
        }
    }
    let per_set = params.groups * params.m * params.columns;
    let base = (g * params.m + m) * params.columns;
    if SQUARED == 1u {
        let at = base + (part * params.sets + s) * per_set;
        store(at, column, t0, t1);
        if s + 1u < params.sets { store(at + per_set, column, u0, u1); }
    } else {
        store(base + part * per_set, column, s0, s1);
    }
}
