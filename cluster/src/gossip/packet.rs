//! A packet: who sends it in which cluster, and what.
//!
//! ```text
//! packet := format:u8 = 1  cluster:16  tables:u64  from:u16  body
//! body   := 1 identity                                           who: who is at this address? The sender is this
//!         | 2 identity                                           here: the answer
//!         | 3 about len:u16 swim{len} count:u16 digest{count}    swim
//! about  := 0 | 1 member                                         what the sender holds of the receiver, if it should object
//! ```
//!
//! A seed is known by its address alone, and the protocol addresses identities: `who` and `here` lead from one to the other.
//! `about` tells the receiver that it is suspected, or that it lives under a generation that the cluster has seen surpassed: news
//! of that could miss just the one that must object (as in Lifeguard; Dadgar, Phillips and Currey, 2018).
//!
//! Before anything of a packet is acted on, all of it has been read.

use ferrite_wire::{ClusterId, DecodeError, NodeId, Reader};
use foca::Member;

use super::swim::{Swim, encode_member, member};
use super::{Digest, Identity, TablesHash};

/// Longest packet, in bytes.
pub const PACKET_BYTES_MAX: usize = ferrite_wire::limits::GOSSIP_BYTES_MAX;
/// Longest message of the protocol in it: the feed to a node that joins holds a thousand members.
pub(super) const SWIM_BYTES_MAX: usize = 48 * 1024;
/// Digests are added to a packet up to so many bytes, and one at least.
pub(super) const DIGESTS_BYTES_WANTED: usize = 4096;
const FORMAT: u8 = 1;
/// Bytes before the body.
const HEAD_BYTES: usize = 1 + 16 + 8 + 2;

const _: () = assert!(
    HEAD_BYTES + 64 + SWIM_BYTES_MAX + DIGESTS_BYTES_WANTED + super::digest::DIGEST_BYTES_MAX
        <= PACKET_BYTES_MAX
);

/// Which cluster, configured how: packets of another are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scope {
    /// The cluster.
    pub cluster: ClusterId,
    /// Its tables.
    pub tables: TablesHash,
}

/// Who sent a packet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Head {
    pub(super) scope: Scope,
    pub(super) from: NodeId,
}

/// What a packet says.
#[derive(Debug)]
pub(super) enum Body<'a> {
    Who(Identity),
    Here(Identity),
    Swim {
        about: Option<Member<Identity>>,
        /// The bytes of `swim`, for foca.
        bytes: &'a [u8],
        swim: Box<Swim>,
        digests: Vec<Digest>,
    },
}

impl Head {
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(FORMAT);
        out.extend_from_slice(&self.scope.cluster.0);
        out.extend_from_slice(&self.scope.tables.0.to_le_bytes());
        out.extend_from_slice(&self.from.0.to_le_bytes());
    }

    pub(super) fn decode(reader: &mut Reader<'_>) -> Result<Head, DecodeError> {
        let (len, max) = (reader.rest().len() as u64, PACKET_BYTES_MAX as u64);
        if len > max {
            return Err(DecodeError::TooLong { field: "packet", len, max });
        }
        let format = reader.u8()?;
        if format != FORMAT {
            return Err(DecodeError::Unknown { field: "packet format", value: format.into() });
        }
        let scope = Scope { cluster: ClusterId(reader.bytes16()?), tables: TablesHash(reader.u64()?) };
        Ok(Head { scope, from: NodeId(reader.u16()?) })
    }
}

/// A packet that asks who is at an address.
pub(super) fn who(head: Head, me: &Identity) -> Vec<u8> {
    introduction(head, 1, me)
}

/// The answer.
pub(super) fn here(head: Head, me: &Identity) -> Vec<u8> {
    introduction(head, 2, me)
}

fn introduction(head: Head, kind: u8, me: &Identity) -> Vec<u8> {
    let mut out = Vec::with_capacity(64);
    head.encode(&mut out);
    out.push(kind);
    me.encode(&mut out);
    out
}

/// A packet around a message of foca's; digests follow.
pub(super) fn start(head: Head, about: Option<&Member<Identity>>, swim: &[u8]) -> Vec<u8> {
    assert!(swim.len() <= SWIM_BYTES_MAX, "foca was told how long its messages may be");
    let mut out = Vec::with_capacity(HEAD_BYTES + 64 + swim.len() + DIGESTS_BYTES_WANTED);
    head.encode(&mut out);
    out.push(3);
    out.push(u8::from(about.is_some()));
    if let Some(about) = about {
        encode_member(about, &mut out);
    }
    out.extend_from_slice(&(swim.len() as u16).to_le_bytes());
    out.extend_from_slice(swim);
    out
}

impl<'a> Body<'a> {
    /// Reads the rest of a packet after its head.
    pub(super) fn decode(mut reader: Reader<'a>, from: NodeId) -> Result<Body<'a>, DecodeError> {
        let kind = reader.u8()?;
        let (body, sender) = match kind {
            1 | 2 => {
                let identity = Identity::decode(&mut reader)?;
                (if kind == 1 { Body::Who(identity) } else { Body::Here(identity) }, identity)
            }
            3 => {
                let about = match reader.u8()? {
                    0 => None,
                    1 => Some(member(&mut reader)?),
                    value => return Err(DecodeError::Unknown { field: "about", value: value.into() }),
                };
                let len = usize::from(reader.u16()?);
                if len > SWIM_BYTES_MAX {
                    let (len, max) = (len as u64, SWIM_BYTES_MAX as u64);
                    return Err(DecodeError::TooLong { field: "swim", len, max });
                }
                let bytes = reader.take(len)?;
                let swim = Box::new(Swim::decode(bytes)?);
                let count = reader.u16()?;
                let digests = (0..count).map(|_| Digest::decode(&mut reader)).collect::<Result<_, _>>()?;
                let sender = swim.header.src;
                (Body::Swim { about, bytes, swim, digests }, sender)
            }
            value => return Err(DecodeError::Unknown { field: "kind of packet", value: value.into() }),
        };
        if sender.node() != from {
            return Err(DecodeError::Unknown { field: "sender", value: sender.node().0.into() });
        }
        if reader.rest().is_empty() { Ok(body) } else { Err(DecodeError::Trailing) }
    }
}
