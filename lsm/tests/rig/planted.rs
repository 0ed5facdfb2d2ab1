//! A planted bug is caught by a test that is silent without it, and says where.

use std::any::Any;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};

use ferrite_lsm::planted::{Bug, plant};

/// Takes the bug out again, however the test ends.
struct Planted;

impl Drop for Planted {
    fn drop(&mut self) {
        plant(None);
    }
}

fn words(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref().copied()).unwrap_or("a panic without words").to_owned()
}

/// Runs histories by their seeds until one notices the bug, by an error or an assertion; then the same one without the bug, which
/// must find nothing. What was noticed.
#[track_caller]
pub(crate) fn caught(bug: Bug, seeds: Range<u64>, run: impl Fn(u64) -> Result<(), String>) -> String {
    let noticed = |seed| {
        let ran = catch_unwind(AssertUnwindSafe(|| run(seed)));
        ran.unwrap_or_else(|panic| Err(words(&*panic))).err()
    };
    let found = {
        let _planted = Planted;
        plant(Some(bug));
        seeds.clone().find_map(|seed| noticed(seed).map(|what| (seed, what)))
    };
    let Some((seed, what)) = found else { panic!("{bug:?} was not caught with seeds {seeds:?}") };
    assert_eq!(noticed(seed), None, "the same history, seed {seed}, is silent without {bug:?}");
    println!("{bug:?}: caught with seed {seed}: {what}");
    println!("counted: planted bugs caught 1");
    what
}
