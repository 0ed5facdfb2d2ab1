//! Bounds and habits of a core's reactor.

/// Connections that are kept for other nodes, where it is not known how many these are.
pub const PEER_CONNECTIONS: usize = 256;

/// Options of a reactor; every bound of it is here or a named constant beside its use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReactorOptions {
    /// Most connections of a core. When it has them, one that is accepted takes the place of the one that has said for longest nothing of who it
    /// is; where all have said it, the new one is closed.
    pub connections_max: usize,
    /// So many of them clients do not take: they are for the cores and the gossip of other nodes.
    pub peer_connections: usize,
    /// Room for a receive on a connection that has nothing large under way, in bytes.
    pub receive_bytes: usize,
    /// Longest frame, and so most unconsumed bytes of a connection.
    pub input_bytes_max: usize,
    /// A connection with this much to send is no longer read from, in bytes.
    pub pause_bytes: usize,
    /// A connection with this much to send takes no more, in bytes; above `pause_bytes`, for what was admitted before.
    pub out_bytes_max: usize,
    /// A connection that has this much to send in a turn is answered no further reads from memory in it, in bytes: others wait.
    pub burst_bytes: usize,
    /// Most bytes that all accepted connections of the core leave unread together. Each may have as many as are left after it, so the fewer
    /// are left the fewer each may have.
    pub out_all_bytes_max: usize,
    /// Most bytes of room for frames longer than a receive, of all clients of the core together; one alone may be longer. A quarter
    /// of it is for those that receive much at a time and have nothing long under way.
    pub in_all_bytes_max: usize,
    /// So much the kernel takes for a client beyond what is on its way, in bytes (`TCP_NOTSENT_LOWAT`). What it takes it copies, and keeps for as long as
    /// nobody reads, outside of every bound here; without this, up to the 4 MiB of `tcp_wmem` each.
    pub unsent_bytes: u32,
    /// Room beyond `out_bytes_max`, for answers as short as an error or an acknowledgement only, in bytes.
    pub out_reserve_bytes: usize,
    /// How long an idle core spins before it blocks, in microseconds. 0 where the core is shared with others.
    pub spin_us: u64,
    /// How long a connection may take to accept a part of what is being sent to it, in milliseconds, while others are short of room; and with a long frame of
    /// which it has sent a part, how long its answers may pile up while others wait to send theirs.
    pub slow_reader_ms: u64,
    /// How long a connection that is being closed may take to accept its last bytes, in milliseconds.
    pub linger_ms: u64,
    /// How long a stopping core waits for its shard, its tasks and its connections, in milliseconds. A shard reckons with [`DRAIN_MS`](crate::shard::DRAIN_MS).
    pub drain_ms: u64,
    /// Rate of flushes and compaction, in bytes per second; 0 is unlimited.
    pub background_bytes_per_second: u64,
    /// Added to what the system's clock says, in milliseconds: for tests of clusters whose clocks differ.
    pub clock_offset_ms: i64,
}

impl Default for ReactorOptions {
    fn default() -> ReactorOptions {
        ReactorOptions {
            connections_max: 10_000 + PEER_CONNECTIONS,
            peer_connections: PEER_CONNECTIONS,
            receive_bytes: 16 * 1024,
            input_bytes_max: ferrite_wire::limits::BODY_BYTES_MAX + 4096,
            pause_bytes: 1024 * 1024,
            out_bytes_max: 16 * 1024 * 1024,
            burst_bytes: 128 * 1024,
            out_all_bytes_max: 64 * 1024 * 1024,
            in_all_bytes_max: 64 * 1024 * 1024,
            unsent_bytes: 128 * 1024,
            out_reserve_bytes: 1024 * 1024,
            spin_us: 50,
            slow_reader_ms: 2_000,
            linger_ms: 5_000,
            drain_ms: crate::shard::DRAIN_MS,
            background_bytes_per_second: 0,
            clock_offset_ms: 0,
        }
    }
}
