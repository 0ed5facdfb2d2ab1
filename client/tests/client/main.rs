//! The client from outside: its middle against scripted bytes, its fronts against servers made of threads.

mod asynchronous;
mod batch;
mod blocking;
mod fake;
mod frames;
mod model;
mod pace;
mod pipeline;
mod script;
mod session;
mod siblings;
mod tables;
