//! Damaged bytes: every byte flipped, every length cut, and noise. A decoder answers with a typed error, never panics,
//! and no frame whose checksum does not match is ever let through.

use crate::exercise::{read_stream, recode};
use crate::messages::{any_body, frame, header, topology};
use ferrite_wire::{
    Epoch, FrameKind, Hello, Key, Level, PROTOCOL_MAX, Parsed, PeerMessage, Reply, Request, Topology, limits,
    parse_frame,
};
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn no_flipped_bit_passes_the_checksum(body in any_body(), header in header()) {
        let whole = frame(header, &body);
        let mut bytes = whole.clone();
        for at in 0..bytes.len() {
            for bit in 0..8 {
                bytes[at] ^= 1 << bit;
                // A longer length waits for bytes; with them there, nothing but an error may come out.
                bytes.resize(whole.len() + 64, 0);
                let parsed = parse_frame(&bytes, limits::BODY_BYTES_MAX);
                prop_assert!(!matches!(parsed, Ok(Parsed::Frame { .. })), "byte {at}, bit {bit}");
                bytes.truncate(whole.len());
                bytes[at] ^= 1 << bit;
            }
        }
    }

    #[test]
    fn every_truncated_or_extended_body_is_refused(body in any_body()) {
        let opaque = matches!(body.0, FrameKind::StatusReply | FrameKind::TopologyReply);
        for len in 0..body.1.len() {
            let cut = (body.0, body.1[..len].to_vec());
            prop_assert!(opaque || recode(&cut).is_err(), "{len} of {} bytes", body.1.len());
        }
        let mut longer = body.clone();
        longer.1.push(0);
        let from_newer = body.0 == FrameKind::Hello;
        prop_assert!(opaque || from_newer || recode(&longer).is_err());
    }

    #[test]
    fn flipped_bodies_decode_to_themselves_or_not_at_all(body in any_body(), mask in 1u8..) {
        for at in 0..body.1.len() {
            let mut damaged = body.clone();
            damaged.1[at] ^= mask;
            if let Ok(again) = recode(&damaged) {
                // What follows the fields of a hello from a newer version is left alone.
                let newer = body.0 == FrameKind::Hello
                    && Hello::decode(&damaged.1).is_ok_and(|hello| hello.max > PROTOCOL_MAX);
                let understood = if newer { &damaged.1[..again.len()] } else { &damaged.1[..] };
                prop_assert_eq!(&again[..], understood, "what was understood is not what was there");
            }
        }
    }

    #[test]
    fn damaged_topologies_never_panic(topology in topology(), mask in 1u8.., noise in any::<[u8; 8]>()) {
        let mut bytes = Vec::new();
        topology.encode(&mut bytes);
        for len in 0..bytes.len() {
            prop_assert!(Topology::decode(&bytes[..len]).is_err());
        }
        for at in 0..bytes.len() {
            bytes[at] ^= mask;
            if let Ok(decoded) = Topology::decode(&bytes) {
                prop_assert_eq!(decoded.check(), Ok(()));
                let mut again = Vec::new();
                decoded.encode(&mut again);
                prop_assert_eq!(&again, &bytes);
            }
            bytes[at] ^= mask;
        }
        bytes.extend_from_slice(&noise);
        prop_assert!(Topology::decode(&bytes).is_err());
    }

    #[test]
    fn noise_never_panics(noise in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = read_stream(&noise);
        let _ = Topology::decode(&noise);
        for kind in FrameKind::ALL {
            let _ = recode(&(kind, noise.clone()));
        }
    }
}

#[test]
fn a_kind_is_only_decoded_as_what_it_is() {
    for kind in FrameKind::ALL {
        let understood = [
            Request::decode(kind, b"").map(drop),
            Reply::decode(kind, b"").map(drop),
            PeerMessage::decode(kind, b"").map(drop),
        ];
        let foreign = understood
            .iter()
            .filter(|answer| matches!(answer, Err(ferrite_wire::DecodeError::Unknown { .. })))
            .count();
        let is_apart = matches!(kind, FrameKind::Hello | FrameKind::HelloReply | FrameKind::Gossip);
        assert_eq!(foreign, if is_apart { 3 } else { 2 }, "{kind:?}");
    }
}

#[test]
fn reserved_bits_are_refused() {
    let request = Request::Get { epoch: Epoch(1), level: Level::One, options: 1, key: Key::plain(b"k") };
    let mut body = Vec::new();
    request.encode(&mut body);
    assert!(Request::decode(FrameKind::Get, &body).is_err());
    for level in 0..=u8::MAX {
        if let Ok(known) = Level::from_u8(level) {
            assert_eq!(known.to_u8(), level);
        }
    }
}
