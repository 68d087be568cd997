//! What a command asks of the hub: things about other connections than its own.

use super::Session;
use super::replication::{Address, SyncRequest};
use bytes::Bytes;

#[derive(Debug, PartialEq, Eq)]
pub enum Order {
    /// The lines of CLIENT LIST.
    List(ClientFilter),
    /// The line of this client.
    Describe,
    /// Ends connections. In the old form of CLIENT KILL the reply is OK or an error, else a number.
    Kill {
        filter: ClientFilter,
        old_form: bool,
    },
    /// Holds the requests of all clients, or those that write, for this time.
    Pause {
        ms: u64,
        all: bool,
    },
    Unpause,
    /// This client is shown all requests.
    Monitor,
    /// This client is sent all requests to do the same.
    Mirror,
    /// Sends a message to all who are subscribed to its channel.
    Publish {
        channel: Bytes,
        message: Bytes,
    },
    /// This client is told when another one runs a command.
    Wait {
        /// By its place in the table; none: any command.
        command: Option<usize>,
        ms: u64,
    },
    /// This client watches nothing any more.
    Unwatch,
    /// This server copies that one from now on; none: it is a master.
    Follow(Option<Address>),
    /// This client is a replica that wants the log.
    Sync(Box<SyncRequest>),
    /// It has it up to here.
    Acknowledged(u64),
    /// This client waits for replicas.
    WaitReplicas {
        count: usize,
        /// 0: for ever.
        ms: u64,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientType {
    Normal,
    /// Did MASTER.
    Master,
    /// Did MIRROR.
    Replica,
    /// Has subscriptions.
    Subscriber,
}

impl ClientType {
    pub fn parse(word: &[u8]) -> Option<Self> {
        Some(match word.to_ascii_lowercase().as_slice() {
            b"normal" => Self::Normal,
            b"master" => Self::Master,
            b"replica" | b"slave" => Self::Replica,
            b"pubsub" => Self::Subscriber,
            _ => return None,
        })
    }

    fn of(session: &Session) -> Self {
        if session.is_master || session.is_link {
            Self::Master
        } else if session.is_mirror || session.is_replica {
            Self::Replica
        } else if !session.subscriptions.is_empty() {
            Self::Subscriber
        } else {
            Self::Normal
        }
    }
}

/// Which clients are meant: those that meet all conditions.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ClientFilter {
    /// Empty: any.
    pub ids: Vec<u64>,
    pub address: Option<Vec<u8>>,
    pub local_address: Option<Vec<u8>>,
    pub client_type: Option<ClientType>,
    /// Connected for at least so many seconds.
    pub age_s_min: Option<u64>,
    /// Not the one who asks.
    pub not_me: bool,
}

impl ClientFilter {
    pub fn matches(&self, session: &Session, now_s: u64) -> bool {
        let is = |wanted: &Option<Vec<u8>>, value: &str| {
            wanted.as_ref().is_none_or(|wanted| wanted == value.as_bytes())
        };
        (self.ids.is_empty() || self.ids.contains(&session.id))
            && is(&self.address, &session.peer)
            && is(&self.local_address, &session.local_address)
            && self.client_type.is_none_or(|wanted| wanted == ClientType::of(session))
            && self.age_s_min.is_none_or(|age| now_s.saturating_sub(session.connected_s) >= age)
    }
}
