//! Attention and the rotation of its inputs by their positions: <https://onnx.ai/onnx/operators/>.

use super::composite::{Composite, Parts};
use super::{Arg, Case, Op, Sampler, Spec};
use crate::error::{Error, Result};
use crate::graph::{Attrs, ValueId};
use crate::tensor::{Array, DType};

/// `[n, t, heads · d]` or `[n, heads, t, d]` as the latter.
fn heads(p: &mut Parts, x: ValueId, attribute: &str) -> Result<ValueId> {
    let shape = p.shape(x);
    let &[n, t, joined] = &shape[..] else {
        return if shape.len() == 4 { Ok(x) } else { Err(Error::format(format!("shape {shape:?} has no heads"))) };
    };
    let given = p.view().int(attribute, 0)?;
    let wrong = || Error::format(format!("attribute {attribute} = {given} does not divide the {joined} columns"));
    let count = usize::try_from(given).ok().filter(|&h| h > 0 && joined % h == 0).ok_or_else(wrong)?;
    let x = p.reshape(x, &[n, t, count, joined / count])?;
    p.transpose(x, &[0, 2, 1, 3])
}

/// Past entries in front of the present ones.
fn with_past(p: &mut Parts, past: usize, x: ValueId) -> Result<ValueId> {
    match p.optional_x(past) {
        Some(past) => p.concat(&[past, x], 2),
        None => Ok(x),
    }
}

/// `−∞` where `allowed` does not hold.
fn masked(p: &mut Parts, allowed: ValueId, scores: ValueId) -> Result<ValueId> {
    let never = p.scalar_like(f64::NEG_INFINITY, scores);
    p.choose(allowed, scores, never)
}

/// The scores with every mask on them; `past` entries lie before the first query.
fn with_masks(p: &mut Parts, mut scores: ValueId, past: usize) -> Result<ValueId> {
    let shape = p.shape(scores);
    let (queries, keys) = (shape[2], shape[3]);
    if let Some(mask) = p.optional_x(3) {
        let have = p.shape(mask).last().copied().unwrap_or(0);
        let boolean = p.dtype(mask) == DType::Bool;
        // a mask that ends before the keys do leaves the rest out
        let missing = keys.checked_sub(have).filter(|_| !p.shape(mask).is_empty());
        let missing =
            missing.ok_or_else(|| Error::format(format!("attn_mask of shape {:?} for {keys} keys", p.shape(mask))))?;
        let mask = if missing == 0 {
            mask
        } else {
            let mut pads = vec![0; 2 * p.shape(mask).len()];
            let last = pads.len() - 1;
            pads[last] = super::layout::dims(&[missing])[0];
            let pads = p.graph().ints(&pads);
            let rest = if boolean { p.number_like(0, mask) } else { p.scalar_like(f64::NEG_INFINITY, mask) };
            p.op("Pad", &[mask, pads, rest])?
        };
        scores = if boolean { masked(p, mask, scores)? } else { p.add(scores, mask)? };
    }
    if p.view().int("is_causal", 0)? != 0 {
        let allowed = (0..queries).flat_map(|i| (0..keys).map(move |j| j <= past + i)).collect::<Vec<_>>();
        let allowed = p.graph().constant(Array::from_vec(&[queries, keys], allowed)?);
        scores = masked(p, allowed, scores)?;
    }
    if let Some(lengths) = p.optional_x(6) {
        let lengths = p.cast(lengths, DType::I64)?;
        let lengths = p.reshape(lengths, &[shape[0], 1, 1, 1])?;
        let places = p.int_constant(&[keys], super::layout::dims(&(0..keys).collect::<Vec<_>>()), DType::I64)?;
        let allowed = p.op("Less", &[places, lengths])?;
        scores = masked(p, allowed, scores)?;
    }
    if p.shape(scores) == shape {
        return Ok(scores);
    }
    Err(Error::format(format!("a mask stretches the scores of shape {shape:?} to {:?}", p.shape(scores))))
}

/// A product of matrices in which each of the `kv` heads on the right serves several on the left.
fn grouped(p: &mut Parts, x: ValueId, y: ValueId) -> Result<ValueId> {
    let (a, b) = (p.shape(x), p.shape(y));
    if a[1] == b[1] {
        return p.op("MatMul", &[x, y]);
    }
    let x = p.reshape(x, &[a[0], b[1], a[1] / b[1], a[2], a[3]])?;
    let y = p.unsqueeze(y, &[2])?;
    let product = p.op("MatMul", &[x, y])?;
    p.reshape(product, &[a[0], a[1], a[2], b[3]])
}

/// `softmax(cap(scale · Q Kᵀ) + mask) V`. The sum of a softmax is always taken in the precision of the graph, which
/// is no lower than that of the model; `softmax_precision` asks for nothing else.
fn attention(p: &mut Parts) -> Result<Vec<Option<ValueId>>> {
    let joined = p.view().shape(0)?.len() == 3;
    let inputs = [p.x(0)?, p.x(1)?, p.x(2)?];
    let q = heads(p, inputs[0], "q_num_heads")?;
    let k = heads(p, inputs[1], "kv_num_heads")?;
    let v = heads(p, inputs[2], "kv_num_heads")?;
    let past = p.optional_x(4).map_or(0, |past| p.shape(past).get(2).copied().unwrap_or(0));
    let (k, v) = (with_past(p, 4, k)?, with_past(p, 5, v)?);
    let (qs, ks, vs) = (p.shape(q), p.shape(k), p.shape(v));
    if qs[0] != ks[0] || qs[3] != ks[3] || ks[..3] != vs[..3] || ks[1] == 0 || qs[1] % ks[1] != 0 {
        return Err(Error::format(format!("queries {qs:?}, keys {ks:?} and values {vs:?} do not fit each other")));
    }
    let scale = match p.view().attrs.get("scale") {
        Some(_) => p.view().float("scale", 1.0)?,
        None => 1.0 / (qs[3] as f64).sqrt(),
    };
    let scaled = p.scale(q, scale)?;
    let kt = p.transpose(k, &[0, 1, 3, 2])?;
    let mut product = grouped(p, scaled, kt)?;
    let cap = p.view().float("softcap", 0.0)?;
    if cap > 0.0 {
        let within = p.scale(product, 1.0 / cap)?;
        let within = p.op("Tanh", &[within])?;
        product = p.scale(within, cap)?;
    }
    let scores = with_masks(p, product, past)?;
    let weights = p.emit("Softmax", &[scores], Attrs::new().with("axis", -1))?;
    let mut y = grouped(p, weights, v)?;
    if joined {
        y = p.transpose(y, &[0, 2, 1, 3])?;
        y = p.reshape(y, &[qs[0], qs[2], qs[1] * vs[3]])?;
    }
    let shown = match p.view().int("qk_matmul_output_mode", 0)? {
        0 | 1 => product,
        2 => scores,
        3 => weights,
        other => return Err(p.view().unsupported("qk_matmul_output_mode", other)),
    };
    let all = [y, k, v, shown];
    Ok((0..4).map(|i| p.wants(i).then_some(all[i])).collect())
}

/// <https://onnx.ai/onnx/operators/onnx__Attention.html>
static ATTENTION: Composite =
    Composite { spec: Spec::new("Attention", 24, (3, 7)).outputs(1, 4), write: attention, cases: attention_cases };

fn attention_cases() -> Vec<Case> {
    let (q, k) = ([2usize, 4, 3, 5], [2usize, 4, 6, 5]);
    let case = |name: &str, shapes: &[&[usize]]| Case::new(&format!("Attention {name}"), shapes);
    let float = |shape: &[usize]| Arg::Float(shape.to_vec(), Sampler::within(-2.0, 2.0));
    let bools = |shape: &[usize]| {
        // the first key is open to all
        let v = (0..shape.iter().product())
            .map(|i: usize| i.is_multiple_of(shape[shape.len() - 1]) || i % 3 != 1)
            .collect();
        Arg::Fed(Array::from_vec::<bool>(shape, v).unwrap_or_else(|_| Array::ints(&[])), DType::Bool)
    };
    let lengths = Arg::Fed(Array::ints(&[4, 6]), DType::I64);
    let three = |name: &str| {
        case(name, &[&[2, 3, 20], &[2, 6, 10], &[2, 6, 14]]).attr("q_num_heads", 4).attr("kv_num_heads", 2)
    };
    let past = |c: Case| c.arg(Arg::Absent).arg(float(&[2, 4, 2, 5])).arg(float(&[2, 4, 2, 5]));
    let mut all = vec![
        case("plain", &[&q, &k, &k]),
        case("scaled", &[&q, &k, &k]).attr("scale", 0.3f32),
        case("capped", &[&q, &k, &k]).attr("softcap", 1.5f32),
        case("causal", &[&q, &k, &k]).attr("is_causal", 1),
        case("float mask", &[&q, &k, &k, &[3, 6]]),
        case("float mask of heads, causal", &[&q, &k, &k, &[4, 3, 6]]).attr("is_causal", 1),
        case("bool mask", &[&q, &k, &k]).arg(bools(&[3, 6])),
        case("bool mask of samples", &[&q, &k, &k]).arg(bools(&[2, 1, 3, 6])).attr("softcap", 2.0f32),
        case("short mask", &[&q, &k, &k, &[3, 4]]),
        case("short bool mask", &[&q, &k, &k]).arg(bools(&[3, 4])),
        case("other value size", &[&q, &k, &[2, 4, 6, 3]]),
        case("groups", &[&q, &[2, 2, 6, 5], &[2, 2, 6, 3]]),
        three("three axes"),
        three("three axes, causal").attr("is_causal", 1),
        past(case("past", &[&q, &k, &k])).outputs(&[true; 4]),
        past(case("past, causal", &[&q, &k, &k])).attr("is_causal", 1),
        case("lengths", &[&q, &k, &k]).arg(Arg::Absent).arg(Arg::Absent).arg(Arg::Absent).arg(lengths),
    ];
    for mode in 0..4i64 {
        let c = case(&format!("shows product {mode}"), &[&q, &k, &k, &[3, 6]]).attr("qk_matmul_output_mode", mode);
        all.push(c.attr("softcap", 2.5f32).outputs(&[true, false, false, true]));
    }
    // a product, an exponential and a second product of GPUs follow each other
    all.into_iter().map(|c| c.within(2e-5)).collect()
}

/// <https://onnx.ai/onnx/operators/onnx__RotaryEmbedding.html>: pairs of columns turned by an angle of their position.
static ROTARY_EMBEDDING: Composite = Composite {
    spec: Spec::new("RotaryEmbedding", 23, (3, 4)).frozen(&[1, 2]),
    write: |p| {
        let joined = p.view().shape(0)?.to_vec();
        let given = p.x(0)?;
        let x = heads(p, given, "num_heads")?;
        let shape = p.shape(x);
        let &[n, count, t, d] = &shape[..] else {
            return Err(Error::format(format!("shape {shape:?} has no heads")));
        };
        let turned = match p.view().int("rotary_embedding_dim", 0)? {
            0 => d,
            r => usize::try_from(r)
                .ok()
                .filter(|&r| r <= d)
                .ok_or_else(|| Error::format(format!("rotary_embedding_dim = {r} of {d} columns")))?,
        };
        let half = turned / 2;
        let mut angles = Vec::with_capacity(2);
        for i in [1, 2] {
            let cache = p.x(i)?;
            let at = match p.optional_x(3) {
                Some(places) => p.gather(cache, places, 0)?,
                None => cache,
            };
            if p.shape(at) != [n, t, half] || turned % 2 != 0 {
                return Err(Error::format(format!(
                    "input {i} has shape {:?} where [{n}, {t}, {half}] is needed to turn {turned} columns",
                    p.shape(at)
                )));
            }
            angles.push(p.unsqueeze(at, &[1])?);
        }
        let (cos, sin) = (angles[0], angles[1]);
        let interleaved = p.view().int("interleaved", 0)? != 0;
        let part = if interleaved { [[0, turned, 2], [1, turned, 2]] } else { [[0, half, 1], [half, turned, 1]] };
        let (a, b) = (p.slice(x, 3, part[0])?, p.slice(x, 3, part[1])?);
        let (ca, sb) = (p.mul(a, cos)?, p.mul(b, sin)?);
        let (sa, cb) = (p.mul(a, sin)?, p.mul(b, cos)?);
        let (real, imaginary) = (p.sub(ca, sb)?, p.add(sa, cb)?);
        let mut y = if interleaved {
            let (real, imaginary) = (p.unsqueeze(real, &[4])?, p.unsqueeze(imaginary, &[4])?);
            let pairs = p.concat(&[real, imaginary], 4)?;
            p.reshape(pairs, &[n, count, t, turned])?
        } else {
            p.concat(&[real, imaginary], 3)?
        };
        if turned < d {
            let rest = p.slice(x, 3, [turned, d, 1])?;
            y = p.concat(&[y, rest], 3)?;
        }
        if joined.len() == 3 {
            y = p.transpose(y, &[0, 2, 1, 3])?;
            y = p.reshape(y, &joined)?;
        }
        Ok(vec![Some(y)])
    },
    cases: || {
        let case = |name: &str, shapes: &[&[usize]]| Case::new(&format!("RotaryEmbedding {name}"), shapes);
        let places = Array::from_vec(&[2, 3], vec![0i64, 4, 2, 3, 3, 1]).unwrap_or_else(|_| Array::ints(&[]));
        let places = || Arg::Fed(places.clone(), DType::I64);
        vec![
            case("halves", &[&[2, 4, 3, 6], &[5, 3], &[5, 3]]).arg(places()),
            case("pairs", &[&[2, 4, 3, 6], &[5, 3], &[5, 3]]).arg(places()).attr("interleaved", 1),
            case("no positions", &[&[2, 2, 3, 4], &[2, 3, 2], &[2, 3, 2]]),
            case("some columns", &[&[2, 2, 3, 6], &[2, 3, 2], &[2, 3, 2]]).attr("rotary_embedding_dim", 4),
            case("some pairs", &[&[2, 2, 3, 6], &[5, 1], &[5, 1]])
                .arg(places())
                .attr("rotary_embedding_dim", 2)
                .attr("interleaved", 1),
            case("three axes", &[&[2, 3, 8], &[5, 2], &[5, 2]]).arg(places()).attr("num_heads", 2),
        ]
    },
};

pub(super) static OPS: &[&dyn Op] = &[&ATTENTION, &ROTARY_EMBEDDING];
