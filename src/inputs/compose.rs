//! One code for several classes: codes of a group of classes made into one, which stands for all of them.

use super::{Labelled, generator};
use crate::error::{Error, Result};
use crate::tensor::{Array, DType};
use rand::RngExt;
use std::collections::BTreeMap;

/// How the codes of a group become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blend {
    /// The mean of every element: little is left of what each code was, and less the more classes there are.
    Mean,
    /// Every element is that of one of the codes, drawn: elements are spread as before.
    Patchwork,
}

/// Codes in which every group of classes has the same code, once under the label of each of its classes; classes of no group
/// keep theirs. Where classes have several codes, the first of a group are made into one, then the second, and so on.
///
/// # Errors
/// `Invalid` when a group has fewer than two classes, a class is in two groups, has no code, or not as many as the others of
/// its group; `Unsupported` when codes are not of real numbers or have several inputs.
pub fn compose(codes: &Labelled, groups: &[Vec<usize>], by: Blend, seed: u64) -> Result<Labelled> {
    if !(codes.x.dtype().is_float() && codes.extra.is_empty()) {
        return Err(Error::unsupported("only codes for a single input of real numbers can be blended"));
    }
    let of_class = codes.by_class();
    let width = codes.x.len() / codes.len().max(1);
    let elements = codes.x.to_f64();
    let mut own: BTreeMap<usize, Vec<Vec<f64>>> = BTreeMap::new();
    for (class, at) in &of_class {
        own.insert(*class, at.iter().map(|i| elements[i * width..(i + 1) * width].to_vec()).collect());
    }
    let mut seen = Vec::new();
    for (number, group) in groups.iter().enumerate() {
        if group.len() < 2 {
            return Err(Error::invalid("a group needs two classes at least"));
        }
        for &c in group {
            if seen.contains(&c) {
                return Err(Error::invalid(format!("class {c} is named twice")));
            }
            if !of_class.contains_key(&c) {
                return Err(Error::invalid(format!("there is no code of class {c}")));
            }
            seen.push(c);
        }
        let count = own[&group[0]].len();
        if let Some(c) = group.iter().find(|c| own[c].len() != count) {
            return Err(Error::invalid(format!(
                "class {c} has {} codes, class {} of the same group {count}",
                own[c].len(),
                group[0]
            )));
        }
        let mut rng = generator(seed, b"compose");
        rng.set_stream(number as u64);
        for k in 0..count {
            let parts: Vec<&Vec<f64>> = group.iter().map(|c| &own[c][k]).collect();
            let blended: Vec<f64> = (0..width)
                .map(|i| match by {
                    Blend::Mean => parts.iter().map(|p| p[i]).sum::<f64>() / parts.len() as f64,
                    Blend::Patchwork => parts[rng.random_range(0..parts.len())][i],
                })
                .collect();
            for c in group {
                own.get_mut(c).and_then(|all| all.get_mut(k)).into_iter().for_each(|code| code.clone_from(&blended));
            }
        }
    }
    let y = own.iter().flat_map(|(c, all)| std::iter::repeat_n(*c, all.len())).collect();
    let shape = codes.x.shape().to_vec();
    let x = Array::from_vec(&shape, own.into_values().flatten().flatten().collect::<Vec<f64>>())?;
    let dtype = if codes.x.dtype() == DType::F64 { DType::F64 } else { DType::F32 };
    Labelled::new(x.to_float(dtype), y)
}

/// For every code the classes that it stands for: those of all codes with the same elements.
///
/// # Errors
/// When the samples are inconsistent.
pub fn stands_for(codes: &Labelled) -> Result<Vec<Vec<usize>>> {
    let digests = (0..codes.len()).map(|i| Ok(codes.select(&[i])?.digest())).collect::<Result<Vec<_>>>()?;
    let mut of_code: BTreeMap<[u8; 32], Vec<usize>> = BTreeMap::new();
    for (digest, &y) in digests.iter().zip(&codes.y) {
        of_code.entry(*digest).or_default().push(y);
    }
    for classes in of_code.values_mut() {
        classes.sort_unstable();
        classes.dedup();
    }
    Ok(digests.iter().map(|d| of_code[d].clone()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn codes(y: &[usize]) -> Labelled {
        let x: Vec<f32> = (0..u16::try_from(4 * y.len()).unwrap()).map(|i| f32::from(i * i)).collect();
        Labelled::new(Array::from_vec(&[y.len(), 2, 2], x).unwrap(), y.to_vec()).unwrap()
    }

    #[test]
    fn a_group_shares_one_code() {
        let made = compose(&codes(&[2, 0, 1, 0, 1, 2]), &[vec![2, 0]], Blend::Mean, 0).unwrap();
        assert_eq!(made.y, [0, 0, 1, 1, 2, 2]);
        let rows: Vec<Vec<f64>> = (0..6).map(|i| made.select(&[i]).unwrap().x.to_f64()).collect();
        // the squares: the first codes of 2 and 0 are those of 0..4 and 4..8, the second of 20..24 and 12..16
        assert_eq!((&rows[0], &rows[4]), (&vec![8.0, 13.0, 20.0, 29.0], &rows[0]));
        assert_eq!((&rows[1], &rows[5]), (&vec![272.0, 305.0, 340.0, 377.0], &rows[1]));
        assert_eq!((rows[2][0], rows[3][0]), (64.0, 256.0));
        assert_eq!(stands_for(&made).unwrap(), [vec![0, 2], vec![0, 2], vec![1], vec![1], vec![0, 2], vec![0, 2]]);
    }

    #[test]
    fn a_patchwork_takes_every_element_from_one_code() {
        let x: Vec<f32> = (0..600u16).map(f32::from).collect();
        let all = Labelled::new(Array::from_vec(&[3, 200], x).unwrap(), vec![0, 1, 2]).unwrap();
        let made = compose(&all, &[vec![0, 1, 2]], Blend::Patchwork, 4).unwrap();
        let code = made.select(&[1]).unwrap().x.to_f64();
        assert!(code.iter().enumerate().all(|(i, v)| (*v as usize) % 200 == i));
        let mut from = [0; 3];
        code.iter().for_each(|v| from[*v as usize / 200] += 1);
        assert!(from.iter().all(|n| (40..95).contains(n)), "{from:?}");
        assert_eq!(made, compose(&all, &[vec![0, 1, 2]], Blend::Patchwork, 4).unwrap());
        assert_ne!(made, compose(&all, &[vec![0, 1, 2]], Blend::Patchwork, 5).unwrap());
    }

    #[test]
    fn wrong_groups_are_errors() {
        let all = codes(&[0, 1, 2, 2]);
        for (groups, word) in [
            (vec![vec![0]], "two classes at least"),
            (vec![vec![0, 1], vec![1, 2]], "named twice"),
            (vec![vec![0, 0]], "named twice"),
            (vec![vec![0, 3]], "no code of class 3"),
            (vec![vec![0, 2]], "2 codes"),
        ] {
            let said = compose(&all, &groups, Blend::Mean, 0).unwrap_err().to_string();
            assert!(said.contains(word), "{said}");
        }
    }
}
