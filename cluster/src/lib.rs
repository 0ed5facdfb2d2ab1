//! Ferrite's replication logic: ring, claim, clocks and quorum coordinators as pure state machines.
//!
//! No I/O and no clock: time is an argument, messages are return values.
#![forbid(unsafe_code)]
