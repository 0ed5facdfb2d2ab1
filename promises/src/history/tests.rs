use super::samples::{answer, delete, intent, version};
use super::*;
use ferrite_wire::{Actor, VersionFlags};

fn tombstone(order: u64) -> Version {
    Version { flags: VersionFlags(VersionFlags::TOMBSTONE), ..version(order) }
}

fn expiring(order: u64, expiry_ms: u64) -> Version {
    Version { flags: VersionFlags(VersionFlags::EXPIRES), expiry_ms, ..version(order) }
}

fn begin(history: &mut History, sent: Intent) -> u64 {
    history.begin(sent, &Facts::default())
}

/// A read of two replicas, long after.
const READING: Reading = Reading { begun_ns: 1_000, needed: 2, answered: 0 };
const NOW: (Reading, u64) = (READING, 2_000);

/// The same of all three.
fn of_all() -> (Reading, u64) {
    (Reading { needed: 3, ..READING }, 2_000)
}

#[test]
fn a_lost_write_is_a_violation() {
    let (mut history, mut facts) = (History::default(), Facts::default());
    let first = begin(&mut history, intent(0));
    history.told(1, first, answer(Told::Acknowledged(version(10)), 1)).unwrap();
    let second = begin(&mut history, intent(5));
    history.told(1, second, answer(Told::Acknowledged(version(20)), 6)).unwrap();
    assert!(history.saw_value(1, NOW, &facts, Some(second), version(20)).is_ok());
    assert!(history.saw_value(1, NOW, &facts, Some(first), version(10)).is_err());
    assert!(history.saw_nothing(1, NOW, &facts).is_err());
    let at_one = Reading { needed: 1, ..READING };
    assert!(
        history.saw_value(1, (at_one, 2_000), &facts, Some(first), version(10)).is_ok(),
        "they need not meet"
    );
    facts.lost(2, 0, 7);
    assert!(history.saw_value(1, NOW, &facts, Some(first), version(10)).is_ok(), "it may be on one only");
}

#[test]
fn a_write_in_doubt_may_be_seen_or_not() {
    let (mut history, facts) = (History::default(), Facts::default());
    let acknowledged = begin(&mut history, intent(0));
    history.told(1, acknowledged, answer(Told::Acknowledged(version(10)), 1)).unwrap();
    let doubtful = begin(&mut history, intent(5));
    assert!(history.saw_value(1, NOW, &facts, Some(acknowledged), version(10)).is_ok());
    assert!(history.saw_value(1, NOW, &facts, Some(doubtful), version(30)).is_ok());
    assert!(history.told(1, doubtful, answer(Told::NotApplied, 9)).is_err(), "it has been seen");
}

#[test]
fn a_node_that_goes_back_is_a_violation_unless_it_was_emptied() {
    let mut history = History::default();
    let first = begin(&mut history, intent(1));
    let at_once = begin(&mut history, intent(2));
    history.told(1, first, answer(Told::Acknowledged(version(10)), 3)).unwrap();
    history
        .told(1, at_once, answer(Told::Acknowledged(version(9)), 3))
        .expect("they were in flight together");
    let elsewhere = begin(&mut history, Intent { node: 1, ..intent(4) });
    history.told(1, elsewhere, answer(Told::Acknowledged(version(5)), 5)).expect("another node");
    let later = begin(&mut history, intent(6));
    assert!(history.told(1, later, answer(Told::Acknowledged(version(10)), 7)).is_err());
    let mut facts = Facts::default();
    facts.lost(0, 0, 8);
    let emptied = history.begin(intent(9), &facts);
    history.told(1, emptied, answer(Told::Acknowledged(version(3)), 10)).expect("it knows of nothing");
}

#[test]
fn an_invented_or_changed_value_is_a_violation() {
    let (mut history, facts) = (History::default(), Facts::default());
    let id = begin(&mut history, intent(0));
    for (key, id, version, is_right) in [
        (1, None, version(10), false),
        (1, Some(id + 7), version(10), false),
        (2, Some(id), version(10), false),
        (1, Some(id), version(10), true),
        (1, Some(id), version(11), false),
    ] {
        assert_eq!(history.saw_value(key, NOW, &facts, id, version).is_ok(), is_right, "{key} {id:?}");
    }
}

/// A write that was never acknowledged may be on one replica; what a read of a majority has shown is on as many.
#[test]
fn what_a_read_of_a_majority_has_shown_does_not_go_away() {
    let (mut history, facts) = (History::default(), Facts::default());
    let acknowledged = begin(&mut history, intent(0));
    history.told(1, acknowledged, answer(Told::Acknowledged(version(10)), 1)).unwrap();
    let doubtful = begin(&mut history, intent(5));
    let at_one = Reading { needed: 1, ..READING };
    assert!(history.saw_value(1, (at_one, 1_100), &facts, Some(doubtful), version(30)).is_ok());
    assert!(history.saw_value(1, (READING, 1_200), &facts, Some(acknowledged), version(10)).is_ok());
    assert!(history.saw_value(1, (READING, 1_300), &facts, Some(doubtful), version(30)).is_ok());
    let later = Reading { begun_ns: 1_400, ..READING };
    assert!(history.saw_value(1, (later, 1_500), &facts, Some(acknowledged), version(10)).is_err());
    assert!(history.saw_nothing(1, (later, 1_500), &facts).is_err());
}

#[test]
fn absence_needs_a_delete() {
    let (mut history, facts) = (History::default(), Facts::default());
    let put = begin(&mut history, intent(0));
    history.told(1, put, answer(Told::Acknowledged(version(10)), 1)).unwrap();
    let doubtful = begin(&mut history, delete(2));
    assert!(history.saw_nothing(1, NOW, &facts).is_ok(), "the delete is in doubt");
    history.told(1, doubtful, answer(Told::NotApplied, 3)).unwrap();
    assert!(history.saw_nothing(1, NOW, &facts).is_err());
    let again = begin(&mut history, delete(4));
    history.told(1, again, answer(Told::Acknowledged(tombstone(20)), 5)).unwrap();
    assert!(history.saw_nothing(1, NOW, &facts).is_ok());
}

/// One delete of unknown outcome made the checker blind to every value of the key that was gone from then on.
#[test]
fn a_delete_in_doubt_hides_nothing_that_is_newer_than_it_can_be() {
    let (mut history, mut facts) = (History::default(), Facts::default());
    let doubtful = begin(&mut history, Intent { minted_by_ns: 10, ..delete(2) });
    let put_at = |history: &mut History, sent: Intent, order| {
        let put = begin(history, sent);
        history.told(1, put, answer(Told::Acknowledged(version(order)), sent.now_ns + 1)).unwrap();
    };
    put_at(&mut history, Intent { node: 1, ..intent(20) }, 30);
    put_at(&mut history, intent(10), 20);
    assert!(history.saw_nothing(1, NOW, &facts).is_ok(), "another node's clock may be behind");
    put_at(&mut history, intent(21), 31);
    assert!(history.saw_nothing(1, NOW, &facts).is_err(), "it was minted through the same node before this");
    put_at(&mut history, Intent { node: 1, ..intent(22) }, 32);
    assert!(history.saw_nothing(1, NOW, &facts).is_err(), "which is older still");
    facts.lost(0, 0, 3);
    assert!(history.saw_nothing(1, of_all(), &facts).is_ok(), "its node may have forgotten it");
    history.told(1, doubtful, Answer { time: Order(32), ..answer(Told::InDoubt, 40) }).unwrap();
    assert!(history.saw_nothing(1, of_all(), &facts).is_ok(), "it may be of the same order");
    put_at(&mut history, Intent { node: 1, ..intent(41) }, 33);
    assert!(history.saw_nothing(1, of_all(), &facts).is_err(), "its client was told of less");
}

#[test]
fn an_expiring_put_in_doubt_that_was_shown_hides_nothing_before_it_has_expired() {
    let (mut history, mut facts) = (History::default(), Facts::default());
    let put = begin(&mut history, intent(0));
    history.told(1, put, answer(Told::Acknowledged(version(10)), 1)).unwrap();
    let doubtful = begin(&mut history, Intent { expires: true, ..intent(2) });
    assert!(history.saw_nothing(1, NOW, &facts).is_ok(), "it may live for a moment only");
    let at_one = Reading { needed: 1, ..READING };
    assert!(history.saw_value(1, (at_one, 1_100), &facts, Some(doubtful), expiring(20, 500)).is_ok());
    assert!(history.saw_nothing(1, NOW, &facts).is_err());
    facts.saw_wall(500);
    assert!(history.saw_nothing(1, NOW, &facts).is_ok());
}

#[test]
fn what_has_expired_hides_what_it_replaced() {
    let (mut history, mut facts) = (History::default(), Facts::default());
    let old = begin(&mut history, intent(0));
    history.told(1, old, answer(Told::Acknowledged(version(10)), 1)).unwrap();
    let brief = begin(&mut history, Intent { expires: true, ..intent(2) });
    history.told(1, brief, answer(Told::Acknowledged(expiring(20, 500)), 3)).unwrap();
    facts.saw_wall(499);
    assert!(history.saw_nothing(1, NOW, &facts).is_err(), "it has not expired anywhere");
    facts.saw_wall(500);
    assert!(history.saw_nothing(1, NOW, &facts).is_ok());
    assert!(history.saw_value(1, NOW, &facts, Some(brief), expiring(20, 500)).is_ok(), "by another clock");
    assert!(history.saw_value(1, NOW, &facts, Some(brief), expiring(20, 501)).is_err());
    assert!(history.saw_value(1, NOW, &facts, Some(old), version(10)).is_err(), "it came back");
    let for_ever = begin(&mut history, Intent { expires: true, ..intent(4) });
    assert!(
        history.told(1, for_ever, answer(Told::Acknowledged(version(30)), 5)).is_err(),
        "it should expire"
    );
}
#[test]
fn a_session_goes_forward_and_is_told_how_far() {
    let mut history = History::default();
    let after_seven = begin(&mut history, Intent { seen: Order(7), ..intent(0) });
    let told = |order| answer(Told::Acknowledged(version(order)), 1);
    assert!(history.told(1, after_seven, told(7)).is_err(), "not above what its client had seen");
    assert!(history.told(1, after_seven, Answer { time: Order(7), ..told(8) }).is_err(), "and untold");
    assert!(history.told(1, after_seven, Answer { time: Order(8), ..told(8) }).is_ok());
    let (doubtful, untold) = (begin(&mut history, intent(2)), begin(&mut history, intent(2)));
    history.told(1, doubtful, Answer { time: Order(20), ..answer(Told::InDoubt, 3) }).unwrap();
    let facts = Facts::default();
    assert!(history.saw_value(1, NOW, &facts, Some(untold), version(40)).is_ok(), "no answer came");
    assert!(history.saw_value(1, NOW, &facts, Some(doubtful), version(50)).is_err());
}

#[test]
fn the_same_order_is_a_tie_and_the_same_version_a_violation() {
    let mut history = History::default();
    let [one, other, again] = [0, 0, 0].map(|now_ns| begin(&mut history, intent(now_ns)));
    let other_actor = Version { actor: Actor(2), ..version(10) };
    history.told(1, one, answer(Told::Acknowledged(version(10)), 1)).unwrap();
    assert_eq!(history.ties(), 0);
    history.told(1, other, answer(Told::Acknowledged(other_actor), 1)).expect("the actor decides");
    assert_eq!(history.ties(), 1);
    assert!(history.told(1, again, answer(Told::Acknowledged(version(10)), 1)).is_err());
}

#[test]
fn a_sloppy_write_must_be_seen_once_it_was_delivered() {
    let (mut history, facts) = (History::default(), Facts::default());
    let sloppily = Intent { may_be_sloppy: true, ..intent(0) };
    let unasked = begin(&mut history, intent(0));
    assert!(history.told(1, unasked, answer(Told::Sloppy(version(5)), 1)).is_err());
    let mut history = History::default();
    let sloppy = begin(&mut history, sloppily);
    history.told(1, sloppy, answer(Told::Sloppy(version(10)), 1)).expect("it was asked for");
    assert!(history.saw_nothing(1, NOW, &facts).is_ok(), "others may stand in for the replicas");
    assert_eq!(history.writes.drained(500, |_| false), 0);
    assert!(history.saw_nothing(1, NOW, &facts).is_err());
    let at_one = Reading { needed: 1, ..READING };
    assert!(history.saw_nothing(1, (at_one, 2_000), &facts).is_ok(), "two of three replicas have it");
    assert_eq!(history.writes.drained(600, |sent| sent.node == 0), 1);
    assert!(history.saw_nothing(1, (at_one, 2_000), &facts).is_err(), "all of them do");
    let mut facts = Facts::default();
    facts.lost(9, 0, 400);
    assert!(history.saw_nothing(1, (at_one, 2_000), &facts).is_ok(), "whoever stood in has forgotten it");
}

/// Two had to acknowledge it, and three did, or so its client was told.
#[test]
fn as_many_have_a_write_as_its_answer_says() {
    let (mut history, facts) = (History::default(), Facts::default());
    let at_one = Reading { needed: 1, ..READING };
    let told = answer(Told::Acknowledged(version(10)), 1);
    let write = begin(&mut history, intent(0));
    history.told(1, write, told).expect("as it should be");
    assert!(history.saw_nothing(1, (at_one, 2_000), &facts).is_ok(), "the third may lack it");
    assert!(
        history.saw_nothing(1, (Reading { answered: 2, ..at_one }, 2_000), &facts).is_err(),
        "two of three"
    );
    let mut history = History::default();
    let write = begin(&mut history, intent(0));
    history.told(1, write, Answer { acknowledged: 3, ..told }).expect("as it should be");
    assert!(history.saw_nothing(1, (at_one, 2_000), &facts).is_err());
}

/// A delete that was never acknowledged may be on one replica; what has hidden a value from a read of a majority is on as many.
#[test]
fn what_a_read_of_a_majority_has_found_gone_does_not_come_back() {
    let (mut history, facts) = (History::default(), Facts::default());
    let put = begin(&mut history, intent(0));
    history.told(1, put, answer(Told::Acknowledged(version(10)), 1)).unwrap();
    begin(&mut history, delete(2));
    let at_one = Reading { needed: 1, ..READING };
    assert!(history.saw_nothing(1, (at_one, 1_100), &facts).is_ok());
    assert!(
        history.saw_value(1, (READING, 1_100), &facts, Some(put), version(10)).is_ok(),
        "that shows nothing"
    );
    assert!(history.saw_nothing(1, (READING, 1_200), &facts).is_ok());
    let meanwhile = Reading { begun_ns: 1_150, ..READING };
    assert!(
        history.saw_value(1, (meanwhile, 1_300), &facts, Some(put), version(10)).is_ok(),
        "it began before"
    );
    let later = Reading { begun_ns: 1_300, ..READING };
    assert!(history.saw_value(1, (later, 1_400), &facts, Some(put), version(10)).is_err());
    let again = begin(&mut history, intent(1_500));
    history.told(1, again, answer(Told::Acknowledged(version(20)), 1_600)).unwrap();
    let last = Reading { begun_ns: 1_700, ..READING };
    assert!(history.saw_value(1, (last, 1_800), &facts, Some(again), version(20)).is_ok(), "it is newer");
}

#[test]
fn what_is_forgotten_was_never_there() {
    let (mut history, facts) = (History::default(), Facts::default());
    let put = begin(&mut history, intent(0));
    history.told(1, put, answer(Told::Acknowledged(version(10)), 1)).unwrap();
    begin(&mut history, delete(2));
    history.saw_nothing(1, NOW, &facts).expect("the delete is in doubt");
    history.forget(1);
    assert_eq!(history.writes.keys(), []);
    let anew = begin(&mut history, intent(3_000));
    history.told(1, anew, answer(Told::Acknowledged(version(5)), 3_001)).unwrap();
    let later = Reading { begun_ns: 3_002, ..READING };
    assert!(history.saw_value(1, (later, 3_003), &facts, Some(anew), version(5)).is_ok());
}
