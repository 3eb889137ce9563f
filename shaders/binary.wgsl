// y = f(a, b) with broadcasting, one invocation per element. OP picks f and INT the element type when
// the pipeline is made; without BROADCAST each operand is of the output's shape or a single element.

struct Params {
    n: u32,
    rank: u32,
    a_step: u32,
    b_step: u32,
    // integers narrower than a word wrap
    bits: u32,
    signed: u32,
    shape: array<u32, 8>,
    a_strides: array<u32, 8>,
    b_strides: array<u32, 8>,
}

@group(0) @binding(0) var<storage, read> a: array<u32>;
@group(0) @binding(1) var<storage, read> b: array<u32>;
@group(0) @binding(2) var<storage, read_write> y: array<u32>;
@group(0) @binding(3) var<storage, read> params: Params;

override OP: u32 = 0u;
override INT: u32 = 0u;
override BROADCAST: u32 = 0u;
// Whether a Relu follows, which then has nothing left to do.
override RELU: u32 = 0u;

//: include operations

fn power_int(p: i32, q: i32) -> i32 {
    if q < 0 { return 0; }
    var r = 1;
    var square = p;
    for (var rest = u32(q); rest > 0u; rest >>= 1u) {
        if (rest & 1u) == 1u { r *= square; }
        square *= square;
    }
    return r;
}

fn remainder_int(p: i32, q: i32) -> i32 {
    if q == 0 { return 0; }
    // GLSL leaves % of negative numbers undefined
    return p - p / q * q;
}

fn modulo(p: i32, q: i32) -> i32 {
    let r = remainder_int(p, q);
    return select(r, r + q, r != 0 && (r < 0) != (q < 0));
}

fn quotient(p: i32, q: i32) -> i32 {
    if q == 0 { return 0; }
    return p / q;
}

fn wrapped(v: i32) -> u32 {
    if params.bits >= 32u { return bitcast<u32>(v); }
    if params.signed == 1u { return bitcast<u32>(extractBits(v, 0u, params.bits)); }
    return extractBits(bitcast<u32>(v), 0u, params.bits);
}

// both are unsigned
fn left(p: u32, q: u32) -> i32 {
    if q > 31u { return 0; }
    return bitcast<i32>(p << q);
}

fn right(p: u32, q: u32) -> i32 {
    if q > 31u { return 0; }
    return bitcast<i32>(p >> q);
}

fn float(p: f32, q: f32) -> u32 {
    switch OP {
        case 0u: { return bitcast<u32>(operation_0(p, q)); }
        case 1u: { return bitcast<u32>(operation_1(p, q)); }
        case 2u: { return bitcast<u32>(operation_2(p, q)); }
        case 3u: { return bitcast<u32>(operation_3(p, q)); }
        case 4u: { return bitcast<u32>(operation_4(p, q)); }
        case 6u: { return bitcast<u32>(operation_6(p, q)); }
        case 10u: { return u32(p > q); }
        case 11u: { return u32(p < q); }
        case 12u: { return u32(p >= q); }
        case 13u: { return u32(p <= q); }
        case 14u: { return u32(p == q); }
        default: { return 0u; }
    }
}

fn int(p: i32, q: i32) -> u32 {
    switch OP {
        case 0u: { return wrapped(p + q); }
        case 1u: { return wrapped(p - q); }
        case 2u: { return wrapped(p * q); }
        case 3u: { return wrapped(quotient(p, q)); }
        case 4u: { return wrapped(power_int(p, q)); }
        case 5u: { return bitcast<u32>(modulo(p, q)); }
        case 6u: { return bitcast<u32>(remainder_int(p, q)); }
        case 7u: { return wrapped(left(bitcast<u32>(p), bitcast<u32>(q))); }
        case 8u: { return wrapped(right(bitcast<u32>(p), bitcast<u32>(q))); }
        case 10u: { return u32(p > q); }
        case 11u: { return u32(p < q); }
        case 12u: { return u32(p >= q); }
        case 13u: { return u32(p <= q); }
        case 14u: { return u32(p == q); }
        case 20u: { return bitcast<u32>(p & q); }
        case 21u: { return bitcast<u32>(p | q); }
        case 22u: { return bitcast<u32>(p ^ q); }
        default: { return 0u; }
    }
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = id.x + id.y * groups.x * 64u;
    if i >= params.n { return; }
    var p = i * params.a_step;
    var q = i * params.b_step;
    if BROADCAST == 1u {
        p = 0u;
        q = 0u;
        var rest = i;
        for (var axis = i32(params.rank) - 1; axis >= 0; axis--) {
            let at = rest % params.shape[axis];
            rest = rest / params.shape[axis];
            p += at * params.a_strides[axis];
            q += at * params.b_strides[axis];
        }
    }
    if INT == 1u {
        y[i] = int(bitcast<i32>(a[p]), bitcast<i32>(b[q]));
    } else {
        let v = float(bitcast<f32>(a[p]), bitcast<f32>(b[q]));
        y[i] = select(v, 0u, RELU == 1u && bitcast<f32>(v) < 0.0);
    }
}
