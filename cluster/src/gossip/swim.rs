//! The protocol's messages as bytes: what foca is given to write, and what is checked before foca may read.
//!
//! ```text
//! swim    := src:identity incarnation:u16 dst:identity message
//! message := 1 probe:u8 news                        ping
//!          | 2 probe:u8 news                        ack
//!          | 3 probe:u8 target:identity news        ping the target for me
//!          | 4 probe:u8 origin:identity news        ping, for the origin
//!          | 5 probe:u8 target:identity news        ack, for the target
//!          | 6 probe:u8 origin:identity news        the origin's ack, forwarded
//!          | 7                                      announce: who is there?
//!          | 8 news                                 feed: these are
//!          | 9 news                                 gossip
//!          | 10                                     you were declared down
//! news    := count:u16 member{count}
//! member  := identity incarnation:u16 state:u8      0 alive, 1 suspect, 2 down
//! ```
//!
//! Integers are little-endian, but for `count`, which foca itself writes and is big-endian. News fills its packet to the end.

use bytes::{Buf, BufMut};
use ferrite_wire::{DecodeError, Reader};
use foca::{Header, Member, Message, State};

use super::Identity;
use super::identity::IDENTITY_BYTES_MAX;

/// Most bytes of a member.
const MEMBER_BYTES_MAX: usize = IDENTITY_BYTES_MAX + 3;
/// Least bytes of a member: that of an IPv4 address.
const MEMBER_BYTES_MIN: usize = MEMBER_BYTES_MAX - 12;

/// Writes for foca, and reads what was already found sound.
pub(super) struct SwimCodec;

/// A message, checked to its last byte.
#[derive(Debug)]
pub(super) struct Swim {
    pub(super) header: Header<Identity>,
    pub(super) news: Vec<Member<Identity>>,
}

impl Swim {
    pub(super) fn decode(bytes: &[u8]) -> Result<Swim, DecodeError> {
        let mut reader = Reader::new(bytes);
        let header = header(&mut reader)?;
        let mut news = Vec::new();
        if carries_news(&header.message) {
            let count = u16::from_be_bytes(reader.u16()?.to_le_bytes());
            // What is reserved is bounded by the bytes that are there.
            news.reserve(usize::from(count).min(reader.rest().len() / MEMBER_BYTES_MIN));
            for _ in 0..count {
                news.push(member(&mut reader)?);
            }
        }
        if reader.rest().is_empty() { Ok(Swim { header, news }) } else { Err(DecodeError::Trailing) }
    }

    /// The third node of an indirect message.
    pub(super) fn third(&self) -> Option<Identity> {
        match self.header.message {
            Message::PingReq { target: third, .. }
            | Message::IndirectPing { origin: third, .. }
            | Message::IndirectAck { target: third, .. }
            | Message::ForwardedAck { origin: third, .. } => Some(third),
            Message::Ping(_)
            | Message::Ack(_)
            | Message::Announce
            | Message::Feed
            | Message::Gossip
            | Message::Broadcast
            | Message::TurnUndead => None,
        }
    }
}

fn carries_news(message: &Message<Identity>) -> bool {
    match message {
        Message::Announce | Message::TurnUndead | Message::Broadcast => false,
        Message::Ping(_)
        | Message::Ack(_)
        | Message::PingReq { .. }
        | Message::IndirectPing { .. }
        | Message::IndirectAck { .. }
        | Message::ForwardedAck { .. }
        | Message::Feed
        | Message::Gossip => true,
    }
}

pub(super) fn encode_member(member: &Member<Identity>, out: &mut Vec<u8>) {
    member.id().encode(out);
    out.extend_from_slice(&member.incarnation().to_le_bytes());
    out.push(match member.state() {
        State::Alive => 0,
        State::Suspect => 1,
        State::Down => 2,
    });
}

pub(super) fn member(reader: &mut Reader<'_>) -> Result<Member<Identity>, DecodeError> {
    let (identity, incarnation) = (Identity::decode(reader)?, reader.u16()?);
    let state = match reader.u8()? {
        0 => State::Alive,
        1 => State::Suspect,
        2 => State::Down,
        value => return Err(DecodeError::Unknown { field: "state of a member", value: value.into() }),
    };
    Ok(Member::new(identity, incarnation, state))
}

fn encode_header(header: &Header<Identity>, out: &mut Vec<u8>) {
    header.src.encode(out);
    out.extend_from_slice(&header.src_incarnation.to_le_bytes());
    header.dst.encode(out);
    let mut put = |kind: u8, probe: u8, third: Option<&Identity>| {
        out.extend_from_slice(&[kind, probe]);
        if let Some(third) = third {
            third.encode(out);
        }
    };
    match &header.message {
        Message::Ping(probe) => put(1, *probe, None),
        Message::Ack(probe) => put(2, *probe, None),
        Message::PingReq { target, probe_number } => put(3, *probe_number, Some(target)),
        Message::IndirectPing { origin, probe_number } => put(4, *probe_number, Some(origin)),
        Message::IndirectAck { target, probe_number } => put(5, *probe_number, Some(target)),
        Message::ForwardedAck { origin, probe_number } => put(6, *probe_number, Some(origin)),
        Message::Announce => out.push(7),
        Message::Feed => out.push(8),
        Message::Gossip => out.push(9),
        Message::TurnUndead => out.push(10),
        Message::Broadcast => unreachable!("foca is given nothing to broadcast"),
    }
}

fn header(reader: &mut Reader<'_>) -> Result<Header<Identity>, DecodeError> {
    let (src, src_incarnation) = (Identity::decode(reader)?, reader.u16()?);
    let dst = Identity::decode(reader)?;
    let kind = reader.u8()?;
    let message = match kind {
        1 => Message::Ping(reader.u8()?),
        2 => Message::Ack(reader.u8()?),
        3..=6 => {
            let (probe_number, third) = (reader.u8()?, Identity::decode(reader)?);
            match kind {
                3 => Message::PingReq { target: third, probe_number },
                4 => Message::IndirectPing { origin: third, probe_number },
                5 => Message::IndirectAck { target: third, probe_number },
                _ => Message::ForwardedAck { origin: third, probe_number },
            }
        }
        7 => Message::Announce,
        8 => Message::Feed,
        9 => Message::Gossip,
        10 => Message::TurnUndead,
        value => return Err(DecodeError::Unknown { field: "message", value: value.into() }),
    };
    Ok(Header { src, src_incarnation, dst, message })
}

/// Puts bytes where they fit whole; where they do not, nothing.
fn put(bytes: &[u8], mut into: impl BufMut) -> Result<(), DecodeError> {
    if into.remaining_mut() < bytes.len() {
        return Err(DecodeError::Short);
    }
    into.put_slice(bytes);
    Ok(())
}

fn read<T>(
    mut from: impl Buf,
    decode: impl FnOnce(&mut Reader<'_>) -> Result<T, DecodeError>,
) -> Result<T, DecodeError> {
    let mut reader = Reader::new(from.chunk());
    let value = decode(&mut reader)?;
    let used = from.chunk().len() - reader.rest().len();
    from.advance(used);
    Ok(value)
}

impl foca::Codec<Identity> for SwimCodec {
    type Error = DecodeError;

    fn encode_header(&mut self, header: &Header<Identity>, buf: impl BufMut) -> Result<(), DecodeError> {
        let mut bytes = Vec::with_capacity(3 * IDENTITY_BYTES_MAX + 4);
        encode_header(header, &mut bytes);
        put(&bytes, buf)
    }

    fn decode_header(&mut self, buf: impl Buf) -> Result<Header<Identity>, DecodeError> {
        read(buf, header)
    }

    fn encode_member(&mut self, member: &Member<Identity>, buf: impl BufMut) -> Result<(), DecodeError> {
        let mut bytes = Vec::with_capacity(MEMBER_BYTES_MAX);
        encode_member(member, &mut bytes);
        put(&bytes, buf)
    }

    fn decode_member(&mut self, buf: impl Buf) -> Result<Member<Identity>, DecodeError> {
        read(buf, member)
    }
}
