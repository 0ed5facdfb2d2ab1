//! Lines of a file, with their place, none longer than a bound.

use std::io::{self, BufRead, Seek, SeekFrom};

/// Longest line that is looked at, in bytes: the longest value, every byte of it escaped in JSON, and a key.
pub(crate) const LINE_BYTES_MAX: usize = 8 << 20;

/// A place between two records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Place {
    /// Bytes before it.
    pub(crate) bytes: u64,
    /// Lines before it.
    pub(crate) lines: u64,
}

/// What a line turned out to be.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Line {
    /// It is in the buffer.
    Whole,
    /// It is longer than [`LINE_BYTES_MAX`]; its bytes are gone.
    TooLong,
    /// There is none.
    End,
}

/// Reads lines. The end of a line is `\n` or `\r\n`; the last line may lack it. A byte order mark is dropped.
pub(crate) struct Lines<R> {
    input: R,
    place: Place,
    buffer: Vec<u8>,
}

impl<R: BufRead> Lines<R> {
    pub(crate) fn new(input: R) -> Lines<R> {
        Lines { input, place: Place::default(), buffer: Vec::new() }
    }

    /// Where the next line begins.
    pub(crate) fn place(&self) -> Place {
        self.place
    }

    /// The line last read, without its end.
    pub(crate) fn line(&self) -> &[u8] {
        let line = self.buffer.strip_suffix(b"\n").unwrap_or(&self.buffer);
        line.strip_suffix(b"\r").unwrap_or(line)
    }

    /// The line last read, with its end; the last line may have none.
    pub(crate) fn raw(&self) -> &[u8] {
        &self.buffer
    }

    /// Reads the next line into the buffer.
    pub(crate) fn read(&mut self) -> io::Result<Line> {
        self.buffer.clear();
        let is_first = self.place.bytes == 0;
        let mut is_too_long = false;
        loop {
            let available = match self.input.fill_buf() {
                Ok(available) => available,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            let newline = available.iter().position(|byte| *byte == b'\n');
            let used = newline.map_or(available.len(), |at| at + 1);
            let text = &available[..used];
            if self.buffer.len() + text.len() > LINE_BYTES_MAX {
                is_too_long = true;
                self.buffer.clear();
            }
            if !is_too_long {
                self.buffer.extend_from_slice(text);
            }
            let is_end = used == 0;
            self.input.consume(used);
            self.place.bytes += used as u64;
            if is_end && self.buffer.is_empty() && !is_too_long {
                return Ok(Line::End);
            }
            if newline.is_some() || is_end {
                break;
            }
        }
        self.place.lines += 1;
        if is_first && self.buffer.starts_with(b"\xef\xbb\xbf") {
            self.buffer.drain(..3);
        }
        Ok(if is_too_long { Line::TooLong } else { Line::Whole })
    }
}

impl<R: BufRead + Seek> Lines<R> {
    /// Goes on at another place.
    pub(crate) fn seek(&mut self, place: Place) -> io::Result<()> {
        self.input.seek(SeekFrom::Start(place.bytes))?;
        self.place = place;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufReader, Cursor};

    use super::*;

    fn lines(text: &[u8]) -> Vec<(Vec<u8>, Place)> {
        // A buffer of three bytes, so that lines span several.
        let mut lines = Lines::new(BufReader::with_capacity(3, Cursor::new(text.to_vec())));
        let mut found = Vec::new();
        while lines.read().unwrap() == Line::Whole {
            found.push((lines.line().to_vec(), lines.place()));
        }
        found
    }

    #[test]
    fn lines_and_their_places() {
        let place = |bytes, lines| Place { bytes, lines };
        assert_eq!(
            lines(b"alpha\r\n\nbeta"),
            [(b"alpha".to_vec(), place(7, 1)), (b"".to_vec(), place(8, 2)), (b"beta".to_vec(), place(12, 3))]
        );
        assert_eq!(lines(b""), []);
        assert_eq!(lines(b"\n"), [(b"".to_vec(), place(1, 1))]);
        assert_eq!(lines(b"\xef\xbb\xbfx\n"), [(b"x".to_vec(), place(5, 1))]);
    }

    #[test]
    fn a_line_without_end_is_not_kept() {
        let mut text = vec![b'x'; LINE_BYTES_MAX + 1];
        text.extend_from_slice(b"\nnext\n");
        let mut lines = Lines::new(Cursor::new(text));
        assert_eq!(lines.read().unwrap(), Line::TooLong);
        assert_eq!(lines.read().unwrap(), Line::Whole);
        assert_eq!((lines.line(), lines.place().lines), (&b"next"[..], 2));
        assert_eq!(lines.read().unwrap(), Line::End);
    }

    #[test]
    fn reading_goes_on_where_it_stopped() {
        let mut lines = Lines::new(Cursor::new(b"one\ntwo\nthree\n".to_vec()));
        lines.read().unwrap();
        let after_one = lines.place();
        lines.read().unwrap();
        lines.read().unwrap();
        lines.seek(after_one).unwrap();
        lines.read().unwrap();
        assert_eq!((lines.line(), lines.place().lines), (&b"two"[..], 2));
    }
}
