//! Which part of a record is the key, and which the value.

use std::fmt;
use std::str::FromStr;

/// A part of a record, as written after `--key` or `--value`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Field {
    /// A column by its number, from 1.
    Column(usize),
    /// A column by its name in the header line; in JSON, a member (`user.id` for a member of a member).
    Name(String),
    /// Everything after the key's column and its delimiter.
    Rest,
    /// The whole line; in JSON, the whole document as it is written.
    Line,
}

impl FromStr for Field {
    type Err = String;

    fn from_str(text: &str) -> Result<Field, String> {
        match (text, text.parse::<usize>()) {
            ("", _) => Err("name a column or give its number".into()),
            (_, Ok(0)) => Err("columns are counted from 1".into()),
            (_, Ok(number)) => Ok(Field::Column(number)),
            ("rest", Err(_)) => Ok(Field::Rest),
            ("line", Err(_)) => Ok(Field::Line),
            (name, Err(_)) => Ok(Field::Name(name.to_owned())),
        }
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Field::Column(number) => write!(f, "column {number}"),
            Field::Name(name) => write!(f, "\"{name}\""),
            Field::Rest => write!(f, "the rest of the line"),
            Field::Line => write!(f, "the whole line"),
        }
    }
}

/// Why a record cannot be imported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum BadRecord {
    /// The part is not there.
    Missing(Field),
    /// The key is there and empty.
    EmptyKey,
    /// The key is too long.
    KeyTooLong { bytes: usize, max: usize },
    /// The value is too long.
    ValueTooLong { bytes: usize, max: usize },
    /// The line is longer than any record can be.
    LineTooLong { max: usize },
    /// A quote was opened and never closed.
    OpenQuote,
    /// A carriage return stands outside quotes and is not part of a line's end.
    StrayReturn,
    /// Not JSON; the parser's words.
    Json(String),
    /// The member that should be the key is neither a text nor a number.
    JsonKey(Field),
}

impl fmt::Display for BadRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BadRecord::Missing(field) => write!(f, "there is no {field}"),
            BadRecord::EmptyKey => write!(f, "the key is empty"),
            BadRecord::KeyTooLong { bytes, max } => write!(f, "the key has {bytes} bytes, more than {max}"),
            BadRecord::ValueTooLong { bytes, max } => {
                write!(f, "the value has {bytes} bytes, more than {max}")
            }
            BadRecord::LineTooLong { max } => write!(f, "the line has more than {max} bytes"),
            BadRecord::OpenQuote => write!(f, "a quote is opened and never closed"),
            BadRecord::StrayReturn => write!(f, "there is a carriage return outside quotes"),
            BadRecord::Json(words) => write!(f, "not JSON: {words}"),
            BadRecord::JsonKey(field) => write!(f, "{field} is neither a text nor a number"),
        }
    }
}

/// A key and its value, owned: they wait in a window until they are acknowledged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pair {
    pub(crate) key: Vec<u8>,
    pub(crate) value: Vec<u8>,
}

/// Where a part of a record is found once the header has been read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// A column, from 0.
    Column(usize),
    /// Everything after the key's column.
    Rest,
    /// The whole line.
    Line,
}

impl Part {
    /// Finds a field among the columns of the header (none if there is no header).
    pub(crate) fn find(field: &Field, header: &[Vec<u8>]) -> Option<Part> {
        match field {
            Field::Column(number) => Some(Part::Column(number - 1)),
            Field::Name(name) => {
                header.iter().position(|column| column.as_slice() == name.as_bytes()).map(Part::Column)
            }
            Field::Rest => Some(Part::Rest),
            Field::Line => Some(Part::Line),
        }
    }

    /// Takes this part out of a line of columns. `key` is the key's column, after which the rest begins.
    pub(crate) fn take<'a>(&self, line: &'a [u8], delimiter: u8, key: usize) -> Option<&'a [u8]> {
        let mut columns = line.split(|byte| *byte == delimiter);
        match self {
            Part::Column(index) => columns.nth(*index),
            Part::Line => Some(line),
            Part::Rest => {
                let before: usize = columns.take(key + 1).map(|column| column.len() + 1).sum();
                line.get(before..)
            }
        }
    }
}

/// Takes key and value out of a JSON document.
pub(crate) fn take_json(document: &[u8], key: &Field, value: &Field) -> Result<Pair, BadRecord> {
    let parsed: serde_json::Value =
        serde_json::from_slice(document).map_err(|error| BadRecord::Json(error.to_string()))?;
    let key_text = match member(&parsed, key)? {
        serde_json::Value::String(text) => text.clone().into_bytes(),
        serde_json::Value::Number(number) => number.to_string().into_bytes(),
        serde_json::Value::Null
        | serde_json::Value::Bool(_)
        | serde_json::Value::Array(_)
        | serde_json::Value::Object(_) => return Err(BadRecord::JsonKey(key.clone())),
    };
    let value = match value {
        Field::Line => document.trim_ascii().to_vec(),
        named => match member(&parsed, named)? {
            serde_json::Value::String(text) => text.clone().into_bytes(),
            other => other.to_string().into_bytes(),
        },
    };
    Ok(Pair { key: key_text, value })
}

fn member<'a>(document: &'a serde_json::Value, field: &Field) -> Result<&'a serde_json::Value, BadRecord> {
    let missing = || BadRecord::Missing(field.clone());
    let path = match field {
        Field::Name(name) => name.clone(),
        Field::Column(number) => number.to_string(),
        Field::Rest | Field::Line => return Err(missing()),
    };
    // A member whose own name has dots comes first.
    let whole = document.get(&path);
    let walked = || path.split('.').try_fold(document, |value, name| value.get(name));
    whole.or_else(walked).ok_or_else(missing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_numbers_names_or_two_words() {
        assert_eq!("1".parse(), Ok(Field::Column(1)));
        assert_eq!("rest".parse(), Ok(Field::Rest));
        assert_eq!("line".parse(), Ok(Field::Line));
        assert_eq!("user.id".parse(), Ok(Field::Name("user.id".into())));
        assert!("0".parse::<Field>().is_err());
        assert!("".parse::<Field>().is_err());
    }

    #[test]
    fn parts_of_a_line() {
        let line = b"0041;LATIN;Lu;";
        let take = |part: Part, key| part.take(line, b';', key);
        assert_eq!(take(Part::Column(0), 0), Some(&b"0041"[..]));
        assert_eq!(take(Part::Column(3), 0), Some(&b""[..]));
        assert_eq!(take(Part::Column(4), 0), None);
        assert_eq!(take(Part::Rest, 0), Some(&b"LATIN;Lu;"[..]));
        assert_eq!(take(Part::Rest, 2), Some(&b""[..]));
        assert_eq!(take(Part::Rest, 3), None, "nothing follows the last column");
        assert_eq!(take(Part::Line, 0), Some(&line[..]));
    }

    #[test]
    fn parts_of_a_document() {
        let document = br#" {"id": 7, "user": {"name": "ada"}, "a.b": "dot", "tags": [1, 2], "none": null} "#;
        let name = |name: &str| Field::Name(name.into());
        let take = |key: &str, value: Field| take_json(document, &name(key), &value);
        assert_eq!(take("id", name("tags")).unwrap(), Pair { key: b"7".to_vec(), value: b"[1,2]".to_vec() });
        assert_eq!(
            take("user.name", name("a.b")).unwrap(),
            Pair { key: b"ada".to_vec(), value: b"dot".to_vec() }
        );
        assert_eq!(take("id", Field::Line).unwrap().value, document.trim_ascii());
        assert_eq!(take("none", Field::Line), Err(BadRecord::JsonKey(name("none"))));
        assert_eq!(take("user.age", Field::Line), Err(BadRecord::Missing(name("user.age"))));
        assert!(matches!(take_json(b"{\"id\": \xff}", &name("id"), &Field::Line), Err(BadRecord::Json(_))));
        assert!(matches!(
            take_json(b"{\"id\": \"\xff\"}", &name("id"), &Field::Line),
            Err(BadRecord::Json(_))
        ));
    }
}
