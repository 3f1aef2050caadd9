//! Pages of real runs, and that they can be made again.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use support::{End, Fault, Receiver, skip};

fn loadgen(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_loadgen")).args(arguments).output().unwrap()
}

/// Runs against the receiver and gives the page and the directory of the result.
fn page(receiver: &Receiver, arguments: &[&str]) -> (String, tempfile::TempDir) {
    let out = tempfile::tempdir().unwrap();
    let (target, data) = (receiver.address.to_string(), receiver.data.path().to_str().unwrap());
    let common = ["run", "--target", &target, "--data", data, "--out", out.path().to_str().unwrap()];
    let output = loadgen(&[&common, arguments].concat());
    let page = fs::read_to_string(out.path().join("report.html"));
    (page.unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr))), out)
}

/// The first thing on a page below its heading.
fn verdict(page: &str) -> &str {
    page.split("<div class=\"verdict ").nth(1).unwrap().split("</div>").next().unwrap()
}

#[test]
fn a_loss_is_the_first_thing_to_see_and_the_page_can_be_made_again() {
    let receiver = Receiver::start(Fault::Drop, End::WithSender);
    let (page, out) = page(&receiver, &["--entries", "20000", "--rate", "10k", "--finish-wait", "1s"]);
    assert!(verdict(&page).starts_with("bad\"><strong>The receiver lost entries"), "{}", verdict(&page));
    assert!(page.contains("1 lost") && page.contains("class=\"visible dashed\""), "{page}");
    fs::remove_file(out.path().join("report.html")).unwrap();
    let again = loadgen(&["report", out.path().to_str().unwrap()]);
    assert_eq!((again.status.code(), fs::read_to_string(out.path().join("report.html")).unwrap()), (Some(0), page));
    let path = out.path().join("report.html");
    assert_eq!(String::from_utf8(again.stdout).unwrap(), format!("{}\n", path.display()));
}

#[test]
fn a_stall_is_the_first_thing_to_see() {
    let receiver = Receiver::start(Fault::None, End::Stalling);
    let (page, _out) = page(&receiver, &["--rate", "8k", "--size", "2KiB", "--entries", "32000", "--connections", "1"]);
    let verdict = verdict(&page);
    // On a busy machine the generator may be late as well, which comes first.
    let is_first = verdict.starts_with("doubt\"><strong>The receiver stalled") || verdict.contains("does not count");
    assert!(is_first && verdict.contains("the receiver stalled: entries waited for it up to"), "{verdict}");
}

/// What is said is tested elsewhere; here a browser shows it, on a desk and on a phone, by day and by night.
#[test]
fn pages_look_right_in_a_browser() {
    let run = |fault, end, arguments: &[&str]| page(&Receiver::start(fault, end), arguments).1;
    let schedule = ["--rate", "2k", "--entries", "6000", "--warmup", "1s"];
    let good = run(Fault::None, End::WithSender, &schedule);
    let lossy = run(Fault::Drop, End::WithSender, &["--rate", "10k", "--entries", "20000", "--finish-wait", "1s"]);
    let stalled = ["--rate", "8k", "--size", "2KiB", "--entries", "32000", "--connections", "1"];
    let stalled = run(Fault::None, End::Stalling, &stalled);
    let fast = run(Fault::None, End::WithSender, &["--entries", "200000"]);
    let compared = good.path().join("compare.html");
    let [a, b] = [&fast, &fast].map(|result| result.path().to_str().unwrap());
    assert_eq!(loadgen(&["compare", a, b, "--html", compared.to_str().unwrap()]).status.code(), Some(0));
    let pages = [&good, &lossy, &stalled, &fast].map(|result| result.path().join("report.html"));
    let look = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/look");
    let Ok(output) = Command::new(look).args(&pages).arg(&compared).output() else { return skip("python3 is missing") };
    let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    match output.status.code() {
        Some(0) => assert!(said.ends_with("look: 5 pages, 20 views, 0 faults\n"), "{said}"),
        Some(77) => skip("chromium is missing"),
        _ => panic!("{said}"),
    }
}

#[test]
fn a_directory_without_a_result_is_wrong_usage() {
    let empty = tempfile::tempdir().unwrap();
    let path = empty.path().to_str().unwrap();
    let output = loadgen(&["report", path]);
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{error}");
    assert!(error.starts_with(&format!("loadgen: {path}: summary.json (")), "{error}");
    assert_eq!(loadgen(&["report"]).status.code(), Some(2));
    assert!(!Path::new(path).join("report.html").exists());
}
