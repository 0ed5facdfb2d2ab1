//! The set test: with siblings nothing that was acknowledged is lost, and where the last write wins some of it is.

use ferrite_sim::SetTest;

#[test]
fn siblings_lose_no_element_added_on_either_side_of_a_partition_and_the_last_write_does() {
    let test = SetTest::go(1..9).expect("healed clusters can be read");
    println!("{test}");
    for counts in [test.siblings, test.lww] {
        assert!(counts.added_by_minority > 100 && counts.added_by_majority > 100, "{test}");
    }
    assert_eq!(test.siblings.lost, 0, "{test}");
    assert!(test.lww.lost > 0, "{test}");
}
