//! The run: parts, sets, rounds, sessions and contestants, each session of each contestant in a process of its own.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crate::contestant::Contestant;
use crate::measure::Figures;
use crate::part::Part;
use crate::record::Record;
use crate::row::{Row, Session};
use crate::{Args, Failure, table, target};

/// The part of the rate of hits that the paced rows ask for.
const PACED_LOAD: f64 = 0.3;

pub fn run(args: &Args) -> Result<(), Failure> {
    let parts = if args.r#final { Part::finals(args) } else { Part::asked(args) };
    std::fs::create_dir_all(&args.dir)?;
    let place = args.dir.canonicalize()?;
    remove_left_over(&place)?;
    for part in &parts {
        if let Some(refusal) = part.refusal() {
            return Err(refusal.into());
        }
        refuse_short_space(part, &place)?;
    }
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let out = args.out.clone().unwrap_or_else(|| place.join(format!("figures.{seconds}")));
    let directory = place.join(format!("run.{}", std::process::id()));
    std::fs::create_dir(&directory)?;
    eprintln!("figures go to {} as they come; run.sh --tables FILE shows them", out.display());
    let file = File::options().create(true).append(true).open(&out)?;
    let mut run = Run { directory, file, start: Instant::now(), records: Vec::new(), done: 0, total: 0 };
    run.total = parts.iter().map(Run::processes).sum();
    let done = parts.iter().enumerate().try_for_each(|(at, part)| run.part(at + 1, part));
    std::fs::remove_dir_all(&run.directory)?;
    if done.is_ok() && args.r#final {
        print!("{}", target::table(&run.records));
    }
    done
}

struct Run {
    directory: PathBuf,
    file: File,
    start: Instant,
    records: Vec<Record>,
    /// Processes that ended, and all there will be.
    done: usize,
    total: usize,
}

impl Run {
    fn processes(part: &Part) -> usize {
        let once = |rows: &Vec<Row>| takes_part(part, rows).len();
        part.keys.len() * part.args.rounds * sessions(&part.rows).iter().map(once).sum::<usize>()
    }

    fn part(&mut self, number: usize, part: &Part) -> Result<(), Failure> {
        for &keys in &part.keys {
            for round in 1..=part.args.rounds {
                self.round(number, part, keys, round)?;
            }
        }
        let records: Vec<Record> =
            self.records.iter().filter(|record| record.part == number).cloned().collect();
        print!("{}", table::all(&records));
        std::io::stdout().flush()?;
        Ok(())
    }

    fn round(&mut self, number: usize, part: &Part, keys: u64, round: usize) -> Result<(), Failure> {
        let place = self.directory.join(number.to_string());
        let mut hits: BTreeMap<String, f64> = BTreeMap::new();
        for rows in sessions(&part.rows) {
            for contestant in takes_part(part, &rows) {
                let name = contestant.to_string();
                let rate = match (rows[0].session(), hits.get(&name)) {
                    (Session::Paced, None) if part.args.rate == 0.0 => {
                        return Err("idle and busy need hit before them, or --rate".into());
                    }
                    (_, Some(hits)) if part.args.rate == 0.0 => PACED_LOAD * hits,
                    _ => part.args.rate,
                };
                let directory = place.join(&name);
                std::fs::create_dir_all(&directory)?;
                self.done += 1;
                session(part, keys, &rows, contestant, rate, &directory, |row, figures| {
                    if row == Row::Hit.name() {
                        hits.insert(name.clone(), figures.get("ops_per_s").unwrap_or_default());
                    }
                    self.add(Record {
                        part: number,
                        title: part.title.clone(),
                        keys,
                        data_bytes: keys * (16 + part.value_bytes as u64),
                        round,
                        contestant: name.clone(),
                        row,
                        figures,
                    })
                })?;
            }
        }
        std::fs::remove_dir_all(&place)?;
        Ok(())
    }

    /// Keeps what was measured, on disk too, and says so.
    fn add(&mut self, record: Record) -> Result<(), Failure> {
        writeln!(self.file, "{}", record.to_line())?;
        self.file.sync_data()?;
        let of = |name| record.figures.get(name).unwrap_or_default();
        let seconds = self.start.elapsed().as_secs();
        eprintln!(
            "{:>2}:{:02} process {} of {}: {}, {} records, round {}, {} {}: {:.0} op/s, {:.3} us CPU, p99 {:.1} us",
            seconds / 60,
            seconds % 60,
            self.done,
            self.total,
            record.title,
            record.keys,
            record.round,
            record.row,
            record.contestant,
            of("ops_per_s"),
            of("cpu_us_per_op"),
            of("p99_us"),
        );
        self.records.push(record);
        Ok(())
    }
}

/// Rows that follow each other and belong into one process.
fn sessions(rows: &[Row]) -> Vec<Vec<Row>> {
    let together =
        |a: &Row, b: &Row| a.session() == b.session() && !matches!(a.session(), Session::Single(_));
    rows.chunk_by(together).map(<[Row]>::to_vec).collect()
}

/// All, but the device needs one only, with Ferrite's ring.
fn takes_part(part: &Part, rows: &[Row]) -> Vec<Contestant> {
    if rows == [Row::Device] { vec![Contestant::Ferrite { stores: 1 }] } else { part.contestants.clone() }
}

/// Runs rows of a contestant in a process of their own, and hands over the figures of each as they come.
fn session(
    part: &Part,
    keys: u64,
    rows: &[Row],
    contestant: Contestant,
    rate: f64,
    directory: &Path,
    mut done: impl FnMut(String, Figures) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let args = &part.args;
    let names: Vec<String> = rows.iter().map(|row| row.name()).collect();
    let mut command = Command::new(std::env::current_exe()?);
    command
        .args(["--child", &names.join(","), "--engines", contestant.engine()])
        .args(["--keys", &keys.to_string(), "--operations", &args.operations.to_string()])
        .args(["--value", &part.value_bytes.to_string(), "--batch", &args.batch.to_string()])
        .args(["--cache", &part.cache_mib.to_string(), "--memtable", &args.memtable.to_string()])
        .args(["--lz4", &u8::from(part.lz4).to_string(), "--large", &args.large.to_string()])
        .args(["--rate", &rate.to_string(), "--put-rate", &args.put_rate.to_string()])
        .args(["--seconds", &args.seconds.to_string(), "--cpu", &args.cpu.to_string()])
        .arg("--dir")
        .arg(directory);
    if let Contestant::Ferrite { stores } = contestant {
        command.args(["--stores", &stores.to_string()]);
    }
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let stdout = child.stdout.take().ok_or("no pipe")?;
    let mut stderr = child.stderr.take().ok_or("no pipe")?;
    // Both pipes are read, so that neither can fill and stop the process.
    let complaints = std::thread::spawn(move || {
        let mut text = String::new();
        let _best_effort = stderr.read_to_string(&mut text);
        text
    });
    let mut measured = 0;
    for line in BufReader::new(stdout).lines() {
        let line = line?;
        let Some((row, figures)) = line.split_once(' ') else { continue };
        if let Some(figures) = Figures::parse(figures) {
            measured += 1;
            done(row.to_owned(), figures)?;
        }
    }
    let ended = child.wait()?;
    let complaints = complaints.join().unwrap_or_default();
    if ended.success() && measured == rows.len() {
        return Ok(());
    }
    Err(format!("{contestant} failed in {}: {ended}: {complaints}", names.join(",")).into())
}

/// Directories of runs that were cut off: those of processes that are no more.
fn remove_left_over(place: &Path) -> Result<(), Failure> {
    for entry in std::fs::read_dir(place)?.flatten() {
        let name = entry.file_name();
        let Some(process) = name.to_str().and_then(|name| name.strip_prefix("run.")) else { continue };
        if process.parse::<u32>().is_ok() && !Path::new("/proc").join(process).exists() {
            std::fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

/// Four times the data of each contestant: before compaction has removed anything.
fn refuse_short_space(part: &Part, place: &Path) -> Result<(), Failure> {
    let needed = part.data_bytes() * 4 * part.contestants.len() as u64;
    let output = Command::new("df").args(["--output=avail", "-B1"]).arg(place).output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let free: u64 = text.lines().nth(1).and_then(|line| line.trim().parse().ok()).ok_or("df says nothing")?;
    if free < needed {
        return Err(format!(
            "{} needs {} MiB free and has {}: name another --dir",
            place.display(),
            needed >> 20,
            free >> 20
        )
        .into());
    }
    Ok(())
}
