//! Power cuts on a real file system: what the device held at an instant is mounted anew, and has every acknowledged write.
//!
//! A node writes to ext4 on a loop device. It is stopped in the middle of that, what the device holds is copied, and the node is
//! killed: what the file system had in memory only is gone, as if the machine had lost its power. The copy is mounted, which
//! replays its journal, and the node goes on there, until the next cut. Unlike a crash of the process this shows
//! whether files and names that the node relies on were synced. What it cannot show: a sync that ext4 makes good by another,
//! for all that was done before a synced change of a name or of a length goes with it; and what a device may lose of its own
//! cache. Both are for the engine's power cuts, on a disk in memory that forgives nothing.
//!
//! `FERRITE_CUTS=500 cargo test --release -p ferrite-cli --test adversity power_cuts -- --nocapture` goes on for longer.

use std::sync::atomic::AtomicBool;

use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

use crate::cluster::{Cluster, Wanted, directory, program};
use crate::image::{Image, in_a_namespace, needs_replay};
use crate::ledger::{Ledger, Progress, StopAtEnd};
use crate::random::Random;

const CUTS: usize = 12;
const DISK_BYTES: u64 = 256 << 20;
const KEYS: usize = 150;
const VALUE_BYTES_MAX: usize = 9_000;
/// Acknowledged writes before a cut: so many, and up to so many more.
const WRITES_BEFORE: usize = 100;
const WRITES_MORE: usize = 600;
/// Small memtables, and values apart: files are made, named in manifests and removed all the time.
const SMALL: &str = "memtable = \"1MiB\"\nstores = 2\nlarge_value_threshold = \"4KiB\"";

#[test]
fn no_power_cut_on_a_real_file_system_loses_an_acknowledged_write() {
    in_a_namespace(
        "power_cuts::no_power_cut_on_a_real_file_system_loses_an_acknowledged_write",
        cut_again_and_again,
    );
}

/// Stops a node in the middle of everything, and waits until it stands still.
fn stop(pid: u32) {
    let pid = Pid::from_raw(pid as i32).expect("a process has a number");
    kill_process(pid, Signal::STOP).expect("it runs");
    let (_, status) =
        waitpid(Some(pid), WaitOptions::UNTRACED).expect("it is a child").expect("it was waited for");
    assert!(status.stopped(), "it ended by itself: {status:?}");
}

fn cut_again_and_again() {
    let asked = std::env::var("FERRITE_CUTS").ok();
    let cuts = asked.map_or(CUTS, |text| text.parse().expect("FERRITE_CUTS is a number"));
    let home = directory();
    let (data, root) = (home.path().join("data"), home.path().to_owned());
    let mut cluster = Cluster::configure(program(), home, Wanted { nodes: 1, cores: 2, server: SMALL });
    let mut mounted = Image::create(&root.join("disk.img"), DISK_BYTES).mount(&data);
    let mut random = Random(23);
    let mut ledger = Ledger::new("writer", KEYS, VALUE_BYTES_MAX);
    let (mut read, mut flushes, mut compactions) = (0, 0, 0);
    for cut in 0..cuts {
        cluster.local.start_all().unwrap_or_else(|error| panic!("before cut {cut}: {error}"));
        let mut client = cluster.client();
        read += ledger.check(&mut client, &format!("before cut {cut}"));
        let (stopped, progress) = (AtomicBool::new(false), Progress::default());
        let held = std::thread::scope(|scope| {
            let (ledger, stopped, progress, client) = (&mut ledger, &stopped, &progress, &mut client);
            scope.spawn(move || ledger.write(client, stopped, progress));
            let _stopped = StopAtEnd(stopped);
            progress.wait_for((WRITES_BEFORE + random.below(WRITES_MORE)) as u64);
            let status = cluster.status(&mut cluster.client(), 0);
            flushes += status.number("engine.flushes");
            compactions += status.number("engine.compactions");
            // Acknowledged is what the node had answered by now: what it has not written yet, it cannot have answered.
            stop(cluster.local.pid(0).expect("it runs"));
            let held = mounted.image().snapshot();
            cluster.local.kill(0).expect("it is stopped");
            held
        });
        assert!(needs_replay(&held), "cut {cut}: the file system was in use");
        drop(mounted);
        mounted = Image::of(&root.join(format!("disk {cut}.img")), &held).mount(&data);
    }
    cluster.local.start_all().expect("it starts after the last cut");
    read += ledger.check(&mut cluster.client(), "after the last cut");
    assert_eq!(cluster.local.stop(0).expect("it stops").code(), Some(0));
    println!(
        "{:?}; {read} reads checked; at least {flushes} flushes, {compactions} compactions",
        ledger.tally()
    );
    println!("counted: power cuts on a real file system {cuts}");
    println!("counted: reads checked after power cuts {read}");
    assert!(flushes > 0 && compactions > 0, "cuts met nothing but the log: {flushes}, {compactions}");
}
