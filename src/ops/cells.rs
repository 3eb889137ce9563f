//! The recurrent ops: <https://onnx.ai/onnx/operators/onnx__LSTM.html>, GRU and RNN. `f`, `g` and `h` are the
//! activations, as in ONNX's formulas.

use super::composite::{Composite, Parts};
use super::recurrent::{Cell, Layer, Recurrent, State, blocks, lengths, recurrence, unroll};
use super::{Arg, Case, Op, Pen, Sampler, Spec};
use crate::error::Result;
use crate::graph::{Attr, ValueId};
use crate::tensor::{Array, DType};

/// `x + h · Rᵀ`, where a state of zeros is left out.
fn with_recurrence(p: &mut Pen, x: ValueId, h: Option<ValueId>, rt: ValueId) -> Result<ValueId> {
    let Some(h) = h else { return Ok(x) };
    let product = p.op("MatMul", &[h, rt])?;
    p.add(x, product)
}

/// `h' = f(x · Wᵀ + h · Rᵀ + b)`
struct Simple {
    layer: Layer,
    rt: ValueId,
}

impl Cell for Simple {
    const GATES: usize = 1;
    const ACTIVATIONS: &'static [&'static str] = &["Tanh"];

    fn new(p: &mut Parts, layer: Layer) -> Result<(Self, Option<ValueId>)> {
        let rt = recurrence(p, layer.r, 0, layer.hidden)?;
        let bias = layer.whole_bias(p)?;
        Ok((Self { layer, rt }, bias))
    }
    fn step(&self, p: &mut Parts, x: ValueId, before: State) -> Result<State> {
        let sum = with_recurrence(p, x, before.h, self.rt)?;
        Ok(State { h: Some(self.layer.activate(p, 0, sum)?), c: None })
    }
}

/// `h' = (1 − z) ∘ h̃ + z ∘ h` with gates z and r, in this order in W and R, and the candidate h̃ last.
struct Gru {
    layer: Layer,
    reset: Reset,
}

/// Where the gate r goes.
enum Reset {
    /// `h̃ = g(x_h + (r ∘ h) · R_hᵀ)`: the transposed rows of R for both gates, and those for h̃.
    Before { gates: ValueId, candidate: ValueId },
    /// `h̃ = g(x_h + r ∘ (h · R_hᵀ + b))`: all of R transposed, and the bias of the recurrence.
    After { rt: ValueId, bias: Option<ValueId> },
}

impl Cell for Gru {
    const GATES: usize = 3;
    const ACTIVATIONS: &'static [&'static str] = &["Sigmoid", "Tanh"];

    fn new(p: &mut Parts, layer: Layer) -> Result<(Self, Option<ValueId>)> {
        let hidden = layer.hidden;
        if p.view().int("linear_before_reset", 0)? == 0 {
            let gates = recurrence(p, layer.r, 0, 2 * hidden)?;
            let candidate = recurrence(p, layer.r, 2 * hidden, 3 * hidden)?;
            let bias = layer.whole_bias(p)?;
            return Ok((Self { layer, reset: Reset::Before { gates, candidate } }, bias));
        }
        let rt = recurrence(p, layer.r, 0, 3 * hidden)?;
        let (mut of_input, mut bias) = (None, None);
        if let Some(both) = layer.bias {
            let input = p.slice(both, 0, [0, 1, 1])?;
            of_input = Some(p.reshape(input, &[3 * hidden])?);
            bias = Some(p.slice(both, 0, [1, 2, 1])?);
        }
        Ok((Self { layer, reset: Reset::After { rt, bias } }, of_input))
    }
    fn step(&self, p: &mut Parts, x: ValueId, before: State) -> Result<State> {
        let hidden = self.layer.hidden;
        let [xz, xr, xh] = blocks(p, x, [hidden; 3])?;
        let (z, candidate) = match self.reset {
            Reset::Before { gates, candidate } => match before.h {
                None => (self.layer.activate(p, 0, xz)?, xh),
                Some(h) => {
                    let product = p.op("MatMul", &[h, gates])?;
                    let [hz, hr] = blocks(p, product, [hidden; 2])?;
                    let (z, r) = (self.gate(p, xz, hz)?, self.gate(p, xr, hr)?);
                    let kept = p.mul(r, h)?;
                    (z, with_recurrence(p, xh, Some(kept), candidate)?)
                }
            },
            Reset::After { rt, bias } => {
                let product = before.h.map(|h| p.op("MatMul", &[h, rt])).transpose()?;
                let recurrent = match (product, bias) {
                    (Some(product), Some(bias)) => Some(p.add(product, bias)?),
                    (product, bias) => product.or(bias),
                };
                match recurrent {
                    None => (self.layer.activate(p, 0, xz)?, xh),
                    Some(v) => {
                        let [hz, hr, hh] = blocks(p, v, [hidden; 3])?;
                        let (z, r) = (self.gate(p, xz, hz)?, self.gate(p, xr, hr)?);
                        let kept = p.mul(r, hh)?;
                        (z, p.add(xh, kept)?)
                    }
                }
            }
        };
        let candidate = self.layer.activate(p, 1, candidate)?;
        // h̃ + z ∘ (h − h̃)
        let away = match before.h {
            Some(h) => p.sub(h, candidate)?,
            None => p.neg(candidate)?,
        };
        let moved = p.mul(z, away)?;
        Ok(State { h: Some(p.add(candidate, moved)?), c: None })
    }
}

impl Gru {
    /// `f(a + b)`
    fn gate(&self, p: &mut Pen, a: ValueId, b: ValueId) -> Result<ValueId> {
        let sum = p.add(a, b)?;
        self.layer.activate(p, 0, sum)
    }
}

/// `c' = f ∘ c + i ∘ g(c̃)`, `h' = o ∘ h(c')` with gates i, o, f and the candidate c̃, in this order in W and R.
struct Lstm {
    layer: Layer,
    rt: ValueId,
    /// Weights of c in i, of c' in o, of c in f: `[1, H]` each.
    peepholes: Option<[ValueId; 3]>,
    /// True when `f = 1 − i`.
    coupled: bool,
}

impl Lstm {
    /// Gate `gate`, which sees `c` through peephole `i`.
    fn gate(&self, p: &mut Pen, gate: ValueId, i: usize, c: Option<ValueId>) -> Result<ValueId> {
        let sum = match (self.peepholes, c) {
            (Some(peepholes), Some(c)) => {
                let seen = p.mul(c, peepholes[i])?;
                p.add(gate, seen)?
            }
            _ => gate,
        };
        self.layer.activate(p, 0, sum)
    }
}

impl Cell for Lstm {
    const GATES: usize = 4;
    const ACTIVATIONS: &'static [&'static str] = &["Sigmoid", "Tanh", "Tanh"];
    const TWO_STATES: bool = true;

    fn new(p: &mut Parts, layer: Layer) -> Result<(Self, Option<ValueId>)> {
        let hidden = layer.hidden;
        let rt = recurrence(p, layer.r, 0, 4 * hidden)?;
        let bias = layer.whole_bias(p)?;
        let peepholes = match layer.peepholes {
            None => None,
            Some(all) => {
                let all = p.reshape(all, &[1, 3 * hidden])?;
                let mut part = |i: usize| p.slice(all, 1, [i * hidden, (i + 1) * hidden, 1]);
                Some([part(0)?, part(1)?, part(2)?])
            }
        };
        let coupled = p.view().int("input_forget", 0)? != 0;
        Ok((Self { layer, rt, peepholes, coupled }, bias))
    }
    fn step(&self, p: &mut Parts, x: ValueId, before: State) -> Result<State> {
        let sum = with_recurrence(p, x, before.h, self.rt)?;
        let [i, o, f, candidate] = blocks(p, sum, [self.layer.hidden; 4])?;
        let i = self.gate(p, i, 0, before.c)?;
        let candidate = self.layer.activate(p, 1, candidate)?;
        let mut c = p.mul(i, candidate)?;
        if let Some(old) = before.c {
            let f = if self.coupled {
                let minus = p.neg(i)?;
                p.shift(minus, 1.0)?
            } else {
                self.gate(p, f, 2, Some(old))?
            };
            let kept = p.mul(f, old)?;
            c = p.add(kept, c)?;
        }
        let o = self.gate(p, o, 1, Some(c))?;
        let shown = self.layer.activations[2].apply(p, c)?;
        Ok(State { h: Some(p.mul(o, shown)?), c: Some(c) })
    }
}

/// Three steps of two samples, three inputs, two hidden units, as inputs X, W, R, B, then sequence_lens.
struct Small {
    name: &'static str,
    gates: usize,
}

impl Small {
    fn case(&self, name: &str, directions: usize, more: &[&[usize]]) -> Case {
        let rows = self.gates * 2;
        let (w, r) = ([directions, rows, 3], [directions, rows, 2]);
        let shapes = [&[&[3, 2, 3][..], &w, &r], more].concat();
        // gates are not saturated; the GPU's exp errs by 1e-6 a step
        Case::new(&format!("{} {name}", self.name), &shapes).sampled(&Sampler::within(-1.0, 1.0)).within(2e-5)
    }
    fn bias(&self) -> [usize; 2] {
        [1, self.gates * 4]
    }
    /// What all three ops are tried on; `named` are activations for two directions with as many parameters as they take.
    fn cases(&self, named: (&[&str], &[f32], &[f32])) -> Vec<Case> {
        let both: [usize; 2] = [2, self.gates * 4];
        let strings = |names: &[&str]| Attr::Strs(names.iter().map(|&s| s.to_owned()).collect());
        let zeros = Arg::Const(Array::full(&[1, 2, 2], 0.0), DType::F64);
        let halves = Arg::Const(Array::full(&[1, 2, 2], 0.5), DType::F64);
        let mut cases = vec![
            self.case("forward", 1, &[]).outputs(&[true]),
            self.case("bias", 1, &[&self.bias()]).outputs(&[true, true]),
            self.case("last state alone", 1, &[]).outputs(&[false, true]),
            self.case("reverse", 1, &[&self.bias()]).attr("direction", "reverse").outputs(&[true, true]),
            self.case("both ways", 2, &[&both]).attr("direction", "bidirectional").outputs(&[true, true]),
            self.case("clipped", 1, &[&self.bias()]).attr("clip", 0.4f32),
            self.case("named activations", 2, &[&both])
                .attr("direction", "bidirectional")
                .attr("activations", strings(named.0))
                .attr("activation_alpha", Attr::Floats(named.1.to_vec()))
                .attr("activation_beta", Attr::Floats(named.2.to_vec()))
                .outputs(&[true, true]),
            self.case("full lengths", 1, &[]).arg(Arg::Absent).arg(Arg::Const(Array::ints(&[3, 3]), DType::I32)),
            self.case("lengths", 1, &[&self.bias()]).arg(lengths(&[1, 3])).outputs(&[true, true]),
            self.case("lengths both ways", 2, &[&both])
                .arg(lengths(&[3, 2]))
                .attr("direction", "bidirectional")
                .outputs(&[true, true]),
            self.case("initial zeros", 1, &[]).arg(Arg::Absent).arg(Arg::Absent).arg(zeros),
            self.case("initial constant", 1, &[]).arg(Arg::Absent).arg(Arg::Absent).arg(halves),
        ];
        let mut samples_first =
            self.case("samples first", 2, &[&both]).attr("layout", 1).attr("direction", "bidirectional");
        samples_first.inputs[0] = Arg::Float(vec![2, 3, 3], Sampler::within(-1.0, 1.0));
        cases.push(samples_first.outputs(&[true, true]));
        let mut given = self.case("initial state and lengths", 2, &[&both]).arg(lengths(&[2, 3]));
        given.inputs.push(Arg::Float(vec![2, 2, 2], Sampler::within(-1.0, 1.0)));
        cases.push(given.attr("direction", "bidirectional").outputs(&[true, true]));
        let mut given = self.case("initial state, samples first", 1, &[&self.bias()]).attr("layout", 1);
        given.inputs[0] = Arg::Float(vec![2, 3, 3], Sampler::within(-1.0, 1.0));
        given.inputs.extend([Arg::Absent, Arg::Float(vec![2, 1, 2], Sampler::within(-1.0, 1.0))]);
        cases.push(given.outputs(&[true, true]));
        cases
    }
}

fn rnn_cases() -> Vec<Case> {
    let small = Small { name: "RNN", gates: 1 };
    small.cases((&["ScaledTanh", "Affine"], &[1.5, 0.5], &[0.75, 0.25]))
}

fn gru_cases() -> Vec<Case> {
    let small = Small { name: "GRU", gates: 3 };
    let mut cases = small.cases((&["HardSigmoid", "Softsign", "Sigmoid", "Elu"], &[0.1, 0.5], &[0.4]));
    let after = |c: Case| c.attr("linear_before_reset", 1).outputs(&[true, true]);
    let two = [2, 12];
    cases.extend([
        after(small.case("reset after", 1, &[])),
        after(small.case("reset after, bias", 1, &[&small.bias()])),
        after(
            small.case("reset after, both ways", 2, &[&two]).attr("direction", "bidirectional").arg(lengths(&[1, 3])),
        ),
    ]);
    cases
}

fn lstm_cases() -> Vec<Case> {
    let small = Small { name: "LSTM", gates: 4 };
    let mut cases =
        small.cases((&["Sigmoid", "Softsign", "LeakyRelu", "HardSigmoid", "Softplus", "Tanh"], &[0.1, 0.1], &[0.4]));
    let float = |shape: &[usize]| Arg::Float(shape.to_vec(), Sampler::within(-1.0, 1.0));
    let rest = |c: Case, directions: usize| {
        c.arg(lengths(&[3, 2]))
            .arg(float(&[directions, 2, 2]))
            .arg(float(&[directions, 2, 2]))
            .arg(float(&[directions, 6]))
            .outputs(&[true, true, true])
    };
    let two = [2, 16];
    cases.extend([
        small.case("cell state", 1, &[&small.bias()]).outputs(&[true, true, true]),
        rest(small.case("everything", 1, &[&small.bias()]), 1),
        rest(small.case("everything both ways", 2, &[&two]).attr("direction", "bidirectional"), 2),
        rest(small.case("coupled gates", 1, &[&small.bias()]), 1).attr("input_forget", 1),
    ]);
    // without an initial state the input and output gates alone look through their peepholes in the first step
    let peepholes = small.case("peepholes", 1, &[&small.bias()]);
    let skipped = peepholes.arg(Arg::Absent).arg(Arg::Absent).arg(Arg::Absent);
    cases.push(skipped.arg(float(&[1, 6])).outputs(&[true, true, true]));
    cases
}

static RNN: Recurrent = Recurrent(Composite {
    spec: Spec::new("RNN", 22, (3, 6)).outputs(0, 2),
    write: unroll::<Simple>,
    cases: rnn_cases,
});
static GRU: Recurrent =
    Recurrent(Composite { spec: Spec::new("GRU", 22, (3, 6)).outputs(0, 2), write: unroll::<Gru>, cases: gru_cases });
static LSTM: Recurrent = Recurrent(Composite {
    spec: Spec::new("LSTM", 22, (3, 8)).outputs(0, 3),
    write: unroll::<Lstm>,
    cases: lstm_cases,
});

pub(super) static OPS: &[&dyn Op] = &[&RNN, &GRU, &LSTM];
