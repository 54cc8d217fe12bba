//! What went wrong with the API server, in sentences that say what to do.

use std::error::Error;

use kube::core::Status;
use kube::runtime::watcher;

use crate::problems;

/// Longest text of somebody else's that is told.
const TOLD_MAX: usize = 300;
/// What the role is called that the hint makes.
const ROLE: &str = "pillion-discovery";

/// What is asked of the API server, for people.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    /// `endpointslices.discovery.k8s.io` or `pods`, as in a role.
    pub(super) resource: &'static str,
    pub(super) namespace: String,
    pub(super) url: String,
}

/// What an error of a watch means.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// The history that the watch wanted to go on from is gone: it begins again with a list. No trouble.
    Expired,
    Trouble(String),
}

/// Reads an error of a watch.
pub(super) fn meaning(error: &watcher::Error, asked: &Asked) -> Meaning {
    use watcher::Error::{
        InitialListFailed, NoResourceVersion, WatchError, WatchFailed, WatchStartFailed,
    };
    let (verb, error) = match error {
        InitialListFailed(error) => ("list", error),
        WatchStartFailed(error) | WatchFailed(error) => ("watch", error),
        WatchError(status) if status.code == 410 => return Meaning::Expired,
        WatchError(status) => return Meaning::Trouble(refusal(status, "watch", asked)),
        NoResourceVersion => {
            return Meaning::Trouble(format!(
                "the API server at {} answered without a resource version: is a proxy in between?",
                asked.url
            ));
        }
    };
    Meaning::Trouble(match error {
        kube::Error::Api(status) if status.code == 410 => return Meaning::Expired,
        // What kube cannot read as an event it reads as a status, which has no field that must be there.
        kube::Error::Api(status) if status.code == 0 => unreadable(&status.message, asked),
        kube::Error::Api(status) => refusal(status, verb, asked),
        kube::Error::SerdeError(error) => unreadable(&error.to_string(), asked),
        kube::Error::Auth(error) => format!(
            "there is no token to ask the API server with: {}. Check the kubeconfig or the pod's service account",
            chain(error)
        ),
        error => format!(
            "the API server at {} cannot be reached: {}. Check that it runs and that no network policy or firewall keeps it away",
            asked.url,
            chain(error)
        ),
    })
}

fn unreadable(why: &str, asked: &Asked) -> String {
    let why = if why.is_empty() { "it is no event" } else { why };
    format!(
        "the answer of the API server at {} about {} cannot be read: {}. Is a proxy in between?",
        asked.url,
        asked.resource,
        short(why)
    )
}

fn refusal(status: &Status, verb: &str, asked: &Asked) -> String {
    let Asked { resource, namespace, url } = asked;
    match status.code {
        403 => forbidden(status, verb, asked),
        401 => format!(
            "the API server at {url} does not accept this node's token: it has expired, or its service account or Secret is gone. The token file is read again for each try; where it is not renewed, start the pod again"
        ),
        404 => format!(
            "the API server at {url} has no {resource}: is it older than Kubernetes 1.21? Write from=pods&selector=..."
        ),
        400 => format!(
            "the API server at {url} does not understand the question: {}. Check selector=",
            short(&status.message)
        ),
        code => format!(
            "the API server at {url} answers {code} when asked to {verb} {resource} in the namespace {namespace}: {}",
            short(&status.message)
        ),
    }
}

/// Who may not do what, and the role that mends it.
fn forbidden(status: &Status, verb: &str, asked: &Asked) -> String {
    let Asked { resource, namespace, .. } = asked;
    let between = |start: &str, end: char| {
        let (_, rest) = status.message.split_once(start)?;
        rest.split_once(end).map(|(word, _)| word)
    };
    let verb = between("cannot ", ' ').unwrap_or(verb);
    let Some(user) = between("User \"", '"') else {
        return format!(
            "it is forbidden to {verb} {resource} in the namespace {namespace}: {}. Give the verbs list and watch on {resource} by a Role there",
            short(&status.message)
        );
    };
    if user == "system:anonymous" {
        return format!(
            "the API server took this node for system:anonymous, who may not {verb} {resource} in the namespace {namespace}: no token or certificate was sent. Check the kubeconfig's user or the pod's service account"
        );
    }
    let account = user.strip_prefix("system:serviceaccount:");
    let subject = match account.and_then(|account| account.split_once(':')) {
        Some((namespace, name)) => format!("--serviceaccount={namespace}:{name}"),
        None => format!("--user={user}"),
    };
    format!(
        "{user} may not {verb} {resource} in the namespace {namespace}. Allow it: kubectl -n {namespace} create role {ROLE} --verb=list,watch --resource={resource} && kubectl -n {namespace} create rolebinding {ROLE} --role={ROLE} {subject}"
    )
}

/// An error with its causes, in one line.
pub(super) fn chain(error: &dyn Error) -> String {
    short(&problems::chain(error))
}

fn short(text: &str) -> String {
    problems::line(text, TOLD_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked() -> Asked {
        Asked {
            resource: "endpointslices.discovery.k8s.io",
            namespace: "shop".into(),
            url: "https://10.96.0.1/".into(),
        }
    }

    fn status(code: u16, message: &str) -> Box<Status> {
        Box::new(Status { code, message: message.into(), ..Status::default() })
    }

    fn said(error: watcher::Error) -> String {
        match meaning(&error, &asked()) {
            Meaning::Trouble(said) => said,
            Meaning::Expired => panic!("taken as expired: {error}"),
        }
    }

    #[test]
    fn a_403_says_who_may_not_do_what_where_and_the_commands_that_mend_it() {
        let message = "endpointslices.discovery.k8s.io is forbidden: User \"system:serviceaccount:shop:web\" cannot watch resource \"endpointslices\" in API group \"discovery.k8s.io\" in the namespace \"shop\"";
        let error = watcher::Error::InitialListFailed(kube::Error::Api(status(403, message)));
        assert_eq!(
            said(error),
            "system:serviceaccount:shop:web may not watch endpointslices.discovery.k8s.io in the namespace shop. \
             Allow it: kubectl -n shop create role pillion-discovery --verb=list,watch --resource=endpointslices.discovery.k8s.io \
             && kubectl -n shop create rolebinding pillion-discovery --role=pillion-discovery --serviceaccount=shop:web"
        );
        let message = "pods is forbidden: User \"ida\" cannot list resource \"pods\"";
        let told = said(watcher::Error::WatchError(status(403, message)));
        assert!(told.contains("--user=ida") && told.contains("may not list"), "{told}");
        let told = said(watcher::Error::WatchError(status(403, "because\nof a webhook")));
        assert!(told.contains("because of a webhook") && told.contains("shop"), "{told}");
        let message = "x is forbidden: User \"system:anonymous\" cannot list resource \"x\"";
        assert!(said(watcher::Error::WatchError(status(403, message))).contains("no token"));
    }

    #[test]
    fn each_refusal_says_what_to_do() {
        for (code, words) in [
            (401, "does not accept this node's token"),
            (404, "from=pods"),
            (400, "Check selector="),
            (503, "answers 503"),
        ] {
            let told = said(watcher::Error::WatchStartFailed(kube::Error::Api(status(code, "m"))));
            assert!(told.contains(words), "{told}");
        }
        assert!(said(watcher::Error::NoResourceVersion).contains("resource version"));
    }

    #[test]
    fn an_expired_watch_is_no_trouble() {
        let gone = || status(410, "too old resource version");
        for error in [
            watcher::Error::WatchError(gone()),
            watcher::Error::WatchStartFailed(kube::Error::Api(gone())),
            watcher::Error::InitialListFailed(kube::Error::Api(gone())),
        ] {
            assert_eq!(meaning(&error, &asked()), Meaning::Expired);
        }
    }

    #[test]
    fn a_long_text_of_the_servers_is_cut() {
        let told = said(watcher::Error::WatchError(status(500, &"x".repeat(10_000))));
        assert!(told.len() < 600, "{}", told.len());
    }
}
