//! Changes of an input, as a fuzzer makes them, from a seed.

use super::exercise::input::{Input, PAGE};

/// A small generator whose state is its seed (xorshift).
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) as usize % bound.max(1)
    }
}

/// Numbers at which lengths and counts go wrong.
const ODD: [u64; 10] = [0, 1, 2, 0x7f, 0xff, 0xffff, 1 << 20, 0x7fff_ffff, u32::MAX as u64, u64::MAX];
/// Changes of one input at most.
const CHANGES_MAX: usize = 4;

/// Changes an input in a few places; checksums are mostly put right afterwards.
pub(crate) fn mutate(input: &Input, random: &mut Random) -> Input {
    let mut changed = input.clone();
    changed.reseal = random.below(4) > 0;
    for _ in 0..1 + random.below(CHANGES_MAX) {
        let which = random.below(changed.files.len());
        let Some(file) = changed.files.get_mut(which).filter(|file| file.len() > PAGE) else { continue };
        change(file, random);
    }
    changed
}

fn change(file: &mut Vec<u8>, random: &mut Random) {
    // Zeros are most of a file, and say little.
    let mut at = random.below(file.len());
    for _ in 0..64 {
        if file[at] != 0 {
            break;
        }
        at = random.below(file.len());
    }
    let pages = file.len() / PAGE;
    match random.below(10) {
        0..3 => file[at] ^= 1 << random.below(8),
        3..5 => file[at] = ODD[random.below(5)] as u8,
        5..8 => {
            let number = ODD[random.below(ODD.len())].to_le_bytes();
            let width = [2, 4, 8][random.below(3)].min(file.len() - at);
            file[at..at + width].copy_from_slice(&number[..width]);
        }
        8 => {
            let (from, to) = (random.below(pages) * PAGE, random.below(pages) * PAGE);
            file.copy_within(from..from + PAGE, to);
        }
        _ => {
            let len = 1 + random.below(file.len() - 1);
            file.truncate(if random.below(2) == 0 { len.next_multiple_of(PAGE) } else { len });
        }
    }
}
