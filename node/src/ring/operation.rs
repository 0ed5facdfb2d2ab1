//! Operations in flight: what each owns, and the slot it lives in from queuing to completion.
//!
//! Invariant: while a slot is busy its operation is neither dropped nor touched, except by completion. All memory whose
//! address the kernel knows is behind a heap pointer of the operation, so moving the operation (the table may grow) is fine.

use std::ffi::CString;
use std::fs::File;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::{io, mem};

use io_uring::squeue::Entry;
use io_uring::{opcode, types};

use super::aligned::AlignedBuffer;
use super::network::{Event, Token};

/// Everything an operation needs until the kernel is done with it.
pub(super) enum Operation {
    Accept { listener: Rc<TcpListener> },
    Connect { stream: TcpStream, address: Vec<libc::sockaddr_storage>, address_bytes: u32 },
    Receive { stream: Rc<TcpStream>, buffer: Vec<u8> },
    Send { stream: Rc<TcpStream>, buffer: Vec<u8>, from: usize },
    Doorbell { event: Rc<File>, word: Vec<u64> },
    Read { file: Rc<File>, at: u64, buffer: AlignedBuffer },
    Write { file: Rc<File>, at: u64, buffer: AlignedBuffer, data_sync: bool },
    Sync { file: Rc<File>, data_only: bool },
    Allocate { file: Rc<File>, at: u64, bytes: u64 },
    Open { directory: Rc<File>, path: CString, flags: i32 },
    MakeDirectory { directory: Rc<File>, path: CString },
    Unlink { directory: Rc<File>, path: CString },
    Rename { directory: Rc<File>, from: CString, to: CString, replace: bool },
    Link { directory: Rc<File>, from: CString, to: CString },
}

/// What a finished operation gives back beside its result.
pub(super) enum Payload {
    Nothing,
    Buffer(AlignedBuffer),
    File(File),
}

/// Permissions of new files and directories, before the process's mask.
const FILE_MODE: u32 = 0o640;
const DIRECTORY_MODE: u32 = 0o750;

impl Operation {
    /// The submission entry, pointing into this operation.
    pub(super) fn entry(&mut self) -> Entry {
        let fd = |fd: &dyn AsRawFd| types::Fd(fd.as_raw_fd());
        match self {
            Operation::Accept { listener } => {
                let (address, len) = (std::ptr::null_mut(), std::ptr::null_mut());
                opcode::Accept::new(fd(&**listener), address, len).flags(libc::SOCK_CLOEXEC).build()
            }
            Operation::Connect { stream, address, address_bytes } => {
                opcode::Connect::new(fd(stream), address.as_ptr().cast(), *address_bytes).build()
            }
            Operation::Receive { stream, buffer } => {
                let spare = buffer.spare_capacity_mut();
                let bytes = u32::try_from(spare.len()).unwrap_or(u32::MAX);
                opcode::Recv::new(fd(&**stream), spare.as_mut_ptr().cast(), bytes).build()
            }
            Operation::Send { stream, buffer, from } => {
                let rest = &buffer[*from..];
                let bytes = u32::try_from(rest.len()).unwrap_or(u32::MAX);
                // Not MSG_WAITALL: each part that is taken shows that the other side reads.
                opcode::Send::new(fd(&**stream), rest.as_ptr(), bytes).flags(libc::MSG_NOSIGNAL).build()
            }
            Operation::Doorbell { event, word } => {
                opcode::Read::new(fd(&**event), word.as_mut_ptr().cast(), 8).build()
            }
            Operation::Read { file, at, buffer } => {
                let bytes = buffer.len() as u32;
                opcode::Read::new(fd(&**file), buffer.as_mut_ptr(), bytes).offset(*at).build()
            }
            Operation::Write { file, at, buffer, data_sync } => {
                let flags = if *data_sync { libc::RWF_DSYNC } else { 0 };
                let bytes = buffer.len() as u32;
                opcode::Write::new(fd(&**file), buffer.as_ptr(), bytes).offset(*at).rw_flags(flags).build()
            }
            Operation::Sync { file, data_only } => {
                let flags = if *data_only { types::FsyncFlags::DATASYNC } else { types::FsyncFlags::empty() };
                opcode::Fsync::new(fd(&**file)).flags(flags).build()
            }
            Operation::Allocate { file, at, bytes } => {
                opcode::Fallocate::new(fd(&**file), *bytes).offset(*at).build()
            }
            Operation::Open { directory, path, flags } => {
                opcode::OpenAt::new(fd(&**directory), path.as_ptr())
                    .flags(*flags | libc::O_CLOEXEC)
                    .mode(FILE_MODE)
                    .build()
            }
            Operation::MakeDirectory { directory, path } => {
                opcode::MkDirAt::new(fd(&**directory), path.as_ptr()).mode(DIRECTORY_MODE).build()
            }
            Operation::Unlink { directory, path } => {
                opcode::UnlinkAt::new(fd(&**directory), path.as_ptr()).build()
            }
            Operation::Rename { directory, from, to, replace } => {
                let flags = if *replace { 0 } else { libc::RENAME_NOREPLACE };
                let directory = fd(&**directory);
                opcode::RenameAt::new(directory, from.as_ptr(), directory, to.as_ptr()).flags(flags).build()
            }
            Operation::Link { directory, from, to } => {
                let directory = fd(&**directory);
                opcode::LinkAt::new(directory, from.as_ptr(), directory, to.as_ptr()).build()
            }
        }
    }

    /// Takes the operation apart after its last completion.
    fn payload(self, result: i32) -> Payload {
        match self {
            Operation::Read { buffer, .. } | Operation::Write { buffer, .. } => Payload::Buffer(buffer),
            Operation::Open { .. } if result >= 0 => {
                // SAFETY: the kernel has just made this descriptor for us, and nobody else knows it.
                Payload::File(unsafe { File::from_raw_fd(result) })
            }
            _ => Payload::Nothing,
        }
    }
}

/// Names an operation: its slot, and the slot's generation, so that a stale completion finds nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key {
    slot: u32,
    generation: u32,
}

impl Key {
    pub(super) fn user_data(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.slot)
    }

    pub(super) fn from_user_data(data: u64) -> Key {
        Key { slot: data as u32, generation: (data >> 32) as u32 }
    }
}

/// Who hears of the completion.
enum Listener {
    Event(Token),
    Task(Option<Waker>),
    Nobody,
}

enum State {
    Free {
        next: Option<u32>,
    },
    Busy {
        operation: Operation,
        listener: Listener,
    },
    Done {
        result: i32,
        payload: Payload,
    },
    /// Completed: an event waiting to be taken.
    Event {
        operation: Operation,
        token: Token,
        result: i32,
    },
}

struct Slot {
    generation: u32,
    state: State,
}

/// The operations of a ring.
#[derive(Default)]
pub(super) struct Slots {
    slots: Vec<Slot>,
    free: Option<u32>,
    busy: usize,
    /// Those of them that are ticketed.
    ticketed: usize,
}

impl Slots {
    pub(super) fn insert(&mut self, operation: Operation, token: Option<Token>) -> Key {
        let listener = token.map_or(Listener::Task(None), Listener::Event);
        let state = State::Busy { operation, listener };
        self.busy += 1;
        self.ticketed += usize::from(token.is_none());
        match self.free {
            Some(slot) => {
                let entry = &mut self.slots[slot as usize];
                let State::Free { next } = mem::replace(&mut entry.state, state) else {
                    unreachable!("the free list holds free slots only")
                };
                self.free = next;
                Key { slot, generation: entry.generation }
            }
            None => {
                let slot = u32::try_from(self.slots.len()).expect("fewer than 2^32 operations in flight");
                self.slots.push(Slot { generation: 0, state });
                Key { slot, generation: 0 }
            }
        }
    }

    pub(super) fn busy(&self) -> usize {
        self.busy
    }

    pub(super) fn ticketed(&self) -> usize {
        self.ticketed
    }

    pub(super) fn operation(&mut self, key: Key) -> &mut Operation {
        match &mut self.slot(key).state {
            State::Busy { operation, .. } => operation,
            _ => unreachable!("only a busy slot is submitted"),
        }
    }

    /// Records a completion. Returns whom to wake.
    pub(super) fn complete(&mut self, key: Key, result: i32) -> Option<Waker> {
        let slot = self.slot(key);
        let State::Busy { operation, listener } = mem::replace(&mut slot.state, State::Free { next: None })
        else {
            unreachable!("a completion for an operation that is not in flight")
        };
        match listener {
            Listener::Event(token) => {
                slot.state = State::Event { operation, token, result };
                None
            }
            Listener::Task(waker) => {
                slot.state = State::Done { result, payload: operation.payload(result) };
                (self.busy, self.ticketed) = (self.busy - 1, self.ticketed - 1);
                waker
            }
            Listener::Nobody => {
                // Closes what was opened, gives back what was lent.
                drop(operation.payload(result));
                (self.busy, self.ticketed) = (self.busy - 1, self.ticketed - 1);
                self.release(key);
                None
            }
        }
    }

    /// The event of a network operation that has just completed, if `key` names one.
    pub(super) fn take_event(&mut self, key: Key) -> Option<Event> {
        let slot = self.slots.get_mut(key.slot as usize).filter(|slot| slot.generation == key.generation)?;
        if !matches!(slot.state, State::Event { .. }) {
            return None;
        }
        let State::Event { operation, token, result } =
            mem::replace(&mut slot.state, State::Free { next: None })
        else {
            unreachable!("just matched")
        };
        let outcome =
            if result < 0 { Err(io::Error::from_raw_os_error(-result)) } else { Ok(result as usize) };
        let event = match operation {
            Operation::Accept { .. } => {
                let stream = outcome.map(|_| {
                    // SAFETY: a successful accept hands over a fresh descriptor.
                    unsafe { TcpStream::from_raw_fd(result) }
                });
                Event::Accepted { token, stream }
            }
            Operation::Connect { stream, .. } => Event::Connected { token, stream: outcome.map(|_| stream) },
            Operation::Receive { mut buffer, .. } => {
                if let Ok(bytes) = outcome {
                    let len = buffer.len() + bytes;
                    assert!(len <= buffer.capacity(), "the kernel wrote past a buffer");
                    // SAFETY: the kernel initialised `bytes` bytes of the spare capacity.
                    unsafe { buffer.set_len(len) };
                }
                Event::Received { token, buffer, result: outcome }
            }
            Operation::Send { buffer, from, .. } => Event::Sent { token, buffer, from, result: outcome },
            Operation::Doorbell { .. } => Event::Rung { token },
            _ => unreachable!("file operations are ticketed"),
        };
        self.busy -= 1;
        self.release(key);
        Some(event)
    }

    /// The outcome of a ticketed operation, or the promise to wake `context`.
    pub(super) fn poll(&mut self, key: Key, context: &Context<'_>) -> Poll<(i32, Payload)> {
        let slot = self.slot(key);
        match &mut slot.state {
            State::Busy { listener: Listener::Task(waker), .. } => {
                match waker {
                    Some(old) => old.clone_from(context.waker()),
                    None => *waker = Some(context.waker().clone()),
                }
                Poll::Pending
            }
            State::Done { .. } => {
                let State::Done { result, payload } =
                    mem::replace(&mut slot.state, State::Free { next: None })
                else {
                    unreachable!("just matched")
                };
                self.release(key);
                Poll::Ready((result, payload))
            }
            _ => unreachable!("a ticket is polled to its end once"),
        }
    }

    /// Nobody waits for this ticketed operation any more.
    pub(super) fn detach(&mut self, key: Key) -> Option<Payload> {
        let slot = self.slot(key);
        match &mut slot.state {
            State::Busy { listener, .. } => {
                *listener = Listener::Nobody;
                None
            }
            State::Done { .. } => {
                let State::Done { payload, .. } = mem::replace(&mut slot.state, State::Free { next: None })
                else {
                    unreachable!("just matched")
                };
                self.release(key);
                Some(payload)
            }
            State::Free { .. } | State::Event { .. } => unreachable!("a ticket names its own operation"),
        }
    }

    fn slot(&mut self, key: Key) -> &mut Slot {
        let slot = &mut self.slots[key.slot as usize];
        assert_eq!(slot.generation, key.generation, "a stale operation key");
        slot
    }

    fn release(&mut self, key: Key) {
        let next = self.free.replace(key.slot);
        let slot = self.slot(key);
        slot.generation = slot.generation.wrapping_add(1);
        slot.state = State::Free { next };
    }
}
