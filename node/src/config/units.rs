//! Values with units, as they are written in the configuration: `"64MiB"`, `"500ms"`.
//!
//! A bare number is refused: a reader should never have to guess whether `timeout = 30` means seconds or milliseconds.
//! Fractions are refused too (`"1536MiB"`, not `"1.5GiB"`), so that what is written is exactly what is used.

use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;
use std::time::Duration;

use serde::de::{Deserialize, Deserializer, Error, Visitor};

/// A number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

/// A length of time, at microsecond resolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Interval(pub Duration);

const SIZE_UNITS: [(&str, u64); 5] =
    [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];
const TIME_UNITS: [(&str, u64); 6] = [
    ("d", 86_400_000_000),
    ("h", 3_600_000_000),
    ("m", 60_000_000),
    ("s", 1_000_000),
    ("ms", 1_000),
    ("us", 1),
];

/// What is wrong with a text that should be a number and a unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UnitError {
    /// It does not begin with a whole number.
    NoNumber,
    /// There is a fraction.
    Fraction,
    /// There is a number and nothing else.
    NoUnit,
    /// The unit is not one of ours.
    UnknownUnit(String),
    /// The number does not fit.
    TooLarge,
}

/// A quantity: its units, from large to small, and words for messages.
trait Quantity: Sized {
    const NOUN: &'static str;
    const EXAMPLE: &'static str;
    const UNITS: &'static [(&'static str, u64)];
    fn from_base(value: u64) -> Self;

    fn parse(text: &str) -> Result<Self, UnitError> {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        if number.is_empty() {
            return Err(UnitError::NoNumber);
        }
        if unit.starts_with('.') || unit.starts_with(',') {
            return Err(UnitError::Fraction);
        }
        let unit = unit.trim_start();
        if unit.is_empty() {
            return Err(UnitError::NoUnit);
        }
        let Some((_, factor)) = Self::UNITS.iter().find(|(name, _)| *name == unit) else {
            return Err(UnitError::UnknownUnit(unit.to_owned()));
        };
        let number: u64 = number.parse().map_err(|_| UnitError::TooLarge)?;
        number.checked_mul(*factor).map(Self::from_base).ok_or(UnitError::TooLarge)
    }

    /// What to tell the person who wrote `text`.
    fn explain(text: &str, error: &UnitError) -> String {
        let (noun, example) = (Self::NOUN, Self::EXAMPLE);
        match error {
            UnitError::NoNumber => {
                format!("\"{text}\" is not a {noun}: write a whole number and a unit, like \"{example}\"")
            }
            UnitError::Fraction => {
                format!("\"{text}\" has a fraction: use a smaller unit and a whole number")
            }
            UnitError::NoUnit => format!("\"{text}\" has no unit: write a {noun} like \"{example}\""),
            UnitError::UnknownUnit(unit) => {
                let known: Vec<&str> = Self::UNITS.iter().map(|(name, _)| *name).collect();
                format!("\"{text}\": \"{unit}\" is not a unit of a {noun}: use one of {}", known.join(", "))
            }
            UnitError::TooLarge => format!("\"{text}\" is too large"),
        }
    }
}

impl Quantity for ByteSize {
    const NOUN: &'static str = "size";
    const EXAMPLE: &'static str = "64MiB";
    const UNITS: &'static [(&'static str, u64)] = &SIZE_UNITS;

    fn from_base(value: u64) -> Self {
        ByteSize(value)
    }
}

impl Quantity for Interval {
    const NOUN: &'static str = "length of time";
    const EXAMPLE: &'static str = "500ms";
    const UNITS: &'static [(&'static str, u64)] = &TIME_UNITS;

    fn from_base(value: u64) -> Self {
        Interval(Duration::from_micros(value))
    }
}

impl ByteSize {
    /// So many mebibytes.
    pub const fn mib(count: u64) -> ByteSize {
        ByteSize(count << 20)
    }
}

/// Reading a quantity from a text, and from a configuration.
macro_rules! quantity_impls {
    ($type:ty) => {
        impl FromStr for $type {
            type Err = String;

            /// Parses a whole number and a unit; the error says how to write it instead.
            fn from_str(text: &str) -> Result<Self, String> {
                <Self as Quantity>::parse(text).map_err(|error| <Self as Quantity>::explain(text, &error))
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_any(QuantityVisitor(PhantomData))
            }
        }
    };
}
quantity_impls!(ByteSize);
quantity_impls!(Interval);

struct QuantityVisitor<T>(PhantomData<T>);

impl<T: Quantity> Visitor<'_> for QuantityVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a {} in quotes, like \"{}\"", T::NOUN, T::EXAMPLE)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        T::parse(text).map_err(|error| E::custom(T::explain(text, &error)))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<T, E> {
        let text = number.to_string();
        Err(E::custom(T::explain(&text, &UnitError::NoUnit)))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<T, E> {
        let text = number.to_string();
        Err(E::custom(T::explain(&text, &UnitError::NoUnit)))
    }
}

impl fmt::Display for ByteSize {
    /// The largest unit that divides it, so that what is printed can be written back.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, factor) in SIZE_UNITS {
            if self.0 >= factor && self.0.is_multiple_of(factor) {
                return write!(f, "{}{name}", self.0 / factor);
            }
        }
        write!(f, "{}B", self.0)
    }
}

impl fmt::Display for Interval {
    /// The largest unit that divides it, so that what is printed can be written back.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let micros = self.0.as_micros() as u64;
        for (name, factor) in TIME_UNITS {
            if micros >= factor && micros.is_multiple_of(factor) {
                return write!(f, "{}{name}", micros / factor);
            }
        }
        write!(f, "{micros}us")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes_are_whole_numbers_with_a_unit() {
        assert_eq!("64MiB".parse(), Ok(ByteSize(64 << 20)));
        assert_eq!("1 GiB".parse(), Ok(ByteSize(1 << 30)));
        assert_eq!("0B".parse(), Ok(ByteSize(0)));
        assert_eq!(ByteSize::parse("64"), Err(UnitError::NoUnit));
        assert_eq!(ByteSize::parse("1.5GiB"), Err(UnitError::Fraction));
        assert_eq!(ByteSize::parse("64MB"), Err(UnitError::UnknownUnit("MB".into())));
        assert_eq!(ByteSize::parse("MiB"), Err(UnitError::NoNumber));
        assert_eq!(ByteSize::parse("-1MiB"), Err(UnitError::NoNumber));
        assert_eq!(ByteSize::parse(""), Err(UnitError::NoNumber));
        assert_eq!(ByteSize::parse("18446744073709551615TiB"), Err(UnitError::TooLarge));
        assert_eq!(ByteSize::parse("99999999999999999999B"), Err(UnitError::TooLarge));
    }

    #[test]
    fn times_are_whole_numbers_with_a_unit() {
        assert_eq!("2s".parse(), Ok(Interval(Duration::from_secs(2))));
        assert_eq!("500ms".parse(), Ok(Interval(Duration::from_millis(500))));
        assert_eq!("3h".parse(), Ok(Interval(Duration::from_secs(10_800))));
        assert_eq!("5m".parse(), Ok(Interval(Duration::from_secs(300))));
        assert_eq!(Interval::parse("2"), Err(UnitError::NoUnit));
        assert_eq!(Interval::parse("2sec"), Err(UnitError::UnknownUnit("sec".into())));
    }

    #[test]
    fn messages_name_the_remedy() {
        let error = "64MB".parse::<ByteSize>().unwrap_err();
        assert_eq!(error, "\"64MB\": \"MB\" is not a unit of a size: use one of TiB, GiB, MiB, KiB, B");
        let error = "30".parse::<Interval>().unwrap_err();
        assert_eq!(error, "\"30\" has no unit: write a length of time like \"500ms\"");
    }

    proptest! {
        #[test]
        fn what_is_printed_can_be_read_back(bytes in any::<u64>(), micros in 0..u64::MAX / 2) {
            prop_assert_eq!(ByteSize(bytes).to_string().parse(), Ok(ByteSize(bytes)));
            let interval = Interval(Duration::from_micros(micros));
            prop_assert_eq!(interval.to_string().parse(), Ok(interval));
        }

        #[test]
        fn any_text_is_answered(text in "\\PC*") {
            let _ = ByteSize::parse(&text);
            let _ = Interval::parse(&text);
        }
    }
}
