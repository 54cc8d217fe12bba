//! What pods do: nodes in a real Kubernetes, on machines that are namespaces of this one.
//!
//! `tests/kubernetes/cluster test` brings a cluster up, runs these tests and takes it down. They also run in any cluster
//! that `KUBECONFIG` names, with an image that it can get, named by `TEST_IMAGE`: what `cluster archive` makes, loaded with
//! `kind load image-archive`, `minikube image load` or `ctr images import`. Elsewhere they say why they are skipped.
//!
//! Each test has a Kubernetes namespace of its own. What happened is read from what the nodes log; nothing sleeps for a
//! fixed time, but for the minute of the node that is cut off.

#![allow(
    clippy::disallowed_methods,
    reason = "real pods live in real time: deadlines are read from the clock, polls pause between two looks"
)]
#![allow(clippy::missing_panics_doc, reason = "a test that fails panics")]
#![allow(unreachable_pub, missing_docs, reason = "a test has no public interface")]

mod changing;
mod charts;
mod cutting;
mod families;
mod forming;
#[path = "../helm/support.rs"]
#[allow(dead_code, reason = "the charts' own tests look at what is rendered, these at what runs")]
mod helm;
mod injected;
mod installed;
mod measuring;
mod modes;
mod rotating;
mod support;
