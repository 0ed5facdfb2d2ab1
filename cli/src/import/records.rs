//! Records of a file: from TSV, CSV, delimited text or JSON documents, one a line, to keys and values.
//!
//! TSV and delimited text have no quoting: a delimiter is a delimiter wherever it stands. CSV follows RFC 4180; a quoted
//! field may span lines. Bytes are taken as they are, but for JSON, which is UTF-8 by definition. Empty lines are skipped.
//! A record that cannot be used is returned as a [`BadRecord`] with its line, and reading goes on behind it.

use std::io::{self, BufReader, Read, Seek};

use ferrite_wire::limits::{KEY_BYTES_MAX, VALUE_BYTES_MAX};

use super::csv::{CsvRecords, Fields, Found};
use super::fields::{BadRecord, Field, Pair, Part, take_json};
use super::lines::{LINE_BYTES_MAX, Line, Lines, Place};

/// Bytes asked of the system at a time.
const READ_BYTES: usize = 256 << 10;

/// How records are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// Columns separated by tabs, without quoting
    Tsv,
    /// Comma-separated values with quoting (RFC 4180)
    Csv,
    /// One JSON document a line
    Ndjson,
    /// Columns separated by --delimiter, without quoting
    Delimited,
}

/// What is read how.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    pub(crate) format: Format,
    pub(crate) delimiter: u8,
    pub(crate) header: bool,
    pub(crate) key: Field,
    pub(crate) value: Field,
}

impl std::fmt::Display for Layout {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let format = match self.format {
            Format::Tsv => "tsv",
            Format::Csv => "csv",
            Format::Ndjson => "ndjson",
            Format::Delimited => "delimited",
        };
        let (delimiter, header) = (self.delimiter, self.header);
        write!(f, "{format} delimiter={delimiter} header={header} key={} value={}", self.key, self.value)
    }
}

/// One record, or what stands in its place.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Record {
    /// The line it begins on, from 1.
    pub(crate) line: u64,
    /// Where the next one begins.
    pub(crate) end: Place,
    /// What it holds.
    pub(crate) pair: Result<Pair, BadRecord>,
}

/// Why a file cannot be read at all.
#[derive(Debug)]
pub(crate) enum ReadError {
    /// The system's answer.
    Io(io::Error),
    /// The header has no such column.
    NoColumn(Field),
}

impl From<io::Error> for ReadError {
    fn from(error: io::Error) -> Self {
        ReadError::Io(error)
    }
}

impl std::fmt::Display for ReadError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ReadError::Io(error) => write!(f, "{error}"),
            ReadError::NoColumn(field) => write!(f, "the header line has no column {field}"),
        }
    }
}

/// Reads records one after the other.
pub(crate) struct Records<R: Read> {
    layout: Layout,
    key: Part,
    value: Part,
    source: Source<R>,
}

enum Source<R: Read> {
    Lines(Lines<BufReader<R>>),
    Csv(Box<CsvRecords<BufReader<R>>>),
}

impl<R: Read> Records<R> {
    /// Begins with the header line, if the layout has one.
    pub(crate) fn open(input: R, layout: Layout) -> Result<Records<R>, ReadError> {
        let input = BufReader::with_capacity(READ_BYTES, input);
        let mut source = match layout.format {
            Format::Csv => Source::Csv(Box::new(CsvRecords::new(input, layout.delimiter))),
            Format::Tsv | Format::Delimited | Format::Ndjson => Source::Lines(Lines::new(input)),
        };
        let header = if layout.header { read_header(&mut source, layout.delimiter)? } else { Vec::new() };
        let find = |field: &Field| match layout.format {
            // Members are found by name in each document.
            Format::Ndjson => Ok(Part::Line),
            Format::Tsv | Format::Csv | Format::Delimited => {
                Part::find(field, &header).ok_or_else(|| ReadError::NoColumn(field.clone()))
            }
        };
        let (key, value) = (find(&layout.key)?, find(&layout.value)?);
        Ok(Records { key, value, layout, source })
    }

    /// The next record; `None` at the end.
    pub(crate) fn next(&mut self) -> io::Result<Option<Record>> {
        let (layout, key, value) = (&self.layout, &self.key, &self.value);
        let (line, end, pair) = match &mut self.source {
            Source::Lines(lines) => {
                let found = loop {
                    match lines.read()? {
                        Line::Whole if lines.line().is_empty() => {}
                        other => break other,
                    }
                };
                let pair = match (found, layout.format) {
                    (Line::End, _) => return Ok(None),
                    (Line::TooLong, _) => Err(BadRecord::LineTooLong { max: LINE_BYTES_MAX }),
                    (Line::Whole, Format::Ndjson) => take_json(lines.line(), &layout.key, &layout.value),
                    (Line::Whole, Format::Tsv | Format::Csv | Format::Delimited) => {
                        take_columns(lines.line(), layout, key, value)
                    }
                };
                (lines.place().lines, lines.place(), pair)
            }
            Source::Csv(csv) => {
                let pair = match csv.read()? {
                    Found::End => return Ok(None),
                    Found::Bad(bad) => Err(bad),
                    Found::Record => take_fields(csv.fields(), layout, key, value),
                };
                (csv.line_number(), csv.place(), pair)
            }
        };
        Ok(Some(Record { line, end, pair: pair.and_then(within_limits) }))
    }
}

impl<R: Read + Seek> Records<R> {
    /// Goes on at a place that an earlier [`Record::end`] named.
    pub(crate) fn seek(&mut self, place: Place) -> io::Result<()> {
        match &mut self.source {
            Source::Lines(lines) => lines.seek(place),
            Source::Csv(csv) => csv.seek(place),
        }
    }
}

fn read_header<R: Read>(source: &mut Source<R>, delimiter: u8) -> io::Result<Vec<Vec<u8>>> {
    match source {
        Source::Lines(lines) => {
            lines.read()?;
            Ok(lines.line().split(|byte| *byte == delimiter).map(<[u8]>::to_vec).collect())
        }
        Source::Csv(csv) => {
            csv.read()?;
            Ok(csv.fields().iter().map(<[u8]>::to_vec).collect())
        }
    }
}

fn take_columns(line: &[u8], layout: &Layout, key: &Part, value: &Part) -> Result<Pair, BadRecord> {
    let key_column = if let Part::Column(index) = key { *index } else { 0 };
    let take = |part: &Part, field: &Field| {
        let taken = part.take(line, layout.delimiter, key_column);
        taken.map(<[u8]>::to_vec).ok_or_else(|| BadRecord::Missing(field.clone()))
    };
    Ok(Pair { key: take(key, &layout.key)?, value: take(value, &layout.value)? })
}

fn take_fields(record: &Fields, layout: &Layout, key: &Part, value: &Part) -> Result<Pair, BadRecord> {
    let take = |part: &Part, field: &Field| {
        match part {
            Part::Column(index) => record.get(*index).map(<[u8]>::to_vec),
            // Refused when the command line was read.
            Part::Rest | Part::Line => None,
        }
        .ok_or_else(|| BadRecord::Missing(field.clone()))
    };
    Ok(Pair { key: take(key, &layout.key)?, value: take(value, &layout.value)? })
}

fn within_limits(pair: Pair) -> Result<Pair, BadRecord> {
    let (key, value) = (pair.key.len(), pair.value.len());
    if key == 0 {
        return Err(BadRecord::EmptyKey);
    }
    if key > KEY_BYTES_MAX {
        return Err(BadRecord::KeyTooLong { bytes: key, max: KEY_BYTES_MAX });
    }
    if value > VALUE_BYTES_MAX {
        return Err(BadRecord::ValueTooLong { bytes: value, max: VALUE_BYTES_MAX });
    }
    Ok(pair)
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    fn layout(format: Format, key: &str, value: &str) -> Layout {
        let delimiter = match format {
            Format::Tsv => b'\t',
            Format::Csv => b',',
            Format::Delimited | Format::Ndjson => b';',
        };
        Layout { format, delimiter, header: false, key: key.parse().unwrap(), value: value.parse().unwrap() }
    }

    type Found = (u64, Result<(String, String), String>);

    fn read(text: &[u8], layout: Layout) -> Vec<Found> {
        let mut records = Records::open(Cursor::new(text.to_vec()), layout).unwrap();
        let mut found = Vec::new();
        while let Some(record) = records.next().unwrap() {
            let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
            let pair = record.pair.map(|pair| (text(pair.key), text(pair.value)));
            found.push((record.line, pair.map_err(|bad| bad.to_string())));
        }
        found
    }

    fn good(line: u64, key: &str, value: &str) -> Found {
        (line, Ok((key.into(), value.into())))
    }

    fn bad(line: u64, why: &str) -> Found {
        (line, Err(why.into()))
    }

    #[test]
    fn delimited_text_takes_the_rest_as_it_is() {
        let found = read(b"0041;LATIN;\"Lu\"\n\n0042\n;x\n", layout(Format::Delimited, "1", "rest"));
        let expected = [
            good(1, "0041", "LATIN;\"Lu\""),
            bad(3, "there is no the rest of the line"),
            bad(4, "the key is empty"),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn tsv_by_number_and_by_name() {
        assert_eq!(
            read(b"a\tb\tc\nd\n", layout(Format::Tsv, "2", "3")),
            [good(1, "b", "c"), bad(2, "there is no column 2")]
        );
        let named = Layout { header: true, ..layout(Format::Tsv, "id", "name") };
        assert_eq!(read(b"name\tid\nada\t1\n", named.clone()), [good(2, "1", "ada")]);
        let Err(error) = Records::open(Cursor::new(b"name\tnumber\n".to_vec()), named) else {
            panic!("there is no column of that name");
        };
        assert_eq!(error.to_string(), "the header line has no column \"id\"");
    }

    #[test]
    fn csv_with_quotes_over_lines() {
        let text = b"id,text\r\n1,\"two\nlines, \"\"quoted\"\"\"\r\n2\r\n\r\n3,x\r\n";
        let found = read(text, Layout { header: true, ..layout(Format::Csv, "id", "text") });
        let expected =
            [good(2, "1", "two\nlines, \"quoted\""), bad(4, "there is no \"text\""), good(6, "3", "x")];
        assert_eq!(found, expected);
    }

    #[test]
    fn json_documents_and_what_is_none() {
        let text = b"{\"id\":\"a\",\"v\":1}\n{\"id\":\n{\"v\":2}\n{\"id\":[]}\n{\"id\":\"\"}\n{\"id\":\"b\",\"v\":\"t\"}";
        let found = read(text, layout(Format::Ndjson, "id", "v"));
        assert_eq!(found[0], good(1, "a", "1"));
        assert!(found[1].1.as_ref().unwrap_err().starts_with("not JSON: EOF"), "{found:?}");
        assert_eq!(found[2], bad(3, "there is no \"id\""));
        assert_eq!(found[3], bad(4, "\"id\" is neither a text nor a number"));
        assert_eq!(found[4], bad(5, "there is no \"v\""));
        assert_eq!(found[5], good(6, "b", "t"));
    }

    #[test]
    fn what_is_too_long_is_named_and_passed_over() {
        let mut text = vec![b'k'; KEY_BYTES_MAX + 1];
        text.extend_from_slice(b";v\nk;");
        text.extend(vec![b'v'; VALUE_BYTES_MAX + 1]);
        text.extend_from_slice(b"\nk;v\n");
        let found = read(&text, layout(Format::Delimited, "1", "2"));
        let expected = [
            bad(1, "the key has 65537 bytes, more than 65536"),
            bad(2, "the value has 1048577 bytes, more than 1048576"),
            good(3, "k", "v"),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn every_format_goes_on_at_any_place() {
        for (format, text, key, value) in [
            (Format::Csv, &b"k,v\n1,\"a\nb\"\n2,c\r\n\n3,d\n4,e"[..], "k", "v"),
            (Format::Tsv, b"k\tv\n1\ta\n\n2\tb\r\n3\tc", "k", "v"),
            (Format::Ndjson, b"{\"k\":1}\n{\"k\":2}\n\n{\"k\":3}\n", "k", "line"),
        ] {
            let layout = Layout { header: format != Format::Ndjson, ..layout(format, key, value) };
            let open = || Records::open(Cursor::new(text.to_vec()), layout.clone()).unwrap();
            let mut all = Vec::new();
            let mut records = open();
            while let Some(record) = records.next().unwrap() {
                all.push(record);
            }
            assert!(all.len() >= 3, "{format:?}");
            for (index, record) in all.iter().enumerate() {
                let mut records = open();
                records.seek(record.end).unwrap();
                for expected in &all[index + 1..] {
                    assert_eq!(records.next().unwrap().as_ref(), Some(expected), "{format:?}");
                }
                assert!(records.next().unwrap().is_none());
            }
        }
    }
}
