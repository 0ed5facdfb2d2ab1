//! How a node's memory is divided: evenly among its cores, and a core's share as follows.
//!
//! | part | of the share | at least | at most |
//! |---|---|---|---|
//! | reserve | 1/8 | 4 MiB | 128 MiB |
//! | buffers of the log | 1/16 | 4 MiB | 16 MiB |
//! | buffers of reads | 1/32 | 3 MiB | 32 MiB |
//! | buffers of flushes | 1/64 | 2 MiB | 16 MiB |
//! | buffers of merges | 1/32 | 8 MiB | 32 MiB |
//! | memtables that are written to | 1/6 | | |
//! | tables, builds, memtables that wait, block and record cache | the rest | | |
//!
//! All but the reserve is the engine's budget, which it divides further and never exceeds (`ferrite_lsm::Memory`). The reserve is for what the engine cannot
//! see. Whatever waits in a core has a bound, and all of them together are the reserve ([`Reserve`]):
//!
//! | what waits | 1/32 of the reserve | beyond it |
//! |---|---:|---|
//! | answers that clients have not read | 11 | no answer, and who does not read is closed |
//! | records, for room in the log | 5 | writes are refused |
//! | what operations keep until others answer | 4 | they are refused |
//! | long frames that are coming | 3 | the next ones wait in their sockets |
//! | frames from other cores, in the mailbox | 3 | they wait where they are, or are refused |
//! | answers to other cores whose mailbox is full | 1 | reads are refused, which is answered too, in short |
//! | short answers to other cores | 1 | who asks them for much is refused before they are asked |
//! | what writes that have ended still owe | 2 | what is owed is not, which is counted |
//! | sets written apart from their replicas | 2 | such writes are refused |
//!
//! One that is alone in its part may be longer, as long as the protocol lets it be: else a node with little memory could not serve the longest values. What
//! a connection costs whoever has it, 16 KiB at most, is beside them: connections are bounded in number.

use ferrite_lsm::{OpenError, Options};

use crate::config::{ByteSize, Server};
use crate::disk::{DiskOptions, ZERO_BYTES_MAX};
use crate::startup::StartupError;

/// What one core needs to work.
pub(crate) const CORE_BYTES_MIN: u64 = 32 << 20;
/// Without a setting, a node takes this part of the memory that there is (a divisor): nodes may share a machine.
const DEFAULT_PART: u64 = 4;
/// And at most this much.
const DEFAULT_BYTES_MAX: u64 = 4 << 30;
/// Part of a core's share for memtables that are written to, as a divisor: three times that may be in use while flushes lag.
const MEMTABLE_PART: u64 = 6;

/// A core's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CoreMemory {
    /// What the engine cannot see.
    pub(crate) reserve: Reserve,
    /// The engine's budget.
    pub(crate) engine_bytes: u64,
    pub(crate) memtable_bytes: u64,
    /// Most bytes of the block cache, if it has a bound of its own.
    pub(crate) cache_bytes: Option<u64>,
    /// Bounds of the disk's buffers.
    pub(crate) disk: DiskOptions,
}

/// Bounds of what waits in a core, in bytes: the table in the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reserve {
    /// All of it.
    pub(crate) bytes: usize,
    /// Answers that clients have not read.
    pub(crate) unread: usize,
    /// Records, for room in the log.
    pub(crate) waiting: usize,
    /// What operations keep until others answer.
    pub(crate) operations: usize,
    /// Long frames that are coming.
    pub(crate) coming: usize,
    /// Frames from other cores.
    pub(crate) mail: usize,
    /// Answers to other cores.
    pub(crate) backlog: usize,
    /// Short ones.
    pub(crate) hops: usize,
    /// What writes that have ended still owe.
    pub(crate) debts: usize,
    /// Sets written apart from their replicas.
    pub(crate) apart: usize,
}

impl Reserve {
    fn of(bytes: usize) -> Reserve {
        let part = |parts: usize| bytes / 32 * parts;
        Reserve {
            bytes,
            unread: part(11),
            waiting: part(5),
            operations: part(4),
            coming: part(3),
            mail: part(3),
            backlog: part(1),
            hops: part(1),
            debts: part(2),
            apart: part(2),
        }
    }
}

/// What a node takes that is not told, of `found_bytes` that it may have.
pub(crate) fn default_for(found_bytes: u64, cores: usize) -> ByteSize {
    let least = CORE_BYTES_MIN * cores as u64;
    ByteSize((found_bytes / DEFAULT_PART).min(DEFAULT_BYTES_MAX).max(least))
}

/// Whether each of `cores` cores could take writes with its share of `memory`, if the node has so many stores. If not, the error
/// names the setting and the least that works.
pub(crate) fn check(memory: ByteSize, server: &Server, cores: u16, stores: u16) -> Result<(), StartupError> {
    // The core with the most stores needs the most.
    let of_a_core: Vec<u16> = (0..stores.div_ceil(cores)).collect();
    let try_with = |memory: ByteSize, server: &Server| {
        let mut engine = Options::new(0, of_a_core.clone(), 0);
        CoreMemory::of(memory, server, cores).apply(&mut engine);
        engine.check()
    };
    let (all, cores) = (memory, u64::from(cores));
    let (setting, found, least) = match (try_with(all, server), server.memtable) {
        (Err(OpenError::TooLittle { what: "memtable_bytes", least, .. }), Some(memtable)) => {
            // The least is told in whole MiB, as it would be written.
            ("memtable", memtable, ByteSize::mib((least * cores).div_ceil(1 << 20)))
        }
        (Err(OpenError::TooLittle { .. }), _) => {
            // The parts grow with the whole, by bounds of their own: the least that works is searched.
            let works = |mib: u64| try_with(ByteSize::mib(mib), server).is_ok();
            let (mut short, mut enough) = (all.0 >> 20, (all.0 >> 20) + 1);
            while !works(enough) {
                (short, enough) = (enough, 2 * enough);
            }
            while enough - short > 1 {
                let middle = short.midpoint(enough);
                *(if works(middle) { &mut enough } else { &mut short }) = middle;
            }
            ("memory", all, ByteSize::mib(enough))
        }
        (Ok(()) | Err(_), _) => return Ok(()),
    };
    Err(StartupError::EngineMemory { setting, found, least, cores: cores as usize, stores })
}

impl CoreMemory {
    /// The share of one of `cores` in `memory`, which is the whole node's.
    pub(crate) fn of(memory: ByteSize, server: &Server, cores: u16) -> CoreMemory {
        let cores = u64::from(cores);
        let share = memory.0 / cores;
        let part = |divisor: u64, least: u64, most: u64| (share / divisor).clamp(least << 20, most << 20);
        let disk = DiskOptions {
            log_bytes_max: part(16, 4, 16) as usize,
            read_bytes_max: part(32, 3, 32) as usize,
            flush_bytes_max: part(64, 2, 16) as usize,
            background_bytes_max: part(32, 8, 32) as usize,
            ..DiskOptions::default()
        };
        let reserve_bytes = part(8, 4, 128);
        CoreMemory {
            reserve: Reserve::of(reserve_bytes as usize),
            engine_bytes: share.saturating_sub(reserve_bytes),
            memtable_bytes: server.memtable.map_or(share / MEMTABLE_PART, |all| all.0 / cores),
            cache_bytes: server.block_cache.map(|all| all.0 / cores),
            disk,
        }
    }

    /// Tells the engine.
    pub(crate) fn apply(&self, engine: &mut Options) {
        let disk = &self.disk;
        engine.memory_bytes = self.engine_bytes as usize;
        engine.buffer_bytes = ZERO_BYTES_MAX
            + disk.log_bytes_max
            + disk.read_bytes_max
            + disk.flush_bytes_max
            + disk.background_bytes_max;
        engine.memtable_bytes = self.memtable_bytes as usize;
        engine.cache_bytes = self.cache_bytes.map_or(usize::MAX, |bytes| bytes as usize);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn server(settings: &str) -> Server {
        let text = format!(
            "[cluster]\nname = \"c\"\nid = \"8c1f7d2a54e94f0b9a3c6b1de2f40718\"\nhash_seed = \"1f3a90c2d4e5b687\"\n\
             vnodes = 16\nreplication = 1\n[server]\n{settings}\n[[nodes]]\nname = \"n1\"\nid = 1\n\
             address = \"127.0.0.1:7100\"\ndata = \"d\"\n"
        );
        Config::parse(&text, std::path::Path::new("test.toml")).expect("a configuration").server
    }

    #[test]
    fn the_parts_fit_the_share_from_the_least_to_the_most() {
        for mib in [32, 64, 100, 512, 1024, 1 << 20] {
            let memory = CoreMemory::of(ByteSize::mib(2 * mib), &server(""), 2);
            assert_eq!(memory.reserve.bytes as u64 + memory.engine_bytes, mib << 20);
            let mut engine = Options::new(0, vec![0], 1);
            memory.apply(&mut engine);
            assert!(engine.buffer_bytes + engine.memtable_bytes < engine.memory_bytes, "{memory:?}");
            // The longest group twice, one that is read back, and marks.
            assert!(memory.disk.log_bytes_max >= 3 * engine.log.group_bytes, "{memory:?}");
            assert_eq!(engine.cache_bytes, usize::MAX);
        }
    }

    /// Each was a part of the reserve, and together they were twice that, beside two of 16 MiB each however little memory a core had.
    #[test]
    fn what_may_wait_in_a_core_is_no_more_than_its_reserve_all_together() {
        for mib in [32, 33, 64, 100, 256, 1024, 1 << 20] {
            let memory = CoreMemory::of(ByteSize::mib(mib), &server(""), 1);
            // No part is left out: each is named.
            let Reserve { bytes, unread, waiting, operations, coming, mail, backlog, hops, debts, apart } =
                memory.reserve;
            let parts = [unread, waiting, operations, coming, mail, backlog, hops, debts, apart];
            assert!(parts.iter().sum::<usize>() <= bytes, "{memory:?}");
            assert!(parts.iter().all(|part| *part > 0));
            // The longest value is answered also where nothing else is.
            assert!(unread > ferrite_wire::limits::VALUE_BYTES_MAX + 4096, "{memory:?}");
        }
    }

    #[test]
    fn what_is_configured_is_split_among_the_cores() {
        let server = server("memory = \"1GiB\"\nmemtable = \"128MiB\"\nblock_cache = \"256MiB\"");
        let memory = CoreMemory::of(ByteSize::mib(1024), &server, 4);
        assert_eq!((memory.memtable_bytes, memory.cache_bytes), (32 << 20, Some(64 << 20)));
    }

    /// The engine refused it after the node had taken its directory, in the engine's words and as if the machine were at fault.
    #[test]
    fn what_could_take_no_write_is_refused_with_the_least_that_works() {
        let refused = |memory, settings: &str, cores, stores| {
            let refused = check(memory, &server(settings), cores, stores).expect_err("it is too little");
            assert_eq!(refused.exit_code(), 2);
            let words = refused.to_string();
            let StartupError::EngineMemory { setting, least, .. } = refused else { panic!("{words}") };
            assert!(words.contains(&format!("set `{setting}` under [server] to {least} or more")), "{words}");
            (setting, least)
        };
        for (memory, cores, stores) in [(32, 1, 1024), (100, 1, 1024), (64, 2, 1024), (260, 8, 801)] {
            let (setting, least) = refused(ByteSize::mib(memory), "", cores, stores);
            assert!(setting == "memory" && least > ByteSize::mib(memory), "{setting} {least}");
            check(least, &server(""), cores, stores).expect("it said so");
            assert_eq!(refused(ByteSize(least.0 - (1 << 20)), "", cores, stores), ("memory", least));
        }
        let memory = ByteSize::mib(1 << 15);
        let (setting, least) = refused(memory, "memtable = \"1MiB\"", 500, 1000);
        assert!(setting == "memtable" && least > ByteSize::mib(1), "{setting} {least}");
        check(memory, &server(&format!("memtable = \"{least}\"")), 500, 1000).expect("it said so");
        check(ByteSize::mib(32), &server(""), 1, 16).expect("the least of all is enough without a setting");
    }

    #[test]
    fn the_default_is_a_part_of_what_there_is() {
        assert_eq!(default_for(8 << 30, 2), ByteSize::mib(2048));
        assert_eq!(default_for(1 << 40, 2), ByteSize(DEFAULT_BYTES_MAX));
        assert_eq!(default_for(100 << 20, 3), ByteSize(3 * CORE_BYTES_MIN));
    }
}
