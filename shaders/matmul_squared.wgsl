// y[s] = sum_n u[s,n] * (a[n] * b[n])^2, element by element, for a [samples, m, k] and b [samples, k, n], two sets s at
// a time; the products of a sample never reach memory. The lines "//:" are written out by src/ops/block.rs.

struct Params { m: u32, n: u32, k: u32, samples: u32, sets: u32 }

@group(0) @binding(0) var<storage, read> a: array<f32>;
@group(0) @binding(1) var<storage, read> b: array<f32>;
// the same elements in fours
@group(0) @binding(2) var<storage, read> a4: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> b4: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read> u: array<f32>;
@group(0) @binding(5) var<storage, read_write> y: array<f32>;
@group(0) @binding(6) var<storage, read> params: Params;

// Whether a is read in fours along k, and b along its columns.
override FOURS_A: u32 = 0u;
override FOURS_B: u32 = 0u;

fn of_row(row: u32) -> f32 { return 0.0; }
fn of_column(column: u32) -> f32 { return 0.0; }
fn finish(sum: f32, known: f32, row: u32, column: u32, place: u32) -> f32 { return sum; }

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
    let column0 = group.x * 64u + local.x * select(1u, 8u, FOURS_B == 1u);
    //: rows p = min(ROW, params.m - 1u) * params.k
    //: columns q = min(COLUMN, params.n - 1u)
    for (var s = 2u * group.z; s < params.sets; s += 2u * groups.z) {
        //: zero t
        //: zero v
        for (var sample = 0u; sample < params.samples; sample++) {
            let weight = u[s * params.samples + sample];
            let other = select(0.0, u[min(s + 1u, params.sets - 1u) * params.samples + sample], s + 1u < params.sets);
            if weight == 0.0 && other == 0.0 { continue; }
            let start_a = sample * params.m * params.k;
            let start_b = sample * params.k * params.n;
            //: zero s
            for (var k = 0u; k < params.k; k += 4u) {
                let ks = k + vec4<u32>(0u, 1u, 2u, 3u);
                let live = ks < vec4<u32>(params.k);
                let inside = min(ks, vec4<u32>(params.k - 1u));
                let at_a = start_a + inside;
                let at_b = start_b + inside * params.n;
                if FOURS_A == 1u {
                    //: multiply a4 at_a.x by b4 each at_b
                } else if FOURS_B == 1u {
                    //: multiply a each at_a by b4 each at_b
                } else {
                    //: multiply a each at_a by b each at_b
                }
            }
            if weight != 0.0 {
                //: square s into t times weight
            }
            if other != 0.0 {
                //: square s into v times other
            }
        }
        let base = s * params.m * params.n;
        //: store t at base | COLUMN | ROW * params.n | params.m | params.n
        if s + 1u < params.sets {
            let next = base + params.m * params.n;
            //: store v at next | COLUMN | ROW * params.n | params.m | params.n
        }
    }
}
//# tiled
var<workgroup> tile_rows: array<f32, 2112>;
var<workgroup> tile_columns: array<f32, 1088>;
var<private> sample: u32;

fn row_element(row: u32, k: u32) -> f32 {
    if row >= params.m || k >= params.k { return 0.0; }
    return a[(sample * params.m + row) * params.k + k];
}

fn column_element(k: u32, column: u32) -> f32 {
    if column >= params.n || k >= params.k { return 0.0; }
    return b[(sample * params.k + k) * params.n + column];
}

@compute @workgroup_size(16, 16)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_id) local: vec3<u32>,
    @builtin(local_invocation_index) index: u32,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let tile_row = group.y * 128u;
    let tile_column = group.x * 64u;
    let row0 = tile_row + local.y * 8u;
    let column0 = tile_column + local.x * 4u;
    let column_step = 1u;
    for (var s = 2u * group.z; s < params.sets; s += 2u * groups.z) {
        //: zero t
        //: zero v
        for (var i = 0u; i < params.samples; i++) {
            let weight = u[s * params.samples + i];
            let other = select(0.0, u[min(s + 1u, params.sets - 1u) * params.samples + i], s + 1u < params.sets);
            if weight == 0.0 && other == 0.0 { continue; }
            sample = i;
            //: zero s
            //: tiles params.k, along k and columns
            //: square s into t times weight
            //: square s into v times other
        }
        let base = s * params.m * params.n;
        //: store t at base | COLUMN | ROW * params.n | params.m | params.n
        if s + 1u < params.sets {
            let next = base + params.m * params.n;
            //: store v at next | COLUMN | ROW * params.n | params.m | params.n
        }
    }
}
