//! Apps that connect, against what a script says of the pods of the machine.

use std::fs;

use pillion_strategies::pods::MachinePod;
use tempfile::TempDir;
use tokio::io::AsyncReadExt as _;

use super::*;
use crate::config::PodRule;
use crate::router::Limits;
use crate::wire::id::{Incarnation, Node};

const UID: &str = "6c1b8c0e-7d5f-4a0b-9c38-0f2d1e3a4b5c";
const OTHER: &str = "7c1b8c0e-7d5f-4a0b-9c38-0f2d1e3a4b5c";

/// A node whose apps are all this test, which runs in the control group that is written.
struct World {
    pods: Arc<Pods>,
    hub: Arc<Hub>,
    news: mpsc::Sender<PodNews>,
    proc: TempDir,
}

impl World {
    fn new(allowed: &[PodRule]) -> Self {
        let proc = tempfile::tempdir().expect("a directory");
        fs::create_dir(proc.path().join("self")).expect("a directory");
        fs::write(proc.path().join("self/cgroup"), groups(OTHER)).expect("a file");
        fs::create_dir(proc.path().join(std::process::id().to_string())).expect("a directory");
        let own = Pod {
            namespace: "mesh".into(),
            name: "agent-x7x2k".into(),
            account: "".into(),
            app: "agent".into(),
        };
        let served = PodsServed {
            machine: "node-1".to_owned(),
            allowed: allowed.to_vec(),
            own: Some(Arc::new(own)),
        };
        let node = Node { name: "a@h".parse().expect("a name"), incarnation: Incarnation(1) };
        let hub = Hub::new(node, Limits::default());
        let pods = Arc::new(Pods::at(served, proc.path().to_owned()));
        let (news, heard) = mpsc::channel(8);
        tokio::spawn({
            let (pods, hub) = (Arc::clone(&pods), Arc::clone(&hub));
            async move { pods.listen(heard, &hub).await }
        });
        let world = Self { pods, hub, news, proc };
        world.runs_in(&groups(UID));
        world
    }

    fn runs_in(&self, cgroup: &str) {
        let file = self.proc.path().join(std::process::id().to_string()).join("cgroup");
        fs::write(file, cgroup).expect("a file");
    }

    /// It has been heard when this is over.
    async fn says(&self, news: PodNews) {
        self.news.send(news).await.expect("it listens");
        while self.news.capacity() < self.news.max_capacity() {
            tokio::task::yield_now().await;
        }
    }

    async fn lists(&self, pods: &[MachinePod]) {
        self.says(PodNews::Begins).await;
        for pod in pods {
            self.says(PodNews::Listed(format!("{}/{}", pod.namespace, pod.name), pod.clone()))
                .await;
        }
        self.says(PodNews::Whole).await;
    }

    async fn comes(&self) -> Result<Guest, Turned> {
        let (ours, _theirs) = UnixStream::pair().expect("a pair");
        self.pods.admit(&ours, &self.hub).await
    }

    /// The code and the words with which an app is turned away.
    async fn turned(&self) -> (&'static str, String) {
        let turned = self.comes().await.expect_err("turned away");
        (turned.refused.code, turned.refused.message)
    }

    async fn refused(&self) -> [u64; 4] {
        self.hub.observe().await.notes.pods.unwrap_or_default().refused
    }
}

fn groups(uid: &str) -> String {
    format!("0::/kubepods/burstable/pod{uid}/{}\n", "4f".repeat(32))
}

fn cart(uid: &str) -> MachinePod {
    MachinePod {
        uid: uid.to_owned(),
        namespace: "shop".to_owned(),
        name: "cart-6d4cf56db6-x7x2k".to_owned(),
        account: "till".to_owned(),
        ..MachinePod::default()
    }
}

#[tokio::test(start_paused = true)]
async fn an_app_is_known_by_the_pod_that_its_process_runs_in() {
    let world = World::new(&[PodRule::All]);
    world.lists(&[cart(UID)]).await;
    let guest = world.comes().await.expect("it may come");
    assert_eq!(guest.pod.to_string(), "shop/cart-6d4cf56db6-x7x2k");
    assert_eq!((&*guest.pod.account, &*guest.pod.app), ("till", "cart"));
    // Where the kubelet keeps no groups for pods the runtime's container says it.
    let id = "4f".repeat(32);
    world.runs_in(&format!("0::/k8s.io/{id}\n"));
    let labelled = MachinePod { containers: vec![id], app: Some("basket".to_owned()), ..cart(UID) };
    world.says(PodNews::Put("shop/cart-6d4cf56db6-x7x2k".to_owned(), labelled)).await;
    let guest = world.comes().await.expect("it may come");
    assert_eq!(&*guest.pod.app, "basket");
    assert_eq!(world.refused().await, [0; 4]);
}

#[tokio::test(start_paused = true)]
async fn a_process_of_the_machine_is_turned_away_and_told_what_to_do() {
    let world = World::new(&[PodRule::All]);
    world.lists(&[cart(UID)]).await;
    world.runs_in("0::/system.slice/ssh.service\n");
    let start = Instant::now();
    let (code, words) = world.turned().await;
    assert_eq!((code, start.elapsed()), ("denied", Duration::ZERO), "at once");
    assert!(words.contains("runs in no pod") && words.contains("pillion up"), "{words}");
    assert_eq!(world.refused().await, [1, 0, 0, 0]);
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_is_not_allowed_is_told_which_rule_would_let_it_come() {
    let rules = [
        PodRule::Namespace("other".to_owned()),
        PodRule::Account("shop".to_owned(), "clerk".to_owned()),
    ];
    let world = World::new(&rules);
    world.lists(&[cart(UID)]).await;
    let (code, words) = world.turned().await;
    assert_eq!(code, "denied");
    for part in
        ["shop/cart-6d4cf56db6-x7x2k", "other, shop/clerk", "`shop/till`", "agent.namespaces"]
    {
        assert!(words.contains(part), "{part}: {words}");
    }
    assert_eq!(world.refused().await, [0, 1, 0, 0]);
}

#[tokio::test(start_paused = true)]
async fn the_app_of_a_pod_that_is_new_waits_until_the_api_server_tells_of_it() {
    let world = World::new(&[PodRule::All]);
    world.lists(&[]).await;
    let tells = async {
        tokio::time::sleep(WAIT * 9 / 10).await;
        world.says(PodNews::Put("shop/cart".to_owned(), cart(UID))).await;
    };
    let (guest, ()) = tokio::join!(world.comes(), tells);
    guest.expect("it may come");
}

#[tokio::test(start_paused = true)]
async fn an_app_whose_pod_nobody_tells_of_is_told_so_after_five_seconds() {
    let world = World::new(&[PodRule::All]);
    world.lists(&[cart(OTHER)]).await;
    let start = Instant::now();
    let (code, words) = world.turned().await;
    assert_eq!((code, start.elapsed()), ("timeout", WAIT));
    assert!(words.contains("node-1") && words.contains("NODE_NAME"), "{words}");
    assert_eq!(world.refused().await, [0, 0, 1, 0]);
}

#[tokio::test(start_paused = true)]
async fn while_the_api_server_is_away_known_pods_come_and_new_ones_are_told_why_not() {
    let world = World::new(&[PodRule::All]);
    let (_, words) = world.turned().await;
    assert!(words.contains("the API server has not answered yet"), "{words}");
    world.lists(&[cart(UID)]).await;
    world.says(PodNews::Failed("it cannot be reached".to_owned())).await;
    world.comes().await.expect("it is known");
    assert!(world.hub.observe().await.notes.pods.expect("served").problem.is_some());
    world.runs_in(&groups("8c1b8c0e-7d5f-4a0b-9c38-0f2d1e3a4b5c"));
    let (code, words) = world.turned().await;
    assert_eq!(code, "timeout");
    assert!(words.contains("it cannot be reached") && words.contains("again later"), "{words}");
    // A list that is not whole yet hides nobody.
    world.runs_in(&groups(UID));
    world.says(PodNews::Begins).await;
    world.comes().await.expect("it is known");
    world.says(PodNews::Whole).await;
    assert_eq!(world.turned().await.0, "timeout", "it is gone");
}

#[tokio::test(start_paused = true)]
async fn what_a_pod_says_of_itself_does_not_make_it_another_one() {
    let world = World::new(&[PodRule::All]);
    let thief = MachinePod {
        name: "thief".to_owned(),
        hash: Some(UID.to_owned()),
        containers: vec!["4f".repeat(32)],
        ..cart(OTHER)
    };
    world.lists(&[thief, cart(UID)]).await;
    let guest = world.comes().await.expect("it may come");
    assert_eq!(&*guest.pod.name, "cart-6d4cf56db6-x7x2k");
}

#[tokio::test(start_paused = true)]
async fn who_is_with_the_node_in_its_own_container_may_always_come() {
    let world = World::new(&[PodRule::Namespace("other".to_owned())]);
    world.runs_in(&groups(OTHER));
    let guest = world.comes().await.expect("it may come");
    assert_eq!(guest.pod.to_string(), "mesh/agent-x7x2k");
}

#[tokio::test(start_paused = true)]
async fn a_pod_keeps_no_other_out_by_its_connections() {
    let world = World::new(&[PodRule::All]);
    world.lists(&[cart(UID), MachinePod { name: "other".to_owned(), ..cart(OTHER) }]).await;
    let mut guests = Vec::new();
    for _ in 0..SEATS_MAX {
        guests.push(world.comes().await.expect("there is room"));
    }
    let (code, words) = world.turned().await;
    assert!(code == "overloaded" && words.contains("1024 connections"), "{code} {words}");
    // What is told of it anew changes nothing of that.
    world.lists(&[cart(UID)]).await;
    assert_eq!(world.turned().await.0, "overloaded");
    guests.pop();
    world.comes().await.expect("there is room again");
    assert_eq!(world.refused().await, [0, 0, 0, 2]);
}

#[tokio::test(start_paused = true)]
async fn no_more_apps_wait_for_their_pods_than_may() {
    let world = World::new(&[PodRule::All]);
    world.lists(&[]).await;
    let mut all = tokio::task::JoinSet::new();
    for _ in 0..=WAITING_MAX {
        let (pods, hub) = (Arc::clone(&world.pods), Arc::clone(&world.hub));
        all.spawn(async move {
            let (ours, _theirs) = UnixStream::pair().expect("a pair");
            pods.admit(&ours, &hub).await.expect_err("turned away").refused.code
        });
    }
    let codes = all.join_all().await;
    assert_eq!(codes.iter().filter(|code| **code == "overloaded").count(), 1);
    assert_eq!(codes.iter().filter(|code| **code == "timeout").count(), WAITING_MAX);
}

#[tokio::test(start_paused = true)]
async fn apps_that_may_not_come_and_do_not_go_keep_no_others_out() {
    let world = World::new(&[PodRule::All]);
    world.lists(&[cart(UID)]).await;
    world.runs_in("0::/system.slice/ssh.service\n");
    let (_trigger, shutdown) = crate::shutdown::channel();
    let connects = || {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        let (pods, hub) = (Arc::clone(&world.pods), Arc::clone(&world.hub));
        let options = crate::session::SessionOptions { operator: false, body_bytes_max: 1024 };
        tokio::spawn(crate::socket::serve_pod(ours, pods, hub, options, shutdown.clone()));
        theirs
    };
    let hears = async |mut app: UnixStream| {
        let mut heard = String::new();
        app.read_to_string(&mut heard).await.expect("it ends");
        heard
    };
    let mut silent: Vec<UnixStream> = (0..TELLING_MAX).map(|_| connects()).collect();
    assert_eq!(hears(connects()).await, "", "it is let go");
    let told = hears(silent.swap_remove(0)).await;
    assert!(told.contains("runs in no pod"), "{told}");
    drop(silent);
    while world.pods.telling.available_permits() < TELLING_MAX {
        tokio::task::yield_now().await;
    }
    let told = hears(connects()).await;
    assert!(told.contains("runs in no pod"), "there is room again: {told}");
}

#[tokio::test(start_paused = true)]
async fn what_a_container_calls_its_own_groups_is_nothing_even_when_its_pod_is_gone() {
    let world = World::new(&[PodRule::All]);
    world.lists(&[cart(UID)]).await;
    let gone = "8c1b8c0e-7d5f-4a0b-9c38-0f2d1e3a4b5c";
    let nested = format!("{}/kubepods/pod{UID}/{}\n", groups(gone).trim_end(), "4f".repeat(32));
    world.runs_in(&nested);
    assert_eq!(world.turned().await.0, "timeout");
}
