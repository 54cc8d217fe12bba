//! Supervisors on paper: the rows of OTP's manual one by one, and what holds whatever happens.

use proptest::prelude::{
    Just, Strategy as _, any, prop_assert, prop_assert_eq, prop_oneof, proptest,
};

use super::Act::{Ended, Forget, Start, Stop};
use super::*;
use crate::wire::host::{MAX_RESTARTS, MAX_SECONDS};

fn supervisor(strategy: Strategy, auto: AutoShutdown) -> Supervisor {
    let within = Duration::from_secs(MAX_SECONDS.into());
    Supervisor::new(strategy, auto, MAX_RESTARTS, within, false)
}

fn of(strategy: Strategy, restarts: &[Restart]) -> Supervisor {
    let mut top = supervisor(strategy, AutoShutdown::Never);
    for (restart, id) in restarts.iter().zip(1..) {
        assert_eq!(top.add(id, *restart, false), [Start(id)]);
    }
    top
}

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

#[test]
fn one_for_one_starts_the_dead_one_again_and_nobody_else() {
    let mut top = of(Strategy::OneForOne, &[Restart::Permanent; 3]);
    assert_eq!(top.exited(now(), 2, true), [Start(2)]);
    assert_eq!(top.exited(now(), 2, false), [Start(2)], "a permanent one also when it ended well");
}

#[test]
fn one_for_all_stops_the_others_last_one_first_and_starts_all_in_order() {
    let mut top = of(Strategy::OneForAll, &[Restart::Permanent; 3]);
    assert_eq!(top.exited(now(), 2, true), [Stop(3)]);
    assert!(top.is_restarting());
    assert_eq!(top.exited(now(), 3, true), [Stop(1)]);
    assert_eq!(top.exited(now(), 1, true), [Start(1), Start(2), Start(3)]);
    assert!(!top.is_restarting());
}

#[test]
fn rest_for_one_leaves_those_alone_that_were_started_before() {
    let mut top = of(Strategy::RestForOne, &[Restart::Permanent; 4]);
    assert_eq!(top.exited(now(), 2, true), [Stop(4)]);
    // Another one ends by itself meanwhile: it is not stopped, and not counted.
    assert_eq!(top.exited(now(), 3, true), []);
    assert_eq!(top.exited(now(), 4, true), [Start(2), Start(3), Start(4)]);
    assert_eq!(top.restarts.len(), 1);
}

#[test]
fn a_transient_child_is_started_again_after_an_abnormal_end_only() {
    let mut top = of(Strategy::OneForOne, &[Restart::Transient]);
    assert_eq!(top.exited(now(), 1, true), [Start(1)]);
    assert_eq!(top.exited(now(), 1, false), []);
    assert_eq!(top.len(), 1, "it can be restarted by hand");
    assert_eq!(top.restart(1), [Start(1)]);
}

#[test]
fn a_temporary_child_is_forgotten_also_when_it_goes_with_others() {
    let mut top = of(Strategy::OneForAll, &[Restart::Temporary, Restart::Permanent]);
    assert_eq!(top.exited(now(), 2, true), [Stop(1)]);
    assert_eq!(top.exited(now(), 1, true), [Forget(1), Start(2)]);
    assert_eq!(top.len(), 1);
}

#[test]
fn more_restarts_than_allowed_in_the_time_end_it_and_those_before_are_forgotten() {
    let mut top = of(Strategy::OneForOne, &[Restart::Permanent; 2]);
    let start = now();
    let at = |s: u64| start + Duration::from_secs(s);
    for second in [0, 2, 4, 6, 8, 10] {
        assert_eq!(top.exited(at(second), 1, true), [Start(1)], "at most three in five seconds");
    }
    assert_eq!(top.exited(at(10), 1, true), [Stop(2)]);
    assert!(top.is_ending());
    assert_eq!(top.exited(at(10), 2, true), [Ended(End::GaveUp)]);
    assert!(top.is_over());
    assert_eq!(top.revive(), [Start(1), Start(2)]);
    assert_eq!(top.exited(at(10), 1, true), [Start(1)], "it begins to count anew");
}

#[test]
fn what_was_terminated_by_hand_stays_away_until_it_is_wanted() {
    let mut top = of(Strategy::OneForAll, &[Restart::Permanent; 2]);
    assert_eq!(top.terminate(2), [Stop(2)]);
    assert_eq!(top.terminate(2), []);
    assert_eq!(top.exited(now(), 2, true), []);
    assert_eq!(top.exited(now(), 1, true), [Start(1)], "and does not come with the others");
    assert_eq!(top.restart(2), [Start(2)]);
    assert_eq!(top.restart(2), []);
}

#[test]
fn a_child_that_comes_while_others_are_restarted_is_started_with_them() {
    let mut top = of(Strategy::OneForAll, &[Restart::Permanent; 2]);
    assert_eq!(top.exited(now(), 1, true), [Stop(2)]);
    assert_eq!(top.add(3, Restart::Permanent, false), []);
    assert_eq!(top.exited(now(), 2, true), [Start(1), Start(2), Start(3)]);
}

#[test]
fn significant_children_take_their_supervisor_along() {
    let build = |auto| {
        let mut top = supervisor(Strategy::OneForOne, auto);
        for id in [1, 2] {
            top.add(id, Restart::Transient, true);
        }
        top.add(3, Restart::Permanent, false);
        top
    };
    let mut never = build(AutoShutdown::Never);
    assert_eq!(never.exited(now(), 1, false), []);
    let mut any = build(AutoShutdown::AnySignificant);
    assert_eq!(any.exited(now(), 1, true), [Start(1)], "not when it is started again");
    assert_eq!(any.exited(now(), 1, false), [Stop(3)]);
    let mut all = build(AutoShutdown::AllSignificant);
    assert_eq!(all.exited(now(), 1, false), []);
    assert_eq!(all.exited(now(), 2, false), [Stop(3)]);
    assert_eq!(all.exited(now(), 3, true), [Ended(End::Auto)]);
}

#[test]
fn a_shutdown_overtakes_a_restart() {
    let mut top = of(Strategy::OneForAll, &[Restart::Permanent; 3]);
    assert_eq!(top.exited(now(), 1, true), [Stop(3)]);
    assert_eq!(top.shutdown(End::Asked), []);
    assert_eq!(top.exited(now(), 3, true), [Stop(2)]);
    assert_eq!(top.exited(now(), 2, true), [Ended(End::Asked)]);
    assert_eq!(top.shutdown(End::Asked), []);
}

#[test]
fn a_factory_stops_all_of_its_children_at_once() {
    let within = Duration::from_secs(5);
    let mut top = Supervisor::new(Strategy::OneForOne, AutoShutdown::Never, 3, within, true);
    for id in 1..=3 {
        top.add(id, Restart::Temporary, false);
    }
    assert_eq!(top.shutdown(End::Asked), [Stop(3), Stop(2), Stop(1)]);
    assert_eq!(top.exited(now(), 2, true), [Forget(2)]);
    assert_eq!(top.exited(now(), 1, true), [Forget(1)]);
    assert_eq!(top.exited(now(), 3, true), [Forget(3), Ended(End::Asked)]);
}

#[test]
fn who_ends_before_those_that_are_being_restarted_is_restarted_with_them() {
    let mut top = of(Strategy::RestForOne, &[Restart::Permanent; 4]);
    assert_eq!(top.exited(now(), 3, true), [Stop(4)]);
    assert_eq!(top.exited(now(), 1, true), [], "4 is to end first");
    assert_eq!(top.exited(now(), 4, true), [Stop(2)]);
    assert_eq!(top.exited(now(), 2, true), [Start(1), Start(2), Start(3), Start(4)]);
    // One that is not to come again leaves the others to it.
    let mut top =
        of(Strategy::RestForOne, &[Restart::Temporary, Restart::Permanent, Restart::Permanent]);
    assert_eq!(top.exited(now(), 2, true), [Stop(3)]);
    assert_eq!(top.exited(now(), 1, true), [Forget(1)]);
    assert_eq!(top.exited(now(), 3, true), [Start(2), Start(3)]);
}

#[test]
fn a_factory_forgets_who_has_ended_for_good() {
    let within = Duration::from_secs(5);
    let mut top = Supervisor::new(Strategy::OneForOne, AutoShutdown::Never, 3, within, true);
    top.add(1, Restart::Transient, false);
    top.add(2, Restart::Permanent, false);
    assert_eq!(top.exited(now(), 1, true), [Start(1)]);
    assert_eq!(top.exited(now(), 1, false), [Forget(1)], "there is room for another one");
    assert_eq!(top.terminate(2), [Stop(2)]);
    assert_eq!(top.exited(now(), 2, false), [Forget(2)]);
    assert_eq!(top.len(), 0);
}

#[test]
fn what_was_asked_to_end_is_not_said_to_have_given_up() {
    let mut top = of(Strategy::OneForOne, &[Restart::Permanent]);
    assert_eq!(top.shutdown(End::Asked), [Stop(1)]);
    assert_eq!(top.shutdown(End::GaveUp), [], "its process was killed meanwhile");
    assert_eq!(top.exited(now(), 1, true), [Ended(End::Asked)]);
}

/// What may happen to a supervisor.
#[derive(Clone, Copy, Debug)]
enum Step {
    Add(Restart, bool),
    Terminate(usize),
    Restart(usize),
    Delete(usize),
    /// A child that runs ends; the number picks which.
    Exit(usize, bool),
    Pass(u64),
    Shutdown,
    Revive,
}

fn steps() -> impl proptest::strategy::Strategy<Value = Vec<Step>> {
    let restart =
        prop_oneof![Just(Restart::Permanent), Just(Restart::Transient), Just(Restart::Temporary)];
    let step = prop_oneof![
        3 => (restart, any::<bool>()).prop_map(|(restart, s)| Step::Add(restart, s)),
        1 => any::<usize>().prop_map(Step::Terminate),
        1 => any::<usize>().prop_map(Step::Restart),
        1 => any::<usize>().prop_map(Step::Delete),
        8 => (any::<usize>(), any::<bool>()).prop_map(|(at, abnormal)| Step::Exit(at, abnormal)),
        2 => (0..8_u64).prop_map(Step::Pass),
        1 => Just(Step::Shutdown),
        1 => Just(Step::Revive),
    ];
    proptest::collection::vec(step, 1..80)
}

/// The programs, as the edge would see them.
#[derive(Default)]
struct Programs {
    running: std::collections::BTreeSet<ChildId>,
    stopping: std::collections::BTreeSet<ChildId>,
}

impl Programs {
    fn obey(&mut self, acts: &[Act], top: &Supervisor) {
        for act in acts {
            match act {
                Start(id) => assert!(self.running.insert(*id), "{id} runs once"),
                Stop(id) => {
                    assert!(self.running.contains(id), "only what runs is stopped");
                    assert!(self.stopping.insert(*id), "{id} is asked once");
                }
                Forget(id) => assert!(!self.running.contains(id), "what is forgotten has ended"),
                Ended(_) => {
                    assert!(top.is_over());
                    assert!(self.running.is_empty(), "it ends when all have ended");
                }
            }
        }
    }
}

proptest! {
    #[test]
    fn whatever_happens_each_child_runs_once_and_every_end_is_reached(
        kind in 0..3_usize,
        auto in 0..3_usize,
        dynamic in any::<bool>(),
        steps in steps(),
    ) {
        let strategy = [Strategy::OneForOne, Strategy::OneForAll, Strategy::RestForOne][kind];
        let auto = [AutoShutdown::Never, AutoShutdown::AnySignificant, AutoShutdown::AllSignificant][auto];
        let mut top = Supervisor::new(strategy, auto, 3, Duration::from_secs(5), dynamic);
        let mut programs = Programs::default();
        let (mut now, mut last) = (now(), 0);
        let pick = |top: &Supervisor, at: usize| {
            let children: Vec<_> = top.children().collect();
            (!children.is_empty()).then(|| children[at % children.len()])
        };
        for step in steps {
            let acts = match step {
                Step::Add(restart, significant) if !top.is_ending() => {
                    last += 1;
                    top.add(last, restart, significant)
                }
                Step::Terminate(at) => pick(&top, at).map(|(id, _)| top.terminate(id)).unwrap_or_default(),
                Step::Restart(at) => pick(&top, at).map(|(id, _)| top.restart(id)).unwrap_or_default(),
                Step::Delete(at) => match pick(&top, at) {
                    Some((id, State::Stopped)) => top.delete(id),
                    _ => Vec::new(),
                },
                Step::Exit(at, abnormal) => {
                    let running: Vec<_> = programs.running.iter().copied().collect();
                    if running.is_empty() { continue }
                    let id = running[at % running.len()];
                    programs.running.remove(&id);
                    programs.stopping.remove(&id);
                    top.exited(now, id, abnormal)
                }
                Step::Pass(seconds) => {
                    now += Duration::from_secs(seconds);
                    Vec::new()
                }
                Step::Shutdown => top.shutdown(End::Asked),
                Step::Revive => top.revive(),
                Step::Add(..) => Vec::new(),
            };
            programs.obey(&acts, &top);
            prop_assert!(top.restarts.len() <= 4);
            if top.doing == Doing::Steady {
                let lost = |m: &&Member| {
                    m.wanted && m.restart == Restart::Permanent && m.state == State::Stopped
                };
                prop_assert_eq!(top.members.iter().find(lost).map(|m| m.id), None);
            }
            for (id, state) in top.children() {
                prop_assert_eq!(state != State::Stopped, programs.running.contains(&id));
                prop_assert_eq!(state == State::Ending, programs.stopping.contains(&id));
            }
        }
        // Asked to end, it ends as soon as those have ended whom it asks.
        let mut acts = top.shutdown(End::Asked);
        while !top.is_over() {
            programs.obey(&acts, &top);
            let next = programs.stopping.pop_first().expect("somebody is asked to end");
            programs.running.remove(&next);
            acts = top.exited(now, next, true);
        }
        programs.obey(&acts, &top);
        prop_assert!(programs.running.is_empty());
    }
}
