//! Every bound of hinted handoff, with its unit and default.

/// How much is kept, and how fast it is delivered. All of it is per core.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HintOptions {
    /// Most bytes of hints for one target from which strict ones are dropped. With as many that are held back for one, sloppy writes for that one are
    /// refused. Default 128 MiB.
    pub strict_bytes_max: u64,
    /// Most bytes of hints for all targets, but for those that are held back: from three quarters of it strict ones are dropped, at it sloppy writes are
    /// refused. Default 256 MiB.
    pub bytes_max: u64,
    /// A target whose oldest hint is older gets no strict ones any more, in milliseconds. Default 3 hours.
    pub strict_age_max_ms: u64,
    /// Most hints for one target in flight. Default 256.
    pub window_max: u32,
    /// Most bytes of hints for one target in flight, unless one is longer. Default 4 MiB.
    pub window_bytes_max: u64,
    /// Most bytes of hints for all targets in flight, shared by those that are owed any; each may have one that is longer. Default 16 MiB.
    pub delivery_bytes_max: u64,
    /// Bytes for one target that were delivered, and are kept on the disk since one of its cores is behind. With more, beside half of what is owed, what is owed
    /// to that core is written again behind them. Default 4 MiB.
    pub pinned_bytes_max: u64,
    /// No acknowledgement that takes less, in nanoseconds, says that the target is busy, however fast it was before. Default 25 ms.
    pub latency_floor_ns: u64,
    /// First pause after a refusal or a loss, in nanoseconds; it doubles with each one in a row. Default 50 ms.
    pub pause_min_ns: u64,
    /// Longest pause, in nanoseconds. Default 2 s.
    pub pause_max_ns: u64,
    /// Most strict hints in a second for one target that is there and was only slow or overloaded. Default 1,000.
    pub storm_per_s: u32,
}

impl Default for HintOptions {
    fn default() -> HintOptions {
        const MS: u64 = 1_000_000;
        HintOptions {
            strict_bytes_max: 128 << 20,
            bytes_max: 256 << 20,
            strict_age_max_ms: 3 * 60 * 60 * 1_000,
            window_max: 256,
            window_bytes_max: 4 << 20,
            delivery_bytes_max: 16 << 20,
            pinned_bytes_max: 4 << 20,
            latency_floor_ns: 25 * MS,
            pause_min_ns: 50 * MS,
            pause_max_ns: 2_000 * MS,
            storm_per_s: 1_000,
        }
    }
}
