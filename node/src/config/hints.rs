//! `[hints]`: how much is kept for nodes that are away, and how fast it is delivered, as it is written and as it is meant.
//!
//! ```toml
//! [hints]
//! max_per_core = "256MiB"   # what a core keeps for all other nodes: at three quarters of it, what replicas miss is no longer kept;
//!                           # at all of it, sloppy writes are refused
//! max_per_node = "128MiB"   # what it keeps for one node of what replicas miss; and what it holds back for one that will not take it, beside the above
//! max_age = "3h"            # a node whose oldest hint is older gets no more of that
//! max_in_flight = "16MiB"   # what a core has under way at once, to all nodes together
//! max_per_second = 1000     # for a node that is there and was only slow
//! forget = [7]              # numbers of nodes that are no members any more: what is kept for them goes at the start
//! forget_held_back = [2]    # numbers of members: what they would never take, and is held back for them, goes at the start
//! ```
//!
//! Sizes are per core, for each core keeps what it coordinates. All else about hints is as [`HintOptions`] has it.

use std::time::Duration;

use ferrite_cluster::hints::HintOptions;
use ferrite_wire::NodeId;
use serde::Deserialize;
use toml::Spanned;

use super::Node;
use super::check::Place;
use super::error::{ConfigError, Problem};
use super::units::{ByteSize, Interval};

const KEPT_MIN: ByteSize = ByteSize::mib(1);
const KEPT_MAX: ByteSize = ByteSize::mib(1 << 20);
const AGE_MIN: Interval = Interval(Duration::from_secs(60));
const AGE_MAX: Interval = Interval(Duration::from_secs(30 * 24 * 3600));
const IN_FLIGHT_MIN: ByteSize = ByteSize::mib(1);
const IN_FLIGHT_MAX: ByteSize = ByteSize::mib(1024);
const PER_SECOND_MAX: u32 = 1_000_000;

/// What is kept for nodes that are away.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hints {
    /// Bounds, for each core.
    pub options: HintOptions,
    /// No members any more: what is kept for them is not wanted.
    pub forget: Vec<NodeId>,
    /// Members: what is held back for them is not wanted.
    pub forget_held_back: Vec<NodeId>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawHints {
    max_per_core: Option<Spanned<ByteSize>>,
    max_per_node: Option<Spanned<ByteSize>>,
    max_age: Option<Spanned<Interval>>,
    max_in_flight: Option<Spanned<ByteSize>>,
    max_per_second: Option<Spanned<u32>>,
    #[serde(default)]
    forget: Vec<Spanned<u16>>,
    #[serde(default)]
    forget_held_back: Vec<Spanned<u16>>,
}

/// What a file says of them. A bound for one node that is not written is at most that for all.
pub(super) fn hints(
    raw: &Option<Spanned<RawHints>>,
    nodes: &[Node],
    place: &Place<'_>,
) -> Result<Hints, ConfigError> {
    let defaults = HintOptions::default();
    let Some(section) = raw else { return Ok(Hints::default()) };
    let raw = section.get_ref();
    let size = |key, value: &Option<Spanned<ByteSize>>, default, min, max| match value {
        Some(value) => place.within(key, value, min, max).map(|found| found.0),
        None => Ok(default),
    };
    let bytes_max = size("max_per_core", &raw.max_per_core, defaults.bytes_max, KEPT_MIN, KEPT_MAX)?;
    let strict_default = defaults.strict_bytes_max.min(bytes_max);
    let strict_bytes_max = size("max_per_node", &raw.max_per_node, strict_default, KEPT_MIN, KEPT_MAX)?;
    if strict_bytes_max > bytes_max {
        let span = raw.max_per_node.as_ref().map_or(section.span(), Spanned::span);
        let rule = "max_per_node is more than max_per_core";
        return Err(place.fail(&span, Problem::Hints { rule }));
    }
    let strict_age_max_ms = match &raw.max_age {
        Some(age) => place.whole_ms("max_age", age, AGE_MIN, AGE_MAX)?,
        None => defaults.strict_age_max_ms,
    };
    let delivery_bytes_max =
        size("max_in_flight", &raw.max_in_flight, defaults.delivery_bytes_max, IN_FLIGHT_MIN, IN_FLIGHT_MAX)?;
    let storm_per_s = match &raw.max_per_second {
        Some(most) => place.within("max_per_second", most, 1, PER_SECOND_MAX)?,
        None => defaults.storm_per_s,
    };
    let mut forget = Vec::with_capacity(raw.forget.len());
    for id in &raw.forget {
        let gone = NodeId(*id.get_ref());
        if let Some(node) = nodes.iter().find(|node| node.id == gone) {
            let problem = Problem::ForgetsMember { id: gone.0, name: node.name.clone() };
            return Err(place.fail(&id.span(), problem));
        }
        forget.push(gone);
    }
    let mut forget_held_back = Vec::with_capacity(raw.forget_held_back.len());
    for id in &raw.forget_held_back {
        let member = NodeId(*id.get_ref());
        if !nodes.iter().any(|node| node.id == member) {
            return Err(place.fail(&id.span(), Problem::ForgetsStranger { id: member.0 }));
        }
        forget_held_back.push(member);
    }
    let options = HintOptions {
        strict_bytes_max,
        bytes_max,
        strict_age_max_ms,
        delivery_bytes_max,
        storm_per_s,
        ..defaults
    };
    Ok(Hints { options, forget, forget_held_back })
}
