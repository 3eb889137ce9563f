//! Numbers and names as people read them.

use std::time::Duration;

/// Stands for a number that does not exist, as the mean of nothing.
const NONE: &str = "-";

/// A share of 1 in percent with one digit: `0.8312` is `83.1`. The sign `%` belongs to the column's head.
pub fn percent(share: f64) -> String {
    number(100.0 * share, |v| format!("{v:.1}"))
}

/// A difference of two shares in points with its sign: `+0.6`, `-1.0`, `0.0`.
pub fn points(difference: f64) -> String {
    number(100.0 * difference, |v| if format!("{v:.1}") == "0.0" { "0.0".into() } else { format!("{v:+.1}") })
}

/// Up to `digits` significant digits, in scientific notation where that is shorter.
pub fn significant(v: f64, digits: usize) -> String {
    let digits = digits.max(1);
    number(v, |v| {
        let scientific = format!("{v:.*e}", digits - 1);
        let exponent: i32 = scientific.rsplit_once('e').and_then(|(_, e)| e.parse().ok()).unwrap_or(0);
        let digits = i32::try_from(digits).unwrap_or(i32::MAX);
        if exponent < -4 || exponent >= digits.max(6) {
            return scientific;
        }
        format!("{v:.*}", usize::try_from(digits - 1 - exponent).unwrap_or(0))
    })
}

fn number(v: f64, f: impl Fn(f64) -> String) -> String {
    // no "-0.0": it says that something fell
    let text = if v.is_finite() { f(v) } else { NONE.into() };
    match text.strip_prefix('-') {
        Some(rest) if rest.parse() == Ok(0.0) => rest.into(),
        _ => text,
    }
}

/// A strength by its name: steps are whole, all others have four digits.
pub fn strength(name: &str, v: f64) -> String {
    if name.ends_with("_steps") { format!("{name} {v:.0}") } else { format!("{name} {}", significant(v, 4)) }
}

/// A count with its thousands apart: `1,234,567`.
pub fn count(n: usize) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    out
}

/// A size in bytes, decimal units: `1.5 MB`.
pub fn bytes(n: u64) -> String {
    let (mut v, mut unit) = (n as f64, "B");
    for next in ["kB", "MB", "GB", "TB", "PB", "EB"] {
        if v < 999.5 {
            break;
        }
        v /= 1000.0;
        unit = next;
    }
    if unit == "B" || v >= 99.95 { format!("{v:.0} {unit}") } else { format!("{v:.1} {unit}") }
}

/// A time span: `12 ms`, `3.4 s`, `2 min 05 s`, `1 h 02 min`.
pub fn seconds(t: Duration) -> String {
    let s = t.as_secs_f64();
    if s < 0.9995 {
        return format!("{:.0} ms", 1e3 * s);
    }
    if s < 59.95 {
        return format!("{s:.1} s");
    }
    let s = s.round() as u64;
    if s < 3600 { format!("{} min {:02} s", s / 60, s % 60) } else { format!("{} h {:02} min", s / 3600, s / 60 % 60) }
}

/// A name out of a file, fit for a terminal: control characters are escaped.
pub fn name(text: &str) -> String {
    let escape = |c: char| {
        c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    text.chars().fold(String::with_capacity(text.len()), |mut s, c| {
        if escape(c) {
            s.extend(c.escape_default());
        } else {
            s.push(c);
        }
        s
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        assert_eq!([0.8312, 1.0, 0.0, -0.0001, f64::NAN].map(percent), ["83.1", "100.0", "0.0", "0.0", "-"]);
        assert_eq!([0.006, -0.01, -0.0001, 0.0].map(points), ["+0.6", "-1.0", "0.0", "0.0"]);
        assert_eq!([0, 999, 1000, 1_234_567].map(count), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!(
            [0, 999, 1000, 1_500_000, 521_000_000, 999_999].map(bytes),
            ["0 B", "999 B", "1.0 kB", "1.5 MB", "521 MB", "1.0 MB"]
        );
        let t = [0.0123, 0.9999, 3.44, 59.96, 125.0, 3725.0].map(Duration::from_secs_f64).map(seconds);
        assert_eq!(t, ["12 ms", "1.0 s", "3.4 s", "1 min 00 s", "2 min 05 s", "1 h 02 min"]);
        let s = [28.284, 0.00012, 1e-7, 123_456.0, 1e9, 0.0, f64::INFINITY].map(|v| significant(v, 3));
        assert_eq!(s, ["28.3", "0.000120", "1.00e-7", "123456", "1.00e9", "0.00", "-"]);
    }

    #[test]
    fn strengths_have_their_digits() {
        assert_eq!(strength("alpha", 3.3427), "alpha 3.343");
        assert_eq!(strength("body_steps", 5.0), "body_steps 5");
    }

    #[test]
    fn names_cannot_steer_a_terminal() {
        assert_eq!(name("conv1.weight é"), "conv1.weight é");
        assert_eq!(name("a\u{1b}[2Jb\n"), "a\\u{1b}[2Jb\\n");
        assert_eq!(name("a\u{202e}b"), "a\\u{202e}b");
    }
}
