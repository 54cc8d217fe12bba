//! What is asked of the cluster: the options, read once.

use std::path::PathBuf;

use super::PORT;
use crate::StrategyError;
use crate::options::{Url, unknown, wrong};

const OPTIONS: &[&str] = &[
    "service",
    "namespace",
    "selector",
    "from",
    "port",
    "node",
    "base",
    "serving",
    "labels",
    "dns",
    "interval",
    "kubeconfig",
    "context",
];
/// Most namespaces that are watched: each is a connection to the API server.
const NAMESPACES_MAX: usize = 16;
/// Most labels that are taken over from a pod.
const LABELS_MAX: usize = 16;

/// The options of `kubernetes://`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wish {
    pub(super) from: From,
    /// The Service whose slices are watched; the mesh says which, where neither it nor a selector is given.
    pub(super) service: Option<String>,
    pub(super) selector: Option<String>,
    /// Empty for the one that the pod or the kubeconfig is in.
    pub(super) namespaces: Vec<String>,
    pub(super) port: Port,
    pub(super) naming: Option<Naming>,
    /// The base of the others' names; this node's own where none is given.
    pub(super) base: Option<String>,
    /// Whether those that are not ready are left out.
    pub(super) serving_only: bool,
    /// Which label of a node comes from which label of its pod.
    pub(super) labels: Vec<(String, String)>,
    pub(super) dns: Option<(String, u16)>,
    pub(super) kubeconfig: Option<PathBuf>,
    pub(super) context: Option<String>,
}

/// What is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum From {
    Slices,
    Pods,
}

/// Where the others listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Port {
    /// The port of this name; a slice or a pod without it is told.
    Named(String),
    Number(u16),
    /// The port called `mesh`, else 4470.
    Default,
}

/// What stands behind the `@` of a node's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Naming {
    /// `pod.namespace`
    Pod,
    Ip,
    /// The name that the pod calls itself.
    Hostname,
}

impl Wish {
    pub(super) fn from_url(url: &Url) -> Result<Self, StrategyError> {
        url.only(OPTIONS)?;
        url.no_place()?;
        let given = |key| url.option(key).filter(|text| !text.is_empty());
        let from = match given("from") {
            None | Some("endpointslices") => From::Slices,
            Some("pods") => From::Pods,
            Some(text) => return Err(unknown("source", text, &["endpointslices", "pods"])),
        };
        let service = given("service").map(|text| name("service", text)).transpose()?;
        let selector = given("selector").map(str::to_owned);
        if from == From::Pods && selector.is_none() {
            return Err(wrong(
                "pods are found by their labels: write from=pods&selector=app=web, or leave from=pods out to go by a Service",
            ));
        }
        if from == From::Pods && service.is_some() {
            return Err(wrong(
                "pods are found by selector=, EndpointSlices by service=: leave one of them out",
            ));
        }
        let namespaces = list(given("namespace"))
            .map(|text| name("namespace", text))
            .collect::<Result<Vec<_>, _>>()?;
        if namespaces.len() > NAMESPACES_MAX {
            return Err(wrong(format!(
                "{} namespaces are too many: at most {NAMESPACES_MAX}, for each is a connection to the API server",
                namespaces.len()
            )));
        }
        let port = match given("port") {
            None => Port::Default,
            Some(text) => port(text)?,
        };
        let naming = match given("node") {
            None => None,
            Some("pod") => Some(Naming::Pod),
            Some("ip") => Some(Naming::Ip),
            Some("hostname") => Some(Naming::Hostname),
            Some(text) => {
                return Err(unknown("way to name nodes", text, &["pod", "ip", "hostname"]));
            }
        };
        let serving_only = match given("serving") {
            None | Some("any") => false,
            Some("only") => true,
            Some(text) => return Err(unknown("choice of `serving`", text, &["any", "only"])),
        };
        let dns = given("dns")
            .map(|text| {
                let number = match port { Port::Number(number) => number, _ => PORT };
                let (host, number) = match text.rsplit_once(':') {
                    None => (text, number),
                    Some((host, digits)) => (
                        host,
                        digits.parse().ok().filter(|port| *port != 0).ok_or_else(|| {
                            wrong(format!("`dns={text}` has no port behind its colon: write dns={host} or dns={host}:{PORT}"))
                        })?,
                    ),
                };
                Ok::<_, StrategyError>((host.to_owned(), number))
            })
            .transpose()?;
        Ok(Self {
            from,
            service,
            selector,
            namespaces,
            port,
            naming,
            base: given("base").map(str::to_owned),
            serving_only,
            labels: labels(given("labels"), from)?,
            dns,
            kubeconfig: given("kubeconfig").map(PathBuf::from),
            context: given("context").map(str::to_owned),
        })
    }

    /// The label selector that the API server is asked with.
    pub(super) fn asked(&self, mesh: &str) -> String {
        let service = self.service(mesh).map(|service| format!("{SERVICE_NAME}={service}"));
        let parts: Vec<String> = service.into_iter().chain(self.selector.clone()).collect();
        parts.join(",")
    }

    /// The Service whose slices are watched, if it is by one.
    pub(super) fn service(&self, mesh: &str) -> Option<String> {
        match (self.from, &self.service, &self.selector) {
            (From::Pods, ..) | (From::Slices, None, Some(_)) => None,
            (From::Slices, Some(service), _) => Some(service.clone()),
            (From::Slices, None, None) => Some(format!("pillion-{mesh}")),
        }
    }
}

/// The label by which a slice belongs to a Service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

fn list(text: Option<&str>) -> impl Iterator<Item = &str> {
    text.unwrap_or_default().split(',').map(str::trim).filter(|text| !text.is_empty())
}

/// The name of a Service or a namespace.
fn name(key: &str, text: &str) -> Result<String, StrategyError> {
    let good = text.len() <= 63
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-');
    if good {
        return Ok(text.to_owned());
    }
    Err(wrong(format!(
        "`{key}={text}` is no name in Kubernetes: lower-case letters, digits and `-`, at most 63"
    )))
}

fn port(text: &str) -> Result<Port, StrategyError> {
    if let Ok(number) = text.parse::<u32>() {
        return match u16::try_from(number) {
            Ok(number) if number != 0 => Ok(Port::Number(number)),
            _ => Err(wrong(format!("`port={text}` is not a port: write a number from 1 to 65535"))),
        };
    }
    name("port", text).map(Port::Named)
}

fn labels(text: Option<&str>, from: From) -> Result<Vec<(String, String)>, StrategyError> {
    let Some(text) = text else {
        return Ok(match from {
            From::Slices => Vec::new(),
            From::Pods => [("role", ROLE), ("zone", ZONE)]
                .map(|(node, pod)| (node.to_owned(), pod.to_owned()))
                .to_vec(),
        });
    };
    let labels = list(Some(text))
        .map(|pair| match pair.split_once('=') {
            Some((node, pod)) if !node.is_empty() && !pod.is_empty() => {
                Ok((node.to_owned(), pod.to_owned()))
            }
            _ => Err(wrong(format!(
                "`{pair}` in labels= does not say which label of a pod it is: write labels=role={ROLE}"
            ))),
        })
        .collect::<Result<Vec<_>, _>>()?;
    if labels.len() > LABELS_MAX {
        return Err(wrong(format!("{} labels are too many: at most {LABELS_MAX}", labels.len())));
    }
    Ok(labels)
}

const ROLE: &str = "app.kubernetes.io/component";
const ZONE: &str = "topology.kubernetes.io/zone";

#[cfg(test)]
mod tests {
    use super::*;

    fn wish(url: &str) -> Result<Wish, String> {
        Wish::from_url(&Url::parse(url).expect("a url")).map_err(|error| error.to_string())
    }

    #[test]
    fn a_bare_name_watches_the_service_of_the_mesh() {
        let wish = wish("kubernetes").expect("good");
        assert_eq!(wish.asked("default"), "kubernetes.io/service-name=pillion-default");
        assert_eq!(wish.port, Port::Default);
        assert_eq!((wish.naming, wish.serving_only, wish.namespaces.len()), (None, false, 0));
    }

    #[test]
    fn every_option_is_understood() {
        let wish = wish(
            "kubernetes://?service=web&namespace=shop,till&selector=tier=a&port=mesh&node=pod&base=stock&serving=only\
             &labels=role=tier,zone=z/z&dns=web.shop.svc:5000&kubeconfig=/k%20c&context=c",
        )
        .expect("good");
        assert_eq!(wish.asked("x"), "kubernetes.io/service-name=web,tier=a");
        assert_eq!(wish.namespaces, ["shop", "till"]);
        assert_eq!(wish.port, Port::Named("mesh".into()));
        assert_eq!(wish.naming, Some(Naming::Pod));
        assert_eq!(wish.base.as_deref(), Some("stock"));
        assert!(wish.serving_only);
        assert_eq!(wish.labels[1], ("zone".into(), "z/z".into()));
        assert_eq!(wish.dns, Some(("web.shop.svc".into(), 5000)));
        assert_eq!(wish.kubeconfig, Some("/k c".into()));
        assert_eq!(wish.context.as_deref(), Some("c"));
    }

    #[test]
    fn pods_are_asked_for_by_their_labels() {
        let pods = wish("kubernetes://?from=pods&selector=app in (a,b)&port=99").expect("good");
        assert_eq!(pods.asked("default"), "app in (a,b)");
        assert_eq!((pods.from, pods.port.clone()), (From::Pods, Port::Number(99)));
        assert_eq!(pods.labels[0], ("role".into(), "app.kubernetes.io/component".into()));
        assert_eq!(wish("kubernetes://?selector=a=b").expect("good").asked("default"), "a=b");
    }

    #[test]
    fn what_cannot_be_meant_is_refused_in_words() {
        for (url, said) in [
            ("kubernetes://?from=pods", "selector=app=web"),
            ("kubernetes://?from=pods&service=web&selector=a=b", "leave one of them out"),
            ("kubernetes://?from=pod", "did you mean `pods`"),
            ("kubernetes://?namespace=Shop", "namespace=Shop"),
            ("kubernetes://?service=web.shop", "service=web.shop"),
            ("kubernetes://?port=0", "1 to 65535"),
            ("kubernetes://?port=99999", "1 to 65535"),
            ("kubernetes://?node=name", "pod, ip, hostname"),
            ("kubernetes://?serving=yes", "any, only"),
            ("kubernetes://?labels=role", "labels=role="),
            ("kubernetes://?dns=web:x", "dns=web:4470"),
            ("kubernetes://?servise=web", "did you mean `service`"),
            ("kubernetes://10.0.0.1", "takes no address"),
        ] {
            let why = wish(url).expect_err(url);
            assert!(why.contains(said), "{url}: {why}");
        }
    }
}
