//! The real binary and real TLS clients: certificates that change under it, what it says of those that it cannot use, and
//! a drain.

#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

mod support;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use rustix::process::Signal;
use rustls::ClientConfig;
use rustls::version::{TLS12, TLS13};

use support::process::{DEADLINE, Engine, engine, wait_until};
use support::require_tool;
use support::tls::{Authority, Client, ECDSA, Pair, RSA};

const T: &str = "2bfbea1e-10c3-4419-bdad-7e6435882e1f";

/// An engine that shows the pair, which is in the files `cert.pem` and `key.pem` of the folder.
fn start(folder: &Path, pair: &Pair, args: &[&str]) -> Engine {
    let (certificate, key) = pair.write(folder);
    let files = ["--cert", certificate.to_str().unwrap(), "--key", key.to_str().unwrap()];
    Engine::start(&[&["--tls", "127.0.0.1:0"], &files[..], args].concat())
}

/// A connection whose handshake is made, or why it is not.
fn connect(engine: &Engine, config: &Arc<ClientConfig>) -> Result<(TcpStream, Client), rustls::Error> {
    let mut stream = TcpStream::connect(engine.tls_addr()).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut client = Client::new(config, "localhost");
    let mut read = [0; 16_384];
    while client.connection.is_handshaking() {
        stream.write_all(&client.take()).unwrap();
        match stream.read(&mut read) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            count => client.give(&read[..count.unwrap()])?,
        }
    }
    stream.write_all(&client.take()).unwrap();
    Ok((stream, client))
}

fn refused(args: &[&str]) -> (i32, String) {
    let folder = tempfile::tempdir().unwrap();
    let mut command = engine(&["run", "--tcp", "127.0.0.1:0", "--tls", "127.0.0.1:0", "--data"]);
    let output = command.arg(folder.path().join("data")).args(args).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!folder.path().join("data").exists(), "a refused start leaves a directory behind");
    (output.status.code().unwrap(), said)
}

#[test]
fn a_start_with_unusable_files_is_refused() {
    let authority = Authority::new();
    let folder = tempfile::tempdir().unwrap();
    let pair = authority.pair("localhost", ECDSA);
    let (certificate, key) = pair.write(folder.path());
    let other = folder.path().join("other.pem");
    std::fs::write(&other, authority.pair("localhost", ECDSA).key).unwrap();
    let paths = [&certificate, &key, &other].map(|path| path.to_str().unwrap());
    let [certificate, key, other] = paths;
    let absent = folder.path().join("absent.pem");
    for (args, begins, says) in [
        (&[][..], "engine: --tls: ".to_owned(), "add --cert FILE --key FILE"),
        (&["--cert", certificate], "engine: --key: ".to_owned(), "for each --cert"),
        (&["--cert", certificate, "--key", other], format!("engine: --key: {other}: "), "does not belong"),
        (&["--cert", key, "--key", key], format!("engine: --cert: {key}: "), "no certificate"),
        (&["--cert", certificate, "--key", certificate], format!("engine: --key: {certificate}: "), "no private key"),
        (
            &["--cert", absent.to_str().unwrap(), "--key", key],
            format!("engine: --cert: {}: ", absent.display()),
            "cannot be read",
        ),
        (
            &["--cert", certificate, "--key", key, "--client-ca", key],
            format!("engine: --client-ca: {key}: "),
            "no usable authority",
        ),
    ] {
        let (code, said) = refused(args);
        assert_eq!((code, said.lines().count()), (2, 1), "{said}");
        assert!(said.starts_with(&begins) && said.contains(says), "{said}");
        let secret = pair.key.lines().nth(1).unwrap();
        assert!(!said.contains(&secret[..16]), "{said}");
    }
}

#[test]
fn certificates_are_read_again_on_sighup_and_when_files_change() {
    let folder = tempfile::tempdir().unwrap();
    let (first, second, third) = (Authority::new(), Authority::new(), Authority::new());
    let mut engine = start(folder.path(), &first.pair("localhost", ECDSA), &[]);
    let clients = [&first, &second, &third].map(|authority| Arc::new(authority.client(&[&TLS12, &TLS13])));
    let (mut stream, mut old) = connect(&engine, &clients[0]).unwrap();
    assert!(connect(&engine, &clients[1]).is_err());

    second.pair("localhost", RSA).write(folder.path());
    engine.signal(Signal::HUP);
    assert!(wait_until(|| connect(&engine, &clients[1]).is_ok()), "{}", engine.stderr());
    assert!(connect(&engine, &clients[0]).is_err());

    // Half a pair is said to be one, and changes nothing.
    let pair = third.pair("localhost", ECDSA);
    std::fs::write(folder.path().join("cert.pem"), &pair.certificate).unwrap();
    engine.wait_for_line(|line| line.contains(" warn certificates kept as they were error=\"--key: "));
    assert!(connect(&engine, &clients[1]).is_ok());
    std::fs::write(folder.path().join("key.pem"), &pair.key).unwrap();
    assert!(wait_until(|| connect(&engine, &clients[2]).is_ok()), "{}", engine.stderr());

    // Who was connected before goes on.
    stream.write_all(&old.seal(&[format!("{T} still here\n").as_bytes()])).unwrap();
    engine.wait_for_log(T, b"still here\n");
    drop(stream);
    let key = pair.key.lines().nth(1).unwrap().to_owned();
    engine.stop();
    assert!(!engine.stderr().contains(&key), "the key is in the engine's own log");
}

#[test]
fn an_expired_certificate_is_a_warning() {
    let folder = tempfile::tempdir().unwrap();
    let pair = Authority::new().pair_until("localhost", ECDSA, 2001);
    let mut engine = start(folder.path(), &pair, &[]);
    engine
        .wait_for_line(|line| line.contains(" warn certificate has expired") && line.contains("2001-01-01T00:00:00Z"));
    engine.stop();
}

#[test]
fn openssl_sends_lines_in_both_versions() {
    if !require_tool("openssl") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let mut engine = start(folder.path(), &authority.pair("localhost", RSA), &[]);
    std::fs::write(folder.path().join("ca.pem"), authority.pem()).unwrap();
    for version in ["-tls1_2", "-tls1_3"] {
        for name in [&["-servername", "localhost"][..], &["-noservername"]] {
            let mut command = Command::new("openssl");
            command.args(["s_client", "-quiet", "-no_ign_eof", "-verify_return_error", version]).args(name);
            command.arg("-CAfile").arg(folder.path().join("ca.pem")).arg("-connect").arg(engine.tls_addr().to_string());
            let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
            let mut stdin = child.stdin.take().unwrap();
            writeln!(stdin, "{T} by openssl").unwrap();
            drop(stdin);
            assert!(child.wait().unwrap().success());
        }
    }
    let summary = engine.stop();
    assert_eq!(engine.log_bytes(T), b"by openssl\n".repeat(4));
    assert_eq!((summary.get("tls_handshakes.full"), summary.rejected()), (4, 0));
}

/// Sends a line by `openssl s_client`, which shows this certificate.
fn send_with_openssl(engine: &Engine, folder: &Path, own: Option<&Path>, version: &str, message: &str) {
    let mut command = Command::new("openssl");
    command.args(["s_client", "-quiet", "-no_ign_eof", "-verify_return_error", version]);
    command.arg("-CAfile").arg(folder.join("ca.pem")).arg("-connect").arg(engine.tls_addr().to_string());
    if let Some(own) = own {
        command.arg("-cert").arg(own.join("cert.pem")).arg("-key").arg(own.join("key.pem"));
    }
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // One that is turned away in its handshake takes nothing.
    let _taken_or_not = writeln!(stdin, "{T} {message}");
    drop(stdin);
    child.wait().unwrap();
}

#[test]
fn openssl_shows_a_certificate_where_it_is_asked_for_one() {
    if !require_tool("openssl") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (authority, clients, stranger) = (Authority::new(), Authority::new(), Authority::new());
    std::fs::write(folder.path().join("ca.pem"), authority.pem()).unwrap();
    let asked = folder.path().join("clients.pem");
    std::fs::write(&asked, clients.pem()).unwrap();
    let of = |issuer: &Authority, name: &str| {
        let own = folder.path().join(name);
        std::fs::create_dir(&own).unwrap();
        issuer.pair("client", ECDSA).write(&own);
        own
    };
    let (known, unknown) = (of(&clients, "known"), of(&stranger, "unknown"));
    for (client_certs, stored) in
        [(&[][..], vec!["known"]), (&["--client-certs", "optional"], vec!["known", "nameless"])]
    {
        let flags = [&["--client-ca", asked.to_str().unwrap()], client_certs].concat();
        let mut engine = start(folder.path(), &authority.pair("localhost", ECDSA), &flags);
        for version in ["-tls1_2", "-tls1_3"] {
            for (own, name) in [(Some(&known), "known"), (Some(&unknown), "unknown"), (None, "nameless")] {
                send_with_openssl(&engine, folder.path(), own.map(PathBuf::as_path), version, name);
            }
        }
        let summary = engine.stop();
        let stored: Vec<u8> = stored.iter().flat_map(|name| format!("{name}\n").into_bytes()).collect();
        assert_eq!(engine.log_bytes(T), stored.repeat(2), "{client_certs:?}");
        assert_eq!((summary.get("tls_clients_known"), summary.rejected()), (2, 0));
        assert!(engine.stderr().contains(" warn tls handshake failed"), "{}", engine.stderr());
    }
}

/// Lines, a session resumed on a new connection, and an end that waits for the engine's goodbye.
const PYTHON: &str = "
import socket, ssl, sys
port, ca, token, version = int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4]
context = ssl.create_default_context(cafile=ca)
context.minimum_version = context.maximum_version = getattr(ssl.TLSVersion, version)
session = None
for number in range(4):
    plain = socket.create_connection(('127.0.0.1', port))
    plain.settimeout(60)
    client = context.wrap_socket(plain, server_hostname='localhost', session=session)
    assert client.session_reused == (number > 0 and version == 'TLSv1_2'), number
    for part in [token, ' ', 'by python', '\\n']:
        client.send(part.encode())
    session = client.session
    client.unwrap().close()
";

/// Much at once, nothing read, and an end without a goodbye.
const PYTHON_IN_A_HURRY: &str = "
import socket, ssl, sys, time
port, ca, token, version = int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4]
context = ssl.create_default_context(cafile=ca)
context.minimum_version = context.maximum_version = getattr(ssl.TLSVersion, version)
for number in range(10):
    client = context.wrap_socket(socket.create_connection(('127.0.0.1', port)), server_hostname='localhost')
    # Whatever the engine says behind the handshake has come by then.
    time.sleep(0.01)
    for line in range(1000):
        client.sendall(f'{token} {line} {\"x\" * 1000}\\n'.encode())
    client.close()
";

#[test]
fn nothing_is_lost_of_clients_that_never_read() {
    if !require_tool("python3") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let mut engine = start(folder.path(), &authority.pair("localhost", ECDSA), &[]);
    std::fs::write(folder.path().join("ca.pem"), authority.pem()).unwrap();
    for version in ["TLSv1_2", "TLSv1_3"] {
        let mut command = Command::new("python3");
        command.args(["-c", PYTHON_IN_A_HURRY, &engine.tls_addr().port().to_string()]);
        let output = command.arg(folder.path().join("ca.pem")).args([T, version]).output().unwrap();
        assert!(output.status.success(), "{version}: {}", String::from_utf8_lossy(&output.stderr));
    }
    let summary = engine.stop();
    assert_eq!((summary.get("entries"), summary.rejected()), (20_000, 0));
}

#[test]
fn python_resumes_its_session_on_any_shard() {
    if !require_tool("python3") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let mut engine = start(folder.path(), &authority.pair("localhost", ECDSA), &["--shards", "2"]);
    std::fs::write(folder.path().join("ca.pem"), authority.pem()).unwrap();
    for version in ["TLSv1_2", "TLSv1_3"] {
        let mut command = Command::new("python3");
        command.args(["-c", PYTHON, &engine.tls_addr().port().to_string()]).arg(folder.path().join("ca.pem"));
        let output = command.args([T, version]).output().unwrap();
        assert!(output.status.success(), "{version}: {}", String::from_utf8_lossy(&output.stderr));
    }
    let summary = engine.stop();
    assert_eq!(engine.log_bytes(T), b"by python\n".repeat(8));
    assert_eq!((summary.get("tls_handshakes.full"), summary.get("tls_handshakes.resumed")), (5, 3));
}

#[test]
fn what_is_no_tls_is_closed_without_an_answer() {
    let folder = tempfile::tempdir().unwrap();
    let mut engine = start(folder.path(), &Authority::new().pair("localhost", ECDSA), &[]);
    for first in [format!("{T} plain\n"), "GET / HTTP/1.1\r\n\r\n".to_owned()] {
        let mut stream = TcpStream::connect(engine.tls_addr()).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.write_all(first.as_bytes()).unwrap();
        let mut read = Vec::new();
        let _closed_or_reset = stream.read_to_end(&mut read);
        assert_eq!(read, b"");
    }
    engine.wait_for_line(|line| line.contains(" warn connection closed reason=plain_on_tls"));
    let summary = engine.stop();
    assert_eq!((summary.get("lines"), summary.get("rejected.plain_on_tls")), (2, 2));
    assert!(!engine.stderr().contains(T));
}
