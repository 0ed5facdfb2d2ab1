//! What a server's error means for the call it answers.
//!
//! | code | a read | a write |
//! |---|---|---|
//! | unavailable, clock drift, fenced, disk full | ask another replica | the same: it was not applied |
//! | stopping, not joined, expired | ask another replica | the same |
//! | overloaded | pause, ask another replica | the same |
//! | timed out, unknown, damaged | ask another replica | **unknown**, never sent again |
//! | malformed, version, foreign cluster, too large, no table, unsupported, tables differ, bad context, too many siblings | answer with it | not applied |
//!
//! A write whose outcome is open is never sent again: a second copy would be minted a newer version and could bury what
//! others wrote in between.

use ferrite_wire::ErrorCode;

/// What to do after a server's error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// End the call with the error.
    Answer,
    /// End the write: its outcome is unknown.
    Unknown,
    /// Try the next replica at once.
    OtherReplica,
    /// Try the next replica after a pause: the servers are short of room, not absent.
    AfterPause,
}

/// The table above.
pub(crate) fn after(code: ErrorCode, is_write: bool) -> Next {
    if is_write && !code.says_not_applied() {
        return Next::Unknown;
    }
    match code {
        ErrorCode::Unavailable
        | ErrorCode::Timeout
        | ErrorCode::Unknown
        | ErrorCode::Fenced
        | ErrorCode::DiskFull
        | ErrorCode::Damaged
        | ErrorCode::ClockDrift
        | ErrorCode::Stopping
        // It was too late for that one, which may have stood still; the request's own deadline is the client's to judge.
        | ErrorCode::Expired
        | ErrorCode::NotJoined => Next::OtherReplica,
        ErrorCode::Overloaded => Next::AfterPause,
        ErrorCode::Malformed
        | ErrorCode::Version
        | ErrorCode::ForeignCluster
        | ErrorCode::TooLarge
        | ErrorCode::NoTable
        | ErrorCode::Unsupported
        | ErrorCode::TablesDiffer
        | ErrorCode::BadContext
        | ErrorCode::TooManySiblings => Next::Answer,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_is_sent_again_only_if_it_was_not_applied() {
        for code in ErrorCode::ALL {
            let again = matches!(after(code, true), Next::OtherReplica | Next::AfterPause);
            assert!(!again || code.says_not_applied(), "{code}");
            assert_eq!(after(code, true) == Next::Unknown, !code.says_not_applied(), "{code}");
            assert_ne!(after(code, false), Next::Unknown, "{code}: a read has no unknown outcome");
        }
    }
}
