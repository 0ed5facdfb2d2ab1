//! Hints that counted, and that their target will never take.

use ferrite_cluster::hints::DropReason;
use ferrite_lsm::mem_disk::CrashMode;
use ferrite_wire::{ErrorCode, HintsAction, TableId, WriteAnswer};

use super::hints::{answer, comes, drops, told, write, writes};
use super::sloppy::{cart, named, of_five, one_of_five, sloppy};
use super::*;
use crate::shard::apart::Apart;

/// The same disk, after the process was killed.
fn again(bench: &Bench, settings: ShardSettings) -> (Bench, Rc<Shard<Bench>>) {
    let later = Bench::new(bench.0.disk.crash(CrashMode::None, &mut || 0));
    later.0.wall_ms.set(bench.wall_ms());
    let shard = open(&later, settings).expect("a sound disk opens");
    (later, shard)
}

/// Each of these nodes comes, and answers so to what it is sent; the values.
fn all_answer(bench: &Bench, shard: &Rc<Shard<Bench>>, nodes: &[u16], with: WriteAnswer) -> Vec<Vec<u8>> {
    let links: Vec<Connection> = nodes.iter().map(|node| comes(bench, shard, *node)).collect();
    let mut seen = Vec::new();
    for _ in 0..20 {
        for link in &links {
            for (number, value, _) in writes(bench, *link) {
                seen.push(value);
                answer(bench, shard, *link, number, with);
            }
        }
        pass(bench, shard, 20);
    }
    links.into_iter().for_each(|link| shard.on_closed(link));
    seen
}

fn held_back(shard: &Rc<Shard<Bench>>) -> u64 {
    let told = shard.hints_text(HintsAction::Tell);
    let count = told.lines().find_map(|line| line.strip_prefix("hints.held_back "));
    count.expect("it is told").parse().expect("a number")
}

/// It counted towards its write's level, and may be the only copy; it was dropped as a strict one is, and nobody could bring it back.
#[test]
fn what_counted_and_is_refused_for_good_is_held_back_and_tried_again_at_each_start() {
    let (bench, shard, from) = one_of_five();
    let (name, replicas, _) = named(&shard, TableId::DEFAULT, false);
    write(&bench, &shard, from, 1, &sloppy(Key::plain(&name), b"one", Level::One));
    assert!(matches!(told(&bench, from)[..], [(1, Ok((_, true)))]));
    pass(&bench, &shard, 20);
    assert_eq!(shard.hints_owed(), 3, "one of them counted");
    let refused = WriteAnswer::Refused(ErrorCode::TooLarge);
    assert_eq!(all_answer(&bench, &shard, &replicas, refused).len(), 3, "each is sent once");
    assert_eq!((held_back(&shard), shard.hints_owed(), drops(&shard, DropReason::Undeliverable)), (1, 1, 2));
    let target =
        shard.hints.borrow().targets().into_iter().find(|node| shard.hints.borrow().owed(*node).0 > 0);
    let name_of = format!("hints.for.n{} held-back count=1 ", target.expect("one is owed").0);
    assert!(shard.hints_text(HintsAction::Tell).contains(&name_of));
    // What comes behind it goes on.
    write(&bench, &shard, from, 2, &sloppy(Key::plain(&name), b"two", Level::One));
    pass(&bench, &shard, 20);
    assert_eq!(all_answer(&bench, &shard, &replicas, WriteAnswer::Applied), [b"two"; 3]);
    assert_eq!((held_back(&shard), shard.hints_owed()), (1, 1));
    let (bench, shard) = again(&bench, of_five());
    assert_eq!((held_back(&shard), shard.hints_owed()), (1, 1));
    assert_eq!(all_answer(&bench, &shard, &replicas, refused), [b"one"], "tried again");
    assert_eq!(held_back(&shard), 1, "once");
    assert!(all_answer(&bench, &shard, &replicas, refused).is_empty(), "it is not asked again in this life");
    let forgets = |node: u16| ShardSettings { forget_held_back_for: vec![NodeId(node)], ..of_five() };
    let target = target.expect("one is owed").0;
    let (_, shard) = again(&bench, forgets(target));
    assert_eq!((held_back(&shard), shard.hints_owed()), (0, 0), "let go of by name");
    let (bench, shard) = again(&bench, forgets(target % 5 + 1));
    assert_eq!((held_back(&shard), shard.hints_owed()), (1, 1), "and by no other's");
    assert_eq!(all_answer(&bench, &shard, &replicas, WriteAnswer::Applied), [b"one"]);
    assert_eq!((held_back(&shard), shard.hints_owed()), (0, 0));
    pass(&bench, &shard, 100);
    let (_, shard) = again(&bench, of_five());
    assert_eq!(shard.hints_owed(), 0, "delivered stays delivered");
}

/// It had been held back while the wall clock was ahead. All that was held back within that hour, once the clock was right again, had an earlier time, and went
/// with it.
#[test]
fn what_is_held_back_after_others_were_let_go_of_stays_though_the_clock_was_set_back() {
    const HOUR_MS: u64 = 3_600_000;
    let small = |forget: Vec<NodeId>| {
        let mut settings = ShardSettings { forget_held_back_for: forget, ..of_five() };
        settings.engine.memtable_bytes = 128 << 10;
        settings
    };
    let refused = WriteAnswer::Refused(ErrorCode::TooLarge);
    let (bench, shard, from) = one_of_five();
    let (name, replicas, _) = named(&shard, TableId::DEFAULT, false);
    let (mine, ..) = named(&shard, TableId::DEFAULT, true);
    write(&bench, &shard, from, 1, &sloppy(Key::plain(&name), b"one", Level::One));
    pass(&bench, &shard, 20);
    bench.0.wall_ms.set(bench.wall_ms() + HOUR_MS);
    all_answer(&bench, &shard, &replicas, refused);
    assert_eq!(held_back(&shard), 1);
    bench.0.wall_ms.set(bench.wall_ms() - HOUR_MS);
    pass(&bench, &shard, 100);
    let (bench, shard) = again(&bench, small((2..=5).map(NodeId).collect()));
    assert_eq!(held_back(&shard), 0, "let go of");
    let from = client(&bench, &shard);
    write(&bench, &shard, from, 2, &sloppy(Key::plain(&name), b"two", Level::One));
    pass(&bench, &shard, 20);
    all_answer(&bench, &shard, &replicas, refused);
    assert_eq!(held_back(&shard), 1);
    let flushes = shard.engine.stats().flushes;
    for number in 0..200u64 {
        write(&bench, &shard, from, 100 + number, &put(&mine, &[7; 1_000], Level::One));
    }
    assert!(shard.engine.stats().flushes > flushes);
    let (bench, shard) = again(&bench, small(Vec::new()));
    assert_eq!(held_back(&shard), 1, "it may be the only copy");
    let seen = all_answer(&bench, &shard, &replicas, WriteAnswer::Applied);
    let is_sent = |value: &[u8]| seen.iter().any(|seen| **seen == *value);
    assert_eq!((is_sent(b"one"), is_sent(b"two")), (false, true));
}

/// A table that went from the configuration took with it what had counted; brought back, it lacked that.
#[test]
fn what_counted_in_a_table_that_went_is_there_when_the_table_is_back() {
    let (bench, shard, from) = one_of_five();
    let (name, replicas, _) = named(&shard, TableId::of("carts"), false);
    write(&bench, &shard, from, 1, &sloppy(cart(&name), b"v", Level::One));
    pass(&bench, &shard, 20);
    assert_eq!(shard.hints_owed(), 3);
    let without = ShardSettings { topology: settings(5, 1, 2).topology, ..of_five() };
    let (bench, shard) = again(&bench, without);
    assert!(all_answer(&bench, &shard, &replicas, WriteAnswer::Applied).is_empty(), "there is no such table");
    assert_eq!((held_back(&shard), shard.hints_owed(), drops(&shard, DropReason::Undeliverable)), (1, 1, 2));
    let (bench, shard) = again(&bench, of_five());
    assert_eq!(all_answer(&bench, &shard, &replicas, WriteAnswer::Applied).len(), 1);
    assert_eq!((held_back(&shard), shard.hints_owed()), (0, 0));
}

/// It is not delivered before a start, if ever: a core with no room left to keep what it writes apart refused all such writes until then, as if they might build
/// on it.
#[test]
fn what_is_held_back_keeps_no_room_from_what_is_written_apart() {
    let (bench, shard, from) = one_of_five();
    shard.apart.replace(Apart::new(1, 1 << 20));
    let is_elsewhere =
        |name: &[u8; 4]| shard.route(&cart(name)).expect("a table that is declared").position.is_none();
    let mut names = (0u32..).map(u32::to_le_bytes).filter(is_elsewhere);
    let [first, second] = [0, 1].map(|_| names.next().expect("endless"));
    let put = |number: u64, name: &[u8]| {
        write(&bench, &shard, from, number, &sloppy(cart(name), b"v", Level::One));
        let told = told(&bench, from);
        pass(&bench, &shard, 20);
        let [(_, told)] = told[..] else { panic!("one answer: {told:?}") };
        told.map(|_| ())
    };
    assert_eq!(put(1, &first), Ok(()));
    assert_eq!(put(2, &second), Err(ErrorCode::Overloaded), "the first is to be delivered yet");
    all_answer(&bench, &shard, &[2, 3, 4, 5], WriteAnswer::Refused(ErrorCode::TooLarge));
    assert_eq!((held_back(&shard), shard.hints_owed()), (1, 1));
    assert_eq!(put(3, &second), Ok(()));
}

/// On a full disk it cannot be held back: it stays where it is.
#[test]
fn what_cannot_be_held_back_for_want_of_room_is_tried_again() {
    let (bench, shard, from) = one_of_five();
    let (name, replicas, _) = named(&shard, TableId::DEFAULT, false);
    write(&bench, &shard, from, 1, &sloppy(Key::plain(&name), b"one", Level::One));
    pass(&bench, &shard, 20);
    let (mine, ..) = named(&shard, TableId::DEFAULT, true);
    bench.0.disk.set_full(true);
    let is_full = (100..200u64).any(|number| {
        let value = [7; 30_000];
        write(&bench, &shard, from, number, &put(&mine, &value, Level::One));
        told(&bench, from).iter().any(|(_, told)| *told == Err(ErrorCode::DiskFull))
    });
    assert!(is_full);
    let refused = WriteAnswer::Refused(ErrorCode::TooLarge);
    let sent = all_answer(&bench, &shard, &replicas, refused);
    let times = sent.iter().filter(|value| **value == b"one").count();
    assert!(times > 3, "it is sent again: {times}");
    assert_eq!(held_back(&shard), 0);
    bench.0.disk.set_full(false);
    all_answer(&bench, &shard, &replicas, refused);
    assert_eq!(held_back(&shard), 1);
}
