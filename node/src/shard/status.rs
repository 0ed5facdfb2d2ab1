//! Counters of a shard, and the text that `ferrite status` shows.

use std::cell::{Cell, RefCell};
use std::fmt::Write;

use ferrite_lsm::{Quarantined, Recovery};
use ferrite_wire::{CoreId, ErrorCode};

use super::Shard;
use super::expiry::ExpiredCounters;
use crate::env::Env;

/// What a shard has done since it opened.
#[derive(Debug, Default)]
pub(super) struct Counters {
    /// Reads of single keys, those of multi-gets included.
    pub(super) gets: Cell<u64>,
    /// Puts coordinated.
    pub(super) puts: Cell<u64>,
    /// Deletes coordinated.
    pub(super) deletes: Cell<u64>,
    /// Requests sent on to another core of this node.
    pub(super) hops: Cell<u64>,
    /// Reads whose replicas did not agree.
    pub(super) digest_mismatches: Cell<u64>,
    /// Repairs that reads made.
    pub(super) repairs: RepairCounters,
    /// Work that nobody waited for any more.
    pub(super) expired: ExpiredCounters,
    /// Reads that asked one replica more.
    pub(super) hedges: HedgeCounters,
    /// Background jobs that failed.
    pub(super) jobs_failed: Cell<u64>,
    errors: RefCell<Vec<(ErrorCode, u64)>>,
    replayed: u64,
    pub(super) closed_cleanly: bool,
    damaged: u64,
    cut_tail: bool,
}

/// What reads did to replicas that were behind.
#[derive(Debug, Default)]
pub(super) struct RepairCounters {
    /// Reads whose answer waited for them.
    pub(super) before: Cell<u64>,
    /// Reads that were answered first.
    pub(super) after: Cell<u64>,
    /// Reads that would have been of the latter, but there were too many.
    pub(super) dropped: Cell<u64>,
    /// Records sent to replicas.
    pub(super) written: Cell<u64>,
    /// Repairs in flight that nobody waits for.
    pub(super) in_flight: Cell<usize>,
}

/// What became of reads whose answers were slow to come.
#[derive(Debug, Default)]
pub(super) struct HedgeCounters {
    /// Reads that asked other nodes.
    pub(super) reads: Cell<u64>,
    /// Those that asked one more.
    pub(super) sent: Cell<u64>,
    /// Those whose hedge answered before they ended.
    pub(super) won: Cell<u64>,
    /// Those that would have asked one more, but the budget was spent.
    pub(super) refused: Cell<u64>,
}

/// Says which keys cannot be read.
pub(super) fn log_quarantined(core: CoreId, quarantined: &[Quarantined]) {
    let core = core.0;
    for range in quarantined.iter().take(QUARANTINED_SHOWN_MAX) {
        tracing::error!(core, %range, "quarantined: what may have been in this range is lost on this replica, until it is written again");
    }
    if quarantined.len() > QUARANTINED_SHOWN_MAX {
        tracing::error!(core, ranges = quarantined.len(), "there are more quarantined ranges than are shown");
    }
}

/// Quarantined ranges that are shown one by one.
const QUARANTINED_SHOWN_MAX: usize = 32;

impl Counters {
    pub(super) fn new(recovery: &Recovery) -> Counters {
        Counters {
            replayed: recovery.replayed,
            closed_cleanly: recovery.clean,
            damaged: recovery.damage.len() as u64,
            cut_tail: recovery.cut_tail.is_some(),
            ..Counters::default()
        }
    }

    pub(super) fn count_error(&self, code: ErrorCode) {
        let mut errors = self.errors.borrow_mut();
        match errors.iter_mut().find(|(counted, _)| *counted == code) {
            Some((_, count)) => *count += 1,
            None => errors.push((code, 1)),
        }
    }
}

impl<E: Env> Shard<E> {
    /// The state of this core and what it sees of the others, as `name value` lines.
    pub(super) fn status(&self) -> String {
        let mut text = String::new();
        let now_ns = self.env.now_ns();
        let mut line = |name: &str, value: &dyn std::fmt::Display| {
            writeln!(text, "{name} {value}").expect("a string takes any text");
        };
        line("node", &self.settings.node.0);
        line("core", &self.settings.core.0);
        line("cores", &self.settings.cores);
        line("cluster", &self.settings.topology.cluster);
        line("epoch", &self.ring.borrow().epoch().0);
        line("fenced", &self.engine.is_fenced());
        for (name, counter) in [
            ("gets", &self.counters.gets),
            ("puts", &self.counters.puts),
            ("deletes", &self.counters.deletes),
            ("hops", &self.counters.hops),
            ("digest_mismatches", &self.counters.digest_mismatches),
            ("read_repairs.before_answer", &self.counters.repairs.before),
            ("read_repairs.after_answer", &self.counters.repairs.after),
            ("read_repairs.dropped", &self.counters.repairs.dropped),
            ("read_repairs.comparisons", &self.comparisons.begun),
            ("read_repairs.records", &self.counters.repairs.written),
            ("hedges.reads", &self.counters.hedges.reads),
            ("hedges.sent", &self.counters.hedges.sent),
            ("hedges.won", &self.counters.hedges.won),
            ("hedges.refused_by_budget", &self.counters.hedges.refused),
            ("jobs_failed", &self.counters.jobs_failed),
        ] {
            line(name, &counter.get());
        }
        let hedges = self.hedges.borrow();
        line("hedges.delay_us", &(hedges.hedging.delay_ns() / 1_000));
        line("hedges.nodes_asked_last", &hedges.hedging.laggards());
        line("log_records_replayed", &self.counters.replayed);
        line("log_was_closed_cleanly", &self.counters.closed_cleanly);
        line("log_damage_found", &self.counters.damaged);
        line("log_tail_was_cut", &self.counters.cut_tail);
        for (code, count) in self.counters.errors.borrow().iter() {
            line(&format!("errors.{code:?}"), count);
        }
        line("waiting_bytes", &self.waiting.borrow().bytes());
        line("operation_bytes", &self.held.bytes());
        self.wall_lines(&mut line);
        line("siblings.left_out", &super::sets::left_out());
        self.member_lines(now_ns, &mut line);
        self.hint_lines(&mut line);
        let (clients, peers) = self.sessions.borrow().counts();
        line("connections.clients", &clients);
        line("connections.peers", &peers);
        for link in self.links.borrow().iter() {
            let state = if link.up().is_some() { "up" } else { "down" };
            let age_s = now_ns.saturating_sub(link.since_ns) / 1_000_000_000;
            let why =
                link.refusal.as_ref().map_or_else(String::new, |refusal| format!(", refused: {refusal}"));
            line(
                &format!("peer.{}.{}", link.node.0, link.core.0),
                &format!("{state} {age_s}s {}{why}", link.address),
            );
        }
        let stats = self.engine.stats();
        for (name, value) in [
            ("memtable_bytes", stats.memtable_bytes),
            ("frozen_bytes", stats.frozen_bytes),
            ("log_bytes", stats.log_bytes),
            ("log_groups", stats.groups),
            ("log_syncs", stats.log_syncs),
            ("log_records", stats.records),
            ("tables", stats.tables.iter().sum()),
            ("table_bytes", stats.table_bytes.iter().sum()),
            ("l0_tables_max", stats.l0_tables_max),
            ("gets_memtable", stats.gets_memtable),
            ("gets_cached", stats.gets_cached),
            ("gets_absent", stats.gets_absent),
            ("gets_disk", stats.gets_disk),
            ("filter_positives", stats.filter_positives),
            ("filter_false_positives", stats.filter_false_positives),
            ("flushes", stats.flushes),
            ("flush_bytes", stats.flush_bytes),
            ("compactions", stats.compactions),
            ("compaction_bytes", stats.compaction_bytes),
            ("compaction_read_bytes", stats.compaction_read_bytes),
            ("moves", stats.moves),
            ("collected_bytes", stats.collected_bytes),
            ("value_files", stats.value_files),
            ("value_bytes", stats.value_bytes),
            ("value_live_bytes", stats.value_live_bytes),
            ("written_bytes", stats.written_bytes),
            ("log_written_bytes", stats.log_written_bytes),
            ("cache_hits", stats.cache_hits),
            ("cache_misses", stats.cache_misses),
            ("cache_value_hits", stats.cache_value_hits),
            ("cache_value_misses", stats.cache_value_misses),
            ("cached_values", stats.cached_values),
            ("cache_bytes", stats.cache_bytes),
            ("record_cache_hits", stats.record_cache_hits),
            ("record_cache_misses", stats.record_cache_misses),
            ("record_cache_evictions", stats.record_cache_evictions),
            ("cached_records", stats.cached_records),
            ("debt_bytes", stats.debt_bytes),
            ("damaged_tables", stats.damaged_tables),
            ("quarantined_areas", stats.quarantined_areas),
            ("scrubbed_bytes", stats.scrubbed_bytes),
            ("scrub_passes", stats.scrub_passes),
            ("scrub_progress_permille", stats.scrub_progress),
            ("write_delay_us", stats.write_delay_us),
        ] {
            line(&format!("engine.{name}"), &value);
        }
        let memory = stats.memory;
        line("memory.reserve_bytes", &self.settings.reserve_bytes);
        for (name, value) in [
            ("budget_bytes", memory.budget_bytes),
            ("used_bytes", memory.used_bytes()),
            ("memtable_bytes", memory.memtable_bytes),
            ("cache_bytes", memory.cache_bytes),
            ("record_cache_bytes", memory.record_cache_bytes),
            ("table_bytes", memory.table_bytes),
            ("build_bytes", memory.build_bytes),
            ("buffer_bytes", memory.buffer_bytes),
        ] {
            line(&format!("memory.{name}"), &value);
        }
        for (name, ratio) in [
            ("write_amplification", stats.write_amplification()),
            ("read_amplification", stats.read_amplification()),
            ("space_amplification", stats.space_amplification()),
        ] {
            line(&format!("engine.{name}"), &format_args!("{ratio:.2}"));
        }
        for store in &stats.stores {
            let (write, space) = (store.write_amplification(), store.space_amplification());
            line(
                &format!("engine.store.{}", store.store),
                &format_args!(
                    "{} bytes of tables, {} of values, {} runs, {} of them in level 0, debt {} bytes, written {write:.2}x, space {space:.2}x",
                    store.table_bytes, store.value_bytes, store.runs, store.l0_tables, store.debt_bytes
                ),
            );
        }
        for (at, range) in self.engine.quarantined().iter().take(QUARANTINED_SHOWN_MAX).enumerate() {
            line(&format!("engine.quarantined.{at}"), range);
        }
        line("engine.disk_full", &stats.disk_full);
        self.counters.expired.write(&mut text);
        text
    }
}
