//! A coordinator on the bench: node 1 of a cluster, whose other nodes are played by the test.

use ferrite_wire::{ErrorCode, Mode, ReadWant, ReplicaAnswer, Reply, Table, TableId, Version, WriteAnswer};

use super::tables::accept_links;
use super::*;

/// How long requests take at most.
pub(super) const TIMEOUT_MS: u64 = 500;

/// Node 1 of a cluster, whose other nodes are played by the test.
pub(super) struct Coordinator {
    pub(super) bench: Bench,
    pub(super) shard: Rc<Shard<Bench>>,
    pub(super) client: Connection,
    pub(super) number: u64,
}

/// What a client is told of a key: its value, `None` where it has none, or a code.
pub(super) type Told = Result<Option<Vec<u8>>, ErrorCode>;

/// A message to another node, with the number to answer it under.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) connection: Connection,
    number: u64,
    /// The time it was given, in microseconds.
    pub(super) deadline_us: u32,
    pub(super) what: What,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum What {
    Read(ReadWant),
    Write(Version, Vec<u8>),
}

pub(super) fn carts() -> Table {
    let name = "carts".to_owned();
    let id = TableId::of(&name);
    Table { id, name, mode: Mode::Siblings, max_siblings: 4, ..Table::default_of(3) }
}

impl Coordinator {
    pub(super) fn new(nodes: u16, replication: u8) -> Coordinator {
        let tables = Tables::new(vec![Table::default_of(replication), carts()]).expect("a sound list");
        let bench = Bench::new(MemDisk::new());
        let mut settings = settings_with(nodes, 1, 2, tables);
        settings.request_timeout_ns = TIMEOUT_MS * MS;
        // Nobody answers pings here.
        settings.peer_timeout_ns = u64::MAX;
        let shard = open(&bench, settings).expect("an empty disk opens");
        accept_links(&bench, &shard);
        let client = client(&bench, &shard);
        let coordinator = Coordinator { bench, shard, client, number: 0 };
        coordinator.asked();
        coordinator
    }

    /// A key of which this node has a copy, or has none.
    pub(super) fn key(&self, is_replica: bool) -> Vec<u8> {
        let keys = (0u32..).map(|number| number.to_le_bytes().to_vec());
        let fits = |key: &Vec<u8>| {
            self.shard.route(&Key::plain(key)).expect("a table").position.is_some() == is_replica
        };
        keys.into_iter().find(fits).expect("some key")
    }

    /// What this node's own copy becomes.
    pub(super) fn store(&self, key: Key<'_>, version: Version, value: &[u8]) {
        let connection = peer(&self.bench, &self.shard);
        let write = PeerMessage::ReplicaWrite { vnode_epoch: Epoch(1), key, version, value };
        receive(&self.shard, connection, &message_frame(1, 1_000_000, &write));
        self.settle();
        assert_eq!(self.bench.frames(connection).len(), 1);
    }

    pub(super) fn settle(&self) {
        self.shard.on_batch_end();
        self.bench.run();
    }

    pub(super) fn get(&mut self, key: Key<'_>, level: Level) {
        self.number += 1;
        let request = Request::Get { epoch: Epoch(0), level, options: 0, key };
        receive(&self.shard, self.client, &request_frame(self.number, &request));
    }

    /// What other nodes have been asked since the last call.
    pub(super) fn asked(&self) -> Vec<Asked> {
        let links: Vec<Connection> =
            self.shard.links.borrow().iter().filter_map(|link| link.connection()).collect();
        let mut asked = Vec::new();
        for connection in links {
            for (header, body) in self.bench.frames(connection) {
                let what = match PeerMessage::decode(header.kind, &body) {
                    Ok(PeerMessage::ReplicaRead { want, .. }) => What::Read(want),
                    Ok(PeerMessage::ReplicaWrite { version, value, .. }) => {
                        What::Write(version, value.to_vec())
                    }
                    _ => continue,
                };
                let (number, deadline_us) = (header.request.0, header.deadline_us);
                asked.push(Asked { connection, number, deadline_us, what });
            }
        }
        asked
    }

    pub(super) fn only_asked(&self) -> Asked {
        let mut asked = self.asked();
        assert_eq!(asked.len(), 1, "{asked:?}");
        asked.remove(0)
    }

    pub(super) fn answer(&self, asked: &Asked, message: &PeerMessage<'_>) {
        receive(&self.shard, asked.connection, &message_frame(asked.number, 0, message));
    }

    pub(super) fn answer_read(&self, asked: &Asked, answer: ReplicaAnswer<'_>) {
        self.answer(asked, &PeerMessage::ReplicaReadAnswer(answer));
    }

    pub(super) fn answer_write(&self, asked: &Asked, answer: WriteAnswer) {
        self.answer(asked, &PeerMessage::ReplicaWriteAnswer(answer));
    }

    /// The answers that the client has got: values, `None` for an absence, or codes.
    pub(super) fn told(&self) -> Vec<Told> {
        let told = |(header, body): (FrameHeader, Vec<u8>)| match Reply::decode(header.kind, &body) {
            Ok(Reply::Value { value, .. }) => Ok(Some(value.to_vec())),
            Ok(Reply::Absent { .. }) => Ok(None),
            Ok(Reply::Siblings { siblings, .. }) => {
                Ok(Some(siblings.iter().flat_map(|sibling| sibling.value.to_vec()).collect()))
            }
            Ok(Reply::Error { code, .. }) => Err(code),
            other => panic!("no answer to a get: {other:?}"),
        };
        self.bench.frames(self.client).into_iter().map(told).collect()
    }

    pub(super) fn status(&self, name: &str) -> u64 {
        let status = self.shard.status();
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no {name}"))
    }
}
