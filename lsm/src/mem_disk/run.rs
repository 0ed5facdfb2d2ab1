//! Drives futures to their end on the calling thread, for tests: no threads, no timers, nothing to wait for.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

/// Polls that [`block_on`] and [`try_run`] grant a future before they call it stuck.
const POLLS_MAX: u32 = 100_000;

/// Runs a future that never waits for anything outside itself.
///
/// # Panics
/// If it is still pending after a hundred thousand polls: it waits for something that will not come.
pub fn block_on<F: Future>(future: F) -> F::Output {
    try_run(future).expect("the future waits for something that never comes")
}

/// Runs a future until it ends, or gives up on it: `None` when it is stuck, as everything is after a power cut.
pub fn try_run<F: Future>(future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    for _ in 0..POLLS_MAX {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return Some(output);
        }
    }
    None
}

/// Polls once.
pub fn poll_once<F: Future + ?Sized>(future: std::pin::Pin<&mut F>) -> Option<F::Output> {
    match future.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}
