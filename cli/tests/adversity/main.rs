//! What the real binary must survive: kills in the middle of everything, hostile bytes, full disks, damaged directories.
//!
//! Nodes are processes of their own, on free ports of loopback, with small memtables so that flushes and compactions happen
//! while they are killed.

mod cluster;
mod crashes;
mod ledger;
mod syncs;
