//! Writes as they are sent, and what comes back of them.

use ferrite_wire::{Order, Version};

use crate::facts::{Holders, Why, Written};

/// What a write was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// Nothing yet, or that the outcome is unknown.
    InDoubt,
    /// That it was not applied.
    NotApplied,
    /// That it has this version.
    Acknowledged(Version),
    /// The same, and that some of those that hold it only stand in for replicas.
    Sloppy(Version),
}

/// What came back of a write.
#[derive(Clone, Copy, Debug)]
pub struct Answer {
    /// What its client was told.
    pub told: Told,
    /// By how many it was acknowledged, if it was.
    pub acknowledged: usize,
    /// The highest order that the client was told of along with it.
    pub time: Order,
    /// When, in nanoseconds.
    pub at_ns: u64,
}

impl Told {
    /// Writes acknowledged, not applied, and in doubt.
    pub(crate) fn count(all: impl Iterator<Item = Told>) -> (u64, u64, u64) {
        let mut counts = (0, 0, 0);
        for told in all {
            match told {
                Told::Acknowledged(_) | Told::Sloppy(_) => counts.0 += 1,
                Told::NotApplied => counts.1 += 1,
                Told::InDoubt => counts.2 += 1,
            }
        }
        counts
    }

    /// The version that was acknowledged.
    pub fn version(self) -> Option<Version> {
        match self {
            Told::Acknowledged(version) | Told::Sloppy(version) => Some(version),
            Told::InDoubt | Told::NotApplied => None,
        }
    }
}

/// A write as it is sent.
#[derive(Clone, Copy, Debug)]
pub struct Intent {
    /// To which key.
    pub key: u64,
    /// Whether it deletes.
    pub is_delete: bool,
    /// Whether it puts a value that expires.
    pub expires: bool,
    /// Through which node.
    pub node: usize,
    /// How many replicas must confirm it.
    pub needed: usize,
    /// The replicas of the key.
    pub holders: Holders,
    /// Whether others may stand in for them.
    pub may_be_sloppy: bool,
    /// Whether a stand-in may be sent it twice, take it once and refuse it once, and the refusal be what is heard. Until its client is told that somebody has
    /// it, or may have it, whoever coordinates it may know nothing of that, and its next set of the key takes it away.
    pub may_come_again: bool,
    /// The highest order that its client had been told of.
    pub seen: Order,
    /// When, in nanoseconds.
    pub now_ns: u64,
    /// By when it is minted, if it ever is, and has read what it replaces; `u64::MAX` = that is not known. Its coordinator drops what it has not minted when its
    /// time is over, but counts that time from when it came there.
    pub minted_by_ns: u64,
}

impl Intent {
    /// The write, acknowledged at a moment by so many replicas, and by as many as it needs at least.
    pub(crate) fn acknowledged(&self, told_ns: u64, by: usize) -> Written {
        let Intent { needed, holders, now_ns, .. } = *self;
        let (needed, why) = (needed.max(by), Why::Acknowledged);
        Written { sent_ns: now_ns, told_ns, needed, holders, apart_until_ns: 0, why }
    }

    /// What is known of where it is once nobody owes anything any more; `reached_all` = whoever coordinated it has seen to that. Of those that need not have
    /// it for its level, too, some may have got it from others that stood in for them.
    pub(crate) fn drained(&self, told: Told, at_ns: u64, reached_all: bool) -> Option<Written> {
        let is_sloppy = matches!(told, Told::Sloppy(_));
        let stood_in = is_sloppy || (reached_all && self.may_be_sloppy);
        let needed = if reached_all { self.holders.count() } else { self.needed };
        let apart_until_ns = if stood_in { at_ns } else { 0 };
        let why = Why::Delivered;
        let written = Written { needed, apart_until_ns, why, ..self.acknowledged(at_ns, 0) };
        (told.version().is_some() && (reached_all || is_sloppy)).then_some(written)
    }

    /// What is wrong with what it was told, whatever became of it.
    pub(crate) fn mistold(&self, told: Told) -> Option<String> {
        let version = told.version()?;
        if (version.expiry_ms > 0) != self.expires {
            return Some(format!(
                "was acknowledged as {version:?}, which expires when it should not, or never"
            ));
        }
        (matches!(told, Told::Sloppy(_)) && !self.may_be_sloppy)
            .then(|| "was acknowledged by some that are no replicas, which it had not allowed".to_owned())
    }
}
