//! The proxy of the tests by hand: faults from the command line, and from its input while it runs.

use compat_tests::proxy::{Counts, Cut, Flips, LINE_BYTES_MAX, Link, Proxy, Way};
use std::io::BufRead;
use std::net::{SocketAddr, ToSocketAddrs};
use std::num::NonZeroU64;
use std::process::ExitCode;
use std::time::Duration;

const HELP: &str = "\
A TCP proxy with faults.

usage: proxy --to HOST:PORT [--listen HOST:PORT] [--CHANGE [VALUE]]...

  --listen HOST:PORT   where it listens; port 0 is a free one; 127.0.0.1:0 unless given

Changes, with two dashes on the command line, without them as lines of its input while it runs:

  way there|back|both  which way the following changes are for: from who connects, to it, or both
  delay-ms N           bytes leave N milliseconds after they came
  bytes-per-s N        no more bytes a second than N
  stall                bytes are taken and held
  flip-every N         one bit in each N bytes is flipped
  seed N               where they are flipped follows from N, 1 unless given before
  pass                 none of these any more
  refuse, accept       new connections are refused, or taken again
  cut reset|fin        open connections are ended, for who receives on the way
  counts               says what went through
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|argument| argument == "--help" || argument == "-h") {
        print!("{HELP}");
        return ExitCode::SUCCESS;
    }
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("proxy: {error}; --help lists what there is");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[String]) -> Result<(), String> {
    let (mut listen, mut to, mut changes) = ("127.0.0.1:0", None, Vec::new());
    let mut words = arguments.iter().map(String::as_str).peekable();
    while let Some(word) = words.next() {
        let name = word.strip_prefix("--").ok_or(format!("{word:?} is no option"))?;
        let value = words.next_if(|next| !next.starts_with("--"));
        match (name, value) {
            ("listen", Some(value)) => listen = value,
            ("to", Some(value)) => to = Some(value),
            ("listen" | "to", None) => return Err(format!("--{name} wants HOST:PORT")),
            _ => changes.push(Change::parse(name, value)?),
        }
    }
    let to = resolve(to.ok_or("--to HOST:PORT is missing")?)?;
    let proxy = Proxy::listen(resolve(listen)?, to, LINE_BYTES_MAX)
        .map_err(|error| format!("cannot listen on {listen}: {error}"))?;
    let mut hand = Hand { proxy, ways: Way::BOTH.to_vec(), links: [Link::PASS; 2], seed: 1 };
    changes.into_iter().for_each(|change| hand.apply(change));
    println!("proxy ready on {} to {to}", hand.proxy.address());
    for line in std::io::stdin().lock().lines() {
        let line = line.map_err(|error| format!("its input cannot be read: {error}"))?;
        let (name, value) = match line.trim().split_once(' ') {
            Some((name, value)) => (name, Some(value.trim())),
            None => (line.trim(), None),
        };
        match Change::parse(name, value) {
            _ if name.is_empty() => {}
            Ok(change) => hand.apply(change),
            Err(error) => eprintln!("proxy: {error}"),
        }
    }
    // Its input has ended, as that of a service has: it stays until it is killed.
    loop {
        std::thread::park();
    }
}

fn resolve(place: &str) -> Result<SocketAddr, String> {
    let found =
        place.to_socket_addrs().map_err(|error| format!("{place:?} is no HOST:PORT: {error}"))?;
    found.into_iter().next().ok_or(format!("{place:?} has no address"))
}

#[derive(Debug, PartialEq, Eq)]
enum Change {
    Ways(Vec<Way>),
    Delay(Duration),
    Rate(NonZeroU64),
    Stall,
    Flip(NonZeroU64),
    Seed(u64),
    Pass,
    Refuse(bool),
    Cut(Cut),
    Counts,
}

impl Change {
    fn parse(name: &str, value: Option<&str>) -> Result<Change, String> {
        let number = || {
            let value = value.ok_or(format!("{name} wants a number"))?;
            value.parse::<u64>().map_err(|error| format!("{name} {value:?}: {error}"))
        };
        let positive = || NonZeroU64::new(number()?).ok_or(format!("{name} wants more than 0"));
        Ok(match (name, value) {
            ("way", Some("there")) => Change::Ways(vec![Way::There]),
            ("way", Some("back")) => Change::Ways(vec![Way::Back]),
            ("way", Some("both")) => Change::Ways(Way::BOTH.to_vec()),
            ("way", _) => return Err("way wants there, back or both".into()),
            ("delay-ms", _) => Change::Delay(Duration::from_millis(number()?)),
            ("bytes-per-s", _) => Change::Rate(positive()?),
            ("flip-every", _) => Change::Flip(positive()?),
            ("seed", _) => Change::Seed(number()?),
            ("cut", Some("reset")) => Change::Cut(Cut::Reset),
            ("cut", Some("fin")) => Change::Cut(Cut::Fin),
            ("cut", _) => return Err("cut wants reset or fin".into()),
            ("stall", None) => Change::Stall,
            ("pass", None) => Change::Pass,
            ("refuse", None) => Change::Refuse(true),
            ("accept", None) => Change::Refuse(false),
            ("counts", None) => Change::Counts,
            ("stall" | "pass" | "refuse" | "accept" | "counts", Some(value)) => {
                return Err(format!("{name} takes no value, and {value:?} is one"));
            }
            _ => return Err(format!("{name:?} is no change")),
        })
    }
}

/// The proxy and what is set on it.
struct Hand {
    proxy: Proxy,
    ways: Vec<Way>,
    links: [Link; 2],
    seed: u64,
}

impl Hand {
    fn apply(&mut self, change: Change) {
        let seed = self.seed;
        match change {
            Change::Ways(ways) => self.ways = ways,
            Change::Seed(seed) => self.seed = seed,
            Change::Delay(delay) => self.set(|link| link.delay = delay),
            Change::Rate(rate) => self.set(|link| link.bytes_per_s = Some(rate)),
            Change::Stall => self.set(|link| link.is_stalled = true),
            Change::Flip(every_bytes) => {
                self.set(|link| link.flips = Some(Flips { every_bytes, seed }));
            }
            Change::Pass => self.set(|link| *link = Link::PASS),
            Change::Refuse(is_refusing) => self.proxy.refuse(is_refusing),
            Change::Cut(cut) => self.ways.iter().for_each(|way| self.proxy.cut_way(*way, cut)),
            Change::Counts => print(&self.proxy.counts()),
        }
    }

    fn set(&mut self, change: impl Fn(&mut Link)) {
        for &way in &self.ways {
            let link = &mut self.links[way as usize];
            change(link);
            self.proxy.set(way, *link);
        }
    }
}

fn print(counts: &Counts) {
    println!(
        "connections: {} open, {} accepted, {} of them to a server that was not there",
        counts.open_count, counts.accepted_count, counts.unreachable_count
    );
    for (name, way) in [("there", Way::There), ("back", Way::Back)] {
        let way = counts.way(way);
        println!(
            "{name}: {} bytes forwarded of {}, {} lost, {} bits flipped",
            way.forwarded_bytes, way.received_bytes, way.lost_bytes, way.flipped_bits
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_understood_and_mistakes_are_named() {
        let delay = Change::Delay(Duration::from_millis(50));
        assert_eq!(Change::parse("delay-ms", Some("50")), Ok(delay));
        assert_eq!(Change::parse("cut", Some("fin")), Ok(Change::Cut(Cut::Fin)));
        assert_eq!(Change::parse("way", Some("back")), Ok(Change::Ways(vec![Way::Back])));
        for (name, value, named) in [
            ("delay-ms", None, "delay-ms wants a number"),
            ("delay-ms", Some("soon"), "soon"),
            ("bytes-per-s", Some("0"), "more than 0"),
            ("cut", None, "reset or fin"),
            ("way", Some("up"), "there, back or both"),
            ("stall", Some("50"), "no value"),
            ("dealy-ms", Some("50"), "dealy-ms"),
        ] {
            let error = Change::parse(name, value).expect_err("it is a mistake");
            assert!(error.contains(named), "{error}");
        }
        for (arguments, named) in [
            (vec![], "--to HOST:PORT is missing"),
            (vec!["--to"], "--to wants HOST:PORT"),
            (vec!["--to", "here"], "here"),
            (vec!["to", "here"], "is no option"),
            (
                vec!["--to", "127.0.0.1:1", "--listen", "192.0.2.1:1"],
                "cannot listen on 192.0.2.1:1",
            ),
        ] {
            let arguments: Vec<String> = arguments.into_iter().map(String::from).collect();
            let error = run(&arguments).expect_err("it is a mistake");
            assert!(error.contains(named), "{error}");
        }
    }
}
