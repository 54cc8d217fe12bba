//! The sidecar's container: the template's, with what the pod's annotations ask for.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::annotations::{APP, Annotations, PREFIX};
use super::patch::Sidecar;
use super::quantity::Quantity;
use super::template::Template;
use crate::config::{Key, value};

/// What the port of the mesh is called in the template.
pub(super) const MESH_PORT: &str = "mesh";
/// What the port of probes and metrics is called in the template.
pub(super) const HEALTH_PORT: &str = "pillion-health";
/// The variable by which a sidecar is told whom it believes that issues its certificate.
const ANCHORS: &str = "PILLION_ISSUER_CA";
/// The variable that says that somebody issues certificates.
const ISSUER: &str = "PILLION_ISSUER";

/// Makes the container. What does not fit the template is told, and left as the template says.
pub(super) fn container(
    sidecar: &Sidecar<'_>,
    wishes: &Annotations,
    warnings: &mut Vec<String>,
) -> Value {
    let template = sidecar.template;
    let mut container = template.container.clone();
    let mut set = |key: &str, text: &str| set(&mut container, key, text);
    if let Some(mesh) = &wishes.mesh {
        set("mesh", mesh);
    }
    for (key, wish) in [
        (Key::Role, &wishes.role),
        (Key::MinPeers, &wishes.min_peers),
        (Key::LogLevel, &wishes.log_level),
        (Key::LogFormat, &wishes.log_format),
    ] {
        if let Some(text) = wish {
            set(key.word(), text);
        }
    }
    if let Some(port) = wishes.mesh_port {
        set(Key::Listen.word(), &format!(":{port}"));
    }
    if let Some(port) = wishes.health_port {
        set("health", &format!("[::]:{port}"));
    }
    if let Some(mesh) = wishes.mesh.as_ref().filter(|mesh| **mesh != template.mesh) {
        lead_to(&mut container, &template.mesh, mesh);
    }
    if let Some(labels) = &wishes.labels {
        variable(&mut container, &Key::Labels.variable(), labels);
    }
    if let Some(base) = &wishes.node_name {
        variable(&mut container, APP, base);
    }
    for (name, text) in wishes.env.iter().flatten() {
        variable(&mut container, name, text);
    }
    if has(&container, ISSUER) {
        variable(&mut container, ANCHORS, sidecar.anchors);
    }
    for (port, name) in [(wishes.mesh_port, MESH_PORT), (wishes.health_port, HEALTH_PORT)] {
        if let Some(port) = port {
            for entry in array(&mut container, "ports") {
                if entry.get("name").and_then(Value::as_str) == Some(name) {
                    entry["containerPort"] = json!(port);
                }
            }
        }
    }
    if let Some(image) = &wishes.image {
        container.insert("image".to_owned(), json!(image));
    }
    if let Some(policy) = &wishes.image_pull_policy {
        container.insert("imagePullPolicy".to_owned(), json!(policy));
    }
    resource(&mut container, "cpu", wishes.cpu_request.as_ref(), wishes.cpu_limit.as_ref());
    resource(
        &mut container,
        "memory",
        wishes.memory_request.as_ref(),
        wishes.memory_limit.as_ref(),
    );
    if let Some(timeout) = wishes.drain_timeout {
        let shown = value::show_duration(timeout);
        // How long the node itself waits is part of it.
        let grace = has(&container, &Key::Grace.variable());
        if grace {
            variable(&mut container, &Key::Grace.variable(), &shown);
        }
        if !set_drain(&mut container, &shown) && !grace {
            warnings.push(format!(
                "{PREFIX}drain-timeout: \"{shown}\" does nothing: the chart's values leave the drain out"
            ));
        }
    }
    if wishes.native == Some(true) {
        container.insert("restartPolicy".to_owned(), json!("Always"));
    } else {
        container.remove("restartPolicy");
    }
    Value::Object(container)
}

/// The base of the node's name that the template itself gives.
pub(super) fn base(template: &Template) -> Option<&str> {
    let env = template.container.get("env")?.as_array()?;
    let entry = env.iter().find(|entry| entry.get("name").and_then(Value::as_str) == Some(APP))?;
    entry.get("value")?.as_str().filter(|base| !base.is_empty())
}

/// The ports of the container, with their names.
pub(super) fn ports(container: &Value) -> Vec<(u64, &str)> {
    let ports = container.get("ports").and_then(Value::as_array);
    let ports = ports.into_iter().flatten();
    ports
        .filter_map(|port| {
            Some((port.get("containerPort")?.as_u64()?, port.get("name")?.as_str()?))
        })
        .collect()
}

/// How long a drain may take, in seconds, rounded up; nothing when there is none.
pub(super) fn drain(container: &Value) -> Option<u64> {
    let command = container.pointer("/lifecycle/preStop/exec/command")?.as_array()?;
    let command: Vec<&str> = command.iter().filter_map(Value::as_str).collect();
    let text = command.iter().enumerate().find_map(|(at, word)| match *word {
        "--wait" => command.get(at + 1).copied(),
        word => word.strip_prefix("--wait="),
    })?;
    let wait = value::parse_duration(text, Duration::ZERO, Duration::MAX).ok()?;
    Some(wait.as_secs() + u64::from(wait.subsec_nanos() > 0))
}

fn set_drain(container: &mut Map<String, Value>, shown: &str) -> bool {
    let exec = container
        .get_mut("lifecycle")
        .and_then(|lifecycle| lifecycle.pointer_mut("/preStop/exec/command"));
    exec.and_then(Value::as_array_mut).is_some_and(|command| replace(command, "--wait", shown))
}

/// The members of a list in the container; none when it is no list.
fn array<'a>(container: &'a mut Map<String, Value>, key: &str) -> &'a mut [Value] {
    container.get_mut(key).and_then(Value::as_array_mut).map_or(&mut [], Vec::as_mut_slice)
}

/// Sets a key of the node: where the command line says it, else in the environment.
fn set(container: &mut Map<String, Value>, key: &str, text: &str) {
    let flag = format!("--{key}");
    let in_args = container.get_mut("args").and_then(Value::as_array_mut);
    let in_args = in_args.is_some_and(|args| replace(args, &flag, text));
    let name = format!("PILLION_{}", key.to_ascii_uppercase().replace('-', "_"));
    // The variable also where it is read by something else than the node: `$(PILLION_MESH)`.
    if !in_args || has(container, &name) {
        variable(container, &name, text);
    }
}

/// Replaces the value of a flag, `--flag VALUE` or `--flag=VALUE`, wherever it stands; whether it did.
fn replace(words: &mut [Value], flag: &str, text: &str) -> bool {
    let mut done = false;
    for at in 0..words.len() {
        let word = words[at].as_str().unwrap_or_default();
        if word == flag && at + 1 < words.len() {
            words[at + 1] = json!(text);
            done = true;
        } else if word.strip_prefix(flag).is_some_and(|rest| rest.starts_with('=')) {
            words[at] = json!(format!("{flag}={text}"));
            done = true;
        }
    }
    done
}

fn has(container: &Map<String, Value>, name: &str) -> bool {
    let env = container.get("env").and_then(Value::as_array);
    env.into_iter().flatten().any(|entry| entry.get("name").and_then(Value::as_str) == Some(name))
}

/// Sets a variable, at its place when it is there: what follows may refer to it.
fn variable(container: &mut Map<String, Value>, name: &str, text: &str) {
    let entry = json!({"name": name, "value": text});
    let env = container.entry("env").or_insert_with(|| json!([]));
    let Some(env) = env.as_array_mut() else { return };
    match env.iter_mut().find(|entry| entry.get("name").and_then(Value::as_str) == Some(name)) {
        Some(there) => *there = entry,
        None => env.push(entry),
    }
}

/// Leads the strategies to the Service of another mesh, where it is written out.
fn lead_to(container: &mut Map<String, Value>, from: &str, to: &str) {
    let (from, to) = (format!("service=pillion-{from}"), format!("service=pillion-{to}"));
    let change = |text: &mut Value| {
        let Some(said) = text.as_str() else { return };
        let ends = |rest: &str| !rest.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '-');
        if let Some((before, rest)) = said.split_once(&from).filter(|(_, rest)| ends(rest)) {
            *text = json!(format!("{before}{to}{rest}"));
        }
    };
    array(container, "args").iter_mut().for_each(change);
    for entry in array(container, "env") {
        if let Some(value) = entry.get_mut("value") {
            change(value);
        }
    }
}

/// Sets what is asked for; of request and limit the one that was not asked for follows when they would cross.
fn resource(
    container: &mut Map<String, Value>,
    name: &str,
    request: Option<&Quantity>,
    limit: Option<&Quantity>,
) {
    if request.is_none() && limit.is_none() {
        return;
    }
    let resources = container.entry("resources").or_insert_with(|| json!({}));
    let there = |kind: &str| resources.get(kind)?.get(name)?.as_str().and_then(Quantity::parse);
    let request = match (request, limit) {
        (None, Some(limit)) => there("requests").filter(|request| request > limit).map(|_| limit),
        (request, _) => request,
    };
    let limit = match (request, limit) {
        (Some(request), None) => there("limits").filter(|limit| limit < request).map(|_| request),
        (_, limit) => limit,
    };
    for (kind, quantity) in [("requests", request), ("limits", limit)] {
        if let Some(quantity) = quantity {
            resources[kind][name] = json!(quantity.as_str());
        }
    }
}
