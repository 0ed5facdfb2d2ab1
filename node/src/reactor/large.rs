//! Room for what clients send that is longer than a receive: bounded for all connections of a core together.
//!
//! A frame that has told its length gets a buffer for all of it. One connection is bounded by the longest frame; thousands that each send most of
//! one and wait are bounded here: who finds no room is not read from until there is some, which the time that a frame may take brings
//! about. A frame alone always has room, so that a small bound makes frames wait for one another and nothing else.
//!
//! Invariant: somebody always goes on. A frame that has got its room keeps it until it is whole, also while its connection is not read from for another reason; and
//! what those that wait have already received is counted, but stands in nobody's way who waits longer. Beyond the bound there is so at most one frame.
//!
//! A connection with nothing long under way may receive more at a time than others, if it has sent much. What that takes is spare, and is
//! counted apart: such a connection may rest for ever, and no frame may wait for it.

use std::cell::Cell;
use std::rc::Rc;

/// Part of the room that is for what is spare, as a divisor; all else is for frames.
const SPARE_PART: usize = 4;

/// What all connections of a core have of the room, in bytes.
#[derive(Debug, Default)]
pub(super) struct Rooms {
    frames: Cell<usize>,
    /// What of that those have that wait for more.
    waiting: Cell<usize>,
    spare: Cell<usize>,
}

impl Rooms {
    /// Whether there may be room for one that waits.
    pub(super) fn has_some(&self, bytes_max: usize) -> bool {
        self.frames.get() == self.waiting.get() || self.frames.get() < of_frames(bytes_max)
    }
}

/// What of the room is for frames.
fn of_frames(bytes_max: usize) -> usize {
    bytes_max - bytes_max / SPARE_PART
}

/// What one connection has of the room.
#[derive(Debug)]
pub(super) struct Large {
    all: Rc<Rooms>,
    bytes: usize,
    /// It waits for more.
    waits: bool,
    spare: usize,
}

impl Large {
    pub(super) fn new(all: Rc<Rooms>) -> Large {
        Large { all, bytes: 0, waits: false, spare: 0 }
    }

    /// What it has for a frame.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Has so many bytes for a frame from now on, where all together may have as many as the bound. False = there is no room, and it has as many as before.
    pub(super) fn resize(&mut self, bytes: usize, bytes_max: usize) -> bool {
        let all = &self.all;
        let others = all.frames.get() - self.bytes;
        let others_waiting = all.waiting.get() - self.waiting();
        if bytes > self.bytes && others > others_waiting && others + bytes > of_frames(bytes_max) {
            return false;
        }
        self.set(bytes, false);
        true
    }

    /// Keeps at most so many bytes, and waits for more.
    pub(super) fn wait_with(&mut self, bytes: usize) {
        self.set(bytes.min(self.bytes), true);
    }

    /// Keeps at most so many bytes.
    pub(super) fn shrink(&mut self, bytes: usize) {
        self.set(bytes.min(self.bytes), self.waits);
    }

    fn waiting(&self) -> usize {
        if self.waits { self.bytes } else { 0 }
    }

    fn set(&mut self, bytes: usize, waits: bool) {
        let (others, others_waiting) =
            (self.all.frames.get() - self.bytes, self.all.waiting.get() - self.waiting());
        (self.bytes, self.waits) = (bytes, waits);
        self.all.frames.set(others + bytes);
        self.all.waiting.set(others_waiting + self.waiting());
    }

    /// Has so many bytes to spare from now on; as with those for a frame.
    pub(super) fn resize_spare(&mut self, bytes: usize, bytes_max: usize) -> bool {
        let others = self.all.spare.get() - self.spare;
        if bytes > self.spare && others > 0 && others + bytes > bytes_max / SPARE_PART {
            return false;
        }
        self.all.spare.set(others + bytes);
        self.spare = bytes;
        true
    }
}

impl Drop for Large {
    fn drop(&mut self) {
        self.set(0, false);
        self.resize_spare(0, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_all_have_is_bounded_and_one_alone_always_fits() {
        let all = Rc::new(Rooms::default());
        let [mut first, mut second] = [Large::new(all.clone()), Large::new(all.clone())];
        assert!(first.resize(1_000, 100), "alone");
        assert!(!second.resize(1, 100), "beside it");
        assert!(first.resize(45, 100), "less is always to be had");
        assert!(second.resize(30, 100) && !second.resize(31, 100));
        assert_eq!(all.frames.get(), 75, "a quarter is for what is spare");
        drop(first);
        assert_eq!(all.frames.get(), 30);
        assert!(second.resize(500, 100));
    }

    /// Each kept a part and waited for the rest, which the parts of the others left no room for.
    #[test]
    fn what_those_have_that_wait_stands_in_nobodys_way() {
        let all = Rc::new(Rooms::default());
        let [mut first, mut second, mut third] = [(); 3].map(|()| Large::new(all.clone()));
        for one in [&mut first, &mut second, &mut third] {
            assert!(one.resize(25, 100));
        }
        assert!(!first.resize(50, 100) && !all.has_some(100));
        first.wait_with(20);
        second.wait_with(90);
        assert_eq!((all.frames.get(), all.waiting.get()), (70, 45), "no more than they had");
        assert!(!first.resize(50, 100), "the third goes on");
        third.wait_with(20);
        assert!(all.has_some(100) && first.resize(60, 100), "beyond the bound");
        assert_eq!((all.frames.get(), all.waiting.get()), (105, 45));
        assert!(!second.resize(50, 100), "it goes on");
        drop(first);
        assert!(second.resize(50, 100));
        drop((second, third));
        assert_eq!((all.frames.get(), all.waiting.get()), (0, 0));
    }

    #[test]
    fn what_is_spare_is_bounded_apart_from_frames() {
        let all = Rc::new(Rooms::default());
        let [mut resting, mut other] = [Large::new(all.clone()), Large::new(all.clone())];
        assert!(resting.resize_spare(25, 100) && !other.resize_spare(1, 100));
        assert!(other.resize(100, 100), "no frame waits for it");
        assert_eq!((all.frames.get(), all.spare.get()), (100, 25));
        drop((resting, other));
        assert_eq!((all.frames.get(), all.spare.get()), (0, 0));
    }
}
