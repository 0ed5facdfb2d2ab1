//! Fair shares: how many vnodes each member carries.
//!
//! Shares are proportional to weight, as far as two limits leave it. A member carries a vnode at most once. And each vnode
//! spreads over as many racks as it can, so that with at least N racks a rack carries a vnode at most once, and with fewer,
//! R, it carries each at least once and at most N - R + 1 times. Within these limits shares are filled like connected
//! vessels: one level for all, and what reaches its limit stays there while the level rises. Then they are rounded, down or
//! up by less than one, so that the sum over all members is exact and no rack leaves its limits.
//!
//! All in integers: every node must come to the same result.

/// Fixed-point units of a vnode. Large enough that the granularity of the level, summed over all members, stays below one vnode.
const UNIT: u128 = 1 << 60;

/// The number of vnodes that each member carries. `racks` and `weights` are per member; racks are numbered from 0 without
/// gaps. `loads` is what members carry now: where rounding leaves the choice, they keep it.
pub(super) fn shares(racks: &[u16], weights: &[u32], vnodes: u32, width: usize, loads: &[u32]) -> Vec<u32> {
    let rack_count = racks.iter().max().map_or(0, |last| *last as usize + 1);
    let mut by_rack: Vec<Vec<usize>> = vec![Vec::new(); rack_count];
    racks.iter().enumerate().for_each(|(member, rack)| by_rack[*rack as usize].push(member));
    let all = u128::from(vnodes) * UNIT;
    let vessel = |members: &Vec<usize>, level: u128| -> u128 {
        members.iter().map(|member| all.min(level * u128::from(weights[*member]))).sum()
    };
    let (at_least, at_most) = if rack_count >= width { (0, 1) } else { (1, width - rack_count + 1) };
    let limits = |members: &Vec<usize>| (at_least as u128 * all, at_most.min(members.len()) as u128 * all);
    let limited = |members: &Vec<usize>, level: u128| {
        let (low, high) = limits(members);
        vessel(members, level).clamp(low, high)
    };
    let wanted = width as u128 * all;
    let level =
        lowest(all, |level| by_rack.iter().map(|members| limited(members, level)).sum::<u128>() >= wanted);

    let rack_totals: Vec<u128> = by_rack.iter().map(|members| limited(members, level)).collect();
    let rack_loads: Vec<u32> =
        by_rack.iter().map(|members| members.iter().map(|member| loads[*member]).sum()).collect();
    let rack_rounded = round(&rack_totals, width as u32 * vnodes, &rack_loads);

    let mut shares = vec![0; racks.len()];
    for ((members, total), rounded) in by_rack.iter().zip(rack_totals).zip(rack_rounded) {
        let level = lowest(all, |level| vessel(members, level) >= total);
        let exact: Vec<u128> =
            members.iter().map(|member| all.min(level * u128::from(weights[*member]))).collect();
        let kept: Vec<u32> = members.iter().map(|member| loads[*member]).collect();
        for (member, share) in members.iter().zip(round(&exact, rounded, &kept)) {
            shares[*member] = share;
        }
    }
    shares
}

/// The lowest level up to `highest` at which a condition holds that holds at every level above.
fn lowest(highest: u128, holds: impl Fn(u128) -> bool) -> u128 {
    assert!(holds(highest), "the limits leave room for all replicas");
    let (mut below, mut at) = (0, highest);
    while below < at {
        let middle = below + (at - below) / 2;
        if holds(middle) { at = middle } else { below = middle + 1 }
    }
    at
}

/// Rounds each to a whole number below or above so that they sum up to `total`. Those who carry more than the number below
/// already are rounded up first, then those with the most to lose.
fn round(exact: &[u128], total: u32, loads: &[u32]) -> Vec<u32> {
    let mut rounded: Vec<u32> = exact.iter().map(|share| (share / UNIT) as u32).collect();
    let mut fractions: Vec<usize> = (0..exact.len()).filter(|at| !exact[*at].is_multiple_of(UNIT)).collect();
    fractions.sort_by_key(|at| (loads[*at] <= rounded[*at], std::cmp::Reverse(exact[*at] % UNIT), *at));
    let left = total - rounded.iter().sum::<u32>();
    assert!(left as usize <= fractions.len(), "what was cut off is less than one each");
    fractions.iter().take(left as usize).for_each(|at| rounded[*at] += 1);
    rounded
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fresh(racks: &[u16], weights: &[u32], vnodes: u32, width: usize) -> Vec<u32> {
        shares(racks, weights, vnodes, width, &vec![0; racks.len()])
    }

    #[test]
    fn shares_follow_weight() {
        assert_eq!(fresh(&[0, 0, 0], &[1, 1, 1], 64, 3), [64, 64, 64]);
        assert_eq!(fresh(&[0, 0, 0, 0], &[1, 1, 1, 1], 64, 3), [48, 48, 48, 48]);
        assert_eq!(fresh(&[0, 0, 0, 0], &[1, 2, 3, 2], 64, 1), [8, 16, 24, 16]);
    }

    #[test]
    fn a_member_carries_a_vnode_once_and_others_take_the_rest() {
        assert_eq!(fresh(&[0, 0, 0, 0], &[100, 1, 1, 1], 60, 2), [60, 20, 20, 20]);
    }

    #[test]
    fn a_rack_carries_a_vnode_once_while_there_are_enough() {
        assert_eq!(fresh(&[0, 0, 0, 0, 1, 2], &[1; 6], 64, 3), [16, 16, 16, 16, 64, 64]);
        assert_eq!(fresh(&[0, 0, 1, 1, 2, 2], &[1; 6], 64, 3), [32; 6]);
    }

    #[test]
    fn with_fewer_racks_than_replicas_each_vnode_is_in_every_rack() {
        assert_eq!(fresh(&[0, 1, 1, 1, 1], &[1; 5], 64, 3), [64, 32, 32, 32, 32]);
        assert_eq!(fresh(&[0, 0, 1, 1], &[1, 1, 1, 1], 64, 3), [48; 4]);
    }

    #[test]
    fn rounding_keeps_what_is_carried() {
        assert_eq!(shares(&[0, 0, 0], &[1, 1, 1], 64, 1, &[21, 21, 22]), [21, 21, 22]);
        assert_eq!(shares(&[0, 0, 0], &[1, 1, 1], 64, 1, &[21, 22, 21]), [21, 22, 21]);
        assert_eq!(fresh(&[0, 0, 0], &[1, 1, 1], 64, 1), [22, 21, 21]);
    }

    #[test]
    fn the_largest_cluster_neither_overflows_nor_loses_a_vnode() {
        let racks: Vec<u16> = (0..4096).map(|member| member % 64).collect();
        let weights: Vec<u32> =
            (0..4096).map(|member| if member % 7 == 0 { u32::MAX } else { 1 + member }).collect();
        let shares = fresh(&racks, &weights, 65_536, 16);
        assert_eq!(shares.iter().sum::<u32>(), 65_536 * 16);
        assert!(shares.iter().all(|share| *share <= 65_536));
    }
}
