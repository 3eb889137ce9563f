//! Names by pattern.

/// Whether a name fits a pattern in which `*` stands for any letters and `?` for one.
pub(crate) fn glob(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    // where in both to go on when the letters after the last '*' do not fit
    let (mut p, mut n, mut back) = (0_usize, 0_usize, None::<(usize, usize)>);
    while n < name.len() {
        match pattern.get(p) {
            Some('*') => {
                back = Some((p.saturating_add(1), n));
                p = p.saturating_add(1);
            }
            Some(c) if *c == '?' || Some(c) == name.get(n) => {
                (p, n) = (p.saturating_add(1), n.saturating_add(1));
            }
            _ => {
                let Some((after, taken)) = back else { return false };
                let taken = taken.saturating_add(1);
                (p, n, back) = (after, taken, Some((after, taken)));
            }
        }
    }
    pattern.get(p..).unwrap_or_default().iter().all(|c| *c == '*')
}

#[cfg(test)]
mod tests {
    use super::glob;

    #[test]
    fn stars_and_question_marks() {
        for (pattern, name) in
            [("*", ""), ("fc?.weight", "fc2.weight"), ("*.weight", "a.b.weight"), ("a*b*c", "axxbyybc"), ("ü?", "üé")]
        {
            assert!(glob(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in
            [("", "a"), ("fc?", "fc"), ("*.weight", "a.weights"), ("a*b*c", "axxbyyb"), ("fc1", "fc11")]
        {
            assert!(!glob(pattern, name), "{pattern} {name}");
        }
        // no pattern takes long
        assert!(!glob(&"*a".repeat(50), &"a".repeat(49)));
    }
}
