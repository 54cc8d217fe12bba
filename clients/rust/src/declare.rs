//! Saying again all that the app had said to a node that does not know it any more.

use std::sync::Arc;

use crate::client::Failed;
use crate::error::{Error, Result};
use crate::op::Op;
use crate::pid::Pid;
use crate::state::{After, OWN, Shared, Then};

/// Spawns all processes, then says the rest in its order. What the node refuses is told as `failed`.
///
/// # Errors
/// Only when the connection is lost meanwhile.
pub(crate) async fn all(shared: &Arc<Shared>) -> Result<()> {
    let mut answers = Vec::new();
    let spawns: Vec<_> = {
        let state = shared.state();
        let alive = state.processes.iter().filter(|(key, p)| **key != OWN && p.ended.is_none());
        alive
            .map(|(key, process)| {
                (*key, process.spawn.clone().flag("trap_exit", process.traps), process.name.clone())
            })
            .collect()
    };
    for (key, op, name) in spawns {
        let answer = shared.declare(
            OWN,
            &op,
            Some(Box::new(move |state, answer| {
                if let Some(pid) = answer.pid() {
                    state.set_pid(key, Pid::from(pid));
                }
            })),
        )?;
        answers.push((key, name.unwrap_or_default(), answer));
    }
    for (key, name, answer) in answers {
        let Err(error) = settled(answer).await? else { continue };
        let mut after = After::default();
        after.failed.push(Failed::because("spawn", &name, &error));
        let mut state = shared.state();
        if let Some(process) = state.processes.get_mut(&key) {
            process.end(error.code().as_str(), &mut after.wakers);
        }
        state.forget(key);
        drop(state);
        shared.finish(after);
    }
    relink(shared).await?;
    let own_traps = shared.state().processes.get(&OWN).is_some_and(|own| own.traps);
    let own = own_traps.then(|| (OWN, Op::new("flag").bool("trap_exit", true), String::new()));
    let said: Vec<_> = {
        let state = shared.state();
        let all = state.declarations.values();
        all.map(|d| (d.key, d.op.clone(), d.name.clone())).collect()
    };
    let mut answers = Vec::new();
    for (key, op, name) in own.into_iter().chain(said) {
        let answer = shared.declare(key, &op, None)?;
        answers.push((op, name, answer));
    }
    for (op, name, answer) in answers {
        if let Err(error) = settled(answer).await? {
            shared.settings.failed(&Failed::because(op.name(), &name, &error));
        }
    }
    Ok(())
}

/// Ties processes of this client together again.
async fn relink(shared: &Arc<Shared>) -> Result<()> {
    let links: Vec<_> = {
        let mut state = shared.state();
        let links = std::mem::take(&mut state.relink);
        let pid = |key| state.processes.get(&key).filter(|p| p.ended.is_none())?.pid.clone();
        links.iter().filter_map(|(a, b)| Some((*b, pid(*b)?, *a, pid(*a)?))).collect()
    };
    let mut answers = Vec::new();
    for (key, pid, other, to) in links {
        let op = Op::new("link").text("to", &to);
        let then: Then = Box::new(move |state, _| {
            state.links.insert((key, to.to_string()));
            state.links.insert((other, pid.to_string()));
        });
        answers.push(shared.declare(key, &op, Some(then))?);
    }
    for answer in answers {
        let _ = settled(answer).await?;
    }
    Ok(())
}

/// What the node says; an error when it says nothing any more.
async fn settled(
    answer: tokio::sync::oneshot::Receiver<Result<crate::event::Event>>,
) -> Result<Result<()>> {
    match answer.await {
        Ok(Ok(_)) => Ok(Ok(())),
        Ok(Err(error)) if matches!(error.code(), crate::Code::Lost | crate::Code::Closed) => {
            Err(error)
        }
        Ok(Err(error)) => Ok(Err(error)),
        Err(_) => Err(Error::lost(true)),
    }
}
