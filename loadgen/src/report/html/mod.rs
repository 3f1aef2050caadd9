//! A run as one page that needs nothing else: no network, no program. What is wrong with the run stands first.
//!
//! It is made from the files of `--out` alone, so it can be made again. All that they hold may come from outside: text
//! goes through `escape`.

mod chart;

use std::borrow::Cow;

use serde_json::Value;

use self::chart::{Chart, Decades, Line, linear};
pub(crate) use self::chart::{count, time};
use super::saved::{CLOCKS, Curve, Saved, Second};
use crate::latency::Clock;

const STYLE: &str = include_str!("page.css");
/// Points of a line over time: a longer run has several seconds a point.
const POINTS_MAX: f64 = 600.0;
/// Rows of the tables of what went wrong.
const ROWS_MAX: usize = 20;
/// Findings that are facts about every run of their kind, and no doubts.
const REMARKS: [&str; 3] = ["closed_loop", "realtime", "unmeasured"];
/// What an account may hold against a receiver.
const FAULTS: [&str; 5] = ["lost", "duplicated", "reordered", "damaged", "wrong_log"];
/// What a page may load: nothing.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'";

/// Text that means nothing to a browser.
#[must_use]
pub(crate) fn escape(text: &str) -> Cow<'_, str> {
    if !text.contains(['&', '<', '>', '"', '\'']) {
        return text.into();
    }
    let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    text.replace('"', "&quot;").replace('\'', "&#39;").into()
}

/// A page around its content, which is HTML.
#[must_use]
pub(crate) fn around(title: &str, content: &str) -> String {
    let title = escape(title);
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" \
         content=\"width=device-width,initial-scale=1\">\n<meta http-equiv=\"Content-Security-Policy\" \
         content=\"{POLICY}\">\n<title>{title}</title>\n<style>\n{STYLE}</style>\n{content}</html>\n"
    )
}

/// The page of a run.
#[must_use]
pub fn page(saved: &Saved) -> String {
    let summary = &saved.summary;
    let run = format!("loadgen run {} to {}", text(&summary["run"]), text(&summary["arguments"]["target"]));
    let content = [
        format!("<h1>{}</h1>\n<p class=\"soft\">{}</p>\n", escape(&run), escape(&subtitle(summary))),
        verdict(summary),
        cards(summary),
        percentiles(saved),
        format!("<div class=\"pair\">{}{}</div>\n", latency_over_time(saved), rate_over_time(saved)),
        latencies(summary),
        account(summary),
        ends(summary),
        environment(summary),
    ];
    around(&run, &content.concat())
}

/// The content of a text or a number, and nothing for what is missing.
fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

/// The same, with commas between thousands.
fn whole(value: &Value) -> String {
    let Some(number) = value.as_u64() else { return text(value) };
    let digits = number.to_string();
    let comma = |at: usize| at > 0 && (digits.len() - at).is_multiple_of(3);
    digits.chars().enumerate().flat_map(|(at, digit)| comma(at).then_some(',').into_iter().chain([digit])).collect()
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_default()
}

fn rows(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn joined(parts: impl Iterator<Item = String>) -> String {
    parts.collect()
}

fn subtitle(summary: &Value) -> String {
    let arguments = &summary["arguments"];
    let (rate, size) = (&arguments["rate"], &arguments["size_bytes"]);
    let rate =
        rate.as_f64().map_or_else(|| "as fast as it reads".to_owned(), |rate| format!("{} entries/s", count(rate)));
    let size = match (&size[0], &size[1]) {
        (least, most) if least == most => text(least),
        (least, most) => format!("{} to {}", text(least), text(most)),
    };
    format!(
        "{}: {rate}, {} connections, {} logs, {size} B a line, token at the {}; {}",
        text(&arguments["proto"]).to_uppercase(),
        text(&arguments["connections"]),
        text(&arguments["tokens"]),
        text(&arguments["position"]),
        started(summary)
    )
}

/// When, as people write it.
fn started(summary: &Value) -> String {
    let started = summary["started"].as_f64().and_then(|seconds| {
        jiff::Timestamp::from_duration(jiff::SignedDuration::try_from_secs_f64(seconds).ok()?).ok()
    });
    started.map_or_else(String::new, |started| started.strftime("%Y-%m-%d %H:%M UTC").to_string())
}

/// The first thing to see: what is wrong with the run, or that nothing is.
fn verdict(summary: &Value) -> String {
    let account = &summary["account"];
    let is_unclean = account["clean"] == false;
    let has = |name: &str| rows(&summary["findings"]).any(|finding| finding["name"] == name);
    let findings = |wanted: fn(&Value) -> bool| {
        rows(&summary["findings"]).filter(move |finding| wanted(finding)).map(|finding| text(&finding["text"]))
    };
    let mut bad: Vec<String> = Vec::new();
    let mut doubts: Vec<String> = Vec::new();
    if is_unclean {
        let place = if summary["arguments"]["proto"] == "udp" { &mut doubts } else { &mut bad };
        place.push(faults(account));
    }
    let is_lossy = is_unclean && bad.is_empty();
    bad.extend(findings(|finding| finding["fatal"] == true));
    let failed = rows(&summary["fail_if"]).filter(|verdict| verdict["failed"] == true);
    bad.extend(failed.map(|verdict| {
        let value = verdict["value_ms"].as_f64().map_or_else(|| "not measured".to_owned(), time);
        format!("bound {} of {}: {value}", text(&verdict["bound"]), text(&verdict["clock"]))
    }));
    let is_doubt = |finding: &Value| finding["fatal"] != true && !REMARKS.contains(&text(&finding["name"]).as_str());
    doubts.extend(findings(is_doubt));
    let title = match () {
        () if is_unclean && !is_lossy && number(&account["lost"]) > 0.0 => "The receiver lost entries",
        () if is_unclean && !is_lossy => "The account is not clean",
        () if summary["valid"] == false => "This run does not count",
        () if !bad.is_empty() => "A bound was exceeded",
        () if has("stall") => "The receiver stalled",
        () if is_lossy => "Datagrams were lost",
        () if !doubts.is_empty() => "It counts, with doubts",
        () if account["clean"] == true && !is_headline(summary) => "Clean: every entry is stored once, in order",
        () if account["clean"] == true => "Clean: every entry is stored once, in order, and the schedule was kept",
        () => "Valid; nobody looked at what was stored (--data or --files)",
    };
    let class = match (bad.is_empty(), doubts.is_empty()) {
        (false, _) => "bad",
        (true, false) => "doubt",
        (true, true) => "good",
    };
    let list = joined(bad.iter().chain(&doubts).map(|line| format!("<li>{}</li>", escape(line))));
    let list = if list.is_empty() { list } else { format!("<ul>{list}</ul>") };
    format!("<div class=\"verdict {class}\"><strong>{title}</strong>{list}</div>\n")
}

/// What is wrong with an account, in a line.
fn faults(account: &Value) -> String {
    let found = FAULTS.iter().filter(|name| number(&account[**name]) > 0.0);
    let found: Vec<_> = found.map(|name| format!("{} {}", whole(&account[*name]), name.replace('_', " "))).collect();
    let acknowledged = match whole(&account["acknowledged"]) {
        acknowledged if acknowledged.is_empty() => acknowledged,
        acknowledged => format!(" and {acknowledged} acknowledged"),
    };
    format!("{} of {} entries sent{acknowledged}", found.join(", "), whole(&account["sent"]))
}

/// Latencies are what the run is about: on a schedule. At full speed they say how full the sockets were.
fn is_headline(summary: &Value) -> bool {
    summary["latency_ms"]["headline"] != false
}

fn cards(summary: &Value) -> String {
    let mut cards = Vec::new();
    let mut card = |value: Option<String>, name: &str| cards.extend(value.map(|value| (value, name.to_owned(), false)));
    card(summary["entries_per_second"].as_f64().map(count), "entries/s");
    card(summary["megabytes_per_second"].as_f64().map(|rate| format!("{rate:.1}")), "MB/s");
    if is_headline(summary) {
        for clock in [Clock::Visible, Clock::Send].map(Clock::name) {
            let corrected = &summary["latency_ms"][clock]["corrected"];
            card(corrected["p99"].as_f64().map(time), &format!("{clock} p99"));
            card(corrected["max"].as_f64().map(time), &format!("{clock} max"));
        }
    } else {
        card(summary["entries_per_cpu_second"].as_f64().map(count), "entries per CPU-second");
        let waited = summary["waited_for_receiver"].as_f64();
        card(waited.map(|part| format!("{:.0} %", part * 100.0)), "of the time waited for it");
    }
    let account = &summary["account"];
    for name in ["stored", "lost"] {
        let is_bad = name == "lost" && number(&account[name]) > 0.0;
        cards.extend(account[name].as_u64().map(|_| (whole(&account[name]), name.to_owned(), is_bad)));
    }
    figures("cards", cards)
}

/// Figures in boxes: what, of what, and whether it is a fault.
fn figures(class: &str, cards: Vec<(String, String, bool)>) -> String {
    let cards = cards.into_iter().map(|(value, name, is_bad)| {
        let fault = if is_bad { " class=\"bad\"" } else { "" };
        format!("<div{fault}><b>{}</b><span>{}</span></div>", escape(&value), escape(&name))
    });
    format!("<div class=\"{class}\">{}</div>\n", joined(cards))
}

/// How many nines a part of all entries is: 0 for none of them, 1 for 90 %, 2 for 99 %.
fn nines(part: f64) -> f64 {
    -(1.0 - part).log10()
}

fn percentiles(saved: &Saved) -> String {
    let curves = &saved.curves;
    let finite = |curve: &Curve| {
        let points = curve.points.iter().map(|(part, value)| (nines(*part), *value));
        points.filter(|(nines, _)| nines.is_finite()).collect::<Vec<_>>()
    };
    let values = || curves.iter().flat_map(|curve| &curve.points);
    let last = curves.iter().flat_map(finite).map(|(nines, _)| nines).fold(1.0, f64::max);
    let Some(decades) = Decades::around(values().map(|(_, value)| *value)) else { return String::new() };
    let line = |curve: &Curve| {
        let class = match (curve.clock, curve.is_corrected) {
            (Clock::Send, true) => "send",
            (Clock::Send, false) => "send dashed",
            (Clock::Visible, true) => "visible",
            (Clock::Visible, false) => "visible dashed",
        };
        let name = format!("{}{}", curve.clock.name(), if curve.is_corrected { "" } else { ", uncorrected" });
        // The maximum stands where the curve ends.
        let maximum = curve.points.last().map(|(_, value)| (last, *value));
        let points = finite(curve).into_iter().chain(maximum);
        let points = points.map(|(nines, value)| Some((nines / last, decades.at(value)))).collect();
        Line { class, name, points }
    };
    let percents = [0.0, 50.0, 90.0, 99.0, 99.9, 99.99, 99.999, 99.9999, 99.99999, 99.999_999];
    let label = |percent: &f64| (nines(percent / 100.0) / last, format!("{percent}"));
    let chart = Chart {
        title: if is_headline(&saved.summary) {
            "Latency from the intended send time by percentile".into()
        } else {
            "How full the sockets were: latency by percentile".into()
        },
        y_labels: decades.labels(),
        x_labels: percents.iter().map(label).filter(|(at, _)| *at <= 1.0).collect(),
        lines: curves.iter().map(line).collect(),
        warmup: 0.0,
    };
    chart.html()
}

/// Seconds in groups of at most as many as there may be points, all of one length.
fn grouped(seconds: &[Second]) -> (f64, Vec<Second>) {
    let Some((first, last)) = seconds.first().zip(seconds.last()) else { return (1.0, Vec::new()) };
    let length = ((last.second - first.second + 1.0) / POINTS_MAX).ceil().max(1.0);
    let mut groups: Vec<Second> = Vec::new();
    for row in seconds {
        let begin = (row.second / length).floor() * length;
        // A second in which nothing ended has no row, and shows as a group of zeros.
        while groups.last().is_some_and(|group| group.second + length < begin) {
            let second = groups[groups.len() - 1].second + length;
            groups.push(Second { second, ..Second::default() });
        }
        if groups.last().is_none_or(|group| group.second < begin) {
            groups.push(Second { second: begin, ..Second::default() });
        }
        let Some(group) = groups.last_mut() else { continue };
        group.sent += row.sent / length;
        group.visible += row.visible / length;
        for (worst, row) in group.latencies.iter_mut().zip(row.latencies) {
            let most = |row: [f64; 3]| worst.map_or(row, |worst| [0, 1, 2].map(|at| worst[at].max(row[at])));
            *worst = row.map(most).or(*worst);
        }
    }
    (length, groups)
}

/// A chart over time without lines, and where a second stands in it.
fn time_chart(saved: &Saved, length: f64, rows: &[Second]) -> (Chart, impl Fn(f64) -> f64 + use<>) {
    let end = rows.last().map_or(1.0, |row| row.second + length);
    let at = move |second: f64| second / end;
    let (_, ticks) = linear(end);
    let x_labels = ticks.into_iter().filter(|second| *second <= end);
    let warmup = at(number(&saved.summary["arguments"]["warmup_seconds"])).min(1.0);
    let x_labels = x_labels.map(|second| (at(second), format!("{second} s"))).collect();
    (Chart { x_labels, warmup, ..Chart::default() }, at)
}

fn latency_over_time(saved: &Saved) -> String {
    let (length, rows) = grouped(&saved.seconds);
    let has = |clock: usize| rows.iter().any(|row| row.latencies[clock].is_some());
    let Some(clock) = [1, 0].into_iter().find(|clock| has(*clock)) else { return String::new() };
    let values = rows.iter().filter_map(|row| row.latencies[clock]).flatten();
    let Some(decades) = Decades::around(values) else { return String::new() };
    let (mut chart, at) = time_chart(saved, length, &rows);
    let each = if length > 1.0 { format!(", the worst second of {length}") } else { String::new() };
    chart.title = format!("Latency over time: {}{each}", CLOCKS[clock].name());
    chart.y_labels = decades.labels();
    for (column, (class, name)) in [("low", "p50"), ("mid", "p99"), ("high", "max")].into_iter().enumerate() {
        let point = |row: &Second| {
            row.latencies[clock].map(|latencies| (at(row.second + length / 2.0), decades.at(latencies[column])))
        };
        chart.lines.push(Line { class, name: name.into(), points: rows.iter().map(point).collect() });
    }
    chart.html()
}

fn rate_over_time(saved: &Saved) -> String {
    let (length, rows) = grouped(&saved.seconds);
    if rows.is_empty() {
        return String::new();
    }
    let (mut chart, at) = time_chart(saved, length, &rows);
    let asked = saved.summary["arguments"]["rate"].as_f64();
    let highest = rows.iter().map(|row| row.sent.max(row.visible)).fold(asked.unwrap_or_default(), f64::max);
    let (top, values) = linear(highest);
    chart.title = "Entries per second".into();
    chart.y_labels = values.into_iter().map(|value| (value / top, count(value))).collect();
    let mut line = |class, name: &str, points: Vec<_>| chart.lines.push(Line { class, name: name.into(), points });
    // The run ends within the last point: it is no rate.
    let whole = &rows[..(rows.len() - 1).max(1)];
    let over = |value: fn(&Second) -> f64| {
        whole.iter().map(|row| Some((at(row.second + length / 2.0), value(row) / top))).collect::<Vec<_>>()
    };
    if let Some(asked) = asked {
        line("asked", "asked", vec![Some((0.0, asked / top)), Some((1.0, asked / top))]);
    }
    line("send", "sent", over(|row| row.sent));
    if rows.iter().any(|row| row.visible > 0.0) {
        line("visible", "visible", over(|row| row.visible));
    }
    chart.html()
}

/// A table of texts under a title, if it has one; the first row is its head.
pub(crate) fn table(title: &str, rows: &[Vec<String>]) -> String {
    let row = |cells: &[String], tag: &str| {
        let cells = joined(cells.iter().map(|cell| format!("<{tag}>{}</{tag}>", escape(cell))));
        format!("<tr>{cells}</tr>")
    };
    let Some((head, body)) = rows.split_first().filter(|(_, body)| !body.is_empty()) else { return String::new() };
    let body: String = body.iter().map(|cells| row(cells, "td")).collect();
    let title = if title.is_empty() { String::new() } else { format!("<h2>{}</h2>", escape(title)) };
    format!("{title}<div class=\"wide\"><table>{}{body}</table></div>\n", row(head, "th"))
}

fn latencies(summary: &Value) -> String {
    let columns = ["p50", "p90", "p99", "p99.9", "p99.99", "max"];
    let mut lines = vec![["", "p50", "p90", "p99", "p99.9", "p99.99", "max"].map(str::to_owned).to_vec()];
    let latency = &summary["latency_ms"];
    let kinds = [
        ("send", &latency["send"]["corrected"]),
        ("send, uncorrected", &latency["send"]["uncorrected"]),
        ("visible", &latency["visible"]["corrected"]),
        ("visible, uncorrected", &latency["visible"]["uncorrected"]),
        ("generator's own delay", &latency["generator_delay"]),
        ("one pass of the follower", &latency["follower_pass"]),
    ];
    for (name, histogram) in kinds.into_iter().filter(|(_, histogram)| histogram.is_object()) {
        let cells = columns.iter().map(|column| histogram[*column].as_f64().map_or_else(String::new, time));
        lines.push(std::iter::once(name.to_owned()).chain(cells).collect());
    }
    table("Latency", &lines)
}

/// Accounts of the whole run, and of the connections and logs in which something is wrong.
fn account(summary: &Value) -> String {
    let total = &summary["account"];
    if !total.is_object() {
        return String::new();
    }
    let is_fault = |name: &str| FAULTS.contains(&name);
    let is_wrong = |tally: &Value| FAULTS.iter().any(|name| number(&tally[*name]) > 0.0);
    let shown = ["sent", "acknowledged", "stored"].into_iter().chain(FAULTS).chain(["in_flight"]);
    let shown = shown.filter(|name| !total[*name].is_null());
    let card = |name: &str| {
        let is_bad = is_fault(name) && number(&total[name]) > 0.0;
        (whole(&total[name]), name.replace('_', " "), is_bad)
    };
    let boxes = figures("cards three", shown.map(card).collect());
    let columns: Vec<_> = FAULTS.into_iter().filter(|name| number(&total[*name]) > 0.0).collect();
    let columns = [columns.as_slice(), &["sent", "stored"]].concat();
    let head = std::iter::once(String::new()).chain(columns.iter().map(|name| name.replace('_', " "))).collect();
    let cells = |name: String, tally: &Value| {
        std::iter::once(name).chain(columns.iter().map(|name| whole(&tally[*name]))).collect::<Vec<_>>()
    };
    let connections = rows(&summary["connections"]).filter(|row| is_wrong(&row["account"]));
    let connections = connections.map(|row| cells(format!("connection {}", text(&row["connection"])), &row["account"]));
    // A token is a secret, and a page gets about.
    let shortened = |token: &Value| format!("log {}…", text(token).chars().take(8).collect::<String>());
    let tokens = rows(&summary["tokens"]).filter(|row| is_wrong(row));
    let tokens = tokens.map(|row| cells(shortened(&row["token"]), row));
    let lines: Vec<_> = std::iter::once(head).chain(connections.take(ROWS_MAX)).chain(tokens.take(ROWS_MAX)).collect();
    let others = [("other_runs", "entries of other runs"), ("unknown_lines", "lines that nobody made")];
    let others = others.into_iter().filter(|(field, _)| number(&total[*field]) > 0.0);
    let others = joined(others.map(|(field, what)| format!("<p>{} {what}</p>", whole(&total[field]))));
    format!("<h2>Account</h2>{boxes}{others}{}", table("", &lines))
}

/// How connections ended that did not simply finish.
fn ends(summary: &Value) -> String {
    let head = ["", "ended", "sockets", "sent", "acknowledged", "behind"].map(str::to_owned).to_vec();
    let odd = rows(&summary["connections"]).filter(|row| row["ended"] != "finished" || number(&row["sockets"]) > 1.0);
    let row = |row: &Value| {
        let fields = ["ended", "sockets", "entries_sent", "entries_acknowledged", "entries_behind"];
        let cells = fields.map(|field| whole(&row[field]).replace('_', " "));
        std::iter::once(format!("connection {}", text(&row["connection"]))).chain(cells).collect()
    };
    let lines: Vec<_> = std::iter::once(head).chain(odd.take(ROWS_MAX).map(row)).collect();
    table("Connections that did not simply finish", &lines)
}

fn environment(summary: &Value) -> String {
    let host = &summary["host"];
    let words = rows(&summary["command_line"]).map(text).map(|word| {
        let is_plain = word.chars().all(|letter| letter.is_ascii_alphanumeric() || "-_./:=,@%+".contains(letter));
        if is_plain && !word.is_empty() { word } else { format!("'{}'", word.replace('\'', "'\\''")) }
    });
    let cores: Vec<_> = rows(&host["cores"]).map(text).collect();
    let commit = summary["commit"].as_str().unwrap_or("unknown");
    let build = if summary["debug_build"] == true { "debug build" } else { "release build" };
    let mut facts = vec![
        ("host", text(&host["name"])),
        ("processor", text(&host["processor"])),
        ("kernel", text(&host["kernel"])),
        ("cores of the generator", cores.join(", ")),
        ("clock", text(&host["clock_source"])),
        ("loadgen", format!("{}, commit {commit}, {build}", text(&summary["version"]))),
        ("TLS", text(&summary["tls"])),
        ("command", words.collect::<Vec<_>>().join(" ")),
    ];
    let remarks = rows(&summary["findings"]).filter(|finding| REMARKS.contains(&text(&finding["name"]).as_str()));
    facts.extend(remarks.filter(|finding| finding["fatal"] != true).map(|finding| ("note", text(&finding["text"]))));
    let arguments = summary["arguments"].as_object().into_iter().flatten();
    let arguments = arguments.filter(|(_, value)| !value.is_null());
    let arguments: Vec<_> = arguments.map(|(name, value)| format!("{name} {}", text(value))).collect();
    facts.push(("arguments", arguments.join(" · ")));
    let facts = facts.into_iter().filter(|(_, fact)| !fact.is_empty());
    let facts = joined(facts.map(|(name, fact)| format!("<dt>{name}</dt><dd>{}</dd>", escape(&fact))));
    format!("<h2>Environment</h2><dl>{facts}</dl>\n")
}

#[cfg(test)]
mod tests;
