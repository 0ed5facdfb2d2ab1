//! Reads under way, so that those who miss the same block or value share one.
//!
//! The first to miss leads and reads; the others wait. A leader that is dropped before it has landed (its request ran out of
//! time) wakes them all with nothing, and the first to ask again leads. As many wait as there are requests in flight,
//! which are bounded where they are admitted.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use super::item::ItemKey;
use crate::ReadError;

type Landing<T> = Result<T, ReadError>;

/// See the module; `T` is what is read.
pub(super) struct Flights<T> {
    under_way: RefCell<BTreeMap<ItemKey, Rc<Flight<T>>>>,
}

struct Flight<T> {
    state: RefCell<State<T>>,
}

struct State<T> {
    /// Set once, when the flight is over: `Some(None)` = its leader went away.
    over: Option<Option<Landing<T>>>,
    /// Of the followers, each at the place it was given.
    wakers: Vec<Option<Waker>>,
}

/// What a reader has to do.
pub(super) enum Role<'a, T> {
    /// Read, and land.
    Leader(Lead<'a, T>),
    /// Wait.
    Follower(Wait<T>),
}

impl<T> Default for Flights<T> {
    fn default() -> Self {
        Flights { under_way: RefCell::new(BTreeMap::new()) }
    }
}

impl<T> Flights<T> {
    pub(super) fn join(&self, key: ItemKey) -> Role<'_, T> {
        let mut under_way = self.under_way.borrow_mut();
        if let Some(flight) = under_way.get(&key) {
            return Role::Follower(Wait { flight: Rc::clone(flight), place: None });
        }
        let state = RefCell::new(State { over: None, wakers: Vec::new() });
        let flight = Rc::new(Flight { state });
        under_way.insert(key, Rc::clone(&flight));
        Role::Leader(Lead { flights: self, key, flight, landing: None })
    }

    #[cfg(test)]
    pub(super) fn is_idle(&self) -> bool {
        self.under_way.borrow().is_empty()
    }
}

/// The duty to end a flight; dropping it does, too.
pub(super) struct Lead<'a, T> {
    flights: &'a Flights<T>,
    key: ItemKey,
    flight: Rc<Flight<T>>,
    landing: Option<Landing<T>>,
}

impl<T> Lead<'_, T> {
    /// Gives everyone who waits the result.
    pub(super) fn land(mut self, landing: Landing<T>) {
        self.landing = Some(landing);
    }
}

impl<T> Drop for Lead<'_, T> {
    fn drop(&mut self) {
        self.flights.under_way.borrow_mut().remove(&self.key);
        let mut state = self.flight.state.borrow_mut();
        state.over = Some(self.landing.take());
        let wakers = std::mem::take(&mut state.wakers);
        drop(state);
        wakers.into_iter().flatten().for_each(Waker::wake);
    }
}

/// Waits for the end of a flight; `None` = its leader went away.
pub(super) struct Wait<T> {
    flight: Rc<Flight<T>>,
    place: Option<usize>,
}

impl<T: Clone> Future for Wait<T> {
    type Output = Option<Landing<T>>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.flight.state.borrow_mut();
        if let Some(over) = &state.over {
            return Poll::Ready(over.clone());
        }
        let place = self.place.unwrap_or(state.wakers.len());
        match state.wakers.get_mut(place) {
            Some(Some(waker)) => waker.clone_from(context.waker()),
            Some(slot) => *slot = Some(context.waker().clone()),
            None => state.wakers.push(Some(context.waker().clone())),
        }
        drop(state);
        self.place = Some(place);
        Poll::Pending
    }
}

impl<T> Drop for Wait<T> {
    fn drop(&mut self) {
        if let Some(place) = self.place
            && let Some(slot) = self.flight.state.borrow_mut().wakers.get_mut(place)
        {
            *slot = None;
        }
    }
}
