//! A thread of its own for a part of the sockets. It does for them what the hub's thread does for its own,
//! and exchanges parcels with the hub.

use super::BATCH_MAX;
use super::clients::{Clients, Note};
use super::parcel::{Inbox, News, Order, Outbox, Parcel, Sleeper};
use super::ring::Kind;
use super::sockets::{Sockets, index};
use crate::hub::Wishes;
use crate::limits::THREAD_INPUT_BYTES_MAX;
use crate::output::Output;
use std::time::Instant;

/// Received bytes after which a parcel is posted before the turn is over.
const PARCEL_BYTES: usize = 128 << 10;
/// How long the hub may not know that a reply is out for which nothing waits, in milliseconds.
const SENT_LATER_MS: u64 = 100;
/// How many such bytes it may not know of.
const SENT_LATER_BYTES: usize = 64 << 10;

/// What the hub told of a connection.
struct Told {
    key: u64,
    wishes: Wishes,
    /// What is to be sent next.
    output: Output,
    is_touched: bool,
}

/// The way to the hub.
struct Hub {
    slots: Vec<Option<Box<Told>>>,
    touched: Vec<u64>,
    news: Outbox<News>,
    /// The hub is to hear of it in this turn.
    is_urgent: bool,
    /// Bytes that are out and that the hub does not know of.
    sent_bytes: usize,
}

pub struct SocketThread {
    sockets: Sockets,
    hub: Hub,
    orders: Inbox<Order>,
    sleeper: Sleeper,
    wake_count: Box<[u8; 8]>,
    /// How many things a wait is for.
    batch: usize,
    started: Instant,
    /// When the timer comes.
    timer_ms: Option<u64>,
    /// When the hub is to hear of what is out.
    news_ms: Option<u64>,
    is_ended: bool,
}

impl SocketThread {
    pub fn new(
        sockets: Sockets,
        news: Outbox<News>,
        orders: Inbox<Order>,
        sleeper: Sleeper,
    ) -> Self {
        let (slots, touched) = (Vec::new(), Vec::new());
        Self {
            sockets,
            hub: Hub { slots, touched, news, is_urgent: false, sent_bytes: 0 },
            orders,
            sleeper,
            wake_count: Box::new([0; 8]),
            batch: 1,
            started: Instant::now(),
            timer_ms: None,
            news_ms: None,
            is_ended: false,
        }
    }

    /// Serves until it is told to end.
    pub fn run(mut self) {
        let _whole = Whole;
        let mut events = Vec::new();
        let mut touched = Vec::new();
        self.read_wake();
        loop {
            self.arm_timer();
            let waits_for_room = !self.hub.has_room();
            self.sleeper.fall_asleep(waits_for_room);
            self.hub.news.collect();
            let has_room_again = waits_for_room && self.hub.has_room();
            let is_idle =
                !has_room_again && self.orders.is_empty() && self.sockets.is_idle(&self.hub);
            let batch = if is_idle { self.batch } else { 0 };
            let waited = self.sockets.ring.wait(batch);
            self.sleeper.wake_up();
            if let Err(error) = waited {
                self.hub.tell(News::Broken(format!("io_uring failed: {error}")));
                self.hub.news.post();
                break;
            }
            self.sockets.now_ms = self.now_ms();
            self.sockets.ring.take_events(&mut events);
            let mut requests = 0;
            for event in events.drain(..) {
                requests += usize::from(event.kind == Kind::Receive);
                match event.kind {
                    Kind::Wake => self.read_wake(),
                    Kind::Timer => self.timer_ms = None,
                    _ => self.sockets.handle(&mut self.hub, event),
                }
            }
            self.post();
            let replies = self.take_orders();
            if self.is_ended {
                break;
            }
            self.batch = self.next_batch(requests.max(replies));
            self.sockets.run_timers(&mut self.hub);
            self.sockets.feed_starved(&mut self.hub);
            // Looking after a connection can give it something new to do.
            while !self.hub.touched.is_empty() {
                std::mem::swap(&mut touched, &mut self.hub.touched);
                for key in touched.drain(..) {
                    self.sockets.look_after(&mut self.hub, key);
                }
            }
            self.post();
        }
        // The kernel may still be at what the sockets have in memory.
        std::mem::forget(self.sockets);
    }

    /// How many things the next wait is for: requests, as many as there were or as were answered, and the
    /// replies to those that the hub has. Nobody sends one who waits for the last.
    fn next_batch(&self, likely: usize) -> usize {
        let unanswered = self.hub.news.outstanding_questions();
        let possible = self.sockets.count().saturating_sub(unanswered);
        let requests = likely.min(possible).min(BATCH_MAX);
        (requests + usize::from(unanswered > 0)).max(1)
    }

    fn now_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64 + 1
    }

    /// Sees to it that a turn comes when something is due.
    fn arm_timer(&mut self) {
        let due = self.sockets.deadline_ms().into_iter().chain(self.news_ms).min();
        let Some(due) = due else { return };
        if self.timer_ms.is_none_or(|armed| due < armed) {
            self.sockets.ring.timer(due.saturating_sub(self.now_ms()));
            self.timer_ms = Some(due);
        }
    }

    fn read_wake(&mut self) {
        let (pointer, length) = (self.wake_count.as_mut_ptr(), self.wake_count.len());
        let bell = self.sleeper.bell().descriptor();
        self.sockets.ring.read_event(bell, Kind::Wake, pointer, length as u32);
    }

    /// Tells the hub what it is to hear now.
    fn post(&mut self) {
        let is_due = self.news_ms.is_some_and(|at| at <= self.sockets.now_ms);
        if self.hub.is_urgent || is_due {
            self.hub.post();
            self.news_ms = None;
        } else if !self.hub.news.parcel.items.is_empty() && self.news_ms.is_none() {
            self.news_ms = Some(self.sockets.now_ms + SENT_LATER_MS);
        }
    }

    /// Does what the hub has told. Returns how many clients get replies.
    fn take_orders(&mut self) -> usize {
        let mut outputs = 0;
        while let Some(mut parcel) = self.orders.take() {
            let Parcel { items, bytes, .. } = &mut parcel;
            let mut at = 0;
            for order in items.drain(..) {
                match order {
                    Order::Look { key, wishes, length } => {
                        outputs += usize::from(length > 0);
                        self.hub.told(key, wishes, &bytes[at..at + length]);
                        at += length;
                    }
                    Order::Send { key, output } => {
                        outputs += 1;
                        self.hub.told_to_send(key, *output);
                    }
                    Order::Open { key, descriptor, encrypted } => {
                        self.hub.open(key);
                        if !self.sockets.open(&mut self.hub, key, descriptor, encrypted) {
                            self.hub.closed(key);
                        }
                    }
                    Order::PartWithSilent(key) => {
                        self.sockets.part_with_silent(&mut self.hub, key);
                    }
                    Order::Certificates(tls) => self.sockets.encryption.renew(*tls),
                    Order::End => {
                        self.sockets.shut_down();
                        self.is_ended = true;
                    }
                }
            }
            self.orders.give_back(parcel);
        }
        self.sockets.sends_at_once = outputs == 1;
        outputs
    }
}

/// Where panics unwind, a thread that panics takes the server along as it does where they abort: its clients would
/// wait for ever, and the kernel may be at what its sockets have in memory.
struct Whole;

impl Drop for Whole {
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::process::abort();
        }
    }
}

impl Hub {
    fn get_mut(&mut self, key: u64) -> Option<&mut Told> {
        self.slots.get_mut(index(key))?.as_deref_mut().filter(|told| told.key == key)
    }

    fn open(&mut self, key: u64) {
        let index = index(key);
        if self.slots.len() <= index {
            self.slots.resize_with(index + 1, || None);
        }
        let (wishes, output) = (Wishes::default(), Output::default());
        self.slots[index] = Some(Box::new(Told { key, wishes, output, is_touched: false }));
    }

    fn told(&mut self, key: u64, wishes: Wishes, bytes: &[u8]) {
        let Some(told) = self.get_mut(key) else { return };
        told.wishes = wishes;
        told.output.append_bytes(bytes);
        // What it waits for may have happened already.
        let is_late = wishes.waits_for_room && !self.news.parcel.items.is_empty();
        self.is_urgent |= is_late;
        self.touch(key);
    }

    fn told_to_send(&mut self, key: u64, output: Output) {
        let Some(told) = self.get_mut(key) else { return };
        match told.output.is_empty() {
            true => told.output = output,
            false => told.output.append(output),
        }
        self.touch(key);
    }

    fn tell(&mut self, news: News) {
        self.news.parcel.items.push(news);
        self.is_urgent = true;
    }

    fn post(&mut self) {
        self.news.post();
        self.is_urgent = false;
        self.sent_bytes = 0;
    }
}

impl Clients for Hub {
    fn look(&mut self, key: u64) -> Option<Wishes> {
        let told = self.get_mut(key)?;
        told.is_touched = false;
        let has_output = !told.output.is_empty();
        let is_answered = told.wishes.is_answered && !has_output;
        Some(Wishes { has_output, is_answered, ..told.wishes })
    }

    fn touch(&mut self, key: u64) {
        let Some(told) = self.get_mut(key) else { return };
        if !told.is_touched {
            told.is_touched = true;
            self.touched.push(key);
        }
    }

    fn take_output(&mut self, key: u64, into: &mut Output) {
        if let Some(told) = self.get_mut(key) {
            std::mem::swap(&mut told.output, into);
        }
    }

    fn received(&mut self, key: u64, bytes: &[u8]) {
        self.news.parcel.bytes.extend_from_slice(bytes);
        self.news.parcel.questions += 1;
        self.tell(News::Received { key, length: bytes.len() });
        if self.news.parcel.bytes.len() >= PARCEL_BYTES {
            self.post();
        }
    }

    fn ended(&mut self, key: u64) {
        self.tell(News::Ended(key));
        self.touch(key);
    }

    fn sent(&mut self, key: u64, count: usize, released: usize) {
        self.news.parcel.items.push(News::Sent { key, count, released });
        self.sent_bytes += count;
        self.is_urgent |= self.sent_bytes >= SENT_LATER_BYTES;
        if let Some(told) = self.get_mut(key) {
            let waits_for_room = told.wishes.waits_for_room;
            self.is_urgent |= waits_for_room;
            self.touch(key);
        }
    }

    fn failed(&mut self, key: u64) {
        if let Some(told) = self.get_mut(key) {
            told.output.clear();
        }
        self.tell(News::Failed(key));
        self.touch(key);
    }

    fn lingers(&mut self, key: u64) {
        if let Some(told) = self.get_mut(key) {
            told.output.clear();
        }
        self.tell(News::Lingers(key));
        self.touch(key);
    }

    fn closed(&mut self, key: u64) {
        if self.get_mut(key).is_some() {
            self.slots[index(key)] = None;
        }
        self.tell(News::Closed(key));
    }

    fn note(&mut self, what: Note) {
        self.tell(News::Note(what));
    }

    fn has_room(&self) -> bool {
        self.news.outstanding_bytes() < THREAD_INPUT_BYTES_MAX
    }
}
