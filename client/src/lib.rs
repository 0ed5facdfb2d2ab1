//! The Ferrite client library: token-aware, pipelined, async and blocking.
