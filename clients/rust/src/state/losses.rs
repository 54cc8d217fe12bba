//! The connection comes and goes: what is lost with it, what is kept, and who is told.

use std::mem;

use tokio::time::Instant;

use super::{After, Key, OWN, PATIENCE, Role, State, WINDOW, Want};
use crate::client::Report;
use crate::error::{Code, Error};
use crate::event::{Event, Kind};
use crate::op::Op;

impl State {
    // ===== the connection comes and goes =====

    /// The connection is lost. Who waits for an answer does so for as long as it may take.
    pub(crate) fn on_break(&mut self) {
        self.driver = None;
        let deadline = Instant::now() + PATIENCE;
        for pending in self.pending.values_mut().filter(|pending| !pending.is_call) {
            pending.deadline = Some(deadline);
        }
    }

    /// When the first of those who wait for answers has waited for too long.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        let waiting = self.pending.values().filter(|pending| pending.end.is_some());
        waiting.filter_map(|pending| pending.deadline).min()
    }

    pub(crate) fn expire(&mut self, now: Instant) {
        for pending in self.pending.values_mut() {
            if pending.deadline.is_some_and(|deadline| deadline <= now)
                && let Some(end) = pending.end.take()
            {
                let words = "no reply in time; the connection to the node is lost";
                let error = if pending.is_call {
                    Error::new(Code::Timeout, true, words)
                } else {
                    Error::lost(true)
                };
                let _ = end.send(Err(error));
            }
        }
    }

    /// The session lives on: of what was written the node has carried out all but this hello.
    pub(crate) fn on_resumed(&mut self, commands: u64, after: &mut After) {
        let carried = commands.saturating_sub(1).min(self.handed);
        let handed = self.handed;
        let mut answering = 0;
        self.pending.retain(|_, pending| {
            if !pending.is_call {
                pending.deadline = None;
            }
            if pending.seq > handed {
                // It waits in the buffer still, and is written behind the hello.
                pending.seq = pending.seq - handed + commands;
            } else if pending.seq > carried {
                answering += 1;
                if let Some(end) = pending.end.take() {
                    let _ = end.send(Err(Error::lost(false)));
                }
                return false;
            }
            true
        });
        let mores = self.mores.iter().filter(|seq| (carried + 1..=handed).contains(seq)).count();
        self.mores.retain(|seq| *seq > handed);
        for seq in &mut self.mores {
            *seq = *seq - handed + commands;
        }
        let lost = (handed - carried).saturating_sub(answering + mores as u64);
        self.seq = self.seq - handed + commands;
        self.handed = commands;
        self.boundary = commands;
        self.writing = 0;
        if handed > carried {
            self.open_windows();
        }
        let report =
            Report { resumed: true, lost_events: 0, lost_commands: lost, unsure_commands: 0 };
        self.report = Some(report);
        after.wakers.extend(self.driver.take());
    }

    /// No frame has come behind the welcome for a while: none was lost.
    pub(crate) fn take_report(&mut self) -> Option<Report> {
        self.report.take()
    }

    /// Answers to what was written before may be among the frames that were lost.
    pub(super) fn lose_answers(&mut self) {
        let boundary = self.boundary;
        self.pending.retain(|_, pending| {
            if pending.seq > boundary {
                return true;
            }
            if let Some(end) = pending.end.take() {
                let _ = end.send(Err(Error::lost(true)));
            }
            false
        });
    }

    /// What was lost on the way to or from the node would stay counted as unconsumed.
    pub(super) fn open_windows(&mut self) {
        let keys: Vec<Key> = self.processes.keys().copied().collect();
        for key in keys {
            let open = self.processes.get(&key).is_some_and(|p| p.ended.is_none() && !p.pull);
            if open {
                let _ =
                    self.write(key, &Op::new("more").uint("n", WINDOW.into()), Want::More, None);
            }
        }
    }

    /// A new session begins: `commands` were said in it. Gives what was lost with the one of before.
    pub(crate) fn on_restarted(
        &mut self,
        commands: u64,
        seen: u64,
        quiet: bool,
        after: &mut After,
    ) -> Report {
        let handed = self.handed;
        for (_, mut pending) in mem::take(&mut self.pending) {
            if let Some(end) = pending.end.take() {
                let _ = end.send(Err(Error::lost(pending.seq <= handed)));
            }
        }
        let unsure_commands = self.told - self.told_done;
        self.out.clear();
        self.writing = 0;
        (self.seq, self.handed, self.seen) = (commands, commands, seen);
        (self.told, self.told_done) = (0, 0);
        self.mores.clear();
        self.given.clear();
        let ours = mem::take(&mut self.by_pid);
        let own = self.processes.get(&OWN).and_then(|own| own.pid.clone());
        self.report = None;
        self.draining = false;
        self.epoch += 1;
        let epoch = self.epoch;
        let monitors = mem::take(&mut self.monitors);
        let links = mem::take(&mut self.links);
        for process in self.processes.values_mut() {
            process.consumed = 0;
            process.pull = false;
            if process.role == Role::Iterator && process.ending {
                process.end("shutdown", &mut after.wakers);
            }
            process.ending = false;
        }
        for (reference, (key, to)) in monitors {
            let down = Event::make(Kind::Down, |fields| {
                fields.uint("ref", reference);
                fields.text(if to.starts_with('<') { "from" } else { "name" }, &to);
                fields.text("reason", "noconnection");
            });
            if let Some(process) = self.processes.get_mut(&key).filter(|p| p.ended.is_none()) {
                process.push(epoch, down, &mut after.wakers);
            }
        }
        self.relink.clear();
        for (key, to) in links {
            let other = if own.as_deref() == Some(to.as_str()) {
                Some(OWN)
            } else {
                ours.get(to.as_str()).copied()
            };
            if let Some(other) = other {
                // Both ends are the client's, and both will be there again.
                self.relink.insert((key.min(other), key.max(other)));
                continue;
            }
            let Some(process) = self.processes.get_mut(&key) else { continue };
            if process.traps {
                let exit = Event::make(Kind::Exit, |fields| {
                    fields.text("from", &to);
                    fields.text("reason", "noconnection");
                });
                process.push(epoch, exit, &mut after.wakers);
            } else if key != OWN {
                process.end("noconnection", &mut after.wakers);
            }
        }
        for process in self.processes.values_mut().filter(|p| !quiet && p.ended.is_none()) {
            let gap = Event::make(Kind::Gap, |fields| {
                fields.uint("lost", 0);
                fields.text("reason", "restarted");
            });
            process.push(epoch, gap, &mut after.wakers);
        }
        let ended: Vec<Key> =
            self.processes.iter().filter(|(_, p)| p.ended.is_some()).map(|(key, _)| *key).collect();
        for key in ended {
            self.forget(key);
        }
        Report { resumed: false, lost_events: 0, lost_commands: 0, unsure_commands }
    }

    /// For good: everybody who waits hears it.
    pub(crate) fn on_closed(&mut self, after: &mut After) {
        for (_, mut pending) in mem::take(&mut self.pending) {
            if let Some(end) = pending.end.take() {
                let _ = end.send(Err(Error::lost(pending.seq <= self.handed)));
            }
        }
        for process in self.processes.values_mut() {
            after.wakers.append(&mut process.wakers);
        }
        self.given.clear();
    }
}
