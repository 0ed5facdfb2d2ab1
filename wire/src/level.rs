//! How many replicas must answer a request: as it travels, and as people write it.
//!
//! ```text
//! level := 1 one | 2 two | 3 quorum | 4 all | 5 local_one | 6 local_quorum | 7 each_quorum | 0x80 + count, 1 to 16
//! ```

use std::fmt;
use std::str::FromStr;

use crate::{DecodeError, limits};

/// How many replicas must answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Level {
    /// One replica.
    One,
    /// Two replicas.
    Two,
    /// A majority of the replicas.
    Quorum,
    /// Every replica.
    All,
    /// One replica in the coordinator's datacenter.
    LocalOne,
    /// A majority in the coordinator's datacenter.
    LocalQuorum,
    /// A majority in each datacenter.
    EachQuorum,
    /// Exactly this many, 1 to 16.
    Number(u8),
}

impl Level {
    /// How many of `replicas` must answer (one datacenter). At least 1; may exceed `replicas`, which makes the level unavailable.
    pub fn needed(self, replicas: usize) -> usize {
        match self {
            Level::One | Level::LocalOne => 1,
            Level::Two => 2,
            Level::Quorum | Level::LocalQuorum | Level::EachQuorum => replicas / 2 + 1,
            Level::All => replicas,
            Level::Number(count) => count as usize,
        }
    }

    /// Whether it asks for something of datacenters, and so means something else once there are several.
    pub fn is_of_datacenters(self) -> bool {
        matches!(self, Level::LocalOne | Level::LocalQuorum | Level::EachQuorum)
    }

    /// The byte that travels.
    pub fn to_u8(self) -> u8 {
        match self {
            Level::One => 1,
            Level::Two => 2,
            Level::Quorum => 3,
            Level::All => 4,
            Level::LocalOne => 5,
            Level::LocalQuorum => 6,
            Level::EachQuorum => 7,
            Level::Number(count) => {
                assert!((1..=limits::REPLICAS_MAX as u8).contains(&count), "a numbered level is 1 to 16");
                0x80 | count
            }
        }
    }

    /// The level that travels as `value`.
    pub fn from_u8(value: u8) -> Result<Level, DecodeError> {
        Ok(match value {
            1 => Level::One,
            2 => Level::Two,
            3 => Level::Quorum,
            4 => Level::All,
            5 => Level::LocalOne,
            6 => Level::LocalQuorum,
            7 => Level::EachQuorum,
            0x81..=0x90 => Level::Number(value & 0x7f),
            _ => return Err(DecodeError::Unknown { field: "level", value: u64::from(value) }),
        })
    }
}

/// The levels that have names.
const NAMED: [(&str, Level); 7] = [
    ("one", Level::One),
    ("two", Level::Two),
    ("quorum", Level::Quorum),
    ("all", Level::All),
    ("local_one", Level::LocalOne),
    ("local_quorum", Level::LocalQuorum),
    ("each_quorum", Level::EachQuorum),
];

/// A text is no level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoLevel;

impl fmt::Display for NoLevel {
    /// What to write instead.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("use ")?;
        NAMED.iter().try_for_each(|(name, _)| write!(f, "{name}, "))?;
        write!(f, "or a number from 1 to {}", limits::REPLICAS_MAX)
    }
}

impl std::error::Error for NoLevel {}

impl FromStr for Level {
    type Err = NoLevel;

    /// A level by its name, in any case, or by its number.
    fn from_str(text: &str) -> Result<Level, NoLevel> {
        let named = NAMED.iter().find(|(name, _)| name.eq_ignore_ascii_case(text));
        if let Some((_, level)) = named {
            return Ok(*level);
        }
        match text.parse() {
            Ok(count) if (1..=limits::REPLICAS_MAX as u8).contains(&count) => Ok(Level::Number(count)),
            Ok(_) | Err(_) => Err(NoLevel),
        }
    }
}

impl fmt::Display for Level {
    /// As it is written.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = NAMED.iter().find(|(_, level)| level == self);
        match (self, named) {
            (Level::Number(count), _) => write!(f, "{count}"),
            (_, named) => f.write_str(named.expect("every other level has a name").0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_written_by_name_or_number() {
        let bytes = (1..=7).chain(0x81..=0x90);
        for level in bytes.map(|byte| Level::from_u8(byte).expect("a level")) {
            assert_eq!(level.to_string().parse(), Ok(level));
            assert_eq!(level.to_string().to_uppercase().parse(), Ok(level), "in any case");
        }
        assert_eq!([Level::LocalOne, Level::Number(2)].map(|level| level.to_string()), ["local_one", "2"]);
        for wrong in ["", "0", "17", "258", "most", "-1", "quorum ", "local-one"] {
            assert_eq!(wrong.parse::<Level>(), Err(NoLevel), "{wrong}");
        }
        assert_eq!(
            NoLevel.to_string(),
            "use one, two, quorum, all, local_one, local_quorum, each_quorum, or a number from 1 to 16"
        );
    }
}
