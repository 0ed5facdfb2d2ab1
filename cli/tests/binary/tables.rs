//! Tables: declared, used by name, and refused between nodes that declare others.

use std::path::Path;
use std::time::{Duration, Instant};

use ferrite_cli::local::{LocalCluster, LocalError};
use ferrite_client::{BlockingClient, ReadOptions};

use crate::{client, configured, directory, ferrite, outcome};

/// Bound on what must happen at all, so that a test that waits in vain fails instead of hanging.
const WITHIN: Duration = Duration::from_secs(60);

const CARTS: &str = "[[table]]\nname = \"carts\"\nreplication = 1\nttl = \"1h\"\n";
const WISHES: &str = "[[table]]\nname = \"wishes\"\nmode = \"siblings\"\n";

/// Adds tables to the configuration that was made.
fn declare(file: &Path, made: &str, tables: &str) {
    std::fs::write(file, format!("{made}\n{tables}")).unwrap();
}

#[test]
fn keys_are_of_the_table_that_is_named() {
    let home = directory();
    let mut cluster = configured(home.path(), 3);
    let made = std::fs::read_to_string(cluster.config_file()).unwrap();
    declare(cluster.config_file(), &made, &[WISHES, CARTS].concat());
    cluster.start_all().expect("all nodes start");
    let run = |arguments: &[&str]| ferrite(home.path(), arguments);
    let got = |arguments: &[&str]| {
        let output = run(arguments);
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    let value = |text: &str| (Some(0), text.to_owned());
    let nothing = (Some(1), String::new());

    assert!(run(&["put", "7", "apples", "--table", "carts"]).status.success());
    assert!(run(&["put", "7", "default's"]).status.success());
    assert_eq!(got(&["get", "7", "--table", "carts"]), value("apples"));
    assert_eq!(got(&["get", "7", "--table", "default"]), value("default's"));
    assert!(run(&["del", "7", "--table", "carts"]).status.success());
    assert_eq!(got(&["get", "7", "--table", "carts"]), nothing);
    assert_eq!(got(&["get", "7"]), value("default's"));

    // Its records live for an hour, unless they are said to live longer, or for ever.
    let mut client = client(&cluster);
    let carts = client.table("carts").unwrap();
    let mut expires = |arguments: &[&str]| {
        assert!(run(&[arguments, &["--table", "carts"]].concat()).status.success(), "{arguments:?}");
        let found = client.get(carts.key(arguments[1].as_bytes()), ReadOptions::default()).unwrap();
        found.expect("a value").version.expiry_ms
    };
    let hour = expires(&["put", "11", "cherries"]);
    assert!(expires(&["put", "12", "dates", "--ttl", "2h"]) > hour && hour > 0);
    assert_eq!(expires(&["put", "11", "raisins", "--ttl", "never"]), 0);

    // One replica is all of a table with one, and a second is not to be had.
    assert!(run(&["put", "8", "pears", "--table", "carts", "--level", "all"]).status.success());
    let (code, said) = outcome(&run(&["put", "8", "pears", "--table", "carts", "--level", "two"]));
    assert_eq!((code, said.contains("unavailable")), (1, true), "{said}");

    std::fs::write(home.path().join("carts.tsv"), "9\tplums\n10\tfigs\n").unwrap();
    let import = ["import", "carts.tsv", "--format", "tsv", "--resume", "state"];
    assert!(run(&[&import[..], &["--table", "carts"]].concat()).status.success());
    assert_eq!(got(&["get", "10", "--table", "carts"]), value("figs"));
    assert_eq!(got(&["get", "10"]), nothing);
    let (code, said) = outcome(&run(&import));
    assert_eq!((code, said.contains("an import with other options")), (2, true), "{said}");

    let (code, listed) = got(&["tables"]);
    let words: Vec<Vec<&str>> = listed.lines().map(|line| line.split_whitespace().collect()).collect();
    let number = |name: &str| ferrite_wire::TableId::of(name).0.to_string();
    assert_eq!(code, Some(0));
    assert_eq!(words[0], ["TABLE", "ID", "MODE", "REPLICATION", "TTL"]);
    assert_eq!(words[1], ["carts", &number("carts"), "lww", "1", "1h"]);
    assert_eq!(words[2], ["default", "1", "lww", "3", "none"]);
    assert_eq!(words[3], ["wishes", &number("wishes"), "siblings", "(at", "most", "32)", "3", "none"]);
    assert_eq!(words.len(), 4);

    let (code, said) = outcome(&run(&["get", "7", "--table", "cart"]));
    assert_eq!((code, said.contains("there is no table \"cart\"")), (2, true), "{said}");
}

/// Two puts that know nothing of each other are both kept; what one has seen it can replace, and nothing else.
#[test]
fn siblings_are_shown_and_replaced_by_context() {
    let home = directory();
    let mut cluster = configured(home.path(), 3);
    let made = std::fs::read_to_string(cluster.config_file()).unwrap();
    declare(cluster.config_file(), &made, WISHES);
    cluster.start_all().expect("all nodes start");
    let run = |arguments: &[&str]| ferrite(home.path(), &[arguments, &["--table", "wishes"]].concat());
    let wrote = |arguments: &[&str]| {
        let (code, said) = outcome(&run(arguments));
        assert_eq!(code, 0, "{arguments:?}: {said}");
    };
    let shown = || {
        let output = run(&["get", "7", "--siblings"]);
        let text = String::from_utf8(output.stdout).unwrap();
        let mut lines = text.lines().map(str::to_owned);
        let context = lines.next().and_then(|line| line.strip_prefix("context ").map(str::to_owned));
        let mut values: Vec<String> = lines.collect();
        values.sort();
        (output.status.code(), context.expect("a context"), values)
    };
    wrote(&["put", "7", "a kite"]);
    wrote(&["put", "7", "a\nball"]);
    let (code, both, values) = shown();
    assert_eq!((code, values), (Some(0), vec!["value a kite".to_owned(), "value a\\nball".to_owned()]));
    let (code, said) = outcome(&run(&["get", "7"]));
    assert_eq!((code, said.contains("\"7\" has 2 siblings: get --siblings")), (1, true), "{said}");
    wrote(&["put", "7", "unseen"]);
    wrote(&["put", "7", "both", "--context", &both]);
    assert_eq!(shown().2, ["value both", "value unseen"]);
    let (code, said) = outcome(&run(&["del", "7"]));
    assert_eq!((code, said.contains("needs the context of a get")), (1, true), "{said}");
    let (code, said) = outcome(&run(&["put", "8", "v", "--context", &both]));
    assert_eq!((code, said.contains("of another key")), (1, true), "{said}");
    let (code, said) = outcome(&run(&["put", "7", "v", "--context", "0x"]));
    assert_eq!((code, said.contains("as get --siblings shows them")), (2, true), "{said}");
    wrote(&["put", "7", "all", "--overwrite"]);
    let output = run(&["get", "7"]);
    assert_eq!((output.status.code(), output.stdout), (Some(0), b"all".to_vec()));
    let (_, seen, _) = shown();
    wrote(&["del", "7", "--context", &seen]);
    let (code, _, values) = shown();
    assert_eq!((code, values), (Some(1), Vec::new()));

    // The nodes are stopped and started: what was read and deleted stays as it is, and so does what was written.
    wrote(&["put", "7", "again"]);
    for index in 0..3 {
        assert!(cluster.stop(index).expect("it stops").success());
        cluster.start(index).expect("it starts again");
    }
    let deadline = Instant::now() + WITHIN;
    loop {
        let output = run(&["get", "7", "--level", "all"]);
        if output.status.success() {
            assert_eq!(output.stdout, b"again");
            break;
        }
        assert!(Instant::now() < deadline, "in vain: {}", outcome(&output).1);
    }
}

/// Every import put each record beside the one that the last import had put there, until the keys were full.
#[test]
fn what_is_imported_again_does_not_stand_beside_itself_and_a_table_with_siblings_is_not_loaded() {
    let home = directory();
    let mut cluster = configured(home.path(), 1);
    let made = std::fs::read_to_string(cluster.config_file()).unwrap();
    declare(cluster.config_file(), &made, WISHES);
    cluster.start_all().expect("the node starts");
    std::fs::write(home.path().join("wishes.tsv"), "7\ta kite\n8\ta ball\n").unwrap();
    let of_wishes = |arguments: &[&str]| ferrite(home.path(), &[arguments, &["--table", "wishes"]].concat());
    assert!(of_wishes(&["put", "7", "a drum"]).status.success());
    for _ in 0..3 {
        let (code, said) = outcome(&of_wishes(&["import", "wishes.tsv", "--format", "tsv"]));
        assert_eq!((code, said.contains("imported 2 records")), (0, true), "{said}");
    }
    let got = of_wishes(&["get", "7"]);
    assert_eq!((got.status.code(), got.stdout), (Some(0), b"a kite".to_vec()), "one value, the file's");

    let target = cluster.node(0).address.to_string();
    let (code, said) =
        outcome(&of_wishes(&["load", "--target", &target, "--records", "10", "--duration", "1s"]));
    assert_eq!((code, said.contains("table \"wishes\" keeps siblings")), (1, true), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
}

/// What a node says of its link to the other one.
fn link_of(client: &mut BlockingClient, address: &str) -> String {
    let status = client.status_at(address, ReadOptions::default()).expect("the node answers");
    status.lines().find(|line| line.starts_with("peer.")).expect("there is another node").to_owned()
}

/// Asks a node again and again until its link to the other one is as it should be.
fn until_link(cluster: &LocalCluster, index: usize, is_so: impl Fn(&str) -> bool) -> String {
    let address = cluster.node(index).address.to_string();
    let mut client = BlockingClient::builder().seeds([&address]).timeout(WITHIN).start_blocking();
    let deadline = Instant::now() + WITHIN;
    loop {
        let line = link_of(&mut client, &address);
        if is_so(&line) {
            return line;
        }
        assert!(Instant::now() < deadline, "in vain: {line}");
    }
}

#[test]
fn a_node_that_declares_other_tables_is_refused_by_name_until_it_declares_the_same() {
    let home = directory();
    let mut cluster = configured(home.path(), 2);
    let file = cluster.config_file().to_owned();
    let made = std::fs::read_to_string(&file).unwrap();
    declare(&file, &made, CARTS);
    cluster.start(0).expect("the first node starts");
    declare(&file, &made, &CARTS.replace("1h", "2h"));
    cluster.start(1).expect("the second node starts");

    // Each refuses the other, in words that read the same up to who speaks.
    for (index, words) in [
        (0, "refused: tables differ: table carts: ttl 2h on n2, 1h on n1"),
        (1, "refused: tables differ: table carts: ttl 1h on n1, 2h on n2"),
    ] {
        let line = until_link(&cluster, index, |line| line.contains("refused"));
        assert!(line.contains(" down ") && line.ends_with(words), "{line}");
    }
    for (index, refused, was_refused) in [
        (0, "table carts: ttl 1h on n1, 2h on n2", "table carts: ttl 2h on n2, 1h on n1"),
        (1, "table carts: ttl 2h on n2, 1h on n1", "table carts: ttl 1h on n1, 2h on n2"),
    ] {
        let log = std::fs::read_to_string(cluster.log_file(index)).unwrap();
        for (what, words) in
            [("a peer with other tables is refused", refused), ("a peer refused this node", was_refused)]
        {
            let told: Vec<&str> = log.lines().filter(|line| line.contains(what)).collect();
            assert!(told.len() == 1 && told[0].contains(words), "{what}: {told:?}");
        }
    }
    let (code, said) = outcome(&ferrite(home.path(), &["put", "key", "value"]));
    assert_eq!((code, said.contains("unavailable")), (1, true), "both are alone: {said}");

    assert!(cluster.stop(1).expect("it stops").success());
    declare(&file, &made, CARTS);
    cluster.start(1).expect("the second node starts");
    for index in 0..2 {
        let line = until_link(&cluster, index, |line| line.contains(" up "));
        assert!(!line.contains("refused"), "{line}");
    }
    assert_eq!(outcome(&ferrite(home.path(), &["put", "key", "value"])).0, 0);
}

/// A set of siblings is no value, and a value no set: with its mode changed a table lost writes, and nothing said why.
#[test]
fn a_table_keeps_its_mode_for_life() {
    let home = directory();
    let mut cluster = configured(home.path(), 1);
    let file = cluster.config_file().to_owned();
    let made = std::fs::read_to_string(&file).unwrap();
    declare(&file, &made, WISHES);
    cluster.start_all().expect("the node starts");
    let put = ["put", "7", "a bicycle", "--table", "wishes"];
    assert!(ferrite(home.path(), &put).status.success());
    assert!(cluster.stop(0).expect("it stops").success());

    declare(&file, &made, &WISHES.replace("siblings", "lww"));
    let name = cluster.node(0).name.clone();
    let (code, said) = outcome(&ferrite(home.path(), &["serve", "--node", &name]));
    assert_eq!(code, 2, "{said}");
    assert!(said.contains("table wishes is declared as lww") && said.contains("are siblings"), "{said}");

    declare(&file, &made, WISHES);
    cluster.start(0).expect("with the old mode it starts");
    let got = ferrite(home.path(), &["get", "7", "--table", "wishes"]);
    assert_eq!(String::from_utf8(got.stdout).unwrap(), "a bicycle");
}

/// With more replicas than they have, records were asked of nodes that had never had them: a quorum of those said that there was nothing.
#[test]
fn a_table_keeps_its_number_of_replicas_for_life() {
    let home = directory();
    let mut cluster = configured(home.path(), 3);
    let file = cluster.config_file().to_owned();
    let made = std::fs::read_to_string(&file).unwrap();
    declare(&file, &made, CARTS);
    cluster.start_all().expect("the nodes start");
    let key = |number: u32| number.to_string();
    for number in 0..8 {
        assert!(ferrite(home.path(), &["put", &key(number), "plums", "--table", "carts"]).status.success());
    }
    (0..3).for_each(|index| assert!(cluster.stop(index).expect("it stops").success()));

    for (table, found, tables, of_all) in [
        ("carts", 1, CARTS.replace("replication = 1", "replication = 3"), "replication = 3"),
        ("default", 3, CARTS.to_owned(), "replication = 2"),
    ] {
        declare(&file, &made.replace("replication = 3", of_all), &tables);
        let refused = cluster.start(0).expect_err("it is refused");
        let LocalError::Ended { status, log: said, .. } = refused else { panic!("{refused}") };
        assert_eq!(status.code(), Some(2), "{said}");
        let words = format!("table {table} is declared with replication = ");
        let remedy = format!("put replication = {found} back");
        assert!(said.contains(&words) && said.contains(&remedy), "{said}");
    }

    declare(&file, &made, CARTS);
    cluster.start_all().expect("with the old numbers they start");
    for number in 0..8 {
        let got = ferrite(home.path(), &["get", &key(number), "--table", "carts", "--level", "all"]);
        assert_eq!(String::from_utf8(got.stdout).unwrap(), "plums");
    }
}
