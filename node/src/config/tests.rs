//! One line per mistake, and a cluster from birth to configuration.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use ferrite_cluster::gossip::{GossipOptions, SEEDS_MAX};
use ferrite_cluster::hints::HintOptions;
use ferrite_wire::{ClusterId, CoreId, HashSeed, Mode, NodeId, Table, TableId, limits};

use super::*;

/// A correct file of two nodes; each mistake below is one replacement in it.
const GOOD: &str = r#"[cluster]
name = "demo"
id = "8c1f7d2a54e94f0b9a3c6b1de2f40718"
hash_seed = "1f3a90c2d4e5b687"
vnodes = 4096
replication = 2

[server]
cores = 2
memory = "1GiB"

[[nodes]]
name = "n1"
id = 1
address = "127.0.0.1:7100"
data = "data/n1"

[[nodes]]
name = "n2"
id = 2
address = "127.0.0.1:7110"
data = "/var/lib/ferrite/n2"
"#;

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(text, Path::new("/etc/ferrite/ferrite.toml"))
}

#[test]
fn a_small_file_gets_defaults() {
    let config = parse(GOOD).unwrap();
    assert_eq!(config.cluster.vnodes, 4096);
    assert_eq!(config.cluster.hash_seed, HashSeed(0x1f3a_90c2_d4e5_b687));
    assert_eq!(config.server.memory, Some(ByteSize::mib(1024)));
    assert_eq!((config.server.memtable, config.server.block_cache), (None, None));
    assert_eq!(config.server.commitlog_sync, CommitlogSync::Batch);
    assert_eq!(config.server.compaction, Compaction::Leveled);
    assert_eq!(config.server.large_value_threshold, ByteSize(4 << 10));
    assert_eq!(config.server.scrub_rate, ByteSize::mib(1));
    assert_eq!(config.server.request_timeout, Duration::from_secs(2));
    assert_eq!((config.server.stores_for(1), config.server.stores_for(8)), (16, 32));
    let node = config.node("n1").unwrap();
    assert_eq!(node.id, NodeId(1));
    assert_eq!(node.data, Path::new("/etc/ferrite/data/n1"), "relative to the file");
    assert_eq!(config.node("n2").unwrap().data, Path::new("/var/lib/ferrite/n2"));
    assert_eq!(node.core_address(CoreId(1)).to_string(), "127.0.0.1:7102");
    assert_eq!(config.node_by_id(NodeId(2)).unwrap().name, "n2");
    assert!(config.node("n3").is_none());
}

#[test]
fn nodes_are_sorted_and_may_differ() {
    let text = GOOD
        .replace("id = 1\n", "id = 7\nports = [7300, 7200]\nrack = \"b\"\n")
        .replace("id = 2\n", "id = 2\ncores = [3]\n");
    let config = parse(&text).unwrap();
    assert_eq!(config.nodes.iter().map(|node| node.id.0).collect::<Vec<_>>(), [2, 7]);
    assert_eq!(config.nodes[0].cores, Cores::Cpus(vec![3]));
    assert_eq!(config.nodes[1].core_address(CoreId(1)).to_string(), "127.0.0.1:7200");
    assert_eq!(config.nodes[1].rack, "b");
}

#[test]
fn choices_are_read() {
    let server = |lines: &str| parse(&GOOD.replace("cores = 2\n", lines)).unwrap();
    assert_eq!(server("cores = \"all\"\n").nodes[0].cores, Cores::All);
    assert_eq!(server("cores = [0, 0]\n").nodes[0].cores, Cores::Cpus(vec![0, 0]));
    let periodic = server("commitlog_sync = \"periodic:100ms\"\n").server.commitlog_sync;
    assert_eq!(periodic, CommitlogSync::Periodic(Duration::from_millis(100)));
    assert_eq!(server("compaction = \"tiered\"\n").server.compaction, Compaction::Tiered);
    let apart = server("large_value_threshold = \"16KiB\"\n").server.large_value_threshold;
    assert_eq!(apart, ByteSize(16 << 10));
    assert_eq!(server("scrub_rate = \"4MiB\"\n").server.scrub_rate, ByteSize::mib(4));
    assert_eq!(server("scrub_rate = \"0MiB\"\n").server.scrub_rate, ByteSize(0));
    assert_eq!(server("spin = \"off\"\n").server.spin, Spin::Off);
    assert_eq!(server("spin = \"50us\"\n").server.spin, Spin::For(Duration::from_micros(50)));
}

#[test]
fn every_mistake_is_one_line_with_its_place_and_a_remedy() {
    let seed = "hash_seed = \"1f3a90c2d4e5b687\"";
    let id = "8c1f7d2a54e94f0b9a3c6b1de2f40718";
    for (from, to, line, part) in [
        ("memory = \"1GiB\"", "memroy = \"1GiB\"", 10, "unknown field `memroy`, expected one of"),
        ("memory = \"1GiB\"", "memory = \"1GB\"", 10, "use one of TiB, GiB, MiB, KiB, B"),
        ("memory = \"1GiB\"", "memory = 1024", 10, "\"1024\" has no unit"),
        ("memory = \"1GiB\"", "memory = \"1MiB\"", 10, "memory = 1MiB: write something from 32MiB"),
        ("memory = \"1GiB\"", "memory = \"1GiB", 10, "invalid basic string"),
        ("memory = \"1GiB\"", "memory = true", 10, "a size in quotes"),
        ("memory = \"1GiB\"", "memory = \"1GiB\"\nmemtable = \"2GiB\"", 11, "more than memory = 1GiB"),
        ("memory = \"1GiB\"", "request_timeout = \"2\"", 10, "has no unit"),
        ("memory = \"1GiB\"", "request_timeout = \"0s\"", 10, "from 1ms to 1h"),
        ("memory = \"1GiB\"", "max_value_size = \"2MiB\"", 10, "from 1B to 1MiB"),
        ("memory = \"1GiB\"", "commitlog_sync = \"always\"", 10, "write \"batch\""),
        ("memory = \"1GiB\"", "commitlog_sync = \"periodic:0s\"", 10, "a longer interval"),
        ("memory = \"1GiB\"", "spin = \"1s\"", 10, "longer than 10ms"),
        ("memory = \"1GiB\"", "stores = 0", 10, "from 1 to 1024"),
        ("cores = 2", "cores = 0", 9, "at least one core"),
        ("cores = 2", "cores = []", 9, "list at least one CPU"),
        ("cores = 2", "cores = \"two\"", 9, "or \"all\""),
        ("cores = 2", "cores = 5000", 9, "from 1 to 1024"),
        (
            "cores = 2",
            "cores = 10",
            21,
            "127.0.0.1:7110 is wanted by core 9 of n1 and by the contact port of n2",
        ),
        ("vnodes = 4096", "vnodes = 5000", 5, "the nearest are 4096 and 8192"),
        ("vnodes = 4096", "vnodes = 0", 5, "from 1 to 65536"),
        ("vnodes = 4096\n", "", 1, "missing field `vnodes`"),
        ("replication = 2", "replication = 3", 6, "needs as many nodes, and there are 2"),
        ("replication = 2", "replication = 0", 6, "from 1 to 16"),
        (id, "8c1f", 3, "is not a cluster id"),
        (id, "00000000000000000000000000000000", 3, "is not a cluster id"),
        (id, "+c1f7d2a54e94f0b9a3c6b1de2f40718", 3, "is not a cluster id"),
        (seed, "hash_seed = 12", 4, "expected a string"),
        (seed, "hash_seed = \"12\"", 4, "the 16 hexadecimal digits"),
        ("name = \"demo\"", "name = \"de mo\"", 2, "use 1 to 255 letters"),
        ("name = \"n2\"", "name = \"n1\"", 19, "node name n1 is already used on line 13"),
        ("id = 2\n", "id = 1\n", 20, "node id 1 is already used on line 14"),
        ("id = 2\n", "id = 0\n", 20, "from 1 to 65535"),
        ("id = 2\n", "id = 2\nid = 3\n", 21, "duplicate key"),
        ("/var/lib/ferrite/n2", "data/n1", 22, "is already used on line 16"),
        ("/var/lib/ferrite/n2", "", 22, "name a directory"),
        ("127.0.0.1:7110", "127.0.0.1:7101", 21, "wanted by core 0 of n1"),
        ("127.0.0.1:7110", "127.0.0.1", 21, "has no port"),
        ("127.0.0.1:7110", "127.0.0.1:65534", 21, "go beyond 65535"),
        ("127.0.0.1:7110", "10.0.0.2:7110", 21, "allow_insecure_network = true"),
        ("127.0.0.1:7110\"", "127.0.0.1:7110\"\nports = [1, 2, 3]", 22, "3 ports for 2 cores"),
        ("127.0.0.1:7110\"", "127.0.0.1:7110\"\nports = [0, 2]", 22, "ports = 0"),
        (
            "127.0.0.1:7110\"",
            "127.0.0.1:7110\"\nports = [7102, 7112]",
            21,
            "wanted by core 1 of n1 and by core 0 of n2",
        ),
    ] {
        assert!(GOOD.contains(from), "{from}");
        let error = parse(&GOOD.replacen(from, to, 1)).expect_err(to);
        let text = error.to_string();
        assert!(text.starts_with(&format!("/etc/ferrite/ferrite.toml:{line}: ")), "{to}: {text}");
        assert!(text.contains(part), "{to}: {text}");
        assert!(!text.contains('\n'), "{to}: {text}");
    }
    let no_nodes = &GOOD[..GOOD.find("[[nodes]]").unwrap()];
    assert!(parse(no_nodes).unwrap_err().to_string().contains("missing field `nodes`"));
    let empty = format!("nodes = []\n{no_nodes}");
    assert!(parse(&empty).unwrap_err().to_string().contains("there are no nodes"));
}

fn with_tables(declared: &str) -> String {
    format!("{GOOD}\n{declared}")
}

#[test]
fn tables_get_what_they_say_and_defaults_for_the_rest() {
    let config = parse(GOOD).unwrap();
    assert_eq!(config.tables.as_slice(), [Table::default_of(2)], "the default table is always there");

    let carts = "[[table]]\nname = \"carts\"\nmode = \"siblings\"\nreplication = 1\nttl = \"30d\"\n";
    let flags = "[[table]]\nname = \"flags\"\n";
    let default = "[[table]]\nname = \"default\"\nmode = \"lww\"\nttl = \"90s\"\nreplication = 1\n";
    let most = "[[table]]\nname = \"a\"\nmode = \"siblings\"\nmax_siblings = 1024\n";
    let config = parse(&with_tables(&[carts, flags, default, most].concat())).unwrap();
    let named = |name| config.tables.named(name).unwrap();
    let expected = Table {
        id: TableId::of("carts"),
        name: "carts".to_owned(),
        mode: Mode::Siblings,
        replication: 1,
        ttl_ms: 2_592_000_000,
        max_siblings: 32,
    };
    assert_eq!(*named("carts"), expected);
    let expected = Table { id: TableId::of("flags"), name: "flags".to_owned(), ..Table::default_of(2) };
    assert_eq!(*named("flags"), expected, "the cluster's replication, the last write, for ever");
    assert_eq!(*named("default"), Table { ttl_ms: 90_000, ..Table::default_of(1) });
    assert_eq!(named("a").max_siblings, 1024);

    let turned = parse(&with_tables(&[most, default, flags, carts].concat())).unwrap();
    assert_eq!(turned.tables, config.tables, "their order means nothing");
}

#[test]
fn every_mistake_in_a_table_is_one_line_with_its_place_and_a_remedy() {
    let long = format!("name = \"{}\"", "x".repeat(65));
    for (lines, line, part) in [
        ("", 24, "missing field `name`"),
        ("name = \"carts\"\ncolour = 1", 26, "unknown field `colour`, expected one of"),
        ("name = \"Carts\"", 25, "table name = \"Carts\": use 1 to 64 of a-z, 0-9, '-' and '_'"),
        ("name = \"\"", 25, "use 1 to 64 of a-z"),
        (long.as_str(), 25, "use 1 to 64 of a-z"),
        ("name = \"a\"\nmode = \"last\"", 26, "mode = \"last\": write \"lww\" or \"siblings\""),
        (
            "name = \"a\"\nmode = \"linearizable\"",
            26,
            "\"linearizable\" is not there yet: write \"lww\" or \"siblings\"",
        ),
        ("name = \"a\"\nreplication = 3", 26, "needs as many nodes, and there are 2"),
        ("name = \"a\"\nreplication = 0", 26, "replication = 0: write something from 1 to 16"),
        ("name = \"a\"\nttl = \"30\"", 26, "has no unit"),
        ("name = \"a\"\nttl = \"0s\"", 26, "write something from 1ms to 36500d"),
        // It became 1ms, and nothing was said.
        ("name = \"a\"\nttl = \"1500us\"", 26, "ttl = 1500us: write whole milliseconds"),
        ("name = \"a\"\nmax_siblings = 3", 26, "goes with mode = \"siblings\": remove it, or set the mode"),
        ("name = \"a\"\nmode = \"lww\"\nmax_siblings = 3", 27, "goes with mode = \"siblings\""),
        (
            "name = \"a\"\nmode = \"siblings\"\nmax_siblings = 0",
            27,
            "max_siblings = 0: write something from 1 to 1024",
        ),
        ("name = \"default\"\nmode = \"siblings\"", 26, "the default table keeps the last write"),
        (
            "name = \"a\"\n[[table]]\nname = \"b\"\n[[table]]\nname = \"a\"",
            29,
            "table a is already declared on line 25: declare each table once",
        ),
        (
            "name = \"default\"\n[[table]]\nname = \"default\"",
            27,
            "table default is already declared on line 25",
        ),
    ] {
        let error = parse(&with_tables(&format!("[[table]]\n{lines}\n"))).expect_err(lines);
        let text = error.to_string();
        assert!(text.starts_with(&format!("/etc/ferrite/ferrite.toml:{line}: ")), "{lines}: {text}");
        assert!(text.contains(part), "{lines}: {text}");
        assert!(!text.contains('\n'), "{lines}: {text}");
    }
}

#[test]
fn two_names_of_one_number_are_refused() {
    let mut names: BTreeMap<TableId, String> = BTreeMap::new();
    let twins = (0u32..).find_map(|number| {
        let name = format!("t{number}");
        names.insert(TableId::of(&name), name.clone()).map(|first| [first, name])
    });
    let [first, second] = twins.expect("some names meet");
    let declared = format!("[[table]]\nname = \"{first}\"\n[[table]]\nname = \"{second}\"\n");
    let text = parse(&with_tables(&declared)).unwrap_err().to_string();
    let expected =
        format!("table {second} comes to the same number as table {first} on line 25: rename one of them");
    assert_eq!(text, format!("/etc/ferrite/ferrite.toml:27: {expected}"));
}

#[test]
fn there_are_as_many_tables_as_are_allowed_and_no_more() {
    let declared = |count: usize| -> String {
        (1..count).map(|number| format!("[[table]]\nname = \"t{number}\"\n")).collect()
    };
    let most = parse(&with_tables(&declared(limits::TABLES_MAX))).unwrap();
    assert_eq!(most.tables.as_slice().len(), limits::TABLES_MAX);
    let text = parse(&with_tables(&declared(limits::TABLES_MAX + 1))).unwrap_err().to_string();
    assert!(text.contains("one table more than a cluster can have (1024, default included)"), "{text}");
}

#[test]
fn gossip_has_defaults_and_its_mistakes_are_one_line_with_their_place_and_a_remedy() {
    assert_eq!(parse(GOOD).expect("a correct file").gossip, Gossip::default());
    let with = |lines: &str| parse(&format!("{GOOD}\n[gossip]\n{lines}\n"));
    let set =
        with("probe_interval = \"300ms\"\nprobe_timeout = \"100ms\"\nsuspicion = \"1s\"\nstall = \"3s\"");
    let expected = GossipOptions {
        probe_period_ms: 300,
        probe_timeout_ms: 100,
        suspicion_ms: 1_000,
        stall_ms: 3_000,
        ..GossipOptions::default()
    };
    assert_eq!(set.expect("sound timings").gossip, Gossip { seeds: Vec::new(), options: expected });
    let seeds = with("seeds = [\"10.0.0.1:7100\", \"db-2:7100\"]").expect("sound seeds").gossip.seeds;
    assert_eq!(seeds.iter().map(Address::to_string).collect::<Vec<_>>(), ["10.0.0.1:7100", "db-2:7100"]);
    let many = |count: usize| {
        let seeds: Vec<String> = (1..=count).map(|port| format!("\"10.0.0.1:{port}\"")).collect();
        with(&format!("seeds = [{}]", seeds.join(", ")))
    };
    assert_eq!(many(SEEDS_MAX).expect("as many as may be").gossip.seeds.len(), SEEDS_MAX);
    let text = many(SEEDS_MAX + 1).expect_err("one more").to_string();
    assert!(text.contains(":25: 65 seeds are more than 64: a few"), "{text}");
    for (lines, line, words) in [
        ("probe_interval = \"5ms\"", 25, "probe_interval = 5ms: write something from 10ms to 1h"),
        ("suspicion = \"2h\"", 25, "suspicion = 2h: write something from 10ms to 1h"),
        ("fanout = 3\nstall = \"500ms\"", 26, "stall = 500ms: write something from 1s to 1h"),
        ("seeds = [\"10.0.0.1\"]", 25, "\"10.0.0.1\" has no port: write \"host:port\""),
        ("seeds = [\"10.0.0.1:7100\",\n\"0.0.0.0:7100\"]", 26, "write the address they reach"),
        ("seeds = [\"a:1\",\n\"b:1\",\n\"a:1\"]", 27, "seed a:1 is listed twice: list each once"),
        ("seeds = \"a:1\"", 25, "expected a sequence"),
        ("fanout = 0", 25, "fanout = 0: write something from 1 to 64"),
        ("suspicion = \"4500500us\"", 25, "suspicion = 4500500us: write whole milliseconds"),
        ("probe_timeout = \"600ms\"", 24, "the probe timeout is more than half of the probe period"),
        ("suspicion = \"900ms\"", 24, "the time of suspicion is shorter than the probe period"),
    ] {
        let text = with(lines).expect_err(lines).to_string();
        assert!(text.starts_with(&format!("/etc/ferrite/ferrite.toml:{line}: ")), "{lines}: {text}");
        assert!(text.contains(words) && !text.contains('\n'), "{lines}: {text}");
    }
}

#[test]
fn a_node_that_is_joining_is_listed_and_does_not_count_for_replication() {
    assert!(parse(GOOD).expect("a correct file").nodes.iter().all(|node| !node.joining));
    let third = "\n[[nodes]]\nname = \"n3\"\nid = 3\naddress = \"127.0.0.1:7120\"\ndata = \"data/n3\"\njoining = true\n";
    let config = parse(&format!("{GOOD}{third}")).expect("a correct file");
    assert_eq!(config.nodes.iter().map(|node| node.joining).collect::<Vec<_>>(), [false, false, true]);
    let text = format!("{GOOD}{third}").replace("replication = 2", "replication = 3");
    let text = parse(&text).expect_err("two nodes that own data").to_string();
    assert!(
        text.contains(":6: replication = 3 needs as many nodes, and there are 2, joining ones left out"),
        "{text}"
    );
    let carts = "\n[[table]]\nname = \"carts\"\nreplication = 3\n";
    let text = parse(&format!("{GOOD}{third}{carts}")).expect_err("of a table, too").to_string();
    assert!(text.contains("replication = 3 needs as many nodes"), "{text}");
    let text =
        parse(&format!("{GOOD}{}", third.replace("= true", "= \"yes\""))).expect_err("a text").to_string();
    assert!(text.contains(":29: ") && text.contains("expected a boolean"), "{text}");
}

#[test]
fn hints_have_defaults_and_their_mistakes_are_one_line_with_their_place_and_a_remedy() {
    assert_eq!(parse(GOOD).expect("a correct file").hints, Hints::default());
    let with = |lines: &str| parse(&format!("{GOOD}\n[hints]\n{lines}\n"));
    let set = with(
        "max_per_core = \"2GiB\"\nmax_per_node = \"1GiB\"\nmax_age = \"1d\"\nmax_in_flight = \"8MiB\"\nmax_per_second = 50\nforget = [700]\nforget_held_back = [1]",
    );
    let options = HintOptions {
        bytes_max: 2 << 30,
        strict_bytes_max: 1 << 30,
        strict_age_max_ms: 24 * 3_600 * 1_000,
        delivery_bytes_max: 8 << 20,
        storm_per_s: 50,
        ..HintOptions::default()
    };
    assert_eq!(
        set.expect("sound bounds").hints,
        Hints { options, forget: vec![NodeId(700)], forget_held_back: vec![NodeId(1)] }
    );
    let small = with("max_per_core = \"4MiB\"").expect("one bound alone").hints.options;
    assert_eq!((small.bytes_max, small.strict_bytes_max), (4 << 20, 4 << 20));
    for (lines, line, words) in [
        ("max_per_core = \"5KiB\"", 25, "max_per_core = 5KiB: write something from 1MiB to 1TiB"),
        ("max_age = \"1s\"", 25, "max_age = 1s: write something from 1m to 30d"),
        ("max_per_second = 0", 25, "max_per_second = 0: write something from 1 to 1000000"),
        ("max_in_flight = 5", 25, "\"5\" has no unit"),
        ("max_per_core = \"2MiB\"\nmax_per_node = \"3MiB\"", 26, "max_per_node is more than max_per_core"),
        ("max_age = \"1h\"\nforget = [9, 1]", 26, "forget = [1]: that is \"n1\", which is a member"),
        // A number that no node has was taken, against what the key says.
        ("forget_held_back = [1,\n700]", 26, "forget_held_back = [700]: no node is listed with that number"),
        ("forget_held_back = [700]", 25, "no members any more goes with forget = [700]"),
        ("max_age = \"60000500us\"", 25, "max_age = 60000500us: write whole milliseconds"),
        ("most = 1", 25, "unknown field `most`"),
    ] {
        let text = with(lines).expect_err(lines).to_string();
        assert!(text.starts_with(&format!("/etc/ferrite/ferrite.toml:{line}: ")), "{lines}: {text}");
        assert!(text.contains(words) && !text.contains('\n'), "{lines}: {text}");
    }
}

#[test]
fn a_network_that_is_trusted_is_allowed_in_writing() {
    let text =
        GOOD.replace("127.0.0.1:7110", "10.0.0.2:7110").replace("cores = 2", "allow_insecure_network = true");
    assert!(parse(&text).is_ok());
}

#[test]
fn unreadable_files_say_so() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("ferrite.toml");
    let missing = Config::load(&file).unwrap_err();
    assert!(matches!(missing.problem, Problem::Unreadable(_)));
    assert!(missing.to_string().contains("`ferrite init` writes one"));
    std::fs::write(&file, [0xff, 0xfe]).unwrap();
    assert!(matches!(Config::load(&file).unwrap_err().problem, Problem::NotUtf8));
    std::fs::write(&file, GOOD).unwrap();
    assert_eq!(Config::load(&file).unwrap().node("n1").unwrap().data, directory.path().join("data/n1"));
}

fn birth(nodes: usize) -> Birth {
    Birth {
        name: "demo".into(),
        id: ClusterId([7; 16]),
        hash_seed: HashSeed(9),
        nodes,
        addresses: vec!["127.0.0.1:7100".parse().unwrap()],
        cores: 1,
        cpus: vec![0, 3],
        vnodes: None,
        replication: None,
        memory: None,
        allow_insecure_network: false,
        data: "data".into(),
    }
}

#[test]
fn what_init_writes_is_a_configuration() {
    let config = parse(&birth(3).render().unwrap()).unwrap();
    assert_eq!((config.cluster.id, config.cluster.hash_seed), (ClusterId([7; 16]), HashSeed(9)));
    assert_eq!((config.cluster.vnodes, config.cluster.replication), (4096, 3));
    let ports: Vec<u16> = config.nodes.iter().map(|node| node.address.port).collect();
    assert_eq!(ports, [7100, 7110, 7120]);
    let cores: Vec<Cores> = config.nodes.iter().map(|node| node.cores.clone()).collect();
    assert_eq!(
        cores,
        [Cores::Cpus(vec![0]), Cores::Cpus(vec![3]), Cores::Cpus(vec![0])],
        "spread over the CPUs"
    );

    let config = parse(&birth(1).render().unwrap()).unwrap();
    assert_eq!((config.cluster.replication, &config.nodes[0].cores), (1, &Cores::Count(1)));

    let wide = Birth { cores: 12, memory: Some(ByteSize::mib(96)), data: "/tmp/\"odd\\".into(), ..birth(2) };
    let config = parse(&wide.render().unwrap()).unwrap();
    assert_eq!(config.nodes[1].address.port, 7120, "room for twelve cores");
    assert_eq!(config.server.memory, Some(ByteSize::mib(96)));
    assert_eq!(config.nodes[0].data, Path::new("/tmp/\"odd\\/n1"));
}

/// A key that was written behind the section which it belongs to became the next one's as soon as that was no comment any more.
#[test]
fn what_init_shows_as_comments_can_be_taken_at_its_word() {
    let is_shown = |line: &str| {
        let is_key = line.split_once(" = ").is_some_and(|(key, _)| {
            !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
        });
        line.starts_with('[') || is_key
    };
    for allow_insecure_network in [false, true] {
        let birth = Birth { allow_insecure_network, ..birth(3) };
        let text = birth.render().unwrap();
        let taken = |line: &str| match line.strip_prefix("# ") {
            Some(shown) if is_shown(shown) => shown.to_owned(),
            Some(_) | None => line.to_owned(),
        };
        let all: Vec<String> = text.lines().map(taken).collect();
        let config = parse(&all.join("\n")).unwrap_or_else(|error| panic!("{error}\n{}", all.join("\n")));
        let written = parse(&text).unwrap();
        let carts = config.tables.named("carts").expect("the table that is shown");
        assert_eq!((carts.mode, carts.max_siblings, carts.replication), (Mode::Siblings, 32, 3));
        assert_eq!(config.server.allow_insecure_network, allow_insecure_network);
        assert_eq!(config.server.memory, Some(ByteSize::mib(1024)), "an example; all else are the defaults");
        assert_eq!(config.server, Server { memory: config.server.memory, ..written.server.clone() });
        assert_eq!((config.gossip, config.hints), (written.gossip, written.hints));
        assert_eq!((config.cluster, config.nodes), (written.cluster, written.nodes));
        let of_gossip =
            ["seeds", "probe_interval", "probe_timeout", "suspicion", "gossip_interval", "stall", "fanout"];
        let left_out: Vec<&str> =
            of_gossip.into_iter().filter(|key| !all.iter().any(|line| line.starts_with(key))).collect();
        assert_eq!(left_out, [""; 0], "keys of [gossip] that are not shown");
    }
}

#[test]
fn what_init_cannot_place_it_does_not_write() {
    let two = vec!["127.0.0.1:7100".parse().unwrap(), "127.0.0.1:7200".parse().unwrap()];
    assert!(Birth { addresses: two.clone(), ..birth(3) }.render().is_none());
    assert!(Birth { addresses: vec!["127.0.0.1:65530".parse().unwrap()], ..birth(3) }.render().is_none());
    let far = Birth { addresses: vec!["10.0.0.1:7100".parse().unwrap()], ..birth(1) };
    assert!(matches!(parse(&far.render().unwrap()).unwrap_err().problem, Problem::InsecureNetwork { .. }));
    assert!(parse(&Birth { allow_insecure_network: true, ..far }.render().unwrap()).is_ok());
    let config = parse(&Birth { addresses: two, ..birth(2) }.render().unwrap()).unwrap();
    assert_eq!(config.nodes[1].address.port, 7200);
}

#[test]
fn a_test_may_set_a_clock_off_within_a_day() {
    assert_eq!(parse(GOOD).unwrap().testing, Testing::default());
    for (text, offset_ms) in [("-3s", -3_000), ("250ms", 250), ("+1h", 3_600_000), ("0s", 0)] {
        let config = parse(&format!("{GOOD}\n[testing]\nclock_offset = \"{text}\"\n")).unwrap();
        assert_eq!(config.testing.clock_offset_ms, offset_ms, "{text}");
    }
    for (text, part) in [("3", "has no unit"), ("--3s", "not a length of time"), ("-25h", "further than 1d")]
    {
        let error = parse(&format!("{GOOD}\n[testing]\nclock_offset = \"{text}\"\n")).unwrap_err();
        assert!(error.to_string().contains(part), "{error}");
    }
    assert!(parse(&format!("{GOOD}\n[testing]\nclock = \"3s\"\n")).is_err());
}
