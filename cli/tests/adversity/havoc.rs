//! Five real nodes, each fault once, with checked writers through all of it: the short form of `ferrite-havoc`.
//!
//! In network namespaces where the system gives them (to root, or in a user namespace), else on loopback behind a fault proxy; which it was is
//! printed. `FERRITE_HAVOC=namespaces` and `FERRITE_HAVOC=loopback` insist on one, `FERRITE_HAVOC_SEED=N` draws otherwise.

use std::io::Write;
use std::process::Stdio;

use ferrite_havoc::campaign::{self, Plan};
use ferrite_havoc::fault::Fault;
use ferrite_havoc::ground::{self, Kind};
use ferrite_havoc::report::Report;

use crate::cluster::{directory, program};

const SEED: u64 = 11;

/// Not by a macro whose output is kept from whoever runs the tests.
fn tell(line: &str) {
    std::io::stderr().write_all(format!("{line}\n").as_bytes()).expect("stderr is there");
}

/// The kind of ground, and why it is not the better one.
fn wanted() -> (Kind, Option<String>) {
    match std::env::var("FERRITE_HAVOC").as_deref() {
        Ok("loopback") => (Kind::Loopback, Some("asked for".to_owned())),
        Ok("namespaces") => (Kind::Namespaces, None),
        Ok(other) => panic!("FERRITE_HAVOC={other}: namespaces or loopback"),
        Err(_) => match ground::why_not() {
            None => (Kind::Namespaces, None),
            Some(why) => (Kind::Loopback, Some(why)),
        },
    }
}

fn short_campaign(kind: Kind) -> Report {
    let seed = std::env::var("FERRITE_HAVOC_SEED").map_or(SEED, |seed| seed.parse().expect("a number"));
    let home = directory();
    let report = campaign::run(program(), home.path(), &Plan::short(kind, seed), |line| println!("{line}"));
    let report = report.unwrap_or_else(|obstacle| panic!("{obstacle}"));
    println!("{report}");
    if !report.violations.is_empty() {
        let home = home.keep();
        panic!("{report}\nthe logs are in {}", home.display());
    }
    report
}

#[test]
fn five_nodes_lose_nothing_acknowledged_whatever_is_done_to_them() {
    const NAME: &str = "havoc::five_nodes_lose_nothing_acknowledged_whatever_is_done_to_them";
    let (kind, why) = wanted();
    if kind == Kind::Namespaces && !ground::is_inside() {
        // Namespaces belong to a process: the test runs once more in one of its own.
        let output = ground::inside(&std::env::current_exe().expect("the test's own program"))
            .args([NAME, "--exact", "--nocapture"])
            .stdin(Stdio::null())
            .output()
            .expect("it ran a moment ago");
        let said = String::from_utf8_lossy(&output.stdout);
        print!("{said}");
        eprint!("{}", String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success() && said.contains("1 passed"), "in its namespace: {}", output.status);
        return;
    }
    tell(&match why {
        None => format!("five nodes on {kind}"),
        Some(why) => format!("five nodes on {kind}: {why}"),
    });
    let report = short_campaign(kind);
    for fault in Fault::ALL {
        let done = report.faults.get(&fault).copied().unwrap_or(0);
        if kind == Kind::Loopback && fault == Fault::FullDisk {
            tell(&format!("skipped: {fault}: nothing can be mounted without a namespace"));
        } else {
            assert!(done > 0, "{fault} was not done: {report}");
        }
    }
    let (registers, carts) = (report.registers, report.carts);
    for (what, count) in [
        ("puts", registers.puts),
        ("puts that expire", registers.expiring),
        ("deletes", registers.deletes),
        ("batches", registers.batches),
        ("reads of many", registers.multi_gets),
        ("writes that others stood in for", registers.stood_in),
        ("reads of what was there no more", registers.read_absent),
        ("puts into carts", carts.puts),
        ("writes in place of what was in carts", carts.replacing),
        ("deletes of what was in carts", carts.deletes),
        ("batches of writes to carts", carts.batches),
        ("reads of many carts", carts.multi_gets),
        ("writes to carts that others stood in for", carts.stood_in),
        ("reads of carts that were empty again", carts.read_absent),
        ("reads of carts with several siblings", carts.read_siblings),
    ] {
        assert!(count > 0, "{what}: none: {report}");
    }
    let test = report.set_test;
    assert!(test.sides.iter().all(|adds| *adds > 0), "both sides are acknowledged: {report}");
    assert_eq!(test.siblings.1, 0, "siblings keep all: {report}");
    assert!(test.last_write.1 > 0, "the last write does not: that is what siblings are for: {report}");
}
