//! Tasks on virtual time: run when woken, on one thread, in the order of waking or any other that is asked for.
//!
//! A task belongs to a core of a process. When the process dies its tasks are dropped where they stand, as a machine's would be.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Wake, Waker};

/// Names a process: a node and which of its lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ProcessId {
    /// The node's index.
    pub(crate) node: usize,
    /// How often it has been started.
    pub(crate) life: u32,
}

/// Ids of woken tasks. Wakers must be `Send`, hence the lock; there is one thread and nobody waits for it.
type Woken = Arc<Mutex<Vec<u64>>>;

struct TaskWaker {
    task: u64,
    woken: Woken,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.woken.lock().expect("no holder panics").push(self.task);
    }
}

struct Task {
    process: ProcessId,
    core: u16,
    future: Pin<Box<dyn Future<Output = ()>>>,
}

/// The tasks of all processes.
#[derive(Default)]
pub(crate) struct Executor {
    tasks: BTreeMap<u64, Option<Task>>,
    next: u64,
    woken: Woken,
}

/// A task taken out to be polled; the executor is not borrowed meanwhile.
pub(crate) struct Running {
    id: u64,
    task: Task,
    waker: Waker,
}

impl Executor {
    /// Adds a task; it runs at the next turn.
    pub(crate) fn spawn(
        &mut self,
        process: ProcessId,
        core: u16,
        future: impl Future<Output = ()> + 'static,
    ) {
        let id = self.next;
        self.next += 1;
        self.tasks.insert(id, Some(Task { process, core, future: Box::pin(future) }));
        self.woken.lock().expect("no holder panics").push(id);
    }

    /// Wakes a task once more.
    pub(crate) fn wake(&mut self, task: u64) {
        self.woken.lock().expect("no holder panics").push(task);
    }

    /// How many wakings wait.
    pub(crate) fn woken(&self) -> usize {
        self.woken.lock().expect("no holder panics").len()
    }

    /// Takes out a woken task: the one whose waking is at place `turn` of those that wait, or a later one.
    pub(crate) fn take_woken(&mut self, turn: usize) -> Option<Running> {
        loop {
            let id = {
                let mut woken = self.woken.lock().expect("no holder panics");
                let turn = turn.min(woken.len().checked_sub(1)?);
                woken.remove(turn)
            };
            // A task may have ended, or be woken twice.
            if let Some(task) = self.tasks.get_mut(&id).and_then(Option::take) {
                let waker = Waker::from(Arc::new(TaskWaker { task: id, woken: self.woken.clone() }));
                return Some(Running { id, task, waker });
            }
        }
    }

    /// Puts a polled task back, unless it has ended or its process has died meanwhile.
    pub(crate) fn put_back(&mut self, running: Running, ended: bool) {
        if ended {
            self.tasks.remove(&running.id);
        } else if let Some(slot) = self.tasks.get_mut(&running.id) {
            *slot = Some(running.task);
        }
    }

    /// Whether a core of a process has tasks that have not ended.
    pub(crate) fn has_tasks(&self, process: ProcessId, core: u16) -> bool {
        self.tasks.values().flatten().any(|task| (task.process, task.core) == (process, core))
    }

    /// Takes out all tasks; the caller drops them when nothing is borrowed.
    #[must_use]
    pub(crate) fn take_all(&mut self) -> Vec<impl Sized + use<>> {
        std::mem::take(&mut self.tasks).into_values().collect()
    }

    /// Takes out all tasks of a process; the caller drops them when nothing is borrowed.
    #[must_use]
    pub(crate) fn take_process(&mut self, process: ProcessId) -> Vec<impl Sized + use<>> {
        let belongs = |task: &Option<Task>| task.as_ref().is_some_and(|task| task.process == process);
        let ids: Vec<u64> = self.tasks.iter().filter(|(_, task)| belongs(task)).map(|(id, _)| *id).collect();
        ids.iter().filter_map(|id| self.tasks.remove(id)).collect()
    }
}

impl Running {
    /// Which it is.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// Whose it is.
    pub(crate) fn core(&self) -> (ProcessId, u16) {
        (self.task.process, self.task.core)
    }

    /// Polls it; true = it has ended.
    pub(crate) fn poll(&mut self) -> bool {
        self.task.future.as_mut().poll(&mut Context::from_waker(&self.waker)).is_ready()
    }
}
