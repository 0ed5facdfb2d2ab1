//! How a command ends: one line on stderr, and an exit code that a script can rely on.

use std::fmt::Display;
use std::process::ExitCode;

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

    /// With the exit code that a library chose.
    pub(crate) fn with_code(code: u8, message: impl Display) -> Failure {
        Failure { code, message: message.to_string() }
    }
}

/// Says what went wrong, if something did.
pub(crate) fn report(result: Result<(), Failure>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("ferrite: {}", failure.message);
            ExitCode::from(failure.code)
        }
    }
}
