//! Processes: how they start, pause and die, and what they leave behind.

use std::rc::Rc;

use ferrite_lsm::layout::Layout;
use ferrite_lsm::mem_disk::{CrashMode, MemDisk};
use ferrite_node::{Handler, HintCounts, Place, Placement, Shard, ShardSettings};
use ferrite_wire::CoreId;

use super::{Core, Event, Process, World};
use crate::env::SimEnv;
use crate::executor::ProcessId;

/// What a process is started with.
pub(crate) trait Launch {
    /// How many cores it has.
    fn cores(&self) -> u16;

    /// How many stores it has at least.
    fn stores(&self) -> u16;

    /// How the engine of a core is opened, given the number of its directory and its stores.
    fn engine(&self, core: u16, stores: Vec<u16>) -> ferrite_lsm::Options;

    /// What a core is told, given how the data is laid out and the process's incarnation.
    fn settings(&self, layout: &Layout, core: u16, incarnation: u64) -> ShardSettings;

    /// Where a first start puts vnodes, with so many stores on so many cores.
    fn deal(&self, stores: u16, cores: u16) -> Placement;
}

/// How a process dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Death {
    /// The power fails; of what was not synced the mode decides. Nobody is told.
    PowerCut(CrashMode),
    /// SIGKILL: what was written is seen by the next life; connections are reset.
    Kill,
    /// It has drained and ended by itself.
    Exit,
}

impl Process {
    /// Those of its cores that are open.
    fn shards(&self) -> impl Iterator<Item = &Rc<Shard<SimEnv>>> {
        self.cores.iter().filter_map(|core| core.shard.as_ref())
    }
}

impl World {
    /// Sets a node's wall clock off by so much. It runs as fast as time from then on.
    pub(crate) fn set_wall_offset_ms(&self, node: usize, offset_ms: i64) {
        self.set_wall(node, offset_ms * 1_000_000, 1_000);
    }

    /// Lets a node's wall clock run so fast from now on, in thousandths.
    pub(crate) fn set_wall_rate_permille(&self, node: usize, rate_permille: u64) {
        self.set_wall(node, self.wall_offset_ns(node), rate_permille);
    }

    /// By how much a node's wall clock is off, at least and at most, in whole milliseconds.
    pub(crate) fn wall_offsets_ms(&self, node: usize) -> (i64, i64) {
        let low_ms = self.wall_offset_ns(node).div_euclid(1_000_000);
        (low_ms, low_ms + i64::from(self.wall_offset_ns(node).rem_euclid(1_000_000) > 0))
    }

    fn set_wall(&self, node: usize, offset_ns: i64, rate_permille: u64) {
        let at = &mut self.nodes.borrow_mut()[node];
        (at.wall_offset_ns, at.wall_set_ns) = (offset_ns, self.now_ns());
        at.wall_rate_permille = rate_permille;
    }

    /// Lets a node's disk stand still: what is asked of it from now on is not done while the process lives.
    pub(crate) fn stall_disk(&self, node: usize) {
        self.nodes.borrow_mut()[node].is_stalled = true;
    }

    /// Whether a node's process runs.
    pub(crate) fn is_running(&self, node: usize) -> bool {
        self.nodes.borrow()[node].process.is_some()
    }

    /// Whether any core of a node is fenced.
    pub(crate) fn is_fenced(&self, node: usize) -> bool {
        self.any_shard_of(node, Shard::is_fenced)
    }

    /// Whether a node has tables that its disk did not give when it opened them: they are refused until its next start.
    pub(crate) fn has_unread(&self, node: usize) -> bool {
        self.any_shard_of(node, Shard::has_unread_tables)
    }

    /// Whether a node holds something to be damaged for good.
    pub(crate) fn has_quarantined(&self, node: usize) -> bool {
        self.any_shard_of(node, Shard::has_quarantined)
    }

    fn any_shard_of(&self, node: usize, is_so: impl Fn(&Shard<SimEnv>) -> bool) -> bool {
        let nodes = self.nodes.borrow();
        nodes[node].process.as_ref().is_some_and(|process| process.shards().any(|shard| is_so(shard)))
    }

    /// The disk of a node.
    pub(crate) fn disk(&self, node: usize) -> MemDisk {
        let nodes = self.nodes.borrow();
        nodes[node].process.as_ref().map_or_else(|| nodes[node].disk.clone(), |process| process.disk.clone())
    }

    /// Starts a node's process: its data is laid out for its cores, if it was not, and then they open.
    pub(crate) fn start(self: &Rc<World>, node: usize, launch: impl Launch + 'static) {
        let cores = launch.cores();
        let (process, place, was_closed) = {
            let mut nodes = self.nodes.borrow_mut();
            let at = &mut nodes[node];
            assert!(at.process.is_none(), "a node runs one process");
            at.lives += 1;
            let id = ProcessId { node, life: at.lives };
            at.disk.defer();
            at.is_stalled = false;
            let core = || Core { shard: None, timer_ns: None, hops_waiting: 0, stalled_until_ns: 0 };
            at.process = Some(Process {
                id,
                cores: (0..cores).map(|_| core()).collect(),
                disk: at.disk.clone(),
                last_op: None,
                started_ns: self.now_ns(),
                paused_until_ns: 0,
                stopping_ns: None,
                is_closed: true,
            });
            let found = std::mem::replace(&mut at.place, u64::from(at.lives));
            (id, Place { found, now: at.place }, std::mem::take(&mut at.is_closed))
        };
        self.note(7, [node as u64, u64::from(process.life), u64::from(cores)]);
        let disk = self.disk(node);
        let incarnation = self.random();
        let env = move |core| SimEnv { world: self.clone(), process, core, disk: disk.clone() };
        let world = self.clone();
        let first = env(0);
        let envs: Vec<SimEnv> = (0..cores).map(env).collect();
        self.spawn(process, 0, async move {
            let options = |core, stores| launch.engine(core, stores);
            let deal = |stores, cores| launch.deal(stores, cores);
            let shape = (cores, launch.stores());
            let layout = match ferrite_node::lay_out(&first, shape, options, deal).await {
                Ok(layout) => layout,
                Err(error) => {
                    world.failed_opens.borrow_mut().push((process.node, error.to_string()));
                    return;
                }
            };
            for (core, env) in envs.into_iter().enumerate() {
                let settings = ShardSettings { place, ..launch.settings(&layout, core as u16, incarnation) };
                let opened = world.clone();
                world.spawn(process, core as u16, async move {
                    match Shard::open(env, settings).await {
                        Ok(shard) => {
                            if was_closed && !shard.was_closed_in_order() {
                                opened.forgotten_stops.borrow_mut().push(process.node);
                            }
                            opened.core_mut(process, core as u16, |core| core.shard = Some(shard));
                        }
                        Err(error) => {
                            opened.failed_opens.borrow_mut().push((process.node, error.to_string()));
                        }
                    }
                });
            }
        });
    }

    /// Ends a node's process.
    pub(crate) fn stop(self: &Rc<World>, node: usize, death: Death) {
        let Some(process) = self.nodes.borrow_mut()[node].process.take() else { return };
        process.shards().for_each(|shard| self.hints.borrow_mut().add(&shard.hint_counts()));
        self.note(8, [node as u64, u64::from(process.id.life), 0]);
        let mut bits = || self.random.borrow_mut().bits();
        let left = match death {
            Death::PowerCut(mode) => process.disk.crash(mode, &mut bits),
            Death::Kill | Death::Exit => process.disk.kill(&mut bits),
        };
        {
            let at = &mut self.nodes.borrow_mut()[node];
            left.set_full(at.is_full);
            at.disk = left;
            at.is_closed = death == Death::Exit && process.is_closed;
        }
        let tasks = self.executor.borrow_mut().take_process(process.id);
        let sockets = self.network.borrow().of_process(process.id);
        for socket in sockets {
            let known_ns = match death {
                Death::PowerCut(_) => None,
                Death::Kill | Death::Exit => Some(self.now_ns() + self.between(20_000, 500_000)),
            };
            let mut network = self.network.borrow_mut();
            if known_ns.is_some() {
                network.lose_unless_arrived(socket, self.now_ns());
            }
            let peer = network.close(socket, known_ns);
            if let Some(peer) = peer
                && known_ns.is_none()
                && !network.is_open(peer)
                && let Some(other) = network.sockets.get_mut(&peer)
            {
                // What a partition held up was the sender's to send again.
                other.arriving.clear();
            }
            drop(network);
            if let (Some(peer), Some(known_ns)) = (peer, known_ns) {
                self.at(known_ns, Event::Arrival(peer));
            }
        }
        drop(tasks);
        drop(process);
    }

    /// Asks a node's process to stop: it takes nothing new, finishes what is in flight, closes its logs and ends. False if it does not run,
    /// has not opened yet, or was asked before.
    pub(crate) fn ask_to_stop(&self, node: usize) -> bool {
        let shards: Option<Vec<_>> = {
            let mut nodes = self.nodes.borrow_mut();
            let Some(process) = nodes[node].process.as_mut().filter(|process| process.stopping_ns.is_none())
            else {
                return false;
            };
            let shards = process.cores.iter().map(|core| core.shard.clone()).collect::<Option<Vec<_>>>();
            process.stopping_ns = shards.is_some().then(|| self.now_ns());
            shards
        };
        let Some(shards) = shards else { return false };
        self.note(9, [node as u64, 0, 0]);
        shards.iter().for_each(|shard| shard.on_stop());
        true
    }

    /// Whether a node's process was asked to stop and has not ended.
    pub(crate) fn is_stopping(&self, node: usize) -> bool {
        self.nodes.borrow()[node].process.as_ref().is_some_and(|process| process.stopping_ns.is_some())
    }

    /// How long ago a node's process that has not ended was asked to stop; 0 = it was not.
    pub(crate) fn stopping_for_ns(&self, node: usize) -> u64 {
        let asked_ns = self.nodes.borrow()[node].process.as_ref().and_then(|process| process.stopping_ns);
        asked_ns.map_or(0, |asked_ns| self.now_ns() - asked_ns)
    }

    /// Whether a core of a process that was asked to stop has ended.
    pub(crate) fn has_ended(&self, process: ProcessId, core: CoreId) -> bool {
        let nodes = self.nodes.borrow();
        let running = nodes[process.node].process.as_ref().filter(|running| running.id == process);
        running.is_some_and(|running| {
            running.stopping_ns.is_some() && running.cores[usize::from(core.0)].shard.is_none()
        })
    }

    /// Ends the cores that have drained, and the processes of which no core is left.
    pub(super) fn end_drained(self: &Rc<World>) {
        let now_ns = self.now_ns();
        let mut stopping = Vec::new();
        for (node, at) in self.nodes.borrow().iter().enumerate() {
            let Some(process) = at.process.as_ref() else { continue };
            if process.stopping_ns.is_some() && process.paused_until_ns <= now_ns {
                let shards: Vec<_> = process.cores.iter().map(|core| core.shard.clone()).collect();
                stopping.push((node, process.id, shards));
            }
        }
        for (node, process, shards) in stopping {
            let mut left = 0;
            for (core, shard) in shards.into_iter().enumerate() {
                let Some(shard) = shard else { continue };
                let is_still = self.still_until_ns(process, Some(core as u16)) > now_ns;
                let is_drained = !is_still && shard.is_drained();
                let has_mail = self.core_mut(process, core as u16, |core| core.hops_waiting > 0);
                let is_done =
                    has_mail == Some(false) && !self.executor.borrow().has_tasks(process, core as u16);
                if is_drained && is_done {
                    self.hints.borrow_mut().add(&shard.hint_counts());
                    self.core_mut(process, core as u16, |core| core.shard = None);
                    if shard.end().is_err()
                        && let Some(running) = self.nodes.borrow_mut()[node].process.as_mut()
                    {
                        running.is_closed = false;
                    }
                } else {
                    left += 1;
                }
            }
            if left == 0 {
                self.stop(node, Death::Exit);
            } else {
                // Whoever closes asks the disk for something.
                self.run_tasks();
                self.schedule_disk();
            }
        }
    }

    /// What all nodes that run still owe, or may come to owe. Of a core that has not opened yet that is not known: it counts as one.
    pub(crate) fn owed(&self) -> u64 {
        let nodes = self.nodes.borrow();
        let processes = nodes.iter().filter_map(|node| node.process.as_ref());
        let cores = processes.flat_map(|process| &process.cores);
        cores.map(|core| core.shard.as_ref().map_or(1, |shard| shard.owes())).sum()
    }

    /// Until when some process or core stands still.
    pub(crate) fn any_still_until_ns(&self) -> u64 {
        let nodes = self.nodes.borrow();
        let processes = nodes.iter().filter_map(|node| node.process.as_ref());
        let until = processes.flat_map(|process| {
            let cores = process.cores.iter().map(|core| core.stalled_until_ns);
            cores.chain([process.paused_until_ns])
        });
        until.max().unwrap_or(0)
    }

    /// Since when a node's process has run, if it has left out no hint that it owed.
    pub(crate) fn steady_since_ns(&self, node: usize) -> Option<u64> {
        let nodes = self.nodes.borrow();
        let process = nodes[node].process.as_ref()?;
        let is_steady = process.shards().all(|shard| shard.hint_counts().is_complete());
        is_steady.then_some(process.started_ns)
    }

    /// What all cores have done with hints so far.
    pub(crate) fn hint_counts(&self) -> HintCounts {
        let mut counts = self.hints.borrow().clone();
        let nodes = self.nodes.borrow();
        let processes = nodes.iter().filter_map(|node| node.process.as_ref());
        processes.flat_map(Process::shards).for_each(|shard| counts.add(&shard.hint_counts()));
        counts
    }

    /// Replaces what is on the disk of a node that does not run; `None` = an empty one.
    pub(crate) fn replace_disk(&self, node: usize, disk: Option<MemDisk>) {
        let at = &mut self.nodes.borrow_mut()[node];
        assert!(at.process.is_none(), "nobody takes the disk from under a process");
        at.disk = disk.unwrap_or_default();
        at.place = 0;
        at.is_full = false;
        at.is_closed = false;
    }

    /// A copy of a node's disk as it is now, as one takes a backup.
    pub(crate) fn copy_disk(&self, node: usize) -> MemDisk {
        self.disk(node).image(CrashMode::All, &mut || self.random())
    }

    /// Stops the clock of a node's process for a while, or for as long as it stands still already. An earlier end would be one for what comes from then on only:
    /// what has come waits for the one that was known then, and the core's upkeep, by which it knows how long that was, may not.
    pub(crate) fn pause(&self, node: usize, nanoseconds: u64) {
        let until_ns = self.now_ns() + nanoseconds;
        if let Some(process) = self.nodes.borrow_mut()[node].process.as_mut() {
            process.paused_until_ns = process.paused_until_ns.max(until_ns);
        }
    }

    /// The same for one core of a node's process. False if that core does not run.
    pub(crate) fn stall_core(&self, node: usize, core: u16, nanoseconds: u64) -> bool {
        let until_ns = self.now_ns() + nanoseconds;
        let mut nodes = self.nodes.borrow_mut();
        let cores = nodes[node].process.as_mut().map(|process| &mut process.cores);
        let core = cores.and_then(|cores| cores.get_mut(usize::from(core)));
        let Some(core) = core.filter(|core| core.shard.is_some()) else { return false };
        core.stalled_until_ns = core.stalled_until_ns.max(until_ns);
        true
    }
}
