//! How a command ends: one line on stderr, and an exit code that a script can rely on.

use std::fmt::Display;
use std::process::ExitCode;

use ferrite_client::{ErrorCode, Fault, ReadError, UnknownReason, WriteOutcome};

/// Why a command did not do what it was asked.
#[derive(Debug)]
pub(crate) struct Failure {
    code: u8,
    message: String,
}

impl Failure {
    /// It did not work, or there is no such key.
    pub(crate) fn failed(message: impl Display) -> Failure {
        Failure { code: 1, message: message.to_string() }
    }

    /// The command line or the configuration is wrong.
    pub(crate) fn usage(message: impl Display) -> Failure {
        Failure { code: 2, message: message.to_string() }
    }

    /// What the process exits with for it.
    pub(crate) fn code(&self) -> u8 {
        self.code
    }

    /// Says it on stderr.
    pub(crate) fn tell(&self) {
        eprintln!("ferrite: {}", self.message);
    }

    /// With the exit code that a library chose.
    pub(crate) fn with_code(code: u8, message: impl Display) -> Failure {
        Failure { code, message: message.to_string() }
    }
}

/// What may be done about a server's error, where its name does not say it.
fn remedy(code: ErrorCode) -> Option<&'static str> {
    match code {
        ErrorCode::Unavailable => Some(
            "fewer replicas can be reached than the level needs: `ferrite status` shows who is away, a lower --level needs fewer",
        ),
        ErrorCode::Timeout => Some("too few replicas answered in time: `ferrite status` shows how they are"),
        ErrorCode::Unknown => Some("too few replicas acknowledged it in time"),
        ErrorCode::Overloaded => Some("the nodes have too much to do: try again later"),
        ErrorCode::TooLarge => {
            Some("`max_value_size` under [server] of the nodes says how long a value may be")
        }
        ErrorCode::Fenced => Some("a sync failed there: see to its device, then start the node again"),
        ErrorCode::DiskFull => Some("make room on the device of the nodes' `data`"),
        ErrorCode::Damaged => Some("see the node's log, and `ferrite debug store`"),
        ErrorCode::ForeignCluster => {
            Some("take the configuration of the cluster that runs there, or name it with --addr")
        }
        ErrorCode::Version => Some("take the `ferrite` of the version that runs there"),
        ErrorCode::BadContext => Some(
            "`get --siblings` shows the context that --context takes, and --overwrite replaces all there is",
        ),
        ErrorCode::TooManySiblings => {
            Some("`get --siblings` shows them, and `put --context` writes one in their place")
        }
        ErrorCode::Malformed
        | ErrorCode::NoTable
        | ErrorCode::ClockDrift
        | ErrorCode::Stopping
        | ErrorCode::Unsupported
        | ErrorCode::Expired
        | ErrorCode::TablesDiffer
        // Its text says whom to ask.
        | ErrorCode::NotJoined => None,
    }
}

fn with_remedy(what: impl Display, fault: Option<&Fault>) -> String {
    // What is too large beside a value, and where, is in the server's own words.
    let fault = fault.filter(|fault| fault.code != ErrorCode::TooLarge || fault.text.is_empty());
    match fault.and_then(|fault| remedy(fault.code)) {
        Some(remedy) => format!("{what}; {remedy}"),
        None => what.to_string(),
    }
}

/// Why something was not read, and what may be done about it.
pub(crate) fn unread(error: &ReadError) -> String {
    let fault = match error {
        ReadError::Refused(fault) => Some(fault),
        ReadError::Deadline(_) | ReadError::Siblings { .. } => None,
    };
    with_remedy(error, fault)
}

/// How a write ended, and what may be done about it.
pub(crate) fn unwritten(outcome: &WriteOutcome) -> String {
    let fault = match outcome {
        WriteOutcome::NotApplied(fault) | WriteOutcome::Unknown(UnknownReason::Server(fault)) => Some(fault),
        WriteOutcome::Done { .. } | WriteOutcome::Unknown(_) => None,
    };
    with_remedy(outcome, fault)
}

/// Says what went wrong, if something did.
pub(crate) fn report(result: Result<(), Failure>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            failure.tell();
            ExitCode::from(failure.code)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_of_an_error_is_followed_by_what_to_do() {
        let fault = |code| Fault { code, text: String::new() };
        let error = unread(&ReadError::Refused(fault(ErrorCode::Overloaded)));
        assert_eq!(error, "overloaded; the nodes have too much to do: try again later");
        let outcome = WriteOutcome::NotApplied(fault(ErrorCode::DiskFull));
        assert_eq!(
            unwritten(&outcome),
            "not applied: disk full; make room on the device of the nodes' `data`"
        );
        let outcome = WriteOutcome::Unknown(UnknownReason::Server(fault(ErrorCode::Unknown)));
        assert!(
            unwritten(&outcome).starts_with("unknown: unknown; too few replicas"),
            "{}",
            unwritten(&outcome)
        );
        let outcome = WriteOutcome::Unknown(UnknownReason::Deadline);
        assert_eq!(unwritten(&outcome), outcome.to_string());
    }
}
