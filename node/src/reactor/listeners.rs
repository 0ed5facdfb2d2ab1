//! The sockets on which a core accepts connections: one at a time each, so that those that come do not hold up those that are there.

use std::net::TcpListener;
use std::rc::Rc;

use super::table::GENERATION_RESERVED;
use crate::ring::{Listening, Ring, Token};

/// Pause before accepting again after accepting failed, for instance for want of descriptors.
const RETRY_NS: u64 = 100_000_000;

struct Listener {
    socket: Rc<TcpListener>,
    listening: Option<Listening>,
}

/// All of a core.
pub(super) struct Listeners {
    all: Vec<Listener>,
    /// When those that failed are tried again.
    again_ns: Option<u64>,
}

impl Listeners {
    /// None of them accepts before [`Listeners::listen_all`].
    pub(super) fn new(sockets: Vec<TcpListener>) -> Listeners {
        let listener = |socket| Listener { socket: Rc::new(socket), listening: None };
        Listeners { all: sockets.into_iter().map(listener).collect(), again_ns: None }
    }

    /// Lets each that does not wait for a connection do so.
    pub(super) fn listen_all(&mut self, ring: &Ring) {
        for at in 0..self.all.len() {
            if self.all[at].listening.is_none() {
                self.listen(ring, at);
            }
        }
    }

    /// Lets one wait for its next connection.
    pub(super) fn listen(&mut self, ring: &Ring, at: usize) {
        let token = Token(u64::from(GENERATION_RESERVED) << 32 | at as u64);
        let listener = &mut self.all[at];
        listener.listening = Some(ring.accept(listener.socket.clone(), token));
    }

    /// A wait of one has ended, with a connection or in vain: which one, unless it was stopped meanwhile.
    pub(super) fn ended(&mut self, token: Token) -> Option<usize> {
        let at = token.0 as u32 as usize;
        self.all.get_mut(at)?.listening = None;
        Some(at)
    }

    /// It was in vain.
    pub(super) fn failed(&mut self, now_ns: u64) {
        self.again_ns = Some(now_ns + RETRY_NS);
    }

    /// Tries those again that failed, once it is time.
    pub(super) fn on_time(&mut self, ring: &Ring, now_ns: u64) {
        if self.again_ns.is_some_and(|at| at <= now_ns) {
            self.again_ns = None;
            self.listen_all(ring);
        }
    }

    /// When that is wanted.
    pub(super) fn next_ns(&self) -> Option<u64> {
        self.again_ns
    }

    /// Accepts nothing more.
    pub(super) fn stop(&mut self, ring: &Ring) {
        for listener in self.all.drain(..) {
            if let Some(listening) = listener.listening {
                ring.stop_listening(listening);
            }
        }
        self.again_ns = None;
    }
}
