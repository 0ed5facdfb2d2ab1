//! A whole run: connect, fill, measure, read back.

use std::{
    collections::BTreeMap,
    fs::File,
    io::BufWriter,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use ferrite_wire::ClusterId;
use hdrhistogram::serialization::{
    V2DeflateSerializer,
    interval_log::{IntervalLogWriter, IntervalLogWriterBuilder, Tag},
};

use crate::{
    check::Checker,
    chooser::{Chooser, Rng, ScrambledZipfian, mix},
    clock::{Clock, Nanos, nanos},
    cpu::CpuSample,
    ferrite::Ferrite,
    options::{Distribution, KeyOrder, Options},
    plan::Window,
    protocol::Protocol,
    record::KeyWriter,
    resp::Resp,
    routes::Routes,
    summary::{Measured, PassOutcome, Summary},
    tally::Tally,
    target::{Scheme, resolve},
    traffic::{Parts, Traffic},
    worker::{Finished, Phase, Report, Worker},
    workload::{Kind, Share, Source},
};

/// Time beyond an operation's deadline before a silent connection is given up.
const GRACE: Duration = Duration::from_secs(1);
/// Reports from threads that may wait to be read.
const REPORTS_MAX: usize = 1024;
/// Time from sending a phase to its threads until it begins, so that they begin together.
const LEAD_NS: u64 = 2_000_000;
/// Longest window, for phases that end by themselves: about 292 years.
const FOR_EVER: Nanos = Nanos(u64::MAX / 2);

/// Carries out a run. An error is one line for people; a run that was carried out may still have failed, see
/// [`Summary::failure`].
pub fn run(options: &Options) -> Result<Summary, String> {
    options.validate()?;
    let address = resolve(&options.target.address)?;
    let deadline_us = u32::try_from(options.timeout.as_micros()).unwrap_or(u32::MAX);
    match options.target.scheme {
        Scheme::Ferrite => {
            let routes = Routes::learn(address, &options.table, options.timeout)?;
            let protocol = Ferrite::new(options.level, routes.epoch, deadline_us, routes.cluster);
            let protocol = protocol.of_table(routes.table);
            Crew::start(options, protocol, routes)?.run()
        }
        Scheme::Null => {
            let routes = Routes::single(address);
            let protocol = Ferrite::new(options.level, routes.epoch, deadline_us, ClusterId([0; 16]));
            Crew::start(options, protocol, routes)?.run()
        }
        Scheme::Redis => Crew::start(options, Resp, Routes::single(address))?.run(),
    }
}

/// The threads of a run, connected.
struct Crew<'o> {
    options: &'o Options,
    clock: Clock,
    replicas: usize,
    phases: Vec<Sender<Phase>>,
    reports: Receiver<Report>,
    threads: Vec<std::thread::JoinHandle<()>>,
    complaints: Vec<String>,
}

impl<'o> Crew<'o> {
    fn start<P: Protocol + Clone + Send + 'static>(
        options: &'o Options,
        protocol: P,
        routes: Routes,
    ) -> Result<Crew<'o>, String> {
        let clock = Clock::start();
        let routes = Arc::new(routes);
        let (report, reports) = crossbeam_channel::bounded(REPORTS_MAX);
        let needed = options.level.needed(routes.replicas);
        let strict = options.target.scheme != Scheme::Ferrite || 2 * needed > routes.replicas;
        let run = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs() as u32);
        let count = options.threads as u64;
        let mut crew = Crew {
            options,
            clock,
            replicas: routes.replicas,
            phases: Vec::new(),
            reports,
            threads: Vec::new(),
            complaints: Vec::new(),
        };
        for thread in 0..options.threads {
            let checker = || Checker::new(run, options.records, count, options.value_size, strict);
            let parts = Parts {
                clock,
                protocol: protocol.clone(),
                routes: Arc::clone(&routes),
                keys: KeyWriter::new(&options.key_prefix, options.key_order == KeyOrder::Hashed),
                rng: Rng::new(mix(options.seed).wrapping_add(thread as u64)),
                checker: options.check.then(checker),
                run,
                value_size: options.value_size,
                connections: share_of(options.connections as u64, thread as u64, count) as usize,
                first_endpoint: thread,
                depth: options.depth as u16,
            };
            let (phase, phases) = crossbeam_channel::bounded(1);
            let (reports, silence_ns, spin) = (report.clone(), nanos(options.timeout + GRACE), options.spin);
            // The traffic is made on its own thread: it holds the kernel's events, which must not move to another.
            let body = move || match Traffic::new(parts) {
                Ok(traffic) => Worker { clock, traffic, silence_ns, spin, phases, reports }.run(),
                Err(error) => drop(reports.send(Report::Broken(format!("cannot watch sockets: {error}")))),
            };
            let spawned = std::thread::Builder::new().name(format!("load-{thread}")).spawn(body);
            crew.threads.push(spawned.map_err(|error| format!("cannot start a thread: {error}"))?);
            crew.phases.push(phase);
        }
        crew.await_connections()?;
        Ok(crew)
    }

    fn await_connections(&mut self) -> Result<(), String> {
        let mut open = 0;
        for _ in 0..self.threads.len() {
            match self.reports.recv() {
                Ok(Report::Connected { ready, wanted, complaints }) => {
                    open += ready;
                    if ready < wanted {
                        self.complaints.push(format!("{ready} of {wanted} connections could be opened"));
                    }
                    self.complaints.extend(complaints);
                }
                Ok(Report::Broken(error)) => return Err(error),
                Ok(Report::Interval { .. } | Report::Finished(_)) | Err(_) => {
                    return Err("a load thread ended early".to_owned());
                }
            }
        }
        if open == 0 {
            let why = self.complaints.last().cloned().unwrap_or_default();
            return Err(format!("cannot connect to {}: {why}", self.options.target));
        }
        Ok(())
    }

    fn run(mut self) -> Result<Summary, String> {
        let prefill = self.options.load.then(|| self.pass(Kind::Write)).transpose()?;
        let measured = self.measure()?;
        let read_back = self.options.check.then(|| self.pass(Kind::Read)).transpose()?;
        drop(std::mem::take(&mut self.phases));
        for thread in self.threads.drain(..) {
            thread.join().map_err(|_| "a load thread panicked".to_owned())?;
        }
        let complaints = std::mem::take(&mut self.complaints);
        Ok(Summary::new(self.options, self.replicas, measured, prefill, read_back, complaints))
    }

    /// One pass over every record.
    fn pass(&mut self, kind: Kind) -> Result<PassOutcome, String> {
        let start = self.clock.now().plus(LEAD_NS);
        let window = Window { from: start, to: FOR_EVER };
        let records = self.options.records;
        self.begin(|share, _| Phase {
            source: Source::pass(kind, records, share),
            ops: u64::MAX,
            rate: None,
            start,
            window,
        })?;
        let name = if kind == Kind::Write { "load" } else { "read back" };
        let mut intervals = Intervals::new(name, self.options, None);
        let (finished, _) = self.collect(&mut intervals, window)?;
        let until = finished.iter().map(|finished| finished.until).max().unwrap_or(start);
        Ok(PassOutcome {
            seconds: until.since(start) as f64 / Nanos::SECOND as f64,
            undone: finished.iter().map(|finished| finished.undone).sum(),
            tally: intervals.total,
        })
    }

    /// The measured phase.
    fn measure(&mut self) -> Result<Measured, String> {
        let options = self.options;
        let start = self.clock.now().plus(LEAD_NS);
        let from = start.plus(nanos(options.warmup));
        let bounded = !options.duration.is_zero();
        let to = if bounded { from.plus(nanos(options.duration)) } else { FOR_EVER };
        let window = Window { from, to };
        let chooser = match options.distribution {
            Distribution::Uniform => Chooser::Uniform { records: options.records },
            Distribution::Zipfian => Chooser::Zipfian(ScrambledZipfian::new(options.records)),
        };
        self.begin(|share, threads| Phase {
            source: Source::of(options.workload, chooser, options.records, share, options.check),
            ops: options.ops.map_or(u64::MAX, |ops| share_of(ops, share.thread, threads)),
            rate: options
                .rate
                .map(|rate| (rate / threads as f64, share.thread as f64 / threads as f64, options.arrivals)),
            start,
            window,
        })?;
        let mut file = match &options.hlog {
            Some(path) => {
                let file = File::create(path);
                let file = file.map_err(|error| format!("cannot write {}: {error}", path.display()))?;
                Some(BufWriter::new(file))
            }
            None => None,
        };
        let mut serializer = V2DeflateSerializer::new();
        let began = SystemTime::now() + options.warmup;
        let log = file.as_mut().map(|file| {
            IntervalLogWriterBuilder::new()
                .add_comment("latencies in nanoseconds")
                .with_start_time(began)
                .with_base_time(began)
                .with_max_value_divisor(1e6)
                .begin_log_with(file, &mut serializer)
        });
        let log = log.transpose().map_err(|error| format!("cannot write the histogram log: {error}"))?;
        let mut intervals = Intervals::new("run", options, log);
        let (finished, server_cpu_ns) = self.collect(&mut intervals, window)?;
        if let Some(error) = intervals.log_error {
            return Err(format!("cannot write the histogram log: {error}"));
        }
        let until = finished.iter().map(|finished| finished.until).max().unwrap_or(from);
        Ok(Measured {
            seconds: until.since(from) as f64 / Nanos::SECOND as f64,
            tally: intervals.total,
            client_cpu_ns: finished.iter().map(|finished| finished.cpu_ns).sum(),
            client_cpu_ns_busiest: finished.iter().map(|finished| finished.cpu_ns).max().unwrap_or(0),
            wakes: finished.iter().map(|finished| finished.wakes).sum(),
            idle_wakes: finished.iter().map(|finished| finished.idle_wakes).sum(),
            server_cpu_ns,
        })
    }

    fn begin(&self, phase: impl Fn(Share, u64) -> Phase) -> Result<(), String> {
        let threads = self.phases.len() as u64;
        for (thread, channel) in (0..).zip(&self.phases) {
            let share = Share { thread, threads };
            channel.send(phase(share, threads)).map_err(|_| "a load thread ended early".to_owned())?;
        }
        Ok(())
    }

    /// Reads reports until every thread has finished, and the server's CPU time at both ends of the window.
    fn collect(
        &mut self,
        intervals: &mut Intervals<'_, '_>,
        window: Window,
    ) -> Result<(Vec<Finished>, Option<u64>), String> {
        let mut finished: Vec<Finished> = Vec::new();
        let (mut at_start, mut at_end) = (None, None);
        while finished.len() < self.threads.len() {
            let now = self.clock.now();
            if now >= window.from && at_start.is_none() {
                at_start = Some(sample(&self.options.server_pids)?);
            }
            if now >= window.to && at_end.is_none() {
                at_end = Some(sample(&self.options.server_pids)?);
            }
            let next = if at_start.is_none() { window.from } else { window.to };
            let wait = Duration::from_nanos(next.since(now)).min(Duration::from_secs(3600));
            let received = match at_end {
                Some(_) => self.reports.recv().map_err(|_| RecvTimeoutError::Disconnected),
                None => self.reports.recv_deadline(Instant::now() + wait),
            };
            match received {
                Ok(Report::Interval { second, tally }) => intervals.add(second, &tally, false),
                Ok(Report::Finished(mut done)) => {
                    intervals.add(done.second, &done.tally, true);
                    self.complaints.append(&mut done.complaints);
                    finished.push(done);
                }
                Ok(Report::Broken(error)) => return Err(error),
                Ok(Report::Connected { .. }) | Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Err("a load thread ended early".to_owned()),
            }
        }
        let at_end = match at_end {
            Some(samples) => samples,
            None => sample(&self.options.server_pids)?,
        };
        let spent =
            at_start.map(|start| start.iter().zip(&at_end).map(|(start, end)| end.since(start)).sum::<u64>());
        Ok((finished, spent.filter(|_| !self.options.server_pids.is_empty())))
    }
}

/// The part of `total` that falls to one thread: as even as it can be, and summing up to `total`.
fn share_of(total: u64, thread: u64, threads: u64) -> u64 {
    total / threads + u64::from(thread < total % threads)
}

fn sample(pids: &[u32]) -> Result<Vec<CpuSample>, String> {
    pids.iter()
        .map(|pid| {
            CpuSample::of_process(*pid)
                .map_err(|error| format!("cannot read the CPU time of process {pid}: {error}"))
        })
        .collect()
}

/// Sums up what threads measured, second by second.
struct Intervals<'l, 's> {
    name: &'static str,
    threads: usize,
    progress: bool,
    log: Option<IntervalLogWriter<'l, 's, BufWriter<File>, V2DeflateSerializer>>,
    log_error: Option<String>,
    /// Seconds that not every thread has reported yet.
    open: BTreeMap<u64, (usize, Tally)>,
    /// Threads that have finished, by the second they finished in.
    ended: Vec<u64>,
    total: Tally,
}

impl<'l, 's> Intervals<'l, 's> {
    fn new(
        name: &'static str,
        options: &Options,
        log: Option<IntervalLogWriter<'l, 's, BufWriter<File>, V2DeflateSerializer>>,
    ) -> Intervals<'l, 's> {
        Intervals {
            name,
            threads: options.threads,
            progress: options.progress,
            log,
            log_error: None,
            open: BTreeMap::new(),
            ended: Vec::new(),
            total: Tally::default(),
        }
    }

    fn add(&mut self, second: u64, tally: &Tally, last: bool) {
        let (reported, sum) = self.open.entry(second).or_default();
        *reported += 1;
        sum.add(tally);
        if last {
            self.ended.push(second);
        }
        while let Some(entry) = self.open.first_entry() {
            let second = *entry.key();
            let ended_before = self.ended.iter().filter(|ended| **ended < second).count();
            if entry.get().0 + ended_before < self.threads {
                return;
            }
            let (_, sum) = entry.remove();
            self.close(second, &sum);
        }
    }

    fn close(&mut self, second: u64, sum: &Tally) {
        self.total.add(sum);
        if self.progress && sum.completed() + sum.failures() > 0 {
            let millis = |quantile| {
                let slower =
                    |latencies: &crate::tally::Latencies| latencies.total.value_at_quantile(quantile);
                slower(&sum.reads).max(slower(&sum.writes)) as f64 / 1e6
            };
            eprintln!(
                "{:>9} {second:>4} s  {:>10} op/s  p50 {:.3} ms  p99 {:.3} ms  {} errors",
                self.name,
                sum.completed(),
                millis(0.5),
                millis(0.99),
                sum.failures()
            );
        }
        let Some(log) = &mut self.log else { return };
        for (tag, latencies) in [("read", &sum.reads), ("write", &sum.writes)] {
            if latencies.total.is_empty() {
                continue;
            }
            let (start, length) = (Duration::from_secs(second), Duration::from_secs(1));
            if let Err(error) = log.write_histogram(&latencies.total, start, length, Tag::new(tag)) {
                self.log_error.get_or_insert_with(|| format!("{error:?}"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_add_up() {
        for (total, threads) in [(10, 3), (2, 4), (0, 2), (1_000_003, 7)] {
            let shares: Vec<u64> = (0..threads).map(|thread| share_of(total, thread, threads)).collect();
            assert_eq!(shares.iter().sum::<u64>(), total);
            assert!(shares.iter().max().expect("some") - shares.iter().min().expect("some") <= 1);
        }
    }
}
