//! Micro-benchmarks and side-by-side runs against other systems.
