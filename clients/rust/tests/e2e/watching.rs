//! Topics, presence, groups and nodes: what streams give.

use pillion_client::{Kind, Spawn};

use crate::support::{Place, eventually, two, within};

#[tokio::test]
async fn what_is_published_reaches_subscribers_of_every_node_in_its_order() {
    let Some(place) = Place::new() else { return };
    let (_a, _b, left, right) = two(&place).await;
    let mut shop = right.subscription("shop.*").sync().subscribe().await.unwrap();
    let mut one = right.subscription("job").group("workers").sync().subscribe().await.unwrap();
    let mut other = right.subscription("job").group("workers").sync().subscribe().await.unwrap();
    for n in 0..1000_u32 {
        left.publish("shop.tea", n).await.unwrap();
    }
    for n in 0..1000_u32 {
        let event = within(shop.next()).await.unwrap();
        assert_eq!((event.kind(), event.topic()), (Kind::Message, Some("shop.tea")));
        assert_eq!(event.body::<u32>().unwrap(), n);
    }
    for n in 0..10_u32 {
        left.publication("job", n).confirm().await.unwrap();
    }
    let mut jobs = Vec::new();
    for _ in 0..10 {
        let job = async {
            tokio::select! {
                biased;
                job = one.next() => job,
                job = other.next() => job,
            }
        };
        jobs.push(within(job).await.unwrap().body::<u32>().unwrap());
    }
    jobs.sort_unstable();
    assert_eq!(jobs, (0..10).collect::<Vec<_>>(), "each job is one worker's");

    let report = left.publication("shop.tea", 1).retain().report().await.unwrap();
    assert_eq!((report.nodes, report.local), (1, 0));
    let mut late = left.subscribe("shop.tea").await.unwrap();
    let kept = within(late.next()).await.unwrap();
    assert_eq!(kept.bool("retained"), Some(true));
    let pid = late.process().pid();
    drop(late);
    eventually("the subscription has ended", || async { !left.alive(&pid).await.unwrap() }).await;
}

#[tokio::test]
async fn presence_and_groups_are_seen_from_every_node_as_they_change() {
    let Some(place) = Place::new() else { return };
    let (_a, _b, left, right) = two(&place).await;
    let mut room = left.watch_presence("room").await.unwrap();
    let first = within(room.next()).await.unwrap();
    assert!(first.anew && first.joins.is_empty());
    let ann = right.spawn(Spawn::new()).await.unwrap();
    ann.track("room", "ann", &("at", "desk")).await.unwrap();
    let joined = within(room.next()).await.unwrap();
    assert_eq!((joined.joins[0].key.as_str(), &joined.joins[0].pid), ("ann", &ann.pid()));
    ann.update_presence("room", "ann", &("at", "door")).await.unwrap();
    let changed = within(room.next()).await.unwrap();
    assert_eq!((changed.joins.len(), changed.leaves.len()), (1, 1));
    assert_eq!(changed.joins[0].prev, Some(changed.leaves[0].reference));
    assert_eq!(right.presence("room").await.unwrap().len(), 1);
    ann.untrack("room", "ann").await.unwrap();
    assert_eq!(within(room.next()).await.unwrap().leaves[0].key, "ann");

    let mut tills = left.watch_group("tills").await.unwrap();
    assert!(within(tills.next()).await.unwrap().anew);
    ann.join("tills").await.unwrap();
    assert_eq!(within(tills.next()).await.unwrap().joined, [ann.pid()]);
    assert_eq!(right.members("tills").await.unwrap(), [ann.pid()]);
    left.send("group:tills", "close").await.unwrap();
    assert_eq!(within(ann.receive()).await.unwrap().body::<String>().unwrap(), "close");
    ann.leave("tills").await.unwrap();
    assert_eq!(within(tills.next()).await.unwrap().left, [ann.pid()]);
}

#[tokio::test]
async fn nodes_that_come_and_go_are_told() {
    let Some(place) = Place::new() else { return };
    let a = place.start("a");
    let client = a.connect().await;
    let mut nodes = client.watch_nodes().await.unwrap();
    let mut b = place.start("b");
    let up = within(nodes.next()).await.unwrap();
    assert!(up.up && up.node == "b@t");
    b.kill();
    let down = within(nodes.next()).await.unwrap();
    assert!(!down.up && down.node == "b@t" && down.reason.is_some());
}
