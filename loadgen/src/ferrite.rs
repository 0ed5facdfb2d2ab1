//! The Ferrite protocol, client side.

use ferrite_wire::{
    ClusterId, Epoch, Features, FrameFlags, FrameHeader, FrameKind, Hello, HelloReply, Key, Level, Order,
    PROTOCOL_MAX, PROTOCOL_MIN, Parsed, Reply, Request, RequestId, Role, TableId, finish_frame, limits,
    parse_frame, start_frame,
};

use crate::{
    failure::Failure,
    protocol::{Answer, Garbled, Protocol, Step},
};

/// What one thread says and has heard.
#[derive(Clone, Debug)]
pub(crate) struct Ferrite {
    pub(crate) level: Level,
    pub(crate) epoch: Epoch,
    pub(crate) deadline_us: u32,
    /// All zero = whichever cluster answers.
    pub(crate) cluster: ClusterId,
    /// The table that keys are of.
    table: TableId,
    /// The highest hybrid logical time seen in a reply: every request carries it, so that a write is ordered after
    /// whatever this thread has seen, also when another node coordinates it.
    time: Order,
}

impl Ferrite {
    pub(crate) fn new(level: Level, epoch: Epoch, deadline_us: u32, cluster: ClusterId) -> Ferrite {
        Ferrite { level, epoch, deadline_us, cluster, table: TableId::DEFAULT, time: Order(0) }
    }

    /// The same, with keys of another table.
    pub(crate) fn of_table(self, table: TableId) -> Ferrite {
        Ferrite { table, ..self }
    }

    #[inline]
    fn key<'k>(&self, partition: &'k [u8]) -> Key<'k> {
        Key { table: self.table, partition, sort: b"" }
    }

    #[inline]
    fn request(&self, request: u64, body: &Request<'_>, out: &mut Vec<u8>) {
        let start = start_frame(out);
        body.encode(out);
        let header = FrameHeader {
            kind: body.kind(),
            flags: FrameFlags(0),
            deadline_us: self.deadline_us,
            request: RequestId(request),
            time: self.time,
        };
        finish_frame(out, start, &header);
    }
}

/// Appends a client's hello.
pub(crate) fn encode_hello(cluster: ClusterId, out: &mut Vec<u8>) {
    let start = start_frame(out);
    let hello = Hello {
        min: PROTOCOL_MIN,
        max: PROTOCOL_MAX,
        features: Features::default(),
        cluster,
        role: Role::Client,
    };
    hello.encode(out);
    finish_frame(out, start, &control_header(FrameKind::Hello));
}

/// Header of a frame that is neither timed nor numbered.
pub(crate) fn control_header(kind: FrameKind) -> FrameHeader {
    FrameHeader { kind, flags: FrameFlags(0), deadline_us: 0, request: RequestId(0), time: Order(0) }
}

impl Protocol for Ferrite {
    const FIFO: bool = false;

    fn greet(&mut self, out: &mut Vec<u8>) -> bool {
        encode_hello(self.cluster, out);
        true
    }

    #[inline]
    fn get(&mut self, request: u64, key: &[u8], out: &mut Vec<u8>) {
        let body = Request::Get { epoch: self.epoch, level: self.level, options: 0, key: self.key(key) };
        self.request(request, &body, out);
    }

    #[inline]
    fn put(&mut self, request: u64, key: &[u8], value: &[u8], out: &mut Vec<u8>) {
        let body = Request::Put {
            epoch: self.epoch,
            level: self.level,
            options: 0,
            key: self.key(key),
            ttl_ms: 0,
            context: b"",
            value,
        };
        self.request(request, &body, out);
    }

    #[inline]
    fn step<'a>(&mut self, bytes: &'a [u8]) -> Result<Step<'a>, Garbled> {
        let parsed =
            parse_frame(bytes, limits::BODY_BYTES_MAX).map_err(|error| Garbled(error.to_string()))?;
        let Parsed::Frame { frame, bytes } = parsed else { return Ok(Step::Partial) };
        self.time = self.time.max(frame.header.time);
        let answer = match frame.header.kind {
            FrameKind::HelloReply => {
                HelloReply::decode(frame.body).map_err(|error| Garbled(error.to_string()))?;
                Answer::Greeted
            }
            kind => match Reply::decode(kind, frame.body).map_err(|error| Garbled(error.to_string()))? {
                Reply::Value { value, .. } => Answer::Value(value),
                Reply::Absent { .. } => Answer::Absent,
                Reply::Done { .. } => Answer::Done,
                Reply::Error { code, .. } => Answer::Failed(Failure::Server(code)),
                Reply::Pong
                | Reply::Topology(_)
                | Reply::Status(_)
                | Reply::Values(_)
                | Reply::Outcomes(_)
                | Reply::Siblings { .. } => {
                    return Err(Garbled(format!("an answer of kind {} that nobody asked for", kind as u8)));
                }
            },
        };
        let header = frame.header;
        Ok(Step::Answer { bytes, request: header.request.0, stale: header.flags.is_stale(), answer })
    }
}

#[cfg(test)]
mod tests {
    use ferrite_wire::{ErrorCode, Version};

    use super::*;

    fn reply(request: u64, time: u64, reply: &Reply<'_>, out: &mut Vec<u8>) {
        let start = start_frame(out);
        reply.encode(out);
        let header = FrameHeader {
            request: RequestId(request),
            time: Order(time),
            flags: FrameFlags(FrameFlags::STALE_TOPOLOGY),
            ..control_header(reply.kind())
        };
        finish_frame(out, start, &header);
    }

    #[test]
    fn replies_are_found_only_when_whole_and_their_time_is_carried_on() {
        let mut protocol = Ferrite::new(Level::One, Epoch(4), 1000, ClusterId([0; 16])).of_table(TableId(77));
        let mut bytes = Vec::new();
        reply(9, 77, &Reply::Value { version: Version::default(), answered: 1, value: b"abc" }, &mut bytes);
        for cut in 0..bytes.len() {
            assert_eq!(protocol.step(&bytes[..cut]), Ok(Step::Partial));
        }
        let whole =
            Step::Answer { bytes: bytes.len(), request: 9, stale: true, answer: Answer::Value(b"abc") };
        assert_eq!(protocol.step(&bytes), Ok(whole));

        let mut sent = Vec::new();
        protocol.put(3, b"key", b"value", &mut sent);
        let Ok(Parsed::Frame { frame, .. }) = parse_frame(&sent, limits::BODY_BYTES_MAX) else {
            panic!("a frame")
        };
        assert_eq!((frame.header.time, frame.header.deadline_us), (Order(77), 1000));
        let decoded = Request::decode(frame.header.kind, frame.body).expect("a request");
        let Request::Put { epoch: Epoch(4), level: Level::One, key, value: b"value", .. } = decoded else {
            panic!("{decoded:?}")
        };
        assert_eq!(key, Key { table: TableId(77), partition: b"key", sort: b"" });
    }

    #[test]
    fn errors_are_typed_and_damage_is_refused() {
        let mut protocol = Ferrite::new(Level::One, Epoch(0), 0, ClusterId([0; 16]));
        let mut bytes = Vec::new();
        reply(1, 0, &Reply::Error { code: ErrorCode::Overloaded, text: "" }, &mut bytes);
        let failed = Answer::Failed(Failure::Server(ErrorCode::Overloaded));
        assert!(matches!(protocol.step(&bytes), Ok(Step::Answer { answer, .. }) if answer == failed));
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        assert!(protocol.step(&bytes).is_err());
    }
}
