//! One file: what a read sees, what a power cut leaves, and the writes in between.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use crate::BLOCK_BYTES;

/// What a device writes whole or not at all, in bytes.
pub(super) const SECTOR_BYTES: usize = 512;

pub(super) type Page = [u8; BLOCK_BYTES];

/// Content as shared pages: copying a file is cheap, zeros take no room.
#[derive(Clone, Debug, Default)]
pub(super) struct Pages {
    pages: BTreeMap<u64, Rc<Page>>,
    pub(super) len: u64,
}

impl Pages {
    pub(super) fn zeroed(len: u64) -> Pages {
        Pages { pages: BTreeMap::new(), len }
    }

    pub(super) fn read(&self, at: u64, into: &mut [u8]) -> usize {
        let bytes = self.len.saturating_sub(at).min(into.len() as u64) as usize;
        let mut done = 0;
        while done < bytes {
            let position = at + done as u64;
            let within = (position % BLOCK_BYTES as u64) as usize;
            let part = (BLOCK_BYTES - within).min(bytes - done);
            let target = &mut into[done..done + part];
            match self.pages.get(&(position / BLOCK_BYTES as u64)) {
                Some(page) => target.copy_from_slice(&page[within..within + part]),
                None => target.fill(0),
            }
            done += part;
        }
        bytes
    }

    /// Writes any range, growing the file as needed.
    pub(super) fn write(&mut self, at: u64, bytes: &[u8]) {
        let mut done = 0;
        while done < bytes.len() {
            let position = at + done as u64;
            let within = (position % BLOCK_BYTES as u64) as usize;
            let part = (BLOCK_BYTES - within).min(bytes.len() - done);
            let page =
                self.pages.entry(position / BLOCK_BYTES as u64).or_insert_with(|| Rc::new([0; BLOCK_BYTES]));
            Rc::make_mut(page)[within..within + part].copy_from_slice(&bytes[done..done + part]);
            done += part;
        }
        self.len = self.len.max(at + bytes.len() as u64);
    }

    fn share(&mut self, at: u64, pages: &[Rc<Page>]) {
        for (index, page) in pages.iter().enumerate() {
            self.pages.insert(at / BLOCK_BYTES as u64 + index as u64, Rc::clone(page));
        }
        self.len = self.len.max(at + (pages.len() * BLOCK_BYTES) as u64);
    }
}

/// A completed write that no sync covers yet.
#[derive(Clone, Debug)]
pub(super) struct Unsynced {
    /// Where in the file.
    pub(super) at: u64,
    /// The data.
    pub(super) pages: Vec<Rc<Page>>,
    /// Per sector: false once a later durable write replaced it.
    pub(super) live: Vec<bool>,
    /// The disk's time at which the write completed.
    pub(super) stamp: u64,
    /// A sync failed after it: no later sync makes it durable, though one may say so.
    pub(super) doomed: bool,
}

impl Unsynced {
    pub(super) fn new(at: u64, bytes: &[u8], stamp: u64) -> Unsynced {
        let mut pages = Vec::with_capacity(bytes.len().div_ceil(BLOCK_BYTES));
        for chunk in bytes.chunks(BLOCK_BYTES) {
            let mut page = [0; BLOCK_BYTES];
            page[..chunk.len()].copy_from_slice(chunk);
            pages.push(Rc::new(page));
        }
        Unsynced { at, pages, live: vec![true; bytes.len() / SECTOR_BYTES], stamp, doomed: false }
    }

    pub(super) fn sectors(&self) -> usize {
        self.live.len()
    }

    pub(super) fn sector(&self, index: usize) -> (u64, &[u8]) {
        let per_page = BLOCK_BYTES / SECTOR_BYTES;
        let within = index % per_page * SECTOR_BYTES;
        let bytes = &self.pages[index / per_page][within..within + SECTOR_BYTES];
        (self.at + (index * SECTOR_BYTES) as u64, bytes)
    }

    /// Applies the sectors that still count to `content`.
    fn apply(&self, content: &mut Pages) {
        if self.live.iter().all(|live| *live)
            && self.live.len() * SECTOR_BYTES == self.pages.len() * BLOCK_BYTES
        {
            content.share(self.at, &self.pages);
            return;
        }
        for index in (0..self.sectors()).filter(|index| self.live[*index]) {
            let (at, bytes) = self.sector(index);
            content.write(at, bytes);
        }
    }

    fn supersede(&mut self, from: u64, to: u64) {
        for index in 0..self.live.len() {
            let at = self.at + (index * SECTOR_BYTES) as u64;
            if at >= from && at < to {
                self.live[index] = false;
            }
        }
    }
}

/// A file's state.
#[derive(Clone, Debug, Default)]
pub(super) struct Content {
    /// What reads see.
    pub(super) seen: Pages,
    /// What survives a power cut for certain.
    pub(super) durable: Pages,
    /// What may survive, oldest first.
    pub(super) unsynced: Vec<Unsynced>,
}

impl Content {
    /// A completed write.
    pub(super) fn write(&mut self, at: u64, bytes: &[u8], durable: bool, stamp: u64) {
        if bytes.is_empty() {
            return;
        }
        let write = Unsynced::new(at, bytes, stamp);
        write.apply(&mut self.seen);
        if durable {
            for older in &mut self.unsynced {
                older.supersede(at, at + bytes.len() as u64);
            }
            write.apply(&mut self.durable);
        } else {
            self.unsynced.push(write);
        }
    }

    /// A sync that was called at `stamp` succeeds.
    pub(super) fn sync(&mut self, stamp: u64) {
        let durable = &mut self.durable;
        self.unsynced.retain(|write| {
            if write.doomed || write.stamp >= stamp {
                return true;
            }
            write.apply(durable);
            false
        });
    }

    /// A sync fails: what it should have covered is lost to every later sync.
    pub(super) fn doom(&mut self) {
        for write in &mut self.unsynced {
            write.doomed = true;
        }
    }
}

/// A file, whatever its names.
#[derive(Debug)]
pub(super) struct Inode {
    /// Unique within its disk and the disks that came of it.
    pub(super) id: u64,
    pub(super) content: RefCell<Content>,
}

impl Inode {
    pub(super) fn new(id: u64, content: Content) -> Rc<Inode> {
        Rc::new(Inode { id, content: RefCell::new(content) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pages: &Pages, at: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![9; len];
        let got = pages.read(at, &mut bytes);
        bytes.truncate(got);
        bytes
    }

    #[test]
    fn only_what_is_synced_is_durable() {
        let mut content = Content::default();
        content.write(0, &[1; BLOCK_BYTES], false, 1);
        content.write(4096, &[2; BLOCK_BYTES], true, 2);
        assert_eq!(read(&content.seen, 0, 2), [1, 1]);
        assert_eq!(read(&content.durable, 0, 1), [0], "a synced write covers itself only");
        assert_eq!(read(&content.durable, 4096, 1), [2]);
        content.write(8192, &[3; BLOCK_BYTES], false, 3);
        content.sync(3);
        assert_eq!(read(&content.durable, 0, 1), [1]);
        assert_eq!(
            content.durable.len, 8192,
            "a write that completed after the sync was called is not covered"
        );
    }

    #[test]
    fn a_failed_sync_dooms_what_it_should_have_covered() {
        let mut content = Content::default();
        content.write(0, &[1; BLOCK_BYTES], false, 1);
        content.doom();
        content.sync(5);
        assert_eq!(content.durable.len, 0);
        assert_eq!(content.unsynced.len(), 1);
    }

    #[test]
    fn a_durable_write_supersedes_the_sectors_below_it() {
        let mut content = Content::default();
        content.write(0, &[1; 2 * BLOCK_BYTES], false, 1);
        content.write(0, &[2; BLOCK_BYTES], true, 2);
        content.sync(3);
        assert_eq!(read(&content.durable, 0, 1), [2]);
        assert_eq!(read(&content.durable, 4096, 1), [1]);
    }
}
