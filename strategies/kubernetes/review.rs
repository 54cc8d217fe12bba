//! What this node may do in the cluster, asked of the API server itself: for people who look for the reason of a 403.

use std::time::Duration;

use http::{Method, Request};
use serde::Deserialize;
use serde_json::json;
use tokio::time::timeout;

use super::wish::{From, Wish};
use super::{cluster, words};
use crate::options::Url;

/// How long one answer may take.
const ANSWER: Duration = Duration::from_secs(5);
/// Where the API server is asked (`SelfSubjectAccessReview`): whoever has a token may.
const PATH: &str = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";

/// One verb on one resource in one namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// `list` or `watch`.
    pub verb: &'static str,
    /// `endpointslices.discovery.k8s.io` or `pods`, as in a role.
    pub resource: &'static str,
    /// The namespace.
    pub namespace: String,
    /// Whether it may be done.
    pub allowed: bool,
}

/// What may be done of all that a strategy needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Review {
    /// The API server.
    pub url: String,
    /// In every namespace, every resource, each verb.
    pub access: Vec<Access>,
}

#[derive(Deserialize)]
struct Answer {
    status: Status,
}

#[derive(Deserialize)]
struct Status {
    #[serde(default)]
    allowed: bool,
}

/// Asks whether everything may be done that the strategy `url` needs, as this process would ask.
///
/// # Errors
/// Why the API server could not be asked, in a sentence.
pub async fn review(url: &str) -> Result<Review, String> {
    let url = Url::parse(url).map_err(|error| error.to_string())?;
    let wish = Wish::from_url(&url).map_err(|error| error.to_string())?;
    let cluster = cluster::connect(wish.kubeconfig.clone(), wish.context.clone())().await?;
    let namespaces = match wish.namespaces.as_slice() {
        [] => vec![cluster.namespace.clone()],
        some => some.to_vec(),
    };
    let (slices, pods) = ("endpointslices.discovery.k8s.io", "pods");
    let resources = match (wish.from, wish.labels.is_empty()) {
        (From::Pods, _) => vec![pods],
        (From::Slices, true) => vec![slices],
        (From::Slices, false) => vec![slices, pods],
    };
    let mut access = Vec::new();
    for namespace in &namespaces {
        for resource in &resources {
            for verb in ["list", "watch"] {
                let (name, group) = resource.split_once('.').unwrap_or((resource, ""));
                let question = json!({
                    "apiVersion": "authorization.k8s.io/v1",
                    "kind": "SelfSubjectAccessReview",
                    "spec": { "resourceAttributes": {
                        "namespace": namespace, "verb": verb, "group": group, "resource": name
                    } }
                });
                let request = Request::builder()
                    .method(Method::POST)
                    .uri(PATH)
                    .header("content-type", "application/json")
                    .body(question.to_string().into_bytes())
                    .map_err(|error| error.to_string())?;
                let asked = cluster.client.request::<Answer>(request);
                let answer = match timeout(ANSWER, asked).await {
                    Ok(Ok(answer)) => answer,
                    Ok(Err(error)) => {
                        let why = words::chain(&error);
                        return Err(format!(
                            "the API server at {} cannot be asked: {why}",
                            cluster.url
                        ));
                    }
                    Err(_) => {
                        let text = "does not answer within 5 s: is it up, and does a network policy or firewall keep it away?";
                        return Err(format!("the API server at {} {text}", cluster.url));
                    }
                };
                access.push(Access {
                    verb,
                    resource,
                    namespace: namespace.clone(),
                    allowed: answer.status.allowed,
                });
            }
        }
    }
    Ok(Review { url: cluster.url, access })
}
