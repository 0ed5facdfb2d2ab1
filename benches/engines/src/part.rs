//! What is run: parts, each with a set of data, its rows and who takes part.

use crate::contestant::Contestant;
use crate::row::Row;
use crate::{Args, Engine};

/// Most records of a set, and most bytes of its keys and values.
const KEYS_MAX: u64 = 10_000_000;
const DATA_BYTES_MAX: u64 = 10_000_000_000;
/// How often the smallest set fits into each set of a curve.
const CURVE: [u64; 4] = [1, 2, 5, 10];

/// One table's worth of measurements.
#[derive(Clone, Debug)]
pub struct Part {
    pub title: String,
    /// Records of each set; several are a curve.
    pub keys: Vec<u64>,
    pub rows: Vec<Row>,
    pub contestants: Vec<Contestant>,
    pub value_bytes: usize,
    pub lz4: bool,
    pub cache_mib: usize,
    /// The rest is as the command line says.
    pub args: Args,
}

impl Part {
    /// What the command line asks for: one part, or one with compression and one without.
    pub fn asked(args: &Args) -> Vec<Part> {
        let keys = args.keys.unwrap_or(1_000_000);
        let (keys, rows) = if args.curve {
            (CURVE.iter().map(|times| keys * times).collect(), vec![Row::Load, Row::Hit, Row::Miss])
        } else {
            (vec![keys], load_first(&args.rows))
        };
        let part = |&lz4: &u8| Part {
            title: title(args.value, lz4 != 0),
            keys: keys.clone(),
            rows: rows.clone(),
            contestants: Contestant::all(&args.engines, &args.stores),
            value_bytes: args.value,
            lz4: lz4 != 0,
            cache_mib: args.cache.unwrap_or(1024),
            args: args.clone(),
        };
        args.lz4.iter().map(part).collect()
    }

    /// All that the goals ask for; what matters most comes first.
    pub fn finals(args: &Args) -> Vec<Part> {
        use Row::{Busy, Device, Disk, Hit, Hit16, Idle, Load, Miss, Mixed, Overwrite, Scan, Synced};
        let most = args.keys.unwrap_or(KEYS_MAX);
        let all = Contestant::all(&[Engine::Ferrite, Engine::Rocksdb, Engine::Fjall], &[16, 1]);
        let two = Contestant::all(&[Engine::Ferrite, Engine::Rocksdb], &[16, 1]);
        let one_each = Contestant::all(&[Engine::Ferrite, Engine::Rocksdb], &[16]);
        let part =
            |title: &str, keys: u64, value_bytes, lz4, rows: &[Row], contestants: &[Contestant]| Part {
                title: format!("{title}{}", self::title(value_bytes, lz4)),
                keys: vec![keys.max(1)],
                rows: rows.to_vec(),
                contestants: contestants.to_vec(),
                value_bytes,
                lz4,
                cache_mib: args.cache.unwrap_or(2048),
                args: args.clone(),
            };
        let everything = [Load, Overwrite, Hit, Miss, Hit16, Scan, Mixed, Disk, Device, Synced];
        let mut curve = part("as the data grows: ", 1, 100, true, &[Load, Hit, Miss], &one_each);
        curve.keys = CURVE.iter().map(|times| (most * times / 10).max(1)).collect();
        vec![
            part("", most, 100, true, &everything, &all),
            part("", most / 10, 1024, true, &[Load, Overwrite, Hit, Miss, Disk, Device], &all),
            part("", most * 3 / 200, 10_240, true, &[Load, Overwrite, Hit], &two),
            part("gets beside puts: ", most / 5, 100, true, &[Load, Hit, Idle, Busy], &two),
            part("", most / 5, 100, false, &[Load, Overwrite, Hit, Miss], &two),
            curve,
        ]
    }

    /// Bytes of the keys and values of its largest set.
    pub fn data_bytes(&self) -> u64 {
        self.keys.iter().max().expect("a part has a set") * (16 + self.value_bytes as u64)
    }

    /// Why it is too large, if it is.
    pub fn refusal(&self) -> Option<String> {
        let (keys, bytes) = (*self.keys.iter().max().expect("a part has a set"), self.data_bytes());
        if keys > KEYS_MAX {
            return Some(format!("{keys} records are more than {KEYS_MAX}"));
        }
        (bytes > DATA_BYTES_MAX)
            .then(|| format!("{bytes} bytes of keys and values are more than {DATA_BYTES_MAX}"))
    }
}

fn load_first(rows: &[Row]) -> Vec<Row> {
    let others = rows.iter().copied().filter(|row| *row != Row::Load);
    std::iter::once(Row::Load).chain(others).collect()
}

fn title(value_bytes: usize, lz4: bool) -> String {
    format!("values of {value_bytes} bytes, {}", if lz4 { "LZ4" } else { "no compression" })
}
