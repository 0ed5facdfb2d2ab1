//! Hinted handoff: what this node keeps for members that could not be reached, and how it is delivered. Pure: the host stores, reads
//! and sends; time is an argument.
//!
//! ```text
//!            admit            written                fetch, fetched            acked, in order
//!   a write ───────► staged ──────────► owed, by time ──────────────► in flight ──────────────► behind the watermark
//!              │                             ▲                           │                            │
//!              └─ at a cap: refused          └──── refused, lost: again from the watermark            ▼
//!                                                                                         the mark, durable; then retired
//! ```
//!
//! Hints of one target and one *stream* (the core that wrote them) make a [`Lane`]: a queue by time. Its **watermark** is the time up to which
//! the target has acknowledged everything; it never passes a hint that was not acknowledged, and it counts only once the host has it
//! durably (the *mark*). After a restart delivery goes on behind the mark, and what the target had acknowledged beyond it is sent again: a replica
//! compares versions, or joins, so that is harmless.
//!
//! | a hint | is | at a cap |
//! |---|---|---|
//! | strict | for a replica that missed a write which its level was met without | dropped, and counted by reason |
//! | sloppy | one that counted towards a level in a replica's stead | never dropped: the write is refused |
//!
//! Delivery is bounded by a window that grows by one for each window that was acknowledged fast, and is halved when acknowledgements are slow or
//! refused ([`Throttle`]): a target that has just come back has other work, too. All lanes of a core share what they may have in flight, in bytes.
//! A core of the target that does not take its hints holds up no other's, and keeps little of what these were sent on the disk ([`Lane`]).
//!
//! A hint that its target will never take (its table went, or it is longer than what is taken there now) is dropped if it is strict, and counted. A sloppy one is
//! *held back*: written again into a lane of its own, so that the queue goes on, and done with where it was once that is durable. What is held back is
//! tried once at each start, when another configuration may take it, and is there until an operator lets go of it. It takes no room from what can be delivered;
//! it has a bound of its own for each target, at which sloppy writes for that target alone are refused.
//!
//! Rejected: to drop the oldest strict hints at the cap instead of the newest. They lie behind the watermark of nothing, so each
//! would have to be deleted by itself; and the newest are the ones that reads repair first anyway.

mod lane;
mod ledger;
mod options;
mod throttle;
mod track;

pub use lane::{Fetch, Lane, Seen};
pub use ledger::{DropReason, Found, HintKind, HintRefusal, LaneId, LaneState, Ledger};
pub use options::HintOptions;
pub use throttle::Throttle;

#[cfg(test)]
mod tests;
