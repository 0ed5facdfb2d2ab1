//! How often, how long, how many: everything about gossip that can be set, with its default.

use std::num::{NonZeroU8, NonZeroUsize};
use std::time::Duration;

use super::packet::SWIM_BYTES_MAX;

/// Timings of gossip, in milliseconds, and its counts. The same on every node of a cluster; a node with other ones judges sooner
/// or later than the rest, nothing worse.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GossipOptions {
    /// How often one member, chosen by turns in a random order, is asked whether it is alive: a round.
    pub probe_period_ms: u64,
    /// How long its answer may take before others are asked to ask it. Less than half a round, for that takes time too.
    pub probe_timeout_ms: u64,
    /// How many others are asked then, and to how many members news is sent at a time.
    pub fanout: u8,
    /// How long a member stays suspect before it is down, in a cluster of up to 10; longer by the logarithm in a larger one.
    pub suspicion_ms: u64,
    /// How often news is passed on while there is any.
    pub gossip_period_ms: u64,
    /// How often each node passes news on, in a cluster of up to 10; more often by the logarithm in a larger one.
    pub transmissions: u8,
    /// How often a node that knows of no other asks its seeds, and one that does know others asks a seed that is none of them, at
    /// a tenth of that pace.
    pub join_period_ms: u64,
    /// How often a member is asked for all members it knows, and members that are down whether they are.
    pub announce_period_ms: u64,
    /// After how long a member that is down is forgotten.
    pub forget_down_ms: u64,
    /// How long a core may stand still while its node answers before it counts as absent.
    pub stall_ms: u64,
    /// Least time between two digests of a node.
    pub digest_gap_ms: u64,
    /// How often a digest goes out although nothing much has changed, in a cluster of up to 100; less often in proportion in a larger
    /// one, so that digests cost a node the same however many there are.
    pub digest_period_ms: u64,
    /// A timer that fires later than this says that this process stood still: then the time it was late by does not count for anybody.
    pub late_ms: u64,
}

impl Default for GossipOptions {
    fn default() -> GossipOptions {
        GossipOptions {
            probe_period_ms: 1_000,
            probe_timeout_ms: 400,
            fanout: 3,
            suspicion_ms: 4_000,
            gossip_period_ms: 200,
            transmissions: 6,
            join_period_ms: 1_000,
            announce_period_ms: 30_000,
            forget_down_ms: 24 * 60 * 60 * 1_000,
            stall_ms: 2_000,
            digest_gap_ms: 1_000,
            digest_period_ms: 10_000,
            late_ms: 200,
        }
    }
}

/// Load is news when it has changed by so much since the last digest.
pub(super) const LOAD_STEP_PERMILLE: u16 = 100;
/// Up to how many members a digest goes out every `digest_period_ms`.
const DIGEST_MEMBERS: u64 = 100;

impl GossipOptions {
    /// The first rule that a setting breaks, in words.
    pub fn check(&self) -> Result<(), &'static str> {
        let times = [
            self.probe_period_ms,
            self.probe_timeout_ms,
            self.suspicion_ms,
            self.gossip_period_ms,
            self.join_period_ms,
            self.announce_period_ms,
            self.forget_down_ms,
            self.stall_ms,
            self.digest_gap_ms,
            self.digest_period_ms,
            self.late_ms,
        ];
        // A year bounds every sum of times and factors far below what a u64 holds.
        const YEAR_MS: u64 = 366 * 24 * 60 * 60 * 1_000;
        if times.iter().any(|&ms| ms == 0 || ms > YEAR_MS) {
            return Err("a time of gossip is zero or above a year");
        }
        if self.probe_timeout_ms.saturating_mul(2) > self.probe_period_ms {
            return Err("the probe timeout is more than half of the probe period");
        }
        if self.suspicion_ms < self.probe_period_ms {
            return Err("the time of suspicion is shorter than the probe period");
        }
        if self.fanout == 0 || self.transmissions == 0 {
            return Err("fanout and transmissions are at least 1");
        }
        Ok(())
    }

    /// How long a member of a cluster of so many stays suspect.
    pub fn suspicion_of_ms(&self, members: usize) -> u64 {
        self.suspicion_ms * tenths(members) / 10
    }

    /// How often a node of a cluster of so many passes news on.
    pub fn transmissions_of(&self, members: usize) -> u8 {
        (u64::from(self.transmissions) * tenths(members) / 10).clamp(1, 255) as u8
    }

    /// How often a node of a cluster of so many sends a digest that says nothing new.
    pub fn digest_period_of_ms(&self, members: usize) -> u64 {
        self.digest_period_ms * (members as u64).max(DIGEST_MEMBERS) / DIGEST_MEMBERS
    }

    pub(super) fn config(&self, members: usize) -> foca::Config {
        let ms = Duration::from_millis;
        let fanout = usize::from(self.fanout);
        let every = |ms: u64, num_members: usize| {
            let num_members = NonZeroUsize::new(num_members).expect("not zero");
            Some(foca::PeriodicParams { frequency: Duration::from_millis(ms), num_members })
        };
        foca::Config {
            probe_period: ms(self.probe_period_ms),
            probe_rtt: ms(self.probe_timeout_ms),
            num_indirect_probes: NonZeroUsize::new(fanout).expect("checked"),
            max_transmissions: NonZeroU8::new(self.transmissions_of(members)).expect("at least 1"),
            suspect_to_down_after: ms(self.suspicion_of_ms(members)),
            // What is forgotten, and when, is decided here: the library would keep a timer for each life of each node.
            remove_down_after: None,
            max_packet_size: NonZeroUsize::new(SWIM_BYTES_MAX).expect("not zero"),
            notify_down_members: true,
            periodic_announce: every(self.announce_period_ms, 1),
            periodic_announce_to_down_members: every(self.announce_period_ms, 2),
            // News is passed on by the membership, which knows of digests too.
            periodic_gossip: None,
        }
    }
}

/// The decimal logarithm of a number of members in tenths, at least 1, by whole numbers so that every machine agrees.
fn tenths(members: usize) -> u64 {
    (u64::from(members.max(1).ilog2()) * 3 + 1).max(10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_keep_the_rules_and_each_rule_is_looked_at() {
        let sound = GossipOptions::default();
        assert_eq!(sound.check(), Ok(()));
        let broken = [
            GossipOptions { stall_ms: 0, ..sound.clone() },
            GossipOptions { forget_down_ms: u64::MAX, ..sound.clone() },
            GossipOptions { probe_timeout_ms: 501, ..sound.clone() },
            GossipOptions { suspicion_ms: 999, ..sound.clone() },
            GossipOptions { fanout: 0, ..sound.clone() },
            GossipOptions { transmissions: 0, ..sound.clone() },
        ];
        assert!(broken.iter().all(|options| options.check().is_err()));
    }

    #[test]
    fn suspicion_and_transmissions_grow_by_the_logarithm_and_digests_cost_the_same() {
        let options = GossipOptions::default();
        assert_eq!([1, 10, 100, 1_000].map(|n| options.suspicion_of_ms(n)), [4_000, 4_000, 7_600, 11_200]);
        assert_eq!([1, 10, 100, 1_000].map(|n| options.transmissions_of(n)), [6, 6, 11, 16]);
        assert_eq!([1, 100, 1_000].map(|n| options.digest_period_of_ms(n)), [10_000, 10_000, 100_000]);
    }
}
