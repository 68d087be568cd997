//! The thread of a proxy: its listener, its connections, its orders, in one loop over poll(2).

use super::line::{Line, Next};
use super::{Counts, Cut, Link, Way, WayCounts};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, socket_with, sockopt};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender};
use std::time::{Duration, Instant};

const READ_BYTES: usize = 64 * 1024;

pub enum Order {
    Set(Way, Link),
    Cut(Vec<Way>, Cut),
    Refuse(bool),
    Count,
    End,
}

/// A socket, by the index of its pair and its side, and what it is ready for.
type Ready = ((usize, usize), PollFlags);

pub struct Relay {
    address: SocketAddr,
    to: SocketAddr,
    line_bytes_max: usize,
    links: [Link; 2],
    /// Keeps the port while new connections are refused: bound, and never listening.
    _port: OwnedFd,
    listener: Option<TcpListener>,
    pairs: Vec<Pair>,
    /// Of connections that are gone.
    ended: [WayCounts; 2],
    accepted_count: u64,
    unreachable_count: u64,
    bell: Arc<OwnedFd>,
    orders: Receiver<(Order, SyncSender<Counts>)>,
    scratch: Vec<u8>,
}

impl Relay {
    pub fn new(
        listen: SocketAddr,
        to: SocketAddr,
        line_bytes_max: usize,
        bell: Arc<OwnedFd>,
        orders: Receiver<(Order, SyncSender<Counts>)>,
    ) -> io::Result<Relay> {
        let port = socket(listen)?;
        sockopt::set_socket_reuseaddr(&port, true)?;
        bind(&port, &listen)?;
        let address = TcpStream::from(port.try_clone()?).local_addr()?;
        Ok(Relay {
            address,
            to,
            line_bytes_max,
            links: [Link::PASS; 2],
            _port: port,
            listener: Some(open(address)?),
            pairs: Vec::new(),
            ended: Default::default(),
            accepted_count: 0,
            unreachable_count: 0,
            bell,
            orders,
            scratch: vec![0; READ_BYTES],
        })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn run(mut self) {
        loop {
            let (is_listener_ready, ready) = self.wait();
            if is_listener_ready {
                self.accept();
            }
            for ((index, side), flags) in ready {
                self.pairs[index].ready(side, flags, &mut self.scratch);
            }
            if !self.follow_orders() {
                return;
            }
            let now = Instant::now();
            self.pairs.iter_mut().for_each(|pair| pair.forward(now));
            self.drop_ended();
        }
    }

    /// Waits for a socket, an order, or the time of a part. Returns whether the listener is ready, and which sockets are.
    fn wait(&self) -> (bool, Vec<Ready>) {
        let mut places = Vec::new();
        let mut polled = vec![PollFd::new(&*self.bell, PollFlags::IN)];
        if let Some(listener) = &self.listener {
            polled.push(PollFd::new(listener, PollFlags::IN));
        }
        let first = polled.len();
        for (index, pair) in self.pairs.iter().enumerate() {
            for (side, socket) in pair.sockets.iter().enumerate() {
                let wanted = pair.wanted(side);
                if let (Some(socket), false) = (socket, wanted.is_empty()) {
                    places.push((index, side));
                    polled.push(PollFd::new(socket, wanted));
                }
            }
        }
        let due_at = self.pairs.iter().filter_map(Pair::due_at).min();
        let wait = due_at.map(|at| at.saturating_duration_since(Instant::now()));
        let wait = wait.map(|wait| Timespec::try_from(wait).expect("a delay is not centuries"));
        match poll(&mut polled, wait.as_ref()) {
            Ok(_) => {}
            Err(Errno::INTR) => return (false, Vec::new()),
            Err(error) => panic!("poll: {error}"),
        }
        let ready = polled[first..].iter().map(PollFd::revents);
        let ready = places.into_iter().zip(ready).filter(|(_, flags)| !flags.is_empty()).collect();
        (first == 2 && !polled[1].revents().is_empty(), ready)
    }

    /// False at the end.
    fn follow_orders(&mut self) -> bool {
        let mut rung = [0; 8];
        match rustix::io::read(&*self.bell, &mut rung) {
            Ok(_) | Err(Errno::AGAIN) => {}
            Err(error) => panic!("the proxy's eventfd: {error}"),
        }
        while let Ok((order, done)) = self.orders.try_recv() {
            match order {
                Order::Set(way, link) => {
                    self.links[way.index()] = link;
                    self.pairs.iter_mut().for_each(|pair| pair.lines[way.index()].set(link));
                }
                Order::Cut(ways, cut) => {
                    for pair in &mut self.pairs {
                        ways.iter().for_each(|way| pair.cut(way.index(), cut));
                    }
                    self.drop_ended();
                }
                Order::Refuse(true) => self.listener = None,
                Order::Refuse(false) if self.listener.is_none() => {
                    let listener = open(self.address);
                    self.listener = Some(listener.unwrap_or_else(|error| {
                        panic!("the proxy cannot listen on {} again: {error}", self.address)
                    }));
                }
                Order::Refuse(false) | Order::Count => {}
                Order::End => return false,
            }
            // Who gave the order may be gone.
            let _ = done.send(self.counts());
        }
        true
    }

    fn counts(&self) -> Counts {
        let mut ways = self.ended;
        self.pairs.iter().for_each(|pair| pair.add_to(&mut ways));
        Counts {
            accepted_count: self.accepted_count,
            unreachable_count: self.unreachable_count,
            open_count: self.pairs.len() as u64,
            ways,
        }
    }

    fn accept(&mut self) {
        let Some(listener) = &self.listener else { return };
        // A connection that broke before it was accepted is none.
        let Ok((near, _)) = listener.accept() else { return };
        self.accepted_count += 1;
        let number = self.accepted_count * 2;
        let now = Instant::now();
        let lines = Way::BOTH.map(|way| {
            let number = number + way.index() as u64;
            Line::new(self.links[way.index()], number, self.line_bytes_max, now)
        });
        match (near.set_nonblocking(true), reach(self.to)) {
            (Ok(()), Ok(far)) => {
                for socket in [&near, &far] {
                    socket.set_nodelay(true).expect("a socket takes it");
                }
                self.pairs.push(Pair::new(near, far, lines));
            }
            _ => {
                self.unreachable_count += 1;
                reset(near);
            }
        }
    }

    fn drop_ended(&mut self) {
        let ended = self.pairs.extract_if(.., |pair| pair.is_over());
        for mut pair in ended {
            pair.lines.iter_mut().for_each(Line::clear);
            pair.add_to(&mut self.ended);
            self.unreachable_count += u64::from(pair.is_unreachable);
        }
    }
}

/// A connection of each side, and the lines between them. Way and side 0 are the near side's.
struct Pair {
    sockets: [Option<TcpStream>; 2],
    lines: [Line; 2],
    ways: [WayState; 2],
    is_connecting: bool,
    is_unreachable: bool,
}

#[derive(Clone, Copy, Default)]
struct WayState {
    /// Its sender has ended.
    has_ended: bool,
    /// Its receiver takes no more: what comes is lost.
    is_lost: bool,
    /// Its receiver's socket was full.
    is_blocked: bool,
}

impl Pair {
    fn new(near: TcpStream, far: TcpStream, lines: [Line; 2]) -> Pair {
        Pair {
            sockets: [Some(near), Some(far)],
            lines,
            ways: Default::default(),
            is_connecting: true,
            is_unreachable: false,
        }
    }

    /// Side 1 is not there yet.
    fn is_waiting_for(&self, side: usize) -> bool {
        side == 1 && self.is_connecting
    }

    fn wanted(&self, side: usize) -> PollFlags {
        if self.is_waiting_for(side) {
            return PollFlags::OUT;
        }
        let mut wanted = PollFlags::empty();
        let sending = &self.ways[side];
        if !sending.has_ended && (sending.is_lost || self.lines[side].has_room()) {
            wanted |= PollFlags::IN;
        }
        let receiving = &self.ways[1 - side];
        if receiving.is_blocked && !receiving.is_lost {
            wanted |= PollFlags::OUT;
        }
        wanted
    }

    /// When time alone lets something be done.
    fn due_at(&self) -> Option<Instant> {
        let ways = (0..2).filter(|&way| {
            let state = &self.ways[way];
            !state.is_blocked && !state.is_lost && !self.is_waiting_for(1 - way)
        });
        ways.filter_map(|way| self.lines[way].due_at()).min()
    }

    fn ready(&mut self, side: usize, flags: PollFlags, scratch: &mut [u8]) {
        let Some(socket) = &mut self.sockets[side] else { return };
        if side == 1 && self.is_connecting {
            self.is_connecting = false;
            if !matches!(socket.take_error(), Ok(None)) {
                self.is_unreachable = true;
                self.close(0);
                self.close(1);
            }
            return;
        }
        self.ways[1 - side].is_blocked = false;
        let state = &mut self.ways[side];
        // Poll tells errors also to who only waits to write.
        let is_wanted = !state.has_ended && (state.is_lost || self.lines[side].has_room());
        if !is_wanted || flags == PollFlags::OUT {
            return;
        }
        let now = Instant::now();
        match socket.read(scratch) {
            Ok(0) => {
                state.has_ended = true;
                if !state.is_lost {
                    self.lines[side].push_end(Cut::Fin, now);
                }
            }
            Ok(count) if state.is_lost => self.lines[side].lose(count),
            Ok(count) => self.lines[side].push(&scratch[..count], now),
            Err(error) if is_temporary(&error) => {}
            Err(_) => {
                state.has_ended = true;
                if !state.is_lost {
                    self.lines[side].push_end(Cut::Reset, now);
                }
                self.lose(1 - side);
            }
        }
    }

    fn forward(&mut self, now: Instant) {
        (0..2).for_each(|way| self.forward_way(way, now));
    }

    fn forward_way(&mut self, way: usize, now: Instant) {
        let to = 1 - way;
        if self.is_waiting_for(to) {
            return;
        }
        while !self.ways[way].is_lost && !self.ways[way].is_blocked {
            let Some(socket) = &mut self.sockets[to] else { return };
            match self.lines[way].next(now) {
                None => return,
                Some(Next::Bytes(bytes)) => match socket.write(bytes) {
                    Ok(count) => self.lines[way].forwarded(count, now),
                    Err(error) if is_temporary(&error) => self.ways[way].is_blocked = true,
                    Err(_) => self.refused(way),
                },
                Some(Next::End(cut)) => {
                    self.lines[way].ended();
                    self.cut(way, cut);
                }
            }
        }
    }

    /// The receiver of a way sees the end.
    fn cut(&mut self, way: usize, cut: Cut) {
        self.lose(way);
        match (cut, &self.sockets[1 - way]) {
            // It may be gone already.
            (Cut::Fin, Some(socket)) => drop(socket.shutdown(Shutdown::Write)),
            (Cut::Reset, Some(_)) => self.close(1 - way),
            (_, None) => {}
        }
    }

    /// The receiver of a way is gone. Its own way back tells why, unless that has ended before.
    fn refused(&mut self, way: usize) {
        self.lose(way);
        let back = self.ways[1 - way];
        if back.has_ended && back.is_lost {
            self.close(way);
        }
    }

    fn lose(&mut self, way: usize) {
        self.lines[way].clear();
        self.ways[way].is_lost = true;
    }

    /// Resets a side: it sends nothing more, and takes nothing.
    fn close(&mut self, side: usize) {
        self.lose(1 - side);
        self.ways[side].has_ended = true;
        self.sockets[side].take().into_iter().for_each(reset);
    }

    fn is_over(&self) -> bool {
        (0..2).all(|way| {
            let state = &self.ways[way];
            state.has_ended && (state.is_lost || self.lines[way].is_empty())
        })
    }

    fn add_to(&self, ways: &mut [WayCounts; 2]) {
        for (sum, line) in ways.iter_mut().zip(&self.lines) {
            sum.received_bytes += line.counts.received_bytes;
            sum.forwarded_bytes += line.counts.forwarded_bytes;
            sum.lost_bytes += line.counts.lost_bytes;
            sum.flipped_bits += line.counts.flipped_bits;
        }
    }
}

fn is_temporary(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

fn socket(address: SocketAddr) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    Ok(socket_with(family, SocketType::STREAM, flags, None)?)
}

fn open(address: SocketAddr) -> io::Result<TcpListener> {
    let listener = TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// A connection that may not be made yet: a peer behind a cut cable must not stop the loop.
fn reach(to: SocketAddr) -> io::Result<TcpStream> {
    let socket = socket(to)?;
    match connect(&socket, &to) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(TcpStream::from(socket)),
        Err(error) => Err(error.into()),
    }
}

/// Closed with nothing to wait for: the peer gets a RST.
fn reset(socket: TcpStream) {
    sockopt::set_socket_linger(socket.as_fd(), Some(Duration::ZERO)).expect("a socket takes it");
}
