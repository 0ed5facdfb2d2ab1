//! What a synced log write costs on a zeroed, preallocated file, and how often the kernel hands it to an io-wq worker.
//!
//! `cargo run --release -p ferrite-tuning --example log_write -- [DIRECTORY]` (default: the temp directory; it must not be tmpfs)
#![allow(
    unsafe_code,
    reason = "an experiment drives io_uring bare, to see what the kernel does with each variant"
)]

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use io_uring::{IoUring, opcode, types};

const FILE_BYTES: usize = 64 << 20;
const WRITES: usize = 4000;

#[derive(Clone, Copy, PartialEq)]
enum Ground {
    Zeroed,
    Fallocated,
}

struct Case {
    label: &'static str,
    ground: Ground,
    block: usize,
    depth: usize,
    dsync: bool,
    workers: Option<u32>,
    read_beside: bool,
}

struct Worker {
    cpu_ns: u64,
    tid: u64,
}

fn workers() -> Vec<Worker> {
    let mut found = Vec::new();
    let Ok(tasks) = std::fs::read_dir("/proc/self/task") else { return found };
    for task in tasks.flatten() {
        let path = task.path();
        let name = std::fs::read_to_string(path.join("comm")).unwrap_or_default();
        if name.starts_with("iou-wrk") {
            let stat = std::fs::read_to_string(path.join("schedstat")).unwrap_or_default();
            let cpu_ns = stat.split(' ').next().and_then(|n| n.parse().ok()).unwrap_or(0);
            let tid = task.file_name().to_string_lossy().parse().unwrap_or(0);
            found.push(Worker { cpu_ns, tid });
        }
    }
    found
}

fn own_cpu_ns() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split(' ').next().and_then(|n| n.parse().ok()).unwrap_or(0)
}

fn aligned(bytes: usize) -> &'static mut [u8] {
    // SAFETY: a fresh anonymous mapping, page aligned, leaked on purpose: completions may write it at any time.
    unsafe {
        let p = libc::mmap(
            std::ptr::null_mut(),
            bytes,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        );
        assert!(p != libc::MAP_FAILED);
        std::slice::from_raw_parts_mut(p.cast(), bytes)
    }
}

fn prepare(path: &Path, ground: Ground) -> io::Result<File> {
    let mut plain = OpenOptions::new().write(true).create(true).truncate(true).open(path)?;
    match ground {
        Ground::Zeroed => {
            let zeros = vec![0u8; 1 << 20];
            for _ in 0..FILE_BYTES >> 20 {
                plain.write_all(&zeros)?;
            }
        }
        Ground::Fallocated => {
            // SAFETY: fallocate takes no pointers.
            assert_eq!(unsafe { libc::fallocate(plain.as_raw_fd(), 0, 0, FILE_BYTES as i64) }, 0);
        }
    }
    plain.sync_all()?;
    drop(plain);
    OpenOptions::new().read(true).write(true).custom_flags(libc::O_DIRECT).open(path)
}

fn run(dir: &Path, case: &Case) -> io::Result<()> {
    let path: PathBuf = dir.join(format!("ferrite-log-write-{}", std::process::id()));
    let file = prepare(&path, case.ground)?;
    let mut ring: IoUring = IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_taskrun_flag()
        .setup_submit_all()
        .build(64)?;
    if let Some(most) = case.workers {
        ring.submitter().register_iowq_max_workers(&mut [most, most])?;
    }
    let block = aligned(case.block);
    block.fill(0x5a);
    let scratch = aligned(4096);
    let fd = types::Fd(file.as_raw_fd());
    let mut started = vec![Instant::now(); case.depth];
    let mut latencies = Vec::with_capacity(WRITES);
    let mut next = 0usize;
    let mut enter_ns = 0u128;
    let mut most_workers = 0usize;
    let cpu = own_cpu_ns();
    let from = Instant::now();
    let mut idle: Vec<usize> = (0..case.depth).collect();
    while latencies.len() < WRITES {
        while next < WRITES {
            let Some(slot) = idle.pop() else { break };
            let at = (next * case.block) % FILE_BYTES;
            let flags = if case.dsync { libc::RWF_DSYNC } else { 0 };
            let write = opcode::Write::new(fd, block.as_ptr(), case.block as u32)
                .offset(at as u64)
                .rw_flags(flags)
                .build()
                .user_data(slot as u64);
            started[slot] = Instant::now();
            // SAFETY: the block is leaked, so it outlives the write.
            unsafe { ring.submission().push(&write).unwrap() };
            if case.read_beside {
                let at = (next.wrapping_mul(7919) * 4096) % FILE_BYTES;
                let read = opcode::Read::new(fd, scratch.as_mut_ptr(), 4096)
                    .offset(at as u64)
                    .build()
                    .user_data(u64::MAX);
                // SAFETY: as above; nobody looks at what is read.
                unsafe { ring.submission().push(&read).unwrap() };
            }
            next += 1;
        }
        let before = Instant::now();
        ring.submit()?;
        enter_ns += before.elapsed().as_nanos();
        ring.submit_and_wait(1)?;
        for entry in ring.completion() {
            assert!(entry.result() > 0, "I/O failed: {}", entry.result());
            if entry.user_data() != u64::MAX {
                let slot = entry.user_data() as usize;
                latencies.push(started[slot].elapsed());
                idle.push(slot);
            }
        }
        if latencies.len() % 256 < case.depth {
            most_workers = most_workers.max(workers().len());
        }
    }
    let wall = from.elapsed();
    let cpu = own_cpu_ns() - cpu;
    let found = workers();
    let worker_cpu: u64 = found.iter().map(|w| w.cpu_ns).sum();
    let distinct = found.iter().map(|w| w.tid).collect::<std::collections::BTreeSet<_>>().len();
    latencies.sort_unstable();
    let pick = |q: f64| latencies[((WRITES - 1) as f64 * q) as usize].as_secs_f64() * 1e6;
    println!(
        "| {} | {:.0} | {:.0} | {:.0} | {:.0} | {:.1} | {:.1} | {:.1} | {} |",
        case.label,
        pick(0.5),
        pick(0.99),
        pick(1.0),
        WRITES as f64 / wall.as_secs_f64(),
        enter_ns as f64 / 1000.0 / WRITES as f64,
        cpu as f64 / 1000.0 / WRITES as f64,
        worker_cpu as f64 / 1000.0 / WRITES as f64,
        most_workers.max(distinct),
    );
    drop(ring);
    std::fs::remove_file(&path)?;
    // Workers of a closed ring leave on their own; the next case should not count them.
    let until = Instant::now() + Duration::from_secs(3);
    while !workers().is_empty() && Instant::now() < until {
        std::thread::yield_now();
    }
    Ok(())
}

fn main() -> io::Result<()> {
    let dir = std::env::args().nth(1).map_or_else(std::env::temp_dir, PathBuf::from);
    println!(
        "| case | p50 µs | p99 µs | max µs | writes/s | submit µs | own CPU µs/write | io-wq CPU µs/write | io-wq threads |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    let base = Case {
        label: "",
        ground: Ground::Zeroed,
        block: 4096,
        depth: 1,
        dsync: true,
        workers: None,
        read_beside: false,
    };
    for case in [
        Case { label: "4 KiB, depth 1", ..base },
        Case { label: "4 KiB, depth 1, workers ≤ 1", workers: Some(1), ..base },
        Case { label: "4 KiB, depth 1, no DSYNC", dsync: false, ..base },
        Case { label: "4 KiB, depth 1, fallocated", ground: Ground::Fallocated, ..base },
        Case { label: "32 KiB, depth 1", block: 32 << 10, ..base },
        Case { label: "256 KiB, depth 1", block: 256 << 10, ..base },
        Case { label: "4 KiB, depth 8", depth: 8, ..base },
        Case { label: "4 KiB, depth 8, workers ≤ 1", depth: 8, workers: Some(1), ..base },
        Case { label: "4 KiB, depth 1, read beside", read_beside: true, ..base },
        Case { label: "4 KiB, depth 1 (again)", ..base },
    ] {
        run(&dir, &case)?;
    }
    Ok(())
}
