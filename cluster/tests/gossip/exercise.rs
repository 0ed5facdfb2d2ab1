//! What a membership must withstand: shared by the tests of hostile packets, the corpus and the fuzz target.

use std::net::SocketAddr;

use ferrite_cluster::gossip::{
    Generation, GossipOptions, Identity, MEMBERS_MAX, Membership, Output, PACKET_BYTES_MAX, Scope, Start,
    TablesHash,
};
use ferrite_wire::{ClusterId, NodeId};

/// The cluster that the corpus is of.
pub(crate) const SCOPE: Scope = Scope { cluster: ClusterId([7; 16]), tables: TablesHash(0x7ab1e5) };

/// Node 1 of that cluster, in its life 5, at 10.0.0.1:7000.
pub(crate) fn member() -> Membership {
    let start = Start {
        me: Identity::new(NodeId(1), Generation(5), SocketAddr::from(([10, 0, 0, 1], 7_000))),
        scope: SCOPE,
        version: String::new(),
        name: String::new(),
        seeds: Vec::new(),
        random_seed: 1,
        options: GossipOptions::default(),
    };
    Membership::new(0, start)
}

/// Any bytes: no panic, nothing learned of what is refused, and bounded answers; twice, and some time later.
pub(crate) fn packet(bytes: &[u8]) {
    let (mut membership, mut out) = (member(), Vec::new());
    let me = membership.me();
    let taken = membership.on_message(0, bytes, &mut out);
    if taken.is_err() {
        assert_eq!(
            (membership.me(), membership.members().count()),
            (me, 0),
            "what is refused changes nothing"
        );
    }
    let _ = membership.on_message(1, bytes, &mut out);
    for now_ms in [10, 1_000, 10_000, 100_000] {
        membership.tick(now_ms, &mut out);
        assert!(membership.next_tick_ms() > 0);
    }
    assert!(membership.members().count() <= MEMBERS_MAX);
    assert!(out.iter().all(|output| match output {
        Output::Send { bytes, .. } => bytes.len() <= PACKET_BYTES_MAX,
        Output::Verdict { .. } | Output::Core { .. } | Output::Renewed { .. } => true,
    }));
}
