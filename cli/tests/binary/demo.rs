//! The demo, from beginning to end.

use crate::{directory, ferrite, outcome};

#[test]
fn the_demo_ends_well_and_leaves_nothing() {
    let home = directory();
    let output = ferrite(home.path(), &["demo", "--data", "."]);
    let (code, said) = outcome(&output);
    let shown = String::from_utf8_lossy(&output.stdout);
    assert_eq!(code, 0, "{shown}\n{said}");
    assert!(shown.contains("34,924 are the same, 0 absent, 0 different, 0 could not be read"), "{shown}");
    assert!(shown.contains("0 lost, 0 gone back, 0 wrong"), "{shown}");
    assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 0, "its directory is removed");
}
