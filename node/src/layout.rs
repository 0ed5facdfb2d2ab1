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
    let deal = {
        let plan = plan.clone();
        move |stores: u16, cores: u16| plan.deal(stores, cores)
    };
    let ended = std::thread::Builder::new().name("layout".to_owned()).spawn(move || {
        run_core::<Rc<Shard<RingEnv>>, End, _, _>(setup, move |env| async move {
            Err(match lay_out(&env, (cores, stores), options, deal).await {
                Ok(layout) => End::Settled(Box::new(layout)),
                Err(error) => End::Failed(error),
            })
        })
        .map_err(|error| match error {
            CoreError::Shard(End::Settled(layout)) => Ok(*layout),
            CoreError::Shard(End::Failed(error)) => Err(CoreError::Shard(error)),
            CoreError::Start(error) => Err(CoreError::Start(error)),
            CoreError::Ring(error) => Err(CoreError::Ring(error)),
            CoreError::Disorder(why) => Err(CoreError::Disorder(why)),
        })
    })?;
    match ended.join() {
        Ok(Err(Ok(layout))) => Ok(layout),
        Ok(Err(Err(error))) => Err(ServeError::Core { core: CoreId(0), error }),
        Ok(Ok(())) | Err(_) => Err(ServeError::Panicked(CoreId(0))),
    }
}

/// Finds how the data of a node is laid out, and lays it out anew if that is for another number of cores, with at least so many stores. `options` says how
/// the engine of a core is opened, given the number of its directory and its stores; `deal` where a first start puts vnodes, with so many stores on so many cores.
pub async fn lay_out<E: Env>(
    env: &E,
    (cores, stores): (u16, u16),
    options: impl Fn(u16, Vec<u16>) -> ferrite_lsm::Options,
    deal: impl Fn(u16, u16) -> Placement,
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
        let layout = &before.layout;
        if end_first_start(env, layout, &options, &deal(layout.stores(), layout.cores())).await? {
            found = layout::find(&disk).await?;
        }
    }
    let changed = layout::change(&disk, &env.pace(), found.as_ref(), (cores, stores), options, tell).await?;
    Ok(changed.layout)
}

/// Gives cores of a layout that never came up the vnodes that they would have: a first start may have been cut short when others had theirs. All of
/// them go into one catalog, which would seem to miss some, as if the configuration had changed. So it may have: nothing is given unless each core has nothing,
/// or just what a first start `dealt` to it. True = there was such a core.
async fn end_first_start<E: Env>(
    env: &E,
    layout: &Layout,
    options: &impl Fn(u16, Vec<u16>) -> ferrite_lsm::Options,
    dealt: &Placement,
) -> Result<bool, OpenError> {
    let mut missing = Vec::new();
    let mut seen = 0;
    for index in 0..layout.cores() {
        let (vnodes, stores) = (dealt.vnodes_of(CoreId(index)), dealt.stores_of(CoreId(index)));
        let mut has: Vec<(u16, u16)> = layout.vnodes().to_vec();
        has.retain(|(_, store)| stores.contains(store));
        has.sort_unstable();
        seen += has.len();
        if has.is_empty() && !vnodes.is_empty() {
            missing.push((index, stores, vnodes));
        } else if has != vnodes {
            return Ok(false);
        }
    }
    if missing.is_empty() || seen == 0 || seen < layout.vnodes().len() {
        return Ok(false);
    }
    for (index, stores, vnodes) in missing {
        cover::mark("first start ended before cores changed");
        let core = layout.core_number(index);
        let options = ferrite_lsm::Options { layout: Some(layout.mark(index)), ..options(core, stores) };
        let (engine, recovery) = Engine::open(env.disk(), env.pace(), options).await?;
        recovered::tell(CoreId(index), core, &recovery);
        tracing::info!(core = index, "ended its first start, which had been cut short");
        engine.assign(&vnodes).await?;
        engine.close().await?;
    }
    Ok(true)
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
