//! How background work shares a core with the requests it serves.
//!
//! Measured: a job that yields only when its time is up holds up a lone client by that time; one that also yields as soon as
//! the ring has something costs it next to nothing and still gets the rest of the core.

use std::rc::Rc;
use std::time::Duration;

use ferrite_lsm::{Class, Pace};

use super::shared::Shared;

/// How long background work runs before it lets others in, even if nothing is known to wait.
const SLICE: Duration = Duration::from_micros(100);

/// The pace of a core's background work.
#[derive(Clone)]
pub struct RingPace(pub(super) Rc<Shared>);

impl Pace for RingPace {
    fn should_yield(&self) -> bool {
        self.0.ring.is_pending() || self.0.mailbox.has_news() || self.0.slice_start.get().elapsed() >= SLICE
    }

    fn yield_now(&self) -> impl Future<Output = ()> + 'static {
        let mut yielded = false;
        std::future::poll_fn(move |context| {
            if yielded {
                return std::task::Poll::Ready(());
            }
            yielded = true;
            context.waker().wake_by_ref();
            std::task::Poll::Pending
        })
    }

    fn throttle(&self, bytes: usize, class: Class) -> impl Future<Output = ()> + 'static {
        let wait = match class {
            Class::Log | Class::Read => None,
            Class::Flush | Class::Background => self.0.background_delay(bytes),
        };
        let shared = self.0.clone();
        async move {
            if let Some(until_ns) = wait {
                shared.sleep_until(until_ns).await;
            }
        }
    }
}
