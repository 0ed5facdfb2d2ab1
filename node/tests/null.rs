//! The null server over a real socket, spoken to in the real protocol.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use ferrite_node::disk::DiskOptions;
use ferrite_node::null;
use ferrite_node::reactor::{CoreSetup, ReactorOptions, mailboxes};
use ferrite_node::ring::listen;
use ferrite_wire::{
    ClusterId, CoreId, Epoch, ErrorCode, Features, FrameFlags, FrameHeader, FrameKind, Hello, HelloReply,
    Key, Level, Order, PROTOCOL_MAX, PROTOCOL_MIN, Parsed, Reply, Request, RequestId, Role, TableId,
    Topology, finish_frame, limits, parse_frame, start_frame,
};

const VALUE_BYTES: usize = 100;

struct Client {
    stream: TcpStream,
    input: Vec<u8>,
}

impl Client {
    fn push(out: &mut Vec<u8>, number: u64, kind: FrameKind, encode: impl FnOnce(&mut Vec<u8>)) {
        let start = start_frame(out);
        encode(out);
        let header = FrameHeader {
            kind,
            flags: FrameFlags::default(),
            deadline_us: 0,
            request: RequestId(number),
            time: Order(0),
        };
        finish_frame(out, start, &header);
    }

    /// Reads one frame and shows it.
    fn next<T>(&mut self, show: impl FnOnce(u64, FrameKind, &[u8]) -> T) -> T {
        loop {
            if let Parsed::Frame { frame, bytes } = parse_frame(&self.input, limits::BODY_BYTES_MAX).unwrap()
            {
                let shown = show(frame.header.request.0, frame.header.kind, frame.body);
                self.input.drain(..bytes);
                return shown;
            }
            let mut chunk = [0; 4096];
            let count = self.stream.read(&mut chunk).unwrap();
            assert!(count > 0, "the server closed the connection");
            self.input.extend_from_slice(&chunk[..count]);
        }
    }
}

#[test]
fn it_answers_everything_and_closes_on_nonsense() {
    let listener = listen("127.0.0.1:0".parse().unwrap(), 16).unwrap();
    let address = listener.local_addr().unwrap();
    let (posts, mut boxes) = mailboxes(1, 1 << 20).unwrap();
    let data = tempfile::tempdir().unwrap();
    let setup = CoreSetup {
        core: CoreId(0),
        cpu: None,
        listeners: vec![listener],
        data: data.path().to_owned(),
        held: None,
        options: ReactorOptions::default(),
        disk: DiskOptions { direct: false, ..DiskOptions::default() },
        mailbox: boxes.pop().unwrap(),
        posts: posts.clone(),
    };
    let server = std::thread::spawn(move || null::serve(setup, address, VALUE_BYTES));

    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let mut client = Client { stream, input: Vec::new() };
    let mut out = Vec::new();
    let hello = Hello {
        min: PROTOCOL_MIN,
        max: PROTOCOL_MAX,
        features: Features::default(),
        cluster: ClusterId([0; 16]),
        role: Role::Client,
    };
    Client::push(&mut out, 1, FrameKind::Hello, |out| hello.encode(out));
    let topology = Request::Topology { have: Epoch(0) };
    Client::push(&mut out, 2, topology.kind(), |out| topology.encode(out));
    let key = Key { table: TableId::DEFAULT, partition: b"p", sort: b"" };
    for number in 3..100 {
        let get = Request::Get { epoch: Epoch(1), level: Level::One, options: Default::default(), key };
        Client::push(&mut out, number, get.kind(), |out| get.encode(out));
    }
    client.stream.write_all(&out).unwrap();
    client.next(|number, kind, body| {
        assert_eq!((number, kind), (1, FrameKind::HelloReply));
        assert_eq!(HelloReply::decode(body).unwrap().cores, 1);
    });
    client.next(|number, kind, body| {
        assert_eq!(number, 2);
        let Reply::Topology(bytes) = Reply::decode(kind, body).unwrap() else { panic!("no topology") };
        assert_eq!(Topology::decode(bytes).unwrap().nodes[0].contact, address.to_string());
    });
    for expected in 3..100 {
        client.next(|number, kind, body| {
            assert_eq!(number, expected);
            let Reply::Value { value, .. } = Reply::decode(kind, body).unwrap() else { panic!("no value") };
            assert_eq!(value.len(), VALUE_BYTES);
        });
    }
    let mut out = Vec::new();
    Client::push(&mut out, 100, FrameKind::MultiGet, |out| {
        Request::encode_multi_get(Epoch(1), Level::One, &[key, key], out);
    });
    out.extend_from_slice(&[0xff; 64]);
    client.stream.write_all(&out).unwrap();
    client.next(|_, kind, body| {
        let Reply::Values(items) = Reply::decode(kind, body).unwrap() else { panic!("no values") };
        assert_eq!(items.len(), 2);
    });
    client.next(|_, kind, body| {
        let Reply::Error { code, .. } = Reply::decode(kind, body).unwrap() else { panic!("no error") };
        assert_eq!(code, ErrorCode::TooLarge);
    });
    assert_eq!(client.stream.read(&mut [0; 1]).unwrap(), 0);

    posts[0].stop();
    server.join().unwrap().unwrap();
}
