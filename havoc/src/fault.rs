//! What can be done to a cluster, and how it is done.
//!
//! A fault that nobody felt is no fault: each lasts until it shows in what nodes say or answer, and is a violation where it does not within
//! a bound. A kill and a wiped directory show themselves.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, Instant};

use ferrite_client::{ErrorCode, Key, Level, WriteOptions, WriteOutcome};
use ferrite_loadgen::chooser::Rng;

use crate::ground::Kind;
use crate::nodes::Nodes;
use crate::{Obstacle, wait_for};

/// Clocks are set off by so much, ahead or behind, in milliseconds: within the drift that nodes allow each other, and then beyond.
const CLOCK_OFFSETS_MS: [i64; 2] = [300, 3_000];
/// What nodes allow each other's clocks to differ by, unless their configuration says otherwise.
const DRIFT_MAX: Duration = Duration::from_millis(500);
/// Longest wait until a full disk is felt: writers first use up what was laid out before.
const FULL_WITHIN: Duration = Duration::from_secs(60);
/// Longest wait until a node that stands still, or is not heard, is held to be down: many times what the nodes' timings of gossip make of it.
const DOWN_WITHIN: Duration = Duration::from_secs(30);
/// Longest wait until a clock that is off is noticed, or a node whose clock is not takes writes.
const CLOCK_WITHIN: Duration = Duration::from_secs(30);
/// What writes are tried with while a clock is off. No writer has it.
const PROBE: &[u8] = b"clock probe";

/// A fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// Two sides that hear nothing of each other.
    Partition,
    /// One side hears the other, which hears nothing.
    OneWay,
    /// A process is stopped until another node holds it to be down, and goes on.
    Pause,
    /// A process is killed and started again.
    Kill,
    /// A node starts with its clock off: within the drift that is allowed, or beyond.
    Clock,
    /// A node loses all it has stored and starts again at the same address.
    Wipe,
    /// A disk is full for a while.
    FullDisk,
}

impl Fault {
    /// All of them.
    pub const ALL: [Fault; 7] = [
        Fault::Partition,
        Fault::OneWay,
        Fault::Pause,
        Fault::Kill,
        Fault::Clock,
        Fault::Wipe,
        Fault::FullDisk,
    ];

    /// Why it cannot be done on a ground; `None` = it can be.
    pub fn why_not(self, kind: Kind) -> Option<&'static str> {
        match (self, kind) {
            // Only in a mount namespace of its own can something be mounted that nobody has to unmount.
            (Fault::FullDisk, Kind::Loopback | Kind::Plain) => {
                Some("nothing can be mounted without a namespace")
            }
            (Fault::Partition | Fault::OneWay, Kind::Plain) => Some("nothing can be cut on plain loopback"),
            _ => None,
        }
    }

    /// By how much clocks of nodes differ at most while it lasts: all of them are one machine's, up to where they are set off.
    pub fn drift(self) -> Duration {
        let off_ms = CLOCK_OFFSETS_MS.into_iter().max().unwrap_or(0).unsigned_abs();
        DRIFT_MAX + Duration::from_millis(if self == Fault::Clock { off_ms } else { 0 })
    }
}

impl FromStr for Fault {
    type Err = String;

    /// A fault by its name, with `-` for spaces.
    fn from_str(text: &str) -> Result<Fault, String> {
        let named = |fault: &Fault| fault.to_string().replace(' ', "-");
        Fault::ALL.into_iter().find(|fault| named(fault) == text).ok_or_else(|| {
            format!(
                "\"{text}\": write one of {}",
                Fault::ALL.iter().map(named).collect::<Vec<_>>().join(", ")
            )
        })
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Fault::Partition => "partition",
            Fault::OneWay => "one-way partition",
            Fault::Pause => "pause",
            Fault::Kill => "kill",
            Fault::Clock => "clock offset",
            Fault::Wipe => "wiped directory",
            Fault::FullDisk => "full disk",
        })
    }
}

/// What a fault came to.
pub(crate) struct Done {
    /// What was done, in words.
    pub(crate) words: String,
    /// What the others should have made of it and did not, in words.
    pub(crate) unnoticed: Option<String>,
}

/// Does a fault for a while, and puts all in order again. `lost` is told of a node that has lost all it had, before that starts again.
pub(crate) fn strike(
    nodes: &mut Nodes,
    rng: &mut Rng,
    fault: Fault,
    left: &[usize],
    hold: Duration,
    lost: impl FnOnce(usize),
) -> Result<Done, Obstacle> {
    let victim = rng.below(nodes.len() as u64) as usize;
    let seconds = hold.as_secs_f64();
    let names =
        |side: &[usize]| side.iter().map(|node| format!("n{}", node + 1)).collect::<Vec<_>>().join(" ");
    let across = |act: &dyn Fn(usize, usize) -> Result<(), Obstacle>| {
        let right = (0..nodes.len()).filter(|node| !left.contains(node));
        right.flat_map(|right| left.iter().map(move |left| (*left, right))).try_for_each(|(l, r)| act(l, r))
    };
    match fault {
        Fault::Partition => {
            across(&|left, right| {
                nodes.ground.cut(left, right).and_then(|()| nodes.ground.cut(right, left))
            })?;
            std::thread::sleep(hold);
            let unnoticed = unheard(nodes, left);
            across(&|left, right| {
                nodes.ground.mend(left, right).and_then(|()| nodes.ground.mend(right, left))
            })?;
            let words = format!("partition, {} from the others, {seconds:.1} s", names(left));
            Ok(Done { words, unnoticed })
        }
        Fault::OneWay => {
            across(&|left, right| nodes.ground.cut(left, right))?;
            std::thread::sleep(hold);
            let unnoticed = unheard(nodes, left);
            across(&|left, right| nodes.ground.mend(left, right))?;
            let words = format!("one-way partition, {} are not heard, {seconds:.1} s", names(left));
            Ok(Done { words, unnoticed })
        }
        Fault::Pause => {
            let stopped = Instant::now();
            nodes.pause(victim)?;
            std::thread::sleep(hold);
            let other = (victim + 1) % nodes.len();
            let held = wait_for(DOWN_WITHIN, || nodes.holds_down(other, victim).then_some(()));
            nodes.resume(victim)?;
            let (stopped_s, victim, other) =
                (stopped.elapsed().as_secs_f64(), names(&[victim]), names(&[other]));
            let unnoticed =
                format!("{victim} stood still for {stopped_s:.1} s, and {other} did not hold it to be down");
            Ok(Done {
                words: format!("pause, {victim}, {stopped_s:.1} s, held to be down"),
                unnoticed: held.is_none().then_some(unnoticed),
            })
        }
        Fault::Kill => {
            std::thread::sleep(hold / 3);
            nodes.kill(victim)?;
            std::thread::sleep(hold / 3);
            nodes.start(victim)?;
            std::thread::sleep(hold / 3);
            Ok(format!("kill, {}", names(&[victim])).into())
        }
        Fault::Clock => {
            let sign = if rng.below(2) == 0 { -1 } else { 1 };
            let mut unnoticed = None;
            for offset_ms in CLOCK_OFFSETS_MS {
                start_off(nodes, victim, sign * offset_ms)?;
                std::thread::sleep(hold / 3);
                let is_beyond = Duration::from_millis(offset_ms.unsigned_abs()) > DRIFT_MAX;
                let wrong = if is_beyond { unrefused(nodes, victim) } else { refused(nodes, victim) };
                let told =
                    |wrong| format!("n{}'s clock is {} ms off, and {wrong}", victim + 1, sign * offset_ms);
                unnoticed = unnoticed.or(wrong.map(told));
            }
            start_off(nodes, victim, 0)?;
            std::thread::sleep(hold / 3);
            let offsets = CLOCK_OFFSETS_MS.map(|offset_ms| format!("{} ms", sign * offset_ms)).join(", ");
            let words =
                format!("clock offset, {}, {offsets}: the last refused, {seconds:.1} s", names(&[victim]));
            Ok(Done { words, unnoticed })
        }
        Fault::Wipe => {
            nodes.kill(victim)?;
            nodes.wipe(victim)?;
            lost(victim);
            std::thread::sleep(hold / 2);
            nodes.start(victim)?;
            std::thread::sleep(hold / 2);
            Ok(format!("wiped directory, {}", names(&[victim])).into())
        }
        Fault::FullDisk => {
            nodes.fill_disk()?;
            let disk = nodes.small_disk();
            // There is room left in files that were made before.
            let felt =
                wait_for(FULL_WITHIN, || disk.is_some_and(|node| nodes.feels_full_disk(node)).then_some(()));
            std::thread::sleep(hold);
            nodes.free_disk()?;
            let unnoticed = format!(
                "{} did not say that its disk is full within {} s",
                names(disk.as_slice()),
                FULL_WITHIN.as_secs()
            );
            Ok(Done {
                words: format!("full disk, {}, {seconds:.1} s, refuses writes", names(disk.as_slice())),
                unnoticed: felt.is_none().then_some(unnoticed),
            })
        }
    }
}

/// The others hold the first of those that they do not hear to be down; else it is told in words.
fn unheard(nodes: &Nodes, left: &[usize]) -> Option<String> {
    let of = *left.first()?;
    let other = (0..nodes.len()).find(|node| !left.contains(node))?;
    let held = wait_for(DOWN_WITHIN, || nodes.holds_down(other, of).then_some(()));
    held.is_none()
        .then(|| format!("n{} was not heard, and n{} did not hold it to be down", of + 1, other + 1))
}

/// Kills a node and starts it with its clock off by that.
fn start_off(nodes: &mut Nodes, node: usize, offset_ms: i64) -> Result<(), Obstacle> {
    nodes.kill(node)?;
    nodes.set_clock_offset(node, offset_ms)?;
    nodes.start(node)
}

/// Writes through one node and no other, until it ends as wanted.
fn writes_until(nodes: &Nodes, through: usize, is_wanted: impl Fn(&WriteOutcome) -> bool) -> bool {
    let mut client = nodes.client_of(through, &[through]);
    let options = WriteOptions { level: Some(Level::Quorum), ..WriteOptions::default() };
    let written = wait_for(CLOCK_WITHIN, || {
        let outcome = client.put(Key::plain(PROBE), b"", options);
        is_wanted(&outcome).then_some(())
    });
    written.is_some()
}

/// A node whose clock is off, but within the drift, takes writes; else it is told in words.
fn refused(nodes: &Nodes, node: usize) -> Option<String> {
    (!writes_until(nodes, node, WriteOutcome::is_done)).then(|| "it takes no writes".to_owned())
}

/// A node whose clock is off beyond the drift says so and refuses writes for it, and others go on; else it is told in words.
fn unrefused(nodes: &Nodes, node: usize) -> Option<String> {
    let is_refused = |outcome: &WriteOutcome| matches!(outcome, WriteOutcome::NotApplied(fault) if fault.code == ErrorCode::ClockDrift);
    let other = (node + 1) % nodes.len();
    if wait_for(CLOCK_WITHIN, || nodes.knows_its_clock_is_off(node).then_some(())).is_none() {
        Some("it does not say so".to_owned())
    } else if !writes_until(nodes, node, is_refused) {
        Some("it refuses no write for it".to_owned())
    } else if !writes_until(nodes, other, WriteOutcome::is_done) {
        Some(format!("n{} takes no writes either", other + 1))
    } else {
        None
    }
}

impl From<String> for Done {
    fn from(words: String) -> Done {
        Done { words, unnoticed: None }
    }
}
