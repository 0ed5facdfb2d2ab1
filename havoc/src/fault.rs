//! What can be done to a cluster, and how it is done.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, Instant};

use ferrite_loadgen::chooser::Rng;

use crate::nodes::Nodes;
use crate::{Obstacle, wait_for};

/// Clocks are set off by so much, in milliseconds: within the drift that nodes allow each other, and beyond.
const CLOCK_OFFSETS_MS: [i64; 4] = [-3_000, -300, 300, 3_000];
/// What nodes allow each other's clocks to differ by, unless their configuration says otherwise.
const DRIFT_MAX: Duration = Duration::from_millis(500);
/// Longest wait until a full disk is felt.
const FULL_WITHIN: Duration = Duration::from_secs(8);
/// Longest wait until a node that stands still is held to be down: many times what the nodes' timings of gossip make of it.
const DOWN_WITHIN: Duration = Duration::from_secs(30);

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

    /// By how much clocks of nodes differ at most while it lasts: all of them are one machine's, up to where they are set off.
    pub fn drift(self) -> Duration {
        let off_ms = CLOCK_OFFSETS_MS.iter().map(|off| off.unsigned_abs()).max().unwrap_or(0);
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

/// Does a fault for a while, and puts all in order again.
pub(crate) fn strike(
    nodes: &mut Nodes,
    rng: &mut Rng,
    fault: Fault,
    left: &[usize],
    hold: Duration,
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
            across(&|left, right| {
                nodes.ground.mend(left, right).and_then(|()| nodes.ground.mend(right, left))
            })?;
            Ok(format!("partition, {} from the others, {seconds:.1} s", names(left)).into())
        }
        Fault::OneWay => {
            across(&|left, right| nodes.ground.cut(left, right))?;
            std::thread::sleep(hold);
            across(&|left, right| nodes.ground.mend(left, right))?;
            Ok(format!("one-way partition, {} are not heard, {seconds:.1} s", names(left)).into())
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
            let offset_ms = CLOCK_OFFSETS_MS[rng.below(CLOCK_OFFSETS_MS.len() as u64) as usize];
            for offset_ms in [offset_ms, 0] {
                nodes.kill(victim)?;
                nodes.set_clock_offset(victim, offset_ms)?;
                nodes.start(victim)?;
                std::thread::sleep(hold / 2);
            }
            Ok(format!("clock offset, {} {offset_ms} ms, {seconds:.1} s", names(&[victim])).into())
        }
        Fault::Wipe => {
            nodes.kill(victim)?;
            nodes.wipe(victim)?;
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
            let felt = if felt.is_some() { "refuses writes" } else { "not yet felt" };
            std::thread::sleep(hold);
            nodes.free_disk()?;
            Ok(format!("full disk, {}, {seconds:.1} s, {felt}", names(disk.as_slice())).into())
        }
    }
}

impl From<String> for Done {
    fn from(words: String) -> Done {
        Done { words, unnoticed: None }
    }
}
