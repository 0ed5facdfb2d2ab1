//! The seeds: where members may be, and when they are asked who they are.

use std::net::SocketAddr;

use super::SEEDS_MAX;
use super::random::Random;

/// A seed that is no member is asked once in so many periods for joining by a node that knows others.
const EVERY_JOINS: u64 = 10;

/// Addresses, and how often it has been time to ask.
#[derive(Debug)]
pub(super) struct Seeds {
    addresses: Vec<SocketAddr>,
    joins: u64,
}

impl Seeds {
    /// # Panics
    /// If there are more than [`SEEDS_MAX`].
    pub(super) fn new(addresses: Vec<SocketAddr>) -> Seeds {
        assert!(addresses.len() <= SEEDS_MAX, "at most {SEEDS_MAX} seeds");
        Seeds { addresses, joins: 0 }
    }

    /// Whom to ask in this period for joining: all while this node is alone, and now and then one that is no member: two halves of a
    /// cluster that were begun apart find each other so.
    pub(super) fn due(
        &mut self,
        is_alone: bool,
        own: SocketAddr,
        is_member: impl Fn(SocketAddr) -> bool,
        random: &mut Random,
    ) -> Vec<SocketAddr> {
        self.joins += 1;
        if !is_alone && !self.joins.is_multiple_of(EVERY_JOINS) {
            return Vec::new();
        }
        let others = self.addresses.iter().copied().filter(|seed| *seed != own && !is_member(*seed));
        let mut others: Vec<SocketAddr> = others.collect();
        if !is_alone && others.len() > 1 {
            let chosen = random.below(others.len() as u64) as usize;
            others = vec![others[chosen]];
        }
        others
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seed(host: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, host], 7_000))
    }

    #[test]
    fn a_node_that_is_alone_asks_all_seeds_and_one_that_is_not_asks_a_stranger_now_and_then() {
        let (mut seeds, mut random) = (Seeds::new((1..=4).map(seed).collect()), Random::new(1));
        let mut due = |is_alone| seeds.due(is_alone, seed(1), |at| at == seed(2), &mut random);
        assert_eq!(due(true), [seed(3), seed(4)], "neither itself nor a member");
        let asked: Vec<Vec<SocketAddr>> = (1..=2 * EVERY_JOINS).map(|_| due(false)).collect();
        let asked: Vec<&Vec<SocketAddr>> = asked.iter().filter(|asked| !asked.is_empty()).collect();
        assert_eq!(asked.len(), 2);
        assert!(asked.iter().all(|asked| [vec![seed(3)], vec![seed(4)]].contains(asked)), "{asked:?}");
    }
}
