//! What the reactor's shape costs: parking, receiving and preemption, measured on loopback.
//!
//! An echo server runs as one task of a pinned glommio executor, over an `io_uring` of its own; a client thread on another
//! core drives it closed loop over a bare ring. Reported: round-trip latency and the on-CPU time of the serving thread per
//! message (from `schedstat`, which other work on the machine disturbs little).
//!
//! `cargo run --release -p ferrite-tuning --example runtime -- [park|recv|preempt|all] [--seconds S]`
#![allow(
    unsafe_code,
    reason = "an experiment drives io_uring bare, to measure what the node's safe module may cost"
)]

mod client;

use std::cell::{Cell, RefCell};
use std::io;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use glommio::{Latency, LocalExecutorBuilder, Placement, Shares};
use io_uring::{IoUring, opcode, types};

const MESSAGE_BYTES: usize = 64;
const RECV_BYTES: usize = 16 * 1024;
const BUFFERS: u16 = 128;

/// How the server waits when nothing is ready.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Park {
    /// Enable the ring's eventfd, re-check, await it through glommio.
    Eventfd,
    /// Block in the ring's own enter; glommio never sleeps.
    Ring,
    /// Spin up to 50 µs, then as `Eventfd`.
    SpinEventfd,
    /// Spin up to 50 µs, then as `Ring`.
    SpinRing,
}

/// What runs beside the server on its executor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Background {
    None,
    /// 10 µs blocks, `yield_if_needed` only, in a second task queue.
    GlommioQueue,
    /// 10 µs blocks, yields its queue after 100 µs, second queue.
    BudgetQueue,
    /// 10 µs blocks, yields after 100 µs, in the server's own queue.
    BudgetSame,
    /// As `BudgetSame`, and yields at once when the ring has a completion or task work.
    PendingSame,
    /// As `BudgetQueue`, and yields at once when the ring has a completion or task work.
    PendingQueue,
}

#[derive(Clone, Copy, Debug)]
struct Setup {
    park: Park,
    multishot: bool,
    glommio: bool,
    background: Background,
    preempt: Duration,
    connections: usize,
    depth: usize,
    seconds: f64,
}

fn ring(entries: u32) -> io::Result<IoUring> {
    IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_taskrun_flag()
        .setup_submit_all()
        .setup_cqsize(entries * 8)
        .build(entries)
}

fn pin(core: usize) {
    // SAFETY: an all-zero cpu_set_t is a valid empty set, and the kernel only reads it.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(core, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set);
    }
}

fn thread_cpu_ns() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split(' ').next().and_then(|n| n.parse().ok()).unwrap_or(0)
}

struct Conn {
    stream: TcpStream,
    input: Box<[u8]>,
    out: Vec<u8>,
    sending: Vec<u8>,
    sent: usize,
    in_flight: bool,
    dirty: bool,
}

/// Provided buffers: one ring of them, its memory page-aligned and leaked until the process ends.
struct Provided {
    entries: *mut types::BufRingEntry,
    memory: *mut u8,
    tail: u16,
}

impl Provided {
    fn new(ring: &IoUring) -> io::Result<Self> {
        // SAFETY: fresh anonymous mappings, leaked, so the kernel may use them for as long as the ring lives.
        unsafe {
            let map = |bytes: usize| {
                libc::mmap(
                    std::ptr::null_mut(),
                    bytes,
                    libc::PROT_READ | libc::PROT_WRITE,
                    libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                    -1,
                    0,
                )
            };
            let entries = map(usize::from(BUFFERS) * 16) as *mut types::BufRingEntry;
            let memory = map(usize::from(BUFFERS) * RECV_BYTES) as *mut u8;
            ring.submitter().register_buf_ring_with_flags(entries as u64, BUFFERS, 0, 0)?;
            let mut this = Provided { entries, memory, tail: 0 };
            for id in 0..BUFFERS {
                this.give(id);
            }
            Ok(this)
        }
    }

    fn give(&mut self, id: u16) {
        // SAFETY: slot and buffer indices are below BUFFERS; the tail is published after the entry is written.
        unsafe {
            let slot = &mut *self.entries.add(usize::from(self.tail % BUFFERS));
            slot.set_addr(self.memory.add(usize::from(id) * RECV_BYTES) as u64);
            slot.set_len(RECV_BYTES as u32);
            slot.set_bid(id);
            self.tail = self.tail.wrapping_add(1);
            let tail = types::BufRingEntry::tail(self.entries) as *const AtomicU16;
            (*tail).store(self.tail, Ordering::Release);
        }
    }

    fn bytes(&self, id: u16, len: usize) -> &[u8] {
        // SAFETY: the kernel filled `len` bytes of this buffer and gave it up with the completion.
        unsafe { std::slice::from_raw_parts(self.memory.add(usize::from(id) * RECV_BYTES), len) }
    }
}

const RECV: u64 = 1 << 32;
const SEND: u64 = 2 << 32;

struct Server {
    ring: Rc<RefCell<IoUring>>,
    provided: Option<Provided>,
    conns: Vec<Conn>,
    dirty: Vec<usize>,
    setup: Setup,
    messages: u64,
    enters: u64,
}

impl Server {
    fn new(streams: Vec<TcpStream>, setup: Setup) -> io::Result<Self> {
        let ring = ring(256)?;
        let provided = if setup.multishot { Some(Provided::new(&ring)?) } else { None };
        let conns = streams
            .into_iter()
            .map(|stream| Conn {
                stream,
                input: vec![0; RECV_BYTES].into(),
                out: Vec::with_capacity(RECV_BYTES),
                sending: Vec::with_capacity(RECV_BYTES),
                sent: 0,
                in_flight: false,
                dirty: false,
            })
            .collect();
        let mut this = Server {
            ring: Rc::new(RefCell::new(ring)),
            provided,
            conns,
            dirty: Vec::new(),
            setup,
            messages: 0,
            enters: 0,
        };
        for at in 0..this.conns.len() {
            this.arm(at);
        }
        Ok(this)
    }

    fn push(&mut self, entry: &io_uring::squeue::Entry) {
        let mut ring = self.ring.borrow_mut();
        // SAFETY: every buffer named by an entry belongs to a connection, which outlives the ring's last completion.
        while unsafe { ring.submission().push(entry) }.is_err() {
            ring.submit().unwrap();
        }
    }

    fn arm(&mut self, at: usize) {
        let fd = types::Fd(self.conns[at].stream.as_raw_fd());
        let entry = if self.setup.multishot {
            opcode::RecvMulti::new(fd, 0).build()
        } else {
            opcode::Recv::new(fd, self.conns[at].input.as_mut_ptr(), RECV_BYTES as u32).build()
        };
        self.push(&entry.user_data(RECV | at as u64));
    }

    /// One pass: harvest, answer, submit. True if anything completed.
    fn pass(&mut self, wait: Option<Duration>) -> bool {
        {
            let mut ring = self.ring.borrow_mut();
            let (submitter, mut sq, cq) = ring.split();
            sq.sync();
            if !sq.is_empty() || wait.is_some() || (cq.is_empty() && sq.taskrun()) {
                self.enters += 1;
                let result = match wait {
                    Some(limit) => {
                        let limit = types::Timespec::from(limit);
                        let args = types::SubmitArgs::new().timespec(&limit);
                        submitter.submit_with_args(1, &args)
                    }
                    None => submitter.submit(),
                };
                match result {
                    Ok(_) => {}
                    Err(e) if matches!(e.raw_os_error(), Some(libc::ETIME | libc::EINTR)) => {}
                    Err(e) => panic!("enter: {e}"),
                }
            }
        }
        let mut batch = [(0u64, 0i32, 0u32); 256];
        let mut count = 0;
        {
            let mut ring = self.ring.borrow_mut();
            for (slot, entry) in batch.iter_mut().zip(ring.completion()) {
                *slot = (entry.user_data(), entry.result(), entry.flags());
                count += 1;
            }
        }
        for &(data, result, flags) in &batch[..count] {
            let at = (data & 0xffff_ffff) as usize;
            if data & RECV != 0 {
                self.received(at, result, flags);
            } else {
                let conn = &mut self.conns[at];
                conn.in_flight = false;
                conn.sent += result.max(0) as usize;
                if (conn.sent < conn.sending.len() || !conn.out.is_empty()) && !conn.dirty {
                    conn.dirty = true;
                    self.dirty.push(at);
                }
            }
        }
        while let Some(at) = self.dirty.pop() {
            let conn = &mut self.conns[at];
            conn.dirty = false;
            if conn.in_flight {
                continue;
            }
            if conn.sent >= conn.sending.len() {
                std::mem::swap(&mut conn.out, &mut conn.sending);
                conn.out.clear();
                conn.sent = 0;
            }
            let rest = &conn.sending[conn.sent..];
            let entry =
                opcode::Send::new(types::Fd(conn.stream.as_raw_fd()), rest.as_ptr(), rest.len() as u32)
                    .flags(libc::MSG_NOSIGNAL)
                    .build()
                    .user_data(SEND | at as u64);
            conn.in_flight = true;
            self.push(&entry);
        }
        // Whatever runs next may take its whole slice: answers leave first. Only a server that is about to block in the
        // ring anyway lets the next enter carry them.
        if self.setup.park != Park::Ring || self.setup.background != Background::None {
            let mut ring = self.ring.borrow_mut();
            if !ring.submission().is_empty() {
                ring.submit().unwrap();
                self.enters += 1;
            }
        }
        count > 0
    }

    fn received(&mut self, at: usize, result: i32, flags: u32) {
        if result == -libc::ENOBUFS {
            self.arm(at);
            return;
        }
        if result <= 0 {
            return;
        }
        let len = result as usize;
        let conn = &mut self.conns[at];
        if let Some(provided) = &mut self.provided {
            let id = io_uring::cqueue::buffer_select(flags).expect("a provided buffer");
            conn.out.extend_from_slice(provided.bytes(id, len));
            provided.give(id);
        } else {
            conn.out.extend_from_slice(&conn.input[..len]);
        }
        self.messages += (len / MESSAGE_BYTES) as u64;
        if !conn.dirty {
            conn.dirty = true;
            self.dirty.push(at);
        }
        if !io_uring::cqueue::more(flags) {
            self.arm(at);
        }
    }
}

async fn serve(mut server: Server, stop: Arc<AtomicBool>, background_live: Rc<Cell<bool>>) -> Server {
    let park = server.setup.park;
    let event = if matches!(park, Park::Eventfd | Park::SpinEventfd) {
        // SAFETY: eventfd takes no pointers; the descriptor is owned at once.
        let fd = unsafe { OwnedFd::from_raw_fd(libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)) };
        let mut ring = server.ring.borrow_mut();
        ring.submitter().register_eventfd(fd.as_raw_fd()).unwrap();
        ring.completion().disable_eventfd();
        drop(ring);
        Some(glommio::io::PollableFd::new(fd).unwrap())
    } else {
        None
    };
    while !stop.load(Ordering::Relaxed) {
        if server.pass(None) {
            if server.setup.glommio {
                glommio::executor().yield_now().await;
            }
            continue;
        }
        if background_live.get() {
            glommio::executor().yield_task_queue_now().await;
            continue;
        }
        if matches!(park, Park::SpinRing | Park::SpinEventfd) {
            let from = Instant::now();
            let mut busy = false;
            while !busy && from.elapsed() < Duration::from_micros(50) {
                busy = server.pass(None);
            }
            if busy {
                if server.setup.glommio {
                    glommio::executor().yield_now().await;
                }
                continue;
            }
        }
        match &event {
            None => {
                server.pass(Some(Duration::from_millis(20)));
            }
            Some(event) => {
                {
                    let mut ring = server.ring.borrow_mut();
                    ring.completion().enable_eventfd();
                    // SAFETY: no argument is passed; flag 1 is IORING_ENTER_GETEVENTS, which runs deferred task work.
                    let _ = unsafe { ring.submitter().enter::<libc::sigset_t>(0, 0, 1, None) };
                }
                let ready = !server.ring.borrow_mut().completion().is_empty();
                if !ready {
                    // A stop has no event of its own here: the client sends a last message.
                    event.readable().await.unwrap();
                    let mut word = 0u64;
                    // SAFETY: eight bytes are read into a u64.
                    unsafe { libc::read(event.as_raw_fd(), (&raw mut word).cast(), 8) };
                }
                server.ring.borrow_mut().completion().disable_eventfd();
            }
        }
    }
    server
}

async fn grind(setup: Setup, ring: Rc<RefCell<IoUring>>, stop: Arc<AtomicBool>) -> u64 {
    let mut blocks = 0;
    let burn = |us: u64| {
        let from = Instant::now();
        while from.elapsed() < Duration::from_micros(us) {
            std::hint::spin_loop();
        }
    };
    let pending = |ring: &Rc<RefCell<IoUring>>| {
        let mut ring = ring.borrow_mut();
        let (_, sq, cq) = ring.split();
        sq.taskrun() || !cq.is_empty()
    };
    let mut since = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        burn(10);
        blocks += 1;
        let spent = since.elapsed() >= Duration::from_micros(100);
        match setup.background {
            Background::None => return 0,
            Background::GlommioQueue => glommio::executor().yield_if_needed().await,
            Background::BudgetQueue if spent => glommio::executor().yield_task_queue_now().await,
            Background::BudgetSame if spent => glommio::executor().yield_now().await,
            Background::PendingSame if spent || pending(&ring) => glommio::executor().yield_now().await,
            Background::PendingQueue if spent || pending(&ring) => {
                glommio::executor().yield_task_queue_now().await;
            }
            _ => continue,
        }
        since = Instant::now();
    }
    blocks
}

struct Served {
    cpu_ns: u64,
    messages: u64,
    enters: u64,
    blocks: u64,
}

fn run_server(streams: Vec<TcpStream>, setup: Setup, stop: Arc<AtomicBool>, start: Arc<AtomicU64>) -> Served {
    let (done, result) = std::sync::mpsc::channel();
    let handle = LocalExecutorBuilder::new(Placement::Fixed(0))
        .preempt_timer(setup.preempt)
        .spawn(move || async move {
            let server = Server::new(streams, setup).unwrap();
            let live = Rc::new(Cell::new(setup.background != Background::None));
            let ex = glommio::executor();
            let same = matches!(setup.background, Background::BudgetSame | Background::PendingSame);
            let serving = ex.create_task_queue(
                Shares::Static(1000),
                Latency::Matters(Duration::from_micros(500)),
                "serve",
            );
            let grinding = if same {
                serving
            } else {
                ex.create_task_queue(Shares::Static(100), Latency::NotImportant, "background")
            };
            let grinder =
                glommio::spawn_local_into(grind(setup, server.ring.clone(), stop.clone()), grinding).unwrap();
            start.store(1, Ordering::Release);
            let before = thread_cpu_ns();
            let server = glommio::spawn_local_into(serve(server, stop, live), serving).unwrap().await;
            let cpu_ns = thread_cpu_ns() - before;
            let blocks = grinder.await;
            done.send(Served { cpu_ns, messages: server.messages, enters: server.enters, blocks }).unwrap();
        })
        .unwrap();
    handle.join().unwrap();
    result.recv().unwrap()
}

fn measure(setup: Setup, label: &str) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let mut client = Vec::new();
    let mut server = Vec::new();
    for _ in 0..setup.connections {
        let c = TcpStream::connect(address).unwrap();
        c.set_nodelay(true).unwrap();
        client.push(c);
        let (s, _) = listener.accept().unwrap();
        s.set_nodelay(true).unwrap();
        server.push(s);
    }
    let stop = Arc::new(AtomicBool::new(false));
    let start = Arc::new(AtomicU64::new(0));
    let serving = std::thread::spawn({
        let (stop, start) = (stop.clone(), start.clone());
        move || run_server(server, setup, stop, start)
    });
    while start.load(Ordering::Acquire) == 0 {
        std::thread::yield_now();
    }
    let latencies = std::thread::spawn(move || {
        pin(1);
        let latencies = client::run(&client, setup);
        stop.store(true, Ordering::Relaxed);
        // A last byte wakes a server that parks without a time limit.
        let _ = io::Write::write_all(&mut &client[0], &[0]);
        latencies
    })
    .join()
    .unwrap();
    let Some(mut latencies) = latencies else {
        println!(
            "| {label} | {}×{} | stalled: a wake-up was lost | | | | | | |",
            setup.connections, setup.depth
        );
        return;
    };
    let served = serving.join().unwrap();
    latencies.sort_unstable();
    let pick = |q: f64| f64::from(latencies[((latencies.len() - 1) as f64 * q) as usize]) / 1000.0;
    println!(
        "| {label} | {}×{} | {:.0} | {:.1} | {:.0} | {:.0} | {:.2} | {:.3} | {:.0} |",
        setup.connections,
        setup.depth,
        served.messages as f64 / setup.seconds,
        pick(0.5),
        pick(0.99),
        pick(1.0),
        served.cpu_ns as f64 / 1000.0 / served.messages as f64,
        served.enters as f64 / served.messages as f64,
        served.blocks as f64 * 10e-6 / setup.seconds * 100.0,
    );
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let what = args.get(1).map_or("all", String::as_str);
    let seconds = args.iter().position(|a| a == "--seconds").map_or(2.0, |at| args[at + 1].parse().unwrap());
    let base = Setup {
        park: Park::Ring,
        multishot: false,
        glommio: true,
        background: Background::None,
        preempt: Duration::from_micros(500),
        connections: 1,
        depth: 1,
        seconds,
    };
    let shapes = [(1, 1), (50, 1), (50, 16)];
    println!(
        "| server | connections × depth | messages/s | p50 µs | p99 µs | max µs | CPU µs/message | enters/message | background % |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    let rounds = 3;
    for round in 1..=rounds {
        if matches!(what, "park" | "all") {
            for (connections, depth) in shapes {
                let setup = Setup { connections, depth, ..base };
                measure(
                    Setup { glommio: false, ..setup },
                    &format!("{round} no yield to glommio, blocks in ring"),
                );
                for park in [Park::Ring, Park::Eventfd, Park::SpinRing, Park::SpinEventfd] {
                    measure(Setup { park, ..setup }, &format!("{round} {park:?}"));
                }
            }
        }
        if matches!(what, "recv" | "all") {
            for (connections, depth) in shapes {
                let setup = Setup { connections, depth, ..base };
                measure(setup, &format!("{round} single-shot"));
                measure(Setup { multishot: true, ..setup }, &format!("{round} multishot, provided buffers"));
            }
        }
        if matches!(what, "preempt" | "all") {
            for preempt_us in [100_000, 500] {
                for background in [
                    Background::GlommioQueue,
                    Background::BudgetQueue,
                    Background::BudgetSame,
                    Background::PendingQueue,
                    Background::PendingSame,
                ] {
                    let preempt = Duration::from_micros(preempt_us);
                    let setup = Setup { background, preempt, ..base };
                    measure(setup, &format!("{round} {background:?}, preempt timer {preempt_us} µs"));
                }
            }
        }
    }
}
