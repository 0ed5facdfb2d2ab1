//! Why an operation brought no answer, or a refusal: counted by kind, and sorted by what the client may conclude.

use ferrite_wire::ErrorCode;

/// Why an operation failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// A typed error of the Ferrite protocol.
    Server(ErrorCode),
    /// A RESP error that says that nothing was done: loading, out of memory, read-only, not writable now.
    RespRefused,
    /// Any other RESP error.
    RespOther,
    /// The connection was lost with the request under way.
    ConnectionLost,
    /// No answer within the timeout and its grace; the connection was closed.
    TimedOut,
    /// No connection was open, so nothing was sent.
    NotConnected,
    /// The open-loop queue was full, so nothing was sent.
    NotSent,
}

/// What is known of a failed write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Certainty {
    /// It had no effect and will have none.
    NotApplied,
    /// It may have taken effect, or may yet.
    Unknown,
}

/// Kinds of failure, for tables of counts.
pub(crate) const FAILURES: usize = ErrorCode::ALL.len() + 6;

impl Failure {
    /// Every kind.
    pub fn all() -> impl Iterator<Item = Failure> {
        let own = [
            Failure::RespRefused,
            Failure::RespOther,
            Failure::ConnectionLost,
            Failure::TimedOut,
            Failure::NotConnected,
            Failure::NotSent,
        ];
        ErrorCode::ALL.into_iter().map(Failure::Server).chain(own)
    }

    /// Its place in a table of counts.
    pub fn index(self) -> usize {
        let own = match self {
            Failure::Server(code) => return code as usize - 1,
            Failure::RespRefused => 0,
            Failure::RespOther => 1,
            Failure::ConnectionLost => 2,
            Failure::TimedOut => 3,
            Failure::NotConnected => 4,
            Failure::NotSent => 5,
        };
        ErrorCode::ALL.len() + own
    }

    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Failure::Server(code) => match code {
                ErrorCode::Malformed => "malformed",
                ErrorCode::Version => "version",
                ErrorCode::ForeignCluster => "foreign_cluster",
                ErrorCode::TooLarge => "too_large",
                ErrorCode::Unavailable => "unavailable",
                ErrorCode::Timeout => "timeout",
                ErrorCode::Unknown => "unknown",
                ErrorCode::Overloaded => "overloaded",
                ErrorCode::Fenced => "fenced",
                ErrorCode::DiskFull => "disk_full",
                ErrorCode::Damaged => "damaged",
                ErrorCode::NoTable => "no_table",
                ErrorCode::ClockDrift => "clock_drift",
                ErrorCode::Stopping => "stopping",
                ErrorCode::Unsupported => "unsupported",
                ErrorCode::Expired => "expired",
                ErrorCode::TablesDiffer => "tables_differ",
                ErrorCode::BadContext => "bad_context",
                ErrorCode::TooManySiblings => "too_many_siblings",
                ErrorCode::NotJoined => "not_joined",
            },
            Failure::RespRefused => "resp_refused",
            Failure::RespOther => "resp_error",
            Failure::ConnectionLost => "connection_lost",
            Failure::TimedOut => "no_answer",
            Failure::NotConnected => "not_connected",
            Failure::NotSent => "not_sent",
        }
    }

    /// What may be concluded when the failed operation was a write.
    pub fn certainty(self) -> Certainty {
        match self {
            Failure::Server(code) if code.says_not_applied() => Certainty::NotApplied,
            Failure::Server(_) => Certainty::Unknown,
            Failure::RespRefused | Failure::NotConnected | Failure::NotSent => Certainty::NotApplied,
            Failure::RespOther | Failure::ConnectionLost | Failure::TimedOut => Certainty::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_its_own_place_and_name() {
        let all: Vec<Failure> = Failure::all().collect();
        assert_eq!(all.len(), FAILURES);
        for (place, failure) in all.iter().enumerate() {
            assert_eq!(failure.index(), place);
        }
        let mut names: Vec<&str> = all.iter().map(|failure| failure.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), FAILURES);
    }
}
