//! Gossip: which members there are, which of them live, and what each says of itself. Liveness alone; who owns what is decided
//! elsewhere, by consensus.
//!
//! Failure detection and dissemination are SWIM with suspicion (Das, Gupta and Motivala, 2002), by the crate foca. Each round a
//! node asks one member whether it lives; if no answer comes, neither straight nor through others, the member is suspect, and down
//! if it does not object in time. News rides on these messages and is passed on a logarithmic number of times.
//!
//! [`Membership`] is a state machine. It has no clock and no sockets: the host calls it with the time, and carries out
//! what it asks for in [`Output`].
//!
//! | part | what |
//! |---|---|
//! | `membership` | the state machine |
//! | `host` | what it begins with, and what it asks for |
//! | `protocol` | foca |
//! | `timers` | what is due when, in the time in which this process ran |
//! | `identity` | node, life, address |
//! | `packet`, `swim` | bytes |
//! | `plausible` | what a sound packet may still not say |
//! | `seeds` | where others may be, and when they are asked |
//! | `digest`, `report`, `spread` | what a node says of itself: its form, when it says it, how it is passed on |
//! | `view` | verdicts, and since when each is held |
//!
//! Beyond the paper and the crate:
//!
//! * A process that stood still judges nobody by it: time by which its timers were late does not count.
//! * A node that hears nobody gives the others three times as long before it declares them down: most likely it is the deaf one.
//! * Who sends something to a suspect tells it so.
//! * A node that finds a higher life of itself in the cluster, because its clock or its disk has lost time, goes above it.
//! * A node that is down itself is not believed when it tells another so, unless most are down.
//! * A node that was declared down comes back without the verdicts it came to meanwhile.
//! * A core that stands still is reported by its own node, and counts as absent though the node answers.
//!
//! Invariants: a packet that is refused changes nothing but what is known of this node's own time; what is held of members is
//! bounded by [`MEMBERS_MAX`], a packet by [`PACKET_BYTES_MAX`], what is to be passed on by the members; between two calls nothing
//! waits in here but timers.
//!
//! What it refuses: to own sockets, to say who is a member by right (the topology does), to encrypt or authenticate.

mod digest;
mod fault;
mod host;
mod identity;
mod membership;
mod options;
mod packet;
mod plausible;
mod protocol;
mod random;
mod report;
mod seeds;
mod spread;
mod swim;
mod timers;
mod view;

pub use digest::{CoreDigest, DIGEST_BYTES_MAX, Digest, Fence, TablesHash, VERSION_BYTES_MAX};
pub use fault::Fault;
pub use host::{Output, SEEDS_MAX, Start};
pub use identity::{Generation, Identity};
pub use membership::{MEMBERS_MAX, Membership};
pub use options::GossipOptions;
pub use packet::{PACKET_BYTES_MAX, Scope};
pub use report::CoreReport;
pub use view::{CoreVerdict, CoreView, MemberView, Verdict};
