//! A topology reply's body. Run with `cargo +nightly fuzz run topology` from the project's root.
#![no_main]

#[path = "../../wire/tests/protocol/exercise.rs"]
#[allow(dead_code)] // Each target uses its part.
mod exercise;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| exercise::topology(bytes));
