//! The world as a shard sees it.

use std::future::Future;
use std::rc::Rc;

use ferrite_lsm::mem_disk::{MemDisk, MemPace};
use ferrite_node::{Connection, Env, Hop, Sent};
use ferrite_wire::CoreId;

use crate::executor::ProcessId;
use crate::world::World;

/// The environment of one core of one life of a node.
#[derive(Clone)]
pub(crate) struct SimEnv {
    pub(crate) world: Rc<World>,
    pub(crate) process: ProcessId,
    pub(crate) core: u16,
    pub(crate) disk: MemDisk,
}

impl Env for SimEnv {
    type Disk = MemDisk;
    type Pace = MemPace;

    fn now_ns(&self) -> u64 {
        self.world.now_ns()
    }

    fn wall_ms(&self) -> u64 {
        self.world.wall_ms(self.process.node)
    }

    fn random(&self) -> u64 {
        self.world.random()
    }

    fn disk(&self) -> MemDisk {
        self.disk.clone()
    }

    fn pace(&self) -> MemPace {
        MemPace::yielding(16)
    }

    fn core(&self) -> CoreId {
        CoreId(self.core)
    }

    fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.world.spawn(self.process, self.core, task);
    }

    fn sleep_ns(&self, nanoseconds: u64) -> impl Future<Output = ()> + 'static {
        self.world.clone().sleep(self.process, nanoseconds)
    }

    fn send_fitting(&self, connection: Connection, encode: impl FnOnce(&mut Vec<u8>, usize) -> bool) -> Sent {
        // Nothing is short of room here.
        self.world.send(self.process, self.core, connection, |out| {
            assert!(encode(out, usize::MAX), "everything fits where there is room");
        })
    }

    fn connect(&self, address: &str) -> Connection {
        self.world.connect(self.process, self.core, address)
    }

    fn close(&self, connection: Connection) {
        self.world.close(self.process, self.core, connection);
    }

    fn hop(&self, to: CoreId, message: Hop) -> Result<(), Hop> {
        self.world.hop(self.process, self.core, to, message)
    }

    fn has_ended(&self, core: CoreId) -> bool {
        self.world.has_ended(self.process, core)
    }
}
