//! The Redis protocol on bytes: requests in, replies out. This module never touches a socket, never
//! keeps a payload and never lets a number sent by a client size an allocation.
pub mod reply;
pub mod request;

pub use reply::{CRLF, Protocol, ReplyWriter};
pub use request::{Progress, ProtocolError, Request, RequestParser};
