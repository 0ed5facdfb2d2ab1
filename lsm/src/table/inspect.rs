//! Inspects a table: its parts, its records, and whether what is said of them is so.

use std::collections::BTreeMap;

use super::block::Block;
use super::filter::{Filter, KeyHash};
use super::format::{FOOTER_BYTES, Footer, Section, TABLE_BYTES_MAX, TableMeta, TableName};
use super::index::{BlockHandle, Index, Place};
use super::reader::read_section;
use super::stored;
use super::transfer::Port;
use crate::inspect::{
    Field::{Flag, Hex, Key as KeyField, Number},
    Hides, Report, advice, key_range,
};
use crate::values::{Pointer, Target};
use crate::{
    BLOCK_BYTES, Class, Damage, Disk, Key, KeyBuf, Open, ReadError, Record, RecordFlags, ValueShare,
};

/// Value files that pointers may lead to, by number.
pub(crate) type Targets<D> = BTreeMap<u64, Target<D>>;

/// Inspects a table whose file is `bytes` long. `named` is what the manifest says of it, `targets` where its pointers lead.
pub(crate) async fn inspect<D: Disk>(
    disk: &D,
    (name, bytes): (TableName, u64),
    named: Option<&TableMeta>,
    targets: Option<&Targets<D>>,
    report: &mut Report<'_>,
) -> Result<(), ReadError> {
    let file = name.file();
    let everything = named.map_or(Hides::Unknown, |meta| key_range(&meta.smallest, &meta.largest));
    let opened = disk.open(file, Open::Read).await;
    let port = match opened {
        Ok(opened) => Port { disk: disk.clone(), file: opened, name: file },
        Err(error) => return report.failure(error.into(), (file, 0), everything, advice::TABLE),
    };
    let footer = match read_footer(&port, bytes).await {
        Ok(footer) => footer,
        Err(error) => return report.failure(error, (file, bytes), everything, advice::TABLE),
    };
    show_footer(&port, bytes, &footer, report);
    if let Some(id) = named.map(|meta| meta.file_id).filter(|id| *id != footer.file_id) {
        let offset = bytes - FOOTER_BYTES as u64;
        let (expected, found) = (id.0 as u64, footer.file_id.0 as u64);
        report.damage(
            Damage { file, offset, what: "file id", expected, found },
            everything,
            advice::MISMATCH,
        );
        return Ok(());
    }
    let meta = read_properties(&port, bytes, &footer, named, report).await?;
    let everything = meta.as_ref().map_or(everything, |meta| key_range(&meta.smallest, &meta.largest));
    let filter = read_filter(&port, &footer, report).await?;
    let Some(index) = read_index(&port, &footer, meta.as_ref(), everything, report).await? else {
        return Ok(());
    };
    let mut walk = Walk {
        port: &port,
        footer: &footer,
        index: &index,
        meta: meta.as_ref().or(named),
        filter: filter.as_ref(),
        targets,
        last: None,
        tally: Tally { min_order: u64::MAX, ..Tally::default() },
        is_whole: true,
        report,
    };
    walk.blocks().await?;
    if walk.is_whole {
        walk.compare_tally();
    }
    Ok(())
}

async fn read_footer<D: Disk>(port: &Port<D>, bytes: u64) -> Result<Footer, ReadError> {
    let least = 2 * FOOTER_BYTES as u64;
    if bytes < least || !bytes.is_multiple_of(BLOCK_BYTES as u64) || bytes > 2 * TABLE_BYTES_MAX {
        let damage =
            Damage { file: port.name, offset: bytes, what: "file length", expected: least, found: bytes };
        return Err(damage.into());
    }
    let page = port.read(bytes - FOOTER_BYTES as u64, FOOTER_BYTES, Class::Background).await?;
    Ok(Footer::decode(port.name, bytes, &page)?)
}

fn show_footer<D: Disk>(port: &Port<D>, bytes: u64, footer: &Footer, report: &mut Report<'_>) {
    let at = |section: Section| Number(section.offset);
    let fields = [
        ("file_id", Hex(footer.file_id.0)),
        ("index_at", at(footer.index)),
        ("filter_at", at(footer.filter)),
        ("properties_at", at(footer.properties)),
    ];
    report.part(port.name, "footer", (bytes - FOOTER_BYTES as u64, FOOTER_BYTES as u64), &fields);
}

async fn section<D: Disk>(
    port: &Port<D>,
    footer: &Footer,
    section: Section,
    what: &'static str,
    (hides, advice): (Hides, &'static str),
    report: &mut Report<'_>,
) -> Result<Option<Vec<u8>>, ReadError> {
    match read_section(port, footer.file_id, section, what, Class::Background).await {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) => report.failure(error, (port.name, section.offset), hides, advice).map(|()| None),
    }
}

async fn read_properties<D: Disk>(
    port: &Port<D>,
    bytes: u64,
    footer: &Footer,
    named: Option<&TableMeta>,
    report: &mut Report<'_>,
) -> Result<Option<TableMeta>, ReadError> {
    let place = footer.properties;
    let hides = named.map_or(Hides::Unknown, |meta| key_range(&meta.smallest, &meta.largest));
    let because = (hides.clone(), advice::TABLE);
    let Some(encoded) = section(port, footer, place, "properties checksum", because, report).await? else {
        return Ok(None);
    };
    let damage =
        |what, expected, found| Damage { file: port.name, offset: place.offset, what, expected, found };
    let Some(meta) = TableMeta::decode(&mut &encoded[..]) else {
        report.damage(damage("properties", 0, 0), hides, advice::BUG);
        return Ok(None);
    };
    let fields = [
        ("store", Number(meta.name.store.into())),
        ("number", Number(meta.name.number)),
        ("blocks", Number(meta.blocks.into())),
        ("entries", Number(meta.entries)),
        ("tombstones", Number(meta.tombstones)),
        ("expiring", Number(meta.expiring)),
        ("raw_bytes", Number(meta.raw_bytes)),
        ("min_order", Number(meta.min_order)),
        ("max_order", Number(meta.max_order)),
        ("max_seq", Number(meta.max_seq)),
        ("hashed_tokens", Flag(meta.token_seed.is_some())),
        ("value_files", Number(meta.values.len() as u64)),
        ("smallest", KeyField(meta.smallest.as_key())),
        ("largest", KeyField(meta.largest.as_key())),
    ];
    report.part(port.name, "properties", (place.offset, place.bytes), &fields);
    if meta.bytes != bytes || meta.file_id != footer.file_id || meta.smallest > meta.largest {
        let damage = damage("file length in properties", bytes, meta.bytes);
        report.damage(damage, key_range(&meta.smallest, &meta.largest), advice::TABLE);
    }
    if let Some(named) = named {
        // The name in the properties is that of its birth.
        let found = TableMeta { name: named.name, ..meta.clone() };
        if found != *named {
            let damage = damage("properties in the manifest", named.entries, found.entries);
            report.damage(damage, key_range(&named.smallest, &named.largest), advice::MISMATCH);
        }
    }
    Ok(Some(meta))
}

async fn read_filter<D: Disk>(
    port: &Port<D>,
    footer: &Footer,
    report: &mut Report<'_>,
) -> Result<Option<Filter>, ReadError> {
    let place = footer.filter;
    let because = (Hides::Unknown, advice::TABLE);
    let Some(encoded) = section(port, footer, place, "filter checksum", because, report).await? else {
        return Ok(None);
    };
    let filter = Filter::decode(&encoded);
    match &filter {
        Some(filter) => {
            report.part(
                port.name,
                "filter",
                (place.offset, place.bytes),
                &[("bytes", Number(filter.bytes() as u64))],
            );
        }
        None => {
            let damage = Damage {
                file: port.name,
                offset: place.offset,
                what: "filter",
                expected: 0,
                found: place.bytes,
            };
            report.damage(damage, Hides::Unknown, advice::BUG);
        }
    }
    Ok(filter)
}

async fn read_index<D: Disk>(
    port: &Port<D>,
    footer: &Footer,
    meta: Option<&TableMeta>,
    hides: Hides,
    report: &mut Report<'_>,
) -> Result<Option<Index>, ReadError> {
    let place = footer.index;
    let because = (hides.clone(), advice::TABLE);
    let Some(encoded) = section(port, footer, place, "index checksum", because, report).await? else {
        return Ok(None);
    };
    let damage =
        |what, expected, found| Damage { file: port.name, offset: place.offset, what, expected, found };
    let Some(index) = Index::decode(&encoded, place.offset) else {
        report.damage(damage("index", 0, 0), hides, advice::BUG);
        return Ok(None);
    };
    report.part(port.name, "index", (place.offset, place.bytes), &[("blocks", Number(index.len() as u64))]);
    if let Some(blocks) =
        meta.map(|meta| u64::from(meta.blocks)).filter(|blocks| *blocks != index.len() as u64)
    {
        report.damage(damage("number of blocks", blocks, index.len() as u64), hides, advice::BUG);
    }
    Ok(Some(index))
}

/// What was counted on the way.
#[derive(Default)]
struct Tally {
    entries: u64,
    tombstones: u64,
    expiring: u64,
    raw_bytes: u64,
    min_order: u64,
    max_order: u64,
    shares: BTreeMap<u64, u64>,
}

struct Walk<'a, 'r, D: Disk> {
    port: &'a Port<D>,
    footer: &'a Footer,
    index: &'a Index,
    meta: Option<&'a TableMeta>,
    filter: Option<&'a Filter>,
    targets: Option<&'a Targets<D>>,
    last: Option<KeyBuf>,
    tally: Tally,
    /// Every block could be read.
    is_whole: bool,
    report: &'a mut Report<'r>,
}

impl<D: Disk> Walk<'_, '_, D> {
    async fn blocks(&mut self) -> Result<(), ReadError> {
        let mut end = 0;
        for number in 0..self.index.len() as u32 {
            let handle = BlockHandle(number);
            let place = self.index.place(handle).expect("the index has this many");
            self.padding(end, place.offset.into()).await?;
            end = place.end();
            match self.read(place).await {
                Ok(block) => self.block(handle, place, &block).await?,
                Err(error) => {
                    self.is_whole = false;
                    let hides = self.hides(handle);
                    self.report.failure(
                        error,
                        (self.port.name, place.offset.into()),
                        hides,
                        advice::BLOCK,
                    )?;
                }
            }
        }
        self.padding(end, self.footer.index.offset).await?;
        let (properties, footer) =
            (self.footer.properties.end(), self.footer.properties.end().next_multiple_of(BLOCK_BYTES as u64));
        self.padding(properties, footer).await
    }

    async fn read(&self, place: Place) -> Result<Block, ReadError> {
        let page = BLOCK_BYTES as u64;
        let from = u64::from(place.offset) / page * page;
        let len = (place.end().next_multiple_of(page) - from) as usize;
        let bytes = self.port.read(from, len, Class::Background).await?;
        let stored = &bytes[(u64::from(place.offset) - from) as usize..][..place.bytes as usize];
        let seed = self.meta.and_then(|meta| meta.token_seed).unwrap_or(0);
        Ok(stored::read(stored, self.port.name, self.footer.file_id, place.offset.into(), seed)?)
    }

    /// Bytes between blocks are zeros. They are checked where they are within a page or two, as a builder leaves them.
    async fn padding(&mut self, from: u64, to: u64) -> Result<(), ReadError> {
        let page = BLOCK_BYTES as u64;
        let to = to.min(from + 2 * page);
        if from >= to {
            return Ok(());
        }
        let at = from / page * page;
        let len = to.next_multiple_of(page) - at;
        let Ok(bytes) = self.port.read(at, len as usize, Class::Background).await else { return Ok(()) };
        let padding = &bytes[(from - at) as usize..(to - at) as usize];
        if let Some(odd) = padding.iter().position(|byte| *byte != 0) {
            let (offset, found) = (from + odd as u64, padding[odd].into());
            let damage = Damage { file: self.port.name, offset, what: "padding", expected: 0, found };
            self.report.notice(damage, Hides::Nothing, advice::UNUSED);
        }
        Ok(())
    }

    async fn block(&mut self, handle: BlockHandle, place: Place, block: &Block) -> Result<(), ReadError> {
        let (file, at) = (self.port.name, (u64::from(place.offset), u64::from(place.bytes)));
        let fields = [("number", Number(handle.0.into())), ("entries", Number(block.len() as u64))];
        self.report.part(file, "block", at, &fields);
        let mut odd: Option<(&'static str, u64)> = None;
        for number in 0..block.len() {
            let (key, record) = block.entry_at(number);
            let pointer = pointer_of(&record);
            show_record(self.report, file, at.0, &key, &record, pointer.as_ref());
            self.tally.add(&key, &record, pointer.as_ref());
            let wrong = self.check(handle, &key, &record, pointer.as_ref());
            odd = odd.or(wrong.map(|what| (what, number as u64)));
            self.last = Some(key.to_buf());
            if let (Some(targets), Some(pointer)) = (self.targets, pointer) {
                follow(targets, &pointer, (file, at.0), &key, self.report).await?;
            }
        }
        if let Some((what, found)) = odd {
            let damage = Damage { file, offset: at.0, what, expected: 0, found };
            let hides = self.hides(handle);
            self.report.damage(damage, hides, advice::BUG);
        }
        Ok(())
    }

    /// What is odd about a record whose block holds: it was written so.
    fn check(
        &self,
        handle: BlockHandle,
        key: &Key<'_>,
        record: &Record<'_>,
        pointer: Option<&Pointer>,
    ) -> Option<&'static str> {
        let beyond = |meta: &TableMeta| *key < meta.smallest.as_key() || *key > meta.largest.as_key();
        if self.last.as_ref().is_some_and(|last| last.as_key() >= *key) {
            Some("order of keys, at entry")
        } else if self.index.locate(key) != Some(handle) {
            Some("index leads elsewhere, for entry")
        } else if self.filter.is_some_and(|filter| !filter.may_contain(KeyHash::of(key))) {
            Some("filter denies entry")
        } else if self.meta.is_some_and(beyond) {
            Some("key range in properties, at entry")
        } else if record.flags.0 & RecordFlags::SEPARATED != 0 && pointer.is_none() {
            Some("pointer, at entry")
        } else {
            None
        }
    }

    /// The keys that a block may hold.
    fn hides(&self, handle: BlockHandle) -> Hides {
        let low = self.index.low(handle);
        let behind = BlockHandle(handle.0 + 1);
        let next = self.index.place(behind).map(|_| self.index.low(behind));
        match next.or_else(|| self.meta.map(|meta| meta.largest.clone())) {
            Some(high) => Hides::Keys { low, high },
            None => Hides::Unknown,
        }
    }

    fn compare_tally(&mut self) {
        let Some(meta) = self.meta else { return };
        let tally = &self.tally;
        let shares: Vec<ValueShare> =
            tally.shares.iter().map(|(&file, &bytes)| ValueShare { file, bytes }).collect();
        let share_bytes = |shares: &[ValueShare]| shares.iter().map(|share| share.bytes).sum::<u64>();
        let counts = [
            ("entries", meta.entries, tally.entries),
            ("tombstones", meta.tombstones, tally.tombstones),
            ("expiring records", meta.expiring, tally.expiring),
            ("raw bytes", meta.raw_bytes, tally.raw_bytes),
            ("lowest order", meta.min_order, tally.min_order),
            ("highest order", meta.max_order, tally.max_order),
            ("bytes of values named", share_bytes(&meta.values), share_bytes(&shares)),
        ];
        let offset = self.footer.properties.offset;
        for (what, expected, found) in counts.into_iter().filter(|(_, expected, found)| expected != found) {
            let damage = Damage { file: self.port.name, offset, what, expected, found };
            self.report.damage(damage, Hides::Unknown, advice::BUG);
        }
    }
}

impl Tally {
    fn add(&mut self, key: &Key<'_>, record: &Record<'_>, pointer: Option<&Pointer>) {
        let flags = record.flags.0;
        self.entries += 1;
        self.tombstones += u64::from(flags & RecordFlags::TOMBSTONE != 0);
        let expires = flags & (RecordFlags::EXPIRES | RecordFlags::SIBLINGS) == RecordFlags::EXPIRES;
        self.expiring += u64::from(expires);
        self.raw_bytes += (key.partition.len() + key.sort.len() + record.value.len()) as u64;
        self.min_order = self.min_order.min(record.order);
        self.max_order = self.max_order.max(record.order);
        if let Some(pointer) = pointer {
            *self.shares.entry(pointer.file).or_default() += pointer.record_bytes();
        }
    }
}

fn pointer_of(record: &Record<'_>) -> Option<Pointer> {
    if record.flags.0 & RecordFlags::SEPARATED == 0 { None } else { Pointer::decode(record.value) }
}

fn show_record(
    report: &mut Report<'_>,
    file: crate::FileName,
    offset: u64,
    key: &Key<'_>,
    record: &Record<'_>,
    pointer: Option<&Pointer>,
) {
    let mut fields = vec![
        ("key", KeyField(*key)),
        ("order", Number(record.order)),
        ("actor", Hex(record.actor.into())),
        ("flags", Hex(record.flags.0.into())),
    ];
    if record.expiry_ms != 0 {
        fields.push(("expiry_ms", Number(record.expiry_ms)));
    }
    match pointer {
        Some(pointer) => {
            fields.push(("value_bytes", Number(pointer.raw_bytes.into())));
            fields.push(("value_file", Number(pointer.file)));
            fields.push(("value_at", Number(pointer.offset)));
        }
        None => fields.push(("value_bytes", Number(record.value.len() as u64))),
    }
    report.record(file, "record", (offset, 0), &fields);
}

/// Whether a pointer leads to its value.
async fn follow<D: Disk>(
    targets: &Targets<D>,
    pointer: &Pointer,
    (file, offset): (crate::FileName, u64),
    key: &Key<'_>,
    report: &mut Report<'_>,
) -> Result<(), ReadError> {
    let hides = || Hides::Keys { low: key.to_buf(), high: key.to_buf() };
    let Some(target) = targets.get(&pointer.file) else {
        let damage =
            Damage { file, offset, what: "value file of a pointer", expected: pointer.file, found: 0 };
        report.damage(damage, hides(), advice::POINTER);
        return Ok(());
    };
    match target.check(pointer).await {
        Ok(()) => Ok(()),
        Err(error) => report.failure(error, (target.name(), pointer.offset), hides(), advice::POINTER),
    }
}
