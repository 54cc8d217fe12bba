//! `pillion injector` and nodes with issued certificates, against a real API server.
//!
//! `KUBECONFIG` is a cluster that may be changed, as an admin; each test makes namespaces of its own, and says so when it is
//! skipped for want of a cluster. `tests/kubernetes/cluster` brings one up.

#![cfg(feature = "injector")]
#![allow(
    clippy::disallowed_methods,
    reason = "real injectors and nodes live in real time: deadlines are read from the clock, polls pause between two looks"
)]
#![allow(clippy::missing_panics_doc, reason = "a test that fails panics")]
#![allow(unreachable_pub, missing_docs, reason = "a test has no public interface")]

mod issuer;
