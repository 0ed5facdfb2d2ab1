//! In which order a call tries the replicas of its key: as the topology has them, but the slow and the silent last.

use super::{Connection, Pipeline, Stage};
use crate::pace::{Class, Known};
use crate::router::{EndpointId, Last, Target};
use ferrite_wire::{FrameKind, limits};
use std::time::{Duration, Instant};

impl Pipeline {
    /// Which replicas' addresses a call tries after the others, and whether the call probes the one that comes first.
    pub(super) fn tried_last(
        &mut self,
        now: Instant,
        target: Target,
        class: Class,
        may_probe: bool,
    ) -> (Last, bool) {
        let (mut last, mut is_probe) = (Last::NONE, false);
        let mut replicas = [(EndpointId(0), Known::default()); limits::REPLICAS_MAX];
        let mut len = 0;
        for endpoint in self.router.owners(target) {
            replicas[len] = (endpoint, self.known(now, endpoint, class));
            len += 1;
        }
        let replicas = &replicas[..len];
        for (at, (endpoint, known)) in replicas.iter().enumerate() {
            let others =
                || replicas.iter().enumerate().filter(|(other, _)| *other != at).map(|(_, (_, known))| known);
            if known.is_silent_beside(others()) {
                last.push(*endpoint);
                continue;
            }
            let pace = self.router.endpoint_mut(*endpoint).pace_mut(class);
            if !known.is_slow_beside(others()) {
                pace.keeps_up();
            } else if pace.rests(now, may_probe && at == 0) {
                last.push(*endpoint);
            } else {
                is_probe = true;
            }
        }
        (last, is_probe)
    }

    /// A call's answer came, or was waited for in vain.
    pub(super) fn note_pace(
        &mut self,
        endpoint: EndpointId,
        kind: FrameKind,
        took: Duration,
        is_probe: bool,
    ) {
        if let Some(class) = measured(kind) {
            self.router.endpoint_mut(endpoint).pace_mut(class).on_answer(took, is_probe);
        }
    }

    fn known(&self, now: Instant, endpoint: EndpointId, class: Class) -> Known {
        let endpoint = self.router.endpoint(endpoint);
        let connections = endpoint.connections.iter().filter_map(|at| self.connections[*at].as_ref());
        let silent = connections.map(|connection| silent_for(connection, now)).max().unwrap_or_default();
        Known { typical: endpoint.pace(class).typical(), silent }
    }
}

/// For how long a connection has owed something, its handshake included, and said nothing.
fn silent_for(connection: &Connection, now: Instant) -> Duration {
    if connection.in_flight == 0 && connection.stage != Stage::Opening {
        return Duration::ZERO;
    }
    now.saturating_duration_since(connection.heard_at.max(connection.busy_since))
}

/// Whose answers measure: calls of one key, which are much alike.
pub(super) fn measured(kind: FrameKind) -> Option<Class> {
    match kind {
        FrameKind::Get => Some(Class::Read),
        FrameKind::Put | FrameKind::Delete => Some(Class::Write),
        _ => None,
    }
}
