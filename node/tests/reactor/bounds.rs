//! What a core takes on: of readers that sleep, of long frames, of connections.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use ferrite_node::reactor::ReactorOptions;
use socket2::SockRef;

use crate::{Node, PATIENCE, answer, ask, frame};

#[test]
fn a_reader_that_sleeps_is_no_longer_read_from_and_harms_nobody() {
    let options =
        ReactorOptions { pause_bytes: 1 << 20, out_bytes_max: 2 << 20, ..ReactorOptions::default() };
    let node = Node::start(1, options);
    let mut sleeper = node.connect();
    let mut other = node.connect();
    // Each asks for a megabyte; one at a time, so that pausing is what stops them.
    let mut asked = 0;
    while node.seen.pauses.load(Ordering::SeqCst) == 0 {
        assert!(asked < 1000, "a connection that does not read its answers was read from for ever");
        let mut request = Vec::new();
        frame(&mut request, b"m");
        sleeper.write_all(&request).unwrap();
        asked += 1;
        assert_eq!(ask(&mut other, b"e"), b"e");
    }
    let mut buffer = vec![0; 1 << 20];
    for _ in 0..asked {
        sleeper.read_exact(&mut buffer).unwrap();
        assert!(buffer.iter().all(|byte| *byte == b'm'));
    }
    assert_eq!(ask(&mut sleeper, b"eawake"), b"eawake");
    node.stop();
}

/// They wait for their share of each turn, and none waits for ever.
#[test]
fn all_that_ask_for_much_are_answered() {
    let node = Node::start(1, ReactorOptions::default());
    let mut many: Vec<TcpStream> = (0..12).map(|_| node.connect()).collect();
    let mut other = node.connect();
    let mut buffer = vec![0; 1 << 20];
    for _ in 0..3 {
        // The first answer makes each of them one that asks for much; the next two find it waiting, then paused.
        for stream in &mut many {
            stream.write_all(&[1, 0, b'm', 1, 0, b'm']).unwrap();
            assert_eq!(ask(&mut other, b"e"), b"e");
        }
        for stream in &mut many {
            for _ in 0..2 {
                stream.read_exact(&mut buffer).unwrap();
            }
        }
    }
    node.stop();
}

/// Each connection was bounded for itself, and a hundred of them that did not read took a gigabyte.
#[test]
fn readers_that_sleep_are_bounded_together_and_closed_when_they_are_in_the_way() {
    const ALL: usize = 8 << 20;
    let options = ReactorOptions {
        pause_bytes: 64 << 20,
        out_bytes_max: 64 << 20,
        out_all_bytes_max: ALL,
        slow_reader_ms: 20,
        ..ReactorOptions::default()
    };
    let node = Node::start(1, options);
    let mut sleepers: Vec<TcpStream> = (0..4).map(|_| node.connect()).collect();
    let mut other = node.connect();
    let began = Instant::now();
    // How many have to go depends on whose bytes the kernel took first: once the others have room, who is left may sleep on.
    while node.seen.closed.load(Ordering::SeqCst) == 0 {
        assert!(began.elapsed() < PATIENCE, "connections that do not read stay for ever");
        for sleeper in &mut sleepers {
            // Refused once it is closed.
            sleeper.write_all(&[1, 0, b'm']).ok();
        }
        assert_eq!(ask(&mut other, b"e"), b"e", "short answers always have room");
    }
    let number = sleepers.len();
    drop(sleepers);
    while node.seen.closed.load(Ordering::SeqCst) < number {
        assert_eq!(ask(&mut other, b"e"), b"e");
    }
    let most = node.seen.unread_bytes_max.load(Ordering::SeqCst);
    assert!(most > ALL / 4 && most <= ALL + 4096, "{most} bytes");
    other.write_all(&[1, 0, b'm']).unwrap();
    let mut buffer = vec![0; 1 << 20];
    other.read_exact(&mut buffer).unwrap();
    node.stop();
}

/// Where nobody is closed the bound holds all the same.
#[test]
fn readers_that_sleep_stay_within_the_bound_of_all_together() {
    const ALL: usize = 8 << 20;
    let options = ReactorOptions {
        pause_bytes: 64 << 20,
        out_bytes_max: 64 << 20,
        out_all_bytes_max: ALL,
        slow_reader_ms: 3_600_000,
        ..ReactorOptions::default()
    };
    let node = Node::start(1, options);
    let mut sleepers: Vec<TcpStream> = (0..4).map(|_| node.connect()).collect();
    let mut other = node.connect();
    for _ in 0..40 {
        for sleeper in &mut sleepers {
            sleeper.write_all(&[1, 0, b'm']).unwrap();
        }
        assert_eq!(ask(&mut other, b"e"), b"e", "short answers always have room");
    }
    let most = node.seen.unread_bytes_max.load(Ordering::SeqCst);
    assert!(most > ALL / 4 && most <= ALL + 4096, "{most} bytes");
    drop(sleepers);
    node.stop();
}

/// What the kernel takes for a client that does not read it keeps, in no bound of ours: megabytes for each, and the time to copy them.
#[test]
fn the_kernel_keeps_little_for_a_client_that_does_not_read() {
    let options = ReactorOptions { pause_bytes: 1 << 20, ..ReactorOptions::default() };
    let node = Node::start(1, options);
    let mut sleeper = node.connect();
    // So that its side does not take what ours does not keep.
    SockRef::from(&sleeper).set_recv_buffer_size(64 * 1024).unwrap();
    assert_eq!(ask(&mut sleeper, b"l"), b"welcome");
    let mut other = node.connect();
    const ASKED: usize = 8;
    // The first answer stays on its way, and it is not read from any more. Sockets that took megabytes would take that one and the next ones meanwhile.
    for _ in 0..ASKED {
        sleeper.write_all(&[1, 0, b'm']).unwrap();
        for _ in 0..100 {
            assert_eq!(ask(&mut other, b"e"), b"e");
        }
    }
    assert_eq!(
        node.seen.pauses.load(Ordering::SeqCst),
        1,
        "each answer that has left lets it be read from again"
    );
    sleeper.write_all(&[1, 0, b'o']).unwrap();
    // So long that it is no long turn.
    let began = Instant::now();
    while began.elapsed() < Duration::from_millis(300) {
        assert_eq!(ask(&mut other, b"e"), b"e");
    }
    let mut buffer = vec![0; 1 << 20];
    for _ in 0..ASKED {
        sleeper.read_exact(&mut buffer).unwrap();
    }
    assert_eq!(answer(&mut sleeper), b"old", "it has lain in its socket since");
    // By its answer the socket is found empty; before, what comes may find the last pause not ended.
    assert_eq!(ask(&mut sleeper, b"e"), b"e");
    assert_eq!(ask(&mut sleeper, b"o"), b"new");
    assert_eq!(ask(&mut sleeper, b"eawake"), b"eawake");
    node.stop();
}

/// It was received with the first of them, and seemed as old as the last pause only, which was a short one.
#[test]
fn what_waits_behind_long_answers_grows_older_with_each_of_them() {
    let node = Node::start(1, ReactorOptions::default());
    let mut client = node.connect();
    // So that each answer is on its way until it is read.
    SockRef::from(&client).set_recv_buffer_size(64 * 1024).unwrap();
    assert_eq!(ask(&mut client, b"l"), b"welcome");
    let mut other = node.connect();
    const ASKED: usize = 10;
    let mut requests = [1, 0, b'M'].repeat(ASKED);
    frame(&mut requests, b"o");
    client.write_all(&requests).unwrap();
    let mut buffer = vec![0; 1 << 20];
    for _ in 0..ASKED {
        let began = Instant::now();
        while began.elapsed() < Duration::from_millis(100) {
            assert_eq!(ask(&mut other, b"e"), b"e");
        }
        client.read_exact(&mut buffer).unwrap();
    }
    assert_eq!(answer(&mut client), b"old");
    assert!(node.seen.pauses.load(Ordering::SeqCst) >= ASKED - 1, "for it was paused each time");
    assert_eq!(ask(&mut client, b"e"), b"e");
    assert_eq!(ask(&mut client, b"o"), b"new");
    node.stop();
}

/// The end of what lay there through the first pause was taken for the end of all that lay there: what had lain through the second one was new.
#[test]
fn what_lay_behind_a_long_answer_is_old_however_much_lay_behind_the_one_before() {
    let node = Node::start(1, ReactorOptions::default());
    let mut client = node.connect();
    SockRef::from(&client).set_recv_buffer_size(64 * 1024).unwrap();
    assert_eq!(ask(&mut client, b"l"), b"welcome");
    let mut other = node.connect();
    // What is not answered, in frames of about a kilobyte.
    let silent = |bytes: usize| {
        let mut frames = Vec::new();
        while frames.len() < bytes {
            frame(&mut frames, &[b'k'; 1000]);
        }
        frames
    };
    client.write_all(&[1, 0, b'm']).unwrap();
    let mut writer = client.try_clone().unwrap();
    let writing = std::thread::spawn(move || {
        // Four megabytes, and more than is received at a time on either side of them.
        let parts = [&silent((4 << 20) - 300_000)[..], &[1, 0, b'm'], &silent(600_000), &[1, 0, b'o']];
        writer.write_all(&parts.concat()).unwrap();
    });
    let mut buffer = vec![0; 1 << 20];
    for (pause, long) in [(1, Duration::from_millis(300)), (2, Duration::from_millis(600))] {
        let (asked, mut began) = (Instant::now(), Instant::now());
        while began.elapsed() < long {
            assert!(asked.elapsed() < PATIENCE, "pause {pause} does not begin");
            assert_eq!(ask(&mut other, b"e"), b"e");
            if node.seen.pauses.load(Ordering::SeqCst) < pause || pause == 2 && !writing.is_finished() {
                began = Instant::now();
            }
        }
        client.read_exact(&mut buffer).unwrap();
    }
    assert_eq!(answer(&mut client), b"old");
    writing.join().unwrap();
    assert_eq!(ask(&mut client, b"e"), b"e");
    assert_eq!(ask(&mut client, b"o"), b"new");
    node.stop();
}

/// Each connection was bounded for itself: two thousand that sent most of a long frame and then nothing took gigabytes.
#[test]
fn long_frames_share_room_and_wait_for_one_another() {
    let options =
        ReactorOptions { receive_bytes: 4096, in_all_bytes_max: 100_000, ..ReactorOptions::default() };
    let node = Node::start(1, options);
    let long = vec![b'e'; 60_000];
    let mut request = Vec::new();
    frame(&mut request, &long);
    let (front, rest) = request.split_at(30_000);
    let mut streams: Vec<TcpStream> = (0..3).map(|_| node.connect()).collect();
    for stream in &mut streams {
        stream.write_all(front).unwrap();
    }
    // One is enough to take the room of another; both that wait are served once it has gone on.
    let mut other = node.connect();
    while node.seen.large_waits.load(Ordering::SeqCst) < 2 {
        assert_eq!(ask(&mut other, b"e"), b"e", "short frames wait for nothing");
    }
    // Whichever has the room, the others' rest waits in their sockets.
    for stream in &mut streams {
        stream.write_all(rest).unwrap();
    }
    for stream in &mut streams {
        assert_eq!(answer(stream), long);
    }
    node.stop();
}

/// The longer receives of connections that had sent a long frame, and then rested, were counted as if a frame were under way: with a few of them nobody
/// could send a long one any more, for as long as they rested.
#[test]
fn long_frames_wait_for_nobody_who_rests() {
    let options =
        ReactorOptions { receive_bytes: 4096, in_all_bytes_max: 70_000, ..ReactorOptions::default() };
    let node = Node::start(1, options);
    let long = vec![b'e'; 60_000];
    let mut resting: Vec<TcpStream> = (0..20).map(|_| node.connect()).collect();
    for stream in &mut resting {
        assert_eq!(ask(stream, &long), long);
    }
    assert_eq!(ask(&mut resting[0], &long), long);
    node.stop();
}

/// Its answers piled up while it had sent most of a long frame: it kept the room, was not read from, and so ran out of no time. All that sent long
/// frames waited for it for ever.
#[test]
fn a_client_that_does_not_read_does_not_keep_the_room_for_long_frames() {
    let options = ReactorOptions {
        receive_bytes: 4096,
        pause_bytes: 2 << 20,
        in_all_bytes_max: 50_000,
        slow_reader_ms: 20,
        ..ReactorOptions::default()
    };
    let node = Node::start(1, options);
    let (mut sleeper, mut other, mut victim) = (node.connect(), node.connect(), node.connect());
    SockRef::from(&sleeper).set_recv_buffer_size(64 * 1024).unwrap();
    let mut long = Vec::new();
    frame(&mut long, &vec![b'e'; 60_000]);
    let mut settle = || (0..200).for_each(|_| assert_eq!(ask(&mut other, b"e"), b"e"));
    assert_eq!(ask(&mut sleeper, b"l"), b"welcome");
    // The first answer stays on its way, the frame is not whole, and then more than a socket takes is to be answered.
    sleeper.write_all(&[1, 0, b'm', 1, 0, b'k']).unwrap();
    settle();
    sleeper.write_all(&long[..50_000]).unwrap();
    settle();
    assert_eq!(ask(&mut victim, b"K"), b"K");
    sleeper.write_all(&long[50_000..50_001]).unwrap();
    settle();
    victim.write_all(&long).unwrap();
    assert_eq!(answer(&mut victim).len(), 60_000);
    assert!(node.seen.large_waits.load(Ordering::SeqCst) > 0, "it had to wait");
    node.stop();
}

/// Two were paused in the middle of a long frame, and gave back the room for what had not come. When they had read their answers they were put behind a third, whose
/// frame found no room beside the parts that they had kept: nobody was read from again.
#[test]
fn long_frames_that_were_paused_do_not_wait_behind_others_with_a_part_of_the_room() {
    let options = ReactorOptions {
        receive_bytes: 4096,
        pause_bytes: 2 << 20,
        // Three quarters are for frames: two of these.
        in_all_bytes_max: 170_000,
        slow_reader_ms: 3_600_000,
        ..ReactorOptions::default()
    };
    let node = Node::start(1, options);
    let (mut other, mut third) = (node.connect(), node.connect());
    let mut paused: Vec<TcpStream> = (0..2).map(|_| node.connect()).collect();
    let mut long = Vec::new();
    frame(&mut long, &vec![b'e'; 60_000]);
    let mut settle = || (0..200).for_each(|_| assert_eq!(ask(&mut other, b"e"), b"e"));
    for stream in &mut paused {
        SockRef::from(&*stream).set_recv_buffer_size(64 * 1024).unwrap();
        assert_eq!(ask(stream, b"l"), b"welcome");
        stream.write_all(&[1, 0, b'm', 1, 0, b'k']).unwrap();
        settle();
        stream.write_all(&long[..50_000]).unwrap();
        settle();
        assert_eq!(ask(&mut third, b"K"), b"K");
        stream.write_all(&long[50_000..50_001]).unwrap();
        settle();
    }
    assert!(node.seen.pauses.load(Ordering::SeqCst) >= 2);
    third.write_all(&long).unwrap();
    settle();
    assert!(node.seen.large_waits.load(Ordering::SeqCst) > 0, "it has to wait");
    let mut answers = vec![0; 4 << 20];
    for stream in &mut paused {
        stream.write_all(&long[50_001..]).unwrap();
        stream.read_exact(&mut answers).unwrap();
        assert_eq!(answer(stream).len(), 60_000);
    }
    assert_eq!(answer(&mut third).len(), 60_000);
    node.stop();
}

/// It took a part of its answers now and then, and kept the room for as long as they lasted: minutes.
#[test]
fn a_client_that_reads_slowly_does_not_keep_the_room_for_long_frames() {
    let options = ReactorOptions {
        receive_bytes: 4096,
        pause_bytes: 2 << 20,
        in_all_bytes_max: 50_000,
        slow_reader_ms: 200,
        ..ReactorOptions::default()
    };
    let node = Node::start(1, options);
    let (mut slow, mut other, mut third) = (node.connect(), node.connect(), node.connect());
    SockRef::from(&slow).set_recv_buffer_size(64 * 1024).unwrap();
    let mut long = Vec::new();
    frame(&mut long, &vec![b'e'; 60_000]);
    let mut settle = || (0..200).for_each(|_| assert_eq!(ask(&mut other, b"e"), b"e"));
    assert_eq!(ask(&mut slow, b"l"), b"welcome");
    slow.write_all(&[1, 0, b'm', 1, 0, b'k']).unwrap();
    settle();
    slow.write_all(&long[..50_000]).unwrap();
    settle();
    // 13 MiB.
    (0..4).for_each(|_| assert_eq!(ask(&mut third, b"K"), b"K"));
    slow.write_all(&long[50_000..50_001]).unwrap();
    settle();
    third.write_all(&long).unwrap();
    let (mut part, mut read) = ([0; 8192], 0);
    // Seconds for all of it, and never so long without a part that this alone would be its end.
    while let Ok(bytes @ 1..) = slow.read(&mut part) {
        read += bytes;
        assert!(read < 12 << 20, "it keeps the room for as long as it pleases");
        let began = Instant::now();
        while began.elapsed() < Duration::from_millis(1) {
            assert_eq!(ask(&mut other, b"e"), b"e");
        }
    }
    assert_eq!(answer(&mut third).len(), 60_000);
    node.stop();
}

/// What had been asked of another node lay in the kernel when its connection was cut, and was carried out once the way was free again: a write long given up, over
/// what its client had written since.
#[test]
fn what_has_not_left_when_a_connection_out_is_closed_is_never_sent() {
    let node = Node::start(1, ReactorOptions { out_bytes_max: 64 << 20, ..ReactorOptions::default() });
    let mut stream = node.connect();
    let there = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut request = Vec::new();
    frame(&mut request, format!("c{}", there.local_addr().unwrap()).as_bytes());
    stream.write_all(&request).unwrap();
    let (mut peer, _) = there.accept().unwrap();
    peer.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(answer(&mut peer), b"ehello");
    // More than the kernel takes, which has some of it.
    assert_eq!(ask(&mut stream, b"u"), b"u");
    assert_eq!(ask(&mut stream, b"e"), b"e");
    assert_eq!(ask(&mut stream, b"U"), b"U");
    (0..200).for_each(|_| assert_eq!(ask(&mut stream, b"e"), b"e"));
    let (mut part, mut came) = (vec![0; 1 << 20], 0);
    let end = loop {
        match peer.read(&mut part) {
            Ok(0) => panic!("it ends in good order, behind {came} bytes"),
            Ok(bytes) => came += bytes,
            Err(end) => break end,
        }
    };
    assert_eq!(end.kind(), ErrorKind::ConnectionReset);
    assert!(came < 24 << 20);
    node.stop();
}

#[test]
fn a_full_table_turns_connections_away() {
    let options = ReactorOptions { connections_max: 2, peer_connections: 0, ..ReactorOptions::default() };
    let node = Node::start(1, options);
    let (mut first, mut second) = (node.connect(), node.connect());
    assert_eq!(ask(&mut first, b"l"), b"welcome");
    assert_eq!(ask(&mut second, b"l"), b"welcome");
    let mut third = node.connect();
    // Turned away with an end or a reset, whichever the kernel makes of it.
    assert!(!matches!(third.read(&mut [0; 1]), Ok(1)));
    drop(first);
    while node.seen.closed.load(Ordering::SeqCst) < 1 {
        assert_eq!(ask(&mut second, b"e"), b"e");
    }
    assert_eq!(ask(&mut node.connect(), b"e"), b"e");
    node.stop();
}

/// Whoever connected first had the places: with clients on all of them, or connections that said nothing at all, a node was cut off from the others.
#[test]
fn other_nodes_get_in_however_many_clients_and_strangers_there_are() {
    let options = ReactorOptions { connections_max: 5, peer_connections: 2, ..ReactorOptions::default() };
    let node = Node::start(1, options);
    let mut clients: Vec<TcpStream> = (0..3).map(|_| node.connect()).collect();
    clients.iter_mut().for_each(|client| assert_eq!(ask(client, b"l"), b"welcome"));
    assert_eq!(ask(&mut node.connect(), b"l"), b"no place", "told, and not only cut");
    // As many that say nothing as there are places, and more.
    let mut strangers: Vec<TcpStream> = (0..10).map(|_| node.connect()).collect();
    let mut peers: Vec<TcpStream> = (0..2).map(|_| node.connect()).collect();
    peers.iter_mut().for_each(|peer| assert_eq!(ask(peer, b"p"), b"welcome"));
    clients.iter_mut().chain(&mut peers).for_each(|stream| assert_eq!(ask(stream, b"e"), b"e"));
    for stranger in &mut strangers {
        assert!(!matches!(stranger.read(&mut [0; 1]), Ok(1)), "they have given up their places");
    }
    // All have said who they are.
    let mut one_more = node.connect();
    assert!(!matches!(one_more.read(&mut [0; 1]), Ok(1)));
    assert_eq!(ask(&mut clients[0], b"e"), b"e");
    drop(peers.pop());
    while node.seen.closed.load(Ordering::SeqCst) < strangers.len() + 1 {
        assert_eq!(ask(&mut clients[0], b"e"), b"e");
    }
    assert_eq!(ask(&mut node.connect(), b"p"), b"welcome");
    node.stop();
}
