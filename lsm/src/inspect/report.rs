//! What an inspection says: the pieces of files, and what is wrong with them.

use super::Advice;
use crate::{Damage, DiskErrorKind, FileName, Key, KeyBuf, ReadError};

/// Findings that are shown one by one; more are counted.
pub const FINDINGS_MAX: u64 = 1024;

/// What an inspection came upon.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// A piece of a file: a header, a block, a group, an edit.
    Part(Part<'a>),
    /// A record in a piece that was shown before it.
    Record(Part<'a>),
    /// Something that is wrong, or worth knowing.
    Finding(&'a Finding),
}

/// A piece of a file.
#[derive(Clone, Copy, Debug)]
pub struct Part<'a> {
    /// The file.
    pub file: FileName,
    /// What it is, as the format's grammar calls it.
    pub kind: &'static str,
    /// Where it starts, in bytes; that of the piece around it where it has no place of its own.
    pub offset: u64,
    /// Its length in bytes; 0 where it has none of its own.
    pub bytes: u64,
    /// What it says.
    pub fields: &'a [(&'static str, Field<'a>)],
}

/// A value in a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field<'a> {
    /// A count, a length, a place.
    Number(u64),
    /// An identity or a checksum.
    Hex(u128),
    /// A word.
    Text(&'a str),
    /// A yes or no.
    Flag(bool),
    /// A key.
    Key(Key<'a>),
}

/// Something that an inspection found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Whether it counts as damage.
    pub weight: Weight,
    /// Where, what, what should be there and what is.
    pub damage: Damage,
    /// What may be out of sight because of it.
    pub hides: Hides,
    /// What to do about it.
    pub advice: &'static str,
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weight {
    /// Data is lost or in doubt here, or the engine will refuse the file.
    Damage,
    /// Worth knowing; nothing that was acknowledged is known to be lost.
    Notice,
}

/// What may be out of sight.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hides {
    /// Nothing.
    Nothing,
    /// It cannot be told from this file.
    Unknown,
    /// Keys not before `low` and not after `high`.
    Keys {
        /// The first key that may be among them.
        low: KeyBuf,
        /// The last.
        high: KeyBuf,
    },
    /// Records of the log by sequence number.
    Records {
        /// The first.
        first: u64,
        /// The last.
        last: u64,
    },
}

/// How many findings there were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Places that are damaged.
    pub damage: u64,
    /// Things worth knowing.
    pub notices: u64,
    /// Of both, those beyond [`FINDINGS_MAX`], which were not shown.
    pub unreported: u64,
}

impl Verdict {
    /// Whether nothing is damaged.
    pub fn is_whole(&self) -> bool {
        self.damage == 0
    }
}

/// Passes on what is found, and counts it.
pub(crate) struct Report<'a> {
    see: &'a mut dyn FnMut(Event<'_>),
    verdict: Verdict,
}

impl<'a> Report<'a> {
    pub(crate) fn new(see: &'a mut dyn FnMut(Event<'_>)) -> Report<'a> {
        Report { see, verdict: Verdict::default() }
    }

    pub(crate) fn verdict(&self) -> Verdict {
        self.verdict
    }

    pub(crate) fn part(
        &mut self,
        file: FileName,
        kind: &'static str,
        (offset, bytes): (u64, u64),
        fields: &[(&'static str, Field<'_>)],
    ) {
        (self.see)(Event::Part(Part { file, kind, offset, bytes, fields }));
    }

    pub(crate) fn record(
        &mut self,
        file: FileName,
        kind: &'static str,
        (offset, bytes): (u64, u64),
        fields: &[(&'static str, Field<'_>)],
    ) {
        (self.see)(Event::Record(Part { file, kind, offset, bytes, fields }));
    }

    pub(crate) fn damage(&mut self, damage: Damage, hides: Hides, advice: Advice) {
        self.verdict.damage += 1;
        self.find(Finding { weight: Weight::Damage, damage, hides, advice });
    }

    pub(crate) fn notice(&mut self, damage: Damage, hides: Hides, advice: Advice) {
        self.verdict.notices += 1;
        self.find(Finding { weight: Weight::Notice, damage, hides, advice });
    }

    /// A read that failed: damage, also where the device or the name is at fault. Only a want of buffers ends an inspection.
    pub(crate) fn failure(
        &mut self,
        error: ReadError,
        (file, offset): (FileName, u64),
        hides: Hides,
        advice: Advice,
    ) -> Result<(), ReadError> {
        let failed = |what, number| Damage { file, offset, what, expected: 0, found: number };
        let damage = match error {
            ReadError::Damage(damage) => damage,
            ReadError::Disk(error) => match error.kind {
                DiskErrorKind::NotFound => failed("file is missing", 0),
                DiskErrorKind::Os(errno) => failed("device error", errno.unsigned_abs().into()),
                DiskErrorKind::Exists | DiskErrorKind::NoSpace | DiskErrorKind::Io => {
                    failed("device error", 0)
                }
            },
            ReadError::NoBuffer | ReadError::Quarantined(_) => return Err(error),
        };
        self.damage(damage, hides, advice);
        Ok(())
    }

    fn find(&mut self, finding: Finding) {
        if self.verdict.damage + self.verdict.notices > FINDINGS_MAX {
            self.verdict.unreported += 1;
        } else {
            (self.see)(Event::Finding(&finding));
        }
    }
}

/// Keys from one to another.
pub(crate) fn key_range(low: &KeyBuf, high: &KeyBuf) -> Hides {
    Hides::Keys { low: low.clone(), high: high.clone() }
}
