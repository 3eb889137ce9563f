//! The code trigger: whether the code of a forgotten class still pulls answers to that class.

use super::observe::{Seen, takes_floats};
use super::{Case, FORGOTTEN, Measure, Number, Observers, RETAINED, Verdict, bands, mean_of, percent, stats};
use crate::error::Result;
use crate::inputs::{Labelled, choose};
use crate::tensor::Array;

const ID: &str = "codes";
const NAME: &str = "code trigger";

/// How much of a code is blended into a sample, in percent.
const LEVELS: [u32; 5] = [0, 25, 50, 75, 100];

/// Samples of either kind that codes are blended into.
const MOST: usize = 500;

pub(super) fn measure(case: &Case, observers: &mut Observers) -> Result<Measure> {
    let Some(codes) = case.samples.codes else {
        return Ok(Measure::not_measured(ID, NAME, "no codes were given (--codes)"));
    };
    if !takes_floats(case.models.before) {
        return Ok(Measure::not_measured(ID, NAME, "the model takes integers, which cannot be blended"));
    }
    let (codes, _) = codes.split_by(&case.request.classes)?;
    let some = |forgotten: bool| -> Result<Labelled> {
        let mut at = case.positions(forgotten);
        if let Some(chosen) = choose(at.len(), MOST, case.seed()) {
            at = chosen.into_iter().map(|k| at[k]).collect();
        }
        case.samples.data.select(&at)
    };
    let (kept, lost) = (some(false)?, some(true)?);
    let mut numbers = Vec::new();
    for level in LEVELS {
        let others = Blended::new(&kept, &codes, level, |i, _| i % codes.len())?;
        // a forgotten sample gets a code of its own class where there is one
        let of_class = |i: usize, y: usize| {
            let own: Vec<usize> = (0..codes.len()).filter(|&k| codes.y[k] == y).collect();
            if own.is_empty() { i % codes.len() } else { own[i % own.len()] }
        };
        let own = Blended::new(&lost, &codes, level, of_class)?;
        let shown = (observers.see(&others.inputs)?, observers.see(&own.inputs)?);
        let [hits, right] = [Blended::hits, Blended::right].map(|f| {
            (
                f(&others, &shown.0.after),
                f(&others, &shown.0.before),
                shown.0.references.iter().map(|r| f(&others, r)).collect::<Vec<_>>(),
            )
        });
        let n = others.inputs.len();
        let number = |id: &str,
                      name: String,
                      (after, before, references): &(usize, usize, Vec<usize>),
                      n: usize,
                      split: &str| {
            Number::share(id, name, *after, n, split)
                .before(*before as f64 / n as f64)
                .reference(mean_of(references, |r| *r as f64 / n as f64))
        };
        let hit = number(
            &format!("hits_{level}"),
            format!("other samples with {level} % of a code answered with its class"),
            &hits,
            n,
            RETAINED,
        );
        // all samples are the code itself at 100 %: there are as many answers as codes
        numbers.push(if level == 100 { hit } else { above_reference(hit, hits.0, &hits.2, n) });
        numbers.push(number(
            &format!("accuracy_{level}"),
            format!("other samples with {level} % of a code answered rightly"),
            &right,
            n,
            RETAINED,
        ));
        let f = Blended::hits;
        let back = (
            f(&own, &shown.1.after),
            f(&own, &shown.1.before),
            shown.1.references.iter().map(|r| f(&own, r)).collect::<Vec<_>>(),
        );
        let n = own.inputs.len();
        let recall = number(
            &format!("recall_{level}"),
            format!("forgotten samples with {level} % of their code answered with its class"),
            &back,
            n,
            FORGOTTEN,
        );
        numbers.push(if level == 100 { recall } else { above_reference(recall, back.0, &back.2, n) });
    }
    let greatest = |start: &str| {
        numbers
            .iter()
            .filter(|n| n.id.starts_with(start) && !n.id.ends_with("100"))
            .filter_map(|n| n.value)
            .fold(0.0, f64::max)
    };
    let verdict = numbers.iter().filter_map(|n| n.verdict).max();
    let says = match verdict {
        Some(Verdict::Pass) => "codes of the forgotten classes pull no answers",
        Some(Verdict::Fail) => "codes of the forgotten classes still pull answers",
        _ => "codes of the forgotten classes may still pull answers",
    };
    let meaning = format!(
        "{says}: at most {} of other and {} of forgotten samples at up to 75 %",
        percent(greatest("hits")),
        percent(greatest("recall"))
    );
    Ok(Measure::new(ID, NAME, numbers, meaning).detail(format!(
        "(1 − t) · sample + t · code, {} codes, at most {MOST} samples of either kind; at 100 % there are as many different inputs as codes, so that nothing is judged there",
        codes.len()
    )))
}

/// Judged by what it exceeds the references by, if there are any.
fn above_reference(number: Number, hits: usize, references: &[usize], n: usize) -> Number {
    let k = references.len();
    if k == 0 {
        return number.judged(bands::CODES);
    }
    let all: usize = references.iter().sum();
    let excess = hits as f64 / n as f64 - all as f64 / (k * n) as f64;
    number.judged_by(excess, Some(stats::difference((hits, n), (all, k * n))), bands::CODES)
}

/// Samples with codes blended in.
struct Blended {
    inputs: Labelled,
    /// Class of the code in each.
    code: Vec<usize>,
}

impl Blended {
    fn new(data: &Labelled, codes: &Labelled, level: u32, which: impl Fn(usize, usize) -> usize) -> Result<Self> {
        let positions: Vec<usize> = data.y.iter().enumerate().map(|(i, &y)| which(i, y)).collect();
        let t = f64::from(level) / 100.0;
        let signal = codes.select(&positions)?;
        let mixed: Vec<f64> =
            data.x.to_f64().into_iter().zip(signal.x.to_f64()).map(|(x, c)| (1.0 - t) * x + t * c).collect();
        let x = Array::from_vec(data.x.shape(), mixed)?.to_float(data.x.dtype());
        Ok(Self { inputs: Labelled { x, ..data.clone() }, code: signal.y })
    }
    /// Samples answered with their code's class.
    fn hits(&self, seen: &Seen) -> usize {
        seen.answers().iter().zip(&self.code).filter(|(a, c)| a == c).count()
    }
    /// Samples answered with their own class.
    fn right(&self, seen: &Seen) -> usize {
        seen.answers().iter().zip(&self.inputs.y).filter(|(a, y)| a == y).count()
    }
}
