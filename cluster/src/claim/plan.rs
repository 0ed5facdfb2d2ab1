//! A claim in the making: seats at vnodes, taken by members. Members and racks are named by their place.

use ferrite_wire::NodeId;
use std::collections::VecDeque;

use super::Member;

const EMPTY: u16 = u16::MAX;

/// Who sits where.
pub(super) struct Plan {
    /// Seats at each vnode: min(N, members).
    pub(super) width: usize,
    /// `width` seats for each vnode.
    pub(super) seats: Vec<u16>,
    /// Who sat where before: only who was not there has to move.
    old_seats: Vec<u16>,
    /// The rack of each member, numbered from 0 without gaps.
    pub(super) racks: Vec<u16>,
    /// How many racks a vnode is to have: min(width, racks).
    pub(super) racks_wanted: usize,
    /// How many seats each member has.
    pub(super) loads: Vec<u32>,
    /// How many new lists begin with each member so far.
    pub(super) firsts: Vec<u32>,
}

impl Plan {
    /// The old lists without those who have gone, cut or extended with empty seats to the new width.
    pub(super) fn of(old: &[Vec<NodeId>], members: &[&Member], replication: usize) -> Plan {
        let width = replication.min(members.len());
        let racks = number_racks(members);
        let rack_count = racks.iter().max().map_or(0, |last| *last as usize + 1);
        let mut plan = Plan {
            width,
            seats: vec![EMPTY; old.len() * width],
            old_seats: Vec::new(),
            racks,
            racks_wanted: width.min(rack_count),
            loads: vec![0; members.len()],
            firsts: vec![0; members.len()],
        };
        for (list, seats) in old.iter().zip(plan.seats.chunks_mut(width)) {
            let mut taken = 0;
            for id in list {
                let Ok(member) = members.binary_search_by_key(id, |member| member.id) else { continue };
                if taken < width && !seats[..taken].contains(&(member as u16)) {
                    seats[taken] = member as u16;
                    plan.loads[member] += 1;
                    taken += 1;
                }
            }
        }
        plan.old_seats.clone_from(&plan.seats);
        plan
    }

    pub(super) fn vnodes(&self) -> usize {
        self.seats.len() / self.width
    }

    pub(super) fn at(&self, vnode: usize) -> &[u16] {
        &self.seats[vnode * self.width..(vnode + 1) * self.width]
    }

    /// Walks the circle clockwise and gives each empty seat to the member that is furthest behind its pace.
    pub(super) fn fill(&mut self, wanted: &[u32]) {
        let count = self.racks.len();
        let holes = self.seats.iter().filter(|seat| **seat == EMPTY).count() as i64;
        let missing: Vec<i64> =
            (0..count).map(|member| i64::from(wanted[member]) - i64::from(self.loads[member])).collect();
        let mut given = vec![0i64; count];
        let mut filled = 0;
        for vnode in 0..self.vnodes() {
            let is_new = self.at(vnode).iter().all(|seat| *seat == EMPTY);
            let empty = vnode * self.width..(vnode + 1) * self.width;
            for seat in empty.filter(|seat| self.seats[*seat] == EMPTY).collect::<Vec<_>>() {
                filled += 1;
                let best = (0..count)
                    .filter(|member| !self.at(vnode).contains(&(*member as u16)))
                    .max_by_key(|member| {
                        // Half a replica of chance: neighbours mix, and the pace stays close.
                        let chance = (scatter(vnode, *member) % (holes as u64).div_ceil(2)) as i64;
                        let behind = filled * missing[*member] - holes * given[*member];
                        let needs = given[*member] < missing[*member];
                        (!self.rack_is_taken(vnode, *member), needs, behind + chance)
                    })
                    .expect("there are no more seats at a vnode than members");
                given[best] += 1;
                self.sit(seat, best);
            }
            if is_new {
                self.seat_first(vnode, wanted);
            }
        }
    }

    /// Moves replicas out of racks that a vnode has twice while another rack has none of it: the old lists may be older than
    /// the rack.
    pub(super) fn spread_racks(&mut self, wanted: &[u32]) {
        let room = |plan: &Plan, member: usize| i64::from(wanted[member]) - i64::from(plan.loads[member]);
        for vnode in 0..self.vnodes() {
            while self.distinct_racks(vnode) < self.racks_wanted {
                let seats = vnode * self.width..(vnode + 1) * self.width;
                let doubled = |seat: &usize| {
                    let rack = self.racks[self.seats[*seat] as usize];
                    self.at(vnode).iter().filter(|member| self.racks[**member as usize] == rack).count() > 1
                };
                let leaves = seats.filter(doubled).min_by_key(|seat| room(self, self.seats[*seat] as usize));
                let comes = (0..self.racks.len())
                    .filter(|member| !self.rack_is_taken(vnode, *member))
                    .max_by_key(|member| (room(self, *member), scatter(vnode, *member)));
                let (Some(leaves), Some(comes)) = (leaves, comes) else { unreachable!("a rack is missing") };
                self.sit(leaves, comes);
            }
        }
    }

    /// Moves replicas from members above their share to members below it until there are none.
    pub(super) fn even_out(&mut self, wanted: &[u32]) {
        // Who has found no free way will not look for one again: that would be most of the work of a join.
        let mut has_free_way = vec![true; self.loads.len()];
        // Each path ends one excess; the bound is for paths that cross themselves and are cut short.
        for _ in 0..4 * self.seats.len() {
            let Some(from) = (0..self.loads.len()).find(|member| self.loads[*member] > wanted[*member])
            else {
                return;
            };
            let free = if has_free_way[from] { self.path(from, wanted, true) } else { None };
            has_free_way[from] = free.is_some();
            let Some(path) = free.or_else(|| self.path(from, wanted, false)) else { return };
            for (vnode, from, to) in path.into_iter().rev() {
                match self.seat_of(vnode, from) {
                    Some(seat) if self.may_replace(vnode, from, to) => self.sit(seat, to),
                    Some(_) | None => break,
                }
            }
        }
    }

    /// The shortest way to shift one replica from `from` to a member below its share: at each vnode one replaces the other.
    /// A way that is `free` moves nothing that is not to move already: it takes other choices where seats were filled.
    fn path(&self, from: usize, wanted: &[u32], free: bool) -> Option<Vec<(usize, usize, usize)>> {
        let count = self.loads.len();
        let mut reached_by: Vec<Option<(usize, usize)>> = vec![None; count];
        let mut queue = VecDeque::from([from]);
        while let Some(giver) = queue.pop_front() {
            // Not always the first vnodes of the circle: the newcomer's are to lie all over it.
            let start = scatter(giver, self.loads[giver] as usize) as usize % self.vnodes();
            let vnodes = (start..self.vnodes()).chain(0..start);
            for vnode in vnodes.filter(|vnode| self.at(*vnode).contains(&(giver as u16))) {
                for taker in 0..count {
                    if taker == from || reached_by[taker].is_some() || !self.may_replace(vnode, giver, taker)
                    {
                        continue;
                    }
                    if free && self.was_at(vnode, giver) && !self.was_at(vnode, taker) {
                        continue;
                    }
                    reached_by[taker] = Some((vnode, giver));
                    if self.loads[taker] < wanted[taker] {
                        return Some(trace(&reached_by, from, taker));
                    }
                    queue.push_back(taker);
                }
            }
        }
        None
    }

    /// Whether `to` may have the seat of `from` at a vnode: it has none there, and no rack is lost.
    fn may_replace(&self, vnode: usize, from: usize, to: usize) -> bool {
        let others = || self.at(vnode).iter().map(|member| *member as usize).filter(|member| *member != from);
        if others().any(|other| other == to) {
            return false;
        }
        if self.racks[from] == self.racks[to] || !others().any(|other| self.racks[other] == self.racks[to]) {
            return true;
        }
        // The newcomer's rack is there already: the leaver's must remain too.
        others().any(|other| self.racks[other] == self.racks[from])
    }

    fn sit(&mut self, seat: usize, member: usize) {
        if self.seats[seat] != EMPTY {
            self.loads[self.seats[seat] as usize] -= 1;
        }
        self.seats[seat] = member as u16;
        self.loads[member] += 1;
    }

    fn seat_of(&self, vnode: usize, member: usize) -> Option<usize> {
        self.at(vnode).iter().position(|seat| *seat as usize == member).map(|at| vnode * self.width + at)
    }

    fn was_at(&self, vnode: usize, member: usize) -> bool {
        self.old_seats[vnode * self.width..(vnode + 1) * self.width].contains(&(member as u16))
    }

    fn rack_is_taken(&self, vnode: usize, member: usize) -> bool {
        let rack = self.racks[member];
        self.at(vnode).iter().any(|other| *other != EMPTY && self.racks[*other as usize] == rack)
    }

    fn distinct_racks(&self, vnode: usize) -> usize {
        let list = self.at(vnode);
        let rack = |at: usize| self.racks[list[at] as usize];
        (0..list.len()).filter(|at| (0..*at).all(|earlier| rack(earlier) != rack(*at))).count()
    }
}

/// Follows a search back from its end.
pub(super) fn trace(
    reached_by: &[Option<(usize, usize)>],
    from: usize,
    to: usize,
) -> Vec<(usize, usize, usize)> {
    let mut path = Vec::new();
    let mut taker = to;
    while taker != from {
        let (vnode, giver) = reached_by[taker].expect("the path leads back to its start");
        path.push((vnode, giver, taker));
        taker = giver;
    }
    path.reverse();
    path
}

fn number_racks(members: &[&Member]) -> Vec<u16> {
    let mut names: Vec<(&str, &str)> =
        members.iter().map(|member| (member.datacenter.as_str(), member.rack.as_str())).collect();
    let places = names.clone();
    names.sort_unstable();
    names.dedup();
    places.iter().map(|place| names.partition_point(|name| name < place) as u16).collect()
}

/// A number that looks random (splitmix64), the same everywhere.
fn scatter(a: usize, b: usize) -> u64 {
    let mut hash = ((a as u64) << 32 ^ b as u64).wrapping_add(0x9e37_79b9_7f4a_7c15);
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}
