//! A node that is down for some seconds under load, and comes back: the short form of `ferrite-havoc down`.

use std::time::Duration;

use ferrite_havoc::figures::down::{self, Options};

use crate::cluster::{WITHIN, directory, program};

/// So few that a busy machine does them too.
const WRITES_PER_SECOND: u64 = 200;
const RECORDS: u64 = 400;

#[test]
fn a_node_that_was_down_under_load_gets_its_hints_and_is_right_at_one() {
    let options = Options {
        down: Duration::from_secs(2),
        watch: WITHIN,
        until_drained: true,
        nodes: 3,
        rate: WRITES_PER_SECOND,
        records: RECORDS,
    };
    let home = directory();
    let outcome = down::run(program(), home.path(), options).unwrap_or_else(|obstacle| panic!("{obstacle}"));
    assert_eq!(outcome.wrong(), None, "{outcome:?}");
    assert!(outcome.records == RECORDS && outcome.owed.is_some(), "{outcome:?}");
}
