//! What was measured, a line each, written as it comes and read again for tables.
//!
//! ```text
//! line   = part TAB title TAB keys TAB data TAB round TAB contestant TAB row TAB figures
//! part   = its place in the run, from 1
//! data   = bytes of keys and values
//! figures: see [`Figures::to_line`]
//! ```
//!
//! Lines that are not whole are left out: the last one of a run that was cut off may be.

use std::path::Path;

use crate::Failure;
use crate::measure::Figures;

/// The figures of one row of one contestant in one round.
#[derive(Clone, Debug)]
pub struct Record {
    pub part: usize,
    pub title: String,
    pub keys: u64,
    pub data_bytes: u64,
    pub round: usize,
    pub contestant: String,
    pub row: String,
    pub figures: Figures,
}

impl Record {
    pub fn to_line(&self) -> String {
        let Record { part, title, keys, data_bytes, round, contestant, row, figures } = self;
        let figures = figures.to_line();
        format!("{part}\t{title}\t{keys}\t{data_bytes}\t{round}\t{contestant}\t{row}\t{figures}")
    }

    pub fn parse(line: &str) -> Option<Record> {
        let mut fields = line.split('\t');
        let mut next = || fields.next();
        let record = Record {
            part: next()?.parse().ok()?,
            title: next()?.to_owned(),
            keys: next()?.parse().ok()?,
            data_bytes: next()?.parse().ok()?,
            round: next()?.parse().ok()?,
            contestant: next()?.to_owned(),
            row: next()?.to_owned(),
            figures: Figures::parse(next()?)?,
        };
        fields.next().is_none().then_some(record)
    }
}

pub fn read(file: &Path) -> Result<Vec<Record>, Failure> {
    let text = std::fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
    Ok(text.lines().filter_map(Record::parse).collect())
}

/// The median over rounds of a figure; 0 if it was never measured.
pub fn median<'a>(records: impl Iterator<Item = &'a Record>, name: &str) -> f64 {
    let mut values: Vec<f64> = records.filter_map(|record| record.figures.get(name)).collect();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => 0.0,
        len if len % 2 == 1 => values[len / 2],
        len => (values[len / 2 - 1] + values[len / 2]) / 2.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(rate: f64) -> Record {
        let mut figures = Figures { note: "a note; of two".into(), ..Figures::default() };
        figures.set("ops_per_s", rate);
        Record {
            part: 2,
            title: "values of 100 bytes".into(),
            keys: 5,
            data_bytes: 580,
            round: 1,
            contestant: "ferrite-16".into(),
            row: "hit".into(),
            figures,
        }
    }

    #[test]
    fn a_line_is_read_as_it_was_written_and_a_torn_one_is_left_out() {
        let line = record(7.5).to_line();
        let read = Record::parse(&line).expect("whole");
        assert_eq!((read.part, read.keys, read.round, &read.row[..]), (2, 5, 1, "hit"));
        assert_eq!(read.figures.get("ops_per_s"), Some(7.5));
        assert_eq!(read.figures.note, "a note; of two");
        assert_eq!(read.to_line(), line);
        let through_figures = line.find(" note ").expect("it has one");
        (0..through_figures).for_each(|len| assert!(Record::parse(&line[..len]).is_none(), "{len} bytes"));
    }

    #[test]
    fn the_median_is_the_middle_one_or_between_the_two_middle_ones() {
        let of = |rates: &[f64]| {
            let records: Vec<Record> = rates.iter().map(|rate| record(*rate)).collect();
            median(records.iter(), "ops_per_s")
        };
        assert_eq!(of(&[]), 0.0);
        assert_eq!(of(&[9.0, 1.0, 2.0]), 2.0);
        assert_eq!(of(&[9.0, 1.0, 2.0, 4.0]), 3.0);
    }
}
