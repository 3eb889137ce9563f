//! Where the elements of a model's input lie.

use crate::engine::Engine;
use crate::engine::cpu::Cpu;
use crate::error::Result;
use crate::graph::{Batch, Graph, Source, ValueId, passes};
use crate::tensor::{Array, DType};

/// Deviations around its mean in which an element is looked for.
const DEVIATIONS: f64 = 2.0;

/// A greater input is no table of features, and a stranger's file may claim any size.
const MOST: usize = 1 << 24;

/// How often mean and deviation are looked for, each time where the last search led.
const ROUNDS: usize = 3;

/// Ops that may take a mean away from each element and divide it by its deviation.
const AFFINE: [&str; 4] = ["Add", "Sub", "Mul", "Div"];

/// Least and greatest value of the elements of an input: of all alike, or of each by itself.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Bounds {
    /// One number, or one for each element of a sample.
    lo: Vec<f64>,
    hi: Vec<f64>,
    /// Extents of a sample; none where all elements are alike.
    shape: Vec<usize>,
}

impl Bounds {
    /// The same for all elements.
    pub(crate) fn even((lo, hi): (f64, f64)) -> Self {
        Self { lo: vec![lo], hi: vec![hi], shape: Vec::new() }
    }

    /// Of a model that standardises each feature by itself before anything else, as scikit-learn's pipelines do: so many
    /// deviations around each mean. `None` for all others, and where a sample has more than [`MOST`] elements.
    ///
    /// # Errors
    /// When the graph's first ops cannot be computed.
    pub(crate) fn of_model(g: &Graph) -> Result<Option<Self>> {
        let [x] = g.inputs[..] else { return Ok(None) };
        let ty = g.value(x).ty.clone();
        let samples_first = matches!(g.value(x).batch, Batch::Axis { axis: 0, .. });
        let is_asked = ty.dtype.is_float() && samples_first && ty.len() <= MOST;
        let Some(z) = standardised(g, x).filter(|_| is_asked) else { return Ok(None) };
        let mut g = g.clone();
        g.outputs = vec![z];
        passes::prune(&mut g);
        let mut session = Cpu.prepare(&g)?;
        let mut z_of = |x: &[f64]| -> Result<Vec<f64>> {
            let x = Array::from_vec(&ty.shape, x.to_vec())?.to_float(ty.dtype);
            let out = session.run(&[x.into()])?;
            out.first().map_or(Ok(Vec::new()), |z| Ok(z.to_array()?.to_f64()))
        };
        // z = (x − mean) / deviation, looked at where z is small: a mean of many deviations takes float32's digits
        let (mut mean, mut deviation) = (vec![0.0; ty.len()], vec![1.0; ty.len()]);
        for _ in 0..ROUNDS {
            let further: Vec<f64> = mean.iter().zip(&deviation).map(|(m, d)| m + d).collect();
            for (i, (z, next)) in z_of(&mean)?.into_iter().zip(z_of(&further)?).enumerate() {
                let slope = (next - z) / deviation[i];
                mean[i] -= z / slope;
                deviation[i] = 1.0 / slope.abs();
                if !(mean[i].is_finite() && deviation[i].is_finite() && deviation[i] > 0.0) {
                    return Ok(None);
                }
            }
        }
        // a model may fix how many samples it takes: they are all alike
        let each = ty.shape[1..].iter().product();
        mean.truncate(each);
        deviation.truncate(each);
        let end = |side: f64| mean.iter().zip(&deviation).map(|(m, d)| m + side * DEVIATIONS * d).collect();
        let (lo, hi): (Vec<f64>, Vec<f64>) = (end(-1.0), end(1.0));
        // a mean that is taken away alone says nothing of the deviation
        if deviation.iter().all(|d| (d - 1.0).abs() < 1e-3) {
            return Ok(None);
        }
        let all_alike = lo.iter().zip(&hi).all(|b| Some(b) == lo.first().zip(hi.first()));
        Ok((!all_alike).then(|| Self { lo, hi, shape: ty.shape[1..].to_vec() }))
    }

    /// Bounds of element `i` of any number of samples in a row.
    pub(crate) fn at(&self, i: usize) -> (f64, f64) {
        let i = i % self.lo.len();
        (self.lo[i], self.hi[i])
    }

    /// The least and the greatest of all.
    pub(crate) fn whole(&self) -> (f64, f64) {
        let least = self.lo.iter().copied().fold(f64::INFINITY, f64::min);
        (least, self.hi.iter().copied().fold(f64::NEG_INFINITY, f64::max))
    }

    /// Mean distance between both ends.
    pub(crate) fn span(&self) -> f64 {
        self.lo.iter().zip(&self.hi).map(|(lo, hi)| hi - lo).sum::<f64>() / self.lo.len() as f64
    }

    /// Shape of the arrays below.
    pub(crate) fn extents(&self) -> Vec<usize> {
        if self.shape.is_empty() { Vec::new() } else { [&[1], &self.shape[..]].concat() }
    }

    /// `value(lo, hi)` of every element, in a shape that broadcasts to samples.
    ///
    /// # Errors
    /// Never for bounds that were made here.
    pub(crate) fn map(&self, dtype: DType, value: impl Fn(f64, f64) -> f64) -> Result<Array> {
        let all = self.lo.iter().zip(&self.hi).map(|(lo, hi)| value(*lo, *hi)).collect::<Vec<f64>>();
        Ok(Array::from_vec(&self.extents(), all)?.to_float(dtype))
    }
}

/// What the input is after constants were added to it and it was multiplied with some; `None` where other things happen
/// to it at once.
fn standardised(g: &Graph, x: ValueId) -> Option<ValueId> {
    let mut z = x;
    loop {
        let mut readers = g.nodes().iter().filter(|n| n.inputs.iter().flatten().any(|i| *i == z));
        let (Some(node), None) = (readers.next(), readers.next()) else { break };
        let [Some(a), Some(b)] = node.inputs[..] else { break };
        let other = if a == z { b } else { a };
        let is_affine = AFFINE.contains(&node.op.spec().name) && (node.op.spec().name != "Div" || a == z);
        let [Some(out)] = node.outputs[..] else { break };
        // what a file holds, and not what costs work to find out
        let is_held = matches!(g.value(other).source, Source::Const(_) | Source::Weight(_) | Source::Stored(_));
        if !is_affine || !is_held || g.shape(out) != g.shape(x) {
            break;
        }
        z = out;
    }
    (z != x).then_some(z)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::classifier::{Classifier, ClassifierOptions};
    use crate::graph::Attrs;
    use crate::onnx::{ExportOptions, Model, to_bytes};
    use crate::tensor::TensorType;

    /// What the model tells whose first steps these are, on images of two colours and two pixels.
    fn told(first: impl Fn(&mut Graph, ValueId) -> ValueId) -> Option<Bounds> {
        told_of(1, first)
    }

    /// The same of a model that takes so many images at once.
    fn told_of(n: usize, first: impl Fn(&mut Graph, ValueId) -> ValueId) -> Option<Bounds> {
        let mut g = Graph::new(n);
        let x = g.input("x".to_owned(), TensorType::new(DType::F32, [n, 2, 1, 2]), Batch::LEADING);
        let z = first(&mut g, x);
        let flat = g.push("Flatten", &[z], Attrs::new()).unwrap();
        let w = g.weight("w", Array::from_vec(&[4, 3], (0..12u8).map(f32::from).collect::<Vec<f32>>()).unwrap());
        g.outputs = vec![g.push("MatMul", &[flat, w], Attrs::new()).unwrap()];
        let model = Model::from_bytes("m", to_bytes(&g, &ExportOptions::default()).unwrap()).unwrap();
        Classifier::from_model(model, ClassifierOptions::default()).unwrap().bounds().cloned()
    }

    fn with(g: &mut Graph, op: &str, x: ValueId, of_colours: [f32; 2]) -> ValueId {
        let c = g.constant(Array::from_vec(&[2, 1, 1], of_colours.to_vec()).unwrap());
        g.push(op, &[x, c], Attrs::new()).unwrap()
    }

    #[test]
    fn means_and_deviations_of_colours_are_told() {
        let first = |g: &mut Graph, x| {
            let z = with(g, "Sub", x, [0.5, 100.0]);
            with(g, "Div", z, [0.25, -20.0])
        };
        let bounds = told(first).unwrap();
        assert_eq!(told_of(3, first), Some(bounds.clone()));
        assert_eq!(bounds.extents(), [1, 2, 1, 2]);
        for (i, want) in [(0.0, 1.0), (0.0, 1.0), (60.0, 140.0), (60.0, 140.0), (0.0, 1.0)].into_iter().enumerate() {
            let got = bounds.at(i);
            assert!((got.0 - want.0).abs() < 1e-3 && (got.1 - want.1).abs() < 1e-3, "{i}: {got:?}");
        }
        assert!((bounds.span() - 40.5).abs() < 1e-3);
    }

    #[test]
    fn a_mean_of_a_thousand_deviations_is_met() {
        let bounds = told(|g, x| {
            let z = with(g, "Sub", x, [1e6, 3.0]);
            with(g, "Mul", z, [1e-3, 1.0])
        });
        let (lo, hi) = bounds.unwrap().at(0);
        assert!((lo - 998_000.0).abs() < 1.0 && (hi - 1_002_000.0).abs() < 1.0, "{lo} to {hi}");
    }

    #[test]
    fn nothing_is_told_where_all_are_alike_or_the_input_is_read_twice() {
        assert_eq!(told(|g, x| with(g, "Mul", x, [0.5, 0.5])), None);
        assert_eq!(told(|_, x| x), None);
        let twice = told(|g, x| {
            let z = with(g, "Mul", x, [0.5, 2.0]);
            g.push("Add", &[z, x], Attrs::new()).unwrap()
        });
        assert_eq!(twice, None);
        assert_eq!(told(|g, x| with(g, "Sub", x, [104.0, 117.0])), None);
        // no input has a mean where it counts nothing
        assert_eq!(told(|g, x| with(g, "Mul", x, [0.0, 2.0])), None);
    }
}
