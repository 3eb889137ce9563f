//! `codes compose`: one code for several classes.

use crate::cli::common::{check_target, named};
use crate::cli::{Context, Status};
use crate::error::{Error, Result};
use crate::inputs::compose::{Blend, compose};
use crate::inputs::{Labelled, npz};
use crate::report::format;
use clap::ValueEnum;
use std::path::PathBuf;

/// Gives groups of classes one code each, made of the codes of their classes.
///
/// For classes that are asked for together. The new file has the code of a group once under the label of each of its classes,
/// so that it is trained with and forgotten as any other; the classes of a group are then forgotten together or not at all.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Compose {
    /// The codes, an .npz with x and y, as 'codes new' writes it.
    codes: PathBuf,
    /// Classes that share a code; may be given several times.
    #[arg(long = "group", value_name = "CLASS,CLASS…", required = true)]
    groups: Vec<Group>,
    /// The new file.
    #[arg(short, value_name = "FILE.npz")]
    o: PathBuf,
    /// How codes become one.
    #[arg(long, value_enum, default_value_t)]
    by: BlendName,
    /// Decides which code of a patchwork an element comes from.
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

/// Classes with commas between them.
#[derive(Clone, Debug, serde::Serialize)]
#[serde(transparent)]
struct Group(Vec<usize>);

impl std::str::FromStr for Group {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let classes = text.split(',').map(|word| word.trim().parse());
        classes
            .collect::<Result<_, _>>()
            .map(Self)
            .map_err(|_| "expected class ids with commas between them".to_owned())
    }
}

#[derive(Clone, Copy, Debug, Default, ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
enum BlendName {
    /// Every element is that of one of the codes, drawn
    #[default]
    Patchwork,
    /// The mean of every element
    Mean,
}

#[derive(serde::Serialize)]
struct Report {
    file: PathBuf,
    codes: usize,
    groups: Vec<Group>,
    by: BlendName,
    seed: u64,
}

impl Compose {
    pub(super) fn run(self, context: &Context) -> Result<Status> {
        check_target(&self.o, &[&self.codes])?;
        let codes = self.read().map_err(|e| named(e, &self.codes))?;
        let by = match self.by {
            BlendName::Patchwork => Blend::Patchwork,
            BlendName::Mean => Blend::Mean,
        };
        let groups: Vec<Vec<usize>> = self.groups.iter().map(|g| g.0.clone()).collect();
        let made = compose(&codes, &groups, by, self.seed)?;
        npz::save_composite(&self.o, &made)?;
        let report = Report { file: self.o, codes: made.len(), groups: self.groups, by: self.by, seed: self.seed };
        context.print(&report, || {
            let group = |g: &Group| format!("{{{}}}", g.0.iter().map(usize::to_string).collect::<Vec<_>>().join(", "));
            format!(
                "wrote {}: {} codes; one code for each of {}\n",
                report.file.display(),
                format::count(report.codes),
                report.groups.iter().map(group).collect::<Vec<_>>().join(" ")
            )
        })?;
        Ok(Status::Done)
    }

    fn read(&self) -> Result<Labelled> {
        let keys = npz::keys(&self.codes)?;
        if let Some(key) = keys.iter().find(|k| !["x", "y"].contains(&k.as_str())) {
            return Err(Error::unsupported(format!("holds '{key}' beside x and y; only plain codes can be blended")));
        }
        let y = npz::read(&self.codes, "y")?;
        let class = |v: &f64| (v.fract() == 0.0 && (0.0..1e15).contains(v)).then_some(*v as usize);
        let classes = y.to_f64().iter().map(class).collect::<Option<Vec<_>>>();
        let classes = classes.ok_or_else(|| Error::invalid("y does not hold class ids"))?;
        let x = npz::read(&self.codes, "x")?;
        if !x.is_finite() {
            return Err(Error::invalid("x is not finite"));
        }
        Labelled::new(x, classes)
    }
}
