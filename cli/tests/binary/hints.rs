//! What a node that was away has missed is kept for it, shown, held up on request, and delivered.

use std::time::{Duration, Instant};

use crate::{cluster, directory, ferrite, outcome};

/// Bound on what must happen at all, so that a test that waits in vain fails instead of hanging.
const WITHIN: Duration = Duration::from_secs(60);

#[test]
fn what_a_node_misses_is_kept_shown_held_up_and_delivered() {
    let home = directory();
    let mut cluster = cluster(home.path(), 4);
    let away = cluster.node(3).name.clone();
    let run = |arguments: &[&str]| ferrite(home.path(), arguments);
    // The states of what is kept for the node, on those that answer.
    let states = || {
        let output = run(&["hints", "status", "--timeout", "2s"]);
        let text = String::from_utf8(output.stdout).unwrap();
        let words = text.lines().map(|line| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>());
        words.filter(|words| words.get(1) == Some(&away)).map(|words| words[2].clone()).collect::<Vec<_>>()
    };
    let until = |what: &str, holds: &dyn Fn(&[String]) -> bool| {
        let begun = Instant::now();
        loop {
            let found = states();
            if holds(&found) {
                return;
            }
            assert!(begun.elapsed() < WITHIN, "{what}: {found:?}");
        }
    };
    cluster.kill(3).expect("it runs");
    let mut stood_in = 0;
    for number in 0..24 {
        let (key, value) = (format!("k{number}"), format!("v{number}"));
        let (code, _) = outcome(&run(&["put", &key, &value, "--level", "all"]));
        if code == 0 {
            continue;
        }
        let (code, said) = outcome(&run(&["put", &key, &value, "--level", "all", "--sloppy"]));
        assert_eq!((code, said.contains("keep it for replicas")), (0, true), "{said}");
        stood_in += 1;
    }
    assert!(stood_in > 0, "it was a replica of some of the keys");
    until("waiting", &|found| found.iter().any(|state| state == "waiting"));
    let (code, said) = outcome(&run(&["hints", "pause", "--timeout", "2s"]));
    assert_eq!((code, said.contains(&away)), (1, true), "one node does not answer: {said}");
    cluster.start(3).expect("it starts again");
    until("paused", &|found| found.iter().any(|state| state == "paused"));
    assert!(run(&["hints", "resume"]).status.success());
    until("drained", &|found| found.iter().all(|state| state == "empty"));
    for number in 0..24 {
        let output = run(&["get", &format!("k{number}"), "--level", "all"]);
        assert_eq!(String::from_utf8(output.stdout).unwrap(), format!("v{number}"));
    }
    let (code, said) = outcome(&run(&["hints", "status", "--node", "nobody"]));
    assert_eq!((code, said.contains("nobody")), (2, true), "{said}");
}
