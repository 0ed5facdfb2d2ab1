//! Which digests are still to be passed on, and how often each.
//!
//! Invariant: each node is in the queue at most once, so it is no longer than there are nodes. The digest itself is looked up when
//! it is sent: a newer one takes the place of an older one that still waits.

use std::collections::VecDeque;

use ferrite_wire::NodeId;

use super::Digest;
use super::packet::DIGESTS_BYTES_WANTED;

/// The queue.
#[derive(Debug, Default)]
pub(super) struct Spread {
    /// News first; what has been sent goes to the back, while it is to be sent again.
    queue: VecDeque<(NodeId, u8)>,
}

impl Spread {
    /// A node has a new digest.
    pub(super) fn add(&mut self, node: NodeId, transmissions: u8) {
        self.remove(node);
        self.queue.push_front((node, transmissions));
    }

    pub(super) fn remove(&mut self, node: NodeId) {
        self.queue.retain(|(waiting, _)| *waiting != node);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Appends as many digests to a packet as are to travel with it, and their number before them.
    pub(super) fn fill<'a>(
        &mut self,
        packet: &mut Vec<u8>,
        digest_of: impl Fn(NodeId) -> Option<&'a Digest>,
    ) {
        let count_at = packet.len();
        packet.extend_from_slice(&[0, 0]);
        let (mut count, mut room) = (0u16, DIGESTS_BYTES_WANTED);
        for _ in 0..self.queue.len() {
            let Some((node, left)) = self.queue.pop_front() else { break };
            let Some(digest) = digest_of(node) else { continue };
            if digest.encoded_len() > room && count > 0 {
                self.queue.push_front((node, left));
                break;
            }
            digest.encode(packet);
            room = room.saturating_sub(digest.encoded_len());
            count += 1;
            if left > 1 {
                self.queue.push_back((node, left - 1));
            }
        }
        packet[count_at..count_at + 2].copy_from_slice(&count.to_le_bytes());
    }
}
