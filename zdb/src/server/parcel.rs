//! What goes between the hub's thread and a thread of sockets: parcels of many things at once, and how
//! either wakes the other, only where it sleeps.

use super::bell::Bell;
use super::clients::Note;
use super::tls::Tls;
use crate::hub::Wishes;
use crate::output::Output;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering, fence};
use std::sync::mpsc::{Receiver, Sender, channel};

/// Memory for bytes that an empty parcel keeps.
const IDLE_BYTES_MAX: usize = 256 << 10;
/// What one thing in a parcel counts for beside its bytes.
const ITEM_BYTES: usize = 64;

/// What a thread of sockets tells the hub.
pub enum News {
    /// The next so many bytes of the parcel came from a client.
    Received {
        key: u64,
        length: usize,
    },
    Ended(u64),
    Sent {
        key: u64,
        count: usize,
        released: usize,
    },
    Failed(u64),
    Lingers(u64),
    Closed(u64),
    Note(Note),
    /// The thread cannot go on.
    Broken(String),
}

/// What the hub's thread tells a thread of sockets.
pub enum Order {
    Open {
        key: u64,
        descriptor: OwnedFd,
        encrypted: Option<Box<str>>,
    },
    /// The next so many bytes of the parcel are to be sent, and this is to be done.
    Look {
        key: u64,
        wishes: Wishes,
        length: usize,
    },
    /// This is to be sent, from where it lies.
    Send {
        key: u64,
        output: Box<Output>,
    },
    PartWithSilent(u64),
    Certificates(Box<Tls>),
    End,
}

/// Many things, and the bytes that they are about, in their order.
pub struct Parcel<T> {
    pub items: Vec<T>,
    pub bytes: Vec<u8>,
    /// How many of them will bring an answer.
    pub questions: usize,
    /// What it counted for when it was posted, in bytes.
    weight: usize,
}

impl<T> Default for Parcel<T> {
    fn default() -> Self {
        Self { items: Vec::new(), bytes: Vec::new(), questions: 0, weight: 0 }
    }
}

impl<T> Parcel<T> {
    fn weigh(&self) -> usize {
        self.bytes.len() + self.items.len() * ITEM_BYTES
    }
}

/// The end where parcels are filled and posted.
pub struct Outbox<T> {
    /// The next one.
    pub parcel: Parcel<T>,
    sender: Sender<Parcel<T>>,
    /// Parcels come back empty, to be used again.
    returned: Receiver<Parcel<T>>,
    spare: Option<Parcel<T>>,
    /// What those weigh that are not back, in bytes.
    outstanding_bytes: usize,
    outstanding_questions: usize,
    reader: Sleeper,
}

/// The end where they are taken.
pub struct Inbox<T> {
    receiver: Receiver<Parcel<T>>,
    give_back: Sender<Parcel<T>>,
    /// Taken when there was a look whether there is one.
    next: Option<Parcel<T>>,
    writer: Sleeper,
}

/// A way for parcels from one thread to another. `writer` and `reader` are how these sleep.
pub fn way<T>(writer: Sleeper, reader: Sleeper) -> (Outbox<T>, Inbox<T>) {
    let (sender, receiver) = channel();
    let (give_back, returned) = channel();
    let outbox = Outbox {
        parcel: Parcel::default(),
        sender,
        returned,
        spare: None,
        outstanding_bytes: 0,
        outstanding_questions: 0,
        reader,
    };
    (outbox, Inbox { receiver, give_back, next: None, writer })
}

impl<T> Outbox<T> {
    /// Hands the parcel over, where there is something in it.
    pub fn post(&mut self) {
        if self.parcel.items.is_empty() {
            return;
        }
        self.collect();
        let next = self.spare.take().unwrap_or_default();
        let mut parcel = std::mem::replace(&mut self.parcel, next);
        parcel.weight = parcel.weigh();
        self.outstanding_bytes += parcel.weight;
        self.outstanding_questions += parcel.questions;
        // The reader is gone only where the server ends.
        let _ = self.sender.send(parcel);
        self.reader.wake();
    }

    /// What is posted and not worked off, or will be posted next, in bytes.
    pub fn outstanding_bytes(&self) -> usize {
        self.outstanding_bytes + self.parcel.weigh()
    }

    /// How many of those will bring an answer.
    pub fn outstanding_questions(&self) -> usize {
        self.outstanding_questions + self.parcel.questions
    }

    /// Takes back what has come back.
    pub fn collect(&mut self) {
        while let Ok(parcel) = self.returned.try_recv() {
            self.outstanding_bytes -= parcel.weight;
            self.outstanding_questions -= parcel.questions;
            self.spare = Some(Parcel { questions: 0, ..parcel });
        }
    }
}

impl<T> Inbox<T> {
    pub fn take(&mut self) -> Option<Parcel<T>> {
        self.next.take().or_else(|| self.receiver.try_recv().ok())
    }

    /// Whether there is nothing to take.
    pub fn is_empty(&mut self) -> bool {
        self.next = self.next.take().or_else(|| self.receiver.try_recv().ok());
        self.next.is_none()
    }

    /// Gives a parcel back whose things are worked off, and wakes the writer where it waits for that.
    pub fn give_back(&self, mut parcel: Parcel<T>) {
        parcel.items.clear();
        parcel.bytes.clear();
        parcel.bytes.shrink_to(IDLE_BYTES_MAX);
        // The writer is gone only where the server ends.
        let _ = self.give_back.send(parcel);
        self.writer.wake_for_room();
    }
}

/// A thread that sleeps at times, and how to wake it. Before it falls asleep it says so, and looks once more
/// whether there is something to do; whoever has something for it looks afterwards whether it sleeps. So one
/// of the two sees the other.
#[derive(Clone)]
pub struct Sleeper {
    state: Arc<AtomicU8>,
    bell: Bell,
}

const AWAKE: u8 = 0;
const ASLEEP: u8 = 1;
/// It has parcels out, and can do nothing before they are back.
const ASLEEP_FOR_ROOM: u8 = 2;

impl Sleeper {
    pub fn new(bell: Bell) -> Self {
        Self { state: Arc::new(AtomicU8::new(AWAKE)), bell }
    }

    pub fn bell(&self) -> &Bell {
        &self.bell
    }

    /// Called by the thread itself, before its last look.
    pub fn fall_asleep(&self, waits_for_room: bool) {
        let state = if waits_for_room { ASLEEP_FOR_ROOM } else { ASLEEP };
        self.state.store(state, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// Called by the thread itself.
    pub fn wake_up(&self) {
        self.state.store(AWAKE, Ordering::Relaxed);
    }

    fn wake(&self) {
        fence(Ordering::SeqCst);
        if self.state.load(Ordering::Relaxed) != AWAKE
            && self.state.swap(AWAKE, Ordering::Relaxed) != AWAKE
        {
            self.bell.ring();
        }
    }

    fn wake_for_room(&self) {
        fence(Ordering::SeqCst);
        if self.state.load(Ordering::Relaxed) == ASLEEP_FOR_ROOM {
            self.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sleeper() -> Sleeper {
        Sleeper::new(Bell::new().expect("an eventfd"))
    }

    /// Takes a parcel, and sleeps until there is one.
    fn wait(inbox: &mut Inbox<u64>, own: &Sleeper) -> Parcel<u64> {
        loop {
            if let Some(parcel) = inbox.take() {
                return parcel;
            }
            own.fall_asleep(false);
            if inbox.is_empty() {
                own.bell().hear();
            }
            own.wake_up();
        }
    }

    /// Two threads that answer each other sleep all the time, and no wake-up is lost.
    #[test]
    fn whoever_sleeps_is_woken() {
        let (here, there) = (sleeper(), sleeper());
        let (mut questions, mut questions_in) = way(here.clone(), there.clone());
        let (mut answers, mut answers_in) = way(there.clone(), here.clone());
        const COUNT: u64 = 20_000;
        let answering = std::thread::spawn(move || {
            for _ in 0..COUNT {
                let parcel = wait(&mut questions_in, &there);
                answers.parcel.items.push(parcel.items[0] + 1);
                answers.parcel.bytes.extend_from_slice(&parcel.bytes);
                answers.post();
                questions_in.give_back(parcel);
            }
        });
        for number in 0..COUNT {
            questions.parcel.items.push(number);
            questions.parcel.bytes.extend_from_slice(&number.to_le_bytes());
            questions.post();
            let parcel = wait(&mut answers_in, &here);
            assert_eq!(
                (&parcel.items[..], &parcel.bytes[..]),
                (&[number + 1][..], &number.to_le_bytes()[..])
            );
            answers_in.give_back(parcel);
        }
        answering.join().expect("it has answered all");
        questions.collect();
        assert_eq!(questions.outstanding_bytes(), 0);
    }

    /// Whoever waits for its parcels is woken when one comes back, and others are not.
    #[test]
    fn room_wakes_whoever_waits_for_it() {
        let (writer, reader) = (sleeper(), sleeper());
        let (mut outbox, mut inbox) = way(writer.clone(), reader);
        for waits_for_room in [false, true] {
            outbox.parcel.items.push(1);
            outbox.post();
            assert_eq!(outbox.outstanding_bytes(), ITEM_BYTES);
            let parcel = inbox.take().expect("it was posted");
            writer.fall_asleep(waits_for_room);
            inbox.give_back(parcel);
            let was_woken = writer.state.load(Ordering::Relaxed) == AWAKE;
            assert_eq!(was_woken, waits_for_room);
            writer.wake_up();
            outbox.collect();
            assert_eq!(outbox.outstanding_bytes(), 0);
        }
        writer.bell().hear();
    }
}
