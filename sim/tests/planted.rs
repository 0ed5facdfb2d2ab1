//! Each planted bug is caught, within a bound on the seeds it takes, and the clean build is silent over the same seeds.

use std::ops::RangeInclusive;

use ferrite_sim::{Bug, Run};

/// Runs seeds until the bug is caught; returns the seed, and what was broken.
fn caught(name: &str, seeds_max: u64, checks_placement: bool) -> String {
    caught_among(name, 1..=seeds_max, checks_placement)
}

/// Runs these seeds until the bug is caught.
fn caught_among(name: &str, seeds: RangeInclusive<u64>, checks_placement: bool) -> String {
    let bug = Bug::named(name).expect("a bug of that name");
    for seed in seeds.clone() {
        let report = Run { checks_placement, ..Run::new(seed, Some(bug)) }.go();
        let Some((violation, _)) = report.violation else { continue };
        println!("{name}: caught with seed {seed}: {}", violation.what);
        let clean = Run { checks_placement, ..Run::new(seed, None) }.go();
        assert!(clean.violation.is_none(), "without the bug the same seed breaks a promise:\n{clean}");
        return violation.what;
    }
    panic!("{name} was not caught in seeds {seeds:?}");
}

#[test]
fn an_acknowledgement_before_the_sync_is_caught() {
    caught("ack-before-sync", 10, true);
}

#[test]
fn what_a_recycled_segment_held_before_is_caught_when_it_is_replayed() {
    caught("stale-segment-replayed", 60, true);
}

#[test]
fn a_directory_that_is_not_synced_is_caught() {
    caught("skipped-directory-sync", 10, true);
}

#[test]
fn a_quorum_of_one_too_few_is_caught() {
    caught("quorum-off-by-one", 5, true);
}

/// A replica that is sent one dot of an actor takes it that the earlier ones were replaced.
#[test]
fn a_dot_that_is_sent_without_its_set_is_caught() {
    let what = caught("lone-dot-shipped", 5, true);
    assert!(what.contains("is lost"), "{what}");
}

/// The famous one: a coordinator that has lost what it wrote and goes on counting hides what others have of it. It has become rare: reads
/// and hints repair what was lost before it is written on top of, and gossip keeps coordinators from asking a node whose disk stands still. So seeds
/// are tried from near one that is known.
#[test]
fn an_actor_that_is_used_again_after_amnesia_is_caught() {
    let what = caught_among("actor-reused", 300..=320, true);
    assert!(what.contains("is lost"), "{what}");
}

#[test]
fn a_join_that_keeps_one_of_two_sets_is_caught() {
    caught("join-keeps-one", 5, true);
}

#[test]
fn a_digest_that_does_not_tell_of_every_sibling_is_caught() {
    caught("digest-blind", 10, true);
}

#[test]
fn a_read_that_takes_the_newest_set_for_all_of_them_is_caught() {
    // Hints bring replicas together before many reads can tell them apart.
    caught("read-keeps-newest", 40, true);
}

/// Whoever reads next may ask the others, and find what was shown gone.
#[test]
fn a_repair_that_answers_before_a_majority_has_the_record_is_caught() {
    caught("repair-unawaited", 60, true);
}

#[test]
fn a_repair_that_mints_a_version_of_its_own_is_caught() {
    caught("repair-mints-anew", 5, true);
}

#[test]
fn two_replicas_on_one_node_are_seen_in_the_placement() {
    let what = caught("tail-repeats-node", 1, true);
    assert!(what.contains("has the replicas"), "{what}");
}

/// Nodes refuse a topology that names one node twice for a vnode, so such a cluster never forms.
#[test]
fn two_replicas_on_one_node_are_caught_by_how_the_cluster_behaves() {
    let what = caught("tail-repeats-node", 1, false);
    assert!(what.contains("found no answer"), "{what}");
}
