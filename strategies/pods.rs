//! How nodes in pods are called, for those who name them and for those who have seen a pod and guess who is in it; and what is
//! told of the pods of a machine.
//!
//! A node in a pod is `<app>@<pod>.<namespace>`. Which app it is says the pod's manifest; where it does not, the pod's name
//! does, without the end that Kubernetes has put behind it.

/// Longest base of a node's name, in bytes.
const BASE_BYTES_MAX: usize = 64;
/// Longest host of a node's name, in bytes.
const HOST_BYTES_MAX: usize = 255;
/// What Kubernetes makes random names of: nothing that could become a word.
const RANDOM: &str = "bcdfghjklmnpqrstvwxz2456789";
/// How long the random end of a pod's name is.
const RANDOM_CHARS: usize = 5;
/// How long the hash is that a ReplicaSet adds before it.
const HASH_CHARS: std::ops::RangeInclusive<usize> = 6..=10;

/// A pod of the machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MachinePod {
    /// Its uid, which its control groups carry.
    pub uid: String,
    /// What they carry instead, where the kubelet runs it from a file.
    pub hash: Option<String>,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its service account.
    pub account: String,
    /// What is in it, as its label `app.kubernetes.io/name` says.
    pub app: Option<String>,
    /// The ids of its containers, as their runtime gave them. At most 64.
    pub containers: Vec<String>,
}

/// What is told of the pods of a machine. A pod goes by `namespace/name`.
#[derive(Debug)]
pub enum PodNews {
    /// A new list begins; what was known holds until it is whole.
    Begins,
    /// One of the list.
    Listed(String, MachinePod),
    /// The list is whole: there are no others.
    Whole,
    /// A pod is there, or is as this now.
    Put(String, MachinePod),
    /// A pod is gone.
    Gone(String),
    /// The API server cannot be asked at the moment, and why, with what to do. It is asked again, later and later.
    Failed(String),
}

/// The host of a node's name in this pod: `web-0.shop`; the pod alone where its namespace is not known.
#[must_use]
pub fn host(pod: &str, namespace: Option<&str>) -> String {
    let whole = namespace.map_or_else(|| pod.to_owned(), |namespace| format!("{pod}.{namespace}"));
    let clean = |c: char| if c.is_ascii_alphanumeric() || "_-.:".contains(c) { c } else { '-' };
    whole.chars().take(HOST_BYTES_MAX).map(clean).collect()
}

/// The base of a node's name for this app: what a base may not contain becomes `-`.
#[must_use]
pub fn base(app: &str) -> String {
    let clean = |c: char| if c.is_ascii_alphanumeric() || "_-".contains(c) { c } else { '-' };
    app.chars().take(BASE_BYTES_MAX).map(clean).collect()
}

/// What made a pod, by its name: `web` of `web-6d4cf56db6-x7x2k` (a Deployment), of `web-x7x2k` (a DaemonSet, a Job) and
/// of `web-0` (a StatefulSet); the whole name where nothing was put behind it.
#[must_use]
pub fn workload(pod: &str) -> &str {
    let Some((head, end)) = pod.rsplit_once('-').filter(|(head, _)| !head.is_empty()) else {
        return pod;
    };
    if !end.is_empty() && end.bytes().all(|b| b.is_ascii_digit()) {
        return head;
    }
    let is_random = |text: &str| text.chars().all(|c| RANDOM.contains(c));
    if end.len() != RANDOM_CHARS || !is_random(end) {
        return pod;
    }
    match head.rsplit_once('-') {
        Some((head, hash))
            if !head.is_empty() && HASH_CHARS.contains(&hash.len()) && is_random(hash) =>
        {
            head
        }
        _ => head,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_kubernetes_put_behind_a_name_is_no_part_of_it() {
        for (pod, made_by) in [
            ("web-6d4cf56db6-x7x2k", "web"),
            ("shop-web-5c9f8d7b5-zq2xk", "shop-web"),
            ("web-x7x2k", "web"),
            ("web-0", "web"),
            ("shop-web-12", "shop-web"),
            ("web", "web"),
            ("web-proxy", "web-proxy"),
            ("shop-state", "shop-state"),
            ("-x7x2k", "-x7x2k"),
            ("-", "-"),
            ("", ""),
        ] {
            assert_eq!(workload(pod), made_by, "{pod}");
        }
    }

    #[test]
    fn the_host_of_a_pod_is_its_name_and_its_namespace() {
        assert_eq!(host("web-0", Some("shop")), "web-0.shop");
        assert_eq!(host("web-0", None), "web-0");
        assert_eq!(host("wéb 0", Some("shop")), "w-b-0.shop");
        assert_eq!(host(&"x".repeat(300), Some("shop")).len(), HOST_BYTES_MAX);
    }
}
