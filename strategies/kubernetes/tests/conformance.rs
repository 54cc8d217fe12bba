//! `kubernetes` keeps the promises of every strategy, with an API server in memory.

use std::any::Any;

use serde_json::{Value, json};

use super::super::Kubernetes;
use super::script::{Mood, Script};
use super::strategy;
use crate::conformance::{Fault, Place};
use crate::{Announcement, Strategy};

/// A namespace in which each node has an object of its own.
struct Namespace {
    script: Script,
    url: &'static str,
    collection: &'static str,
    object: fn(&str, u16, u16) -> Value,
}

/// The object of a node, until it is dropped.
struct Planted {
    script: Script,
    collection: &'static str,
    name: String,
}

impl Place for Namespace {
    fn strategy(&self) -> Box<dyn Strategy> {
        let strategy: Kubernetes = strategy(self.url, &self.script);
        Box::new(strategy)
    }

    fn plant(&self, announcement: &Announcement) -> Option<Box<dyn Any + Send>> {
        let port = announcement.listen[0].port();
        let name = announcement.node.replace('@', "-");
        self.script.put(self.collection, (self.object)(&name, port - 40_000, port));
        Some(Box::new(Planted { script: self.script.clone(), collection: self.collection, name }))
    }

    fn spoil(&self) {
        let meta = |name: &str| json!({"name": name, "namespace": "shop"});
        for object in [
            json!({"metadata": meta("odd-1"), "addressType": "FQDN", "endpoints": [{"addresses": ["a.b"]}]}),
            json!({"metadata": meta("odd-2"), "addressType": "IPv4", "endpoints": [{"addresses": ["", "::", "x"]}],
                "ports": [{"name": null, "port": null}, {"name": "mesh", "port": 99999}]}),
            json!({"metadata": meta("odd-3"), "addressType": null, "endpoints": null, "ports": null}),
            json!({"metadata": meta("odd-4"), "spec": null, "status": null}),
            json!({"metadata": meta("odd-5"), "status": {"podIP": "", "podIPs": [{"ip": ""}, {}], "conditions": null}}),
        ] {
            self.script.put(self.collection, object);
        }
    }

    fn fault(&self, fault: Fault) -> bool {
        match fault {
            Fault::Error => self.script.mood(Mood::Answers(503)),
            Fault::Empty => self.script.mood_after_410(Mood::Empty),
            Fault::Partial => self.script.mood_after_410(Mood::Partial),
            Fault::Malformed => self.script.mood(Mood::Malformed),
            Fault::Slow => self.script.mood_after_410(Mood::Slow),
            Fault::Silent => self.script.mood(Mood::Silent),
        }
        true
    }

    fn mend(&self) {
        self.script.mood_after_410(Mood::Well);
    }

    fn hours_pass(&self) -> bool {
        true
    }
}

impl Drop for Planted {
    fn drop(&mut self) {
        self.script.delete(self.collection, "shop", &self.name);
    }
}

mod slices {
    use super::*;

    fn slice(name: &str, n: u16, port: u16) -> Value {
        json!({
            "metadata": {"name": name, "namespace": "shop"}, "addressType": "IPv4",
            "endpoints": [{"addresses": [format!("10.0.0.{n}")],
                "targetRef": {"kind": "Pod", "name": name, "uid": format!("uid-{name}")}}],
            "ports": [{"name": "mesh", "port": port}],
        })
    }

    fn place() -> Result<Namespace, String> {
        Ok(Namespace {
            script: Script::default(),
            url: "kubernetes://?service=web",
            collection: "endpointslices",
            object: slice,
        })
    }

    crate::conformance!(place(), start_paused = true);
}

mod pods {
    use super::*;

    fn pod(name: &str, n: u16, port: u16) -> Value {
        json!({
            "metadata": {"name": name, "namespace": "shop", "uid": format!("uid-{name}")},
            "spec": {"containers": [{"ports": [{"name": "mesh", "containerPort": port}]}]},
            "status": {"phase": "Running", "podIP": format!("10.0.0.{n}"), "podIPs": [{"ip": format!("10.0.0.{n}")}]},
        })
    }

    fn place() -> Result<Namespace, String> {
        Ok(Namespace {
            script: Script::default(),
            url: "kubernetes://?from=pods&selector=app=web",
            collection: "pods",
            object: pod,
        })
    }

    crate::conformance!(place(), start_paused = true);
}
