//! A file system of its own for a test: ext4 in a file, on a loop device, mounted where only the test sees it.
//!
//! Such a test runs once more in a process of its own, in a mount namespace of its own. However that process ends, its mounts end
//! with it, and with them the loop devices: nothing is left to clean up. Mounting an image needs root. Without root, or where
//! the system lacks a program or does not let anyone mount, the test says so in one line and does nothing.
//!
//! The loop device reads and writes the file without the page cache, so that the file holds what the device was given and
//! nothing else.

use std::ffi::OsStr;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use rustix::process::geteuid;

use crate::cluster::directory;

/// Tells the process in the namespace that it is the one.
const INSIDE: &str = "FERRITE_TEST_MOUNTS";
/// Enough for a file system that nobody writes to.
const PROBE_BYTES: u64 = 8 << 20;
/// Where ext4 has the feature bits that a kernel without the feature must not ignore, and the bit for a journal that has to be
/// replayed.
const INCOMPATIBLE_AT: usize = 1024 + 0x60;
const NEEDS_REPLAY: u8 = 4;

/// Runs a test, whose full name this is, where it can mount images that nobody else sees.
pub(crate) fn in_a_namespace(name: &str, test: impl FnOnce()) {
    if std::env::var_os(INSIDE).is_some() {
        return test();
    }
    if let Err(why) = can_mount() {
        // Not by a macro whose output is kept from whoever runs the tests.
        let line = format!("skipped: {why}: {name}\n");
        std::io::stderr().write_all(line.as_bytes()).expect("stderr is there");
        return;
    }
    let itself = std::env::current_exe().expect("the test's own program");
    let output = Command::new("unshare")
        .args(["--mount", "--"])
        .arg(itself)
        .args([name, "--exact", "--nocapture"])
        .env(INSIDE, "1")
        .stdin(Stdio::null())
        .output()
        .expect("it ran a moment ago");
    let said = String::from_utf8_lossy(&output.stdout);
    print!("{said}");
    eprint!("{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && said.contains("1 passed"), "in its namespace: {}", output.status);
}

/// Whether images can be mounted here; why not.
fn can_mount() -> Result<(), String> {
    if !geteuid().is_root() {
        return Err("needs root".to_owned());
    }
    for program in ["unshare", "mkfs.ext4", "mount", "umount", "losetup", "findmnt"] {
        let found = Command::new(program).arg("-V").stdout(Stdio::null()).stderr(Stdio::null()).status();
        found.map_err(|error| format!("needs {program}: {error}"))?;
    }
    let home = directory();
    let (image, at) = (Image::create(&home.path().join("probe.img"), PROBE_BYTES), home.path().join("probe"));
    std::fs::create_dir(&at).expect("a directory of its own");
    let script = "mount -t ext4 -o loop \"$0\" \"$1\" && losetup --direct-io=on \"$(findmnt -n -o SOURCE --target \"$1\")\"";
    let probed = Command::new("unshare")
        .args(["--mount", "--", "sh", "-c", script])
        .args([&image.0, &at])
        .output()
        .map_err(|error| format!("needs unshare: {error}"))?;
    let why = String::from_utf8_lossy(&probed.stderr);
    if probed.status.success() { Ok(()) } else { Err(format!("needs loop mounts: {}", why.trim())) }
}

/// A file with a file system in it.
pub(crate) struct Image(PathBuf);

impl Image {
    /// An empty file system of so many bytes. None of them is set aside for root, who runs the test.
    pub(crate) fn create(file: &Path, bytes: u64) -> Image {
        let empty = std::fs::File::create(file).expect("a file of its own");
        empty.set_len(bytes).expect("a hole costs nothing");
        run("mkfs.ext4", ["-q".as_ref(), "-F".as_ref(), "-m".as_ref(), "0".as_ref(), file.as_os_str()]);
        Image(file.to_owned())
    }

    /// What the device holds at one instant of the time this takes. Whoever writes to it has been stopped, the kernel has not:
    /// two readings one after the other are the same, so nothing was written between the end of the first and the
    /// beginning of the second.
    pub(crate) fn snapshot(&self) -> Vec<u8> {
        const READINGS_MAX: usize = 50;
        let read = || std::fs::read(&self.0).expect("the image is there");
        let mut last = read();
        for _ in 0..READINGS_MAX {
            let next = read();
            if next == last {
                return next;
            }
            last = next;
        }
        panic!("the device is written to all the time, though nobody runs who does");
    }

    /// An image of what a device held.
    pub(crate) fn of(file: &Path, bytes: &[u8]) -> Image {
        std::fs::write(file, bytes).expect("a file of its own");
        Image(file.to_owned())
    }

    /// Mounts it, for the namespace of this process only.
    pub(crate) fn mount(self, at: &Path) -> Mounted {
        assert!(std::env::var_os(INSIDE).is_some(), "nobody else is to see it");
        std::fs::create_dir_all(at).expect("a directory");
        run(
            "mount",
            ["-t", "ext4", "-o", "loop"]
                .map(OsStr::new)
                .into_iter()
                .chain([self.0.as_os_str(), at.as_os_str()]),
        );
        let mounted = Mounted { image: self, at: at.to_owned() };
        let found = run(
            "findmnt",
            ["-n", "-o", "SOURCE", "--target"].map(OsStr::new).into_iter().chain([at.as_os_str()]),
        );
        let device = String::from_utf8_lossy(&found.stdout).trim().to_owned();
        run("losetup", ["--direct-io=on", &device].map(OsStr::new));
        mounted
    }
}

/// Whether these bytes are a file system that was in use, so that whoever mounts it replays its journal.
pub(crate) fn needs_replay(bytes: &[u8]) -> bool {
    bytes[INCOMPATIBLE_AT] & NEEDS_REPLAY != 0
}

/// A mounted image. It is unmounted when this is dropped, and its file removed.
pub(crate) struct Mounted {
    image: Image,
    at: PathBuf,
}

impl Mounted {
    /// The image.
    pub(crate) fn image(&self) -> &Image {
        &self.image
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // The kernel may take a moment to let go of what a killed process had open; nobody has to wait for that.
        let _ = Command::new("umount").arg("--lazy").arg(&self.at).status();
        let _ = std::fs::remove_file(&self.image.0);
    }
}

/// Runs a program of the system, which must succeed.
fn run<'a>(program: &str, arguments: impl IntoIterator<Item = &'a OsStr>) -> Output {
    let output = Command::new(program).args(arguments).output().expect("it was there a moment ago");
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    output
}
