//! One connection's session against scripted bytes.

use crate::frames::{CLUSTER, error, header, hello_reply_frame, reply_frame, reply_to};
use ferrite_client::{Arrival, CONNECTION_REQUEST, ClusterId, ErrorCode, Session, SessionError};
use ferrite_wire::{
    DecodeError, FrameHeader, FrameKind, Hello, Order, Parsed, Reply, RequestId, limits, parse_frame,
};

fn ready() -> Session {
    let mut session = Session::new(Some(CLUSTER));
    session.receive(&hello_reply_frame(CLUSTER));
    assert!(
        matches!(session.poll_arrival(), Ok(Some(Arrival::Ready { server, .. })) if server.cluster == CLUSTER)
    );
    session
}

#[test]
fn the_hello_comes_first_and_alone() {
    let mut session = Session::new(Some(CLUSTER));
    let mut out = Vec::new();
    session.take_output(&mut out);
    let Ok(Parsed::Frame { frame, bytes }) = parse_frame(&out, limits::BODY_BYTES_MAX) else {
        panic!("no frame")
    };
    assert_eq!(
        (frame.header.kind, frame.header.request, bytes),
        (FrameKind::Hello, CONNECTION_REQUEST, out.len())
    );
    assert_eq!(Hello::decode(frame.body).unwrap().cluster, CLUSTER);
    assert!(!session.has_output());
}

#[test]
fn frames_arrive_in_any_pieces() {
    let value = Reply::Value { version: Default::default(), answered: 1, value: &[5; 3000] };
    let mut stream = hello_reply_frame(CLUSTER);
    for request in 1..=3 {
        stream.extend_from_slice(&reply_to(RequestId(request), &value));
    }
    for piece in [1, 2, 31, 33, 1000, stream.len()] {
        let mut session = Session::new(None);
        let mut arrived = Vec::new();
        for bytes in stream.chunks(piece) {
            session.receive(bytes);
            while let Some(arrival) = session.poll_arrival().unwrap() {
                arrived.push(match arrival {
                    Arrival::Ready { .. } => 0,
                    Arrival::Reply { header, reply } => {
                        assert_eq!(reply, value);
                        header.request.0
                    }
                });
            }
        }
        assert_eq!(arrived, [0, 1, 2, 3], "in pieces of {piece}");
    }
}

#[test]
fn what_a_server_may_not_say_ends_the_session() {
    let reply = reply_to(RequestId(1), &Reply::Pong);
    let mut early = Session::new(None);
    early.receive(&reply);
    assert_eq!(early.poll_arrival(), Err(SessionError::Unexpected(FrameKind::Pong)));

    let mut twice = ready();
    twice.receive(&hello_reply_frame(CLUSTER));
    assert_eq!(twice.poll_arrival(), Err(SessionError::Unexpected(FrameKind::HelloReply)));

    let mut damaged = ready();
    let mut bytes = reply.clone();
    bytes[20] ^= 1;
    damaged.receive(&bytes);
    assert_eq!(damaged.poll_arrival(), Err(SessionError::Decode(DecodeError::Checksum)));

    let mut oversize = ready();
    let mut head = reply.clone();
    head[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
    oversize.receive(&head);
    let too_long = oversize.poll_arrival().unwrap_err();
    assert!(matches!(too_long, SessionError::Decode(DecodeError::TooLong { .. })));

    let mut asked = ready();
    let mut request = FrameHeader { time: Order(0), ..header(FrameKind::Ping, RequestId(1)) };
    request.kind = FrameKind::Ping;
    let mut bytes = Vec::new();
    let start = ferrite_wire::start_frame(&mut bytes);
    ferrite_wire::finish_frame(&mut bytes, start, &request);
    asked.receive(&bytes);
    assert!(matches!(asked.poll_arrival(), Err(SessionError::Decode(DecodeError::Unknown { .. }))));
}

#[test]
fn refusals_and_foreign_clusters_are_told_apart() {
    let mut refused = Session::new(None);
    refused.receive(&reply_frame(header(FrameKind::Error, CONNECTION_REQUEST), &error(ErrorCode::Version)));
    let ended = refused.poll_arrival().unwrap_err();
    assert!(matches!(ended, SessionError::Refused(fault) if fault.code == ErrorCode::Version));

    let other = ClusterId([8; 16]);
    let mut foreign = Session::new(Some(CLUSTER));
    foreign.receive(&hello_reply_frame(other));
    assert_eq!(foreign.poll_arrival(), Err(SessionError::ForeignCluster(other)));
}
