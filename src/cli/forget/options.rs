//! Flags of `forget` that say how: rule, strengths, depth, scope.

use crate::error::{Error, Result};
use crate::forget::{Depth, Method, Rule, Scope, Strategy, Strength};
use clap::ValueEnum;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum RuleName {
    /// Ascent, dampening and ratio in this order, the first that does all that is asked; strength searched on the inputs
    #[default]
    Auto,
    /// w ± α η with η = f_F / f_R; needs --lambda1 and --lambda2, or searches them
    Ratio,
    /// w · min(λ f_R / f_F, 1) where f_F > α f_R; needs --alpha and --lambda, or searches them
    Dampen,
    /// w + σ ε, least where f_R is great; needs --sigma, or searches it; no (ε, δ) promise
    Noise,
    /// Steps down the forget inputs' odds, each weight's over f_R; needs --body-steps and --head-steps, or searches them
    Ascent,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum DepthName {
    /// As deep as the inputs allow at next to no cost; beside few inputs that are given, which may be memorised, some are made
    /// from the model unless it is large
    #[default]
    Auto,
    /// The answers are all that counts
    Head,
    /// The old head on the changed body should lose the forget inputs too, at some cost to the others; beside few inputs
    /// that are given, many are made from the model, which takes seconds to minutes
    Body,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum ScopeName {
    /// Every weight
    #[default]
    All,
    /// The last layer
    Head,
    /// All but the last layer
    Body,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum StrategyName {
    /// Jointly; where the inputs then leave doubts the others are tried too, and the best is taken
    #[default]
    Auto,
    /// All at once, with one strength
    Joint,
    /// Class by class, each with its own strength
    OneByOne,
    /// First what similar classes share, group by group, then class by class
    Hierarchical,
}

impl From<StrategyName> for Strategy {
    fn from(name: StrategyName) -> Self {
        match name {
            StrategyName::Auto => Self::Auto,
            StrategyName::Joint => Self::Joint,
            StrategyName::OneByOne => Self::OneByOne,
            StrategyName::Hierarchical => Self::Hierarchical,
        }
    }
}

impl From<DepthName> for Depth {
    fn from(name: DepthName) -> Self {
        match name {
            DepthName::Auto => Self::Auto,
            DepthName::Head => Self::Head,
            DepthName::Body => Self::Body,
        }
    }
}

impl From<ScopeName> for Scope {
    fn from(name: ScopeName) -> Self {
        match name {
            ScopeName::All => Self::All,
            ScopeName::Head => Self::Head,
            ScopeName::Body => Self::Body,
        }
    }
}

/// Rule and strengths.
#[derive(Debug, clap::Args)]
pub(super) struct StrengthArgs {
    /// How weights are changed.
    #[arg(long, value_enum, default_value_t)]
    rule: RuleName,
    /// Ratio rule: cap on the step per unit of η.
    #[arg(long, value_name = "V", requires = "lambda2")]
    lambda1: Option<f64>,
    /// Ratio rule: cap on the greatest step in an initializer.
    #[arg(long, value_name = "V", requires = "lambda1")]
    lambda2: Option<f64>,
    /// Dampening: how many times f_R a weight's f_F must exceed.
    #[arg(long, value_name = "V", requires = "lambda")]
    alpha: Option<f64>,
    /// Dampening: scale of what is left of a weight.
    #[arg(long, value_name = "V", requires = "alpha")]
    lambda: Option<f64>,
    /// Noise: deviation of a weight of mean f_R, as a part of the root mean square of its initializer.
    #[arg(long, value_name = "V")]
    sigma: Option<f64>,
    /// Ascent: steps of all weights but the last layer's.
    #[arg(long, value_name = "N", requires = "head_steps", value_parser = clap::value_parser!(u16).range(..=1000))]
    body_steps: Option<u16>,
    /// Ascent: steps of the last layer's weights, after the others.
    #[arg(long, value_name = "N", requires = "body_steps", value_parser = clap::value_parser!(u16).range(..=1000))]
    head_steps: Option<u16>,
}

impl StrengthArgs {
    /// The flags by name, for records.
    pub(super) fn parameters(&self) -> serde_json::Value {
        serde_json::json!({
            "alpha": self.alpha,
            "body_steps": self.body_steps,
            "head_steps": self.head_steps,
            "lambda": self.lambda,
            "lambda1": self.lambda1,
            "lambda2": self.lambda2,
            "rule": self.rule.to_possible_value().map(|v| v.get_name().to_owned()),
            "sigma": self.sigma,
        })
    }

    /// How strength is found, as the flags say; `seed` decides the noise of the rule that adds some.
    ///
    /// # Errors
    /// `Invalid` for strengths of another rule, or below 0.
    pub(super) fn method(&self, seed: u64) -> Result<Method> {
        let ratio = self.lambda1.zip(self.lambda2);
        let dampen = self.alpha.zip(self.lambda);
        for (name, v) in [
            ("lambda1", self.lambda1),
            ("lambda2", self.lambda2),
            ("alpha", self.alpha),
            ("lambda", self.lambda),
            ("sigma", self.sigma),
        ] {
            if let Some(v) = v.filter(|v| !v.is_finite() || *v < 0.0) {
                return Err(Error::invalid(format!("--{name} {v} must be a number of at least 0")));
            }
        }
        let steps = self.body_steps.zip(self.head_steps);
        match (self.rule, ratio, dampen, self.sigma, steps) {
            (RuleName::Ratio, Some((lambda1, lambda2)), None, None, None) => {
                Ok(Method::Fixed(Strength::Ratio { lambda1, lambda2, sign: 1.0 }))
            }
            (RuleName::Dampen, None, Some((alpha, lambda)), None, None) => {
                Ok(Method::Fixed(Strength::Dampen { alpha, lambda }))
            }
            (RuleName::Noise, None, None, Some(sigma), None) => Ok(Method::Fixed(Strength::Noise { sigma, seed })),
            (RuleName::Ascent, None, None, None, Some((body, head))) => {
                Ok(Method::Fixed(Strength::Ascent { body: body.into(), head: head.into() }))
            }
            (rule, None, None, None, None) => Ok(Method::Search(rule.rules())),
            _ => Err(Error::invalid(
                "strengths belong to a rule: --rule ratio takes --lambda1 and --lambda2, --rule dampen takes --alpha and --lambda, --rule noise takes --sigma, --rule ascent takes --body-steps and --head-steps",
            )),
        }
    }
}

impl RuleName {
    /// Rules that are searched, in this order; the first that does everything is taken.
    fn rules(self) -> Vec<Rule> {
        match self {
            Self::Auto => vec![Rule::Ascent, Rule::Dampen, Rule::Ratio],
            Self::Ratio => vec![Rule::Ratio],
            Self::Dampen => vec![Rule::Dampen],
            Self::Noise => vec![Rule::Noise],
            Self::Ascent => vec![Rule::Ascent],
        }
    }
}
