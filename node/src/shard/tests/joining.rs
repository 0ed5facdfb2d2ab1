//! Nodes that no configuration lists but their own: found through a seed, spoken to and shown, owners of nothing.

use std::collections::BTreeSet;

use ferrite_cluster::gossip::Verdict;
use ferrite_wire::{ErrorCode, Reply};

use super::cluster::Cluster;
use super::gossip::{generation_of, greet, line, refusal};
use super::*;
use crate::shard::UNLISTED_MAX;
use crate::shard::gossip_links::Target;

const FIRST: &str = "10.0.0.1:7000";

/// Whether all nodes hold all others to be up.
fn all_up(cluster: &Cluster, nodes: usize) -> bool {
    (0..nodes).all(|at| (0..nodes).all(|of| at == of || cluster.verdict(at, of) == Some(Verdict::Up)))
}

fn has_line(cluster: &Cluster, at: usize, name: &str) -> bool {
    cluster
        .place(at, 0)
        .shard
        .status()
        .lines()
        .any(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(' ')))
}

#[test]
fn a_node_that_nobody_lists_is_found_through_one_seed_and_shown() {
    let mut cluster = Cluster::formed(3, 2);
    let four = cluster.join(&[FIRST]);
    cluster.until(5_000, |cluster| all_up(cluster, 4) && has_line(cluster, 2, "member.4.version"));
    for at in 0..4 {
        let of = |name: &str| line(&cluster, at, name);
        assert!(of("member.4").starts_with("up "), "{}", of("member.4"));
        assert_eq!([of("member.4.name"), of("member.4.address")], ["n4", "10.0.0.4:7000"]);
        assert_eq!(of("member.4.joining"), "true");
        assert!(of("member.4.cores").starts_with("0:running:"), "{}", of("member.4.cores"));
        assert_eq!([of("member.1.name"), of("member.1.address")], ["n1", FIRST]);
        assert!(!has_line(&cluster, at, "member.1.joining"));
    }
    let place = cluster.place(four, 0);
    let before = generation_of(&place.shard);

    cluster.set_cut_off(four, true);
    cluster.until(5_000, |cluster| (0..3).all(|at| cluster.verdict(at, four) == Some(Verdict::Down)));
    assert!(line(&cluster, 0, "member.4").starts_with("down 0s "));
    assert_eq!(line(&cluster, 0, "absent"), "0", "nobody does without it");

    cluster.wipe(four);
    cluster.set_cut_off(four, false);
    cluster.until(5_000, |cluster| all_up(cluster, 4));
    let after = generation_of(&cluster.place(four, 0).shard);
    assert!(after > before, "{after} after {before}");
    assert!(line(&cluster, 1, "member.4").ends_with(&format!("generation {after}")));
}

#[test]
fn a_node_that_is_joining_owns_nothing_and_says_so() {
    let mut cluster = Cluster::formed(3, 2);
    let four = cluster.join(&[FIRST]);
    cluster.until(5_000, |cluster| all_up(cluster, 4));
    for at in 0..3 {
        let shard = &cluster.place(at, 0).shard;
        assert!(shard.ring.borrow().topology().node(NodeId(4)).is_none(), "placement is as it was");
        assert!(shard.links.borrow().iter().all(|link| link.node != NodeId(4)), "there is no way for data");
    }
    let place = cluster.place(four, 1);
    assert_eq!(place.shard.links.borrow().iter().count(), 0);
    let client = client(&place.bench, &place.shard);
    for (number, request) in
        [put(b"k", b"v", Level::One), get(b"k", Level::One), delete(b"k", Level::Quorum)].iter().enumerate()
    {
        receive(&place.shard, client, &request_frame(number as u64, request));
        let (header, body) = place.bench.frames(client).remove(0);
        let refused = Reply::decode(header.kind, &body);
        assert!(
            matches!(refused, Ok(Reply::Error { code: ErrorCode::NotJoined, text }) if text.contains("ask a node")),
            "{refused:?}"
        );
    }
    // It tells whom to ask, and how it is.
    receive(&place.shard, client, &request_frame(9, &Request::Topology { have: Epoch(0) }));
    let (header, body) = place.bench.frames(client).remove(0);
    let Ok(Reply::Topology(bytes)) = Reply::decode(header.kind, &body) else { panic!("{:?}", header.kind) };
    let topology = ferrite_wire::Topology::decode(bytes).expect("sound");
    assert_eq!(topology.nodes.iter().map(|node| node.id.0).collect::<Vec<_>>(), [1, 2, 3]);
    receive(&place.shard, client, &request_frame(10, &Request::Status));
    assert_eq!(place.bench.frames(client).remove(0).0.kind, FrameKind::StatusReply);
}

/// The second newcomer's only seed is the first, which its configuration does not list either.
#[test]
fn newcomers_find_each_other() {
    let mut cluster = Cluster::formed(3, 1);
    cluster.join(&[FIRST]);
    cluster.until(5_000, |cluster| all_up(cluster, 4));
    cluster.join(&["10.0.0.4:7000"]);
    cluster.until(5_000, |cluster| all_up(cluster, 5));
    let shard = &cluster.place(4, 0).shard;
    let gossip = shard.gossip.borrow();
    let links = &gossip.as_ref().expect("a first core gossips").links;
    let seed = links.iter().find(|link| link.target == Target::Seed).expect("it is no listed node's address");
    assert_eq!(seed.link.node, NodeId(4), "whoever it is was asked at its address");
    let name = links.seeds().next().expect("there is one");
    assert_eq!(links.to_seed(name), links.to(NodeId(4)), "and is known by now");
    let learned: Vec<_> = links.iter().filter(|link| matches!(link.target, Target::Learned(_))).collect();
    assert_eq!(
        learned.iter().map(|link| link.link.node).collect::<BTreeSet<_>>(),
        BTreeSet::from([NodeId(4)])
    );
}

#[test]
fn gossip_is_taken_from_any_node_of_the_cluster_and_data_from_members() {
    let bench = Bench::new(MemDisk::new());
    let shard = open(&bench, settings(2, 1, 2)).expect("an empty disk opens");
    let tables = TableList::new(&shard.tables).expect("the shard encoded them");
    let gossip = |node| Role::Gossip { node: NodeId(node), incarnation: 1, tables };
    greeted(&bench, &shard, gossip(9));
    let core = Role::Peer { node: NodeId(9), core: CoreId(0), incarnation: 1, tables };
    for role in [core, gossip(0)] {
        let (connection, received) = greet(&bench, &shard, role);
        assert_eq!((received, refusal(&bench, connection).0), (Received::Close, ErrorCode::ForeignCluster));
    }
    let connection = bench.new_connection();
    shard.on_accepted(connection);
    let (min, max, features, cluster) = (PROTOCOL_MIN, PROTOCOL_MAX, Features(0), ClusterId([8; 16]));
    let hello = Hello { min, max, features, cluster, role: gossip(9) };
    let received = shard.on_received(connection, &frame_of(FrameKind::Hello, 0, 0, |out| hello.encode(out)));
    assert_eq!((received, refusal(&bench, connection).0), (Received::Close, ErrorCode::ForeignCluster));
}

#[test]
fn nodes_that_are_not_listed_have_one_connection_each_and_only_so_many_have_one() {
    let bench = Bench::new(MemDisk::new());
    let shard = open(&bench, settings(2, 1, 2)).expect("an empty disk opens");
    let tables = TableList::new(&shard.tables).expect("the shard encoded them");
    let gossip = |node| Role::Gossip { node: NodeId(node), incarnation: 1, tables };
    let first = greeted(&bench, &shard, gossip(100));
    for node in 101..100 + UNLISTED_MAX as u16 {
        greeted(&bench, &shard, gossip(node));
    }
    let (connection, received) = greet(&bench, &shard, gossip(99));
    assert_eq!((received, refusal(&bench, connection).0), (Received::Close, ErrorCode::Overloaded));
    greeted(&bench, &shard, gossip(2));
    assert!(!bench.0.closed.borrow().contains(&first));
    greeted(&bench, &shard, gossip(100));
    assert!(bench.0.closed.borrow().contains(&first), "its former connection is of no use to it any more");
}
