//! Charts as inline SVG that a browser stretches, with labels beside it in HTML, which it does not: so text has the same
//! size at every width.

use std::fmt::Write as _;

use super::escape;

/// Steps of the SVG's own measure, each way.
const STEPS: f64 = 1000.0;

/// Width of a label's letter on a phone, as a part of the chart's.
const PHONE_LETTER: f64 = 0.024;

/// A chart whose coordinates go from 0 to 1, up and to the right.
#[derive(Debug, Default)]
pub(super) struct Chart {
    /// What it shows.
    pub(super) title: String,
    /// Where on the left which text stands.
    pub(super) y_labels: Vec<(f64, String)>,
    /// The same below.
    pub(super) x_labels: Vec<(f64, String)>,
    /// What its lines are.
    pub(super) lines: Vec<Line>,
    /// What belongs to the warm-up: the left part, to here.
    pub(super) warmup: f64,
}

/// A line of a chart.
#[derive(Debug)]
pub(super) struct Line {
    /// Its style: `send`, `visible`, `low`, `mid`, `high` or `asked`, and `dashed` beside it.
    pub(super) class: &'static str,
    /// What it is.
    pub(super) name: String,
    /// Where it goes; it has a gap where there is nothing.
    pub(super) points: Vec<Option<(f64, f64)>>,
}

impl Chart {
    pub(super) fn html(&self) -> String {
        let mut html = format!("<figure><figcaption>{}</figcaption><p class=\"legend\">", escape(&self.title));
        for line in &self.lines {
            let (class, name) = (line.class, escape(&line.name));
            push(
                &mut html,
                format_args!(
                    "<span><svg class=\"key\" viewBox=\"0 0 24 8\" aria-hidden=\"true\"><path class=\"{class}\" d=\"M0 4H24\"/></svg>{name}</span> "
                ),
            );
        }
        if self.warmup > 0.0 {
            html.push_str("<span><i class=\"warmup\"></i>warm-up</span>");
        }
        html.push_str("</p><div class=\"plot\"><div class=\"area\">");
        let title = escape(&self.title);
        push(
            &mut html,
            format_args!(
                "<svg viewBox=\"0 0 {STEPS} {STEPS}\" preserveAspectRatio=\"none\" role=\"img\" aria-label=\"{title}\">"
            ),
        );
        if self.warmup > 0.0 {
            push(
                &mut html,
                format_args!("<rect class=\"warmup\" width=\"{:.1}\" height=\"{STEPS}\"/>", self.warmup * STEPS),
            );
        }
        for (at, _) in &self.y_labels {
            push(&mut html, format_args!("<path class=\"grid\" d=\"M0 {:.1}H{STEPS}\"/>", (1.0 - at) * STEPS));
        }
        for (at, _) in &self.x_labels {
            push(&mut html, format_args!("<path class=\"grid\" d=\"M{:.1} 0V{STEPS}\"/>", at * STEPS));
        }
        for line in &self.lines {
            push(&mut html, format_args!("<path class=\"{}\" d=\"{}\"/>", line.class, path(&line.points)));
        }
        html.push_str("</svg>");
        for (at, label) in &self.y_labels {
            push(
                &mut html,
                format_args!("<b class=\"y\" style=\"top:{:.2}%\">{}</b>", (1.0 - at) * 100.0, escape(label)),
            );
        }
        for ((at, label), class) in self.x_labels.iter().zip(crowded(&self.x_labels)) {
            push(
                &mut html,
                format_args!("<b class=\"x{class}\" style=\"left:{:.2}%\">{}</b>", at * 100.0, escape(label)),
            );
        }
        html.push_str("</div></div></figure>\n");
        html
    }
}

fn push(html: &mut String, text: std::fmt::Arguments<'_>) {
    html.write_fmt(text).expect("a String takes any text");
}

/// Which labels have no room beside the one before them on a phone: ` rare`, which the style hides there.
fn crowded(labels: &[(f64, String)]) -> Vec<&'static str> {
    #[expect(clippy::cast_precision_loss, reason = "the length of a label")]
    let half = |label: &str| (label.chars().count() as f64 + 1.0) * PHONE_LETTER / 2.0;
    let mut end = f64::NEG_INFINITY;
    let class = |(at, label): &(f64, String)| {
        let is_crowded = at - half(label) < end;
        end = if is_crowded { end } else { at + half(label) };
        if is_crowded { " rare" } else { "" }
    };
    labels.iter().map(class).collect()
}

/// The `d` of a path; a point that stands alone becomes a dot.
fn path(points: &[Option<(f64, f64)>]) -> String {
    let mut path = String::new();
    for run in points.split(Option::is_none) {
        for (at, (x, y)) in run.iter().flatten().enumerate() {
            let (x, y) = (x.clamp(0.0, 1.0) * STEPS, (1.0 - y.clamp(0.0, 1.0)) * STEPS);
            push(&mut path, format_args!("{}{x:.1} {y:.1}", if at == 0 { 'M' } else { 'L' }));
        }
        if run.len() == 1 {
            path.push_str("h0.1");
        }
    }
    path
}

/// A logarithmic axis of milliseconds over what is to be shown, in whole decades.
#[derive(Clone, Copy, Debug)]
pub(super) struct Decades {
    lowest: i32,
    highest: i32,
}

impl Decades {
    /// Decades that hold all values; `None` if there are none above zero.
    #[expect(clippy::cast_possible_truncation, reason = "an exponent of a finite number")]
    pub(super) fn around(values: impl Iterator<Item = f64>) -> Option<Self> {
        let exponents = values.filter(|value| *value > 0.0).map(f64::log10);
        let bounds = exponents.fold(None, |bounds: Option<(f64, f64)>, exponent| {
            let (least, most) = bounds.unwrap_or((exponent, exponent));
            Some((least.min(exponent), most.max(exponent)))
        });
        bounds.map(|(least, most)| {
            let lowest = least.floor() as i32;
            Self { lowest, highest: (most.ceil() as i32).max(lowest + 1) }
        })
    }

    pub(super) fn at(self, milliseconds: f64) -> f64 {
        (milliseconds.max(1e-9).log10() - f64::from(self.lowest)) / f64::from(self.highest - self.lowest)
    }

    pub(super) fn labels(self) -> Vec<(f64, String)> {
        (self.lowest..=self.highest)
            .map(|exponent| 10_f64.powi(exponent))
            .map(|value| (self.at(value), time(value)))
            .collect()
    }
}

/// Milliseconds in the unit that people would choose, with three digits.
pub(crate) fn time(milliseconds: f64) -> String {
    let (value, unit) = match milliseconds {
        value if value < 0.001 => (value * 1e6, "ns"),
        value if value < 1.0 => (value * 1e3, "µs"),
        value if value < 1e3 => (value, "ms"),
        value => (value / 1e3, "s"),
    };
    format!("{} {unit}", digits(value))
}

/// A count in thousands or millions, with three digits.
pub(crate) fn count(value: f64) -> String {
    match value {
        value if value < 1e3 => digits(value),
        value if value < 1e6 => format!("{}k", digits(value / 1e3)),
        value => format!("{}M", digits(value / 1e6)),
    }
}

fn digits(value: f64) -> String {
    let places = match value {
        value if value >= 100.0 => 0,
        value if value >= 10.0 => 1,
        _ => 2,
    };
    let text = format!("{value:.places$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

/// Round values from zero to at least the highest, and the top of the axis.
pub(super) fn linear(highest: f64) -> (f64, Vec<f64>) {
    let highest = highest.max(1.0);
    let decade = 10_f64.powf(highest.log10().floor());
    let step = [0.25, 0.5, 1.0, 2.5]
        .map(|part| part * decade)
        .into_iter()
        .find(|step| highest / step <= 5.0)
        .unwrap_or(decade * 5.0);
    let mut values = vec![0.0];
    while values[values.len() - 1] < highest {
        values.push(values[values.len() - 1] + step);
    }
    (values[values.len() - 1], values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits() {
        let times = [0.0005, 0.0123, 1.0, 12.345, 999.0, 61_000.0].map(time);
        assert_eq!(times, ["500 ns", "12.3 µs", "1 ms", "12.3 ms", "999 ms", "61 s"]);
        assert_eq!([7.0, 1500.0, 2_500_000.0].map(count), ["7", "1.5k", "2.5M"]);
    }

    #[test]
    fn axes_hold_what_they_show() {
        let decades = Decades::around([0.02, 500.0].into_iter()).unwrap();
        let labels: Vec<_> = decades.labels().into_iter().map(|(_, label)| label).collect();
        assert_eq!(labels, ["10 µs", "100 µs", "1 ms", "10 ms", "100 ms", "1 s"]);
        assert_eq!((decades.at(0.01), decades.at(1000.0)), (0.0, 1.0));
        assert!(Decades::around([0.0].into_iter()).is_none());
        for highest in [0.0, 3.0, 10.0, 49_000.0, 99_999.0, 1_234_567.0] {
            let (top, values) = linear(highest);
            assert!(top >= highest && (2..=7).contains(&values.len()), "{highest}: {values:?}");
        }
    }

    #[test]
    fn labels_without_room_are_rare() {
        let at = |percent: f64| (-(1.0 - percent / 100.0).log10() / 7.0, format!("{percent}"));
        let labels = [0.0, 90.0, 99.0, 99.9, 99.99, 99.999, 99.9999].map(at);
        assert_eq!(crowded(&labels), ["", "", "", "", "", " rare", ""]);
        assert_eq!(crowded(&[(0.0, "0 s".into()), (0.25, "5 s".into()), (0.5, "10 s".into())]), ["", "", ""]);
    }

    #[test]
    fn a_line_has_gaps_and_dots() {
        let points = [Some((0.0, 0.0)), Some((0.5, 1.0)), None, Some((1.0, 0.5)), None];
        assert_eq!(path(&points), "M0.0 1000.0L500.0 0.0M1000.0 500.0h0.1");
    }
}
