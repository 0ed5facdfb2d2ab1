//! What a packet may not say though every byte of it is sound. It is looked at before foca may act on any of it.

use ferrite_wire::NodeId;
use foca::Member;

use super::swim::Swim;
use super::view::View;
use super::{Digest, Fault, Identity, MEMBERS_MAX};

/// Checks a message to `me`, who holds `view` of the others: it is not its own, it is about `me`, and what it names is not too much.
pub(super) fn check(
    me: NodeId,
    view: &View,
    about: Option<&Member<Identity>>,
    swim: &Swim,
    digests: &[Digest],
) -> Result<(), Fault> {
    let src = swim.header.src;
    if src.node() == me {
        return Err(twin(src));
    }
    if about.is_some_and(|about| about.id().node() != me)
        || swim.third().is_some_and(|third| third.node() == me)
    {
        return Err(Fault::Misdirected);
    }
    let named = swim.news.iter().map(|member| member.id().node());
    let mut unknown: Vec<NodeId> = named
        .chain(digests.iter().map(|digest| digest.node))
        .chain([src.node()])
        .filter(|node| *node != me && !view.knows(*node))
        .collect();
    if unknown.is_empty() {
        return Ok(());
    }
    unknown.sort_unstable();
    unknown.dedup();
    let is_room = view.nodes() + unknown.len() <= MEMBERS_MAX;
    if is_room { Ok(()) } else { Err(Fault::TooManyMembers { max: MEMBERS_MAX }) }
}

/// Another process says that it is this node.
pub(super) fn twin(identity: Identity) -> Fault {
    Fault::Twin { generation: identity.generation(), address: identity.address() }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use bytes::BufMut;
    use ferrite_wire::ClusterId;
    use foca::{Codec, Header, Message};

    use super::*;
    use crate::gossip::packet::{self, Head};
    use crate::gossip::swim::SwimCodec;
    use crate::gossip::{Generation, GossipOptions, Membership, Scope, Start, TablesHash};

    const SCOPE: Scope = Scope { cluster: ClusterId([7; 16]), tables: TablesHash(1) };

    fn identity(node: u16, generation: u64) -> Identity {
        Identity::new(NodeId(node), Generation(generation), SocketAddr::from(([10, 0, 0, node as u8], 7_000)))
    }

    fn member(node: u16) -> Membership {
        let start = Start {
            me: identity(node, 5),
            scope: SCOPE,
            version: String::new(),
            name: String::new(),
            seeds: Vec::new(),
            random_seed: 1,
            options: GossipOptions::default(),
        };
        Membership::new(0, start)
    }

    fn packet(
        from: Identity,
        to: Identity,
        message: Message<Identity>,
        news: &[Member<Identity>],
    ) -> Vec<u8> {
        let header = Header { src: from, src_incarnation: 0, dst: to, message };
        let (mut codec, mut swim) = (SwimCodec, Vec::new());
        codec.encode_header(&header, &mut swim).expect("room");
        swim.put_u16(news.len() as u16);
        news.iter().for_each(|member| codec.encode_member(member, &mut swim).expect("room"));
        let mut bytes = packet::start(Head { scope: SCOPE, from: from.node() }, None, &swim);
        bytes.extend_from_slice(&[0, 0]);
        bytes
    }

    /// Foca would find only after it had begun a new life that the ping is for itself, and object.
    #[test]
    fn a_peer_cannot_have_this_node_ping_itself_in_its_next_life() {
        let (mut membership, mut out) = (member(1), Vec::new());
        let (me, other) = (membership.me(), identity(2, 5));
        let message = Message::PingReq { target: identity(1, 6), probe_number: 1 };
        let bytes = packet(other, me, message, &[Member::down(me)]);
        assert_eq!(membership.on_message(0, &bytes, &mut out), Err(Fault::Misdirected));
        assert_eq!((membership.me(), membership.members().count(), out.len()), (me, 0, 0));
    }

    #[test]
    fn news_of_more_nodes_than_a_cluster_may_have_is_refused() {
        let (mut membership, mut out) = (member(1), Vec::new());
        let (me, other) = (membership.me(), identity(2, 5));
        for first in [10u16, 1_000, 2_000, 3_000] {
            let news: Vec<_> = (first..first + 900).map(|node| Member::alive(identity(node, 1))).collect();
            let bytes = packet(other, me, Message::Gossip, &news);
            assert_eq!(membership.on_message(0, &bytes, &mut out), Ok(()));
        }
        assert_eq!(membership.members().count(), 3_601);
        out.clear();
        let news: Vec<_> = (5_000..5_500).map(|node| Member::alive(identity(node, 1))).collect();
        let bytes = packet(other, me, Message::Gossip, &news);
        let fault = membership.on_message(0, &bytes, &mut out);
        assert_eq!(fault, Err(Fault::TooManyMembers { max: MEMBERS_MAX }));
        assert_eq!((membership.members().count(), out.len()), (3_601, 0));
    }
}
