//! `[gossip]`: whom a node asks first for the others, and how soon one that is gone is held to be down; as it is written and as it is meant.
//!
//! ```toml
//! [gossip]
//! seeds = ["10.0.0.1:7100"] # contact addresses of nodes that know the others; without any, those of all nodes that are listed
//! probe_interval = "1s"     # how often each node asks one other whether it lives
//! probe_timeout = "400ms"   # how long an answer may take before others are asked to ask; at most half of the interval
//! suspicion = "4s"          # how long a node stays suspect before it is down; longer in clusters of more than ten
//! gossip_interval = "200ms" # how often news is passed on
//! stall = "2s"              # how long a core may stand still while its node answers
//! fanout = 3                # how many others are asked to ask, and are sent news at a time
//! ```
//!
//! A node that knows nobody asks its seeds who they are, and is told of all others by those that answer; one that does know others asks now and
//! then a seed that is none of them. So one seed that lives will do, and a node that has just come is found by all though nobody lists it.
//!
//! Timings are the same on every node of a cluster; a node with other timings judges sooner or later than the rest. All else about gossip follows
//! from these, or is as [`GossipOptions`] has it.

use std::time::Duration;

use ferrite_cluster::gossip::{GossipOptions, SEEDS_MAX};
use serde::Deserialize;
use toml::Spanned;

use super::address::Address;
use super::check::Place;
use super::error::{ConfigError, Problem};
use super::units::Interval;

const TIME_MIN: Interval = Interval(Duration::from_millis(10));
const TIME_MAX: Interval = Interval(Duration::from_secs(3600));
/// Cores say four times a second how they are, and one report that is late is no stall.
const STALL_MIN: Interval = Interval(Duration::from_secs(1));
const FANOUT_MAX: u32 = 64;

/// How a node finds others, and how soon it misses them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gossip {
    /// Where to ask first; empty = at the contact address of every node that is listed.
    pub seeds: Vec<Address>,
    /// Timings.
    pub options: GossipOptions,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawGossip {
    #[serde(default)]
    seeds: Vec<Spanned<String>>,
    probe_interval: Option<Spanned<Interval>>,
    probe_timeout: Option<Spanned<Interval>>,
    suspicion: Option<Spanned<Interval>>,
    gossip_interval: Option<Spanned<Interval>>,
    stall: Option<Spanned<Interval>>,
    fanout: Option<Spanned<u32>>,
}

/// What a file says of it.
pub(super) fn gossip(raw: &Option<Spanned<RawGossip>>, place: &Place<'_>) -> Result<Gossip, ConfigError> {
    let Some(section) = raw else { return Ok(Gossip::default()) };
    Ok(Gossip { seeds: seeds(&section.get_ref().seeds, place)?, options: options(section, place)? })
}

fn seeds(raw: &[Spanned<String>], place: &Place<'_>) -> Result<Vec<Address>, ConfigError> {
    if let Some(beyond) = raw.get(SEEDS_MAX) {
        let problem = Problem::TooManySeeds { seeds: raw.len(), max: SEEDS_MAX };
        return Err(place.fail(&beyond.span(), problem));
    }
    let mut seeds: Vec<Address> = Vec::with_capacity(raw.len());
    for seed in raw {
        let fail = |problem| place.fail(&seed.span(), problem);
        let address: Address = seed.get_ref().parse().map_err(|words| fail(Problem::Grammar(words)))?;
        if seeds.contains(&address) {
            return Err(fail(Problem::SeedTwice { address: address.to_string() }));
        }
        seeds.push(address);
    }
    Ok(seeds)
}

fn options(section: &Spanned<RawGossip>, place: &Place<'_>) -> Result<GossipOptions, ConfigError> {
    let defaults = GossipOptions::default();
    let raw = section.get_ref();
    let ms = |key, value: &Option<Spanned<Interval>>, default, min| match value {
        None => Ok(default),
        Some(value) => place.whole_ms(key, value, min, TIME_MAX),
    };
    let options = GossipOptions {
        probe_period_ms: ms("probe_interval", &raw.probe_interval, defaults.probe_period_ms, TIME_MIN)?,
        probe_timeout_ms: ms("probe_timeout", &raw.probe_timeout, defaults.probe_timeout_ms, TIME_MIN)?,
        suspicion_ms: ms("suspicion", &raw.suspicion, defaults.suspicion_ms, TIME_MIN)?,
        gossip_period_ms: ms("gossip_interval", &raw.gossip_interval, defaults.gossip_period_ms, TIME_MIN)?,
        stall_ms: ms("stall", &raw.stall, defaults.stall_ms, STALL_MIN)?,
        fanout: match &raw.fanout {
            Some(fanout) => place.within("fanout", fanout, 1, FANOUT_MAX)? as u8,
            None => defaults.fanout,
        },
        ..defaults
    };
    match options.check() {
        Ok(()) => Ok(options),
        Err(rule) => Err(place.fail(&section.span(), Problem::Gossip { rule })),
    }
}
