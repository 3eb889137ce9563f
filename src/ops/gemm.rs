//! Products of matrices with a sum: <https://onnx.ai/onnx/operators/onnx__Gemm.html>.

use super::linalg::{Mat, Real, gemm, gemm_into};
use super::matmul::weight_gradient;
use super::product::Product;
use super::support::{broadcast, broadcast_strides, given, rows, written};
use super::{Bind, Case, Kernel, NodeView, Op, Spec, Vjp};
use crate::error::{Error, Result};
use crate::graph::{Attrs, Batch};
use crate::tensor::{Array, TensorType};

/// `y = alpha · A' · B' + beta · C`, where `'` transposes if asked to.
struct Gemm;

struct GemmAttrs {
    alpha: f64,
    beta: f64,
    trans_a: bool,
    trans_b: bool,
}

impl Gemm {
    fn attrs(n: &NodeView) -> Result<GemmAttrs> {
        Ok(GemmAttrs {
            alpha: n.float("alpha", 1.0)?,
            beta: n.float("beta", 1.0)?,
            trans_a: n.int("transA", 0)? != 0,
            trans_b: n.int("transB", 0)? != 0,
        })
    }
    fn product(n: &NodeView) -> Result<(GemmAttrs, Product)> {
        let at = Self::attrs(n)?;
        let (&[a0, a1], &[b0, b1]) = (n.shape(0)?, n.shape(1)?) else {
            return Err(Error::format(format!("shapes {:?} and {:?} are no matrices", n.shape(0)?, n.shape(1)?)));
        };
        let a = if at.trans_a { [a1, a0] } else { [a0, a1] };
        let b = if at.trans_b { [b1, b0] } else { [b0, b1] };
        let mut product = Product::new(&a, &b)?;
        if at.trans_a {
            product.a = [1, a1];
        }
        if at.trans_b {
            product.b = [1, b1];
        }
        if let Some(c) = n.optional(2) {
            let y = product.shape();
            if broadcast(&[&c.shape, &y])? != y {
                return Err(Error::format(format!("C of shape {:?} does not broadcast to {y:?}", c.shape)));
            }
        }
        Ok((at, product))
    }
    fn run<T: Real>(n: &NodeView, x: &[Option<&Array>]) -> Result<Array> {
        let (at, product) = Self::product(n)?;
        let (a, b) = (given(x, 0)?, given(x, 1)?);
        let shape = product.shape();
        let (p, q) = (a.shape(), b.shape());
        let a = Mat::new(a.slice::<T>()?, p[0], p[1]).t_if(at.trans_a);
        let b = Mat::new(b.slice::<T>()?, q[0], q[1]).t_if(at.trans_b);
        let Some(c) = x.get(2).copied().flatten().filter(|_| at.beta != 0.0) else {
            // SAFETY: all of the product is written.
            let y = unsafe { written(product.m * product.n, |y| gemm_into(a, b, y, at.alpha, true)) };
            return Array::from_vec(&shape, y);
        };
        let mut y = vec![T::ZERO; product.m * product.n];
        let c_strides = broadcast_strides(c.shape(), &shape);
        let c = c.slice::<T>()?;
        rows(&shape, [&c_strides], |o, [p]| {
            for (j, y) in y[o..o + product.n].iter_mut().enumerate() {
                *y = c[p + j * c_strides[1]];
            }
        });
        gemm(a, b, &mut y, at.alpha, at.beta, true);
        Array::from_vec(&shape, y)
    }
}

impl Op for Gemm {
    fn spec(&self) -> Spec {
        Spec::new("Gemm", 13, (2, 3))
    }
    fn infer(&self, n: &NodeView) -> Result<Vec<TensorType>> {
        let (_, product) = Self::product(n)?;
        if !n.dtype(0)?.is_float() || n.dtype(0)? != n.dtype(1)? {
            return Err(Error::unsupported(format!("operands of type {} and {}", n.dtype(0)?, n.dtype(1)?)));
        }
        Ok(vec![TensorType::new(n.dtype(0)?, product.shape())])
    }
    fn batch(&self, n: &NodeView, from: &[Batch], _: usize, _: &[TensorType]) -> Vec<Batch> {
        let found = Self::attrs(n).ok().and_then(|at| {
            let c_stretched = |axis: usize| {
                from.get(2).is_none_or(|b| *b == Batch::None)
                    && n.optional(2)
                        .is_none_or(|c| (axis + c.shape.len()).checked_sub(2).is_none_or(|a| c.shape[a] == 1))
            };
            match (from[0], from[1]) {
                (Batch::Axis { axis, rows }, Batch::None) if axis == usize::from(at.trans_a) && c_stretched(0) => {
                    Some(Batch::Axis { axis: 0, rows })
                }
                (Batch::None, Batch::Axis { axis, rows }) if axis == usize::from(!at.trans_b) && c_stretched(1) => {
                    Some(Batch::Axis { axis: 1, rows })
                }
                _ => None,
            }
        });
        vec![found.unwrap_or(Batch::Lost)]
    }
    fn eval(&self, n: &NodeView, x: &[Option<&Array>]) -> Result<Vec<Array>> {
        Ok(vec![if let Array::F64(_) = given(x, 0)? { Self::run::<f64>(n, x)? } else { Self::run::<f32>(n, x)? }])
    }
    fn vjp(&self, b: &mut Vjp) -> Result<()> {
        let at = Self::attrs(&b.view())?;
        let (p, q, dy) = (b.x(0)?, b.x(1)?, b.dy()?);
        if b.wants(2) {
            // dC = beta · dY
            let dc = if at.beta == 1.0 { dy } else { b.scale(dy, at.beta)? };
            b.set_dx(2, dc);
        }
        let flags = |a: bool, c: bool| {
            let on = |attrs: Attrs, name, v| if v { attrs.with(name, 1) } else { attrs };
            let scaled = if at.alpha == 1.0 { Attrs::new() } else { Attrs::new().with("alpha", at.alpha as f32) };
            on(on(scaled, "transA", a), "transB", c)
        };
        if b.wants(0) {
            if b.apart(0) {
                return Err(b.needs_singles("a weight stands on the left"));
            }
            // dA = alpha · dY · B'ᵀ, or its transpose B' · dYᵀ
            let da = if at.trans_a {
                b.emit("Gemm", &[q, dy], flags(at.trans_b, true))?
            } else {
                b.emit("Gemm", &[dy, q], flags(false, !at.trans_b))?
            };
            b.set_exact(0, da);
        }
        if !b.wants(1) {
            return Ok(());
        }
        if b.apart(1) {
            if at.trans_a {
                return Err(b.needs_singles("transA is set"));
            }
            let scaled = if at.alpha == 1.0 { dy } else { b.scale(dy, at.alpha)? };
            return weight_gradient(b, p, scaled, 1, at.trans_b);
        }
        // dB = alpha · A'ᵀ · dY, or its transpose dYᵀ · A'
        let db = if at.trans_b {
            b.emit("Gemm", &[dy, p], flags(true, at.trans_a))?
        } else {
            b.emit("Gemm", &[p, dy], flags(!at.trans_a, false))?
        };
        b.set_exact(1, db);
        Ok(())
    }
    fn kernel(&self, n: &NodeView) -> Result<Kernel> {
        let (at, product) = Self::product(n)?;
        let c = n.optional(2).filter(|_| at.beta != 0.0).map(|c| {
            let strides = broadcast_strides(&c.shape, &product.shape());
            (Bind::Input(2), [strides[0], strides[1]])
        });
        product.kernel(c, at.alpha, at.beta)
    }
    fn cases(&self) -> Vec<Case> {
        vec![
            Case::new("Gemm plain", &[&[3, 5], &[5, 4]]),
            Case::new("Gemm linear layer", &[&[6, 5], &[7, 5], &[7]]).attr("transB", 1),
            Case::new("Gemm transA", &[&[5, 3], &[5, 4], &[3, 1]]).attr("transA", 1),
            Case::new("Gemm all", &[&[5, 3], &[4, 5], &[3, 4]])
                .attr("transA", 1)
                .attr("transB", 1)
                .attr("alpha", 0.5f32)
                .attr("beta", -1.5f32),
            Case::new("Gemm scalar C", &[&[3, 5], &[5, 4], &[]]).attr("alpha", 2.0f32),
            // few elements that are sums of many products, which are cut into parts
            Case::new("Gemm long sums", &[&[2, 65_600], &[3, 65_600]])
                .attr("transB", 1)
                .attr("alpha", 0.5f32)
                .within(1e-4),
            Case::new("Gemm fours", &[&[10, 24], &[36, 24], &[36]]).attr("transB", 1),
            Case::new("Gemm tiles", &[&[66, 40], &[40, 130], &[130]]),
        ]
    }
}

pub(super) static OPS: &[&dyn Op] = &[&Gemm];
