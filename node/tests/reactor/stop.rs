//! How cores end.

use std::io::Write;
use std::sync::atomic::AtomicBool;

use ferrite_node::reactor::{CoreError, Post, ReactorOptions};
use socket2::SockRef;

use crate::{Node, Seen, ask};

/// A core whose time to drain was over ended as if all were in order, and so did its process.
#[test]
fn a_core_that_does_not_drain_in_time_says_what_is_left() {
    let seen = Seen { never_drains: AtomicBool::new(true), ..Seen::default() };
    let options = ReactorOptions { drain_ms: 20, ..ReactorOptions::default() };
    let node = Node::start_seen(2, options, seen);
    // By way of the other core, which is open then, too.
    assert_eq!(ask(&mut node.connect(), b"h"), b"h");
    node.posts.iter().for_each(Post::stop);
    for thread in node.threads {
        match thread.join().expect("no panic") {
            Err(CoreError::Disorder(why)) => assert_eq!(why, "something was left"),
            ended => panic!("{ended:?}"),
        }
    }
}

/// A client that reads nothing holds a core up until its time is over; that is no fault of what the core holds.
#[test]
fn a_core_that_has_drained_ends_in_order_whoever_does_not_read() {
    let node = Node::start(1, ReactorOptions { drain_ms: 20, ..ReactorOptions::default() });
    let mut sleeper = node.connect();
    SockRef::from(&sleeper).set_recv_buffer_size(64 * 1024).unwrap();
    sleeper.write_all(&[1, 0, b'k']).unwrap();
    assert_eq!(ask(&mut sleeper, b"e"), b"e");
    // Three megabytes for the first, of which its socket takes a part.
    assert_eq!(ask(&mut node.connect(), b"K"), b"K");
    node.stop();
    drop(sleeper);
}

/// A core that was told to stop before it had opened its data ended as if it had done so in order.
#[test]
fn a_core_that_does_not_open_in_the_time_of_a_stop_says_so() {
    let seen = Seen { core_1_held: AtomicBool::new(true), ..Seen::default() };
    let node = Node::start_seen(2, ReactorOptions { drain_ms: 20, ..ReactorOptions::default() }, seen);
    assert_eq!(ask(&mut node.connect(), b"e"), b"e");
    node.posts.iter().for_each(Post::stop);
    let ended = node.threads.into_iter().map(|thread| thread.join().expect("no panic"));
    let ended: Vec<_> = ended.collect();
    assert!(
        matches!(&ended[..], [Ok(()), Err(CoreError::Disorder(why))] if why.contains("not open")),
        "{ended:?}"
    );
}
