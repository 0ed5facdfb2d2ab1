//! The order within preference lists.
//!
//! Position by position from the front, each member is to stand there at its share of the vnodes it still has, rounded down
//! or up. For the first position such an order always exists (each list giving one N-th to each of its members is one in
//! fractions, and flows between whole limits are whole); paths find it, and leave lists alone that are no part of one.

use std::collections::VecDeque;

use super::plan::Plan;

impl Plan {
    /// A new list begins with the member that comes first least often for its share so far.
    pub(super) fn seat_first(&mut self, vnode: usize, wanted: &[u32]) {
        let at = (0..self.width)
            .min_by_key(|at| {
                let member = self.at(vnode)[*at] as usize;
                (u64::from(self.firsts[member]) + 1) * (1 << 20) / u64::from(wanted[member].max(1))
            })
            .expect("a vnode has seats");
        self.promote(vnode, 0, at);
        let first = self.at(vnode)[0] as usize;
        self.firsts[first] += 1;
    }

    /// Evens out each position of the lists, the first one first.
    pub(super) fn order(&mut self) {
        for vnode in 0..self.vnodes() {
            self.racks_first(vnode, 0);
        }
        for position in 0..self.width - 1 {
            self.even_position(position);
        }
    }

    fn even_position(&mut self, position: usize) {
        let count = self.loads.len();
        let (mut here, mut left) = (vec![0u32; count], vec![0u32; count]);
        for vnode in 0..self.vnodes() {
            here[self.at(vnode)[position] as usize] += 1;
            self.at(vnode)[position..].iter().for_each(|member| left[*member as usize] += 1);
        }
        let seats = (self.width - position) as u32;
        let low: Vec<u32> = left.iter().map(|left| left / seats).collect();
        let high: Vec<u32> = left.iter().map(|left| left.div_ceil(seats)).collect();
        for _ in 0..self.vnodes() {
            let members = || 0..count;
            let over = members().find(|member| here[*member] > high[*member]);
            let under = members().find(|member| here[*member] < low[*member]);
            let path = match (over, under) {
                (Some(over), _) => self
                    .order_path(position, over, |member| here[member] < low[member])
                    .or_else(|| self.order_path(position, over, |member| here[member] < high[member])),
                (None, Some(_)) => members()
                    .filter(|member| here[*member] > low[*member])
                    .find_map(|giver| self.order_path(position, giver, |member| here[member] < low[member])),
                (None, None) => return,
            };
            // Later positions may have no such order where racks leave too little choice: then they stay as even as they are.
            let Some(path) = path else { return };
            for (vnode, from, to) in path {
                let at =
                    self.at(vnode).iter().position(|member| *member as usize == to).expect("a path's vnode");
                self.promote(vnode, position, at);
                here[from] -= 1;
                here[to] += 1;
            }
        }
    }

    /// The shortest way to take `from` off a position once and put one that `needs` it there instead.
    fn order_path(
        &self,
        position: usize,
        from: usize,
        needs: impl Fn(usize) -> bool,
    ) -> Option<Vec<(usize, usize, usize)>> {
        let mut reached_by: Vec<Option<(usize, usize)>> = vec![None; self.loads.len()];
        let mut queue = VecDeque::from([from]);
        while let Some(giver) = queue.pop_front() {
            for vnode in (0..self.vnodes()).filter(|vnode| self.at(*vnode)[position] as usize == giver) {
                for taker in self.at(vnode)[position + 1..].iter().map(|taker| *taker as usize) {
                    if taker == from || reached_by[taker].is_some() || !self.may_stand(vnode, position, taker)
                    {
                        continue;
                    }
                    reached_by[taker] = Some((vnode, giver));
                    if needs(taker) {
                        return Some(super::plan::trace(&reached_by, from, taker));
                    }
                    queue.push_back(taker);
                }
            }
        }
        None
    }

    /// Whether the racks before a position leave it to this member.
    fn may_stand(&self, vnode: usize, position: usize, member: usize) -> bool {
        let before = &self.at(vnode)[..position];
        position >= self.racks_wanted
            || before.iter().all(|other| self.racks[*other as usize] != self.racks[member])
    }

    /// Moves the member at `at` forward to `position`; those in between move back, but for racks.
    fn promote(&mut self, vnode: usize, position: usize, at: usize) {
        let start = vnode * self.width;
        self.seats[start + position..=start + at].rotate_right(1);
        self.racks_first(vnode, position + 1);
    }

    /// From a position on, brings forward members whose racks have not come yet, and otherwise keeps the order.
    fn racks_first(&mut self, vnode: usize, position: usize) {
        let start = vnode * self.width;
        for position in position..self.racks_wanted {
            let next = (position..self.width)
                .find(|at| self.may_stand(vnode, position, self.at(vnode)[*at] as usize))
                .expect("a list has as many racks as are wanted");
            self.seats[start + position..=start + next].rotate_right(1);
        }
    }
}
