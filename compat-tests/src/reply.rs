//! A reply as a value, the same for both protocol versions, the server and the model.

use bytes::Bytes;
use redis_protocol::resp2::types::BytesFrame as Frame2;
use redis_protocol::resp3::types::BytesFrame as Frame3;

/// One reply. RESP2 has no map: there a map is the flat array of its keys and values.
#[derive(Clone, PartialEq, Eq)]
pub enum Reply {
    Nil,
    Simple(String),
    Error(String),
    Integer(i64),
    Bulk(Bytes),
    Array(Vec<Reply>),
    Map(Vec<(Reply, Reply)>),
    /// What comes unasked on RESP3; on RESP2 it is an array.
    Push(Vec<Reply>),
}

impl Reply {
    pub fn ok() -> Reply {
        Reply::Simple("OK".into())
    }

    pub fn error(text: &str) -> Reply {
        Reply::Error(text.into())
    }

    pub fn bulk(bytes: impl AsRef<[u8]>) -> Reply {
        Reply::Bulk(Bytes::copy_from_slice(bytes.as_ref()))
    }

    pub fn is_error(&self) -> bool {
        matches!(self, Reply::Error(_))
    }

    /// The bytes of a bulk string; panics on any other reply.
    pub fn into_bytes(self) -> Bytes {
        match self {
            Reply::Bulk(bytes) => bytes,
            other => panic!("expected a bulk string, got {other:?}"),
        }
    }

    /// The elements of an array; panics on any other reply.
    pub fn into_array(self) -> Vec<Reply> {
        match self {
            Reply::Array(elements) => elements,
            other => panic!("expected an array, got {other:?}"),
        }
    }

    /// The value of an integer; panics on any other reply.
    pub fn into_integer(self) -> i64 {
        match self {
            Reply::Integer(value) => value,
            other => panic!("expected an integer, got {other:?}"),
        }
    }

    /// The same reply as RESP2 shows it: maps become flat arrays, pushes arrays.
    pub fn flattened(self) -> Reply {
        match self {
            Reply::Map(pairs) => Reply::Array(
                pairs
                    .into_iter()
                    .flat_map(|(key, value)| [key.flattened(), value.flattened()])
                    .collect(),
            ),
            Reply::Array(elements) | Reply::Push(elements) => {
                Reply::Array(elements.into_iter().map(Reply::flattened).collect())
            }
            other => other,
        }
    }
}

impl From<Frame2> for Reply {
    fn from(frame: Frame2) -> Reply {
        match frame {
            Frame2::Null => Reply::Nil,
            Frame2::SimpleString(text) => {
                Reply::Simple(String::from_utf8_lossy(&text).into_owned())
            }
            Frame2::Error(text) => Reply::Error(text.to_string()),
            Frame2::Integer(value) => Reply::Integer(value),
            Frame2::BulkString(bytes) => Reply::Bulk(bytes),
            Frame2::Array(frames) => Reply::Array(frames.into_iter().map(Reply::from).collect()),
        }
    }
}

impl From<Frame3> for Reply {
    /// Panics on the RESP3 types that zdb never sends.
    fn from(frame: Frame3) -> Reply {
        match frame {
            Frame3::Null => Reply::Nil,
            Frame3::SimpleString { data, .. } => {
                Reply::Simple(String::from_utf8_lossy(&data).into_owned())
            }
            Frame3::SimpleError { data, .. } => Reply::Error(data.to_string()),
            Frame3::Number { data, .. } => Reply::Integer(data),
            Frame3::BlobString { data, .. } | Frame3::VerbatimString { data, .. } => {
                Reply::Bulk(data)
            }
            Frame3::Array { data, .. } => Reply::Array(data.into_iter().map(Reply::from).collect()),
            Frame3::Push { data, .. } => Reply::Push(data.into_iter().map(Reply::from).collect()),
            Frame3::Map { data, .. } => Reply::Map(
                data.into_iter().map(|(key, value)| (key.into(), value.into())).collect(),
            ),
            other => panic!("a RESP3 type that zdb has no use for: {other:?}"),
        }
    }
}

/// Prints as a transcript writes it, long strings cut.
impl std::fmt::Debug for Reply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Reply::Nil => write!(f, "nil"),
            Reply::Simple(text) => write!(f, "+{text}"),
            Reply::Error(text) => write!(f, "-{text}"),
            Reply::Integer(value) => write!(f, ":{value}"),
            Reply::Bulk(bytes) if bytes.len() > 600 => {
                write!(f, "\"{}...\" ({} bytes)", bytes[..40].escape_ascii(), bytes.len())
            }
            Reply::Bulk(bytes) => write!(f, "\"{}\"", bytes.escape_ascii()),
            Reply::Array(elements) => f.debug_list().entries(elements).finish(),
            Reply::Push(elements) => {
                write!(f, "push ")?;
                f.debug_list().entries(elements).finish()
            }
            Reply::Map(pairs) => {
                f.debug_map().entries(pairs.iter().map(|(key, value)| (key, value))).finish()
            }
        }
    }
}
