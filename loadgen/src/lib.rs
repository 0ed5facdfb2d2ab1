//! The Ferrite load generator: workloads, open and closed loop, latency histograms, checked values, and the null server.
//!
//! A load generator that costs more CPU per operation than the server measures itself. So its data path is not the client
//! library: each thread drives its own sockets with epoll, encodes a batch of requests straight into one buffer per
//! connection, writes it once, and settles answers in place where they were received. It speaks the Ferrite protocol and
//! RESP2 with the same workload, so that a comparison has one client on both sides; and it can be the null server that
//! such comparisons need as a yardstick ([`null`]).
//!
//! | module | what |
//! |---|---|
//! | [`cli`] | arguments of `ferrite load` and `ferrite null` |
//! | `options`, `target`, `workload`, [`chooser`], `schedule` | what is asked for, by whom, of which records, when |
//! | [`record`], `check` | keys and values as functions of numbers; whether a value may be read |
//! | `protocol`, `ferrite`, `resp`, `routes` | requests and answers; which endpoint owns a key |
//! | `poll`, `connection`, `plan`, `traffic`, `worker` | the data path of one thread |
//! | `run`, `tally`, `summary`, `report`, `bars`, `cpu`, `clock`, `failure` | a whole run and its figures |
//!
//! It refuses to guess: a saturated client is named in the report, a closed loop is labelled as one, and an unknown outcome
//! is never counted as success or failure.
#![forbid(unsafe_code)]

mod bars;
mod check;
pub mod chooser;
pub mod cli;
mod clock;
mod connection;
mod cpu;
mod failure;
mod ferrite;
pub mod null;
mod options;
mod plan;
mod poll;
mod protocol;
pub mod record;
mod report;
mod resp;
mod routes;
mod run;
mod schedule;
mod summary;
mod tally;
mod target;
mod traffic;
mod worker;
mod workload;

pub use bars::Bar;
pub use check::{Checker, Verdict};
pub use cpu::CpuSample;
pub use failure::{Certainty, Failure};
pub use options::{Distribution, KeyOrder, Options};
pub use run::run;
pub use schedule::Arrivals;
pub use summary::{CheckResult, CpuUse, KindLatencies, Pass, Percentiles, Summary};
pub use tally::Verdicts;
pub use target::{Scheme, Target};
pub use workload::Workload;
