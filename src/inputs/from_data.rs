//! Codes made from real samples.

use super::{Labelled, generator};
use crate::error::{Error, Result};
use crate::tensor::{Array, DType};
use rand::Rng;
use rand_chacha::ChaCha8Rng;

/// How codes are made from the samples of a class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// Centres of clusters, by Lloyd's algorithm from a k-means++ start (Arthur, Vassilvitskii, 2007).
    KMeans,
    /// The mean of all samples.
    Mean,
    /// Samples as they are, drawn without replacement.
    Samples,
}

/// Rounds of Lloyd's algorithm at most; it ends when no sample changes its cluster.
const ROUNDS: usize = 100;

/// Makes `per_class` codes of every class that the samples are of. What is drawn depends on `seed`, the class and the
/// samples of that class alone.
///
/// # Errors
/// `Invalid` when a class has fewer samples than codes are asked for, or more than one mean is; `Unsupported` when what
/// the model takes has no mean: integers, or several inputs.
pub fn from_data(data: &Labelled, by: By, per_class: usize, seed: u64) -> Result<Labelled> {
    if per_class == 0 {
        return Err(Error::invalid("no code a class is asked for"));
    }
    if by == By::Mean && per_class != 1 {
        return Err(Error::invalid(format!("a class has one mean, not {per_class}; k-means gives several centres")));
    }
    if by != By::Samples && !(data.x.dtype().is_float() && data.extra.is_empty()) {
        return Err(Error::unsupported(
            "only a single input of real numbers has means and centres; take samples as they are",
        ));
    }
    let mut all: Option<Labelled> = None;
    for (class, at) in data.by_class() {
        if at.len() < per_class {
            return Err(Error::invalid(format!("class {class} has {} samples, fewer than {per_class}", at.len())));
        }
        let mut rng = generator(seed, b"from data");
        rng.set_stream(class as u64);
        let samples = data.select(&at)?;
        let codes = match by {
            By::Samples => samples.select(&drawn(at.len(), per_class, &mut rng))?,
            By::Mean | By::KMeans => centres(&samples, per_class, &mut rng)?,
        };
        all = Some(all.map_or(Ok(codes.clone()), |a| a.concat(&codes))?);
    }
    all.ok_or_else(|| Error::invalid("there are no labelled inputs"))
}

/// A fair enough draw below `n`: the top half of a 128-bit product.
fn below(n: usize, rng: &mut ChaCha8Rng) -> usize {
    ((u128::from(rng.next_u64()) * n as u128) >> 64) as usize
}

/// `k` of `n` positions in rising order.
fn drawn(n: usize, k: usize, rng: &mut ChaCha8Rng) -> Vec<usize> {
    let mut all: Vec<usize> = (0..n).collect();
    for i in 0..k {
        all.swap(i, i + below(n - i, rng));
    }
    all.truncate(k);
    all.sort_unstable();
    all
}

/// The centres of `k` clusters of samples that are all of one class.
fn centres(samples: &Labelled, k: usize, rng: &mut ChaCha8Rng) -> Result<Labelled> {
    let n = samples.len();
    let width = samples.x.len() / n.max(1);
    let x = samples.x.to_f64();
    let points: Vec<&[f64]> = if width == 0 { vec![&[]; n] } else { x.chunks(width).collect() };
    let found = k_means(&points, k, rng);
    let shape = [&[found.len()], samples.x.shape().get(1..).unwrap_or_default()].concat();
    let elements = Array::from_vec(&shape, found.concat())?;
    let dtype = if samples.x.dtype() == DType::F64 { DType::F64 } else { DType::F32 };
    Labelled::new(elements.to_float(dtype), samples.y.iter().copied().take(shape[0]).collect())
}

fn distance(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(x, y)| (x - y) * (x - y)).sum()
}

/// Place of the nearest centre, the first of equals, and the squared distance to it.
fn nearest(point: &[f64], centres: &[Vec<f64>]) -> (usize, f64) {
    let mut best = (0, f64::INFINITY);
    for (i, centre) in centres.iter().enumerate() {
        let d = distance(point, centre);
        if d < best.1 {
            best = (i, d);
        }
    }
    best
}

/// Lloyd's algorithm. There are at least `k` points; a cluster that loses all of its points takes the point that is
/// farthest from its centre.
fn k_means(points: &[&[f64]], k: usize, rng: &mut ChaCha8Rng) -> Vec<Vec<f64>> {
    let mut centres = start(points, k, rng);
    let mut member = vec![usize::MAX; points.len()];
    for _ in 0..ROUNDS {
        let found: Vec<(usize, f64)> = points.iter().map(|p| nearest(p, &centres)).collect();
        if found.iter().zip(&member).all(|((c, _), m)| c == m) {
            break;
        }
        member = found.iter().map(|(c, _)| *c).collect();
        let mut left = found;
        for (c, centre) in centres.iter_mut().enumerate() {
            let own: Vec<&[f64]> = points.iter().zip(&member).filter(|(_, m)| **m == c).map(|(p, _)| *p).collect();
            if own.is_empty() {
                let far = (0..left.len()).fold(0, |best, i| if left[i].1 > left[best].1 { i } else { best });
                left[far].1 = 0.0;
                *centre = points[far].to_vec();
            } else {
                centre.iter_mut().enumerate().for_each(|(j, v)| {
                    *v = own.iter().map(|p| p[j]).sum::<f64>() / own.len() as f64;
                });
            }
        }
    }
    centres
}

/// k-means++: every further centre is a point, drawn with the square of its distance to those that are there.
fn start(points: &[&[f64]], k: usize, rng: &mut ChaCha8Rng) -> Vec<Vec<f64>> {
    let mut centres = vec![points[below(points.len(), rng)].to_vec()];
    while centres.len() < k {
        let squares: Vec<f64> = points.iter().map(|p| nearest(p, &centres).1).collect();
        let total: f64 = squares.iter().sum();
        // 53 bits are a number from 0 to 1
        let mut left = (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64 * total;
        let at = squares.iter().position(|d| {
            left -= d;
            left < 0.0
        });
        // only where all points are centres already is nothing found
        centres.push(points[at.unwrap_or(centres.len() % points.len())].to_vec());
    }
    centres
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three clouds of points far from each other, in two classes.
    fn clouds() -> (Labelled, Vec<[f64; 2]>) {
        let mut rng = generator(3, b"clouds");
        let middles = vec![[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]];
        let (mut x, mut y) = (Vec::new(), Vec::new());
        for i in 0..120 {
            let m = middles[i % 3];
            x.extend(m.map(|v| (v + below(1000, &mut rng) as f64 / 1000.0 - 0.5) as f32));
            y.push(5);
            if i % 3 == 0 {
                x.extend([100.0, i as f32]);
                y.push(2);
            }
        }
        (Labelled::new(Array::from_vec(&[y.len(), 2], x).unwrap(), y).unwrap(), middles)
    }

    #[test]
    fn centres_are_where_the_clouds_are() {
        let (data, middles) = clouds();
        for seed in 0..20 {
            let codes = from_data(&data, By::KMeans, 3, seed).unwrap();
            assert_eq!(codes.y, [2, 2, 2, 5, 5, 5]);
            let x = codes.x.to_f64();
            for m in &middles {
                let near = x[6..].chunks(2).filter(|c| distance(c, m) < 0.1).count();
                assert_eq!(near, 1, "seed {seed}: {x:?}");
            }
            assert_eq!(codes, from_data(&data, By::KMeans, 3, seed).unwrap());
        }
    }

    #[test]
    fn means_and_samples() {
        let (data, _) = clouds();
        let codes = from_data(&data, By::Mean, 1, 0).unwrap();
        assert_eq!(codes.y, [2, 5]);
        // 0, 3, … 117 have the mean 58.5
        assert_eq!(codes.x.to_f64()[..2], [100.0, 58.5]);
        let one = from_data(&data, By::KMeans, 1, 9).unwrap();
        assert_eq!(one, codes, "one centre is the mean");
        let drawn = from_data(&data, By::Samples, 4, 1).unwrap();
        assert_eq!(drawn.y, [2, 2, 2, 2, 5, 5, 5, 5]);
        let all = data.x.to_f64();
        assert!(drawn.x.to_f64().chunks(2).all(|c| all.chunks(2).any(|s| s == c)));
        assert_ne!(drawn, from_data(&data, By::Samples, 4, 2).unwrap());
        let all = from_data(&data, By::Samples, 40, 1).unwrap();
        assert_eq!(all.len(), 80);
        assert!(from_data(&data, By::KMeans, 41, 0).unwrap_err().to_string().contains("class 2 has 40"));
        assert!(from_data(&data, By::Mean, 2, 0).is_err() && from_data(&data, By::Samples, 0, 0).is_err());
        let tokens = Labelled::new(Array::ints(&[1, 2]), vec![0, 1]).unwrap();
        assert!(from_data(&tokens, By::Mean, 1, 0).unwrap_err().to_string().contains("real numbers"));
        assert_eq!(from_data(&tokens, By::Samples, 1, 0).unwrap(), tokens);
    }

    /// As many clusters as points, and equal points, are no trouble.
    #[test]
    fn clusters_of_equal_points() {
        let x = Array::from_vec(&[4, 1], vec![1.0f32, 1.0, 1.0, 7.0]).unwrap();
        let data = Labelled::new(x, vec![0; 4]).unwrap();
        let mut x = from_data(&data, By::KMeans, 4, 0).unwrap().x.to_f64();
        x.sort_by(f64::total_cmp);
        assert_eq!(x, [1.0, 1.0, 1.0, 7.0]);
    }
}
