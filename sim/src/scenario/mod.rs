//! One run: a cluster, clients that write and read, faults, and the verdict; all of it drawn from the seed.
//!
//! | phase | what happens | what is checked |
//! |---|---|---|
//! | forming | nodes start and find each other | that they open |
//! | working | clients work while faults happen | every read, against [`History`] and [`SetHistory`] |
//! | draining | everything is healed and restarted | that within a bound nobody owes anything any more |
//! | settling | every key is read at ONE through each of its replicas, then at QUORUM, then at ALL | that it is answered within a bound, and sees what was acknowledged, sloppily or not |
//! | converging | every key is read at ONE through each of its replicas | that each shows what the read at ALL has shown, though nobody has written; not of siblings once some set was too long to be repaired |
//! | agreeing | every key is written at ALL, then read at ONE through some nodes | that it succeeds within a bound, and each node shows that write |
//! | degraded | one node is cut off its power for good, then every key is read at QUORUM | the same: two of three replicas suffice |
//!
//! What hints bring to a replica it shows as soon as they have drained, without a read that would repair it; for all else it takes a read that asks
//! it: of the replicas that a read at QUORUM does not ask, nothing is promised until there is anti-entropy.
//!
//! Of keys with too few replicas for that a node takes with it what is nowhere else: in the degraded phase they are read at ONE where one of
//! their replicas is left.
//!
//! A run ends early at the first broken promise. What may fail within the promise: any number of power cuts, kills, orderly stops, pauses,
//! cores that stand still, partitions, lost connections, messages between nodes that are lost, late or repeated, clocks that jump, run fast or slow, and full disks; reads that fail, come back damaged or are of what stands elsewhere; syncs that fail. Data directories that
//! are emptied, put back from an old copy, on a disk that cannot be trusted, or replaced in the end since something of them is held to be damaged for good, cost
//! what [`Facts`] says.

mod adding;
mod answers;
mod clients;
mod faults;
mod frames;
mod plan;
mod reads;
mod shape;
#[cfg(test)]
mod stories;
mod value;
mod writes;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

use ferrite_lsm::mem_disk::CrashMode;
use ferrite_promises::{Facts, History, Intent, SetHistory, Violation};
use ferrite_wire::{Level, Mode};

pub(crate) use self::adding::Adding;
use self::clients::Client;
use self::faults::Copy;
use self::plan::{FaultKind, Plan};
use self::shape::Shape;
use crate::bug::{Bug, Planted};
use crate::counts::{ByName, Counts};
use crate::network::SocketId;
use crate::random::Random;
use crate::report::Report;
use crate::world::{ConnectionFaults, Death, Director, DiskFaults, Event, MessageFaults, World};

const MS: u64 = 1_000_000;
const SECOND: u64 = 1_000 * MS;
/// Time for nodes to start and to find each other.
const FORMING_NS: u64 = 2 * SECOND;
/// Time for clients to end what they were at, and for links to come up again.
const HEALING_NS: u64 = 3 * SECOND;
/// Virtual time within which a healed cluster must have answered everything that it is asked then: the farthest that a clock was ahead, for
/// it must have passed before anything can be minted, and as much again for the work.
const SETTLE_NS: u64 = 15 * SECOND;

/// Virtual time within which a healed cluster must have delivered every hint: many times the longest pause between two attempts.
const DRAIN_NS: u64 = 15 * SECOND;
/// Between two looks at what is still owed.
const LOOK_NS: u64 = 50 * MS;

fn one_of(random: &mut Random, choices: &[u64]) -> u64 {
    choices[random.below(choices.len() as u64) as usize]
}

/// A run to make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Everything follows from it.
    pub seed: u64,
    /// A bug to plant.
    pub bug: Option<Bug>,
    /// Whether the placement of replicas is looked at before the cluster starts, or only how the cluster behaves.
    pub checks_placement: bool,
}

impl Run {
    /// A seed, with a bug planted or none.
    pub fn new(seed: u64, bug: Option<Bug>) -> Run {
        Run { seed, bug, checks_placement: true }
    }

    /// Makes the run.
    pub fn go(self) -> Report {
        let _planted = Planted::new(self.bug);
        // Left by a run that panicked, if any.
        let _earlier = ferrite_lsm::cover::take();
        let mut random = Random::new(self.seed);
        let mut shape = Shape::draw(&mut random);
        let mut plan = Plan::draw(&mut random, &shape);
        // From numbers of their own: what is drawn here changes nothing in runs that do not draw it.
        let mut odd = Random::new(!self.seed);
        shape.draw_odd(&mut odd);
        plan.draw_odd(&mut odd, &shape);
        shape.draw_tight(&mut odd);
        let world = World::new(random.bits(), shape.addresses());
        let scenario = Scenario::new(shape, plan, random);
        if self.checks_placement {
            scenario.judge(scenario.shape.check_placement());
        }
        if scenario.violation.borrow().is_none() {
            scenario.play(&world);
        }
        let report = scenario.report(self, &world);
        world.end();
        report
    }
}

/// The phases of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Forming,
    Working,
    /// Clients do what is left to do, and nothing else.
    Settling,
    Done,
}

/// What a client does in the end, over and over until it is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Task {
    Read(u64, Level),
    /// At ONE, through this node, which is a replica.
    ReadAt(u64, usize),
    /// At ALL, over whatever is there.
    Write(u64),
}

impl Task {
    /// The node that it must be done through, if it matters.
    fn node(self) -> Option<usize> {
        match self {
            Task::ReadAt(_, node) => Some(node),
            Task::Read(..) | Task::Write(_) => None,
        }
    }
}

struct Scenario {
    shape: Shape,
    plan: Plan,
    random: RefCell<Random>,
    clients: RefCell<Vec<Client>>,
    history: RefCell<History>,
    sets: RefCell<SetHistory>,
    facts: RefCell<Facts>,
    violation: RefCell<Option<Violation>>,
    phase: Cell<Phase>,
    /// In the end: what remains to be done.
    left: RefCell<VecDeque<Task>>,
    outstanding: Cell<usize>,
    reads: Cell<u64>,
    errors: RefCell<ByName>,
    /// What clients met, by kind.
    met: RefCell<ByName>,
    /// The node whose disk stands still; its power fails at the next tick.
    stalled: Cell<Option<usize>>,
    /// Nodes that were asked to stop, and when they are killed if they have not.
    stopping: RefCell<Vec<(usize, u64)>>,
    /// A copy of some node's data.
    copy: RefCell<Option<Copy>>,
    /// How many disks have forgotten something.
    losses: Cell<u64>,
    /// The disk that cannot be trusted has damaged something.
    is_damaged: Cell<bool>,
    /// By node: how often its wall clock was set.
    jumps: RefCell<Vec<u64>>,
    /// The lowest and the highest by which any wall clock was ever off, in milliseconds.
    offsets_ms: Cell<(i64, i64)>,
    /// Kinds of faults that are still to come in this round.
    deck: RefCell<Vec<FaultKind>>,
}

impl Scenario {
    fn new(shape: Shape, plan: Plan, random: Random) -> Scenario {
        // A disk that cannot be trusted is reserved one.
        let losses = u64::from(plan.untrusted.is_some());
        Scenario {
            clients: RefCell::new((0..plan.clients).map(|_| Client::default()).collect()),
            jumps: RefCell::new(vec![0; shape.nodes]),
            offsets_ms: Cell::default(),
            shape,
            plan,
            random: RefCell::new(random),
            history: RefCell::default(),
            sets: RefCell::default(),
            facts: RefCell::default(),
            violation: RefCell::default(),
            phase: Cell::new(Phase::Forming),
            left: RefCell::default(),
            outstanding: Cell::new(0),
            reads: Cell::new(0),
            errors: RefCell::default(),
            met: RefCell::default(),
            stalled: Cell::new(None),
            stopping: RefCell::default(),
            copy: RefCell::default(),
            losses: Cell::new(losses),
            is_damaged: Cell::new(false),
            deck: RefCell::default(),
        }
    }

    fn play(&self, world: &Rc<World>) {
        self.form(world);
        world.set_disk_faults(self.plan.disk);
        world.set_untrusted(self.plan.untrusted);
        world.set_connection_faults(self.plan.connections);
        world.set_message_faults(self.plan.messages);
        world.after(self.plan.fault_pause_ns, Event::Fault);
        self.run_until(world, world.now_ns() + self.plan.work_ns, || false);
        self.heal(world);
        self.drain(world);
        self.settle(world);
        self.agree(world);
        self.degrade(world);
        self.phase.set(Phase::Done);
    }

    /// Starts the nodes, and once they have found each other the clients.
    fn form(&self, world: &Rc<World>) {
        for node in 0..self.shape.nodes {
            if self.plan.is_skewed {
                self.set_clock_near(world, node);
            }
            self.shape.start(world, node);
        }
        self.run_until(world, world.now_ns() + FORMING_NS, || false);
        self.phase.set(Phase::Working);
        for client in 0..self.plan.clients {
            world.after(client as u64 * MS, Event::Client(client));
        }
    }

    fn run_until(&self, world: &Rc<World>, until_ns: u64, done: impl Fn() -> bool) {
        while self.violation.borrow().is_none() && !done() && world.step(until_ns, self) {
            self.note_damage(world);
        }
    }

    /// Heals and restarts everything.
    fn heal(&self, world: &Rc<World>) {
        self.phase.set(Phase::Settling);
        world.set_disk_faults(DiskFaults::default());
        world.set_untrusted(None);
        world.set_connection_faults(ConnectionFaults::default());
        world.set_message_faults(MessageFaults::default());
        world.heal();
        if let Some(stalled) = self.stalled.take() {
            world.stop(stalled, Death::Kill);
        }
        self.await_stops(world);
        for node in 0..self.shape.nodes {
            world.set_full(node, false);
            self.set_clock(world, node, 0);
            if self.is_damaged(node) || world.has_quarantined(node) {
                self.replace_disk(world, node);
            }
            if world.is_fenced(node) || world.is_stopping(node) || world.has_unread(node) {
                world.stop(node, Death::Kill);
            }
            if !world.is_running(node) {
                self.start(world, node);
            }
        }
        self.run_until(world, world.now_ns() + HEALING_NS, || false);
        let disks_fail = !self.plan.disk.are_sound() || self.plan.kinds.contains(&FaultKind::FullDisk);
        if disks_fail {
            self.restart_failed(world);
        }
    }

    /// What had begun to fail before all was healed may have fenced a core since, or will where it stands still; and a core that was opening may have given a
    /// table up. An operator would restart that node, and replace a disk that is said to be damaged: nothing else mends it yet.
    fn restart_failed(&self, world: &Rc<World>) {
        let still_until_ns = world.any_still_until_ns();
        if still_until_ns > world.now_ns() {
            self.run_until(world, still_until_ns + LOOK_NS, || false);
        }
        let has_failed =
            |node: &usize| world.is_fenced(*node) || world.has_unread(*node) || world.has_quarantined(*node);
        let failed: Vec<usize> = (0..self.shape.nodes).filter(has_failed).collect();
        if failed.is_empty() {
            return;
        }
        self.count_many("nodes that failed while the cluster healed", failed.len() as u64);
        for node in failed {
            if world.has_quarantined(node) {
                self.replace_disk(world, node);
            }
            world.stop(node, Death::Kill);
            self.start(world, node);
        }
        self.run_until(world, world.now_ns() + HEALING_NS, || false);
    }

    /// Lets everybody deliver what they owe. From then on what was acknowledged sloppily is with replicas; and what a node that has run ever since
    /// coordinated is with all of them, if it dropped no hint.
    fn drain(&self, world: &Rc<World>) {
        let until_ns = world.now_ns() + DRAIN_NS;
        while world.owed() > 0 && world.now_ns() < until_ns && self.violation.borrow().is_none() {
            self.run_until(world, world.now_ns() + LOOK_NS, || false);
        }
        let (owed, seconds) = (world.owed(), DRAIN_NS / SECOND);
        if owed > 0 {
            let what = format!("{owed} hints are still owed, {seconds} s after everything was healed");
            self.judge(Err(Violation { key: 0, what }));
        }
        if world.hint_counts().unreadable > 0 {
            // A disk has lost some of what nodes kept for others.
            self.count("runs in which hints could not be read");
            return;
        }
        let steady: Vec<Option<u64>> =
            (0..self.shape.nodes).map(|node| world.steady_since_ns(node)).collect();
        let is_steady = |node: usize, sent: &Intent| steady[node].is_some_and(|since| since < sent.now_ns);
        let by_node = |sent: &Intent| is_steady(sent.node, sent);
        // Of siblings a replica is the coordinator, or this node where none was there.
        let by_any = |sent: &Intent| by_node(sent) && sent.holders.iter().all(|node| is_steady(node, sent));
        let now_ns = world.now_ns();
        let (mut history, mut sets) = (self.history.borrow_mut(), self.sets.borrow_mut());
        let reached_all = history.writes.drained(now_ns, by_node) + sets.writes.drained(now_ns, by_any);
        self.count_many("writes that had reached all replicas when hints had drained", reached_all);
        self.count_many("sloppy acknowledgements", history.writes.sloppy() + sets.writes.sloppy());
    }

    /// Reads every key: through each replica alone, then at levels that meet.
    fn settle(&self, world: &Rc<World>) {
        let of_what = "a healed cluster";
        let at_each = |key| self.shape.replicas_of(key).map(|node| Task::ReadAt(key, node)).collect();
        self.do_all(world, at_each, of_what);
        self.do_all(world, |key| vec![Task::Read(key, Level::Quorum)], of_what);
        self.do_all(world, |key| vec![Task::Read(key, Level::All)], of_what);
        // A read at ALL repairs before it answers, unless a set is too long for that: nothing needs to be written for replicas to be equal.
        self.do_all(world, at_each, of_what);
    }

    /// Writes every key at ALL; from then on each node must show that write, or what came after it.
    fn agree(&self, world: &Rc<World>) {
        self.do_all(world, |key| vec![Task::Write(key)], "a healed cluster");
        self.do_all(world, |key| vec![Task::Read(key, Level::One); 2], "a healed cluster");
    }

    /// Cuts one node off its power for good, and reads every key from the others.
    fn degrade(&self, world: &Rc<World>) {
        let gone = self.draw(self.shape.nodes as u64) as usize;
        world.stop(gone, Death::PowerCut(CrashMode::None));
        self.run_until(world, world.now_ns() + HEALING_NS, || false);
        let reads =
            |key| self.levels_without(gone, key).map(|level| Task::Read(key, level)).into_iter().collect();
        self.do_all(world, reads, "a cluster with one node down");
    }

    /// The level at which a key can be read while a node is down.
    fn levels_without(&self, gone: usize, key: u64) -> Option<Level> {
        let replicas = self.replicas_of(key);
        match self.shape.replicas_of(key).filter(|node| *node != gone).count() {
            0 => None,
            left if left >= Level::Quorum.needed(replicas) => Some(Level::Quorum),
            _ => Some(Level::One),
        }
    }

    /// Whether a key has siblings.
    fn has_siblings(&self, key: u64) -> bool {
        self.shape.table_of(key).mode == Mode::Siblings
    }

    /// How many replicas a key has.
    fn replicas_of(&self, key: u64) -> usize {
        usize::from(self.shape.table_of(key).replication)
    }

    /// Lets clients do all of something for every key that was written.
    fn do_all(&self, world: &Rc<World>, tasks: impl Fn(u64) -> Vec<Task>, of_what: &str) {
        let keys = [self.history.borrow().writes.keys(), self.sets.borrow().writes.keys()].concat();
        let wanted: VecDeque<Task> = keys.iter().flat_map(|key| tasks(*key)).collect();
        self.outstanding.set(wanted.len());
        *self.left.borrow_mut() = wanted;
        self.run_until(world, world.now_ns() + SETTLE_NS, || self.outstanding.get() == 0);
        if self.outstanding.get() > 0 {
            let left = self.left.borrow().front().copied();
            let (key, task) = match left {
                Some(task @ (Task::Read(key, _) | Task::ReadAt(key, _) | Task::Write(key))) => {
                    (key, format!("{task:?}"))
                }
                None => (0, "what is still asked".to_owned()),
            };
            let seconds = SETTLE_NS / SECOND;
            let what = format!(
                "{} of {of_what} found no answer within {seconds} s, among them {task}",
                self.outstanding.get()
            );
            self.judge(Err(Violation { key, what }));
        }
    }

    fn report(&self, run: Run, world: &World) -> Report {
        let (history, sets) = (self.history.borrow(), self.sets.borrow());
        let (of_last, of_sets) = (history.writes.counts(), sets.writes.counts());
        let violation = self.violation.borrow().clone();
        self.count_many("writes with the order of another one of their key", history.ties());
        let counts = Counts {
            virtual_ns: world.now_ns(),
            events: world.trace().events(),
            writes: (of_last.0 + of_sets.0, of_last.1 + of_sets.1, of_last.2 + of_sets.2),
            reads: self.reads.get(),
            faults: world.counts(),
            errors: self.errors.borrow().clone(),
            met: self.met.borrow().clone(),
            hints: world.hint_counts(),
            marks: ferrite_lsm::cover::take(),
        };
        Report {
            seed: run.seed,
            bug: run.bug,
            trace: world.trace().hash(),
            counts,
            violation: violation.map(|violation| {
                let key = violation.key;
                let described = match self.has_siblings(key) {
                    true => sets.describe(key),
                    false => history.writes.describe(key, |_| String::new()),
                };
                (violation, described)
            }),
        }
    }

    fn draw(&self, bound: u64) -> u64 {
        self.random.borrow_mut().below(bound)
    }

    /// Counts something that clients met.
    fn count(&self, what: &'static str) {
        self.count_many(what, 1);
    }

    fn count_many(&self, what: &'static str, times: u64) {
        if times > 0 {
            *self.met.borrow_mut().entry(what).or_default() += times;
        }
    }

    /// Keeps the first broken promise.
    fn judge(&self, verdict: Result<(), Violation>) {
        if let Err(violation) = verdict {
            self.violation.borrow_mut().get_or_insert(violation);
        }
    }
}

impl Director for Scenario {
    fn on_client(&self, world: &Rc<World>, client: usize) {
        self.take_turn(world, client);
    }

    fn on_client_connected(&self, world: &Rc<World>, client: usize, socket: SocketId, stands: bool) {
        self.connected(world, client, socket, stands);
    }

    fn on_client_bytes(&self, world: &Rc<World>, client: usize, socket: SocketId, bytes: &[u8]) -> usize {
        self.received(world, client, socket, bytes)
    }

    fn on_client_closed(&self, _: &Rc<World>, client: usize, socket: SocketId) {
        self.closed(client, socket);
    }

    fn on_fault(&self, world: &Rc<World>) {
        if self.phase.get() == Phase::Working {
            self.inject(world);
            let pause_ns = self.plan.fault_pause_ns / 2 + self.draw(self.plan.fault_pause_ns);
            world.after(pause_ns, Event::Fault);
        }
    }

    fn on_open_failed(&self, world: &Rc<World>, node: usize, error: String) {
        self.note_damage(world);
        if !world.is_running(node) {
            // Another of its cores has said so before.
            return;
        }
        let may_fail = self.phase.get() == Phase::Working
            && (!self.plan.disk.are_sound()
                || self.plan.kinds.contains(&FaultKind::FullDisk)
                || self.is_damaged(node));
        if !may_fail {
            let what = format!("node {} does not open its data on a sound disk: {error}", node + 1);
            self.judge(Err(Violation { key: 0, what }));
        }
        world.count("open failed");
        world.stop(node, Death::Kill);
        if self.is_damaged(node) && self.draw(2) == 0 {
            // As an operator would who was told what is damaged.
            world.count("damaged disk replaced");
            self.replace_disk(world, node);
        }
    }

    fn on_stop_forgotten(&self, world: &Rc<World>, node: usize) {
        self.note_damage(world);
        if self.plan.disk.are_sound() && !self.is_damaged(node) {
            let what = format!("node {} stopped in order, and does not know it when it starts", node + 1);
            self.judge(Err(Violation { key: 0, what }));
        }
    }
}
