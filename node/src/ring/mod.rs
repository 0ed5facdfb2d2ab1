//! The io_uring of a core: every socket and file operation of that core goes through it.
//!
//! Why its own module: the kernel writes into memory it was lent until it says it is done, which Rust cannot see. This module
//! is safe outside because it never lends what it does not own: whatever an operation needs (buffer, descriptor, path) moves
//! into the operation's slot when it is queued and comes back with its completion. Dropping a future or closing a connection
//! detaches the operation, it does not end it.
//!
//! Two ways to hear of a completion: network operations come out of [`Ring::harvest`] as [`Event`]s under the token they were
//! queued with; file operations resolve the [`Ticket`] that queuing them returned.
//!
//! Order within one enter: sends (a client waits for each), then everything else (receives and the log's writes among it),
//! then at most [`READS_PER_ENTER`] file reads, because the kernel submits block reads inline.
//!
//! Refusals: the ring knows no connections, files or names, keeps no time, and never blocks but in [`Ring::enter`].

#![allow(unsafe_code, reason = "submission entries carry raw pointers; see the module's invariant")]

mod aligned;
mod network;
mod operation;
mod post;
mod storage;
mod ticket;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::rc::Rc;
use std::task::Waker;
use std::time::Duration;

use io_uring::squeue::Entry;
use io_uring::{IoUring, opcode, types};

pub use aligned::{AlignedBuffer, Pool};
pub use network::{Event, Listening, Token, listen};
pub use post::{Doorbell, Ringer};
pub use storage::OpenFlags;
pub use ticket::{Outcome, Ticket};

use operation::{Key, Operation, Slots};

/// Most file reads handed to the kernel by one enter; the rest wait for the next.
pub const READS_PER_ENTER: usize = 8;
/// Submission entries of a ring.
const SUBMISSIONS: u32 = 512;
/// Completion entries of a ring; the kernel keeps what overflows.
const COMPLETIONS: u32 = 8192;
/// Most io-wq threads of a core for file work (names, syncs, punted writes).
const WORKERS_BOUNDED: u32 = 8;
/// Most io-wq threads of a core for anything else.
const WORKERS_UNBOUNDED: u32 = 2;
/// How long [`Ring::shutdown`] waits for operations in flight before it leaks their memory.
const SHUTDOWN_WAIT: Duration = Duration::from_secs(5);
/// User data of entries whose completion nobody wants.
const UNTRACKED: u64 = u64::MAX;

/// How long an enter may block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Not at all.
    No,
    /// Until a completion, at most this long.
    For(Duration),
}

/// What one harvest brought.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Harvest {
    /// Completions of any kind.
    pub completions: usize,
    /// Tasks woken.
    pub woken: usize,
}

/// What a ring has done since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RingCounters {
    /// System calls made to submit, wait or collect.
    pub enters: u64,
    /// Operations handed to the kernel.
    pub submitted: u64,
    /// Completions collected.
    pub completed: u64,
}

/// A handle on a core's ring. Cheap to clone, bound to its thread.
#[derive(Clone)]
pub struct Ring(Rc<RefCell<State>>);

struct State {
    uring: IoUring,
    slots: Slots,
    sends: Vec<Entry>,
    others: Vec<Entry>,
    reads: VecDeque<Entry>,
    wakers: Vec<Waker>,
    counters: RingCounters,
    closed: bool,
}

impl Ring {
    /// Makes the ring of the calling thread, which alone may use it. `cpu`: where to pin the kernel's helpers of this ring.
    ///
    /// # Errors
    /// The kernel's, for instance `EPERM` when io_uring is disabled, or `EINVAL` before Linux 6.1.
    pub fn new(cpu: Option<usize>) -> io::Result<Ring> {
        let uring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .setup_submit_all()
            .setup_cqsize(COMPLETIONS)
            .build(SUBMISSIONS)?;
        uring.submitter().register_iowq_max_workers(&mut [WORKERS_BOUNDED, WORKERS_UNBOUNDED])?;
        if let Some(cpu) = cpu {
            assert!(cpu < libc::CPU_SETSIZE as usize, "no such cpu: {cpu}");
            // SAFETY: an all-zero cpu_set_t is the empty set, and the index was checked against its size.
            let set = unsafe {
                let mut set: libc::cpu_set_t = std::mem::zeroed();
                libc::CPU_SET(cpu, &mut set);
                set
            };
            uring.submitter().register_iowq_aff(&set)?;
        }
        Ok(Ring(Rc::new(RefCell::new(State {
            uring,
            slots: Slots::default(),
            sends: Vec::new(),
            others: Vec::new(),
            reads: VecDeque::new(),
            wakers: Vec::new(),
            counters: RingCounters::default(),
            closed: false,
        }))))
    }

    /// Lets the kernel keep `file` open until the ring is gone: until its last operation has ended, also after the process was
    /// killed. Once per ring. A lock that is held this way says when nobody writes any more.
    ///
    /// # Errors
    /// The kernel's, for instance `ENOMEM`, or `EBUSY` the second time.
    pub fn hold(&self, file: &File) -> io::Result<()> {
        self.0.borrow().uring.submitter().register_files(&[file.as_raw_fd()])
    }

    /// Hands what is queued to the kernel and, if asked, blocks for a completion.
    ///
    /// Does not block while file reads are held back by [`READS_PER_ENTER`].
    ///
    /// # Errors
    /// The kernel's, when the ring itself is broken; never an operation's.
    pub fn enter(&self, wait: Wait) -> io::Result<()> {
        self.0.borrow_mut().enter(wait)
    }

    /// Whether a completion is there or could be collected by an enter: reads memory, makes no system call.
    pub fn is_pending(&self) -> bool {
        let mut state = self.0.borrow_mut();
        let (_, submissions, completions) = state.uring.split();
        !completions.is_empty() || submissions.taskrun() || submissions.cq_overflow()
    }

    /// Whether operations are queued that no enter has handed to the kernel yet.
    pub fn has_queued(&self) -> bool {
        let state = self.0.borrow();
        !(state.sends.is_empty() && state.others.is_empty() && state.reads.is_empty())
    }

    /// Collects completions: network ones are appended to `events`, file ones resolve their tickets.
    pub fn harvest(&self, events: &mut Vec<Event>) -> Harvest {
        let mut woken = {
            let mut state = self.0.borrow_mut();
            let completions = state.harvest(events);
            let wakers = std::mem::take(&mut state.wakers);
            (completions, wakers)
        };
        // Outside the borrow: a waker may run code that queues an operation.
        let harvest = Harvest { completions: woken.0, woken: woken.1.len() };
        for waker in woken.1.drain(..) {
            waker.wake();
        }
        self.0.borrow_mut().wakers = woken.1;
        harvest
    }

    /// What the ring has done so far.
    pub fn counters(&self) -> RingCounters {
        self.0.borrow().counters
    }

    /// Operations in flight, queued ones included.
    pub fn in_flight(&self) -> usize {
        self.0.borrow().slots.busy()
    }

    /// Operations on files in flight, queued ones included.
    pub fn files_in_flight(&self) -> usize {
        self.0.borrow().slots.ticketed()
    }

    /// Cancels what is in flight and waits for it, so that the kernel holds no memory of this process afterwards.
    ///
    /// Every later operation fails with `ECANCELED`. If the kernel does not give everything back within five seconds, the
    /// memory it may still write to is leaked, and the number of such operations returned.
    pub fn shutdown(&self) -> usize {
        let wakers = {
            let mut state = self.0.borrow_mut();
            state.drain();
            std::mem::take(&mut state.wakers)
        };
        wakers.into_iter().for_each(Waker::wake);
        self.in_flight()
    }

    /// Queues an operation whose completion resolves a ticket.
    fn queue_ticket(&self, operation: Operation) -> Ticket {
        let key = self.0.borrow_mut().queue(operation, None);
        Ticket::new(self.clone(), key)
    }

    /// Queues an operation whose completion becomes an event.
    fn queue_event(&self, operation: Operation, token: Token) -> Key {
        self.0.borrow_mut().queue(operation, Some(token))
    }
}

impl State {
    fn queue(&mut self, operation: Operation, token: Option<Token>) -> Key {
        let key = self.slots.insert(operation, token);
        if self.closed {
            self.slots.complete(key, -libc::ECANCELED);
            return key;
        }
        let operation = self.slots.operation(key);
        let entry = operation.entry().user_data(key.user_data());
        match operation {
            Operation::Send { .. } => self.sends.push(entry),
            Operation::Read { .. } => self.reads.push_back(entry),
            _ => self.others.push(entry),
        }
        key
    }

    fn enter(&mut self, wait: Wait) -> io::Result<()> {
        let mut sends = std::mem::take(&mut self.sends);
        let mut others = std::mem::take(&mut self.others);
        let pushed = self.push_all(sends.drain(..)).and_then(|()| self.push_all(others.drain(..)));
        self.sends = sends;
        self.others = others;
        pushed?;
        for _ in 0..READS_PER_ENTER {
            let Some(entry) = self.reads.pop_front() else { break };
            self.push(&entry)?;
        }
        let (submitter, submissions, completions) = self.uring.split();
        let collect = submissions.taskrun() || submissions.cq_overflow();
        let idle = submissions.is_empty();
        let ready = !completions.is_empty();
        drop((submissions, completions));
        let wait = if self.reads.is_empty() && !ready { wait } else { Wait::No };
        self.counters.enters += 1;
        let entered = match wait {
            Wait::No if idle && !collect => {
                self.counters.enters -= 1;
                return Ok(());
            }
            Wait::No => submitter.submit(),
            Wait::For(limit) => {
                let limit = types::Timespec::from(limit);
                submitter.submit_with_args(1, &types::SubmitArgs::new().timespec(&limit))
            }
        };
        tolerate(entered)
    }

    fn push_all(&mut self, entries: impl Iterator<Item = Entry>) -> io::Result<()> {
        for entry in entries {
            self.push(&entry)?;
        }
        Ok(())
    }

    fn push(&mut self, entry: &Entry) -> io::Result<()> {
        self.counters.submitted += 1;
        // SAFETY: every pointer in the entry leads to memory owned by the operation's slot, which is kept until the
        // kernel reports that operation's last completion.
        while unsafe { self.uring.submission().push(entry) }.is_err() {
            self.counters.enters += 1;
            tolerate(self.uring.submit())?;
        }
        Ok(())
    }

    fn harvest(&mut self, events: &mut Vec<Event>) -> usize {
        let mut count = 0;
        let State { uring, slots, wakers, .. } = self;
        for completion in uring.completion() {
            count += 1;
            if completion.user_data() == UNTRACKED {
                continue;
            }
            let key = Key::from_user_data(completion.user_data());
            if let Some(waker) = slots.complete(key, completion.result()) {
                wakers.push(waker);
            }
            events.extend(slots.take_event(key));
        }
        self.counters.completed += count as u64;
        count
    }

    /// Ends everything in flight; see [`Ring::shutdown`].
    fn drain(&mut self) {
        self.closed = true;
        // What is queued goes to the kernel too, so that there is one way in which operations end.
        let until = std::time::Instant::now() + SHUTDOWN_WAIT;
        let mut events = Vec::new();
        while self.slots.busy() > 0 && std::time::Instant::now() < until {
            if self.enter(Wait::No).is_err() {
                break;
            }
            // ENOENT: nothing left that can be cancelled. ETIME: the loop's own bound decides.
            let slice = types::Timespec::from(Duration::from_millis(20));
            let _ =
                self.uring.submitter().register_sync_cancel(Some(slice), types::CancelBuilder::any().all());
            if self.enter(Wait::For(Duration::from_millis(20))).is_err() {
                break;
            }
            self.harvest(&mut events);
            events.clear();
        }
    }
}

impl Drop for State {
    fn drop(&mut self) {
        self.drain();
        if self.slots.busy() > 0 {
            // The kernel may still write there.
            std::mem::forget(std::mem::take(&mut self.slots));
        }
    }
}

/// Separates "try again later" from a broken ring.
fn tolerate(entered: io::Result<usize>) -> io::Result<()> {
    match entered {
        Ok(_) => Ok(()),
        Err(error) => match error.raw_os_error() {
            // ETIME: the time limit. EINTR: a signal. EBUSY and EAGAIN: collect completions first.
            Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN) => Ok(()),
            _ => Err(error),
        },
    }
}

/// Asks the kernel to end the operation behind `key`, whose completion still comes.
fn cancel_entry(key: Key) -> Entry {
    opcode::AsyncCancel::new(key.user_data()).build().user_data(UNTRACKED)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Write};
    use std::net::TcpStream;
    use std::task::{Context, Poll};

    use super::*;

    /// Drives the ring until the future is done.
    fn block_on<F: Future>(ring: &Ring, future: F) -> F::Output {
        let mut future = std::pin::pin!(future);
        let mut context = Context::from_waker(Waker::noop());
        loop {
            if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
                return output;
            }
            ring.enter(Wait::For(Duration::from_secs(10))).unwrap();
            ring.harvest(&mut Vec::new());
        }
    }

    /// Drives the ring until an event is there.
    fn next_event(ring: &Ring) -> Event {
        let mut events = Vec::new();
        while events.is_empty() {
            ring.enter(Wait::For(Duration::from_secs(10))).unwrap();
            ring.harvest(&mut events);
        }
        assert_eq!(events.len(), 1);
        events.pop().unwrap()
    }

    #[test]
    fn files_are_written_synced_and_read_back() {
        let directory = tempfile::tempdir().unwrap();
        let ring = Ring::new(None).unwrap();
        let pool = Pool::new(1 << 20);
        let root = Rc::new(File::open(directory.path()).unwrap());
        let flags = OpenFlags { write: true, create_new: true, ..OpenFlags::default() };
        let file = block_on(&ring, ring.open(&root, c"a".into(), flags)).into_file().unwrap();
        let file = Rc::new(file);
        let mut page = pool.take(4096).unwrap();
        page.fill(9);
        let (page, wrote) = block_on(&ring, ring.write(&file, 4096, page, true)).into_buffer();
        assert_eq!(wrote.unwrap(), 4096);
        drop(page);
        block_on(&ring, ring.sync(&file, false)).count().unwrap();
        let (page, read) = block_on(&ring, ring.read(&file, 0, pool.take(8192).unwrap())).into_buffer();
        assert_eq!(read.unwrap(), 8192);
        assert!(page[..4096].iter().all(|byte| *byte == 0) && page[4096..].iter().all(|byte| *byte == 9));
        let again = block_on(&ring, ring.open(&root, c"a".into(), flags)).into_file();
        assert_eq!(again.unwrap_err().raw_os_error(), Some(libc::EEXIST));
    }

    #[test]
    fn an_operation_runs_though_its_ticket_is_dropped() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a");
        let ring = Ring::new(None).unwrap();
        let pool = Pool::new(1 << 20);
        let file = Rc::new(File::options().write(true).create_new(true).open(&path).unwrap());
        let mut page = pool.take(4096).unwrap();
        page.fill(3);
        drop(ring.write(&file, 0, page, false));
        assert_eq!(pool.lent_bytes(), 4096, "the buffer stays with the operation");
        while ring.in_flight() > 0 {
            ring.enter(Wait::For(Duration::from_secs(10))).unwrap();
            ring.harvest(&mut Vec::new());
        }
        assert_eq!(pool.lent_bytes(), 0, "and goes back to its pool after it");
        assert_eq!(std::fs::read(&path).unwrap(), vec![3; 4096]);
    }

    #[test]
    fn reads_are_held_back_but_all_complete() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a");
        std::fs::write(&path, vec![1; 4096 * 64]).unwrap();
        let ring = Ring::new(None).unwrap();
        let pool = Pool::new(4096 * 64);
        let file = Rc::new(File::open(&path).unwrap());
        let tickets: Vec<_> =
            (0..64).map(|page| ring.read(&file, page * 4096, pool.take(4096).unwrap())).collect();
        ring.enter(Wait::No).unwrap();
        assert_eq!(ring.counters().submitted, READS_PER_ENTER as u64);
        for ticket in tickets {
            assert_eq!(block_on(&ring, ticket).count().unwrap(), 4096);
        }
    }

    #[test]
    fn sockets_accept_connect_send_and_receive() {
        let ring = Ring::new(None).unwrap();
        let listener = Rc::new(listen("127.0.0.1:0".parse().unwrap(), 16).unwrap());
        let address = listener.local_addr().unwrap();
        for _ in 0..3 {
            ring.accept(listener.clone(), Token(1));
            let mut client = TcpStream::connect(address).unwrap();
            let Event::Accepted { token: Token(1), stream: Ok(stream) } = next_event(&ring) else {
                panic!("expected a connection")
            };
            let stream = Rc::new(stream);
            ring.receive(&stream, Vec::with_capacity(100), Token(2));
            client.write_all(b"abc").unwrap();
            let Event::Received { token: Token(2), buffer, result: Ok(3) } = next_event(&ring) else {
                panic!("expected bytes")
            };
            ring.send(&stream, buffer, 1, Token(3));
            let Event::Sent { token: Token(3), from: 1, result: Ok(2), .. } = next_event(&ring) else {
                panic!("expected the bytes to leave")
            };
            let mut answer = [0; 2];
            client.read_exact(&mut answer).unwrap();
            assert_eq!(&answer, b"bc");
        }
        let listening = ring.accept(listener, Token(1));
        ring.stop_listening(listening);
        assert!(matches!(next_event(&ring), Event::Accepted { stream: Err(_), .. }));

        // An address of its own, so that no other test's listener takes the port once it is free.
        let there = std::net::TcpListener::bind("127.0.0.80:0").unwrap();
        let there_address = there.local_addr().unwrap();
        ring.connect(there_address, Token(4)).unwrap();
        assert!(matches!(next_event(&ring), Event::Connected { token: Token(4), stream: Ok(_) }));
        drop(there);
        ring.connect(there_address, Token(5)).unwrap();
        assert!(matches!(next_event(&ring), Event::Connected { token: Token(5), stream: Err(_) }));
    }

    #[test]
    fn a_shutdown_takes_everything_back() {
        let ring = Ring::new(None).unwrap();
        let listener = Rc::new(listen("127.0.0.1:0".parse().unwrap(), 16).unwrap());
        let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let stream = Rc::new(listener.accept().unwrap().0);
        ring.accept(listener, Token(1));
        ring.receive(&stream, Vec::with_capacity(100), Token(2));
        let bell = Ringer::new().unwrap().doorbell().unwrap();
        ring.watch(&bell, Token(3));
        ring.enter(Wait::No).unwrap();
        assert_eq!(ring.in_flight(), 3);
        assert_eq!(ring.shutdown(), 0);
        assert_eq!(Rc::strong_count(&stream), 1, "no operation holds the socket any more");
    }

    #[test]
    fn a_bell_rings_only_for_sleepers() {
        let ring = Ring::new(None).unwrap();
        let ringer = Ringer::new().unwrap();
        let bell = ringer.doorbell().unwrap();
        ring.watch(&bell, Token(7));
        ringer.ring();
        ring.enter(Wait::For(Duration::from_millis(1))).unwrap();
        let mut events = Vec::new();
        ring.harvest(&mut events);
        assert!(events.is_empty(), "nobody slept");
        bell.before_sleep();
        let thread = std::thread::spawn(move || ringer.ring());
        assert!(matches!(next_event(&ring), Event::Rung { token: Token(7) }));
        bell.after_sleep();
        thread.join().unwrap();
    }
}
