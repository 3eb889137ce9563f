// dw[part, g, m, c, t] = sum over the part's samples n and all positions q of
// dy[n, g, m, q] * x[n, g, c, q * x_step + t * x_tap], where x is padded beforehand, so that nothing is masked.
// SQUARED: dw[part, s, g, m, c, t] = sum_n u[s, n] * (sum_q ...)^2 instead, two sets s at a time; the gradient of
// a sample never reaches memory. Rows are the taps (c, t), columns the channels m. Indices beyond the edge are clamped
// when loading, or give 0, and are skipped when storing. The lines "//:" are written out by src/ops/block.rs.

struct Params {
    samples: u32,
    parts: u32,
    sets: u32,
    m: u32,
    // taps of all channels, and of one
    columns: u32,
    taps: u32,
    m_blocks: u32,
    tap_blocks: u32,
    groups: u32,
    blocks: u32,
    kernel: array<u32, 3>,
    x_n: u32,
    x_g: u32,
    x_c: u32,
    x_tap: array<u32, 3>,
    dy_n: u32,
    dy_g: u32,
    dy_m: u32,
}

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> dy: array<f32>;
// the same elements in fours
@group(0) @binding(2) var<storage, read> dy4: array<vec4<f32>>;
// where every position lies in x, four by four
@group(0) @binding(3) var<storage, read> places: array<vec4<u32>>;
@group(0) @binding(4) var<storage, read> u: array<f32>;
@group(0) @binding(5) var<storage, read_write> y: array<f32>;
@group(0) @binding(6) var<storage, read> params: Params;

override SQUARED: u32 = 0u;
// Whether dy is read in fours.
override FOURS: u32 = 0u;

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

fn of_row(tap: u32) -> f32 { return 0.0; }
fn of_column(m: u32) -> f32 { return 0.0; }
fn finish(sum: f32, known: f32, tap: u32, m: u32, place: u32) -> f32 { return sum; }

// The blocks of a workgroup: taps, channels, group, and part with set.
fn place(index: u32) -> vec4<u32> {
    let m = index / params.tap_blocks;
    let g = m / params.m_blocks;
    let part = g / params.groups;
    return vec4<u32>(index % params.tap_blocks, m % params.m_blocks, g % params.groups, part);
}

//# direct
@compute @workgroup_size(8, 8)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_id) local: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let block = group.x + group.y * groups.x;
    if block >= params.blocks { return; }
    let at = place(block);
    let row0 = at.x * 128u + local.y * 16u;
    if row0 >= params.columns { return; }
    let column0 = at.y * 64u + local.x;
    let column_step = 8u;
    let part = at.w % params.parts;
    let s = at.w / params.parts * 2u;
    //: rows p = at.z * params.x_g + place_x(ROW)
    //: columns q = at.z * params.dy_g + min(COLUMN, params.m - 1u) * params.dy_m
    //: zero s
    //: zero t
    //: zero v
    let end = (part + 1u) * params.samples / params.parts;
    for (var n = part * params.samples / params.parts; n < end; n++) {
        let weight = select(1.0, u[s * params.samples + n], SQUARED == 1u);
        var other = 0.0;
        if SQUARED == 1u && s + 1u < params.sets { other = u[(s + 1u) * params.samples + n]; }
        if weight == 0.0 && other == 0.0 { continue; }
        let dd = n * params.dy_n;
        for (var k = 0u; k < params.dy_m; k += 4u) {
            let dx = places[k / 4u] + n * params.x_n;
            let ks = k + vec4<u32>(0u, 1u, 2u, 3u);
            let live = ks < vec4<u32>(params.dy_m);
            if FOURS == 1u {
                //: multiply x each dx by dy4 dd + k
            } else {
                let dk = dd + min(ks, vec4<u32>(params.dy_m - 1u));
                //: multiply x each dx by dy each dk
            }
        }
        if SQUARED == 1u {
            if weight != 0.0 {
                //: square s into t times weight
            }
            if other != 0.0 {
                //: square s into v times other
            }
            //: clear s
        }
    }
    let per_set = params.groups * params.m * params.columns;
    let start = at.z * params.m * params.columns;
    if SQUARED == 1u {
        let base = start + (part * params.sets + s) * per_set;
        //: store t at base | COLUMN * params.columns | ROW | params.columns | params.m
        if s + 1u < params.sets {
            let next = base + per_set;
            //: store v at next | COLUMN * params.columns | ROW | params.columns | params.m
        }
    } else {
        let base = start + part * per_set;
        //: store s at base | COLUMN * params.columns | ROW | params.columns | params.m
    }
}
//# tiled
var<workgroup> tile_rows: array<f32, 2112>;
var<workgroup> tile_columns: array<f32, 1088>;
// where a sample's group begins in dy and in x
var<private> begin: vec2<u32>;

fn row_element(tap: u32, q: u32) -> f32 {
    if tap >= params.columns || q >= params.dy_m { return 0.0; }
    return x[begin.y + place_x(tap) + places[q / 4u][q % 4u]];
}

fn column_element(q: u32, m: u32) -> f32 {
    if m >= params.m || q >= params.dy_m { return 0.0; }
    return dy[begin.x + m * params.dy_m + q];
}

@compute @workgroup_size(16, 16)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_id) local: vec3<u32>,
    @builtin(local_invocation_index) index: u32,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let block = group.x + group.y * groups.x;
    if block >= params.blocks { return; }
    let at = place(block);
    let tile_row = at.x * 128u;
    let tile_column = at.y * 64u;
    // neighbours write neighbouring taps
    let row0 = tile_row + local.x * 8u;
    let column0 = tile_column + local.y * 4u;
    let column_step = 1u;
    let part = at.w % params.parts;
    let s = at.w / params.parts * 2u;
    //: zero s
    //: zero t
    //: zero v
    let end = (part + 1u) * params.samples / params.parts;
    for (var n = part * params.samples / params.parts; n < end; n++) {
        let weight = select(1.0, u[s * params.samples + n], SQUARED == 1u);
        var other = 0.0;
        if SQUARED == 1u && s + 1u < params.sets { other = u[(s + 1u) * params.samples + n]; }
        if weight == 0.0 && other == 0.0 { continue; }
        begin = vec2<u32>(n * params.dy_n + at.z * params.dy_g, n * params.x_n + at.z * params.x_g);
        //: tiles params.dy_m, along k and k
        if SQUARED == 1u {
            if weight != 0.0 {
                //: square s into t times weight
            }
            if other != 0.0 {
                //: square s into v times other
            }
            //: clear s
        }
    }
    let per_set = params.groups * params.m * params.columns;
    let start = at.z * params.m * params.columns;
    if SQUARED == 1u {
        let base = start + (part * params.sets + s) * per_set;
        //: store t at base | COLUMN * params.columns | ROW | params.columns | params.m
        if s + 1u < params.sets {
            let next = base + per_set;
            //: store v at next | COLUMN * params.columns | ROW | params.columns | params.m
        }
    } else {
        let base = start + part * per_set;
        //: store s at base | COLUMN * params.columns | ROW | params.columns | params.m
    }
}
