//! One row of one engine, in a process of its own.

use std::cell::RefCell;
use std::future::Future;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use ferrite_node::disk::DiskOptions;
use ferrite_node::reactor::{CoreSetup, ReactorOptions, RingEnv, mailboxes, run_core};
use ferrite_node::shard::Shard;
use ferrite_wire::CoreId;

use crate::db::Setup;
use crate::device;
use crate::ferrite::Ferrite;
use crate::fjall::Fjall;
use crate::measure::Figures;
use crate::rocks::Rocks;
use crate::row::{self, Row, Sizes};
use crate::{Args, Engine};

pub fn run(row: Row, args: &Args) -> Figures {
    pin_to(args.cpu);
    let data = args.keys as usize * (16 + args.value);
    let setup = Setup {
        directory: args.dir.clone(),
        cache_bytes: if row == Row::Disk { data / 50 } else { args.cache << 20 },
        memtable_bytes: args.memtable << 20,
        lz4: args.lz4 != 0,
        large_value_bytes: (args.large > 0).then_some(args.large),
        stores: args.stores,
        value_bytes: args.value,
        synced: row == Row::Synced,
    };
    let sizes = Sizes {
        keys: args.keys,
        operations: args.operations,
        value_bytes: args.value,
        batch: args.batch,
        rate: args.rate,
        put_rate: args.put_rate,
        seconds: args.seconds,
    };
    match args.engines[0] {
        Engine::Ferrite => on_ring(row, setup, sizes, args.cpu),
        Engine::Rocksdb => at_once(row::run(row, Rocks::open(&setup), &setup, sizes)),
        Engine::Fjall => at_once(row::run(row, Fjall::open(&setup), &setup, sizes)),
    }
}

/// On the reactor of a core that serves nobody.
fn on_ring(row: Row, setup: Setup, sizes: Sizes, cpu: usize) -> Figures {
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
    let figures = Rc::new(RefCell::new(None));
    let kept = figures.clone();
    let ended = run_core::<Rc<Shard<RingEnv>>, (), _, _>(core, move |env| async move {
        let done = if row == Row::Device {
            device::run(env, sizes.operations).await
        } else {
            row::run(row, Ferrite::open(env, &setup).await, &setup, sizes).await
        };
        *kept.borrow_mut() = Some(done);
        Err(())
    });
    let figures = figures.borrow_mut().take();
    figures.unwrap_or_else(|| panic!("the core ended early: {:?}", ended.err()))
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
