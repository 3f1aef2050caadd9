//! What the comparison promises: equals are called equal, and a slow-down of 5 % is found.

use super::*;
use crate::tokens::Random;
use serde_json::json;

/// Pairs of sets for each promise.
const PAIRS: usize = 400;
/// Of which so many have to be judged right: 19 of 20.
const RIGHT: usize = PAIRS * 19 / 20;
/// What the README asks for.
const REPEATS: usize = 6;

/// Two numbers of the standard normal distribution.
#[expect(clippy::cast_precision_loss, reason = "a random number need not be exact")]
fn normal(random: &mut Random) -> [f64; 2] {
    let mut part = || (random.below(1 << 53) as f64 + 0.5) / (1_u64 << 53) as f64;
    let (radius, angle) = ((-2.0 * part().ln()).sqrt(), std::f64::consts::TAU * part());
    [radius * angle.cos(), radius * angle.sin()]
}

/// A run of a program that takes so much more time than another. Its noise has the size that repeats of one build have on
/// a machine of two virtual cores: some of it is common to all measures, more of it is in the tails, and now and then a
/// neighbour spoils a run.
fn repeat(random: &mut Random, slower: f64, rate: &Value) -> Value {
    let [common, spoiled] = normal(random);
    let spoiled = if random.below(20) == 0 { 4.0 * spoiled.abs() } else { 0.0 };
    let mut noisy = |value: f64, spread: f64| {
        let [own, _] = normal(random);
        value * (1.0 + slower) * (0.006 * common + spread * (own + spoiled)).exp()
    };
    let rate_of = |time: f64| 1e6 / time;
    json!({
        "valid": true,
        "arguments": { "rate": rate, "proto": "tcp" },
        "entries_per_cpu_second": rate_of(noisy(1.0, 0.012)),
        "entries_per_second": rate_of(noisy(1.0, 0.015)),
        "latency_ms": {
            "send": { "corrected": { "p50": noisy(0.01, 0.02), "p99": noisy(0.05, 0.05), "p99.9": noisy(0.5, 0.12) } },
            "visible": { "corrected": { "p50": noisy(0.3, 0.02), "p99": noisy(2.0, 0.06), "p99.9": noisy(5.0, 0.12) } },
        },
    })
}

fn set(runs: Vec<Value>) -> Set {
    let mut set = Set { path: "set".into(), runs: Vec::new(), left_out: Vec::new(), unclean: 0 };
    for run in runs {
        set.add(Path::new("set/1"), run);
    }
    set
}

/// In how many of the pairs B, slower by this part, gets this verdict.
fn judged(seed: u64, slower: f64, rate: &Value, verdict: Verdict) -> usize {
    let mut random = Random::new(seed);
    let mut runs = |slower| set((0..REPEATS).map(|_| repeat(&mut random, slower, rate)).collect());
    let pairs = (0..PAIRS).map(|_| Comparison::new(runs(0.0), runs(slower), THRESHOLD));
    pairs.filter(|comparison| comparison.verdict() == verdict).count()
}

#[test]
fn two_runs_of_one_build_are_equal_in_19_of_20_pairs() {
    for (seed, rate) in [(1, json!("max")), (2, json!(50_000))] {
        let right = judged(seed, 0.0, &rate, Verdict::Same);
        assert!(right >= RIGHT, "rate {rate}: {right} of {PAIRS}");
    }
}

#[test]
fn a_slow_down_of_5_percent_is_found_in_19_of_20_pairs() {
    for (seed, rate) in [(3, json!("max")), (4, json!(50_000))] {
        let right = judged(seed, 0.05, &rate, Verdict::Worse);
        assert!(right >= RIGHT, "rate {rate}: {right} of {PAIRS}");
    }
}

#[test]
fn what_got_faster_is_better() {
    let right = judged(5, -0.08, &json!("max"), Verdict::Better);
    assert!(right >= RIGHT, "{right} of {PAIRS}");
}

fn runs(values: &[f64]) -> Set {
    let run = |value: &f64| json!({ "valid": true, "arguments": { "rate": "max" }, "entries_per_second": value });
    set(values.iter().map(run).collect())
}

#[test]
fn single_runs_are_judged_by_the_threshold_and_say_so() {
    let exit = |b: f64| {
        let comparison = Comparison::new(runs(&[100.0]), runs(&[b]), THRESHOLD);
        assert!(comparison.notes[0].starts_with("1 and 1 runs are too few"), "{:?}", comparison.notes);
        comparison.exit()
    };
    assert_eq!([exit(97.0), exit(99.0), exit(120.0)], [Exit::Failed, Exit::Done, Exit::Done]);
    // With two of each, no run of one set may lie among the other's.
    let mixed = Comparison::new(runs(&[100.0, 80.0]), runs(&[90.0, 70.0]), THRESHOLD);
    assert_eq!((mixed.rows[0].verdict, mixed.exit()), (Verdict::Unclear, Exit::Done));
}

#[test]
fn schedules_and_full_sockets_are_not_compared() {
    let names = |rate: Value| {
        let run = |seed| repeat(&mut Random::new(seed), 0.0, &rate);
        let comparison = Comparison::new(set(vec![run(1)]), set(vec![run(2)]), THRESHOLD);
        comparison.rows.iter().map(|row| row.name).collect::<Vec<_>>()
    };
    assert_eq!(names(json!("max")), ["entries per CPU-second", "entries per second"]);
    assert_eq!(names(json!(1000)).len(), 7);
    assert!(!names(json!(1000)).contains(&"entries per second"));
}

#[test]
fn what_does_not_count_is_left_out_and_a_loss_comes_first() {
    let invalid = || json!({ "valid": false, "findings": [{ "fatal": true, "text": "too <late>" }] });
    let comparison = Comparison::new(runs(&[100.0]), set(vec![invalid()]), THRESHOLD);
    assert_eq!(comparison.exit(), Exit::Invalid);
    assert_eq!(comparison.notes, ["set/1: left out, it does not count: too <late>"]);
    assert!(comparison.to_html().contains("too &lt;late&gt;"));
    let lost = json!({ "valid": true, "account": { "clean": false }, "arguments": { "rate": "max" }, "entries_per_second": 1e9 });
    let comparison = Comparison::new(runs(&[100.0]), set(vec![lost]), THRESHOLD);
    assert_eq!(comparison.exit(), Exit::Account);
    let other = json!({ "valid": true, "arguments": { "rate": "max", "size_bytes": 9 }, "entries_per_second": 1.0 });
    let mut both = runs(&[100.0]);
    both.add(Path::new("x"), other);
    both.runs.reverse();
    let notes = Comparison::new(both, runs(&[100.0]), THRESHOLD).notes;
    assert!(notes.iter().any(|note| note.ends_with("same arguments: size-bytes differ")), "{notes:?}");
}

#[test]
fn all_forms_say_the_same() {
    let comparison = Comparison::new(runs(&[100.0, 101.0, 102.0, 103.0]), runs(&[90.0, 91.0, 92.0, 93.0]), THRESHOLD);
    let sentence = "B is worse: entries per second -9.9 %";
    assert_eq!(comparison.to_json()["sentence"], sentence);
    assert!(comparison.to_string().ends_with(&format!("verdict       {sentence}\n")), "{comparison}");
    assert!(comparison.to_html().contains(&format!("<div class=\"verdict bad\"><strong>{sentence}")));
}

#[test]
fn the_two_runs_of_a_turn_come_before_those_of_the_next() {
    let started = |times: &[f64]| times.iter().map(|time| json!({ "started": time })).collect::<Vec<_>>();
    let in_turns = |a: &[f64], b: &[f64]| in_turns(&started(a), &started(b));
    assert!(in_turns(&[1.0, 3.0], &[2.0, 4.0]));
    assert!(in_turns(&[1.0, 4.0, 5.0], &[2.0, 3.0, 5.0]), "in whichever order, or at once");
    assert!(!in_turns(&[1.0, 2.0], &[3.0, 4.0]));
    assert!(!in_turns(&[1.0, 3.0], &[2.0]));
}
