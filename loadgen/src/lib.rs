//! The Ferrite load generator: open-loop workloads, latency histograms, checked values.
