//! The loop of a core.

mod reading;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::net::{TcpListener, TcpStream};
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::CoreError;
use super::breath::Breath;
use super::deferred::{Deferred, Share};
use super::listeners::Listeners;
use super::mailbox::Mail;
use super::shared::{Shared, clock_ns};
use super::spin::Spin;
use super::strangers::Strangers;
use super::table::{Link, connection, token};
use crate::env::{Connection, Handler, Received};
use crate::ring::{Doorbell, Event, Token, Wait};

/// Most messages of other threads handled in a turn, so that a flood of them does not hold up the sockets.
const MAIL_PER_TURN: usize = 512;
/// Longest time a core blocks, whatever its timers say.
const PARK_MAX_NS: u64 = 1_000_000_000;
/// What is told of a core that was told to stop before it had a shard, and did not get one in the time that a stop has.
const NOT_OPEN: &str = "its data was not open yet; the next start opens it";
const MILLISECOND_NS: u64 = 1_000_000;
/// How often connections that do not read are looked for while room is short.
const READERS_INTERVAL_NS: u64 = 100_000_000;

const DOORBELL: Token = Token(u64::MAX);

/// A shard that is being started, and then is there once.
type Started<H, E> = Rc<RefCell<Option<Result<H, E>>>>;

pub(super) struct Driver<H, E> {
    shared: Rc<Shared>,
    started: Started<H, E>,
    handler: Option<H>,
    listeners: Listeners,
    doorbell: Doorbell,
    spin: Spin,
    breath: Breath,
    events: Vec<Event>,
    /// The connections of the batch at hand that have something to send or to close.
    batch: Vec<Connection>,
    /// Connections on their way out, with the time their patience ends; in order of that time.
    leaving: VecDeque<(u64, Connection)>,
    /// What a turn does only a little of.
    deferred: Deferred,
    strangers: Strangers,
    /// When connections that do not read are looked for next, while room is short.
    readers_ns: u64,
    /// Set once the core was told to stop: when it ends in any case.
    stop_by_ns: Option<u64>,
}

impl<H: Handler, E> Driver<H, E> {
    pub(super) fn new(
        shared: Rc<Shared>,
        listeners: Vec<TcpListener>,
        started: Started<H, E>,
    ) -> io::Result<Driver<H, E>> {
        let doorbell = shared.mailbox.doorbell()?;
        shared.ring.watch(&doorbell, DOORBELL);
        Ok(Driver {
            spin: Spin::new(shared.options.spin_us * 1000),
            breath: Breath::new(clock_ns()),
            listeners: Listeners::new(listeners),
            shared,
            started,
            handler: None,
            doorbell,
            events: Vec::new(),
            batch: Vec::new(),
            leaving: VecDeque::new(),
            deferred: Deferred::default(),
            strangers: Strangers::default(),
            readers_ns: 0,
            stop_by_ns: None,
        })
    }

    pub(super) async fn run(mut self) -> Result<(), CoreError<E>> {
        let result = self.serve().await;
        let names = self.shared.table.borrow().names();
        for name in names {
            self.shared.table.borrow_mut().remove(name);
        }
        // What is received on them is given up only once they are closed.
        self.deferred.close_all();
        let left = self.shared.ring.shutdown();
        if left > 0 {
            tracing::warn!(core = self.shared.core.0, left, "operations did not end; their memory is leaked");
        }
        result
    }

    async fn serve(&mut self) -> Result<(), CoreError<E>> {
        loop {
            self.turn();
            if self.handler.is_none() {
                let started = self.started.borrow_mut().take();
                match started {
                    Some(Ok(handler)) => self.open_for_business(handler),
                    Some(Err(error)) => return Err(CoreError::Shard(error)),
                    None => {}
                }
            }
            if self.is_finished() {
                let ended = self.handler.as_ref().map(Handler::end);
                return ended.unwrap_or_else(|| Err(NOT_OPEN.to_owned())).map_err(CoreError::Disorder);
            }
            if self.breath.is_due(self.shared.now_ns.get(), self.shared.ring.files_in_flight()) {
                let from = clock_ns();
                std::thread::yield_now();
                self.breath.yielded(from, clock_ns());
                self.shared.count(|counters| counters.yields += 1);
            }
            if self.shared.tasks.take_runnable() {
                self.shared.ring.enter(Wait::No).map_err(CoreError::Ring)?;
                self.shared.slice_start.set(Instant::now());
                // Everything that is runnable now runs once before this task does again: the queue is first in, first out.
                glommio::executor().yield_now().await;
            } else {
                self.idle().map_err(CoreError::Ring)?;
            }
        }
    }

    fn open_for_business(&mut self, handler: H) {
        if self.stop_by_ns.is_some() {
            handler.on_stop();
        }
        self.handler = Some(handler);
        self.listeners.listen_all(&self.shared.ring);
    }

    /// Handles everything that has happened, and hands over what is to be sent.
    fn turn(&mut self) {
        self.shared.count(|counters| counters.turns += 1);
        let mut events = std::mem::take(&mut self.events);
        self.shared.ring.harvest(&mut events);
        let now = clock_ns();
        self.shared.now_ns.set(now);
        // Before what has come: it may want their places.
        self.deferred.close_some();
        self.receive_large();
        for event in events.drain(..) {
            self.on_event(event);
        }
        self.events = events;
        if self.handler.is_some() {
            for _ in 0..MAIL_PER_TURN {
                let Some(mail) = self.shared.mailbox.take() else { break };
                self.on_mail(mail);
            }
        }
        let failed = std::mem::take(&mut *self.shared.failed.borrow_mut());
        failed.into_iter().for_each(|name| self.on_broken(name));
        self.on_time(now);
        self.serve_heavy();
        if let Some(handler) = &self.handler {
            handler.on_batch_end();
        }
        self.flush(now);
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Received { token, buffer, result } => self.on_received(connection(token), buffer, result),
            Event::Sent { token, buffer, from, result } => {
                self.on_sent(connection(token), buffer, from, result);
            }
            Event::Accepted { token, stream } => {
                let listener = self.listeners.ended(token);
                match stream {
                    Ok(stream) => {
                        self.on_accepted(stream);
                        if let Some(at) = listener {
                            self.listeners.listen(&self.shared.ring, at);
                        }
                    }
                    Err(_) if listener.is_some() => self.listeners.failed(self.shared.now_ns.get()),
                    Err(_) => {}
                }
            }
            Event::Connected { token, stream } => self.on_connected(connection(token), stream),
            Event::Rung { .. } => self.shared.ring.watch(&self.doorbell, DOORBELL),
        }
    }

    fn on_accepted(&mut self, stream: TcpStream) {
        let shared = &self.shared;
        if self.handler.is_none() {
            return;
        }
        let there = shared.table.borrow().len() + self.deferred.ended();
        let is_full = there >= shared.options.connections_max;
        if self.stop_by_ns.is_some() || is_full && !self.close_stranger() {
            self.shared.count(|counters| counters.refused += 1);
            return;
        }
        let shared = &self.shared;
        shared.count(|counters| counters.accepted += 1);
        let link = Link::accepted(
            shared.adopt(stream),
            shared.options.receive_bytes,
            shared.unread.clone(),
            shared.large.clone(),
        );
        let name = shared.table.borrow_mut().insert(link);
        let connections_max = shared.options.connections_max;
        self.strangers.add(name, &mut shared.table.borrow_mut(), connections_max);
        if let Some(handler) = &self.handler {
            handler.on_accepted(name);
        }
        self.receive(name);
    }

    /// Closes the connection that has said for longest nothing of who it is. False = all have said it.
    fn close_stranger(&mut self) -> bool {
        let oldest = self.strangers.pop(&mut self.shared.table.borrow_mut());
        if let Some(name) = oldest {
            self.shared.count(|counters| counters.strangers += 1);
            self.on_broken(name);
        }
        oldest.is_some()
    }

    fn on_connected(&mut self, name: Connection, stream: io::Result<TcpStream>) {
        match stream {
            Ok(stream) => {
                let mut table = self.shared.table.borrow_mut();
                // Closed meanwhile: dropping the socket is all there is to do.
                let Some(link) = table.get(name) else { return };
                link.stream = Some(self.shared.adopt_outgoing(stream));
                self.shared.mark_dirty(name, link);
                drop(table);
                if let Some(handler) = &self.handler {
                    handler.on_connected(name);
                }
                self.receive(name);
            }
            Err(_) if self.shared.connect_next(name) => {}
            Err(_) => self.on_broken(name),
        }
    }

    fn on_received(&mut self, name: Connection, buffer: Vec<u8>, result: io::Result<usize>) {
        let mut table = self.shared.table.borrow_mut();
        let Some(link) = table.get(name) else { return };
        let count = match result {
            Ok(count) => count,
            Err(error) if is_passing(&error) => {
                link.input.give_back(buffer, 0, self.shared.options.receive_bytes);
                drop(table);
                return self.receive(name);
            }
            Err(_) => {
                drop(table);
                return self.on_broken(name);
            }
        };
        link.unread.received(count);
        link.input.give_back(buffer, count, self.shared.options.receive_bytes);
        if link.closing {
            return;
        }
        if count == 0 {
            // The peer will send nothing more, but may read what was answered.
            link.closing = true;
            self.shared.mark_dirty(name, link);
            drop(table);
            if let Some(handler) = &self.handler {
                handler.on_closed(name);
            }
            return;
        }
        let waits = link.waits_for_share;
        if waits {
            link.unread.begins(self.shared.now_ns.get());
        }
        drop(table);
        self.shared.count(|counters| counters.received_bytes += count as u64);
        if waits {
            return self.deferred.push(name);
        }
        self.deliver(name);
        self.receive(name);
    }

    /// Serves those that ask for much, as far as a turn goes for that.
    fn serve_heavy(&mut self) {
        let mut share = Share::of_a_turn();
        while let Some(name) = self.deferred.pop(&share) {
            share.spend(self.deliver(name));
            self.receive(name);
        }
    }

    /// Shows the handler what is unread; how many bytes it answered at once.
    fn deliver(&mut self, name: Connection) -> usize {
        let Some(handler) = &self.handler else { return 0 };
        let options = &self.shared.options;
        let (mut input, had) = {
            let mut table = self.shared.table.borrow_mut();
            let Some(link) = table.get(name).filter(|link| !link.closing) else { return 0 };
            link.had_no_room = false;
            link.unread.delivers(self.shared.now_ns.get(), link.input.unread().len());
            (std::mem::replace(&mut link.input, super::buffers::Input::new(0)), link.output.queued_bytes())
        };
        let received = handler.on_received(name, input.unread());
        let mut table = self.shared.table.borrow_mut();
        let Some(link) = table.get(name) else { return 0 };
        let answered = link.output.queued_bytes() - had;
        let mut stuck = false;
        match received {
            Received::Consumed { used, need } => {
                link.delivered(used, answered);
                input.consume(used);
                link.need = need;
                stuck = need > options.input_bytes_max || input.unread().len() > options.input_bytes_max;
                link.closing |= stuck;
            }
            Received::Close => link.closing = true,
        }
        link.input = input;
        if link.closing {
            self.shared.mark_dirty(name, link);
        }
        drop(table);
        if stuck {
            handler.on_closed(name);
        }
        answered
    }

    fn on_sent(&mut self, name: Connection, buffer: Vec<u8>, from: usize, result: io::Result<usize>) {
        let options = &self.shared.options;
        let mut table = self.shared.table.borrow_mut();
        let Some(link) = table.get(name) else { return };
        let Some(stream) = &link.stream else { return };
        let sent = match result {
            Ok(sent) => sent,
            Err(error) if is_passing(&error) => 0,
            Err(_) => {
                drop(table);
                return self.on_broken(name);
            }
        };
        self.shared.count(|counters| counters.sent_bytes += sent as u64);
        if from + sent < buffer.len() {
            if sent > 0 {
                link.output.went_on(self.shared.now_ns.get());
            }
            self.shared.ring.send(stream, buffer, from + sent, token(name));
            return;
        }
        link.output.finish(buffer);
        if !link.output.is_clear() || link.closing {
            self.shared.mark_dirty(name, link);
        }
        if link.paused_ns.is_some() && link.output.queued_bytes() < options.pause_bytes / 2 {
            link.paused_ns = None;
            // What the handler left unread because it had no room may be all that will ever come.
            let (unread, waits) = (!link.input.unread().is_empty(), link.waits_for_share);
            drop(table);
            if unread && waits {
                return self.deferred.push(name);
            }
            if unread {
                self.deliver(name);
            }
            self.receive(name);
        }
    }

    /// The connection is of no use any more, in either direction.
    fn on_broken(&mut self, name: Connection) {
        let Some(link) = self.shared.table.borrow_mut().remove(name) else { return };
        if !link.closing
            && let Some(handler) = &self.handler
        {
            handler.on_closed(name);
        }
        self.deferred.end(link);
    }

    fn on_mail(&mut self, mail: Mail) {
        match mail {
            Mail::Hop { from, message } => {
                if let Some(handler) = &self.handler {
                    handler.on_hop(from, message);
                }
            }
            Mail::Resolved { connection, addresses } => {
                self.shared.resolved();
                self.shared.connect_to(connection, addresses);
            }
        }
    }

    fn on_time(&mut self, now: u64) {
        loop {
            let due = self.shared.sleeps.borrow_mut().pop_due(now);
            let Some(waker) = due else { break };
            waker.wake();
        }
        if let Some(handler) = &self.handler
            && handler.next_timer().is_some_and(|at| at <= now)
        {
            handler.on_timer(now);
        }
        if (self.shared.is_crowded() || self.deferred.is_awaited()) && now >= self.readers_ns {
            self.readers_ns = now + READERS_INTERVAL_NS;
            self.close_slow_readers(now);
        }
        while let Some(&(until, name)) = self.leaving.front()
            && until <= now
        {
            self.leaving.pop_front();
            if let Some(link) = self.shared.table.borrow_mut().remove(name) {
                self.deferred.end(link);
            }
        }
        self.listeners.on_time(&self.shared.ring, now);
        if self.stop_by_ns.is_none() && self.shared.mailbox.is_stopped() {
            self.stop(now);
        }
    }

    fn stop(&mut self, now: u64) {
        self.stop_by_ns = Some(now + self.shared.options.drain_ms * MILLISECOND_NS);
        self.listeners.stop(&self.shared.ring);
        if let Some(handler) = &self.handler {
            handler.on_stop();
        }
    }

    /// Sends what the batch has queued, one send per connection, and lets go of those that are done.
    fn flush(&mut self, now: u64) {
        std::mem::swap(&mut self.batch, &mut *self.shared.dirty.borrow_mut());
        let mut table = self.shared.table.borrow_mut();
        for name in self.batch.drain(..) {
            let Some(link) = table.get(name) else { continue };
            link.dirty = false;
            if link.closing && link.outgoing {
                // Nobody waits for what was asked on it any more.
                table.remove(name).into_iter().for_each(|link| self.deferred.end(link));
                continue;
            }
            let Some(stream) = &link.stream else { continue };
            if let Some(buffer) = link.output.start(now) {
                self.shared.count(|counters| counters.sends += 1);
                self.shared.ring.send(stream, buffer, 0, token(name));
            }
            if link.closing {
                if link.output.is_clear() {
                    table.remove(name).into_iter().for_each(|link| self.deferred.end(link));
                } else {
                    self.leaving.push_back((now + self.shared.options.linger_ms * MILLISECOND_NS, name));
                }
            }
        }
    }

    fn is_finished(&self) -> bool {
        let Some(stop_by_ns) = self.stop_by_ns else { return false };
        if self.shared.now_ns.get() >= stop_by_ns {
            return true;
        }
        let drained = self.handler.as_ref().is_some_and(|handler| handler.is_drained());
        // Mail is looked for last: what a core has sent that was found ended is there by then.
        drained && self.shared.tasks.alive() == 0 && !self.has_mail() && {
            let names = self.shared.table.borrow().names();
            let mut table = self.shared.table.borrow_mut();
            names.into_iter().all(|name| {
                table.get(name).is_none_or(|link| link.stream.is_none() || link.output.is_clear())
            })
        }
    }

    /// Nothing is runnable: spins for a moment if that has paid lately, then blocks until something happens.
    fn idle(&mut self) -> io::Result<()> {
        let shared = &self.shared;
        shared.ring.enter(Wait::No)?;
        if shared.ring.is_pending() || self.has_mail() {
            // Sends complete as they are submitted: that says nothing about whether spinning pays.
            return shared.ring.enter(Wait::No);
        }
        let budget = self.spin.budget_ns();
        if budget > 0 {
            let from = Instant::now();
            let hit = loop {
                if shared.ring.is_pending() || self.has_mail() {
                    break true;
                }
                if from.elapsed() >= Duration::from_nanos(budget) {
                    break false;
                }
                std::hint::spin_loop();
            };
            self.spin.spun(hit);
            if hit {
                shared.count(|counters| counters.spin_hits += 1);
                return shared.ring.enter(Wait::No);
            }
        }
        let from = clock_ns();
        let wait_ns = self.next_ns().saturating_sub(from).min(PARK_MAX_NS);
        if wait_ns == 0 {
            return shared.ring.enter(Wait::No);
        }
        self.doorbell.before_sleep();
        let entered = if self.has_mail() || self.has_unheard_stop() {
            shared.ring.enter(Wait::No)
        } else {
            shared.count(|counters| counters.parks += 1);
            shared.ring.enter(Wait::For(Duration::from_nanos(wait_ns)))
        };
        self.doorbell.after_sleep();
        let until = clock_ns();
        self.spin.blocked(until - from);
        self.breath.rested(until);
        entered
    }

    /// Mail waits for the shard: another core may be up first, and its hops are not lost.
    fn has_mail(&self) -> bool {
        self.handler.is_some() && self.shared.mailbox.has_news()
    }

    fn has_unheard_stop(&self) -> bool {
        self.stop_by_ns.is_none() && self.shared.mailbox.is_stopped()
    }

    /// When something is to be done even if nothing happens.
    fn next_ns(&self) -> u64 {
        let timers = [
            self.handler.as_ref().and_then(|handler| handler.next_timer()),
            self.shared.sleeps.borrow().next_ns(),
            self.leaving.front().map(|(until, _)| *until),
            self.listeners.next_ns(),
            self.stop_by_ns,
            // Whatever these hold is handled by the next turn.
            (!self.shared.failed.borrow().is_empty() || !self.shared.dirty.borrow().is_empty()).then_some(0),
            (!self.deferred.is_idle()).then_some(0),
        ];
        timers.into_iter().flatten().min().unwrap_or(u64::MAX)
    }
}

/// Errors after which the same operation may be tried again.
fn is_passing(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN))
}
