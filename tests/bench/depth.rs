//! How deep steps away from a class may go: one JSON line for each (class, step), with what the inputs, blends of them
//! and test images say. The study in docs/benchmarks.md reads these lines; nothing of this is used by the tool.
//!
//!     cargo bench --bench depth -- MODEL INPUTS.npz[+INPUTS.npz] TEST LIMIT CLASS,... STEPS

use onnx_unlearn::classifier::{Classifier, ClassifierOptions, Weights};
use onnx_unlearn::engine::choose::{Choice, choose};
use onnx_unlearn::engine::wgpu::Kernels;
use onnx_unlearn::fisher::estimate_equalised;
use onnx_unlearn::forget::answers::{Answerer, Answers};
use onnx_unlearn::forget::ascent::{Ascent, Part};
use onnx_unlearn::forget::rewrite::Basis;
use onnx_unlearn::forget::{Aim, Method, Request};
use onnx_unlearn::inputs::{self, Labelled};
use onnx_unlearn::tensor::Array;
use onnx_unlearn::{Error, Result};
use serde_json::{Value, json};
use std::path::Path;

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let [model, source, test, limit, classes, steps] = &args[..] else {
        println!("usage: MODEL INPUTS.npz[+INPUTS.npz] TEST LIMIT CLASS,... STEPS");
        return Ok(());
    };
    let c = Classifier::open(Path::new(model), ClassifierOptions::default())?;
    let engine = choose(Choice::Auto, None, Kernels::Auto)?.engine;
    let c = c.on(&*engine)?;
    let mut data: Option<Labelled> = None;
    for part in source.split('+') {
        let more = inputs::load(Path::new(part), &c.expected(), &inputs::Options::default())?;
        data = Some(data.map_or(Ok(more.clone()), |d| d.concat(&more))?);
    }
    let data = data.ok_or_else(|| Error::invalid("no inputs"))?;
    let options = inputs::Options { limit: limit.parse().ok(), ..inputs::Options::default() };
    let test = inputs::load(Path::new(test), &c.expected(), &options)?;
    let old = Weights::upload(&*engine, &c.bind(1)?)?;
    let mut answerer = Answerer::new(&c, &*engine, 250, false)?;
    let steps: usize = steps.parse().unwrap_or(16);
    for group in classes.split(',') {
        let forgotten: Vec<usize> = group.split('+').filter_map(|c| c.parse().ok()).collect();
        let retained: Vec<usize> = (0..c.classes()).filter(|c| !forgotten.contains(c)).collect();
        let fisher = estimate_equalised(&c, &*engine, &old, &data, &[forgotten.clone(), retained], &mut |_| ())?;
        let mut parts = fisher.split(&*engine)?.into_iter();
        let (f_f, f_r) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let basis = Basis { names: fisher.names.clone(), f_f, f_r };
        let aim = Aim::new(&Request::new(forgotten.clone(), Method::Search(Vec::new())), &data, c.classes())?;
        let mut ascent = Ascent::new(&c, &*engine, &basis, Part::Body, &data, &aim, Vec::new())?;
        let blends = blends(&data, &forgotten)?;
        let between = between(&data, &forgotten)?;
        let dim = dim(&data, &forgotten)?;
        let sets = [("inputs", &data), ("blends", &blends), ("between", &between), ("dim", &dim), ("test", &test)];
        let mut weights = old.clone();
        let mut before: Vec<Answers> = Vec::new();
        for k in 0..=steps {
            let mut line = json!({"model": model, "source": source, "classes": forgotten, "step": k});
            for (i, (what, set)) in sets.iter().enumerate() {
                let now = answerer.answer(&weights, &old, set, &mut |_| ())?;
                if k == 0 {
                    before.push(now.clone());
                }
                line[*what] = stats(&before[i], &now, &set.y, &forgotten);
            }
            println!("{line}");
            weights = ascent.step(&weights)?;
        }
    }
    Ok(())
}

/// Every retained input mixed with a forget input, half and half, and with its successor.
fn blends(data: &Labelled, forgotten: &[usize]) -> Result<Labelled> {
    let f: Vec<usize> = (0..data.len()).filter(|&i| forgotten.contains(&data.y[i])).collect();
    let r: Vec<usize> = (0..data.len()).filter(|&i| !forgotten.contains(&data.y[i])).collect();
    let partner: Vec<usize> = (0..r.len()).map(|k| f[k % f.len()]).collect();
    let (a, b) = (data.select(&r)?, data.select(&partner)?);
    let mixed: Vec<f64> = a.x.to_f64().iter().zip(b.x.to_f64()).map(|(x, y)| 0.5 * x + 0.5 * y).collect();
    let x = Array::from_vec(a.x.shape(), mixed)?.to_float(a.x.dtype());
    Ok(Labelled { x, ..a })
}

/// Every retained input mixed half and half with one of another retained class.
fn between(data: &Labelled, forgotten: &[usize]) -> Result<Labelled> {
    let r: Vec<usize> = (0..data.len()).filter(|&i| !forgotten.contains(&data.y[i])).collect();
    let (mut one, mut two) = (Vec::new(), Vec::new());
    for (k, &i) in r.iter().enumerate() {
        for (l, &j) in r.iter().enumerate() {
            if data.y[i] < data.y[j] && (k + l) % 8 == 0 {
                one.push(i);
                two.push(j);
            }
        }
    }
    let (a, b) = (data.select(&one)?, data.select(&two)?);
    let mixed: Vec<f64> = a.x.to_f64().iter().zip(b.x.to_f64()).map(|(x, y)| 0.5 * x + 0.5 * y).collect();
    let x = Array::from_vec(a.x.shape(), mixed)?.to_float(a.x.dtype());
    Ok(Labelled { x, ..a })
}

/// Every retained input mixed with the mean of all inputs, a third and two thirds.
fn dim(data: &Labelled, forgotten: &[usize]) -> Result<Labelled> {
    let r: Vec<usize> = (0..data.len()).filter(|&i| !forgotten.contains(&data.y[i])).collect();
    let a = data.select(&r)?;
    let all = data.x.to_f64();
    let each = all.len() / data.len();
    let mean: Vec<f64> =
        (0..each).map(|k| (0..data.len()).map(|i| all[i * each + k]).sum::<f64>() / data.len() as f64).collect();
    let mixed: Vec<f64> = a.x.to_f64().iter().enumerate().map(|(i, x)| 0.35 * x + 0.65 * mean[i % each]).collect();
    let x = Array::from_vec(a.x.shape(), mixed)?.to_float(a.x.dtype());
    Ok(Labelled { x, ..a })
}

fn stats(before: &Answers, now: &Answers, labels: &[usize], forgotten: &[usize]) -> Value {
    let c = now.classes;
    let (p0, p1) = (before.log(), now.log());
    let answered = Answers::classes_of(&now.logits, c);
    let without: Vec<f64> = now
        .logits
        .iter()
        .enumerate()
        .map(|(i, z)| if forgotten.contains(&(i % c)) { f64::NEG_INFINITY } else { *z })
        .collect();
    let answered_without = Answers::classes_of(&without, c);
    let rest = |p: &[f64], i: usize| {
        let all: f64 = (0..c).filter(|k| !forgotten.contains(k)).map(|k| p[i * c + k].exp()).sum();
        (0..c).filter(|k| !forgotten.contains(k)).map(|k| p[i * c + k] - all.ln()).collect::<Vec<f64>>()
    };
    let (mut n_f, mut n_r) = (0.0, 0.0);
    let (mut hit, mut odds, mut right, mut right_without, mut kept0, mut kept1, mut kl, mut worst) =
        (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0f64);
    let mut each = vec![[0.0; 2]; c];
    let (mut kl_f, mut kl_rest, mut flips) = (0.0, 0.0, 0.0);
    for (i, y) in labels.iter().enumerate() {
        let (a, b) = (rest(&p0, i), rest(&p1, i));
        let k: f64 = a.iter().zip(&b).map(|(x, y)| x.exp() * (x - y)).sum();
        if forgotten.contains(y) {
            n_f += 1.0;
            hit += f64::from(u8::from(forgotten.contains(&answered[i])));
            let p: f64 = forgotten.iter().map(|k| p1[i * c + k].exp()).sum();
            odds += (p.max(1e-300) / (1.0 - p).max(1e-300)).ln();
            kl_f += k;
        } else {
            n_r += 1.0;
            right += f64::from(u8::from(answered[i] == *y));
            right_without += f64::from(u8::from(answered_without[i] == *y));
            kept0 += p0[i * c + y].exp();
            kept1 += p1[i * c + y].exp();
            each[*y][0] += p0[i * c + y].exp();
            each[*y][1] += p1[i * c + y].exp();
            let full: f64 = (0..c).map(|k| p0[i * c + k].exp() * (p0[i * c + k] - p1[i * c + k])).sum();
            kl += full;
            worst = worst.max(full);
            kl_rest += k;
            let top = |v: &[f64]| (0..v.len()).fold(0, |m, j| if v[j] > v[m] { j } else { m });
            flips += f64::from(u8::from(top(&a) != top(&b)));
        }
    }
    let least = each.iter().filter(|e| e[0] > 0.0).map(|e| e[1] / e[0]).fold(2.0, f64::min);
    json!({"least": least, "hit": hit / n_f, "odds": odds / n_f, "right": right / n_r, "without": right_without / n_r,
        "kept": kept1 / kept0, "kl": kl / n_r, "klmax": worst, "kl_f": kl_f / n_f, "kl_rest": kl_rest / n_r, "flips": flips / n_r})
}

trait Log {
    fn log(&self) -> Vec<f64>;
}

impl Log for Answers {
    fn log(&self) -> Vec<f64> {
        Answers::log_probabilities(&self.logits, self.classes)
    }
}
