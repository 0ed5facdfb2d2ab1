//! Room for what clients send that is longer than a receive: bounded for all connections of a core together.
//!
//! A frame that has told its length gets a buffer for all of it. One connection is bounded by the longest frame; thousands that each send most of
//! one and wait are bounded here: who finds no room is not read from until there is some, which the time that a frame may take brings
//! about. A frame alone always has room, so that a small bound makes frames wait for one another and nothing else.

use std::cell::Cell;
use std::rc::Rc;

/// What one connection has of the room.
#[derive(Debug)]
pub(super) struct Large {
    all: Rc<Cell<usize>>,
    bytes: usize,
}

impl Large {
    pub(super) fn new(all: Rc<Cell<usize>>) -> Large {
        Large { all, bytes: 0 }
    }

    /// Has so many bytes from now on. False = there is no room, and it has as many as before.
    pub(super) fn resize(&mut self, bytes: usize, bytes_max: usize) -> bool {
        let others = self.all.get() - self.bytes;
        if bytes > self.bytes && others > 0 && others + bytes > bytes_max {
            return false;
        }
        self.all.set(others + bytes);
        self.bytes = bytes;
        true
    }
}

impl Drop for Large {
    fn drop(&mut self) {
        self.all.set(self.all.get() - self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_all_have_is_bounded_and_one_alone_always_fits() {
        let all = Rc::new(Cell::new(0));
        let [mut first, mut second] = [Large::new(all.clone()), Large::new(all.clone())];
        assert!(first.resize(1_000, 100), "alone");
        assert!(!second.resize(1, 100), "beside it");
        assert!(first.resize(60, 100), "less is always to be had");
        assert!(second.resize(40, 100) && !second.resize(41, 100));
        assert_eq!(all.get(), 100);
        drop(first);
        assert_eq!(all.get(), 40);
        assert!(second.resize(500, 100));
    }
}
