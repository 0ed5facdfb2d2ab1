//! The deterministic world in which whole Ferrite clusters are simulated.
