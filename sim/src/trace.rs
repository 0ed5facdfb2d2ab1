//! Everything that happens, folded into one number: equal seeds give equal traces or the world is not deterministic.

/// A running hash of events.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Trace {
    hash: u64,
    events: u64,
}

impl Default for Trace {
    fn default() -> Trace {
        Trace { hash: 0xcbf2_9ce4_8422_2325, events: 0 }
    }
}

impl Trace {
    /// Folds in an event: when, what kind, and up to three numbers that tell it from others.
    pub(crate) fn note(&mut self, now_ns: u64, kind: u8, numbers: [u64; 3]) {
        self.events += 1;
        for value in [now_ns, u64::from(kind), numbers[0], numbers[1], numbers[2]] {
            self.hash = (self.hash ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
        }
    }

    /// Folds in bytes.
    pub(crate) fn note_bytes(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.hash =
                (self.hash ^ u64::from_le_bytes(word)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
        }
    }

    /// The hash so far.
    pub(crate) fn hash(&self) -> u64 {
        self.hash
    }

    /// How many events were folded in.
    pub(crate) fn events(&self) -> u64 {
        self.events
    }
}
