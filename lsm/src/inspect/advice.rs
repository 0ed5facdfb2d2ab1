//! What to do about a finding: a sentence or two for somebody who was woken by it.

/// See [`super::Finding::advice`].
pub(crate) type Advice = &'static str;

pub(crate) const LOG: Advice = "These records were acknowledged. The next start goes on without them, and keeps the segment: under a number \
                                from 1000000000 on, once it needs nothing in it. The other replicas of their keys have them, and a read at \
                                QUORUM finds them there.";
pub(crate) const LOG_END: Advice = "The file is whole: one that came after it is not there, and the manifest knows what was in it. If it was moved, \
                                    put it back before the next start, which goes on without these records, once and for all. The other \
                                    replicas of their keys have them, and a read at QUORUM finds them there.";
pub(crate) const LOG_MISSING: Advice = "The manifest needs records that came before what is there. The engine refuses to open: put back the files that \
                                        were taken away.";
pub(crate) const CUT: Advice = "A write that a power cut interrupted looks like this, and nobody was told that it was done; the \
                                next start leaves it out. So does a last write that went bad after it was acknowledged: if the \
                                device is in doubt, compare with the other replicas.";
pub(crate) const LOG_FOREIGN: Advice = "Somebody put a file where it does not belong, or another version wrote it. The engine refuses to open: put back what was there.";
pub(crate) const MANIFEST: Advice = "The engine refuses to open this core, for it cannot know its tables. Keep the directory as it is: \
                                     the tables may all be whole. What they hold is on the other replicas.";
pub(crate) const MARK: Advice = "A power cut while the mark was written looks like this. The other mark stands in for it until the next change, or the \
                                 next start, writes one.";
pub(crate) const TABLE: Advice = "Keep a copy of the file. Nothing can be read from it; what it held is on the other replicas of these keys.";
pub(crate) const BLOCK: Advice = "Keep a copy of the file. Reads of these keys fail here rather than be wrong; the rest of the table is \
                                  readable. The other replicas have them.";
pub(crate) const BUG: Advice =
    "The checksum holds, so this was written so: it is not the device. Keep the file, and report it.";
pub(crate) const MISMATCH: Advice = "The file is not the one that the manifest names: another was put in its place, or the manifest is an \
                                     older copy. Do not mix files of different times.";
pub(crate) const VALUE: Advice = "Keep a copy of the file. Inspect the whole store: that names the keys whose values are here. The other \
                                  replicas have them.";
pub(crate) const POINTER: Advice =
    "Reads of this key fail here rather than be wrong. The other replicas have it.";
pub(crate) const UNUSED: Advice =
    "Nobody reads these bytes. They were not written so: the device or another program did.";
pub(crate) const ORPHAN: Advice =
    "Left by a power cut in a flush or a merge. The next start removes it; nothing is lost with it.";
