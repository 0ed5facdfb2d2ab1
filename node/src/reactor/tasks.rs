//! Tasks on the core's executor, and knowing whether one can run.
//!
//! A core that has nothing to do blocks in its own ring, where the executor cannot wake it. So it must know that no task is
//! runnable: every task is polled with a waker that raises a flag first. The driver clears the flag, lets the executor run
//! everything once, and blocks only when the flag has stayed down. This is sound because tasks of a core wait only for its
//! ring, its timers and each other; nothing else may wake them while the core blocks.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Wake, Waker};

/// The tasks of a core.
pub(super) struct Tasks {
    runnable: Arc<AtomicBool>,
    alive: Rc<Cell<usize>>,
}

struct Notice {
    runnable: Arc<AtomicBool>,
    executor: OnceLock<Waker>,
}

impl Wake for Notice {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // Relaxed: only the core's own thread reads it.
        self.runnable.store(true, Ordering::Relaxed);
        if let Some(waker) = self.executor.get() {
            waker.wake_by_ref();
        }
    }
}

impl Tasks {
    pub(super) fn new() -> Tasks {
        Tasks { runnable: Arc::new(AtomicBool::new(false)), alive: Rc::new(Cell::new(0)) }
    }

    /// Queues a task; its first step is taken later, never within this call.
    pub(super) fn spawn(&self, future: impl Future<Output = ()> + 'static) {
        self.runnable.store(true, Ordering::Relaxed);
        self.alive.set(self.alive.get() + 1);
        let alive = self.alive.clone();
        let notice = Arc::new(Notice { runnable: self.runnable.clone(), executor: OnceLock::new() });
        let waker = Waker::from(notice.clone());
        let task = async move {
            let mut future = pin!(future);
            poll_fn(|context| {
                notice.executor.get_or_init(|| context.waker().clone());
                future.as_mut().poll(&mut Context::from_waker(&waker))
            })
            .await;
            alive.set(alive.get() - 1);
        };
        // Into the queue rather than run at once: the caller may be in the middle of something.
        let queue = glommio::executor().current_task_queue();
        glommio::spawn_local_into(task, queue).expect("the queue that runs exists").detach();
    }

    /// Whether a task became runnable since this was last asked.
    pub(super) fn take_runnable(&self) -> bool {
        self.runnable.swap(false, Ordering::Relaxed)
    }

    /// Tasks that have not ended.
    pub(super) fn alive(&self) -> usize {
        self.alive.get()
    }
}
