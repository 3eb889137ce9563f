//! Steps that leave retained classes alone: a slope less its parts along those of the guards, in the metric of `P`.
//!
//! On a device both sums over the weights are small graphs, since slopes stay where they are. On the host slopes are read where
//! they lie: stacked for a product they would be copied twice a step.

use crate::engine::{Engine, Session, Tensor};
use crate::error::{Error, Result};
use crate::graph::{Attrs, Batch, Graph, ValueId};
use crate::ops::linalg::Real;
use crate::ops::reshape;
use crate::tensor::{Array, DType, TensorType};
use rayon::prelude::*;

/// Part of a guard's own size by which the projection falls short.
const RIDGE: f64 = 0.1;

/// Of a direction's fall at least this part has to be left by the projection, so that a step has a bound.
const LEAST_LEFT: f64 = 0.02;

/// Elements of a weight that a thread takes at once.
const PIECE: usize = 1 << 12;

/// Prepared sums over the weights that move.
pub(super) struct Projection {
    /// `P` of each.
    scales: Vec<Tensor>,
    float: DType,
    on_device: Option<Sessions>,
}

/// The sums over the weights as graphs.
struct Sessions {
    products: Box<dyn Session>,
    combine: Box<dyn Session>,
}

impl Projection {
    /// For `rows` slopes of each weight: one, and those of the guards.
    ///
    /// # Errors
    /// When the engine cannot prepare the sums.
    pub(super) fn new(
        engine: &dyn Engine,
        types: &[TensorType],
        scales: Vec<Tensor>,
        rows: usize,
        float: DType,
    ) -> Result<Self> {
        let on_device = engine.on_device().then(|| -> Result<Sessions> {
            let products = engine.prepare(&products(types, rows)?)?;
            Ok(Sessions { products, combine: engine.prepare(&combination(types, rows, float)?)? })
        });
        Ok(Self { scales, float, on_device: on_device.transpose()? })
    }

    /// The weights after a step down the first of the slopes by `by`, to first order, along which no other slope changes.
    /// `slopes` are those of one row after the other.
    ///
    /// # Errors
    /// When the engine fails.
    pub(super) fn step(&mut self, weights: Vec<Tensor>, slopes: &[Vec<Tensor>], by: f64) -> Result<Vec<Tensor>> {
        let of_weight = |k: usize| slopes.iter().map(|s| s[k].clone()).collect::<Vec<_>>();
        let Some(sessions) = &mut self.on_device else {
            return match self.float {
                DType::F64 => on_host::<f64>(&self.scales, weights, slopes, by),
                _ => on_host::<f32>(&self.scales, weights, slopes, by),
            };
        };
        // of every weight: P, then its slopes
        let stacks: Vec<Vec<Tensor>> =
            self.scales.iter().enumerate().map(|(k, p)| [vec![p.clone()], of_weight(k)].concat()).collect();
        let products = sessions.products.run(&stacks.concat())?;
        let products = products.first().ok_or_else(|| Error::internal("no product of slopes"))?.to_array()?.to_f64();
        let parts = parts(&products, slopes.len()).into_iter().map(|c| c * by).collect();
        let mut feeds = vec![Tensor::Host(Array::from_vec::<f64>(&[1, slopes.len()], parts)?.to_float(self.float))];
        for (w, stack) in weights.into_iter().zip(stacks) {
            feeds.push(w);
            feeds.extend(stack);
        }
        sessions.combine.run(&feeds)
    }
}

fn array(t: &Tensor) -> Result<&Array> {
    match t {
        Tensor::Host(a) => Ok(a),
        Tensor::Device(_) => Err(Error::internal("a slope on a device was taken for one on the host")),
    }
}

fn on_host<T: Real + Into<f64>>(
    scales: &[Tensor],
    weights: Vec<Tensor>,
    slopes: &[Vec<Tensor>],
    by: f64,
) -> Result<Vec<Tensor>> {
    let rows = slopes.len();
    let of_weight = |k: usize| slopes.iter().map(|s| array(&s[k])?.slice::<T>()).collect::<Result<Vec<_>>>();
    let mut total = vec![0.0; rows * rows];
    for (k, scale) in scales.iter().enumerate() {
        let (p, s) = (array(scale)?.slice::<T>()?, of_weight(k)?);
        let pieces: Vec<Vec<f64>> = p
            .par_chunks(PIECE)
            .enumerate()
            .map(|(i, p)| piece_products(p, &s.iter().map(|s| &s[i * PIECE..][..p.len()]).collect::<Vec<_>>()))
            .collect();
        // in order, so that the same numbers give the same sum
        pieces.iter().for_each(|piece| total.iter_mut().zip(piece).for_each(|(t, v)| *t += v));
    }
    let c: Vec<T> = parts(&total, rows).into_iter().map(|c| T::from_f64(-c * by)).collect();
    let moved = |(k, w): (usize, Tensor)| {
        let w = w.to_array()?;
        let (p, s) = (array(&scales[k])?.slice::<T>()?, of_weight(k)?);
        let mut new = w.slice::<T>()?.to_vec();
        new.par_chunks_mut(PIECE).enumerate().for_each(|(i, new)| {
            let at = i * PIECE..i * PIECE + new.len();
            let mut sum = vec![T::ZERO; new.len()];
            for (c, s) in c.iter().zip(&s) {
                sum.iter_mut().zip(&s[at.clone()]).for_each(|(sum, s)| *sum += *c * *s);
            }
            new.iter_mut().zip(&p[at]).zip(sum).for_each(|((w, p), sum)| *w += *p * sum);
        });
        Array::from_vec(w.shape(), new).map(Tensor::Host)
    };
    weights.into_iter().enumerate().map(moved).collect()
}

/// `Σ_i P_i s_ji s_ki` over a piece.
fn piece_products<T: Real + Into<f64>>(p: &[T], s: &[&[T]]) -> Vec<f64> {
    let rows = s.len();
    let mut out = vec![0.0; rows * rows];
    let mut scaled = vec![T::ZERO; p.len()];
    for j in 0..rows {
        scaled.iter_mut().zip(p).zip(s[j]).for_each(|((y, p), s)| *y = *p * *s);
        for k in j..rows {
            let sum = dot(&scaled, s[k]);
            (out[j * rows + k], out[k * rows + j]) = (sum, sum);
        }
    }
    out
}

fn dot<T: Real + Into<f64>>(a: &[T], b: &[T]) -> f64 {
    const LANES: usize = 16;
    let mut lanes = [T::ZERO; LANES];
    let mut add = |a: &[T], b: &[T]| lanes.iter_mut().zip(a.iter().zip(b)).for_each(|(l, (a, b))| *l += *a * *b);
    let ((whole_a, rest_a), (whole_b, rest_b)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    whole_a.iter().zip(whole_b).for_each(|(a, b)| add(a, b));
    add(rest_a, rest_b);
    lanes.into_iter().map(Into::into).sum()
}

/// `Σ_i P_i s_ji s_ki` over all weights, `[rows, rows]`, for the slopes `s`; the inputs are `P` and the slopes of each weight.
fn products(types: &[TensorType], rows: usize) -> Result<Graph> {
    let mut g = Graph::new(0);
    let mut total = None;
    for (k, ty) in types.iter().enumerate() {
        let scale = g.input(format!("scale.{k}"), ty.clone(), Batch::None);
        let slopes = stack(&mut g, k, ty, rows)?;
        let scale = reshape(&mut g, scale, &[1, ty.len()])?;
        let scaled = g.push("Mul", &[slopes, scale], Attrs::new())?;
        let product = g.push("Gemm", &[scaled, slopes], Attrs::new().with("transB", 1))?;
        total = Some(match total {
            None => product,
            Some(t) => g.push("Add", &[t, product], Attrs::new())?,
        });
    }
    g.outputs = vec![total.ok_or_else(|| Error::internal("a step of no weight"))?];
    Ok(g)
}

/// `w − P ∘ Σ_j c_j s_j` for every weight; the inputs are `c` `[1, rows]`, then `w`, `P` and the slopes of each weight.
fn combination(types: &[TensorType], rows: usize, float: DType) -> Result<Graph> {
    let mut g = Graph::new(0);
    let c = g.input("parts".to_owned(), TensorType::new(float, [1, rows]), Batch::None);
    for (k, ty) in types.iter().enumerate() {
        let [w, scale] = ["w", "scale"].map(|what| g.input(format!("{what}.{k}"), ty.clone(), Batch::None));
        let slopes = stack(&mut g, k, ty, rows)?;
        let sum = g.push("MatMul", &[c, slopes], Attrs::new())?;
        let sum = reshape(&mut g, sum, &ty.shape)?;
        let step = g.push("Mul", &[scale, sum], Attrs::new())?;
        let w = g.push("Sub", &[w, step], Attrs::new())?;
        g.outputs.push(w);
    }
    Ok(g)
}

/// New inputs for the slopes of weight `k`, as `[rows, elements]`.
fn stack(g: &mut Graph, k: usize, ty: &TensorType, rows: usize) -> Result<ValueId> {
    let flat: Vec<ValueId> = (0..rows)
        .map(|j| {
            let slope = g.input(format!("slope.{k}.{j}"), ty.clone(), Batch::None);
            reshape(g, slope, &[1, ty.len()])
        })
        .collect::<Result<_>>()?;
    if let [one] = flat[..] {
        return Ok(one);
    }
    g.push("Concat", &flat, Attrs::new().with("axis", 0))
}

/// `c_j` for a fall of 1: `c_0 ∝ 1` for the forget inputs and `c_k ∝ −λ_k` for the guards, where `(A + ρ diag A) λ = b` of the
/// products `A` among the guards and `b` of them with the forget inputs. All 0 where there is no slope.
fn parts(products: &[f64], rows: usize) -> Vec<f64> {
    let at = |j: usize, k: usize| products[j * rows + k];
    let guards = rows - 1;
    let mut matrix: Vec<Vec<f64>> = (0..guards)
        .map(|j| (0..guards).map(|k| at(j + 1, k + 1) * if j == k { 1.0 + RIDGE } else { 1.0 }).collect())
        .collect();
    let b: Vec<f64> = (0..guards).map(|j| at(j + 1, 0)).collect();
    let lambda = solve(&mut matrix, b.clone());
    let whole = at(0, 0);
    let left = whole - lambda.iter().zip(&b).map(|(l, b)| l * b).sum::<f64>();
    let fall = left.max(LEAST_LEFT * whole);
    if fall <= 0.0 {
        return vec![0.0; rows];
    }
    std::iter::once(1.0).chain(lambda.into_iter().map(|l| -l)).map(|c| c / fall).collect()
}

/// `x` of `A x = b` for a positive definite `A`, by elimination; 0 where a row says nothing.
fn solve(a: &mut [Vec<f64>], mut b: Vec<f64>) -> Vec<f64> {
    let n = b.len();
    let least: Vec<f64> = (0..n).map(|i| 1e-12 * a[i][i]).collect();
    for i in 0..n {
        for j in i + 1..n {
            let factor = if a[i][i] > least[i] { a[j][i] / a[i][i] } else { 0.0 };
            let above = a[i].clone();
            a[j].iter_mut().zip(above).for_each(|(v, u)| *v -= factor * u);
            b[j] -= factor * b[i];
        }
    }
    for i in (0..n).rev() {
        let known: f64 = (i + 1..n).map(|k| a[i][k] * b[k]).sum();
        b[i] = if a[i][i] > least[i] { (b[i] - known) / a[i][i] } else { 0.0 };
    }
    b
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::cpu::Cpu;

    #[test]
    fn guarded_steps_leave_guards_alone() {
        // slopes (1, 1, 0), (0, 1, 0) and (0, 0, 0), P = 1: the part along the second goes, but for the ridge
        let c = parts(&[2.0, 1.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0], 3);
        let left = 1.0 - 1.0 / (1.0 + RIDGE);
        let fall = 1.0 + left;
        for (got, want) in c.iter().zip([1.0 / fall, -1.0 / (1.0 + RIDGE) / fall, 0.0]) {
            assert!((got - want).abs() < 1e-12, "{c:?}");
        }
        assert_eq!(parts(&[4.0], 1), [0.25]);
        assert_eq!(parts(&[0.0], 1), [0.0]);
        // a guard that is the forget inputs themselves leaves next to nothing: the step has a bound
        let c = parts(&[1.0, 1.0, 1.0, 1.0], 2);
        assert!((c[0] - (1.0 + RIDGE) / RIDGE).abs() < 1e-9, "{c:?}");
    }

    #[test]
    fn elimination_solves() {
        let mut a = vec![vec![4.0, 2.0, 0.0], vec![2.0, 3.0, 0.0], vec![0.0, 0.0, 0.0]];
        let x = solve(&mut a, vec![8.0, 8.0, 1.0]);
        assert!((x[0] - 1.0).abs() < 1e-12 && (x[1] - 2.0).abs() < 1e-12 && x[2] == 0.0);
    }

    #[test]
    fn the_host_steps_as_the_graphs_do() {
        let types = vec![TensorType::new(DType::F64, [70, 67]), TensorType::new(DType::F64, [5])];
        let wave = |ty: &TensorType, k: usize| {
            let v = (0..ty.len()).map(|i| ((i * (k + 3) + k) as f64 * 0.37).sin()).collect();
            Tensor::Host(Array::from_vec::<f64>(&ty.shape, v).unwrap())
        };
        let squared = |ty: &TensorType| {
            let v = wave(ty, 9).to_array().unwrap().to_f64().into_iter().map(|v| v * v).collect();
            Tensor::Host(Array::from_vec::<f64>(&ty.shape, v).unwrap())
        };
        let scales: Vec<Tensor> = types.iter().map(squared).collect();
        let slopes: Vec<Vec<Tensor>> = (0..4).map(|j| types.iter().map(|ty| wave(ty, j)).collect()).collect();
        let weights: Vec<Tensor> = types.iter().map(|ty| wave(ty, 7)).collect();
        let mut host = Projection::new(&Cpu, &types, scales.clone(), 4, DType::F64).unwrap();
        let graphs = Sessions {
            products: Cpu.prepare(&products(&types, 4).unwrap()).unwrap(),
            combine: Cpu.prepare(&combination(&types, 4, DType::F64).unwrap()).unwrap(),
        };
        let mut device = Projection { scales, float: DType::F64, on_device: Some(graphs) };
        let [a, b] = [&mut host, &mut device].map(|p| p.step(weights.clone(), &slopes, 3.0).unwrap());
        for ((a, b), w) in a.iter().zip(&b).zip(&weights) {
            let [a, b, w] = [a, b, w].map(|t| t.to_array().unwrap().to_f64());
            assert!(a.iter().zip(&b).all(|(a, b)| (a - b).abs() <= 1e-12 * b.abs().max(1.0)));
            assert!(a.iter().zip(&w).any(|(a, w)| a != w));
        }
    }
}
