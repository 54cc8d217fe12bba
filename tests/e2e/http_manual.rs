//! What is written about HTTP is true: the `OpenAPI` file against real daemons, and the examples of the manual as they stand there.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread::JoinHandle;

use pillion::dialect::http::routes::{Gives, Kind, ROUTES};

use crate::http_client::{Http, Reply, has_curl, serve};
use crate::support::{Daemon, Place, Value, json};

fn file(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

fn openapi() -> Value {
    serde_json::from_str(&file("docs/openapi.json")).unwrap()
}

/// What the examples speak of.
struct World {
    a: Daemon,
    b: Daemon,
    servers: Vec<JoinHandle<Vec<Value>>>,
}

impl World {
    fn new() -> Self {
        let place = Place::new();
        let [a, b] = ["a", "b"].map(|base| place.start(base, &["--profile", "wan"]));
        a.json().meets(&[&b]);
        b.json().meets(&[&a]);
        let servers = vec![serve(&a, "stock"), serve(&b, "stock")];
        let body = json!({"pears": 2});
        a.json().ok(
            json!({"op": "spawn", "kind": "kv", "name": "store", "detached": true, "body": body}),
        );
        Self { a, b, servers }
    }

    fn end(self) {
        for daemon in [&self.a, &self.b] {
            daemon.json().send("stock", "stop".into());
        }
        for server in self.servers {
            server.join().unwrap();
        }
    }
}

/// Whether a value is as a schema says: as much of JSON Schema as the file uses. What is wrong, if anything.
fn fits(file: &Value, schema: &Value, value: &Value) -> Result<(), String> {
    let known = [
        "type",
        "properties",
        "required",
        "items",
        "enum",
        "pattern",
        "minimum",
        "anyOf",
        "oneOf",
        "$ref",
    ];
    for key in schema.as_object().unwrap().keys() {
        assert!(known.contains(&key.as_str()), "this test does not know `{key}`");
    }
    let wrong = |what: &str| Err(format!("{value} is not {what}: {schema}"));
    if let Some(name) = schema["$ref"].as_str() {
        let found = file.pointer(name.strip_prefix('#').unwrap());
        return fits(file, found.unwrap_or_else(|| panic!("there is no {name}")), value);
    }
    for key in ["anyOf", "oneOf"] {
        if let Some(schemas) = schema[key].as_array() {
            let fitting = schemas.iter().filter(|schema| fits(file, schema, value).is_ok()).count();
            if fitting == 0 || (key == "oneOf" && fitting > 1) {
                return wrong(key);
            }
        }
    }
    let good = match schema["type"].as_str() {
        None => true,
        Some("string") => value.is_string(),
        Some("integer") => value.is_u64() || value.is_i64(),
        Some("boolean") => value.is_boolean(),
        Some("null") => value.is_null(),
        Some("array") => value.is_array(),
        Some("object") => value.is_object(),
        Some(other) => panic!("this test does not know the type {other}"),
    };
    if !good {
        return wrong("of the type");
    }
    if schema["enum"].as_array().is_some_and(|words| !words.contains(value)) {
        return wrong("one of the words");
    }
    if schema["minimum"].as_i64().is_some_and(|least| value.as_i64().is_some_and(|n| n < least)) {
        return wrong("large enough");
    }
    if let Some(pattern) = schema["pattern"].as_str() {
        // The only one there is.
        assert!(pattern.starts_with("^<"), "this test knows the pattern of pids only");
        let text = value.as_str().unwrap();
        let inner = text.strip_prefix('<').and_then(|text| text.strip_suffix('>'));
        let parts: Vec<&str> = inner.unwrap_or_default().rsplitn(3, '.').collect();
        if parts.len() != 3 || parts[0].parse::<u64>().is_err() || parts[1].len() != 16 {
            return wrong("a pid");
        }
    }
    for (key, schema) in schema["properties"].as_object().into_iter().flatten() {
        if let Some(member) = value.get(key) {
            fits(file, schema, member)?;
        }
    }
    for key in schema["required"].as_array().into_iter().flatten() {
        if value.get(key.as_str().unwrap()).is_none() {
            return wrong("whole");
        }
    }
    for item in value.as_array().into_iter().flatten() {
        if !schema["items"].is_null() {
            fits(file, &schema["items"], item)?;
        }
    }
    Ok(())
}

fn percent_encoded(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                char::from(byte).to_string()
            }
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

/// The target of an operation with the examples of its parameters.
fn target(path: &str, operation: &Value) -> String {
    let mut target = path.to_owned();
    let mut between = '?';
    for param in operation["parameters"].as_array().unwrap() {
        let name = param["name"].as_str().unwrap();
        let values = match &param["example"] {
            Value::Null => continue,
            Value::Array(values) => values.clone(),
            value => vec![value.clone()],
        };
        for value in values {
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            let value = percent_encoded(&value);
            if param["in"] == "path" {
                target = target.replace(&format!("{{{name}}}"), &value);
            } else {
                target = format!("{target}{between}{name}={value}");
                between = '&';
            }
        }
    }
    target
}

/// What the file says of a response.
fn response<'a>(file: &'a Value, operation: &'a Value, status: u16) -> &'a Value {
    let said = &operation["responses"][status.to_string()];
    let said = if said.is_null() { &operation["responses"]["default"] } else { said };
    match said["$ref"].as_str() {
        Some(name) => file.pointer(name.strip_prefix('#').unwrap()).unwrap(),
        None => said,
    }
}

#[track_caller]
fn check(file: &Value, operation: &Value, reply: &Reply) {
    let said = response(file, operation, reply.status);
    if reply.status == 204 {
        assert!(said["content"].is_null() && reply.body.is_empty());
        return;
    }
    let schema = &said["content"][reply.field("content-type")]["schema"];
    assert!(!schema.is_null(), "{} is not in the file", reply.field("content-type"));
    fits(file, schema, &reply.json()).unwrap_or_else(|what| panic!("{what}"));
}

#[test]
fn every_path_of_the_openapi_file_answers_as_the_file_says() {
    let file = openapi();
    let world = World::new();
    let mut operations = Vec::new();
    for (path, methods) in file["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            operations.push((path.as_str(), method.to_uppercase(), operation));
        }
    }
    // What takes something away comes last.
    let last = ["/v1/disconnect", "/v1/drain"];
    operations.sort_by_key(|(path, method, _)| {
        (last.iter().position(|last| last == path).map(|at| at + 1), method == "DELETE")
    });
    let mut bot = world.a.json();
    bot.ok(json!({"op": "register", "name": "bot"}));
    bot.ok(json!({"op": "flag", "trap_exit": true}));
    bot.ok(json!({"op": "track", "topic": "room.1", "key": "ann", "metadata": {"at": "desk"}}));
    let mut watcher = world.b.json();
    watcher.ok(json!({"op": "subscribe", "topic": "shop.>", "sync": true}));
    let mut asker = Http::of(&world.a);
    for (path, method, operation) in operations {
        let target = target(path, operation);
        let shown = format!("{method} {target}");
        let of_stream = &operation["responses"]["200"]["content"]["text/event-stream"]["schema"];
        if of_stream.is_null() {
            let body = &operation["requestBody"]["content"]["application/json"]["example"];
            let reply = if operation["requestBody"].is_null() {
                asker.begin(&method, &target);
                asker.reply()
            } else {
                asker.send(&method, &target, body.clone())
            };
            assert!([200, 204].contains(&reply.status), "{shown}: {reply:?}");
            check(&file, operation, &reply);
        } else {
            let mut stream = Http::of(&world.a);
            stream.subscribe(&target);
            if path == "/v1/monitor_presence" {
                let (name, event) = stream.event().unwrap();
                assert_eq!((name.as_str(), &event["joins"][0]["key"]), ("presence", &json!("ann")));
                fits(&file, of_stream, &event).unwrap_or_else(|what| panic!("{shown}: {what}"));
            }
            if path == "/v1/subscribe" {
                world.b.json().ok(json!({"op": "publish", "topic": "shop.tea", "body": 1}));
                let (name, event) = stream.event().unwrap();
                assert_eq!(name, "message");
                fits(&file, of_stream, &event).unwrap_or_else(|what| panic!("{shown}: {what}"));
            }
        }
        if path == "/v1/drain" {
            // The connection has heard of it, and ends with the answer.
            asker = Http::of(&world.a);
        }
        // What is wrong is an error as the file has it.
        let between = if target.contains('?') { '&' } else { '?' };
        asker.begin(&method, &format!("{target}{between}nonsense=1"));
        let reply = asker.reply();
        assert_eq!(reply.status, 400, "{shown}");
        check(&file, operation, &reply);
    }
    assert_eq!(bot.event_of("exit")["reason"], "please");
    world.end();
}

#[test]
fn every_route_and_every_parameter_is_in_the_openapi_file_and_no_other() {
    let file = openapi();
    let mut said = BTreeSet::new();
    for (path, methods) in file["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            said.insert(format!("{} {path}", method.to_uppercase()));
            let route = ROUTES
                .iter()
                .find(|route| route.path == path && route.method.to_lowercase() == *method);
            let route = route.unwrap_or_else(|| panic!("there is no {method} {path}"));
            let mut params: Vec<(String, &str, &str)> = Vec::new();
            for param in operation["parameters"].as_array().unwrap() {
                if param["in"] == "query" {
                    let kind = param["schema"]["type"].as_str().unwrap_or_default();
                    params.push((param["name"].as_str().unwrap().to_owned(), kind, ""));
                }
            }
            let mut there: Vec<(String, &str, &str)> = Vec::new();
            for param in route.params {
                let kind = match param.kind {
                    Kind::Text => "string",
                    Kind::Number => "integer",
                    Kind::Flag => "boolean",
                    Kind::Texts => "array",
                    Kind::Json => "",
                };
                there.push((param.name.to_owned(), kind, ""));
            }
            params.sort();
            there.sort();
            assert_eq!(params, there, "{method} {path}");
            assert_eq!(!operation["requestBody"].is_null(), route.has_body, "{method} {path}");
            let streams = !operation["responses"]["200"]["content"]["text/event-stream"].is_null();
            assert_eq!(streams, route.gives == Gives::Events, "{method} {path}");
        }
    }
    let there: BTreeSet<String> =
        ROUTES.iter().map(|route| format!("{} {}", route.method, route.path)).collect();
    assert_eq!(said, there);
}

#[test]
fn every_route_is_in_the_manual() {
    let manual = file("docs/protocol.md");
    for route in ROUTES {
        let line = format!("| `{} {}`", route.method, route.path);
        assert!(manual.contains(&line), "{line}");
    }
}

/// The blocks of a document that begin with this mark.
fn blocks<'a>(text: &'a str, mark: &'a str) -> impl Iterator<Item = &'a str> {
    text.split(mark).skip(1).map(|rest| rest.split("```").next().unwrap())
}

#[test]
fn the_examples_for_curl_do_what_the_manual_says() {
    if !has_curl() {
        return;
    }
    let manual = file("docs/protocol.md");
    let world = World::new();
    let mut examples = 0;
    for block in blocks(&manual, "```console\n") {
        for example in block.split("$ ").skip(1) {
            let (command, output) = example.split_once('\n').unwrap();
            assert!(command.starts_with("curl "), "{command}");
            let mut shell = Command::new("sh");
            shell.args(["-c", command]).env("PILLION_SOCKET", &world.a.socket);
            let result = shell.env("CURL_HOME", "/nonexistent").output().unwrap();
            let said = String::from_utf8_lossy(&result.stdout).into_owned();
            let errors = String::from_utf8_lossy(&result.stderr);
            assert_eq!(
                said.replace("\r\n", "\n").trim_end(),
                output.trim_end(),
                "{command}\n{errors}"
            );
            examples += 1;
        }
    }
    assert!(examples > 5, "{examples} examples");
    world.end();
}

#[test]
fn the_example_in_python_does_what_the_manual_says() {
    let python = Command::new("python3").arg("--version").output();
    if !python.is_ok_and(|output| output.status.success()) {
        eprintln!("SKIPPED: there is no python3 here");
        return;
    }
    let manual = file("docs/protocol.md");
    let script = blocks(&manual, "```python\n").next().expect("an example in Python");
    let world = World::new();
    let output = Command::new("python3")
        .args(["-c", script])
        .env("PILLION_SOCKET", &world.a.socket)
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(said, "200 apples\nmessage shop.tea {'left': 3}\n", "{errors}");
    world.end();
}
