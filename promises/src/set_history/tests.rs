use super::*;
use crate::history::samples::{answer, delete, intent, version};
use ferrite_wire::{Order, VersionFlags};

/// A read of two of three replicas.
fn at(begun_ns: u64) -> (Reading, u64) {
    of(begun_ns, 2)
}

/// A read of so many, answered at once.
fn of(begun_ns: u64, needed: usize) -> (Reading, u64) {
    (Reading::new(begun_ns, needed), begun_ns + 1)
}

/// Nothing befell any node.
const NEW: Facts = Facts::new();

fn nothing() -> Saw {
    Saw::These(BTreeSet::new())
}

fn these(ids: &[u64]) -> Saw {
    Saw::These(ids.iter().copied().collect())
}

/// A put that is acknowledged at once, under a version like the time.
fn put(history: &mut SetHistory, saw: Saw, now_ns: u64) -> u64 {
    let id = history.begin(intent(now_ns), &saw);
    acknowledge(history, id, now_ns, now_ns);
    id
}

fn acknowledge(history: &mut SetHistory, id: u64, order: u64, now_ns: u64) {
    history
        .told(1, id, answer(Told::Acknowledged(version(order)), now_ns), &NEW)
        .expect("nobody has seen it otherwise");
}

#[test]
fn a_lost_sibling_is_a_violation_unless_something_saw_it() {
    let mut history = SetHistory::default();
    let first = put(&mut history, nothing(), 10);
    let second = put(&mut history, nothing(), 20);
    let (one, two) = ((Some(first), version(10)), (Some(second), version(20)));
    assert!(history.saw(1, at(25), &NEW, &[one, two]).is_ok());
    assert!(history.saw(1, at(25), &NEW, &[two]).is_err());
    assert!(history.saw(1, at(9), &NEW, &[two]).is_ok(), "it began before");
    assert!(history.saw(1, of(25, 1), &NEW, &[]).is_ok(), "they need not meet");
    let doubtful = history.begin(delete(30), &these(&[first]));
    assert!(history.saw(1, at(35), &NEW, &[two]).is_ok(), "the delete may have been done");
    assert!(history.saw(1, at(35), &NEW, &[one, two]).is_ok(), "or not");
    history.told(1, doubtful, answer(Told::NotApplied, 36), &NEW).expect("nobody saw it");
    assert!(history.saw(1, at(40), &NEW, &[two]).is_err());
}

#[test]
fn what_was_replaced_must_not_come_back() {
    let mut history = SetHistory::default();
    let first = put(&mut history, nothing(), 10);
    let second = put(&mut history, these(&[first]), 20);
    let (one, two) = ((Some(first), version(10)), (Some(second), version(20)));
    assert!(history.saw(1, at(15), &NEW, &[one]).is_ok(), "it began before");
    assert!(history.saw(1, at(25), &NEW, &[one, two]).is_err());
    assert!(history.saw(1, at(25), &NEW, &[two]).is_ok());
    let delete = history.begin(delete(30), &these(&[second]));
    acknowledge(&mut history, delete, 20, 31);
    assert!(history.saw(1, at(35), &NEW, &[two]).is_err());
    assert!(history.saw(1, at(35), &NEW, &[one]).is_err(), "what it saw had seen the first");
    assert!(history.saw(1, at(35), &NEW, &[]).is_ok());
}

#[test]
fn a_write_on_top_of_one_in_doubt_replaces_what_that_one_saw() {
    let mut history = SetHistory::default();
    let first = put(&mut history, nothing(), 10);
    let doubtful = history.begin(intent(20), &these(&[first]));
    let one = (Some(first), version(10));
    assert!(history.saw(1, at(25), &NEW, &[one]).is_ok(), "it may not have been done");
    assert!(history.saw(1, of(25, 1), &NEW, &[(Some(doubtful), version(21))]).is_ok(), "at one it may be");
    let third = put(&mut history, these(&[doubtful]), 30);
    assert!(history.saw(1, at(35), &NEW, &[one, (Some(third), version(30))]).is_err());
}

/// One write that overwrote once made the checker blind to everything the key had lost before and since.
#[test]
fn an_overwrite_replaces_what_its_read_must_know_of_and_hides_nothing_later() {
    let mut history = SetHistory::default();
    let first = put(&mut history, nothing(), 10);
    let overwrite = history.begin(intent(20), &Saw::ItsOwnRead);
    let beside = put(&mut history, nothing(), 30);
    let (one, over) = ((Some(first), version(10)), (Some(overwrite), version(31)));
    let two = (Some(beside), version(30));
    acknowledge(&mut history, overwrite, 31, 40);
    let later = put(&mut history, nothing(), 50);
    let three = (Some(later), version(50));
    assert!(history.saw(1, at(55), &NEW, &[over, two, three]).is_ok());
    assert!(history.saw(1, at(55), &NEW, &[over, three]).is_ok(), "it may have seen what came meanwhile");
    assert!(history.saw(1, at(55), &NEW, &[one, over, three]).is_err(), "its read had to see the first");
    assert!(history.saw(1, at(55), &NEW, &[two, three]).is_err(), "it is lost itself");
    assert!(history.saw(1, at(55), &NEW, &[over, two]).is_err(), "it cannot have seen what came later");
    let weak = history.begin(Intent { needed: 1, ..intent(60) }, &Saw::ItsOwnRead);
    acknowledge(&mut history, weak, 61, 65);
    let (fourth, all) = ((Some(weak), version(61)), of(70, 3));
    assert!(history.saw(1, all, &NEW, &[over, three, fourth]).is_ok(), "a read of one need not know of them");
    assert!(history.saw(1, all, &NEW, &[fourth]).is_ok(), "but may");
}

/// A delete that overwrote and was never answered made the checker blind to everything the key lost from then on.
#[test]
fn an_overwrite_in_doubt_has_not_seen_what_was_sent_after_its_time() {
    let mut history = SetHistory::default();
    let first = put(&mut history, nothing(), 10);
    history.begin(Intent { minted_by_ns: 30, ..delete(20) }, &Saw::ItsOwnRead);
    let (second, third) = (put(&mut history, nothing(), 30), put(&mut history, nothing(), 31));
    let [one, two, three] =
        [(first, 10), (second, 30), (third, 31)].map(|(id, order)| (Some(id), version(order)));
    assert!(history.saw(1, at(40), &NEW, &[one, two, three]).is_ok(), "it may not have been done");
    assert!(history.saw(1, at(40), &NEW, &[three]).is_ok(), "or as late as it may be");
    assert!(history.saw(1, at(40), &NEW, &[one, two]).is_err(), "nobody can have deleted the third");
    history.begin(delete(50), &Saw::ItsOwnRead);
    assert!(history.saw(1, at(60), &NEW, &[]).is_ok(), "nobody knows when this one is done");
}

/// So did a put that overwrote and was never done: nothing of it had to be seen.
#[test]
fn an_overwrite_in_doubt_takes_nothing_from_a_read_that_does_not_come_to_it() {
    let mut history = SetHistory::default();
    let first = put(&mut history, nothing(), 10);
    let overwrite = history.begin(intent(20), &Saw::ItsOwnRead);
    let (one, over) = ((Some(first), version(10)), (Some(overwrite), version(35)));
    assert!(history.saw(1, at(25), &NEW, &[]).is_err(), "it would be here itself");
    assert!(history.saw(1, of(25, 1), &NEW, &[over]).is_ok() && history.saw(1, at(25), &NEW, &[one]).is_ok());
    let [below, above] = [30, 40].map(|now_ns| put(&mut history, nothing(), now_ns));
    let (two, three) = ((Some(below), version(30)), (Some(above), version(40)));
    assert!(history.saw(1, of(45, 3), &NEW, &[over, three]).is_ok());
    assert!(history.saw(1, of(45, 3), &NEW, &[over, two]).is_err(), "it would be above the third");
    assert!(history.saw(1, of(45, 3), &NEW, &[two, three]).is_err(), "it was seen: it is lost itself");
}

#[test]
fn what_has_replaced_an_overwrite_in_doubt_takes_away_what_that_may_have_seen() {
    let mut history = SetHistory::default();
    let first = put(&mut history, nothing(), 10);
    let doubtful = history.begin(intent(20), &Saw::ItsOwnRead);
    let late = put(&mut history, nothing(), 25);
    let next = put(&mut history, these(&[doubtful]), 30);
    let last = put(&mut history, nothing(), 35);
    let [two, three, four] =
        [(late, 25), (next, 30), (last, 35)].map(|(id, order)| (Some(id), version(order)));
    assert!(history.saw(1, at(40), &NEW, &[two, three, four]).is_ok());
    assert!(history.saw(1, at(40), &NEW, &[three, four]).is_ok(), "in doubt it may have seen the second");
    assert!(history.saw(1, at(40), &NEW, &[three]).is_err(), "what replaced it was sent before the last");
    assert!(history.saw(1, at(40), &NEW, &[two, four]).is_err(), "and is not replaced itself");
    assert!(history.saw(1, at(40), &NEW, &[(Some(first), version(10)), two, three, four]).is_ok());
    // What expires hides what it has replaced when it is not to be seen any more.
    let brief = history.begin(Intent { expires: true, ..intent(50) }, &Saw::ItsOwnRead);
    assert!(history.saw(1, at(60), &NEW, &[]).is_ok(), "it may live for a moment only");
    let flags = VersionFlags(VersionFlags::EXPIRES);
    let version = Version { expiry_ms: 500, flags, ..version(51) };
    assert!(history.saw(1, of(60, 1), &NEW, &[(Some(brief), version)]).is_ok());
    assert!(history.saw(1, at(65), &NEW, &[]).is_err(), "by no clock");
    let mut facts = Facts::default();
    facts.saw_wall(500);
    assert!(history.saw(1, at(65), &facts, &[]).is_ok());
}

#[test]
fn a_sibling_that_may_have_expired_may_be_hidden_and_a_lost_replica_excuses() {
    let (mut history, mut facts) = (SetHistory::default(), Facts::default());
    let flags = VersionFlags(VersionFlags::EXPIRES);
    let expiring = Version { expiry_ms: 500, flags, ..version(10) };
    let brief = history.begin(Intent { expires: true, ..intent(10) }, &nothing());
    history.told(1, brief, answer(Told::Acknowledged(expiring), 11), &facts).expect("as it should be");
    assert!(history.saw(1, at(20), &facts, &[]).is_err());
    facts.saw_wall(500);
    assert!(history.saw(1, at(20), &facts, &[]).is_ok());
    let lasting = put(&mut history, nothing(), 30);
    assert!(history.saw(1, at(40), &facts, &[]).is_err());
    facts.lost(1, 0, 35);
    assert!(history.saw(1, at(40), &facts, &[]).is_ok(), "one replica of it may be left");
    assert!(history.saw(1, of(40, 3), &facts, &[]).is_err());
    assert!(history.saw(1, at(40), &facts, &[(Some(lasting), version(30))]).is_ok());
}

#[test]
fn an_invented_changed_or_repeated_sibling_is_a_violation() {
    let mut history = SetHistory::default();
    let id = put(&mut history, nothing(), 10);
    let other = history.begin(intent(11), &nothing());
    history.told(1, other, answer(Told::NotApplied, 12), &NEW).expect("nobody saw it");
    let delete = history.begin(delete(13), &nothing());
    let good = (Some(id), version(10));
    for bad in [
        (None, version(10)),
        (Some(id + 9), version(10)),
        (Some(id), version(11)),
        (Some(other), version(11)),
        (Some(delete), version(12)),
        good,
    ] {
        assert!(history.saw(1, at(20), &NEW, &[good, bad]).is_err(), "{bad:?}");
    }
    assert!(history.saw(2, at(20), &NEW, &[good]).is_err(), "another key's");
    assert!(history.saw(1, at(20), &NEW, &[good]).is_ok());
}

/// A write that was never acknowledged may be on one replica; what a read of a majority has shown is on as many.
#[test]
fn what_a_read_of_a_majority_has_shown_does_not_go_away() {
    let mut history = SetHistory::default();
    let first = put(&mut history, nothing(), 10);
    let doubtful = history.begin(intent(20), &these(&[first]));
    let (one, two) = ((Some(first), version(10)), (Some(doubtful), version(21)));
    assert!(history.saw(1, of(25, 1), &NEW, &[two]).is_ok());
    assert!(history.saw(1, at(30), &NEW, &[one]).is_ok(), "a read of one has repaired nothing");
    assert!(history.saw(1, at(35), &NEW, &[two]).is_ok());
    assert!(history.saw(1, at(40), &NEW, &[one]).is_err());
    assert!(history.saw(1, at(40), &NEW, &[]).is_err());
    assert!(history.saw(1, at(40), &NEW, &[two]).is_ok());
}

/// Two replicas had 42 siblings and 3, 77 KiB together, and their logs took 63: reads of both showed all of them, and repaired nothing.
#[test]
fn what_a_read_has_shown_may_go_away_where_sets_are_too_long_to_be_repaired() {
    let mut history = SetHistory::default();
    let first = put(&mut history, nothing(), 10);
    let doubtful = history.begin(intent(20), &nothing());
    let (one, two) = ((Some(first), version(10)), (Some(doubtful), version(21)));
    let mut facts = Facts::default();
    facts.sets_are_too_long();
    assert!(history.saw(1, at(35), &facts, &[one, two]).is_ok());
    assert!(history.saw(1, at(40), &facts, &[one]).is_ok(), "the second was never acknowledged");
    assert!(history.saw(1, at(40), &facts, &[two]).is_err(), "the first was");
}

#[test]
fn a_sloppy_sibling_must_be_seen_once_it_was_delivered_and_a_blind_delete_may_bear_any_version() {
    let mut history = SetHistory::default();
    let sloppily = Intent { may_be_sloppy: true, seen: Order(5), ..intent(10) };
    let (first, delete) = (
        history.begin(sloppily, &nothing()),
        history.begin(Intent { is_delete: true, ..sloppily }, &nothing()),
    );
    assert!(
        history.told(1, first, answer(Told::Sloppy(version(5)), 11), &NEW).is_err(),
        "not above what its client had seen"
    );
    assert!(
        history
            .told(1, first, Answer { time: Order(5), ..answer(Told::Sloppy(version(6)), 11) }, &NEW)
            .is_err()
    );
    assert!(history.told(1, first, answer(Told::Sloppy(version(6)), 11), &NEW).is_ok());
    assert!(history.told(1, delete, answer(Told::Acknowledged(version(1)), 11), &NEW).is_ok());
    assert!(history.saw(1, of(20, 3), &NEW, &[]).is_ok(), "others may stand in for the replicas");
    assert_eq!(history.writes.drained(30, |_| false), 0);
    assert!(history.saw(1, of(40, 2), &NEW, &[]).is_err() && history.saw(1, of(40, 1), &NEW, &[]).is_ok());
    assert_eq!(history.writes.drained(50, |sent| !sent.is_delete), 1);
    assert!(history.saw(1, of(60, 1), &NEW, &[]).is_err(), "all replicas have it");
    assert_eq!(history.writes.sloppy(), 1);
}

/// A write came to a stand-in twice: one took the last room, and that there was none for the other was said before the first was durable. The write was shown,
/// and its coordinator, to which nobody had it, took it away with the next one that it made apart from the replicas.
#[test]
fn what_was_refused_and_came_again_may_be_shown_and_go_away() {
    let mut history = SetHistory::default();
    let first = put(&mut history, nothing(), 10);
    let apart = |now_ns| Intent { may_come_again: true, ..intent(now_ns) };
    let [refused, doubtful] = [20, 30].map(|now_ns| history.begin(apart(now_ns), &nothing()));
    let [one, two, three] =
        [(first, 10), (refused, 21), (doubtful, 31)].map(|(id, order)| (Some(id), version(order)));
    assert!(history.saw(1, at(35), &NEW, &[one, two, three]).is_ok());
    assert!(history.saw(1, at(40), &NEW, &[one]).is_ok());
    assert!(history.saw(1, at(45), &NEW, &[]).is_err(), "nothing else may go");
    history.told(1, doubtful, answer(Told::InDoubt, 50), &NEW).expect("it may be somewhere");
    assert!(history.saw(1, at(55), &NEW, &[one, three]).is_ok());
    assert!(history.saw(1, at(60), &NEW, &[one]).is_err(), "its coordinator knows of it");
}
