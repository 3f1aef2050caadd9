//! TLS handshakes that the engine makes in a second of its own processor time: full in both versions and resumed in 1.2,
//! with both kinds of keys.
//!
//! An engine of one shard in this process, on a data directory in the folder given (or the system's temporary one), and
//! clients on threads of their own, which connect, make the handshake, say goodbye and leave. What is counted is the time
//! of the shard's thread and of the kernel's workers for its ring: accepting and closing are in it, as they are in the field.

use std::error::Error;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use engine::cli::{self, Command, Typed};
use engine::config::{Config, RunFlags};
use engine::diag;
use engine::engine::Engine;
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256};
use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::ServerName;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ClientConnection, HandshakeKind, RootCertStore, StreamOwned};

/// What the engine's binary has.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const CLIENTS: usize = 4;
const WARM_UP: Duration = Duration::from_millis(500);
const MEASURED: Duration = Duration::from_secs(3);
/// How long a client waits for the engine.
const DEADLINE: Duration = Duration::from_secs(30);

type Failure = Box<dyn Error + Send + Sync>;

#[expect(clippy::print_stdout, reason = "the result")]
fn main() -> Result<(), Failure> {
    let folder = std::env::args_os().nth(1).map_or_else(std::env::temp_dir, PathBuf::from);
    let folder = folder.join(format!("handshakes-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    for (kind, algorithm) in [("ECDSA P-256", &PKCS_ECDSA_P256_SHA256), ("RSA 2048", &PKCS_RSA_SHA256)] {
        let key = KeyPair::generate_for(algorithm)?;
        let certificate = CertificateParams::new(["localhost".to_owned()])?.self_signed(&key)?;
        let data = folder.join(kind.replace(' ', "-"));
        let files =
            [(data.with_extension("cert"), certificate.pem()), (data.with_extension("key"), key.serialize_pem())];
        for (path, text) in &files {
            std::fs::write(path, text)?;
        }
        let [(certificate_file, _), (key_file, _)] = &files;
        let config = config(&data, certificate_file, key_file)?;
        diag::configure(config.log_level, config.log_format);
        let engine = Engine::start(&config)?;
        let mut roots = RootCertStore::empty();
        roots.add(certificate.der().clone())?;
        for version in [&TLS13, &TLS12] {
            for resumed in [false, true] {
                if resumed && version == &TLS13 {
                    // The engine gives no tickets there.
                    continue;
                }
                let mut client = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
                    .with_protocol_versions(&[version])?
                    .with_root_certificates(roots.clone())
                    .with_no_client_auth();
                client.resumption = if resumed { Resumption::in_memory_sessions(64) } else { Resumption::disabled() };
                let (made, processor) = measure(engine.addresses()[0], &Arc::new(client), resumed)?;
                let rate = f64::from(u32::try_from(made)?) / processor.as_secs_f64();
                let name = if resumed { "resumed" } else { "full" };
                println!(
                    "{kind:<12}{:?} {name:<8}{rate:>8.0} handshakes/CPU-s ({made} in {processor:.2?})",
                    version.version
                );
            }
        }
        let drainer = engine.drainer();
        drainer.drain();
        drainer.drain();
        engine.join()?;
    }
    std::fs::remove_dir_all(&folder)?;
    Ok(())
}

fn config(data: &Path, certificate: &Path, key: &Path) -> Result<Config, Failure> {
    let args = ["engine", "run", "--tls", "127.0.0.1:0", "--shards", "1", "--admin", "off", "--log-level", "error"];
    let paths = [Path::new("--data"), data, Path::new("--cert"), certificate, Path::new("--key"), key];
    match cli::parse(args.map(Into::into).into_iter().chain(paths.map(Into::into))) {
        Typed::Command(Command::Run(args)) => Ok(Config::try_from(RunFlags::from(*args))?),
        other => Err(format!("{other:?}").into()),
    }
}

/// Handshakes made while it was measured, and the shard's processor time for them.
fn measure(address: SocketAddr, config: &Arc<ClientConfig>, resumed: bool) -> Result<(u64, Duration), Failure> {
    let (made, ended) = (AtomicU64::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let work = || -> Result<(), Failure> {
            while !ended.load(Ordering::Relaxed) {
                let kind = shake_hands(address, config)?;
                made.fetch_add(u64::from((kind == HandshakeKind::Resumed) == resumed), Ordering::Relaxed);
            }
            Ok(())
        };
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(work)).collect();
        let look = || Ok::<_, Failure>((made.load(Ordering::Relaxed), processor_time()?));
        std::thread::sleep(WARM_UP);
        let before = look()?;
        std::thread::sleep(MEASURED);
        let after = look();
        ended.store(true, Ordering::Relaxed);
        for client in clients {
            client.join().map_err(|_| "a client panicked")??;
        }
        let after = after?;
        Ok((after.0 - before.0, after.1.saturating_sub(before.1)))
    })
}

/// One connection: the handshake, and a goodbye from both sides. Says how the handshake was made.
fn shake_hands(address: SocketAddr, config: &Arc<ClientConfig>) -> Result<HandshakeKind, Failure> {
    let socket = TcpStream::connect(address)?;
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(DEADLINE))?;
    let connection = ClientConnection::new(Arc::clone(config), ServerName::try_from("localhost")?)?;
    let mut stream = StreamOwned::new(connection, socket);
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock)?;
    }
    stream.conn.send_close_notify();
    stream.flush()?;
    stream.sock.shutdown(Shutdown::Write)?;
    stream.read_to_end(&mut Vec::new())?;
    stream.conn.handshake_kind().ok_or_else(|| "a handshake of no kind".into())
}

/// Of the shard's thread, and of the kernel's workers for its ring.
fn processor_time() -> Result<Duration, Failure> {
    let mut nanos = 0;
    for task in std::fs::read_dir("/proc/self/task")? {
        let task = task?.path();
        let name = std::fs::read_to_string(task.join("comm"))?;
        if name.starts_with("shard-") || name.starts_with("iou-") {
            let schedstat = std::fs::read_to_string(task.join("schedstat"))?;
            nanos += schedstat.split(' ').next().unwrap_or_default().parse::<u64>()?;
        }
    }
    Ok(Duration::from_nanos(nanos))
}
