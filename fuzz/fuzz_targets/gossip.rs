//! A packet of gossip. Run with `cargo +nightly fuzz run gossip` from the project's root.
#![no_main]

#[path = "../../cluster/tests/gossip/exercise.rs"]
mod exercise;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| exercise::packet(bytes));
