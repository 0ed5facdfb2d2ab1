//! The real world as a shard sees it.

use std::rc::Rc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ferrite_wire::CoreId;

use super::mailbox::Post;
use super::pace::RingPace;
use super::shared::{ReactorCounters, Shared, clock_ns};
use crate::disk::RingDisk;
use crate::env::{Caller, Connection, Env, Hop, Sent};
use crate::ring::RingCounters;

/// The environment of a core. Cheap to clone, bound to its thread.
#[derive(Clone)]
pub struct RingEnv(pub(super) Rc<Shared>);

impl RingEnv {
    /// What the core has done so far.
    pub fn counters(&self) -> (ReactorCounters, RingCounters) {
        (*self.0.counters.borrow(), self.0.ring.counters())
    }

    /// Connections of this core, those being connected or closed included.
    pub fn connections(&self) -> usize {
        self.0.table.borrow().len()
    }
}

impl Env for RingEnv {
    type Disk = RingDisk;
    type Pace = RingPace;

    fn now_ns(&self) -> u64 {
        self.0.now_ns.get()
    }

    fn wall_ms(&self) -> u64 {
        let now_ns = self.0.now_ns.get();
        let (read_ns, ms) = self.0.wall.get();
        if read_ns == now_ns {
            return ms;
        }
        // A clock before 1970 is as wrong as one at 1970.
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let ms = wall_at(now_ns, clock_ns(), since).saturating_add_signed(self.0.options.clock_offset_ms);
        self.0.wall.set((now_ns, ms));
        ms
    }

    fn random(&self) -> u64 {
        self.0.random()
    }

    fn disk(&self) -> RingDisk {
        self.0.disk.clone()
    }

    fn pace(&self) -> RingPace {
        RingPace(self.0.clone())
    }

    fn core(&self) -> CoreId {
        self.0.core
    }

    fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.0.tasks.spawn(task);
    }

    fn sleep_ns(&self, nanoseconds: u64) -> impl Future<Output = ()> + 'static {
        self.0.sleep(nanoseconds)
    }

    fn send_fitting(&self, connection: Connection, encode: impl FnOnce(&mut Vec<u8>, usize) -> bool) -> Sent {
        self.0.send_fitting(connection, encode)
    }

    fn connect(&self, address: &str) -> Connection {
        self.0.connect(address)
    }

    fn close(&self, connection: Connection) {
        self.0.close(connection);
    }

    fn greeted(&self, connection: Connection, caller: Caller) -> bool {
        self.0.greeted(connection, caller)
    }

    fn is_read(&self, connection: Connection) -> bool {
        self.0
            .table
            .borrow_mut()
            .get(connection)
            .is_none_or(|link| link.paused_ns.is_none() && !link.waits_for_room)
    }

    fn lay_ns(&self, connection: Connection) -> u64 {
        self.0.table.borrow_mut().get(connection).map_or(0, |link| link.unread.lay_ns())
    }

    fn hop(&self, to: CoreId, message: Hop) -> Result<(), Hop> {
        match self.0.posts.get(usize::from(to.0)) {
            Some(post) => post.hop(self.0.core, message),
            None => Err(message),
        }
    }

    fn has_ended(&self, core: CoreId) -> bool {
        self.0.posts.get(usize::from(core.0)).is_some_and(Post::has_ended)
    }
}

/// What the wall clock said at `now_ns`, in milliseconds, that says `since` at `read_ns`. A turn has one time: stopped between its beginning and the first look at the
/// wall clock, a core would give what had come before the stop orders of after it, over what its clients wrote elsewhere meanwhile.
fn wall_at(now_ns: u64, read_ns: u64, since: Duration) -> u64 {
    since.saturating_sub(Duration::from_nanos(read_ns.saturating_sub(now_ns))).as_millis() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_that_was_stopped_has_the_wall_clock_of_its_beginning() {
        let since = Duration::from_millis(1_700_000_000_500);
        assert_eq!(wall_at(7_000, 7_000, since), 1_700_000_000_500);
        assert_eq!(wall_at(7_000, 20_000_000_000 + 7_000, since), 1_699_999_980_500);
        assert_eq!(wall_at(7_000, 6_000, since), 1_700_000_000_500);
    }
}
