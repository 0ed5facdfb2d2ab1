//! Segments of a log, read in every way. Run with `cargo +nightly fuzz run log` from the project's root.
#![no_main]

#[path = "../../lsm/tests/readers/exercise.rs"]
#[allow(dead_code)] // Each target uses its part.
mod exercise;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    exercise::run(exercise::Kind::Log, bytes);
});
