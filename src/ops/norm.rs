//! Normalization by the statistics of the input itself:
//! <https://onnx.ai/onnx/operators/onnx__LayerNormalization.html> and its relatives.

use super::support::{PARALLEL, broadcast, float_type, given};
use super::{Bind, Case, Kernel, NodeView, Op, Params, Sampler, Spec, Step, Vjp, grid_1d, reshape};
use crate::error::{Error, Result};
use crate::graph::{Attrs, Batch, Graph, OPSET, ValueId, batch};
use crate::tensor::{Array, TensorType};
use rayon::prelude::*;

/// `y = (x − mean) / √(var + epsilon) · scale + bias`, with mean and variance of a group of elements.
struct Norm {
    name: &'static str,
    version: i64,
    over: Over,
    /// Whether the mean is taken off; without it the variance is the mean of the squares.
    centered: bool,
}

/// Which elements share their statistics.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Over {
    /// Those along `axis` and all later axes; `scale` lies along the last of them.
    Axes,
    /// Those of one channel of one sample; one `scale` for each channel.
    Channel,
    /// Those of `num_groups` groups of channels of one sample; one `scale` for each channel.
    Groups,
}

/// The input as `[rows, len]`, where each row shares its statistics. Element `k` of row `r` has the
/// parameter `r % period · step + k / div % modulo`, with a modulo each for scale and bias.
struct Geometry {
    rows: usize,
    len: usize,
    period: usize,
    step: usize,
    div: usize,
    modulo: [usize; 2],
    /// The input's shape in which whole axes share their statistics, and the first such axis.
    work: Vec<usize>,
    axis: usize,
}

impl Geometry {
    /// Shape of mean and deviation when the shared axes are kept as 1.
    fn kept(&self) -> Vec<usize> {
        self.work.iter().enumerate().map(|(i, &d)| if i < self.axis { d } else { 1 }).collect()
    }
    /// The mean of `v`, which has the shape `work`, over the shared axes.
    fn mean(&self, g: &mut Graph, v: ValueId) -> Result<ValueId> {
        let axes: Vec<i64> = (self.axis..self.work.len()).map(|a| a as i64).collect();
        let axes = g.ints(&axes);
        g.push("ReduceMean", &[v, axes], Attrs::new())
    }
}

impl Norm {
    fn geometry(&self, n: &NodeView) -> Result<Geometry> {
        let shape = n.shape(0)?;
        if self.over == Over::Axes {
            let axis = n.axis(n.int("axis", -1)?, shape.len())?;
            let mut modulo = [1; 2];
            for (i, m) in modulo.iter_mut().enumerate() {
                let Some(p) = n.optional(i + 1) else { continue };
                if !lies_behind(&p.shape, &shape[axis..]) {
                    return Err(Error::internal(format!("input {} of shape {:?} is no suffix", i + 1, p.shape)));
                }
                *m = p.len();
            }
            return Ok(Geometry {
                rows: shape[..axis].iter().product(),
                len: shape[axis..].iter().product(),
                period: 1,
                step: 0,
                div: 1,
                modulo,
                work: shape.to_vec(),
                axis,
            });
        }
        let &[samples, channels, ref spatial @ ..] = shape else {
            return Err(Error::unsupported(format!("an input of shape {shape:?} has no channel axis")));
        };
        for i in 1..3 {
            if n.shape(i)? != [channels] {
                return Err(Error::format(format!("input {i} has shape {:?}, not [{channels}]", n.shape(i)?)));
            }
        }
        let inner: usize = spatial.iter().product();
        let groups = match self.over {
            Over::Groups => n.int("num_groups", 0)?,
            _ => channels as i64,
        };
        let count = usize::try_from(groups)
            .ok()
            .filter(|&g| g > 0 && channels % g == 0)
            .ok_or_else(|| Error::format(format!("attribute num_groups = {groups} does not divide {channels}")))?;
        let step = channels / count;
        Ok(Geometry {
            rows: samples * count,
            len: step * inner,
            period: count,
            step,
            div: inner.max(1),
            modulo: [step; 2],
            work: vec![samples, count, step * inner],
            axis: 2,
        })
    }
    /// Emits `x̂ = (x − mean) / √(var + ε)` in the shape `work`, and that square root.
    fn normal(&self, g: &mut Graph, x: ValueId, at: &Geometry, epsilon: f64) -> Result<(ValueId, ValueId)> {
        let mut centered = reshape(g, x, &at.work)?;
        if self.centered {
            let mean = at.mean(g, centered)?;
            centered = g.push("Sub", &[centered, mean], Attrs::new())?;
        }
        let squares = g.push("Mul", &[centered, centered], Attrs::new())?;
        let var = at.mean(g, squares)?;
        let epsilon = g.scalar(epsilon, g.dtype(x));
        let shifted = g.push("Add", &[var, epsilon], Attrs::new())?;
        let deviation = g.push("Sqrt", &[shifted], Attrs::new())?;
        Ok((g.push("Div", &[centered, deviation], Attrs::new())?, deviation))
    }
    /// A scale or bias in a shape that broadcasts against the input's.
    fn parameter(&self, g: &mut Graph, p: ValueId, shape: &[usize]) -> Result<ValueId> {
        match self.over {
            Over::Axes => Ok(p),
            _ => reshape(g, p, &[&[shape[1]], vec![1; shape.len() - 2].as_slice()].concat()),
        }
    }
    fn epsilon(&self, n: &NodeView) -> Result<f64> {
        n.float("epsilon", 1e-5)
    }
}

/// True when a parameter, apart from leading ones, has the last extents of the normalised axes, as the kernels need it.
fn lies_behind(p: &[usize], normalised: &[usize]) -> bool {
    let own: Vec<usize> = p.iter().copied().skip_while(|&d| d == 1).collect();
    normalised.ends_with(&own)
}

/// Calls `f` with every element of a row and its parameter.
fn apply<T: Copy>(row: &mut [T], p: &[T], div: usize, modulo: usize, f: impl Fn(&mut T, T)) {
    if div == 1 {
        row.chunks_mut(modulo).for_each(|part| part.iter_mut().zip(p).for_each(|(y, &p)| f(y, p)));
    } else {
        row.chunks_mut(div).enumerate().for_each(|(j, part)| part.iter_mut().for_each(|y| f(y, p[j % modulo])));
    }
}

impl Op for Norm {
    fn spec(&self) -> Spec {
        match (self.over, self.centered) {
            (Over::Axes, true) => Spec::new(self.name, self.version, (2, 3)).outputs(1, 3),
            (Over::Axes, false) => Spec::new(self.name, self.version, (2, 2)),
            _ => Spec::new(self.name, self.version, (3, 3)),
        }
    }
    fn expand(
        &'static self,
        g: &mut Graph,
        inputs: &[Option<ValueId>],
        attrs: &Attrs,
        wanted: &[bool],
    ) -> Result<Option<Vec<Option<ValueId>>>> {
        let n = g.view(self, self.name, inputs, attrs, wanted);
        if self.over != Over::Axes {
            return Ok(None);
        }
        let (x, parameters) = (n.ty(0)?.clone(), [n.optional(1), n.optional(2)]);
        let axis = n.axis(n.int("axis", -1)?, x.shape.len())?;
        if parameters.iter().flatten().all(|p| lies_behind(&p.shape, &x.shape[axis..])) {
            return Ok(None);
        }
        // a parameter that is stretched in another way is multiplied or added by an op of its own
        for p in parameters.into_iter().flatten() {
            if broadcast(&[&x.shape, &p.shape])? != x.shape {
                return Err(Error::format(format!("a parameter of shape {:?} is stretched to {x}", p.shape)));
            }
        }
        let ones = g.constant(Array::full_float(x.dtype, &x.shape[axis..], 1.0));
        let mut out = g.push_multi(self, &[inputs[0], Some(ones)], attrs.clone(), wanted)?;
        if let Some(Some(y)) = out.first_mut() {
            for (op, p) in ["Mul", "Add"].into_iter().zip(&inputs[1..]) {
                if let Some(p) = *p {
                    *y = g.push(op, &[*y, p], Attrs::new())?;
                }
            }
        }
        Ok(Some(out))
    }
    fn infer(&self, n: &NodeView) -> Result<Vec<TensorType>> {
        let x = n.ty(0)?;
        if !x.dtype.is_float() || n.inputs.iter().flatten().any(|t| t.dtype != x.dtype) {
            return Err(Error::unsupported("inputs of different types, or of integers, are not supported"));
        }
        let kept = TensorType::new(x.dtype, self.geometry(n)?.kept());
        Ok(match self.spec().outputs.1 {
            1 => vec![x.clone()],
            _ => vec![x.clone(), kept.clone(), kept],
        })
    }
    fn batch(&self, n: &NodeView, from: &[Batch], _: usize, out: &[TensorType]) -> Vec<Batch> {
        let shared: Vec<usize> = match (self.geometry(n), self.over) {
            (Ok(g), Over::Axes) => (g.axis..g.work.len()).collect(),
            (Ok(_), _) => (1..out[0].shape.len()).collect(),
            (Err(_), _) => return vec![Batch::Lost; out.len()],
        };
        vec![batch::unless_on(from, &shared); out.len()]
    }
    fn eval(&self, n: &NodeView, x: &[Option<&Array>]) -> Result<Vec<Array>> {
        let (g, epsilon) = (self.geometry(n)?, self.epsilon(n)?);
        let input = given(x, 0)?;
        float_type!(input, T => {
            // eight chains side by side
            fn sum(v: &[T], f: impl Fn(T) -> T) -> T {
                let mut lanes: [T; 8] = [0.0; 8];
                v.chunks(8).for_each(|c| lanes.iter_mut().zip(c).for_each(|(l, &v)| *l += f(v)));
                lanes.iter().sum()
            }
            let v = input.slice::<T>()?;
            let scale = given(x, 1)?.slice::<T>()?;
            let bias = x.get(2).copied().flatten().map(Array::slice::<T>).transpose()?;
            let mut y: Vec<T> = vec![0.0; v.len()];
            let (mut mean, mut inverse): (Vec<T>, Vec<T>) = (vec![0.0; g.rows], vec![0.0; g.rows]);
            if !y.is_empty() {
                let rows = y.par_chunks_mut(g.len).with_min_len((PARALLEL / g.len).max(1)).zip(v.par_chunks(g.len));
                rows.zip(&mut mean).zip(&mut inverse).enumerate().for_each(|(r, (((y, x), mean), inverse))| {
                    *mean = if self.centered { sum(x, |v| v) / g.len as T } else { 0.0 };
                    let var = sum(x, |v| (v - *mean) * (v - *mean)) / g.len as T;
                    *inverse = 1.0 / (var + epsilon as T).sqrt();
                    y.iter_mut().zip(x).for_each(|(y, &x)| *y = (x - *mean) * *inverse);
                    let first = r % g.period * g.step;
                    apply(y, &scale[first..], g.div, g.modulo[0], |y, p| *y *= p);
                    if let Some(bias) = bias {
                        apply(y, &bias[first..], g.div, g.modulo[1], |y, p| *y += p);
                    }
                });
            }
            let mut out = vec![Array::from_vec(input.shape(), y)?];
            if self.spec().outputs.1 > 1 {
                out.push(Array::from_vec(&g.kept(), mean)?);
                out.push(Array::from_vec(&g.kept(), inverse)?);
            }
            Ok(out)
        })
    }
    fn vjp(&self, b: &mut Vjp) -> Result<()> {
        let view = b.view();
        let (g, epsilon) = (self.geometry(&view)?, self.epsilon(&view)?);
        let (x, scale, dy) = (b.x(0)?, b.x(1)?, b.dy()?);
        let shape = b.shape(x);
        let (normal, deviation) = self.normal(b.graph(), x, &g, epsilon)?;
        if b.wants(0) {
            // dx = r · (g − mean g − x̂ · mean(g · x̂)) with g = dy · scale; mean g belongs to the mean
            let scale = self.parameter(b.graph(), scale, &shape)?;
            let scaled = b.mul(dy, scale)?;
            let scaled = b.reshape(scaled, &g.work)?;
            let product = b.mul(scaled, normal)?;
            let mut along = g.mean(b.graph(), product)?;
            // the outputs Mean and InvStdDev: dx += dmean / len − dr · r² · x̂ / len
            if let Some(dr) = b.dy_of(2) {
                let part = b.scale(dr, 1.0 / g.len as f64)?;
                let part = b.div(part, deviation)?;
                along = b.add(along, part)?;
            }
            let taken = b.mul(normal, along)?;
            let mut dx = b.sub(scaled, taken)?;
            if self.centered {
                let mean = g.mean(b.graph(), scaled)?;
                dx = b.sub(dx, mean)?;
            }
            let mut dx = b.div(dx, deviation)?;
            if let Some(dmean) = b.dy_of(1) {
                let part = b.scale(dmean, 1.0 / g.len as f64)?;
                dx = b.add(dx, part)?;
            }
            let dx = b.reshape(dx, &shape)?;
            b.set_dx(0, dx);
        }
        // dscale = dy · x̂ and dbias = dy, summed to their shapes
        let mut parts = vec![(2, dy)];
        if b.wants(1) {
            let normal = b.reshape(normal, &shape)?;
            parts.push((1, b.mul(dy, normal)?));
        }
        for (i, d) in parts.into_iter().filter(|(i, _)| b.wants(*i)).collect::<Vec<_>>() {
            match self.over {
                Over::Axes => b.set_dx(i, d),
                _ => b.set_along(i, d, 1),
            }
        }
        Ok(())
    }
    fn kernel(&self, n: &NodeView) -> Result<Kernel> {
        let g = self.geometry(n)?;
        let bias = n.optional(2).is_some();
        let mut scratch = Vec::new();
        // a binding needs a buffer even where the statistics are not asked for
        let mut statistic = |i: usize| {
            if n.wants(i) {
                return Bind::Output(i);
            }
            scratch.push(1);
            Bind::Scratch(scratch.len() - 1)
        };
        let (mean, inverse) = (statistic(1), statistic(2));
        let step = Step {
            shader: crate::shader!("norm"),
            overrides: [("CENTERED", self.centered), ("BIAS", bias), ("MEAN", n.wants(1)), ("INVERSE", n.wants(2))]
                .map(|(name, on)| (name, f64::from(u8::from(on))))
                .to_vec(),
            binds: vec![
                Bind::Input(0),
                Bind::Input(1),
                Bind::Input(if bias { 2 } else { 1 }),
                Bind::Output(0),
                mean,
                inverse,
            ],
            params: Params::new()
                .u("rows", g.rows)
                .u("len", g.len)
                .u("period", g.period)
                .u("step", g.step)
                .u("div", g.div)
                .u("scale_modulo", g.modulo[0])
                .u("bias_modulo", g.modulo[1])
                .f("epsilon", self.epsilon(n)?),
            grid: grid_1d(g.rows),
        };
        Ok(Kernel::Steps { steps: vec![step], scratch })
    }
    fn cases(&self) -> Vec<Case> {
        let case = |name: &str, shapes: &[&[usize]]| Case::new(&format!("{} {name}", self.name), shapes);
        match self.over {
            Over::Axes => {
                let mut cases = vec![
                    case("tokens", &[&[2, 3, 6], &[6]]),
                    case("matrix", &[&[5, 7], &[7]]).attr("epsilon", 0.25f32),
                    case("two axes", &[&[2, 3, 4], &[3, 4]]).attr("axis", -2),
                    case("all axes", &[&[3, 4], &[3, 4]]).attr("axis", 0),
                    case("last of two axes", &[&[2, 3, 4], &[1, 4]]).attr("axis", 1),
                    case("first of two axes", &[&[2, 3, 4], &[3, 1]]).attr("axis", 1),
                    case("scale of other axes", &[&[2, 3, 4], &[2, 1, 4]]),
                ];
                if self.centered {
                    cases.extend([
                        case("bias", &[&[2, 3, 6], &[6], &[6]]),
                        case("bias, two axes", &[&[2, 3, 4], &[3, 4], &[4]]).attr("axis", 1),
                        case("statistics", &[&[4, 6], &[6], &[6]]).outputs(&[true, true, true]),
                        case("bias of the first of two axes", &[&[2, 3, 4], &[3, 4], &[3, 1]])
                            .attr("axis", 1)
                            .outputs(&[true, true]),
                        case("mean alone", &[&[2, 2, 6], &[6]]).outputs(&[true, true]),
                        case("deviation alone", &[&[2, 2, 6], &[6]]).outputs(&[true, false, true]),
                        // a large mean cancels
                        case("offset", &[&[3, 8], &[8], &[8]]).sampled_at(0, &Sampler::within(20.0, 24.0)).within(1e-4),
                    ]);
                }
                cases
            }
            Over::Channel => vec![
                case("images", &[&[2, 3, 4, 5], &[3], &[3]]),
                case("sequences", &[&[2, 3, 7], &[3], &[3]]).attr("epsilon", 0.25f32),
                case("one sample", &[&[1, 2, 3, 3], &[2], &[2]]),
            ],
            Over::Groups => vec![
                case("two groups", &[&[2, 6, 3, 4], &[6], &[6]]).attr("num_groups", 2),
                case("one group", &[&[2, 4, 3], &[4], &[4]]).attr("num_groups", 1).attr("epsilon", 0.25f32),
                case("every channel", &[&[3, 2, 2, 3], &[2], &[2]]).attr("num_groups", 2),
            ],
        }
    }
    fn opset(&self, _: &NodeView) -> i64 {
        self.version.max(OPSET)
    }
    fn import(
        &self,
        g: &mut Graph,
        opset: i64,
        inputs: &[Option<ValueId>],
        attrs: Attrs,
        wanted: &[bool],
    ) -> Result<Vec<Option<ValueId>>> {
        let mut inputs = inputs.to_vec();
        if self.over == Over::Groups && opset < 21 {
            // opset 18 had one scale and bias for each group
            let channels = inputs.first().copied().flatten().and_then(|x| g.shape(x).get(1).copied()).unwrap_or(0);
            for p in inputs.iter_mut().skip(1).flatten() {
                let groups = g.shape(*p).iter().product::<usize>();
                if groups == 0 || channels % groups != 0 {
                    return Err(Error::format(format!("{groups} groups do not divide {channels} channels")));
                }
                let column = reshape(g, *p, &[groups, 1])?;
                let wide = g.ints(&[groups as i64, (channels / groups) as i64]);
                let wide = g.push("Expand", &[column, wide], Attrs::new())?;
                *p = reshape(g, wide, &[channels])?;
            }
        }
        g.push_multi(super::find(self.name)?, &inputs, attrs, wanted)
    }
    fn lower(&self, g: &mut Graph, inputs: &[Option<ValueId>], attrs: &Attrs) -> Result<Option<Vec<ValueId>>> {
        let (Some(Some(x)), true) = (inputs.first().copied(), self.version > OPSET) else {
            return Ok(None);
        };
        let view = g.view(self, self.name, inputs, attrs, &[true]);
        let (at, epsilon) = (self.geometry(&view)?, self.epsilon(&view)?);
        let shape = g.shape(x).to_vec();
        let (normal, _) = self.normal(g, x, &at, epsilon)?;
        let mut y = reshape(g, normal, &shape)?;
        for (op, p) in ["Mul", "Add"].into_iter().zip(&inputs[1..]) {
            if let Some(p) = *p {
                let p = self.parameter(g, p, &shape)?;
                y = g.push(op, &[y, p], Attrs::new())?;
            }
        }
        Ok(Some(vec![y]))
    }
}

static LAYER: Norm = Norm { name: "LayerNormalization", version: 17, over: Over::Axes, centered: true };
static RMS: Norm = Norm { name: "RMSNormalization", version: 23, over: Over::Axes, centered: false };
static INSTANCE: Norm = Norm { name: "InstanceNormalization", version: 22, over: Over::Channel, centered: true };
static GROUP: Norm = Norm { name: "GroupNormalization", version: 21, over: Over::Groups, centered: true };

pub(super) static OPS: &[&dyn Op] = &[&LAYER, &RMS, &INSTANCE, &GROUP];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::DType;

    #[test]
    fn opset_18_scales_groups() {
        let mut g = Graph::new(2);
        let x = g.input("x", TensorType::new(DType::F32, [2, 6, 4]), Batch::LEADING);
        let p = g.weight("p", Array::full(&[3], 1.0f32));
        let inputs = [Some(x), Some(p), Some(p)];
        let attrs = Attrs::new().with("num_groups", 3);
        let y = GROUP.import(&mut g, 18, &inputs, attrs.clone(), &[true]).unwrap()[0].unwrap();
        assert_eq!((g.shape(y), g.value(y).batch), ([2, 6, 4].as_slice(), Batch::LEADING));
        assert!(GROUP.import(&mut g, 21, &inputs, attrs, &[true]).is_err());
    }
}
