//! CSV records (RFC 4180), framed by lines so that each has a place and a bound.
//!
//! The grammar is csv-core's. It is fed line by line: a record that is not whole at the end of a line has an open quote
//! and takes the next line too. Line ends inside quotes are kept as they are.

use std::io::{self, BufRead, Seek};

use csv_core::ReadRecordResult;

use super::fields::BadRecord;
use super::lines::{LINE_BYTES_MAX, Line, Lines, Place};

/// What was found where a record should be.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// A record; its fields are ready.
    Record,
    /// Something else.
    Bad(BadRecord),
    /// Nothing more.
    End,
}

/// Reads CSV records.
pub(crate) struct CsvRecords<R> {
    lines: Lines<R>,
    fields: Fields,
    first_line: u64,
}

impl<R: BufRead> CsvRecords<R> {
    pub(crate) fn new(input: R, delimiter: u8) -> CsvRecords<R> {
        let grammar = csv_core::ReaderBuilder::new().delimiter(delimiter).build();
        let fields = Fields { grammar, bytes: vec![0; 4096], byte_count: 0, ends: vec![0; 64], end_count: 0 };
        CsvRecords { lines: Lines::new(input), fields, first_line: 0 }
    }

    /// Where the next record begins.
    pub(crate) fn place(&self) -> Place {
        self.lines.place()
    }

    /// The line the last record begins on, from 1.
    pub(crate) fn line_number(&self) -> u64 {
        self.first_line
    }

    /// The fields of the last record.
    pub(crate) fn fields(&self) -> &Fields {
        &self.fields
    }

    /// Reads the next record.
    pub(crate) fn read(&mut self) -> io::Result<Found> {
        self.fields.clear();
        let mut read = 0;
        loop {
            let found = self.lines.read()?;
            let raw = self.lines.raw();
            if read == 0 {
                self.first_line = self.lines.place().lines;
            }
            match found {
                Line::End if read == 0 => return Ok(Found::End),
                Line::End => return Ok(Found::Bad(BadRecord::OpenQuote)),
                Line::Whole if read == 0 && self.lines.line().is_empty() => continue,
                Line::Whole if read + raw.len() <= LINE_BYTES_MAX => {}
                Line::Whole | Line::TooLong => {
                    return Ok(Found::Bad(BadRecord::LineTooLong { max: LINE_BYTES_MAX }));
                }
            }
            read += raw.len();
            let mut rest = self.fields.feed(raw);
            if rest.is_none() && !raw.ends_with(b"\n") {
                rest = self.fields.feed(b"\n");
            }
            match rest {
                Some(b"" | b"\n") => return Ok(Found::Record),
                Some(_) => return Ok(Found::Bad(BadRecord::StrayReturn)),
                None => {}
            }
        }
    }
}

impl<R: BufRead + Seek> CsvRecords<R> {
    /// Goes on at another place.
    pub(crate) fn seek(&mut self, place: Place) -> io::Result<()> {
        self.lines.seek(place)
    }
}

/// The fields of one record: their bytes one after the other, and where each ends.
pub(crate) struct Fields {
    grammar: csv_core::Reader,
    bytes: Vec<u8>,
    byte_count: usize,
    ends: Vec<usize>,
    end_count: usize,
}

impl Fields {
    /// A field, from 0.
    pub(crate) fn get(&self, index: usize) -> Option<&[u8]> {
        let ends = &self.ends[..self.end_count];
        let end = *ends.get(index)?;
        let start = if index == 0 { 0 } else { ends[index - 1] };
        Some(&self.bytes[start..end])
    }

    /// Each field.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &[u8]> {
        (0..self.end_count).filter_map(|index| self.get(index))
    }

    fn clear(&mut self) {
        self.grammar.reset();
        (self.byte_count, self.end_count) = (0, 0);
    }

    /// Feeds a piece of a record; what follows the record's end, if it ended.
    fn feed<'a>(&mut self, mut input: &'a [u8]) -> Option<&'a [u8]> {
        loop {
            let (bytes, ends) = (&mut self.bytes[self.byte_count..], &mut self.ends[self.end_count..]);
            let (result, consumed, byte_count, end_count) = self.grammar.read_record(input, bytes, ends);
            input = &input[consumed..];
            self.byte_count += byte_count;
            self.end_count += end_count;
            match result {
                ReadRecordResult::Record => return Some(input),
                ReadRecordResult::InputEmpty | ReadRecordResult::End => return None,
                // Both are bounded by the bytes of the record, and those by LINE_BYTES_MAX.
                ReadRecordResult::OutputFull => self.bytes.resize(self.bytes.len() * 2, 0),
                ReadRecordResult::OutputEndsFull => self.ends.resize(self.ends.len() * 2, 0),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    fn read(text: &[u8]) -> Vec<(u64, Result<Vec<String>, BadRecord>)> {
        let mut records = CsvRecords::new(Cursor::new(text.to_vec()), b',');
        let mut found = Vec::new();
        loop {
            let record = match records.read().unwrap() {
                Found::End => return found,
                Found::Bad(bad) => Err(bad),
                Found::Record => Ok(records
                    .fields()
                    .iter()
                    .map(|field| String::from_utf8(field.to_vec()).unwrap())
                    .collect()),
            };
            found.push((records.line_number(), record));
        }
    }

    fn record(line: u64, fields: &[&str]) -> (u64, Result<Vec<String>, BadRecord>) {
        (line, Ok(fields.iter().map(|field| (*field).to_owned()).collect()))
    }

    #[test]
    fn records_keep_their_lines() {
        assert_eq!(
            read(b"a,b\r\n\r\n\n\"x\r\ny\",\"\"\"z\"\"\"\nlast,"),
            [record(1, &["a", "b"]), record(4, &["x\r\ny", "\"z\""]), record(6, &["last", ""])]
        );
        assert_eq!(read(b""), []);
        assert_eq!(read(b"\n\n"), []);
    }

    #[test]
    fn many_and_long_fields_find_room() {
        let long = "x".repeat(10_000);
        let many = vec![long.as_str(); 100];
        assert_eq!(read(many.join(",").as_bytes()), [record(1, &many)]);
    }

    #[test]
    fn what_is_no_record_is_named() {
        assert_eq!(read(b"a\n\"open,b\nc\n"), [record(1, &["a"]), (2, Err(BadRecord::OpenQuote))]);
        assert_eq!(read(b"a\rb\nc"), [(1, Err(BadRecord::StrayReturn)), record(2, &["c"])]);
        let mut text = b"\"open\n".to_vec();
        text.extend(b"line\n".repeat(LINE_BYTES_MAX / 5));
        let found = read(&text);
        assert_eq!(found[0], (1, Err(BadRecord::LineTooLong { max: LINE_BYTES_MAX })));
    }
}
