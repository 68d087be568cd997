//! Malformed requests, inline commands, and the limits of requests.

use compat_tests::client::{encode, encoded};
use compat_tests::server::poll;
use compat_tests::{Reply, Server, args};
use std::time::Duration;

const MIB: usize = 1 << 20;
/// Largest bulk argument, in bytes.
const ARGUMENT_BYTES_MAX: usize = 8 * MIB;

// Malformed requests

/// Sends bytes on a connection of their own; the reply must come and the connection end.
#[track_caller]
fn refused(server: &Server, bytes: &[u8], text: &str) {
    let shown = || bytes[..bytes.len().min(60)].escape_ascii().to_string();
    let mut client = server.connect();
    // A correct request before it is answered; what follows it is dropped.
    let mut packet = encoded(args!["PING"]);
    packet.extend_from_slice(bytes);
    client.send_raw(&packet).expect("it is sent");
    let pong =
        client.receive().unwrap_or_else(|error| panic!("{}: no reply to PING: {error}", shown()));
    assert_eq!(pong, Reply::Simple("PONG".into()), "{}", shown());
    let reply = client.receive().unwrap_or_else(|error| panic!("{}: no reply: {error}", shown()));
    assert_eq!(reply, Reply::error(text), "{}", shown());
    client.wait_closed().unwrap_or_else(|error| panic!("{}: {error}", shown()));
}

const ARRAY_EXPECTED: &str = "Malformed request, array expected";
const MALFORMED: &str = "Malformed query string";

#[test]
fn malformed_requests_are_refused_and_closed() {
    let server = Server::start::<&str>(&[]);
    for (bytes, text) in [
        (&b"$4\r\nPING\r\n"[..], ARRAY_EXPECTED),
        (b"+PING\r\n", ARRAY_EXPECTED),
        (b"-x\r\n", ARRAY_EXPECTED),
        (b":1\r\n", ARRAY_EXPECTED),
        (b"1 2 3\r\n", ARRAY_EXPECTED),
        (b"\0\0\0\0\r\n", ARRAY_EXPECTED),
        (b"\xff\xfe\r\n", ARRAY_EXPECTED),
        (b"{\"a\":1}\r\n", ARRAY_EXPECTED),
        (b"\x16\x03\x01\x02\0\x01\0", ARRAY_EXPECTED),
        (b"*0\r\n", "Missing arguments"),
        (b"*\r\n", "Missing arguments"),
        (b"*x\r\n", "Missing arguments"),
        (b"*-1\r\n", "Internal memory error"),
        (b"*-99999999999\r\n", "Internal memory error"),
        (b"*1025\r\n", "Too many arguments"),
        (b"*2147483648\r\n", "Too many arguments"),
        (b"*99999999999999999999\r\n", "Too many arguments"),
        (b"*1\r\n+PING\r\n", MALFORMED),
        (b"*1\r\n:1\r\n", MALFORMED),
        (b"*1\r\nPING\r\n", MALFORMED),
        (b"*1\r\n*1\r\n$4\r\nPING\r\n", MALFORMED),
        (b"*2\r\n$3\r\nGET\r\nkey\r\n", MALFORMED),
        (b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$-1\r\n", MALFORMED),
        (b"*2\r\n$-3\r\n", MALFORMED),
        (b"*1\r\n$x\r\n", MALFORMED),
        (b"*1\r\n$\r\n", MALFORMED),
        (b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$8388609\r\n", "Payload too big"),
        (b"*1\r\n$4294967300\r\n", "Payload too big"),
        (b"*1\r\n$99999999999999999999\r\n", "Payload too big"),
    ] {
        refused(&server, bytes, text);
        // The same with more behind it than the server reads: the reply still arrives.
        let mut more = bytes.to_vec();
        more.extend_from_slice(&encoded(args!["SET", "never", "written"]).repeat(20));
        refused(&server, &more, text);
        server.ask_others();
    }
    server.connect().expect(args!["GET", "never"], Reply::Nil);
}

/// Errors of framing are seen in the header, before any payload is sent.
#[test]
fn the_header_is_enough_to_refuse() {
    let server = Server::start::<&str>(&[]);
    let mut client = server.connect();
    client.send_raw(b"*3\r\n$3\r\nSET\r\n$3\r\nkey\r\n$8388609\r\n").expect("it is sent");
    assert_eq!(client.receive().expect("a reply"), Reply::error("Payload too big"));
    client.wait_closed().expect("the framing is lost");
}

#[test]
fn endless_lines_are_closed() {
    let server = Server::start::<&str>(&[]);
    for (start, filler) in
        [("*", '1'), ("*1\r\n$", '1'), ("*", ' '), ("PING ", 'x'), ("SET \"", 'x'), ("*1\r\n", '$')]
    {
        let mut client = server.connect();
        let _ = client.send_raw(start.as_bytes());
        let line = filler.to_string().repeat(4096);
        let ended = poll(Duration::from_secs(10), || {
            // After the close a send fails: that is what this waits for.
            client.send_raw(line.as_bytes()).is_err().then_some(())
        });
        assert!(ended.is_some(), "a line {start:?} of {filler:?} without an end is read for ever");
        server.ask_others();
    }
}

#[test]
fn inline_commands() {
    let server = Server::start::<&str>(&[]);
    let mut client = server.connect();
    client
        .send_raw(b"PING\r\nping\nSET key \"a \\x62\\\"\\n\"\r\nGET key\r\n  \r\nECHO 'it\\'s'\r\n")
        .expect("it is sent");
    assert_eq!(client.receive().expect("a reply"), Reply::Simple("PONG".into()));
    assert_eq!(client.receive().expect("a reply"), Reply::Simple("PONG".into()));
    assert_eq!(client.receive().expect("a reply"), Reply::bulk("key"));
    assert_eq!(client.receive().expect("a reply"), Reply::bulk("a b\"\n"));
    assert_eq!(client.receive().expect("a reply"), Reply::bulk("it's"));
    for unbalanced in ["ECHO \"a\r\n", "ECHO 'a\r\n", "ECHO \"a\"b\r\n"] {
        refused(&server, unbalanced.as_bytes(), "Unbalanced quotes in request");
    }
}

#[test]
fn a_command_with_a_long_name_is_unknown() {
    let server = Server::start::<&str>(&[]);
    let mut client = server.connect();
    for length in [8 * 1024, MIB, ARGUMENT_BYTES_MAX] {
        client.expect(&[vec![b'x'; length]], Reply::error("Command not supported"));
    }
    client.expect(args!["PING"], Reply::Simple("PONG".into()));
}

// Limits

#[test]
fn payloads_at_the_limit_and_beyond() {
    let server = Server::start::<&str>(&[]);
    let mut client = server.connect();
    for (number, byte) in [b'a', b'b'].into_iter().enumerate() {
        let value = vec![byte; ARGUMENT_BYTES_MAX];
        client.expect(args!["SET", "key", value], Reply::bulk("key"));
        assert_eq!(client.call(args!["GET", "key"]), Reply::bulk(&value), "value {number}");
        client.expect(args!["LENGTH", "key"], Reply::Integer(ARGUMENT_BYTES_MAX as i64));
        client.expect(args!["SET", "key", value], Reply::Nil);
    }
    let mut requests = Vec::new();
    (0..12).for_each(|number| {
        encode(
            args!["SET", format!("large{number}"), vec![number; ARGUMENT_BYTES_MAX]],
            &mut requests,
        );
    });
    let (replies, ending) = client.pipeline(&requests, 12);
    ending.expect("all replies come");
    assert!(replies.iter().all(|reply| matches!(reply, Reply::Bulk(_))), "{replies:?}");
    for number in 0..12 {
        let reply = client.call(args!["GET", format!("large{number}")]);
        assert_eq!(reply, Reply::bulk(vec![number; ARGUMENT_BYTES_MAX]));
    }
    refused(
        &server,
        format!("*3\r\n$3\r\nSET\r\n$3\r\nkey\r\n${}\r\n", ARGUMENT_BYTES_MAX + 1).as_bytes(),
        "Payload too big",
    );
    client.expect(args!["LENGTH", "key"], Reply::Integer(ARGUMENT_BYTES_MAX as i64));
}

/// All arguments together: 16 MiB, however they are divided.
#[test]
fn requests_beyond_the_total_are_refused() {
    let server = Server::start::<&str>(&[]);
    let mut client = server.connect();
    // A reply may come before all is sent: the pipeline reads while it writes.
    let part = vec![b'x'; 4 * MIB];
    let (replies, ending) = client.pipeline(&encoded(args!["MGET", part, part, part]), 1);
    assert_eq!((replies, ending.is_ok()), (vec![Reply::error("Invalid key")], true));
    let too_much = encoded(args!["MGET", part, part, part, part]);
    let (replies, _) = client.pipeline(&too_much, 1);
    assert_eq!(replies, [Reply::error("Payload too big")]);
    server.ask_others();
}

#[test]
fn many_arguments() {
    let server = Server::start::<&str>(&[]);
    let mut client = server.connect();
    let mut request = vec!["MGET".to_owned()];
    request.extend((0..1023).map(|number| number.to_string()));
    client.expect(&request, Reply::Array(vec![Reply::Nil; 1023]));
    request[0] = "PING".into();
    client.expect(&request, Reply::Simple("PONG".into()));
    request[0] = "SET".into();
    client.expect(&request, Reply::error("Unexpected arguments"));
}
