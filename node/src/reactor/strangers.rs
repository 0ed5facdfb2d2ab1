//! Connections that were accepted and have not said who they are: where all places are taken, the oldest of them gives its own up.

use std::collections::VecDeque;

use super::table::Table;
use crate::env::Connection;

/// Strangers in the order in which they came. Some have said who they are meanwhile, or have gone.
#[derive(Debug, Default)]
pub(super) struct Strangers(VecDeque<Connection>);

impl Strangers {
    /// One has come. At most `connections_max` are there.
    pub(super) fn add(&mut self, connection: Connection, table: &mut Table, connections_max: usize) {
        self.0.push_back(connection);
        while self.0.front().is_some_and(|first| !table.is_stranger(*first)) {
            self.0.pop_front();
        }
        if self.0.len() > 2 * connections_max {
            // One that never says it is in the way of all behind it.
            self.0.retain(|name| table.is_stranger(*name));
        }
    }

    /// Takes the one that has said nothing for longest.
    pub(super) fn pop(&mut self, table: &mut Table) -> Option<Connection> {
        std::iter::from_fn(|| self.0.pop_front()).find(|name| table.is_stranger(*name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::Caller;
    use crate::reactor::table::Link;

    #[test]
    fn the_oldest_comes_first_and_whoever_has_said_it_or_gone_is_none() {
        let (mut strangers, mut table) = (Strangers::default(), Table::default());
        let names: Vec<Connection> = (0..4).map(|_| table.insert(Link::stranger())).collect();
        names.iter().for_each(|name| strangers.add(*name, &mut table, 4));
        table.greeted(names[0], Caller::Client, 4);
        table.remove(names[2]);
        assert_eq!(strangers.pop(&mut table), Some(names[1]));
        assert_eq!(strangers.pop(&mut table), Some(names[3]));
        assert_eq!(strangers.pop(&mut table), None);
    }

    /// A first one that never says it, and many that come and go behind it.
    #[test]
    fn those_that_have_gone_are_forgotten() {
        let (mut strangers, mut table) = (Strangers::default(), Table::default());
        let first = table.insert(Link::stranger());
        strangers.add(first, &mut table, 4);
        for _ in 0..1_000 {
            let name = table.insert(Link::stranger());
            strangers.add(name, &mut table, 4);
            table.remove(name);
            assert!(strangers.0.len() <= 8, "{}", strangers.0.len());
        }
        assert_eq!(strangers.pop(&mut table), Some(first));
    }
}
