//! Writes as their judges know them: by a number, which the value bears, and by what their client was told.

use ferrite_client::WriteOutcome;
use ferrite_loadgen::record::{Stamp, stamp_of, write_value};
use ferrite_promises::{Answer, Told};
use ferrite_wire::Order;

/// The value that a write of this number puts to a record: all bytes follow from the two.
pub(crate) fn value_of(record: u64, id: u64, bytes: usize) -> Vec<u8> {
    let mut value = Vec::new();
    write_value(record, Stamp { run: (id >> 32) as u32, counter: id as u32 }, bytes, &mut value);
    value
}

/// The number of the write that a value of a record comes from, if every byte is what that write sent.
pub(crate) fn id_of(record: u64, value: &[u8], bytes: usize) -> Option<u64> {
    stamp_of(record, value, bytes).map(|stamp| u64::from(stamp.run) << 32 | u64::from(stamp.counter))
}

/// What a client was told of its write at a moment. What else it was told of, and would send along with its next request, is its secret.
pub(crate) fn answer_of(outcome: &WriteOutcome, at_ns: u64) -> Answer {
    let (told, acknowledged) = match outcome {
        WriteOutcome::Done { version, answered, sloppy: false } => (Told::Acknowledged(*version), *answered),
        WriteOutcome::Done { version, answered, sloppy: true } => (Told::Sloppy(*version), *answered),
        WriteOutcome::NotApplied(_) => (Told::NotApplied, 0),
        WriteOutcome::Unknown(_) => (Told::InDoubt, 0),
    };
    Answer { told, acknowledged: usize::from(acknowledged), time: Order(u64::MAX), at_ns }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_names_its_write_and_no_other_record_takes_it_for_its_own() {
        let (id, bytes) = ((1 << 40) + 7, 50);
        let mut value = value_of(3, id, bytes);
        assert_eq!(id_of(3, &value, bytes), Some(id));
        assert_eq!(id_of(4, &value, bytes), None);
        assert_eq!(id_of(3, &value[1..], bytes), None);
        value[20] ^= 1;
        assert_eq!(id_of(3, &value, bytes), None);
    }
}
