//! Says what an inspection comes upon: lines for people, or JSON, an object per line.

use std::fmt::Write as _;
use std::io::{self, BufWriter, Stdout, Write};

use ferrite_lsm::inspect::{Event, Field, Finding, Hides, Part, Verdict, Weight};
use ferrite_lsm::{FileName, Key};
use ferrite_node::disk::names;
use serde_json::{Map, Value, json};

/// Bytes of a partition or sort key that are printed; of a longer one, its length as well.
const KEY_BYTES_SHOWN: usize = 64;

/// Prints to stdout. After an error it prints nothing more, and says so in the end.
pub(crate) struct Printer {
    out: BufWriter<Stdout>,
    json: bool,
    keys: bool,
    /// A file that is looked at by itself, and what it is called here.
    alone: Option<(FileName, String)>,
    /// The file of the last line.
    file: Option<FileName>,
    failed: Option<io::Error>,
}

impl Printer {
    /// `alone`: a file by itself, which is called what its path says, wherever it comes from.
    pub(crate) fn new(json: bool, keys: bool, alone: Option<(FileName, String)>) -> Printer {
        Printer { out: BufWriter::new(io::stdout()), json, keys, alone, file: None, failed: None }
    }

    fn path(&self, file: FileName) -> String {
        match &self.alone {
            Some((own, path)) if *own == file => path.clone(),
            Some(_) | None => path(file),
        }
    }

    /// A node runs on this directory.
    pub(crate) fn live(&mut self) {
        if self.json {
            self.line(&json!({ "live": true }).to_string());
        } else {
            self.line("A node is running here. This file is written once, so it can be read all the same;");
            self.line("it may be gone before the end, merged into others.");
        }
    }

    pub(crate) fn event(&mut self, event: Event<'_>) {
        match event {
            Event::Record(_) if !self.keys => {}
            Event::Part(part) => self.part(&part, "part"),
            Event::Record(part) => self.part(&part, "record"),
            Event::Finding(finding) => self.finding(finding),
        }
    }

    pub(crate) fn verdict(&mut self, verdict: &Verdict) {
        let Verdict { damage, notices, unreported } = *verdict;
        if self.json {
            let fields = json!({ "damaged": damage, "notices": notices, "unreported": unreported });
            self.line(&json!({ "verdict": fields }).to_string());
            return;
        }
        let mut text = match damage {
            0 => "whole".to_owned(),
            1 => "DAMAGED in one place".to_owned(),
            more => format!("DAMAGED in {more} places"),
        };
        match notices {
            0 => {}
            1 => text.push_str(", one thing to know"),
            more => write!(text, ", {more} things to know").expect("a string takes it"),
        }
        if unreported > 0 {
            write!(text, " ({unreported} of all not shown)").expect("a string takes it");
        }
        self.line(&text);
    }

    /// Whether everything was printed. A reader that has seen enough is no error.
    pub(crate) fn finish(mut self) -> io::Result<()> {
        let flushed = self.out.flush();
        match self.failed.map_or(flushed, Err) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error),
            _ => Ok(()),
        }
    }

    fn line(&mut self, text: &str) {
        if self.failed.is_none() {
            self.failed = writeln!(self.out, "{text}").err();
        }
    }

    fn part(&mut self, part: &Part<'_>, class: &str) {
        if self.json {
            let mut fields = Map::new();
            fields.insert(class.to_owned(), part.kind.into());
            fields.insert("file".to_owned(), self.path(part.file).into());
            fields.insert("offset".to_owned(), part.offset.into());
            fields.insert("bytes".to_owned(), part.bytes.into());
            for (name, field) in part.fields {
                fields.insert((*name).to_owned(), value(*field));
            }
            self.line(&Value::Object(fields).to_string());
            return;
        }
        if self.file != Some(part.file) {
            self.file = Some(part.file);
            self.line(&self.path(part.file));
        }
        let mut text = format!("{:>12}  {}", part.offset, part.kind);
        if part.bytes > 0 {
            write!(text, ", {} bytes", part.bytes).expect("a string takes it");
        }
        for (at, (name, field)) in part.fields.iter().enumerate() {
            let before = if at == 0 { ":" } else { "" };
            write!(text, "{before} {name}={}", shown(*field)).expect("a string takes it");
        }
        self.line(&text);
    }

    fn finding(&mut self, finding: &Finding) {
        let Finding { weight, damage, hides, advice } = finding;
        if self.json {
            let fields = json!({
                "finding": match weight { Weight::Damage => "damage", Weight::Notice => "notice" },
                "file": self.path(damage.file),
                "offset": damage.offset,
                "what": damage.what,
                "expected": format!("{:#x}", damage.expected),
                "found": format!("{:#x}", damage.found),
                "hides": hidden(hides),
                "advice": advice,
            });
            self.line(&fields.to_string());
            return;
        }
        self.file = None;
        let title = match weight {
            Weight::Damage => "DAMAGED",
            Weight::Notice => "NOTICE",
        };
        self.line(&format!("{title}  {} at byte {}: {}", self.path(damage.file), damage.offset, damage.what));
        self.line(&format!("         expected {:#x}, found {:#x}", damage.expected, damage.found));
        match hides {
            Hides::Nothing => {}
            Hides::Unknown => self.line("         may hide: this file does not tell"),
            Hides::Keys { low, high } if low == high => {
                self.line(&format!("         hides key {}", key_text(low.as_key())));
            }
            Hides::Keys { low, high } => {
                self.line(&format!("         may hide keys from {}", key_text(low.as_key())));
                self.line(&format!("                     to {}", key_text(high.as_key())));
            }
            Hides::Records { first, last } => {
                self.line(&format!("         lost: records {first} to {last} of the log"));
            }
        }
        self.line(&format!("         {advice}"));
    }
}

fn path(file: FileName) -> String {
    format!("{}/{}", names::directory_path(None, file.directory()), names::leaf(file))
}

fn shown(field: Field<'_>) -> String {
    match field {
        Field::Number(number) => number.to_string(),
        Field::Hex(number) => format!("{number:#x}"),
        Field::Text(text) => format!("\"{text}\""),
        Field::Flag(flag) => if flag { "yes" } else { "no" }.to_owned(),
        Field::Key(key) => format!("({})", key_text(key)),
    }
}

fn value(field: Field<'_>) -> Value {
    match field {
        Field::Number(number) => number.into(),
        Field::Hex(number) => format!("{number:#x}").into(),
        Field::Text(text) => text.into(),
        Field::Flag(flag) => flag.into(),
        Field::Key(key) => key_value(key),
    }
}

fn hidden(hides: &Hides) -> Value {
    match hides {
        Hides::Nothing => Value::Null,
        Hides::Unknown => "unknown".into(),
        Hides::Keys { low, high } => {
            json!({ "low": key_value(low.as_key()), "high": key_value(high.as_key()) })
        }
        Hides::Records { first, last } => json!({ "first": first, "last": last }),
    }
}

fn key_value(key: Key<'_>) -> Value {
    let prefix = key.prefix;
    json!({
        "space": prefix.space,
        "vnode": prefix.vnode,
        "table": prefix.table,
        "token": format!("{:#018x}", prefix.token),
        "partition": bytes_text(key.partition),
        "sort": bytes_text(key.sort),
    })
}

fn key_text(key: Key<'_>) -> String {
    let prefix = key.prefix;
    let mut text = format!(
        "vnode {} table {} token {:#018x} \"{}\"",
        prefix.vnode,
        prefix.table,
        prefix.token,
        bytes_text(key.partition)
    );
    if prefix.space != 1 {
        text.insert_str(0, &format!("space {} ", prefix.space));
    }
    if !key.sort.is_empty() {
        write!(text, " / \"{}\"", bytes_text(key.sort)).expect("a string takes it");
    }
    text
}

fn bytes_text(bytes: &[u8]) -> String {
    let shown = &bytes[..bytes.len().min(KEY_BYTES_SHOWN)];
    let mut text = shown.escape_ascii().to_string();
    if shown.len() < bytes.len() {
        write!(text, "... of {} bytes", bytes.len()).expect("a string takes it");
    }
    text
}
