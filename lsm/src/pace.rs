//! How the engine shares its core with the work it runs beside.

use std::future::Future;

use crate::Class;

/// Asked by every loop that may run long, at each block.
pub trait Pace: Clone + 'static {
    /// Whether something else waits for the core.
    fn should_yield(&self) -> bool;
    /// Lets everything else run once.
    fn yield_now(&self) -> impl Future<Output = ()> + 'static;
    /// Waits until background work may move another `bytes`.
    fn throttle(&self, bytes: usize, class: Class) -> impl Future<Output = ()> + 'static;
}
