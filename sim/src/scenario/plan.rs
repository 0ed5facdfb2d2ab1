//! What a run is made of; all of it follows from the seed.

use super::{MS, SECOND};
use crate::random::Random;
use crate::world::DiskFaults;

/// A kind of fault that the schedule can choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FaultKind {
    /// The power of one node.
    PowerCut,
    /// The power of all nodes at once.
    PowerCutOfAll,
    /// SIGKILL.
    Kill,
    /// A process that does nothing for a while, as under SIGSTOP.
    Pause,
    /// Two nodes do not hear each other.
    Partition,
    /// One node does not hear another.
    OneWayPartition,
    /// A connection between nodes breaks.
    Reset,
    /// A wall clock jumps.
    ClockJump,
    /// A disk has no room.
    FullDisk,
    /// A disk stands still, and some time later its node is reset. What others have of that node's writes it has not.
    StalledDisk,
}

impl FaultKind {
    /// Those that any run may draw.
    const ALL: [FaultKind; 9] = [
        FaultKind::PowerCut,
        FaultKind::PowerCutOfAll,
        FaultKind::Kill,
        FaultKind::Pause,
        FaultKind::Partition,
        FaultKind::OneWayPartition,
        FaultKind::Reset,
        FaultKind::ClockJump,
        FaultKind::FullDisk,
    ];
}

/// Fewest kinds of faults that a run draws from.
const KINDS_MIN: u64 = 3;

/// What a run is made of.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    /// Clients, each with one request in flight.
    pub(super) clients: usize,
    /// Keys.
    pub(super) keys: u64,
    /// How long clients write and read while faults happen.
    pub(super) work_ns: u64,
    /// Longest pause of a client between two requests.
    pub(super) think_ms_max: u64,
    /// Time between two faults, on average.
    pub(super) fault_pause_ns: u64,
    /// One write in so many is a delete; 0 = none.
    pub(super) deletes_one_in: u64,
    /// Longest value.
    pub(super) value_bytes_max: u64,
    /// Replicas of a second table, fewer than the default table's, which every other key is of; `None` = there is none.
    pub(super) narrow: Option<u8>,
    /// Replicas of a third table, with siblings, which every third key is of; `None` = there is none.
    pub(super) carts: Option<u8>,
    /// Memtable budget of a core, small enough to be flushed many times, and not below what the memtables of its stores take at
    /// least: then any frozen one would be over the bound, and writes be refused until it is flushed. Together with reads that
    /// fail, each of which makes a flush pause before it is tried again, a node would refuse most of what it is asked.
    pub(super) memtable_bytes: usize,
    /// Length of a log segment, small enough to be recycled many times.
    pub(super) segment_bytes: u64,
    /// How disks misbehave.
    pub(super) disk: DiskFaults,
    /// The kinds of faults that happen in this run.
    pub(super) kinds: Vec<FaultKind>,
}

impl Plan {
    /// Options are drawn independently ("swarm testing", Groce et al., 2012): a run with few kinds of faults reaches states
    /// that a run with all of them does not.
    pub(super) fn draw(random: &mut Random) -> Plan {
        fn one_of(random: &mut Random, choices: &[u64]) -> u64 {
            choices[random.below(choices.len() as u64) as usize]
        }
        let disk_fails = random.one_in(2);
        let mut one_in = |choices: &[u64]| if disk_fails { one_of(random, choices) } else { 0 };
        let mut disk = DiskFaults {
            latency_ns: 0,
            read_one_in: one_in(&[0, 200, 1_000]),
            short_read_one_in: one_in(&[0, 50]),
            flip_one_in: one_in(&[0, 300]),
            sync_one_in: one_in(&[0, 2_000, 10_000]),
            slow_one_in: 0,
        };
        disk.latency_ns = one_of(random, &[200_000, 4 * MS]);
        disk.slow_one_in = one_of(random, &[0, 30, 100]);
        let mut kinds = FaultKind::ALL.to_vec();
        for _ in 0..random.below(FaultKind::ALL.len() as u64 - KINDS_MIN + 1) {
            kinds.swap_remove(random.below(kinds.len() as u64) as usize);
        }
        Plan {
            clients: random.between(3, 10) as usize,
            keys: one_of(random, &[4, 16, 64]),
            work_ns: random.between(4, 8) * SECOND,
            think_ms_max: one_of(random, &[5, 20]),
            fault_pause_ns: one_of(random, &[200 * MS, 400 * MS, 800 * MS]),
            deletes_one_in: one_of(random, &[0, 5, 20]),
            value_bytes_max: one_of(random, &[64, 1024, 4096]),
            memtable_bytes: one_of(random, &[96 * 1024, 192 * 1024, 512 * 1024]) as usize,
            segment_bytes: one_of(random, &[72 * 1024, 128 * 1024]),
            carts: None,
            narrow: random.one_in(3).then(|| one_of(random, &[1, 2, 2]) as u8),
            disk,
            kinds,
        }
    }

    /// The plan of a seed's run, with a table of siblings in some. That is drawn apart: what else a seed means stays as it is.
    pub(super) fn with_carts(self, seed: u64) -> Plan {
        let mut random = Random::new(seed ^ CARTS);
        let replicas = [2, 3, 3][random.below(3) as usize];
        if !random.one_in(2) {
            return self;
        }
        let plan = Plan { carts: Some(replicas), ..self };
        if !random.one_in(2) {
            return plan;
        }
        // Often, and with many keys: what a replica has forgotten must be written on top of before others have told it.
        let kinds = plan.kinds.iter().copied().chain([FaultKind::StalledDisk; STALLS]).collect();
        Plan { keys: MANY_KEYS, kinds, ..plan }
    }
}

/// How often a disk stalls in a round of faults, in runs in which any does.
const STALLS: usize = 4;
/// So many that what one client writes is not soon replaced by another.
const MANY_KEYS: u64 = 256;
/// Sets the draw of the table with siblings apart from all else.
const CARTS: u64 = 0x0000_c0ff_ee00_ca57;
