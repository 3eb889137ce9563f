// y[z] = alpha * a[z] * b[z] (+ beta * c), batched with broadcasting. Indices beyond the edge are clamped when loading,
// or give 0, and are skipped when storing. The lines "//:" are written out by src/ops/block.rs.

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

//# direct
@group(0) @binding(0) var<storage, read> a: array<f32>;
@group(0) @binding(1) var<storage, read> b: array<f32>;
//# tiled
// floats, or halves of them two to a word
@group(0) @binding(0) var<storage, read> a: array<u32>;
@group(0) @binding(1) var<storage, read> b: array<u32>;
//# all
// the same elements in fours
@group(0) @binding(2) var<storage, read> a4: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> b4: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read> c: array<f32>;
// what is added element by element
@group(0) @binding(5) var<storage, read> r: array<f32>;
@group(0) @binding(6) var<storage, read_write> y: array<f32>;
@group(0) @binding(7) var<storage, read> params: Params;

// Whether c is added: 1 by element, 2 one number for each row, 3 for each column.
override HAS_C: u32 = 0u;
// Whether r is added.
override HAS_R: u32 = 0u;
// Whether a Relu follows, which then has nothing left to do.
override RELU: u32 = 0u;
// Whether a is read in fours along k; whether b is: 1 along its columns, 2 along k as a is.
override FOURS_A: u32 = 0u;
override FOURS_B: u32 = 0u;
// Whether an operand is halves, in the tiled form.
override HALVES_A: u32 = 0u;
override HALVES_B: u32 = 0u;

// Where the operands of product z begin.
fn start(z: u32) -> vec2<u32> {
    var at = vec2<u32>();
    var rest = z;
    for (var axis = i32(params.rank) - 1; axis >= 0; axis--) {
        let i = rest % params.shape[axis];
        rest = rest / params.shape[axis];
        at += vec2<u32>(i * params.a_batch[axis], i * params.b_batch[axis]);
    }
    return at;
}

fn of_row(row: u32) -> f32 {
    if HAS_C == 2u { return params.beta * c[row * params.c_strides[0]]; }
    return 0.0;
}

fn of_column(column: u32) -> f32 {
    if HAS_C == 3u { return params.beta * c[column * params.c_strides[1]]; }
    return 0.0;
}

fn finish(sum: f32, known: f32, row: u32, column: u32, place: u32) -> f32 {
    var v = params.alpha * sum + known;
    if HAS_C == 1u { v += params.beta * c[row * params.c_strides[0] + column * params.c_strides[1]]; }
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
    let row0 = group.y * 128u + local.y * 16u;
    if row0 >= params.m { return; }
    let column_step = select(8u, 1u, FOURS_B == 1u);
    //: rows p = min(ROW, params.m - 1u) * params.a_strides[0]
    for (var tile = group.x; tile * 64u < params.n; tile += groups.x) {
        let column0 = tile * 64u + local.x * select(1u, 8u, FOURS_B == 1u);
        //: columns q = min(COLUMN, params.n - 1u) * params.b_strides[1]
        for (var z = group.z; z < params.batches; z += groups.z) {
            let at = start(z);
            //: zero s
            for (var k = 0u; k < params.k; k += 4u) {
                let ks = k + vec4<u32>(0u, 1u, 2u, 3u);
                let live = ks < vec4<u32>(params.k);
                let inside = min(ks, vec4<u32>(params.k - 1u));
                let at_a = at.x + inside * params.a_strides[1];
                let at_b = at.y + inside * params.b_strides[0];
                if FOURS_A == 1u && FOURS_B == 1u {
                    //: multiply a4 at_a.x by b4 each at_b
                } else if FOURS_A == 1u {
                    //: multiply a4 at_a.x by b4 at_b.x
                } else if FOURS_B == 1u {
                    //: multiply a each at_a by b4 each at_b
                } else {
                    //: multiply a each at_a by b each at_b
                }
            }
            let base = z * params.m * params.n;
            //: store s at base | COLUMN | ROW * params.n | params.m | params.n
        }
    }
}
//# tiled
//: include halves
var<workgroup> tile_rows: array<f32, 2112>;
var<workgroup> tile_columns: array<f32, 1088>;
var<private> at: vec2<u32>;

fn row_element(row: u32, k: u32) -> f32 {
    if row >= params.m || k >= params.k { return 0.0; }
    let i = at.x + row * params.a_strides[0] + k * params.a_strides[1];
    if HALVES_A == 1u { return half_of(a[i / 2u], i % 2u); }
    return bitcast<f32>(a[i]);
}

fn column_element(k: u32, column: u32) -> f32 {
    if column >= params.n || k >= params.k { return 0.0; }
    let i = at.y + k * params.b_strides[0] + column * params.b_strides[1];
    if HALVES_B == 1u { return half_of(b[i / 2u], i % 2u); }
    return bitcast<f32>(b[i]);
}

@compute @workgroup_size(16, 16)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_id) local: vec3<u32>,
    @builtin(local_invocation_index) index: u32,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let tile_row = group.y * 128u;
    let row0 = tile_row + local.y * 8u;
    let column_step = 1u;
    for (var tile = group.x; tile * 64u < params.n; tile += groups.x) {
        let tile_column = tile * 64u;
        let column0 = tile_column + local.x * 4u;
        for (var z = group.z; z < params.batches; z += groups.z) {
            at = start(z);
            //: zero s
            //: tiles params.k, along k and columns
            let base = z * params.m * params.n;
            //: store s at base | COLUMN | ROW * params.n | params.m | params.n
        }
    }
}
