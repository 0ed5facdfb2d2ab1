//! What recovery makes of each group it finds: a table, one row per case.
//!
//! Groups are met in the order of segment ids and offsets. Within a life their sequence numbers follow each other without a gap, and
//! a group is written only after the one before it (in periodic mode: its mark says how far that is so). So a gap in the
//! numbers is what is left of groups that are not valid any more, and what later groups know to be synced decides whether
//! it is damage or a tail that never was.

/// Where a group's first number stands against the number that should come next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// It is the next.
    Next,
    /// Numbers are missing before it.
    Ahead,
    /// It repeats numbers.
    Behind,
}

/// What is known of the numbers that are missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Missing {
    /// All of them were synced: a later mark says so, or a later life counted them.
    Synced,
    /// The first of them were, the others perhaps not.
    PartSynced,
    /// None is known to have been.
    Unsynced,
}

/// Where the group stands in the log's history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Era {
    /// In an earlier life, and counted by the next one.
    Counted,
    /// In an earlier life, beyond what the next one counted: cut then, and forever.
    Cut,
    /// In the last life.
    Last,
    /// In the last life, beyond a cut found in this recovery.
    BeyondCut,
}

/// What to do with a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Replay it.
    Replay,
    /// Report what is missing as damage, then replay it.
    DamageBefore,
    /// Report what is missing and was synced as damage, then cut the log before this group.
    DamageAndCut,
    /// Cut the log where the missing ones began.
    Cut,
    /// Report it as out of place, do not replay it.
    Stray,
    /// Leave it out; this was decided before.
    Skip,
}

/// The table: the first row that matches decides. `None` matches everything.
const ROWS: &[(Era, Option<Place>, Option<Missing>, Verdict)] = &[
    (Era::Cut, None, None, Verdict::Skip),
    (Era::BeyondCut, None, None, Verdict::Skip),
    (Era::Counted, Some(Place::Next), None, Verdict::Replay),
    (Era::Counted, Some(Place::Ahead), None, Verdict::DamageBefore),
    (Era::Counted, Some(Place::Behind), None, Verdict::Stray),
    (Era::Last, Some(Place::Next), None, Verdict::Replay),
    (Era::Last, Some(Place::Ahead), Some(Missing::Synced), Verdict::DamageBefore),
    (Era::Last, Some(Place::Ahead), Some(Missing::PartSynced), Verdict::DamageAndCut),
    (Era::Last, Some(Place::Ahead), Some(Missing::Unsynced), Verdict::Cut),
    (Era::Last, Some(Place::Behind), None, Verdict::Stray),
];

/// Decides one case.
pub(super) fn decide(era: Era, place: Place, missing: Missing) -> Verdict {
    let row = ROWS.iter().find(|(of, at, lost, _)| {
        *of == era && at.is_none_or(|at| at == place) && lost.is_none_or(|lost| lost == missing)
    });
    row.expect("the table has a row for every case").3
}

/// Where `first` stands when `next` should come.
pub(super) fn place(next: u64, first: u64) -> Place {
    match first.cmp(&next) {
        std::cmp::Ordering::Equal => Place::Next,
        std::cmp::Ordering::Greater => Place::Ahead,
        std::cmp::Ordering::Less => Place::Behind,
    }
}

/// What is known of the numbers from `next` to before `first`, when everything up to `synced` was synced.
pub(super) fn missing(next: u64, first: u64, synced: u64) -> Missing {
    if synced.saturating_add(1) >= first {
        Missing::Synced
    } else if synced >= next {
        Missing::PartSynced
    } else {
        Missing::Unsynced
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_case_has_a_row_and_every_row_a_case() {
        let mut used = vec![false; ROWS.len()];
        for era in [Era::Counted, Era::Cut, Era::Last, Era::BeyondCut] {
            for place in [Place::Next, Place::Ahead, Place::Behind] {
                for missing in [Missing::Synced, Missing::PartSynced, Missing::Unsynced] {
                    let verdict = decide(era, place, missing);
                    let row = ROWS.iter().position(|(of, at, lost, then)| {
                        *of == era
                            && at.is_none_or(|at| at == place)
                            && lost.is_none_or(|lost| lost == missing)
                            && *then == verdict
                    });
                    used[row.unwrap()] = true;
                }
            }
        }
        assert!(used.iter().all(|used| *used));
    }

    #[test]
    fn row_by_row() {
        use {Era::*, Missing::*, Place::*};
        for (era, place, missing, verdict) in [
            (Counted, Next, Synced, Verdict::Replay),
            (Counted, Ahead, Unsynced, Verdict::DamageBefore),
            (Counted, Behind, Synced, Verdict::Stray),
            (Cut, Next, Synced, Verdict::Skip),
            (Cut, Ahead, Synced, Verdict::Skip),
            (Last, Next, Unsynced, Verdict::Replay),
            (Last, Ahead, Synced, Verdict::DamageBefore),
            (Last, Ahead, PartSynced, Verdict::DamageAndCut),
            (Last, Ahead, Unsynced, Verdict::Cut),
            (Last, Behind, Unsynced, Verdict::Stray),
            (BeyondCut, Next, Synced, Verdict::Skip),
        ] {
            assert_eq!(decide(era, place, missing), verdict, "{era:?} {place:?} {missing:?}");
        }
    }

    #[test]
    fn missing_numbers_are_judged_by_the_highest_mark() {
        // Numbers 5, 6 and 7 are missing before 8.
        for (synced, expected) in [
            (4, Missing::Unsynced),
            (5, Missing::PartSynced),
            (6, Missing::PartSynced),
            (7, Missing::Synced),
            (90, Missing::Synced),
        ] {
            assert_eq!(missing(5, 8, synced), expected, "synced to {synced}");
        }
    }
}
