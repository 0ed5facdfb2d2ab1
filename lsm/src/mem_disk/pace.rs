//! A pace for tests: yields as often as asked, never throttles.

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use crate::{Class, Pace};

/// A [`Pace`] that asks for a yield at every n-th question.
#[derive(Clone, Debug, Default)]
pub struct MemPace {
    every: u32,
    asked: Rc<Cell<u32>>,
    throttled_bytes: Rc<Cell<u64>>,
}

impl MemPace {
    /// Never asks for a yield.
    pub fn new() -> MemPace {
        MemPace::default()
    }

    /// Asks for a yield at every `every`-th question.
    pub fn yielding(every: u32) -> MemPace {
        assert!(every > 0);
        MemPace { every, ..MemPace::default() }
    }

    /// Bytes that went through [`Pace::throttle`].
    pub fn throttled_bytes(&self) -> u64 {
        self.throttled_bytes.get()
    }
}

impl Pace for MemPace {
    fn should_yield(&self) -> bool {
        self.asked.set(self.asked.get().wrapping_add(1));
        self.every > 0 && self.asked.get().is_multiple_of(self.every)
    }

    fn yield_now(&self) -> impl Future<Output = ()> + 'static {
        Yield { done: false }
    }

    fn throttle(&self, bytes: usize, _: Class) -> impl Future<Output = ()> + 'static {
        self.throttled_bytes.set(self.throttled_bytes.get() + bytes as u64);
        std::future::ready(())
    }
}

/// Pending once.
struct Yield {
    done: bool,
}

impl Future for Yield {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.done {
            return Poll::Ready(());
        }
        self.done = true;
        context.waker().wake_by_ref();
        Poll::Pending
    }
}
