// y = (x − mean) / √(var + epsilon) · scale + bias, where the len elements of a row of x share mean and
// variance. One invocation does one row, in two passes for the statistics and one for y. Without CENTERED
// the mean is 0. Element k of row r has the parameter r % period · step + k / div % modulo.

struct Params {
    rows: u32,
    len: u32,
    period: u32,
    step: u32,
    div: u32,
    scale_modulo: u32,
    bias_modulo: u32,
    epsilon: f32,
}

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> scale: array<f32>;
@group(0) @binding(2) var<storage, read> bias: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;
@group(0) @binding(4) var<storage, read_write> means: array<f32>;
@group(0) @binding(5) var<storage, read_write> inverses: array<f32>;
@group(0) @binding(6) var<storage, read> params: Params;

override CENTERED: u32 = 1u;
override BIAS: u32 = 1u;
// whether these outputs are asked for
override MEAN: u32 = 0u;
override INVERSE: u32 = 0u;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let row = id.x + id.y * groups.x * 64u;
    if row >= params.rows { return; }
    let first = row * params.len;
    var mean = 0.0;
    if CENTERED == 1u {
        for (var k = 0u; k < params.len; k++) {
            mean += x[first + k];
        }
        mean = mean / f32(params.len);
    }
    var squares = 0.0;
    for (var k = 0u; k < params.len; k++) {
        let d = x[first + k] - mean;
        squares += d * d;
    }
    let inverse = 1.0 / sqrt(squares / f32(params.len) + params.epsilon);
    if MEAN == 1u { means[row] = mean; }
    if INVERSE == 1u { inverses[row] = inverse; }
    let at = row % params.period * params.step;
    for (var k = 0u; k < params.len; k++) {
        let p = at + k / params.div % params.scale_modulo;
        var v = (x[first + k] - mean) * inverse * scale[p];
        if BIAS == 1u { v += bias[at + k / params.div % params.bias_modulo]; }
        y[first + k] = v;
    }
}
