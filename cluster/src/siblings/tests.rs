//! The algebra against a dumb model: every replica a plain set of all dots ever seen, no maxima, no compression.

use std::collections::{BTreeMap, BTreeSet};

use ferrite_wire::DecodeError;
use proptest::prelude::*;

use super::*;

const ROOMY: SetLimits = SetLimits { siblings_max: 1000, actors_max: 1000, bytes_max: 1 << 20, replicas: 3 };

const ZEROES: [u8; 400] = [0; 400];

fn dot(actor: u64, number: u64) -> Dot {
    Dot { actor: Actor(actor), number }
}

fn sibling(actor: u64, number: u64, value: &[u8]) -> Sibling<'_> {
    Sibling { dot: dot(actor, number), order: Order(number), expiry_ms: 0, value }
}

fn values<'a>(set: &SiblingSet<'a>) -> Vec<&'a [u8]> {
    set.siblings().iter().map(|sibling| sibling.value).collect()
}

#[test]
fn a_put_replaces_what_it_saw_and_nothing_else() {
    let mut set = SiblingSet::default();
    set.put(&Clock::default(), sibling(1, 1, b"apple"), &ROOMY).unwrap();
    let seen = set.clock().clone();
    set.put(&Clock::default(), sibling(1, 2, b"pear"), &ROOMY).unwrap();
    assert_eq!(values(&set), [b"apple" as &[u8], b"pear"], "without a context it is concurrent");
    set.put(&seen, sibling(1, 3, b"apples"), &ROOMY).unwrap();
    assert_eq!(values(&set), [b"pear" as &[u8], b"apples"], "it had not seen the pear");
    let seen = set.clock().clone();
    set.put(&seen, sibling(2, 1, b"fruit"), &ROOMY).unwrap();
    assert_eq!(values(&set), [b"fruit"]);
}

#[test]
fn a_delete_takes_what_it_saw_and_what_comes_late_stays_deleted() {
    let mut set = SiblingSet::default();
    set.put(&Clock::default(), sibling(1, 1, b"old"), &ROOMY).unwrap();
    let late = set.clone();
    let seen = set.clock().clone();
    set.put(&Clock::default(), sibling(2, 1, b"unseen"), &ROOMY).unwrap();
    set.delete(&seen, &ROOMY).unwrap();
    assert_eq!(values(&set), [b"unseen"]);
    assert_eq!(values(&set.join(&late)), [b"unseen"], "a late replica or hint does not bring it back");
    assert_eq!(set.join(&late), late.join(&set));
}

/// Two clients read, and write one after the other, again and again, through one coordinator: a clock without dots makes a sibling of each write.
#[test]
fn interleaved_clients_do_not_make_an_explosion_of_siblings() {
    let mut set = SiblingSet::default();
    let (mut first, mut second) = (Clock::default(), Clock::default());
    for number in 1..200 {
        let seen = if number % 2 == 0 { &mut first } else { &mut second };
        set.put(seen, sibling(1, number, b"v"), &ROOMY).unwrap();
        *seen = set.clock().clone();
        assert!(set.siblings().len() <= 2, "{} after {number}", set.siblings().len());
    }
}

#[test]
fn each_limit_is_answered_by_name_and_changes_nothing() {
    let mut set = SiblingSet::default();
    let limits = SetLimits { siblings_max: 2, actors_max: 2, bytes_max: 200, replicas: 1 };
    set.put(&Clock::default(), sibling(1, 1, b"a"), &limits).unwrap();
    set.put(&Clock::default(), sibling(2, 1, b"b"), &limits).unwrap();
    let before = set.clone();
    let third = sibling(1, 2, b"c");
    assert_eq!(set.put(&Clock::default(), third, &limits), Err(Full::Siblings { max: 2 }));
    let seen = set.clock().clone();
    assert_eq!(set.put(&seen, sibling(3, 1, b"c"), &limits), Err(Full::Actors { max: 2 }));
    assert_eq!(set.put(&seen, sibling(1, 2, &[0; 200]), &limits), Err(Full::Value { max: 200 }));
    let one = set.lone(dot(1, 1)).clock;
    assert_eq!(set.put(&one, sibling(1, 2, &[0; 120]), &limits), Err(Full::Bytes { max: 200 }));
    assert_eq!(set, before);
    set.put(&seen, sibling(1, 2, b"c"), &limits).expect("merging makes room");
}

/// Replicas that took writes apart have more together than a write may leave. Merging in steps must be possible, and growing not.
#[test]
fn what_joins_have_made_too_large_may_be_made_smaller_and_not_larger() {
    let limits = SetLimits { siblings_max: 2, actors_max: 9, bytes_max: 200, replicas: 2 };
    let of = |actor| {
        let mut set = SiblingSet::default();
        set.put(&Clock::default(), sibling(actor, 1, &[7; 40]), &limits).unwrap();
        set.put(&Clock::default(), sibling(actor, 2, &[7; 40]), &limits).unwrap();
        set
    };
    let mut set = of(1).join(&of(2)).join(&of(3));
    assert_eq!(set.siblings().len(), 6);
    let before = set.encoded_bytes();
    assert!(before > limits.bytes_max);
    assert_eq!(set.put(&Clock::default(), sibling(1, 3, b"c"), &limits), Err(Full::Siblings { max: 2 }));
    set.delete(of(1).clock(), &limits).expect("it is fewer than before");
    set.put(of(2).clock(), sibling(1, 3, b"c"), &limits).expect("so is this, and still too many");
    assert_eq!(set.siblings().len(), 3);
    assert!(set.encoded_bytes() < before);
    let seen = set.clock().clone();
    set.put(&seen, sibling(1, 4, b"merged"), &limits).expect("one is not too many");
    assert_eq!(values(&set), [b"merged"]);
}

/// A set that joins had made longer than a write may leave it was grown further by writes that each made it smaller: every replica replaced
/// the same sibling by a little less, and all of those stood beside each other. In the end it was longer than a reply, and no read could
/// bring the context that would have ended it.
#[test]
fn replicas_that_each_make_a_large_set_smaller_do_not_make_it_larger_together() {
    proptest!(|(replicas in 1_usize..6, rounds in prop::collection::vec((any::<u64>(), 1_usize..400), 1..60))| {
        let limits = SetLimits { siblings_max: 4, actors_max: 99, bytes_max: 600, replicas };
        let (siblings_most, bytes_most) = (limits.siblings_max * replicas, limits.bytes_max * replicas);
        let mut number = 0;
        let mut common = SiblingSet::default();
        for (random, len) in rounds {
            // Each replica writes what it can, of what all had, and then all is joined.
            let mut sets = vec![common.clone(); replicas];
            for (actor, set) in sets.iter_mut().enumerate() {
                for step in 0..4 {
                    number += 1;
                    let bits = random.rotate_left(7 * step + 13 * actor as u32);
                    let dots: Vec<Dot> = set.siblings().iter().map(|sibling| sibling.dot).collect();
                    let mut seen = Clock::default();
                    for (at, dot) in dots.iter().enumerate() {
                        if bits >> at & 1 == 1 {
                            seen.merge(&set.lone(*dot).clock);
                        }
                    }
                    set.put(&seen, sibling(actor as u64, number, &ZEROES[..len]), &limits).ok();
                }
            }
            common = sets.iter().fold(common, |joined, set| joined.join(set));
            prop_assert!(common.siblings().len() <= siblings_most, "{} siblings", common.siblings().len());
            prop_assert!(common.encoded_bytes() <= bytes_most, "{} bytes", common.encoded_bytes());
        }
    });
}

#[test]
fn a_delete_is_held_to_the_actors_alone() {
    let limits = SetLimits { siblings_max: 1, actors_max: 2, bytes_max: 50, replicas: 3 };
    let mut set = SiblingSet::default();
    set.put(&Clock::default(), sibling(1, 1, &ZEROES), &ROOMY).unwrap();
    set.put(&Clock::default(), sibling(1, 2, &ZEROES), &ROOMY).unwrap();
    let mut context = Clock::default();
    context.see(dot(2, 5));
    set.delete(&context, &limits).expect("what it has seen is not here yet, and this set is overlong");
    context.see(dot(3, 5));
    assert_eq!(set.delete(&context, &limits), Err(Full::Actors { max: 2 }));
}

#[test]
fn a_context_longer_than_any_read_gives_is_refused() {
    let mut clock = Clock::default();
    (0..=ACTORS_MAX * limits::REPLICAS_MAX).for_each(|actor| clock.dots.push(dot(actor as u64, 1)));
    let encoded = |clock: Clock| {
        let mut out = Vec::new();
        Context { key_hash: 7, clock }.encode(&mut out);
        out
    };
    let refused = Context::decode(&encoded(clock.clone()), 7);
    assert!(matches!(refused, Err(ContextError::Malformed(DecodeError::TooLong { .. }))), "{refused:?}");
    clock.dots.pop();
    assert_eq!(Context::decode(&encoded(clock.clone()), 7).map(|context| context.clock), Ok(clock));
}

proptest! {
    #[test]
    fn clocks_merge_as_each_dot_by_itself(
        one in prop::collection::btree_map(0_u64..40, 1_u64..9, 0..30),
        other in prop::collection::btree_map(0_u64..40, 1_u64..9, 0..30),
    ) {
        let clock_of = |dots: &BTreeMap<u64, u64>| {
            let mut clock = Clock::default();
            dots.iter().for_each(|(actor, number)| clock.see(dot(*actor, *number)));
            clock
        };
        let (mut merged, mut expected) = (clock_of(&one), clock_of(&one));
        merged.merge(&clock_of(&other));
        clock_of(&other).dots().iter().for_each(|dot| expected.see(*dot));
        prop_assert_eq!(merged, expected);
    }
}

#[test]
fn what_may_be_left_by_the_writes_of_all_replicas_travels_when_it_is_joined() {
    for replicas in 1..=limits::REPLICAS_MAX {
        let of_table = SetLimits::of_table(32, replicas);
        assert!(of_table.bytes_max * replicas <= limits::SET_BYTES_MAX, "{replicas}");
        assert!(of_table.bytes_max <= limits::VALUE_BYTES_MAX);
    }
}

/// Coordinators compare versions in place of sets. One that did not tell of every sibling would hide it from every read.
#[test]
fn sets_that_differ_have_different_versions_and_equal_ones_the_same() {
    let mut all = Vec::new();
    let mut set = SiblingSet::default();
    for (actor, number) in [(1, 1), (1, 5), (2, 5), (3, 4)] {
        set.put(&Clock::default(), sibling(actor, number, b"v"), &ROOMY).unwrap();
        all.push(set.clone());
    }
    let mut expired = set.clone();
    expired.siblings[1].expiry_ms = 9;
    expired.expire(9);
    assert_eq!((expired.clock(), expired.siblings().len()), (set.clock(), 3));
    let mut deleted = set.clone();
    deleted.delete(set.clock(), &ROOMY).unwrap();
    all.extend([SiblingSet::default(), expired, deleted]);
    for (at, one) in all.iter().enumerate() {
        assert_eq!(one.version(), one.join(one).version());
        assert_eq!(one.version().order, one.clock().order_max(), "no join lowers it");
        for other in &all[..at] {
            assert_ne!(one.version(), other.version());
        }
    }
}

#[test]
#[should_panic(expected = "is not new")]
fn a_number_that_is_used_again_is_a_bug() {
    let mut set = SiblingSet::default();
    set.put(&Clock::default(), sibling(1, 5, b"a"), &ROOMY).unwrap();
    let _ = set.put(&Clock::default(), sibling(1, 5, b"b"), &ROOMY);
}

/// Why an actor must not outlive what its process remembers: the second write bears a dot that others have seen, and is lost in silence. The
/// set cannot tell; whoever mints must.
#[test]
fn an_actor_used_again_after_amnesia_would_lose_a_write() {
    let mut elsewhere = SiblingSet::default();
    elsewhere.put(&Clock::default(), sibling(1, 1, b"acknowledged"), &ROOMY).unwrap();
    let seen = elsewhere.clock().clone();
    elsewhere.put(&seen, sibling(2, 1, b"merged"), &ROOMY).unwrap();
    let mut wiped = SiblingSet::default();
    wiped.put(&Clock::default(), sibling(1, 1, b"new, same dot"), &ROOMY).unwrap();
    assert_eq!(values(&wiped.join(&elsewhere)), [b"merged"]);
    let mut anew = SiblingSet::default();
    anew.put(&Clock::default(), sibling(9, 1, b"new, other actor"), &ROOMY).unwrap();
    assert_eq!(values(&anew.join(&elsewhere)), [b"merged" as &[u8], b"new, other actor"]);
}

#[test]
fn a_context_is_bound_to_its_key() {
    let mut set = SiblingSet::default();
    set.put(&Clock::default(), sibling(7, 3, b"a"), &ROOMY).unwrap();
    let mut bytes = Vec::new();
    Context { key_hash: 11, clock: set.clock().clone() }.encode(&mut bytes);
    assert_eq!(Context::decode(&bytes, 11).map(|context| context.clock), Ok(set.clock().clone()));
    assert_eq!(Context::decode(&bytes, 12), Err(ContextError::OtherKey));
    assert_eq!(Context::decode(b"", 12).map(|context| context.clock), Ok(Clock::default()));
    for len in 1..bytes.len() {
        let cut = Context::decode(&bytes[..len], 11);
        assert!(matches!(cut, Err(ContextError::Malformed(DecodeError::Short))), "{len}: {cut:?}");
    }
    bytes.push(0);
    assert_eq!(Context::decode(&bytes, 11), Err(ContextError::Malformed(DecodeError::Trailing)));
}

/// A replica as one would draw it: every dot it has seen, and the values that are alive.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Model {
    seen: BTreeSet<Dot>,
    alive: BTreeMap<Dot, u64>,
}

impl Model {
    fn join(&self, other: &Model) -> Model {
        let gone = |dot: &Dot| {
            self.seen.contains(dot) && !self.alive.contains_key(dot)
                || other.seen.contains(dot) && !other.alive.contains_key(dot)
        };
        let both = self.alive.iter().chain(&other.alive);
        Model {
            seen: self.seen.union(&other.seen).copied().collect(),
            alive: both.filter(|(dot, _)| !gone(dot)).map(|(dot, value)| (*dot, *value)).collect(),
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    /// A put at a replica, with what a client has read, or nothing.
    Put {
        replica: usize,
        client: Option<usize>,
    },
    Delete {
        replica: usize,
        client: usize,
    },
    /// A client reads at a replica, which may be one that lags.
    Read {
        replica: usize,
        client: usize,
    },
    /// One replica's set arrives at another: a write, a repair, a hint, maybe for the second time.
    Ship {
        from: usize,
        to: usize,
    },
    /// A replica's set as it is now is kept back and arrives later.
    Keep {
        from: usize,
    },
    Arrive {
        to: usize,
    },
    /// The replica lost everything, and takes another actor.
    Wipe {
        replica: usize,
    },
}

const REPLICAS: usize = 3;
const CLIENTS: usize = 3;

fn step() -> impl Strategy<Value = Step> {
    let (replica, client) = (0..REPLICAS, 0..CLIENTS);
    prop_oneof![
        4 => (replica.clone(), proptest::option::weighted(0.7, client.clone()))
            .prop_map(|(replica, client)| Step::Put { replica, client }),
        1 => (replica.clone(), client.clone()).prop_map(|(replica, client)| Step::Delete { replica, client }),
        3 => (replica.clone(), client).prop_map(|(replica, client)| Step::Read { replica, client }),
        3 => (replica.clone(), replica.clone()).prop_map(|(from, to)| Step::Ship { from, to }),
        1 => replica.clone().prop_map(|from| Step::Keep { from }),
        1 => replica.clone().prop_map(|to| Step::Arrive { to }),
        1 => replica.prop_map(|replica| Step::Wipe { replica }),
    ]
}

/// Sets own nothing, so values live here: eight bytes for each number.
fn bytes_of(value: u64) -> &'static [u8] {
    const VALUES: usize = 512;
    static TABLE: std::sync::OnceLock<Vec<[u8; 8]>> = std::sync::OnceLock::new();
    &TABLE.get_or_init(|| (0..VALUES as u64).map(u64::to_le_bytes).collect())[value as usize]
}

fn agree(set: &SiblingSet<'_>, model: &Model) -> Result<(), TestCaseError> {
    let found: Vec<_> = set.siblings().iter().map(|s| (s.dot, s.value.to_vec())).collect();
    let expected: Vec<_> = model.alive.iter().map(|(dot, value)| (*dot, bytes_of(*value).to_vec())).collect();
    prop_assert_eq!(found, expected);
    // The clock stands for exactly what was seen: the gap invariant is what makes that so.
    for dot in set.clock().dots() {
        for number in 1..=dot.number {
            prop_assert!(model.seen.contains(&Dot { number, ..*dot }), "{:?} has a gap at {}", dot, number);
        }
    }
    prop_assert!(model.seen.iter().all(|dot| set.clock().covers(*dot)));
    let mut bytes = Vec::new();
    set.encode(&mut bytes);
    prop_assert_eq!(bytes.len(), set.encoded_bytes());
    prop_assert_eq!(SiblingSet::decode(&bytes), Ok(set.clone()));
    Ok(())
}

proptest! {
    #[test]
    fn sets_agree_with_the_model(steps in proptest::collection::vec(step(), 1..80)) {
        let mut replicas = vec![(SiblingSet::default(), Model::default()); REPLICAS];
        let mut clients = vec![(Clock::default(), BTreeSet::new()); CLIENTS];
        let mut kept: Vec<(SiblingSet<'static>, Model)> = Vec::new();
        let mut actors: Vec<(u64, u64)> = (0..REPLICAS as u64).map(|actor| (actor + 1, 0)).collect();
        let mut minted = 0;
        for step in steps {
            match step {
                Step::Put { replica, client } => {
                    minted += 1;
                    let (set, model) = &mut replicas[replica];
                    let (actor, number) = &mut actors[replica];
                    let (clock, seen) = client.map(|client| clients[client].clone()).unwrap_or_default();
                    *number += 1;
                    let sibling = Sibling {
                        dot: dot(*actor, *number),
                        order: Order(minted),
                        expiry_ms: 0,
                        value: bytes_of(minted),
                    };
                    set.put(&clock, sibling, &ROOMY).expect("there is room");
                    model.alive.retain(|dot, _| !seen.contains(dot));
                    model.seen.extend(seen);
                    model.seen.insert(sibling.dot);
                    model.alive.insert(sibling.dot, minted);
                }
                Step::Delete { replica, client } => {
                    let (set, model) = &mut replicas[replica];
                    let (clock, seen) = &clients[client];
                    set.delete(clock, &ROOMY).expect("there is room");
                    model.alive.retain(|dot, _| !seen.contains(dot));
                    model.seen.extend(seen);
                }
                Step::Read { replica, client } => {
                    clients[client] = (replicas[replica].0.clock().clone(), replicas[replica].1.seen.clone());
                }
                Step::Ship { from, to } => {
                    let (set, model) = replicas[from].clone();
                    replicas[to] = (replicas[to].0.join(&set), replicas[to].1.join(&model));
                }
                Step::Keep { from } => kept.push(replicas[from].clone()),
                Step::Arrive { to } => {
                    if let Some((set, model)) = kept.pop() {
                        replicas[to] = (replicas[to].0.join(&set), replicas[to].1.join(&model));
                    }
                }
                Step::Wipe { replica } => {
                    replicas[replica] = Default::default();
                    actors[replica] = (actors[replica].0 + REPLICAS as u64, 0);
                }
            }
            for (set, model) in &replicas {
                agree(set, model)?;
            }
        }
        let [a, b, c] = [&replicas[0].0, &replicas[1].0, &replicas[2].0];
        prop_assert_eq!(a.join(b), b.join(a));
        prop_assert_eq!(a.join(b).join(c), a.join(&b.join(c)));
        prop_assert_eq!(a.join(a), a.clone());
        prop_assert_eq!(a.join(b).join(b), a.join(b));
    }

    #[test]
    fn hostile_bytes_are_refused_or_are_a_set(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(set) = SiblingSet::decode(&bytes) {
            let mut again = Vec::new();
            set.encode(&mut again);
            prop_assert_eq!(again, bytes, "one set has one encoding");
        }
    }
}
