//! One run, from a seed: a server, its clients and a disk that does what the seed says, and looks at
//! everything after each restart and at the end.

use crate::client;
use crate::disk::{Random, Trouble};
use crate::input::Choices;
use crate::recount::recount;
use crate::requests::{Requests, encode_all};
use crate::sweep::sweep;
use crate::words;
use crate::world::{Fate, Setup, StartTrouble, World};
use zdb::engine::log::Policy;

const CLIENTS_MAX: u64 = 4;

/// What may go wrong in a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weather {
    /// Nothing: the counters are exact at every start.
    Calm,
    /// The process is killed.
    Kills,
    /// The machine loses its power.
    Power,
    /// Writes and flushes fail, the disk is full.
    Errors,
    /// Reads fail or bring other bytes.
    Flips,
    All,
}

const WEATHERS: [Weather; 8] = [
    Weather::Calm,
    Weather::Kills,
    Weather::Kills,
    Weather::Power,
    Weather::Power,
    Weather::Errors,
    Weather::Flips,
    Weather::All,
];

impl Weather {
    fn kills(self) -> bool {
        self != Self::Calm
    }

    fn cuts(self) -> bool {
        matches!(self, Self::Power | Self::All | Self::Errors)
    }

    fn errors(self) -> bool {
        matches!(self, Self::Errors | Self::All)
    }

    fn flips(self) -> bool {
        matches!(self, Self::Flips | Self::All)
    }
}

/// Runs a seed to its end. The number depends on everything that the server said.
pub fn run(seed: u64) -> u64 {
    let mut run = Run::new(seed);
    for _ in 0..run.actions {
        run.act();
        run.world.turn();
        run.go_on();
    }
    run.go_on();
    run.world.files.forget_plan();
    run.world.quiet();
    run.go_on();
    run.world.scrub();
    run.world.end_scrub();
    sweep(&mut run.world, false);
    recount(&mut run.world);
    if client::traced() {
        eprintln!("{:?}", run.world.hub.engine.away.stats);
    }
    run.world.digest
}

struct Run {
    random: Random,
    world: World,
    weather: Weather,
    requests: Requests,
    actions: u64,
    /// Of a hundred requests, how many are any at all.
    wild: u64,
}

impl Run {
    fn new(seed: u64) -> Self {
        let mut random = Random(seed);
        let weather = WEATHERS[random.below(WEATHERS.len() as u64) as usize];
        let policy = match random.below(3) {
            0 => Policy::No,
            1 => Policy::Every { period_ms: 1000 },
            _ => Policy::Always,
        };
        let setup = Setup {
            policy,
            shared_buffer: random.below(2) == 0,
            segment_bytes: [64 << 10, 64 << 10, 128 << 10, 1 << 20][random.below(4) as usize],
            cache_bytes: [0, 8 << 10, 1 << 20][random.below(3) as usize],
            password: random.below(4) == 0,
            protect: random.below(8) == 0,
            few_hashes: random.below(10) == 0,
            prompt: random.below(2) == 0,
            // Not drawn, so that the known seeds draw what they drew; only the one that a scrub found is of these.
            scrub: matches!(seed % 13, 3 | 7 | 9 | 11),
            // Not drawn, so that known seeds go on to mean what they meant.
            has_threads: seed % 8 == 7,
            offload: seed % 17 == 5 || seed % 17 == 11,
        };
        if client::traced() {
            eprintln!("{weather:?} {setup:?}");
        }
        let mut run = Self {
            world: World::new(setup),
            weather,
            requests: Requests::new(&mut random),
            actions: 50 + random.below(250),
            wild: if random.below(6) == 0 { 30 } else { 0 },
            random,
        };
        // Not drawn, so that the known seeds draw what they drew; none of them is of these.
        run.furnish(seed.is_multiple_of(7));
        run
    }

    /// Namespaces to begin with. `keeps_days`: of years that no record reaches, so deleted keys stay in the
    /// index and nothing is dropped.
    fn furnish(&mut self, keeps_days: bool) {
        let client = self.greet();
        for line in [
            "NSNEW one",
            "NSNEW two",
            "NSNEW seq",
            "NSSET seq mode seq",
            "NSSET two password secret",
            "NSSET two public 0",
            "NSSET default history 0",
            "NSSET one history 2",
            "NSSET two history 0",
            "NSSET seq history 0",
        ] {
            if self.chance(if line.contains("history") { 40 } else { 80 }) {
                self.world.clients[client].wire.extend(format!("{line}\r\n").into_bytes());
            }
        }
        for name in ["default", "one", "two"].iter().filter(|_| keeps_days) {
            let line = format!("NSSET {name} history 36500d\r\n");
            self.world.clients[client].wire.extend(line.into_bytes());
        }
        self.world.deliver(client, usize::MAX);
        if self.chance(70) {
            self.world.quiet();
        }
    }

    fn chance(&mut self, of_hundred: u64) -> bool {
        self.random.below(100) < of_hundred
    }

    /// A new client, who knows the password.
    fn greet(&mut self) -> usize {
        let client = self.world.connect(true);
        if self.world.setup.password {
            let words = format!("AUTH {}\r\n", words::PASSWORD);
            self.world.clients[client].wire.extend(words.into_bytes());
            self.world.deliver(client, usize::MAX);
        }
        client
    }

    fn client(&mut self) -> usize {
        if self.world.clients.is_empty() {
            return self.greet();
        }
        self.random.below(self.world.clients.len() as u64) as usize
    }

    fn act(&mut self) {
        self.world.scrub();
        self.offload();
        let client = self.client();
        match self.random.below(1000) {
            0..600 => self.ask(client),
            600..720 => self.finish_one(),
            720..760 => {
                let fate = self.fate();
                let random = &mut Random(self.random.number());
                self.world.finish_order(fate, random);
            }
            760..850 => self.world.finish_all(),
            850..900 => {
                let ms = [1, 10, 100, 300, 600, 1100, 31_000][self.random.below(7) as usize];
                self.world.advance(ms);
            }
            900..930 => {
                if (self.world.clients.len() as u64) < CLIENTS_MAX {
                    let client = self.greet();
                    self.world.clients[client].slow = self.chance(20);
                }
            }
            930..936 => {
                let count = self.random.below(2000) as usize;
                self.world.read(client, count);
            }
            936..940 => {
                let abort = self.chance(50);
                self.world.end(client, abort);
            }
            940..950 => self.world.clients[client].slow ^= true,
            950..965 => {
                self.world.quiet();
                if self.chance(30) && !self.world.files.is_stopped() {
                    sweep(&mut self.world, false);
                }
            }
            965..975 => self.disturb(),
            975..985 => self.restart(),
            _ => self.crash(),
        }
    }

    /// Not drawn, so that known seeds draw what they drew.
    fn offload(&mut self) {
        if !self.world.setup.offload {
            return;
        }
        let mut random = Random(self.random.0 ^ 0x0ff1_0ad0);
        match random.below(12) {
            0 => self.world.move_away(random.number()),
            1 => self.world.finish_hook(false),
            2 if self.weather.flips() => self.world.finish_hook(true),
            _ => {}
        }
    }

    fn ask(&mut self, client: usize) {
        let count = if self.chance(20) { 1 + self.random.below(8) } else { 1 };
        let mut bytes = Vec::new();
        for _ in 0..count {
            if self.chance(self.wild) {
                let choices: Vec<u8> = (0..24).map(|_| self.random.number() as u8).collect();
                let seen = &self.world.clients[client].seen;
                bytes.extend(words::encode(&words::request(&mut Choices::new(&choices), seen)));
                continue;
            }
            let one = &self.world.clients[client];
            let request = self.requests.next(&mut self.random, &one.seen, &one.namespace);
            bytes.extend(encode_all(&request));
        }
        self.world.clients[client].wire.extend(bytes);
        self.world.deliver(client, usize::MAX);
    }

    fn finish_one(&mut self) {
        let at = self.random.below(self.world.ring.len() as u64) as usize;
        let fate = self.fate();
        let random = &mut Random(self.random.number());
        self.world.finish(at, fate, random);
    }

    /// How an operation ends.
    fn fate(&mut self) -> Fate {
        match self.random.below(100) {
            0..4 if self.weather.errors() => Fate::Failed,
            4..7 if self.weather.errors() => Fate::Full,
            7..12 if self.weather.flips() => Fate::Flipped,
            12..20 if self.weather.errors() || self.weather.flips() => Fate::Short,
            _ => Fate::Well,
        }
    }

    /// The disk gets full, or something will go wrong with one of the next calls.
    fn disturb(&mut self) {
        if !self.weather.errors() {
            return;
        }
        let (calls, seed) = (self.random.below(20), self.random.number());
        match self.random.below(6) {
            0 => self.world.set_room(Some(0)),
            1 => self.world.set_room(Some(40 << 10)),
            2 => self.world.set_room(None),
            3 => self.world.files.plan(Trouble::Full, calls, seed),
            4 => self.world.files.plan(Trouble::Fails, calls, seed),
            _ if self.weather.cuts() => self.world.files.plan(Trouble::Stops, calls, seed),
            _ => {}
        }
    }

    fn restart(&mut self) {
        self.world.restart();
        if !self.world.files.is_stopped() {
            self.started();
        }
    }

    fn crash(&mut self) {
        if !self.weather.kills() {
            return;
        }
        let power = self.weather.cuts() && self.chance(60);
        let count = if self.chance(30) { 1 + self.random.below(3) } else { 0 };
        let troubles: Vec<StartTrouble> = (0..count).map(|_| self.start_trouble()).collect();
        let random = &mut Random(self.random.number());
        self.world.crash(power, random, &troubles);
        self.started();
    }

    fn start_trouble(&mut self) -> StartTrouble {
        let mut troubles = vec![Trouble::Stops, Trouble::Stops];
        if self.weather.errors() {
            troubles.extend([Trouble::Fails, Trouble::Full]);
        }
        if self.weather.flips() {
            troubles.push(Trouble::Flips);
        }
        StartTrouble {
            trouble: troubles[self.random.below(troubles.len() as u64) as usize],
            calls: self.random.below(40),
            power: self.weather.cuts() && self.chance(50),
            seed: self.random.number(),
        }
    }

    /// After a stop that a request or the disk has asked for.
    fn go_on(&mut self) {
        if self.world.hub.stopping && !self.world.files.is_stopped() {
            self.restart();
        }
        if self.world.files.is_stopped() {
            let power = self.weather.cuts() && self.chance(50);
            let random = &mut Random(self.random.number());
            self.world.crash(power, random, &[]);
            self.started();
        }
    }

    fn started(&mut self) {
        sweep(&mut self.world, true);
        // Who asks for a log that is broken is told so; most of the time that is no news.
        if self.world.clients.is_empty() {
            self.greet();
        }
    }
}
