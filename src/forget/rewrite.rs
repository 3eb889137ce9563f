//! Applies a rule to all weights in one run of the engine; new weights stay where they are made.

use super::rules::{Operands, Rule, Strength};
use crate::classifier::Weights;
use crate::engine::{Engine, Session, Tensor};
use crate::error::{Error, Result};
use crate::graph::{Batch, Graph};
use crate::inputs::codes::{Distribution, draw};
use crate::tensor::{Array, DType, TensorType};

/// What the rules read: the weights that carry a Fisher, and both Fishers in the weights' shapes.
#[derive(Clone)]
pub struct Basis {
    /// Names of the weights.
    pub names: Vec<String>,
    /// Fisher of the classes to forget.
    pub f_f: Vec<Tensor>,
    /// Fisher of the classes to retain.
    pub f_r: Vec<Tensor>,
}

/// A rule prepared for one model.
pub struct Rewriter {
    rule: Rule,
    session: Box<dyn Session>,
    old: Weights,
    basis: Basis,
    float: DType,
}

impl Rewriter {
    /// Prepares a rule; everything but the strengths is bound.
    ///
    /// # Errors
    /// When a weight lacks its Fisher, or the engine fails.
    pub fn new(engine: &dyn Engine, rule: Rule, old: &Weights, basis: &Basis) -> Result<Self> {
        let mut weights = Vec::with_capacity(basis.names.len());
        for name in &basis.names {
            let tensor = old.get(name).ok_or_else(|| Error::internal(format!("weight {name} was not uploaded")))?;
            weights.push((name.as_str(), tensor.ty()));
        }
        let float = weights.last().map_or(DType::F32, |(_, ty)| ty.dtype);
        let session = engine.prepare(&graph(rule, &weights)?)?;
        Ok(Self { rule, session, old: old.clone(), basis: basis.clone(), float })
    }

    /// All weights after the rule; those without a Fisher are the old ones.
    ///
    /// # Errors
    /// When the strengths are another rule's, or the engine fails.
    pub fn apply(&mut self, strength: &Strength) -> Result<Weights> {
        if strength.rule() != self.rule {
            return Err(Error::internal("strengths of another rule"));
        }
        let mut feeds = Vec::with_capacity(3 * self.basis.names.len() + 3);
        for (i, name) in self.basis.names.iter().enumerate() {
            let w = self
                .old
                .get(name)
                .cloned()
                .ok_or_else(|| Error::internal(format!("weight {name} was not uploaded")))?;
            let noise = match strength {
                Strength::Noise { seed, .. } => Some(normal(&w.ty(), *seed, i as u64)?),
                _ => None,
            };
            feeds.extend([w, self.basis.f_f[i].clone(), self.basis.f_r[i].clone()]);
            feeds.extend(noise.map(Tensor::Host));
        }
        feeds.extend(strength.values().into_iter().map(|v| Tensor::Host(Array::full_float(self.float, &[], v))));
        let changed = self.session.run(&feeds)?;
        let mut all = self.old.clone();
        for (name, t) in self.basis.names.iter().zip(changed) {
            if let Some(i) = all.names.iter().position(|n| n == name) {
                all.tensors[i] = t;
            }
        }
        Ok(all)
    }
}

/// A rule for all of these weights: inputs are `w NAME`, `f_F NAME`, `f_R NAME` and, for the rule that takes some,
/// `noise NAME` of each weight, then the strengths; outputs are the new weights.
///
/// # Errors
/// Never for weights of one float type.
pub(crate) fn graph(rule: Rule, weights: &[(&str, TensorType)]) -> Result<Graph> {
    let mut g = Graph::new(0);
    let mut operands = Vec::with_capacity(weights.len());
    for (name, ty) in weights {
        let mut add = |what: &str| g.input(format!("{what} {name}"), ty.clone(), Batch::None);
        let (w, f_f, f_r) = (add("w"), add("f_F"), add("f_R"));
        let noise = (rule == Rule::Noise).then(|| add("noise"));
        operands.push(Operands { w, f_f, f_r, noise });
    }
    let float = weights.last().map_or(DType::F32, |(_, ty)| ty.dtype);
    let strengths: Vec<_> =
        rule.strengths().iter().map(|s| g.input(*s, TensorType::new(float, []), Batch::None)).collect();
    for (x, (name, _)) in operands.into_iter().zip(weights) {
        g.set_scope(*name);
        let w = rule.push(&mut g, x, &strengths)?;
        g.outputs.push(w);
    }
    Ok(g)
}

/// Standard normal numbers of this type; `stream` tells the weights apart.
fn normal(ty: &TensorType, seed: u64, stream: u64) -> Result<Array> {
    let mut rng = crate::inputs::generator(seed, b"noise");
    rng.set_stream(stream);
    let numbers = draw(Distribution::Normal(0.0, 1.0), ty.len(), &mut rng);
    Ok(Array::from_vec(&ty.shape, numbers)?.to_float(ty.dtype))
}
