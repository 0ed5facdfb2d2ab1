//! The reactor on loopback, with a shard that echoes: framing, many connections, hops, tasks, stopping, and what is bounded.

mod bounds;
mod stop;

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use ferrite_lsm::{Class, Directory, Disk, FileName, NameOp, Open, Pace, Sync};
use ferrite_node::disk::{DiskOptions, supports_direct};
use ferrite_node::reactor::{CoreError, CoreSetup, Post, ReactorOptions, RingEnv, mailboxes, run_core};
use ferrite_node::ring::listen;
use ferrite_node::{Caller, Connection, Env, Handler, Hop, Received, Sent};
use ferrite_wire::CoreId;

/// Longest that a test waits for an answer before it fails rather than hangs.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a test can see of its shards.
#[derive(Default)]
struct Seen {
    accepted: AtomicUsize,
    closed: AtomicUsize,
    pauses: AtomicUsize,
    large_waits: AtomicUsize,
    unread_bytes_max: AtomicUsize,
    stopping: AtomicBool,
    /// Set by a test to keep core 1 from getting its shard ready.
    core_1_held: AtomicBool,
    /// Set by a test to keep the cores from draining.
    never_drains: AtomicBool,
}

/// Frames are a length byte pair and a body. The body's first byte says what to do with the rest.
struct Echo {
    env: RingEnv,
    seen: Arc<Seen>,
    stopping: Rc<Cell<bool>>,
    timers: RefCell<Vec<(u64, Connection)>>,
    upstream: Cell<Option<(Connection, Connection)>>,
    remembered: Cell<Option<Connection>>,
    /// What was received last is to be shown again.
    waits: Cell<bool>,
}

impl Echo {
    fn reply(&self, connection: Connection, body: &[u8]) {
        self.env.send(connection, |out| frame(out, body));
    }

    fn handle(&self, connection: Connection, body: &[u8]) -> bool {
        match body.first() {
            Some(b'e') => self.reply(connection, body),
            // A task that yields, sleeps and answers.
            Some(b't') => {
                let (env, body) = (self.env.clone(), body.to_vec());
                self.env.spawn(async move {
                    env.pace().yield_now().await;
                    env.sleep_ns(1_000_000).await;
                    env.pace().throttle(1 << 20, Class::Background).await;
                    env.send(connection, |out| frame(out, &body));
                });
            }
            // Written to disk, read back, answered.
            Some(b'd') => {
                let (env, body) = (self.env.clone(), body.to_vec());
                self.env.spawn(async move {
                    let body = through_disk(&env, &body).await;
                    env.send(connection, |out| frame(out, &body));
                });
            }
            Some(b'w') => {
                self.timers.borrow_mut().push((self.env.now_ns() + 2_000_000, connection));
            }
            Some(b'h') => {
                let to = CoreId(1 - self.env.core().0);
                let message =
                    Hop::Request { connection, from_peer: false, deadline_ns: 0, frame: body.to_vec() };
                // Refused once the other core has ended; a client of a stopping node may go without its answer.
                let refused = self.env.hop(to, message).is_err();
                assert!(
                    !refused || self.seen.stopping.load(Ordering::SeqCst),
                    "a hop was refused for nothing"
                );
            }
            // A task that takes all the core it can get, until the node stops.
            Some(b'g') => {
                let (env, stopping) = (self.env.clone(), self.stopping.clone());
                self.env.spawn(async move {
                    let pace = env.pace();
                    while !stopping.get() {
                        if pace.should_yield() {
                            pace.yield_now().await;
                        }
                    }
                });
                self.reply(connection, body);
            }
            // Connects to the address in the body, and passes on what that says.
            Some(b'c') => {
                let address = std::str::from_utf8(&body[1..]).unwrap();
                self.upstream.set(Some((self.env.connect(address), connection)));
            }
            // Sends more than a socket holds to whom it has connected to.
            Some(b'u') => {
                let (upstream, _) = self.upstream.get().expect("connected before");
                self.env.send(upstream, |out| out.resize(out.len() + (24 << 20), b'u'));
                self.reply(connection, body);
            }
            // Closes that.
            Some(b'U') => {
                let (upstream, _) = self.upstream.take().expect("connected before");
                self.env.close(upstream);
                self.reply(connection, body);
            }
            // Remembers who says so, and sends them much once another says when.
            Some(b'k') => self.remembered.set(Some(connection)),
            Some(b'K') => {
                let remembered = self.remembered.get().expect("somebody has said so");
                self.env.send(remembered, |out| out.resize(out.len() + (3 << 20), b'k'));
                self.reply(connection, body);
            }
            Some(b'm') => {
                self.env.send(connection, |out| out.resize(out.len() + (1 << 20), b'm'));
            }
            // The same, and waits where there is no room for it.
            Some(b'M') => {
                let fill = |out: &mut Vec<u8>, room: usize| {
                    let fits = room >= 1 << 20;
                    out.resize(out.len() + if fits { 1 << 20 } else { 0 }, b'm');
                    fits
                };
                self.waits.set(self.env.send_fitting(connection, fill) == Sent::Full);
            }
            // Asks whether this lay unread for a while.
            Some(b'o') => {
                let lay = self.env.lay_ns(connection) > 0;
                self.reply(connection, if lay { b"old" } else { b"new" });
            }
            // Says who it is.
            Some(who @ (b'l' | b'p')) => {
                let caller = if *who == b'l' { Caller::Client } else { Caller::Peer };
                let has_place = self.env.greeted(connection, caller);
                self.reply(connection, if has_place { b"welcome" } else { b"no place" });
                if !has_place {
                    self.env.close(connection);
                }
            }
            Some(b'x') => {
                self.reply(connection, b"bye");
                self.env.close(connection);
            }
            _ => return false,
        }
        true
    }
}

async fn through_disk(env: &RingEnv, body: &[u8]) -> Vec<u8> {
    let disk = env.disk();
    let name = FileName::Segment { core: env.core().0, slot: 0 };
    disk.names(NameOp::CreateDirectory(Directory::Core(env.core().0))).await.unwrap();
    disk.names(NameOp::CreateZeroed { name, bytes: 8192 }).await.unwrap();
    let file = disk.open(name, Open::Write).await.ok().unwrap();
    let mut buf = disk.buf(4096, Class::Log).unwrap();
    buf[..body.len()].copy_from_slice(body);
    let (_, wrote) = disk.write(&file, 4096, buf, Sync::Data, Class::Log).await;
    assert_eq!(wrote, Ok(4096));
    let (buf, read) = disk.read(&file, 4096, disk.buf(4096, Class::Read).unwrap(), Class::Read).await;
    assert_eq!(read, Ok(4096));
    buf[..body.len()].to_vec()
}

fn frame(out: &mut Vec<u8>, body: &[u8]) {
    out.extend_from_slice(&(body.len() as u16).to_le_bytes());
    out.extend_from_slice(body);
}

impl Handler for Echo {
    fn on_accepted(&self, _connection: Connection) {
        self.seen.accepted.fetch_add(1, Ordering::SeqCst);
    }

    fn on_connected(&self, connection: Connection) {
        self.reply(connection, b"ehello");
    }

    fn on_received(&self, connection: Connection, bytes: &[u8]) -> Received {
        let mut used = 0;
        loop {
            let rest = &bytes[used..];
            let Some(header) = rest.first_chunk::<2>() else {
                return Received::Consumed { used, need: 0 };
            };
            let len = 2 + usize::from(u16::from_le_bytes(*header));
            let Some(body) = rest.get(2..len) else {
                return Received::Consumed { used, need: len };
            };
            if let Some((upstream, client)) = self.upstream.get()
                && upstream == connection
            {
                self.reply(client, body);
            } else if !self.handle(connection, body) {
                return Received::Close;
            }
            if self.waits.take() {
                return Received::Consumed { used, need: 0 };
            }
            used += len;
        }
    }

    fn on_closed(&self, connection: Connection) {
        self.seen.closed.fetch_add(1, Ordering::SeqCst);
        if let Some((upstream, client)) = self.upstream.get()
            && upstream == connection
        {
            self.reply(client, b"refused");
        }
    }

    fn on_hop(&self, from: CoreId, message: Hop) {
        match message {
            Hop::Request { connection, frame: body, .. } => {
                let mut reply = Vec::new();
                frame(&mut reply, &body);
                let refused = self.env.hop(from, Hop::Reply { connection, frame: reply }).is_err();
                assert!(
                    !refused || self.seen.stopping.load(Ordering::SeqCst),
                    "a hop was refused for nothing"
                );
            }
            Hop::Progress(_) | Hop::Absences(_) => unreachable!("this handler sends none"),
            Hop::Reply { connection, frame } => {
                self.env.send(connection, |out| out.extend_from_slice(&frame));
            }
        }
    }

    fn on_batch_end(&self) {
        let counters = self.env.counters().0;
        self.seen.pauses.store(counters.pauses as usize, Ordering::SeqCst);
        self.seen.large_waits.store(counters.large_waits as usize, Ordering::SeqCst);
        self.seen.unread_bytes_max.store(counters.unread_bytes_max as usize, Ordering::SeqCst);
    }

    fn next_timer(&self) -> Option<u64> {
        self.timers.borrow().iter().map(|(at, _)| *at).min()
    }

    fn on_timer(&self, now_ns: u64) {
        let mut timers = self.timers.borrow_mut();
        let due: Vec<_> = timers.extract_if(.., |(at, _)| *at <= now_ns).collect();
        drop(timers);
        due.into_iter().for_each(|(_, connection)| self.reply(connection, b"wake"));
    }

    fn on_stop(&self) {
        self.stopping.set(true);
    }

    fn is_drained(&self) -> bool {
        self.stopping.get() && !self.seen.never_drains.load(Ordering::SeqCst)
    }

    fn end(&self) -> Result<(), String> {
        if self.is_drained() { Ok(()) } else { Err("something was left".to_owned()) }
    }
}

/// A running node of echoing cores.
struct Node {
    address: SocketAddr,
    posts: Vec<Post>,
    threads: Vec<JoinHandle<Result<(), CoreError<Infallible>>>>,
    seen: Arc<Seen>,
    _data: tempfile::TempDir,
}

impl Node {
    fn start(cores: usize, options: ReactorOptions) -> Node {
        Node::start_seen(cores, options, Seen::default())
    }

    fn start_seen(cores: usize, options: ReactorOptions, seen: Seen) -> Node {
        let listener = listen("127.0.0.1:0".parse().unwrap(), 1024).unwrap();
        let address = listener.local_addr().unwrap();
        let (posts, boxes) = mailboxes(cores, 1 << 20).unwrap();
        let seen = Arc::new(seen);
        let data = tempfile::tempdir().unwrap();
        let direct = supports_direct(data.path()).unwrap();
        let mut listeners = vec![listener];
        let threads = boxes.into_iter().enumerate().map(|(core, mailbox)| {
            let (posts, seen, path) = (posts.clone(), seen.clone(), data.path().to_owned());
            let listeners = std::mem::take(&mut listeners);
            std::thread::spawn(move || {
                let setup = CoreSetup {
                    core: CoreId(core as u16),
                    cpu: None,
                    listeners,
                    data: path,
                    held: None,
                    options,
                    disk: DiskOptions { direct, ..DiskOptions::default() },
                    mailbox,
                    posts,
                };
                run_core(setup, |env| async move {
                    // A start that takes its time: nothing is accepted before it is done.
                    env.sleep_ns(1_000_000).await;
                    while core == 1 && seen.core_1_held.load(Ordering::SeqCst) {
                        env.sleep_ns(1_000_000).await;
                    }
                    Ok::<_, Infallible>(Echo {
                        env,
                        seen,
                        stopping: Rc::default(),
                        timers: RefCell::default(),
                        upstream: Cell::new(None),
                        remembered: Cell::new(None),
                        waits: Cell::new(false),
                    })
                })
            })
        });
        let threads = threads.collect();
        Node { address, posts, threads, seen, _data: data }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        stream
    }

    fn stop(self) -> Arc<Seen> {
        self.seen.stopping.store(true, Ordering::SeqCst);
        self.posts.iter().for_each(Post::stop);
        for thread in self.threads {
            thread.join().unwrap().unwrap();
        }
        self.seen
    }
}

fn ask(stream: &mut TcpStream, body: &[u8]) -> Vec<u8> {
    let mut request = Vec::new();
    frame(&mut request, body);
    stream.write_all(&request).unwrap();
    answer(stream)
}

fn answer(stream: &mut TcpStream) -> Vec<u8> {
    let mut header = [0; 2];
    stream.read_exact(&mut header).unwrap();
    let mut body = vec![0; usize::from(u16::from_le_bytes(header))];
    stream.read_exact(&mut body).unwrap();
    body
}

#[test]
fn whole_half_and_many_frames_are_echoed() {
    let node = Node::start(1, ReactorOptions { receive_bytes: 4096, ..ReactorOptions::default() });
    let mut stream = node.connect();
    assert_eq!(ask(&mut stream, b"e1"), b"e1");

    // One byte at a time.
    let mut request = Vec::new();
    frame(&mut request, b"ehalf");
    for byte in &request {
        stream.write_all(std::slice::from_ref(byte)).unwrap();
    }
    assert_eq!(answer(&mut stream), b"ehalf");

    // Larger than the receive buffer, behind and before others.
    let mut large = vec![b'e'; 60_000];
    large[30_000] = b'!';
    let mut request = Vec::new();
    for body in [&b"e"[..], &large, &b"e2"[..]] {
        frame(&mut request, body);
    }
    stream.write_all(&request).unwrap();
    assert_eq!(answer(&mut stream), b"e");
    assert_eq!(answer(&mut stream), large);
    assert_eq!(answer(&mut stream), b"e2");

    let mut request = Vec::new();
    (0..5000).for_each(|n: u32| frame(&mut request, format!("e{n}").as_bytes()));
    let mut reader = stream.try_clone().unwrap();
    let reading = std::thread::spawn(move || {
        (0..5000).for_each(|n| assert_eq!(answer(&mut reader), format!("e{n}").into_bytes()));
    });
    stream.write_all(&request).unwrap();
    reading.join().unwrap();
    node.stop();
}

/// What is answered by tasks, timers, the disk and the other core.
fn ask_for_all_kinds(stream: &mut TcpStream) {
    assert_eq!(ask(stream, b"task"), b"task");
    assert_eq!(ask(stream, b"wait"), b"wake");
    assert_eq!(ask(stream, b"disk"), b"disk");
    for n in 0..100 {
        let body = format!("hop {n}").into_bytes();
        assert_eq!(ask(stream, &body), body);
    }
}

#[test]
fn tasks_timers_disk_and_hops_answer() {
    let node = Node::start(2, ReactorOptions::default());
    let mut stream = node.connect();
    ask_for_all_kinds(&mut stream);
    node.stop();
}

#[test]
fn many_connections_are_served_and_let_go() {
    let node = Node::start(1, ReactorOptions::default());
    let mut streams: Vec<_> = (0..200).map(|_| node.connect()).collect();
    for round in 0..3 {
        for (n, stream) in streams.iter_mut().enumerate() {
            let mut request = Vec::new();
            frame(&mut request, format!("e{n} {round}").as_bytes());
            stream.write_all(&request).unwrap();
        }
        for (n, stream) in streams.iter_mut().enumerate() {
            assert_eq!(answer(stream), format!("e{n} {round}").into_bytes());
        }
    }
    streams.truncate(1);
    // The closed ones are seen to be closed sooner or later; each question gives the core another turn to see them.
    while node.seen.closed.load(Ordering::SeqCst) < 199 {
        assert_eq!(ask(&mut streams[0], b"e"), b"e");
    }
    assert_eq!(node.stop().accepted.load(Ordering::SeqCst), 200);
}

/// Two nodes that each send much to the other used to stop reading both, and each then waited for the other to read.
#[test]
fn what_comes_over_a_connection_out_is_read_though_its_questions_pile_up() {
    let options =
        ReactorOptions { pause_bytes: 1 << 20, out_bytes_max: 64 << 20, ..ReactorOptions::default() };
    let node = Node::start(1, options);
    let mut stream = node.connect();
    let there = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = there.local_addr().unwrap();
    let mut request = Vec::new();
    frame(&mut request, format!("c{address}").as_bytes());
    stream.write_all(&request).unwrap();
    let (mut peer, _) = there.accept().unwrap();
    assert_eq!(answer(&mut peer), b"ehello");
    // One is with the kernel, which cannot hold it; one waits.
    assert_eq!(ask(&mut stream, b"u"), b"u");
    assert_eq!(ask(&mut stream, b"u"), b"u");
    // The first is received by what was begun before; the second only if reading goes on.
    for word in [b"first".as_slice(), b"second", b"third"] {
        let mut bytes = Vec::new();
        frame(&mut bytes, word);
        peer.write_all(&bytes).unwrap();
        assert_eq!(answer(&mut stream), word);
    }
    drop(peer);
    assert_eq!(answer(&mut stream), b"refused");
    node.stop();
}

#[test]
fn a_broken_protocol_closes_its_connection_alone() {
    let node = Node::start(1, ReactorOptions::default());
    let (mut bad, mut good) = (node.connect(), node.connect());
    let mut request = Vec::new();
    frame(&mut request, b"ebefore");
    frame(&mut request, b"?");
    bad.write_all(&request).unwrap();
    assert_eq!(answer(&mut bad), b"ebefore");
    assert_eq!(bad.read(&mut [0; 1]).unwrap(), 0, "closed after what was queued");
    assert_eq!(ask(&mut good, b"e"), b"e");

    let mut leaving = node.connect();
    assert_eq!(ask(&mut leaving, b"x"), b"bye");
    assert_eq!(leaving.read(&mut [0; 1]).unwrap(), 0);

    let mut half = node.connect();
    let mut request = Vec::new();
    frame(&mut request, b"elast words");
    half.write_all(&request).unwrap();
    half.shutdown(Shutdown::Write).unwrap();
    assert_eq!(answer(&mut half), b"elast words");
    node.stop();
}

#[test]
fn connections_out_stand_or_fail() {
    let node = Node::start(1, ReactorOptions::default());
    let mut stream = node.connect();
    let there = TcpListener::bind("127.0.0.1:0").unwrap();
    // By name: it may stand for an address of the other family first, where nobody listens.
    let address = format!("localhost:{}", there.local_addr().unwrap().port());
    let peer = std::thread::spawn(move || {
        let (mut peer, _) = there.accept().unwrap();
        assert_eq!(answer(&mut peer), b"ehello");
        let mut greeting = Vec::new();
        frame(&mut greeting, b"welcome");
        peer.write_all(&greeting).unwrap();
        // With an end or a reset, whichever comes first: a reset follows, for what might not have left.
        let closed = peer.read(&mut [0; 1]).map_err(|error| error.kind());
        assert!(matches!(closed, Ok(0) | Err(ErrorKind::ConnectionReset)), "closed when the node stops");
    });
    assert_eq!(ask(&mut stream, format!("c{address}").as_bytes()), b"welcome");
    assert_eq!(ask(&mut stream, b"cno.such.port:99999"), b"refused");
    // An address of its own, so that no other test's listener takes the port in between.
    let free = TcpListener::bind("127.0.0.77:0").unwrap().local_addr().unwrap();
    assert_eq!(ask(&mut stream, format!("c{free}").as_bytes()), b"refused");
    node.stop();
    peer.join().unwrap();
}

#[test]
fn a_busy_task_leaves_room_for_sockets_timers_disk_and_hops() {
    let node = Node::start(2, ReactorOptions::default());
    let mut stream = node.connect();
    assert_eq!(ask(&mut stream, b"g"), b"g");
    ask_for_all_kinds(&mut stream);
    // It ends only because stopping reaches the task while it grinds.
    node.stop();
}

/// A node whose second core does not begin yet, and a client that has asked for a hop to it and then for something else.
fn with_a_hop_to_a_core_that_is_held() -> (Node, TcpStream) {
    let seen = Seen { core_1_held: AtomicBool::new(true), ..Seen::default() };
    let node = Node::start_seen(2, ReactorOptions::default(), seen);
    let mut stream = node.connect();
    let mut request = Vec::new();
    frame(&mut request, b"hop");
    frame(&mut request, b"e");
    stream.write_all(&request).unwrap();
    (node, stream)
}

#[test]
fn a_hop_waits_for_a_core_that_is_still_starting() {
    // Seen as a client that hung: core 0 was up first, and core 1 threw the hop away for want of a shard.
    let (node, mut stream) = with_a_hop_to_a_core_that_is_held();
    assert_eq!(answer(&mut stream), b"e", "the hop has been sent, and core 0 goes on");
    node.seen.core_1_held.store(false, Ordering::SeqCst);
    assert_eq!(answer(&mut stream), b"hop");
    node.stop();
}

/// A core that had drained ended at once, and what had come from others meanwhile went with its mailbox: who had asked had no answer.
#[test]
fn a_core_ends_behind_the_last_of_its_mail() {
    let (node, mut stream) = with_a_hop_to_a_core_that_is_held();
    assert_eq!(answer(&mut stream), b"e", "the hop has been sent");
    node.posts[1].stop();
    node.seen.core_1_held.store(false, Ordering::SeqCst);
    assert_eq!(answer(&mut stream), b"hop");
    node.stop();
}

#[test]
fn a_node_stops_under_load() {
    let node = Node::start(2, ReactorOptions { spin_us: 0, ..ReactorOptions::default() });
    let answers = Arc::new(AtomicUsize::new(0));
    let clients: Vec<_> = (0..8)
        .map(|n| {
            let (mut stream, answers) = (node.connect(), answers.clone());
            std::thread::spawn(move || {
                let kind = if n % 2 == 0 { "e" } else { "h" };
                let body = format!("{kind}{n}").into_bytes();
                let mut request = Vec::new();
                frame(&mut request, &body);
                let mut answer = vec![0; request.len()];
                // Until the node goes; every answer that comes is the right one.
                while stream.write_all(&request).is_ok() && stream.read_exact(&mut answer).is_ok() {
                    assert_eq!(answer, request);
                    answers.fetch_add(1, Ordering::SeqCst);
                }
            })
        })
        .collect();
    let mut probe = node.connect();
    while answers.load(Ordering::SeqCst) < 1000 {
        assert_eq!(ask(&mut probe, b"e"), b"e");
    }
    node.stop();
    clients.into_iter().for_each(|client| client.join().unwrap());
}

#[test]
fn a_shard_that_cannot_start_ends_its_core() {
    let (posts, mut boxes) = mailboxes(1, 1 << 20).unwrap();
    let data = tempfile::tempdir().unwrap();
    let setup = CoreSetup {
        core: CoreId(0),
        cpu: None,
        listeners: vec![],
        data: data.path().to_owned(),
        held: None,
        options: ReactorOptions::default(),
        disk: DiskOptions { direct: false, ..DiskOptions::default() },
        mailbox: boxes.pop().unwrap(),
        posts,
    };
    let ended = run_core(setup, |_| async { Err::<Echo, _>("no luck") });
    let Err(CoreError::Shard(reason)) = ended else { panic!("expected the shard's own reason") };
    assert_eq!(reason, "no luck");
}
