//! Room for what clients send that is longer than a receive: bounded for all connections of a core together.
//!
//! A frame that has told its length gets a buffer for all of it. One connection is bounded by the longest frame; thousands that each send most of
//! one and wait are bounded here: who finds no room is not read from until there is some, which the time that a frame may take brings
//! about. A frame alone always has room, so that a small bound makes frames wait for one another and nothing else.
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
    spare: Cell<usize>,
}

impl Rooms {
    /// What frames that are under way have of it.
    pub(super) fn get(&self) -> usize {
        self.frames.get()
    }
}

/// What one connection has of the room.
#[derive(Debug)]
pub(super) struct Large {
    all: Rc<Rooms>,
    bytes: usize,
    spare: usize,
}

impl Large {
    pub(super) fn new(all: Rc<Rooms>) -> Large {
        Large { all, bytes: 0, spare: 0 }
    }

    /// What it has for a frame.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Has so many bytes for a frame from now on, where all together may have as many as the bound. False = there is no room, and it has as many as before.
    pub(super) fn resize(&mut self, bytes: usize, bytes_max: usize) -> bool {
        resize(&self.all.frames, &mut self.bytes, bytes, bytes_max - bytes_max / SPARE_PART)
    }

    /// The same of bytes to spare.
    pub(super) fn resize_spare(&mut self, bytes: usize, bytes_max: usize) -> bool {
        resize(&self.all.spare, &mut self.spare, bytes, bytes_max / SPARE_PART)
    }
}

fn resize(all: &Cell<usize>, own: &mut usize, bytes: usize, bytes_max: usize) -> bool {
    let others = all.get() - *own;
    if bytes > *own && others > 0 && others + bytes > bytes_max {
        return false;
    }
    all.set(others + bytes);
    *own = bytes;
    true
}

impl Drop for Large {
    fn drop(&mut self) {
        self.resize(0, 0);
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
        assert_eq!(all.get(), 75, "a quarter is for what is spare");
        drop(first);
        assert_eq!(all.get(), 30);
        assert!(second.resize(500, 100));
    }

    #[test]
    fn what_is_spare_is_bounded_apart_from_frames() {
        let all = Rc::new(Rooms::default());
        let [mut resting, mut other] = [Large::new(all.clone()), Large::new(all.clone())];
        assert!(resting.resize_spare(25, 100) && !other.resize_spare(1, 100));
        assert!(other.resize(100, 100), "no frame waits for it");
        assert_eq!((all.get(), all.spare.get()), (100, 25));
        drop((resting, other));
        assert_eq!((all.get(), all.spare.get()), (0, 0));
    }
}
