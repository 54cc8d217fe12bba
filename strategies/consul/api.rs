//! What Consul is asked, and what it answers.

use std::fmt::Write as _;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;

use super::http::Response;

/// Longest part of an error's text that is repeated.
const SHOWN_CHARS_MAX: usize = 200;

/// Which instances.
#[derive(Debug)]
pub(super) struct Query {
    pub(super) service: String,
    pub(super) is_catalog: bool,
    pub(super) datacenter: Option<String>,
    pub(super) tags: Vec<String>,
}

/// One question: what is there, or what is there when it is no longer as it was at this index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Question {
    pub(super) index: u64,
    pub(super) wait: Duration,
}

/// What it says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Answer {
    /// The state that it shows; 0 when Consul does not say.
    pub(super) index: u64,
    pub(super) instances: Vec<Instance>,
    /// Why there may be more than these.
    pub(super) problem: Option<String>,
}

/// An instance of the service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Instance {
    /// The name of its node in Consul, for people.
    pub(super) node: String,
    /// An address, or a host name.
    pub(super) host: String,
    pub(super) port: Option<u16>,
}

pub(super) type Fetching = Pin<Box<dyn Future<Output = Result<Answer, String>> + Send>>;
/// Asks one question.
pub(super) type Fetch = Arc<dyn Fn(Question) -> Fetching + Send + Sync>;

impl Query {
    pub(super) fn path(&self, question: Question) -> String {
        let service = encoded(&self.service);
        let mut path = if self.is_catalog {
            format!("/v1/catalog/service/{service}?")
        } else {
            format!("/v1/health/service/{service}?passing=1&")
        };
        if let Some(datacenter) = &self.datacenter {
            let _ = write!(path, "dc={}&", encoded(datacenter));
        }
        for tag in &self.tags {
            let _ = write!(path, "tag={}&", encoded(tag));
        }
        if question.index != 0 {
            let wait = question.wait.as_millis();
            let _ = write!(path, "index={}&wait={wait}ms&", question.index);
        }
        path.pop();
        path
    }
}

fn encoded(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

/// One entry of either answer; the catalog's is flat.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    node: NodeOrName,
    service: Option<Service>,
    address: Option<String>,
    service_address: Option<String>,
    service_port: Option<u16>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum NodeOrName {
    Name(String),
    Node(NodeEntry),
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct NodeEntry {
    node: String,
    address: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Service {
    address: Option<String>,
    port: Option<u16>,
}

impl Entry {
    fn instance(self) -> Option<Instance> {
        let (node, of_node) = match self.node {
            NodeOrName::Name(name) => (name, self.address),
            NodeOrName::Node(entry) => (entry.node, entry.address),
        };
        let (of_service, port) = match self.service {
            Some(service) => (service.address, service.port),
            None => (self.service_address, self.service_port),
        };
        let given = |host: Option<String>| host.filter(|host| !host.is_empty());
        let host = given(of_service).or_else(|| given(of_node))?;
        let node = node.chars().take(SHOWN_CHARS_MAX).flat_map(char::escape_debug).collect();
        Some(Instance { node, host, port: port.filter(|port| *port != 0) })
    }
}

/// Understands a response; the error says what Consul said and what to do.
pub(super) fn read(response: Response, service: &str) -> Result<Answer, String> {
    let Response { status, index, is_filtered, body } = response;
    if status != 200 {
        let said: String = String::from_utf8_lossy(&body)
            .chars()
            .take(SHOWN_CHARS_MAX)
            .flat_map(char::escape_debug)
            .collect();
        let hint = match status {
            401 | 403 => {
                format!(
                    ". Give a token with `service \"{service}\" {{ policy = \"read\" }}` and `node_prefix \"\" {{ policy = \"read\" }}`"
                )
            }
            404 => ". Check that `url` is that of Consul's API".to_owned(),
            _ => ". Look into the log of Consul".to_owned(),
        };
        return Err(format!("Consul answers {status}: {}{hint}", said.trim()));
    }
    let entries: Vec<Entry> = serde_json::from_slice(&body).map_err(|error| {
        format!("what Consul answers cannot be read ({error}). Check that `url` is that of its API")
    })?;
    let problem = is_filtered.then(|| {
        format!("the token may not see all instances of `{service}`. Add `node_prefix \"\" {{ policy = \"read\" }}` to its policy")
    });
    let instances = entries.into_iter().filter_map(Entry::instance).collect();
    Ok(Answer { index, instances, problem })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(body: &str) -> Response {
        Response { status: 200, index: 7, is_filtered: false, body: body.as_bytes().to_vec() }
    }

    fn instance(node: &str, host: &str, port: Option<u16>) -> Instance {
        Instance { node: node.into(), host: host.into(), port }
    }

    #[test]
    fn both_kinds_of_answers_are_understood() {
        let health = r#"[
            {"Node":{"Node":"a","Address":"10.0.0.1","Meta":null},"Service":{"Address":"10.1.0.1","Port":4470},"Checks":[]},
            {"Node":{"Node":"b","Address":"10.0.0.2"},"Service":{"Address":"","Port":0}},
            {"Node":{"Node":"c","Address":""},"Service":{"Address":"","Port":1}}]"#;
        let answer = read(response(health), "pillion").expect("read");
        let seen = [instance("a", "10.1.0.1", Some(4470)), instance("b", "10.0.0.2", None)];
        assert_eq!((answer.index, answer.instances.as_slice()), (7, &seen[..]));
        let catalog = r#"[{"Node":"a","Address":"10.0.0.1","ServiceAddress":"","ServicePort":5,"ServiceTags":["x"]},
            {"Node":"b","Address":"10.0.0.2","ServiceAddress":"hal.example.org","ServicePort":0}]"#;
        let answer = read(response(catalog), "pillion").expect("read");
        let seen = [instance("a", "10.0.0.1", Some(5)), instance("b", "hal.example.org", None)];
        assert_eq!(answer.instances, seen);
    }

    #[test]
    fn what_cannot_be_read_and_errors_are_told_with_what_to_do() {
        for body in ["", "{}", "[{]", "[{\"Node\":7}]", "<html>", &"[".repeat(100_000)] {
            let said = read(response(body), "pillion").expect_err(body);
            assert!(said.contains("`url`"), "{said}");
        }
        let denied = Response { status: 403, ..response("Permission denied\u{1b}") };
        let said = read(denied, "pillion").expect_err("denied");
        assert!(said.contains("service \"pillion\" { policy = \"read\" }"), "{said}");
        assert!(said.contains("Permission denied\\u{1b}"), "{said}");
        let filtered = Response { is_filtered: true, ..response("[]") };
        let problem = read(filtered, "pillion").expect("read").problem.unwrap_or_default();
        assert!(problem.contains("node_prefix"), "{problem}");
    }

    #[test]
    fn a_question_is_written_as_consul_reads_it() {
        let mut query = Query {
            service: "a b&c".into(),
            is_catalog: false,
            datacenter: None,
            tags: Vec::new(),
        };
        let wait = Duration::from_secs(60);
        assert_eq!(
            query.path(Question { index: 0, wait }),
            "/v1/health/service/a%20b%26c?passing=1"
        );
        query.is_catalog = true;
        assert_eq!(query.path(Question { index: 0, wait }), "/v1/catalog/service/a%20b%26c");
        query.datacenter = Some("eu".into());
        query.tags = vec!["x".into(), "y=1".into()];
        assert_eq!(
            query.path(Question { index: 9, wait }),
            "/v1/catalog/service/a%20b%26c?dc=eu&tag=x&tag=y%3D1&index=9&wait=60000ms"
        );
    }
}
