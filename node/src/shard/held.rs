//! Bytes that operations of a core keep while they wait for others: what a read has found so far, a write that waits for its turn.
//!
//! Operations are bounded in number, but what one keeps may be long: a get of a few bytes may keep a value of a megabyte until a replica
//! answers. So their bytes are counted together, and what finds no room is refused as overload before anything is copied. One operation
//! alone always has room.

use std::cell::Cell;
use std::rc::Rc;

/// The bytes that all operations of a core keep.
#[derive(Clone, Debug)]
pub(super) struct Held {
    bytes: Rc<Cell<usize>>,
    bytes_max: usize,
}

/// The bytes of one operation: given back when it is dropped.
#[derive(Debug)]
pub(super) struct Holding {
    held: Held,
    bytes: usize,
}

impl Held {
    pub(super) fn new(bytes_max: usize) -> Held {
        Held { bytes: Rc::default(), bytes_max }
    }

    /// All of them.
    pub(super) fn bytes(&self) -> usize {
        self.bytes.get()
    }

    /// Begins to hold so many; `None` = there is no room.
    pub(super) fn hold(&self, bytes: usize) -> Option<Holding> {
        let mut holding = Holding { held: self.clone(), bytes: 0 };
        if !holding.has_room_for(bytes) {
            return None;
        }
        holding.set(bytes);
        Some(holding)
    }
}

impl Holding {
    /// Whether it may hold so many more.
    pub(super) fn has_room_for(&self, more: usize) -> bool {
        let others = self.held.bytes.get() - self.bytes;
        others == 0 || self.held.bytes.get().saturating_add(more) <= self.held.bytes_max
    }

    /// It holds so many now.
    pub(super) fn set(&mut self, bytes: usize) {
        self.held.bytes.set(self.held.bytes.get() - self.bytes + bytes);
        self.bytes = bytes;
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        self.set(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_is_bounded_and_given_back() {
        let held = Held::new(100);
        let mut one = held.hold(60).expect("it is empty");
        assert!(held.hold(41).is_none(), "what is refused holds nothing");
        let two = held.hold(40).expect("it fits");
        assert!(!one.has_room_for(1));
        one.set(10);
        assert!(one.has_room_for(50) && !one.has_room_for(51));
        assert_eq!(held.bytes(), 50);
        drop(two);
        assert!(one.has_room_for(1_000), "one alone always has room");
        drop(one);
        assert_eq!(held.bytes(), 0);
        assert!(held.hold(1_000).is_some());
    }
}
