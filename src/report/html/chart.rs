//! Charts as places in a box; the template draws them as SVG.

use std::fmt;

/// Width and height of the box. It is drawn at about this size on a telephone, where its letters have to be read.
const SIZE: (f64, f64) = (420.0, 330.0);
/// Room for the axes on the left, right, top and bottom.
const MARGIN: [f64; 4] = [48.0, 20.0, 12.0, 46.0];
/// Points of a line that are nearer to the last one than this, along both axes, are not drawn.
const NEAR: f64 = 0.3;

/// A length in the box, with one digit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Px(pub f64);

impl fmt::Display for Px {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.1}", self.0)
    }
}

/// How an axis runs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scale {
    /// From one number to another.
    Linear(f64, f64),
    /// From a power of ten to 1; what is below the least stands there.
    Log(i32),
}

impl Scale {
    /// Place of a number, 0 to 1.
    fn part(self, v: f64) -> f64 {
        let part = match self {
            Self::Linear(lo, hi) => (v - lo) / (hi - lo),
            Self::Log(least) => 1.0 - v.max(0.0).log10() / f64::from(least.min(-1)),
        };
        if part.is_nan() { 0.0 } else { part.clamp(0.0, 1.0) }
    }
    /// Numbers that the axis names.
    fn ticks(self) -> Vec<(f64, String)> {
        match self {
            Self::Linear(lo, hi) => (0..=4)
                .map(|i| {
                    let v = lo + (hi - lo) * f64::from(i) / 4.0;
                    (v, format!("{:.0}", 100.0 * v))
                })
                .collect(),
            Self::Log(least) => (least.min(-1)..=0)
                .map(|e| {
                    let v = 10f64.powi(e);
                    (v, format!("{}", 100.0 * v).chars().take(8).collect())
                })
                .collect(),
        }
    }
}

/// An axis.
#[derive(Clone, Debug)]
pub struct Axis {
    /// What it shows.
    pub label: String,
    /// How it runs.
    pub scale: Scale,
}

/// The shape of a point or the dashes of a line, so that colour is not all that tells series apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Marker {
    /// A disc; an unbroken line.
    First,
    /// A square; long dashes.
    Second,
    /// A triangle; short dashes.
    Third,
    /// A diamond; dashes and dots.
    Fourth,
}

impl Marker {
    /// The marker of the i-th series.
    pub fn of(i: usize) -> Self {
        [Self::First, Self::Second, Self::Third, Self::Fourth][i % 4]
    }
    /// Name of the style.
    pub fn style(self) -> &'static str {
        match self {
            Self::First => "s1",
            Self::Second => "s2",
            Self::Third => "s3",
            Self::Fourth => "s4",
        }
    }
    /// The outline around a place.
    fn outline(self, x: f64, y: f64) -> String {
        let at = |dx: f64, dy: f64| format!("{} {}", Px(x + dx), Px(y + dy));
        match self {
            // a disc of two arcs
            Self::First => format!("M{}a4 4 0 1 0 8 0a4 4 0 1 0 -8 0z", at(-4.0, 0.0)),
            Self::Second => format!("M{}h7v7h-7z", at(-3.5, -3.5)),
            Self::Third => format!("M{}L{}L{}z", at(0.0, -4.5), at(4.5, 3.5), at(-4.5, 3.5)),
            Self::Fourth => format!("M{}L{}L{}L{}z", at(0.0, -5.0), at(5.0, 0.0), at(0.0, 5.0), at(-5.0, 0.0)),
        }
    }
}

/// A name in the legend.
#[derive(Clone, Debug)]
pub struct Series {
    /// The name.
    pub name: String,
    /// Its marker.
    pub marker: Marker,
    /// True for a line, false for points.
    pub is_line: bool,
}

impl Series {
    /// The outline of its marker in the legend.
    pub fn outline(&self) -> String {
        self.marker.outline(7.0, 7.0)
    }
}

/// A point.
#[derive(Clone, Copy, Debug)]
pub struct Dot {
    /// Value on the horizontal axis.
    pub x: f64,
    /// Value on the vertical axis.
    pub y: f64,
    /// The marker of its series.
    pub marker: Marker,
}

/// A line through points.
#[derive(Clone, Debug)]
pub struct Line {
    /// Values on both axes.
    pub points: Vec<[f64; 2]>,
    /// The marker of its series.
    pub marker: Marker,
}

/// A chart with two axes.
#[derive(Clone, Debug)]
pub struct Chart {
    /// Stable name, unique on the page.
    pub id: &'static str,
    /// What it shows.
    pub title: String,
    /// The same for someone who does not see it, with what there is to see.
    pub alt: String,
    /// The horizontal axis.
    pub x: Axis,
    /// The vertical axis.
    pub y: Axis,
    /// Points.
    pub dots: Vec<Dot>,
    /// The point that was chosen, and its name.
    pub chosen: Option<([f64; 2], &'static str)>,
    /// Lines.
    pub lines: Vec<Line>,
    /// Ends of a line to compare with, and its name in the legend.
    pub guide: Option<([[f64; 2]; 2], &'static str)>,
    /// The legend.
    pub series: Vec<Series>,
}

/// Where the chosen point stands.
#[derive(Clone, Debug)]
pub struct Chosen {
    /// Horizontal place.
    pub x: Px,
    /// Vertical place.
    pub y: Px,
    /// Place of its name.
    pub text: [Px; 2],
    /// Which end of the name is there.
    pub anchor: &'static str,
    /// Its name.
    pub name: &'static str,
}

/// A number on an axis.
#[derive(Clone, Debug)]
pub struct Tick {
    /// Where it stands along the axis.
    pub at: Px,
    /// The number.
    pub text: String,
}

impl Chart {
    /// Width of the box.
    pub fn width(&self) -> Px {
        Px(SIZE.0)
    }
    /// Height of the box.
    pub fn height(&self) -> Px {
        Px(SIZE.1)
    }
    /// Left end of the field.
    pub fn left(&self) -> Px {
        Px(MARGIN[0])
    }
    /// Right end of the field.
    pub fn right(&self) -> Px {
        Px(SIZE.0 - MARGIN[1])
    }
    /// Upper end of the field.
    pub fn top(&self) -> Px {
        Px(MARGIN[2])
    }
    /// Lower end of the field.
    pub fn bottom(&self) -> Px {
        Px(SIZE.1 - MARGIN[3])
    }
    /// The middle of the field.
    pub fn middle(&self) -> (Px, Px) {
        let between = |a: Px, b: Px| Px(f64::midpoint(a.0, b.0));
        (between(self.left(), self.right()), between(self.top(), self.bottom()))
    }
    fn x_at(&self, v: f64) -> f64 {
        self.left().0 + (self.right().0 - self.left().0) * self.x.scale.part(v)
    }
    fn y_at(&self, v: f64) -> f64 {
        self.bottom().0 - (self.bottom().0 - self.top().0) * self.y.scale.part(v)
    }
    /// Numbers on the horizontal axis.
    pub fn x_ticks(&self) -> Vec<Tick> {
        self.x.scale.ticks().into_iter().map(|(v, text)| Tick { at: Px(self.x_at(v)), text }).collect()
    }
    /// Numbers on the vertical axis.
    pub fn y_ticks(&self) -> Vec<Tick> {
        self.y.scale.ticks().into_iter().map(|(v, text)| Tick { at: Px(self.y_at(v)), text }).collect()
    }
    /// The outline of a point.
    pub fn outline(&self, dot: &Dot) -> String {
        dot.marker.outline(self.x_at(dot.x), self.y_at(dot.y))
    }
    /// Where the chosen point is and where its name stands: beside it towards the middle, and above what else lies there.
    pub fn chosen_at(&self) -> Option<Chosen> {
        let ([x, y], name) = self.chosen?;
        let (x, y) = (self.x_at(x), self.y_at(y));
        let (side, anchor) = if x > SIZE.0 / 2.0 { (-14.0, "end") } else { (14.0, "start") };
        let above = if y > SIZE.1 / 2.0 { -18.0 } else { 26.0 };
        Some(Chosen { x: Px(x), y: Px(y), text: [Px(x + side), Px(y + above)], anchor, name })
    }
    /// The path of a line.
    pub fn path(&self, line: &Line) -> String {
        let last = line.points.len().saturating_sub(1);
        let mut out = String::new();
        let mut from = [f64::INFINITY; 2];
        for (i, [x, y]) in line.points.iter().enumerate() {
            let to = [self.x_at(*x), self.y_at(*y)];
            if i < last && to.iter().zip(&from).all(|(a, b)| (a - b).abs() < NEAR) {
                continue;
            }
            let letter = if out.is_empty() { 'M' } else { 'L' };
            out += &format!("{letter}{} {}", Px(to[0]), Px(to[1]));
            from = to;
        }
        out
    }
    /// The path of the line to compare with.
    pub fn guide_path(&self) -> Option<String> {
        let ([a, b], _) = self.guide?;
        // on logarithmic axes what is straight between two numbers is not between their places
        let points = (0..=64).map(|i| f64::from(i) / 64.0);
        let between = |t: f64| match self.x.scale {
            Scale::Linear(..) => [a[0] + (b[0] - a[0]) * t, a[1] + (b[1] - a[1]) * t],
            Scale::Log(least) => {
                let x = 10f64.powf(f64::from(least.min(-1)) * (1.0 - t));
                [x, a[1] + (b[1] - a[1]) * (x - a[0]) / (b[0] - a[0])]
            }
        };
        Some(self.path(&Line { points: points.map(between).collect(), marker: Marker::First }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(scale: Scale) -> Chart {
        Chart {
            id: "test",
            title: String::new(),
            alt: String::new(),
            x: Axis { label: String::new(), scale },
            y: Axis { label: String::new(), scale },
            dots: vec![],
            chosen: None,
            lines: vec![],
            guide: Some(([[0.0, 0.0], [1.0, 1.0]], "guess")),
            series: vec![],
        }
    }

    #[test]
    fn numbers_stand_where_the_axes_say() {
        let c = chart(Scale::Linear(0.0, 1.0));
        assert_eq!((c.x_at(0.0), c.x_at(1.0), c.x_at(7.0)), (48.0, 400.0, 400.0));
        assert_eq!((c.y_at(0.0), c.y_at(1.0)), (284.0, 12.0), "upwards");
        let c = chart(Scale::Log(-3));
        assert_eq!((c.x_at(1.0), c.x_at(0.0), c.x_at(1e-9), c.x_at(f64::NAN)), (400.0, 48.0, 48.0, 48.0));
        assert!((c.x_at(0.1) - c.x_at(0.01) - (400.0 - 48.0) / 3.0).abs() < 1e-9);
        let ticks: Vec<String> = c.x_ticks().into_iter().map(|t| t.text).collect();
        assert_eq!(ticks, ["0.1", "1", "10", "100"]);
    }

    #[test]
    fn guessing_is_the_diagonal_on_both_scales() {
        for scale in [Scale::Linear(0.0, 1.0), Scale::Log(-3)] {
            let path = chart(scale).guide_path().unwrap();
            assert!(path.starts_with("M48.0 284.0L") && path.ends_with("L400.0 12.0"), "{path}");
        }
    }

    #[test]
    fn long_lines_are_thinned_and_keep_their_ends() {
        let c = chart(Scale::Linear(0.0, 1.0));
        let points = (0..=100_000).map(|i| [f64::from(i) / 1e5; 2]).collect();
        let path = c.path(&Line { points, marker: Marker::First });
        let drawn = path.matches('L').count();
        assert!((500..1500).contains(&drawn) && path.ends_with("L400.0 12.0"), "{drawn}");
    }
}
