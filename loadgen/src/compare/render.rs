//! A comparison as text, JSON and a page.

use std::fmt;

use serde_json::{Value, json};

use super::{Comparison, Row, Set, Verdict, bounds, median};
use crate::report::html;

impl Comparison {
    /// The verdict as a sentence.
    #[must_use]
    pub fn sentence(&self) -> String {
        let verdict = self.verdict();
        let rows = self.rows.iter().filter(|row| row.verdict == verdict);
        let named: Vec<_> = rows.map(|row| format!("{} {}", row.name, percent(row.change))).collect();
        match verdict {
            _ if self.rows.is_empty() => "There is nothing to compare: no run of one set counts".to_owned(),
            Verdict::Worse | Verdict::Better => format!("B is {}: {}", verdict.name(), named.join(", ")),
            Verdict::Same | Verdict::Unclear => "No difference beyond the threshold and the spread".to_owned(),
        }
    }

    /// The comparison as one JSON object.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let set = |set: &Set| json!({ "path": set.path, "runs": set.runs.len(), "left_out": set.left_out.len() });
        let row = |row: &Row| {
            json!({
                "measure": row.name,
                "better": if row.is_rate { "more" } else { "less" },
                "a": row.a,
                "b": row.b,
                "a_median": median(&row.a),
                "b_median": median(&row.b),
                "change": row.change,
                "p": row.p,
                "verdict": row.verdict.name(),
            })
        };
        json!({
            "schema": 1,
            "started": self.a.runs.first().map(|run| run["started"].clone()),
            "a": set(&self.a),
            "b": set(&self.b),
            "threshold": self.threshold,
            "alpha": super::spread::ALPHA,
            "measures": self.rows.iter().map(row).collect::<Vec<_>>(),
            "verdict": self.verdict().name(),
            "sentence": self.sentence(),
            "notes": self.notes,
        })
    }

    /// The comparison as a page.
    #[must_use]
    pub fn to_html(&self) -> String {
        let class = match self.verdict() {
            _ if self.rows.is_empty() || self.b.unclean > 0 => "bad",
            Verdict::Worse => "bad",
            Verdict::Better => "good",
            Verdict::Same | Verdict::Unclear if self.notes.is_empty() => "good",
            Verdict::Same | Verdict::Unclear => "doubt",
        };
        let notes: Vec<_> = self.notes.iter().map(|note| format!("<li>{}</li>", html::escape(note))).collect();
        let strips: Vec<_> = self.rows.iter().map(strip).collect();
        let content = format!(
            "<h1>loadgen compare</h1>\n<p class=\"soft\">A: {}<br>B: {}<br>threshold {} %, p at most {}</p>\n\
             <div class=\"verdict {class}\"><strong>{}</strong><ul>{}</ul></div>\n{}<h2>Every run</h2>{}\n",
            html::escape(&described(&self.a)),
            html::escape(&described(&self.b)),
            self.threshold * 100.0,
            super::spread::ALPHA,
            html::escape(&self.sentence()),
            notes.concat(),
            html::table("Medians, least and most", &self.cells()),
            strips.concat(),
        );
        html::around("loadgen compare", &content)
    }

    /// Head and rows of the table.
    fn cells(&self) -> Vec<Vec<String>> {
        let head = ["", "change", "verdict", "p", "A", "B"].map(str::to_owned).to_vec();
        let row = |row: &Row| {
            let p = row.p.map_or_else(|| "-".to_owned(), |p| format!("{p:.3}"));
            let figures = |values| figures(row, values);
            vec![row.name.into(), percent(row.change), row.verdict.name().into(), p, figures(&row.a), figures(&row.b)]
        };
        std::iter::once(head).chain(self.rows.iter().map(row)).collect()
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "A             {}", described(&self.a))?;
        writeln!(f, "B             {}", described(&self.b))?;
        let cells = self.cells();
        let width = |column: usize| cells.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
        let widths: Vec<_> = (0..cells[0].len()).map(width).collect();
        for row in &cells[..if self.rows.is_empty() { 0 } else { cells.len() }] {
            let padded = row.iter().zip(&widths).enumerate().map(|(at, (cell, width))| match at {
                0 => format!("{cell:<width$}"),
                _ => format!("{cell:>width$}"),
            });
            writeln!(f, "{}", padded.collect::<Vec<_>>().join("  ").trim_end())?;
        }
        for note in &self.notes {
            writeln!(f, "note          {note}")?;
        }
        writeln!(f, "verdict       {}", self.sentence())
    }
}

fn described(set: &Set) -> String {
    let commit = set.runs.first().and_then(|run| run["commit"].as_str()).unwrap_or("unknown");
    let commit: String = commit.chars().take(12).collect();
    format!("{}: {} runs, loadgen of commit {commit}", set.path.display(), set.runs.len())
}

fn percent(part: f64) -> String {
    format!("{:+.1} %", part * 100.0)
}

/// Median, least and most, in the measure's unit.
fn figures(row: &Row, values: &[f64]) -> String {
    let ((least, most), middle) = (bounds(values), median(values));
    let text = if row.is_rate { html::count } else { html::time };
    format!("{} ({} to {})", text(middle), text(least), text(most))
}

/// Every run of a measure as a dot, A above B.
fn strip(row: &Row) -> String {
    let (least, most) = bounds(&[row.a.as_slice(), &row.b].concat());
    let at = |value: f64| if most > least { (value - least) / (most - least) * 1000.0 } else { 500.0 };
    let dots =
        |values: &[f64], y: u32| values.iter().map(|value| format!("M{:.1} {y}h0.1", at(*value))).collect::<Vec<_>>();
    let text = if row.is_rate { html::count } else { html::time };
    format!(
        "<figure><figcaption>{}</figcaption><p class=\"legend\"><span>{} to {}</span> <span><svg class=\"key\" \
         viewBox=\"0 0 24 8\" aria-hidden=\"true\"><path class=\"send\" d=\"M0 4H24\"/></svg>A</span> <span><svg \
         class=\"key\" viewBox=\"0 0 24 8\" aria-hidden=\"true\"><path class=\"visible\" d=\"M0 4H24\"/></svg>B</span></p>\
         <svg class=\"strip\" viewBox=\"0 0 1000 100\" preserveAspectRatio=\"none\" role=\"img\" aria-label=\"{}\">\
         <path class=\"grid\" d=\"M0 30H1000M0 70H1000\"/><path class=\"send dots\" d=\"{}\"/><path class=\"visible dots\" \
         d=\"{}\"/></svg></figure>\n",
        html::escape(row.name),
        text(least),
        text(most),
        html::escape(row.name),
        dots(&row.a, 30).concat(),
        dots(&row.b, 70).concat(),
    )
}
