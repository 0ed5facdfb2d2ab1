//! Gossip from the outside: clusters of memberships in a simulated network, and bytes that are not packets.

mod clusters;
mod cores;
mod corpus;
mod exercise;
mod hostile;
mod world;
