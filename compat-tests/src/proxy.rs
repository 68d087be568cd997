//! A TCP proxy between two real peers whose faults a test switches while they talk.
//!
//! Each way has a [`Link`] of its own: a delay line, a rate, a stall, flipped bits. Connections are cut by FIN or
//! RST, at one end or both, and new ones refused. Changes are in force when the call returns.
//!
//! A delay keeps the bandwidth: bytes leave that long after they came, however many are under way. What is under way
//! is bounded (`line_bytes_max`); then the proxy stops reading and its peer feels it, as with a full socket.

mod line;
mod relay;

use relay::{Order, Relay};
use rustix::event::{EventfdFlags, eventfd};
use std::io;
use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, channel, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

/// What one way of one connection holds unless a test says otherwise: 50 ms of 320 MB/s.
pub const LINE_BYTES_MAX: usize = 16 << 20;

/// The direction of bytes: from who connected to who was connected to, or back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    There,
    Back,
}

impl Way {
    pub const BOTH: [Way; 2] = [Way::There, Way::Back];

    pub(crate) fn index(self) -> usize {
        self as usize
    }
}

/// What happens to the bytes of one way. All of it at once where more is set; it holds for open and new connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// From when bytes came to when they leave; those under way are measured by it, too.
    pub delay: Duration,
    pub bytes_per_s: Option<NonZeroU64>,
    /// Bytes and ends of connections are taken and held, as by a hung peer.
    pub is_stalled: bool,
    pub flips: Option<Flips>,
}

/// One bit flipped in each `every_bytes` bytes that come from now on, at a drawn place.
///
/// Each connection draws from the seed, its number and its way: the same run flips the same bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flips {
    pub every_bytes: NonZeroU64,
    pub seed: u64,
}

impl Link {
    /// Nothing happens.
    pub const PASS: Link =
        Link { delay: Duration::ZERO, bytes_per_s: None, is_stalled: false, flips: None };
    pub const STALLED: Link = Link { is_stalled: true, ..Link::PASS };

    pub fn delayed(delay: Duration) -> Link {
        Link { delay, ..Link::PASS }
    }

    /// Panics on a rate of zero: that is a stall.
    #[track_caller]
    pub fn throttled(bytes_per_s: u64) -> Link {
        let rate = NonZeroU64::new(bytes_per_s).expect("a rate of zero is a stall");
        Link { bytes_per_s: Some(rate), ..Link::PASS }
    }

    #[track_caller]
    pub fn flipping(every_bytes: u64, seed: u64) -> Link {
        let every_bytes = NonZeroU64::new(every_bytes).expect("a flip in each so many bytes");
        Link { flips: Some(Flips { every_bytes, seed }), ..Link::PASS }
    }
}

/// How a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    Fin,
    Reset,
}

/// What went through so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub accepted_count: u64,
    /// Of those: the far side could not be reached, so the near one was reset.
    pub unreachable_count: u64,
    pub open_count: u64,
    ways: [WayCounts; 2],
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WayCounts {
    pub received_bytes: u64,
    pub forwarded_bytes: u64,
    /// Received and never forwarded: what a cut, or the end of a peer, has lost.
    pub lost_bytes: u64,
    pub flipped_bits: u64,
}

impl Counts {
    pub fn way(&self, way: Way) -> WayCounts {
        self.ways[way.index()]
    }
}

/// It runs until it is dropped; then its connections are closed.
///
/// Its sockets are in the network namespace of the thread that starts it: see [`crate::hosts::Host::run`].
pub struct Proxy {
    address: SocketAddr,
    orders: std::sync::mpsc::Sender<(Order, SyncSender<Counts>)>,
    bell: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Proxy {
    /// On a free port of loopback.
    #[track_caller]
    pub fn start(to: SocketAddr) -> Proxy {
        let listen = "127.0.0.1:0".parse().expect("an address");
        Proxy::listen(listen, to, LINE_BYTES_MAX)
            .unwrap_or_else(|error| panic!("the proxy does not listen: {error}"))
    }

    /// Port 0 is a free one. Each way of a connection holds `line_bytes_max` and one read more.
    pub fn listen(listen: SocketAddr, to: SocketAddr, line_bytes_max: usize) -> io::Result<Proxy> {
        let bell = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let (orders, receiver) = channel();
        let relay = Relay::new(listen, to, line_bytes_max, bell.clone(), receiver)?;
        let address = relay.address();
        let thread = std::thread::Builder::new().name("proxy".into()).spawn(|| relay.run())?;
        Ok(Proxy { address, orders, bell, thread: Some(thread) })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn set(&self, way: Way, link: Link) {
        self.order(Order::Set(way, link));
    }

    pub fn set_both(&self, link: Link) {
        Way::BOTH.into_iter().for_each(|way| self.set(way, link));
    }

    /// Ends all open connections, at both ends. What is under way is lost.
    pub fn cut(&self, cut: Cut) {
        self.order(Order::Cut(Way::BOTH.to_vec(), cut));
    }

    /// Ends all open connections for who receives on this way; what is under way there is lost.
    ///
    /// Who sends on it is not told: what it sends is taken and lost. After a reset nothing comes back either, a
    /// half-open connection; after a FIN the other way goes on.
    pub fn cut_way(&self, way: Way, cut: Cut) {
        self.order(Order::Cut(vec![way], cut));
    }

    /// New connections are refused, or taken again. Open ones stay.
    pub fn refuse(&self, is_refusing: bool) {
        self.order(Order::Refuse(is_refusing));
    }

    pub fn counts(&self) -> Counts {
        self.order(Order::Count)
    }

    fn order(&self, order: Order) -> Counts {
        let (sender, done) = sync_channel(1);
        self.orders.send((order, sender)).expect("the proxy's thread lives");
        self.ring();
        done.recv().expect("the proxy's thread lives")
    }

    fn ring(&self) {
        rustix::io::write(&*self.bell, &1u64.to_ne_bytes()).expect("an eventfd takes a one");
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let (sender, _) = sync_channel(1);
        // A thread that has panicked said so by itself.
        let _ = self.orders.send((Order::End, sender));
        self.ring();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests;
