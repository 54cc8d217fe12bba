//! Leaving a node that is about to leave, so that nothing is lost and nobody waits in vain.
//!
//! ```text
//! draining ──> servers: flag {delivery: "pull"} ──> answer what was given ──> terminate, exit
//!         └──> iterators end ──> no command waits any more ──> bye ──> another node
//! ```

use std::sync::Arc;
use std::task::Waker;

use tokio::sync::oneshot;

use crate::error::Result;
use crate::event::Event;
use crate::op::Op;
use crate::state::{After, Key, OWN, Phase, Process, Put, Role, Shared, Then, Want};

/// The node is about to leave: the app decides, or the client does it.
pub(crate) fn begin(shared: &Arc<Shared>) {
    match &shared.settings.draining {
        Some(callback) => crate::client::told("on_draining", || callback(&())),
        None => leave_soon(shared),
    }
}

pub(crate) fn leave_soon(shared: &Arc<Shared>) {
    let leaving = Arc::clone(shared);
    shared.run(async move { leave(&leaving).await });
}

async fn leave(shared: &Arc<Shared>) {
    let epoch = shared.state().epoch;
    while let Some(false) = try_to_leave(shared, epoch).await {}
}

/// Whether it has left; none when there is nothing to leave any more.
async fn try_to_leave(shared: &Arc<Shared>, epoch: u32) -> Option<bool> {
    let mut phase = shared.phase.subscribe();
    phase.wait_for(|phase| matches!(phase, Phase::Ready | Phase::Closed)).await.ok()?;
    let mut after = After::default();
    let servers: Vec<Key> = {
        let mut state = shared.state();
        if state.epoch != epoch || state.phase == Phase::Closed {
            return None;
        }
        for process in state.processes.values_mut().filter(|p| p.role == Role::Iterator) {
            process.close(&mut after.wakers);
        }
        let servers = state.processes.iter().filter(|(_, p)| {
            p.role == Role::Server && p.ended.is_none() && p.pid.is_some() && !p.pull
        });
        servers.map(|(key, _)| *key).collect()
    };
    shared.finish(after);
    let flag = Op::new("flag").text("delivery", "pull");
    let mut answers = Vec::new();
    for key in servers {
        // Behind the answer nothing is given to it any more.
        let mut then: Option<Then> = Some(Box::new(move |state, _| {
            let mut wakers = Vec::new();
            if let Some(process) = state.processes.get_mut(&key) {
                process.pull = true;
                process.close(&mut wakers);
            }
            wakers.into_iter().for_each(Waker::wake);
        }));
        match shared.attempt(key, &flag, Want::Answer, &mut then, false) {
            Ok(Put::Done(Some(answer))) => answers.push(answer),
            Ok(Put::Away) => return Some(false),
            // The process has ended meanwhile.
            _ => {}
        }
    }
    for answer in answers {
        let _ = answer.await;
    }
    loop {
        let mut idle = std::pin::pin!(shared.idle.notified());
        idle.as_mut().enable();
        match goodbye(shared, epoch) {
            Goodbye::NotNow => return Some(false),
            Goodbye::Busy => idle.await,
            Goodbye::Said(answer) => {
                if let Some(answer) = answer {
                    let _ = answer.await;
                }
                shared.settings.drained();
                return Some(true);
            }
        }
    }
}

enum Goodbye {
    /// There is no connection to say it on.
    NotNow,
    /// Somebody waits for an answer, here or there.
    Busy,
    Said(Option<oneshot::Receiver<Result<Event>>>),
}

/// Says goodbye where nothing is left to do; what is asked for from then on waits for another node.
fn goodbye(shared: &Shared, epoch: u32) -> Goodbye {
    let mut state = shared.state();
    if state.epoch != epoch || state.phase != Phase::Ready {
        return Goodbye::NotNow;
    }
    let gone =
        |p: &Process| p.role != Role::Server || p.serves || p.ended.is_some() || p.pid.is_none();
    if !state.is_idle() || !state.processes.values().all(gone) {
        return Goodbye::Busy;
    }
    if state.program {
        // It is the whole program that goes, and looks for no other node.
        let exit = Op::new("exit").text("reason", "shutdown");
        let answer = state.write(OWN, &exit, Want::Answer, None).ok().flatten();
        shared.set_phase(&mut state, Phase::Closed);
        crate::state::release(state);
        shared.closing.notify_one();
        return Goodbye::Said(answer);
    }
    let answer = state.write(OWN, &Op::new("bye"), Want::Answer, None).ok().flatten();
    shared.set_phase(&mut state, Phase::Drained);
    crate::state::release(state);
    Goodbye::Said(answer)
}
