//! Kubernetes: whether the API server lets us do what a strategy needs.

use pillion_strategies::kubernetes::{Access, review};
use serde_json::Value as Json;

use super::findings::Finding;
use crate::config::Config;

/// Asks for each strategy `kubernetes` of the node, or of the configuration where no node runs.
pub(super) async fn access(
    diagnosis: Option<&Json>,
    config: Option<&Config>,
    findings: &mut Vec<Finding>,
) {
    let urls: Vec<String> = match diagnosis {
        Some(diagnosis) => {
            let strategies = diagnosis["strategies"].as_array().into_iter().flatten();
            strategies.filter_map(|strategy| strategy["url"].as_str().map(str::to_owned)).collect()
        }
        None => config.map(|config| config.strategies.clone()).unwrap_or_default(),
    };
    for url in urls.iter().filter(|url| url.starts_with("kubernetes:")) {
        findings.push(match review(url).await {
            Ok(review) => {
                let denied: Vec<&Access> = review.access.iter().filter(|a| !a.allowed).collect();
                told(&review.url, &review.access, &denied)
            }
            Err(why) => {
                let advice = "in a pod this asks as its service account, elsewhere as the kubeconfig says; `kubectl auth whoami` shows who that is";
                Finding::failed("kubernetes", why, advice)
            }
        });
    }
}

fn told(url: &str, all: &[Access], denied: &[&Access]) -> Finding {
    let shown =
        |access: &Access| format!("{} {} in {}", access.verb, access.resource, access.namespace);
    let Some(first) = denied.first() else {
        let all: Vec<String> = all.iter().map(shown).collect();
        let found =
            format!("the API server at {url} allows all that is needed: {}", all.join(", "));
        return Finding::ok("kubernetes", found);
    };
    let list: Vec<String> = denied.iter().map(|access| shown(access)).collect();
    let found = format!("the API server at {url} does not allow: {}", list.join(", "));
    let Access { namespace, resource, .. } = first;
    let advice = format!(
        "`kubectl -n {namespace} create role pillion-discovery --verb=list,watch --resource={resource}`, then `kubectl -n {namespace} create rolebinding pillion-discovery --role=pillion-discovery --serviceaccount={namespace}:default` (with the pod's own service account)"
    );
    Finding::failed("kubernetes", found, advice)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::findings::State;

    #[test]
    fn what_is_not_allowed_is_told_with_the_commands_that_allow_it() {
        let access = |verb, allowed| Access {
            verb,
            resource: "endpointslices.discovery.k8s.io",
            namespace: "shop".to_owned(),
            allowed,
        };
        let all = [access("list", true), access("watch", false)];
        let finding = told("https://10.0.0.1", &all, &[&all[1]]);
        assert_eq!(finding.state, State::Failed);
        assert!(finding.found.contains("watch endpointslices.discovery.k8s.io in shop"));
        assert!(finding.advice.contains("kubectl -n shop create role"));
        let finding = told("https://10.0.0.1", &all, &[]);
        assert_eq!(finding.state, State::Ok);
    }
}
