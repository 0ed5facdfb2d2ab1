//! Before the cores start: the data is laid out for as many of them as there are now.
//!
//! One thread does it, on the first core's CPU, with a ring of its own that is gone when it returns. The decisions and the
//! steps are [`ferrite_lsm::layout`]'s.

use std::rc::Rc;

use ferrite_lsm::layout::{self, Layout, Progress};
use ferrite_lsm::{Engine, OpenError, cover};
use ferrite_wire::CoreId;

use crate::env::Env;
use crate::identity::DataDirectory;
use crate::reactor::{CoreError, CoreSetup, ReactorOptions, RingEnv, mailboxes, run_core};
use crate::recovered;
use crate::server::{Plan, ServeError};
use crate::shard::joining_sets;
use crate::{Placement, Shard};

/// How the thread ends: it never becomes a core.
enum End {
    Settled(Box<Layout>),
    Failed(OpenError),
}

/// Finds how the data is laid out, and lays it out anew if that is for another number of cores.
pub(crate) fn settle(plan: &Plan, cpu: usize, directory: &DataDirectory) -> Result<Layout, ServeError> {
    let (posts, mailboxes) = mailboxes(1, 1 << 20)?;
    let setup = CoreSetup {
        core: CoreId(0),
        cpu: Some(cpu),
        listeners: Vec::new(),
        data: directory.path().to_owned(),
        held: Some(directory.lock()?),
        options: ReactorOptions { spin_us: 0, ..plan.reactor },
        disk: plan.memory.disk,
        mailbox: mailboxes.into_iter().next().expect("one was asked for"),
        posts,
    };
    let (cores, stores) = (plan.cores, plan.stores);
    // The thread that calls this outlives the executor: what the future needs of the plan is made here.
    let options = {
        let plan = plan.clone();
        move |core: u16, stores: Vec<u16>| plan.engine(core, stores)
    };
    let place = {
        let plan = plan.clone();
        move |layout: &Layout| plan.placement(layout, layout.stores(), layout.cores())
    };
    let ended = std::thread::Builder::new().name("layout".to_owned()).spawn(move || {
        run_core::<Rc<Shard<RingEnv>>, End, _, _>(setup, move |env| async move {
            Err(match lay_out(&env, (cores, stores), options, place).await {
                Ok(layout) => End::Settled(Box::new(layout)),
                Err(error) => End::Failed(error),
            })
        })
        .map_err(|error| match error {
            CoreError::Shard(End::Settled(layout)) => Ok(*layout),
            CoreError::Shard(End::Failed(error)) => Err(CoreError::Shard(error)),
            CoreError::Start(error) => Err(CoreError::Start(error)),
            CoreError::Ring(error) => Err(CoreError::Ring(error)),
        })
    })?;
    match ended.join() {
        Ok(Err(Ok(layout))) => Ok(layout),
        Ok(Err(Err(error))) => Err(ServeError::Core { core: CoreId(0), error }),
        Ok(Ok(())) | Err(_) => Err(ServeError::Panicked(CoreId(0))),
    }
}

/// Finds how the data of a node is laid out, and lays it out anew if that is for another number of cores, with at least so many stores. `options` says how
/// the engine of a core is opened, given the number of its directory and its stores; `place` where vnodes are looked for in a layout.
pub async fn lay_out<E: Env>(
    env: &E,
    (cores, stores): (u16, u16),
    options: impl Fn(u16, Vec<u16>) -> ferrite_lsm::Options,
    place: impl Fn(&Layout) -> Placement,
) -> Result<Layout, OpenError> {
    let disk = env.disk();
    // The logs of the old cores are applied as those would have done.
    let options = |core, stores| joining_sets(options(core, stores));
    let mut found = layout::find(&disk).await?;
    if let Some(layout) = found.as_ref().map(|found| &found.layout).filter(|layout| layout.cores() == cores) {
        let files = layout::clean(&disk, layout).await?;
        if files > 0 {
            tracing::info!(files, "removed what an earlier change of the core count had left");
        }
        return Ok(layout.clone());
    }
    if let Some(before) = &found {
        tracing::info!(
            from = before.layout.cores(),
            to = cores,
            "laying the data out for another number of cores"
        );
        if end_first_start(env, &before.layout, &options, &place(&before.layout)).await? {
            found = layout::find(&disk).await?;
        }
    }
    let changed = layout::change(&disk, &env.pace(), found.as_ref(), (cores, stores), options, tell).await?;
    Ok(changed.layout)
}

/// Gives cores of a layout that never came up the vnodes that they would have: a first start may have been cut short when others had theirs. All of
/// them go into one catalog, which would seem to miss some, as if the configuration had changed. True = there was such a core.
async fn end_first_start<E: Env>(
    env: &E,
    layout: &Layout,
    options: &impl Fn(u16, Vec<u16>) -> ferrite_lsm::Options,
    placement: &Placement,
) -> Result<bool, OpenError> {
    let mut has_ended = false;
    for index in 0..layout.cores() {
        let (vnodes, stores) = (placement.vnodes_of(CoreId(index)), placement.stores_of(CoreId(index)));
        let has_some = layout.vnodes().iter().any(|(_, store)| stores.contains(store));
        if has_some || vnodes.is_empty() || layout.vnodes().is_empty() {
            continue;
        }
        cover::mark("first start ended before cores changed");
        let mut options = options(layout.core_number(index), stores);
        options.layout = Some(layout.mark(index));
        let (engine, _) = Engine::open(env.disk(), env.pace(), options).await?;
        engine.assign(&vnodes).await?;
        engine.close().await?;
        has_ended = true;
    }
    Ok(has_ended)
}

fn tell(progress: Progress) {
    match progress {
        Progress::Recovered { index, cores, core, recovery } => {
            recovered::tell(CoreId(index), core, &recovery);
            let records = recovery.replayed;
            tracing::info!(core = index, of = cores, records, "recovered the log of an old core");
        }
        Progress::Flushed { index, cores } => {
            tracing::info!(core = index, of = cores, "its records are in tables");
        }
        Progress::PassedOver { index, error } => {
            tracing::error!(core = index, %error, "records of the node's own (hints) cannot be read: they are passed over, and lost");
        }
        Progress::Committed { cores } => tracing::info!(cores, "the new layout is durable"),
        Progress::Cleaned { files } => tracing::info!(files, "removed the old logs and manifests"),
    }
}
