//! What RNN, GRU and LSTM share: the sequence is unrolled into the steps of a cell, one after the other. The weight
//! gradients then sum over time and directions by themselves, and samples stay apart.

use super::composite::{Composite, Parts};
use super::{Case, Kernel, NodeView, Op, Pen, Spec, Vjp, find};
use crate::error::{Error, Result};
use crate::graph::{Attr, Attrs, Batch, Graph, ValueId};
use crate::tensor::{Array, DType, TensorType};

/// What one kind of cell does in one step. All shapes are `[N, …]`.
pub(super) trait Cell: Sized {
    /// Blocks of `hidden_size` rows in W and R.
    const GATES: usize;
    /// The activations of one direction where the model names none.
    const ACTIVATIONS: &'static [&'static str];
    /// True when the cell has a second state.
    const TWO_STATES: bool = false;

    /// The cell of one direction, and the bias that is added to `x · Wᵀ` of all steps at once.
    fn new(p: &mut Parts, layer: Layer) -> Result<(Self, Option<ValueId>)>;
    /// The states after a step, from `x · Wᵀ` with the bias.
    fn step(&self, p: &mut Parts, x: ValueId, before: State) -> Result<State>;
}

/// One direction's parameters and settings.
pub(super) struct Layer {
    pub(super) hidden: usize,
    /// `[GATES · H, H]`
    pub(super) r: ValueId,
    /// Of the input and of the recurrence: `[2, GATES · H]`.
    pub(super) bias: Option<ValueId>,
    /// `[3 · H]`
    pub(super) peepholes: Option<ValueId>,
    pub(super) activations: Vec<Activation>,
    pub(super) clip: Option<f64>,
}

/// The states between two steps; `None` is all zeros.
#[derive(Clone, Copy, Default)]
pub(super) struct State {
    pub(super) h: Option<ValueId>,
    pub(super) c: Option<ValueId>,
}

impl Layer {
    /// Activation `i` of `x`, which is clipped before.
    pub(super) fn activate(&self, p: &mut Pen, i: usize, x: ValueId) -> Result<ValueId> {
        let x = match self.clip {
            Some(c) => {
                let (low, high) = (p.scalar_like(-c, x), p.scalar_like(c, x));
                p.op("Clip", &[x, low, high])?
            }
            None => x,
        };
        self.activations[i].apply(p, x)
    }
    /// Both biases in one.
    pub(super) fn whole_bias(&self, p: &mut Pen) -> Result<Option<ValueId>> {
        self.bias.map(|b| p.reduce_sum(b, &[0], false)).transpose()
    }
}

/// `h · Rᵀ` for rows `from..to` of R, which is transposed once: `[H, to − from]`.
pub(super) fn recurrence(p: &mut Pen, r: ValueId, from: usize, to: usize) -> Result<ValueId> {
    let rows = p.slice(r, 0, [from, to, 1])?;
    p.transpose(rows, &[1, 0])
}

/// Blocks of the last of two axes.
pub(super) fn blocks<const N: usize>(p: &mut Pen, v: ValueId, sizes: [usize; N]) -> Result<[ValueId; N]> {
    let parts = split(p, v, 1, &sizes)?;
    parts.try_into().map_err(|_| Error::internal("Split gave another number of parts"))
}

fn split(p: &mut Pen, v: ValueId, axis: usize, sizes: &[usize]) -> Result<Vec<ValueId>> {
    if sizes.len() == 1 {
        return Ok(vec![v]);
    }
    // parts of weights alone keep their samples apart as slices, since only ops of one output can be stacked
    if p.samples() > 1 && p.graph().value(v).batch == Batch::None {
        let mut start = 0;
        let slices = sizes.iter().map(|&size| {
            start += size;
            p.slice(v, axis, [start - size, start, 1])
        });
        return slices.collect();
    }
    let sizes: Vec<i64> = sizes.iter().map(|&s| s as i64).collect();
    let given = [Some(v), Some(p.graph().ints(&sizes))];
    let attrs = Attrs::new().with("axis", axis as i64);
    let parts = p.graph().push_multi(find("Split")?, &given, attrs, &vec![true; sizes.len()])?;
    Ok(parts.into_iter().flatten().collect())
}

/// One of the activations that ONNX lists for recurrent ops.
#[derive(Clone, Debug)]
pub(super) struct Activation {
    name: String,
    alpha: Option<f64>,
    beta: Option<f64>,
}

impl Activation {
    /// Whether the function has an alpha and a beta, and what they are where the model does not say.
    fn defaults(name: &str) -> Result<[Option<Option<f64>>; 2]> {
        Ok(match name {
            "relu" | "tanh" | "sigmoid" | "softsign" | "softplus" => [None, None],
            "leakyrelu" => [Some(Some(0.01)), None],
            "thresholdedrelu" | "elu" => [Some(Some(1.0)), None],
            "hardsigmoid" => [Some(Some(0.2)), Some(Some(0.5))],
            // ONNX gives no defaults for these
            "affine" | "scaledtanh" => [Some(None), Some(None)],
            other => return Err(Error::unsupported(format!("attribute activations: {other:?} is not known"))),
        })
    }
    /// The activations of all directions, one after the other.
    fn of(n: &NodeView, defaults: &[&str], directions: usize) -> Result<Vec<Self>> {
        let names: Vec<String> = match n.attrs.get("activations") {
            Some(Attr::Strs(v)) => v.iter().map(|s| s.to_ascii_lowercase()).collect(),
            None => (0..directions).flat_map(|_| defaults.iter().map(|s| s.to_ascii_lowercase())).collect(),
            Some(other) => return Err(n.unsupported("activations", other)),
        };
        if names.len() != defaults.len() * directions {
            return Err(Error::format(format!(
                "attribute activations = {names:?} does not fit: {} are needed for each of {directions} directions",
                defaults.len()
            )));
        }
        let has = names.iter().map(|name| Self::defaults(name)).collect::<Result<Vec<_>>>()?;
        // writers either give one value to each activation, or to those that take one, in order
        let values = |which: usize, attribute: &str| -> Result<Vec<Option<f64>>> {
            let given: &[f32] = match n.attrs.get(attribute) {
                Some(Attr::Floats(v)) => v,
                None => &[],
                Some(other) => return Err(n.unsupported(attribute, other)),
            };
            let takers = has.iter().filter(|h| h[which].is_some()).count();
            let for_each = given.len() == names.len();
            if !given.is_empty() && !for_each && given.len() != takers {
                return Err(Error::unsupported(format!(
                    "attribute {attribute} = {given:?}: {takers} of the activations {names:?} take one"
                )));
            }
            let mut given = given.iter().map(|&v| f64::from(v));
            let mut value = |default: Option<Option<f64>>, name: &str| -> Result<Option<f64>> {
                let own = if for_each || default.is_some() { given.next() } else { None };
                let Some(default) = default else { return Ok(None) };
                own.or(default).map(Some).ok_or_else(|| {
                    Error::format(format!("attribute {attribute} is missing, which activation {name:?} needs"))
                })
            };
            has.iter().zip(&names).map(|(h, name)| value(h[which], name)).collect()
        };
        let (alphas, betas) = (values(0, "activation_alpha")?, values(1, "activation_beta")?);
        let all = names.into_iter().zip(alphas).zip(betas);
        Ok(all.map(|((name, alpha), beta)| Self { name, alpha, beta }).collect())
    }
    /// The function of `x`.
    pub(super) fn apply(&self, p: &mut Pen, x: ValueId) -> Result<ValueId> {
        let (alpha, beta) = (self.alpha.unwrap_or_default(), self.beta.unwrap_or_default());
        let with_alpha = Attrs::new().with("alpha", alpha as f32);
        match self.name.as_str() {
            "relu" => p.op("Relu", &[x]),
            "tanh" => p.op("Tanh", &[x]),
            "sigmoid" => p.op("Sigmoid", &[x]),
            "softsign" => p.op("Softsign", &[x]),
            "softplus" => p.op("Softplus", &[x]),
            "leakyrelu" => p.emit("LeakyRelu", &[x], with_alpha),
            "thresholdedrelu" => p.emit("ThresholdedRelu", &[x], with_alpha),
            "elu" => p.emit("Elu", &[x], with_alpha),
            "hardsigmoid" => p.emit("HardSigmoid", &[x], with_alpha.with("beta", beta as f32)),
            "affine" => {
                let scaled = p.scale(x, alpha)?;
                p.shift(scaled, beta)
            }
            "scaledtanh" => {
                let scaled = p.scale(x, beta)?;
                let y = p.op("Tanh", &[scaled])?;
                p.scale(y, alpha)
            }
            other => Err(Error::internal(format!("activation {other}"))),
        }
    }
}

/// What the attributes and shapes of a node say.
struct Settings {
    steps: usize,
    samples: usize,
    hidden: usize,
    /// True for each direction that runs from the end.
    reversed: Vec<bool>,
    /// True when the samples come before the steps.
    samples_first: bool,
    activations: Vec<Activation>,
    clip: Option<f64>,
    /// True when some sequence may be shorter than `steps`.
    ragged: bool,
}

impl Settings {
    fn of<C: Cell>(n: &NodeView) -> Result<Self> {
        let samples_first = match n.int("layout", 0)? {
            0 => false,
            1 => true,
            other => return Err(n.unsupported("layout", other)),
        };
        let reversed = match n.string("direction", "forward")? {
            "forward" => vec![false],
            "reverse" => vec![true],
            "bidirectional" => vec![false, true],
            other => return Err(n.unsupported("direction", other)),
        };
        let (&[first, second, inputs], &[_, _, hidden]) = (n.shape(0)?, n.shape(2)?) else {
            return Err(Error::format(format!("X is {} and R is {}, both need three axes", n.ty(0)?, n.ty(2)?)));
        };
        let (steps, samples) = if samples_first { (second, first) } else { (first, second) };
        let directions = reversed.len();
        let said = n.int("hidden_size", hidden as i64)?;
        if steps == 0 || samples == 0 || hidden == 0 || said != hidden as i64 {
            return Err(Error::format(format!(
                "attribute hidden_size = {said}, X {:?} and R {:?} do not fit",
                n.shape(0)?,
                n.shape(2)?
            )));
        }
        let state = if samples_first { [samples, directions, hidden] } else { [directions, samples, hidden] };
        let gates = C::GATES * hidden;
        let wanted: [(usize, &[usize]); 7] = [
            (1, &[directions, gates, inputs]),
            (2, &[directions, gates, hidden]),
            (3, &[directions, 2 * gates]),
            (4, &[samples]),
            (5, &state),
            (6, &state),
            (7, &[directions, 3 * hidden]),
        ];
        for (i, shape) in wanted {
            let Some(given) = n.optional(i) else { continue };
            if given.shape != shape || (i != 4 && given.dtype != n.dtype(0)?) {
                return Err(Error::format(format!("input {i} is {given}, shape {shape:?} is needed")));
            }
        }
        let clip = if n.attrs.get("clip").is_some() { Some(n.float("clip", 0.0)?) } else { None };
        Ok(Self {
            steps,
            samples,
            hidden,
            reversed,
            samples_first,
            activations: Activation::of(n, C::ACTIVATIONS, directions)?,
            clip,
            ragged: ragged(n, steps)?,
        })
    }
}

/// True unless input 4 is left out or known to be `steps` throughout.
fn ragged(n: &NodeView, steps: usize) -> Result<bool> {
    if n.optional(4).is_none() {
        return Ok(false);
    }
    let Some(Some(lengths)) = n.consts.get(4) else { return Ok(true) };
    let lengths = lengths.to_i64()?;
    if let Some(l) = lengths.iter().find(|&&l| l < 0 || l > steps as i64) {
        return Err(Error::format(format!("sequence_lens holds {l}, there are {steps} steps")));
    }
    Ok(lengths.iter().any(|&l| l != steps as i64))
}

/// Writes the whole op: outputs Y, Y_h and, with two states, Y_c.
pub(super) fn unroll<C: Cell>(p: &mut Parts) -> Result<Vec<Option<ValueId>>> {
    let s = Settings::of::<C>(&p.view())?;
    let mut x = p.x(0)?;
    if s.samples_first {
        x = p.transpose(x, &[1, 0, 2])?;
    }
    let masks = masks(p, &s)?;
    let (mut all, mut last) = (Vec::new(), Vec::new());
    for d in 0..s.reversed.len() {
        let (ys, state) = direction::<C>(p, &s, x, d, masks.as_deref())?;
        all.push(ys);
        last.push(state);
    }
    let mut out = vec![if p.wants(0) { Some(sequence(p, &s, &all)?) } else { None }];
    let ends: [Vec<ValueId>; 2] =
        [last.iter().filter_map(|s| s.h).collect(), last.iter().filter_map(|s| s.c).collect()];
    for (i, ends) in ends.iter().take(if C::TWO_STATES { 2 } else { 1 }).enumerate() {
        out.push(if p.wants(i + 1) { Some(ends_of(p, &s, ends)?) } else { None });
    }
    Ok(out)
}

/// For every step `[N, 1]`: whether it still belongs to the sample's sequence.
fn masks(p: &mut Parts, s: &Settings) -> Result<Option<Vec<ValueId>>> {
    if !s.ragged {
        return Ok(None);
    }
    let lengths = p.x(4)?;
    let lengths = p.reshape(lengths, &[s.samples, 1])?;
    let dtype = p.dtype(lengths);
    let masks = (0..s.steps).map(|t| {
        let t = p.graph().constant_as(Array::full(&[], t as i64), dtype);
        p.op("Less", &[t, lengths])
    });
    masks.collect::<Result<_>>().map(Some)
}

/// The outputs of one direction in the order of the sequence, and its last states.
fn direction<C: Cell>(
    p: &mut Parts,
    s: &Settings,
    x: ValueId,
    d: usize,
    masks: Option<&[ValueId]>,
) -> Result<(Vec<ValueId>, State)> {
    let (w, r) = (p.x(1)?, p.x(2)?);
    let (w, r) = (of_direction(p, w, d)?, of_direction(p, r, d)?);
    let of_optional = |p: &mut Parts, i: usize| p.optional_x(i).map(|v| of_direction(p, v, d)).transpose();
    let gates = C::GATES * s.hidden;
    let bias = of_optional(p, 3)?.map(|b| p.reshape(b, &[2, gates])).transpose()?;
    let per_direction = C::ACTIVATIONS.len();
    let layer = Layer {
        hidden: s.hidden,
        r,
        bias,
        peepholes: of_optional(p, 7)?,
        activations: s.activations[d * per_direction..][..per_direction].to_vec(),
        clip: s.clip,
    };
    let (cell, bias) = C::new(p, layer)?;
    // x · Wᵀ of all steps at once
    let wt = p.transpose(w, &[1, 0])?;
    let mut projected = p.op("MatMul", &[x, wt])?;
    if let Some(bias) = bias {
        projected = p.add(projected, bias)?;
    }
    let xs = split(p, projected, 0, &vec![1; s.steps])?;
    let mut state = State { h: initial(p, s, 5, d)?, c: initial(p, s, 6, d)? };
    let mut ys = Vec::with_capacity(s.steps);
    for i in 0..s.steps {
        let t = if s.reversed[d] { s.steps - 1 - i } else { i };
        let x = p.reshape(xs[t], &[s.samples, gates])?;
        let mut after = cell.step(p, x, state)?;
        let mut y = after.h;
        if let Some(&mask) = masks.and_then(|m| m.get(t)) {
            // beyond its end a sequence keeps its state and gives 0
            y = masked(p, mask, after.h, None)?;
            after = State { h: masked(p, mask, after.h, state.h)?, c: masked(p, mask, after.c, state.c)? };
        }
        ys.push(y.ok_or_else(|| Error::internal("a cell gave no state"))?);
        state = after;
    }
    if s.reversed[d] {
        ys.reverse();
    }
    Ok((ys, state))
}

/// `mask ? a : b`
fn masked(p: &mut Pen, mask: ValueId, a: Option<ValueId>, b: Option<ValueId>) -> Result<Option<ValueId>> {
    let Some(a) = a else { return Ok(None) };
    let b = b.unwrap_or_else(|| p.scalar_like(0.0, a));
    p.choose(mask, a, b).map(Some)
}

/// Entry `d` of the first axis, without that axis.
fn of_direction(p: &mut Pen, v: ValueId, d: usize) -> Result<ValueId> {
    let v = p.slice(v, 0, [d, d + 1, 1])?;
    let rest = p.shape(v)[1..].to_vec();
    p.reshape(v, &rest)
}

/// Input `i`, the state before the first step, for one direction: `[N, H]`, or `[1, H]` where it is known to be the
/// same for all samples, which keeps them apart; `None` where it is 0.
fn initial(p: &mut Parts, s: &Settings, i: usize, d: usize) -> Result<Option<ValueId>> {
    let Some(mut v) = p.optional_x(i) else { return Ok(None) };
    if s.samples_first {
        v = p.transpose(v, &[1, 0, 2])?;
    }
    let v = of_direction(p, v, d)?;
    let Some(known) = p.graph().constant_of(v).map(Array::to_f64) else { return Ok(Some(v)) };
    if known.iter().all(|&v| v == 0.0) {
        return Ok(None);
    }
    if known.chunks(s.hidden).all(|row| row == &known[..s.hidden]) {
        return p.slice(v, 0, [0, 1, 1]).map(Some);
    }
    Ok(Some(v))
}

/// Y from the outputs of all directions: `[T, D, N, H]` or `[N, T, D, H]`.
fn sequence(p: &mut Parts, s: &Settings, all: &[Vec<ValueId>]) -> Result<ValueId> {
    let mut directions = Vec::with_capacity(all.len());
    for ys in all {
        let steps = ys.iter().map(|&y| p.reshape(y, &[1, 1, s.samples, s.hidden])).collect::<Result<Vec<_>>>()?;
        directions.push(p.concat(&steps, 0)?);
    }
    let y = p.concat(&directions, 1)?;
    if s.samples_first { p.transpose(y, &[2, 0, 1, 3]) } else { Ok(y) }
}

/// Y_h or Y_c from the last states of all directions: `[D, N, H]` or `[N, D, H]`.
fn ends_of(p: &mut Parts, s: &Settings, ends: &[ValueId]) -> Result<ValueId> {
    let ends = ends.iter().map(|&h| p.reshape(h, &[1, s.samples, s.hidden])).collect::<Result<Vec<_>>>()?;
    let y = p.concat(&ends, 0)?;
    if s.samples_first { p.transpose(y, &[1, 0, 2]) } else { Ok(y) }
}

/// A composite whose initial states are settings, not weights: exporters write the zeros that a framework fills in as
/// initializers.
pub(super) struct Recurrent(pub(super) Composite);

impl Op for Recurrent {
    fn spec(&self) -> Spec {
        self.0.spec
    }
    fn frozen_inputs(&self) -> &'static [usize] {
        &[5, 6]
    }
    fn expand(
        &'static self,
        g: &mut Graph,
        inputs: &[Option<ValueId>],
        attrs: &Attrs,
        wanted: &[bool],
    ) -> Result<Option<Vec<Option<ValueId>>>> {
        self.0.expand(g, inputs, attrs, wanted)
    }
    fn infer(&self, n: &NodeView) -> Result<Vec<TensorType>> {
        self.0.infer(n)
    }
    fn eval(&self, n: &NodeView, x: &[Option<&Array>]) -> Result<Vec<Array>> {
        self.0.eval(n, x)
    }
    fn vjp(&self, b: &mut Vjp) -> Result<()> {
        self.0.vjp(b)
    }
    fn kernel(&self, n: &NodeView) -> Result<Kernel> {
        self.0.kernel(n)
    }
    fn cases(&self) -> Vec<Case> {
        self.0.cases()
    }
}

/// An `int32` vector of lengths that is fed.
pub(super) fn lengths(v: &[i64]) -> super::Arg {
    super::Arg::Fed(Array::ints(v), DType::I32)
}
