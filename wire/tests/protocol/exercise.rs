//! What a decoder must withstand: shared by the damage tests, the corpus and the fuzz targets.

use ferrite_wire::{
    DecodeError, FRAME_HEADER_BYTES, FrameKind, Hello, HelloReply, Parsed, PeerMessage, Reply, Request,
    Topology, limits, parse_frame,
};

/// One connection's bytes, frame by frame.
pub(crate) fn frame(bytes: &[u8]) {
    let _ = read_stream(bytes);
}

/// A kind and the body of a request, a handshake, a reply or a peer message: decoded to itself, or not at all.
pub(crate) fn body(bytes: &[u8]) {
    if let Some((kind, body)) = bytes.split_first()
        && let Ok(kind) = FrameKind::from_u8(*kind)
        && let Ok(again) = recode(&(kind, body.to_vec()))
    {
        let is_newer_hello = kind == FrameKind::Hello && body.len() > again.len();
        assert!(again == body || is_newer_hello, "what was understood is not what was there");
    }
}

/// A topology: what is accepted keeps every limit and is encoded to the same bytes.
pub(crate) fn topology(bytes: &[u8]) {
    if let Ok(topology) = Topology::decode(bytes) {
        assert_eq!(topology.check(), Ok(()));
        let mut again = Vec::new();
        topology.encode(&mut again);
        assert_eq!(again, bytes);
    }
}

/// Decodes `body` as whatever `kind` says and encodes what was understood again.
pub(crate) fn recode((kind, body): &(FrameKind, Vec<u8>)) -> Result<Vec<u8>, DecodeError> {
    let mut out = Vec::new();
    match kind {
        FrameKind::Hello => Hello::decode(body)?.encode(&mut out),
        FrameKind::HelloReply => HelloReply::decode(body)?.encode(&mut out),
        FrameKind::ReplicaWrite
        | FrameKind::ReplicaRead
        | FrameKind::HintedWrite
        | FrameKind::ReplicaWriteAnswer
        | FrameKind::ReplicaReadAnswer => PeerMessage::decode(*kind, body)?.encode(&mut out),
        FrameKind::Gossip if body.len() > limits::GOSSIP_BYTES_MAX => {
            let (len, max) = (body.len() as u64, limits::GOSSIP_BYTES_MAX as u64);
            return Err(DecodeError::TooLong { field: "packet", len, max });
        }
        // What a packet says is not this crate's to know.
        FrameKind::Gossip => out.extend_from_slice(body),
        FrameKind::Ping
        | FrameKind::Topology
        | FrameKind::Status
        | FrameKind::Hints
        | FrameKind::Get
        | FrameKind::Put
        | FrameKind::Delete
        | FrameKind::MultiGet
        | FrameKind::MultiPut => Request::decode(*kind, body)?.encode(&mut out),
        FrameKind::Pong
        | FrameKind::TopologyReply
        | FrameKind::StatusReply
        | FrameKind::Value
        | FrameKind::Absent
        | FrameKind::Done
        | FrameKind::Values
        | FrameKind::Siblings
        | FrameKind::Outcomes
        | FrameKind::Error => Reply::decode(*kind, body)?.encode(&mut out),
    }
    Ok(out)
}

/// Reads every frame of a stream the way a connection does, then every body; `Err` closes the connection.
pub(crate) fn read_stream(mut stream: &[u8]) -> Result<usize, DecodeError> {
    let mut frames = 0;
    while let Parsed::Frame { frame, bytes } = parse_frame(stream, limits::BODY_BYTES_MAX)? {
        assert!(bytes >= FRAME_HEADER_BYTES && bytes <= stream.len());
        recode(&(frame.header.kind, frame.body.to_vec()))?;
        if frame.header.kind == FrameKind::TopologyReply {
            let _ = Topology::decode(frame.body);
        }
        frames += 1;
        stream = &stream[bytes..];
    }
    Ok(frames)
}
