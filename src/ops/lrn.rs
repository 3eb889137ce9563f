//! Local response normalization: <https://onnx.ai/onnx/operators/onnx__LRN.html>.

use super::support::{float_type, given};
use super::{Bind, Case, Kernel, NodeView, Op, Params, Spec, Step, Vjp, grid_1d, reshape};
use crate::error::{Error, Result};
use crate::graph::{Attrs, Batch, Graph, ValueId, batch};
use crate::tensor::{Array, DType, TensorType};
use rayon::prelude::*;
use std::ops::Range;

/// `y = x · s^(−beta)` with `s = bias + alpha / size · Σ x²` over `size` neighbouring channels.
struct Lrn;

struct Settings {
    size: usize,
    alpha: f64,
    beta: f64,
    bias: f64,
    /// The input as `[outer, channels, inner]`.
    around: [usize; 3],
}

impl Settings {
    fn of(n: &NodeView) -> Result<Self> {
        let &[samples, channels, ref spatial @ ..] = n.shape(0)? else {
            return Err(Error::unsupported(format!("an input of shape {:?} has no channel axis", n.shape(0)?)));
        };
        let size = n.int("size", 0)?;
        Ok(Self {
            size: usize::try_from(size)
                .ok()
                .filter(|&s| s > 0)
                .ok_or_else(|| Error::format(format!("attribute size = {size} is not positive")))?,
            alpha: n.float("alpha", 1e-4)?,
            beta: n.float("beta", 0.75)?,
            bias: n.float("bias", 1.0)?,
            around: [samples, channels, spatial.iter().product()],
        })
    }
    /// The constant `B [channels, channels]` with which `B x²` sums over the windows.
    fn band(&self, g: &mut Graph, dtype: DType) -> Result<ValueId> {
        let channels = self.around[1];
        let mut band = vec![0.0f64; channels * channels];
        for c in 0..channels {
            band[c * channels..][self.window(c)].fill(1.0);
        }
        Ok(g.constant(Array::from_vec(&[channels, channels], band)?.to_float(dtype)))
    }
    /// Emits `s = bias + alpha / size · B x²` and `s^(−beta)`; `x` is `[outer, channels, inner]`.
    fn power(&self, g: &mut Graph, x: ValueId, band: ValueId) -> Result<[ValueId; 2]> {
        let dtype = g.dtype(x);
        let squares = g.push("Mul", &[x, x], Attrs::new())?;
        let sums = g.push("MatMul", &[band, squares], Attrs::new())?;
        let factor = g.scalar(self.alpha / self.size as f64, dtype);
        let scaled = g.push("Mul", &[sums, factor], Attrs::new())?;
        let bias = g.scalar(self.bias, dtype);
        let base = g.push("Add", &[scaled, bias], Attrs::new())?;
        let exponent = g.scalar(-self.beta, dtype);
        Ok([base, g.push("Pow", &[base, exponent], Attrs::new())?])
    }
    /// The channels that channel `c` is measured by.
    fn window(&self, c: usize) -> Range<usize> {
        let before = (self.size - 1) / 2;
        c.saturating_sub(before)..c.saturating_add(self.size - before).min(self.around[1])
    }
}

impl Op for Lrn {
    fn spec(&self) -> Spec {
        Spec::new("LRN", 13, (1, 1))
    }
    fn infer(&self, n: &NodeView) -> Result<Vec<TensorType>> {
        Settings::of(n)?;
        Ok(vec![n.ty(0)?.clone()])
    }
    fn batch(&self, _: &NodeView, from: &[Batch], _: usize, _: &[TensorType]) -> Vec<Batch> {
        vec![batch::unless_on(from, &[1])]
    }
    fn eval(&self, n: &NodeView, x: &[Option<&Array>]) -> Result<Vec<Array>> {
        let s = Settings::of(n)?;
        let [_, channels, inner] = s.around;
        let input = given(x, 0)?;
        float_type!(input, T => {
            let v = input.slice::<T>()?;
            let mut y: Vec<T> = vec![0.0; v.len()];
            if !y.is_empty() {
                y.par_chunks_mut(inner).enumerate().for_each(|(i, y)| {
                    let (sample, c) = (i / channels * channels, i % channels);
                    for k in s.window(c) {
                        let x = &v[(sample + k) * inner..][..inner];
                        y.iter_mut().zip(x).for_each(|(y, &x)| *y += x * x);
                    }
                    let factor = s.alpha as T / s.size as T;
                    let x = &v[i * inner..][..inner];
                    y.iter_mut()
                        .zip(x)
                        .for_each(|(y, &x)| *y = x * (s.bias as T + factor * *y).powf(-s.beta as T));
                });
            }
            Ok(vec![Array::from_vec(input.shape(), y)?])
        })
    }
    fn vjp(&self, b: &mut Vjp) -> Result<()> {
        // dx = dy · s^(−beta) − 2 · alpha · beta / size · x · Bᵀ(dy · y / s) with s = bias + alpha / size · B x²,
        // where B sums over a window of channels
        let s = Settings::of(&b.view())?;
        let (x, y, dy) = (b.x(0)?, b.y(0)?, b.dy()?);
        let (shape, dtype) = (b.shape(x), b.dtype(x));
        let band = s.band(b.graph(), dtype)?;
        let across = b.transpose(band, &[1, 0])?;
        let x = b.reshape(x, &s.around)?;
        let (y, dy) = (b.reshape(y, &s.around)?, b.reshape(dy, &s.around)?);
        let [base, power] = s.power(b.graph(), x, band)?;
        let direct = b.mul(dy, power)?;
        let product = b.mul(dy, y)?;
        let share = b.div(product, base)?;
        let spread = b.op("MatMul", &[across, share])?;
        let spread = b.mul(spread, x)?;
        let taken = b.scale(spread, 2.0 * s.alpha * s.beta / s.size as f64)?;
        let dx = b.sub(direct, taken)?;
        let dx = b.reshape(dx, &shape)?;
        b.set_dx(0, dx);
        Ok(())
    }
    fn kernel(&self, n: &NodeView) -> Result<Kernel> {
        let s = Settings::of(n)?;
        let len = n.ty(0)?.len();
        Ok(Kernel::one(Step {
            shader: crate::shader!("lrn"),
            overrides: Vec::new(),
            binds: vec![Bind::Input(0), Bind::Output(0)],
            params: Params::new()
                .u("n", len)
                .u("channels", s.around[1])
                .u("inner", s.around[2])
                .u("before", (s.size - 1) / 2)
                .u("size", s.size)
                .f("factor", s.alpha / s.size as f64)
                .f("beta", s.beta)
                .f("bias", s.bias),
            grid: grid_1d(len),
        }))
    }
    fn cases(&self) -> Vec<Case> {
        let case = |name: &str, shape: &[usize], size: i64| {
            // 2e-5: a power is exp and log, which a GPU approximates
            Case::new(&format!("LRN {name}"), &[shape]).attr("size", size).attr("alpha", 0.5f32).within(2e-5)
        };
        vec![
            case("images", &[2, 6, 3, 4], 3),
            case("even size", &[1, 5, 2, 3], 4).attr("beta", 0.5f32).attr("bias", 2.0f32),
            case("wider than the channels", &[2, 3, 4], 9),
            case("one", &[3, 4, 2], 1),
        ]
    }
    fn lower(&self, g: &mut Graph, inputs: &[Option<ValueId>], attrs: &Attrs) -> Result<Option<Vec<ValueId>>> {
        let Some(Some(x)) = inputs.first().copied() else {
            return Ok(None);
        };
        let s = Settings::of(&g.view(self, "LRN", inputs, attrs, &[true]))?;
        let shape = g.shape(x).to_vec();
        // ONNX Runtime does no others
        if shape.len() == 4 && s.size % 2 == 1 {
            return Ok(None);
        }
        let x = reshape(g, x, &s.around)?;
        let band = s.band(g, g.dtype(x))?;
        let [_, power] = s.power(g, x, band)?;
        let y = g.push("Mul", &[x, power], Attrs::new())?;
        Ok(Some(vec![reshape(g, y, &shape)?]))
    }
}

pub(super) static OPS: &[&dyn Op] = &[&Lrn];
