//! What a node in a pod knows of its pod, so that it does not report itself.

use std::net::{IpAddr, SocketAddr};

use super::seen::Seen;

/// This pod, as far as it is known; nothing of it outside of a cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Own {
    pub(super) pod: Option<String>,
    pub(super) namespace: Option<String>,
    pub(super) uid: Option<String>,
    pub(super) ips: Vec<IpAddr>,
    /// The ports of the mesh that this node listens on.
    pub(super) ports: Vec<u16>,
}

impl Own {
    /// What the environment says: the variables that the downward API fills, else the host name, which is the
    /// pod's name unless somebody gave it another one or the pod uses its machine's network.
    pub(super) fn here() -> Self {
        let variable = |name| std::env::var(name).ok().filter(|text| !text.is_empty());
        let host = || {
            variable("KUBERNETES_SERVICE_HOST")?;
            let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
            Some(name).filter(|name| !name.is_empty())
        };
        Self::read(variable, host)
    }

    fn read(
        variable: impl Fn(&'static str) -> Option<String>,
        host: impl Fn() -> Option<String>,
    ) -> Self {
        let ips = ["POD_IPS", "POD_IP"].map(|name| variable(name).unwrap_or_default()).join(",");
        Self {
            pod: variable("POD_NAME").or_else(host),
            namespace: variable("POD_NAMESPACE"),
            uid: variable("POD_UID"),
            ips: ips.split(',').filter_map(|ip| ip.trim().parse().ok()).collect(),
            ports: Vec::new(),
        }
    }

    /// Whether this is the pod that we are in. Where pods share an address (host network), the port tells them apart.
    pub(super) fn is(&self, seen: &Seen) -> bool {
        if let (Some(own), Some(uid)) = (&self.uid, &seen.uid) {
            return own == uid;
        }
        if let (Some(own), Some(pod)) = (&self.pod, &seen.pod)
            && self.namespace.as_ref().is_some_and(|own| *own == seen.namespace)
        {
            return own == pod;
        }
        seen.addresses.iter().any(|address| self.listens_on(address))
    }

    /// Whether this node is reached there.
    pub(super) fn listens_on(&self, address: &SocketAddr) -> bool {
        self.ips.contains(&address.ip()) && self.ports.contains(&address.port())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(uid: Option<&str>, pod: &str, namespace: &str, address: &str) -> Seen {
        Seen {
            uid: uid.map(str::to_owned),
            pod: Some(pod.to_owned()),
            namespace: namespace.to_owned(),
            addresses: vec![address.parse().expect("an address")],
            ..Seen::default()
        }
    }

    #[test]
    fn a_pod_knows_itself_by_uid_by_name_or_by_address() {
        let variables = |name| match name {
            "POD_NAME" => Some("web-0".to_owned()),
            "POD_NAMESPACE" => Some("shop".to_owned()),
            "POD_IP" => Some("10.0.0.1".to_owned()),
            "POD_IPS" => Some("10.0.0.1,fd00::1".to_owned()),
            _ => None,
        };
        let mut own = Own::read(variables, || None);
        own.ports = vec![4470];
        assert!(own.is(&seen(Some("u"), "web-0", "shop", "10.0.0.9:1")));
        assert!(!own.is(&seen(None, "web-0", "till", "10.0.0.9:1")));
        assert!(!own.is(&seen(None, "web-1", "shop", "10.0.0.1:4470")));
        assert!(own.is(&Seen {
            addresses: vec!["[fd00::1]:4470".parse().expect("an address")],
            ..Seen::default()
        }));
        assert!(!own.is(&Seen {
            addresses: vec!["10.0.0.1:4471".parse().expect("an address")],
            ..Seen::default()
        }));
        own.uid = Some("u".into());
        assert!(own.is(&seen(Some("u"), "other", "shop", "10.0.0.9:1")));
        assert!(!own.is(&seen(Some("v"), "web-0", "shop", "10.0.0.1:4470")));
    }

    #[test]
    fn without_variables_the_host_name_is_the_pods_name() {
        let own = Own::read(|_| None, || Some("web-7".to_owned()));
        assert_eq!(own, Own { pod: Some("web-7".into()), ..Own::default() });
    }
}
