//! What is wrong with a configuration, a port or a directory is one line, exit code 2, and nothing is touched.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::Path;

use ferrite_node::config::Config;

use crate::{cluster, configured, directory, ferrite, outcome};

#[test]
fn init_writes_what_serve_reads_and_never_overwrites() {
    let home = directory();
    let made = ferrite(home.path(), &["init", "--name", "mine", "--nodes", "3", "--cores", "1"]);
    assert!(made.status.success());
    let file = home.path().join("ferrite.toml");
    let config = Config::load(&file).unwrap();
    assert_eq!(
        (config.cluster.name.as_str(), config.nodes.len(), config.cluster.replication),
        ("mine", 3, 3)
    );
    assert_eq!(config.nodes[2].data, home.path().join("data/n3"));

    let before = std::fs::read(&file).unwrap();
    let (code, said) = outcome(&ferrite(home.path(), &["init"]));
    assert_eq!(code, 2);
    assert!(said.contains("holds a cluster's identity"), "{said}");
    assert_eq!(std::fs::read(&file).unwrap(), before);

    assert!(ferrite(home.path(), &["init", "--output", "other.toml"]).status.success());
    let other = Config::load(&home.path().join("other.toml")).unwrap();
    assert_ne!(other.cluster.id, config.cluster.id, "every birth is another cluster");
    assert_ne!(other.cluster.hash_seed, config.cluster.hash_seed);
}

#[test]
fn a_mistake_is_one_line_with_its_place() {
    let home = directory();
    assert!(ferrite(home.path(), &["init", "--nodes", "1"]).status.success());
    let file = home.path().join("ferrite.toml");
    let good = std::fs::read_to_string(&file).unwrap();
    let line_of = |text: &str| 1 + good.lines().position(|line| line.starts_with(text)).expect(text);
    for (from, to, part) in [
        ("cores = 1", "coers = 1", "unknown field `coers`"),
        ("cores = 1", "memory = \"1GB\"", "is not a unit of a size"),
        ("cores = 1", "request_timeout = 5", "has no unit"),
        ("id = 1", "id = \"one\"", "invalid type"),
        ("address = \"127.0.0.1:7100\"", "address = \"127.0.0.1:port\"", "between 1 and 65535"),
        ("address = \"127.0.0.1:7100\"", "address = \"10.1.2.3:7100\"", "allow_insecure_network = true"),
        ("replication = 1", "replication = 2", "there are 1"),
    ] {
        std::fs::write(&file, good.replacen(from, to, 1)).unwrap();
        let (code, said) = outcome(&ferrite(home.path(), &["serve"]));
        let place = format!("ferrite.toml:{}: ", line_of(from));
        assert_eq!(code, 2, "{said}");
        assert!(said.contains(&place) && said.contains(part), "{to}: {said}");
        assert_eq!(said.lines().count(), 1, "{said}");
    }
    assert!(!home.path().join("data").exists(), "nothing was touched");
}

/// It said what the engine called it, without the setting, after it had taken its directory; before that it took no write, for ever.
#[test]
fn memory_that_could_take_no_write_is_refused_with_the_least_that_works() {
    let home = directory();
    assert!(ferrite(home.path(), &["init", "--nodes", "1"]).status.success());
    let file = home.path().join("ferrite.toml");
    let good = std::fs::read_to_string(&file).unwrap();
    let lines: Vec<_> = good.lines().filter(|line| !line.starts_with("memory =")).collect();
    let small = "[server]\nstores = 1024\nmemory = \"32MiB\"";
    std::fs::write(&file, lines.join("\n").replacen("[server]", small, 1)).unwrap();
    let (code, said) = outcome(&ferrite(home.path(), &["serve"]));
    assert_eq!(code, 2, "{said}");
    assert!(said.contains("memory = \"32MiB\" is too little for 1024 stores"), "{said}");
    assert!(said.contains("set `memory` under [server] to "), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(!home.path().join("data").exists(), "nothing was touched");
}

#[test]
fn serve_wants_to_know_which_node() {
    let home = directory();
    let (code, said) = outcome(&ferrite(home.path(), &["serve"]));
    assert_eq!(code, 2);
    assert!(said.contains("`ferrite init` writes one"), "{said}");
    assert!(ferrite(home.path(), &["init", "--nodes", "2"]).status.success());
    let (code, said) = outcome(&ferrite(home.path(), &["serve"]));
    assert_eq!((code, said.contains("n1, n2")), (2, true), "{said}");
    let (code, said) = outcome(&ferrite(home.path(), &["serve", "--node", "n9"]));
    assert_eq!((code, said.contains("no node \"n9\"")), (2, true), "{said}");
}

#[test]
fn a_taken_port_is_named_with_its_holder() {
    let home = directory();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    assert!(ferrite(home.path(), &["init", "--nodes", "1", "--address", &address]).status.success());
    let (code, said) = outcome(&ferrite(home.path(), &["serve"]));
    assert_eq!(code, 2);
    let holder = format!("{address} is in use by process {}", std::process::id());
    assert!(said.contains(&holder), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(!home.path().join("data").exists(), "nothing was touched");
}

/// Every file below a directory, with its bytes.
fn contents(directory: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut todo = vec![directory.to_owned()];
    while let Some(directory) = todo.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let name = path.display().to_string();
            if path.is_dir() {
                found.insert(name, Vec::new());
                todo.push(path);
            } else {
                found.insert(name, std::fs::read(path).unwrap());
            }
        }
    }
    found
}

#[test]
fn a_directory_that_is_not_ours_is_refused_untouched() {
    let home = directory();
    let mut cluster = cluster(home.path(), 2);
    assert!(cluster.stop(0).unwrap().success());
    assert!(cluster.stop(1).unwrap().success());
    let text = std::fs::read_to_string(cluster.config_file()).unwrap();
    let data = home.path().join("data/n1");
    let id = cluster.config().cluster.id.to_string();
    let seed = format!("{:016x}", cluster.config().cluster.hash_seed.0);
    let before = contents(&data);
    for (from, to, part) in [
        (id.as_str(), "00000000000000000000000000000001", "belongs to cluster"),
        ("id = 1\n", "id = 7\n", "belongs to node 1, not 7"),
        ("vnodes = 4096", "vnodes = 8192", "was made with vnodes = 4096"),
        (seed.as_str(), "0000000000000001", "was made with hash_seed"),
    ] {
        assert!(text.contains(from), "{from}");
        std::fs::write(cluster.config_file(), text.replacen(from, to, 1)).unwrap();
        let (code, said) = outcome(&ferrite(home.path(), &["serve", "--node", "n1"]));
        assert_eq!(code, 2, "{said}");
        assert!(said.contains(part), "{to}: {said}");
        assert_eq!(said.lines().count(), 1, "{said}");
        assert_eq!(contents(&data), before, "{to}");
    }
    std::fs::write(cluster.config_file(), &text).unwrap();

    let identity = data.join("IDENTITY");
    let ours = std::fs::read(&identity).unwrap();
    let mut newer = ours.clone();
    newer[8] = 9;
    std::fs::write(&identity, &newer).unwrap();
    let (code, said) = outcome(&ferrite(home.path(), &["serve", "--node", "n1"]));
    assert_eq!((code, said.contains("has format 9")), (2, true), "{said}");
    std::fs::write(&identity, &ours).unwrap();
    assert_eq!(contents(&data), before);

    // Held by a running process, under another port: the lock speaks, not the port.
    cluster.start(0).unwrap();
    let other = directory();
    let free = configured(other.path(), 1).node(0).address.port;
    let elsewhere = text.replacen(&format!(":{}\"", cluster.node(0).address.port), &format!(":{free}\""), 1);
    std::fs::write(cluster.config_file(), elsewhere).unwrap();
    let (code, said) = outcome(&ferrite(home.path(), &["serve", "--node", "n1"]));
    let holder = format!("is in use by process {}", cluster.pid(0).unwrap());
    assert_eq!((code, said.contains(&holder)), (1, true), "{said}");
}
