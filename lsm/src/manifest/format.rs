//! The manifest's bytes.
//!
//! All integers are little-endian. A group is what one change of the engine's files takes: it holds as a whole or not at all.
//!
//! ```text
//! manifest  = mark mark group*           ; the first group is a snapshot: every edit that leads to the state
//! mark      = magic:u32 version:u16 core:u16
//!             life:u128                  ; the groups'
//!             groups:u32                 ; so many are synced: odd numbers in the first mark, even ones in the second
//!             checksum:u32               ; crc32c of the whole mark, with this field zero, after the file's number
//!             zero*                      ; to 4 KiB; all zeros = not written yet
//! group     = header edit* zero*         ; starts and ends on a 4 KiB boundary
//! header    = magic:u32 version:u16 core:u16
//!             life:u128                  ; random, the same in every group of the file
//!             index:u32                  ; 0, 1, 2, …
//!             edits:u32                  ; bytes of the edits
//!             checksum:u32               ; crc32c of the whole group, zeros included, with this field zero, after the file's number
//!             zero:u32
//! edit      = 1 incarnation:u64                          ; the engine was opened
//!           | 2 store:u16                                ; a store exists
//!           | 3 vnode:u16 store:u16 epoch:u64            ; a vnode lives in a store
//!           | 4 level:u8 table                           ; a table was added; within level 0 later is newer
//!           | 5 store:u16 number:u64                     ; a table was removed
//!           | 6 store:u16 seq:u64                        ; the log is no longer needed for this store up to here
//!           | 7 number:u64                               ; file numbers below are spent
//!           | 8 seq:u64                                  ; the log may lack what comes before
//!           | 9 seq:u64                                  ; the engine was closed; cleared by the next edit
//!           | 10 store:u16                               ; space 0 lives in this store
//!           | 11 store:u16 number:u64 bytes:u64 record_bytes:u64 file_id:u128     ; a value file was added
//!           | 12 store:u16 number:u64                    ; a value file was removed, which no table names any more
//!           | 15 store:u16 extent seq:u64 count:u32 number:u64{count}   ; a vnode or a table in it was dropped: what these
//!                                                        ; tables hold of it, and the log up to here
//!           | 16 store:u16 extent seq:u64                ; nothing is left of that
//!           | 17 vnode:u16                               ; a vnode lives here no more
//!           | 20 generation:u64 cores:u16 index:u16         ; this core is one of so many in a layout of the node
//!           | 25 store:u16 number:u64 area               ; blocks of a table are quarantined; says nothing if the table is
//!                                                        ; gone and the area is not a detached one
//!           | 26 store:u16 number:u64                    ; nothing of a table is quarantined any more
//!           | 27 store:u16 number:u64                    ; a value file is damaged: nothing is collected from it
//!           | 28 store:u16 number:u64 count:u32 file:u64{count}     ; a table that is gone and has detached areas points into
//!                                                        ; these value files. In a snapshot; else it follows from the removal
//! extent    = vnode:u16 has_table:u8 table:u32           ; has_table is 0 or 1
//! table     = length:u32 properties                      ; as in the table's own file
//! area      = block:u32 blocks:u32 detached:u8 order_max:u64 low:key high:key
//! key       = prefix:u128 partition_len:u32 sort_len:u32 partition sort
//! ```
//!
//! **Numbers** are trusted only if they can be, checksum or not: what follows one can be counted then, and lengths can be added up.
//! Incarnations, generations and sequence numbers go up to 2^61, numbers of files to come up to 2^47, stores up to 65,534; a layout
//! has 1 to 1,024 cores, and its index is one of them; value files are up to 64 GiB long, and of tables see their format.
//!
//! **Tail rule.** Appends wait for each other's syncs, so a power cut can harm the last group only. A bad group with a good
//! later one of the same life behind it is damage, and so is one below a mark (see `mark`); any other is a change that nobody
//! was told of, and is cut.

use std::rc::Rc;

use super::area::Area;
use crate::engine::NUMBER_BITS;
use crate::layout::{CORES_MAX, LayoutMark};
use crate::table::{encode_key, take_key};
use crate::values::VALUES_BYTES_MAX;
use crate::{BLOCK_BYTES, Damage, Extent, FileId, FileName, KeyBuf, TableMeta, TableName, ValuesMeta};

/// The first bytes of each group.
pub(crate) const MAGIC: u32 = 0x464d_6546;
/// The version of everything above.
pub(crate) const VERSION: u16 = 6;
/// Bytes of a group's header.
pub(crate) const HEADER_BYTES: usize = 40;
/// Most bytes of a group: a snapshot of a hundred thousand tables with ordinary keys fits several times over.
pub(crate) const GROUP_BYTES_MAX: usize = 256 << 20;
/// What groups start and end on.
pub(super) const BLOCK: u64 = BLOCK_BYTES as u64;
const CHECKSUM_AT: usize = 32;
/// No incarnation, generation or sequence number is above this; nor is the number of a manifest. That of the log's readers is higher: a
/// log may go on from any number that a manifest says.
pub(super) const NUMBER_MAX: u64 = 1 << 61;
/// No file number to come is above this: half of all are left.
const FILE_NUMBER_MAX: u64 = 1 << (NUMBER_BITS - 1);

/// One change of the engine's files or of what is in them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Edit {
    Opened { incarnation: u64 },
    Store { store: u16 },
    Assign { vnode: u16, store: u16, epoch: u64 },
    Add { level: u8, table: Rc<TableMeta> },
    Remove { table: TableName },
    Flushed { store: u16, seq: u64 },
    NextNumber { number: u64 },
    LogFloor { seq: u64 },
    Closed { seq: u64 },
    Home { store: u16 },
    Layout(LayoutMark),
    AddValues { values: ValuesMeta },
    RemoveValues { store: u16, number: u64 },
    Drop { store: u16, extent: Extent, seq: u64, tables: Vec<u64> },
    ForgetDrop { store: u16, extent: Extent, seq: u64 },
    Unassign { vnode: u16 },
    Quarantine(Rc<Area>),
    Release { table: TableName },
    DamagedValues { store: u16, number: u64 },
    Keep { table: TableName, values: Vec<u64> },
}

/// What identifies a manifest's groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) core: u16,
    pub(crate) number: u64,
    pub(crate) life: u128,
}

/// Encodes a group, padded to whole blocks.
pub(crate) fn encode_group(identity: Identity, index: u32, edits: &[Edit]) -> Vec<u8> {
    let mut out = vec![0; HEADER_BYTES];
    for edit in edits {
        encode_edit(edit, &mut out);
    }
    let edit_bytes = out.len() - HEADER_BYTES;
    assert!(edit_bytes <= GROUP_BYTES_MAX - HEADER_BYTES, "a manifest group of {edit_bytes} bytes");
    out.resize(out.len().next_multiple_of(BLOCK_BYTES), 0);
    out[0..4].copy_from_slice(&MAGIC.to_le_bytes());
    out[4..6].copy_from_slice(&VERSION.to_le_bytes());
    out[6..8].copy_from_slice(&identity.core.to_le_bytes());
    out[8..24].copy_from_slice(&identity.life.to_le_bytes());
    out[24..28].copy_from_slice(&index.to_le_bytes());
    out[28..32].copy_from_slice(&(edit_bytes as u32).to_le_bytes());
    seal(identity.number, &mut out);
    out
}

/// Puts the checksum into a group.
pub(super) fn seal(number: u64, group: &mut [u8]) {
    let checksum = checksum(number, group);
    group[CHECKSUM_AT..CHECKSUM_AT + 4].copy_from_slice(&checksum.to_le_bytes());
}

/// A group that holds.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Group {
    pub(crate) life: u128,
    pub(crate) index: u32,
    pub(crate) edits: Vec<Edit>,
    /// Bytes of the whole group.
    pub(crate) bytes: usize,
}

/// Why the bytes at some offset are no group of this file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// They are not what was written, or nothing was.
    Damaged { what: &'static str, expected: u64, found: u64 },
    /// They are what was written, and do not belong here or make no sense.
    Wrong { what: &'static str, expected: u64, found: u64 },
    /// They are what was written, by a version of this software that is not known here.
    Version { found: u16 },
}

impl Fault {
    pub(crate) fn at(self, core: u16, number: u64, offset: u64) -> Damage {
        let file = FileName::Manifest { core, number };
        match self {
            Fault::Damaged { what, expected, found } | Fault::Wrong { what, expected, found } => {
                Damage { file, offset, what, expected, found }
            }
            Fault::Version { found } => {
                Damage { file, offset, what: "format version", expected: VERSION.into(), found: found.into() }
            }
        }
    }
}

pub(super) fn damaged(what: &'static str, expected: u64, found: u64) -> Fault {
    Fault::Damaged { what, expected, found }
}

/// Decodes the group at the start of `bytes`, which may be followed by others.
pub(crate) fn decode_group(core: u16, number: u64, bytes: &[u8]) -> Result<Group, Fault> {
    let Some(header) = bytes.get(..HEADER_BYTES) else {
        return Err(damaged("group header length", HEADER_BYTES as u64, bytes.len() as u64));
    };
    let mut fields = Reader(header);
    let magic = fields.u32()?;
    if magic != MAGIC {
        return Err(damaged("group magic", MAGIC.into(), magic.into()));
    }
    let version = fields.u16()?;
    let of_core = fields.u16()?;
    let life = fields.u128()?;
    let index = fields.u32()?;
    let edit_bytes = fields.u32()? as usize;
    let stored = fields.u32()?;
    if edit_bytes > GROUP_BYTES_MAX - HEADER_BYTES {
        return Err(damaged("group length", GROUP_BYTES_MAX as u64, edit_bytes as u64));
    }
    let len = (HEADER_BYTES + edit_bytes).next_multiple_of(BLOCK_BYTES);
    let Some(group) = bytes.get(..len) else {
        return Err(damaged("group length", bytes.len() as u64, len as u64));
    };
    let computed = checksum(number, group);
    if stored != computed {
        return Err(damaged("group checksum", computed.into(), stored.into()));
    }
    // The checksum holds: what is odd from here on was written so.
    if version != VERSION {
        return Err(Fault::Version { found: version });
    }
    if of_core != core {
        return Err(Fault::Wrong { what: "core", expected: core.into(), found: of_core.into() });
    }
    let mut rest = Reader(&group[HEADER_BYTES..HEADER_BYTES + edit_bytes]);
    let mut edits = Vec::new();
    while !rest.0.is_empty() {
        edits.push(decode_edit(&mut rest).map_err(|fault| match fault {
            Fault::Damaged { what, expected, found } => Fault::Wrong { what, expected, found },
            other => other,
        })?);
    }
    Ok(Group { life, index, edits, bytes: len })
}

/// How long the group says it is whose first block this is, if it says so.
pub(super) fn claimed_bytes(block: &[u8]) -> Option<u64> {
    let mut fields = Reader(block);
    let magic = fields.u32().ok()?;
    let edit_bytes = u32::from_le_bytes(block.get(28..32)?.try_into().ok()?) as usize;
    let fits = magic == MAGIC && edit_bytes <= GROUP_BYTES_MAX - HEADER_BYTES;
    fits.then(|| ((HEADER_BYTES + edit_bytes) as u64).next_multiple_of(BLOCK))
}

fn checksum(number: u64, group: &[u8]) -> u32 {
    checksum_of(number, group, CHECKSUM_AT)
}

/// crc32c of the file's number and the bytes, the checksum field at `at` taken as zero.
pub(super) fn checksum_of(number: u64, bytes: &[u8], at: usize) -> u32 {
    let seed = crc32c::crc32c(&number.to_le_bytes());
    let seed = crc32c::crc32c_append(seed, &bytes[..at]);
    let seed = crc32c::crc32c_append(seed, &[0; 4]);
    crc32c::crc32c_append(seed, &bytes[at + 4..])
}

fn encode_edit(edit: &Edit, out: &mut Vec<u8>) {
    match edit {
        Edit::Opened { incarnation } => {
            out.push(1);
            out.extend_from_slice(&incarnation.to_le_bytes());
        }
        Edit::Store { store } => {
            out.push(2);
            out.extend_from_slice(&store.to_le_bytes());
        }
        Edit::Assign { vnode, store, epoch } => {
            out.push(3);
            out.extend_from_slice(&vnode.to_le_bytes());
            out.extend_from_slice(&store.to_le_bytes());
            out.extend_from_slice(&epoch.to_le_bytes());
        }
        Edit::Add { level, table } => {
            out.push(4);
            out.push(*level);
            let length_at = out.len();
            out.extend_from_slice(&[0; 4]);
            table.encode(out);
            let length = (out.len() - length_at - 4) as u32;
            out[length_at..length_at + 4].copy_from_slice(&length.to_le_bytes());
        }
        Edit::Remove { table } => {
            out.push(5);
            out.extend_from_slice(&table.store.to_le_bytes());
            out.extend_from_slice(&table.number.to_le_bytes());
        }
        Edit::Flushed { store, seq } => {
            out.push(6);
            out.extend_from_slice(&store.to_le_bytes());
            out.extend_from_slice(&seq.to_le_bytes());
        }
        Edit::NextNumber { number } => {
            out.push(7);
            out.extend_from_slice(&number.to_le_bytes());
        }
        Edit::LogFloor { seq } => {
            out.push(8);
            out.extend_from_slice(&seq.to_le_bytes());
        }
        Edit::Closed { seq } => {
            out.push(9);
            out.extend_from_slice(&seq.to_le_bytes());
        }
        Edit::Layout(LayoutMark { generation, cores, index }) => {
            out.push(20);
            out.extend_from_slice(&generation.to_le_bytes());
            out.extend_from_slice(&cores.to_le_bytes());
            out.extend_from_slice(&index.to_le_bytes());
        }
        Edit::Home { store } => {
            out.push(10);
            out.extend_from_slice(&store.to_le_bytes());
        }
        Edit::AddValues { values } => {
            out.push(11);
            out.extend_from_slice(&values.store.to_le_bytes());
            out.extend_from_slice(&values.number.to_le_bytes());
            out.extend_from_slice(&values.bytes.to_le_bytes());
            out.extend_from_slice(&values.record_bytes.to_le_bytes());
            out.extend_from_slice(&values.file_id.0.to_le_bytes());
        }
        Edit::Drop { store, extent, seq, tables } => {
            out.push(15);
            out.extend_from_slice(&store.to_le_bytes());
            encode_extent(extent, out);
            out.extend_from_slice(&seq.to_le_bytes());
            encode_numbers(tables, out);
        }
        Edit::ForgetDrop { store, extent, seq } => {
            out.push(16);
            out.extend_from_slice(&store.to_le_bytes());
            encode_extent(extent, out);
            out.extend_from_slice(&seq.to_le_bytes());
        }
        Edit::Unassign { vnode } => {
            out.push(17);
            out.extend_from_slice(&vnode.to_le_bytes());
        }
        Edit::RemoveValues { store, number } => {
            out.push(12);
            out.extend_from_slice(&store.to_le_bytes());
            out.extend_from_slice(&number.to_le_bytes());
        }
        Edit::Quarantine(area) => {
            out.push(25);
            out.extend_from_slice(&area.table.store.to_le_bytes());
            out.extend_from_slice(&area.table.number.to_le_bytes());
            out.extend_from_slice(&area.block.to_le_bytes());
            out.extend_from_slice(&area.blocks.to_le_bytes());
            out.push(u8::from(area.detached));
            out.extend_from_slice(&area.order_max.to_le_bytes());
            encode_key(&area.low, out);
            encode_key(&area.high, out);
        }
        Edit::Release { table } => {
            out.push(26);
            out.extend_from_slice(&table.store.to_le_bytes());
            out.extend_from_slice(&table.number.to_le_bytes());
        }
        Edit::DamagedValues { store, number } => {
            out.push(27);
            out.extend_from_slice(&store.to_le_bytes());
            out.extend_from_slice(&number.to_le_bytes());
        }
        Edit::Keep { table, values } => {
            out.push(28);
            out.extend_from_slice(&table.store.to_le_bytes());
            out.extend_from_slice(&table.number.to_le_bytes());
            encode_numbers(values, out);
        }
    }
}

fn encode_numbers(numbers: &[u64], out: &mut Vec<u8>) {
    out.extend_from_slice(&(numbers.len() as u32).to_le_bytes());
    numbers.iter().for_each(|number| out.extend_from_slice(&number.to_le_bytes()));
}

fn encode_extent(extent: &Extent, out: &mut Vec<u8>) {
    out.extend_from_slice(&extent.vnode.to_le_bytes());
    out.push(u8::from(extent.table.is_some()));
    out.extend_from_slice(&extent.table.unwrap_or(0).to_le_bytes());
}

fn decode_extent(from: &mut Reader<'_>) -> Result<Extent, Fault> {
    let (vnode, has_table, table) = (from.u16()?, from.u8()?, from.u32()?);
    match has_table {
        0 if table == 0 => Ok(Extent::vnode(vnode)),
        1 => Ok(Extent::table(vnode, table)),
        _ => Err(damaged("extent", 1, has_table.into())),
    }
}

fn decode_edit(from: &mut Reader<'_>) -> Result<Edit, Fault> {
    let edit = match from.u8()? {
        1 => Edit::Opened { incarnation: from.number("incarnation", NUMBER_MAX)? },
        2 => {
            let store = from.u16()?;
            if store == u16::MAX {
                return Err(damaged("store", (u16::MAX - 1).into(), store.into()));
            }
            Edit::Store { store }
        }
        3 => Edit::Assign { vnode: from.u16()?, store: from.u16()?, epoch: from.u64()? },
        4 => {
            let level = from.u8()?;
            let length = from.u32()? as usize;
            let mut properties = from.bytes(length)?;
            let table = TableMeta::decode(&mut properties);
            let whole = properties.is_empty();
            let table = table.filter(|_| whole).ok_or(damaged("table properties", 0, length as u64))?;
            Edit::Add { level, table: Rc::new(table) }
        }
        5 => Edit::Remove { table: TableName { store: from.u16()?, number: from.u64()? } },
        6 => Edit::Flushed { store: from.u16()?, seq: from.seq()? },
        7 => Edit::NextNumber { number: from.number("file number", FILE_NUMBER_MAX)? },
        8 => Edit::LogFloor { seq: from.seq()? },
        9 => Edit::Closed { seq: from.seq()? },
        10 => Edit::Home { store: from.u16()? },
        20 => {
            let generation = from.number("generation", NUMBER_MAX)?;
            let (cores, index) = (from.u16()?, from.u16()?);
            if cores > CORES_MAX || index >= cores {
                return Err(damaged("core of a layout", cores.into(), index.into()));
            }
            Edit::Layout(LayoutMark { generation, cores, index })
        }
        11 => {
            let (store, number) = (from.u16()?, from.u64()?);
            let bytes = from.number("length of a value file", VALUES_BYTES_MAX)?;
            let record_bytes = from.number("length of values", VALUES_BYTES_MAX)?;
            let file_id = FileId(from.u128()?);
            Edit::AddValues { values: ValuesMeta { store, number, bytes, record_bytes, file_id } }
        }
        12 => Edit::RemoveValues { store: from.u16()?, number: from.u64()? },
        25 => Edit::Quarantine(Rc::new(decode_area(from)?)),
        26 => Edit::Release { table: TableName { store: from.u16()?, number: from.u64()? } },
        27 => Edit::DamagedValues { store: from.u16()?, number: from.u64()? },
        15 => {
            let (store, extent, seq) = (from.u16()?, decode_extent(from)?, from.seq()?);
            let tables = from.numbers("number of dropped tables")?;
            if !tables.is_sorted() {
                return Err(damaged("order of dropped tables", 0, 0));
            }
            Edit::Drop { store, extent, seq, tables }
        }
        16 => Edit::ForgetDrop { store: from.u16()?, extent: decode_extent(from)?, seq: from.seq()? },
        17 => Edit::Unassign { vnode: from.u16()? },
        28 => Edit::Keep {
            table: TableName { store: from.u16()?, number: from.u64()? },
            values: from.numbers("number of value files")?,
        },
        tag => return Err(damaged("edit tag", 28, tag.into())),
    };
    Ok(edit)
}

fn decode_area(from: &mut Reader<'_>) -> Result<Area, Fault> {
    let table = TableName { store: from.u16()?, number: from.u64()? };
    let (block, blocks) = (from.u32()?, from.u32()?);
    let detached = from.u8()?;
    if detached > 1 || block.checked_add(blocks).is_none() {
        return Err(damaged("quarantined blocks", u64::from(block), u64::from(blocks)));
    }
    let order_max = from.u64()?;
    let (low, high) = (from.key()?, from.key()?);
    Ok(Area { table, block, blocks, detached: detached == 1, order_max, low, high })
}

/// What is left to decode.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn bytes(&mut self, len: usize) -> Result<&'a [u8], Fault> {
        let Some((taken, rest)) = self.0.split_at_checked(len) else {
            return Err(damaged("edit length", len as u64, self.0.len() as u64));
        };
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        Ok(self.bytes(N)?.try_into().expect("N bytes were taken"))
    }

    fn key(&mut self) -> Result<KeyBuf, Fault> {
        let left = self.0.len() as u64;
        take_key(&mut self.0).ok_or(damaged("edit key", 0, left))
    }

    fn u8(&mut self) -> Result<u8, Fault> {
        Ok(u8::from_le_bytes(self.array()?))
    }

    fn u16(&mut self) -> Result<u16, Fault> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    fn u32(&mut self) -> Result<u32, Fault> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64, Fault> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn seq(&mut self) -> Result<u64, Fault> {
        self.number("sequence number", NUMBER_MAX)
    }

    /// A number that is not above `max`.
    fn number(&mut self, what: &'static str, max: u64) -> Result<u64, Fault> {
        let number = self.u64()?;
        if number > max { Err(damaged(what, max, number)) } else { Ok(number) }
    }

    /// As many numbers as are said to follow.
    fn numbers(&mut self, what: &'static str) -> Result<Vec<u64>, Fault> {
        let count = self.u32()? as usize;
        if count > self.0.len() / 8 {
            return Err(damaged(what, (self.0.len() / 8) as u64, count as u64));
        }
        (0..count).map(|_| self.u64()).collect()
    }

    fn u128(&mut self) -> Result<u128, Fault> {
        Ok(u128::from_le_bytes(self.array()?))
    }
}
