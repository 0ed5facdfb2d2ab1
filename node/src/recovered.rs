//! What opening a core's data found that an operator must know of: a line each for what happened, what is lost, and what to do.

use ferrite_lsm::log::{ASIDE_MAX, ASIDE_SLOT_MIN, LOG_END, LogDamage};
use ferrite_lsm::{Directory, Recovery};
use ferrite_wire::CoreId;

use crate::disk::names;

/// Damaged places of a log that are told one by one.
const DAMAGE_SHOWN_MAX: usize = 32;
/// Tables that could not be opened that are told one by one.
const UNREADABLE_SHOWN_MAX: usize = 32;
/// How to get back what this replica has lost.
const REPAIR: &str = "read its keys at QUORUM, which finds what the other replicas have, and write them again; where there are no \
                      other replicas, restore a backup";

/// A line of the node's log.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Line {
    Error(String),
    Warning(String),
}

/// Says it. `number` is the one that the core's directory bears.
pub(crate) fn tell(core: CoreId, number: u16, recovery: &Recovery) {
    let core = core.0;
    for line in lines(number, recovery) {
        match line {
            Line::Error(text) => tracing::error!(core, "{text}"),
            Line::Warning(text) => tracing::warn!(core, "{text}"),
        }
    }
}

fn lines(number: u16, recovery: &Recovery) -> Vec<Line> {
    let directory = names::directory_path(None, Directory::Core(number));
    let look = |path: &str| format!("`ferrite debug log {path}`, in the data directory of the stopped node");
    let mut lines = Vec::new();
    for LogDamage { damage, lost } in recovery.damage.iter().take(DAMAGE_SHOWN_MAX) {
        let path = format!("{directory}/{}", names::leaf(damage.file));
        let lost = match lost {
            Some((first, last)) => format!("records {} to {} of this core", first.0, last.0),
            None => "perhaps records, of which nothing is known".to_owned(),
        };
        if damage.what == LOG_END {
            lines.push(Line::Error(format!(
                "the log ends too early: it held records up to {} when it was closed, and ends at byte {} of {path} with record {}. \
                 That file is whole; one that came after it was there then, and is not now. Lost on this replica, and acknowledged \
                 before: {lost}. The log goes on without them from now on, so that putting the file back later is of no use; to repair \
                 what is lost, {REPAIR}",
                damage.expected, damage.offset, damage.found
            )));
            continue;
        }
        lines.push(Line::Error(format!(
            "the log is damaged: {damage}. Lost on this replica, and acknowledged before: {lost}. The file stays as it is until nothing \
             in it is needed, and then under a name from log-{ASIDE_SLOT_MIN} on, of which the last {ASIDE_MAX} stay; see {}; to repair what \
             is lost, {REPAIR}",
            look(&path)
        )));
    }
    if let Some(more) = recovery.damage.len().checked_sub(DAMAGE_SHOWN_MAX).filter(|more| *more > 0) {
        lines.push(Line::Error(format!(
            "the log is damaged in {more} more places: see {}; to repair what is lost, {REPAIR}",
            look(&directory)
        )));
    }
    if let Some(cut) = recovery.cut_tail {
        let path = format!("{directory}/log-{:08}", cut.slot);
        lines.push(Line::Warning(format!(
            "the log ended in a write that is not whole, at byte {} of {path}, which was left out. After a power cut that is as it \
             should be: nobody was told that it was done, and nothing is lost. If the power was not cut, the last writes of this core \
             may have been acknowledged and be lost on this replica: see {}; to repair them, {REPAIR}",
            cut.offset,
            look(&path)
        )));
    }
    if recovery.cut_manifest {
        lines.push(Line::Warning(format!(
            "the manifest in {directory} ended in a change that is not whole, which was left out. After a power cut that is as it \
             should be: nobody was told that it was made, no record is lost with it, and there is nothing to do. If the power was not \
             cut, look after the device"
        )));
    }
    for range in recovery.unreadable.iter().take(UNREADABLE_SHOWN_MAX) {
        lines.push(Line::Error(format!(
            "the device failed while a table was opened, {range}. Reads of these keys fail on this replica; nothing was changed, and \
             each start tries again: look after the device. If it does not recover, put a copy of the file in its place, with \
             anything where it cannot be read: that is damage, and the table is quarantined"
        )));
    }
    if let Some(more) = recovery.unreadable.len().checked_sub(UNREADABLE_SHOWN_MAX).filter(|more| *more > 0) {
        lines.push(Line::Error(format!("the device failed while {more} more tables were opened")));
    }
    lines
}

#[cfg(test)]
mod tests {
    use ferrite_lsm::log::CutTail;
    use ferrite_lsm::{Damage, FileName, Seq};

    use super::*;

    fn damage(slot: u32, lost: Option<(Seq, Seq)>) -> LogDamage {
        let file = FileName::Segment { core: 3, slot };
        LogDamage {
            damage: Damage { file, offset: 4096, what: "segment length", expected: 8192, found: 4096 },
            lost,
        }
    }

    #[test]
    fn a_whole_log_is_not_worth_a_line() {
        assert_eq!(lines(3, &Recovery { replayed: 7, ..Recovery::default() }), []);
    }

    /// The lines said that the log was damaged, and neither what was lost with it nor what to do.
    #[test]
    fn each_line_says_what_happened_what_was_lost_and_what_to_do() {
        let recovery = Recovery {
            damage: vec![damage(2, Some((Seq(5), Seq(9)))), damage(4, None)],
            cut_tail: Some(CutTail { segment: 7, slot: 6, offset: 8192 }),
            cut_manifest: true,
            ..Recovery::default()
        };
        let said = lines(3, &recovery);
        let parts: [(bool, &[&str]); 4] = [
            (
                true,
                &[
                    "segment length",
                    "records 5 to 9",
                    "log-1000000000 on, of which the last 4 stay",
                    "ferrite debug log core-00003/log-00000002",
                    "QUORUM",
                ],
            ),
            (
                true,
                &[
                    "segment length",
                    "nothing is known",
                    "ferrite debug log core-00003/log-00000004",
                    "backup",
                ],
            ),
            (false, &["byte 8192", "nobody was told", "ferrite debug log core-00003/log-00000006", "QUORUM"]),
            (false, &["manifest in core-00003", "no record is lost", "nothing to do"]),
        ];
        assert_eq!(said.len(), parts.len(), "{said:?}");
        for (line, (is_error, parts)) in said.into_iter().zip(parts) {
            let (found, text) = match line {
                Line::Error(text) => (true, text),
                Line::Warning(text) => (false, text),
            };
            assert_eq!(found, is_error, "{text}");
            parts.iter().for_each(|part| assert!(text.contains(part), "{part:?} is not in {text:?}"));
            assert!(!text.contains('\n') && !text.contains("  "), "one line: {text:?}");
        }
    }

    /// The last file that was there was called damaged, and the inspection that was advised found nothing wrong with it.
    #[test]
    fn a_log_that_ends_too_early_blames_no_file_that_is_there() {
        let mut ends = damage(2, Some((Seq(6), Seq(10))));
        (ends.damage.what, ends.damage.expected, ends.damage.found) = (LOG_END, 10, 5);
        let said = lines(3, &Recovery { damage: vec![ends], ..Recovery::default() });
        let [Line::Error(text)] = &said[..] else { panic!("{said:?}") };
        for part in [
            "up to 10",
            "byte 4096 of core-00003/log-00000002 with record 5",
            "file is whole",
            "records 6 to 10",
            "QUORUM",
        ] {
            assert!(text.contains(part), "{part:?} is not in {text:?}");
        }
        assert!(!text.contains("damaged") && !text.contains("debug log"), "{text:?}");
    }

    #[test]
    fn a_log_with_a_thousand_faults_is_told_in_a_few_lines() {
        let recovery = Recovery { damage: vec![damage(1, None); 1000], ..Recovery::default() };
        let said = lines(3, &recovery);
        assert_eq!(said.len(), DAMAGE_SHOWN_MAX + 1);
        let Some(Line::Error(last)) = said.last() else { panic!("an error") };
        assert!(last.contains("968 more places") && last.contains("ferrite debug log core-00003`"), "{last}");
    }
}
