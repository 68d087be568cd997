//! A small blocking client: requests as bytes, replies decoded by `redis-protocol`.
//!
//! It knows nothing of commands but HELLO, whose reply comes in the protocol it asks for.

use crate::reply::Reply;
use bytes::BytesMut;
use redis_protocol::{resp2, resp3};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

type TlsStream = rustls::StreamOwned<rustls::ClientConnection, TcpStream>;

/// No reply takes longer, on a slow machine either; a test that waits longer has found a fault.
pub const REPLY_TIME_MAX: Duration = Duration::from_secs(60);

/// A pipeline above this is written by a second thread, so that neither side waits for the other
/// to read (half of the smallest default socket buffers).
const PIPELINE_BYTES_INLINE_MAX: usize = 32 * 1024;

/// One `&[&[u8]]` from arguments of different types.
#[macro_export]
macro_rules! args {
    ($($argument:expr),* $(,)?) => { &[$(AsRef::<[u8]>::as_ref(&$argument)),*][..] };
}

/// Appends a request as an array of bulk strings.
pub fn encode<A: AsRef<[u8]>>(arguments: &[A], output: &mut Vec<u8>) {
    output.extend_from_slice(format!("*{}\r\n", arguments.len()).as_bytes());
    for argument in arguments {
        let argument = argument.as_ref();
        output.extend_from_slice(format!("${}\r\n", argument.len()).as_bytes());
        output.extend_from_slice(argument);
        output.extend_from_slice(b"\r\n");
    }
}

/// One request as bytes.
pub fn encoded<A: AsRef<[u8]>>(arguments: &[A]) -> Vec<u8> {
    let mut output = Vec::new();
    encode(arguments, &mut output);
    output
}

enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Box<TlsStream>),
}

impl Stream {
    fn try_clone(&self) -> io::Result<Stream> {
        Ok(match self {
            Stream::Tcp(stream) => Stream::Tcp(stream.try_clone()?),
            Stream::Unix(stream) => Stream::Unix(stream.try_clone()?),
            Stream::Tls(_) => return Err(io::ErrorKind::Unsupported.into()),
        })
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Stream::Tcp(stream) => stream.write_all(bytes),
            Stream::Unix(stream) => stream.write_all(bytes),
            Stream::Tls(stream) => {
                stream.write_all(bytes)?;
                stream.flush()
            }
        }
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => stream.read(buffer),
            Stream::Unix(stream) => stream.read(buffer),
            Stream::Tls(stream) => stream.read(buffer),
        }
    }
}

pub struct Client {
    stream: Stream,
    input: BytesMut,
    scratch: Box<[u8]>,
    resp3: bool,
}

impl Client {
    pub fn connect(address: SocketAddr) -> io::Result<Client> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(REPLY_TIME_MAX))?;
        stream.set_write_timeout(Some(REPLY_TIME_MAX))?;
        Ok(Client::over(Stream::Tcp(stream)))
    }

    /// The same where the server may be behind a cut cable, or stopped: neither the connection nor a reply may take
    /// longer than this.
    pub fn connect_within(address: SocketAddr, time_max: Duration) -> io::Result<Client> {
        let stream = TcpStream::connect_timeout(&address, time_max)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(time_max))?;
        stream.set_write_timeout(Some(time_max))?;
        Ok(Client::over(Stream::Tcp(stream)))
    }

    /// The other end: a connection that a test has taken.
    pub fn accepted(stream: TcpStream) -> io::Result<Client> {
        stream.set_nonblocking(false)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(REPLY_TIME_MAX))?;
        stream.set_write_timeout(Some(REPLY_TIME_MAX))?;
        Ok(Client::over(Stream::Tcp(stream)))
    }

    pub fn connect_unix(path: &Path) -> io::Result<Client> {
        let stream = UnixStream::connect(path)?;
        stream.set_read_timeout(Some(REPLY_TIME_MAX))?;
        stream.set_write_timeout(Some(REPLY_TIME_MAX))?;
        Ok(Client::over(Stream::Unix(stream)))
    }

    /// Over TLS; the handshake is made with the first request.
    pub fn connect_tls(
        address: SocketAddr,
        config: std::sync::Arc<rustls::ClientConfig>,
    ) -> io::Result<Client> {
        let name = "localhost".try_into().expect("a name");
        let connection = rustls::ClientConnection::new(config, name).map_err(io::Error::other)?;
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(REPLY_TIME_MAX))?;
        stream.set_write_timeout(Some(REPLY_TIME_MAX))?;
        Ok(Client::over(Stream::Tls(Box::new(TlsStream::new(connection, stream)))))
    }

    fn over(stream: Stream) -> Client {
        Client {
            stream,
            input: BytesMut::new(),
            scratch: vec![0; 256 * 1024].into_boxed_slice(),
            resp3: false,
        }
    }

    /// The TLS side of a client over TLS.
    pub fn tls(&mut self) -> &mut TlsStream {
        match &mut self.stream {
            Stream::Tls(stream) => stream,
            _ => panic!("this client does not speak TLS"),
        }
    }

    /// The socket of a TCP client, for time limits and half-closes.
    pub fn tcp(&self) -> &TcpStream {
        match &self.stream {
            Stream::Tcp(stream) => stream,
            Stream::Tls(stream) => &stream.sock,
            Stream::Unix(_) => panic!("this client is connected over a unix socket"),
        }
    }

    /// Sends one request and waits for its reply.
    pub fn try_call<A: AsRef<[u8]>>(&mut self, arguments: &[A]) -> io::Result<Reply> {
        self.send_raw(&encoded(arguments))?;
        self.receive_for(arguments)
    }

    /// Sends one request; panics where the connection breaks.
    #[track_caller]
    pub fn call<A: AsRef<[u8]>>(&mut self, arguments: &[A]) -> Reply {
        match self.try_call(arguments) {
            Ok(reply) => reply,
            Err(error) => panic!("no reply to {}: {error}", show(arguments)),
        }
    }

    /// Sends one request and compares the reply.
    #[track_caller]
    pub fn expect<A: AsRef<[u8]>>(&mut self, arguments: &[A], expected: Reply) {
        let reply = self.call(arguments);
        assert_eq!(reply, expected, "reply to {}", show(arguments));
    }

    pub fn send_raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// The reply to `arguments`: HELLO changes the protocol of its own reply.
    pub fn receive_for<A: AsRef<[u8]>>(&mut self, arguments: &[A]) -> io::Result<Reply> {
        let before = self.resp3;
        if let [name, version, ..] = arguments
            && name.as_ref().eq_ignore_ascii_case(b"HELLO")
        {
            self.resp3 = version.as_ref() == b"3";
        }
        if arguments.first().is_some_and(|name| name.as_ref().eq_ignore_ascii_case(b"RESET")) {
            self.resp3 = false;
        }
        let reply = self.receive()?;
        if reply.is_error() {
            self.resp3 = before;
        }
        Ok(reply)
    }

    /// Waits for the next reply. A closed connection is `UnexpectedEof`.
    pub fn receive(&mut self) -> io::Result<Reply> {
        loop {
            if let Some(reply) = self.decode()? {
                return Ok(reply);
            }
            let count = self.stream.read(&mut self.scratch)?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.input.extend_from_slice(&self.scratch[..count]);
        }
    }

    /// Writes requests that are already encoded and reads `count` replies, while writing where the
    /// bytes are many. Returns the replies that came before the connection broke, and why it broke.
    pub fn pipeline(&mut self, requests: &[u8], count: usize) -> (Vec<Reply>, io::Result<()>) {
        if requests.len() <= PIPELINE_BYTES_INLINE_MAX {
            let written = self.send_raw(requests);
            let (replies, read) = self.receive_many(count);
            return (replies, written.and(read));
        }
        let mut writer = match self.stream.try_clone() {
            Ok(writer) => writer,
            Err(error) => return (Vec::new(), Err(error)),
        };
        std::thread::scope(|scope| {
            let writing = scope.spawn(move || writer.write_all(requests));
            let (replies, read) = self.receive_many(count);
            (replies, writing.join().expect("the writing thread lives").and(read))
        })
    }

    fn receive_many(&mut self, count: usize) -> (Vec<Reply>, io::Result<()>) {
        let mut replies = Vec::with_capacity(count);
        while replies.len() < count {
            match self.receive() {
                Ok(reply) => replies.push(reply),
                Err(error) => return (replies, Err(error)),
            }
        }
        (replies, Ok(()))
    }

    /// Waits until the server closes the connection; what it still says is an error.
    pub fn wait_closed(&mut self) -> Result<(), String> {
        if !self.input.is_empty() {
            return Err(format!("more bytes before the close: \"{}\"", self.input.escape_ascii()));
        }
        match self.stream.read(&mut self.scratch) {
            Ok(0) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(()),
            Ok(count) => Err(format!(
                "more bytes instead of the close: \"{}\"",
                self.scratch[..count].escape_ascii()
            )),
            Err(error) => Err(format!("the connection is still open: {error}")),
        }
    }

    /// Whether nothing has arrived beyond the replies already taken.
    pub fn is_quiet(&mut self) -> bool {
        let set = |stream: &Stream, on| match stream {
            Stream::Tcp(stream) => stream.set_nonblocking(on),
            Stream::Unix(stream) => stream.set_nonblocking(on),
            Stream::Tls(stream) => stream.sock.set_nonblocking(on),
        };
        if set(&self.stream, true).is_err() {
            return false;
        }
        let count = self.stream.read(&mut self.scratch);
        set(&self.stream, false).is_ok()
            && self.input.is_empty()
            && matches!(count, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    fn decode(&mut self) -> io::Result<Option<Reply>> {
        if self.input.is_empty() {
            return Ok(None);
        }
        let invalid = |error| io::Error::new(io::ErrorKind::InvalidData, format!("{error:?}"));
        Ok(if self.resp3 {
            let decoded =
                resp3::decode::complete::decode_bytes_mut(&mut self.input).map_err(invalid)?;
            decoded.map(|(frame, _, _)| frame.into())
        } else {
            let decoded = resp2::decode::decode_bytes_mut(&mut self.input).map_err(invalid)?;
            decoded.map(|(frame, _, _)| frame.into())
        })
    }
}

/// A request for a message, long arguments cut.
pub fn show<A: AsRef<[u8]>>(arguments: &[A]) -> String {
    let mut text = String::new();
    for argument in arguments {
        let argument = argument.as_ref();
        let cut = &argument[..argument.len().min(40)];
        text.push_str(&format!("\"{}\"", cut.escape_ascii()));
        text.push_str(if cut.len() < argument.len() { "... " } else { " " });
    }
    text
}
