//! Each fault of the proxy between real sockets.

use super::*;
use crate::server::poll;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::time::Instant;

/// What takes longer hangs.
const TIME_MAX: Duration = Duration::from_secs(20);
/// In this time loopback has brought what it brings.
const SILENCE: Duration = Duration::from_millis(60);

struct Ends {
    proxy: Proxy,
    listener: TcpListener,
    near: TcpStream,
    far: TcpStream,
}

fn listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").expect("a free port")
}

fn connect(proxy: &Proxy) -> TcpStream {
    let stream = TcpStream::connect(proxy.address()).expect("the proxy listens");
    prepared(stream)
}

fn prepared(stream: TcpStream) -> TcpStream {
    stream.set_read_timeout(Some(TIME_MAX)).expect("a socket takes it");
    stream.set_write_timeout(Some(TIME_MAX)).expect("a socket takes it");
    stream.set_nodelay(true).expect("a socket takes it");
    stream
}

impl Ends {
    fn new(line_bytes_max: usize) -> Ends {
        let listener = listener();
        let to = listener.local_addr().expect("it is bound");
        let listen = "127.0.0.1:0".parse().expect("an address");
        let proxy = Proxy::listen(listen, to, line_bytes_max).expect("a free port");
        let near = connect(&proxy);
        let far = prepared(listener.accept().expect("the proxy connects").0);
        Ends { proxy, listener, near, far }
    }

    #[track_caller]
    fn wait_for(&self, what: &str, holds: impl Fn(&Counts) -> bool) -> Counts {
        let counts = poll(TIME_MAX, || Some(self.proxy.counts()).filter(&holds));
        counts.unwrap_or_else(|| panic!("no {what}: {:?}", self.proxy.counts()))
    }
}

#[track_caller]
fn receive(stream: &mut TcpStream, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    stream.read_exact(&mut bytes).expect("the bytes come");
    bytes
}

#[track_caller]
fn assert_silent(stream: &mut TcpStream) {
    stream.set_read_timeout(Some(SILENCE)).expect("a socket takes it");
    let error = stream.read(&mut [0]).expect_err("nothing comes");
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
    stream.set_read_timeout(Some(TIME_MAX)).expect("a socket takes it");
}

#[track_caller]
fn assert_reset(stream: &mut TcpStream) {
    let error = stream.read(&mut [0]).expect_err("a reset comes");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

#[track_caller]
fn assert_end(stream: &mut TcpStream) {
    assert_eq!(stream.read(&mut [0]).expect("the end comes"), 0);
}

#[test]
fn bytes_and_half_closes_pass_and_are_counted() {
    let mut ends = Ends::new(LINE_BYTES_MAX);
    ends.near.write_all(b"there").expect("it is connected");
    assert_eq!(receive(&mut ends.far, 5), b"there");
    ends.near.shutdown(Shutdown::Write).expect("it is connected");
    assert_end(&mut ends.far);
    // The other way goes on.
    ends.far.write_all(b"and back").expect("it is connected");
    assert_eq!(receive(&mut ends.near, 8), b"and back");
    let counts = ends.proxy.counts();
    assert_eq!((counts.accepted_count, counts.open_count), (1, 1));
    assert_eq!(counts.way(Way::There).forwarded_bytes, 5);
    assert_eq!(counts.way(Way::Back).forwarded_bytes, 8);
    ends.far.shutdown(Shutdown::Write).expect("it is connected");
    assert_end(&mut ends.near);
    let counts = ends.wait_for("end of the connection", |counts| counts.open_count == 0);
    assert_eq!(counts.way(Way::Back).received_bytes, 8, "what was counted stays");
    assert_eq!(counts.way(Way::Back).lost_bytes, 0);
}

#[test]
fn a_peer_that_resets_is_a_reset_for_the_other() {
    let mut ends = Ends::new(LINE_BYTES_MAX);
    rustix::net::sockopt::set_socket_linger(&ends.near, Some(Duration::ZERO)).expect("it takes it");
    ends.near.write_all(b"last words").expect("it is connected");
    assert_eq!(receive(&mut ends.far, 10), b"last words");
    drop(ends.near);
    assert_reset(&mut ends.far);
}

/// Many bytes take no longer than one: it is a line, not a pause for each.
#[test]
fn a_delay_keeps_the_bandwidth() {
    let delay = Duration::from_millis(150);
    let mut ends = Ends::new(LINE_BYTES_MAX);
    ends.proxy.set(Way::There, Link::delayed(delay));
    let bytes: Vec<u8> = (0..4 << 20).map(|at| (at % 251) as u8).collect();
    let started = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| ends.near.write_all(&bytes).expect("there is room"));
        receive(&mut ends.far, 1);
        assert!(started.elapsed() >= delay, "{:?}", started.elapsed());
        assert_eq!(receive(&mut ends.far, bytes.len() - 1), bytes[1..]);
        // 64 reads of 64 KiB, each delayed for itself, would take ten seconds.
        let elapsed = started.elapsed();
        assert!(elapsed < Duration::from_secs(3), "{elapsed:?}");
    });
    let started = Instant::now();
    ends.far.write_all(b"x").expect("it is connected");
    receive(&mut ends.near, 1);
    assert!(started.elapsed() < delay, "the way back is not delayed: {:?}", started.elapsed());
}

#[test]
fn a_throttle_keeps_its_rate() {
    let mut ends = Ends::new(LINE_BYTES_MAX);
    ends.proxy.set(Way::Back, Link::throttled(200_000));
    ends.far.write_all(&[7; 100_000]).expect("there is room");
    let started = Instant::now();
    receive(&mut ends.near, 100_000);
    let elapsed = started.elapsed();
    assert!(elapsed > Duration::from_millis(400), "{elapsed:?}");
    assert!(elapsed < Duration::from_secs(3), "{elapsed:?}");
}

#[test]
fn a_stalled_way_takes_and_holds_what_fits_and_then_stops_reading() {
    const ROOM: usize = 256 * 1024;
    let mut ends = Ends::new(ROOM);
    ends.proxy.set(Way::There, Link::STALLED);
    // New connections are taken, too.
    let _second = connect(&ends.proxy);
    ends.listener.accept().expect("the proxy connects");
    let mut writer = ends.near.try_clone().expect("a socket can be cloned");
    // Far more than the proxy and both sockets' buffers: it ends only when the bytes are taken.
    let writing = std::thread::spawn(move || writer.write_all(&vec![1; 24 << 20]).is_ok());
    let counts =
        ends.wait_for("full line", |counts| counts.way(Way::There).received_bytes >= ROOM as u64);
    assert_silent(&mut ends.far);
    let held = ends.proxy.counts().way(Way::There).received_bytes;
    assert!(held < (ROOM + 65536) as u64, "{held} bytes are held, {counts:?}");
    assert!(!writing.is_finished());
    // The other way is not stalled.
    ends.far.write_all(b"back").expect("it is connected");
    assert_eq!(receive(&mut ends.near, 4), b"back");
    ends.proxy.set(Way::There, Link::PASS);
    assert!(receive(&mut ends.far, 24 << 20).iter().all(|&byte| byte == 1));
    assert!(writing.join().expect("the writing thread lives"));
}

#[test]
fn a_cut_ends_both_sides() {
    let mut ends = Ends::new(LINE_BYTES_MAX);
    ends.proxy.cut(Cut::Reset);
    assert_reset(&mut ends.near);
    assert_reset(&mut ends.far);
    assert_eq!(ends.proxy.counts().open_count, 0);
    let mut ends = Ends::new(LINE_BYTES_MAX);
    ends.proxy.cut(Cut::Fin);
    assert_end(&mut ends.near);
    assert_end(&mut ends.far);
    // New connections go through.
    let mut near = connect(&ends.proxy);
    let mut far = ends.listener.accept().expect("the proxy connects").0;
    near.write_all(b"new").expect("it is connected");
    assert_eq!(receive(&mut far, 3), b"new");
}

#[test]
fn a_cut_of_one_way_leaves_its_sender_in_the_dark() {
    let mut ends = Ends::new(LINE_BYTES_MAX);
    ends.proxy.cut_way(Way::There, Cut::Reset);
    assert_reset(&mut ends.far);
    assert_silent(&mut ends.near);
    ends.near.write_all(b"nobody hears").expect("nobody told it");
    ends.wait_for("lost bytes", |counts| counts.way(Way::There).lost_bytes == 12);
    assert_silent(&mut ends.near);
    let mut ends = Ends::new(LINE_BYTES_MAX);
    ends.proxy.cut_way(Way::There, Cut::Fin);
    assert_end(&mut ends.far);
    ends.near.write_all(b"nobody hears").expect("nobody told it");
    ends.far.write_all(b"still here").expect("this way is whole");
    assert_eq!(receive(&mut ends.near, 10), b"still here");
    ends.wait_for("lost bytes", |counts| counts.way(Way::There).lost_bytes == 12);
}

#[test]
fn new_connections_are_refused_and_open_ones_stay() {
    let mut ends = Ends::new(LINE_BYTES_MAX);
    for _ in 0..3 {
        ends.proxy.refuse(true);
        let error = TcpStream::connect(ends.proxy.address()).expect_err("it is refused");
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
        ends.near.write_all(b"open").expect("it is connected");
        assert_eq!(receive(&mut ends.far, 4), b"open");
        ends.proxy.refuse(false);
        drop(connect(&ends.proxy));
        ends.listener.accept().expect("the proxy connects");
    }
    assert_eq!(ends.proxy.counts().accepted_count, 4);
}

#[test]
fn a_server_that_is_not_there_is_a_reset() {
    let to = listener().local_addr().expect("it was bound");
    let proxy = Proxy::start(to);
    let mut near = connect(&proxy);
    assert_reset(&mut near);
    let counts = poll(TIME_MAX, || Some(proxy.counts()).filter(|counts| counts.open_count == 0));
    assert_eq!(counts.map(|counts| counts.unreachable_count), Some(1));
}

#[test]
fn bits_are_flipped_where_it_was_said() {
    let mut ends = Ends::new(LINE_BYTES_MAX);
    ends.near.write_all(&[0; 1000]).expect("it is connected");
    assert_eq!(receive(&mut ends.far, 1000), [0; 1000]);
    ends.proxy.set(Way::There, Link::flipping(500, 42));
    ends.near.write_all(&[0; 10_000]).expect("it is connected");
    ends.far.write_all(&[0; 10_000]).expect("it is connected");
    for window in receive(&mut ends.far, 10_000).chunks(500) {
        assert_eq!(window.iter().map(|byte| byte.count_ones()).sum::<u32>(), 1);
    }
    assert_eq!(receive(&mut ends.near, 10_000), [0; 10_000]);
    assert_eq!(ends.proxy.counts().way(Way::There).flipped_bits, 20);
}

#[test]
fn the_end_of_the_proxy_is_the_end_of_its_connections() {
    let mut ends = Ends::new(LINE_BYTES_MAX);
    let address = ends.proxy.address();
    drop(ends.proxy);
    assert_end(&mut ends.near);
    assert_end(&mut ends.far);
    assert!(TcpStream::connect(address).is_err());
}
