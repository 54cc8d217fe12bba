//! Certificates that are issued: what is taken of an answer, and who joins whom with it.

use std::time::{Duration, SystemTime};

use super::super::issuing::{Authority, DAY};
use super::*;

fn node(anchor: &Authority, host: &str) -> Tls {
    let trust = Trust::Issued { anchors: vec![anchor.der()], issuer: "a test".to_owned() };
    Tls::new(&trust, "default", host).expect("a good configuration")
}

/// Has the authority issue a certificate to the node, with these anchors.
fn issue(node: &Tls, by: &Authority, anchors: &[&Authority]) -> Life {
    let request = node.request().expect("a request");
    let certificate = by.issue(request.csr(), &node.identity().uri());
    let anchors: String = anchors.iter().map(|anchor| anchor.pem()).collect();
    node.issued(&request, &certificate, &anchors, SystemTime::now()).expect("a good answer")
}

#[tokio::test]
async fn nodes_that_were_issued_certificates_join_and_before_that_nobody_takes_them() {
    let authority = Authority::new("one");
    let (a, b) = (node(&authority, "a-0.shop"), node(&authority, "b-0.shop"));
    assert!(!a.joins() && !b.joins() && !a.ever_issued());
    let mut issuance = a.issuance().expect("it is issued");
    assert_eq!(issuance.borrow_and_update().until, None);
    let life = issue(&b, &authority, &[&authority]);
    assert!(life.left + Duration::from_secs(60) > DAY && life.left <= DAY, "{life:?}");
    // It has only what nobody signed.
    let (dialled, accepted) = refusals(&a, &b).await;
    assert!(dialled.contains("does not share"), "{dialled}");
    assert!(accepted.contains("does not share"), "{accepted}");
    issue(&a, &authority, &[&authority]);
    assert!(issuance.has_changed().expect("it lives") && a.joins());
    assert_joins(&a, &b).await;
    assert_joins(&b, &a).await;
    assert_eq!(a.ids(), b.ids());
    assert!(a.gossip_keys().is_empty());

    a.not_issued("the issuer is away".to_owned());
    assert!(a.joins(), "the one of before is good");
    assert_eq!(issuance.borrow().trouble.as_deref(), Some("the issuer is away"));
    let ends = issuance.borrow().until;
    a.lapsed();
    assert!(!a.joins() && a.ever_issued());
    assert_eq!((issuance.borrow().until, issuance.borrow().ended), (None, ends));
    issue(&a, &authority, &[&authority]);
    assert!(a.joins() && issuance.borrow().ended.is_none());
}

#[tokio::test]
async fn an_answer_that_is_not_for_this_node_now_is_refused_in_words_and_changes_nothing() {
    let (authority, eve) = (Authority::new("one"), Authority::new("eve"));
    let (a, b) = (node(&authority, "a-0.shop"), node(&authority, "b-0.shop"));
    issue(&a, &authority, &[&authority]);
    issue(&b, &authority, &[&authority]);
    let uri = a.identity().uri();
    let now = SystemTime::now();
    let (hour, request) = (Duration::from_secs(3600), a.request().expect("a request"));
    let other = a.request().expect("a request");
    let good = authority.issue(request.csr(), &uri);
    let pem = authority.pem();
    let many: String = (0..=ANCHORS_MAX).map(|_| pem.clone()).collect();
    let for_uri = |uri: &str| authority.issue(request.csr(), uri);
    let past = authority.sign(request.csr(), &uri, now - 2 * hour, now - hour);
    let future = authority.sign(request.csr(), &uri, now + hour, now + 2 * hour);
    for (certificate, anchors, words) in [
        (authority.issue(other.csr(), &uri), pem.clone(), "another key"),
        (for_uri("pillion://default/b-0.shop"), pem.clone(), "needs `pillion://default/a-0.shop`"),
        (for_uri("pillion://staging/a-0.shop"), pem.clone(), "is for mesh `staging`"),
        (for_uri("https://a-0.shop/"), pem.clone(), "names no Pillion"),
        (past, pem.clone(), "clock"),
        (future, pem.clone(), "clock"),
        (eve.issue(request.csr(), &uri), pem.clone(), "not signed by any"),
        (good.clone(), eve.pem(), "not signed by any"),
        (good.clone(), many, "more than 16"),
        (good.clone(), "nothing".to_owned(), "anchors in PEM"),
        (String::new(), pem.clone(), "cannot be read"),
        (good.replace("MII", "AAA"), pem.clone(), "cannot be read"),
    ] {
        let refused = a.issued(&request, &certificate, &anchors, now);
        let said = refused.expect_err(words).to_string();
        assert!(said.contains(words), "{words}: {said}");
        assert_joins(&a, &b).await;
    }
    a.issued(&request, &good, &pem, now).expect("the good one is taken");
    assert_joins(&a, &b).await;
}

#[tokio::test]
async fn an_authority_is_replaced_in_steps_and_nobody_is_parted_on_the_way() {
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    // Published, then signing, then alone.
    let steps: [(&Authority, &[&Authority]); 4] =
        [(&old, &[&old]), (&old, &[&old, &new]), (&new, &[&new, &old]), (&new, &[&new])];
    for pair in steps.windows(2) {
        let (behind, ahead) = (node(&old, "behind"), node(&old, "ahead"));
        for (node, (by, anchors)) in [&behind, &ahead].into_iter().zip(pair) {
            issue(node, by, anchors);
        }
        assert_joins(&behind, &ahead).await;
        assert_joins(&ahead, &behind).await;
        assert!(ahead.ids().iter().any(|id| behind.ids().contains(id)));
        assert_eq!(ahead.anchors().len(), pair[1].1.len());
    }
}

#[test]
fn anchors_are_told_as_they_are_read() {
    let both: String =
        [Authority::new("one"), Authority::new("two")].iter().map(Authority::pem).collect();
    let read = anchors(&both).expect("two");
    assert_eq!(anchors(&pem(&read)).expect("two"), read);
    assert_eq!(read.len(), 2);
}
