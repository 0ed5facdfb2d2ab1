//! Foca as it is used here: with what, and what it asks for in one call.

use std::time::Duration;

use foca::{Foca, NoCustomBroadcast, Notification, Timer};

use super::Identity;
use super::random::Random;
use super::swim::SwimCodec;

pub(super) type Protocol = Foca<Identity, SwimCodec, Random, NoCustomBroadcast>;

pub(super) fn protocol(me: Identity, config: foca::Config, random: &mut Random) -> Protocol {
    Foca::with_custom_broadcast(me, config, Random::new(random.bits()), SwimCodec, NoCustomBroadcast)
}

/// What foca asks for in one call.
#[derive(Default)]
pub(super) struct Effects {
    pub(super) sends: Vec<(Identity, Vec<u8>)>,
    pub(super) timers: Vec<(Timer<Identity>, Duration)>,
}

impl foca::Runtime<Identity> for Effects {
    fn notify(&mut self, _: Notification<'_, Identity>) {
        // Foca does not tell of suspicion. Its members are looked at instead, after whatever may have changed them.
    }

    fn send_to(&mut self, to: Identity, data: &[u8]) {
        self.sends.push((to, data.to_vec()));
    }

    fn submit_after(&mut self, timer: Timer<Identity>, after: Duration) {
        self.timers.push((timer, after));
    }
}
