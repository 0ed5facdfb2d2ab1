//! Each planted bug is caught, within a bound on the seeds it takes. Without a bug the same seeds are silent: the seed that catches it here,
//! and all of the range in `seeds.rs`, which is longer than any bound.

use ferrite_sim::{Bug, Run};

/// What so many acknowledged is not there, though hints may have brought it to more of them since.
const LOST: &[&str] =
    &["had to be seen since it was acknowledged", "had to be seen since all hints were delivered"];
/// The same, or what a read has shown is gone with it.
const FORGOTTEN: &[&str] = &["had to be seen since"];
/// What all nodes say that they have delivered is not there.
const UNDELIVERED: &[&str] = &["had to be seen since all hints were delivered"];
/// A sibling is gone that nothing has replaced.
const SIBLING_LOST: &[&str] = &["is lost: it had to be seen"];
/// Either, since sets were not joined.
const SET_TORN: &[&str] = &["is lost: it had to be seen", "again, which write"];
/// A sibling is back that was replaced or deleted.
const BACK: &[&str] = &["again, which write"];

/// Runs seeds until the bug breaks a promise, which must be one that this very bug breaks: what is wrong with it bears one of the `signs`. Any other would
/// say that something else is wrong.
fn assert_caught_as(name: &str, seeds_max: u64, checks_placement: bool, signs: &[&str]) {
    let bug = Bug::named(name).expect("a bug of that name");
    for seed in 1..=seeds_max {
        let report = Run { checks_placement, ..Run::new(seed, Some(bug)) }.go();
        let Some((violation, _)) = report.violation else { continue };
        println!("{name}: caught with seed {seed}: {}", violation.what);
        let is_its_own = signs.iter().any(|sign| violation.what.contains(sign));
        assert!(is_its_own, "{name} broke another promise with seed {seed}: {}", violation.what);
        let clean = Run { checks_placement, ..Run::new(seed, None) }.go();
        assert!(clean.violation.is_none(), "without the bug the same seed breaks a promise:\n{clean}");
        println!("counted: planted bugs caught 1");
        return;
    }
    panic!("{name} was not caught in {seeds_max} seeds");
}

/// The same, with the placement of replicas looked at, too.
fn assert_caught(name: &str, seeds_max: u64, signs: &[&str]) {
    assert_caught_as(name, seeds_max, true, signs);
}

#[test]
fn an_acknowledgement_before_the_sync_is_caught() {
    assert_caught("ack-before-sync", 10, FORGOTTEN);
}

#[test]
fn an_acknowledgement_before_a_replicas_sync_is_caught() {
    assert_caught("acked-before-replica-sync", 10, FORGOTTEN);
}

#[test]
fn what_a_recycled_segment_held_before_is_caught_when_it_is_replayed() {
    assert_caught("stale-segment-replayed", 60, FORGOTTEN);
}

#[test]
fn a_directory_that_is_not_synced_is_caught() {
    assert_caught(
        "skipped-directory-sync",
        20,
        &["had to be seen since", "does not open its data on a sound disk"],
    );
}

#[test]
fn a_block_that_is_taken_for_what_it_should_be_is_caught() {
    // Flipped bits rarely lie in a value that is read before it is compacted: one run in forty shows one.
    assert_caught("block-not-verified", 60, &["a value that nobody wrote", "a sibling that nobody wrote"]);
}

#[test]
fn a_quorum_of_one_too_few_is_caught() {
    assert_caught("quorum-off-by-one", 5, &["answered of"]);
}

#[test]
fn a_replica_that_broke_off_and_was_counted_is_caught() {
    assert_caught("lost-counts-as-ack", 20, LOST);
}

/// One replica has it, and two are told.
#[test]
fn an_acknowledgement_that_comes_twice_and_counts_twice_is_caught() {
    assert_caught("repeated-ack-counts", 60, LOST);
}

#[test]
fn a_late_answer_that_is_taken_for_one_to_another_operation_is_caught() {
    assert_caught(
        "recycled-answer-taken",
        20,
        // Also an acknowledgement that was another's: then no hint is owed for it either.
        &["which nobody wrote to this key", "that nobody wrote", LOST[0], LOST[1]],
    );
}

#[test]
fn a_timeout_that_is_reported_as_not_applied_is_caught() {
    assert_caught("timeout-says-not-applied", 10, &["reported as not applied"]);
}

/// A replica that is sent one dot of an actor takes it that the earlier ones were replaced.
#[test]
fn a_dot_that_is_sent_without_its_set_is_caught() {
    assert_caught("lone-dot-shipped", 10, SET_TORN);
}

/// The famous one: a coordinator that has lost what it wrote and goes on counting hides what others have of it.
#[test]
fn an_actor_that_is_used_again_after_amnesia_is_caught() {
    assert_caught("actor-reused", 60, SIBLING_LOST);
}

#[test]
fn a_join_that_keeps_one_of_two_sets_is_caught() {
    assert_caught("join-keeps-one", 20, SET_TORN);
}

#[test]
fn a_join_that_keeps_what_was_replaced_is_caught() {
    assert_caught("join-forgets-replaced", 10, BACK);
}

/// The deleted siblings come back from whoever still has them.
#[test]
fn a_delete_that_does_not_note_what_it_saw_is_caught() {
    assert_caught("delete-forgets-context", 60, BACK);
}

#[test]
fn a_context_that_is_ignored_is_caught() {
    assert_caught("context-ignored", 10, BACK);
}

#[test]
fn an_overwrite_that_reads_one_replica_is_caught() {
    assert_caught("overwrite-reads-one", 250, BACK);
}

#[test]
fn writes_of_a_set_that_do_not_wait_for_one_another_are_caught() {
    assert_caught("latch-not-held", 60, SIBLING_LOST);
}

#[test]
fn a_digest_that_does_not_tell_of_every_sibling_is_caught() {
    assert_caught("digest-blind", 30, SIBLING_LOST);
}

#[test]
fn a_read_that_takes_the_newest_set_for_all_of_them_is_caught() {
    assert_caught("read-keeps-newest", 40, SET_TORN);
}

/// Whoever reads next may ask the others, and find what was shown gone.
#[test]
fn a_repair_that_answers_before_a_majority_has_the_record_is_caught() {
    assert_caught("repair-unawaited", 60, &["had to be seen since a read had shown it"]);
}

#[test]
fn a_repair_that_mints_a_version_of_its_own_is_caught() {
    assert_caught(
        "repair-mints-anew",
        10,
        &["acknowledged as", "seen before as", "but its client was told of"],
    );
}

/// What only stood in for a replica counted towards the level, and there is no other copy.
#[test]
fn a_sloppy_hint_that_is_told_as_kept_at_the_cap_and_dropped_is_caught() {
    assert_caught("sloppy-hint-dropped", 60, UNDELIVERED);
}

/// What was in flight when the target went away again is not sent a second time.
#[test]
fn a_mark_that_passes_hints_which_were_not_acknowledged_is_caught() {
    assert_caught("hint-mark-before-ack", 60, UNDELIVERED);
}

#[test]
fn a_hint_that_is_delivered_under_a_version_of_its_own_is_caught() {
    assert_caught("hint-minted-anew", 10, &["acknowledged as"]);
}

#[test]
fn a_version_below_what_its_session_has_seen_is_caught() {
    assert_caught("mints-below-session", 20, &["its client had seen"]);
}

#[test]
fn a_clock_that_forgets_its_earlier_life_is_caught() {
    assert_caught("clock-not-persisted", 120, &["had been acknowledged through node"]);
}

#[test]
fn an_expiry_by_the_local_clock_is_caught() {
    assert_caught("expiry-by-local-clock", 10, &["with another expiry"]);
}

#[test]
fn a_record_that_is_shown_after_it_has_expired_is_caught() {
    assert_caught("expired-shown", 10, &["had expired"]);
}

#[test]
fn two_replicas_on_one_node_are_seen_in_the_placement() {
    assert_caught("tail-repeats-node", 20, &["has the replicas"]);
}

/// Nodes refuse a topology that names one node twice for a vnode, so such a cluster never forms: nothing is delivered, and nothing answered.
#[test]
fn two_replicas_on_one_node_are_caught_by_how_the_cluster_behaves() {
    assert_caught_as("tail-repeats-node", 20, false, &["still owed", "found no answer"]);
}
