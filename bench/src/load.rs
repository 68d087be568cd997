//! The loads, as data: what the clients ask, how many they are, and which servers answer.

/// What a request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    Set,
    Get,
    /// SET without a key, in a namespace that hands out ids.
    Add,
    /// SET of an id that was handed out: the number of the key.
    SetId,
}

impl Command {
    pub fn name(self) -> &'static str {
        match self {
            Command::Set => "SET",
            Command::Get => "GET",
            Command::Add => "SET of a new id",
            Command::SetId => "SET of an id",
        }
    }
}

/// Which keys a load touches. Keys are 16 bytes: a prefix of 4 and 12 decimal digits, as
/// redis-benchmark writes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keys {
    /// Uniformly random out of `span`: nearly every SET inserts.
    Random { span: u64 },
    /// Uniformly random out of a set that was filled before: SETs overwrite, GETs hit.
    Fixed { prefix: [u8; 4], count: u64 },
    /// Each of `count` keys once. Used to fill, never measured.
    Each { prefix: [u8; 4], count: u64 },
    /// Like `Each`, in an order and with gaps that look random: `count` of them from `first` on.
    EachScattered { first: u64, count: u64 },
}

/// The namespaces that a load's connections are spread over, one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spaces {
    pub first: usize,
    /// 0: the default namespace, without a SELECT.
    pub count: usize,
}

impl Spaces {
    pub const DEFAULT: Spaces = Spaces { first: 0, count: 0 };

    /// The name of the namespace of a connection.
    pub fn of_connection(self, place: usize) -> Option<String> {
        (self.count > 0).then(|| Self::name(self.first + place % self.count))
    }

    pub fn name(number: usize) -> String {
        format!("bench-{number:03}")
    }
}

/// Which policy the server runs with: zdb's `--sync`, Redis's `appendfsync`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Sync {
    EverySecond,
    Always,
}

impl Sync {
    /// Both servers call it by the same word.
    pub fn flag(self) -> &'static str {
        match self {
            Sync::EverySecond => "everysec",
            Sync::Always => "always",
        }
    }
}

/// One load. `group` is a set of loads that share freshly started servers.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    pub id: &'static str,
    pub title: &'static str,
    pub group: &'static str,
    pub sync: Sync,
    pub command: Command,
    pub keys: Keys,
    pub value_size: usize,
    pub clients: usize,
    pub pipeline: usize,
    pub spaces: Spaces,
    /// Whether the null server runs it too.
    pub null: bool,
}

pub const RANDOM: Keys = Keys::Random { span: 1_000_000_000 };
pub const FIXED_100: Keys = Keys::Fixed { prefix: *b"fix:", count: 100_000 };
/// 128 MiB and 64 MiB: both fit the read cache, so these compare the way through memory and network.
const FIXED_4K: Keys = Keys::Fixed { prefix: *b"4ki:", count: 32_768 };
pub const FIXED_64K: Keys = Keys::Fixed { prefix: *b"64k:", count: 1_024 };

/// The read cache that zdb gets in every load but the ten million keys.
pub const CACHE: &str = "256M";

const fn load(
    id: &'static str,
    title: &'static str,
    group: &'static str,
    command: Command,
    keys: Keys,
) -> Load {
    Load {
        id,
        title,
        group,
        sync: Sync::EverySecond,
        command,
        keys,
        value_size: 100,
        clients: 50,
        pipeline: 1,
        spaces: Spaces::DEFAULT,
        null: false,
    }
}

/// A load of 100-byte values and 50 clients outside the groups.
pub const fn plain(command: Command, keys: Keys) -> Load {
    load("", "", "", command, keys)
}

/// Within a group the loads run in this order; the inserts come last so that they do not make the
/// key space of the others larger for the faster server.
pub const LOADS: &[Load] = &[
    Load { null: true, ..load("get-100", "GET 100 B", "small", Command::Get, FIXED_100) },
    Load {
        null: true,
        pipeline: 16,
        ..load("get-100-p16", "GET 100 B, pipeline 16", "small", Command::Get, FIXED_100)
    },
    Load {
        null: true,
        ..load("set-100", "SET 100 B, overwrite", "small", Command::Set, FIXED_100)
    },
    Load {
        null: true,
        pipeline: 16,
        ..load("set-100-p16", "SET 100 B, overwrite, pipeline 16", "small", Command::Set, FIXED_100)
    },
    Load {
        clients: 1,
        ..load("set-100-c1", "SET 100 B, 1 client", "small", Command::Set, FIXED_100)
    },
    load("insert-100", "SET 100 B, insert", "small", Command::Set, RANDOM),
    Load {
        pipeline: 16,
        ..load("insert-100-p16", "SET 100 B, insert, pipeline 16", "small", Command::Set, RANDOM)
    },
    Load { value_size: 4 << 10, ..load("get-4k", "GET 4 KiB", "large", Command::Get, FIXED_4K) },
    Load { value_size: 4 << 10, ..load("set-4k", "SET 4 KiB", "large", Command::Set, FIXED_4K) },
    Load {
        value_size: 64 << 10,
        ..load("get-64k", "GET 64 KiB", "large", Command::Get, FIXED_64K)
    },
    Load {
        value_size: 64 << 10,
        ..load("set-64k", "SET 64 KiB", "large", Command::Set, FIXED_64K)
    },
    Load {
        sync: Sync::Always,
        ..load("always-100", "SET 100 B, sync=always", "always", Command::Set, RANDOM)
    },
    Load {
        sync: Sync::Always,
        pipeline: 16,
        ..load(
            "always-100-p16",
            "SET 100 B, sync=always, pipeline 16",
            "always",
            Command::Set,
            RANDOM,
        )
    },
    Load {
        sync: Sync::Always,
        clients: 1,
        ..load("always-100-c1", "SET 100 B, sync=always, 1 client", "always", Command::Set, RANDOM)
    },
];

/// The parts of a run besides the groups of loads.
pub const CROSS_CHECK: &str = "redis-benchmark";
pub const CROWD: &str = "slow-readers";
pub const MEMORY: &str = "memory";
pub const START: &str = "start";

/// The load that puts every key of a fixed set in place, or none where a load needs no keys.
pub fn fill_for(load: &Load) -> Option<Load> {
    let Keys::Fixed { prefix, count } = load.keys else {
        return None;
    };
    Some(Load {
        id: "fill",
        title: "fill",
        command: Command::Set,
        keys: Keys::Each { prefix, count },
        // A quarter of a MiB on each connection is enough to keep any server busy.
        pipeline: ((256 << 10) / load.value_size).clamp(1, 100),
        ..*load
    })
}

/// Fills `count` keys of 16 bytes with values of 100, one deep pipeline after the other.
pub fn fill_scattered(first: u64, count: u64) -> Load {
    Load { pipeline: 100, ..plain(Command::Set, Keys::EachScattered { first, count }) }
}

/// Overwrites a small fixed set with deep pipelines, so that buffers and caches reach their size.
pub fn churn(command: Command, value_size: usize) -> Load {
    Load { pipeline: 100, value_size, ..plain(command, FIXED_100) }
}

/// The key number `index` of the scattered set: distinct for all indexes below a billion.
pub fn scattered_key(index: u64) -> u64 {
    // 3^18 has no factor in common with 10^9, so this is a permutation.
    index.wrapping_mul(387_420_489) % 1_000_000_000
}

/// Writes the key's 16 bytes.
pub fn write_key(out: &mut [u8], prefix: [u8; 4], number: u64) {
    out[..4].copy_from_slice(&prefix);
    let mut rest = number;
    for digit in out[4..16].iter_mut().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_sixteen_bytes_and_distinct() {
        let mut key = [0; 16];
        write_key(&mut key, *b"key:", 123);
        assert_eq!(&key, b"key:000000000123");
        let mut seen: Vec<u64> = (0..100_000).map(scattered_key).collect();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), 100_000);
    }

    #[test]
    fn loads_have_distinct_names() {
        let mut ids: Vec<&str> = LOADS.iter().map(|load| load.id).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), LOADS.len());
    }
}
