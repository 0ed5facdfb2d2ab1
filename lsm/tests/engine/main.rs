//! The engine over a disk in memory: one binary, a file for each thing that is shown of it.

#[path = "../rig/mod.rs"]
mod rig;

mod abandon;
mod amplification;
mod apply;
mod checkpoint;
mod crash;
mod damage;
mod disorder;
mod doubt;
mod faults;
mod histories;
mod host;
mod ingest;
mod join;
mod layout_change;
mod log_loss;
mod manifest_faults;
mod manifest_rot;
mod metamorphic;
mod model;
mod overlap;
mod pressure;
mod purge;
mod quarantine;
mod reads;
mod record_cache;
mod scan;
mod size;
mod stalls;
mod values;
mod vnode_drop;
mod vnode_move;
