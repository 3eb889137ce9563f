//! Which weights a rule may change.

use super::rewrite::Basis;
use crate::error::{Error, Result};

/// The part of the model that may change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scope {
    /// Every weight.
    #[default]
    All,
    /// The last layer.
    Head,
    /// All but the last layer.
    Body,
}

/// The basis without the weights that are out of scope or protected. `head` names the weights of the last layer;
/// `patterns` may hold `*` (any characters) and `?` (one).
///
/// # Errors
/// When a pattern fits no weight, or nothing is left to change.
pub(super) fn narrow(basis: Basis, scope: Scope, head: &[String], patterns: &[String]) -> Result<Basis> {
    for p in patterns {
        if !basis.names.iter().any(|n| matches(p, n)) {
            return Err(Error::invalid(format!(
                "--protect '{p}' fits no weight; the weights are {}",
                basis.names.join(", ")
            )));
        }
    }
    let open = |name: &String| {
        let in_scope = match scope {
            Scope::All => true,
            Scope::Head => head.contains(name),
            Scope::Body => !head.contains(name),
        };
        in_scope && !patterns.iter().any(|p| matches(p, name))
    };
    let kept: Vec<usize> = (0..basis.names.len()).filter(|&i| open(&basis.names[i])).collect();
    if kept.is_empty() {
        return Err(Error::invalid("--scope and --protect leave no weight that may change"));
    }
    Ok(Basis {
        names: kept.iter().map(|&i| basis.names[i].clone()).collect(),
        f_f: kept.iter().map(|&i| basis.f_f[i].clone()).collect(),
        f_r: kept.iter().map(|&i| basis.f_r[i].clone()).collect(),
    })
}

/// True when the pattern fits the whole name.
fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    // where the last `*` stood, and the part of the name it has taken so far
    let (mut p, mut n, mut star) = (0, 0, None);
    while n < name.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(c) if *c == '?' || *c == name[n] => (p, n) = (p + 1, n + 1),
            _ => {
                let Some((at, taken)) = star else { return false };
                star = Some((at, taken + 1));
                (p, n) = (at + 1, taken + 1);
            }
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_fit_whole_names() {
        for (p, n) in [
            ("fc1.weight", "fc1.weight"),
            ("fc*", "fc1.weight"),
            ("*.bias", "a.b.bias"),
            ("*", ""),
            ("a?c*", "abc"),
            ("*a*b", "xaabab"),
        ] {
            assert!(matches(p, n), "{p} {n}");
        }
        for (p, n) in [("fc1", "fc1.weight"), ("*.bias", "bias"), ("?", ""), ("a?c", "ac"), ("*a*b", "ba"), ("", "x")] {
            assert!(!matches(p, n), "{p} {n}");
        }
    }
}
