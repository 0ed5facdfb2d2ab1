//! Each check against a machine that lacks what it looks for, and all of them against this one.

use std::net::TcpListener;
use std::path::Path;

use super::*;
use crate::config::Cores;

/// A node listens where its own address leads, so one whose name leads nowhere is refused at once, and does not start unfound.
#[test]
fn a_node_whose_own_name_leads_nowhere_does_not_start() {
    // No part of a name is as long, so nobody needs to be asked.
    let name = format!("{}.invalid:7100", "n".repeat(64));
    let error = ports::check(&name.parse().expect("a host and a port")).unwrap_err();
    assert!(matches!(error, StartupError::CannotListen { .. }), "{error}");
    assert!(error.to_string().contains(&name), "{error}");
}

#[test]
fn cores_are_given_cpus() {
    let assign = |cores| cpus::assign(&cores, &[0, 2, 3]);
    assert_eq!(assign(Cores::All).unwrap(), [0, 2, 3]);
    assert_eq!(assign(Cores::Count(2)).unwrap(), [0, 2]);
    assert_eq!(assign(Cores::Cpus(vec![3, 3])).unwrap(), [3, 3]);
    let error = assign(Cores::Count(4)).unwrap_err();
    assert!(matches!(error, StartupError::TooFewCpus { wanted: 4, allowed: 3 }), "{error}");
    let error = assign(Cores::Cpus(vec![0, 1])).unwrap_err();
    assert_eq!(
        error.to_string(),
        "cores lists CPU 1, and this process may use only 0, 2, 3: list one of those"
    );
    assert_eq!(error.exit_code(), EXIT_CONFIGURATION);
}

#[test]
fn old_kernels_are_told_from_new_ones() {
    for (release, expected) in [
        ("5.15.0-91-generic", false),
        ("6.0.19", false),
        ("6.1.0-13-amd64", true),
        ("6.18.44-fc", true),
        ("10.0", true),
        ("4.19", false),
        ("unheard-of", true),
    ] {
        assert_eq!(host::is_new_enough(release), expected, "{release}");
    }
}

#[test]
fn the_size_of_memory_is_read() {
    assert_eq!(host::memory_total("MemTotal:       16314832 kB\nMemFree: 1 kB\n"), Some(16_314_832 << 10));
    assert_eq!(host::memory_total("MemFree: 1 kB\n"), None);
    let error = host::settle_memory(Some(ByteSize(u64::MAX)), 1).unwrap_err();
    assert!(matches!(error, StartupError::Memory { .. }), "{error}");
    let error = host::settle_memory(Some(ByteSize::mib(90)), 3).unwrap_err();
    assert_eq!(
        error.to_string(),
        "90MiB of memory are too little for 3 cores: set `memory` under [server] to 96MiB or more, or lower `cores`"
    );
    assert_eq!(host::settle_memory(Some(ByteSize::mib(96)), 3).unwrap(), ByteSize::mib(96));
    assert!(host::settle_memory(None, 1).unwrap() >= ByteSize::mib(32));
}

#[test]
fn a_taken_port_is_named_with_its_holder() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address: crate::config::Address = listener.local_addr().unwrap().to_string().parse().unwrap();
    let error = ports::check(&address).unwrap_err();
    let StartupError::PortInUse { address: named, holder } = &error else {
        panic!("{error}");
    };
    assert_eq!(named, &address.to_string());
    assert_eq!(holder.as_ref().unwrap().pid, std::process::id());
    assert_eq!(error.exit_code(), EXIT_CONFIGURATION);
    // On an address of its own: on the one that all tests share, somebody else may take the port in between.
    let listener = TcpListener::bind("127.0.0.78:0").unwrap();
    let address: crate::config::Address = listener.local_addr().unwrap().to_string().parse().unwrap();
    assert!(matches!(ports::check(&address), Err(StartupError::PortInUse { .. })));
    drop(listener);
    ports::check(&address).unwrap();
}

#[test]
fn an_address_of_another_machine_cannot_be_listened_on() {
    // 192.0.2.0/24 is reserved for documentation: no machine has it.
    let error = ports::check(&"192.0.2.1:7100".parse().unwrap()).unwrap_err();
    assert!(matches!(error, StartupError::CannotListen { .. }), "{error}");
}

#[test]
fn the_table_of_sockets_is_read() {
    let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   \
                 0: 0100007F:1BBC 0100007F:9999 01 00000000:00000000 00:00000000 00000000     0        0 11 1 0\n   \
                 1: 0100007F:1BBC 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 22 1 0\n";
    assert_eq!(ports::listening_socket(table, 7100), Some(22));
    assert_eq!(ports::listening_socket(table, 7101), None);
    assert_eq!(ports::listening_socket("", 7100), None);
}

/// Beside this program, where the build's file system is: sources may lie where nothing can be written, or not by direct I/O.
fn directory() -> tempfile::TempDir {
    let program = std::env::current_exe().unwrap();
    tempfile::tempdir_in(program.parent().unwrap()).unwrap()
}

#[test]
fn direct_io_is_tried_and_leaves_nothing() {
    let temp = directory();
    direct::check(temp.path()).unwrap();
    assert_eq!(std::fs::read_dir(temp.path()).unwrap().count(), 0);
    let error = direct::check(Path::new("/proc")).unwrap_err();
    assert!(matches!(error, StartupError::DirectIo { .. }), "{error}");
}

#[test]
fn this_machine_will_do() {
    let temp = directory();
    // An address of its own, so that no other test takes the ports in between.
    let listeners = [(); 2].map(|()| TcpListener::bind("127.0.0.79:0").unwrap());
    let [contact, core] = listeners.each_ref().map(|listener| listener.local_addr().unwrap());
    drop(listeners);
    let text = format!(
        "[cluster]\nname = \"t\"\nid = \"{:032x}\"\nhash_seed = \"{:016x}\"\nvnodes = 16\nreplication = 1\n\
         [server]\ncores = 1\nmemory = \"64MiB\"\n[[nodes]]\nname = \"n1\"\nid = 1\naddress = \"{contact}\"\n\
         ports = [{}]\ndata = \"n1\"\n",
        7,
        9,
        core.port()
    );
    let config = Config::parse(&text, &temp.path().join("ferrite.toml")).unwrap();
    let ready = prepare(&config, &config.nodes[0]).unwrap();
    assert_eq!(ready.cpus.len(), 1);
    assert!(ready.directory.is_new());
    let error = prepare(&config, &config.nodes[0]).unwrap_err();
    assert!(matches!(error, StartupError::Directory(IdentityError::InUse { .. })), "{error}");
}

#[test]
fn the_living_are_told_from_the_dead() {
    assert!(is_alive(std::process::id()));
    let mut child = std::process::Command::new("true").stdin(std::process::Stdio::piped()).spawn().unwrap();
    let pid = child.id();
    child.wait().unwrap();
    assert!(!is_alive(pid));
}
