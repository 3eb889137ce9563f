//! What every strength does, as the inputs see it and as test images see it: one JSON line for each (class, scope, λ, α).
//! The study in docs/benchmarks.md reads these lines; nothing of this is used by the tool.
//!
//!     cargo bench --bench strengths -- MODEL INPUTS.npz|synthesise:K:SEED[+...] TEST LIMIT [CLASS,...]

use onnx_unlearn::classifier::{Classifier, ClassifierOptions, Weights};
use onnx_unlearn::engine::Engine;
use onnx_unlearn::engine::choose::{Choice, choose};
use onnx_unlearn::engine::wgpu::Kernels;
use onnx_unlearn::fisher::estimate_equalised;
use onnx_unlearn::forget::answers::{Answerer, Answers};
use onnx_unlearn::forget::rewrite::{Basis, Rewriter};
use onnx_unlearn::forget::{Rule, Strength};
use onnx_unlearn::inputs::synthesis::{self, synthesise};
use onnx_unlearn::inputs::{self, Labelled};
use onnx_unlearn::{Error, Result};
use serde_json::{Value, json};
use std::path::Path;

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let [model, source, test, limit, rest @ ..] = &args[..] else {
        // `cargo test --benches` runs every bench without arguments
        println!("usage: MODEL INPUTS.npz|synthesise:K:SEED[+...] TEST LIMIT [CLASS,...]");
        return Ok(());
    };
    let c = Classifier::open(Path::new(model), ClassifierOptions::default())?;
    let engine = choose(Choice::Auto, None, Kernels::Auto)?.engine;
    let (data, held) = labelled(&c, &*engine, source)?;
    let options = inputs::Options { limit: limit.parse().ok(), ..inputs::Options::default() };
    let test = inputs::load(Path::new(test), &c.expected(), &options)?;
    let forgotten: Vec<Vec<usize>> = match rest {
        [list, ..] => list.split(',').map(|s| s.split('+').filter_map(|c| c.parse().ok()).collect()).collect(),
        [] => (0..c.classes()).map(|c| vec![c]).collect(),
    };
    for classes in forgotten {
        study(&c, &*engine, model, &classes, [&data, &held, &test])?;
    }
    Ok(())
}

/// Inputs for the Fisher, and synthesised ones that are held out of it.
fn labelled(c: &Classifier, engine: &dyn Engine, source: &str) -> Result<(Labelled, Labelled)> {
    let mut all: Option<Labelled> = None;
    for part in source.split('+') {
        let data = match part.strip_prefix("synthesise:") {
            Some(numbers) => made(c, engine, numbers)?,
            None => inputs::load(Path::new(part), &c.expected(), &inputs::Options::default())?,
        };
        all = Some(all.map_or(Ok(data.clone()), |a| a.concat(&data))?);
    }
    let all = all.ok_or_else(|| Error::invalid("no inputs"))?;
    Ok((all, made(c, engine, "4:1000")?))
}

/// Numbers: a class, seed, τ, steps, rate; what is left out is as usual.
fn made(c: &Classifier, engine: &dyn Engine, numbers: &str) -> Result<Labelled> {
    let numbers: Vec<f64> = numbers.split(':').map(|v| v.parse().unwrap_or(0.0)).collect();
    let at = |i: usize, default: f64| numbers.get(i).copied().unwrap_or(default);
    let usual = synthesis::Options::default();
    let options = synthesis::Options {
        per_class: at(0, 8.0) as usize,
        seed: at(1, 0.0) as u64,
        tau: at(2, usual.tau),
        steps: at(3, usual.steps as f64) as usize,
        rate: at(4, usual.rate),
        ..usual
    };
    let made = synthesise(c, engine, &options, &mut |_, _| ())?;
    eprintln!("{} of {} reached, range {:?} ({})", made.reached, made.inputs.len(), made.range, made.range_reason);
    Ok(made.inputs)
}

fn study(
    c: &Classifier,
    engine: &dyn Engine,
    model: &str,
    forgotten: &[usize],
    [data, held, test]: [&Labelled; 3],
) -> Result<()> {
    let old = Weights::upload(engine, &c.bind(1)?)?;
    let retained: Vec<usize> = (0..c.classes()).filter(|c| !forgotten.contains(c)).collect();
    let fisher = estimate_equalised(c, engine, &old, data, &[forgotten.to_vec(), retained], &mut |_| ())?;
    let mut parts = fisher.split(engine)?.into_iter();
    let (f_f, f_r) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let mut answerer = Answerer::new(c, engine, 250, true)?;
    let head = answerer.head.clone();
    let mut before = json!({});
    for (what, set) in [("inputs", data), ("held", held), ("test", test)] {
        before[what] = stats(&answerer.answer(&old, &old, set, &mut |_| ())?, &set.y, forgotten);
    }
    for scope in ["all"] {
        let keep: Vec<usize> =
            (0..fisher.names.len()).filter(|&i| scope == "all" || !head.contains(&fisher.names[i])).collect();
        let basis = Basis {
            names: keep.iter().map(|&i| fisher.names[i].clone()).collect(),
            f_f: keep.iter().map(|&i| f_f[i].clone()).collect(),
            f_r: keep.iter().map(|&i| f_r[i].clone()).collect(),
        };
        let mut rewriter = Rewriter::new(engine, Rule::Dampen, &old, &basis)?;
        for below in [1.0] {
            for k in 0..14 {
                let alpha = 100.0 * 0.6f64.powi(k);
                let lambda = below * alpha.min(1.0);
                let weights = rewriter.apply(&Strength::Dampen { alpha, lambda })?;
                let mut line = json!({"model": model, "classes": forgotten, "scope": scope, "below": below, "alpha": alpha, "before": before});
                for (what, set) in [("inputs", data), ("held", held), ("test", test)] {
                    line[what] = stats(&answerer.answer(&weights, &old, set, &mut |_| ())?, &set.y, forgotten);
                }
                println!("{line}");
                let lost = |what: &str, part: f64| {
                    line[what]["kept"].as_f64() < before[what]["kept"].as_f64().map(|v| v * part)
                };
                if lost("inputs", 0.3) && lost("test", 0.7) {
                    break;
                }
            }
        }
    }
    Ok(())
}

/// Part answered and mean probability of forgotten classes on their samples, also under the old head, and of the own
/// class on all others; least of the latter over the classes.
fn stats(a: &Answers, labels: &[usize], forgotten: &[usize]) -> Value {
    let classes = a.classes;
    let of = |logits: &[f64]| {
        let (answered, log_p) = (Answers::classes_of(logits, classes), Answers::log_probabilities(logits, classes));
        let (mut f, mut r) = ([0.0; 3], [0.0; 3]);
        let mut each = vec![[0.0; 2]; classes];
        for (i, &y) in labels.iter().enumerate() {
            if forgotten.contains(&y) {
                f[0] += 1.0;
                f[1] += f64::from(u8::from(forgotten.contains(&answered[i])));
                f[2] += forgotten.iter().map(|k| log_p[i * classes + k].exp()).sum::<f64>();
            } else {
                let p = log_p[i * classes + y].exp();
                r[0] += 1.0;
                r[1] += f64::from(u8::from(answered[i] == y));
                r[2] += p;
                each[y][0] += 1.0;
                each[y][1] += p;
            }
        }
        let least = each.iter().filter(|e| e[0] > 0.0).map(|e| e[1] / e[0]).fold(1.0, f64::min);
        (f[1] / f[0], f[2] / f[0], r[1] / r[0], r[2] / r[0], least)
    };
    let (answered, p_f, right, kept, least) = of(&a.logits);
    let old = a.old_head.as_ref().map(|z| of(z));
    json!({"answered": answered, "p_f": p_f, "right": right, "kept": kept, "least": least,
        "old_answered": old.map(|o| o.0), "old_p": old.map(|o| o.1)})
}
