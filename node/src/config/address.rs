//! A contact address, `host:port`.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ferrite_wire::limits::NAME_BYTES_MAX;
use serde::de::{Deserialize, Deserializer, Error};

/// A host, by name or number, and a port. An IPv6 host is written in brackets: `[::1]:7100`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Address {
    /// The host, without brackets.
    pub host: String,
    /// The port, never 0.
    pub port: u16,
}

impl Address {
    /// Whether only this machine can reach it. A host name other than `localhost` counts as reachable by others,
    /// whatever it resolves to today.
    pub fn is_loopback(&self) -> bool {
        match self.host.parse::<IpAddr>() {
            Ok(ip) => ip.is_loopback(),
            Err(_) => self.host == "localhost",
        }
    }

    /// The same host at another port.
    pub fn with_port(&self, port: u16) -> Address {
        Address { host: self.host.clone(), port }
    }
}

impl FromStr for Address {
    type Err = String;

    /// Parses `host:port`; the error says how to write it instead.
    fn from_str(text: &str) -> Result<Address, String> {
        let wrong =
            |why: &str| Err(format!("\"{text}\" {why}: write \"host:port\", like \"127.0.0.1:7100\""));
        let Some((host, port)) = text.rsplit_once(':') else {
            return wrong("has no port");
        };
        let (host, bracketed) = match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            Some(inner) => (inner, true),
            None => (host, false),
        };
        if host.is_empty() {
            return wrong("has no host");
        }
        if text.len() > NAME_BYTES_MAX {
            return wrong("is too long");
        }
        if host.contains(':') != bracketed {
            return Err(format!("\"{text}\": write an IPv6 address in brackets, like \"[::1]:7100\""));
        }
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b':');
        if !host.bytes().all(plain) {
            return wrong("has characters that no host name has");
        }
        if host.parse::<IpAddr>().is_ok_and(|ip| ip.is_unspecified()) {
            return Err(format!("\"{text}\": others cannot connect to {host}: write the address they reach"));
        }
        match port.parse::<u16>() {
            Ok(port) if port > 0 => Ok(Address { host: host.to_owned(), port }),
            Ok(_) | Err(_) => wrong("has no port between 1 and 65535"),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl<'de> Deserialize<'de> for Address {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_read_and_print_the_same() {
        for text in ["127.0.0.1:7100", "[::1]:7100", "localhost:1", "db-1.example.org:65535"] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_not_an_address_is_refused_with_a_remedy() {
        for (text, part) in [
            ("127.0.0.1", "has no port:"),
            (":7100", "has no host"),
            ("127.0.0.1:0", "between 1 and 65535"),
            ("127.0.0.1:70000", "between 1 and 65535"),
            ("127.0.0.1:http", "between 1 and 65535"),
            ("::1:7100", "in brackets"),
            ("[localhost]:7100", "in brackets"),
            ("0.0.0.0:7100", "others cannot connect"),
            ("a b:7100", "no host name has"),
        ] {
            let error = text.parse::<Address>().unwrap_err();
            assert!(error.contains(part) && error.contains(text), "{text}: {error}");
        }
    }

    #[test]
    fn only_this_machine_reaches_loopback() {
        let loopback = |text: &str| text.parse::<Address>().unwrap().is_loopback();
        assert!(
            loopback("127.0.0.1:1")
                && loopback("127.9.9.9:1")
                && loopback("[::1]:1")
                && loopback("localhost:1")
        );
        assert!(!loopback("10.0.0.1:1") && !loopback("example.org:1") && !loopback("[fe80::1]:1"));
    }
}
