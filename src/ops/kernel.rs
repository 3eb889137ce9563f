//! GPU work as plain data: which shader, which buffers, which parameters, how many workgroups.

use super::block::{self, Form};

/// A WGSL source with its name.
#[derive(Clone, Copy, Debug)]
pub struct Shader {
    /// File name in `shaders/` without its ending.
    pub name: &'static str,
    /// The text as its file has it; [`Shader::text`] is what compiles.
    pub source: &'static str,
}

impl Shader {
    /// The text in the form that suits an adapter; most shaders have one form. Its entry point is `main`; binding `k`
    /// of group 0 is bind `k` of the [`Step`], and the last binding is `params`.
    pub fn text(&self, form: Form) -> &'static str {
        block::composed(self.source, form)
    }
}

/// `shader!("unary")` is the shader in `shaders/unary.wgsl`.
#[macro_export]
macro_rules! shader {
    ($name:literal) => {
        $crate::ops::Shader { name: $name, source: include_str!(concat!("../../shaders/", $name, ".wgsl")) }
    };
}

/// A buffer of a [`Step`]. Every element takes one 32-bit word: `f32`, `i32` (all integer types), or
/// `u32` 0/1 (bool).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bind {
    /// Input of the node, in ONNX order; bound read-only.
    Input(usize),
    /// Output of the node, in ONNX order; bound read-write.
    Output(usize),
    /// Scratch buffer of the kernel; bound read-write.
    Scratch(usize),
    /// Scratch buffer that an earlier step filled; bound read-only.
    Filled(usize),
}

impl Bind {
    /// True when the step may write it.
    pub fn is_written(&self) -> bool {
        !matches!(self, Self::Input(_) | Self::Filled(_))
    }
}

/// One parameter, by the name of its member in the WGSL struct `Params`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Param {
    pub name: &'static str,
    pub words: Vec<u32>,
}

/// The members of the WGSL struct `Params`, in order: `u32`, `i32`, `f32` and `array<u32, k>` only. The
/// struct lies in storage, so that each member takes its words and no padding.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Params(pub(crate) Vec<Param>);

impl Params {
    /// No members yet.
    pub fn new() -> Self {
        Self::default()
    }
    /// A `u32` member.
    #[must_use]
    pub fn u(mut self, name: &'static str, v: usize) -> Self {
        self.0.push(Param { name, words: vec![v as u32] });
        self
    }
    /// An `i32` member.
    #[must_use]
    pub fn i(mut self, name: &'static str, v: i64) -> Self {
        self.0.push(Param { name, words: vec![v as i32 as u32] });
        self
    }
    /// An `f32` member.
    #[must_use]
    pub fn f(mut self, name: &'static str, v: f64) -> Self {
        self.0.push(Param { name, words: vec![(v as f32).to_bits()] });
        self
    }
    /// An `array<u32, K>` member; missing entries are `fill`.
    #[must_use]
    pub fn list<const K: usize>(mut self, name: &'static str, v: &[usize], fill: usize) -> Self {
        let mut words: Vec<u32> = v.iter().map(|&d| d as u32).collect();
        words.resize(K, fill as u32);
        self.0.push(Param { name, words });
        self
    }
    /// An `array<i32, K>` member; missing entries are 0.
    #[must_use]
    pub fn list_i<const K: usize>(mut self, name: &'static str, v: &[i64]) -> Self {
        let mut words: Vec<u32> = v.iter().map(|&d| d as i32 as u32).collect();
        words.resize(K, 0);
        self.0.push(Param { name, words });
        self
    }
    /// The only word of a member.
    pub(crate) fn word(&self, name: &str) -> Option<u32> {
        self.0.iter().find(|p| p.name == name).and_then(|p| p.words.first().copied())
    }
    /// Name and number of words of every member, in order.
    pub fn members(&self) -> impl Iterator<Item = (&'static str, usize)> {
        self.0.iter().map(|p| (p.name, p.words.len()))
    }
    /// The struct's words.
    pub fn words(&self) -> Vec<u32> {
        self.0.iter().flat_map(|p| p.words.iter().copied()).collect()
    }
}

/// One dispatch.
#[derive(Clone, Debug)]
pub struct Step {
    /// The shader.
    pub shader: Shader,
    /// Values of its `override` constants.
    pub overrides: Vec<(&'static str, f64)>,
    /// Its buffers: binding `k` is `binds[k]`; `params` comes after them.
    pub binds: Vec<Bind>,
    /// Its parameters.
    pub params: Params,
    /// Workgroups in x, y and z.
    pub grid: [u32; 3],
}

impl Step {
    /// The value of one of its overrides.
    pub(crate) fn overridden(&self, name: &str) -> Option<f64> {
        self.overrides.iter().find(|(n, _)| *n == name).map(|(_, v)| *v)
    }
}

/// What the GPU does for a node.
#[derive(Clone, Debug)]
pub enum Kernel {
    /// Output 0 is input 0 under another shape: nothing is done.
    Alias,
    /// Dispatches in order, with scratch buffers of so many words.
    Steps {
        /// The dispatches.
        steps: Vec<Step>,
        /// Words of every scratch buffer.
        scratch: Vec<usize>,
    },
}

impl Kernel {
    /// A kernel of one dispatch.
    pub fn one(step: Step) -> Self {
        Self::Steps { steps: vec![step], scratch: Vec::new() }
    }
    /// A kernel of several dispatches without scratch buffers.
    pub fn many(steps: Vec<Step>) -> Self {
        Self::Steps { steps, scratch: Vec::new() }
    }
}

/// Workgroups for `n` invocations in groups of 64 on a line. Beyond 65,535 groups the line folds into
/// rows; a shader finds its place as `gid.x + gid.y * groups.x * 64u` and checks it against `n`.
pub fn grid_1d(n: usize) -> [u32; 3] {
    const MOST: usize = 65_535;
    let groups = n.div_ceil(64).max(1);
    let rows = groups.div_ceil(MOST);
    [groups.div_ceil(rows) as u32, rows as u32, 1]
}
