//! Manages the connections to the control socket and the page. Limits their number and
//! idle time, and decides which connection to close to make room for a new one.
//!
//! No client can lock others out, regardless of what it sends or fails to send. Every
//! wait for a client has a deadline, and a new connection replaces one that makes no
//! progress. This module knows nothing about the requests, except whether the client has
//! authenticated and whether a request is being handled.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::Method;
use futures_util::StreamExt;
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, Sleep};
use tokio_util::sync::CancellationToken;

/// Maximum duration of a TLS handshake, of reading a request head, and of reading a
/// request body. An idle connection is also closed after this time.
pub(crate) const READ_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection is closed if data is waiting to be sent and the client has read nothing
/// for this long.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum size of a request head, in bytes.
const MAX_HEAD_BYTES: usize = 16 * 1024;
/// Maximum size of a request body, in bytes.
pub(crate) const MAX_BODY: usize = 64 * 1024;
/// Maximum size of the body of a request to one of the [`PICTURE_PATHS`], in bytes.
pub(crate) const MAX_PICTURE_BODY: usize = 8 * 1024 * 1024;
/// Where pictures are sent to. The bodies of these requests may be larger than others.
const PICTURE_PATHS: [&str; 2] = ["/api/v1/classify", "/api/v1/samples/upload"];
/// Maximum number of pictures in memory: one that is being classified, and the others
/// that are being received or are waiting.
pub(crate) const PICTURE_PLACES: usize = 3;

static FREE_PICTURE_PLACES: Semaphore = Semaphore::const_new(PICTURE_PLACES);

/// Limits on the number of simultaneous connections to a server.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Maximum number of connections.
    pub(crate) total: usize,
    /// Maximum number of connections from one network (see [`network`]) whose clients
    /// have not authenticated.
    pub(crate) per_network: usize,
}

/// All connections of a server.
#[derive(Debug, Clone)]
pub(crate) struct Connections {
    limits: Limits,
    table: Arc<Mutex<Table>>,
    /// The time from which [`Client`] counts milliseconds.
    start: Instant,
}

#[derive(Debug, Default)]
struct Table {
    next_id: u64,
    entries: HashMap<u64, Entry>,
}

#[derive(Debug)]
struct Entry {
    network: Option<IpAddr>,
    client: Client,
    evicted: CancellationToken,
}

/// Information about the client of a connection. Each request carries a clone of this
/// value as an extension.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    state: Arc<ClientState>,
    start: Instant,
}

#[derive(Debug, Default)]
struct ClientState {
    /// The time at which the client last received data, in milliseconds since
    /// `Connections::start`. Until the client has received data, this is the time at
    /// which it connected.
    progress_at: AtomicU64,
    has_access: AtomicBool,
    /// Number of requests that are being handled.
    handled: AtomicUsize,
}

impl Client {
    fn new(start: Instant) -> Client {
        let client = Client {
            state: Arc::default(),
            start,
        };
        client.made_progress();
        client
    }

    fn made_progress(&self) {
        let now = self.start.elapsed().as_millis() as u64;
        self.state.progress_at.store(now, Ordering::Relaxed);
    }

    /// Records that the client has authenticated with a password or a token. From then
    /// on, the client's connection is closed only if no unauthenticated connection can be
    /// closed instead.
    pub(crate) fn prove_access(&self) {
        self.state.has_access.store(true, Ordering::Relaxed);
    }

    /// Protects the connection until the returned value is dropped: it is not closed to
    /// make room for a new one. Call this function only after the whole request has been
    /// read. Otherwise, a client could extend the protection by sending slowly.
    pub(crate) fn handling(&self) -> Handling {
        self.state.handled.fetch_add(1, Ordering::Relaxed);
        Handling(Arc::clone(&self.state))
    }

    fn has_access(&self) -> bool {
        self.state.has_access.load(Ordering::Relaxed)
    }

    fn is_handled(&self) -> bool {
        self.state.handled.load(Ordering::Relaxed) > 0
    }
}

/// A request that is being handled.
#[derive(Debug)]
pub(crate) struct Handling(Arc<ClientState>);

impl Drop for Handling {
    fn drop(&mut self) {
        self.0.handled.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A slot for one connection. Dropping it frees the slot.
#[derive(Debug)]
pub(crate) struct Place {
    connections: Connections,
    id: u64,
    client: Client,
    evicted: CancellationToken,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.connections.lock().entries.remove(&self.id);
    }
}

impl Connections {
    pub(crate) fn new(limits: Limits) -> Connections {
        Connections {
            limits,
            table: Arc::default(),
            start: Instant::now(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        // A poisoned lock is safe to use because entries are added and removed as a whole.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns a slot for a new connection. If a limit has been reached, closes an older
    /// connection. Returns `None` if none of the older connections may be closed. `peer`
    /// is the client's address, if it has one.
    pub(crate) fn admit(&self, peer: Option<IpAddr>) -> Option<Place> {
        let network = peer.map(network);
        let mut table = self.lock();
        let strangers = |entry: &Entry| entry.network == network && !entry.client.has_access();
        if network.is_some()
            && table
                .entries
                .values()
                .filter(|entry| strangers(entry))
                .count()
                >= self.limits.per_network
        {
            table.evict(strangers)?;
        }
        if table.entries.len() >= self.limits.total {
            table.evict(|_| true)?;
        }
        let id = table.next_id;
        table.next_id += 1;
        let entry = Entry {
            network,
            client: Client::new(self.start),
            evicted: CancellationToken::new(),
        };
        let place = Place {
            connections: self.clone(),
            id,
            client: entry.client.clone(),
            evicted: entry.evicted.clone(),
        };
        table.entries.insert(id, entry);
        Some(place)
    }
}

impl Table {
    /// Closes one of the matching connections. Returns `None` if none may be closed.
    ///
    /// Connections of unauthenticated clients are closed first. Among these, the
    /// connections from the network with the most connections are closed first. Within
    /// this network, the connection that has made no progress for the longest time is
    /// closed first. A stranger who opens many connections therefore displaces their own
    /// connections rather than the owner's.
    fn evict(&mut self, matches: impl Fn(&Entry) -> bool) -> Option<()> {
        let mut by_network: HashMap<Option<IpAddr>, usize> = HashMap::new();
        for entry in self.entries.values() {
            *by_network.entry(entry.network).or_default() += 1;
        }
        let rank = |entry: &Entry| {
            (
                entry.client.has_access(),
                std::cmp::Reverse(by_network.get(&entry.network).copied()),
                entry.client.state.progress_at.load(Ordering::Relaxed),
            )
        };
        let candidates = self
            .entries
            .iter()
            .filter(|(_, entry)| !entry.client.is_handled() && matches(entry));
        let (id, _) = candidates.min_by_key(|(id, entry)| (rank(entry), **id))?;
        let id = *id;
        self.entries.remove(&id)?.evicted.cancel();
        Some(())
    }
}

/// Returns an IPv4 address unchanged. For an IPv6 address, returns its /64 network,
/// because one client can use all the addresses in such a network.
pub(crate) fn network(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        four @ IpAddr::V4(_) => four,
    }
}

impl Place {
    /// Wraps the transport of the connection, so that a client that does not read is
    /// detected. TLS must run on top of the returned value.
    pub(crate) fn watch<S>(&self, stream: S) -> WatchedStream<S> {
        WatchedStream {
            stream,
            client: self.client.clone(),
            limit: WRITE_TIMEOUT,
            deadline: None,
        }
    }

    /// Runs `work`. Returns `None` if the connection must be closed to make room for a
    /// new one.
    pub(crate) async fn hold<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            done = work => Some(done),
            () = self.evicted.cancelled() => None,
        }
    }

    /// Serves the requests on the connection until the connection ends. Once `stop` is
    /// triggered, finishes the requests in progress and accepts no more.
    pub(crate) async fn serve<S>(
        &self,
        stream: S,
        service: TowerToHyperService<Router>,
        peer: Option<IpAddr>,
        stop: &CancellationToken,
    ) where
        S: AsyncRead + AsyncWrite + Unpin + Send,
    {
        let client = self.client.clone();
        let service = hyper::service::service_fn(move |mut request: hyper::Request<_>| {
            request.extensions_mut().insert(client.clone());
            request.extensions_mut().insert(Peer(peer));
            service.call(request)
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(READ_TIMEOUT)
            .max_buf_size(MAX_HEAD_BYTES)
            .serve_connection(TokioIo::new(stream), service);
        tokio::pin!(connection);
        // Errors are ignored because a disconnecting client is not worth a log line.
        let serving = async {
            tokio::select! {
                _ = connection.as_mut() => return,
                () = stop.cancelled() => connection.as_mut().graceful_shutdown(),
            }
            let _ = connection.await;
        };
        self.hold(serving).await;
    }
}

/// The client's address. It is absent on the control socket.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer(pub(crate) Option<IpAddr>);

/// Why a request body was not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BodyError {
    #[error("the request body is incomplete or larger than {0} bytes")]
    TooLarge(usize),
    #[error("the request body was sent too slowly")]
    TooSlow,
    #[error(
        "the daemon is busy with {PICTURE_PLACES} other pictures: send the picture again later"
    )]
    Busy,
}

/// A place in memory for a picture. The place is free again when the last clone is dropped.
#[derive(Debug, Clone)]
pub(crate) struct PicturePlace(
    #[expect(dead_code, reason = "held until it is dropped")] Arc<SemaphorePermit<'static>>,
);

/// Reads the whole body of a request, so that handlers never wait for a slow client. Adds
/// a [`PicturePlace`] to a request with a picture. Call this function only for a client
/// that has access.
pub(crate) async fn read_body(request: Request) -> Result<Request, BodyError> {
    let (mut head, body) = request.into_parts();
    let is_picture = head.method == Method::POST && PICTURE_PATHS.contains(&head.uri.path());
    let limit = if is_picture {
        let Ok(place) = FREE_PICTURE_PLACES.try_acquire() else {
            // Many clients read the response only after they have sent the whole body.
            let _ = tokio::time::timeout(READ_TIMEOUT, discard(body)).await;
            return Err(BodyError::Busy);
        };
        head.extensions.insert(PicturePlace(Arc::new(place)));
        MAX_PICTURE_BODY
    } else {
        MAX_BODY
    };
    let read = tokio::time::timeout(READ_TIMEOUT, axum::body::to_bytes(body, limit)).await;
    match read {
        Ok(Ok(bytes)) => Ok(Request::from_parts(head, Body::from(bytes))),
        Ok(Err(_)) => Err(BodyError::TooLarge(limit)),
        Err(_elapsed) => Err(BodyError::TooSlow),
    }
}

/// Reads a body of at most [`MAX_PICTURE_BODY`] bytes without keeping it.
async fn discard(body: Body) {
    let mut chunks = body.into_data_stream();
    let mut read = 0;
    while let Some(Ok(chunk)) = chunks.next().await {
        read += chunk.len();
        if read > MAX_PICTURE_BODY {
            return;
        }
    }
}

/// A transport whose writes fail if the client has read nothing for too long.
pub(crate) struct WatchedStream<S> {
    stream: S,
    client: Client,
    /// How long data may wait to be written before writes fail.
    limit: Duration,
    /// The time at which writes start to fail; `None` while no data is waiting to be
    /// written.
    deadline: Option<Pin<Box<Sleep>>>,
}

impl<S> WatchedStream<S> {
    fn written(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<std::io::Result<usize>>,
    ) -> Poll<std::io::Result<usize>> {
        if written.is_ready() {
            self.deadline = None;
            self.client.made_progress();
            return written;
        }
        let limit = self.limit;
        let deadline = self
            .deadline
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        ready!(deadline.as_mut().poll(cx));
        Poll::Ready(Err(std::io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for WatchedStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for WatchedStream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.written(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, parts);
        self.written(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        total: 8,
        per_network: 4,
    };

    fn admit(connections: &Connections, last: u8) -> Place {
        let peer = IpAddr::from([192, 0, 2, last]);
        connections.admit(Some(peer)).unwrap()
    }

    fn is_closed(place: &Place) -> bool {
        place.evicted.is_cancelled()
    }

    #[test]
    fn a_network_beyond_its_limit_closes_its_own_oldest_connection() {
        let connections = Connections::new(LIMITS);
        let owner = admit(&connections, 1);
        let strangers: Vec<Place> = (0..10).map(|_| admit(&connections, 2)).collect();
        let closed: Vec<bool> = strangers.iter().map(is_closed).collect();
        let expected: Vec<bool> = (0..10).map(|number| number < 6).collect();
        assert_eq!(closed, expected);
        assert!(!is_closed(&owner));
        drop(strangers);
        assert_eq!(connections.lock().entries.len(), 1);
    }

    #[test]
    fn many_networks_close_the_connections_of_the_most_demanding_one() {
        let connections = Connections::new(LIMITS);
        let owner = admit(&connections, 1);
        let viewer = admit(&connections, 2);
        viewer.client.prove_access();
        let mut strangers = Vec::new();
        for round in 0..20 {
            let stranger = admit(&connections, 3 + round % 2);
            assert!(!is_closed(&stranger), "the newest one is let in");
            strangers.push(stranger);
        }
        assert!(!is_closed(&owner) && !is_closed(&viewer));
        assert!(connections.lock().entries.len() <= LIMITS.total);
    }

    #[test]
    fn clients_with_access_are_closed_last() {
        let connections = Connections::new(LIMITS);
        let viewers: Vec<Place> = (0..6)
            .map(|_| {
                let viewer = admit(&connections, 1);
                viewer.client.prove_access();
                viewer
            })
            .collect();
        let strangers: Vec<Place> = (2..8).map(|last| admit(&connections, last)).collect();
        let closed: Vec<bool> = strangers.iter().map(is_closed).collect();
        assert_eq!(closed, [true, true, true, true, false, false]);
        assert!(!viewers.iter().any(is_closed));
    }

    #[test]
    fn a_request_that_is_being_handled_is_not_cut_off() {
        let connections = Connections::new(LIMITS);
        let busy: Vec<(Place, Handling)> = (0..8)
            .map(|_| {
                let place = connections.admit(None).unwrap();
                let handling = place.client.handling();
                (place, handling)
            })
            .collect();
        assert!(connections.admit(None).is_none());
        assert!(busy.iter().all(|(place, _)| !is_closed(place)));
        let mut busy = busy;
        let (idle, handling) = busy.pop().unwrap();
        drop(handling);
        let new = connections.admit(None).unwrap();
        assert!(is_closed(&idle) && !is_closed(&new));
    }

    #[test]
    fn the_addresses_of_a_network_count_as_one() {
        let six = |text: &str| network(text.parse().unwrap());
        assert_eq!(six("2001:db8::1"), six("2001:db8::2:3"));
        assert_ne!(six("2001:db8::1"), six("2001:db8:0:1::1"));
        assert_eq!(six("::ffff:10.0.0.1"), IpAddr::from([10, 0, 0, 1]));
    }

    #[test]
    fn a_write_that_makes_no_progress_fails() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        runtime.block_on(async {
            let connections = Connections::new(LIMITS);
            let place = connections.admit(None).unwrap();
            let (near, mut far) = tokio::io::duplex(16);
            let mut watched = place.watch(near);
            watched.limit = Duration::from_millis(400);
            let start = Instant::now();
            // A client that periodically reads a little is merely slow, so its connection
            // must not be closed.
            let slow = async {
                for _ in 0..4 {
                    tokio::time::sleep(Duration::from_millis(150)).await;
                    far.read_exact(&mut [0; 8]).await.unwrap();
                }
            };
            let (written, ()) = tokio::join!(watched.write_all(&[0; 40]), slow);
            written.unwrap();
            assert!(start.elapsed() > Duration::from_millis(400));
            let error = watched.write_all(&[0; 40]).await.unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
        });
    }
}
