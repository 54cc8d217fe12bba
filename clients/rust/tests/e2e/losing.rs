//! Connections that break and nodes that die, under load, with what was lost told.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pillion_client::{Client, Code, Kind, Report, Spawn};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Notify, mpsc};

use crate::support::{Node, PATIENCE, Place, code, eventually, within};

/// Stands between a client and its node, and cuts when told.
struct Cutter {
    path: PathBuf,
    cut: Arc<Notify>,
    _task: tokio::task::JoinHandle<()>,
}

impl Cutter {
    fn new(place: &Place, node: &Path) -> Self {
        let path = place.path().join("cutter.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let cut = Arc::new(Notify::new());
        let (told, node) = (Arc::clone(&cut), node.to_owned());
        let task = tokio::spawn(async move {
            loop {
                let (mut app, _) = listener.accept().await.unwrap();
                let mut node = UnixStream::connect(&node).await.unwrap();
                tokio::select! {
                    biased;
                    () = told.notified() => {}
                    _ = tokio::io::copy_bidirectional(&mut app, &mut node) => {}
                }
            }
        });
        Self { path, cut, _task: task }
    }
}

/// A client whose reports are heard.
async fn reporting(node: &Node, socket: &Path) -> (Client, mpsc::Receiver<Report>) {
    let (told, reports) = mpsc::channel(16);
    let builder =
        node.builder().socket(socket).grace(Duration::from_secs(30)).on_report(move |report| {
            told.try_send(*report).unwrap();
        });
    (builder.connect().await.unwrap(), reports)
}

#[tokio::test]
async fn a_connection_that_breaks_under_load_is_resumed_and_every_loss_is_counted() {
    let Some(place) = Place::new() else { return };
    let a = place.start("a");
    let sink = a.connect().await;
    let cutter = Cutter::new(&place, &a.socket);
    let (client, mut reports) = reporting(&a, &cutter.path).await;
    client.register("mine").await.unwrap();
    let sink_process = sink.spawn(Spawn::new().name("sink")).await.unwrap();
    let pid = client.pid();

    let (mut sent, mut lost) = (0_u64, 0);
    for _ in 0..3 {
        for n in 0..3000_u64 {
            client.send("sink", sent).await.unwrap();
            sent += 1;
            if n == 2000 {
                cutter.cut.notify_one();
            }
            if n % 100 == 0 {
                tokio::task::yield_now().await;
            }
        }
        let report = within(reports.recv()).await.unwrap();
        assert!(report.resumed);
        assert_eq!(report.unsure_commands, 0);
        lost += report.lost_commands;
    }
    assert_eq!(client.whereis("mine").await.unwrap(), Some(pid.clone()), "the names are kept");
    assert_eq!(client.pid(), pid, "it is the same process");
    client.send_confirmed("sink", "end").await.unwrap();
    let mut arrived = 0_u64;
    loop {
        let event = within(sink_process.receive()).await.unwrap();
        if event.body::<String>().is_ok() {
            break;
        }
        assert!(event.body::<u64>().unwrap() < sent);
        arrived += 1;
    }
    assert_eq!(arrived + lost, sent, "what did not arrive was counted, and nothing else");
}

#[tokio::test]
async fn a_node_that_is_killed_under_load_is_survived_and_the_losses_are_reported() {
    let Some(place) = Place::new() else { return };
    let mut a = place.start("a");
    let socket = a.socket.clone();
    let (client, mut reports) = reporting(&a, &socket).await;
    let echo = client.spawn(Spawn::new().name("echo")).await.unwrap();
    let first = echo.pid();
    let told = Arc::new(Mutex::new(Vec::new()));
    let answering = {
        let (echo, told) = (echo.clone(), Arc::clone(&told));
        tokio::spawn(async move {
            while let Ok(event) = echo.receive().await {
                if event.kind() == Kind::Call {
                    echo.reply(&event, event.body::<u64>().unwrap()).await.ok();
                } else if event.kind() == Kind::Gap {
                    told.lock().unwrap().push(event.reason().unwrap().to_owned());
                }
            }
        })
    };
    let stop = Arc::new(AtomicBool::new(false));
    let mut callers = tokio::task::JoinSet::new();
    for caller in 0..20_u64 {
        let (client, stop) = (client.clone(), Arc::clone(&stop));
        callers.spawn(async move {
            let (mut answered, mut lost) = (0_u64, 0_u64);
            while !stop.load(Ordering::Relaxed) {
                match client.call_within::<u64>(PATIENCE, "echo", caller).await {
                    Ok(reply) => {
                        assert_eq!(reply, caller);
                        answered += 1;
                    }
                    Err(error) => {
                        assert_eq!(error.code(), &Code::Lost, "{error:?}");
                        lost += 1;
                    }
                }
            }
            (answered, lost)
        });
    }
    let watched = client.monitor("echo").await.unwrap();
    for round in 0..2 {
        for _ in 0..200 {
            client.call_within::<u64>(PATIENCE, "echo", 1_u64).await.unwrap();
        }
        a.kill();
        a = place.start("a");
        let report = within(reports.recv()).await.unwrap();
        assert!(!report.resumed);
        assert_eq!(report.lost_commands, 0, "nobody knows, and so nothing is said to be known");
        if round == 0 {
            let down =
                within(client.receive_where(|event| event.kind() == Kind::Down)).await.unwrap();
            assert_eq!((down.reference(), down.reason()), (Some(watched), Some("noconnection")));
        }
        // It answers again, by the same name and with another pid.
        assert_eq!(client.call_within::<u64>(PATIENCE, "echo", 7_u64).await.unwrap(), 7);
    }
    assert_ne!(echo.pid(), first);
    stop.store(true, Ordering::Relaxed);
    let (mut answered, mut lost) = (0, 0);
    while let Some(done) = callers.join_next().await {
        let (ok, gone) = done.unwrap();
        answered += ok;
        lost += gone;
    }
    assert!(answered >= 20 && lost >= 1, "{answered} answered, {lost} lost");
    assert_eq!(*told.lock().unwrap(), ["restarted", "restarted"]);
    answering.abort();
}

#[tokio::test]
async fn all_that_was_declared_is_declared_again_to_a_node_that_was_restarted() {
    let Some(place) = Place::new() else { return };
    let mut a = place.start("a");
    let socket = a.socket.clone();
    let (client, mut reports) = reporting(&a, &socket).await;
    client.register("app").await.unwrap();
    client.register_global("the_app").await.unwrap();
    let member = client.spawn(Spawn::new().name("member").trap_exit()).await.unwrap();
    member.join("tills").await.unwrap();
    member.join("tills").await.unwrap();
    member.track("room", "ann", &1).await.unwrap();
    member.update_presence("room", "ann", &2).await.unwrap();
    client.register("gone").await.ok();
    let mut topic = client.subscribe("shop.>").await.unwrap();
    let mut room = client.watch_presence("room").await.unwrap();
    assert_eq!(within(room.next()).await.unwrap().joins.len(), 1);
    let module = client.serve("math").function("one", |()| async { Ok(1) }).start().await.unwrap();
    let linked = client.spawn(Spawn::new()).await.unwrap();
    let elsewhere = a.connect().await;
    linked.link(&elsewhere.pid()).await.unwrap();
    member.link(&elsewhere.pid()).await.unwrap();

    a.kill();
    let _a = place.start("a");
    assert!(!within(reports.recv()).await.unwrap().resumed);
    assert_eq!(client.whereis("app").await.unwrap(), Some(client.pid()));
    assert_eq!(client.whereis("global:the_app").await.unwrap(), Some(client.pid()));
    assert_eq!(client.whereis("member").await.unwrap(), Some(member.pid()));
    assert_eq!(client.members("tills").await.unwrap(), [member.pid(), member.pid()]);
    assert_eq!(client.rpc::<u32>("any", "math", "one", ()).await.unwrap(), 1);
    let present = client.presence("room").await.unwrap();
    assert_eq!(present[0].metadata, Some(2.into()));
    let anew = within(room.next()).await.unwrap();
    assert!(anew.anew && anew.joins.len() == 1);
    client.publish("shop.tea", "hot").await.unwrap();
    assert_eq!(within(topic.next()).await.unwrap().reason(), Some("restarted"));
    assert_eq!(within(topic.next()).await.unwrap().body::<String>().unwrap(), "hot");
    // Who was linked with somebody else hears that, or ends by it.
    let heard = within(member.receive_where(|event| event.kind() == Kind::Exit)).await.unwrap();
    assert_eq!(heard.reason(), Some("noconnection"));
    assert_eq!(code(linked.send("app", 1).await), Code::NoProc);
    module.stop().await.unwrap();
    eventually("the module is gone", || async {
        client.rpc::<u32>("any", "math", "one", ()).await.is_err()
    })
    .await;
}
