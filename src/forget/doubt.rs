//! What in the inputs' answers speaks against a result.

use super::search::Candidate;
use super::{Method, Request, are_telling};
use crate::inputs::Labelled;

/// Of the retained inputs so many may no longer be answered rightly: of many, one or two say nothing.
const FALL: f64 = 0.015;

/// Reasons to doubt that what the inputs say holds for data; empty when there is none. `reached` is the part of made
/// inputs that the model answered with their class before.
pub(super) fn doubts(start: &Candidate, end: &Candidate, made: bool, reached: f64) -> Vec<String> {
    let part = |a: f64, b: f64| if b > 0.0 { a / b } else { 1.0 };
    let percent = |v: f64| format!("{:.0} %", 100.0 * v);
    let mut all = Vec::new();
    if reached < 0.9 {
        all.push(format!("only {} of the inputs are answered with their class to begin with", percent(reached)));
    }
    if end.forget_answered > 0.0 {
        all.push(format!("{} of the forget inputs are still answered", percent(end.forget_answered)));
    }
    let left = part(end.forget_probability, start.forget_probability);
    // a middle between two ends may leave codes half their probability and data none
    let most = if made { 0.15 } else { 0.5 };
    if left > most {
        all.push(format!("{} of the forget inputs' probability is left", percent(left)));
    }
    let kept = part(end.retained_probability, start.retained_probability);
    if kept < 0.985 {
        all.push(format!("the retained inputs keep {} of their probability", percent(kept)));
    }
    if end.retained_answered < start.retained_answered - FALL {
        let (after, before) = (percent(end.retained_answered), percent(start.retained_answered));
        all.push(format!("{after} of the retained inputs are answered rightly, {before} before"));
    }
    if let Some((now, was)) = end.calibration.as_ref().zip(start.calibration.as_ref()) {
        all.extend(now.doubts(was));
    }
    all
}

/// A reason to doubt that no answer gives: a strength that nobody searched, and few inputs, which may be codes that were
/// learned by heart, to judge it by. Of such results that nothing else speaks against every fifth misses its goal
/// (docs/benchmarks.md).
pub(super) fn by_heart(request: &Request, data: &Labelled) -> Option<String> {
    let is_given = matches!(request.method, Method::Fixed(_));
    let tells_of_all = |c: &Labelled| request.classes.iter().all(|class| c.y.contains(class));
    let is_judged = request.made || request.calibration.as_ref().is_some_and(tells_of_all) || are_telling(data);
    (is_given && !is_judged).then(|| {
        let most = data.by_class().values().map(Vec::len).max().unwrap_or(0);
        format!(
            "inputs that may be known by heart, {most} a class at most, are all that judges the strength that is given"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(forget: f64, retained: f64) -> Candidate {
        Candidate {
            strength: String::new(),
            forget_answered: f64::from(u8::from(forget > 0.5)),
            retained_answered: f64::from(u8::from(retained > 0.5)),
            forget_probability: forget,
            old_head_probability: None,
            retained_probability: retained,
            retained_loss: 0.0,
            finite: true,
            calibration: None,
        }
    }

    #[test]
    fn doubts_name_what_is_wrong() {
        let start = candidate(0.99, 0.99);
        let said = |end: &Candidate, made, reached| doubts(&start, end, made, reached).join("; ");
        assert_eq!(said(&candidate(0.01, 0.985), true, 1.0), "");
        assert!(said(&candidate(0.01, 0.99), true, 0.5).contains("50 % of the inputs"));
        assert!(said(&candidate(0.9, 0.99), true, 1.0).contains("still answered"));
        assert!(said(&candidate(0.3, 0.99), true, 1.0).contains("probability is left"));
        assert_eq!(said(&candidate(0.3, 0.99), false, 1.0), "");
        assert!(said(&candidate(0.01, 0.95), true, 1.0).contains("keep 96 %"));
        assert!(said(&candidate(0.01, 0.4), true, 1.0).contains("answered rightly"));
        let fallen = |retained_answered| Candidate { retained_answered, ..candidate(0.01, 0.99) };
        assert_eq!(said(&fallen(0.99), true, 1.0), "");
        assert_eq!(said(&fallen(0.98), true, 1.0), "98 % of the retained inputs are answered rightly, 100 % before");
    }

    #[test]
    fn a_given_strength_wants_more_than_codes() {
        use crate::forget::{Rule, Strength};
        use crate::tensor::Array;
        let of = |per_class: usize| {
            let y: Vec<usize> = (0..2 * per_class).map(|i| i % 2).collect();
            Labelled::new(Array::full(&[y.len(), 1], 0f32), y).unwrap()
        };
        let request = |method| Request::new(vec![0], method);
        let given = request(Method::Fixed(Strength::Dampen { alpha: 10.0, lambda: 1.0 }));
        assert!(by_heart(&given, &of(1)).unwrap().contains("known by heart, 1 a class"));
        assert_eq!(by_heart(&given, &of(8)), None);
        assert_eq!(by_heart(&Request { made: true, ..given.clone() }, &of(1)), None);
        assert_eq!(by_heart(&Request { calibration: Some(of(1)), ..given.clone() }, &of(1)), None);
        let others = Labelled::new(Array::full(&[3, 1], 0f32), vec![1; 3]).unwrap();
        assert!(by_heart(&Request { calibration: Some(others), ..given }, &of(1)).is_some());
        assert_eq!(by_heart(&request(Method::Search(vec![Rule::Ascent])), &of(1)), None);
    }
}
