//! What happens in a run; all of it follows from the seed.

use super::shape::Shape;
use super::{MS, SECOND, one_of};
use crate::random::Random;
use crate::world::{ConnectionFaults, DiskFaults, MessageFaults, Untrusted};

/// A kind of fault that the schedule can choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FaultKind {
    /// The power of one node.
    PowerCut,
    /// The power of all nodes at once.
    PowerCutOfAll,
    /// SIGKILL.
    Kill,
    /// A node is asked to stop, and does so in order.
    Stop,
    /// A process that does nothing for a while, as under SIGSTOP.
    Pause,
    /// One core of a node does nothing for a while, and the others go on.
    StalledCore,
    /// Two nodes do not hear each other.
    Partition,
    /// One node does not hear another.
    OneWayPartition,
    /// A connection between nodes breaks.
    Reset,
    /// A wall clock jumps.
    ClockJump,
    /// A wall clock runs fast or slow from now on.
    ClockRate,
    /// A disk has no room.
    FullDisk,
    /// A disk stands still, and some time later its node is reset. What others have of that node's writes it has not.
    StalledDisk,
    /// A node comes back under its address with an empty data directory.
    WipedDirectory,
    /// A node's data directory is copied while it runs; the next time it is put back.
    RestoredCopy,
}

impl FaultKind {
    /// Those that any run may draw, and whether a node's power must fail for them.
    const ALL: [(FaultKind, bool); 13] = [
        (FaultKind::PowerCut, true),
        (FaultKind::PowerCutOfAll, true),
        (FaultKind::Kill, false),
        (FaultKind::Stop, false),
        (FaultKind::Pause, false),
        (FaultKind::StalledCore, false),
        (FaultKind::Partition, false),
        (FaultKind::OneWayPartition, false),
        (FaultKind::Reset, false),
        (FaultKind::ClockJump, false),
        (FaultKind::FullDisk, false),
        (FaultKind::WipedDirectory, false),
        (FaultKind::RestoredCopy, false),
    ];
}

/// Fewest kinds of faults that a run draws from.
const KINDS_MIN: u64 = 3;
/// How often a disk stalls in a round of faults, in runs in which any does.
const STALLS: usize = 4;
/// So many that what one client writes is not soon replaced by another.
const MANY_KEYS: u64 = 256;

/// What happens in a run.
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
    /// One put in so many bears a time to live; 0 = none.
    pub(super) ttl_one_in: u64,
    /// Whether writes also ask for one replica only.
    pub(super) has_weak_writes: bool,
    /// One write in so many may be acknowledged by nodes that stand in for replicas; 0 = none.
    pub(super) sloppy_one_in: u64,
    /// Whether wall clocks differ from the beginning, by less than the bound on drift. Where they do not, nodes mint in the same ticks.
    pub(super) is_skewed: bool,
    /// Whether nodes may come back with another number of cores.
    pub(super) changes_cores: bool,
    /// How disks misbehave.
    pub(super) disk: DiskFaults,
    /// The node whose disk cannot be trusted.
    pub(super) untrusted: Option<Untrusted>,
    /// How connections fail.
    pub(super) connections: ConnectionFaults,
    /// How messages between nodes fail.
    pub(super) messages: MessageFaults,
    /// The kinds of faults that happen in this run.
    pub(super) kinds: Vec<FaultKind>,
    /// How often a disk may forget what it had.
    pub(super) losses_max: u64,
    /// A node that clients keep away from.
    pub(super) avoided: Option<usize>,
}

impl Plan {
    /// Draws what happens to a cluster.
    pub(super) fn draw(random: &mut Random, shape: &Shape) -> Plan {
        let disk_fails = random.one_in(2);
        let mut one_in = |choices: &[u64]| if disk_fails { one_of(random, choices) } else { 0 };
        let mut disk = DiskFaults {
            latency_ns: 0,
            read_one_in: one_in(&[0, 200, 1_000]),
            short_read_one_in: one_in(&[0, 50]),
            flip_one_in: one_in(&[0, 300]),
            misplaced_one_in: 0,
            sync_one_in: one_in(&[0, 2_000, 10_000]),
            full_one_in: 0,
            slow_one_in: 0,
        };
        disk.latency_ns = one_of(random, &[200_000, 4 * MS]);
        disk.slow_one_in = one_of(random, &[0, 30, 100]);
        let may_cut = shape.options.syncs_first();
        let possible = FaultKind::ALL.iter().filter(|(_, cuts_power)| may_cut || !cuts_power);
        let mut kinds: Vec<FaultKind> = possible.map(|(kind, _)| *kind).collect();
        for _ in 0..random.below(kinds.len() as u64 - KINDS_MIN + 1) {
            kinds.swap_remove(random.below(kinds.len() as u64) as usize);
        }
        let mut keys = one_of(random, &[4, 16, 64]);
        if may_cut && random.one_in(4) {
            // Often, and with many keys: what a replica has forgotten must be written on top of before others have told it.
            kinds.extend([FaultKind::StalledDisk; STALLS]);
            keys = MANY_KEYS;
        }
        let connections = ConnectionFaults {
            refused_percent: one_of(random, &[0, 0, 10, 30]),
            doomed_percent: one_of(random, &[0, 0, 5, 30]),
        };
        let messages = MessageFaults {
            lost_percent: one_of(random, &[0, 0, 0, 3, 30]),
            repeated_percent: one_of(random, &[0, 0, 10, 50]),
            late_percent: one_of(random, &[0, 0, 5, 30]),
        };
        Plan {
            clients: random.between(3, 10) as usize,
            keys,
            work_ns: random.between(4, 8) * SECOND,
            think_ms_max: one_of(random, &[5, 20]),
            fault_pause_ns: one_of(random, &[200 * MS, 400 * MS, 800 * MS]),
            deletes_one_in: one_of(random, &[0, 5, 20]),
            ttl_one_in: one_of(random, &[0, 0, 4, 10]),
            has_weak_writes: random.one_in(3),
            sloppy_one_in: one_of(random, &[0, 2, 2, 4]),
            is_skewed: random.one_in(3),
            changes_cores: random.one_in(3),
            disk,
            untrusted: None,
            connections,
            messages,
            kinds,
            losses_max: one_of(random, &[1, 1, 2]),
            avoided: None,
        }
    }

    /// Draws what befalls few runs.
    pub(super) fn draw_odd(&mut self, random: &mut Random, shape: &Shape) {
        if random.one_in(8) {
            // Not more often: a table that is misread each time that its opening is tried is taken for damaged for good, and
            // where most replicas have done that nobody can answer.
            self.disk.misplaced_one_in = one_of(random, &[100, 300]);
        }
        if shape.nodes > 1 && random.one_in(8) {
            self.untrusted = Some(Untrusted {
                node: random.below(shape.nodes as u64) as usize,
                read_one_in: one_of(random, &[10, 30, 100]),
                write_one_in: one_of(random, &[0, 10, 30, 100, 300]),
            });
        }
        if random.one_in(8) {
            self.kinds.push(FaultKind::ClockRate);
        }
        if random.one_in(8) {
            self.disk.full_one_in = one_of(random, &[1, 4]);
            self.kinds.push(FaultKind::FullDisk);
        }
    }
}
