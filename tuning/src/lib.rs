//! Host checks and the experiments behind each default.
