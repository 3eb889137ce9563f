//! Which samples a step learns from, and which of them give way to a code.

use super::{Material, Options};
use crate::inputs::{generator, shuffle};
use rand::RngExt;

/// What a step shows the model in one place of its batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Row {
    /// The sample at this position of the data.
    Sample(usize),
    /// The code at this position of the codes.
    Code(usize),
}

/// The samples of every step. They follow from the seed and the number of the step alone, so that nothing of the generator
/// has to be kept where descent is to go on.
pub struct Draws {
    learned: Vec<usize>,
    /// Codes of the class of each sample that is learned from.
    codes: Vec<Vec<usize>>,
    batch: usize,
    t_mix: f64,
    seed: u64,
    /// The order of the samples in one round through all of them.
    round: Option<(u64, Vec<usize>)>,
}

impl Draws {
    /// Every sample once in each round, in an order drawn for the round; each gives way to a code with probability `t_mix`.
    pub fn new(material: &Material, options: &Options) -> Self {
        let of_class = material.codes.by_class();
        let mut codes = vec![Vec::new(); material.learned.len()];
        let class_of = material.data.classes();
        for (own, &i) in codes.iter_mut().zip(&material.learned) {
            own.extend(of_class.get(&class_of[i]).into_iter().flatten());
        }
        let (batch, t_mix, seed) = (options.batch, options.t_mix, options.seed);
        Self { learned: material.learned.clone(), codes, batch, t_mix, seed, round: None }
    }

    /// What step `t`, from 0, shows the model.
    pub fn batch(&mut self, t: usize) -> Vec<Row> {
        let n = self.learned.len() as u64;
        let first = t as u64 * self.batch as u64;
        (first..first + self.batch as u64)
            .map(|k| {
                let at = self.order(k / n)[usize::try_from(k % n).unwrap_or(0)];
                let mut rng = generator(self.seed, b"embed mix");
                rng.set_stream(k);
                let codes = &self.codes[at];
                if !codes.is_empty() && rng.random::<f64>() < self.t_mix {
                    Row::Code(codes[rng.random_range(0..codes.len())])
                } else {
                    Row::Sample(self.learned[at])
                }
            })
            .collect()
    }

    fn order(&mut self, round: u64) -> &[usize] {
        if self.round.as_ref().is_none_or(|(r, _)| *r != round) {
            let mut order: Vec<usize> = (0..self.learned.len()).collect();
            let mut rng = generator(self.seed, b"embed order");
            rng.set_stream(round);
            shuffle(&mut order, &mut rng);
            self.round = Some((round, order));
        }
        self.round.as_ref().map_or(&[], |(_, order)| order)
    }
}
