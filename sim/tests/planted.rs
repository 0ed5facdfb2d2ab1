//! Each planted bug is caught, within a bound on the seeds it takes. Without a bug the same seeds are silent: the seed that catches it here,
//! and all of the range in `seeds.rs`, which is longer than any bound.

use ferrite_sim::{Bug, Run};

/// Runs seeds until the bug is caught and `shows`, which is told what was broken; returns that.
fn caught_as(name: &str, seeds_max: u64, checks_placement: bool, shows: impl Fn(&str) -> bool) -> String {
    let bug = Bug::named(name).expect("a bug of that name");
    let mut otherwise = Vec::new();
    for seed in 1..=seeds_max {
        let report = Run { checks_placement, ..Run::new(seed, Some(bug)) }.go();
        let Some((violation, _)) = report.violation else { continue };
        println!("{name}: caught with seed {seed}: {}", violation.what);
        let clean = Run { checks_placement, ..Run::new(seed, None) }.go();
        assert!(clean.violation.is_none(), "without the bug the same seed breaks a promise:\n{clean}");
        if shows(&violation.what) {
            println!("counted: planted bugs caught 1");
            return violation.what;
        }
        otherwise.push(violation.what);
    }
    panic!("{name} was not caught as it should be in {seeds_max} seeds, but {otherwise:?}");
}

/// The same, however it shows.
fn caught(name: &str, seeds_max: u64, checks_placement: bool) -> String {
    caught_as(name, seeds_max, checks_placement, |_| true)
}

/// The same, by how the cluster behaves; `sign` is in what was broken.
fn assert_caught(name: &str, seeds_max: u64, sign: &str) {
    caught_as(name, seeds_max, true, |what| what.contains(sign));
}

#[test]
fn an_acknowledgement_before_the_sync_is_caught() {
    caught("ack-before-sync", 10, true);
}

#[test]
fn an_acknowledgement_before_a_replicas_sync_is_caught() {
    caught("acked-before-replica-sync", 10, true);
}

#[test]
fn what_a_recycled_segment_held_before_is_caught_when_it_is_replayed() {
    caught("stale-segment-replayed", 60, true);
}

#[test]
fn a_directory_that_is_not_synced_is_caught() {
    caught("skipped-directory-sync", 20, true);
}

#[test]
fn a_block_that_is_taken_for_what_it_should_be_is_caught() {
    caught("block-not-verified", 20, true);
}

#[test]
fn a_quorum_of_one_too_few_is_caught() {
    caught("quorum-off-by-one", 5, true);
}

#[test]
fn a_replica_that_broke_off_and_was_counted_is_caught() {
    caught("lost-counts-as-ack", 20, true);
}

/// One replica has it, and two are told.
#[test]
fn an_acknowledgement_that_comes_twice_and_counts_twice_is_caught() {
    caught("repeated-ack-counts", 60, true);
}

#[test]
fn a_late_answer_that_is_taken_for_one_to_another_operation_is_caught() {
    caught("recycled-answer-taken", 20, true);
}

#[test]
fn a_timeout_that_is_reported_as_not_applied_is_caught() {
    assert_caught("timeout-says-not-applied", 10, "as not applied");
}

/// A replica that is sent one dot of an actor takes it that the earlier ones were replaced.
#[test]
fn a_dot_that_is_sent_without_its_set_is_caught() {
    assert_caught("lone-dot-shipped", 10, "is lost");
}

/// The famous one: a coordinator that has lost what it wrote and goes on counting hides what others have of it.
#[test]
fn an_actor_that_is_used_again_after_amnesia_is_caught() {
    assert_caught("actor-reused", 60, "is lost");
}

#[test]
fn a_join_that_keeps_one_of_two_sets_is_caught() {
    caught("join-keeps-one", 20, true);
}

#[test]
fn a_join_that_keeps_what_was_replaced_is_caught() {
    assert_caught("join-forgets-replaced", 10, "again");
}

/// The deleted siblings come back from whoever still has them.
#[test]
fn a_delete_that_does_not_note_what_it_saw_is_caught() {
    assert_caught("delete-forgets-context", 60, "again");
}

#[test]
fn a_context_that_is_ignored_is_caught() {
    assert_caught("context-ignored", 10, "again");
}

#[test]
fn an_overwrite_that_reads_one_replica_is_caught() {
    assert_caught("overwrite-reads-one", 150, "again");
}

#[test]
fn writes_of_a_set_that_do_not_wait_for_one_another_are_caught() {
    assert_caught("latch-not-held", 60, "is lost");
}

#[test]
fn a_digest_that_does_not_tell_of_every_sibling_is_caught() {
    caught("digest-blind", 30, true);
}

#[test]
fn a_read_that_takes_the_newest_set_for_all_of_them_is_caught() {
    caught("read-keeps-newest", 40, true);
}

/// Whoever reads next may ask the others, and find what was shown gone.
#[test]
fn a_repair_that_answers_before_a_majority_has_the_record_is_caught() {
    caught("repair-unawaited", 60, true);
}

#[test]
fn a_repair_that_mints_a_version_of_its_own_is_caught() {
    caught("repair-mints-anew", 10, true);
}

/// What only stood in for a replica counted towards the level, and there is no other copy.
#[test]
fn a_sloppy_hint_that_is_told_as_kept_at_the_cap_and_dropped_is_caught() {
    caught("sloppy-hint-dropped", 60, true);
}

/// What was in flight when the target went away again is not sent a second time.
#[test]
fn a_mark_that_passes_hints_which_were_not_acknowledged_is_caught() {
    caught("hint-mark-before-ack", 60, true);
}

#[test]
fn a_hint_that_is_delivered_under_a_version_of_its_own_is_caught() {
    assert_caught("hint-minted-anew", 10, "acknowledged as");
}

#[test]
fn a_version_below_what_its_session_has_seen_is_caught() {
    assert_caught("mints-below-session", 20, "its client had seen");
}

#[test]
fn a_clock_that_forgets_its_earlier_life_is_caught() {
    assert_caught("clock-not-persisted", 120, "had been acknowledged through node");
}

#[test]
fn an_expiry_by_the_local_clock_is_caught() {
    caught("expiry-by-local-clock", 10, true);
}

#[test]
fn a_record_that_is_shown_after_it_has_expired_is_caught() {
    assert_caught("expired-shown", 10, "had expired");
}

#[test]
fn two_replicas_on_one_node_are_seen_in_the_placement() {
    let what = caught("tail-repeats-node", 20, true);
    assert!(what.contains("has the replicas"), "{what}");
}

/// Nodes refuse a topology that names one node twice for a vnode, so such a cluster never forms: nothing is delivered, and nothing answered.
#[test]
fn two_replicas_on_one_node_are_caught_by_how_the_cluster_behaves() {
    let what = caught("tail-repeats-node", 20, false);
    assert!(what.contains("still owed") || what.contains("found no answer"), "{what}");
}
