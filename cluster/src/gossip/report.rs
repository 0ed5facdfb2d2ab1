//! What this node says of itself: from what the host reports of its cores, when to say it, and in which digest.
//!
//! A digest goes out at once when a core stalls, moves again or is fenced, when the topology is another or the load has changed much, but not more often
//! than once in `digest_gap_ms`; and now and then although nothing has changed. What goes out as news is said again a few times: passed
//! on at random, about one digest in a thousand misses a node, and the one that missed would wait for the next in vain.

use ferrite_wire::Epoch;

use super::options::LOAD_STEP_PERMILLE;
use super::view::verdict_on;
use super::{CoreDigest, Digest, Fence, GossipOptions};

/// How often news is said again, and after how many times the least time between digests.
const REPEATS: u32 = 2;
const REPEAT_GAPS: u64 = 2;

/// A core, as the host finds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CoreReport {
    /// How often the core has come round; may wrap. The core itself counts, for instance each turn of its loop, idle ones too.
    pub progress: u32,
    /// Whether it takes writes.
    pub fence: Fence,
}

/// A core, and when it was last seen to have moved.
#[derive(Clone, Copy, Debug)]
struct Watched {
    last: CoreReport,
    moved_ms: u64,
}

/// What this node would say.
#[derive(Debug)]
pub(super) struct OwnReport {
    version: String,
    name: String,
    load_permille: u16,
    epoch: Epoch,
    cores: Vec<Watched>,
    sequence: u64,
    /// What was said last, and when.
    said: Option<(Digest, u64)>,
    repeats_left: u32,
}

impl OwnReport {
    pub(super) fn new(version: String, name: String) -> OwnReport {
        OwnReport {
            version,
            name,
            load_permille: 0,
            epoch: Epoch(0),
            cores: Vec::new(),
            sequence: 0,
            said: None,
            repeats_left: 0,
        }
    }

    /// Takes what the host reports.
    pub(super) fn take(&mut self, now_ms: u64, load_permille: u16, epoch: Epoch, cores: &[CoreReport]) {
        (self.load_permille, self.epoch) = (load_permille, epoch);
        self.cores.truncate(cores.len());
        for (at, &core) in cores.iter().enumerate() {
            match self.cores.get_mut(at) {
                Some(watched) => {
                    if watched.last.progress != core.progress {
                        watched.moved_ms = now_ms;
                    }
                    watched.last = core;
                }
                None => self.cores.push(Watched { last: core, moved_ms: now_ms }),
            }
        }
    }

    /// What was said is of no use any more: this node has begun a new life.
    pub(super) fn say_again(&mut self) {
        self.said = None;
    }

    /// When a digest is due, if the host reports nothing new until then.
    pub(super) fn due_ms(&self, now_ms: u64, options: &GossipOptions, members: usize) -> u64 {
        let Some((said, at_ms)) = &self.said else { return now_ms };
        let wait_ms = if self.is_news(said, now_ms, options.stall_ms) {
            options.digest_gap_ms
        } else if self.repeats_left > 0 {
            REPEAT_GAPS * options.digest_gap_ms
        } else {
            options.digest_period_of_ms(members)
        };
        at_ms + wait_ms
    }

    fn is_news(&self, said: &Digest, now_ms: u64, stall_ms: u64) -> bool {
        said.load_permille.abs_diff(self.load_permille) >= LOAD_STEP_PERMILLE
            || said.epoch != self.epoch
            || said.cores.len() != self.cores.len()
            || said.cores.iter().zip(&self.cores).any(|(said, watched)| {
                verdict_on(said, stall_ms) != verdict_on(&watched.digest(now_ms), stall_ms)
            })
    }

    /// The digest to send now. Its node, life and tables are the caller's.
    pub(super) fn say(&mut self, now_ms: u64, stall_ms: u64, blank: Digest) -> Digest {
        self.sequence += 1;
        let is_news = self.said.as_ref().is_none_or(|(said, _)| self.is_news(said, now_ms, stall_ms));
        self.repeats_left = if is_news { REPEATS } else { self.repeats_left.saturating_sub(1) };
        let digest = Digest {
            sequence: self.sequence,
            load_permille: self.load_permille,
            epoch: self.epoch,
            version: self.version.clone(),
            name: self.name.clone(),
            cores: self.cores.iter().map(|watched| watched.digest(now_ms)).collect(),
            ..blank
        };
        self.said = Some((digest.clone(), now_ms));
        digest
    }
}

impl Watched {
    fn digest(&self, now_ms: u64) -> CoreDigest {
        let still_ms = now_ms.saturating_sub(self.moved_ms);
        CoreDigest {
            progress: self.last.progress,
            still_ms: u32::try_from(still_ms).unwrap_or(u32::MAX),
            fence: self.last.fence,
        }
    }
}
