//! What the real binary must survive: kills in the middle of everything, hostile bytes, full disks, damaged directories.
//!
//! Nodes are processes of their own, on free ports of loopback, with small memtables so that flushes and compactions happen
//! while they are killed.

mod bystander;
mod cluster;
mod crashes;
mod crowds;
mod damaged;
mod down;
mod full_disk;
mod havoc;
mod hostile;
mod idle;
mod image;
mod joining;
mod ledger;
mod lifecycle;
mod liveness;
mod machine;
mod options;
mod overload;
mod power_cuts;
mod random;
mod syncs;
mod wire;
