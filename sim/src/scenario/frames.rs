//! What clients put on the wire and find on it.

use ferrite_wire::{
    ClusterId, DecodeError, Features, FrameFlags, FrameHeader, FrameKind, Hello, Order, PROTOCOL_MAX,
    PROTOCOL_MIN, Parsed, Reply, RequestId, Role, finish_frame, limits, parse_frame, start_frame,
};

/// Deadline of a request, in microseconds.
pub(super) const DEADLINE_US: u32 = 1_000_000;

/// A client's first frame.
pub(super) fn greeting(cluster: ClusterId) -> Vec<u8> {
    let features = Features(0);
    let hello = Hello { min: PROTOCOL_MIN, max: PROTOCOL_MAX, features, cluster, role: Role::Client };
    frame(FrameKind::Hello, 0, RequestId(0), Order(0), |out| hello.encode(out))
}

/// A request; `seen` is the highest order that its client has seen.
pub(super) fn question(
    kind: FrameKind,
    request: u64,
    seen: Order,
    encode: impl FnOnce(&mut Vec<u8>),
) -> Vec<u8> {
    frame(kind, DEADLINE_US, RequestId(request), seen, encode)
}

fn frame(
    kind: FrameKind,
    deadline_us: u32,
    request: RequestId,
    time: Order,
    encode: impl FnOnce(&mut Vec<u8>),
) -> Vec<u8> {
    let mut bytes = Vec::new();
    let start = start_frame(&mut bytes);
    encode(&mut bytes);
    finish_frame(&mut bytes, start, &FrameHeader { kind, flags: FrameFlags(0), deadline_us, request, time });
    bytes
}

/// What came, with the order that its client is told of along with it.
#[derive(Debug)]
pub(super) enum Came<'b> {
    /// The server's greeting.
    Greeting(Order),
    /// The answer to a request of this number.
    Answer(u64, Order, Reply<'b>),
}

/// Hands on every whole frame that has come; says how many bytes they take.
pub(super) fn each_frame<'b>(bytes: &'b [u8], mut came: impl FnMut(Result<Came<'b>, DecodeError>)) -> usize {
    let mut used = 0;
    loop {
        match parse_frame(&bytes[used..], limits::BODY_BYTES_MAX) {
            Ok(Parsed::Need { .. }) => return used,
            Ok(Parsed::Frame { frame, bytes: len }) => {
                used += len;
                let FrameHeader { kind, request, time, .. } = frame.header;
                came(match kind {
                    FrameKind::HelloReply => Ok(Came::Greeting(time)),
                    kind => {
                        let reply = Reply::decode(kind, frame.body);
                        reply.map(|reply| Came::Answer(request.0, time, reply))
                    }
                });
            }
            Err(error) => {
                came(Err(error));
                return bytes.len();
            }
        }
    }
}
