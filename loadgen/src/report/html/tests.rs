//! What stands on a page.

use super::*;
use serde_json::json;

fn saved(summary: Value) -> Saved {
    Saved { summary, curves: Vec::new(), seconds: Vec::new() }
}

fn first_words(summary: Value) -> (String, String) {
    let page = page(&saved(summary));
    let body = page.split("</style>").nth(1).unwrap();
    let verdict = body.find("<div class=\"verdict ").unwrap();
    // Nothing but the heading is before it.
    assert!(body[..verdict].matches('<').count() <= 5, "{body}");
    let class = body[verdict + 20..].split('"').next().unwrap().to_owned();
    let title = body[verdict..].split("<strong>").nth(1).unwrap().split('<').next().unwrap().to_owned();
    (class, title)
}

#[test]
fn what_is_wrong_stands_first() {
    let clean = json!({ "clean": true, "lost": 0, "sent": 5 });
    let lost = json!({ "clean": false, "lost": 3, "sent": 5 });
    let finding = |name: &str, fatal: bool| json!([{ "name": name, "text": "why", "fatal": fatal }]);
    let cases = [
        (json!({ "valid": true, "account": clean }), "good", "Clean"),
        (json!({ "valid": true }), "good", "Valid; nobody"),
        (json!({ "valid": true, "account": lost }), "bad", "The receiver lost"),
        (
            json!({ "valid": false, "account": lost, "findings": finding("rate_missed", true) }),
            "bad",
            "The receiver lost",
        ),
        (json!({ "valid": true, "account": lost, "arguments": { "proto": "udp" } }), "doubt", "Datagrams were lost"),
        (json!({ "valid": true, "account": { "clean": false, "damaged": 1 } }), "bad", "The account is not clean"),
        (json!({ "valid": false, "findings": finding("schedule_missed", true) }), "bad", "This run does not count"),
        (
            json!({ "valid": true, "findings": finding("stall", false), "account": clean }),
            "doubt",
            "The receiver stalled",
        ),
        (json!({ "valid": true, "findings": finding("shared_cores", false) }), "doubt", "It counts, with doubts"),
        (json!({ "valid": true, "findings": finding("realtime", false), "account": clean }), "good", "Clean"),
        (
            json!({ "valid": true, "fail_if": [{ "failed": true, "bound": "p99>1ms", "clock": "send" }] }),
            "bad",
            "A bound",
        ),
    ];
    for (summary, class, title) in cases {
        let found = first_words(summary.clone());
        assert!(found.0 == class && found.1.starts_with(title), "{summary}: {found:?}");
    }
}

#[test]
fn nothing_from_outside_is_markup() {
    let evil = "<script>alert(\"x\")</script>'&";
    let mut summary = json!({
        "run": evil, "version": evil, "commit": evil, "tls": evil, "command_line": [evil, "it's"], "valid": false,
        "host": { "name": evil, "kernel": evil, "processor": evil, "clock_source": evil, "cores": [evil] },
        "arguments": { "target": evil, "proto": evil, "data": evil, "position": evil, "tokens": evil },
        "findings": [{ "name": evil, "text": evil, "fatal": true }, { "name": "realtime", "text": evil, "fatal": false }],
        "fail_if": [{ "failed": true, "bound": evil, "clock": evil }],
        "account": { "clean": false, "lost": 1, "sent": evil },
        "connections": [{ "connection": evil, "ended": evil, "account": { "lost": 1 } }],
        "tokens": [{ "token": evil, "lost": 1 }],
    });
    let page = page(&saved(summary.take()));
    assert!(!page.contains("<script") && page.contains("&lt;script&gt;alert(&quot;x&quot;)"), "{page}");
    assert!(!page.contains("http://") && !page.contains("https://"), "a page needs no network");
}

#[test]
fn tokens_are_shortened() {
    let token = "2bfbea1e-10c3-4419-bdad-7e6435882e1f";
    let page =
        page(&saved(json!({ "account": { "clean": false, "lost": 1 }, "tokens": [{ "token": token, "lost": 1 }] })));
    assert!(page.contains("log 2bfbea1e…") && !page.contains(token), "{page}");
}

#[test]
fn charts_have_every_line() {
    let curve = |clock, is_corrected| Curve {
        clock,
        is_corrected,
        points: vec![(0.0, 0.1), (0.5, 0.2), (0.99, 4.0), (1.0, 9.0)],
    };
    let curves = CLOCKS.into_iter().flat_map(|clock| [curve(clock, true), curve(clock, false)]).collect();
    let second = |second: u32| Second {
        second: second.into(),
        sent: 1000.0,
        visible: 900.0,
        latencies: [Some([0.1, 0.2, 0.3]), Some([1.0, 2.0, 3.0])],
    };
    let summary = json!({ "arguments": { "rate": 1000, "warmup_seconds": 2.0 } });
    let page = page(&Saved { summary, curves, seconds: (0..10).map(second).collect() });
    for class in ["send", "send dashed", "visible", "visible dashed", "low", "mid", "high", "asked"] {
        assert!(page.contains(&format!("<path class=\"{class}\" d=\"M")), "{class}: {page}");
    }
    assert!(!page.contains(">99.9<") && page.contains(">99<") && page.contains(">90<"), "{page}");
    assert!(page.contains("class=\"warmup\""));
}

#[test]
fn long_runs_have_few_points_and_keep_their_worst() {
    let row = |second: u32| Second {
        second: second.into(),
        sent: 60.0,
        visible: 0.0,
        latencies: [Some([1.0, 2.0, if second == 4000 { 500.0 } else { 3.0 }]), None],
    };
    let rows: Vec<_> = (0..7200).filter(|second| !(1000..1100).contains(second)).map(row).collect();
    let (length, groups) = grouped(&rows);
    assert!((length - 12.0).abs() < 1e-9 && groups.len() == 600, "{length} {}", groups.len());
    assert!((groups[10].sent - 60.0).abs() < 1e-9 && groups[85].sent.abs() < 1e-9);
    assert!((groups[4000 / 12].latencies[0].unwrap()[2] - 500.0).abs() < 1e-9);
}

#[test]
fn a_date_is_that_of_the_calendar() {
    let date = |seconds: u64| started(&json!({ "started": seconds }));
    assert_eq!([date(0), date(951_827_696)], ["1970-01-01 00:00 UTC", "2000-02-29 12:34 UTC"]);
    assert_eq!(date(1_798_761_599), "2026-12-31 23:59 UTC");
}

#[test]
fn thousands_are_apart() {
    let shown = [0, 999, 1000, 123_456, 1_234_567].map(|number| whole(&json!(number)));
    assert_eq!(shown, ["0", "999", "1,000", "123,456", "1,234,567"]);
    assert_eq!(whole(&json!("finished")), "finished");
}

#[test]
fn what_is_at_fault_is_in_the_account_and_what_is_not_is_left_out() {
    let total =
        json!({ "clean": false, "sent": 2000, "acknowledged": 2000, "stored": 1995, "lost": 5, "duplicated": 0 });
    let row = |connection: u32, lost: u32| json!({ "connection": connection, "ended": "finished", "account": { "sent": 1000, "lost": lost } });
    let page = page(&saved(json!({ "account": total, "connections": [row(0, 0), row(1, 5)] })));
    assert!(page.contains("<li>5 lost of 2,000 entries sent and 2,000 acknowledged</li>"), "{page}");
    assert!(page.contains("<div class=\"bad\"><b>5</b><span>lost</span></div>"), "{page}");
    assert!(page.contains("<td>connection 1</td><td>5</td>") && !page.contains("connection 0"), "{page}");
}

#[test]
fn at_full_speed_latencies_are_no_headline() {
    let summary = |headline| {
        json!({
            "valid": true, "account": { "clean": true }, "entries_per_cpu_second": 4e6,
            "latency_ms": { "headline": headline, "send": { "corrected": { "p99": 48.0, "max": 90.0 } } },
        })
    };
    let figures = |headline| {
        let page = page(&saved(summary(headline)));
        page.split("<div class=\"cards\">").nth(1).unwrap().split("<h2>").next().unwrap().to_owned()
    };
    assert!(figures(true).contains("send p99") && !figures(true).contains("CPU-second"));
    assert!(!figures(false).contains("send p99") && figures(false).contains("<b>4M</b><span>entries per CPU-second"));
    assert!(!first_words(summary(false)).1.contains("schedule") && first_words(summary(true)).1.contains("schedule"));
}

#[test]
fn the_second_in_which_a_run_ends_is_no_rate() {
    let row = |second: u32, sent| Second { second: second.into(), sent, ..Second::default() };
    let rate = |seconds: Vec<Second>| rate_over_time(&Saved { summary: json!({}), curves: Vec::new(), seconds });
    let line =
        |html: String| html.split("<path class=\"send\" d=\"").nth(2).unwrap().split('"').next().unwrap().to_owned();
    assert_eq!(line(rate(vec![row(0, 100.0), row(1, 100.0), row(2, 1.0)])), "M166.7 0.0L500.0 0.0");
    assert_eq!(line(rate(vec![row(0, 100.0)])), "M500.0 0.0h0.1");
}
