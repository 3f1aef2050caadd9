//! The account over TLS, with a receiver whose ends and faults are known.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::process::Command;

use rustls::version::{TLS12, TLS13};
use serde_json::Value;
use support::tls::Authority;
use support::{End, Fault, Receiver};

/// Runs against the receiver; gives the exit code, the report if there is one, and stderr.
fn loadgen(receiver: &Receiver, arguments: &[&str]) -> (i32, Value, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_loadgen"));
    command.args(["run", "--json", "--proto", "tls", "--tokens", "7", "--finish-wait", "2s"]);
    command.args(["--target", &receiver.address.to_string()]);
    let output = command.arg("--data").arg(receiver.data.path()).args(arguments).output().unwrap();
    let report = serde_json::from_slice(&output.stdout).unwrap_or_default();
    (output.status.code().unwrap(), report, String::from_utf8(output.stderr).unwrap())
}

fn counts<const N: usize>(report: &Value, names: [&str; N]) -> [u64; N] {
    names.map(|name| report["account"][name].as_u64().unwrap_or_else(|| panic!("{name}: {report}")))
}

const FAULTS: [&str; 5] = ["lost", "duplicated", "reordered", "damaged", "wrong_log"];

#[test]
fn all_stored_is_clean_in_both_versions() {
    let authority = Authority::new("one");
    let ca = authority.file();
    for (version, name, said) in
        [(&TLS12, "127.0.0.1", "TLSv1_2 TLS_ECDHE"), (&TLS13, "127.0.0.1", "TLSv1_3 TLS13_AES")]
    {
        // Lines of 40 KB span records whatever the kind; those of 1 KB share full ones unevenly.
        for (records, size, entries) in
            [("full", "1000", 20_000), ("line", "256", 20_000), ("line", "40KB", 300), ("piece", "256", 20_000)]
        {
            let receiver = Receiver::start_tls(Fault::None, End::WithSender, &authority.receiver(name, version));
            let flags = ["--ca", ca.to_str().unwrap(), "--tls-records", records, "--size", size, "--connections", "3"];
            let (code, report, error) =
                loadgen(&receiver, &[&flags[..], &["--entries", &entries.to_string()]].concat());
            assert_eq!((code, counts(&report, FAULTS)), (0, [0; 5]), "{said} {records} {size}: {report} {error}");
            assert_eq!(
                counts(&report, ["sent", "acknowledged", "stored", "in_flight"]),
                [entries, entries, entries, 0]
            );
            assert_eq!(report["ended"]["finished"], 3, "{report}");
            assert!(report["tls"].as_str().unwrap().starts_with(said), "{}", report["tls"]);
            // Those of the lines: what TLS adds is not counted.
            assert_eq!(report["bytes_acknowledged"], report["bytes_sent"]);
        }
    }
}

#[test]
fn faults_are_found_within_tls() {
    let authority = Authority::new("one");
    let tls = authority.receiver("127.0.0.1", &TLS13);
    for (fault, expected) in [(Fault::Drop, [1, 0, 0, 0, 0]), (Fault::Swap, [0, 0, 1, 0, 0])] {
        let receiver = Receiver::start_tls(fault, End::WithSender, &tls);
        let (code, report, _) = loadgen(&receiver, &["--insecure", "--entries", "20000"]);
        assert_eq!((code, counts(&report, FAULTS)), (5, expected), "{report}");
    }
}

/// The receiver reads exactly what its TCP acknowledged, and can use the whole records among that.
#[test]
fn a_cut_leaves_whole_records_and_the_rest_in_flight() {
    let authority = Authority::new("one");
    let mut in_flight_all = 0;
    for version in [&TLS12, &TLS13] {
        for (records, size) in [("full", "1000"), ("line", "256"), ("line", "40KB"), ("piece", "256")] {
            let tls = authority.receiver("127.0.0.1", version);
            let receiver = Receiver::start_tls(Fault::None, End::CutAfter(3_000_000), &tls);
            let flags = ["--insecure", "--duration", "60s", "--connections", "4", "--tls-records", records];
            let (code, report, _) = loadgen(&receiver, &[&flags[..], &["--size", size]].concat());
            assert_eq!(report["ended"]["by_receiver"], 4, "{report}");
            let [sent, acknowledged, stored, in_flight, beyond] =
                counts(&report, ["sent", "acknowledged", "stored", "in_flight", "beyond"]);
            let expected = if in_flight > 0 { 6 } else { 0 };
            assert_eq!((code, counts(&report, FAULTS)), (expected, [0; 5]), "{records} {size}: {report}");
            assert!(stored > 0, "{report}");
            assert_eq!((acknowledged, sent, beyond), (stored, stored + in_flight, 0), "{records} {size}: {report}");
            in_flight_all += in_flight;
        }
    }
    assert!(in_flight_all > 0, "24 connections at full speed, and none was cut with something on its way");
}

#[test]
fn a_cut_connection_is_made_again_with_a_handshake() {
    let authority = Authority::new("one");
    let tls = authority.receiver("127.0.0.1", &TLS13);
    let receiver = Receiver::start_tls(Fault::None, End::CutAfter(1_000_000), &tls);
    let (code, report, _) = loadgen(
        &receiver,
        &["--insecure", "--entries", "10000", "--size", "4KiB", "--connections", "2", "--reconnect"],
    );
    assert_eq!((code, counts(&report, FAULTS)), (0, [0; 5]), "{report}");
    let [stored, in_flight, beyond] = counts(&report, ["stored", "in_flight", "beyond"]);
    assert_eq!((stored + in_flight, beyond), (10_000, 0));
    assert!(report["connections"][0]["sockets"].as_u64().unwrap() >= 2, "{report}");
}

#[test]
fn only_those_who_are_trusted_are_sent_to() {
    let (authority, other) = (Authority::new("one"), Authority::new("another"));
    let refused = |tls, ca: &Authority| {
        let receiver = Receiver::start_tls(Fault::None, End::WithSender, &tls);
        let (code, report, error) = loadgen(&receiver, &["--ca", ca.file().to_str().unwrap(), "--entries", "10"]);
        assert_eq!((code, report, error.lines().count()), (3, Value::Null, 1), "{error}");
        let (code, report, error) = loadgen(&receiver, &["--insecure", "--entries", "10"]);
        assert_eq!((code, counts(&report, ["stored"])), (0, [10]), "{error}");
        loadgen(&receiver, &["--ca", ca.file().to_str().unwrap()]).2
    };
    let stranger = refused(authority.receiver("127.0.0.1", &TLS13), &other);
    let expected =
        "give --ca the authority that its certificate is from, or --insecure (invalid peer certificate: Unkn";
    assert!(stranger.starts_with("loadgen: --target: no TLS handshake with 127.0.0.1:"), "{stranger}");
    assert!(stranger.contains(expected), "{stranger}");
    let misnamed = refused(authority.receiver("elsewhere.example", &TLS12), &authority);
    assert!(misnamed.contains("give --target by a name that its certificate is for, or --insecure"), "{misnamed}");
    let own = refused(authority.itself(), &authority);
    assert!(own.contains("its certificate is an authority, and no receiver may use that itself"), "{own}");
}

#[test]
fn who_does_not_speak_tls_is_told_apart() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let target = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            std::io::Write::write_all(&mut stream.unwrap(), b"220 mail.example\r\n").unwrap();
        }
    });
    let mut command = Command::new(env!("CARGO_BIN_EXE_loadgen"));
    let output = command.args(["run", "--proto", "tls", "--insecure", "--target", &target]).output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), error.lines().count()), (Some(3), 1), "{error}");
    assert!(error.contains("; see whether it speaks TLS 1.2 or 1.3 there ("), "{error}");
}
