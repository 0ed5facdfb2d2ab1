//! What a fuzzer's input means: files of the engine, in a form in which their many zeros take no room.
//!
//! ```text
//! input := flags:u8 cut:u16 page*
//! flags := 1 the checksums are put right before the files are read
//! cut   := bytes that the last file lacks at its end, modulo a page
//! page  := head:u16 tail:u16 byte{head + tail}     a page of a file: its first bytes, zeros, its last ones
//! ```
//!
//! The highest bit of `head` says that a file begins here. Any bytes mean something: lengths are cut to what a page can have, and a
//! page that is cut short is one with zeros. What goes beyond the bounds is left out.

pub(crate) const PAGE: usize = 4096;
/// Most pages of all files together.
const PAGES_MAX: usize = 64;
/// Most files.
const FILES_MAX: usize = 4;
const RESEAL: u8 = 1;
const BEGINS: u16 = 1 << 15;

/// Files, one behind the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Input {
    pub(crate) reseal: bool,
    pub(crate) files: Vec<Vec<u8>>,
}

impl Input {
    pub(crate) fn decode(mut bytes: &[u8]) -> Input {
        let [flags] = take(&mut bytes).unwrap_or_default();
        let cut = usize::from(u16::from_le_bytes(take(&mut bytes).unwrap_or_default())) % PAGE;
        let mut files: Vec<Vec<u8>> = Vec::new();
        for _ in 0..PAGES_MAX {
            let (Some(head), Some(tail)) = (take(&mut bytes), take(&mut bytes)) else { break };
            let (head, tail) = (u16::from_le_bytes(head), u16::from_le_bytes(tail));
            if (head & BEGINS != 0 && files.len() < FILES_MAX) || files.is_empty() {
                files.push(Vec::new());
            }
            let first = usize::from(head & !BEGINS).min(PAGE);
            let last = usize::from(tail).min(PAGE - first);
            let file = files.last_mut().expect("one was begun");
            let end = file.len() + PAGE;
            let first = &bytes[..first.min(bytes.len())];
            bytes = &bytes[first.len()..];
            let last = &bytes[..last.min(bytes.len())];
            bytes = &bytes[last.len()..];
            file.extend_from_slice(first);
            file.resize(end - last.len(), 0);
            file.extend_from_slice(last);
        }
        if let Some(file) = files.last_mut() {
            file.truncate(file.len() - cut);
        }
        Input { reseal: flags & RESEAL != 0, files }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let cut = self.files.last().map_or(0, |file| file.len().next_multiple_of(PAGE) - file.len());
        let mut out = vec![if self.reseal { RESEAL } else { 0 }];
        out.extend_from_slice(&(cut as u16).to_le_bytes());
        for file in &self.files {
            for (number, page) in file.chunks(PAGE).enumerate() {
                let (head, tail) = around_zeros(page);
                let begins = if number == 0 { BEGINS } else { 0 };
                out.extend_from_slice(&(head as u16 | begins).to_le_bytes());
                out.extend_from_slice(&((page.len() - tail) as u16).to_le_bytes());
                out.extend_from_slice(&page[..head]);
                out.extend_from_slice(&page[tail..]);
            }
        }
        out
    }
}

/// Where the longest run of zeros starts and ends.
fn around_zeros(page: &[u8]) -> (usize, usize) {
    let (mut longest, mut start) = ((0, 0), 0);
    for (at, byte) in page.iter().enumerate() {
        if *byte != 0 {
            start = at + 1;
        } else if at + 1 - start > longest.1 - longest.0 {
            longest = (start, at + 1);
        }
    }
    longest
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (front, rest) = bytes.split_first_chunk::<N>()?;
    *bytes = rest;
    Some(*front)
}
