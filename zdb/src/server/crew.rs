//! The threads of sockets beside the hub's own, seen from there: who has which connection, what they are told
//! and what they tell.

use super::bell::Bell;
use super::clients::Clients;
use super::parcel::{Inbox, News, Order, Outbox, Parcel, Sleeper, way};
use super::ring::BATCH_WAIT_US;
use super::socket_thread::SocketThread;
use super::sockets::{Sockets, index};
use super::tls::Tls;
use crate::hub::{Hub, Wishes};
use crate::limits::SHARE_BYTES_MIN;
use crate::output::Output;
use std::os::fd::OwnedFd;
use std::sync::mpsc::channel;
use std::thread::JoinHandle;

/// Parcels of one thread that a turn takes at most.
const PARCELS_MAX: usize = 4;
/// How long a turn of any thread waits for its batch where the threads take all cores, in microseconds. To be
/// woken costs more there than to wait does: whoever is woken takes a core from the clients or the other threads.
const CROWDED_WAIT_US: u32 = 120;
/// What a request costs in the thread of its socket, where it costs 1 in the hub.
const SOCKET_COST: usize = 8;

/// How long a turn waits for its batch in a server of so many threads.
pub fn batch_wait_us(threads: u16) -> u32 {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let is_crowded = threads > 1 && usize::from(threads) >= cores;
    if is_crowded { CROWDED_WAIT_US } else { BATCH_WAIT_US }
}

/// Where a connection is, and what was told of it last.
#[derive(Clone, Copy, Default)]
struct Place {
    /// None: the hub's own thread.
    thread: Option<u16>,
    told: Wishes,
}

struct Member {
    orders: Outbox<Order>,
    news: Inbox<News>,
    connections: usize,
    handle: Option<JoinHandle<()>>,
}

pub struct Crew {
    members: Vec<Member>,
    /// By the connection's place in the hub.
    places: Vec<Place>,
    sleeper: Sleeper,
    /// A reply on its way into a parcel.
    output: Output,
}

impl Crew {
    /// Starts so many threads. `bell` wakes the hub's own.
    pub fn start(
        count: u16,
        tls: Option<&Tls>,
        bell: &Bell,
        batch_wait_us: u32,
    ) -> Result<Self, String> {
        let sleeper = Sleeper::new(bell.clone());
        let start = |number| Member::start(number, tls.cloned(), &sleeper, batch_wait_us);
        let members = (0..count).map(start);
        let members = members.collect::<Result<_, _>>()?;
        Ok(Self { members, places: Vec::new(), sleeper, output: Output::default() })
    }

    // ---------------------------------------------------------------- connections

    /// The thread for a new connection. None: the hub's own, which has `own` of them.
    pub fn choose(&self, own: usize) -> Option<u16> {
        let counts: Vec<usize> = self.members.iter().map(|member| member.connections).collect();
        lightest(own, &counts)
    }

    /// Notes which thread has a new connection. True: it is the hub's own.
    pub fn place(&mut self, key: u64, thread: Option<u16>) -> bool {
        let index = index(key);
        if self.places.len() <= index {
            self.places.resize(index + 1, Place::default());
        }
        self.places[index] = Place { thread, told: Wishes::default() };
        thread.is_none()
    }

    /// Hands the socket of a new connection to the thread that has it.
    pub fn open(&mut self, key: u64, descriptor: OwnedFd, encrypted: Option<Box<str>>) {
        if let Some(thread) = self.places[index(key)].thread {
            let member = &mut self.members[usize::from(thread)];
            member.connections += 1;
            member.orders.parcel.items.push(Order::Open { key, descriptor, encrypted });
        }
    }

    /// Whether another thread has the connection.
    pub fn has(&self, key: u64) -> bool {
        self.places.get(index(key)).is_some_and(|place| place.thread.is_some())
    }

    /// Tells the thread of a connection what there is to send and to do, where it does not know.
    pub fn look_after(&mut self, hub: &mut Hub, key: u64) {
        let Some(mut wishes) = hub.look(key) else { return };
        let place = &mut self.places[index(key)];
        let Some(thread) = place.thread else { return };
        let parcel = &mut self.members[usize::from(thread)].orders.parcel;
        let mut length = 0;
        let has_output = wishes.has_output;
        if has_output {
            hub.take_output(key, &mut self.output);
            match self.output.plain().filter(|bytes| bytes.len() < SHARE_BYTES_MIN) {
                Some(bytes) => {
                    parcel.bytes.extend_from_slice(bytes);
                    length = bytes.len();
                    self.output.clear();
                }
                None => {
                    let output = Box::new(std::mem::take(&mut self.output));
                    parcel.items.push(Order::Send { key, output });
                }
            }
            // It may have been the last.
            wishes = hub.look(key).unwrap_or(wishes);
        }
        // That nothing waits for room any more is no news.
        let waits_for_room = wishes.waits_for_room || (!has_output && place.told.waits_for_room);
        let told = Wishes { has_output: false, waits_for_room, ..wishes };
        if has_output || told != place.told {
            place.told = told;
            parcel.items.push(Order::Look { key, wishes: told, length });
        }
    }

    pub fn part_with_silent(&mut self, key: u64) {
        if let Some(thread) = self.places[index(key)].thread {
            let orders = &mut self.members[usize::from(thread)].orders;
            orders.parcel.items.push(Order::PartWithSilent(key));
        }
    }

    pub fn renew_certificates(&mut self, tls: &Tls) {
        for member in &mut self.members {
            let order = Order::Certificates(Box::new(tls.clone()));
            member.orders.parcel.items.push(order);
        }
    }

    // ---------------------------------------------------------------- parcels

    /// Says that the hub's thread is about to sleep. False: it must not, there is news.
    pub fn may_sleep(&mut self) -> bool {
        self.sleeper.fall_asleep(false);
        self.has_heard_all()
    }

    pub fn has_heard_all(&mut self) -> bool {
        self.members.iter_mut().all(|member| member.news.is_empty())
    }

    pub fn wake_up(&self) {
        self.sleeper.wake_up();
    }

    /// Tells the hub what the threads have told, some of it where there is much. Returns the number of parcels.
    pub fn take_news(&mut self, hub: &mut Hub) -> Result<usize, String> {
        let mut parcels = 0;
        for member in &mut self.members {
            for _ in 0..PARCELS_MAX {
                let Some(mut parcel) = member.news.take() else { break };
                parcels += 1;
                let Parcel { items, bytes, .. } = &mut parcel;
                let mut at = 0;
                for news in items.drain(..) {
                    match news {
                        News::Received { key, length } => {
                            hub.received(key, &bytes[at..at + length]);
                            at += length;
                        }
                        News::Ended(key) => hub.ended(key),
                        News::Sent { key, count, released } => hub.sent(key, count, released),
                        News::Failed(key) => hub.failed(key),
                        News::Lingers(key) => hub.lingers(key),
                        News::Closed(key) => {
                            member.connections -= 1;
                            self.places[index(key)].thread = None;
                            hub.closed(key);
                        }
                        News::Note(what) => hub.note(what),
                        News::Broken(line) => return Err(line),
                    }
                }
                member.news.give_back(parcel);
            }
        }
        Ok(parcels)
    }

    /// Hands over what was told in this turn.
    pub fn post(&mut self) {
        self.members.iter_mut().for_each(|member| member.orders.post());
    }

    /// Ends all threads; their sockets are shut down.
    pub fn end(&mut self) {
        for member in &mut self.members {
            member.orders.parcel.items.push(Order::End);
            member.orders.post();
        }
        for handle in self.members.iter_mut().filter_map(|member| member.handle.take()) {
            let _ = handle.join();
        }
    }
}

/// The thread with the fewest connections for what it can do; the hub's own has less time for them the more
/// others there are, and none where the hub alone takes all of it.
fn lightest(own: usize, others: &[usize]) -> Option<u16> {
    let mut best = (None, own, SOCKET_COST.saturating_sub(others.len()));
    for (number, count) in others.iter().enumerate() {
        let (_, least, weight) = best;
        if count * weight < least * SOCKET_COST || weight == 0 {
            best = (Some(number as u16), *count, SOCKET_COST);
        }
    }
    best.0
}

impl Member {
    fn start(
        number: u16,
        tls: Option<Tls>,
        hub: &Sleeper,
        batch_wait_us: u32,
    ) -> Result<Self, String> {
        let own = Sleeper::new(Bell::new()?);
        let (orders, orders_in) = way(hub.clone(), own.clone());
        let (news_out, news) = way(own.clone(), hub.clone());
        let (tell, told) = channel();
        let run = move || {
            // The ring belongs to the thread that makes it.
            let sockets = match Sockets::new(tls, batch_wait_us) {
                Ok(sockets) => sockets,
                Err(line) => return drop(tell.send(Err(line))),
            };
            if tell.send(Ok(())).is_ok() {
                SocketThread::new(sockets, news_out, orders_in, own).run();
            }
        };
        let handle = std::thread::Builder::new()
            .name(format!("zdb-sockets-{}", number + 1))
            .spawn(run)
            .map_err(|error| format!("cannot start a thread for sockets: {error}"))?;
        told.recv().unwrap_or_else(|_| Err("a thread for sockets does not start".into()))?;
        Ok(Self { orders, news, connections: 0, handle: Some(handle) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many connections each thread gets out of so many, the hub's own first.
    fn shares(threads: usize, connections: usize) -> Vec<usize> {
        let mut counts = vec![0; threads];
        for _ in 0..connections {
            let chosen = lightest(counts[0], &counts[1..]);
            counts[chosen.map_or(0, |number| usize::from(number) + 1)] += 1;
        }
        counts
    }

    #[test]
    fn connections_are_shared_by_what_a_thread_can_do() {
        assert_eq!(shares(2, 15), [7, 8]);
        assert_eq!(shares(4, 29), [5, 8, 8, 8]);
        assert_eq!(shares(8, 57), [1, 8, 8, 8, 8, 8, 8, 8]);
        assert_eq!(shares(9, 16), [0, 2, 2, 2, 2, 2, 2, 2, 2]);
        // A lone client needs no other thread.
        assert_eq!(shares(2, 1), [1, 0]);
    }
}
