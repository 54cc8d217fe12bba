//! What comes, and what lies in mailboxes.

use std::mem;
use std::task::Waker;

use tokio::sync::oneshot;

use super::{After, Key, OWN, Phase, State, WINDOW, Want};
use crate::client::Failed;
use crate::error::Error;
use crate::event::{Event, Kind};
use crate::op::Op;

impl State {
    // ===== mailboxes =====

    /// Takes the first event, or the one with this number.
    pub(crate) fn take(&mut self, key: Key, number: Option<u64>) -> Option<Event> {
        let epoch = self.epoch;
        let process = self.processes.get_mut(&key)?;
        let entry = match number {
            None => process.queue.pop_front()?,
            Some(number) => {
                let at = process.queue.iter().position(|entry| entry.number == number)?;
                process.queue.remove(at)?
            }
        };
        if entry.event.is_counted() && entry.epoch == epoch && !process.serves {
            self.consume(key, epoch);
        }
        Some(entry.event)
    }

    /// One that was taken in this epoch is done with.
    pub(crate) fn consume(&mut self, key: Key, epoch: u32) {
        let Some(process) = self.processes.get_mut(&key) else { return };
        if epoch == self.epoch && !process.pull {
            process.consumed += 1;
            if process.consumed >= WINDOW / 2 {
                self.tell_consumed(key);
            }
        }
    }

    /// Events that came after those that were looked at, with their numbers.
    pub(crate) fn since(&self, key: Key, number: u64) -> Vec<(u64, Event)> {
        let entries = self.processes.get(&key).into_iter().flat_map(|process| &process.queue);
        entries
            .filter(|entry| entry.number >= number)
            .map(|entry| (entry.number, entry.event.clone()))
            .collect()
    }

    /// Whether an event has come that was not looked at.
    pub(crate) fn has_since(&self, key: Key, number: u64) -> bool {
        self.processes
            .get(&key)
            .is_some_and(|process| process.next_entry > number && !process.queue.is_empty())
            && !self.since(key, number).is_empty()
    }

    /// Waits for the next event, unless there will be none: then it gives why.
    pub(crate) fn wait(&mut self, key: Key, waker: &Waker, place: &mut u64) -> Option<String> {
        let closed = self.phase == Phase::Closed;
        self.tell_consumed(key);
        let Some(process) = self.processes.get_mut(&key) else { return Some("closed".to_owned()) };
        if let Some(reason) = &process.ended {
            return Some(reason.clone());
        }
        if process.ending && process.queue.is_empty() {
            return Some("shutdown".to_owned());
        }
        if closed {
            return Some("closed".to_owned());
        }
        process.wait(waker, place);
        None
    }

    /// Waits no longer.
    pub(crate) fn leave(&mut self, key: Key, place: u64) {
        if let Some(process) = self.processes.get_mut(&key) {
            process.wakers.retain(|(at, _)| *at != place);
        }
    }

    /// How many wait.
    #[cfg(test)]
    pub(crate) fn waiting(&self, key: Key) -> usize {
        self.processes[&key].wakers.len()
    }

    /// Waits for the end of a process: its reason.
    pub(crate) fn wait_end(&mut self, key: Key, waker: &Waker, place: &mut u64) -> Option<String> {
        let closed = self.phase == Phase::Closed;
        match self.processes.get_mut(&key) {
            Some(process) if process.ended.is_some() => process.ended.clone(),
            Some(process) if !closed => {
                process.wait(waker, place);
                None
            }
            _ => Some("closed".to_owned()),
        }
    }

    /// Takes back the `down` of a monitor.
    pub(crate) fn remove_down(&mut self, key: Key, reference: u64) {
        if let Some(process) = self.processes.get_mut(&key) {
            process.queue.retain(|entry| {
                entry.event.kind() != Kind::Down || entry.event.reference() != Some(reference)
            });
        }
    }

    /// Whether nothing waits in the mailbox.
    pub(crate) fn is_waiting(&self, key: Key) -> bool {
        self.processes.get(&key).is_some_and(|process| process.queue.is_empty())
    }

    /// Says what was consumed; what it wakes is the driver, which the caller does.
    pub(crate) fn tell_consumed(&mut self, key: Key) {
        let Some(process) = self.processes.get_mut(&key) else { return };
        let told = self.phase == Phase::Ready && process.ended.is_none();
        if process.consumed == 0 || !told {
            return;
        }
        let n = mem::take(&mut process.consumed);
        // A process that is there can say so.
        let _ = self.write(key, &Op::new("more").uint("n", n.into()), Want::More, None);
    }

    // ===== what comes =====

    pub(crate) fn on_event(&mut self, event: Event, after: &mut After) {
        self.seen += 1;
        // Before the gap come at most the `ok` of the hello and that the node is about to leave.
        let tells = event.id != Some(0) && event.kind() != Kind::Draining;
        if let Some(mut report) = if tells { self.report.take() } else { None } {
            if event.kind() == Kind::Gap && event.reason() == Some("resumed") {
                report.lost_events = event.uint("lost").unwrap_or(0);
                self.lose_answers();
                self.open_windows();
            }
            after.report = Some(report);
        }
        match event.kind() {
            Kind::Ok | Kind::Error => self.on_answer(event),
            Kind::Part => {
                let Some(pending) = event.id.and_then(|id| self.pending.get_mut(&id)) else {
                    return;
                };
                if pending.end.as_ref().is_none_or(oneshot::Sender::is_closed) {
                    // Nobody takes them any more.
                    pending.parts = None;
                }
                let id = event.id;
                match pending.parts.as_ref().map(|parts| parts.push(event)) {
                    Some(Ok(waker)) => after.wakers.extend(waker),
                    Some(Err(error)) => {
                        let pending = id.and_then(|id| self.pending.remove(&id));
                        if let Some(end) = pending.and_then(|pending| pending.end) {
                            let _ = end.send(Err(error));
                        }
                    }
                    None => {}
                }
            }
            Kind::Welcome | Kind::Unknown => {}
            Kind::Draining => {
                if !mem::replace(&mut self.draining, true) {
                    after.draining = true;
                }
            }
            Kind::Failed => after.failed.push(Failed::of(&event)),
            Kind::Died => self.on_died(&event, after),
            Kind::Cancel => {
                let reference = event.reference().unwrap_or(0);
                let key = self.given.remove(&reference);
                after.idle |= key.is_some();
                if let Some(process) = key.and_then(|key| self.processes.get_mut(&key))
                    && process.serves
                {
                    process.push(self.epoch, event, &mut after.wakers);
                }
            }
            _ => self.on_mail(event, after),
        }
    }

    fn on_mail(&mut self, event: Event, after: &mut After) {
        let key = match event.kind() {
            // Whose it is, its monitor says too, which is over.
            Kind::Down => match event.reference().and_then(|of| self.monitors.remove(&of)) {
                Some((key, _)) => key,
                None => return,
            },
            _ => match event.pid() {
                None => OWN,
                Some(pid) => match self.key_of(pid) {
                    Some(key) => key,
                    None => return,
                },
            },
        };
        match (event.kind(), event.reference()) {
            (Kind::Call | Kind::Rpc, Some(reference)) => {
                self.given.insert(reference, key);
            }
            (Kind::Exit, _) => {
                if let Some(from) = event.from_str() {
                    self.links.remove(&(key, from.to_owned()));
                }
            }
            _ => {}
        }
        if let Some(process) = self.processes.get_mut(&key) {
            process.push(self.epoch, event, &mut after.wakers);
        }
    }

    fn on_answer(&mut self, event: Event) {
        let Some(pending) = event.id.and_then(|id| self.pending.remove(&id)) else { return };
        self.told_done = self.told_done.max(pending.told);
        while self.mores.front().is_some_and(|seq| *seq <= pending.seq) {
            self.mores.pop_front();
        }
        let answer = if event.kind() == Kind::Error {
            Err(Error::of(&event))
        } else {
            if let Some(then) = pending.then {
                then(self, &event);
            }
            Ok(event)
        };
        if let Some(end) = pending.end {
            let _ = end.send(answer);
        }
    }

    fn on_died(&mut self, event: &Event, after: &mut After) {
        let Some(pid) = event.pid() else { return };
        if self.processes.get(&OWN).and_then(|own| own.pid.as_deref()) == Some(pid) {
            after.died = true;
            if self.program
                && let Some(own) = self.processes.get_mut(&OWN)
            {
                own.end(event.reason().unwrap_or("killed"), &mut after.wakers);
            }
        } else if let Some(key) = self.key_of(pid) {
            let reason = event.reason().unwrap_or("killed").to_owned();
            if let Some(process) = self.processes.get_mut(&key) {
                process.end(&reason, &mut after.wakers);
            }
            self.forget(key);
        }
    }
}
