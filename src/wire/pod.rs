//! The pod that an app runs in, where its node serves several.

use std::fmt;

/// A pod of Kubernetes. Shown as `namespace/name`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Its namespace.
    pub namespace: Box<str>,
    /// Its name.
    pub name: Box<str>,
    /// Its service account; empty where it has none.
    pub account: Box<str>,
    /// What runs in it: its label `app.kubernetes.io/name`, else what made it.
    pub app: Box<str>,
}

impl fmt::Display for Pod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}
