//! `[testing]`: what only tests of whole clusters set, each node in a file of its own. A node that is told any of it says so at start.
//!
//! ```toml
//! [testing]
//! clock_offset = "-3s"      # added to what the system's clock says; a whole number and a unit, "-" before it for a clock that lags
//! ```

use std::time::Duration;

use serde::Deserialize;
use toml::Spanned;

use super::check::Place;
use super::error::{ConfigError, Problem};
use super::units::Interval;

/// Furthest that a test may set a clock off.
const CLOCK_OFFSET_MAX: Interval = Interval(Duration::from_secs(86_400));

/// What only tests set; the default is a node like any other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Testing {
    /// Added to what the system's clock says, in milliseconds.
    pub clock_offset_ms: i64,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawTesting {
    clock_offset: Option<Spanned<String>>,
}

pub(super) fn testing(raw: &RawTesting, place: &Place<'_>) -> Result<Testing, ConfigError> {
    let Some(written) = &raw.clock_offset else { return Ok(Testing::default()) };
    let text = written.get_ref().as_str();
    let (sign, rest) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    let refuse =
        |words: String| place.fail(&written.span(), Problem::Grammar(format!("clock_offset: {words}")));
    let offset: Interval = rest.parse().map_err(refuse)?;
    if offset > CLOCK_OFFSET_MAX {
        return Err(refuse(format!("\"{text}\" is further than {CLOCK_OFFSET_MAX}")));
    }
    Ok(Testing { clock_offset_ms: sign * offset.0.as_millis() as i64 })
}
