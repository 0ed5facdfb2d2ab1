//! RESP2, client side: `GET` and `SET`, and the four kinds of answer that they bring.
//!
//! ```text
//! request := '*' count CRLF ('$' len CRLF bytes CRLF)*count
//! answer  := '+' text CRLF | '-' text CRLF | ':' number CRLF | '$' len CRLF bytes CRLF | '$-1' CRLF
//! ```

use crate::{
    failure::Failure,
    protocol::{Answer, Garbled, Protocol, Step},
};

/// Longest line of an answer, in bytes: an error's text or a length.
const LINE_BYTES_MAX: usize = 4096;
/// Longest value, in bytes.
const BULK_BYTES_MAX: usize = 64 * 1024 * 1024;

/// The protocol; it keeps no state.
#[derive(Clone, Debug)]
pub(crate) struct Resp;

impl Protocol for Resp {
    const FIFO: bool = true;

    fn greet(&mut self, _out: &mut Vec<u8>) -> bool {
        false
    }

    #[inline]
    fn get(&mut self, _request: u64, key: &[u8], out: &mut Vec<u8>) {
        out.extend_from_slice(b"*2\r\n$3\r\nGET\r\n");
        bulk(key, out);
    }

    #[inline]
    fn put(&mut self, _request: u64, key: &[u8], value: &[u8], out: &mut Vec<u8>) {
        out.extend_from_slice(b"*3\r\n$3\r\nSET\r\n");
        bulk(key, out);
        bulk(value, out);
    }

    #[inline]
    fn step<'a>(&mut self, bytes: &'a [u8]) -> Result<Step<'a>, Garbled> {
        let Some((kind, rest)) = bytes.split_first() else { return Ok(Step::Partial) };
        let Some(line) = line(rest)? else { return Ok(Step::Partial) };
        let head = 1 + line.len() + 2;
        let (bytes, answer) = match kind {
            b'+' | b':' => (head, Answer::Done),
            b'-' => (head, Answer::Failed(classify(line))),
            b'$' if line == b"-1" => (head, Answer::Absent),
            b'$' => {
                let len = number(line)?;
                let Some(body) = bytes.get(head..head + len + 2) else { return Ok(Step::Partial) };
                if !body.ends_with(b"\r\n") {
                    return Err(Garbled("a value without its end".to_owned()));
                }
                (head + len + 2, Answer::Value(&body[..len]))
            }
            other => return Err(Garbled(format!("an answer that begins with byte {other}"))),
        };
        Ok(Step::Answer { bytes, request: 0, stale: false, answer })
    }
}

/// Appends a bulk string.
#[inline]
pub(crate) fn bulk(bytes: &[u8], out: &mut Vec<u8>) {
    out.push(b'$');
    decimal(bytes.len(), out);
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(bytes);
    out.extend_from_slice(b"\r\n");
}

fn decimal(mut number: usize, out: &mut Vec<u8>) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// The bytes before the first CRLF, or `None` while it is not there.
#[inline]
pub(crate) fn line(bytes: &[u8]) -> Result<Option<&[u8]>, Garbled> {
    let searched = &bytes[..bytes.len().min(LINE_BYTES_MAX)];
    match searched.iter().position(|byte| *byte == b'\r') {
        Some(end) => match bytes.get(end + 1) {
            Some(b'\n') => Ok(Some(&bytes[..end])),
            Some(_) => Err(Garbled("a carriage return inside a line".to_owned())),
            None => Ok(None),
        },
        None if searched.len() == LINE_BYTES_MAX => Err(Garbled("a line without an end".to_owned())),
        None => Ok(None),
    }
}

/// A length: decimal digits, at most [`BULK_BYTES_MAX`].
#[inline]
pub(crate) fn number(line: &[u8]) -> Result<usize, Garbled> {
    let digits = (1..=9).contains(&line.len()) && line.iter().all(u8::is_ascii_digit);
    let number = line.iter().fold(0usize, |sum, digit| sum.wrapping_mul(10) + usize::from(digit & 15));
    if digits && number <= BULK_BYTES_MAX {
        Ok(number)
    } else {
        Err(Garbled("a length out of bounds".to_owned()))
    }
}

fn classify(text: &[u8]) -> Failure {
    const REFUSED: [&[u8]; 8] =
        [b"LOADING", b"OOM", b"MISCONF", b"READONLY", b"NOREPLICAS", b"NOAUTH", b"MOVED", b"CLUSTERDOWN"];
    let word = text.split(|byte| *byte == b' ').next().unwrap_or(text);
    if REFUSED.contains(&word) { Failure::RespRefused } else { Failure::RespOther }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(bytes: &[u8]) -> Result<Step<'_>, Garbled> {
        Resp.step(bytes)
    }

    #[test]
    fn requests_are_arrays_of_bulk_strings() {
        let mut out = Vec::new();
        Resp.get(0, b"user1", &mut out);
        assert_eq!(out, b"*2\r\n$3\r\nGET\r\n$5\r\nuser1\r\n");
        out.clear();
        Resp.put(0, b"k", &[b'x'; 12], &mut out);
        assert_eq!(out, b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$12\r\nxxxxxxxxxxxx\r\n");
    }

    #[test]
    fn every_kind_of_answer_is_found_only_when_whole() {
        let answers: [(&[u8], Answer<'_>); 6] = [
            (b"+OK\r\n", Answer::Done),
            (b":12\r\n", Answer::Done),
            (b"$-1\r\n", Answer::Absent),
            (b"$0\r\n\r\n", Answer::Value(b"")),
            (b"$5\r\na\r\nbc\r\n", Answer::Value(b"a\r\nbc")),
            (b"-LOADING the dataset\r\n", Answer::Failed(Failure::RespRefused)),
        ];
        for (bytes, answer) in answers {
            for cut in 0..bytes.len() {
                assert_eq!(
                    step(&bytes[..cut]),
                    Ok(Step::Partial),
                    "{:?} cut at {cut}",
                    bytes.escape_ascii().to_string()
                );
            }
            let mut followed = bytes.to_vec();
            followed.extend_from_slice(b"+OK\r\n");
            let found = Step::Answer { bytes: bytes.len(), request: 0, stale: false, answer };
            assert_eq!(step(&followed), Ok(found));
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for bytes in [
            &b"x\r\n"[..],
            b"$12a\r\n",
            b"$\r\n",
            b"$-2\r\n",
            b"$9999999999\r\n",
            b"$1\r\nabc\r\n",
            b"+a\rb\r\n",
        ] {
            assert!(step(bytes).is_err(), "{}", bytes.escape_ascii());
        }
        assert!(step(&[b'+'; LINE_BYTES_MAX + 8]).is_err(), "a line without an end");
    }
}
