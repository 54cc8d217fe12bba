//! Who gets a certificate for what, from what the API server says of a token and of a pod.

use std::collections::BTreeMap;

use rcgen::{KeyPair, PKCS_ECDSA_P384_SHA384};
use serde_json::json;

use super::*;

fn status(of: serde_json::Value) -> TokenReviewStatus {
    serde_json::from_value(of).expect("a status")
}

fn good() -> serde_json::Value {
    json!({
        "authenticated": true, "audiences": ["pillion.dev"],
        "user": {"username": "system:serviceaccount:shop:web", "extra": {
            "authentication.kubernetes.io/pod-name": ["web-0"],
            "authentication.kubernetes.io/pod-uid": ["u-0"],
        }},
    })
}

fn holder() -> Holder {
    Holder::of(&status(good())).expect("a holder")
}

fn pod(uid: &str, label: Option<&str>, annotation: Option<&str>) -> ObjectMeta {
    let map =
        |mesh: Option<&str>| mesh.map(|mesh| BTreeMap::from([(MESH.to_owned(), mesh.to_owned())]));
    ObjectMeta {
        uid: Some(uid.to_owned()),
        labels: map(label),
        annotations: map(annotation),
        ..ObjectMeta::default()
    }
}

#[test]
fn a_token_is_its_pods_only_when_the_server_says_all_of_that() {
    assert_eq!(holder().shown(), "shop/web-0");
    let without = |path: &[&str]| {
        let mut status = good();
        let mut at = &mut status;
        for key in &path[..path.len() - 1] {
            at = &mut at[*key];
        }
        at.as_object_mut().expect("an object").remove(path[path.len() - 1]);
        status
    };
    let with = |key: &str, value: serde_json::Value| {
        let mut status = good();
        status[key] = value;
        status
    };
    let two = json!({"username": "system:serviceaccount:shop:web", "extra": {
        "authentication.kubernetes.io/pod-name": ["web-0", "web-1"], "authentication.kubernetes.io/pod-uid": ["u-0"]}});
    let person = json!({"username": "ida", "extra": {
        "authentication.kubernetes.io/pod-name": ["web-0"], "authentication.kubernetes.io/pod-uid": ["u-0"]}});
    for (status_of, code) in [
        (json!({}), "unauthorized"),
        (json!({"authenticated": false, "error": "token has expired"}), "unauthorized"),
        (
            json!({"authenticated": false, "error": "token audiences [\"x\"] is invalid for the target audiences"}),
            "audience",
        ),
        (without(&["authenticated"]), "unauthorized"),
        (without(&["audiences"]), "audience"),
        (with("audiences", json!(["https://kubernetes.default.svc"])), "audience"),
        (without(&["user"]), "unbound"),
        (without(&["user", "extra"]), "unbound"),
        (without(&["user", "extra", "authentication.kubernetes.io/pod-name"]), "unbound"),
        (without(&["user", "extra", "authentication.kubernetes.io/pod-uid"]), "unbound"),
        (with("user", two), "unbound"),
        (with("user", person), "unbound"),
    ] {
        let refused = Holder::of(&status(status_of.clone())).expect_err(code);
        assert_eq!(refused.code(), code, "{status_of}: {refused}");
    }
}

#[test]
fn a_pod_gets_its_own_name_in_the_mesh_that_it_is_labelled_with_and_no_other() {
    let holder = holder();
    let granted = |pod: &ObjectMeta, mesh: &str| {
        holder.identity(pod, mesh).map(|identity| identity.uri()).map_err(|refusal| refusal.code())
    };
    let uri = "pillion://default/web-0.shop".to_owned();
    assert_eq!(granted(&pod("u-0", Some("default"), None), "default"), Ok(uri.clone()));
    assert_eq!(granted(&pod("u-0", None, Some("default")), "default"), Ok(uri.clone()));
    assert_eq!(granted(&pod("u-0", Some("default"), Some("other")), "default"), Ok(uri));
    assert_eq!(granted(&pod("u-0", Some("other"), Some("default")), "default"), Err("mesh"));
    assert_eq!(granted(&pod("u-0", Some("default"), None), "other"), Err("mesh"));
    assert_eq!(granted(&pod("u-0", None, None), "default"), Err("mesh"));
    assert_eq!(granted(&pod("u-1", Some("default"), None), "default"), Err("noproc"));
    assert_eq!(granted(&pod("u-0", Some("a/b"), None), "a/b"), Err("badarg"));
    let long = Holder { pod: "x".repeat(253), ..holder.clone() };
    let refused =
        long.identity(&pod("u-0", Some("default"), None), "default").expect_err("too long");
    assert_eq!(refused.code(), "badarg");
}

#[test]
fn of_a_request_the_key_is_taken_when_it_is_one_of_ours_and_its_holder_has_it() {
    let request = |algorithm| {
        let key = KeyPair::generate_for(algorithm).expect("a key");
        let mut params = CertificateParams::default();
        // What it wishes for is nobody's business.
        params.subject_alt_names = vec![SanType::URI(
            "pillion://default/somebody-else".to_owned().try_into().expect("a URI"),
        )];
        (params.serialize_request(&key).expect("a request"), key)
    };
    for algorithm in [&PKCS_ECDSA_P256_SHA256, &PKCS_ED25519] {
        let (csr, own) = request(algorithm);
        let taken = key(&csr.pem().expect("PEM")).expect("taken");
        assert_eq!(taken.der_bytes(), own.der_bytes());
        assert_eq!(key(&STANDARD.encode(csr.der())).expect("taken"), taken);
    }
    let said = |csr: &str| key(csr).expect_err("refused").to_string();
    let (csr, _) = request(&PKCS_ECDSA_P384_SHA384);
    assert!(said(&csr.pem().expect("PEM")).contains("P-256 or Ed25519"));

    let (csr, _) = request(&PKCS_ECDSA_P256_SHA256);
    let mut forged = csr.der().to_vec();
    let last = forged.len() - 1;
    forged[last] ^= 1;
    assert!(said(&STANDARD.encode(&forged)).contains("not signed with the key"));
    let mut longer = csr.der().to_vec();
    longer.push(0);
    assert!(said(&STANDARD.encode(&longer)).contains("behind it"));
    for text in ["", "AAAA", "-----BEGIN CERTIFICATE REQUEST-----\n", "not base64!"] {
        said(text);
    }
}

#[test]
fn a_pod_that_asks_too_often_waits_and_the_others_do_not() {
    let mut often = Often::default();
    let now = Instant::now();
    assert!((0..PER_POD).all(|_| !often.asks("a", now)));
    assert!(often.asks("a", now));
    assert!(!often.asks("b", now));
    assert!(!often.asks("a", now + WINDOW));
    for number in 0..PODS_MAX {
        often.asks(&number.to_string(), now + WINDOW);
    }
    assert!(often.asks("one more", now + WINDOW), "there is an end to whom is counted");
    assert!(!often.asks("one more", now + WINDOW * 2), "and room when they are old");
    assert!(often.pods.len() <= PODS_MAX);
}

#[test]
fn a_token_is_read_from_its_header_and_from_nowhere_else() {
    let headers = |value: &str| {
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, value.parse().expect("a value"));
        headers
    };
    assert_eq!(token(&headers("Bearer a.b.c")), Ok("a.b.c"));
    assert_eq!(token(&headers("bearer a.b.c")), Ok("a.b.c"));
    for value in ["", "Bearer", "Bearer ", "Basic abc", "a.b.c"] {
        assert_eq!(token(&headers(value)), Err(Refusal::NoToken), "{value}");
    }
    assert_eq!(token(&headers(&format!("Bearer {}", "x".repeat(20_000)))), Err(Refusal::NoToken));
    assert_eq!(token(&HeaderMap::new()), Err(Refusal::NoToken));
}
