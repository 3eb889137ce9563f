// y[n, g, m, q] = bias[g, m] + sum_k w[g, m, k] * x[n, g, q * x_step + place of k], k = (c, t) being channel and tap, all
// places being linear in the indices (x is padded beforehand, so nothing is masked). ConvTranspose is one such sum for each
// remainder of the output's place by the stride. Rows are the positions (n, q), columns the channels m. Indices beyond the
// edge are clamped when loading, or give 0, and are skipped when storing. Differences wrap: steps may be negative. The
// lines "//:" are written out by src/ops/block.rs.

struct Params {
    positions: u32,
    k: u32,
    m: u32,
    position_blocks: u32,
    m_blocks: u32,
    blocks: u32,
    q: array<u32, 3>,
    x_first: u32,
    x_n: u32,
    x_g: u32,
    x_step: array<u32, 3>,
    y_first: u32,
    y_n: u32,
    y_g: u32,
    y_m: u32,
    y_step: array<u32, 3>,
    // from one row of w to the next
    w_m: u32,
}

@group(0) @binding(0) var<storage, read> x: array<f32>;
//# direct
@group(0) @binding(1) var<storage, read> w: array<f32>;
//# tiled
// floats, or halves of them two to a word
@group(0) @binding(1) var<storage, read> w: array<u32>;
//# all
// the same elements in fours: every row has whole fours
@group(0) @binding(2) var<storage, read> w4: array<vec4<f32>>;
// where every k lies in x, four by four
@group(0) @binding(3) var<storage, read> places: array<vec4<u32>>;
@group(0) @binding(4) var<storage, read> bias: array<f32>;
// what is added element by element
@group(0) @binding(5) var<storage, read> r: array<f32>;
@group(0) @binding(6) var<storage, read_write> y: array<f32>;
@group(0) @binding(7) var<storage, read> params: Params;

override HAS_BIAS: u32 = 0u;
// Whether w is halves, in the tiled form.
override HALVES: u32 = 0u;
// Whether r is added.
override HAS_R: u32 = 0u;
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

fn place_y(position: u32) -> u32 {
    let p = split(position);
    return p.x * params.y_n + p.y * params.y_step[0] + p.z * params.y_step[1] + p.w * params.y_step[2];
}

var<private> g: u32;

fn of_row(position: u32) -> f32 { return 0.0; }

fn of_column(m: u32) -> f32 {
    if HAS_BIAS == 1u { return bias[g * params.m + m]; }
    return 0.0;
}

fn finish(sum: f32, known: f32, position: u32, m: u32, place: u32) -> f32 {
    var v = sum + known;
    if HAS_R == 1u { v += r[place]; }
    if RELU == 1u { v = select(v, 0.0, v < 0.0); }
    return v;
}

//# direct
@compute @workgroup_size(8, 8)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_id) local: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    var block = group.x + group.y * groups.x;
    if block >= params.blocks { return; }
    let row0 = block % params.position_blocks * 128u + local.y * 16u;
    if row0 >= params.positions { return; }
    block = block / params.position_blocks;
    let column0 = block % params.m_blocks * 64u + local.x;
    let column_step = 8u;
    g = block / params.m_blocks;
    let x_base = params.x_first + g * params.x_g;
    let w_base = g * params.m;
    //: rows p = x_base + place_x(ROW)
    //: columns q = (w_base + min(COLUMN, params.m - 1u)) * params.w_m
    //: zero s
    for (var k = 0u; k < params.k; k += 4u) {
        let dx = places[k / 4u];
        let live = k + vec4<u32>(0u, 1u, 2u, 3u) < vec4<u32>(params.k);
        //: multiply x each dx by w4 k
    }
    let base = params.y_first + g * params.y_g;
    //: store s at base | COLUMN * params.y_m | place_y(ROW) | params.positions | params.m
}
//# tiled
//: include halves
var<workgroup> tile_rows: array<f32, 2112>;
var<workgroup> tile_columns: array<f32, 1088>;

fn row_element(position: u32, k: u32) -> f32 {
    if position >= params.positions || k >= params.k { return 0.0; }
    return x[params.x_first + g * params.x_g + place_x(position) + places[k / 4u][k % 4u]];
}

fn column_element(k: u32, m: u32) -> f32 {
    if m >= params.m || k >= params.k { return 0.0; }
    let i = (g * params.m + m) * params.w_m + k;
    if HALVES == 1u { return half_of(w[i / 2u], i % 2u); }
    return bitcast<f32>(w[i]);
}

@compute @workgroup_size(16, 16)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_id) local: vec3<u32>,
    @builtin(local_invocation_index) index: u32,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    var block = group.x + group.y * groups.x;
    if block >= params.blocks { return; }
    let tile_row = block % params.position_blocks * 128u;
    block = block / params.position_blocks;
    let tile_column = block % params.m_blocks * 64u;
    g = block / params.m_blocks;
    // neighbours write neighbouring positions
    let row0 = tile_row + local.x * 8u;
    let column0 = tile_column + local.y * 4u;
    let column_step = 1u;
    //: zero s
    //: tiles params.k, along rows and k
    let base = params.y_first + g * params.y_g;
    //: store s at base | COLUMN * params.y_m | place_y(ROW) | params.positions | params.m
}
