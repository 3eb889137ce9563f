//! Shaders whose inner loops are written out, in the form that suits an adapter.
//!
//! A product of matrices, a convolution and their gradients are all sums `y[row, column] = Σ_k a[row, k] · b[k, column]` and
//! differ in where elements lie. A shader file says where; the lines `//: …` in it stand for what is the same in all
//! of them and much too long to be written by hand. Lines after `//# direct` or `//# tiled` belong to that form alone,
//! lines before them and after `//# all` to both. `//: include functions` stands for `shaders/parts/functions.wgsl`.
//!
//! In the direct form a workgroup of 8 by 8 invocations makes [`TILE`], each invocation 16 rows of 8 columns, straight from
//! memory. In the tiled form 16 by 16 invocations share parts of both operands in workgroup memory; each makes 8 rows of
//! 4 columns.

use std::collections::HashMap;
use std::fmt::Write;
use std::sync::{LazyLock, Mutex, PoisonError};

/// How shaders that multiply are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Form {
    /// Nothing is shared: for adapters that compute on a CPU, whose memory is a cache anyway.
    #[default]
    Direct,
    /// The same, but neighbours load different rows and tell each other: for subgroups of 8 along x.
    Subgroups,
    /// Both operands go through workgroup memory: for GPUs.
    Tiled,
}

impl Form {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Direct, Self::Subgroups, Self::Tiled];

    /// Rows, and groups of four columns, that an invocation makes.
    fn extents(self) -> (usize, usize) {
        if self == Self::Tiled { (8, 1) } else { (16, 2) }
    }
}

/// Rows and columns that a workgroup makes, in every form.
pub(super) const TILE: [usize; 2] = [128, 64];
/// How far the tiled form goes along k at once.
const DEPTH: usize = 16;
/// From one k to the next in the shared rows and columns: some words between them keep writes out of one bank.
const PITCH: [usize; 2] = [TILE[0] + 4, TILE[1] + 4];
/// Invocations of a workgroup in the tiled form.
const INVOCATIONS: usize = 256;

/// What several shaders include, by name.
pub(super) const FUNCTIONS: [(&str, &str); 3] = [
    ("functions", include_str!("../../shaders/parts/functions.wgsl")),
    ("operations", include_str!("../../shaders/parts/operations.wgsl")),
    ("halves", include_str!("../../shaders/parts/halves.wgsl")),
];

/// The text of a shader in this form; the same text for the same source.
pub(super) fn composed(source: &'static str, form: Form) -> &'static str {
    type Known = Mutex<HashMap<(&'static str, Form), &'static str>>;
    static KNOWN: LazyLock<Known> = LazyLock::new(Known::default);
    if !source.contains("//# direct") && !source.contains("//: include") {
        return source;
    }
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    known.entry((source, form)).or_insert_with(|| compose(source, form).leak())
}

fn compose(source: &str, form: Form) -> String {
    let own = if form == Form::Tiled { "tiled" } else { "direct" };
    let (mut out, mut section) = (String::with_capacity(4 * source.len()), "all");
    for line in source.lines() {
        if let Some(name) = line.strip_prefix("//# ") {
            section = name;
        } else if section == "all" || section == own {
            match line.trim_start().strip_prefix("//: ") {
                Some(command) => expand(&mut out, command, form),
                None => out.extend([line, "\n"]),
            }
        }
    }
    out
}

/// Adds a line; writing to a string cannot fail.
macro_rules! line {
    ($out:expr, $($text:tt)*) => {{ let _ = writeln!($out, $($text)*); }};
}

/// Writes out one command.
fn expand(out: &mut String, command: &str, form: Form) {
    let (verb, rest) = command.split_once(' ').unwrap_or((command, ""));
    let (rows, quads) = form.extents();
    let sums = || (0..rows).flat_map(|i| (0..quads).map(move |j| format!("{i}_{j}")));
    match verb {
        // another file
        "include" => out.extend(FUNCTIONS.iter().filter(|(name, _)| *name == rest).map(|(_, source)| *source)),
        // the sums begin at 0
        "zero" => sums().for_each(|ij| line!(out, "var {rest}{ij} = vec4<f32>();")),
        "clear" => sums().for_each(|ij| line!(out, "{rest}{ij} = vec4<f32>();")),
        // 'rows p = EXPRESSION of ROW': where rows lie in their operand
        "rows" => {
            let (name, of_row) = rest.split_once(" = ").unwrap_or_default();
            let lanes = if form == Form::Subgroups { 8 } else { 1 };
            for i in 0..rows / lanes {
                let row = if lanes == 8 { format!("row0 + {}u + local.x", 8 * i) } else { format!("row0 + {i}u") };
                line!(out, "let {name}{i} = {};", of_row.replace("ROW", &format!("({row})")));
            }
        }
        // 'columns q = EXPRESSION of COLUMN'
        "columns" => {
            let (name, of_column) = rest.split_once(" = ").unwrap_or_default();
            for i in 0..4 * quads {
                line!(
                    out,
                    "let {name}{i} = {};",
                    of_column.replace("COLUMN", &format!("(column0 + {i}u * column_step)"))
                );
            }
        }
        // 'multiply A AT by B AT': four k; rows are p, columns q, sums s. A buffer that is read in fours has a 4 at the end
        // of its name. Four elements that do not lie side by side have a place 'each'.
        "multiply" => {
            let (a, b) = rest.split_once(" by ").unwrap_or_default();
            multiply(out, &Operand::new(a), &Operand::new(b), form);
        }
        // 'square s into t times WEIGHT'
        "square" => {
            let w = words(rest);
            sums().for_each(|ij| line!(out, "{}{ij} += {} * {}{ij} * {}{ij};", w[2], w[4], w[0], w[0]));
        }
        // 'tiles K, along (k or rows) and (k or columns)': all of k through workgroup memory, and along which index
        // neighbours load rows and columns
        "tiles" => tiles(out, rest),
        // 'store s at BASE | PLACE of COLUMN | PLACE of ROW | ROWS | COLUMNS'
        "store" => store(out, rest, form),
        _ => line!(out, "unknown command {command}"),
    }
}

fn words(text: &str) -> Vec<&str> {
    text.split_whitespace().collect()
}

/// A buffer and where four k of it are read.
struct Operand<'a> {
    buffer: &'a str,
    at: &'a str,
    each: bool,
}

impl<'a> Operand<'a> {
    fn new(text: &'a str) -> Self {
        let (buffer, at) = text.split_once(' ').unwrap_or_default();
        let each = at.strip_prefix("each ");
        Self { buffer, at: each.unwrap_or(at), each: each.is_some() }
    }
    fn in_fours(&self) -> bool {
        self.buffer.ends_with('4')
    }
}

/// The products of four k. Rows that are read one by one are 0 where `live` says no: there are fewer k.
fn multiply(out: &mut String, a: &Operand, b: &Operand, form: Form) {
    let (rows, quads) = form.extents();
    let lanes = if form == Form::Subgroups { 8 } else { 1 };
    line!(out, "{{");
    for i in 0..rows / lanes {
        if a.each {
            let one = |k| format!("{}[p{i} + {}[{k}]]", a.buffer, a.at);
            let four = [0, 1, 2, 3].map(one).join(", ");
            line!(out, "let r{i} = select(vec4<f32>(), vec4<f32>({four}), live);");
        } else {
            line!(out, "let r{i} = {}[(p{i} + {}) / 4u];", a.buffer, a.at);
        }
    }
    let along = !b.each;
    if along {
        (0..4 * quads).for_each(|c| line!(out, "let d{c} = {}[(q{c} + {}) / 4u];", b.buffer, b.at));
    }
    for k in 0..4 {
        for j in 0..quads {
            let one =
                |c: usize| if along { format!("d{c}[{k}]") } else { format!("{}[q{c} + {}[{k}]]", b.buffer, b.at) };
            if b.each && b.in_fours() {
                line!(out, "let b{k}_{j} = {}[(q{} + {}[{k}]) / 4u];", b.buffer, 4 * j, b.at);
            } else {
                line!(out, "let b{k}_{j} = vec4<f32>({});", [0, 1, 2, 3].map(|c| one(4 * j + c)).join(", "));
            }
        }
        for i in 0..rows {
            let element = format!("r{}[{k}]", i / lanes);
            if lanes == 8 {
                line!(out, "let a{k}_{i} = subgroupBroadcast({element}, {}u);", i % 8);
            } else {
                line!(out, "let a{k}_{i} = {element};");
            }
            (0..quads).for_each(|j| line!(out, "s{i}_{j} += a{k}_{i} * b{k}_{j};"));
        }
    }
    line!(out, "}}");
}

/// Shared parts of both operands in turn; the functions `row_element` and `column_element` give 0 beyond the edges.
fn tiles(out: &mut String, text: &str) {
    let (depth, along) = text.split_once(", along ").unwrap_or_default();
    let (of_rows, of_columns) = along.split_once(" and ").unwrap_or_default();
    let rows = Form::Tiled.extents().0;
    line!(out, "for (var k0 = 0u; k0 < {depth}; k0 += {DEPTH}u) {{");
    for (extent, pitch, along, name) in [(TILE[0], PITCH[0], of_rows, "row"), (TILE[1], PITCH[1], of_columns, "column")]
    {
        for i in 0..extent * DEPTH / INVOCATIONS {
            let at = format!("(index + {}u)", i * INVOCATIONS);
            let (k, other) = match along {
                "k" => (format!("{at} % {DEPTH}u"), format!("{at} / {DEPTH}u")),
                _ => (format!("{at} / {extent}u"), format!("{at} % {extent}u")),
            };
            let (k_of_all, other_of_all) = (format!("k0 + {k}"), format!("tile_{name} + {other}"));
            let arguments =
                if name == "row" { [other_of_all, k_of_all].join(", ") } else { [k_of_all, other_of_all].join(", ") };
            line!(out, "tile_{name}s[{k} * {pitch}u + {other}] = {name}_element({arguments});");
        }
    }
    line!(out, "workgroupBarrier();");
    line!(out, "for (var k = 0u; k < {DEPTH}u; k++) {{");
    line!(out, "let at_b = k * {}u + column0 - tile_column;", PITCH[1]);
    let four: Vec<String> = (0..4).map(|c| format!("tile_columns[at_b + {c}u]")).collect();
    line!(out, "let b = vec4<f32>({});", four.join(", "));
    line!(out, "let at_a = k * {}u + row0 - tile_row;", PITCH[0]);
    (0..rows).for_each(|i| line!(out, "s{i}_0 += tile_rows[at_a + {i}u] * b;"));
    line!(out, "}}\nworkgroupBarrier();\n}}");
}

/// Writes what lies inside; `finish` says what becomes of a sum and of what `of_row` and `of_column` give for its row and its
/// column, each asked once. In the direct forms the sums move up row by row: written
/// out, the stores alone would take a CPU adapter a second to compile.
fn store(out: &mut String, text: &str, form: Form) {
    let words: Vec<&str> = text.split(" | ").collect();
    let [sums_at, of_column, of_row, m, n] = words[..] else { return line!(out, "bad store {text}") };
    let (s, base) = sums_at.split_once(" at ").unwrap_or_default();
    let (rows, quads) = form.extents();
    line!(out, "{{");
    for c in 0..4 * quads {
        line!(out, "let column_{c} = column0 + {c}u * column_step;");
        line!(out, "let place_{c} = {base} + {};", of_column.replace("COLUMN", &format!("column_{c}")));
        line!(out, "let of_column_{c} = of_column(min(column_{c}, {n} - 1u));");
    }
    let row = |out: &mut String, i: usize| {
        line!(out, "let place = {};", of_row.replace("ROW", "row"));
        line!(out, "let of_row = of_row(row);");
        for c in 0..4 * quads {
            let sum = format!("{s}{i}_{}[{}]", c / 4, c % 4);
            let at = format!("place_{c} + place");
            let finished = format!("finish({sum}, of_row + of_column_{c}, row, column_{c}, {at})");
            line!(out, "if column_{c} < {n} {{ y[{at}] = {finished}; }}");
        }
    };
    if form == Form::Tiled {
        for i in 0..rows {
            line!(out, "if row0 + {i}u < {m} {{ let row = row0 + {i}u;");
            row(out, i);
            line!(out, "}}");
        }
    } else {
        line!(out, "for (var row = row0; row < min(row0 + {rows}u, {m}); row++) {{");
        row(out, 0);
        for i in 1..rows {
            (0..quads).for_each(|j| line!(out, "{s}{}_{j} = {s}{i}_{j};", i - 1));
        }
        line!(out, "}}");
    }
    line!(out, "}}");
}

#[cfg(test)]
mod tests {
    use super::{Form, compose};

    #[test]
    fn sections_belong_to_their_form() {
        let source = "a\n//# direct\nb\n//# tiled\nc\n//# all\nd\n";
        assert_eq!(compose(source, Form::Direct), "a\nb\nd\n");
        assert_eq!(compose(source, Form::Subgroups), "a\nb\nd\n");
        assert_eq!(compose(source, Form::Tiled), "a\nc\nd\n");
    }

    #[test]
    fn neighbours_load_different_rows() {
        let source = "//: rows p = ROW * 3u\n";
        assert_eq!(compose(source, Form::Direct).lines().count(), 16);
        assert_eq!(
            compose(source, Form::Subgroups),
            "let p0 = (row0 + 0u + local.x) * 3u;\nlet p1 = (row0 + 8u + local.x) * 3u;\n"
        );
    }
}
