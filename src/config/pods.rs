//! Whose apps a node serves that serves all pods of its machine.

use std::fmt;
use std::sync::Arc;

use crate::wire::pod::Pod;

/// Longest namespace, and longest service account, in bytes: a label and a subdomain of DNS.
const NAMESPACE_BYTES_MAX: usize = 63;
const ACCOUNT_BYTES_MAX: usize = 253;

/// The pods whose apps a node serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodsServed {
    /// The machine that they are on, as Kubernetes calls it.
    pub machine: String,
    /// Those that may come.
    pub allowed: Vec<PodRule>,
    /// The pod that the node itself is in, where it is in one. Its processes may always come.
    pub own: Option<Arc<Pod>>,
}

impl PodsServed {
    /// The rules, as they are written.
    #[must_use]
    pub fn shown(&self) -> Vec<String> {
        self.allowed.iter().map(ToString::to_string).collect()
    }
}

/// Which pods may come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PodRule {
    /// `*`
    All,
    /// `namespace`
    Namespace(String),
    /// `namespace/account`
    Account(String, String),
}

impl PodRule {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        if text == "*" {
            return Ok(Self::All);
        }
        let (namespace, account) = match text.split_once('/') {
            Some((namespace, account)) => (namespace, Some(account)),
            None => (text, None),
        };
        let is_good = |text: &str, max: usize, dots: bool| {
            (1..=max).contains(&text.len())
                && text
                    .split('.')
                    .all(|part| !part.is_empty() && !part.starts_with('-') && !part.ends_with('-'))
                && text.bytes().all(|byte| {
                    byte.is_ascii_lowercase()
                        || byte.is_ascii_digit()
                        || byte == b'-'
                        || (dots && byte == b'.')
                })
        };
        if !is_good(namespace, NAMESPACE_BYTES_MAX, false)
            || account.is_some_and(|account| !is_good(account, ACCOUNT_BYTES_MAX, true))
        {
            return Err(
                "is `*` (every pod of the machine), a namespace, or `namespace/service-account`"
                    .to_owned(),
            );
        }
        Ok(match account {
            Some(account) => Self::Account(namespace.to_owned(), account.to_owned()),
            None => Self::Namespace(namespace.to_owned()),
        })
    }

    /// Whether it lets this pod come.
    #[must_use]
    pub fn allows(&self, pod: &Pod) -> bool {
        match self {
            Self::All => true,
            Self::Namespace(namespace) => *pod.namespace == **namespace,
            Self::Account(namespace, account) => {
                *pod.namespace == **namespace && *pod.account == **account
            }
        }
    }
}

impl fmt::Display for PodRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("*"),
            Self::Namespace(namespace) => f.write_str(namespace),
            Self::Account(namespace, account) => write!(f, "{namespace}/{account}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(namespace: &str, account: &str) -> Pod {
        Pod {
            namespace: namespace.into(),
            name: "cart-0".into(),
            account: account.into(),
            app: "cart".into(),
        }
    }

    #[test]
    fn a_rule_allows_all_pods_those_of_a_namespace_or_those_of_a_service_account() {
        for (rule, namespace, account, allows) in [
            ("*", "shop", "default", true),
            ("shop", "shop", "default", true),
            ("shop", "shop-2", "default", false),
            ("shop/till", "shop", "till", true),
            ("shop/till", "shop", "default", false),
            ("shop/till", "other", "till", false),
            ("shop/a.b", "shop", "a.b", true),
        ] {
            let parsed = PodRule::parse(rule).expect("a rule");
            assert_eq!(parsed.allows(&pod(namespace, account)), allows, "{rule}");
            assert_eq!(parsed.to_string(), rule);
        }
    }

    #[test]
    fn what_is_no_namespace_is_refused() {
        for text in ["", "**", "Shop", "shop/", "/till", "a/b/c", "a.b", "-a", "a-", "a/.b", "a b"]
        {
            assert!(PodRule::parse(text).is_err(), "{text}");
        }
        assert!(PodRule::parse(&"a".repeat(64)).is_err());
    }
}
