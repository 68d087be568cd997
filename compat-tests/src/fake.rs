//! The model behind a socket: a server without a disk, whose connections break when they are told to.

use crate::model::Model;
use crate::reply::Reply;
use bytes::BytesMut;
use redis_protocol::resp2;
use redis_protocol::resp2::types::{BytesFrame, Resp2Frame};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A connection that gets no more replies is closed when no request comes for this long.
const LAST_REQUESTS_TIME_MAX: Duration = Duration::from_millis(20);

/// When each connection breaks: after `executed` requests, of which `answered` had a reply.
#[derive(Clone, Copy, Debug)]
pub struct Break {
    pub executed: usize,
    pub answered: usize,
}

impl Break {
    pub const NEVER: Break = Break { executed: usize::MAX, answered: usize::MAX };
}

/// It listens until the process ends; arrays of bulk strings and RESP2 only.
pub struct Fake {
    address: SocketAddr,
    breaks: Arc<Mutex<Break>>,
}

impl Fake {
    pub fn start(model: Model) -> Fake {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let model = Arc::new(Mutex::new(model));
        let breaks = Arc::new(Mutex::new(Break::NEVER));
        let of_new = breaks.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let model = model.clone();
                let breaks = *of_new.lock().expect("nobody panics with the lock");
                std::thread::spawn(move || serve(stream, &model, breaks));
            }
        });
        Fake { address, breaks }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// When connections break from now on; those that are open stay as they are.
    pub fn set_break(&self, breaks: Break) {
        *self.breaks.lock().expect("nobody panics with the lock") = breaks;
    }
}

fn serve(mut stream: TcpStream, model: &Mutex<Model>, breaks: Break) {
    // Replies of a pipeline go out one by one: none waits for the client's acknowledgement.
    stream.set_nodelay(true).expect("a socket takes the option");
    let mut session = model.lock().expect("the model does not panic").session();
    let mut input = BytesMut::new();
    let mut scratch = vec![0; 65536];
    let mut count = 0;
    loop {
        while let Ok(Some((frame, _, _))) = resp2::decode::decode_bytes_mut(&mut input) {
            if count == breaks.executed {
                return;
            }
            let BytesFrame::Array(arguments) = frame else {
                return;
            };
            let arguments: Vec<&[u8]> = arguments.iter().filter_map(BytesFrame::as_bytes).collect();
            let reply =
                model.lock().expect("the model does not panic").execute(&mut session, &arguments);
            if count < breaks.answered {
                let mut output = Vec::new();
                write_reply(&reply, &mut output);
                // A client that has gone wants no reply.
                let _ = stream.write_all(&output);
            }
            count += 1;
            if session.is_closed() {
                return;
            }
        }
        if count > breaks.answered {
            // The client waits for a reply that never comes: what it has sent will be here soon.
            let soon = stream.set_read_timeout(Some(LAST_REQUESTS_TIME_MAX));
            soon.expect("a socket takes a time limit");
        }
        match stream.read(&mut scratch) {
            Ok(0) | Err(_) => return,
            Ok(read) => input.extend_from_slice(&scratch[..read]),
        }
    }
}

fn write_reply(reply: &Reply, output: &mut Vec<u8>) {
    match reply {
        Reply::Nil => output.extend_from_slice(b"$-1\r\n"),
        Reply::Simple(text) => output.extend(format!("+{text}\r\n").into_bytes()),
        Reply::Error(text) => output.extend(format!("-{text}\r\n").into_bytes()),
        Reply::Integer(value) => output.extend(format!(":{value}\r\n").into_bytes()),
        Reply::Bulk(bytes) => {
            output.extend(format!("${}\r\n", bytes.len()).into_bytes());
            output.extend_from_slice(bytes);
            output.extend_from_slice(b"\r\n");
        }
        Reply::Array(elements) => {
            output.extend(format!("*{}\r\n", elements.len()).into_bytes());
            elements.iter().for_each(|element| write_reply(element, output));
        }
        Reply::Map(_) | Reply::Push(_) => unreachable!("the sessions speak RESP2"),
    }
}
