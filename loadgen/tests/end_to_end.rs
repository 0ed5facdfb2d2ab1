//! Whole runs over loopback against servers in this process: counts are exact, planted faults are found.

use std::{
    collections::HashMap,
    net::{SocketAddr, TcpListener},
    os::unix::net::UnixStream,
    sync::{Arc, Mutex},
    thread::JoinHandle,
    time::Duration,
};

use ferrite_loadgen::{
    Options, Summary, Target, Workload,
    null::{Answers, Constant, serve, serve_as},
    run,
};
use ferrite_wire::{ClusterId, CoreId, Epoch, HashSeed, Key, NodeEntry, NodeId, Tables, Topology};
use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};

/// A server on a thread of its own; it ends with this value.
struct Running {
    address: SocketAddr,
    stop: Option<UnixStream>,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    fn start(body: impl FnOnce(TcpListener, UnixStream) + Send + 'static) -> Running {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("its address");
        Running::start_on(listener, address, body)
    }

    fn start_on(
        listener: TcpListener,
        address: SocketAddr,
        body: impl FnOnce(TcpListener, UnixStream) + Send + 'static,
    ) -> Running {
        let (ours, theirs) = UnixStream::pair().expect("a pair of sockets");
        let thread = std::thread::spawn(move || body(listener, theirs));
        Running { address, stop: Some(ours), thread: Some(thread) }
    }

    fn serving(answers: impl Answers + Send + 'static) -> Running {
        Running::start(|listener, stop| serve(listener, Some(stop), answers).expect("serves until stopped"))
    }

    fn options(&self, scheme: &str) -> Options {
        let target: Target = format!("{scheme}://{}", self.address).parse().expect("a target");
        let small = Options::new(target);
        Options {
            records: 500,
            connections: 4,
            depth: 8,
            duration: Duration::ZERO,
            ops: Some(4000),
            // How long a busy machine may stand still.
            timeout: Duration::from_secs(60),
            ..small
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
            && !std::thread::panicking()
        {
            panic!("the server panicked");
        }
    }
}

type Stored = Arc<Mutex<HashMap<Vec<u8>, Vec<u8>>>>;

/// What a server that keeps values does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    /// Acknowledges every hundredth write and forgets it.
    Forgets,
    /// Acknowledges every hundredth write and removes the key.
    Removes,
    /// Flips a bit in every hundredth value it stores.
    Damages,
}

struct Keeping {
    stored: Stored,
    fault: Fault,
    writes: u64,
    read: Vec<u8>,
}

impl Keeping {
    fn new(fault: Fault) -> Keeping {
        Keeping { stored: Stored::default(), fault, writes: 0, read: Vec::new() }
    }
}

impl Answers for Keeping {
    fn get(&mut self, key: &[u8]) -> Option<&[u8]> {
        self.read.clone_from(self.stored.lock().expect("not poisoned").get(key)?);
        Some(&self.read)
    }

    fn put(&mut self, key: &[u8], value: &[u8]) {
        self.writes += 1;
        let mut value = value.to_vec();
        let mut stored = self.stored.lock().expect("not poisoned");
        match self.fault {
            Fault::Forgets if self.writes.is_multiple_of(100) => return,
            Fault::Removes if self.writes.is_multiple_of(100) => return drop(stored.remove(key)),
            Fault::Damages if self.writes.is_multiple_of(100) => value[50] ^= 4,
            Fault::None | Fault::Forgets | Fault::Removes | Fault::Damages => {}
        }
        stored.insert(key.to_vec(), value);
    }
}

fn answered(summary: &Summary) -> (u64, u64) {
    let count =
        |kind: &Option<ferrite_loadgen::KindLatencies>| kind.as_ref().map_or(0, |kind| kind.latency.count);
    (count(&summary.reads), count(&summary.writes))
}

#[test]
fn a_closed_loop_sends_exactly_what_was_asked_over_every_protocol() {
    let server = Running::serving(Constant::new(100));
    for scheme in ["ferrite", "null", "redis"] {
        let options = Options { workload: Workload::B, threads: 2, ..server.options(scheme) };
        let summary = run(&options).expect("a run");
        let (reads, writes) = answered(&summary);
        assert_eq!((summary.operations, reads + writes), (4000, 4000), "{scheme}");
        assert!((3700..3900).contains(&reads), "{scheme}: {reads} reads of 4000");
        assert!(summary.read_errors.is_empty() && summary.write_errors.is_empty());
        assert_eq!((summary.r#loop, summary.failure()), ("closed", None));
    }
}

#[test]
fn an_open_loop_counts_from_the_intended_start() {
    let server = Running::serving(Constant::new(100));
    let options =
        Options { rate: Some(20_000.0), ops: Some(1000), workload: Workload::C, ..server.options("null") };
    let summary = run(&options).expect("a run");
    assert_eq!((summary.operations, summary.r#loop), (1000, "open"));
    let reads = summary.reads.expect("reads");
    let service = reads.service.expect("service time beside latency");
    assert_eq!(service.count, 1000);
    assert!(reads.latency.mean >= service.mean, "latency includes the wait before sending");
}

#[test]
fn a_server_that_keeps_its_word_passes_the_check() {
    for scheme in ["ferrite", "redis"] {
        let server = Running::serving(Keeping::new(Fault::None));
        let options = Options { load: true, check: true, threads: 2, ..server.options(scheme) };
        let summary = run(&options).expect("a run");
        assert_eq!(summary.failure(), None, "{scheme}: {:?}", summary.complaints);
        assert_eq!(summary.prefill.as_ref().map(|pass| pass.operations), Some(500));
        let check = summary.check.as_ref().expect("checked");
        assert_eq!((check.read_back.operations, check.read_back.undone), (500, 0));
        let reads = answered(&summary).0;
        assert_eq!(check.verdicts.checked, reads + 500, "every read is judged");
    }
}

#[test]
fn lost_undone_and_damaged_writes_are_found() {
    for (fault, found) in [
        (Fault::Forgets, (|summary| verdicts(summary).0) as fn(&Summary) -> u64),
        (Fault::Removes, |summary| verdicts(summary).1),
        (Fault::Damages, |summary| verdicts(summary).2),
    ] {
        let server = Running::serving(Keeping::new(fault));
        let options = Options { load: true, check: true, ..server.options("ferrite") };
        let summary = run(&options).expect("a run");
        assert!(found(&summary) > 0, "{fault:?}: {:?}", summary.check);
        assert!(summary.failure().is_some_and(|failure| failure.starts_with("check failed")), "{fault:?}");
        assert!(!summary.complaints.is_empty());
    }
}

fn verdicts(summary: &Summary) -> (u64, u64, u64) {
    let verdicts = &summary.check.as_ref().expect("checked").verdicts;
    (verdicts.stale, verdicts.lost, verdicts.wrong)
}

#[test]
fn without_a_check_wrong_values_go_unnoticed_and_with_it_they_do_not() {
    let server = Running::serving(Constant::new(100));
    let unchecked = Options { workload: Workload::C, ..server.options("null") };
    assert_eq!(run(&unchecked).expect("a run").failure(), None);
    let checked = Options { check: true, ..unchecked };
    assert!(verdicts(&run(&checked).expect("a run")).2 >= 4000);
}

/// Drops the server's other end after so many writes, in the middle of a batch.
struct Dying {
    keeping: Keeping,
    writes_left: u32,
    stop: Option<UnixStream>,
}

impl Answers for Dying {
    fn get(&mut self, key: &[u8]) -> Option<&[u8]> {
        self.keeping.get(key)
    }

    fn put(&mut self, key: &[u8], value: &[u8]) {
        self.keeping.put(key, value);
        self.writes_left = self.writes_left.saturating_sub(1);
        if self.writes_left == 0 {
            self.stop = None;
        }
    }
}

#[test]
fn a_restarted_server_is_found_again_and_nothing_acknowledged_is_missed() {
    let server = Running::start(|listener, stop| {
        let stored = Stored::default();
        let life = || Keeping { stored: Arc::clone(&stored), ..Keeping::new(Fault::None) };
        for writes_left in [600, 300, 300] {
            let (ours, theirs) = UnixStream::pair().expect("a pair of sockets");
            let again = listener.try_clone().expect("the same port");
            serve(again, Some(theirs), Dying { keeping: life(), writes_left, stop: Some(ours) })
                .expect("a life");
        }
        serve(listener, Some(stop), life()).expect("the last life");
    });
    for scheme in ["null", "redis"] {
        let options = Options { load: true, check: true, ..server.options(scheme) };
        let summary = run(&options).expect("a run");
        assert_eq!(summary.failure(), None, "{:?}", summary.complaints);
        if scheme == "null" {
            assert!(summary.disconnects > 0, "the server died twice in the measured phase");
            assert!(summary.complaints.iter().any(|complaint| complaint.contains("closed by the server")));
            let errors: u64 = summary.read_errors.values().chain(summary.write_errors.values()).sum();
            assert_eq!(summary.operations + errors, 4000, "every operation has an outcome");
        }
    }
}

/// Three single-core members; each vnode has the replicas that `replicas` says.
fn topology(addresses: &[SocketAddr], replicas: impl Fn(u16) -> Vec<u16>) -> Topology {
    const VNODES: u16 = 16;
    let nodes = (1..).zip(addresses).map(|(id, address)| NodeEntry {
        id: NodeId(id),
        incarnation: 1,
        name: format!("n{id}"),
        rack: String::new(),
        datacenter: String::new(),
        contact: address.to_string(),
        endpoints: vec![address.to_string()],
        core_of_vnode: vec![CoreId(0); usize::from(VNODES)],
    });
    Topology {
        epoch: Epoch(1),
        cluster: ClusterId([0; 16]),
        hash_seed: HashSeed(5),
        nodes: nodes.collect(),
        tables: Tables::only_default(3),
        replicas: (0..VNODES).map(|vnode| replicas(vnode).into_iter().map(NodeId).collect()).collect(),
        vnode_epochs: vec![Epoch(1); usize::from(VNODES)],
    }
}

fn three_listeners(host: &str) -> (Vec<TcpListener>, Vec<SocketAddr>) {
    let listeners: Vec<TcpListener> = (0..3).map(|_| TcpListener::bind((host, 0)).expect("a port")).collect();
    let addresses = listeners.iter().map(|listener| listener.local_addr().expect("its address")).collect();
    (listeners, addresses)
}

#[test]
fn every_key_goes_to_its_owner_in_passes_and_mixes_alike() {
    let (listeners, addresses) = three_listeners("127.0.0.1");
    let topology = topology(&addresses, |vnode| vec![vnode % 3 + 1]);
    let stores = [Stored::default(), Stored::default(), Stored::default()];
    let servers: Vec<Running> = { listeners.into_iter().zip(&stores) }
        .map(|(listener, stored)| {
            let (topology, stored) = (topology.clone(), Arc::clone(stored));
            let address = listener.local_addr().expect("its address");
            Running::start_on(listener, address, move |listener, stop| {
                let answers = Keeping { stored, ..Keeping::new(Fault::None) };
                serve_as(listener, Some(stop), answers, &topology).expect("serves until stopped");
            })
        })
        .collect();
    // Two threads of three connections each: every thread reaches every endpoint.
    let options = servers[1].options("ferrite");
    let options = Options { load: true, check: true, threads: 2, connections: 6, ..options };
    let summary = run(&options).expect("a run");
    assert_eq!((summary.failure(), summary.operations), (None, 4000), "{:?}", summary.complaints);
    let mut keys = 0;
    for (node, stored) in (0..).zip(&stores) {
        let stored = stored.lock().expect("not poisoned");
        assert!(stored.len() > 50, "member {node} got {} keys", stored.len());
        keys += stored.len();
        let vnode = |key: &[u8]| Key::plain(key).token(HashSeed(5)).vnode(16).0;
        assert!(stored.keys().all(|key| vnode(key) % 3 == node));
    }
    assert_eq!(keys, 500, "no key was written twice");
}

#[test]
fn keys_of_a_dead_member_go_to_the_next_replica() {
    // An address of its own, so that nobody takes the dead member's port.
    let (mut listeners, addresses) = three_listeners("127.0.0.81");
    let topology =
        topology(&addresses, |vnode| vec![vnode % 3 + 1, (vnode + 1) % 3 + 1, (vnode + 2) % 3 + 1]);
    drop(listeners.remove(1));
    let stored = Stored::default();
    let servers: Vec<Running> = { listeners.into_iter() }
        .map(|listener| {
            let (topology, stored) = (topology.clone(), Arc::clone(&stored));
            let address = listener.local_addr().expect("its address");
            Running::start_on(listener, address, move |listener, stop| {
                let answers = Keeping { stored, ..Keeping::new(Fault::None) };
                serve_as(listener, Some(stop), answers, &topology).expect("serves until stopped");
            })
        })
        .collect();
    let options = Options { load: true, check: true, connections: 6, ..servers[0].options("ferrite") };
    let summary = run(&options).expect("a run");
    assert_eq!((summary.failure(), summary.operations), (None, 4000), "{:?}", summary.complaints);
    assert!(summary.complaints.iter().any(|complaint| complaint.contains("4 of 6 connections")));
}

#[test]
fn nobody_there_is_an_error_in_one_line() {
    // An address of its own, so that nobody takes the port in between.
    let listener = TcpListener::bind("127.0.0.82:0").expect("a port");
    let address = listener.local_addr().expect("its address");
    drop(listener);
    for scheme in ["ferrite", "redis"] {
        let target: Target = format!("{scheme}://{address}").parse().expect("a target");
        let error = run(&Options::new(target)).expect_err("nobody listens");
        assert!(error.contains("cannot connect") && !error.contains('\n'), "{error}");
    }
}

#[test]
fn files_hold_what_was_measured() {
    let server = Running::serving(Constant::new(100));
    let folder = tempfile::tempdir().expect("a folder");
    let hlog = folder.path().join("run.hlog");
    let options = Options { hlog: Some(hlog.clone()), ..server.options("null") };
    let summary = run(&options).expect("a run");
    let log = std::fs::read(&hlog).expect("the log");
    let mut tags: Vec<String> = Vec::new();
    for entry in IntervalLogIterator::new(&log) {
        match entry.expect("a well-formed log") {
            LogEntry::Interval(interval) => tags.extend(interval.tag().map(|tag| tag.as_str().to_owned())),
            LogEntry::StartTime(_) | LogEntry::BaseTime(_) => {}
        }
    }
    assert!(tags.contains(&"read".to_owned()) && tags.contains(&"write".to_owned()), "{tags:?}");
    let json = serde_json::to_value(&summary).expect("JSON");
    assert_eq!((json["operations"].as_u64(), json["loop"].as_str()), (Some(4000), Some("closed")));
}
