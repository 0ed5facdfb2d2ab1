//! Bounds on everything that arrives from outside. A length is checked against these before anything is reserved.
//!
//! They are ceilings, each for itself: whatever is sent must also fit one body. A topology that does not is refused where
//! it is made, by [`crate::Topology::check`]; values of a multi-get that do not are answered one by one.

/// Longest key, partition and sort key together, in bytes.
pub const KEY_BYTES_MAX: usize = 64 * 1024;
/// Longest value, in bytes.
pub const VALUE_BYTES_MAX: usize = 1024 * 1024;
/// Longest encoded set of siblings that travels, in bytes. Longer than a value: a write leaves no longer one than that, and where replicas
/// have taken writes apart from each other their sets are joined, whatever comes of it.
pub const SET_BYTES_MAX: usize = 3 * 1024 * 1024;
/// Longest causal context, in bytes.
pub const CONTEXT_BYTES_MAX: usize = VALUE_BYTES_MAX;
/// Most keys in one multi-get.
pub const MULTI_GET_KEYS_MAX: usize = 1024;
/// Most writes in one multi-put.
pub const MULTI_PUT_ENTRIES_MAX: usize = 1024;
/// Longest body of a frame, in bytes.
pub const BODY_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Longest packet of gossip, in bytes.
pub const GOSSIP_BYTES_MAX: usize = 64 * 1024;
/// Longest text in an error reply, in bytes.
pub const ERROR_TEXT_BYTES_MAX: usize = 1024;
/// Most nodes in a topology.
pub const NODES_MAX: usize = 4096;
/// Most cores of one node.
pub const CORES_MAX: usize = 1024;
/// Most vnodes in a cluster.
pub const VNODES_MAX: usize = 65_536;
/// Most replicas of one vnode.
pub const REPLICAS_MAX: usize = 16;
/// Most entries (mapped nodes × vnodes) of the core maps that one topology may unfold to; 2 bytes each.
pub const CORE_MAP_ENTRIES_MAX: usize = 16 * 1024 * 1024;
/// Longest name (node, rack, datacenter, address), in bytes.
pub const NAME_BYTES_MAX: usize = 255;
/// Most tables of a cluster.
pub const TABLES_MAX: usize = 1024;
/// Longest name of a table, in bytes.
pub const TABLE_NAME_BYTES_MAX: usize = 64;
/// Most siblings that a table may allow a key.
pub const SIBLINGS_MAX: usize = 1024;
/// Longest encoded list of tables, in bytes.
pub const TABLES_BYTES_MAX: usize = 2 + TABLES_MAX * (17 + TABLE_NAME_BYTES_MAX);
