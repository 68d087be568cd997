//! The end of a server, and a new start: in order, by a kill or by a power cut, and with trouble while it
//! starts.

use super::{
    Fate, QUIET_ROUNDS_MAX, Setup, Stop, World, bring_back, buffer_directory, forget_buffers, state,
};
use crate::client;
use crate::disk::{MemoryFiles, Random, Trouble};
use crate::history::Moment;
use zdb::disk::housekeeper;
use zdb::disk::{FileId, Files, Operation, Root};
use zdb::engine::Engine;
use zdb::engine::index::FEW_HASHES_SECRET;
use zdb::engine::log::{Policy, format};
use zdb::engine::recovery::{self, StartOptions};
use zdb::hub::Hub;

/// What happens to one attempt to start.
#[derive(Clone, Copy, Debug)]
pub struct StartTrouble {
    pub trouble: Trouble,
    /// Calls of the disk that go well before.
    pub calls: u64,
    /// The machine has no power for a moment after it.
    pub power: bool,
    pub seed: u64,
}

pub(super) fn start(files: &MemoryFiles, setup: &Setup) -> Result<Engine, String> {
    let mut random = *b"a log of the fuzzer and its keys";
    if setup.few_hashes {
        random[16..].copy_from_slice(&FEW_HASHES_SECRET);
    }
    let options = StartOptions {
        mode: None,
        policy: setup.policy,
        segment_bytes: setup.segment_bytes,
        cache_bytes: setup.cache_bytes,
        buffer: setup.shared_buffer.then(buffer_directory),
        random,
    };
    for base in recovery::missing(files)? {
        bring_back(files, base);
    }
    let (mut engine, report) = recovery::start(files, options)?;
    engine.away.has_hook = setup.offload;
    if !setup.offload {
        // Nobody moves a file, so nobody looks for one: known seeds go on to mean what they meant.
        engine.end_away();
    }
    if client::traced() {
        for one in engine.log.segments.list() {
            let (end, pages) = (one.end() - one.base, one.pages.len());
            eprintln!(
                "start: segment {:x} of {} bytes ends at {end}, {pages} pages",
                one.base, one.size
            );
        }
        eprintln!(
            "start: {} records were read, {} from the buffer",
            report.scanned, report.replayed
        );
        report.damage.iter().for_each(|line| eprintln!("start: {line}"));
    }
    Ok(engine)
}

impl World {
    /// Stops in order, and starts again. Does not come to its end where the machine stops first.
    pub fn restart(&mut self) {
        self.hub.stopping = true;
        self.quiet();
        self.stop = Stop::Closing { begun: false };
        for round in 0.. {
            self.turn();
            if self.files.is_stopped() {
                return;
            }
            let log = &self.hub.engine.log;
            let is_closed = log.is_closed() && !self.hub.engine.scrub.is_busy();
            if self.stop == (Stop::Closing { begun: true }) && is_closed {
                break;
            }
            assert!(round < QUIET_ROUNDS_MAX, "the log does not close");
            self.finish_all();
            self.advance(20);
        }
        let clean = self.hub.engine.log.broken().is_none();
        self.has_gaps |= !clean && !self.setup.shared_buffer;
        let summary = self.hub.engine.log.finish_close();
        if let Some((base, file)) = summary.unused {
            self.files.close(file);
            let _ = self.files.remove(Root::Data, &format::segment_name(base));
        }
        if let Some((FileId(file), length)) = summary.cut {
            let _ = self.files.truncate(FileId(file), length);
        }
        if self.files.is_stopped() {
            return;
        }
        self.files.forget_plan();
        // After a clean stop nothing is lost to a power cut either.
        if clean {
            self.files.cut_power(&mut Random(7));
            forget_buffers();
        }
        self.start_again(Moment::MAX, &[]);
    }

    /// The process is killed or, with `power`, the machine is; what was under way is done in part.
    pub fn kill(&mut self, power: bool, random: &mut Random) {
        self.crash(power, random, &[]);
    }

    /// The same, with trouble for the first attempts to start again.
    pub fn crash(&mut self, power: bool, random: &mut Random, troubles: &[StartTrouble]) {
        self.files.forget_plan();
        for (_, operation) in std::mem::take(&mut self.ring) {
            let fate = match random.below(3) {
                0 => continue,
                1 => Fate::Failed,
                _ => Fate::Well,
            };
            if matches!(
                operation,
                Operation::Write { .. } | Operation::Sync { .. } | Operation::Zero { .. }
            ) {
                let bad_writes = self.bad_writes;
                let _ = self.perform(operation, fate, random);
                self.bad_writes = bad_writes;
            }
        }
        for _ in 0..random.below(self.orders.len() as u64 + 1) {
            if let Some((_, operation)) = self.orders.pop_front() {
                let _ = housekeeper::perform(&*self.files, operation);
            }
        }
        let loses_power = power || troubles.iter().any(|one| one.power);
        let kept = self.acknowledged_kept(loses_power);
        let log = &self.hub.engine.log;
        let outlives = self.setup.shared_buffer && !loses_power;
        self.has_gaps |= !outlives && log.durable() < log.appended();
        if power {
            self.files.cut_power(random);
            forget_buffers();
        }
        self.start_again(kept, troubles);
    }

    /// Until which moment what was acknowledged is surely still there.
    fn acknowledged_kept(&self, power: bool) -> Moment {
        // Under another policy for a while, something of that time may be on its way.
        if self.always || !power {
            return Moment::MAX;
        }
        self.durable_until().max(self.promised_until())
    }

    /// When all that was appended by then is durable now.
    fn durable_until(&self) -> Moment {
        let durable = self.hub.engine.log.durable();
        let kept = self.marks.iter().take_while(|mark| mark.appended <= durable);
        kept.last().map_or(0, |mark| mark.moment)
    }

    /// What the policy promises by the clock, whatever the log says of itself.
    fn promised_until(&self) -> Moment {
        let Policy::Every { period_ms } = self.setup.policy else { return 0 };
        if !self.setup.prompt || !self.same_policy || self.bad_writes {
            return 0;
        }
        let until_ms = self.now.monotonic_ms.saturating_sub(period_ms);
        let kept = self.marks.iter().take_while(|mark| mark.clock_ms <= until_ms);
        kept.last().map_or(0, |mark| mark.moment)
    }

    fn start_again(&mut self, kept_until: Moment, troubles: &[StartTrouble]) {
        let now = self.tick();
        if client::traced() {
            eprintln!("{now}: a new start; kept is what was acknowledged until {kept_until}");
        }
        self.ring.clear();
        self.orders.clear();
        self.missing.clear();
        self.clients.clear();
        self.marks.clear();
        self.files.set_room(None);
        self.stop = Stop::No;
        self.bad_writes = false;
        // The old process lets go of its buffer before the new one takes it.
        let mut spare = World::placeholder();
        std::mem::swap(&mut self.hub, &mut spare);
        drop(spare);
        let engine = self.start_through(troubles);
        self.history.restarted(kept_until, now);
        if self.bad_start {
            self.history.forget_order();
        }
        self.hub = Hub::new(engine, state(&self.setup), false);
        self.hub.set_time(self.now);
        self.always = self.setup.policy == Policy::Always;
        self.same_policy = true;
    }

    /// Starts until it works: a start fails only where something went wrong with the disk.
    fn start_through(&mut self, troubles: &[StartTrouble]) -> Engine {
        for one in troubles {
            self.files.close_all();
            self.files.switch_on();
            self.files.plan(one.trouble, one.calls, one.seed);
            let started = start(&self.files, &self.setup);
            let struck = self.files.forget_plan();
            if client::traced() {
                let how = started.as_ref().err().map_or("starts", String::as_str);
                eprintln!("a start with {one:?} ({struck:?}): {how}");
            }
            self.bad_start |= struck == Some(Trouble::Flips);
            // A trailer that cannot be read is served without: its counters are off, as the start tells.
            self.bad_reads |= struck == Some(Trouble::Fails) && started.is_ok();
            match started {
                Ok(engine) if !self.files.is_stopped() => {
                    if struck == Some(Trouble::Flips) || !one.power {
                        return engine;
                    }
                }
                Ok(_) => {}
                Err(line) => assert!(struck.is_some(), "the server does not start: {line}"),
            }
            if one.power {
                self.files.cut_power(&mut Random(one.seed));
                forget_buffers();
            }
        }
        self.files.close_all();
        self.files.switch_on();
        start(&self.files, &self.setup)
            .unwrap_or_else(|line| panic!("the server does not start: {line}"))
    }

    pub(crate) fn placeholder() -> Hub {
        let setup = Setup {
            policy: Policy::No,
            shared_buffer: false,
            segment_bytes: 64 << 10,
            cache_bytes: 0,
            password: false,
            protect: false,
            few_hashes: false,
            prompt: false,
            scrub: false,
            has_threads: false,
            offload: false,
        };
        let engine = start(&MemoryFiles::default(), &setup).expect("an empty disk is no obstacle");
        Hub::new(engine, state(&setup), false)
    }
}
