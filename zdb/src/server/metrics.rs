//! `--metrics`: the numbers of the server over HTTP, for Prometheus.
//!
//! A thread takes the connections and has a few more for those that talk; all of them together ask the
//! loop for the text, rarely. A slow, silent or hostile scraper thus costs the loop nothing.

use super::bell::Bell;
use super::program::poll;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Most bytes of a request's head, and most of its header lines.
const REQUEST_BYTES_MAX: usize = 8 << 10;
const HEADERS_MAX: usize = 64;
/// Scrapers that are served at once.
const SCRAPERS_MAX: usize = 8;
/// How long a request may take to come, and a response to be taken.
const REQUEST_TIME_MAX: Duration = Duration::from_secs(5);
const RESPONSE_TIME_MAX: Duration = Duration::from_secs(10);
/// How long the loop may take for the text.
const TEXT_TIME_MAX: Duration = Duration::from_secs(10);
/// How old a text may be that is served again.
const TEXT_AGE_MAX: Duration = Duration::from_secs(1);
/// What a client still sends behind its request is read, so that it gets the response: so much of it.
const DRAIN_BYTES_MAX: usize = 64 << 10;
const DRAIN_TIME_MAX: Duration = Duration::from_millis(500);
/// How long after a failed accept the next is tried.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

const PATH: &str = "/metrics";
const TEXT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The door, open before anybody is served.
pub struct MetricsListener(TcpListener);

impl MetricsListener {
    pub fn bind(address: &str) -> Result<Self, String> {
        let explain = |error: io::Error| {
            format!(
                "cannot serve metrics on {address} (an address and a port, as 127.0.0.1:9901): {error}"
            )
        };
        let addresses: Vec<SocketAddr> = address.to_socket_addrs().map_err(explain)?.collect();
        let listener = TcpListener::bind(&addresses[..]).map_err(explain)?;
        listener.set_nonblocking(true).map_err(explain)?;
        Ok(Self(listener))
    }

    pub fn name(&self) -> String {
        let address = self.0.local_addr();
        format!("http://{}{PATH}", address.map_or_else(|_| "?".into(), |one| one.to_string()))
    }
}

/// Who waits for the text.
pub type Ask = Sender<String>;

/// The threads, seen from the loop.
pub struct MetricsThread {
    pub asks: Receiver<Ask>,
    stop: Bell,
    thread: Option<JoinHandle<()>>,
}

impl MetricsThread {
    /// `loop_bell` is rung after each ask.
    pub fn start(listener: MetricsListener, loop_bell: Bell) -> Result<Self, String> {
        let (asker, asks) = channel();
        let stop = Bell::new()?;
        let stopped = stop.clone();
        let source = Arc::new(Source { asker, loop_bell, last: Mutex::new(None) });
        let thread = std::thread::Builder::new()
            .name("zdb-metrics".into())
            .spawn(move || take_connections(&listener.0, &source, &stopped))
            .map_err(|error| format!("cannot start the thread for metrics: {error}"))?;
        Ok(Self { asks, stop, thread: Some(thread) })
    }
}

impl Drop for MetricsThread {
    fn drop(&mut self) {
        self.stop.ring();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Where the text comes from.
struct Source {
    asker: Sender<Ask>,
    loop_bell: Bell,
    last: Mutex<Option<(Instant, Arc<str>)>>,
}

impl Source {
    /// The text as it is now, or was a moment ago. Those who ask at once get the same.
    fn text(&self) -> Option<Arc<str>> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, text)) = &*last
            && at.elapsed() < TEXT_AGE_MAX
        {
            return Some(text.clone());
        }
        let (sender, answer) = channel();
        self.asker.send(sender).ok()?;
        self.loop_bell.ring();
        let text: Arc<str> = answer.recv_timeout(TEXT_TIME_MAX).ok()?.into();
        *last = Some((Instant::now(), text.clone()));
        Some(text)
    }
}

fn take_connections(listener: &TcpListener, source: &Arc<Source>, stop: &Bell) {
    let talking = Arc::new(AtomicUsize::new(0));
    loop {
        if poll(&[listener.as_raw_fd(), stop.descriptor()], None)[1] {
            return;
        }
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(_) => {
                // No descriptor is free, or the like: the client waits.
                poll(&[stop.descriptor()], Some(Instant::now() + ACCEPT_RETRY));
                continue;
            }
        };
        if talking.fetch_add(1, Ordering::SeqCst) >= SCRAPERS_MAX {
            talking.fetch_sub(1, Ordering::SeqCst);
            drop(stream);
            continue;
        }
        let (source, count) = (source.clone(), talking.clone());
        let talker = std::thread::Builder::new().name("zdb-scraper".into()).spawn(move || {
            // A client that goes away is no news.
            let _ = talk(stream, &source);
            count.fetch_sub(1, Ordering::SeqCst);
        });
        if talker.is_err() {
            talking.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

struct Response {
    status: &'static str,
    /// A further header line, or nothing.
    header: &'static str,
    body: Arc<str>,
    has_body: bool,
}

impl Response {
    fn error(status: &'static str, text: &str) -> Self {
        Self { status, header: "", body: format!("{text}\n").into(), has_body: true }
    }
}

fn talk(mut stream: TcpStream, source: &Source) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    let response = read_request(&mut stream, source)?;
    let head = format!(
        "HTTP/1.1 {}\r\nContent-Type: {TEXT_TYPE}\r\nContent-Length: {}\r\n{}Connection: close\r\n\r\n",
        response.status,
        response.body.len(),
        response.header
    );
    let until = Instant::now() + RESPONSE_TIME_MAX;
    write_until(&mut stream, head.as_bytes(), until)?;
    if response.has_body {
        write_until(&mut stream, response.body.as_bytes(), until)?;
    }
    stream.shutdown(Shutdown::Write)?;
    drain(&mut stream)
}

/// Reads the head of a request and says what to answer.
fn read_request(stream: &mut TcpStream, source: &Source) -> io::Result<Response> {
    let until = Instant::now() + REQUEST_TIME_MAX;
    let mut bytes = vec![0; REQUEST_BYTES_MAX];
    let mut length = 0;
    loop {
        if length == bytes.len() {
            return Ok(Response::error("431 Request Header Fields Too Large", "a long request"));
        }
        match read_until(stream, &mut bytes[length..], until) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => length += count,
            Err(error) if is_late(&error) => {
                return Ok(Response::error("408 Request Timeout", "a slow request"));
            }
            Err(error) => return Err(error),
        }
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut request = httparse::Request::new(&mut headers);
        match request.parse(&bytes[..length]) {
            Ok(httparse::Status::Complete(_)) => return Ok(answer(&request, source)),
            Ok(httparse::Status::Partial) => {}
            Err(httparse::Error::TooManyHeaders) => {
                return Ok(Response::error("431 Request Header Fields Too Large", "many headers"));
            }
            Err(error) => return Ok(Response::error("400 Bad Request", &error.to_string())),
        }
    }
}

fn answer(request: &httparse::Request<'_, '_>, source: &Source) -> Response {
    let path = request.path.unwrap_or_default();
    // A scraper may put parameters behind it; there are none that mean something.
    if path.split('?').next() != Some(PATH) {
        return Response::error("404 Not Found", "the metrics are at /metrics");
    }
    let has_body = match request.method {
        Some("GET") => true,
        Some("HEAD") => false,
        _ => {
            let refused = Response::error("405 Method Not Allowed", "the metrics can be read");
            return Response { header: "Allow: GET, HEAD\r\n", ..refused };
        }
    };
    match source.text() {
        Some(body) => Response { status: "200 OK", header: "", body, has_body },
        None => Response::error("503 Service Unavailable", "the server is busy or stopping"),
    }
}

fn left(until: Instant) -> io::Result<Duration> {
    match until.saturating_duration_since(Instant::now()) {
        Duration::ZERO => Err(io::ErrorKind::TimedOut.into()),
        left => Ok(left),
    }
}

fn is_late(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock)
}

fn read_until(stream: &mut TcpStream, bytes: &mut [u8], until: Instant) -> io::Result<usize> {
    stream.set_read_timeout(Some(left(until)?))?;
    stream.read(bytes)
}

fn write_until(stream: &mut TcpStream, mut bytes: &[u8], until: Instant) -> io::Result<()> {
    while !bytes.is_empty() {
        stream.set_write_timeout(Some(left(until)?))?;
        match stream.write(bytes)? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            count => bytes = &bytes[count..],
        }
    }
    Ok(())
}

/// Closing a socket with unread input would reset it, and take the response away.
fn drain(stream: &mut TcpStream) -> io::Result<()> {
    let until = Instant::now() + DRAIN_TIME_MAX;
    let mut scratch = [0; 4096];
    let mut total = 0;
    while total < DRAIN_BYTES_MAX {
        match read_until(stream, &mut scratch, until)? {
            0 => break,
            count => total += count,
        }
    }
    Ok(())
}
