// y = f(x over the reduced axes), one invocation per output element and part: part p folds the reduced
// elements p·length … (p+1)·length − 1, and y is [parts, n], which reduce_parts.wgsl joins. The output's
// place among the kept axes gives its first x; the innermost reduced axis is a run of equal steps, the
// others are counted around it. Each run is folded on its own first, which keeps long sums exact. MAP,
// JOIN, FINISH and INT (the element type) are chosen when the pipeline is made.

struct Params {
    n: u32,
    parts: u32,
    length: u32,
    count: u32,
    kept_rank: u32,
    gone_rank: u32,
    run: u32,
    run_stride: u32,
    kept: array<u32, 8>,
    kept_strides: array<u32, 8>,
    gone: array<u32, 8>,
    gone_strides: array<u32, 8>,
}

@group(0) @binding(0) var<storage, read> x: array<u32>;
@group(0) @binding(1) var<storage, read_write> y: array<u32>;
@group(0) @binding(2) var<storage, read> params: Params;

// 0 x, 1 |x|, 2 x²
override MAP: u32 = 0u;
// 0 sum, 1 max, 2 min, 3 product, 4 ln Σ exp, then indices: 5 first max, 6 last max, 7 first min, 8 last min
override JOIN: u32 = 0u;
// 0 nothing, 1 divided by the number of elements, 2 square root, 3 logarithm
override FINISH: u32 = 0u;
override INT: u32 = 0u;

fn element(at: u32) -> f32 {
    let v = bitcast<f32>(x[at]);
    switch MAP {
        case 1u: { return abs(v); }
        case 2u: { return v * v; }
        default: { return v; }
    }
}

fn join(p: f32, q: f32) -> f32 {
    switch JOIN {
        // a NaN wins
        case 1u: { return select(p, q, q > p || q != q); }
        case 2u: { return select(p, q, q < p || q != q); }
        case 3u: { return p * q; }
        default: { return p + q; }
    }
}

fn element_int(at: u32) -> i32 {
    let v = bitcast<i32>(x[at]);
    switch MAP {
        case 1u: { return abs(v); }
        case 2u: { return v * v; }
        default: { return v; }
    }
}

fn join_int(p: i32, q: i32) -> i32 {
    switch JOIN {
        case 1u: { return max(p, q); }
        case 2u: { return min(p, q); }
        case 3u: { return p * q; }
        default: { return p + q; }
    }
}

// the first element of reduced row `o` of the output whose elements start at `base`
fn row(base: u32, o: u32) -> u32 {
    var first = base;
    var rest = o;
    for (var axis = i32(params.gone_rank) - 1; axis >= 0; axis--) {
        first += rest % params.gone[axis] * params.gone_strides[axis];
        rest = rest / params.gone[axis];
    }
    return first;
}

fn fold(base: u32, start: u32, end: u32) -> f32 {
    var total = 0.0;
    var j = start;
    while j < end {
        let k = j % params.run;
        let steps = min(params.run - k, end - j);
        let first = row(base, j / params.run) + k * params.run_stride;
        var part = element(first);
        for (var s = 1u; s < steps; s++) {
            part = join(part, element(first + s * params.run_stride));
        }
        if j == start { total = part; } else { total = join(total, part); }
        j += steps;
    }
    return total;
}

fn fold_int(base: u32, start: u32, end: u32) -> i32 {
    var total = 0;
    for (var j = start; j < end; j++) {
        let v = element_int(row(base, j / params.run) + j % params.run * params.run_stride);
        if j == start { total = v; } else { total = join_int(total, v); }
    }
    return total;
}

// some drivers make a finite number of log(0); constants may not be infinite
fn logarithm(v: f32) -> f32 {
    var lowest = 0xff800000u;
    if v == 0.0 { return bitcast<f32>(lowest); }
    return log(v);
}

// the sum is kept relative to the greatest term so far
fn log_sum_exp(base: u32) -> f32 {
    var most = element(row(base, 0u));
    var sum = 0.0;
    for (var j = 0u; j < params.count; j++) {
        let v = element(row(base, j / params.run) + j % params.run * params.run_stride);
        if v == most {
            sum += 1.0;
        } else if v > most {
            sum = sum * exp(most - v) + 1.0;
            most = v;
        } else {
            sum += exp(v - most);
        }
    }
    return log(sum) + most;
}

// an index is searched along one axis, which is the run
fn better(v: u32, best: u32) -> bool {
    if INT == 1u {
        let p = bitcast<i32>(v);
        let q = bitcast<i32>(best);
        switch JOIN {
            case 5u: { return p > q; }
            case 6u: { return p >= q; }
            case 7u: { return p < q; }
            default: { return p <= q; }
        }
    }
    let p = bitcast<f32>(v);
    let q = bitcast<f32>(best);
    switch JOIN {
        case 5u: { return p > q; }
        case 6u: { return p >= q; }
        case 7u: { return p < q; }
        default: { return p <= q; }
    }
}

fn index(base: u32) -> u32 {
    var best = 0u;
    var value = x[base];
    for (var k = 1u; k < params.run; k++) {
        let v = x[base + k * params.run_stride];
        if better(v, value) {
            best = k;
            value = v;
        }
    }
    return best;
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = id.x + id.y * groups.x * 64u;
    if i >= params.n * params.parts { return; }
    var base = 0u;
    var rest = i % params.n;
    for (var axis = i32(params.kept_rank) - 1; axis >= 0; axis--) {
        base += rest % params.kept[axis] * params.kept_strides[axis];
        rest = rest / params.kept[axis];
    }
    let start = min(i / params.n * params.length, params.count);
    let end = min(start + params.length, params.count);
    if JOIN >= 5u {
        y[i] = index(base);
        return;
    }
    if INT == 1u {
        var v = fold_int(base, start, end);
        if FINISH == 1u { v = v / i32(params.count); }
        y[i] = bitcast<u32>(v);
        return;
    }
    var v = 0.0;
    if JOIN == 4u { v = log_sum_exp(base); } else { v = fold(base, start, end); }
    switch FINISH {
        case 1u: { v = v / f32(params.count); }
        case 2u: { v = sqrt(v); }
        case 3u: { v = logarithm(v); }
        default: {}
    }
    y[i] = bitcast<u32>(v);
}
