//! One load thread: connects once, then carries out phases as the main thread asks for them.
//!
//! While there is work nothing sleeps: a wake that found nothing ready waits in the kernel until something is. In open
//! loop the thread waits in the kernel only until shortly before the next operation is due and spins over the rest,
//! because a timer wakes late by tens of microseconds. `spin` never waits in the kernel at all.

use crossbeam_channel::{Receiver, Sender};

use crate::{
    clock::{Clock, Nanos},
    cpu::thread_cpu_ns,
    plan::{Plan, Window},
    protocol::Protocol,
    schedule::{Arrivals, Schedule},
    tally::Tally,
    traffic::Traffic,
    workload::Source,
};

/// How often connections are tended and idle ones given work, in nanoseconds.
const TICK_NS: u64 = 10_000_000;
/// How long the first connections may take, in nanoseconds; those that come later are used when they come.
const CONNECT_NS_MAX: u64 = 3_000_000_000;
/// A pass is given up when nothing has succeeded for so long, in nanoseconds.
const PASS_PATIENCE_NS: u64 = 30_000_000_000;
/// The wait for the next due operation is spun from here on, in nanoseconds.
const SPIN_NS: u64 = 50_000;
/// Operations issued in open loop before answers are looked at again.
const ISSUES_PER_WAKE: usize = 64;

/// What a thread is asked to do.
#[derive(Debug)]
pub(crate) struct Phase {
    pub source: Source,
    /// This thread's operations at most.
    pub ops: u64,
    /// This thread's operations a second, and the part of an interval it waits first; `None` = closed loop.
    pub rate: Option<(f64, f64, Arrivals)>,
    /// When the load begins; before `window.from`, nothing counts.
    pub start: Nanos,
    pub window: Window,
}

/// What a thread says.
#[derive(Debug)]
pub(crate) enum Report {
    /// Connections that are open, of how many, and what went wrong with the others.
    Connected { ready: usize, wanted: usize, complaints: Vec<String> },
    /// What was measured in one second of the window, counted from 0.
    Interval { second: u64, tally: Box<Tally> },
    /// The phase is over.
    Finished(Finished),
    /// The thread cannot go on.
    Broken(String),
}

/// The end of a phase.
#[derive(Debug)]
pub(crate) struct Finished {
    /// The last interval, in part.
    pub second: u64,
    pub tally: Box<Tally>,
    /// When the thread stopped drawing, or completed its last operation.
    pub until: Nanos,
    /// CPU time of the thread within the window.
    pub cpu_ns: u64,
    /// Wakes within the window, and those that found nothing ready.
    pub wakes: u64,
    pub idle_wakes: u64,
    /// Operations of a pass that have not succeeded.
    pub undone: u64,
    pub complaints: Vec<String>,
}

/// A load thread.
pub(crate) struct Worker<P> {
    pub clock: Clock,
    pub traffic: Traffic<P>,
    /// A connection that has not answered for so long is closed.
    pub silence_ns: u64,
    pub spin: bool,
    pub phases: Receiver<Phase>,
    pub reports: Sender<Report>,
}

impl<P: Protocol> Worker<P> {
    /// Connects, then carries out phases until the main thread hangs up.
    pub(crate) fn run(mut self) {
        let report = match self.serve() {
            Ok(()) => return,
            Err(error) => Report::Broken(error.to_string()),
        };
        // The main thread may have gone; then there is nobody to tell.
        let _ = self.reports.send(report);
    }

    fn serve(&mut self) -> std::io::Result<()> {
        let since = self.clock.now();
        loop {
            let now = self.clock.now();
            let (ready, wanted) = self.traffic.readiness();
            if self.traffic.were_all_tried() || now.since(since) > CONNECT_NS_MAX {
                let complaints = std::mem::take(&mut self.traffic.complaints);
                let _ = self.reports.send(Report::Connected { ready, wanted, complaints });
                break;
            }
            self.traffic.tend(now, self.silence_ns);
            self.traffic.flush(now);
            self.traffic.wake(TICK_NS)?;
            self.traffic.flush(now);
        }
        while let Ok(phase) = self.phases.recv() {
            let finished = self.phase(phase)?;
            let _ = self.reports.send(Report::Finished(finished));
        }
        Ok(())
    }

    fn phase(&mut self, phase: Phase) -> std::io::Result<Finished> {
        let Window { from, to } = phase.window;
        let schedule = |(rate, phase_of, arrivals)| Schedule::new(phase.start, rate, phase_of, arrivals);
        let mut schedule = phase.rate.map(schedule);
        self.wait_until(phase.start)?;
        let plan = Plan::new(phase.source, phase.ops, schedule.is_some(), phase.window);
        let is_pass = plan.is_pass();
        self.traffic.tally = Tally::default();
        self.traffic.last_success = phase.start;
        self.traffic.plan = Some(plan);
        let (mut second, mut next_tick, mut next_second) = (0, Nanos(0), from.plus(Nanos::SECOND));
        let (mut cpu_from, mut cpu_to, mut until) = (None, None, Nanos(0));
        let (mut wakes, mut idle_wakes) = (0, 0);
        loop {
            let now = self.clock.now();
            if now >= next_tick {
                self.traffic.tend(now, self.silence_ns);
                self.traffic.poke(now);
                next_tick = now.plus(TICK_NS);
            }
            if cpu_from.is_none() && now >= from {
                (cpu_from, wakes, idle_wakes) = (Some(thread_cpu_ns()), 0, 0);
            }
            while now >= next_second {
                let tally = Box::new(std::mem::take(&mut self.traffic.tally));
                let _ = self.reports.send(Report::Interval { second, tally });
                second += 1;
                next_second = next_second.plus(Nanos::SECOND);
            }
            if let Some(schedule) = &mut schedule {
                for _ in 0..ISSUES_PER_WAKE {
                    let due = schedule.due();
                    if due > now || due >= to || !self.traffic.issue(due, now) {
                        break;
                    }
                    schedule.advance(&mut self.traffic.rng);
                }
            }
            let over = schedule.as_ref().map_or(now >= to, |schedule| now >= to && schedule.due() >= to);
            if over && cpu_to.is_none() {
                (cpu_to, until) = (Some(thread_cpu_ns()), to);
                self.traffic.stop_drawing();
            }
            self.traffic.flush(now);
            if self.traffic.is_spent() || is_pass && now.since(self.traffic.last_success) > PASS_PATIENCE_NS {
                break;
            }
            if cpu_to.is_some() && now.since(to) > self.silence_ns {
                self.traffic.abandon_queues(now);
            }
            let due = schedule.as_ref().filter(|_| cpu_to.is_none()).map(Schedule::due);
            let found = self.traffic.wake(self.patience(now, next_tick, due))?;
            self.traffic.flush(now);
            wakes += 1;
            idle_wakes += u64::from(found == 0);
        }
        if cpu_to.is_none() {
            (cpu_to, until) = (Some(thread_cpu_ns()), self.clock.now());
        }
        let undone = if is_pass { self.traffic.undone() } else { 0 };
        let cpu_ns = cpu_to.zip(cpu_from).map_or(0, |(to, from)| to - from);
        let tally = Box::new(std::mem::take(&mut self.traffic.tally));
        let complaints = std::mem::take(&mut self.traffic.complaints);
        Ok(Finished { second, tally, until, cpu_ns, wakes, idle_wakes, undone, complaints })
    }

    /// How long the next wait in the kernel may be.
    fn patience(&self, now: Nanos, next_tick: Nanos, due: Option<Nanos>) -> u64 {
        if self.spin {
            return 0;
        }
        let tick = next_tick.since(now);
        match due {
            Some(due) => tick.min(due.since(now).saturating_sub(SPIN_NS)),
            None => tick,
        }
    }

    fn wait_until(&mut self, start: Nanos) -> std::io::Result<()> {
        loop {
            let now = self.clock.now();
            if now >= start {
                return Ok(());
            }
            self.traffic.tend(now, self.silence_ns);
            self.traffic.wake(start.since(now).min(TICK_NS))?;
            self.traffic.flush(now);
        }
    }
}
