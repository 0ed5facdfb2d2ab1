//! One connection, without its socket: bytes in become typed replies, requests become bytes out.
//!
//! A session starts with its hello in the output and accepts nothing but the answer to it first. Whatever a server may
//! not say ends the session with a [`SessionError`]; the owner closes the socket. The session matches no replies to
//! calls and knows no time: that is [`crate::Pipeline`]'s.

use ferrite_wire::{
    ClusterId, DecodeError, ErrorCode, Fault, Features, FrameFlags, FrameHeader, FrameKind, Hello,
    HelloReply, Order, PROTOCOL_MAX, PROTOCOL_MIN, Parsed, Reply, RequestId, Role, finish_frame, limits,
    parse_frame, start_frame,
};

/// The number of no request: of handshakes, and of errors that concern the connection itself.
pub const CONNECTION_REQUEST: RequestId = RequestId(0);
/// A buffer that grew beyond this for one large message gives its memory back, in bytes.
pub(crate) const BUFFER_KEPT_BYTES: usize = 256 * 1024;

/// What arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival<'a> {
    /// The server accepted the connection; requests may be sent.
    Ready {
        /// Who it is.
        server: HelloReply,
        /// The highest time it has seen.
        time: Order,
    },
    /// A reply to a request.
    Reply {
        /// The frame's header: request id, flags, time.
        header: FrameHeader,
        /// The reply.
        reply: Reply<'a>,
    },
}

/// Why a session ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SessionError {
    /// The server's bytes could not be decoded.
    Decode(DecodeError),
    /// The server refused the connection or found fault with its bytes.
    Refused(Fault),
    /// The server belongs to another cluster.
    ForeignCluster(ClusterId),
    /// A frame that a server may not send at this point.
    Unexpected(FrameKind),
}

impl std::fmt::Display for SessionError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            SessionError::Decode(error) => write!(f, "the server sent bytes that cannot be read: {error}"),
            SessionError::Refused(fault) => write!(f, "the server closed the connection: {fault}"),
            SessionError::ForeignCluster(cluster) => write!(f, "the server belongs to cluster {cluster}"),
            SessionError::Unexpected(kind) => {
                write!(f, "the server sent a frame of kind {:#04x} here", *kind as u8)
            }
        }
    }
}

impl std::error::Error for SessionError {}

impl SessionError {
    /// The server's refusal, if trying again later would only meet it again: wrong cluster, no common version.
    pub fn refusal(&self) -> Option<Fault> {
        match self {
            SessionError::Refused(fault)
                if matches!(fault.code, ErrorCode::Version | ErrorCode::ForeignCluster) =>
            {
                Some(fault.clone())
            }
            SessionError::ForeignCluster(_) => {
                Some(Fault { code: ErrorCode::ForeignCluster, text: self.to_string() })
            }
            SessionError::Decode(DecodeError::Version { .. }) => {
                Some(Fault { code: ErrorCode::Version, text: self.to_string() })
            }
            SessionError::Refused(_) | SessionError::Decode(_) | SessionError::Unexpected(_) => None,
        }
    }
}

impl From<DecodeError> for SessionError {
    fn from(error: DecodeError) -> Self {
        SessionError::Decode(error)
    }
}

/// One connection's protocol state.
#[derive(Debug)]
pub struct Session {
    cluster: Option<ClusterId>,
    server: Option<HelloReply>,
    inbox: Vec<u8>,
    /// Bytes at the front of `inbox` that have been handled.
    handled: usize,
    out: Vec<u8>,
}

impl Session {
    /// A new connection's session; its hello is ready to be sent.
    pub fn new(cluster: Option<ClusterId>) -> Session {
        let mut out = Vec::new();
        let start = start_frame(&mut out);
        let hello = Hello {
            min: PROTOCOL_MIN,
            max: PROTOCOL_MAX,
            features: Features(0),
            cluster: cluster.unwrap_or(ClusterId([0; 16])),
            role: Role::Client,
        };
        hello.encode(&mut out);
        let header = FrameHeader {
            kind: FrameKind::Hello,
            flags: FrameFlags(0),
            deadline_us: 0,
            request: CONNECTION_REQUEST,
            time: Order(0),
        };
        finish_frame(&mut out, start, &header);
        Session { cluster, server: None, inbox: Vec::new(), handled: 0, out }
    }

    /// The server, once it has accepted the connection.
    pub fn server(&self) -> Option<&HelloReply> {
        self.server.as_ref()
    }

    /// Longest body the server takes, in bytes.
    pub fn body_bytes_max(&self) -> usize {
        self.server.map_or(limits::BODY_BYTES_MAX, |server| server.body_bytes_max as usize)
    }

    /// Appends a request to the output. Only after [`Arrival::Ready`], and within [`Session::body_bytes_max`].
    pub fn request(&mut self, header: &FrameHeader, body: &[u8]) {
        assert!(self.server.is_some(), "requests wait for the handshake");
        assert!(header.request != CONNECTION_REQUEST, "request ids start at 1");
        let start = start_frame(&mut self.out);
        self.out.extend_from_slice(body);
        finish_frame(&mut self.out, start, header);
    }

    /// Whether there are bytes to send.
    pub fn has_output(&self) -> bool {
        !self.out.is_empty()
    }

    /// How many they are.
    pub(crate) fn output_bytes(&self) -> usize {
        self.out.len()
    }

    /// Exchanges the bytes to send for an empty buffer, whose memory is used again.
    pub fn take_output(&mut self, empty: &mut Vec<u8>) {
        empty.clear();
        empty.shrink_to(BUFFER_KEPT_BYTES);
        std::mem::swap(&mut self.out, empty);
    }

    /// Takes bytes from the server; [`Session::poll_arrival`] says what they mean.
    pub fn receive(&mut self, bytes: &[u8]) {
        if self.handled == self.inbox.len() {
            self.inbox.clear();
            self.inbox.shrink_to(BUFFER_KEPT_BYTES);
        } else {
            self.inbox.drain(..self.handled);
        }
        self.handled = 0;
        self.inbox.extend_from_slice(bytes);
    }

    /// The next whole frame's meaning; `None` = more bytes are needed. After an error the session is of no more use.
    pub fn poll_arrival(&mut self) -> Result<Option<Arrival<'_>>, SessionError> {
        let (frame, bytes) = match parse_frame(&self.inbox[self.handled..], limits::BODY_BYTES_MAX)? {
            Parsed::Frame { frame, bytes } => (frame, bytes),
            Parsed::Need { .. } => return Ok(None),
        };
        self.handled += bytes;
        let header = frame.header;
        if header.request == CONNECTION_REQUEST && header.kind == FrameKind::Error {
            return Err(match Reply::decode(header.kind, frame.body)? {
                Reply::Error { code, text } => SessionError::Refused(Fault { code, text: text.to_owned() }),
                _ => unreachable!("an error frame decodes to an error"),
            });
        }
        match (&self.server, header.kind) {
            (None, FrameKind::HelloReply) => {
                let server = HelloReply::decode(frame.body)?;
                if self.cluster.is_some_and(|cluster| cluster != server.cluster) {
                    return Err(SessionError::ForeignCluster(server.cluster));
                }
                self.server = Some(server);
                Ok(Some(Arrival::Ready { server, time: header.time }))
            }
            (None, kind) | (Some(_), kind @ FrameKind::HelloReply) => Err(SessionError::Unexpected(kind)),
            (Some(_), kind) => Ok(Some(Arrival::Reply { header, reply: Reply::decode(kind, frame.body)? })),
        }
    }
}
