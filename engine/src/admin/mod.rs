//! The admin endpoint: `/metrics`, `/healthz` and `/readyz` over HTTP/1, on a thread and a runtime of its own.
//!
//! ```text
//!  admin thread:  accept ─► one request ─► Watch asks the shards ─► answer ─► close
//! ```
//! It is bound before recovery and ends after the drain, so that it answers all the time. It never touches a shard's
//! memory: it asks, and waits at most a named time. Connections and their time are limited; a connection serves one
//! request, so that nobody can hold a place. No answer holds a token or the address of a peer.

pub mod watch;

use std::io;
use std::net::TcpListener;
use std::os::unix::fs::FileTypeExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use axum::Router;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::config::AdminAddress;
use crate::error::{StartError, shown};
use crate::limits::{ACCEPT_RETRY, ADMIN_CONNECTION_TIME, ADMIN_CONNECTIONS_MAX};
use crate::metrics::render;
use crate::sys::listener::bind_patiently;
use watch::{Verdict, Watch};

const PATHS: &str = "give /metrics, /healthz or /readyz";

/// A running admin endpoint; ends when dropped.
#[derive(Debug)]
pub struct Admin {
    address: String,
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    /// A socket's name in the file system, to be removed at the end.
    name: Option<PathBuf>,
}

impl Admin {
    /// Binds and answers from now on; `None` if it is switched off.
    ///
    /// # Errors
    /// The address is taken or not allowed.
    pub fn start(address: &AdminAddress, watch: Arc<Watch>) -> Result<Option<Self>, StartError> {
        let refused = |error| StartError::new("admin", "the system refuses a thread or a socket").because(error);
        let Some(bound) = Bound::bind(address)? else { return Ok(None) };
        let (address, name) = (bound.shown().map_err(refused)?, bound.name());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(refused)?;
        let listener = {
            let _inside = runtime.enter();
            bound.listen().map_err(refused)?
        };
        let (end, ended) = oneshot::channel();
        let work = move || {
            runtime.spawn(accept(listener, router(watch)));
            // The end of the engine ends answers under way too.
            let _ended = runtime.block_on(ended);
        };
        let thread = std::thread::Builder::new().name("admin".into()).spawn(work).map_err(refused)?;
        Ok(Some(Self { address, end: Some(end), thread: Some(thread), name }))
    }

    /// Where it listens, with a real port.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        self.end = None;
        if let Some(thread) = self.thread.take() {
            let _ended = thread.join();
        }
        if let Some(name) = &self.name {
            // Somebody may have removed it, and nobody is left to tell.
            let _removed = std::fs::remove_file(name);
        }
    }
}

// Binding.

enum Bound {
    Tcp(TcpListener),
    Unix(UnixListener, PathBuf),
}

enum Listener {
    Tcp(tokio::net::TcpListener),
    Unix(tokio::net::UnixListener),
}

impl Bound {
    fn bind(address: &AdminAddress) -> Result<Option<Self>, StartError> {
        let bound = match address {
            AdminAddress::Off => return Ok(None),
            AdminAddress::Tcp(address) => bind_patiently(|| TcpListener::bind(address)).map(Self::Tcp),
            AdminAddress::Unix(path) => bind_unix(path).map(|listener| Self::Unix(listener, path.clone())),
        };
        bound.map(Some).map_err(|error| {
            let problem = match error.kind() {
                io::ErrorKind::AddrInUse => "in use by another process; stop it, or choose another --admin or off",
                io::ErrorKind::PermissionDenied => "not allowed for this user; choose another --admin or off",
                _ => "cannot be bound; choose another --admin or off",
            };
            StartError::new(address.to_string(), problem).because(error)
        })
    }

    fn shown(&self) -> io::Result<String> {
        match self {
            Self::Tcp(listener) => Ok(listener.local_addr()?.to_string()),
            Self::Unix(_, path) => Ok(format!("unix:{}", shown(path))),
        }
    }

    fn name(&self) -> Option<PathBuf> {
        match self {
            Self::Tcp(_) => None,
            Self::Unix(_, path) => Some(path.clone()),
        }
    }

    fn listen(self) -> io::Result<Listener> {
        match self {
            Self::Tcp(listener) => {
                listener.set_nonblocking(true)?;
                tokio::net::TcpListener::from_std(listener).map(Listener::Tcp)
            }
            Self::Unix(listener, _) => {
                listener.set_nonblocking(true)?;
                tokio::net::UnixListener::from_std(listener).map(Listener::Unix)
            }
        }
    }
}

/// Either kind of connection.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

impl Listener {
    /// # Cancel safety
    /// No connection is lost: it stays in the queue until this returns it.
    async fn accept(&self) -> io::Result<Box<dyn Stream>> {
        Ok(match self {
            Self::Tcp(listener) => Box::new(listener.accept().await?.0),
            Self::Unix(listener) => Box::new(listener.accept().await?.0),
        })
    }
}

/// A socket that a killed predecessor left behind is replaced; one that somebody answers on, or another file, is not.
fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    let left_behind = std::fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket())
        && UnixStream::connect(path).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused);
    if left_behind {
        std::fs::remove_file(path)?;
    }
    UnixListener::bind(path)
}

// Serving.

fn router(watch: Arc<Watch>) -> Router {
    let (health, readiness, metrics) = (Arc::clone(&watch), Arc::clone(&watch), watch);
    Router::new()
        .route("/healthz", get(async move || probe(health.health().await)))
        .route("/readyz", get(async move || probe(readiness.readiness().await)))
        .route("/metrics", get(async move || ([(CONTENT_TYPE, render::CONTENT_TYPE)], metrics.metrics().await)))
        .fallback(async || (StatusCode::NOT_FOUND, format!("no such path; {PATHS}\n")))
        .method_not_allowed_fallback(async || (StatusCode::METHOD_NOT_ALLOWED, format!("only GET; {PATHS}\n")))
}

fn probe(verdict: Verdict) -> Response {
    let status = if verdict.good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, verdict.text + "\n").into_response()
}

/// Takes connections for ever, as many at a time as there may be.
async fn accept(listener: Listener, router: Router) {
    let places = Arc::new(Semaphore::new(ADMIN_CONNECTIONS_MAX));
    loop {
        let place = Arc::clone(&places).acquire_owned().await.expect("the places are never closed");
        match listener.accept().await {
            Ok(stream) => drop(tokio::spawn(answer(stream, router.clone(), place))),
            // No descriptors, for example: those who wait go on waiting.
            Err(_) => tokio::time::sleep(ACCEPT_RETRY).await,
        }
    }
}

async fn answer(stream: Box<dyn Stream>, router: Router, place: OwnedSemaphorePermit) {
    let answer = http1::Builder::new()
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    // A client that breaks off or takes too long is its own affair.
    let _served = tokio::time::timeout(ADMIN_CONNECTION_TIME, answer).await;
    drop(place);
}
