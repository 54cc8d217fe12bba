//! What `pillion` does at the API server of a real Kubernetes, without machines: nobody runs pods here.
//!
//! `tests/kubernetes/cluster test` brings an API server up and runs these tests. They need one that reaches programs on
//! this machine's loopback, which is where the API server asks its webhooks; elsewhere they say why they are skipped.

#![cfg(feature = "injector")]
#![allow(
    clippy::disallowed_methods,
    reason = "a real API server lives in real time: deadlines are read from the clock, polls pause between two looks"
)]
#![allow(clippy::missing_panics_doc, reason = "a test that fails panics")]
#![allow(unreachable_pub, missing_docs, reason = "a test has no public interface")]

mod injector;
mod issuer;
mod support;
