//! Which of the labelled inputs are to be forgotten.

use super::answers::Answers;
use super::{Request, check_range};
use crate::error::{Error, Result};
use crate::inputs::Labelled;
use std::collections::BTreeMap;
use std::ops::Range;

/// How many inputs are to be forgotten, and how many of them are answered with what is to be forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Still {
    /// Inputs to forget.
    pub samples: usize,
    /// Answered so by the original.
    pub before: usize,
    /// Answered so by the new model.
    pub after: usize,
    /// Answered so by the old head on the changed body; absent where the model has no body.
    pub old_head: Option<usize>,
}

/// Which labelled inputs are to be forgotten, and what would be an answer to them.
#[derive(Clone, Debug)]
pub struct Aim {
    is_forgotten: Vec<bool>,
    /// Empty where samples are to be forgotten and no class.
    classes: Vec<usize>,
}

impl Aim {
    /// What a request means for these inputs and a model of so many classes.
    ///
    /// # Errors
    /// `Invalid` when classes and samples are both named or neither, when a class is out of range or has no input, when a
    /// position lies past the last input, and when nothing is left to retain.
    pub fn new(request: &Request, data: &Labelled, classes: usize) -> Result<Self> {
        let mut is_forgotten = vec![false; data.len()];
        if request.positions.is_empty() {
            check_range(&request.classes, classes)?;
            if let Some(c) = request.classes.iter().find(|c| !data.y.contains(c)) {
                return Err(Error::invalid(format!(
                    "no labelled input belongs to class {c}, which is to be forgotten"
                )));
            }
            is_forgotten.iter_mut().zip(&data.y).for_each(|(f, y)| *f = request.classes.contains(y));
        } else if request.classes.is_empty() {
            for &i in &request.positions {
                let n = data.len();
                let past = || Error::invalid(format!("input {i} is to be forgotten, and there are {n}"));
                *is_forgotten.get_mut(i).ok_or_else(past)? = true;
            }
        } else {
            return Err(Error::invalid("either classes or samples are to be forgotten, not both at once"));
        }
        if is_forgotten.iter().all(|f| *f) {
            return Err(Error::invalid(
                "every class that has inputs would be forgotten; at least one has to be retained",
            ));
        }
        Ok(Self { is_forgotten, classes: request.classes.clone() })
    }
    /// One stage of this: inputs of `classes` alone are to be forgotten, and every class of the whole would be an answer to
    /// them. Inputs of the other classes to forget take no part: nobody has to keep them.
    ///
    /// # Errors
    /// When a position lies past the last input.
    pub(super) fn stage(&self, data: &Labelled, classes: &[usize]) -> Result<(Self, Labelled)> {
        let takes_part = |y: &usize| classes.contains(y) || !self.classes.contains(y);
        let positions: Vec<usize> = (0..data.len()).filter(|&i| takes_part(&data.y[i])).collect();
        let data = data.select(&positions)?;
        Ok((self.on(&data), data))
    }
    /// The same classes to forget among other inputs; none of these is a sample to forget.
    pub(super) fn on(&self, data: &Labelled) -> Self {
        let is_forgotten = data.y.iter().map(|y| self.classes.contains(y)).collect();
        Self { is_forgotten, classes: self.classes.clone() }
    }
    /// The same where further samples follow these inputs.
    pub(super) fn on_all(&self, data: &Labelled) -> Self {
        let mut all = self.on(data);
        all.is_forgotten[..self.is_forgotten.len()].copy_from_slice(&self.is_forgotten);
        all
    }
    /// True when this input is to be forgotten.
    pub fn forgets(&self, input: usize) -> bool {
        self.is_forgotten[input]
    }
    /// True when samples are to be forgotten and no class.
    pub fn is_of_samples(&self) -> bool {
        self.classes.is_empty()
    }
    /// The classes to forget; none where samples are.
    pub fn classes(&self) -> &[usize] {
        &self.classes
    }
    /// The classes that would be an answer to an input of class `y` that is to be forgotten: any class to forget, or its
    /// own where only the sample is.
    pub fn answers<'a>(&'a self, y: &'a usize) -> &'a [usize] {
        if self.is_of_samples() { std::slice::from_ref(y) } else { &self.classes }
    }
    /// What becomes of the inputs to forget in these rows, whose classes `y` gives.
    pub fn still(&self, rows: Range<usize>, y: &[usize], before: &Answers, after: &Answers) -> Still {
        let lost = || rows.clone().filter(|&i| self.forgets(i));
        let count = |logits: &[f64]| {
            let answers = Answers::classes_of(logits, before.classes);
            lost().filter(|&i| self.answers(&y[i]).contains(&answers[i])).count()
        };
        Still {
            samples: lost().count(),
            before: count(&before.logits),
            after: count(&after.logits),
            old_head: after.old_head.as_ref().map(|z| count(z)),
        }
    }
    /// How many of the first inputs, whose classes are `y`, are retained and answered with their own class.
    pub fn right(&self, y: &[usize], answers: &Answers) -> usize {
        let answered = Answers::classes_of(&answers.logits, answers.classes);
        (0..y.len()).filter(|&i| !self.forgets(i) && y[i] == answered[i]).count()
    }
    /// Positions of the inputs by class, of those to forget and of the others.
    pub fn sides(&self, data: &Labelled) -> [BTreeMap<usize, Vec<usize>>; 2] {
        [true, false].map(|side| {
            let mut by_class = BTreeMap::<usize, Vec<usize>>::new();
            for (i, &y) in data.y.iter().enumerate().filter(|(i, _)| self.is_forgotten[*i] == side) {
                by_class.entry(y).or_default().push(i);
            }
            by_class
        })
    }
}
