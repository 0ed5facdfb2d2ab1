//! Where the load goes: `ferrite://host:port`, `redis://host:port` or `null://host:port`.

use std::net::{SocketAddr, ToSocketAddrs};

/// A protocol and an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// How to speak to it.
    pub scheme: Scheme,
    /// `host:port`.
    pub address: String,
}

/// How to speak to a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// A Ferrite cluster: any member's address; the rest is learned from it.
    Ferrite,
    /// A server that speaks RESP2.
    Redis,
    /// The Ferrite protocol to this one address, without asking for a topology.
    Null,
}

impl Scheme {
    /// The word before `://`.
    pub fn name(self) -> &'static str {
        match self {
            Scheme::Ferrite => "ferrite",
            Scheme::Redis => "redis",
            Scheme::Null => "null",
        }
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}://{}", self.scheme.name(), self.address)
    }
}

impl std::str::FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Target, String> {
        let (scheme, address) = text.split_once("://").unwrap_or(("ferrite", text));
        let scheme = [Scheme::Ferrite, Scheme::Redis, Scheme::Null]
            .into_iter()
            .find(|known| known.name() == scheme)
            .ok_or_else(|| format!("unknown scheme '{scheme}': use ferrite://, redis:// or null://"))?;
        let port = address.rsplit_once(':').map(|(_, port)| port.parse::<u16>());
        if !matches!(port, Some(Ok(1..))) {
            return Err(format!("'{address}' is not host:port"));
        }
        Ok(Target { scheme, address: address.to_owned() })
    }
}

/// The first socket address that `host:port` stands for.
pub(crate) fn resolve(address: &str) -> Result<SocketAddr, String> {
    let mut found =
        address.to_socket_addrs().map_err(|error| format!("cannot resolve {address}: {error}"))?;
    found.next().ok_or_else(|| format!("cannot resolve {address}: no address"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_parse_and_print() {
        for text in ["ferrite://127.0.0.1:7100", "redis://localhost:6379", "null://[::1]:9"] {
            assert_eq!(text.parse::<Target>().map(|target| target.to_string()), Ok(text.to_owned()));
        }
        assert_eq!("127.0.0.1:1".parse::<Target>().map(|target| target.scheme), Ok(Scheme::Ferrite));
        for text in ["http://a:1", "ferrite://a", "a:0", "a:x", "a:70000", ""] {
            assert!(text.parse::<Target>().is_err(), "{text}");
        }
    }
}
