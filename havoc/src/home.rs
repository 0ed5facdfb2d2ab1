//! The directory of a run, and what runs that were killed have left.
//!
//! A directory's name has the number of the process that made it. Whoever makes one first removes those of processes that are gone, and
//! ends the nodes in them: one that was stopped when its harness was killed would never notice. Networks need no such care, for they
//! go with their processes.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::{Obstacle, failed};

/// What directories begin with; the number of their process follows.
const PREFIX: &str = "ferrite-havoc-";
/// A directory with this file in it is kept for people.
const KEPT: &str = "kept";

/// A directory that is removed when this is dropped.
pub struct Home(TempDir);

impl Home {
    /// Makes one, after removing what is left of runs that were killed.
    pub fn create(parent: &Path) -> Result<Home, Obstacle> {
        remove_leftovers(parent);
        let prefix = format!("{PREFIX}{}-", std::process::id());
        let made = tempfile::Builder::new().prefix(&prefix).tempdir_in(parent);
        made.map(Home).map_err(failed("make a directory"))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Keeps it, for people.
    pub fn keep(self) -> PathBuf {
        // Without that file the next run takes it for one that was left behind.
        let _ = fs::write(self.path().join(KEPT), "");
        self.0.keep()
    }
}

fn remove_leftovers(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let (name, directory) = (entry.file_name(), entry.path());
        let owner =
            name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.split('-').next()?.parse::<u32>().ok());
        if owner.is_none_or(|owner| Path::new(&format!("/proc/{owner}")).exists()) {
            continue;
        }
        end_nodes(&directory);
        // One that cannot be removed is in nobody's way.
        if !directory.join(KEPT).exists() && fs::remove_dir_all(&directory).is_ok() {
            println!("removed {}, which a run that was killed had left", directory.display());
        }
    }
}

/// Kills the processes whose configuration is in a directory.
fn end_nodes(directory: &Path) {
    let wanted = directory.as_os_str().as_bytes();
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let pid =
            process.file_name().to_str().and_then(|name| name.parse::<i32>().ok()).and_then(Pid::from_raw);
        let command = fs::read(process.path().join("cmdline")).unwrap_or_default();
        let is_in_it =
            |argument: &[u8]| argument.strip_prefix(wanted).is_some_and(|rest| rest.starts_with(b"/"));
        if let Some(pid) = pid.filter(|_| command.split(|byte| *byte == 0).any(is_in_it)) {
            // It may have ended by itself.
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_a_killed_run_left_is_removed_its_stopped_nodes_are_ended_and_what_is_kept_stays() {
        let parent = tempfile::tempdir().expect("a directory");
        let mut gone = Command::new("true").spawn().expect("it is everywhere");
        let owner = gone.id();
        gone.wait().expect("it ends");
        let at = |name: &str| parent.path().join(format!("{PREFIX}{owner}-{name}"));
        let mine = parent.path().join(format!("{PREFIX}{}-mine", std::process::id()));
        for directory in [&at("left"), &at("kept"), &mine] {
            fs::create_dir(directory).expect("a directory");
        }
        fs::write(at("kept").join(KEPT), "").expect("a file");
        let mut node = Command::new("sh")
            .args(["-c", "kill -STOP $$", "node"])
            .arg(at("left").join("n1.toml"))
            .stdin(Stdio::null())
            .spawn()
            .expect("it is everywhere");
        let state = format!("/proc/{}/stat", node.id());
        let is_stopped = || fs::read_to_string(&state).ok().filter(|stat| stat.contains(") T ")).map(drop);
        assert!(crate::wait_for(Duration::from_secs(30), is_stopped).is_some(), "it stops itself");
        let home = Home::create(parent.path()).expect("a directory");
        assert!(!node.wait().expect("it was started here").success(), "it was killed");
        assert!(!at("left").exists() && at("kept").exists() && mine.exists() && home.path().exists());
        let path = home.path().to_owned();
        drop(home);
        assert!(!path.exists());
    }
}
