//! `[[table]]`: the tables of a cluster, as they are written and as they are meant.
//!
//! ```toml
//! [[table]]
//! name = "carts"            # 1 to 64 of a-z, 0-9, '-' and '_'
//! mode = "siblings"         # or "lww", which is what a table has that does not say
//! replication = 3           # the cluster's, where the table does not say
//! ttl = "30d"               # of writes that name none, in whole milliseconds; without it records live for ever
//! max_siblings = 32         # of a table with siblings
//! ```
//!
//! The table `default` is there without being declared; a declaration may give it another replication and a time to live. A
//! table's number follows from its name ([`TableId::of`]), so that the order of declarations means nothing; two names that
//! come to the same number are refused here.

use std::collections::BTreeMap;
use std::time::Duration;

use ferrite_wire::limits::{SIBLINGS_MAX, TABLES_MAX};
use ferrite_wire::{Mode, Table, TableId, Tables};
use serde::Deserialize;
use serde::de::{Deserializer, Error};
use toml::Spanned;

use super::Cluster;
use super::check::Place;
use super::error::{ConfigError, Problem};
use super::units::Interval;

/// Most siblings of a table that does not say.
const MAX_SIBLINGS_DEFAULT: u16 = 32;
const TTL_MIN: Interval = Interval(Duration::from_millis(1));
/// A hundred years.
const TTL_MAX: Interval = Interval(Duration::from_secs(36_500 * 86_400));

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawTable {
    name: Spanned<String>,
    mode: Option<Spanned<RawMode>>,
    replication: Option<Spanned<u32>>,
    ttl: Option<Spanned<Interval>>,
    max_siblings: Option<Spanned<u32>>,
}

#[derive(Clone, Copy)]
struct RawMode(Mode);

impl<'de> Deserialize<'de> for RawMode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match String::deserialize(deserializer)?.as_str() {
            "lww" => Ok(RawMode(Mode::Lww)),
            "siblings" => Ok(RawMode(Mode::Siblings)),
            "linearizable" => Err(D::Error::custom(
                "mode = \"linearizable\" is not there yet: write \"lww\" or \"siblings\"",
            )),
            text => Err(D::Error::custom(format!("mode = \"{text}\": write \"lww\" or \"siblings\""))),
        }
    }
}

/// The tables that are declared, and the default table, which always exists.
pub(super) fn tables(
    raw: &[RawTable],
    cluster: &Cluster,
    nodes: usize,
    place: &Place<'_>,
) -> Result<Tables, ConfigError> {
    let mut list = BTreeMap::from([(TableId::DEFAULT, Table::default_of(cluster.replication as u8))]);
    // With the line each was declared on.
    let mut declared: BTreeMap<TableId, (&str, usize)> = BTreeMap::new();
    for raw in raw {
        let table = table(raw, cluster, nodes, place)?;
        let name = raw.name.get_ref();
        if let Some((first, first_line)) = declared.insert(table.id, (name, place.line(&raw.name.span()))) {
            let (name, first) = (name.clone(), first.to_owned());
            let problem = if name == first {
                Problem::TableTwice { name, first_line }
            } else {
                Problem::TableNumbers { name, first, first_line }
            };
            return Err(place.fail(&raw.name.span(), problem));
        }
        list.insert(table.id, table);
        if list.len() > TABLES_MAX {
            let problem = Problem::TooManyTables { max: TABLES_MAX };
            return Err(place.fail(&raw.name.span(), problem));
        }
    }
    Ok(Tables::new(list.into_values().collect()).expect("each was checked, and all of them together"))
}

fn table(raw: &RawTable, cluster: &Cluster, nodes: usize, place: &Place<'_>) -> Result<Table, ConfigError> {
    let name = raw.name.get_ref();
    if !Table::is_name(name) {
        return Err(place.fail(&raw.name.span(), Problem::BadTableName { name: name.clone() }));
    }
    let mode = raw.mode.as_ref().map_or(Mode::Lww, |mode| mode.get_ref().0);
    if let Some(written) = &raw.mode
        && name == Table::DEFAULT_NAME
        && mode != Mode::Lww
    {
        return Err(place.fail(&written.span(), Problem::DefaultMode));
    }
    let replication = match &raw.replication {
        Some(replication) => place.replication(replication, nodes)?,
        None => cluster.replication,
    };
    let ttl_ms = match &raw.ttl {
        Some(ttl) => place.whole_ms("ttl", ttl, TTL_MIN, TTL_MAX)?,
        None => 0,
    };
    let max_siblings = match (&raw.max_siblings, mode) {
        (Some(most), Mode::Siblings) => place.within("max_siblings", most, 1, SIBLINGS_MAX as u32)? as u16,
        (Some(most), Mode::Lww) => return Err(place.fail(&most.span(), Problem::NoSiblings)),
        (None, Mode::Siblings) => MAX_SIBLINGS_DEFAULT,
        (None, Mode::Lww) => 0,
    };
    let (id, name) = (TableId::of(name), name.clone());
    Ok(Table { id, name, mode, replication: replication as u8, ttl_ms, max_siblings })
}
