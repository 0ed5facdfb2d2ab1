//! What a history of overlapping operations may answer: the winners of what was acknowledged, and for what is under way the answers
//! that its two ends leave room for.

use std::collections::{BTreeMap, BTreeSet};

use crate::rig::{TestEngine, VNODES};
use ferrite_lsm::{Extent, Key, KeyBuf, Prefix, Record, RecordFlags, Refusal, Seq};

pub(super) const KEYS: u64 = 96;
pub(super) const TABLES: u32 = 2;

pub(super) fn vnode_of(n: u64) -> u16 {
    (n % u64::from(VNODES)) as u16
}

fn prefix(n: u64) -> Prefix {
    let table = (n / u64::from(VNODES)) as u32 % TABLES;
    Prefix { space: 1, vnode: vnode_of(n), table, token: n.wrapping_mul(0x9e37_79b9_7f4a_7c15) }
}

pub(super) fn key(n: u64) -> KeyBuf {
    KeyBuf { prefix: prefix(n), partition: n.to_be_bytes()[..].into(), sort: Box::default() }
}

/// The number of a key.
pub(super) fn number(key: &Key<'_>) -> u64 {
    u64::from_be_bytes(key.partition.try_into().expect("eight bytes"))
}

pub(super) fn is_in(n: u64, extent: Extent) -> bool {
    extent.contains(prefix(n))
}

/// Whether a key of one is in the other.
pub(super) fn do_touch(one: Extent, other: Extent) -> bool {
    one.includes(&other) || other.includes(&one)
}

/// A version of a key. The greater wins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Version {
    pub(super) order: u64,
    /// No two writes have the same.
    pub(super) actor: u64,
    pub(super) bytes: usize,
    pub(super) tombstone: bool,
}

impl Version {
    /// The version of a record, which is whole.
    pub(super) fn of(n: u64, record: Record<'_>) -> Version {
        assert_eq!(record.flags.0 & !RecordFlags::OUTSIDE, 0, "the engine's marks stay inside");
        let tombstone = record.flags.0 & RecordFlags::TOMBSTONE != 0;
        let version =
            Version { order: record.order, actor: record.actor, bytes: record.value.len(), tombstone };
        assert_eq!(record.value, version.value(n), "key {n}");
        version
    }

    fn value(&self, n: u64) -> Vec<u8> {
        vec![n.wrapping_mul(31).wrapping_add(self.actor) as u8; self.bytes]
    }

    pub(super) fn stage(&self, n: u64, engine: &TestEngine) -> Result<Seq, Refusal> {
        let (key, value) = (key(n), self.value(n));
        let flags = RecordFlags(if self.tombstone { RecordFlags::TOMBSTONE } else { 0 });
        let record = Record { order: self.order, actor: self.actor, flags, expiry_ms: 0, value: &value };
        engine.stage(key.as_key(), record, 1)
    }
}

/// What a reader makes of an answer: of a deletion, and of none that is left, the same.
pub(super) fn seen(version: Option<Version>) -> Option<Version> {
    version.filter(|version| !version.tombstone)
}

/// By key the winner.
pub(super) type Content = BTreeMap<u64, Version>;
/// By vnode its store.
pub(super) type Places = [Option<u16>; VNODES as usize];

pub(super) fn join(content: &mut Content, n: u64, version: Version) {
    let slot = content.entry(n).or_insert(version);
    *slot = version.max(*slot);
}

pub(super) fn cut(content: &mut Content, extent: Extent) {
    content.retain(|&n, _| !is_in(n, extent));
}

/// A write that was applied, as number `at`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Applied {
    pub(super) at: u64,
    pub(super) n: u64,
    pub(super) version: Version,
}

/// A drop of a table that is under way: of what is applied meanwhile, what comes before a moment of its choice goes with the rest.
pub(super) struct Cut {
    pub(super) extent: Extent,
    applied: Vec<Applied>,
    /// Its polls, by how much had been applied.
    polled_at: BTreeSet<usize>,
}

impl Cut {
    pub(super) fn new(extent: Extent) -> Cut {
        Cut { extent, applied: Vec::new(), polled_at: BTreeSet::new() }
    }

    pub(super) fn polled(&mut self) {
        self.polled_at.insert(self.applied.len());
    }

    pub(super) fn applied(&mut self, applied: Applied) {
        if is_in(applied.n, self.extent) {
            self.applied.push(applied);
        }
    }

    /// Another operation had the turn up to now, so this one has not chosen yet.
    pub(super) fn waits(&mut self) {
        self.polled_at.clear();
    }

    /// What may be left of the extent, by the moments that it may have chosen.
    pub(super) fn left(&self) -> impl Iterator<Item = &[Applied]> {
        self.polled_at.iter().map(|&at| &self.applied[at..])
    }
}

/// `content` after a table was dropped of which this is left.
pub(super) fn after_cut(content: &Content, extent: Extent, left: &[Applied]) -> Content {
    let mut after = content.clone();
    cut(&mut after, extent);
    left.iter().for_each(|applied| join(&mut after, applied.n, applied.version));
    after
}

/// What a walk may show of each key: any of its states since the walk began.
pub(super) struct Window {
    pub(super) extent: Extent,
    states: BTreeMap<u64, BTreeSet<Option<Version>>>,
}

impl Window {
    pub(super) fn new(extent: Extent, content: &Content) -> Window {
        let states = (0..KEYS).filter(|&n| is_in(n, extent)).map(|n| (n, BTreeSet::new())).collect();
        let mut window = Window { extent, states };
        window.note(content);
        window
    }

    /// Something has changed.
    pub(super) fn note(&mut self, content: &Content) {
        for (n, states) in &mut self.states {
            states.insert(seen(content.get(n).copied()));
        }
    }

    pub(super) fn judge(&self, shown: &[(u64, Version)], is_reverse: bool) -> Result<(), String> {
        let is_in_order = |pair: &[(u64, Version)]| (key(pair[0].0) < key(pair[1].0)) != is_reverse;
        if !shown.windows(2).all(is_in_order) {
            return Err(format!("a walk showed keys twice or out of order: {shown:?}"));
        }
        let shown: Content = shown.iter().copied().collect();
        if let Some(n) = shown.keys().find(|n| !self.states.contains_key(n)) {
            return Err(format!("a walk of {:?} showed key {n}", self.extent));
        }
        for (n, states) in &self.states {
            let answer = seen(shown.get(n).copied());
            if !states.contains(&answer) {
                return Err(format!("a walk showed {answer:?} of key {n}, which was {states:?}"));
            }
        }
        Ok(())
    }
}

/// What a checkpoint may hold if it is of this moment.
#[derive(Clone)]
struct Moment {
    places: Places,
    /// What had been acknowledged when the checkpoint was called for, as far as it is there at this moment.
    least: Content,
    /// What was applied since: of each of these it is free.
    more: Vec<Applied>,
}

/// The moments of which a checkpoint under way may be.
pub(super) struct Moments {
    /// Writes applied before it was called for.
    began_at: u64,
    now: Moment,
    is_new: bool,
    polled: Vec<Moment>,
}

impl Moments {
    pub(super) fn new(began_at: u64, places: Places, content: &Content) -> Moments {
        let now = Moment { places, least: content.clone(), more: Vec::new() };
        Moments { began_at, now, is_new: true, polled: Vec::new() }
    }

    pub(super) fn polled(&mut self) {
        if std::mem::take(&mut self.is_new) {
            self.polled.push(self.now.clone());
        }
    }

    pub(super) fn placed(&mut self, places: Places) {
        self.is_new |= self.now.places != places;
        self.now.places = places;
    }

    pub(super) fn applied(&mut self, applied: Applied) {
        self.is_new = true;
        self.now.more.push(applied);
    }

    pub(super) fn dropped(&mut self, extent: Extent, left: &[Applied]) {
        self.is_new = true;
        cut(&mut self.now.least, extent);
        self.now.more.retain(|applied| !is_in(applied.n, extent));
        for applied in left {
            if applied.at <= self.began_at {
                join(&mut self.now.least, applied.n, applied.version);
            } else {
                self.now.more.push(*applied);
            }
        }
    }

    pub(super) fn taken_in(&mut self, records: &[(u64, Version)]) {
        self.is_new = true;
        records.iter().for_each(|&(n, version)| join(&mut self.now.least, n, version));
    }

    /// Whether it is of one of the moments.
    pub(super) fn judge(&self, places: Places, found: &Content) -> Result<(), String> {
        let of = |moment: &Moment| {
            let more = moment.more.iter().map(|applied| (applied.n, applied.version));
            judge((&moment.places, &moment.least), more, (&places, found))
        };
        let judged: Vec<Result<(), String>> = self.polled.iter().map(of).collect();
        let Some(Err(last)) = judged.last() else { return Ok(()) };
        if judged.iter().any(Result::is_ok) {
            return Ok(());
        }
        Err(format!("a checkpoint of none of {} moments; of the last: {last}", judged.len()))
    }
}

/// Compares what was found with what there should be at least, and what there may be `more`.
pub(super) fn judge(
    (places, least): (&Places, &Content),
    more: impl Iterator<Item = (u64, Version)> + Clone,
    (found_places, found): (&Places, &Content),
) -> Result<(), String> {
    if places != found_places {
        return Err(format!("vnodes live in {found_places:?}, not in {places:?}"));
    }
    for n in 0..KEYS {
        let (least, answer) = (least.get(&n).copied(), seen(found.get(&n).copied()));
        let may =
            |(of, version): (u64, Version)| of == n && Some(version) > least && answer == seen(Some(version));
        if answer != seen(least) && !more.clone().any(may) {
            return Err(format!("key {n}: {answer:?} is there, not {least:?}"));
        }
    }
    Ok(())
}
