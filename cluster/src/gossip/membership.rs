//! The state machine: messages and time in; packets to send, verdicts and changes of its own life out.

use std::net::SocketAddr;

use ferrite_wire::{CoreId, Epoch, NodeId, Reader, limits};
use foca::{Member, Message, State, Timer};

use super::digest::is_text;
use super::packet::{self, Body, Head, Scope};
use super::plausible;
use super::protocol::{Effects, Protocol, protocol};
use super::random::Random;
use super::report::OwnReport;
use super::seeds::Seeds;
use super::spread::Spread;
use super::swim::Swim;
use super::timers::{Due, Timers};
use super::view::View;
use super::{
    CoreReport, CoreVerdict, CoreView, Digest, Fault, Generation, GossipOptions, Identity, MemberView,
    Output, Start, VERSION_BYTES_MAX, Verdict,
};

/// Most nodes that anything is held of.
pub const MEMBERS_MAX: usize = limits::NODES_MAX;
/// A node that has heard nobody for so many rounds is deaf.
const DEAF_ROUNDS: u64 = 2;
/// By how many times its suspicions then last longer than those of others.
const DEAF_PATIENCE: u64 = 2;

/// This node's part in the gossip of its cluster.
pub struct Membership {
    foca: Protocol,
    me: Identity,
    scope: Scope,
    options: GossipOptions,
    seeds: Seeds,
    random: Random,
    timers: Timers,
    view: View,
    own: OwnReport,
    spread: Spread,
    /// When a member was last heard, in time that counts.
    heard_ms: u64,
    /// When this node last went above a higher life of its own, in time that counts.
    raised_ms: Option<u64>,
    /// How many members foca's settings are for.
    sized_for: usize,
    has_left: bool,
}

/// Which members a call may have changed.
enum Touched {
    None,
    /// Ascending.
    These(Vec<NodeId>),
    Any,
}

impl Membership {
    /// A member that knows nobody yet. It asks its seeds at its first [`Membership::tick`], which is due at once.
    ///
    /// # Panics
    /// If the options break a rule ([`GossipOptions::check`]), or there are too many seeds, or a text is too long or odd: the host
    /// has checked them.
    pub fn new(now_ms: u64, start: Start) -> Membership {
        let Start { me, scope, version, name, seeds, random_seed, options } = start;
        assert_eq!(options.check(), Ok(()), "the options of gossip are checked where they are read");
        assert!(is_text(&version, VERSION_BYTES_MAX), "a version is at most {VERSION_BYTES_MAX} bytes long");
        assert!(is_text(&name, limits::NAME_BYTES_MAX), "a name is configured");
        let mut random = Random::new(random_seed);
        let mut timers = Timers::new(options.late_ms);
        timers.after(now_ms, 0, Due::Join);
        timers.after(now_ms, random.below(options.gossip_period_ms), Due::Gossip);
        let foca = protocol(me, options.config(1), &mut random);
        let heard_ms = timers.local_ms(now_ms);
        Membership {
            foca,
            me,
            scope,
            seeds: Seeds::new(seeds),
            random,
            timers,
            view: View::new(options.stall_ms),
            own: OwnReport::new(version, name),
            spread: Spread::default(),
            heard_ms,
            raised_ms: None,
            sized_for: 1,
            has_left: false,
            options,
        }
    }

    /// Who this node is now.
    pub fn me(&self) -> Identity {
        self.me
    }

    /// All other members that are known, by node.
    pub fn members(&self) -> impl Iterator<Item = &MemberView> {
        self.view.members()
    }

    /// A member.
    pub fn member(&self, node: NodeId) -> Option<&MemberView> {
        self.view.member(node)
    }

    /// What a member said of itself in its present life; of this node, what it last said.
    pub fn digest(&self, node: NodeId) -> Option<&Digest> {
        if node == self.me.node() { self.view.digest(node) } else { self.view.digest_of_member(node) }
    }

    /// The verdict on a core of another node; `None` = the node has not told yet, or has no such core.
    pub fn core(&self, node: NodeId, core: CoreId) -> Option<CoreView> {
        self.view.core(node, core)
    }

    /// Whether a coordinator is to treat a core of another node as absent: its node is down, or it stands still, or is fenced. What is
    /// not known counts as present: a request will tell.
    pub fn counts_absent(&self, node: NodeId, core: CoreId) -> bool {
        let is_down = self.member(node).is_some_and(|member| member.verdict == Verdict::Down);
        is_down
            || self.core(node, core).is_some_and(|core| match core.verdict {
                CoreVerdict::Live => false,
                CoreVerdict::Stalled | CoreVerdict::Fenced => true,
            })
    }

    /// When [`Membership::tick`] is wanted next, by the host's clock; to be asked after every call.
    pub fn next_tick_ms(&self) -> u64 {
        self.timers.next_ms().expect("there is always something to pass on or to look for")
    }

    /// Takes a packet. One that is refused has changed nothing.
    pub fn on_message(&mut self, now_ms: u64, bytes: &[u8], out: &mut Vec<Output>) -> Result<(), Fault> {
        self.timers.arrive(now_ms);
        let mut reader = Reader::new(bytes);
        let head = Head::decode(&mut reader)?;
        if head.scope.cluster != self.scope.cluster {
            return Err(Fault::ForeignCluster { cluster: head.scope.cluster });
        }
        let body = Body::decode(reader, head.from)?;
        if head.scope.tables != self.scope.tables {
            let (theirs, ours) = (head.scope.tables, self.scope.tables);
            if let Body::Who(identity) = body {
                // So that the other side is refused here, too, and says so in its log.
                out.push(send(&identity, packet::here(self.head(), &self.me)));
            }
            return Err(Fault::TablesDiffer { node: head.from, theirs, ours });
        }
        if self.has_left {
            return Ok(());
        }
        match body {
            // This node's own address was among its seeds.
            Body::Who(identity) | Body::Here(identity) if identity == self.me => Ok(()),
            Body::Who(identity) | Body::Here(identity) if identity.node() == self.me.node() => {
                Err(plausible::twin(identity))
            }
            Body::Who(identity) => {
                out.push(send(&identity, packet::here(self.head(), &self.me)));
                Ok(())
            }
            Body::Here(identity) => {
                self.run(now_ms, Touched::None, out, |foca, effects| foca.announce(identity, effects));
                Ok(())
            }
            Body::Swim { about, bytes, swim, digests } => {
                plausible::check(self.me.node(), &self.view, about.as_ref(), &swim, &digests)?;
                self.take(now_ms, about, bytes, &swim, digests, out);
                Ok(())
            }
        }
    }

    fn take(
        &mut self,
        now_ms: u64,
        about: Option<Member<Identity>>,
        bytes: &[u8],
        swim: &Swim,
        digests: Vec<Digest>,
        out: &mut Vec<Output>,
    ) {
        if swim.header.message == Message::TurnUndead && self.overrules(&swim.header.src) {
            return;
        }
        self.heard_ms = self.timers.local_ms(now_ms);
        let own_node = self.me.node();
        let of_me = swim.news.iter().filter(|member| member.id().node() == own_node).chain(&about);
        if let Some(higher) = of_me.map(|member| member.id().generation()).max() {
            self.rise_above(now_ms, higher, out);
        }
        if let Some(about) = about.filter(|about| *about.id() == self.me && about.state() == State::Suspect) {
            self.run(now_ms, Touched::None, out, |foca, effects| {
                foca.apply_many(std::iter::once(about), true, effects)
            });
        }
        let header = &swim.header;
        let touched = if swim.news.is_empty() && self.view.holds(&header.src, header.src_incarnation) {
            Touched::None
        } else {
            let mut touched: Vec<NodeId> = swim.news.iter().map(|member| member.id().node()).collect();
            touched.push(header.src.node());
            touched.sort_unstable();
            Touched::These(touched)
        };
        self.run(now_ms, touched, out, |foca, effects| foca.handle_data(bytes, effects));
        for digest in digests {
            self.learn(now_ms, digest, out);
        }
    }

    /// Whether this node does not believe a member that says this node was declared down: that one is down itself, and most members are
    /// not. Of two that hold each other to be down the one on the smaller side yields, or both do.
    fn overrules(&self, src: &Identity) -> bool {
        let is_down = |member: &MemberView| member.verdict == Verdict::Down;
        let down = self.view.members().filter(|member| is_down(member)).count();
        let is_small_side = down * 2 >= self.view.members().count();
        let src = self.view.member(src.node()).filter(|held| held.identity == *src);
        src.is_some_and(is_down) && !is_small_side
    }

    /// Does what is due. Early and needless calls do no harm.
    pub fn tick(&mut self, now_ms: u64, out: &mut Vec<Output>) {
        self.timers.arrive(now_ms);
        while let Some(due) = self.timers.pop(now_ms) {
            match due {
                Due::Gossip => {
                    self.timers.after(now_ms, self.options.gossip_period_ms, Due::Gossip);
                    self.say(now_ms);
                    if !self.has_left && (self.foca.updates_backlog() > 0 || !self.spread.is_empty()) {
                        self.run(now_ms, Touched::None, out, |foca, effects| foca.gossip(effects));
                    }
                }
                Due::Join => {
                    self.timers.after(now_ms, self.options.join_period_ms, Due::Join);
                    self.look_for_seeds(out);
                    self.forget_old(now_ms);
                    self.resize();
                }
                Due::Swim { timer, is_patient } => self.on_timer(now_ms, timer, is_patient, out),
            }
        }
    }

    fn on_timer(&mut self, now_ms: u64, timer: Timer<Identity>, is_patient: bool, out: &mut Vec<Output>) {
        let touched = match &timer {
            Timer::ChangeSuspectToDown { member_id, incarnation, .. } => {
                // Foca 2.0 tells the member that it was declared down even where it has objected in time, and was not.
                if !self.view.suspects(member_id, *incarnation) {
                    return;
                }
                if !is_patient && self.is_deaf(now_ms) {
                    let wait_ms = DEAF_PATIENCE * self.options.suspicion_of_ms(self.sized_for);
                    self.timers.after(now_ms, wait_ms, Due::Swim { timer, is_patient: true });
                    return;
                }
                Touched::These(vec![member_id.node()])
            }
            Timer::ProbeRandomMember(_) => Touched::Any,
            Timer::RemoveDown(_)
            | Timer::SendIndirectProbe { .. }
            | Timer::PeriodicAnnounce(_)
            | Timer::PeriodicAnnounceDown(_)
            | Timer::PeriodicGossip(_) => Touched::None,
        };
        self.run(now_ms, touched, out, |foca, effects| foca.handle_timer(timer, effects));
    }

    /// Whether nobody was heard for long. Of two nodes neither can tell, nor mislead a third.
    fn is_deaf(&self, now_ms: u64) -> bool {
        let silence_ms = self.timers.local_ms(now_ms).saturating_sub(self.heard_ms);
        self.foca.num_members() > 1 && silence_ms > DEAF_ROUNDS * self.options.probe_period_ms
    }

    /// Takes what the host finds of this node: its load, its topology's epoch, and each of its cores. To be called several times within `stall_ms`: a core is
    /// known to have moved only where two reports differ.
    ///
    /// # Panics
    /// If there are more cores than a node may have.
    pub fn report(&mut self, now_ms: u64, load_permille: u16, epoch: Epoch, cores: &[CoreReport]) {
        assert!(cores.len() <= limits::CORES_MAX, "a node has at most {} cores", limits::CORES_MAX);
        self.timers.arrive(now_ms);
        self.own.take(self.timers.local_ms(now_ms), load_permille, epoch, cores);
    }

    /// Tells some members that this node leaves, so that nobody needs to find out. Nothing is heard or said after it.
    pub fn leave(&mut self, now_ms: u64, out: &mut Vec<Output>) {
        if !self.has_left {
            self.run(now_ms, Touched::None, out, |foca, effects| foca.leave_cluster(effects));
            self.has_left = true;
        }
    }

    /// Forgets a member that is down, because the cluster has removed it. One that lives is heard of again.
    pub fn forget(&mut self, node: NodeId) {
        let Some(member) = self.view.member(node) else { return };
        if member.verdict != Verdict::Down {
            return;
        }
        let removed = self.foca.handle_timer(Timer::RemoveDown(member.identity), Effects::default());
        removed.expect("removing a member sends nothing and has nothing to fail at");
        self.view.forget(node);
        self.spread.remove(node);
    }

    fn forget_old(&mut self, now_ms: u64) {
        let is_old = |member: &&MemberView| {
            member.verdict == Verdict::Down
                && now_ms.saturating_sub(member.since_ms) >= self.options.forget_down_ms
        };
        let old: Vec<NodeId> =
            self.view.members().filter(is_old).map(|member| member.identity.node()).collect();
        old.into_iter().for_each(|node| self.forget(node));
    }

    /// Asks seeds who they are, if it is time to.
    fn look_for_seeds(&mut self, out: &mut Vec<Output>) {
        if self.has_left {
            return;
        }
        let is_alone = self.foca.num_members() == 0;
        let is_member = |seed: SocketAddr| {
            let mut members = self.view.members();
            members.any(|member| member.identity.address() == seed && member.verdict != Verdict::Down)
        };
        let asked = self.seeds.due(is_alone, self.me.address(), is_member, &mut self.random);
        let head = self.head();
        out.extend(asked.into_iter().map(|to| Output::Send {
            to,
            node: None,
            bytes: packet::who(head, &self.me),
        }));
    }

    /// Fits what depends on the number of members to it.
    fn resize(&mut self) {
        let members = self.foca.num_members() + 1;
        if members != self.sized_for {
            self.sized_for = members;
            let fits = self.foca.set_config(self.options.config(members));
            fits.expect("only what foca allows to change has changed");
        }
    }

    /// Goes on under a life above one that the cluster has seen, if that is above this one: once in a round at most, so that two
    /// processes that have the same number do not drive each other up.
    fn rise_above(&mut self, now_ms: u64, higher: Generation, out: &mut Vec<Output>) {
        let local_ms = self.timers.local_ms(now_ms);
        let is_soon = self.raised_ms.is_some_and(|at_ms| local_ms < at_ms + self.options.probe_period_ms);
        if higher <= self.me.generation() || is_soon {
            return;
        }
        let Some(renewed) = self.me.renewed_above(higher) else { return };
        self.raised_ms = Some(local_ms);
        self.begin_life(now_ms, renewed, out);
    }

    /// Goes on under another life, with the members that live and nothing else. A node that the cluster had declared down was most
    /// likely cut off, and has declared others down meanwhile; down is final, and stronger than any objection. Said to a cluster
    /// that takes this node back, it would force every member of it into a new life. The verdicts stay in view until the cluster says
    /// otherwise.
    fn begin_life(&mut self, now_ms: u64, identity: Identity, out: &mut Vec<Output>) {
        let lives = self.foca.iter_members().filter(|member| member.id().node() != identity.node());
        let members: Vec<Member<Identity>> = lives.cloned().collect();
        self.foca = protocol(identity, self.options.config(self.sized_for), &mut self.random);
        self.me = identity;
        self.timers.drop_swim();
        self.own.say_again();
        self.say(now_ms);
        out.push(Output::Renewed { generation: identity.generation() });
        self.run(now_ms, Touched::None, out, |foca, effects| {
            foca.apply_many(members.into_iter(), false, &mut *effects)?;
            foca.gossip(effects)
        });
    }

    /// Says something of this node if it is time to.
    fn say(&mut self, now_ms: u64) {
        let local_ms = self.timers.local_ms(now_ms);
        if local_ms < self.own.due_ms(local_ms, &self.options, self.sized_for) {
            return;
        }
        let blank = Digest {
            node: self.me.node(),
            generation: self.me.generation(),
            sequence: 0,
            tables: self.scope.tables,
            epoch: Epoch(0),
            load_permille: 0,
            version: String::new(),
            name: String::new(),
            cores: Vec::new(),
        };
        let digest = self.own.say(local_ms, self.options.stall_ms, blank);
        let is_newer = self.view.learn(now_ms, digest);
        assert!(is_newer, "a node's own digests ascend");
        self.spread.add(self.me.node(), self.options.transmissions_of(self.sized_for));
    }

    fn learn(&mut self, now_ms: u64, digest: Digest, out: &mut Vec<Output>) {
        let node = digest.node;
        if node == self.me.node() {
            // What an earlier life of this node said is still on its way; what this one says is known here first.
            return;
        }
        let before: Vec<CoreVerdict> = self.core_verdicts(node).collect();
        if !self.view.learn(now_ms, digest) {
            return;
        }
        self.spread.add(node, self.options.transmissions_of(self.sized_for));
        for (core, verdict) in self.core_verdicts(node).enumerate() {
            if before.get(core) != Some(&verdict) && (before.len() > core || verdict != CoreVerdict::Live) {
                out.push(Output::Core { node, core: CoreId(core as u16), verdict });
            }
        }
    }

    fn core_verdicts(&self, node: NodeId) -> impl Iterator<Item = CoreVerdict> + '_ {
        self.view.member(node).into_iter().flat_map(|member| member.cores.iter().map(|core| core.verdict))
    }

    /// Lets foca do something, then carries out what it asks for.
    fn run(
        &mut self,
        now_ms: u64,
        touched: Touched,
        out: &mut Vec<Output>,
        call: impl FnOnce(&mut Protocol, &mut Effects) -> Result<(), foca::Error>,
    ) {
        let mut effects = Effects::default();
        match call(&mut self.foca, &mut effects) {
            // Foca numbers its timers with 8 bits: one could be taken for another after 256 lives within a round. It goes on after that.
            Ok(()) | Err(foca::Error::IncompleteProbeCycle | foca::Error::NotConnected) => {}
            // Every packet was checked before, and buffers hold any header.
            Err(error) => unreachable!("foca is given what it asks for: {error}"),
        }
        self.look(now_ms, &touched, out);
        let identity = *self.foca.identity();
        if identity != self.me {
            return self.begin_life(now_ms, identity, out);
        }
        for (timer, after) in effects.timers {
            let wait_ms = after.as_millis() as u64;
            self.timers.after(now_ms, wait_ms, Due::Swim { timer, is_patient: false });
        }
        let head = self.head();
        for (to, swim) in effects.sends {
            // What another life of this node once was is among foca's members, too.
            if to.node() == self.me.node() {
                continue;
            }
            let mut bytes = packet::start(head, self.about(&to).as_ref(), &swim);
            let view = &self.view;
            self.spread.fill(&mut bytes, |node| view.digest(node));
            out.push(send(&to, bytes));
        }
    }

    /// Takes over verdicts from foca's members.
    fn look(&mut self, now_ms: u64, touched: &Touched, out: &mut Vec<Output>) {
        let own_node = self.me.node();
        let is_touched = |node: NodeId| match touched {
            Touched::None => false,
            Touched::These(nodes) => nodes.binary_search(&node).is_ok(),
            Touched::Any => true,
        };
        if matches!(touched, Touched::None) {
            return;
        }
        for member in self.foca.iter_membership_state() {
            let node = member.id().node();
            if node == own_node || !is_touched(node) || !self.view.see(now_ms, member) {
                continue;
            }
            let view = self.view.member(node).expect("it was just seen");
            out.push(Output::Verdict { identity: view.identity, verdict: view.verdict });
            // What it said of itself may have come before it was a member.
            let cores = view.cores.iter().enumerate();
            let amiss = cores.filter(|(_, core)| core.verdict != CoreVerdict::Live);
            out.extend(amiss.map(|(core, view)| {
                let core = CoreId(core as u16);
                Output::Core { node, core, verdict: view.verdict }
            }));
        }
    }

    /// What a member should know is held of it.
    fn about(&self, to: &Identity) -> Option<Member<Identity>> {
        self.view.member(to.node())?.objectionable_to(to)
    }

    fn head(&self) -> Head {
        Head { scope: self.scope, from: self.me.node() }
    }
}

fn send(to: &Identity, bytes: Vec<u8>) -> Output {
    Output::Send { to: to.address(), node: Some(to.node()), bytes }
}
