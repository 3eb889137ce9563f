//! Element-wise nodes in a row as one dispatch, whose shader is written for the row: what a node makes stays in a register
//! until the next one takes it.

use super::block::FUNCTIONS;
use super::kernel::Param;
use super::{Bind, Params, Shader, Step, grid_1d};
use std::collections::HashMap;
use std::fmt::Write;
use std::sync::{LazyLock, Mutex, PoisonError};

/// The other operand of a [`Link`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Other {
    /// The bits of a number that is known.
    Known(u32),
    /// Element `i` of an operand.
    Same(usize),
    /// Element `i / per % of` of an operand.
    Repeated { operand: usize, per: usize, of: usize },
}

/// What one node does with the value `v` that reaches it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Link {
    /// Function `code` of `shaders/unary.wgsl`, with its parameters.
    Function { code: u32, parameters: [u32; 2] },
    /// Operation `code` of `shaders/binary.wgsl`; `v` is its left operand, or its right one.
    Operation { code: u32, is_left: bool, other: Other },
    /// `v` where the condition holds, or where it does not, and `other` elsewhere. The condition is a bool, or a float above 0.
    Choice { condition: usize, is_float: bool, keeps: bool, other: Other },
}

impl Link {
    /// The other operand, if there is one.
    fn other(self) -> Option<Other> {
        match self {
            Self::Function { .. } => None,
            Self::Operation { other, .. } | Self::Choice { other, .. } => Some(other),
        }
    }

    /// The same where operands have other numbers.
    pub(crate) fn with_operands(self, at: impl Fn(usize) -> usize) -> Self {
        let moved = |other| match other {
            Other::Known(bits) => Other::Known(bits),
            Other::Same(o) => Other::Same(at(o)),
            Other::Repeated { operand, per, of } => Other::Repeated { operand: at(operand), per, of },
        };
        match self {
            Self::Function { .. } => self,
            Self::Operation { code, is_left, other } => Self::Operation { code, is_left, other: moved(other) },
            Self::Choice { condition, is_float, keeps, other } => {
                Self::Choice { condition: at(condition), is_float, keeps, other: moved(other) }
            }
        }
    }

    /// Two words and two extents of [`step`]'s parameters.
    fn words(self) -> ([u32; 2], [u32; 2]) {
        match (self, self.other()) {
            (Self::Function { parameters, .. }, _) => (parameters, [1, 1]),
            (_, Some(Other::Known(bits))) => ([bits, 0], [1, 1]),
            (_, Some(Other::Repeated { per, of, .. })) => ([0, 0], [per as u32, of as u32]),
            _ => ([0, 0], [1, 1]),
        }
    }

    /// The statement that takes `v` on; equal for links that differ in parameters alone.
    fn statement(self, k: usize) -> String {
        let float = |bits: String| format!("bitcast<f32>({bits})");
        let other = match self.other() {
            None | Some(Other::Known(_)) => float(format!("params.a[{k}]")),
            Some(Other::Same(o)) => float(format!("x{o}[i]")),
            Some(Other::Repeated { operand: o, .. }) => {
                float(format!("x{o}[i / params.per[{k}] % params.extent[{k}]]"))
            }
        };
        match self {
            Self::Function { code, .. } => {
                format!("v = function_{code}(v, {other}, {});", float(format!("params.b[{k}]")))
            }
            Self::Operation { code, is_left: true, .. } => format!("v = operation_{code}(v, {other});"),
            Self::Operation { code, .. } => format!("v = operation_{code}({other}, v);"),
            Self::Choice { condition: c, is_float, keeps, .. } => {
                let holds = if is_float { float(format!("x{c}[i]")) + " > 0.0" } else { format!("x{c}[i] != 0u") };
                let [no, yes] = if keeps { [&*other, "v"] } else { ["v", &*other] };
                format!("v = select({no}, {yes}, {holds});")
            }
        }
    }
}

/// The dispatch of these links from input 0 of a node, whose first `operands` inputs they read, to its output 0 of `n`
/// elements.
pub(crate) fn step(links: &[Link], operands: usize, n: usize) -> Step {
    let (words, extents): (Vec<_>, Vec<_>) = links.iter().map(|l| l.words()).unzip();
    let mut params = Params::new().u("n", n);
    let mut list = |name, words: Vec<u32>| params.0.push(Param { name, words });
    list("a", words.iter().map(|w| w[0]).collect());
    list("b", words.iter().map(|w| w[1]).collect());
    list("per", extents.iter().map(|e| e[0]).collect());
    list("extent", extents.iter().map(|e| e[1]).collect());
    let binds = (0..operands).map(Bind::Input).chain([Bind::Output(0)]).collect();
    Step { shader: shader(links, operands), overrides: Vec::new(), binds, params, grid: grid_1d(n) }
}

/// The shader of these links; the same one for the same text.
fn shader(links: &[Link], operands: usize) -> Shader {
    static KNOWN: LazyLock<Mutex<HashMap<&str, Shader>>> = LazyLock::new(Mutex::default);
    let source = text(links, operands);
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(shader) = known.get(source.as_str()) {
        return *shader;
    }
    let name = format!("chain_{}", &crate::files::hex(&<sha2::Sha256 as sha2::Digest>::digest(&source))[..16]);
    let shader = Shader { name: name.leak(), source: source.leak() };
    known.insert(shader.source, shader);
    shader
}

fn text(links: &[Link], operands: usize) -> String {
    let mut out = String::from("// Element-wise nodes in a row, one invocation per element.\n\n");
    let count = links.len();
    // writing to a string cannot fail
    let _ = writeln!(
        out,
        "struct Params {{\n    n: u32,\n    a: array<u32, {count}>,\n    b: array<u32, {count}>,\n    per: array<u32, \
         {count}>,\n    extent: array<u32, {count}>,\n}}\n"
    );
    for o in 0..operands {
        let _ = writeln!(out, "@group(0) @binding({o}) var<storage, read> x{o}: array<u32>;");
    }
    let _ = writeln!(out, "@group(0) @binding({operands}) var<storage, read_write> y: array<u32>;");
    let _ = writeln!(out, "@group(0) @binding({}) var<storage, read> params: Params;\n", operands + 1);
    let is_function = |l: &Link| matches!(l, Link::Function { .. });
    let is_operation = |l: &Link| matches!(l, Link::Operation { .. });
    let needed = [links.iter().any(is_function), links.iter().any(is_operation)];
    FUNCTIONS.iter().zip(needed).filter(|(_, needed)| *needed).for_each(|((_, source), _)| out += source);
    out += "\n@compute @workgroup_size(64)\nfn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) \
            groups: vec3<u32>) {\n    let i = id.x + id.y * groups.x * 64u;\n    if i >= params.n { return; }\n    var v = \
            bitcast<f32>(x0[i]);\n";
    for (k, link) in links.iter().enumerate() {
        let _ = writeln!(out, "    {}", link.statement(k));
    }
    out + "    y[i] = bitcast<u32>(v);\n}\n"
}
