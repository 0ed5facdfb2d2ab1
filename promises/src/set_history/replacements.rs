//! What may have taken a sibling from a read that had to show it.
//!
//! A write that replaces another travels with what it has seen, as one set. So where the other is gone for it the write is itself to be found, unless that was
//! replaced in its turn; and a sibling is hidden from a read by a chain
//!
//! ```text
//! sibling ◄── write that may have seen it ◄── write that may have seen that one ◄── … ◄── last
//! ```
//!
//! whose last this very read shows, or cannot show: it is a delete, or may have expired. Each was minted on top of the one before, so all of them after
//! the sibling was sent, and above it.
//!
//! To take any write that may have seen the sibling for an excuse would be to excuse every loss after one overwrite that was never done.

use super::Write;
use super::places::Places;
use crate::facts::Facts;

/// The writes of a key, and what a read has shown of them.
pub(super) struct Replacements<'r> {
    pub(super) writes: &'r [Write],
    pub(super) shown: &'r Places,
    pub(super) facts: &'r Facts,
}

impl Replacements<'_> {
    /// Whether the write at a place may have been taken from the read.
    pub(super) fn may_have_taken(&self, place: usize) -> bool {
        let sibling = &self.writes[place];
        let mut reached = Places::default();
        reached.insert(place);
        let mut ends = vec![place];
        while let Some(end) = ends.pop() {
            // From the newest on: most are replaced by what is shown.
            for (next, write) in self.writes.iter().enumerate().rev() {
                let is_next = write.may_have_seen(end, &self.writes[end]) && write.may_follow(sibling);
                if !is_next || reached.contains(next) {
                    continue;
                }
                if self.may_be_last(next) {
                    return true;
                }
                reached.insert(next);
                ends.push(next);
            }
        }
        false
    }

    /// Whether the read shows the write at a place, or cannot show it though nothing has replaced it.
    fn may_be_last(&self, place: usize) -> bool {
        let write = &self.writes[place];
        let may_have_expired = match write.version() {
            Some(version) => self.facts.may_have_passed(version.expiry_ms),
            None => write.sent.expires,
        };
        // What may come again whoever coordinated it may take away, not knowing that it was done.
        write.sent.is_delete || self.shown.contains(place) || may_have_expired || write.sent.may_come_again
    }
}
