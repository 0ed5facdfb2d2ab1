//! The client's side: one thread over a bare ring, so that it costs less than any server it measures.

use std::collections::VecDeque;
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use io_uring::{opcode, types};

use super::{MESSAGE_BYTES, RECV, RECV_BYTES, SEND, Setup, ring};

/// A server that is silent for so long has lost a wake-up.
const STALL: Duration = Duration::from_secs(2);

/// Closed loop over a bare ring: each connection has `depth` messages in the air, sent and awaited as one batch. Nothing if
/// the server stopped answering.
pub(super) fn run(streams: &[TcpStream], setup: Setup) -> Option<Vec<u32>> {
    let mut ring = ring(256).unwrap();
    let out = vec![7u8; MESSAGE_BYTES * setup.depth];
    let mut inputs: Vec<Vec<u8>> = streams.iter().map(|_| vec![0u8; RECV_BYTES]).collect();
    let mut got = vec![0usize; streams.len()];
    let mut at = vec![Instant::now(); streams.len()];
    let mut latencies = Vec::with_capacity(4_000_000);
    let until = Instant::now() + Duration::from_secs_f64(setup.seconds);
    let mut ready: VecDeque<usize> = (0..streams.len()).collect();
    let mut open = streams.len();
    loop {
        while let Some(c) = ready.pop_front() {
            let fd = types::Fd(streams[c].as_raw_fd());
            if got[c] == 0 {
                at[c] = Instant::now();
                let send =
                    opcode::Send::new(fd, out.as_ptr(), out.len() as u32).build().user_data(SEND | c as u64);
                // SAFETY: `out` and the inputs live to the end of this function, which waits for every receive.
                unsafe { ring.submission().push(&send).unwrap() };
            }
            let recv = opcode::Recv::new(fd, inputs[c].as_mut_ptr(), RECV_BYTES as u32)
                .build()
                .user_data(RECV | c as u64);
            // SAFETY: as above.
            unsafe { ring.submission().push(&recv).unwrap() };
        }
        if open == 0 {
            return Some(latencies);
        }
        let limit = types::Timespec::from(STALL);
        match ring.submitter().submit_with_args(1, &types::SubmitArgs::new().timespec(&limit)) {
            Ok(_) => {}
            Err(e) if e.raw_os_error() == Some(libc::EINTR) => continue,
            Err(e) if e.raw_os_error() == Some(libc::ETIME) => return None,
            Err(e) => panic!("client enter: {e}"),
        }
        let now = Instant::now();
        for entry in ring.completion() {
            if entry.user_data() & RECV == 0 {
                continue;
            }
            let c = (entry.user_data() & 0xffff_ffff) as usize;
            assert!(entry.result() > 0, "connection closed early: {}", entry.result());
            got[c] += entry.result() as usize;
            if got[c] < out.len() {
                ready.push_back(c);
                continue;
            }
            got[c] = 0;
            latencies.push((now - at[c]).as_nanos() as u32);
            if now < until {
                ready.push_back(c);
            } else {
                open -= 1;
            }
        }
    }
}
