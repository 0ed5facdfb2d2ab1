//! A multi-get's answers share one reply, whose length is bounded.

use ferrite_wire::{ErrorCode, Item, Reply, Version, limits};

use super::*;

const VALUE_BYTES: usize = 40_000;

fn multi_get(keys: &[Vec<u8>]) -> Vec<u8> {
    let keys: Vec<_> = keys.iter().map(|key| Key::plain(key)).collect();
    frame_of(FrameKind::MultiGet, 9, 0, |out| Request::encode_multi_get(Epoch(0), Level::One, &keys, out))
}

#[test]
fn what_a_reply_cannot_carry_is_refused_and_what_is_small_enough_after_it_is_not() {
    let (bench, shard) = alone();
    let connection = client(&bench, &shard);
    let long = |number: usize| format!("long{number}").into_bytes();
    let fit = limits::BODY_BYTES_MAX / (VALUE_BYTES + Version::BYTES + 8);
    for number in 0..fit + 3 {
        let value = vec![number as u8; VALUE_BYTES];
        receive(&shard, connection, &request_frame(1, &put(&long(number), &value, Level::One)));
        pass(&bench, &shard, 1);
    }
    receive(&shard, connection, &request_frame(2, &put(b"short", b"small", Level::One)));
    pass(&bench, &shard, 1);
    assert_eq!(bench.frames(connection).len(), fit + 4);

    let mut keys: Vec<_> = (0..fit + 3).map(long).collect();
    keys.push(b"short".to_vec());
    keys.push(b"nobody".to_vec());
    receive(&shard, connection, &multi_get(&keys));
    bench.run();
    let frames = bench.frames(connection);
    let [(header, body)] = &frames[..] else { panic!("one reply, not {}", frames.len()) };
    assert!(body.len() <= limits::BODY_BYTES_MAX);
    let Ok(Reply::Values(items)) = Reply::decode(header.kind, body) else { panic!("{:?}", header.kind) };
    let items: Vec<_> = items.iter().collect();
    assert_eq!(items.len(), keys.len());
    for (number, item) in items[..fit].iter().enumerate() {
        let Item::Value { value, .. } = item else { panic!("{number}: {item:?}") };
        assert!(value.len() == VALUE_BYTES && value.iter().all(|byte| *byte == number as u8));
    }
    for item in &items[fit..fit + 3] {
        assert!(matches!(item, Item::Error(ErrorCode::TooLarge)), "{item:?}");
    }
    assert!(matches!(items[fit + 3], Item::Value { value: b"small", .. }), "{:?}", items[fit + 3]);
    assert!(matches!(items[fit + 4], Item::Absent { .. }), "{:?}", items[fit + 4]);
}
