//! The records of the demo: the Unicode Character Database, one per character, and whether a cluster has them.

use ferrite_client::{BlockingClient, Key, Level, ReadOptions};

/// `UnicodeData` 15.0.0: the code point before the first `;` is the key, the rest of the line the value.
pub(super) const TEXT: &[u8] = include_bytes!("../../../data/UnicodeData-15.0.0.txt");

/// Keys of one multi-get.
const BATCH_KEYS: usize = 256;

/// What reading everything back found.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Comparison {
    /// The same, byte for byte.
    pub(super) same: u64,
    /// Not there.
    pub(super) absent: u64,
    /// There, with another value.
    pub(super) different: u64,
    /// Not answered.
    pub(super) failed: u64,
    /// The first that was not the same.
    pub(super) first: Option<String>,
}

/// Key and value of each record.
pub(super) fn records() -> impl Iterator<Item = (&'static [u8], &'static [u8])> {
    TEXT.split(|byte| *byte == b'\n').filter_map(|line| {
        let at = line.iter().position(|byte| *byte == b';')?;
        Some((&line[..at], &line[at + 1..]))
    })
}

/// Reads every record at QUORUM and compares it with what was imported.
pub(super) fn compare(client: &mut BlockingClient) -> Comparison {
    let records: Vec<_> = records().collect();
    let options = ReadOptions { level: Some(Level::Quorum), timeout: None };
    let mut comparison = Comparison::default();
    for batch in records.chunks(BATCH_KEYS) {
        let keys: Vec<Key<'_>> = batch.iter().map(|(key, _)| Key::plain(key)).collect();
        for ((key, expected), answer) in batch.iter().zip(client.multi_get(&keys, options)) {
            let (count, what) = match answer {
                Ok(Some(value)) if value.bytes == *expected => {
                    comparison.same += 1;
                    continue;
                }
                Ok(Some(_)) => (&mut comparison.different, "has another value".to_owned()),
                Ok(None) => (&mut comparison.absent, "is not there".to_owned()),
                Err(error) => (&mut comparison.failed, format!("cannot be read: {error}")),
            };
            *count += 1;
            comparison.first.get_or_insert(format!("{} {what}", String::from_utf8_lossy(key)));
        }
    }
    comparison
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_a_record() {
        assert_eq!(records().count(), 34_924);
        let (key, value) = records().next().expect("a first record");
        assert_eq!((key, value), (&b"0000"[..], &b"<control>;Cc;0;BN;;;;;N;NULL;;;;"[..]));
    }
}
