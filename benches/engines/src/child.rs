//! One session of one engine, in a process of its own.

use std::cell::Cell;
use std::future::Future;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use ferrite_node::disk::DiskOptions;
use ferrite_node::reactor::{CoreSetup, ReactorOptions, RingEnv, mailboxes, run_core};
use ferrite_node::shard::Shard;
use ferrite_wire::CoreId;

use crate::contestant::Contestant;
use crate::db::Setup;
use crate::device;
use crate::ferrite::Ferrite;
use crate::fjall::Fjall;
use crate::measure::Figures;
use crate::part::Part;
use crate::rocks::Rocks;
use crate::row::{self, Row, Session, Sizes};

/// The part of the data that the cache may hold of gets from disk.
const DISK_CACHE_PART: usize = 50;
/// The part of the memtable that the paced rows have.
const PACED_MEMTABLE_PART: usize = 8;

/// Runs the rows, and prints the figures of each as soon as they are known, as a line.
pub fn run(rows: &[Row], part: &Part) {
    let args = &part.args;
    pin_to(args.cpu);
    let (contestant, keys) = (part.contestants[0], part.keys[0]);
    let session = rows[0].session();
    let memtable_bytes = args.memtable << 20;
    let setup = Setup {
        directory: args.dir.clone(),
        cache_bytes: match session {
            Session::Single(Row::Disk) => part.data_bytes() as usize / DISK_CACHE_PART,
            Session::Single(_) | Session::Cached | Session::Paced => part.cache_mib << 20,
        },
        memtable_bytes: match session {
            Session::Paced => memtable_bytes / PACED_MEMTABLE_PART,
            Session::Single(_) | Session::Cached => memtable_bytes,
        },
        lz4: part.lz4,
        large_value_bytes: (args.large > 0).then_some(args.large),
        stores: match contestant {
            Contestant::Ferrite { stores } => stores,
            Contestant::Rocksdb | Contestant::Fjall => 1,
        },
        value_bytes: part.value_bytes,
        synced: session == Session::Single(Row::Synced),
        reads_device: session == Session::Single(Row::Disk),
    };
    let sizes = Sizes {
        keys,
        operations: args.operations,
        value_bytes: part.value_bytes,
        batch: args.batch,
        rate: args.rate,
        put_rate: args.put_rate,
        seconds: args.seconds,
    };
    let done = |row: Row, figures: Figures| println!("{} {}", row.name(), figures.to_line());
    match contestant {
        Contestant::Ferrite { .. } => on_ring(rows.to_vec(), setup, sizes, args.cpu, done),
        Contestant::Rocksdb => at_once(row::run(rows, Rocks::open(&setup), &setup, sizes, done)),
        Contestant::Fjall => at_once(row::run(rows, Fjall::open(&setup), &setup, sizes, done)),
    }
}

/// On the reactor of a core that serves nobody.
fn on_ring(rows: Vec<Row>, setup: Setup, sizes: Sizes, cpu: usize, done: impl FnMut(Row, Figures) + 'static) {
    // As a node does at its start.
    ferrite_node::startup::refuse_huge_pages();
    let (posts, mut mailboxes) = mailboxes(1).expect("an eventfd");
    let core = CoreSetup {
        core: CoreId(0),
        cpu: Some(cpu),
        listeners: Vec::new(),
        data: setup.directory.clone(),
        held: None,
        options: ReactorOptions::default(),
        disk: DiskOptions::default(),
        mailbox: mailboxes.remove(0),
        posts,
    };
    let finished = Rc::new(Cell::new(false));
    let says = finished.clone();
    let ended = run_core::<Rc<Shard<RingEnv>>, (), _, _>(core, move |env| async move {
        let mut done = done;
        if rows == [Row::Device] {
            done(Row::Device, device::run(env, sizes.operations / row::DISK_PART).await);
        } else {
            row::run(&rows, Ferrite::open(env, &setup).await, &setup, sizes, done).await;
        }
        says.set(true);
        Err(())
    });
    assert!(finished.get(), "the core ended early: {:?}", ended.err());
}

/// Engines that block never wait.
fn at_once<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(done) => done,
        Poll::Pending => unreachable!("a blocking engine waits inside its calls"),
    }
}

/// Pins this thread, and all that it will start, to one processor.
fn pin_to(cpu: usize) {
    // SAFETY: the set is plain data, cleared before it is used, and the call reads it only.
    let failed = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set)
    };
    assert_eq!(failed, 0, "there is no processor {cpu}");
}
