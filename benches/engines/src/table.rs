//! The run: rounds of rows of engines by turns, and the table of medians.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use crate::measure::Figures;
use crate::row::Row;
use crate::{Args, Engine};

type Failure = Box<dyn std::error::Error>;

pub fn run(args: &Args) -> Result<(), Failure> {
    std::fs::create_dir_all(&args.dir)?;
    let directory = args.dir.canonicalize()?.join(format!("run.{}", std::process::id()));
    std::fs::create_dir(&directory)?;
    let done = if args.curve { curve(args, &directory) } else { rounds(args, &directory) };
    std::fs::remove_dir_all(&directory)?;
    done
}

fn rounds(args: &Args, directory: &Path) -> Result<(), Failure> {
    refuse_short_space(args, directory)?;
    let mut rows: Vec<Row> = args.rows.iter().copied().filter(|row| *row != Row::Load).collect();
    rows.insert(0, Row::Load);
    let mut results: BTreeMap<(usize, &'static str), Vec<Figures>> = BTreeMap::new();
    for round in 0..args.rounds {
        let mut hits: BTreeMap<&'static str, f64> = BTreeMap::new();
        for engine in &args.engines {
            let _ = std::fs::remove_dir_all(directory.join(engine.name()));
        }
        for (at, &row) in rows.iter().enumerate() {
            for &engine in &args.engines {
                if row == Row::Device && engine != Engine::Ferrite {
                    continue;
                }
                let rate = if args.rate > 0.0 {
                    args.rate
                } else {
                    0.3 * hits.get(engine.name()).copied().unwrap_or(300_000.0)
                };
                let figures = one(args, engine, row, args.keys, rate, &directory.join(engine.name()))?;
                if row == Row::Hit {
                    hits.insert(engine.name(), figures.get("ops_per_s").unwrap_or_default());
                }
                eprintln!("round {} {row:?} {}: {}", round + 1, engine.name(), figures.to_line());
                results.entry((at, engine.name())).or_default().push(figures);
            }
        }
    }
    report(args, &rows, &results);
    Ok(())
}

/// What a put and a get cost as the data grows.
fn curve(args: &Args, directory: &Path) -> Result<(), Failure> {
    println!("| records | engine | put, settled, CPU us | written x | get hit, CPU us | get miss, CPU us |");
    println!("|---:|---|---:|---:|---:|---:|");
    for times in [1, 2, 5, 10] {
        let keys = args.keys * times;
        for &engine in &args.engines {
            let place = directory.join(engine.name());
            let load = one(args, engine, Row::Load, keys, 0.0, &place)?;
            let hit = one(args, engine, Row::Hit, keys, 0.0, &place)?;
            let miss = one(args, engine, Row::Miss, keys, 0.0, &place)?;
            let of = |figures: &Figures, name| figures.get(name).unwrap_or_default();
            println!(
                "| {keys} | {} | {:.2} | {:.2} | {:.2} | {:.2} |",
                engine.name(),
                of(&load, "cpu_us_per_op"),
                of(&load, "written_bytes") / of(&load, "logical_bytes"),
                of(&hit, "cpu_us_per_op"),
                of(&miss, "cpu_us_per_op"),
            );
            std::fs::remove_dir_all(&place)?;
        }
    }
    Ok(())
}

fn one(
    args: &Args,
    engine: Engine,
    row: Row,
    keys: u64,
    rate: f64,
    place: &Path,
) -> Result<Figures, Failure> {
    std::fs::create_dir_all(place)?;
    let row_name = clap::ValueEnum::to_possible_value(&row).expect("rows have names");
    let child = Command::new(std::env::current_exe()?)
        .args(["--child", row_name.get_name(), "--engines", engine.name()])
        .args(["--keys", &keys.to_string(), "--operations", &args.operations.to_string()])
        .args(["--value", &args.value.to_string(), "--batch", &args.batch.to_string()])
        .args(["--cache", &args.cache.to_string(), "--memtable", &args.memtable.to_string()])
        .args(["--stores", &args.stores.to_string(), "--lz4", &args.lz4.to_string()])
        .args(["--large", &args.large.to_string()])
        .args(["--rate", &rate.to_string(), "--put-rate", &args.put_rate.to_string()])
        .args(["--seconds", &args.seconds.to_string(), "--cpu", &args.cpu.to_string()])
        .arg("--dir")
        .arg(place)
        .output()?;
    let printed = String::from_utf8_lossy(&child.stdout).into_owned();
    printed.lines().find_map(Figures::parse).ok_or_else(|| {
        format!("{} failed in {row:?}: {}", engine.name(), String::from_utf8_lossy(&child.stderr)).into()
    })
}

/// Four times the data of each engine: before compaction has removed anything.
fn refuse_short_space(args: &Args, directory: &Path) -> Result<(), Failure> {
    let needed = args.keys * (16 + args.value as u64) * 4 * args.engines.len() as u64;
    let output = Command::new("df").args(["--output=avail", "-B1"]).arg(directory).output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let free: u64 = text.lines().nth(1).and_then(|line| line.trim().parse().ok()).ok_or("df says nothing")?;
    if free < needed {
        return Err(format!(
            "{} needs {} MiB free and has {}: name another --dir",
            directory.display(),
            needed >> 20,
            free >> 20
        )
        .into());
    }
    Ok(())
}

fn report(args: &Args, rows: &[Row], results: &BTreeMap<(usize, &'static str), Vec<Figures>>) {
    println!(
        "{} records, keys of 16 bytes, values of {} bytes, {}; cache {} MiB, memtable {} MiB; groups of {}; medians of {} rounds by turns.",
        args.keys,
        args.value,
        if args.lz4 != 0 { "LZ4" } else { "no compression" },
        args.cache,
        args.memtable,
        args.batch,
        args.rounds
    );
    println!();
    println!(
        "| row | engine | op/s | CPU us/op | p50 us | p99 us | p99.9 us | worst ms | written MiB | written x | disk MiB | RSS MiB | op/s ratio | CPU ratio |"
    );
    println!("|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|");
    for (at, row) in rows.iter().enumerate() {
        let base = results.get(&(at, Engine::Rocksdb.name()));
        for engine in &args.engines {
            let Some(figures) = results.get(&(at, engine.name())) else { continue };
            let of = |name| median(figures, name);
            let ratio =
                |name| base.map_or("-".into(), |base| format!("{:.2}", of(name) / median(base, name)));
            let logical = of("logical_bytes");
            let times =
                if logical > 0.0 { format!("{:.2}", of("written_bytes") / logical) } else { "-".into() };
            println!(
                "| {row:?} | {} | {:.0} | {:.3} | {:.1} | {:.1} | {:.1} | {:.1} | {:.0} | {times} | {:.0} | {:.0} | {} | {} |",
                engine.name(),
                of("ops_per_s"),
                of("cpu_us_per_op"),
                of("p50_us"),
                of("p99_us"),
                of("p999_us"),
                of("worst_us") / 1e3,
                of("written_bytes") / 1048576.0,
                of("disk_bytes") / 1048576.0,
                of("rss_bytes") / 1048576.0,
                ratio("ops_per_s"),
                ratio("cpu_us_per_op"),
            );
        }
    }
    println!();
    println!(
        "Ratios are to RocksDB. written x: by the logical bytes put, log included. Latencies of load, overwrite and busy's worst are a group's."
    );
    for ((at, engine), figures) in results {
        if let Some(last) = figures.last() {
            println!("- {:?}, {engine}: {}", rows[*at], last.note);
        }
    }
}

fn median(figures: &[Figures], name: &str) -> f64 {
    let mut values: Vec<f64> = figures.iter().filter_map(|figures| figures.get(name)).collect();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => 0.0,
        len if len % 2 == 1 => values[len / 2],
        len => (values[len / 2 - 1] + values[len / 2]) / 2.0,
    }
}
